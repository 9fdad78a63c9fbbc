//! Small files that somebody names: [`read_named_file`].

use std::fs::{File, Metadata, OpenOptions};
use std::io::{Error, ErrorKind, Read, Result};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

/// For whatever may have become a FIFO or a device: opening it waits for nobody.
pub(crate) const OPEN_AT_ONCE: OFlags = OFlags::NONBLOCK.union(OFlags::NOCTTY);

/// Reads a file that a configuration names, whatever it is: no more than `most` bytes, and nothing that waits
/// for somebody or has no end.
///
/// # Errors
///
/// [`ErrorKind::IsADirectory`], [`ErrorKind::InvalidInput`] for anything else that is no regular file,
/// [`ErrorKind::FileTooLarge`], or the system's. The words say what it is, and not its name.
pub fn read_named_file(path: &Path, most: u64) -> Result<Vec<u8>> {
    read_at_most(&open_named_file(path)?, most)
}

/// Opens a file that a configuration names, to read it: never a FIFO, and never a device.
///
/// # Errors
///
/// Those of [`read_named_file`].
pub fn open_named_file(path: &Path) -> Result<File> {
    // Opening a device may already do something to it.
    expect_regular(&std::fs::metadata(path)?)?;
    let file = OpenOptions::new().read(true).custom_flags(OPEN_AT_ONCE.bits() as i32).open(path)?;
    expect_regular(&file.metadata()?)?;
    Ok(file)
}

/// What is left of `file`, if it is no more than `most` bytes.
pub(crate) fn read_at_most(file: &File, most: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // What it says of its length may have changed meanwhile, and in some file systems is never true.
    if file.metadata()?.len() > most || file.take(most + 1).read_to_end(&mut bytes)? as u64 > most {
        return Err(Error::new(ErrorKind::FileTooLarge, format!("it holds more than {most} bytes")));
    }
    Ok(bytes)
}

pub(crate) fn expect_regular(metadata: &Metadata) -> Result<()> {
    let kind = metadata.file_type();
    let what = match () {
        () if kind.is_file() => return Ok(()),
        () if kind.is_dir() => return Err(Error::new(ErrorKind::IsADirectory, "it is a directory")),
        () if kind.is_fifo() => "a FIFO",
        () if kind.is_socket() => "a socket",
        () => "a device",
    };
    Err(Error::new(ErrorKind::InvalidInput, format!("it is {what}, not a regular file")))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use rustix::fs::{CWD, Mode, mkfifoat};

    use super::*;

    #[test]
    fn reads_a_file_and_no_more_of_it_than_is_allowed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "12345").unwrap();
        assert_eq!(read_named_file(file.path(), 5).unwrap(), b"12345");
        let error = read_named_file(file.path(), 4).unwrap_err();
        assert_eq!(
            (error.kind(), &*error.to_string()),
            (ErrorKind::FileTooLarge, "it holds more than 4 bytes")
        );
        // Its length says 0, and there is more.
        let error = read_named_file(Path::new("/proc/self/status"), 10).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::FileTooLarge);
    }

    #[test]
    fn what_is_no_file_is_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let (fifo, socket) = (folder.path().join("fifo"), folder.path().join("socket"));
        mkfifoat(CWD, &fifo, Mode::RUSR | Mode::WUSR).unwrap();
        let _listener = UnixListener::bind(&socket).unwrap();
        for (path, said) in [
            (fifo.as_path(), "it is a FIFO, not a regular file"),
            (&socket, "it is a socket, not a regular file"),
            (Path::new("/dev/zero"), "it is a device, not a regular file"),
            (folder.path(), "it is a directory"),
        ] {
            assert_eq!(read_named_file(path, 100).unwrap_err().to_string(), said);
        }
    }
}
