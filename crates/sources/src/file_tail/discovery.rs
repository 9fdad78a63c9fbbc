//! Which files there are: [`Discovery`] lists the directories that the patterns can reach, again and again,
//! and says what changed.
//!
//! A directory is looked at each [tick](super::tail) with one `stat` and listed only when its time of change
//! moved. An error while listing is never taken for an empty directory.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::OsString;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fshipper_pipeline::Complaint;

use super::identity::{FileId, Stat};
use super::listing::Names;
use super::patterns::{Patterns, Reach};
use super::siblings;

/// A directory that changed so shortly before it was listed may have changed again within the same tick of
/// the file system's clock (up to two seconds on FAT): it is listed again.
const CLOCK_GRAIN: Duration = Duration::from_secs(2);

/// After a listing, this many times as long must pass before the next one of the same directory: a million
/// entries must not keep a core busy.
const LISTING_PAUSE: u32 = 20;

/// A listing can miss a file that is renamed meanwhile, and a rotation that was missed would be taken for one
/// that never was. So when something that matters has changed, the directory is listed again after this long,
/// until two listings agree ...
const SETTLE_PAUSE: Duration = Duration::from_millis(10);

/// ... but no more often than this, for a directory that never holds still.
const SETTLE_LISTINGS: u32 = 10;

/// More directories than this are looked at in turns, a quarter at each tick.
const DIRECTORIES_AT_ONCE: usize = 256;

/// The directories and what they held when last listed.
#[derive(Debug)]
pub(crate) struct Discovery {
    directories: HashMap<PathBuf, Directory>,
    queue: Vec<PathBuf>,
}

/// Something happened at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) path: PathBuf,
    /// The regular file that is there now.
    pub(crate) now: Option<FileId>,
}

#[derive(Debug, Default)]
struct Directory {
    reach: Reach,
    is_root: bool,
    entries: Names<Entry>,
    children: HashSet<PathBuf>,
    /// Names at which another file may stand that has the same inode.
    doubtful: BTreeSet<OsString>,
    /// Names at which the last two listings did not agree.
    moving: BTreeSet<OsString>,
    changed: Option<(SystemTime, i64)>,
    /// When it had changed before it was listed last.
    listed: Option<(SystemTime, i64)>,
    must_list: bool,
    not_before: Option<Instant>,
    /// When all that is in it, or that it is gone, was known last.
    known_at: Option<Instant>,
    complaint: Complaint,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    inode: u64,
    file: Option<FileId>,
}

impl Discovery {
    /// Starts at the roots of `patterns`; nothing is listed yet.
    pub(crate) fn new(patterns: &Patterns) -> Self {
        let mut discovery = Self { directories: HashMap::new(), queue: Vec::new() };
        for (path, reach) in patterns.roots() {
            let directory = Directory { reach: reach.clone(), is_root: true, ..Directory::default() };
            discovery.directories.insert(path.clone(), directory);
        }
        discovery
    }

    /// Lists the directory of `path` at the next tick, whatever its time of change says, and takes nothing of
    /// what is known of `path` for granted.
    pub(crate) fn look_again(&mut self, path: &Path) {
        if let Some(directory) = path.parent().and_then(|parent| self.directories.get_mut(parent)) {
            directory.must_list = true;
            directory.not_before = None;
            directory.doubtful.extend(path.file_name().map(OsString::from));
        }
    }

    /// Whether the directory of `path` was listed at `time` or later, so that what is not in it is not there.
    pub(crate) fn is_known_since(&self, path: &Path, time: Instant) -> bool {
        let directory = path.parent().and_then(|parent| self.directories.get(parent));
        directory.is_none_or(|directory| directory.known_at.is_some_and(|known_at| known_at >= time))
    }

