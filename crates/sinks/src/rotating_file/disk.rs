//! Everything this sink does to a disk: [`Disk`].
//!
//! A thin layer over [`Root`], so that each change has one place: [`Disk::change`] comes around every one of
//! them. A test can stop the sink there as a kill would, let it fail, and keep a record of it from which it
//! knows every state that a power cut may leave.

use std::fmt;
use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::os::unix::fs::FileExt;
#[cfg(test)]
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use fshipper_pipeline::Fatal;
use rustix::io::Errno;

use super::confined::{Entry, FolderId, Handle, Root, folder_mode};
use super::names::FilePath;

/// The folder of the output, and the modes of what is created in it.
#[derive(Debug)]
pub(super) struct Disk {
    root: Root,
    mode: u32,
    #[cfg(test)]
    pub(super) fuse: fuse::Fuse,
    #[cfg(test)]
    pub(super) recorder: Option<Arc<simulated::Recorder>>,
    /// How often it was looked what stands at a path.
    #[cfg(test)]
    pub(super) looks: std::sync::atomic::AtomicUsize,
}

/// What stands at a path; a symbolic link is itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    /// Another file has another one, also when it was given the inode of a file that was deleted.
    pub(super) identity: u64,
    /// What its identity was while the file system did not tell when it came to be.
    inode: u64,
    /// In bytes.
    pub(super) length: u64,
    pub(super) is_file: bool,
    /// Another file system is mounted there: a sync of that of the output does not reach it.
    pub(super) is_elsewhere: bool,
}

