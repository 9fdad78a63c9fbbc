//! Whether a file holds what a part of a log held: [`is_known`], [`holds`].

use std::io;

use super::candidates::Candidate;
use super::contents::{Opened, Reach};
use super::identity::Marker;
use super::log::Log;
use super::state::Generation;

/// Whether a file holds what a known generation held.
pub(crate) fn is_known(log: &Log, all: &[Candidate], candidate: &Candidate) -> io::Result<bool> {
    is_one_before(log, all, candidate, log.generations.len())
}

/// Whether a file holds what a generation held that came before the current one.
pub(crate) fn is_earlier(log: &Log, all: &[Candidate], candidate: &Candidate) -> io::Result<bool> {
    is_one_before(log, all, candidate, log.current)
}

fn is_one_before(log: &Log, all: &[Candidate], candidate: &Candidate, number: usize) -> io::Result<bool> {
    let mut contents = Contents::default();
    for number in (0..number).rev() {
        if contents.are(log, all, candidate, number)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What a candidate holds, opened at the first question.
#[derive(Default)]
pub(crate) struct Contents(Option<(Opened, Vec<u8>)>);

impl Contents {
    /// Whether they are those of generation `number`.
    pub(crate) fn are(
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
            let opened = open_found(candidate)?;
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
                if holds(&open_found(other)?, generation, end, mark)? {
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

/// Opens a file that was found just now. One that was renamed or deleted since says nothing of itself: taken for a new
/// one it would be read again, so everything is looked at once more.
fn open_found(candidate: &Candidate) -> io::Result<Opened> {
    candidate.open()?.ok_or_else(|| io::ErrorKind::Interrupted.into())
}

/// Whether a file with another inode may hold a generation's content at all.
pub(crate) fn may_be_copy(all: &[Candidate], generation: &Generation, candidate: &Candidate) -> bool {
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
    // What was lost before anybody looked into it may have been anything.
    if generation.fingerprint.length == 0 && generation.end.is_some_and(|(end, _)| end > generation.base) {
        return Ok(false);
    }
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

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::file_tail::identity::{FileId, Fingerprint, Stat};
    use crate::file_tail::siblings::Suffix;

    #[test]
    fn a_file_that_was_renamed_since_it_was_found_is_neither_known_nor_new() {
        let folder = tempfile::tempdir().unwrap();
        let path: std::sync::Arc<Path> = folder.path().join("a.log.2").into();
        std::fs::write(&path, "read\n").unwrap();
        let stat = Stat::of_path(&path).unwrap();
        let generation = Generation {
            base: 0,
            skip: 0,
            fingerprint: Fingerprint::of(b"read\n"),
            id: stat.id,
            began: 0,
            late: 0,
            copied: None,
            end: Some((5, None)),
        };
        let origin = fshipper_pipeline::Origin::new("h", "/a.log");
        let mut log = Log::new(origin, Path::new("/a.log").into(), 0);
        log.generations = vec![generation];
        let suffix = Some(Suffix::Number(2));
        let file = Candidate {
            path: path.clone(),
            stat,
            is_live: false,
            is_selected: true,
            suffix,
            held: None,
            packed: None,
        };
        let all = std::slice::from_ref(&file);
        assert!(is_known(&log, all, &file).unwrap());
        std::fs::rename(&path, folder.path().join("a.log.3")).unwrap();
        std::fs::write(&path, "another\n").unwrap();
        let answer = is_known(&log, all, &file);
        assert_eq!(answer.unwrap_err().kind(), io::ErrorKind::Interrupted);
    }

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
