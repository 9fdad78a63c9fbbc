//! A disk that can be filled: [`SmallDisk`].

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::Errno;

const FILLER: &str = "filler";

/// A file system in memory, mounted at a directory until it is dropped. Only root may mount one.
#[derive(Debug)]
pub(crate) struct SmallDisk {
    directory: PathBuf,
}

impl SmallDisk {
    /// Mounts `bytes` at `directory`, which must be an empty directory.
    pub(crate) fn mount(directory: &Path, bytes: u64) -> Result<Self> {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={bytes},mode=0700"), "fshipper-chaos"]);
        let output = mount.arg(directory).stdin(Stdio::null()).output().context("cannot run `mount`")?;
        if !output.status.success() {
            bail!("`mount` failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(Self { directory: directory.to_owned() })
    }

    /// Takes all room except `room_bytes`.
    pub(crate) fn fill(&self, room_bytes: u64) -> Result<()> {
        /// Whoever writes to the disk takes room between the question and the answer.
        const ATTEMPTS: usize = 100;
        let filler =
            File::create(self.directory.join(FILLER)).context("cannot create the file that fills a disk")?;
        for _ in 0..ATTEMPTS {
            let space = statvfs(&self.directory).context("cannot ask how much room a disk has")?;
            let bytes = (space.f_bavail * space.f_frsize).saturating_sub(room_bytes);
            if bytes == 0 {
                return Ok(());
            }
            match fallocate(&filler, FallocateFlags::empty(), 0, bytes) {
                Err(Errno::NOSPC) => {}
                filled => return filled.context("cannot fill a disk"),
            }
        }
        bail!("cannot fill a disk: others are faster")
    }

    /// Gives the room back.
    pub(crate) fn free(&self) -> Result<()> {
        match fs::remove_file(self.directory.join(FILLER)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).context("cannot remove the file that fills a disk")
            }
            _ => Ok(()),
        }
    }

    /// Copies what is on it to where it stays when the disk is gone.
    pub(crate) fn keep(&self, to: &Path) -> Result<()> {
        let status =
            Command::new("cp").arg("-a").arg(&self.directory).arg(to).status().context("cannot run `cp`")?;
        if !status.success() {
            bail!("`cp` failed: {status}");
        }
        Ok(())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the processes that wrote to it are gone or about to be. Nothing can be done about a
        // failure, and `umount` itself says what it is.
        let _ = Command::new("umount").arg("--lazy").arg(&self.directory).status();
    }
}
