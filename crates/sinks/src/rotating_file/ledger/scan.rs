//! A ledger from its beginning on, without all of it in memory: [`Scan`].

use std::fs::File;
use std::io::{self, Read};

use super::codec;

/// Reads frames, and then looks through what follows the last one.
///
/// Most of a ledger is room for what is yet to come; only a part at a time is in memory.
pub(super) struct Scan {
    file: File,
    /// What was read of the file and not passed yet.
    window: Vec<u8>,
    /// How much of the window was passed.
    passed: usize,
    /// Where in the file the next byte is.
    at: usize,
    /// There is nothing behind the window.
    is_at_end: bool,
}

/// What follows the last whole frame.
pub(super) struct Rest {
    /// There is a whole frame with a higher number: what lies before it is damaged.
    pub(super) holds_frame: bool,
    /// There are other bytes than the zeros that are expected.
    pub(super) holds_bytes: bool,
}

/// So much is read at a time, at least.
const READ_BYTES: usize = 256 << 10;

impl Scan {
    /// Of a file, from where it stands.
    pub(super) fn new(file: File) -> Self {
        Self { file, window: Vec::new(), passed: 0, at: 0, is_at_end: false }
    }

    /// Where in the file the next byte is.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// The next bytes: as many as asked for, or all up to the end of the file.
    pub(super) fn peek(&mut self, count: usize) -> io::Result<&[u8]> {
        let there = self.window.len() - self.passed;
        if there < count && !self.is_at_end {
            self.window.drain(..self.passed);
            self.passed = 0;
            let missing = (count - there).max(READ_BYTES);
            let read = (&self.file).take(missing as u64).read_to_end(&mut self.window)?;
            self.is_at_end = read < missing;
        }
        let end = self.window.len().min(self.passed + count);
        Ok(&self.window[self.passed..end])
    }

    /// Goes on behind so many bytes, which were seen.
    pub(super) fn pass(&mut self, count: usize) {
        self.passed += count;
        self.at += count;
    }

    /// The frame that begins here: its sequence number and payload. `None`: there is no whole one.
    pub(super) fn frame(&mut self) -> io::Result<Option<(u64, &[u8])>> {
        match codec::claimed_length(self.peek(codec::frame_length(0))?) {
            Some(length) => Ok(codec::take_frame(self.peek(length)?)),
            None => Ok(None),
        }
    }

    /// Looks through the rest of the file for a frame with a number above `after`.
    pub(super) fn rest(mut self, after: u64) -> io::Result<Rest> {
        let mut rest = Rest { holds_frame: false, holds_bytes: false };
        loop {
            let bytes = self.peek(READ_BYTES)?;
            let end = bytes.len();
            if end == 0 {
                return Ok(rest);
            }
            let Some(start) = bytes.iter().position(|byte| *byte != 0) else {
                self.pass(end);
                continue;
            };
            rest.holds_bytes = true;
            let start = start + memchr::memchr(codec::FRAME_MAGIC[0], &bytes[start..]).unwrap_or(end - start);
            self.pass(start);
            if start == end {
                continue;
            }
            if self.frame()?.is_some_and(|(found, _)| found > after) {
                rest.holds_frame = true;
                return Ok(rest);
            }
            self.pass(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, Write};

    use super::*;

    fn scan(content: &[u8]) -> Scan {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        file.rewind().unwrap();
        Scan::new(file)
    }

    fn frame(sequence: u64, length: usize) -> Vec<u8> {
        let mut frame = Vec::new();
        codec::put_frame(&mut frame, sequence, &vec![b'x'; length]);
        frame
    }

    #[test]
    fn finds_frames_of_all_sizes_wherever_a_part_ends() {
        for length in [0, 1, READ_BYTES - 21, READ_BYTES - 20, READ_BYTES, 3 * READ_BYTES] {
            let mut scan = scan(&[frame(1, length), frame(2, 5)].concat());
            assert_eq!(
                scan.frame().unwrap().map(|(found, payload)| (found, payload.len())),
                Some((1, length))
            );
            scan.pass(codec::frame_length(length));
            assert_eq!(scan.frame().unwrap(), Some((2, &b"xxxxx"[..])));
            scan.pass(codec::frame_length(5));
            assert_eq!(scan.frame().unwrap(), None);
        }
    }

    #[test]
    fn a_frame_far_behind_is_found_at_every_place() {
        for before in (READ_BYTES - 30..READ_BYTES + 5).chain([0, 1, 2 * READ_BYTES - 3]) {
            for fill in [0, b'F'] {
                let content = [vec![fill; before], frame(7, 3)].concat();
                let rest = scan(&content).rest(6).unwrap();
                assert!(rest.holds_frame && rest.holds_bytes, "{before} {fill}");
                assert!(!scan(&content).rest(7).unwrap().holds_frame);
                if fill == 0 {
                    let rest = scan(&content[..before]).rest(0).unwrap();
                    assert!(!rest.holds_frame && !rest.holds_bytes);
                }
            }
        }
    }

    #[test]
    fn one_byte_that_is_no_zero_is_seen() {
        for at in [0, READ_BYTES - 1, READ_BYTES, 2 * READ_BYTES] {
            let mut content = vec![0; 2 * READ_BYTES + 1];
            content[at] = 1;
            assert!(scan(&content).rest(0).unwrap().holds_bytes, "{at}");
        }
    }
}
