//! Where the text of a file ends: [`TextEnd`].
//!
//! Space that was reserved for a log, and what a crash left of the last block, reads as zeros up to the end of
//! the file. Those are nobody's lines: text may still take their place, without a change of the file's size.
//! Zeros with text behind them are bytes like any others.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use super::contents::Opened;
use super::gunzip::{Flow, Gunzip};
use super::identity::read_at;

/// So much is looked through at once.
const PIECE_BYTES: u64 = 64 << 10;

/// So much is looked through before the other logs get their turn.
pub(crate) const SEARCH_BYTES: u64 = 4 << 20;

/// What is known of the end of a file's text.
#[derive(Debug)]
pub(crate) struct TextEnd {
    end: u64,
    /// The size of the file at the last look.
    size: u64,
    /// While the end is searched, from the end of the file down: from here on there were only zeros.
    zeros_from: Option<NonZeroU64>,
    /// Whether there was a look.
    is_found: bool,
    /// Whether something was written during the search, perhaps where it had been already.
    is_stale: bool,
}

impl TextEnd {
    /// Of a file of `size` bytes that nobody looked into.
    pub(crate) fn new(size: u64) -> Self {
        Self { end: size, size, zeros_from: None, is_found: false, is_stale: false }
    }

    /// Of a compressed file, all of which is decoded for that.
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    pub(crate) fn of_packed(file: &File, width: usize) -> io::Result<Self> {
        let mut gunzip = Gunzip::new(file.try_clone()?);
        let (mut piece, mut size, mut end) = (Vec::new(), 0, 0);
        let mut flow = Flow::Full;
        while flow == Flow::Full {
            piece.clear();
            flow = gunzip.decode(&mut piece, PIECE_BYTES as usize)?;
            end = text_in(&piece, size, width).unwrap_or(end);
            size += piece.len() as u64;
        }
        Ok(Self { end: end.min(size), is_found: true, ..Self::new(size) })
    }

    /// Whether it was looked for.
    pub(crate) fn is_found(&self) -> bool {
        self.is_found
    }

    /// Where it was found last.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// How many zeros stand behind it.
    pub(crate) fn zeros(&self) -> u64 {
        self.size - self.end
    }

    /// Takes all of a file for text.
    pub(crate) fn take_all(&mut self, size: u64) {
        *self = Self { is_found: true, ..Self::new(size) };
    }

    /// Finds the end of the text, at `from` or behind it, in a file of `size` bytes whose characters have
    /// `width` bytes; `None` when the search has to go on. `is_touched` says that the file was written to since
    /// the last look. No more than its last character is read of a file that does not end in zeros, and nothing while
    /// nobody writes to it.
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    pub(crate) fn find(
        &mut self,
        file: &File,
        from: u64,
        size: u64,
        width: usize,
        is_touched: bool,
    ) -> io::Result<Option<u64>> {
        let is_same = self.is_found && self.size == size;
        if self.zeros_from.is_some() {
            self.is_stale |= is_touched || !is_same;
        } else {
            let has_zeros = is_same && self.end < size;
            if is_same && !has_zeros && !is_touched {
                return Ok(Some(size));
            }
            if has_zeros && !is_zero(file, self.end, width)? {
                return self.follow(file, size, width).map(Some);
            }
            if has_zeros && !is_touched && !self.is_stale {
                return Ok(Some(self.end));
            }
            // Half a character is being written.
            let is_whole = size.is_multiple_of(width as u64);
            if size <= from || !is_whole || !is_zero(file, size - width as u64, width)? {
                self.take_all(size);
                return Ok(Some(size));
            }
            // Nothing may be known of what is found, but for where nothing is searched.
            *self = Self { end: from, zeros_from: NonZeroU64::new(size), is_found: true, ..Self::new(size) };
        }
        let size = self.size;
        let Some(end) = self.search(file, width)? else { return Ok(None) };
        (self.end, self.zeros_from) = (end, None);
        self.follow(file, size, width).map(Some)
    }

    /// Goes on with the search.
    fn search(&mut self, file: &File, width: usize) -> io::Result<Option<u64>> {
        let Some(mut high) = self.zeros_from.map(NonZeroU64::get) else { return Ok(None) };
        if data_from(file, self.end, high)? >= high {
            return Ok(Some(self.end));
        }
        let floor = high.saturating_sub(SEARCH_BYTES).max(self.end);
        if data_from(file, floor, high)? < high {
            while high > floor {
                let low = high.saturating_sub(PIECE_BYTES).max(floor);
                let piece = read_at(file, low, (high - low) as usize)?;
                if let Some(end) = text_in(&piece, low, width) {
                    return Ok(Some(end));
                }
                high = low;
            }
        }
        self.zeros_from = NonZeroU64::new(floor);
        Ok((floor == self.end).then_some(floor))
    }

    /// Text has grown into the zeros: its end is where they go on.
    fn follow(&mut self, file: &File, size: u64, width: usize) -> io::Result<u64> {
        // What is beyond that is found at the next look, for it is no zero that follows.
        let most = size.min(self.end + SEARCH_BYTES);
        while self.end < most {
            let piece = read_at(file, self.end, (most - self.end).min(PIECE_BYTES) as usize)?;
            let Some(end) = text_in(&piece, self.end, width) else { break };
            let is_full = end >= self.end + piece.len() as u64;
            self.end = end.min(size);
            if !is_full {
                break;
            }
        }
        Ok(self.end)
    }
}

