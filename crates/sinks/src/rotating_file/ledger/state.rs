//! What the ledger knows, and the entries that change it: [`State`], [`Entry`].

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use bytes::Bytes;
use fshipper_pipeline::{Checkpoint, CompactMap, Cursor, History, Origin, Position};
use hashbrown::HashTable;

use super::FOLDER;
use super::codec::Malformed;
use super::file_table::FileTable;
use crate::rotating_file::names::FilePath;
use crate::rotating_file::outputs::losses_path;

/// Everything that is durable: positions, files, and what was about to happen to files.
#[derive(Debug, Default)]
pub(crate) struct State {
    cursors: BTreeMap<Arc<str>, Bytes>,
    /// The origins and how far each is; an [`OriginId`] is its number.
    pub(crate) origins: CompactMap<Origin, Option<Arc<History>>>,
    /// Those of [`OriginRecord::suffix`] that are not empty.
    suffixes: HashMap<OriginId, Box<str>>,
    /// Every file this sink has written and not deleted.
    pub(crate) files: FileTable,
    /// What was about to happen to a file, and is not known to be done.
    pub(crate) intents: BTreeMap<FileId, Intent>,
    /// The last time that stands in the name of a rotated file of an output, in seconds since 1970. It outlives the
    /// file: the names of those that are left would not sort.
    stamps: HashMap<FilePath, i64>,
    /// The files by their paths, which stand in `files`.
    paths: HashTable<FileId>,
    /// Files of which another one has the path in `paths`: one of them has it when that one is forgotten.
    shadowed: Vec<FileId>,
    hasher: RandomState,
}

/// The number of an origin in the ledger: 0, 1, 2 and so on.
pub(crate) type OriginId = u32;

/// The number of a file in the ledger, never used twice.
pub(crate) type FileId = u32;

/// Above it there would soon be no number for another file; nobody has ever written so many.
const MAX_FILE_ID: FileId = FileId::MAX - (1 << 20);

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
    /// Its identity: who stands at `path` with another one is somebody else.
    pub(crate) identity: u64,
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
        /// The time in the new name, in seconds since 1970.
        stamp: i64,
    },
    /// To put a complete compressed copy in its place.
    Compress {
        /// The path of the copy, which was free.
        to: FilePath,
        /// The copy's identity.
        identity: u64,
        /// The copy's length.
        length: u64,
    },
    /// To delete it.
    Delete,
    /// To go on in it when somebody has put back what others cut off. Its record has the length that it had before;
    /// what of that was not committed comes again.
    Restore {
        /// The committed length.
        length: u64,
        /// How the committed bytes ended.
        tail: Tail,
    },
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
    /// The last time in the name of a rotated file of this output, in seconds since 1970.
    Stamp(FilePath, i64),
}

impl State {
    /// What these entries make of nothing.
    #[cfg(test)]
    pub(crate) fn of(entries: impl IntoIterator<Item = Entry>) -> Self {
        let mut state = Self::default();
        entries.into_iter().for_each(|entry| state.apply(entry).expect("an entry that makes sense"));
        state
    }

