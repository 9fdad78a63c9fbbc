//! What a file holds, compressed or not, as far as it takes to know it again: [`Opened`].
//!
//! Of a compressed file each place is reached by decoding everything before it. What was found there is
//! remembered ([`Peeks`]), so that looking at the same files again and again costs nothing.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use super::gunzip::{Flow, Gunzip};
use super::identity::{self, FileId, HEAD_BYTES, MARKER_BYTES, Stat, read_at, read_head};
use super::log::Now;
use super::siblings;
use super::unpacking::COMPLETE_AFTER;

/// More places than this are not remembered: a log has a few dozen compressed files, of which few are looked
/// into anywhere but at their beginning.
const MAX_PEEKS: usize = 1000;

/// So much is decoded at once on the way to a place.
const STEP_BYTES: usize = 64 << 10;

/// An open file.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) file: File,
    pub(crate) stat: Stat,
    /// How to look into a compressed one.
    pub(crate) packed: Option<Packed>,
}

/// What is known of a compressed file.
#[derive(Clone, Debug)]
pub(crate) struct Packed {
    /// Somebody may still be writing it.
    may_grow: bool,
    /// Nobody will look again: what is whole counts as all there is.
    is_last: bool,
    peeks: Arc<Peeks>,
}

/// Of a file of this size: which place, and how many bytes before it.
type Question = (FileId, u64, u64, usize);

/// What was found in the compressed files of a log.
#[derive(Debug, Default)]
pub(crate) struct Peeks {
    found: Mutex<HashMap<Question, Peek>>,
    /// Files whose times of change are in the future: what they were at the first look, and when that was.
    dated_ahead: Mutex<HashMap<FileId, (u64, SystemTime, Instant)>>,
}

/// What stands before a place.
#[derive(Clone, Debug)]
pub(crate) struct Peek {
    /// The last bytes before the place, or before the end of the content when that comes first.
    bytes: Vec<u8>,
    pub(crate) reach: Reach,
    /// The place, or the end of the content when that comes first.
    end: u64,
}

/// Whether a content reaches to a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    There,
    /// It is whole, and shorter.
    Shorter,
    /// It is damaged, or cut off, before that.
    Damaged,
}

impl Opened {
    /// The first bytes of the content, as many as a fingerprint can cover.
    ///
    /// # Errors
    ///
    /// The file cannot be read; [`io::ErrorKind::Interrupted`] when it is being written and not that long yet.
    pub(crate) fn head(&self) -> io::Result<Vec<u8>> {
        match &self.packed {
            None => read_head(&self.file),
            Some(packed) => Ok(packed.peek(&self.file, &self.stat, HEAD_BYTES as u64, HEAD_BYTES)?.bytes),
        }
    }

    /// Whether the content reaches to `position`.
    ///
    /// # Errors
    ///
    /// As with [`Opened::head`].
    pub(crate) fn reach(&self, position: u64) -> io::Result<Reach> {
        match &self.packed {
            None if self.stat.size >= position => Ok(Reach::There),
            None => Ok(Reach::Shorter),
            Some(packed) => Ok(packed.peek(&self.file, &self.stat, position, MARKER_BYTES)?.reach),
        }
    }

    /// How long the content is; `most` when it is longer than that.
    ///
    /// # Errors
    ///
    /// As with [`Opened::head`].
    pub(crate) fn length(&self, most: u64) -> io::Result<u64> {
        match &self.packed {
            None => Ok(self.stat.size.min(most)),
            Some(packed) => Ok(packed.peek(&self.file, &self.stat, most, MARKER_BYTES)?.end),
        }
    }

    /// The `length` bytes before `position`; fewer when there are not as many.
    ///
    /// # Errors
    ///
    /// As with [`Opened::head`].
    pub(crate) fn before(&self, position: u64, length: usize) -> io::Result<Vec<u8>> {
        let length = length.min(MARKER_BYTES);
        match &self.packed {
            None => {
                let start = position.saturating_sub(length as u64);
                read_at(&self.file, start, (position - start) as usize)
            }
            Some(packed) => {
                let peek = packed.peek(&self.file, &self.stat, position, MARKER_BYTES)?;
                let surplus = peek.bytes.len().saturating_sub(length);
                Ok(if peek.reach == Reach::There { peek.bytes[surplus..].to_vec() } else { Vec::new() })
            }
        }
    }
}

