//! Whether what is written to is still what stands at its path: [`Writer::check_folders`].
//!
//! Files that others rename or delete are followed by new ones, and nothing is lost by a rename. A folder is another
//! matter: whoever moves it away or mounts something over it hides what goes on being written to it, and a commit
//! would tell everybody that it is safe.

use std::collections::HashMap;
use std::collections::hash_map::Entry as Known;

use anyhow::{Result, bail};

use super::disk::Cure;
use super::ledger::{Entry, FileId};
use super::outputs::{LOSSES, OutputId};
use super::writer::Writer;

impl Writer {
    /// Makes sure that what was written since the last record stands where people look for it.
    ///
    /// # Errors
    ///
    /// A folder is no longer the one at its path: only a new session writes to what is there now.
    pub(super) fn check_folders(&self) -> Result<()> {
        self.disk.check_root()?;
        let mut folders = HashMap::new();
        for file in self.files.changed() {
            let Some(live) = self.files.get(*file).filter(|live| !self.outputs.is_lost(live.output)) else {
                continue;
            };
            let Some(place) = live.place else { continue };
            let path = &live.record.path;
            let there = match folders.entry(path.folder()) {
                Known::Occupied(there) => *there.get(),
                Known::Vacant(unknown) => match self.disk.folder_of(path) {
                    // Nobody can tell, and what is open can be written.
                    Err(error) if Cure::of(&error) == Cure::Hold => continue,
                    there => *unknown.insert(there?),
                },
            };
            // What was deleted is gone with its folder: see `check_is_in_place`.
            if there != place.folder && self.files.is_linked(*file)? != Some(false) {
                bail!(
                    "the folder of `{}` is no longer the one that was opened: it was moved away, or something was mounted over it; what was written since the last commit does not count, and is written to what is there now",
                    self.disk.shown(path)
                );
            }
        }
        Ok(())
    }

    /// Whoever renames or deletes an active file, as logrotate does, gets a new one.
    pub(super) fn check_is_in_place(&mut self, file: FileId, output: OutputId) -> Result<()> {
        let Some(record) = self.ledger.state().files.get(file) else { return Ok(()) };
        if self.outputs.active(output) != Some(file) {
            return Ok(());
        }
        let there = match self.disk.stat(&record.path) {
            // What cannot be looked at is looked at again with the next commit.
            Err(error) if Cure::of(&error) == Cure::Hold => return Ok(()),
            there => there?.filter(|entry| entry.is(record.identity)),
        };
        let path = self.disk.shown(&record.path);
        match there {
            Some(entry) if output == LOSSES && entry.length < record.length => warn_of_emptied_notes(&path),
            Some(_) => return Ok(()),
            None if self.files.is_linked(file)? == Some(false) => {
                tracing::warn!("`{path}` was deleted by somebody else: going on in a new file");
            }
            None => tracing::info!("`{path}` was rotated by somebody else: going on in a new file"),
        }
        let forgotten = self.forget(file, output);
        self.settled.push(forgotten);
        Ok(())
    }

    /// Goes on in another file; returns what the ledger has to be told.
    pub(super) fn forget(&mut self, file: FileId, output: OutputId) -> Entry {
        self.files.remove(file);
        self.outputs.set_active(output, None);
        Entry::Forget(file)
    }
}

/// Notes of losses are for people, who empty them when they have read them.
pub(super) fn warn_of_emptied_notes(path: &str) {
    tracing::warn!("`{path}` was emptied by somebody else: notes go on in what is there");
}
