//! A disk that remembers what is not durable: [`Recorder`].
//!
//! The sink works on real files. The recorder comes around every change and keeps a [`Model`] of the folder
//! beside it, in which each write and each name is durable or pending. From what it recorded, every state
//! that a power cut may leave at any moment is made: see [`Model::after_power_cut`].
//!
//! What the model assumes of a file system, on purpose less than any promises:
//!
//! - Bytes and length of a file are durable after it was synced, its name is not: that takes a sync of the
//!   folder. Pending writes survive as any set of blocks, blocks may be torn, and the length may be ahead of
//!   the bytes (zeros) or behind them.
//! - Names in a folder are durable after the folder was synced. Pending ones survive in order, as with a
//!   journal, or as any set. A rename within a folder is atomic, one between folders is not.
//! - The number of an inode is used again as soon as nothing has its name.
//! - A sync of a file that fails marks its pages clean: what was pending may never be written, however often
//!   the file is synced afterwards. One of a folder that fails leaves its names pending.
//!
//! Invariant: everything durable goes through [`Disk`](super::Disk). Whoever uses a recorder compares its
//! model with the folder at the end: [`Model::tree`], [`Tree::read`].

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use anyhow::{Result, anyhow};
use fshipper_pipeline::Checkpoint;

use super::{Change, half};

mod file;
mod model;
mod tree;

pub(in crate::rotating_file) use model::{Loss, Model};
pub(in crate::rotating_file) use tree::Tree;

/// Records what a sink does to a disk.
#[derive(Debug)]
pub(in crate::rotating_file) struct Recorder(Mutex<Record>);

#[derive(Debug)]
struct Record {
    root: PathBuf,
    /// The disk when this life of the sink began.
    before: Model,
    /// The disk as it is.
    now: Model,
    operations: Vec<Operation>,
    /// Real inodes → files of the model.
    files: HashMap<u64, FileId>,
    trouble: Trouble,
    /// Whether the trouble has happened.
    happened: bool,
}

/// Which file of a model: 0, 1, 2 and so on.
pub(in crate::rotating_file) type FileId = usize;

/// What happens to a sink, and before which of its changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::rotating_file) enum Trouble {
    None,
    /// It is killed: nothing happens any more. A write is cut short.
    Kill(usize),
    /// That change fails with this error, once. A write of bytes at a place is cut short.
    Fail(usize, i32),
    /// The kernel takes only a part of what is appended, and the next try fails with this error.
    Short(usize, i32),
    /// The same, and so does what is done next: to take that part back.
    Stuck(usize, i32),
}

/// A change that happened, by names and numbers of the model.
#[derive(Clone, Debug)]
pub(in crate::rotating_file) enum Operation {
    CreateFolders(String),
    Create(String),
    Append {
        file: FileId,
        offset: u64,
        bytes: Vec<u8>,
    },
    Write {
        file: FileId,
        offset: u64,
        bytes: Vec<u8>,
    },
    Truncate {
        file: FileId,
        length: u64,
    },
    Sync(FileId),
    SyncFailed(FileId),
    SyncEverything,
    SyncFolders(Vec<String>),
    SyncFolderOf(String),
    Rename {
        from: String,
        to: String,
    },
    Remove(String),
    RemoveFolders(String),
    /// No change: something was tried and failed.
    Nothing,
    /// No change: the sink has said that this is durable.
    Promised(Box<Checkpoint>),
    /// No change: the sink is open.
    Opened,
}

impl Recorder {
    /// A recorder of `root`, which holds what `model` says.
    pub(in crate::rotating_file) fn new(root: &Path, model: Model, trouble: Trouble) -> Self {
        let mut files = HashMap::new();
        for (path, file) in model.files() {
            files.insert(real_inode(&root.join(path)), file);
        }
        let root = root.to_owned();
        let (before, operations) = (model.clone(), Vec::new());
        Self(Mutex::new(Record { root, before, now: model, operations, files, trouble, happened: false }))
    }

    /// Notes what is no change.
    pub(in crate::rotating_file) fn note(&self, operation: Operation) {
        self.lock().operations.push(operation);
    }

    /// Whether the trouble has happened.
    pub(in crate::rotating_file) fn happened(&self) -> bool {
        self.lock().happened
    }

    /// The disk at the beginning, what was done to it, and the disk at the end.
    pub(in crate::rotating_file) fn finish(&self) -> (Model, Vec<Operation>, Model) {
        let record = self.lock();
        (record.before.clone(), record.operations.clone(), record.now.clone())
    }

    /// The number of a real inode on the simulated disk.
    pub(super) fn number(&self, inode: u64) -> u64 {
        let record = self.lock();
        record.files.get(&inode).map_or(u64::MAX, |file| record.now.number(*file))
    }

