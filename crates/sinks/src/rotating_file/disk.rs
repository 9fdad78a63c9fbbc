//! Everything this sink does to a disk: [`Disk`].
//!
//! A thin layer over [`Root`], so that each change has one place, and a test can stop the sink before any of
//! them, as a kill would.

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, MetadataExt};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use rustix::fs::{Advice, fadvise};
use rustix::io::Errno;

use super::confined::{Entry, Handle, Root, folder_mode};
use super::names::FilePath;

/// The folder of the output, and the modes of what is created in it.
#[derive(Debug)]
pub(super) struct Disk {
    root: Root,
    mode: u32,
    #[cfg(test)]
    pub(super) fuse: fuse::Fuse,
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

impl Disk {
    /// Files below `root`, created with `mode`.
    pub(super) fn new(root: Root, mode: u32) -> Self {
        Self {
            root,
            mode,
            #[cfg(test)]
            fuse: fuse::Fuse::default(),
        }
    }

    /// What it is the disk of, for messages.
    pub(super) fn shown(&self, path: &FilePath) -> String {
        format!("{}/{path}", self.root.path().display())
    }

    pub(super) fn stat(&self, path: &FilePath) -> Result<Option<Entry>> {
        Ok(self.root.stat(path)?)
    }

    pub(super) fn list(&self, folder: &FilePath) -> Result<Vec<FilePath>> {
        Ok(self.root.list(Some(folder))?)
    }

    /// The names in the folder that `path` stands in.
    pub(super) fn list_beside(&self, path: &FilePath) -> Result<Vec<FilePath>> {
        let folder = FilePath::from_components(path.folder());
        Ok(self.root.list(folder.as_ref())?)
    }

    pub(super) fn handle(&self, path: &FilePath) -> Result<Handle> {
        Ok(self.root.handle(path)?)
    }

    /// Creates the folders that `path` stands in, as far as they are missing.
    pub(super) fn create_folders(&self, path: &FilePath) -> Result<()> {
        self.step()?;
        Ok(self.root.create_folders(path, folder_mode(self.mode))?)
    }

    /// Creates a file, to read it and to write to it anywhere.
    pub(super) fn create(&self, path: &FilePath) -> Result<File> {
        self.step()?;
        Ok(self.root.create_new(path, self.mode)?)
    }

