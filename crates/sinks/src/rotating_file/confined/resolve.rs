//! How folders are found without being led astray: by one call, or step by step.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{self, AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::failure::{Failure, escaped};

/// How often an operation starts over because others change the folder while it runs.
const MAX_ATTEMPTS: usize = 64;

/// Permissions without the file type.
pub(super) const PERMISSIONS: u32 = 0o7777;

/// A folder to resolve names in; without the right to list it.
pub(super) const FOLDER: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// A folder to list, or to sync.
pub(super) const READABLE_FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Creates the folders of the fixed part that are missing, durably, and opens the last one.
pub(super) fn create_fixed(path: &Path, mode: u32) -> Result<OwnedFd, Failure> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let failed = |error: Errno| {
        let message = format!("cannot create the folder `{}`", escaped(path));
        Failure { message, source: error.into() }
    };
    let holder = match fs::open(parent, READABLE_FOLDER, Mode::empty()) {
        Err(Errno::NOENT) if parent != path => create_fixed(parent, mode)?,
        opened => opened.map_err(failed)?,
    };
    let mode = Mode::from_raw_mode(mode & PERMISSIONS);
    let is_new = match fs::mkdir(path, mode) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(error) => return Err(failed(error)),
    };
    let folder = fs::open(path, READABLE_FOLDER, Mode::empty()).map_err(failed)?;
    if is_new {
        // The umask took some of it away.
        fs::fchmod(&folder, mode).map_err(failed)?;
        fs::fsync(&holder).map_err(failed)?;
    }
    Ok(folder)
}

/// Opens a folder below `root` by one call that follows no link and does not leave it.
pub(super) fn open_beneath(root: &OwnedFd, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..MAX_ATTEMPTS {
        match fs::openat2(root, path, flags, Mode::empty(), resolve) {
            // The kernel saw a rename on the way and could not be sure.
            Err(Errno::AGAIN) => {}
            opened => return opened,
        }
    }
    Err(Errno::AGAIN)
}

/// The same with one call for each folder.
pub(super) fn open_stepwise(root: &OwnedFd, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let (parent, name) = split(path);
    let mut holder = fs::openat(root, ".", FOLDER, Mode::empty())?;
    for folder in parent.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
        holder = fs::openat(&holder, folder, FOLDER | OFlags::NOFOLLOW, Mode::empty())?;
    }
    fs::openat(&holder, name, flags | OFlags::NOFOLLOW, Mode::empty())
}

/// Renames where the file system cannot refuse to replace; killed in between, the file has both names.
pub(super) fn link_and_unlink(
    from: impl AsFd,
    from_name: &[u8],
    to: impl AsFd,
    to_name: &[u8],
) -> Result<(), Errno> {
    fs::linkat(&from, from_name, to, to_name, AtFlags::empty())?;
    fs::unlinkat(from, from_name, AtFlags::empty())
}

/// The folder and the name of a path.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

/// Where each folder that `path` stands in ends, outermost first.
pub(super) fn ends_of_folders(path: &[u8]) -> impl Iterator<Item = usize> {
    path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(slash, _)| slash)
}
