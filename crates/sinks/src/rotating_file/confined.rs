//! Files below one folder, and nowhere else: [`Root`].
//!
//! Names below the fixed part of `path` come off the wire, and others may write there too. So every
//! operation starts at a descriptor of that folder and follows no symbolic link below it, not even one that
//! is put in place while it runs: the kernel refuses (`openat2`), or, where a kernel or a sandbox does not
//! know that call, each folder is opened in turn without following. The folders of the fixed part itself
//! are the operator's and are resolved as usual.
//!
//! Modes are those asked for, whatever the process's umask. Below the root nothing makes a name durable on
//! its own: whoever creates files calls [`Root::sync_folders`] before a record that counts on them, whoever
//! renames or removes one calls [`Root::sync_folder_of`].
//!
//! All calls block.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use fshipper_pipeline::Escaped;
use rustix::fs::{self, Access, AtFlags, FileType, Mode, OFlags, RenameFlags, StatxFlags};
use rustix::io::Errno;

use super::names::FilePath;

mod failure;
mod resolve;

pub(super) use failure::Failure;
use failure::escaped;
use resolve::{
    FOLDER, PERMISSIONS, READABLE_FOLDER, create_fixed, ends_of_folders, link_and_unlink, open_beneath,
    open_stepwise, split,
};

/// The folder that everything stays below.
#[derive(Debug)]
pub(super) struct Root {
    folder: OwnedFd,
    path: PathBuf,
    id: FolderId,
    /// Whether the kernel resolves whole paths without following links.
    has_openat2: bool,
}

/// What stands at a path; a symbolic link is itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) device: u64,
    pub(super) inode: u64,
    /// When it came to be, in nanoseconds since 1970; 0 where the file system does not say.
    pub(super) born: u64,
    /// In bytes.
    pub(super) length: u64,
    pub(super) is_file: bool,
    pub(super) is_folder: bool,
}

/// Which folder it is, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FolderId {
    device: u64,
    inode: u64,
}

/// A path for code that knows only paths: valid while this lives, whatever becomes of the names.
#[derive(Debug)]
pub(super) struct Handle {
    folder: OwnedFd,
    name: Vec<u8>,
}

/// A folder to resolve a name in: resolved once, for all calls that belong together.
#[derive(Debug)]
enum Holder<'a> {
    /// The root, as it is open already.
    Root(BorrowedFd<'a>),
    Below(OwnedFd),
}

/// A file, whatever stands in its place: neither followed nor waited for.
const NO_SURPRISE: OFlags =
    OFlags::NOFOLLOW.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

/// The mode of a new folder for files of `mode`: who may read may also enter, and the owner may do everything.
pub(super) fn folder_mode(mode: u32) -> u32 {
    mode | ((mode & 0o444) >> 2) | 0o700
}

impl Root {
    /// Opens `path`; the folders that are missing are created with `mode` and made durable.
    pub(super) fn open_or_create(path: &Path, mode: u32) -> Result<Self, Failure> {
        let failed = |error: Errno| {
            let message = format!("cannot open the folder `{}`", Escaped(path.as_os_str().as_bytes()));
            Failure { message, source: error.into() }
        };
        let folder = match fs::open(path, READABLE_FOLDER, Mode::empty()) {
            Err(Errno::NOENT) => create_fixed(path, mode)?,
            opened => opened.map_err(failed)?,
        };
        // A kernel before 5.6 does not know the call, and old sandboxes forbid what they do not know.
        let has_openat2 = match open_beneath(&folder, b".", FOLDER) {
            Ok(_) => true,
            Err(Errno::NOSYS | Errno::PERM) => false,
            Err(error) => return Err(failed(error)),
        };
        let id = look_at(&folder, b"", AtFlags::EMPTY_PATH).map_err(failed)?.id();
        Ok(Self { folder, path: path.to_owned(), id, has_openat2 })
    }

    /// Whether it still stands at its path, as far as anybody can tell.
    pub(super) fn is_in_place(&self) -> bool {
        match look_at(fs::CWD, self.path.as_os_str().as_bytes(), AtFlags::empty()) {
            Ok(entry) => entry.id() == self.id,
            Err(error) => !matches!(error, Errno::NOENT | Errno::NOTDIR | Errno::LOOP),
        }
    }