/// The first bytes of a file, as [`Opened::head`] gives them, but for zeros which may be those that end it.
///
/// # Errors
///
/// As with [`Opened::head`].
pub(crate) fn head_of_text(opened: &Opened) -> io::Result<Vec<u8>> {
    let mut head = opened.head()?;
    if opened.packed.is_none() && head.last() == Some(&0) {
        let size = opened.stat.size.max(head.len() as u64);
        let found = TextEnd::new(size).find(&opened.file, 0, size, 1, true)?;
        let zeros = head.iter().rev().take_while(|byte| **byte == 0).count();
        // Where zeros go on for long, nothing more is known.
        let end = found.unwrap_or((head.len() - zeros) as u64);
        head.truncate(end as usize);
    }
    Ok(head)
}

/// Behind the last character in a piece of a file that is not zero.
pub(crate) fn text_in(piece: &[u8], position: u64, width: usize) -> Option<u64> {
    let last = piece.iter().rposition(|byte| *byte != 0)?;
    Some((position + last as u64 + 1).next_multiple_of(width as u64))
}

/// Whether the character at `position` is zero.
fn is_zero(file: &File, position: u64, width: usize) -> io::Result<bool> {
    Ok(read_at(file, position, width)?.iter().all(|byte| *byte == 0))
}

/// The first byte at `position` or behind it that is no part of a hole; `size` when there is none.
fn data_from(file: &File, position: u64, size: u64) -> io::Result<u64> {
    match seek(file, SeekFrom::Data(position)) {
        Ok(data) => Ok(data),
        Err(Errno::NXIO) => Ok(size),
        // Not every file system knows holes.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => Ok(position),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    fn file(size: u64) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(size).unwrap();
        file
    }

    /// The end, and how many steps it took.
    fn find(text: &mut TextEnd, file: &File, width: usize, mut is_touched: bool) -> (u64, usize) {
        let size = file.metadata().unwrap().len();
        for step in 1.. {
            if let Some(end) = text.find(file, 0, size, width, is_touched).unwrap() {
                return (end, step);
            }
            is_touched = false;
        }
        unreachable!()
    }

    #[test]
    fn the_end_is_behind_the_last_character_that_is_not_zero() {
        for (bytes, width, expected) in [
            (&b""[..], 1, 0),
            (b"text\n", 1, 5),
            (b"text\n\0\0\0", 1, 5),
            (b"\0\0\0\0", 1, 0),
            (b"\0\0a\0", 1, 3),
            (b"a\0\n\0", 2, 4),
            (b"\0a\0\n\0\0\0\0", 2, 4),
            (b"a\0\n\0\0\0", 2, 4),
            (b"a\0\n\0\0", 2, 5),
        ] {
            let file = file(0);
            file.write_all_at(bytes, 0).unwrap();
            let mut text = TextEnd::new(bytes.len() as u64);
            assert_eq!(find(&mut text, &file, width, true).0, expected, "{bytes:?}");
            assert_eq!(text.zeros(), bytes.len() as u64 - expected, "{bytes:?}");
        }
    }

    #[test]
    fn zeros_that_were_written_are_searched_in_steps_and_holes_at_once() {
        let size = 3 * SEARCH_BYTES;
        for (is_hole, expected) in [(true, 1), (false, 3)] {
            let file = file(size);
            file.write_all_at(b"text\n", 0).unwrap();
            if !is_hole {
                file.write_all_at(&vec![0; (size - 5) as usize], 5).unwrap();
            }
            let (end, steps) = find(&mut TextEnd::new(size), &file, 1, true);
            assert_eq!(end, 5);
            // Some file systems know no holes.
            assert!(steps == expected || is_hole, "{steps}");
        }
    }

    #[test]
    fn text_that_grows_into_the_zeros_is_followed_without_another_search() {
        let file = file(0);
        let size = 4 * SEARCH_BYTES;
        file.write_all_at(&vec![0; size as usize], 0).unwrap();
        let mut text = TextEnd::new(size);
        find(&mut text, &file, 1, true);
        let mut end = 0;
        for length in [1, 100, PIECE_BYTES, PIECE_BYTES + 1, SEARCH_BYTES] {
            file.write_all_at(&vec![b'x'; length as usize], end).unwrap();
            end += length;
            for is_touched in [true, false] {
                assert_eq!(find(&mut text, &file, 1, is_touched), (end, 1), "{length}");
            }
        }
        file.write_all_at(&vec![b'x'; (size - end) as usize], end).unwrap();
        let steps = (size - end).div_ceil(SEARCH_BYTES);
        (1..steps).for_each(|_| assert!(find(&mut text, &file, 1, false).0 < size));
        assert_eq!((find(&mut text, &file, 1, false), text.zeros()), ((size, 1), 0));
    }

    #[test]
    fn text_behind_zeros_is_found_when_the_file_was_touched_also_during_a_search() {
        let file = file(0);
        let size = 3 * SEARCH_BYTES;
        file.write_all_at(&vec![0; size as usize], 0).unwrap();
        let mut text = TextEnd::new(size);
        assert_eq!(text.find(&file, 0, size, 1, true).unwrap(), None);
        file.write_all_at(b"late", size - 100).unwrap();
        assert_eq!(find(&mut text, &file, 1, true).0, 0);
        assert_eq!(find(&mut text, &file, 1, false).0, size - 96);
        file.write_all_at(b"later", size - 50).unwrap();
        assert_eq!(find(&mut text, &file, 1, true).0, size - 45);
    }
}
