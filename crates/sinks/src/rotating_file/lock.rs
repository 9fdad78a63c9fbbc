//! One owner of an output at a time: [`Owner`].

use std::fs::File;
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use fshipper_pipeline::{Escaped, Fatal};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::disk::Disk;
use super::ledger::own;
use super::names::FilePath;

/// Who writes to an output: a pipeline, over all its sessions.
#[derive(Clone, Debug)]
pub(super) struct Owner {
    /// The pipeline's name.
    pub(super) pipeline: String,
    /// The host it runs on.
    pub(super) host: String,
    /// What its sessions share.
    pub(super) lock: Arc<KeptLock>,
}

/// The lock of an output, kept from the first session of a pipeline to its end, so that nobody else takes the
/// output while it is opened again. The kernel gives it back when the process dies.
#[derive(Debug, Default)]
pub(super) struct KeptLock(Mutex<Option<Arc<File>>>);

/// The lock in the hands of a session: the next one waits until it is dropped.
#[derive(Debug)]
pub(super) struct Lock(#[expect(dead_code, reason = "held for its drop")] Arc<File>);

/// A sink of this very pipeline that was dropped still finishes its last call: an fsync on a slow disk.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often to look whether it has finished.
const LOOK_EVERY: Duration = Duration::from_millis(5);

impl Owner {
    /// Takes the lock of the output for a session.
    ///
    /// # Errors
    ///
    /// A [`Fatal`] that names the holder when another pipeline has it.
    pub(super) fn lock(&self, disk: &Disk) -> Result<Lock> {
        let deadline = Instant::now() + PATIENCE;
        // A file that is there or not cannot be half so.
        let mut kept = self.lock.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = &*kept {
            // Also when it is not in place any more: whoever has it may still write.
            while Arc::strong_count(file) > 1 {
                wait(disk, deadline)?;
            }
            if is_in_place(disk, file)? {
                return Ok(Lock(file.clone()));
            }
        }
        // Whoever deleted the folder has deleted the lock with it.
        *kept = None;
        let file = Arc::new(take(disk, &self.pipeline, deadline)?);
        *kept = Some(file.clone());
        Ok(Lock(file))
    }
}

/// Whether the lock that is held is the one that others would take.
fn is_in_place(disk: &Disk, file: &File) -> Result<bool> {
    let Some(there) = disk.stat(&own("lock"))? else { return Ok(false) };
    Ok(there.identity == disk.identity_and_length(file)?.0)
}

fn take(disk: &Disk, pipeline: &str, deadline: Instant) -> Result<File> {
    let path = own("lock");
    let mut file = open_or_create(disk, &path)?;
    let ours = format!("{} {pipeline}\n", std::process::id());
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
        wait(disk, deadline)?;
        file = disk.open(&path)?.context("the lock has just gone")?;
    }
    // In this order it needs no room that it does not have already: the disk may be full.
    let written = disk.write_at(&file, ours.as_bytes(), 0);
    let written = written.and_then(|()| disk.truncate(&file, ours.len() as u64));
    written.with_context(|| format!("cannot write `{}`", disk.shown(&path)))?;
    Ok(file)
}

/// Waits a moment for the last session.
fn wait(disk: &Disk, deadline: Instant) -> Result<()> {
    if Instant::now() > deadline {
        bail!("the last session of this pipeline still writes to `{}`", disk.shown(&own(".")));
    }
    std::thread::sleep(LOOK_EVERY);
    Ok(())
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
    use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

    use super::super::confined::Root;
    use super::*;

    fn disk(folder: &std::path::Path) -> Disk {
        let disk = Disk::new(Root::open_or_create(folder, 0o700).unwrap(), 0o600);
        disk.create_folders(&own("lock")).unwrap();
        disk
    }

    fn owner(pipeline: &str) -> Owner {
        Owner { pipeline: pipeline.to_owned(), host: "here".to_owned(), lock: Arc::default() }
    }

    #[test]
    fn a_second_owner_is_told_who_the_first_is() {
        let folder = tempfile::tempdir().unwrap();
        let disk = disk(folder.path());
        let first = owner("central logs");
        let lock = first.lock(&disk).unwrap();
        let error = owner("other").lock(&disk).unwrap_err();
        assert!(error.is::<Fatal>());
        let (text, process) = (error.to_string(), std::process::id());
        assert!(text.contains(&format!("pipeline `central logs`, process {process},")), "{text}");
        drop(lock);
        assert!(owner("other").lock(&disk).unwrap_err().is::<Fatal>(), "between two sessions");
        drop(first);
        owner("other").lock(&disk).unwrap();
    }

    #[test]
    fn of_two_that_start_at_once_one_is_told_who_the_other_is() {
        for _ in 0..50 {
            let folder = tempfile::tempdir().unwrap();
            let disk = disk(folder.path());
            let start = std::sync::Barrier::new(2);
            let owners = [owner("one"), owner("two")];
            let take = |owner: &Owner| {
                start.wait();
                owner.lock(&disk)
            };
            let (one, two) = std::thread::scope(|scope| {
                let (one, two) = (scope.spawn(|| take(&owners[0])), scope.spawn(|| take(&owners[1])));
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
        let owner = owner("same");
        let lock = owner.lock(&disk).unwrap();
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let next = scope.spawn(|| {
                let _lock = owner.lock(&disk).unwrap();
                is_over.load(SeqCst)
            });
            std::thread::sleep(LOOK_EVERY);
            is_over.store(true, SeqCst);
            drop(lock);
            assert!(next.join().unwrap(), "two sessions at once");
        });
    }

    #[test]
    fn the_lock_of_a_folder_that_was_made_anew_is_taken_anew() {
        let folder = tempfile::tempdir().unwrap();
        let first = owner("first");
        drop(first.lock(&disk(folder.path())).unwrap());
        std::fs::remove_dir_all(folder.path()).unwrap();
        let disk = disk(folder.path());
        drop(first.lock(&disk).unwrap());
        assert!(owner("other").lock(&disk).unwrap_err().is::<Fatal>());
    }
}