    /// Whether `entry` stands on the file system of the root itself.
    pub(super) fn is_on_same_device(&self, entry: &Entry) -> bool {
        entry.device == self.id.device
    }

    /// The folder that `path` stands in; `None` when there is none, or something else.
    pub(super) fn folder_of(&self, path: &FilePath) -> Result<Option<FolderId>, Failure> {
        let (folder, _) = split(path.as_bytes());
        if folder.is_empty() {
            return Ok(Some(self.id));
        }
        let (parent, name) = split(folder);
        match self.holder(parent).and_then(|holder| holder.stat(name)) {
            Ok(entry) => Ok(entry.filter(|entry| entry.is_folder).map(|entry| entry.id())),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(None),
            Err(error) => Err(self.failure("look at the folder of", path, error)),
        }
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The folder itself, to lock it or to ask for its file system.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }

    /// Creates the folders that `path` stands in, with `mode`, as far as they are missing.
    pub(super) fn create_folders(&self, path: &FilePath, mode: u32) -> Result<(), Failure> {
        let (parent, _) = split(path.as_bytes());
        if self.holder(parent).is_ok() {
            return Ok(());
        }
        let failed = |error| self.failure("create the folders of", path, error);
        let mode = Mode::from_raw_mode(mode & PERMISSIONS);
        let mut holder = Holder::Root(self.as_fd());
        for name in parent.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
            let is_new = match fs::mkdirat(&holder, name, mode) {
                Ok(()) => true,
                Err(Errno::EXIST) => false,
                Err(error) => return Err(failed(error)),
            };
            let flags = if is_new { READABLE_FOLDER } else { FOLDER } | OFlags::NOFOLLOW;
            let folder = fs::openat(&holder, name, flags, Mode::empty()).map_err(failed)?;
            if is_new {
                // The umask took some of it away.
                fs::fchmod(&folder, mode).map_err(failed)?;
            }
            holder = Holder::Below(folder);
        }
        Ok(())
    }

    /// Makes durable that new files are there: syncs all folders that any of `paths` stands in, each once.
    ///
    /// All of them, not only the new ones: whoever created a folder may have been killed before it synced it.
    /// For a folder that has not changed this costs next to nothing.
    pub(super) fn sync_folders<'a>(
        &self,
        paths: impl IntoIterator<Item = &'a FilePath>,
    ) -> Result<(), Failure> {
        let mut synced = HashSet::new();
        for path in paths {
            let folders = ends_of_folders(path.as_bytes()).map(|end| &path.as_bytes()[..end]);
            for folder in folders.chain([&b""[..]]).filter(|folder| synced.insert(*folder)) {
                let sync = self.open_folder(folder, READABLE_FOLDER).and_then(|folder| fs::fsync(&folder));
                sync.map_err(|error| self.failure_at("sync the folder", folder, error))?;
            }
        }
        Ok(())
    }

    /// Makes durable which names the folder that `path` stands in holds, after a rename or a removal. When that
    /// folder has gone too, the one it stood in knows that.
    pub(super) fn sync_folder_of(&self, path: &FilePath) -> Result<(), Failure> {
        let (mut parent, _) = split(path.as_bytes());
        loop {
            match self.open_folder(parent, READABLE_FOLDER).and_then(|folder| fs::fsync(&folder)) {
                Err(Errno::NOENT) if !parent.is_empty() => parent = split(parent).0,
                synced => return synced.map_err(|error| self.failure("sync the folder of", path, error)),
            }
        }
    }

    /// Opens a regular file to read it and to append to it; `None` when there is nothing at `path`.
    pub(super) fn open_append(&self, path: &FilePath) -> Result<Option<File>, Failure> {
        self.open(path, OFlags::RDWR | OFlags::APPEND)
    }

    /// Creates a file with `mode`, to read it and to append to it; says what stands there now.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::AlreadyExists`] when there is anything at `path`, were it a link to nowhere.
    pub(super) fn create_append(&self, path: &FilePath, mode: u32) -> Result<(File, Entry), Failure> {
        self.create(path, OFlags::APPEND, mode)
    }

    /// Opens a regular file to read it and to write to it anywhere; `None` when there is nothing at `path`.
    pub(super) fn open_existing(&self, path: &FilePath) -> Result<Option<File>, Failure> {
        self.open(path, OFlags::RDWR)
    }

    /// Creates a file with `mode`, to read it and to write to it anywhere.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::AlreadyExists`] when there is anything at `path`, were it a link to nowhere.
    pub(super) fn create_new(&self, path: &FilePath, mode: u32) -> Result<File, Failure> {
        self.create(path, OFlags::empty(), mode).map(|(file, _)| file)
    }

    /// What stands at `path`; `None` when nothing does, or the folder is missing too.
    pub(super) fn stat(&self, path: &FilePath) -> Result<Option<Entry>, Failure> {
        let (parent, name) = split(path.as_bytes());
        match self.holder(parent).and_then(|folder| folder.stat(name)) {
            Err(Errno::NOENT) => Ok(None),
            stat => stat.map_err(|error| self.failure("look at", path, error)),
        }
    }

    /// What stands at `path`; when nothing does, also that a file can be created there, as far as permissions
    /// tell.
    pub(super) fn stat_to_create(&self, path: &FilePath) -> Result<Option<Entry>, Failure> {
        let (parent, name) = split(path.as_bytes());
        let folder = self.holder(parent);
        let folder = folder.map_err(|error| self.failure("open the folder of", path, error))?;
        if let Some(entry) = folder.stat(name).map_err(|error| self.failure("look at", path, error))? {
            return Ok(Some(entry));
        }
        match fs::accessat(&folder, ".", Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS) {
            // Kernels before 5.8 cannot say it, and a folder may have gone: creating the file will tell.
            Ok(()) | Err(Errno::NOSYS | Errno::INVAL | Errno::NOENT) => Ok(None),
            Err(error) => Err(self.failure("create files in the folder of", path, error)),
        }
    }

    /// Renames a file, and never replaces one.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::AlreadyExists`] when there is anything at `to`.
    pub(super) fn rename_noreplace(&self, from: &FilePath, to: &FilePath) -> Result<(), Failure> {
        let failed = |error| {
            let from = self.absolute(from.as_bytes());
            let message =
                format!("cannot rename `{}` to `{}`", escaped(&from), escaped(&self.absolute(to.as_bytes())));
            Failure { message, source: io::Error::from(error) }
        };
        let (from_parent, from_name) = split(from.as_bytes());
        let (to_parent, to_name) = split(to.as_bytes());
        let from_folder =
            self.holder(from_parent).map_err(|e| self.failure("open the folder of", from, e))?;
        let to_folder = self.holder(to_parent).map_err(|e| self.failure("open the folder of", to, e))?;
        let flags = RenameFlags::NOREPLACE;
        match fs::renameat_with(&from_folder, from_name, &to_folder, to_name, flags) {
            // The file system does not know the flag: a link fails as well when the name is taken.
            Err(Errno::INVAL | Errno::NOSYS) => {
                link_and_unlink(&from_folder, from_name, &to_folder, to_name).map_err(failed)
            }
            renamed => renamed.map_err(failed),
        }
    }

    /// Removes the file or link at `path`; says whether there was one.
    pub(super) fn remove_file(&self, path: &FilePath) -> Result<bool, Failure> {
        let (parent, name) = split(path.as_bytes());
        let removed = self.holder(parent).and_then(|folder| fs::unlinkat(&folder, name, AtFlags::empty()));
        match removed {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(self.failure("remove", path, error)),
        }
    }

    /// Removes the folders that `path` stands in, innermost first, as long as they are empty.
    pub(super) fn remove_empty_folders(&self, path: &FilePath) -> Result<(), Failure> {
        let ends: Vec<usize> = ends_of_folders(path.as_bytes()).collect();
        for end in ends.into_iter().rev() {
            let folder = FilePath::from_bytes(&path.as_bytes()[..end]).expect("a part of a proper path");
            let (parent, name) = split(folder.as_bytes());
            let removed =
                self.holder(parent).and_then(|holder| fs::unlinkat(&holder, name, AtFlags::REMOVEDIR));
            match removed {
                Ok(()) | Err(Errno::NOENT) => {}
                // In use, or a mount point: it stays, and so do those it stands in.
                Err(Errno::NOTEMPTY | Errno::EXIST | Errno::BUSY) => return Ok(()),
                Err(error) => return Err(self.failure("remove the folder", &folder, error)),
            }
        }
        Ok(())
    }

    /// The names in a folder, in no order; `None` is the root itself. A folder that is missing has none.
    pub(super) fn list(&self, folder: Option<&FilePath>) -> Result<Vec<FilePath>, Failure> {
        let path = folder.map_or(&b""[..], FilePath::as_bytes);
        let failed = |error| self.failure_at("list", path, error);
        let opened = match self.open_folder(path, READABLE_FOLDER) {
            Err(Errno::NOENT) => return Ok(Vec::new()),
            opened => opened.map_err(failed)?,
        };
        let mut entries = Vec::new();
        for entry in fs::Dir::new(opened).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_bytes();
            let joined = if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() };
            // It refuses `.` and `..`, which every folder holds.
            entries.extend(FilePath::from_bytes(&joined));
        }
        Ok(entries)
    }

    /// A path to `path` for code that knows only paths.
    pub(super) fn handle(&self, path: &FilePath) -> Result<Handle, Failure> {
        let (parent, name) = split(path.as_bytes());
        let folder = self.open_folder(parent, FOLDER);
        let folder = folder.map_err(|error| self.failure("open the folder of", path, error))?;
        Ok(Handle { folder, name: name.to_vec() })
    }

    fn open(&self, path: &FilePath, flags: OFlags) -> Result<Option<File>, Failure> {
        let (parent, name) = split(path.as_bytes());
        let opened = self
            .holder(parent)
            .and_then(|folder| fs::openat(&folder, name, flags | NO_SURPRISE, Mode::empty()));
        let file = match opened {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(self.failure("open", path, error)),
        };
        let stat = fs::fstat(&file).map_err(|error| self.failure("look at", path, error))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            let message = format!("`{}` is no regular file: move it away", self.shown(path.as_bytes()));
            return Err(Failure { message, source: Errno::INVAL.into() });
        }
        Ok(Some(File::from(file)))
    }

    fn create(&self, path: &FilePath, flags: OFlags, mode: u32) -> Result<(File, Entry), Failure> {
        let (parent, name) = split(path.as_bytes());
        let flags = flags | OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | NO_SURPRISE;
        let mode = Mode::from_raw_mode(mode & PERMISSIONS);
        let created = self.holder(parent).and_then(|folder| fs::openat(&folder, name, flags, mode));
        let file = created.map_err(|error| self.failure("create", path, error))?;
        let stat = fs::fstat(&file).map_err(|error| self.failure("look at", path, error))?;
        // The umask may have taken some of it away.
        if Mode::from_raw_mode(stat.st_mode & PERMISSIONS) != mode {
            let set = fs::fchmod(&file, mode);
            set.map_err(|error| self.failure("set the mode of", path, error))?;
        }
        let file = File::from(file);
        let entry = Entry::of(&file).map_err(|error| self.failure("look at", path, error))?;
        Ok((file, entry))
    }

    /// A folder to resolve a name in; no components are the root itself.
    fn holder(&self, path: &[u8]) -> Result<Holder<'_>, Errno> {
        if path.is_empty() {
            return Ok(Holder::Root(self.as_fd()));
        }
        self.open_folder(path, FOLDER).map(Holder::Below)
    }

    /// Opens a folder, its components joined by slashes; none for the root itself.
    fn open_folder(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        if path.is_empty() {
            // A descriptor of its own: those share a position when they list.
            return fs::openat(&self.folder, ".", flags, Mode::empty());
        }
        if self.has_openat2 {
            open_beneath(&self.folder, path, flags)
        } else {
            open_stepwise(&self.folder, path, flags)
        }
    }

    fn failure(&self, action: &str, path: &FilePath, error: Errno) -> Failure {
        self.failure_at(action, path.as_bytes(), error)
    }

    /// Says what failed; when it failed because of what stands in the way, that is what it names.
    fn failure_at(&self, action: &str, path: &[u8], error: Errno) -> Failure {
        let obstacle = match error {
            Errno::LOOP | Errno::NOTDIR | Errno::ISDIR | Errno::XDEV => self.obstacle(path),
            _ => None,
        };
        let message = obstacle.unwrap_or_else(|| format!("cannot {action} `{}`", self.shown(path)));
        Failure { message, source: error.into() }
    }

    /// The first component of `path` that is a link, or not what it has to be.
    fn obstacle(&self, path: &[u8]) -> Option<String> {
        let mut holder = Holder::Root(self.as_fd());
        let ends = ends_of_folders(path).chain([path.len()]).filter(|end| *end > 0);
        for end in ends {
            let (_, name) = split(&path[..end]);
            let stat = fs::statat(&holder, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
            let shown = self.shown(&path[..end]);
            let below = escaped(&self.path);
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Symlink => {
                    return Some(format!(
                        "`{shown}` is a symbolic link, and none below `{below}` is followed: remove it"
                    ));
                }
                FileType::Directory if end == path.len() => {
                    return Some(format!("`{shown}` is a folder where a file should be: move it away"));
                }
                FileType::Directory => {
                    let folder = fs::openat(&holder, name, FOLDER | OFlags::NOFOLLOW, Mode::empty());
                    holder = Holder::Below(folder.ok()?);
                }
                _ if end == path.len() => return None,
                _ => return Some(format!("`{shown}` is a file where a folder should be: move it away")),
            }
        }
        None
    }

    fn absolute(&self, path: &[u8]) -> PathBuf {
        self.path.join(OsStr::from_bytes(path))
    }

    fn shown(&self, path: &[u8]) -> String {
        if path.is_empty() { escaped(&self.path) } else { escaped(&self.absolute(path)) }
    }
}

