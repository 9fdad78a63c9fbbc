//! Which file on disk is which part of a log: [`Candidate`], [`locate`], [`successors`].
//!
//! Called only when something changed: a file appeared, vanished, was renamed, or no longer holds what it
//! held. The rules, in the order in which they decide:
//!
//! - A file *is* a generation only if its first bytes and the bytes before the known position are the same.
//! - The inode says where to look first. A file with another inode is taken for the same content (a copy, or
//!   the original of one) only at the log's own path or under the name of a rotated sibling, and only while
//!   the inode itself is not found under another name; but a plain file and what it is compressed into are one.
//! - What is finished is as long as it was: a file that begins with all of it and is longer is another one. So
//!   is one of which only the beginning could be compared.
//! - Files older than the one being read were read, or passed over, before: they are never new.
//! - A sibling that no pattern selects is new only between a known file and the log's own path.
//! - A compressed file is what it holds: it is known again by that, and never new when what it was compressed
//!   from was read.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::contents::{Opened, Packed, Reach};
use super::identity::{self, FileId, Marker, Stat, read_head};
use super::log::{Log, Now, Stage};
use super::patterns::Patterns;
use super::reading::Whereabouts;
use super::siblings::{self, Suffix};
use super::state::Generation;

/// A file that may belong to a log.
#[derive(Debug)]
pub(crate) struct Candidate {
    pub(crate) path: Arc<Path>,
    pub(crate) stat: Stat,
    /// Whether it stands at the log's own path.
    pub(crate) is_live: bool,
    /// Whether a pattern selects it.
    pub(crate) is_selected: bool,
    pub(crate) suffix: Option<Suffix>,
    held: Option<Arc<File>>,
    /// Of a compressed file: its size is that of its content no more.
    packed: Option<Packed>,
}

/// The file of a generation.
#[derive(Debug)]
pub(crate) struct Located {
    pub(crate) opened: Opened,
    pub(crate) path: Arc<Path>,
    pub(crate) whereabouts: Whereabouts,
}

impl Candidate {
    /// Whether it is at no path any more, and held open.
    pub(crate) fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// Whether it is compressed.
    pub(crate) fn is_packed(&self) -> bool {
        self.packed.is_some()
    }

    /// Opens the file; `None` when it is no longer the one that was looked at.
    pub(crate) fn open(&self) -> io::Result<Option<Opened>> {
        let file = match &self.held {
            Some(held) => held.try_clone()?,
            None => match identity::open(&self.path) {
                Err(error) if is_absence(&error) => return Ok(None),
                opened => opened?,
            },
        };
        let stat = Stat::of_file(&file)?;
        let opened = Opened { file, stat, packed: self.packed.clone() };
        Ok((stat.regular && stat.id == self.stat.id).then_some(opened))
    }
}

/// The files of `log`, oldest first, the one at its own path last. `is_last` says that nobody will look again: a
/// compressed file that is whole is not waited for then, although somebody may append to it.
///
/// # Errors
///
/// Its own path, or that of a file which is being read or looked for, cannot be looked at for another reason
/// than that nothing is there.
pub(crate) fn gather(log: &Log, patterns: &Patterns, now: Now, is_last: bool) -> io::Result<Vec<Candidate>> {
    let live = match Stat::of_path(&log.path) {
        // Of some logs only compressed files are selected.
        Ok(stat) => Some(stat).filter(|stat| stat.regular && patterns.owner(&log.path).is_some()),
        Err(error) if is_absence(&error) => None,
        Err(error) => return Err(error),
    };
    let mut found: Vec<Candidate> = Vec::new();
    for path in log.rotation.members.iter().filter(|path| !siblings::is_unreadable(path)) {
        let stat = match Stat::of_path(path) {
            Ok(stat) => stat,
            // What cannot be reached now is not gone.
            Err(error) if !is_absence(&error) && is_needed(log, path) => return Err(error),
            // Any other is as good as absent; its own change brings it back.
            Err(_) => continue,
        };
        let is_known = |id: FileId| found.iter().any(|other| other.stat.id == id);
        if !stat.regular || live.is_some_and(|live| live.id == stat.id) || is_known(stat.id) {
            continue;
        }
        let suffix = siblings::primaries(path).into_iter().find(|(primary, _)| **primary == *log.path);
        found.push(Candidate {
            path: path.as_path().into(),
            stat,
            is_live: false,
            is_selected: patterns.owner(path).is_some(),
            suffix: suffix.map(|(_, suffix)| suffix),
            held: None,
            packed: siblings::is_gzip(path)
                .then(|| Packed::new(&stat, log.peeks.get_or_init(Arc::default), now, is_last)),
        });
    }
    siblings::sort_oldest_first(&mut found, |file| file.suffix.as_ref(), |file| file.stat.modified);
    // What is held open and seen nowhere was compressed, or else deleted: retention takes the oldest first.
    for held in log.rotation.held.iter().rev() {
        let Some(file) = &held.file else { continue };
        let is_seen = live.is_some_and(|live| live.id == held.id);
        if !is_seen && !found.iter().any(|candidate| candidate.stat.id == held.id) {
            let stat = Stat::of_file(file)?;
            found.insert(
                place_of_twin(file, &stat, &found)?.unwrap_or(0),
                Candidate {
                    path: held.path.clone(),
                    stat,
                    is_live: false,
                    is_selected: true,
                    suffix: None,
                    held: Some(file.clone()),
                    packed: None,
                },
            );
        }
    }
    if let Some(stat) = live {
        found.push(Candidate {
            path: log.path.clone(),
            stat,
            is_live: true,
            is_selected: true,
            suffix: None,
            held: None,
            packed: None,
        });
    }
    Ok(found)
}

