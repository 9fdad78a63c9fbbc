//! The files that are written to: [`Files`].
//!
//! Bytes wait in memory until they are written out, so that small batches of one file become one call of the
//! kernel. However many files there are, only a bounded number is open.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::num::NonZeroUsize;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use lru::LruCache;
use rustix::process::{Resource, getrlimit};

use super::config::Limits;
use super::confined::FolderId;
use super::disk::Disk;
use super::ledger::{FileId, FileRecord, OriginId, Stage, Tail};
use super::names::FilePath;
use super::outputs::OutputId;
use super::syncing::Unsynced;
use super::writeback::Writeback;

/// The files of this session.
///
/// Of a file that has not changed since the last record only the ledger knows, and it may still be open: most of
/// a hundred thousand logs are quiet.
#[derive(Debug)]
pub(super) struct Files {
    disk: Arc<Disk>,
    writeback: Writeback,
    lives: HashMap<FileId, Live>,
    handles: LruCache<FileId, Opened>,
    /// Above this many dirty files the whole file system is synced.
    single_syncs: usize,
    /// The files with bytes that wait.
    waiting: Vec<FileId>,
    waiting_bytes: usize,
    /// The files that changed since the last record.
    changed: Vec<FileId>,
    /// The files that were created since, or found ...
    created: Vec<FilePath>,
    /// ... and those of them that stand on a file system of their own.
    created_elsewhere: Vec<FilePath>,
    /// The paths of files that no record knows yet.
    unrecorded: HashSet<FilePath>,
}

/// A file that is written to, from its first change after a record to the next record.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) output: OutputId,
    /// As the next record will have it: with the bytes that wait.
    pub(super) record: FileRecord,
    /// Its bytes that the kernel has.
    pub(super) written: u64,
    pub(super) birth: Birth,
    waiting: Vec<Bytes>,
    /// A part of a write that failed may stand behind what is `written`.
    torn: bool,
    changed: bool,
    /// Bytes were written to it since it was last durable.
    dirty: bool,
    /// Where it was when bytes were last written to it.
    pub(super) place: Option<Place>,
}

/// An open file.
#[derive(Debug)]
struct Opened {
    /// Shared with the thread that syncs it.
    file: Arc<File>,
    place: Place,
}

/// Where a file stood when it was opened.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// `None` where nobody could tell any more.
    pub(super) folder: Option<FolderId>,
    is_elsewhere: bool,
}

/// How a file came to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Birth {
    /// It is in the ledger.
    Recorded,
    /// It is to be created.
    New,
    /// It was there before us.
    Adopted,
}

/// At most this many files are open, and no more than a quarter of what the process may open.
const MAX_OPEN: u64 = 512;

/// Above this many dirty files one sync of the file system costs less than one for each.
pub(super) const MAX_SINGLE_SYNCS: usize = 64;

/// Writes of this size begin to go to the disk at once: at the commit less is left to wait for. Measured, a
/// backlog is written a third faster. Small ones are better collected by the kernel.
const EARLY_WRITEBACK_BYTES: u64 = 64 << 10;

/// A map that had to hold more than this between two records gives the memory back.
const KEPT_CAPACITY: usize = 4096;

/// So many files this process may keep open.
pub(super) fn max_open_files() -> usize {
    getrlimit(Resource::Nofile).current.map_or(MAX_OPEN, |limit| (limit / 4).min(MAX_OPEN)) as usize
}

impl Live {
    /// Cuts off what a failed write has left. On a full disk even that may fail, and is tried again before anything
    /// is written behind it.
    fn take_back(&mut self, disk: &Disk, file: &File) -> Result<()> {
        // Whoever has cut it meanwhile gets no zeros in the place of what was there.
        if self.torn && disk.look_at(file)?.length > self.written {
            disk.truncate(file, self.written).context("cannot take back a part of a write")?;
        }
        self.torn = false;
        Ok(())
    }
}

impl Files {
    pub(super) fn new(disk: Arc<Disk>, limits: &Limits) -> Self {
        let open = NonZeroUsize::new(limits.open_files).unwrap_or(NonZeroUsize::MIN);
        Self {
            disk,
            writeback: Writeback::default(),
            lives: HashMap::new(),
            handles: LruCache::new(open),
            single_syncs: limits.single_syncs,
            waiting: Vec::new(),
            waiting_bytes: 0,
            changed: Vec::new(),
            created: Vec::new(),
            created_elsewhere: Vec::new(),
            unrecorded: HashSet::new(),
        }
    }

    pub(super) fn get(&self, id: FileId) -> Option<&Live> {
        self.lives.get(&id)
    }

