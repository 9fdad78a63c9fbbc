//! Copies taken of a file while its writer still appends to it, as logrotate's `renamecopy` makes them:
//! [`Copied`].
//!
//! Such a copy is shorter than what is read of its original. Once the original is gone nothing tells it from
//! a new file that begins alike, and to read it would be to ship everything twice. So it is compared with the
//! original as long as that is open, and remembered with the generation.

use std::fs::File;
use std::io;

use super::candidates::{Candidate, is_absence};
use super::contents::{Opened, Reach};
use super::identity::{FileId, MARKER_BYTES, Marker, Stat, read_at};
use super::log::{Log, Stage};
use super::state::Generation;
use super::tail::Tail;

/// A file that holds the beginning of a generation, and was never written to by anybody else than its copier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Copied {
    pub(crate) id: FileId,
    /// How long its content is.
    pub(crate) length: u64,
    /// The bytes before its end.
    pub(crate) marker: Marker,
}

impl Copied {
    /// Whether a candidate may be this copy, or what it was compressed into.
    pub(crate) fn may_be(&self, all: &[Candidate], candidate: &Candidate) -> bool {
        let is_there = || all.iter().any(|other| other.stat.id.same(&self.id));
        candidate.stat.id.same(&self.id) || (candidate.is_packed() && !candidate.is_live && !is_there())
    }

    /// Whether a file that may be this copy is it.
    pub(crate) fn is(&self, opened: &Opened) -> io::Result<bool> {
        let is_whole =
            opened.reach(self.length)? == Reach::There && opened.length(self.length + 1)? == self.length;
        Ok(is_whole && self.marker.matches(&opened.before(self.length, usize::from(self.marker.length))?))
    }
}

impl Log {
    /// The file of the current generation, as long as it can be read.
    fn original(&self) -> io::Result<Option<File>> {
        let open = match &self.stage {
            Stage::Reading(reading) if reading.is_packed => None,
            Stage::Reading(reading) if reading.file.is_none() => return reading.open(),
            Stage::Reading(reading) => reading.file.as_ref(),
            Stage::Over => self.rotation.finished.as_ref(),
            Stage::Locate => None,
        };
        open.map(File::try_clone).transpose()
    }

    /// Whether a file may be a copy of the current one that was not compared with it.
    fn may_be_copy(&self, file: &Candidate) -> bool {
        let id = file.stat.id;
        let is_held = || self.rotation.held.iter().any(|held| held.id == id);
        !file.is_live
            && file.suffix.is_some()
            && file.stat.size > 0
            && !is_held()
            && !self.rotation.passed.contains(&id)
            && self.rotation.compared.get(&id) != Some(&file.stat.size)
    }
}

impl Tail {
    /// Takes note of a copy of the current file, which is no longer at its place. A file under the name of a
    /// rotated one is no copy of another that has such a name itself: rotation has moved both.
    pub(super) fn note_copies(&mut self, index: usize, files: &[Candidate]) -> io::Result<()> {
        let log = &mut self.logs[index];
        let candidates: Vec<&Candidate> = files.iter().filter(|file| log.may_be_copy(file)).collect();
        if candidates.is_empty() {
            return Ok(());
        }
        let (Some(original), Some(generation)) = (log.original()?, log.generation()) else { return Ok(()) };
        // One that cannot be read any more holds nobody up.
        let Ok(stat) = Stat::of_file(&original) else { return Ok(()) };
        let is_rotated = |file: &Candidate| file.is_live || file.suffix.is_some();
        if files.iter().any(|file| file.stat.id == stat.id && is_rotated(file)) {
            return Ok(());
        }
        let (mut found, mut compared) = (None, Vec::new());
        for file in candidates {
            if read_at(&original, 0, 1).is_err() {
                return Ok(());
            }
            match compare(&original, stat.size, generation, file) {
                Err(error) if !is_absence(&error) => return Err(error),
                Ok(Some(copied)) => found = Some(Box::new(copied)),
                _ => {}
            }
            compared.push((file.stat.id, file.stat.size));
        }
        if !compared.is_empty() {
            log.rotation.make().compared.extend(compared);
        }
        if found.is_some() {
            let current = log.current;
            log.generations[current].copied = found;
            self.state.stage_generation(&log.path, log.epoch, &log.generations[current]);
        }
        Ok(())
    }
}

/// What is to be remembered of a candidate, if it begins as the original does and holds nothing else.
fn compare(
    original: &File,
    size: u64,
    generation: &Generation,
    candidate: &Candidate,
) -> io::Result<Option<Copied>> {
    let Some(opened) = candidate.open()? else { return Ok(None) };
    if !generation.fingerprint.matches(&opened.head()?) {
        return Ok(None);
    }
    let length = opened.length(size + 1)?;
    let end = opened.before(length, MARKER_BYTES)?;
    let is_copy =
        length <= size && !end.is_empty() && read_at(original, length - end.len() as u64, end.len())? == end;
    let id = candidate.stat.id;
    Ok(is_copy.then(|| Copied { id, length, marker: Marker::of(&end) }))
}