/// Which of the candidates an open file was compressed into.
fn place_of_twin(file: &File, stat: &Stat, candidates: &[Candidate]) -> io::Result<Option<usize>> {
    let mut head = None;
    for (place, candidate) in candidates.iter().enumerate().filter(|(_, candidate)| candidate.is_packed()) {
        let Some(opened) = candidate.open()? else { continue };
        let head = match &head {
            Some(head) => head,
            None => head.insert(read_head(file)?),
        };
        if opened.head()? == *head && opened.reach(stat.size)? == Reach::There {
            return Ok(Some(place));
        }
    }
    Ok(None)
}

/// Whether the log cannot do without the file that was last seen at `path`.
fn is_needed(log: &Log, path: &Path) -> bool {
    let is_read = match &log.stage {
        Stage::Locate => true,
        Stage::Reading(reading) => *reading.path == *path,
        Stage::Over => false,
    };
    is_read || log.rotation.held.iter().any(|held| *held.path == *path)
}

/// Finds the file of the current generation.
///
/// # Errors
///
/// A file that might be it cannot be read now; [`io::ErrorKind::Interrupted`] when it was renamed meanwhile.
pub(crate) fn locate(log: &Log, candidates: &[Candidate]) -> io::Result<Option<Located>> {
    let Some(generation) = log.generation() else { return Ok(None) };
    let (same, others): (Vec<_>, Vec<_>) =
        candidates.iter().partition(|candidate| candidate.stat.id.same(&generation.id));
    // Of several copies the newest one is the longest.
    for candidate in same.into_iter().chain(others.into_iter().rev()) {
        let is_same = candidate.stat.id.same(&generation.id);
        if log.rotation.replaced == Some(candidate.stat.id) {
            continue;
        }
        if !is_same && !may_be_copy(candidates, generation, candidate) {
            continue;
        }
        let opened = match candidate.open() {
            Err(error) if !is_same && !candidate.is_live => {
                tracing::debug!("cannot look into `{}`: {error}", candidate.path.display());
                continue;
            }
            opened => opened?,
        };
        let Some(opened) = opened else {
            if is_same {
                return Err(io::ErrorKind::Interrupted.into());
            }
            continue;
        };
        let known_end = log.mark.map_or(log.offset, |mark| mark.0.max(log.offset));
        if holds(&opened, generation, known_end, log.mark)? {
            let whereabouts = match (candidate.is_live, is_same) {
                _ if candidate.is_packed() => Whereabouts::Copy,
                (true, _) => Whereabouts::Home,
                // Rebuilt from a position alone a generation has no inode: its file may still grow.
                (false, false) if generation.id.inode != 0 => Whereabouts::Copy,
                (false, _) => Whereabouts::Moved,
            };
            return Ok(Some(Located { opened, path: candidate.path.clone(), whereabouts }));
        }
    }
    Ok(None)
}

