//! What is known of a log besides the file that is being read: [`Rotation`].
//!
//! Only a log needs it whose file was renamed, replaced, cut or deleted, or that has rotated files. There may be
//! ten thousand logs, and most of them never had any of that: so it lives in a box of its own, made when the
//! first of it is set ([`LazyRotation`]).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use fshipper_pipeline::Batch;

use super::identity::{FileId, Fingerprint};
use super::state::Loss;
use super::survivors::Kept;

/// The files of a log around the one that is being read, and what is in doubt about them.
#[derive(Debug)]
pub(crate) struct Rotation {
    /// Paths besides its own that may hold files of this log: rotated siblings, files followed by a rename.
    pub(crate) members: BTreeSet<PathBuf>,
    /// Files among them that need not be looked into again: they hold nothing new.
    pub(crate) passed: BTreeSet<FileId>,
    /// Files among them that were compared with the one being read, and their sizes then.
    pub(crate) compared: BTreeMap<FileId, u64>,
    /// Files that come after the current one, oldest first, held open so that deleting them loses nothing.
    pub(crate) held: Vec<Held>,
    /// Files that were begun and are at no path any more, held open until all of them is committed.
    pub(crate) kept: Vec<Kept>,
    /// The file that was finished last, until what comes next was looked for.
    pub(crate) finished: Option<File>,
    /// The file that was finished last, should somebody still write into it.
    pub(crate) behind: Option<Behind>,
    /// Losses, before anything that is read later.
    pub(crate) outbox: VecDeque<Batch>,
    /// Losses of unknown length that may not be committed, in the order in which they were recorded.
    pub(crate) uncommitted: Vec<Loss>,
    /// The last loss of unknown length that was recorded.
    pub(crate) last_loss: Option<u64>,
    /// The file that was read last, unless it is the one that is being read.
    pub(crate) last_read: Option<FileId>,
    /// A file that held the current generation and was cut or overwritten: it is not looked into again.
    pub(crate) replaced: Option<FileId>,
    /// Where the current generation ended when its file was last seen.
    pub(crate) seen_end: Option<u64>,
    /// Since when the file that is being read is at no path that is listed.
    pub(crate) gone_since: Option<Instant>,
    /// Since when the current generation's file is looked for in vain.
    pub(crate) missing_since: Option<Instant>,
    /// Since when a look at its files and the listing of their directory do not agree.
    pub(crate) unsure_since: Option<Instant>,
    /// Since when a file that waits is known to have been cut.
    pub(crate) cut_since: Option<Instant>,
    /// Since when looks at its files are interrupted again and again, and when the last one was.
    pub(crate) interrupted: Option<(Instant, Instant)>,
    /// When the file that was finished last was last written to.
    pub(crate) read_modified: Option<SystemTime>,
    /// Whether a compressed file that may hold something unread was reported.
    pub(crate) has_warned: bool,
}

/// A [`Rotation`] that takes no room before something of it is set. Until then it reads as one of which nothing
/// is.
#[derive(Debug, Default)]
pub(crate) struct LazyRotation(Option<Box<Rotation>>);

/// A file that waits for its turn.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) id: FileId,
    pub(crate) path: Arc<Path>,
    /// Its size at the last look.
    pub(crate) size: u64,
    /// When it was changed last; `None` when it was not looked into.
    pub(crate) modified: Option<SystemTime>,
    /// `None` when too many are open.
    pub(crate) file: Option<Arc<File>>,
    /// Since when one that is not open is nowhere.
    pub(crate) gone_since: Option<Instant>,
    /// Its beginning at the last look.
    pub(crate) fingerprint: Fingerprint,
    /// What it held each time before it was truncated or written anew while it waited.
    pub(crate) cuts: Vec<Cut>,
}

/// Bytes that a waiting file held, and does not hold any more.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    pub(crate) size: u64,
    pub(crate) fingerprint: Fingerprint,
}

/// A file that was finished and still stands at a path.
#[derive(Debug)]
pub(crate) struct Behind {
    pub(crate) id: FileId,
    pub(crate) path: Arc<Path>,
    /// How much of it is accounted for.
    pub(crate) size: u64,
    /// When more of it may be reported again.
    pub(crate) not_before: Option<Instant>,
}

/// What a log reads that has none.
static NOTHING: Rotation = Rotation::new();

impl Rotation {
    const fn new() -> Self {
        Self {
            members: BTreeSet::new(),
            passed: BTreeSet::new(),
            compared: BTreeMap::new(),
            held: Vec::new(),
            kept: Vec::new(),
            finished: None,
            behind: None,
            outbox: VecDeque::new(),
            uncommitted: Vec::new(),
            last_loss: None,
            last_read: None,
            replaced: None,
            seen_end: None,
            gone_since: None,
            missing_since: None,
            unsure_since: None,
            cut_since: None,
            interrupted: None,
            read_modified: None,
            has_warned: false,
        }
    }
}

impl LazyRotation {
    /// For setting something of it.
    pub(crate) fn make(&mut self) -> &mut Rotation {
        self.0.get_or_insert_with(|| Box::new(Rotation::new()))
    }

    /// Clears something of it: where nothing was set, nothing has to be.
    pub(crate) fn clear(&mut self, what: impl FnOnce(&mut Rotation)) {
        if let Some(rotation) = self.if_any() {
            what(rotation);
        }
    }

    #[cfg(test)]
    pub(crate) fn is_made(&self) -> bool {
        self.0.is_some()
    }

    /// What there is of it, to be changed.
    pub(crate) fn if_any(&mut self) -> Option<&mut Rotation> {
        self.0.as_deref_mut()
    }
}

impl Deref for LazyRotation {
    type Target = Rotation;

    fn deref(&self) -> &Rotation {
        self.0.as_deref().unwrap_or(&NOTHING)
    }
}
