//! A record on its way to the disk, beside the writing: [`Syncing`].
//!
//! ```text
//! writer   write  begin ──► write  write  (what needs the ledger waits)  finish ─► write
//! thread            └─ sync the files, sync the folders, append the record, sync the ledger
//! ```
//!
//! Data first, as ever. What is written to the same files meanwhile lies behind the lengths in the record, and a
//! start after a crash cuts it off. One record at a time: the ledger is a sequence.

use std::fs::File;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::thread::{self, JoinHandle};

use anyhow::{Context as _, Result, anyhow, bail};
use fshipper_pipeline::Origin;

use super::disk::Disk;
use super::ledger::Frame;
use super::names::FilePath;

/// What is to be synced before a record may say that it is there.
#[derive(Debug, Default)]
pub(super) struct Unsynced {
    /// The files one by one ...
    pub(super) files: Vec<(FilePath, Arc<File>)>,
    /// ... these too, of which only the identity is known ...
    pub(super) closed: Vec<(FilePath, u64)>,
    /// ... and the folders of these, which are new.
    pub(super) folders_of: Vec<FilePath>,
    /// The whole file system of the output. What is left to sync one by one then stands on another one.
    pub(super) everything: bool,
}

/// What makes one record durable.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) disk: Arc<Disk>,
    pub(super) unsynced: Unsynced,
    /// `None` when there is nothing to say.
    pub(super) frame: Option<Frame>,
}

/// The record that is on its way. Whoever drops it waits: nobody may touch the ledger before.
#[derive(Debug)]
pub(super) struct Syncing {
    way: Way,
    /// Of a commit: the origins of batches that were taken and could not be written, each with the reason. For the
    /// pump, once the record is durable.
    pub(super) held: Option<Vec<(Origin, String)>>,
}

#[derive(Debug)]
enum Way {
    Thread {
        outcome: Receiver<Result<()>>,
        thread: Option<JoinHandle<()>>,
    },
    /// When somebody waits for it: the latest that a thread can be.
    #[cfg(test)]
    Late(Job),
}

impl Job {
    /// Blocks until everything is durable.
    ///
    /// # Errors
    ///
    /// Nothing of the record counts, and nobody knows what is on the disk: a sync is never tried again.
    pub(super) fn run(&self) -> Result<()> {
        let Some(frame) = &self.frame else { return self.sync_data() };
        if let Err(error) = self.sync_data() {
            // A deleted folder shows itself in whatever is done next to it: say what it means.
            return Err(match frame.check_is_in_place() {
                Ok(()) => error,
                Err(gone) => error.context(gone),
            });
        }
        frame.make_durable()
    }

    fn sync_data(&self) -> Result<()> {
        let Self { disk, unsynced: Unsynced { files, closed, folders_of, everything }, .. } = self;
        if *everything {
            // It covers the folders of new files as well.
            disk.sync_everything()?;
        }
        for (path, file) in files {
            disk.sync(file).with_context(|| format!("cannot sync `{}`", disk.shown(path)))?;
        }
        for (path, identity) in closed {
            let shown = disk.shown(path);
            match disk.open(path)? {
                Some(file) if disk.look_at(&file)?.is(*identity) => disk.sync(&file),
                _ => bail!("`{shown}` was removed or replaced before it was synced"),
            }
            .with_context(|| format!("cannot sync `{shown}`"))?;
        }
        if folders_of.is_empty() { Ok(()) } else { disk.sync_folders(folders_of) }
    }
}

impl Syncing {
    /// Starts the job on a thread; `bell` is dropped when it is over.
    pub(super) fn start(
        job: Job,
        held: Option<Vec<(Origin, String)>>,
        bell: impl Send + 'static,
    ) -> Result<Self> {
        let (sender, outcome) = sync_channel(1);
        let thread = thread::Builder::new().name("sync".to_owned()).spawn(move || {
            // Dropped from the last to the first, however the thread ends: the outcome is known before the bell rings.
            let (_bell, sender) = (bell, sender);
            // Whoever waits for it may be gone.
            let _ = sender.send(job.run());
        });
        let thread = Some(thread.context("cannot start a thread")?);
        Ok(Self { way: Way::Thread { outcome, thread }, held })
    }

    /// The same job, done by whoever waits for it.
    #[cfg(test)]
    pub(super) fn late(job: Job, held: Option<Vec<(Origin, String)>>) -> Self {
        Self { way: Way::Late(job), held }
    }

    /// What came of it, once it is over.
    pub(super) fn poll(&self) -> Option<Result<()>> {
        match &self.way {
            Way::Thread { outcome, .. } => match outcome.try_recv() {
                Ok(outcome) => Some(outcome),
                Err(TryRecvError::Empty) => None,
                Err(TryRecvError::Disconnected) => Some(Err(died())),
            },
            #[cfg(test)]
            Way::Late(_) => None,
        }
    }

    /// Waits until it is over.
    pub(super) fn wait(&self) -> Result<()> {
        match &self.way {
            Way::Thread { outcome, .. } => outcome.recv().unwrap_or_else(|_| Err(died())),
            #[cfg(test)]
            Way::Late(job) => job.run(),
        }
    }
}

impl Drop for Syncing {
    fn drop(&mut self) {
        if let Way::Thread { thread, .. } = &mut self.way
            && let Some(thread) = thread.take()
        {
            // A panic shows in the outcome.
            let _ = thread.join();
        }
    }
}

fn died() -> anyhow::Error {
    anyhow!("the thread that syncs has died")
}