/// One change of the disk.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(test), expect(dead_code, reason = "only tests look at what changes"))]
pub(super) enum Change<'a> {
    /// The folders that this path stands in come to be, as far as they are missing.
    CreateFolders(&'a FilePath),
    Create(&'a FilePath),
    Write {
        file: &'a File,
        bytes: &'a [u8],
        offset: u64,
    },
    Truncate {
        file: &'a File,
        length: u64,
    },
    Sync(&'a File),
    SyncEverything,
    /// All folders that these paths stand in become durable.
    SyncFolders(&'a [&'a FilePath]),
    /// The folder that this path stands in becomes durable.
    SyncFolderOf(&'a FilePath),
    Rename {
        from: &'a FilePath,
        to: &'a FilePath,
    },
    Remove(&'a FilePath),
    /// The folders that this path stands in go, as long as they are empty.
    RemoveFolders(&'a FilePath),
}

/// Writes a file from its beginning on.
#[derive(Debug)]
pub(super) struct Stream<'a> {
    disk: &'a Disk,
    file: File,
    offset: u64,
}

/// What to do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cure {
    /// The disk is full: wait, and try the same again.
    Wait,
    /// It concerns this file or its folder alone.
    Hold,
    /// Nobody knows what is on the disk now: start again from the ledger.
    Reopen,
}

/// The kernel takes no more slices in one call.
const MAX_SLICES: usize = 1024;

/// An error after which nobody knows what of all files is written: it is never a matter of the one file that was
/// written to when it showed.
#[derive(Debug)]
pub(super) struct OfEverything(String);

impl OfEverything {
    /// The same error, and no longer the system's.
    pub(super) fn seal(error: anyhow::Error) -> anyhow::Error {
        let is_final = error.chain().any(|cause| cause.is::<Fatal>() || cause.is::<Self>());
        if is_final { error } else { anyhow::Error::new(Self(format!("{error:#}"))) }
    }
}

impl fmt::Display for OfEverything {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for OfEverything {}

impl Cure {
    /// The cure for `error`, by the system's error at its root.
    pub(super) fn of(error: &anyhow::Error) -> Self {
        let system = error.chain().find_map(|cause| cause.downcast_ref::<io::Error>());
        let Some(number) = system.and_then(io::Error::raw_os_error) else { return Self::Reopen };
        match Errno::from_raw_os_error(number) {
            Errno::NOSPC | Errno::DQUOT => Self::Wait,
            Errno::ACCESS
            | Errno::PERM
            | Errno::ROFS
            | Errno::NOTDIR
            | Errno::ISDIR
            | Errno::LOOP
            | Errno::XDEV
            | Errno::NAMETOOLONG
            // What stands there is no regular file.
            | Errno::INVAL
            | Errno::NXIO
            | Errno::TXTBSY => Self::Hold,
            _ => Self::Reopen,
        }
    }
}

impl Found {
    /// Whether it is the file with this identity.
    pub(super) fn is(&self, identity: u64) -> bool {
        self.identities().contains(&identity)
    }

    /// The identities that it has.
    pub(super) fn identities(&self) -> [u64; 2] {
        [self.identity, self.inode]
    }
}

impl Disk {
    /// Files below `root`, created with `mode`.
    pub(super) fn new(root: Root, mode: u32) -> Self {
        Self {
            root,
            mode,
            #[cfg(test)]
            fuse: fuse::Fuse::default(),
            #[cfg(test)]
            recorder: None,
            #[cfg(test)]
            looks: std::sync::atomic::AtomicUsize::new(0),
        }
    }

    /// What it is the disk of, for messages.
    pub(super) fn shown(&self, path: &FilePath) -> String {
        format!("{}/{path}", self.root.path().display())
    }

    pub(super) fn stat(&self, path: &FilePath) -> Result<Option<Found>> {
        #[cfg(test)]
        self.looks.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Ok(self.root.stat(path)?.map(|entry| self.found(entry)))
    }

    /// What stands at `path`; when nothing does, also that a file can be created there, as far as permissions
    /// tell.
    pub(super) fn stat_to_create(&self, path: &FilePath) -> Result<Option<Found>> {
        Ok(self.root.stat_to_create(path)?.map(|entry| self.found(entry)))
    }

    /// The identity and the length of an open file.
    pub(super) fn identity_and_length(&self, file: &File) -> Result<(u64, u64)> {
        let found = self.look_at(file)?;
        Ok((found.identity, found.length))
    }

    /// What an open file is.
    pub(super) fn look_at(&self, file: &File) -> Result<Found> {
        Ok(self.found(Entry::of(file).map_err(io::Error::from)?))
    }

    fn found(&self, entry: Entry) -> Found {
        let (inode, length) = (self.inode(&entry), entry.length);
        let (is_file, is_elsewhere) = (entry.is_file, !self.root.is_on_same_device(&entry));
        Found { identity: self.identity(&entry), inode, length, is_file, is_elsewhere }
    }

    /// Whether the output is what stands at its path.
    ///
    /// # Errors
    ///
    /// It is not, and what becomes of that.
    pub(super) fn check_root(&self) -> Result<()> {
        if self.root.is_in_place() {
            return Ok(());
        }
        bail!(
            "`{}` is no longer the folder that was opened: it was moved away, or something was mounted over it; what was written since the last commit does not count, and what is there now is opened",
            self.root.path().display()
        );
    }

    /// The folder that `path` stands in; `None` when there is none, or something else.
    pub(super) fn folder_of(&self, path: &FilePath) -> Result<Option<FolderId>> {
        Ok(self.root.folder_of(path)?)
    }

    pub(super) fn list(&self, folder: &FilePath) -> Result<Vec<FilePath>> {
        Ok(self.root.list(Some(folder))?)
    }

    /// The names in the folder that `path` stands in.
    pub(super) fn list_beside(&self, path: &FilePath) -> Result<Vec<FilePath>> {
        let folder = FilePath::from_components(path.folder());
        Ok(self.root.list(folder.as_ref())?)
    }

    /// Creates the folders that `path` stands in, as far as they are missing.
    pub(super) fn create_folders(&self, path: &FilePath) -> Result<()> {
        self.change(Change::CreateFolders(path), || {
            Ok(self.root.create_folders(path, folder_mode(self.mode))?)
        })
    }

    /// Creates a file, to read it and to write to it anywhere.
    pub(super) fn create(&self, path: &FilePath) -> Result<File> {
        self.change(Change::Create(path), || Ok(self.root.create_new(path, self.mode)?))
    }

    /// Creates a file that is written to at its end only, and the folders it stands in where they are missing.
    /// Says what it is too.
    pub(super) fn create_to_append(&self, path: &FilePath) -> Result<(File, Found)> {
        let create = || self.change(Change::Create(path), || Ok(self.root.create_append(path, self.mode)?));
        let (file, entry) = match create() {
            Err(error) if is_missing(&error) => {
                self.create_folders(path)?;
                create()?
            }
            created => created?,
        };
        Ok((file, self.found(entry)))
    }

    /// Opens a regular file, to read it and to write to it anywhere; `None` when there is nothing.
    pub(super) fn open(&self, path: &FilePath) -> Result<Option<File>> {
        Ok(self.root.open_existing(path)?)
    }

    /// Opens a regular file that is written to at its end only; `None` when there is nothing.
    pub(super) fn open_to_append(&self, path: &FilePath) -> Result<Option<File>> {
        Ok(self.root.open_append(path)?)
    }

    /// Appends everything; says in `written` how much of it the kernel has taken, also when it fails.
    pub(super) fn append(&self, file: &File, bytes: &[Bytes], written: &mut u64) -> Result<()> {
        for group in bytes.chunks(MAX_SLICES) {
            let mut slices: Vec<IoSlice<'_>> = group.iter().map(|bytes| IoSlice::new(bytes)).collect();
            let mut slices = &mut slices[..];
            while !slices.is_empty() {
                match self.write_some(file, slices) {
                    Ok(0) => return Err(io::Error::from(io::ErrorKind::WriteZero).into()),
                    Ok(count) => {
                        *written += count as u64;
                        IoSlice::advance_slices(&mut slices, count);
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    /// Writes all of `bytes` at `offset`.
    pub(super) fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> Result<()> {
        self.change(Change::Write { file, bytes, offset }, || Ok(file.write_all_at(bytes, offset)?))
    }

    /// Writes `file`, which is empty, from its beginning on.
    pub(super) fn stream(&self, file: File) -> Stream<'_> {
        Stream { disk: self, file, offset: 0 }
    }

    /// Cuts a file to `length`.
    pub(super) fn truncate(&self, file: &File, length: u64) -> Result<()> {
        self.change(Change::Truncate { file, length }, || Ok(file.set_len(length)?))
    }

    /// Makes a file's bytes durable.
    pub(super) fn sync(&self, file: &File) -> Result<()> {
        self.change(Change::Sync(file), || Ok(file.sync_data()?))
    }

    /// Makes everything on this file system durable.
    pub(super) fn sync_everything(&self) -> Result<()> {
        self.change(Change::SyncEverything, || {
            rustix::fs::syncfs(self.root.as_fd()).context("cannot sync the file system")
        })
    }

    /// Makes durable that new files are there, with all the folders they stand in.
    pub(super) fn sync_folders<'a>(&self, paths: impl IntoIterator<Item = &'a FilePath>) -> Result<()> {
        let paths: Vec<&FilePath> = paths.into_iter().collect();
        self.change(Change::SyncFolders(&paths), || Ok(self.root.sync_folders(paths.iter().copied())?))
    }

    /// Makes durable which names the folder of `path` holds.
    pub(super) fn sync_folder_of(&self, path: &FilePath) -> Result<()> {
        self.change(Change::SyncFolderOf(path), || Ok(self.root.sync_folder_of(path)?))
    }

    /// Renames a file, and never replaces one.
    pub(super) fn rename(&self, from: &FilePath, to: &FilePath) -> Result<()> {
        self.change(Change::Rename { from, to }, || Ok(self.root.rename_noreplace(from, to)?))
    }

    /// Renames a file by code that knows only paths: the handle is that of `from`.
    pub(super) fn rename_by(
        &self,
        from: &FilePath,
        to: &FilePath,
        rename: impl FnOnce(&Handle) -> Result<()>,
    ) -> Result<()> {
        let handle = self.root.handle(from)?;
        self.change(Change::Rename { from, to }, || rename(&handle))
    }

    /// Removes the file at `path` if it has this identity: who stands there otherwise is not ours. Says
    /// whether it was there.
    pub(super) fn remove(&self, path: &FilePath, identity: u64) -> Result<bool> {
        if self.stat(path)?.is_none_or(|entry| !entry.is(identity) || !entry.is_file) {
            return Ok(false);
        }
        self.change(Change::Remove(path), || Ok(self.root.remove_file(path)?))
    }

    /// Removes the folders that `path` stands in as long as they are empty.
    pub(super) fn remove_empty_folders(&self, path: &FilePath) -> Result<()> {
        self.change(Change::RemoveFolders(path), || Ok(self.root.remove_empty_folders(path)?))
    }

    #[cfg(not(test))]
    fn write_some(&self, mut file: &File, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        file.write_vectored(slices)
    }

    #[cfg(not(test))]
    fn change<T>(&self, _: Change<'_>, act: impl FnOnce() -> Result<T>) -> Result<T> {
        act()
    }

    #[cfg(not(test))]
    fn identity(&self, entry: &Entry) -> u64 {
        identity_of(entry)
    }

    #[cfg(not(test))]
    fn inode(&self, entry: &Entry) -> u64 {
        entry.inode
    }
}

#[cfg(test)]
impl Disk {
    /// A disk whose changes are recorded, and fail where the recorder says.
    pub(super) fn recorded(root: Root, mode: u32, recorder: Arc<simulated::Recorder>) -> Self {
        Self { recorder: Some(recorder), ..Self::new(root, mode) }
    }

    fn write_some(&self, mut file: &File, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        if let Err(killed) = self.fuse.step() {
            // A kill in the middle of a write leaves a part of it.
            file.write_all(half(slices.first().map_or(&[], |first| first)))?;
            return Err(io::Error::other(killed));
        }
        match &self.recorder {
            None => file.write_vectored(slices),
            Some(recorder) => recorder.write_some(file, slices),
        }
    }

    /// Comes around every change but appending.
    fn change<T>(&self, change: Change<'_>, act: impl FnOnce() -> Result<T>) -> Result<T> {
        if let Err(killed) = self.fuse.step() {
            if let Change::Write { file, bytes, offset } = change {
                file.write_all_at(half(bytes), offset)?;
            }
            return Err(killed);
        }
        match &self.recorder {
            None => act(),
            Some(recorder) => recorder.change(change, act),
        }
    }

    /// On the simulated disk inodes are numbered in the order in which files are created.
    fn identity(&self, entry: &Entry) -> u64 {
        self.recorder.as_ref().map_or_else(|| identity_of(entry), |recorder| recorder.number(entry.inode))
    }

    fn inode(&self, entry: &Entry) -> u64 {
        self.recorder.as_ref().map_or(entry.inode, |recorder| recorder.number(entry.inode))
    }
}

impl Write for Stream<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.disk.write_at(&self.file, bytes, self.offset);
        written.map_err(|error| error.downcast().unwrap_or_else(io::Error::other))?;
        self.offset += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream<'_> {
    /// The file.
    pub(super) fn into_file(self) -> File {
        self.file
    }
}

/// The inode, which ext4 gives to the next file as soon as one is deleted, mixed with the moment of birth: of two
/// files with one inode it differs whenever that does. Where the file system does not tell it, the inode alone.
fn identity_of(entry: &Entry) -> u64 {
    // An odd factor loses nothing.
    const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;
    entry.inode ^ entry.born.wrapping_mul(FACTOR)
}

/// The identity of the file at `path`, for tests that write a ledger of their own.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn identity_at(path: &std::path::Path) -> Option<u64> {
    Some(identity_of(&Entry::of(&File::open(path).ok()?).ok()?))
}

/// Whether the system says that something on the way to a file is not there.
fn is_missing(error: &anyhow::Error) -> bool {
    let mut causes = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    causes.any(|cause| cause.kind() == io::ErrorKind::NotFound)
}

#[cfg(test)]
fn half(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.len().div_ceil(2)]
}

#[cfg(test)]
pub(super) mod fuse;
#[cfg(test)]
pub(super) mod simulated;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_files_with_one_inode_differ_by_their_birth() {
        let identity = |inode, born| {
            identity_of(&Entry { device: 1, inode, born, length: 0, is_file: true, is_folder: false })
        };
        assert_eq!(identity(7, 0), 7, "where nobody tells it, the inode alone");
        assert_ne!(identity(7, 1_000), identity(7, 1_001));
        assert_ne!(identity(7, 1_000), identity(8, 1_000));
    }
}