    /// Carries out one entry.
    ///
    /// # Errors
    ///
    /// The entry refers to what is not there, or leaves no number for the next file; only in a ledger that
    /// somebody else wrote it does.
    pub(super) fn apply(&mut self, entry: Entry) -> Result<(), Malformed> {
        match entry {
            Entry::File(id, _) | Entry::Intent(id, _) if id > MAX_FILE_ID => return Err(Malformed),
            Entry::Cursor(Cursor { transport, position }) => {
                self.cursors.insert(transport, position);
            }
            Entry::Origin(OriginRecord { origin, suffix }) => {
                if self.origins.number_of(&origin).is_some() {
                    return Err(Malformed);
                }
                let id = self.origins.insert(origin, None);
                self.set_suffix(id, suffix);
            }
            Entry::Suffix(id, suffix) => {
                self.origins.entry(id).ok_or(Malformed)?;
                self.set_suffix(id, suffix);
            }
            Entry::Position(id, position) => match self.origins.value_mut(id).ok_or(Malformed)? {
                Some(history) => Arc::make_mut(history).go_to(position),
                none => *none = Some(Arc::new(History::new(position))),
            },
            Entry::History(id, history) => {
                *self.origins.value_mut(id).ok_or(Malformed)? = history.map(Arc::new);
            }
            Entry::File(id, record) => {
                self.expect_sound(&record)?;
                if let Some(Intent::Rotate { stamp, .. }) = self.intents.remove(&id) {
                    self.stamps.insert(record.family.clone(), stamp);
                }
                self.release(id);
                self.files.insert(id, record);
                self.claim(id);
            }
            Entry::Length(id, length, tail) => {
                self.expect_author(tail)?;
                let record = self.files.get_mut(id).ok_or(Malformed)?;
                (record.length, record.tail) = (length, tail);
            }
            Entry::Forget(id) => {
                self.intents.remove(&id);
                self.release(id);
                self.files.remove(id);
            }
            Entry::Intent(id, intent) => {
                match &intent {
                    Intent::Create(record) | Intent::Adopt(record) => self.expect_sound(record)?,
                    Intent::Rotate { to, .. } | Intent::Compress { to, .. } => expect_output(to)?,
                    Intent::Restore { tail, .. } => self.expect_author(*tail)?,
                    Intent::Delete => {}
                }
                self.intents.insert(id, intent);
            }
            Entry::Withdraw(id) => {
                self.intents.remove(&id);
            }
            Entry::Stamp(family, stamp) => {
                self.stamps.insert(family, stamp);
            }
        }
        Ok(())
    }

    fn expect_sound(&self, record: &FileRecord) -> Result<(), Malformed> {
        expect_output(&record.path)?;
        self.expect_author(record.tail)
    }

    /// Whoever has begun the last line of a file is an origin of the ledger: its number must not become that of a
    /// later one, which would then go on in the middle of a line that is not its own.
    fn expect_author(&self, tail: Tail) -> Result<(), Malformed> {
        match tail {
            Tail::Unfinished(id) => self.origins.entry(id).map(drop).ok_or(Malformed),
            Tail::Whole | Tail::Broken => Ok(()),
        }
    }

    fn set_suffix(&mut self, id: OriginId, suffix: Box<str>) {
        if suffix.is_empty() {
            self.suffixes.remove(&id);
        } else {
            self.suffixes.insert(id, suffix);
        }
    }

    /// All origins, each with its number and [suffix](OriginRecord::suffix).
    pub(crate) fn origins(&self) -> impl Iterator<Item = (OriginId, &Origin, &str)> {
        self.origins.iter().zip(0..).map(|((origin, _), id)| {
            let suffix = self.suffixes.get(&id).map_or("", |suffix| suffix);
            (id, origin, suffix)
        })
    }

    /// How far an origin is, if the ledger knows it.
    pub(crate) fn history(&self, id: OriginId) -> Option<&History> {
        self.origins.entry(id)?.1.as_deref()
    }

    /// Keeps somebody else's copy of a history in place of its own.
    pub(super) fn share(&mut self, id: OriginId, history: Arc<History>) {
        if let Some(Some(own)) = self.origins.value_mut(id)
            && *own == history
        {
            *own = history;
        }
    }

    /// Which origin this is, if the ledger knows it.
    pub(crate) fn number_of(&self, origin: &Origin) -> Option<OriginId> {
        self.origins.number_of(origin)
    }

    /// The origin with this number, if the ledger knows it.
    pub(crate) fn origin(&self, id: OriginId) -> Option<&Origin> {
        Some(self.origins.entry(id)?.0)
    }

    /// The last time that stands in the name of a rotated file of this output, in seconds since 1970.
    pub(crate) fn stamp(&self, family: &FilePath) -> Option<i64> {
        self.stamps.get(family).copied()
    }

    /// The committed ends and cursors.
    pub(crate) fn checkpoint(&self) -> Checkpoint {
        let histories = self.origins.iter().filter_map(|(origin, history)| {
            history.as_ref().map(|history| (origin.clone(), history.clone()))
        });
        Checkpoint::restored(histories, self.cursors())
    }

    fn cursors(&self) -> impl Iterator<Item = Cursor> {
        let cursors = self.cursors.iter();
        cursors
            .map(|(transport, position)| Cursor { transport: transport.clone(), position: position.clone() })
    }