    pub(super) fn write_some(&self, mut file: &File, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut record = self.lock();
        let at = record.operations.len();
        let id = record.files[&file.metadata()?.ino()];
        let offset = file.metadata()?.len();
        let first = slices.first().map_or(&[][..], |first| first);
        let (taken, error) = match record.trouble {
            Trouble::Kill(moment) if at >= moment => {
                let cut = if record.happened { &[][..] } else { half(first) };
                (cut, Some(killed()))
            }
            Trouble::Short(moment, error) if at == moment && first.len() > 1 => {
                record.trouble = Trouble::Fail(at + 1, error);
                (half(first), None)
            }
            Trouble::Stuck(moment, _) if at == moment && first.len() > 1 => (half(first), None),
            Trouble::Fail(moment, error) | Trouble::Short(moment, error) if at == moment => {
                (&[][..], Some(io::Error::from_raw_os_error(error)))
            }
            Trouble::Stuck(moment, error) if (moment..moment + 3).contains(&at) => {
                (&[][..], Some(io::Error::from_raw_os_error(error)))
            }
            _ => {
                let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
                file.write_all(&bytes)?;
                let count = bytes.len();
                record.did(Operation::Append { file: id, offset, bytes });
                return Ok(count);
            }
        };
        record.happened = true;
        file.write_all(taken)?;
        record.did(match taken.is_empty() {
            true => Operation::Nothing,
            false => Operation::Append { file: id, offset, bytes: taken.to_vec() },
        });
        error.map_or(Ok(taken.len()), Err)
    }

    pub(super) fn change<T>(&self, change: Change<'_>, act: impl FnOnce() -> Result<T>) -> Result<T> {
        let mut record = self.lock();
        let at = record.operations.len();
        let (error, is_first) = match record.trouble {
            Trouble::Kill(moment) if at >= moment => (anyhow!(killed()), !record.happened),
            Trouble::Fail(moment, error) if at == moment => {
                (io::Error::from_raw_os_error(error).into(), true)
            }
            Trouble::Stuck(moment, error) if record.happened && at == moment + 2 => {
                (io::Error::from_raw_os_error(error).into(), true)
            }
            _ => {
                let done = act()?;
                let operation = record.operation(change)?;
                record.did(operation);
                if let Change::Create(path) = change {
                    record.know(&path.to_string());
                }
                return Ok(done);
            }
        };
        record.happened = true;
        let torn = match change {
            Change::Write { file, bytes, offset } if is_first => {
                file.write_all_at(half(bytes), offset)?;
                record.operation(Change::Write { file, bytes: half(bytes), offset })?
            }
            Change::Sync(file) if matches!(record.trouble, Trouble::Fail(..)) => {
                Operation::SyncFailed(record.id(file)?)
            }
            _ => Operation::Nothing,
        };
        record.did(torn);
        Err(error)
    }

    fn lock(&self) -> MutexGuard<'_, Record> {
        self.0.lock().unwrap()
    }
}

impl Record {
    fn did(&mut self, operation: Operation) {
        self.now.apply(&operation);
        self.operations.push(operation);
    }

    fn id(&self, file: &File) -> Result<FileId> {
        Ok(self.files[&file.metadata()?.ino()])
    }

    fn operation(&self, change: Change<'_>) -> Result<Operation> {
        Ok(match change {
            Change::CreateFolders(path) => Operation::CreateFolders(path.to_string()),
            Change::Create(path) => Operation::Create(path.to_string()),
            Change::Write { file, bytes, offset } => {
                Operation::Write { file: self.id(file)?, offset, bytes: bytes.to_vec() }
            }
            Change::Truncate { file, length } => Operation::Truncate { file: self.id(file)?, length },
            Change::Sync(file) => Operation::Sync(self.id(file)?),
            Change::SyncEverything => Operation::SyncEverything,
            Change::SyncFolders(paths) => {
                Operation::SyncFolders(paths.iter().map(ToString::to_string).collect())
            }
            Change::SyncFolderOf(path) => Operation::SyncFolderOf(path.to_string()),
            Change::Rename { from, to } => Operation::Rename { from: from.to_string(), to: to.to_string() },
            Change::Remove(path) => Operation::Remove(path.to_string()),
            Change::RemoveFolders(path) => Operation::RemoveFolders(path.to_string()),
        })
    }

    /// A file was created at `path`.
    fn know(&mut self, path: &str) {
        let inode = real_inode(&self.root.join(path));
        let file = self.now.file_at(path).expect("it was created a moment ago");
        self.files.insert(inode, file);
    }
}

fn real_inode(path: &Path) -> u64 {
    std::fs::symlink_metadata(path).unwrap().ino()
}

fn killed() -> io::Error {
    io::Error::other("killed by the test")
}
