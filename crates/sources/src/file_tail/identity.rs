//! How a file is known again: [`FileId`], [`Fingerprint`], [`Marker`].
//!
//! Names change when logs rotate and inodes are reused, so neither proves anything. What proves it is
//! content: the hash of a file's first bytes together with the hash of the last bytes before a position.

use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::buffer::spare_capacity;
use rustix::fs::OFlags;
use rustix::io::Errno;

/// A fingerprint covers at most this much: beyond it, logs that share a banner have parted.
pub(crate) const HEAD_BYTES: usize = 1024;

/// A marker covers at most this much: a line or so, which carries a time or a number.
pub(crate) const MARKER_BYTES: usize = 64;

/// The lengths of fingerprints: each step of a growing file costs a record in the state log. A copy that lacks
/// the last lines still has the same one.
const FINGERPRINT_STEPS: [usize; 4] = [32, 128, 512, HEAD_BYTES];

/// Device, inode and time of birth: a hint, never a proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct FileId {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    /// Nanoseconds since 1970; 0 where the file system does not tell.
    pub(crate) born: u64,
}

/// The hash of a file's first `length` bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    pub(crate) length: u16,
    pub(crate) hash: u64,
}

/// The hash of the `length` bytes before a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Marker {
    pub(crate) length: u8,
    pub(crate) hash: u64,
}

/// What `stat` says of a file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stat {
    pub(crate) id: FileId,
    pub(crate) size: u64,
    pub(crate) modified: SystemTime,
    /// When anything about it changed last, its name included.
    pub(crate) changed: SystemTime,
    pub(crate) regular: bool,
}

impl FileId {
    /// Whether this is the same file, also after its device was numbered anew by a reboot or a mount.
    pub(crate) fn same(&self, other: &Self) -> bool {
        self.inode == other.inode
            && self.born == other.born
            && (self.device == other.device || self.born != 0)
    }
}

impl Fingerprint {
    /// The fingerprint of a file that begins with `head`: of as many bytes as the last step it reaches, or of
    /// all when it reaches none.
    pub(crate) fn of(head: &[u8]) -> Self {
        let length = FINGERPRINT_STEPS.into_iter().rfind(|step| *step <= head.len()).unwrap_or(head.len());
        Self { length: length as u16, hash: fnv1a64(&head[..length]) }
    }

    /// Whether a file that begins with `head` may be the one this was taken of.
    pub(crate) fn matches(&self, head: &[u8]) -> bool {
        let length = usize::from(self.length);
        head.len() >= length && fnv1a64(&head[..length]) == self.hash
    }

    /// Whether it is long enough to tell files apart without their inodes.
    pub(crate) fn is_strong(&self) -> bool {
        usize::from(self.length) >= FINGERPRINT_STEPS[0]
    }

    /// Whether a file of `size` bytes has outgrown it far enough to be worth a new one.
    pub(crate) fn is_outgrown(&self, size: u64) -> bool {
        let length = usize::from(self.length);
        FINGERPRINT_STEPS.iter().any(|step| *step > length && *step as u64 <= size)
    }
}

impl Marker {
    /// The marker of the position behind `bytes`.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        let length = bytes.len().min(MARKER_BYTES);
        Self { length: length as u8, hash: fnv1a64(&bytes[bytes.len() - length..]) }
    }

    /// Whether `bytes`, which end at the position, are those it was taken of.
    pub(crate) fn matches(&self, bytes: &[u8]) -> bool {
        let length = usize::from(self.length);
        bytes.len() >= length && fnv1a64(&bytes[bytes.len() - length..]) == self.hash
    }
}

impl Stat {
    /// `stat` of what `path` leads to; symbolic links are followed.
    pub(crate) fn of_path(path: &Path) -> io::Result<Self> {
        std::fs::metadata(path).map(|metadata| Self::of(&metadata))
    }

    /// `stat` of an open file.
    pub(crate) fn of_file(file: &File) -> io::Result<Self> {
        #[cfg(test)]
        refuse_stale(file)?;
        file.metadata().map(|metadata| Self::of(&metadata))
    }