/// The files that come after the current generation, oldest first. `is_own` says whether an inode was seen at
/// the log's own path.
///
/// # Errors
///
/// One of them cannot be read now: what comes after it has to wait.
pub(crate) fn successors(
    log: &mut Log,
    candidates: Vec<Candidate>,
    now: Now,
    ignore_older: Option<Duration>,
    is_own: &dyn Fn(FileId) -> bool,
) -> io::Result<Vec<Candidate>> {
    let is_first = log.generations.is_empty();
    let position = position_of_current(log, &candidates)?;
    if let Some(current) = position.map(|position| &candidates[position])
        && current.is_packed()
    {
        // To find it took decoding all that was read of it.
        log.rotation.make().last_read = Some(current.stat.id);
    }
    let first_own = candidates.iter().position(|candidate| is_own(candidate.stat.id));
    let mut is_new = Vec::with_capacity(candidates.len());
    for (index, candidate) in candidates.iter().enumerate() {
        let id = candidate.stat.id;
        let age = now.system.duration_since(candidate.stat.modified).unwrap_or_default();
        let is_ignored = is_first && ignore_older.is_some_and(|limit| age > limit);
        let is_between = match position {
            Some(position) => index > position,
            None => {
                first_own.is_some_and(|first| index >= first) || (candidate.is_selected && !log.is_rebuilt)
            }
        };
        is_new.push(if candidate.stat.size == 0 || is_ignored {
            false
        } else if candidate.is_live {
            !is_known(log, &candidates, candidate)?
        } else if candidate.is_packed() {
            // What it was compressed from may have been read since it was first seen.
            let may_be_new = is_between || log.rotation.held.iter().any(|held| held.id == id);
            if !may_be_new || log.rotation.passed.contains(&id) {
                false
            } else if is_known(log, &candidates, candidate)? || is_empty(candidate)? {
                let rotation = log.rotation.make();
                rotation.passed.insert(id);
                rotation.held.retain(|held| held.id != id);
                false
            } else {
                true
            }
        } else if log.rotation.held.iter().any(|held| held.id == id) {
            true
        } else if !is_between || log.rotation.passed.contains(&id) {
            false
        } else {
            let is_known = is_known(log, &candidates, candidate)?;
            if is_known {
                log.rotation.make().passed.insert(id);
            }
            !is_known
        });
    }
    let flagged = candidates.into_iter().zip(is_new);
    Ok(flagged.filter_map(|(candidate, is_new)| is_new.then_some(candidate)).collect())
}

/// Which of the candidates, apart from the one at the log's own path, is the current generation.
pub(crate) fn position_of_current(log: &Log, candidates: &[Candidate]) -> io::Result<Option<usize>> {
    let others = || candidates.iter().enumerate().filter(|(_, candidate)| !candidate.is_live);
    if let Some(read) = log.last_read()
        && let Some((index, _)) = others().find(|(_, candidate)| candidate.stat.id == read)
    {
        return Ok(Some(index));
    }
    for (index, candidate) in others() {
        if Contents::default().are(log, candidates, candidate, log.current)? {
            return Ok(Some(index));
        }
    }
    Ok(None)
}