impl Packed {
    /// How to look into a compressed file, of which `stat` was said just now. `is_last` says that nobody will look
    /// again.
    pub(crate) fn new(stat: &Stat, peeks: &Arc<Peeks>, now: Now, is_last: bool) -> Self {
        let changed = stat.modified.max(stat.changed);
        let may_grow = match now.system.duration_since(changed) {
            Ok(age) => age < COMPLETE_AFTER,
            // Clocks differ, or one was stepped back: such a time says nothing.
            Err(_) => !peeks.is_still(stat, now.instant),
        };
        Self { may_grow, is_last, peeks: peeks.clone() }
    }

    fn peek(&self, file: &File, stat: &Stat, position: u64, length: usize) -> io::Result<Peek> {
        let key = (stat.id, stat.size, position, length);
        if let Some(peek) = self.peeks.lock().get(&key) {
            return Ok(peek.clone());
        }
        let mut gunzip = Gunzip::new(file.try_clone()?);
        let (mut bytes, mut reached, mut flow) = (Vec::new(), 0, Flow::Full);
        while reached < position && flow == Flow::Full {
            let before = bytes.len();
            flow = gunzip.decode(&mut bytes, (position - reached).min(STEP_BYTES as u64) as usize)?;
            reached += (bytes.len() - before) as u64;
            bytes.drain(..bytes.len().saturating_sub(length));
        }
        let reach = match flow {
            _ if reached == position => Reach::There,
            Flow::Starved if self.may_grow => return Err(io::ErrorKind::Interrupted.into()),
            Flow::Over if self.may_grow && !self.is_last => return Err(io::ErrorKind::Interrupted.into()),
            Flow::Over => Reach::Shorter,
            _ => Reach::Damaged,
        };
        let peek = Peek { bytes, reach, end: reached };
        let mut peeks = self.peeks.lock();
        if peeks.len() >= MAX_PEEKS {
            peeks.clear();
        }
        peeks.insert(key, peek.clone());
        Ok(peek)
    }
}

impl Peeks {
    /// Whether a file, of which `stat` was said just now, has not changed between looks for so long that it is
    /// complete.
    pub(crate) fn is_still(&self, stat: &Stat, now: Instant) -> bool {
        let mut dated_ahead = self.dated_ahead.lock().unwrap_or_else(PoisonError::into_inner);
        if dated_ahead.len() >= MAX_PEEKS {
            dated_ahead.clear();
        }
        let seen = (stat.size, stat.modified, now);
        let first = dated_ahead.entry(stat.id).or_insert(seen);
        if (first.0, first.1) != (stat.size, stat.modified) {
            *first = seen;
        }
        now.saturating_duration_since(first.2) >= COMPLETE_AFTER
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Question, Peek>> {
        // Nothing under this lock can be left half done.
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first bytes of what the file at `path` holds.
pub(crate) fn head_of(path: &Path) -> io::Result<Vec<u8>> {
    let file = identity::open(path)?;
    let stat = Stat::of_file(&file)?;
    let packed = || Packed { may_grow: false, is_last: false, peeks: Arc::default() };
    Opened { file, stat, packed: siblings::is_gzip(path).then(packed) }.head()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn the_bytes_before_a_place_are_not_the_first_bytes_up_to_it() {
        let content: Vec<u8> = (0..3000_u32).flat_map(u32::to_be_bytes).collect();
        let mut encoder = flate2::write::GzEncoder::new(tempfile::tempfile().unwrap(), Default::default());
        encoder.write_all(&content).unwrap();
        let file = encoder.finish().unwrap();
        let stat = Stat::of_file(&file).unwrap();
        let packed = Some(Packed { may_grow: false, is_last: false, peeks: Arc::default() });
        let opened = Opened { file, stat, packed };
        assert_eq!(opened.reach(HEAD_BYTES as u64).unwrap(), Reach::There);
        assert_eq!(opened.head().unwrap(), content[..HEAD_BYTES]);
        assert_eq!(opened.before(HEAD_BYTES as u64, 10).unwrap(), content[HEAD_BYTES - 10..HEAD_BYTES]);
    }
}