    fn of(metadata: &Metadata) -> Self {
        let born = metadata.created().map_or(0, nanoseconds);
        let device = metadata.dev();
        #[cfg(test)]
        let device = device + DEVICES_BEFORE.get();
        let id = FileId { device, inode: metadata.ino(), born };
        let modified = metadata.modified().unwrap_or(UNIX_EPOCH);
        let since = Duration::new(metadata.ctime().max(0) as u64, metadata.ctime_nsec() as u32);
        let changed = UNIX_EPOCH + since;
        Self { id, size: metadata.len(), modified, changed, regular: metadata.is_file() }
    }
}

/// Nanoseconds since 1970; 0 for anything before.
pub(crate) fn nanoseconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

/// Opens a file for reading. Should it have become a FIFO or a device since it was looked at, this does not
/// wait for a writer.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path)
}

/// Whether an error says that an open file is no file any more: on NFS, after it was deleted or the server came
/// back without it. The handle will never work again; the file may still be at its path.
pub(crate) fn is_stale(error: &io::Error) -> bool {
    Errno::from_io_error(error) == Some(Errno::STALE)
}

#[cfg(test)]
std::thread_local! {
    /// Tests cannot reboot: how many devices came before the one that has the files of this thread's test.
    pub(super) static DEVICES_BEFORE: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// Tests have no NFS: a file that was opened with `O_SYNC`, as nothing else is here, plays a stale one.
#[cfg(test)]
fn refuse_stale(file: &File) -> io::Result<()> {
    match rustix::fs::fcntl_getfl(file)?.contains(OFlags::SYNC) {
        true => Err(Errno::STALE.into()),
        false => Ok(()),
    }
}

/// Whether an open file is at no path any more.
pub(crate) fn is_deleted(file: &File) -> bool {
    file.metadata().is_ok_and(|metadata| metadata.nlink() == 0)
}

/// Reads at most `length` bytes at `position`, fewer only where the file ends.
pub(crate) fn read_at(file: &File, position: u64, length: usize) -> io::Result<Vec<u8>> {
    #[cfg(test)]
    refuse_stale(file)?;
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        let at = position + bytes.len() as u64;
        match rustix::io::pread(file, spare_capacity(&mut bytes), at) {
            Ok(0) => break,
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    // An allocation may be larger than asked for.
    bytes.truncate(length);
    Ok(bytes)
}

/// The first bytes of a file, as many as a fingerprint can cover.
pub(crate) fn read_head(file: &File) -> io::Result<Vec<u8>> {
    read_at(file, 0, HEAD_BYTES)
}

/// FNV-1a: short, the same everywhere and for ever, and good enough to tell a handful of files apart.
fn fnv1a64(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_matches_whatever_begins_with_its_bytes() {
        let short = Fingerprint::of(b"abc");
        assert!(short.matches(b"abc") && short.matches(b"abcdef"));
        assert!(!short.matches(b"ab") && !short.matches(b"abd"));
        assert!(Fingerprint::of(b"").matches(b""));
        let long = [7; 3000];
        assert_eq!(Fingerprint::of(&long).length, 1024);
        assert!(Fingerprint::of(&long).matches(&long[..1024]));
    }

    #[test]
    fn a_fingerprint_grows_in_steps() {
        let of = |length: usize| Fingerprint::of(&vec![1; length]);
        assert_eq!([3, 31, 32, 127, 600].map(|length| of(length).length), [3, 31, 32, 32, 512]);
        assert!(!of(3).is_outgrown(31) && of(3).is_outgrown(32));
        assert!(!of(32).is_outgrown(127) && of(32).is_outgrown(5000));
        assert!(!of(1024).is_outgrown(5000));
        assert!(!of(31).is_strong() && of(32).is_strong());
    }

    #[test]
    fn a_marker_covers_the_last_bytes_before_a_position() {
        let bytes: Vec<u8> = (0..200).collect();
        let marker = Marker::of(&bytes);
        assert_eq!(marker.length, 64);
        assert!(marker.matches(&bytes) && marker.matches(&bytes[136..]));
        assert!(!marker.matches(&bytes[..199]) && !marker.matches(&bytes[137..]));
        assert!(Marker::of(b"").matches(b"anything"));
    }

    #[test]
    fn reads_exactly_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::fs::write(&path, "0123456789").unwrap();
        let file = open(&path).unwrap();
        assert_eq!(read_at(&file, 2, 3).unwrap(), b"234");
        assert_eq!(read_at(&file, 8, 100).unwrap(), b"89");
        assert_eq!(read_at(&file, 20, 5).unwrap(), b"");
        assert_eq!(read_at(&file, 0, 0).unwrap(), b"");
    }
}