/// Whether a file holds what a known generation held.
pub(crate) fn is_known(log: &Log, all: &[Candidate], candidate: &Candidate) -> io::Result<bool> {
    let mut contents = Contents::default();
    for number in (0..log.generations.len()).rev() {
        if contents.are(log, all, candidate, number)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What a candidate holds, opened at the first question.
#[derive(Default)]
struct Contents(Option<(Opened, Vec<u8>)>);

impl Contents {
    /// Whether they are those of generation `number`.
    fn are(
        &mut self,
        log: &Log,
        all: &[Candidate],
        candidate: &Candidate,
        number: usize,
    ) -> io::Result<bool> {
        let Some(generation) = log.generations.get(number) else { return Ok(false) };
        let is_same = candidate.stat.id.same(&generation.id);
        if number == log.current && log.rotation.replaced == Some(candidate.stat.id) {
            return Ok(false);
        }
        let copied = generation.copied.as_deref().filter(|copied| copied.may_be(all, candidate));
        // What stands at the log's own path is never a mere copy: somebody made it to write into it.
        let may_be_copy = || copied.is_some() || may_be_copy(all, generation, candidate);
        if !is_same && (candidate.is_live || !may_be_copy()) {
            return Ok(false);
        }
        if self.0.is_none() {
            // Whatever vanished or was replaced since is looked at again when that is noticed.
            let Some(opened) = candidate.open()? else { return Ok(false) };
            let head = opened.head()?;
            self.0 = Some((opened, head));
        }
        let Some((opened, head)) = &self.0 else { return Ok(false) };
        if !generation.fingerprint.matches(head) {
            return Ok(false);
        }
        if let Some(copied) = copied
            && copied.is(opened)?
        {
            return Ok(true);
        }
        let (end, mark) = match generation.end {
            Some((end, marker)) => (end, marker.map(|marker| (end, marker))),
            None if number == log.current => (log.offset, log.mark),
            None => (log.generations.get(number + 1).map_or(generation.base, |next| next.base), None),
        };
        let position = Log::file_position(generation, end);
        // A beginning alone proves nothing: many files may share it.
        if !is_same && position == 0 {
            return Ok(false);
        }
        // Where the inode itself goes by another name, a file with the same content is another file; unless
        // it was cut in place first, and then renamed. A plain file and what it is compressed into are one.
        let has_moved = |other: &Candidate| {
            !other.is_live
                && other.stat.id != candidate.stat.id
                && other.stat.id.same(&generation.id)
                && (other.is_packed() || !candidate.is_packed())
        };
        if !is_same {
            for other in all.iter().filter(|other| has_moved(other)) {
                if let Some(opened) = other.open()?
                    && holds(&opened, generation, end, mark)?
                {
                    return Ok(false);
                }
            }
        }
        let reach = opened.reach(position)?;
        if reach == Reach::Damaged {
            // What can be read of it was.
            return Ok(true);
        }
        if reach == Reach::Shorter {
            // A copy that was taken shortly before the original was cut may lack the last lines read of it.
            return Ok(!is_same && is_cut_in_place(all, generation));
        }
        // What is finished does not grow, and what was compressed is all there: a file that holds more is another
        // one. Of one that is not finished a short beginning would prove nothing.
        let is_finished = number != log.current || generation.end.is_some();
        let is_weak = candidate.is_packed() && !generation.fingerprint.is_strong();
        if !is_same
            && (is_finished || is_weak)
            && opened.reach(position + generation.late + 1)? == Reach::There
        {
            return Ok(false);
        }
        holds(opened, generation, end, mark)
    }
}

/// Whether a file with another inode may hold a generation's content at all.
fn may_be_copy(all: &[Candidate], generation: &Generation, candidate: &Candidate) -> bool {
    let has_the_name = candidate.is_live || candidate.suffix.is_some();
    // Too short to tell two files apart; but where a file was cut in place, there was a copy.
    let is_whole_copy = !candidate.is_live
        && !candidate.is_packed()
        && candidate.stat.size == u64::from(generation.fingerprint.length)
        && is_cut_in_place(all, generation);
    // A generation rebuilt from a position alone has no inode: then its own path must do.
    let is_rebuilt = generation.id.inode == 0 && candidate.is_live;
    // Where the file system tells no time of birth, a mount may have numbered its device anew.
    let is_renumbered = candidate.is_live
        && candidate.stat.id.inode == generation.id.inode
        && candidate.stat.id.born == generation.id.born;
    // Of what was compressed the inode is gone; of what was lost unread not even the beginning is known.
    let may_be_compressed = candidate.is_packed()
        && generation.fingerprint.length > 0
        && !all.iter().any(|other| other.stat.id.same(&generation.id));
    let is_likely = is_whole_copy || is_rebuilt || is_renumbered || may_be_compressed;
    has_the_name && (generation.fingerprint.is_strong() || is_likely)
}

/// Whether the log's own path still leads to the generation's inode: if its content is elsewhere, it was
/// copied and then truncated.
fn is_cut_in_place(all: &[Candidate], generation: &Generation) -> bool {
    all.iter().any(|other| other.is_live && other.stat.id.same(&generation.id))
}

/// Whether the file begins as the generation does, reaches to the offset `end`, and has the bytes of the
/// marker where they belong.
pub(crate) fn holds(
    opened: &Opened,
    generation: &Generation,
    end: u64,
    mark: Option<(u64, Marker)>,
) -> io::Result<bool> {
    let is_there = generation.fingerprint.matches(&opened.head()?)
        && opened.reach(Log::file_position(generation, end))? == Reach::There;
    if !is_there {
        return Ok(false);
    }
    let Some((offset, marker)) = mark else { return Ok(true) };
    let behind = Log::file_position(generation, offset);
    let length = u64::from(marker.length);
    if behind < length {
        return Ok(false);
    }
    Ok(marker.matches(&opened.before(behind, usize::from(marker.length))?))
}

/// Whether a compressed file holds nothing, and is sound.
fn is_empty(candidate: &Candidate) -> io::Result<bool> {
    let Some(opened) = candidate.open()? else { return Ok(false) };
    Ok(opened.head()?.is_empty() && opened.reach(1)? == Reach::Shorter)
}

/// Whether an error says that nothing is there, not merely that it cannot be reached now.
pub(crate) fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::file_tail::identity::Fingerprint;

    #[test]
    fn a_short_file_is_known_at_its_place_although_its_device_was_numbered_anew() {
        let id = FileId { device: 1, inode: 7, born: 0 };
        let fingerprint = Fingerprint::of(b"short\n");
        let generation =
            Generation { base: 0, skip: 0, fingerprint, id, began: 0, late: 0, copied: None, end: None };
        let may_be = |id: FileId, is_live: bool| {
            let stat = Stat { id, size: 6, modified: UNIX_EPOCH, changed: UNIX_EPOCH, regular: true };
            let path = Path::new("/a.log").into();
            let suffix = (!is_live).then_some(Suffix::Number(1));
            let file = Candidate { path, stat, is_live, is_selected: true, suffix, held: None, packed: None };
            may_be_copy(std::slice::from_ref(&file), &generation, &file)
        };
        assert!(may_be(FileId { device: 2, ..id }, true));
        assert!(!may_be(FileId { device: 2, ..id }, false), "under another name it may be anything");
        assert!(!may_be(FileId { device: 2, inode: 8, ..id }, true));
        assert!(!may_be(FileId { born: 5, ..id }, true));
    }
}
