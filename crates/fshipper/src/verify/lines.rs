//! Lines as numbers: [`Lines`] reads a side as a row of [`Line`]s, each known by its hash.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hasher};

use fshipper_pipeline::anyhow::Result;

use super::side::{BLOCK_BYTES, Bytes, Side};

/// A longer line is hashed in pieces of so many bytes, so that its length costs no memory.
const PIECE_BYTES: usize = 64 << 10;

/// What is known of a line: that two with the same hash differ has odds of one in 2⁶⁴ for each pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) hash: u64,
    /// With its end.
    pub(super) bytes: u64,
    /// Whether it has an end.
    pub(super) is_whole: bool,
}

/// Where a line begins, among all lines of a side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// Counted from 0.
    pub(super) line: u64,
    pub(super) byte: u64,
}

impl Place {
    /// Where the line after this one begins.
    pub(super) fn after(self, line: Line) -> Self {
        Self { line: self.line + 1, byte: self.byte + line.bytes }
    }
}

/// The lines of a side, with as many looked at in advance as are asked for.
pub(super) struct Lines<'s> {
    bytes: Bytes<'s>,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    is_dry: bool,
    /// Where the first line in `ahead` begins.
    place: Place,
    ahead: VecDeque<Line>,
}

impl<'s> Lines<'s> {
    /// The lines from `place` on.
    pub(super) fn new(side: &'s Side, place: Place) -> Result<Self> {
        Ok(Self {
            bytes: side.bytes_from(place.byte)?,
            buffer: vec![0; BLOCK_BYTES],
            start: 0,
            end: 0,
            is_dry: false,
            place,
            ahead: VecDeque::new(),
        })
    }

    /// Where the next line begins.
    pub(super) fn place(&self) -> Place {
        self.place
    }

    pub(super) fn peek(&mut self) -> Result<Option<Line>> {
        self.look_ahead(1)?;
        Ok(self.ahead.front().copied())
    }

    /// The next line, with its place.
    pub(super) fn pop(&mut self) -> Result<Option<(Place, Line)>> {
        let Some(line) = self.peek()? else { return Ok(None) };
        self.ahead.pop_front();
        let place = self.place;
        self.place = place.after(line);
        Ok(Some((place, line)))
    }

    /// The next lines, `count` of them or as many as there are.
    pub(super) fn look_ahead(&mut self, count: usize) -> Result<&[Line]> {
        while self.ahead.len() < count {
            let Some(line) = self.read()? else { break };
            self.ahead.push_back(line);
        }
        let lines = self.ahead.make_contiguous();
        Ok(&lines[..lines.len().min(count)])
    }

    fn read(&mut self) -> Result<Option<Line>> {
        let mut hasher = DefaultHasher::new();
        let mut line = Line { hash: 0, bytes: 0, is_whole: false };
        loop {
            if self.end - self.start < PIECE_BYTES && !self.is_dry {
                self.refill()?;
            }
            // Pieces begin at the same bytes of a line wherever it stands in the buffer.
            let piece = &self.buffer[self.start..self.end.min(self.start + PIECE_BYTES)];
            let end = memchr::memchr(b'\n', piece);
            let piece = &piece[..end.map_or(piece.len(), |end| end + 1)];
            hasher.write(piece);
            self.start += piece.len();
            line.bytes += piece.len() as u64;
            line.is_whole = end.is_some();
            if line.is_whole || piece.is_empty() {
                break;
            }
        }
        line.hash = hasher.finish();
        Ok((line.bytes > 0).then_some(line))
    }

    fn refill(&mut self) -> Result<()> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        let read = self.bytes.fill(&mut self.buffer[self.end..])?;
        self.is_dry = self.end + read < self.buffer.len();
        self.end += read;
        Ok(())
    }
}