    /// Whether the last listing shows the file `id` at `path`, or nothing when that is `None`.
    pub(crate) fn shows(&self, path: &Path, id: Option<FileId>) -> bool {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return true };
        let Some(directory) = self.directories.get(parent) else { return true };
        directory.entries.get(name).and_then(|entry| entry.file) == id
    }

    /// Whether the last listing found the log at `path` and its rotated files where the one before had: no
    /// file can have moved from a name not yet read to one read already.
    pub(crate) fn is_still(&self, path: &Path) -> bool {
        let directory = path.parent().and_then(|parent| self.directories.get(parent));
        directory.is_none_or(|directory| {
            let is_of_log = |name: &OsString| {
                let moving = path.with_file_name(name);
                moving == path || siblings::primaries(&moving).iter().any(|(primary, _)| primary == path)
            };
            !directory.moving.iter().any(is_of_log)
        })
    }

    /// Whether the directory of `path` has not changed since it was listed, as far as its time of change tells.
    pub(crate) fn is_current(&self, path: &Path) -> bool {
        let Some(parent) = path.parent() else { return true };
        let Some(directory) = self.directories.get(parent) else { return true };
        std::fs::metadata(parent).is_ok_and(|metadata| directory.listed == Some(time_of_change(&metadata)))
    }

    /// The files that the last listings show.
    pub(crate) fn files(&self) -> impl Iterator<Item = FileId> {
        let entries = self.directories.values().flat_map(|directory| directory.entries.iter());
        entries.filter_map(|(_, entry)| entry.file)
    }

    /// Lists every directory at the next tick.
    pub(crate) fn look_everywhere(&mut self) {
        self.queue = self.directories.keys().cloned().collect();
        for directory in self.directories.values_mut() {
            directory.must_list = true;
        }
    }

    /// Looks at the directories whose turn it is. `is_wanted` says whether an inode belongs to a known log,
    /// so that a file that was renamed out of the patterns is found as long as it stays in its directory.
    pub(crate) fn tick(
        &mut self,
        patterns: &Patterns,
        now: Instant,
        is_wanted: &dyn Fn(u64) -> bool,
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        let must_list = self.directories.iter().filter(|(_, directory)| directory.must_list);
        let mut due: Vec<PathBuf> = must_list.map(|(path, _)| path.clone()).collect();
        if self.queue.is_empty() {
            self.queue = self.directories.keys().cloned().collect();
        }
        let share = self.directories.len().div_ceil(4).max(DIRECTORIES_AT_ONCE).min(self.queue.len());
        due.extend(self.queue.split_off(self.queue.len() - share));
        // What a listing finds below is listed at once: a new tree must not take a tick for each level.
        while let Some(path) = due.pop() {
            self.look_at(&path, patterns, now, is_wanted, &mut changes, &mut due);
        }
        changes
    }

    fn look_at(
        &mut self,
        path: &Path,
        patterns: &Patterns,
        now: Instant,
        is_wanted: &dyn Fn(u64) -> bool,
        changes: &mut Vec<Change>,
        due: &mut Vec<PathBuf>,
    ) {
        let Some(directory) = self.directories.get_mut(path) else { return };
        let changed = match std::fs::metadata(path) {
            Ok(metadata) => time_of_change(&metadata),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                self.forget(path, now, changes);
                return;
            }
            Err(error) => {
                directory.complain(path, &error);
                return;
            }
        };
        if directory.changed == Some(changed) && !directory.must_list {
            return;
        }
        if directory.not_before.is_some_and(|not_before| now < not_before) {
            return;
        }
        let started = Instant::now();
        let listed_at = SystemTime::now();
        match list_settled(path, directory, patterns, is_wanted) {
            Ok(listing) => {
                if directory.complaint.settle() {
                    tracing::info!("listing `{}` again", path.display());
                }
                directory.known_at = Some(now);
                directory.must_list = false;
                directory.doubtful.clear();
                directory.listed = Some(changed);
                let is_settled = !listing.has_unseen
                    && listed_at.duration_since(changed.0).is_ok_and(|age| age > CLOCK_GRAIN);
                directory.changed = is_settled.then_some(changed);
                directory.moving = listing.moving;
                let before = std::mem::replace(&mut directory.entries, listing.entries);
                let after = &directory.entries;
                let gone =
                    before.iter().filter(|(name, entry)| entry.file.is_some() && after.get(name).is_none());
                changes.extend(gone.map(|(name, _)| Change { path: path.join(name), now: None }));
                for (name, entry) in after.iter() {
                    let was = before.get(name).and_then(|entry| entry.file);
                    if was != entry.file {
                        changes.push(Change { path: path.join(name), now: entry.file });
                    }
                }
                let children: HashSet<PathBuf> =
                    listing.children.iter().map(|(name, _)| path.join(name)).collect();
                let lost: Vec<PathBuf> = directory.children.difference(&children).cloned().collect();
                directory.children = children;
                directory.not_before = Some(now + started.elapsed() * LISTING_PAUSE);
                for child in lost {
                    self.forget(&child, now, changes);
                }
                for (name, reach) in listing.children {
                    let child = path.join(name);
                    let directory = self.directories.entry(child.clone()).or_default();
                    if directory.reach.join(&reach) {
                        directory.must_list = true;
                        due.push(child);
                    }
                }
            }
            Err(error) => {
                directory.changed = Some(changed);
                directory.must_list = !matches!(error.kind(), io::ErrorKind::PermissionDenied);
                directory.complain(path, &error);
            }
        }
    }

    /// A directory is gone, and with it what was in it. A root stays: it may come back.
    fn forget(&mut self, path: &Path, now: Instant, changes: &mut Vec<Change>) {
        let Some(directory) = self.directories.get_mut(path) else { return };
        let entries = std::mem::take(&mut directory.entries);
        let children = std::mem::take(&mut directory.children);
        directory.changed = None;
        directory.known_at = Some(now);
        if !directory.is_root {
            self.directories.remove(path);
        }
        let files = entries.iter().filter(|(_, entry)| entry.file.is_some());
        changes.extend(files.map(|(name, _)| Change { path: path.join(name), now: None }));
        for child in children {
            self.forget(&child, now, changes);
        }
    }
}