impl Holder<'_> {
    /// What stands at `name`; a symbolic link is itself.
    fn stat(&self, name: &[u8]) -> Result<Option<Entry>, Errno> {
        match look_at(self, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(None),
            entry => entry.map(Some),
        }
    }
}

impl AsFd for Holder<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Root(folder) => *folder,
            Self::Below(folder) => folder.as_fd(),
        }
    }
}

impl Handle {
    /// The path: it leads through the folder's descriptor, so no name on the way can be exchanged.
    pub(super) fn path(&self) -> PathBuf {
        let folder = PathBuf::from(format!("/proc/self/fd/{}", self.folder.as_raw_fd()));
        folder.join(OsStr::from_bytes(&self.name))
    }
}

impl Entry {
    /// An open file.
    pub(super) fn of(file: &File) -> Result<Self, Errno> {
        look_at(file, b"", AtFlags::EMPTY_PATH)
    }

    fn id(&self) -> FolderId {
        FolderId { device: self.device, inode: self.inode }
    }
}

fn look_at(folder: impl AsFd, name: &[u8], flags: AtFlags) -> Result<Entry, Errno> {
    let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    let stat = fs::statx(folder, name, flags, wanted)?;
    let kind = FileType::from_raw_mode(stat.stx_mode.into());
    let tells_birth = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
    let nanoseconds = i128::from(stat.stx_btime.tv_sec) * 1_000_000_000 + i128::from(stat.stx_btime.tv_nsec);
    Ok(Entry {
        device: fs::makedev(stat.stx_dev_major, stat.stx_dev_minor),
        inode: stat.stx_ino,
        // Beyond the year 2554 it goes on from the beginning, and is as good.
        born: if tells_birth { nanoseconds as u64 } else { 0 },
        length: stat.stx_size,
        is_file: kind == FileType::RegularFile,
        is_folder: kind == FileType::Directory,
    })
}

#[cfg(test)]
mod tests;
