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
use super::identity::{self, FileId, Stat, nanoseconds, read_head};
use super::likeness::{Contents, holds, is_earlier, is_known, may_be_copy};
use super::log::{Log, Now, Stage};
use super::patterns::Patterns;
use super::reading::Whereabouts;
use super::siblings::{self, Suffix};

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
    pub(super) held: Option<Arc<File>>,
    /// Of a compressed file: its size is that of its content no more.
    pub(super) packed: Option<Packed>,
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
    let held = log.rotation.held.iter().rev();
    let held = held.filter_map(|held| Some((held.id, held.file.as_ref()?, &held.path)));
    for (id, file, path) in held.chain(log.kept()) {
        let is_seen = live.is_some_and(|live| live.id == id);
        if !is_seen && !found.iter().any(|candidate| candidate.stat.id == id) {
            let stat = Stat::of_file(file)?;
            found.insert(
                place_of_twin(file, &stat, &found)?.unwrap_or(0),
                Candidate {
                    path: path.clone(),
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
    let known_end = log.mark.map_or(log.offset, |mark| mark.0.max(log.offset));
    let is_unread = known_end == generation.base;
    let (same, others): (Vec<_>, Vec<_>) =
        candidates.iter().partition(|candidate| candidate.stat.id.same(&generation.id));
    // Of several copies the newest one is the longest. But of a file of which nothing was read only the beginning
    // is known, and many may share that: all that is newer than the one which is taken is read behind it.
    let (unread, others): (Vec<&Candidate>, Vec<_>) = others.into_iter().partition(|candidate| {
        let may_be_new = candidate.is_selected || nanoseconds(candidate.stat.modified) >= generation.began;
        is_unread && may_be_new
    });
    for candidate in same.into_iter().chain(unread).chain(others.into_iter().rev()) {
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
        if holds(&opened, generation, known_end, log.mark)? {
            if is_unread && !is_same && is_earlier(log, candidates, candidate)? {
                continue;
            }
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

/// Whether the file at `path`, where another log has its own, holds what a known generation of this one held, and
/// came to that name as a rotated file.
pub(crate) fn is_rotated(
    log: &Log,
    patterns: &Patterns,
    path: &Arc<Path>,
    suffix: Suffix,
    now: Now,
) -> io::Result<bool> {
    let stat = Stat::of_path(path)?;
    if !stat.regular || stat.size == 0 || log.generations.is_empty() {
        return Ok(false);
    }
    let (path, suffix) = (path.clone(), Some(suffix));
    let file = Candidate { path, stat, is_live: false, is_selected: true, suffix, held: None, packed: None };
    is_known(log, &gather(log, patterns, now, false)?, &file)
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
