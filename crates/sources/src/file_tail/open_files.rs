//! Which files are open: [`OpenFiles`].
//!
//! What stands at its place can be closed and opened again at any time; what was renamed or deleted, and was
//! not read to its end, cannot.

use std::collections::BTreeMap;

use rustix::process::{Resource, getrlimit};

use super::log::Stage;
use super::reading::Whereabouts;
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
        if let Stage::Reading(reading) = &mut log.stage {
            // Only a file at its place can be opened again.
            if reading.used == used && reading.whereabouts == Whereabouts::Home {
                reading.file = None;
            }
        }
    }
}
