//! Which file on disk is which part of a log: [`Candidate`], [`locate`], [`successors`].
//!
//! Called only when something changed: a file appeared, vanished, was renamed, or no longer holds what it
//! held. The rules, in the order in which they decide:
//!
//! - A file *is* a generation only if its first bytes and the bytes before the known position are the same.
//! - The inode says where to look first. A file with another inode is taken for the same content (a copy, or
//!   the original of one) only at the log's own path or under the name of a rotated sibling, and only while
//!   the inode itself is not found under another name.
//! - Files older than the one being read were read, or passed over, before: they are never new.
//! - A sibling that no pattern selects is new only between a known file and the log's own path.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::identity::{self, FileId, Marker, Stat, read_at, read_head};
use super::log::{Log, Now, Stage, Whereabouts};
use super::patterns::Patterns;
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
}

/// The file of a generation.
#[derive(Debug)]
pub(crate) struct Located {
    pub(crate) file: File,
    pub(crate) path: Arc<Path>,
    pub(crate) stat: Stat,
    pub(crate) whereabouts: Whereabouts,
}

impl Candidate {
    /// Whether it is at no path any more, and held open.
    pub(crate) fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// Opens the file; `None` when it is no longer the one that was looked at.
    pub(crate) fn open(&self) -> io::Result<Option<(File, Stat)>> {
        let file = match &self.held {
            Some(held) => held.try_clone()?,
            None => match identity::open(&self.path) {
                Err(error) if is_absence(&error) => return Ok(None),
                opened => opened?,
            },
        };
        let stat = Stat::of_file(&file)?;
        Ok((stat.regular && stat.id == self.stat.id).then_some((file, stat)))
    }
}

/// The files of `log`, oldest first, the one at its own path last.
///
/// # Errors
///
/// Its own path, or that of a file which is being read or looked for, cannot be looked at for another reason
/// than that nothing is there.
pub(crate) fn gather(log: &Log, patterns: &Patterns) -> io::Result<Vec<Candidate>> {
    let live = match Stat::of_path(&log.path) {
        Ok(stat) => Some(stat).filter(|stat| stat.regular),
        Err(error) if is_absence(&error) => None,
        Err(error) => return Err(error),
    };
    let mut found: Vec<Candidate> = Vec::new();
    for path in log.members.iter().filter(|path| !siblings::is_compressed(path)) {
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
        });
    }
    siblings::sort_oldest_first(&mut found, |file| file.suffix.as_ref(), |file| file.stat.modified);
    // What is held open and seen nowhere was deleted: retention takes the oldest first.
    for held in log.held.iter().rev() {
        let Some(file) = &held.file else { continue };
        let is_seen = live.is_some_and(|live| live.id == held.id);
        if !is_seen && !found.iter().any(|candidate| candidate.stat.id == held.id) {
            found.insert(
                0,
                Candidate {
                    path: held.path.clone(),
                    stat: Stat::of_file(file)?,
                    is_live: false,
                    is_selected: true,
                    suffix: None,
                    held: Some(file.clone()),
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
        });
    }
    Ok(found)
}