    /// A file that [`Files::insert`] put in.
    pub(super) fn live(&mut self, id: FileId) -> &mut Live {
        self.lives.get_mut(&id).expect("an active file lives")
    }

    /// Begins to keep a file.
    pub(super) fn insert(&mut self, id: FileId, output: OutputId, record: FileRecord, birth: Birth) {
        if birth != Birth::Recorded {
            self.unrecorded.insert(record.path.clone());
        }
        let written = record.length;
        let live = Live {
            output,
            record,
            written,
            birth,
            waiting: Vec::new(),
            torn: false,
            changed: false,
            dirty: false,
            place: None,
        };
        self.lives.insert(id, live);
    }

    /// Whether `path` belongs to a file that no record knows yet.
    pub(super) fn claims(&self, path: &FilePath) -> bool {
        self.unrecorded.contains(path)
    }

    /// How many bytes wait to be written out.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Takes bytes of `origin` for a file; `None` is a line of nobody's, whole.
    pub(super) fn push(&mut self, id: FileId, origin: Option<OriginId>, bytes: Bytes) {
        let live = self.lives.get_mut(&id).expect("an active file lives");
        let unfinished = match live.record.tail {
            Tail::Whole => false,
            Tail::Unfinished(before) => Some(before) != origin,
            Tail::Broken => true,
        };
        let line_end = unfinished.then(|| Bytes::from_static(b"\n"));
        live.record.tail = match origin {
            Some(origin) if !bytes.ends_with(b"\n") => Tail::Unfinished(origin),
            _ => Tail::Whole,
        };
        if live.waiting.is_empty() {
            self.waiting.push(id);
        }
        for bytes in line_end.into_iter().chain([bytes]) {
            live.record.length += bytes.len() as u64;
            self.waiting_bytes += bytes.len();
            live.waiting.push(bytes);
        }
        self.note_change(id);
    }

    /// Makes sure that the next record tells what `id` is now.
    pub(super) fn note_change(&mut self, id: FileId) {
        let live = self.lives.get_mut(&id).expect("an active file lives");
        if !live.changed {
            live.changed = true;
            self.changed.push(id);
        }
    }

    /// The files with bytes that wait, in the order in which they began to; they wait no more.
    pub(super) fn take_waiting(&mut self) -> Vec<FileId> {
        self.waiting_bytes = 0;
        std::mem::take(&mut self.waiting)
    }

    /// Writes out the bytes of a file that wait. When it fails, nothing of them is on the disk but what a
    /// crash would leave there as well, and they still wait.
    pub(super) fn write_out(&mut self, id: FileId) -> Result<()> {
        self.open(id)?;
        let (Some(live), Some(opened)) = (self.lives.get_mut(&id), self.handles.get(&id)) else {
            return Ok(());
        };
        let file = &opened.file;
        live.place = Some(opened.place);
        live.take_back(&self.disk, file)?;
        let before = live.written;
        live.dirty = true;
        let appended = self.disk.append(file, &live.waiting, &mut live.written);
        let Err(error) = appended else {
            if live.written - before >= EARLY_WRITEBACK_BYTES {
                self.writeback.begin(file, before, live.written - before);
            }
            live.waiting = Vec::new();
            debug_assert_eq!(live.written, live.record.length, "all that was taken is written");
            return Ok(());
        };
        live.torn = live.written != before;
        live.written = before;
        live.take_back(&self.disk, file)?;
        Err(error.context(format!("cannot write to `{}`", self.disk.shown(&live.record.path))))
    }

    /// Forgets what waits for the files of an output.
    pub(super) fn drop_waiting(&mut self, output: OutputId) {
        for live in self.lives.values_mut().filter(|live| live.output == output) {
            live.waiting.clear();
        }
    }

