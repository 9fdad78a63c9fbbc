//! One owner of an output at a time: [`Lock`].

use std::fs::File;
use std::io::Read;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use fshipper_pipeline::{Escaped, Fatal};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::disk::Disk;
use super::ledger::own;
use super::names::FilePath;

/// Held as long as it lives; the kernel gives it back when the process dies.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "held for its drop")] File);

/// A sink of this very pipeline that was dropped still finishes its last call: an fsync on a slow disk.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often to look whether it has finished.
const LOOK_EVERY: Duration = Duration::from_millis(5);

impl Lock {
    /// Takes the lock of the output for `pipeline`.
    ///
    /// # Errors
    ///
    /// A [`Fatal`] that names the holder when another pipeline has it.
    pub(super) fn take(disk: &Disk, pipeline: &str) -> Result<Self> {
        let path = own("lock");
        let mut file = open_or_create(disk, &path)?;
        let ours = format!("{} {pipeline}\n", std::process::id());
        let deadline = Instant::now() + PATIENCE;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::WOULDBLOCK) => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("cannot lock `{}`", disk.shown(&path)));
                }
            }
            let mut holder = Vec::new();
            file.try_clone()?.take(4096).read_to_end(&mut holder)?;
            // Whoever has just taken it has not written its name yet.
            if !holder.is_empty() && holder != ours.as_bytes() {
                return Err(conflict(&disk.shown(&own(".")), &holder));
            }
            if Instant::now() > deadline {
                bail!("the last session of this pipeline still writes to `{}`", disk.shown(&own(".")));
            }
            std::thread::sleep(LOOK_EVERY);
            file = disk.open(&path)?.context("the lock has just gone")?;
        }
        let written = disk.truncate(&file, 0).and_then(|()| disk.write_at(&file, ours.as_bytes(), 0));
        written.with_context(|| format!("cannot write `{}`", disk.shown(&path)))?;
        Ok(Self(file))
    }
}

/// The file to lock, which another pipeline may be creating just now.
fn open_or_create(disk: &Disk, path: &FilePath) -> Result<File> {
    if let Some(file) = disk.open(path)? {
        return Ok(file);
    }
    match disk.create(path) {
        Ok(file) => Ok(file),
        Err(error) => disk.open(path)?.ok_or(error),
    }
}

fn conflict(folder: &str, holder: &[u8]) -> anyhow::Error {
    let holder = holder.trim_ascii_end();
    let space = holder.iter().position(|byte| *byte == b' ').unwrap_or(holder.len());
    let (process, pipeline) = holder.split_at(space);
    Fatal::new(format!(
        "the pipeline `{}`, process {}, writes to this output already and holds `{folder}`: stop it, or write to another folder",
        Escaped(pipeline.trim_ascii()),
        Escaped(process),
    ))
}

#[cfg(test)]
mod tests {
    use super::super::confined::Root;
    use super::*;

    fn disk(folder: &std::path::Path) -> Disk {
        let disk = Disk::new(Root::open_or_create(folder, 0o700).unwrap(), 0o600);
        disk.create_folders(&own("lock")).unwrap();
        disk
    }

    #[test]
    fn a_second_owner_is_told_who_the_first_is() {
        let folder = tempfile::tempdir().unwrap();
        let disk = disk(folder.path());
        let lock = Lock::take(&disk, "central logs").unwrap();
        let error = Lock::take(&disk, "other").unwrap_err();
        assert!(error.is::<Fatal>());
        let (text, process) = (error.to_string(), std::process::id());
        assert!(text.contains(&format!("pipeline `central logs`, process {process},")), "{text}");
        drop(lock);
        Lock::take(&disk, "other").unwrap();
    }

    #[test]
    fn of_two_that_start_at_once_one_is_told_who_the_other_is() {
        for _ in 0..50 {
            let folder = tempfile::tempdir().unwrap();
            let disk = disk(folder.path());
            let start = std::sync::Barrier::new(2);
            let take = |pipeline| {
                start.wait();
                Lock::take(&disk, pipeline)
            };
            let (one, two) = std::thread::scope(|scope| {
                let (one, two) = (scope.spawn(|| take("one")), scope.spawn(|| take("two")));
                (one.join().unwrap(), two.join().unwrap())
            });
            assert_ne!(one.is_ok(), two.is_ok());
            let error = one.err().or(two.err()).unwrap();
            assert!(error.is::<Fatal>() && error.to_string().contains("process "), "{error:#}");
            assert!(!error.to_string().contains("``"), "{error:#}");
        }
    }

    #[test]
    fn the_next_session_of_the_same_pipeline_waits_for_the_last() {
        let folder = tempfile::tempdir().unwrap();
        let disk = disk(folder.path());
        let lock = Lock::take(&disk, "same").unwrap();
        std::thread::scope(|scope| {
            let next = scope.spawn(|| Lock::take(&disk, "same").map(drop));
            drop(lock);
            next.join().unwrap().unwrap();
        });
    }
}
