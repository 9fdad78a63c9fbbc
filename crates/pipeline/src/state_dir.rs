//! A pipeline's own directory, locked: [`StateDir`].

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use anyhow::{Result, anyhow};
use rustix::fs::{FlockOperation, OFlags, flock};

use crate::Fatal;
use crate::named_file::{OPEN_AT_ONCE, expect_regular};

const LOCK_FILE: &str = "lock";

/// More than the number of any process has; what is longer is not ours.
const MAX_HOLDER_BYTES: u64 = 64;

/// The directory `{state_dir}/{pipeline name}`, held for as long as this lives. A process that dies lets go
/// of it, however it dies.
#[derive(Debug)]
pub(crate) struct StateDir {
    _lock: File,
}

impl StateDir {
    /// Creates the directory if need be, and locks it.
    ///
    /// # Errors
    ///
    /// Each names the directory. A [`Fatal`] is one that somebody has to mend: another process holds it, which is
    /// named, or it is none that fshipper may use. Any other may pass, such as a disk that is full.
    pub(crate) fn lock(state_dir: &Path, pipeline: &str) -> Result<Self> {
        let path = state_dir.join(pipeline);
        let failed = |error: std::io::Error| {
            let problem = format!("cannot use the state directory `{}`: {error}", path.display());
            let remedy = "set `state_dir` or --state-dir to one that fshipper may write";
            match is_for_the_operator(&error) {
                true => Fatal::new(format!("{problem}; {remedy}")),
                false => anyhow!("{problem}; if it stays so, {remedy}"),
            }
        };
        std::fs::create_dir_all(&path).map_err(failed)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        // It is written to: what a link leads to is somebody else's.
        options.custom_flags(OPEN_AT_ONCE.union(OFlags::NOFOLLOW).bits() as i32);
        let file = options.open(path.join(LOCK_FILE)).map_err(failed)?;
        file.metadata().and_then(|metadata| expect_regular(&metadata)).map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut holder = String::new();
                let read = (&file).take(MAX_HOLDER_BYTES).read_to_string(&mut holder);
                let holder = match (read, holder.trim()) {
                    (Ok(_), pid) if !pid.is_empty() => format!("process {pid}"),
                    _ => "another process".to_owned(),
                };
                return Err(Fatal::new(format!(
                    "{holder} already runs the pipeline `{pipeline}` with the state directory `{}`: stop it, or give this one another `name` or `state_dir`",
                    state_dir.display()
                )));
            }
            Err(errno) => return Err(failed(errno.into())),
        }
        if let Err(error) = write_holder(&file) {
            // The lock holds without the number, which is for whoever is refused.
            tracing::debug!(pipeline, "cannot note in the state directory which process holds it: {error}");
        }
        Ok(Self { _lock: file })
    }
}

/// Whether waiting cannot mend it: what lies in the way, or a permission.
fn is_for_the_operator(error: &std::io::Error) -> bool {
    use rustix::io::Errno;

    const FINAL: [Errno; 10] = [
        Errno::ACCESS,
        Errno::PERM,
        Errno::NOTDIR,
        Errno::ISDIR,
        Errno::NOENT,
        Errno::LOOP,
        Errno::NAMETOOLONG,
        Errno::INVAL,
        Errno::EXIST,
        Errno::NXIO,
    ];
    // One that the system did not give is about what stands there.
    Errno::from_io_error(error).is_none_or(|errno| FINAL.contains(&errno))
}

/// Writes the number of this process into the lock. What is there already is overwritten in place, which needs no
/// room on the disk.
fn write_holder(file: &File) -> std::io::Result<()> {
    let holder = format!("{}\n", std::process::id());
    let written = file.write_all_at(holder.as_bytes(), 0);
    let length = if written.is_ok() { holder.len() as u64 } else { 0 };
    // The number of another process would mislead.
    written.and(file.set_len(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_owner_is_refused_and_told_who_holds_it() {
        let folder = tempfile::tempdir().unwrap();
        let first = StateDir::lock(folder.path(), "web").unwrap();
        let error = StateDir::lock(folder.path(), "web").unwrap_err();
        assert!(error.is::<Fatal>());
        let expected = format!("process {} already runs the pipeline `web`", std::process::id());
        assert!(error.to_string().starts_with(&expected), "{error}");
        StateDir::lock(folder.path(), "other").unwrap();
        drop(first);
        StateDir::lock(folder.path(), "web").unwrap();
    }

    #[test]
    fn a_link_in_the_place_of_the_lock_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("precious");
        std::fs::write(&file, "content").unwrap();
        std::fs::create_dir(folder.path().join("web")).unwrap();
        std::os::unix::fs::symlink(&file, folder.path().join("web").join(LOCK_FILE)).unwrap();
        assert!(StateDir::lock(folder.path(), "web").unwrap_err().is::<Fatal>());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "content");
    }

    #[test]
    fn a_fifo_in_the_place_of_the_lock_is_refused() {
        use rustix::fs::{CWD, Mode, mkfifoat};

        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("web")).unwrap();
        let mode = Mode::RUSR | Mode::WUSR;
        mkfifoat(CWD, folder.path().join("web").join(LOCK_FILE), mode).unwrap();
        let error = StateDir::lock(folder.path(), "web").unwrap_err();
        assert!(error.is::<Fatal>() && error.to_string().contains("it is a FIFO"), "{error:#}");
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_named_with_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error = StateDir::lock(&file, "web").unwrap_err().to_string();
        assert!(error.contains("file/web`") && error.contains("--state-dir"), "{error}");
    }

    #[test]
    fn what_may_pass_is_no_error_of_configuration() {
        let of = |errno: rustix::io::Errno| is_for_the_operator(&errno.into());
        use rustix::io::Errno;
        for errno in [Errno::NOSPC, Errno::DQUOT, Errno::ROFS, Errno::IO, Errno::STALE, Errno::MFILE] {
            assert!(!of(errno), "{errno}");
        }
        for errno in [Errno::ACCESS, Errno::NOTDIR, Errno::NOENT] {
            assert!(of(errno), "{errno}");
        }
    }

    #[test]
    fn the_number_of_a_process_before_is_replaced_whatever_its_length() {
        let folder = tempfile::tempdir().unwrap();
        let lock = folder.path().join("web").join(LOCK_FILE);
        std::fs::create_dir(folder.path().join("web")).unwrap();
        for before in ["", "1\n", "123456789012\n"] {
            std::fs::write(&lock, before).unwrap();
            drop(StateDir::lock(folder.path(), "web").unwrap());
            assert_eq!(std::fs::read_to_string(&lock).unwrap(), format!("{}\n", std::process::id()));
        }
    }
}