    /// Makes sure that a file is open, and that it is the one we know.
    pub(super) fn open(&mut self, id: FileId) -> Result<()> {
        if self.handles.contains(&id) {
            return Ok(());
        }
        let live = self.lives.get_mut(&id).expect("an active file lives");
        let (path, shown) = (&live.record.path, self.disk.shown(&live.record.path));
        let (file, found, is_new) = if live.birth == Birth::New && live.record.identity == 0 {
            let (file, found) = self.disk.create_to_append(path)?;
            live.record.identity = found.identity;
            (file, found, true)
        } else {
            let file = self.disk.open_to_append(path)?;
            let file = file.with_context(|| format!("`{shown}` was removed while it was written to"))?;
            let found = self.disk.look_at(&file)?;
            let length = found.length;
            if !found.is(live.record.identity) {
                bail!("`{shown}` was replaced while it was written to");
            }
            if length != live.written {
                bail!("`{shown}` was changed by somebody else: {length} bytes instead of {}", live.written);
            }
            // Nobody knows whether who created it has made its name durable.
            (file, found, live.birth == Birth::Adopted)
        };
        if is_new {
            let created = if found.is_elsewhere { &mut self.created_elsewhere } else { &mut self.created };
            created.push(path.clone());
        }
        // What cannot be looked at now is looked at again before anything counts.
        let folder = self.disk.folder_of(path).unwrap_or_default();
        let place = Place { folder, is_elsewhere: found.is_elsewhere };
        // Whoever has to go for it may be dirty: then the next commit syncs the whole file system.
        self.handles.push(id, Opened { file: Arc::new(file), place });
        Ok(())
    }

    /// What has to be synced until everything written is durable, but what `lost` outputs hold. From now on it
    /// counts as done.
    pub(super) fn take_unsynced(&mut self, lost: impl Fn(OutputId) -> bool) -> Unsynced {
        let mut unsynced = Unsynced::default();
        let (mut elsewhere, mut dirty) = (Vec::new(), 0);
        for id in &self.changed {
            let Some(live) = self.lives.get_mut(id).filter(|live| live.dirty && !lost(live.output)) else {
                continue;
            };
            live.dirty = false;
            let (path, handle) = (live.record.path.clone(), self.handles.peek(id));
            if live.place.is_some_and(|place| place.is_elsewhere) {
                match handle {
                    Some(opened) => elsewhere.push((path, opened.file.clone())),
                    None => unsynced.closed.push((path, live.record.identity)),
                }
                continue;
            }
            dirty += 1;
            match handle {
                Some(opened) => unsynced.files.push((path, opened.file.clone())),
                None => unsynced.everything = true,
            }
        }
        let created = std::mem::take(&mut self.created);
        unsynced.everything |= created.len().max(dirty) > self.single_syncs;
        if unsynced.everything {
            // Nobody needs the handles.
            unsynced.files = Vec::new();
        } else {
            unsynced.folders_of = created;
        }
        unsynced.files.extend(elsewhere);
        unsynced.folders_of.append(&mut self.created_elsewhere);
        unsynced
    }

    /// The files that changed since the last record.
    pub(super) fn changed(&self) -> &[FileId] {
        &self.changed
    }

    /// The ledger knows all that changed: nothing has since. Returns the files that are written to, each with its
    /// output, and those that are written to no more; these are closed.
    pub(super) fn settle(
        &mut self,
        lost: impl Fn(OutputId) -> bool,
    ) -> (Vec<(FileId, OutputId)>, Vec<FileId>) {
        let (mut active, mut rotated) = (Vec::new(), Vec::new());
        for id in std::mem::take(&mut self.changed) {
            let Entry::Occupied(live) = self.lives.entry(id) else { continue };
            if lost(live.get().output) {
                continue;
            }
            let live = live.remove();
            self.unrecorded.remove(&live.record.path);
            if live.record.stage == Stage::Active {
                active.push((id, live.output));
            } else {
                rotated.push(id);
                self.handles.pop(&id);
            }
        }
        self.lives.shrink_to(KEPT_CAPACITY);
        self.unrecorded.shrink_to(KEPT_CAPACITY);
        (active, rotated)
    }

    /// No longer keeps a file, and closes it.
    pub(super) fn remove(&mut self, id: FileId) -> Option<Live> {
        self.handles.pop(&id);
        let live = self.lives.remove(&id)?;
        self.unrecorded.remove(&live.record.path);
        Some(live)
    }

    /// Whether the file is open.
    pub(super) fn is_open(&self, id: FileId) -> bool {
        self.handles.contains(&id)
    }

    /// Whether the file is open, and whether it still has a name.
    pub(super) fn is_linked(&self, id: FileId) -> Result<Option<bool>> {
        use std::os::unix::fs::MetadataExt;
        let Some(opened) = self.handles.peek(&id) else { return Ok(None) };
        Ok(Some(opened.file.metadata()?.nlink() > 0))
    }

    /// The length of the file on the disk, if it is open.
    pub(super) fn length(&self, id: FileId) -> Result<Option<u64>> {
        let length = |opened: &Opened| Ok(self.disk.identity_and_length(&opened.file)?.1);
        self.handles.peek(&id).map(length).transpose()
    }

    /// Closes all files; they are opened again when they are written to.
    pub(super) fn close_all(&mut self) {
        self.handles.clear();
    }
}
