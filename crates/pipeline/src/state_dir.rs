//! A pipeline's own directory, locked: [`StateDir`].

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Result;
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
    path: PathBuf,
    _lock: File,
}

impl StateDir {
    /// Creates the directory if need be, and locks it.
    ///
    /// # Errors
    ///
    /// A [`Fatal`] that names the directory and, when another process holds it, that process.
    pub(crate) fn lock(state_dir: &Path, pipeline: &str) -> Result<Self> {
        let path = state_dir.join(pipeline);
        let failed = |error: std::io::Error| {
            Fatal::new(format!(
                "cannot use the state directory `{}`: {error}; set `state_dir` or --state-dir to one that fshipper may write",
                path.display()
            ))
        };
        std::fs::create_dir_all(&path).map_err(failed)?;
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        // It is written to: what a link leads to is somebody else's.
        options.custom_flags(OPEN_AT_ONCE.union(OFlags::NOFOLLOW).bits() as i32);
        let mut file = options.open(path.join(LOCK_FILE)).map_err(failed)?;
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
        let write_holder = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        write_holder(&mut file).map_err(failed)?;
        Ok(Self { path, _lock: file })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
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
}