    /// Creates a file that is written to at its end only.
    pub(super) fn create_to_append(&self, path: &FilePath) -> Result<File> {
        self.step()?;
        Ok(self.root.create_append(path, self.mode)?)
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
        #[cfg(test)]
        if let Err(killed) = self.step() {
            // A kill in the middle of a write leaves a part of it.
            let half = bytes.first().map_or(&[][..], |first| &first[..first.len().div_ceil(2)]);
            (&*file).write_all(half)?;
            return Err(killed);
        }
        for group in bytes.chunks(MAX_SLICES) {
            let mut slices: Vec<IoSlice<'_>> = group.iter().map(|bytes| IoSlice::new(bytes)).collect();
            let mut slices = &mut slices[..];
            while !slices.is_empty() {
                match (&*file).write_vectored(slices) {
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

    /// Lets the kernel begin to write out what has just been written. A hint: it promises nothing.
    pub(super) fn begin_writeback(&self, file: &File, offset: u64, length: u64) {
        // On Linux this starts the writing of dirty pages and drops clean ones, of which there are none.
        // A file system that refuses a hint has not lost anything.
        let _ = fadvise(file, offset, NonZeroU64::new(length), Advice::DontNeed);
    }

    /// Writes all of `bytes` at `offset`.
    pub(super) fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> Result<()> {
        #[cfg(test)]
        if let Err(killed) = self.step() {
            file.write_all_at(&bytes[..bytes.len() / 2], offset)?;
            return Err(killed);
        }
        Ok(file.write_all_at(bytes, offset)?)
    }

    /// Cuts a file to `length`.
    pub(super) fn truncate(&self, file: &File, length: u64) -> Result<()> {
        self.step()?;
        Ok(file.set_len(length)?)
    }

    /// Makes a file's bytes durable.
    pub(super) fn sync(&self, file: &File) -> Result<()> {
        self.step()?;
        Ok(file.sync_data()?)
    }

    /// Makes everything on this file system durable.
    pub(super) fn sync_everything(&self) -> Result<()> {
        self.step()?;
        rustix::fs::syncfs(self.root.as_fd()).context("cannot sync the file system")
    }

    /// Makes durable that new files are there, with all the folders they stand in.
    pub(super) fn sync_folders<'a>(&self, paths: impl IntoIterator<Item = &'a FilePath>) -> Result<()> {
        self.step()?;
        Ok(self.root.sync_folders(paths)?)
    }

    /// Makes durable which names the folder of `path` holds.
    pub(super) fn sync_folder_of(&self, path: &FilePath) -> Result<()> {
        self.step()?;
        Ok(self.root.sync_folder_of(path)?)
    }

    /// Renames a file, and never replaces one.
    pub(super) fn rename(&self, from: &FilePath, to: &FilePath) -> Result<()> {
        self.step()?;
        Ok(self.root.rename_noreplace(from, to)?)
    }

    /// Removes the file at `path` if it has this inode: who stands there otherwise is not ours. Says
    /// whether it was there.
    pub(super) fn remove(&self, path: &FilePath, inode: u64) -> Result<bool> {
        if self.stat(path)?.is_none_or(|entry| entry.inode != inode || !entry.is_file) {
            return Ok(false);
        }
        self.step()?;
        Ok(self.root.remove_file(path)?)
    }

    /// Removes the folders that `path` stands in as long as they are empty.
    pub(super) fn remove_empty_folders(&self, path: &FilePath) -> Result<()> {
        self.step()?;
        Ok(self.root.remove_empty_folders(path)?)
    }

    /// Whether files can be created beside `path`, as far as permissions tell.
    pub(super) fn check_folder_is_writable(&self, path: &FilePath) -> Result<()> {
        use rustix::fs::{Access, AtFlags, CWD, accessat};
        let handle = self.handle(path)?;
        let path_of_handle = handle.path();
        let folder = path_of_handle.parent().context("a file stands in a folder")?;
        match accessat(CWD, folder, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS) {
            // Kernels before 5.8 cannot say it: creating the file will.
            Ok(()) | Err(Errno::NOSYS | Errno::INVAL | Errno::NOENT) => Ok(()),
            Err(error) => {
                let message = format!("cannot create files in the folder of `{}`", self.shown(path));
                Err(io::Error::from(error)).context(message)
            }
        }
    }

    /// Comes before every change: tests stop here.
    #[cfg(not(test))]
    pub(super) fn step(&self) -> Result<()> {
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn step(&self) -> Result<()> {
        self.fuse.step()
    }
}

/// The inode and the length of an open file.
pub(super) fn inode_and_length(file: &File) -> Result<(u64, u64)> {
    let metadata = file.metadata()?;
    Ok((metadata.ino(), metadata.len()))
}

#[cfg(test)]
pub(super) mod fuse {
    //! Stops the sink before its n-th change of the disk, and every later one, as a kill would.

    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    use anyhow::{Result, bail};

    #[derive(Debug)]
    pub(in crate::rotating_file) struct Fuse {
        left: AtomicU64,
        blown: AtomicBool,
    }

    impl Default for Fuse {
        fn default() -> Self {
            Self { left: AtomicU64::new(u64::MAX), blown: AtomicBool::new(false) }
        }
    }

    impl Fuse {
        /// Lets so many more changes happen.
        pub(in crate::rotating_file) fn set(&self, changes: u64) {
            self.left.store(changes, Ordering::SeqCst);
        }

        /// Whether it stopped anything.
        pub(in crate::rotating_file) fn is_blown(&self) -> bool {
            self.blown.load(Ordering::SeqCst)
        }

        pub(super) fn step(&self) -> Result<()> {
            let left = self.left.load(Ordering::SeqCst);
            if left == 0 {
                self.blown.store(true, Ordering::SeqCst);
                bail!("killed by the test");
            }
            self.left.store(left - 1, Ordering::SeqCst);
            Ok(())
        }
    }
}