/// Whether the log cannot do without the file that was last seen at `path`.
fn is_needed(log: &Log, path: &Path) -> bool {
    let is_read = match &log.stage {
        Stage::Locate => true,
        Stage::Reading(reading) => *reading.path == *path,
        Stage::Over => false,
    };
    is_read || log.held.iter().any(|held| *held.path == *path)
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
        if log.replaced == Some(candidate.stat.id) {
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
        let Some((file, stat)) = opened else {
            if is_same {
                return Err(io::ErrorKind::Interrupted.into());
            }
            continue;
        };
        let known_end = log.mark.map_or(log.offset, |mark| mark.0.max(log.offset));
        if holds(&file, &stat, generation, known_end, log.mark)? {
            let whereabouts = match (candidate.is_live, is_same) {
                (true, _) => Whereabouts::Home,
                // Rebuilt from a position alone a generation has no inode: its file may still grow.
                (false, false) if generation.id.inode != 0 => Whereabouts::Copy,
                (false, _) => Whereabouts::Moved,
            };
            return Ok(Some(Located { file, path: candidate.path.clone(), stat, whereabouts }));
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
        } else if log.held.iter().any(|held| held.id == id) {
            true
        } else if !is_between || log.passed.contains(&id) {
            false
        } else {
            let is_known = is_known(log, &candidates, candidate)?;
            if is_known {
                log.passed.insert(id);
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
    if let Some(read) = log.last_read
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
struct Contents(Option<(File, Stat, Vec<u8>)>);

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
        if number == log.current && log.replaced == Some(candidate.stat.id) {
            return Ok(false);
        }
        // What stands at the log's own path is never a mere copy: somebody made it to write into it.
        if !is_same && (candidate.is_live || !may_be_copy(all, generation, candidate)) {
            return Ok(false);
        }
        if self.0.is_none() {
            // Whatever vanished or was replaced since is looked at again when that is noticed.
            let Some((file, stat)) = candidate.open()? else { return Ok(false) };
            let head = read_head(&file)?;
            self.0 = Some((file, stat, head));
        }
        let Some((file, stat, head)) = &self.0 else { return Ok(false) };
        if !generation.fingerprint.matches(head) {
            return Ok(false);
        }
        let (end, mark) = match generation.end {
            Some((end, marker)) => (end, marker.map(|marker| (end, marker))),
            None if number == log.current => (log.offset, log.mark),
            None => (log.generations.get(number + 1).map_or(generation.base, |next| next.base), None),
        };
        let is_short = stat.size < Log::file_position(generation, end);
        if is_short {
            // A copy that was taken shortly before the original was cut may lack the last lines read of it.
            return Ok(!is_same && is_cut_in_place(all, generation));
        }
        // Where the inode itself goes by another name, a file with the same content is another file; unless
        // it was cut in place first, and then renamed.
        let has_moved = |other: &Candidate| {
            !other.is_live && other.stat.id != candidate.stat.id && other.stat.id.same(&generation.id)
        };
        if !is_same {
            for other in all.iter().filter(|other| has_moved(other)) {
                if let Some((file, stat)) = other.open()?
                    && holds(&file, &stat, generation, end, mark)?
                {
                    return Ok(false);
                }
            }
        }
        holds(file, stat, generation, end, mark)
    }
}

/// Whether a file with another inode may hold a generation's content at all.
fn may_be_copy(all: &[Candidate], generation: &Generation, candidate: &Candidate) -> bool {
    let has_the_name = candidate.is_live || candidate.suffix.is_some();
    // Too short to tell two files apart; but where a file was cut in place, there was a copy.
    let is_whole_copy = !candidate.is_live
        && candidate.stat.size == u64::from(generation.fingerprint.length)
        && is_cut_in_place(all, generation);
    // A generation rebuilt from a position alone has no inode: then its own path must do.
    let is_rebuilt = generation.id.inode == 0 && candidate.is_live;
    has_the_name && (generation.fingerprint.is_strong() || is_whole_copy || is_rebuilt)
}

/// Whether the log's own path still leads to the generation's inode: if its content is elsewhere, it was
/// copied and then truncated.
fn is_cut_in_place(all: &[Candidate], generation: &Generation) -> bool {
    all.iter().any(|other| other.is_live && other.stat.id.same(&generation.id))
}

/// Whether the file begins as the generation does, reaches to the offset `end`, and has the bytes of the
/// marker where they belong.
pub(crate) fn holds(
    file: &File,
    stat: &Stat,
    generation: &Generation,
    end: u64,
    mark: Option<(u64, Marker)>,
) -> io::Result<bool> {
    if stat.size < Log::file_position(generation, end) || !generation.fingerprint.matches(&read_head(file)?) {
        return Ok(false);
    }
    let Some((offset, marker)) = mark else { return Ok(true) };
    let behind = Log::file_position(generation, offset);
    let length = u64::from(marker.length);
    if behind < length {
        return Ok(false);
    }
    let bytes = read_at(file, behind - length, usize::from(marker.length))?;
    Ok(marker.matches(&bytes))
}

/// Whether an error says that nothing is there, not merely that it cannot be reached now.
pub(crate) fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}
