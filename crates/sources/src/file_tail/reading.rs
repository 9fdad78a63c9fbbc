//! The file of a log that is being read: [`Reading`].

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::candidates::is_absence;
use super::identity::{self, FileId, Stat};
use super::log::Now;
use super::text::TextEnd;
use super::unpacking::Unpacking;

/// The file that is being read.
#[derive(Debug)]
pub(crate) struct Reading {
    /// Where it was last seen.
    pub(crate) path: Arc<Path>,
    pub(crate) id: FileId,
    /// Closed while there is nothing to read, when many are open; `None` for a compressed one.
    pub(crate) file: Option<File>,
    pub(crate) is_packed: bool,
    /// Whether it cannot be read, and not be opened again: a copy is as good, should there be one.
    pub(crate) is_failing: bool,
    /// Of a compressed one, once it is its turn.
    pub(crate) unpacking: Option<Box<Unpacking>>,
    pub(crate) whereabouts: Whereabouts,
    pub(crate) size: u64,
    /// Where its text ended when it was last known to hold what was read of it.
    pub(crate) sound_end: u64,
    pub(crate) modified: SystemTime,
    /// Where its text ends.
    pub(crate) text: TextEnd,
    /// Whether it was said that it ends in zeros.
    pub(crate) has_told_zeros: bool,
    /// When it last grew.
    pub(crate) grown: Instant,
    /// Up to this byte of the file no line ends, but for those that are judged.
    pub(crate) scanned: u64,
    /// Lines that end up to this byte of the file, behind the position, begin no event.
    pub(crate) judged: u64,
    /// With `--once`: as much as there was when the end came.
    pub(crate) stop_at: Option<u64>,
    /// When it was last used, for closing the one that was not used for longest.
    pub(crate) used: u64,
}

/// Where a file is that is being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whereabouts {
    /// At the log's own path.
    Home,
    /// Renamed.
    Moved,
    /// At no path that is listed: deleted, or moved elsewhere.
    Gone,
    /// It is a copy of a file that was truncated or deleted, and does not grow.
    Copy,
}

impl Reading {
    /// Starts to read a compressed file that was just looked at. It is opened again when it is its turn.
    pub(crate) fn packed(path: Arc<Path>, stat: &Stat, now: Now) -> Self {
        Self { is_packed: true, ..Self::closed(path, stat, Whereabouts::Copy, now) }
    }

    /// Starts to read a file that was just looked at.
    pub(crate) fn new(path: Arc<Path>, file: File, stat: &Stat, whereabouts: Whereabouts, now: Now) -> Self {
        Self { file: Some(file), ..Self::closed(path, stat, whereabouts, now) }
    }

    /// Whether it would have to be opened by its path.
    pub(crate) fn is_closed(&self) -> bool {
        self.file.is_none() && self.unpacking.is_none()
    }

    /// Opens the file where it was last seen; `None` when it is not there any more.
    ///
    /// # Errors
    ///
    /// Nobody knows whether it is there.
    pub(crate) fn open(&self) -> io::Result<Option<File>> {
        let file = match identity::open(&self.path) {
            Err(error) if is_absence(&error) => return Ok(None),
            opened => opened?,
        };
        Ok((Stat::of_file(&file)?.id == self.id).then_some(file))
    }

    /// Says once that zeros which end the file are left out.
    pub(crate) fn tell_zeros(&mut self) {
        let zeros = self.text.zeros();
        if zeros > 0 && !std::mem::replace(&mut self.has_told_zeros, true) {
            tracing::warn!("`{}` ends in {zeros} NUL bytes, which are not shipped", self.path.display());
        }
    }

    /// After a read failed: what stands at its place can be opened again at any time; what was renamed is let
    /// go only for another handle on the same file, or when its own will never work again.
    pub(crate) fn open_anew(&mut self, error: &io::Error) {
        self.unpacking = None;
        if !self.is_packed {
            // What was changed before was perhaps not looked into.
            self.modified = SystemTime::UNIX_EPOCH;
        }
        let is_stale = identity::is_stale(error);
        match self.whereabouts {
            Whereabouts::Home => self.file = None,
            Whereabouts::Moved | Whereabouts::Copy if !self.is_packed => {
                // Whatever is wrong with its path does not matter as long as it is open.
                match self.open().ok().flatten() {
                    Some(file) => self.file = Some(file),
                    None if is_stale => self.file = None,
                    None => {}
                }
            }
            Whereabouts::Gone if is_stale => self.file = None,
            Whereabouts::Gone => self.is_failing = true,
            Whereabouts::Moved | Whereabouts::Copy => {}
        }
    }

    fn closed(path: Arc<Path>, stat: &Stat, whereabouts: Whereabouts, now: Now) -> Self {
        // A file that has been still for long, since its renaming too, has no writer to wait for.
        let changed = stat.modified.max(stat.changed);
        let still = now.system.duration_since(changed).unwrap_or(Duration::ZERO);
        Self {
            path,
            id: stat.id,
            file: None,
            is_packed: false,
            is_failing: false,
            unpacking: None,
            whereabouts,
            size: stat.size,
            sound_end: stat.size,
            modified: stat.modified,
            text: TextEnd::new(stat.size),
            has_told_zeros: false,
            grown: now.instant.checked_sub(still).unwrap_or(now.instant),
            scanned: 0,
            judged: 0,
            stop_at: None,
            used: 0,
        }
    }
}
