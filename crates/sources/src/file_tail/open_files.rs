//! Which files are open: [`OpenFiles`].
//!
//! What stands at its place can be closed and opened again at any time, and so can what was renamed and was read
//! to its end; what was deleted, or was not read to its end, cannot.

use std::collections::BTreeMap;
use std::io;

use rustix::process::{Resource, getrlimit};

use super::identity::Stat;
use super::log::{Log, Stage};
use super::reading::{Reading, Whereabouts};
use super::tail::Tail;

/// Files kept open besides those being read, when the limit on open files allows.
const MAX_OPEN_FILES: u64 = 256;

/// Rotated files that wait for their turn are held open, up to this many: a deleted one takes up disk space
/// that nobody sees.
const MAX_HELD_FILES: usize = 64;

/// At most this share of the open files that the process may have.
const OPEN_FILES_SHARE: u64 = 4;

/// How many files are open, and which one is closed next.
#[derive(Debug)]
pub(crate) struct OpenFiles {
    /// Logs with an open file, the one used least recently first.
    open: BTreeMap<u64, usize>,
    uses: u64,
    /// Files that are being read, or were.
    pub(super) most: usize,
    /// Files that wait for their turn.
    pub(super) held: usize,
    pub(super) most_held: usize,
}

impl OpenFiles {
    /// None yet.
    pub(super) fn new() -> Self {
        let limit = getrlimit(Resource::Nofile).current;
        let most = limit.map_or(MAX_OPEN_FILES, |limit| limit / OPEN_FILES_SHARE).clamp(1, MAX_OPEN_FILES);
        Self { open: BTreeMap::new(), uses: 0, most: most as usize, held: 0, most_held: MAX_HELD_FILES }
    }
}

impl Tail {
    /// Takes note that a log's file is open and was used, and closes the one that was not for longest.
    pub(super) fn used(&mut self, index: usize) {
        let open_files = &mut self.open_files;
        open_files.uses += 1;
        if let Stage::Reading(reading) = &mut self.logs[index].stage
            && reading.file.is_some()
        {
            open_files.open.remove(&reading.used);
            reading.used = open_files.uses;
            open_files.open.insert(open_files.uses, index);
        }
        for _ in 0..open_files.open.len().saturating_sub(open_files.most) {
            self.close_least_used();
        }
    }

    pub(super) fn close_least_used(&mut self) {
        let Some((used, index)) = self.open_files.open.pop_first() else { return };
        let log = &mut self.logs[index];
        let position = log.position();
        if let Stage::Reading(reading) = &mut log.stage
            && reading.used == used
            && (reading.whereabouts == Whereabouts::Home || reading.is_read_to_its_end(position))
        {
            reading.file = None;
        }
    }

    /// Whether the log's file is open; it may have been closed while there was nothing to read.
    pub(super) fn open_again(&mut self, index: usize) -> io::Result<bool> {
        let log = &mut self.logs[index];
        let Stage::Reading(reading) = &mut log.stage else { return Ok(false) };
        if reading.file.is_none() {
            reading.file = reading.open()?;
        }
        if reading.file.is_some() {
            return Ok(true);
        }
        // It was renamed or replaced: its directory says more.
        self.discovery.look_again(&log.path);
        self.waiting.insert(index);
        Ok(false)
    }
}

impl Log {
    /// Whether the file that is being read was closed when it was read to its end, and is what it was then.
    pub(super) fn is_at_rest(&self) -> bool {
        let Stage::Reading(reading) = &self.stage else { return false };
        let is_same =
            |stat: Stat| (stat.id, stat.size, stat.modified) == (reading.id, reading.size, reading.modified);
        reading.is_closed()
            && reading.is_read_to_its_end(self.position())
            && Stat::of_path(&reading.path).is_ok_and(is_same)
    }
}

impl Reading {
    /// Whether it was renamed, and up to `position` everything was read that it holds.
    fn is_read_to_its_end(&self, position: u64) -> bool {
        let is_renamed = self.whereabouts == Whereabouts::Moved && !self.is_packed;
        is_renamed && self.text.is_found() && self.text.end() <= position && self.text.zeros() == 0
    }
}
