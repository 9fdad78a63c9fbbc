//! What the ledger knows, and the entries that change it: [`State`], [`Entry`].

use std::collections::{BTreeMap, HashMap};

use fshipper_pipeline::{Checkpoint, Cursor, History, Origin, Position};

use super::codec::Malformed;
use crate::rotating_file::names::FilePath;

/// Everything that is durable: positions, files, and what was about to happen to files.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// The committed ends and cursors.
    pub(crate) checkpoint: Checkpoint,
    /// The origins; an [`OriginId`] is an index.
    pub(crate) origins: Vec<OriginRecord>,
    /// The way back.
    pub(crate) origin_ids: HashMap<Origin, OriginId>,
    /// Every file this sink has written and not deleted.
    pub(crate) files: BTreeMap<FileId, FileRecord>,
    /// What was about to happen to a file, and is not known to be done.
    pub(crate) intents: BTreeMap<FileId, Intent>,
    /// Which file of ours stands at a path.
    pub(crate) paths: HashMap<FilePath, FileId>,
}

/// The number of an origin in the ledger: 0, 1, 2 and so on.
pub(crate) type OriginId = u32;

/// The number of a file in the ledger, never used twice.
pub(crate) type FileId = u32;

/// One origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OriginRecord {
    /// Who.
    pub(crate) origin: Origin,
    /// What keeps its files apart from those of an origin that renders to the same path; mostly empty.
    pub(crate) suffix: Box<str>,
}

/// One file of the output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileRecord {
    /// Where it stands.
    pub(crate) path: FilePath,
    /// The output it belongs to: see [`Output`](crate::rotating_file::outputs::Output).
    pub(crate) family: FilePath,
    /// Its inode: who stands at `path` with another one is somebody else.
    pub(crate) inode: u64,
    /// Its committed length.
    pub(crate) length: u64,
    /// How the committed bytes end.
    pub(crate) tail: Tail,
    /// The period of its lines, in seconds since 1970: the start and the end, which is not in it.
    pub(crate) period: (i64, i64),
    /// Which file of its output and period it is: 0, 1, 2 and so on.
    pub(crate) number: u32,
    /// What may still happen to it.
    pub(crate) stage: Stage,
}

/// How a file ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tail {
    /// With a line end, or empty.
    Whole,
    /// In the middle of a line of this origin.
    Unfinished(OriginId),
    /// In the middle of a line that nobody will finish.
    Broken,
}

/// What may still happen to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// The next line of its output goes here.
    Active,
    /// Nothing is written to it any more.
    Rotated,
    /// Rotated, and compressed.
    Compressed,
}

/// What is about to happen to a file. Logged before the first step, so that a start after a crash can finish
/// it or undo it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Intent {
    /// To create the file: what stands there and no record knows is removed.
    Create(FileRecord),
    /// To append to a file that was there before us: what exceeds the record's length is cut off.
    Adopt(FileRecord),
    /// To rename it.
    Rotate {
        /// The new path, which was free.
        to: FilePath,
        /// The end of its period, as the record will have it.
        period_end: i64,
    },
    /// To put a complete compressed copy in its place.
    Compress {
        /// The path of the copy, which was free.
        to: FilePath,
        /// The copy's inode.
        inode: u64,
        /// The copy's length.
        length: u64,
    },
    /// To delete it.
    Delete,
}

/// One change. A record of the ledger is a list of them, all or nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// A cursor moved.
    Cursor(Cursor),
    /// A new origin, with the next free number.
    Origin(OriginRecord),
    /// What keeps an origin's files apart, after the template changed.
    Suffix(OriginId, Box<str>),
    /// An origin moved on.
    Position(OriginId, Position),
    /// All that is known of an origin's epochs; `None` forgets it.
    History(OriginId, Option<History>),
    /// A file as it is now; an intent for it is done.
    File(FileId, FileRecord),
    /// An active file grew.
    Length(FileId, u64, Tail),
    /// A file is gone, or no longer ours; an intent for it is done.
    Forget(FileId),
    /// Something is about to happen.
    Intent(FileId, Intent),
    /// It did not happen.
    Withdraw(FileId),
}

impl State {
    /// Carries out one entry.
    ///
    /// # Errors
    ///
    /// The entry refers to what is not there; only a ledger that somebody else wrote does.
    pub(super) fn apply(&mut self, entry: Entry) -> Result<(), Malformed> {
        match entry {
            Entry::Cursor(cursor) => self.checkpoint.set_cursor(&cursor),
            Entry::Origin(record) => {
                let id = self.origins.len() as OriginId;
                if self.origin_ids.insert(record.origin.clone(), id).is_some() {
                    return Err(Malformed);
                }
                self.origins.push(record);
            }
            Entry::Suffix(id, suffix) => {
                self.origins.get_mut(id as usize).ok_or(Malformed)?.suffix = suffix;
            }
            Entry::Position(id, position) => {
                let record = self.origins.get(id as usize).ok_or(Malformed)?;
                self.checkpoint.set_position(&record.origin, position);
            }
            Entry::History(id, history) => {
                let record = self.origins.get(id as usize).ok_or(Malformed)?;
                self.checkpoint.set_history(&record.origin, history);
            }
            Entry::File(id, record) => {
                self.intents.remove(&id);
                self.paths.insert(record.path.clone(), id);
                let before = self.files.insert(id, record);
                self.release(id, before);
            }
            Entry::Length(id, length, tail) => {
                let record = self.files.get_mut(&id).ok_or(Malformed)?;
                (record.length, record.tail) = (length, tail);
            }
            Entry::Forget(id) => {
                self.intents.remove(&id);
                let before = self.files.remove(&id);
                self.release(id, before);
            }
            Entry::Intent(id, intent) => {
                self.intents.insert(id, intent);
            }
            Entry::Withdraw(id) => {
                self.intents.remove(&id);
            }
        }
        Ok(())
    }

    /// Forgets the path that a file had, unless it or another one has it now.
    fn release(&mut self, id: FileId, before: Option<FileRecord>) {
        let Some(FileRecord { path, .. }) = before else { return };
        let kept = self.files.get(&id).is_some_and(|now| now.path == path);
        if !kept && self.paths.get(&path) == Some(&id) {
            self.paths.remove(&path);
        }
    }

    /// Entries that make this state out of nothing.
    pub(super) fn snapshot(&self) -> impl Iterator<Item = Entry> {
        let cursors = self.checkpoint.cursors().map(|(transport, position)| {
            Entry::Cursor(Cursor { transport: transport.clone(), position: position.clone() })
        });
        let origins = self.origins.iter().cloned().map(Entry::Origin);
        let histories = self.origins.iter().enumerate().filter_map(|(id, record)| {
            let history = self.checkpoint.history(&record.origin)?;
            Some(Entry::History(id as OriginId, Some(history.clone())))
        });
        let files = self.files.iter().map(|(id, record)| Entry::File(*id, record.clone()));
        let intents = self.intents.iter().map(|(id, intent)| Entry::Intent(*id, intent.clone()));
        cursors.chain(origins).chain(histories).chain(files).chain(intents)
    }

    /// A number that no file had before.
    pub(crate) fn next_file_id(&self) -> FileId {
        let last = self.files.keys().next_back().max(self.intents.keys().next_back());
        last.map_or(0, |id| id + 1)
    }
}