    /// Which file of ours stands at a path.
    pub(crate) fn file_at(&self, path: &FilePath) -> Option<FileId> {
        let has_path = |id: &FileId| self.files.get(*id).is_some_and(|record| record.path == *path);
        self.paths.find(self.hasher.hash_one(path), has_path).copied()
    }

    /// From now on the path of a file is its own.
    fn claim(&mut self, id: FileId) {
        let Self { paths, files, hasher, .. } = self;
        let path_of = |id: &FileId| &files.get(*id).expect("a path belongs to a file").path;
        let hash_of = |id: &FileId| hasher.hash_one(path_of(id));
        let (hash, path) = (hash_of(&id), path_of(&id));
        match paths.find_mut(hash, |holder| path_of(holder) == path) {
            Some(holder) => {
                let before = std::mem::replace(holder, id);
                if before != id {
                    self.shadowed.push(before);
                }
            }
            None => {
                paths.insert_unique(hash, id, hash_of);
            }
        }
    }

    /// Forgets the path that a file has, unless another one has it now.
    fn release(&mut self, id: FileId) {
        let Some(record) = self.files.get(id) else { return };
        self.shadowed.retain(|other| *other != id);
        let hash = self.hasher.hash_one(&record.path);
        let Ok(holder) = self.paths.find_entry(hash, |holder| *holder == id) else { return };
        let has_it = |other: &FileId| self.files.get(*other).is_some_and(|file| file.path == record.path);
        match self.shadowed.iter().position(has_it) {
            Some(place) => *holder.into_mut() = self.shadowed.swap_remove(place),
            None => drop(holder.remove()),
        }
    }

    /// Entries that make this state out of nothing.
    pub(super) fn snapshot(&self) -> impl Iterator<Item = Entry> {
        let origins = self.origins().map(|(_, origin, suffix)| {
            Entry::Origin(OriginRecord { origin: origin.clone(), suffix: suffix.into() })
        });
        let histories = self.origins.iter().zip(0..).filter_map(|((_, history), id)| {
            let history = history.as_ref()?;
            Some(Entry::History(id, Some(history.as_ref().clone())))
        });
        let files = self.files.iter().map(|(id, record)| Entry::File(id, record.clone()));
        let intents = self.intents.iter().map(|(id, intent)| Entry::Intent(*id, intent.clone()));
        let stamps = self.stamps.iter().map(|(family, stamp)| Entry::Stamp(family.clone(), *stamp));
        let cursors = self.cursors().map(Entry::Cursor);
        cursors.chain(stamps).chain(origins).chain(histories).chain(files).chain(intents)
    }

    /// A file that two records claim, or a record and what is about to happen to another one, if there is such a
    /// file: each would have it cut to a length of its own.
    pub(super) fn contradiction(&self) -> Option<&FilePath> {
        let intended = self.intents.iter().filter_map(|(id, intent)| match intent {
            Intent::Adopt(record) => Some((record.identity, &record.path)),
            Intent::Rotate { to, .. } => Some((self.files.get(*id)?.identity, to)),
            Intent::Compress { to, identity, .. } => Some((*identity, to)),
            Intent::Create(_) | Intent::Delete | Intent::Restore { .. } => None,
        });
        let recorded = self.files.iter().map(|(_, record)| (record.identity, &record.path));
        let mut claimed: Vec<_> = recorded.chain(intended).collect();
        claimed.sort_unstable();
        claimed.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0].1)
    }

    /// A number that no file had before.
    pub(crate) fn next_file_id(&self) -> FileId {
        let last = self.files.last_id().max(self.intents.keys().next_back().copied());
        last.map_or(0, |id| id + 1)
    }
}

/// A file of the output, or notes of losses. Whatever else stands in the folder of the sink's own is none: it would
/// be cut, renamed or deleted as one.
fn expect_output(path: &FilePath) -> Result<(), Malformed> {
    let Some(rest) = path.as_bytes().strip_prefix(FOLDER.as_bytes()) else { return Ok(()) };
    let is_own = rest.is_empty() || rest.starts_with(b"/");
    let is_notes = path.as_bytes().starts_with(losses_path().as_bytes());
    if is_own && !is_notes { Err(Malformed) } else { Ok(()) }
}