#[cfg(test)]
impl Discovery {
    /// Makes the last listing show another file at `path`.
    pub(super) fn misremember(&mut self, path: &Path, id: FileId) {
        let directory = self.directories.get_mut(path.parent().unwrap()).unwrap();
        let entry = Entry { inode: id.inode, file: Some(id) };
        directory.entries.insert(path.file_name().unwrap(), entry);
    }
}

impl Directory {
    fn complain(&mut self, path: &Path, error: &io::Error) {
        let path = path.display();
        self.complaint.report(&error.to_string(), |problem| {
            tracing::warn!("cannot list the directory `{path}`: {problem}; known files are read on");
        });
    }
}

#[derive(Default)]
struct Listing {
    entries: Names<Entry>,
    children: Vec<(OsString, Reach)>,
    /// See [`Directory::moving`].
    moving: BTreeSet<OsString>,
    /// A file could not be looked at, or a link leads nowhere yet: what is there may appear without a trace in
    /// this directory.
    has_unseen: bool,
}

fn time_of_change(directory: &Metadata) -> (SystemTime, i64) {
    let modified = directory.modified().unwrap_or(UNIX_EPOCH);
    (modified, directory.ctime() << 30 | directory.ctime_nsec())
}

/// Lists a directory until it holds still: see [`SETTLE_PAUSE`].
fn list_settled(
    path: &Path,
    directory: &Directory,
    patterns: &Patterns,
    is_wanted: &dyn Fn(u64) -> bool,
) -> io::Result<Listing> {
    let mut listing = list(path, directory, patterns, is_wanted)?;
    if listing.entries == directory.entries {
        return Ok(listing);
    }
    for _ in 0..SETTLE_LISTINGS {
        std::thread::sleep(SETTLE_PAUSE);
        let before = std::mem::replace(&mut listing, list(path, directory, patterns, is_wanted)?);
        if before.entries == listing.entries {
            break;
        }
        listing.moving = differences(&before.entries, &listing.entries);
    }
    Ok(listing)
}

/// The names that do not hold the same in both.
fn differences(left: &Names<Entry>, right: &Names<Entry>) -> BTreeSet<OsString> {
    let names = left.iter().chain(right.iter()).map(|(name, _)| name);
    names.filter(|name| left.get(name) != right.get(name)).map(OsString::from).collect()
}

/// Lists what may matter: files that a pattern selects, rotated siblings of such files, and wanted inodes.
fn list(
    path: &Path,
    directory: &Directory,
    patterns: &Patterns,
    is_wanted: &dyn Fn(u64) -> bool,
) -> io::Result<Listing> {
    let mut listing = Listing::default();
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        let (name, inode) = (entry.file_name(), entry.ino());
        let kind = match entry.file_type() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            kind => kind?,
        };
        let is_link = kind.is_symlink();
        if (kind.is_dir() || is_link)
            && let Some(reach) = patterns.descend(&directory.reach, &name, is_link)
            && (!is_link || std::fs::metadata(entry.path()).is_ok_and(|metadata| metadata.is_dir()))
        {
            listing.children.push((name, reach));
            continue;
        }
        let file = entry.path();
        let is_selected = patterns.owner(&file).is_some();
        let matters = is_selected || is_wanted(inode) || is_sibling_of_selected(&file, patterns);
        if kind.is_dir() || !matters {
            continue;
        }
        // The target of a link can change without a trace in this directory.
        let is_doubtful = is_link || directory.doubtful.contains(&name);
        let known = directory.entries.get(&name).filter(|known| known.inode == inode);
        let entry = match known {
            Some(known) if known.file.is_some() && !is_doubtful => *known,
            _ => {
                let seen = look_at_file(&file, known, is_selected);
                listing.has_unseen |= seen.is_err();
                Entry { inode, file: seen.unwrap_or_else(|_| known.and_then(|known| known.file)) }
            }
        };
        listing.has_unseen |= is_link && entry.file.is_none();
        entries.push((name, entry));
    }
    listing.entries = entries.into_iter().collect();
    Ok(listing)
}

fn is_sibling_of_selected(path: &Path, patterns: &Patterns) -> bool {
    siblings::primaries(path).iter().any(|(primary, _)| patterns.owner(primary).is_some())
}

/// The regular file at `path`. What is none, or cannot be looked at now, is reported when it is news.
fn look_at_file(path: &Path, known: Option<&Entry>, is_selected: bool) -> io::Result<Option<FileId>> {
    let is_news = is_selected && known.is_none();
    match Stat::of_path(path) {
        Ok(stat) if stat.regular => Ok(Some(stat.id)),
        Ok(_) => {
            if is_news {
                tracing::warn!("`{}` is no regular file: it is not read", path.display());
            }
            Ok(None)
        }
        // Gone since it was listed, or a link that leads nowhere.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => {
            if is_news {
                tracing::warn!("cannot look at `{}`: {error}; it is tried again", path.display());
            }
            Err(error)
        }
    }
}
