//! What makes written bytes count: [`Writer::begin_commit`].
//!
//! Data first, then the record that describes them: 1 everything is written; 2 the dirty files are synced, and
//! the folders of new ones; 3 one record is appended to the ledger and synced. The second and third step are done
//! [beside](super::syncing) the writing. A sync that fails is never tried again: nobody knows then which pages the
//! kernel has dropped.

use std::collections::HashSet;
use std::sync::Arc;

use anyhow::{Error, Result, anyhow, bail, ensure};
use fshipper_pipeline::{Checkpoint, Cursor, History, Origin, Position};

use super::disk::OfEverything;
use super::files::Birth;
use super::in_place::warn_of_emptied_notes;
use super::ledger::{Entry, FileId, Intent, OriginId, Stage};
use super::outputs::{LOSSES, OutputId};
use super::syncing::{Job, Syncing};
use super::writer::Writer;

/// What changed in the pump's checkpoint since the last commit.
#[derive(Debug, Default)]
pub(super) struct Claims {
    origins: Vec<(Origin, Arc<History>)>,
    cursors: Vec<Cursor>,
}

impl Claims {
    pub(super) fn of(checkpoint: &Checkpoint) -> Self {
        let origins = checkpoint.changed_histories();
        let origins = origins.map(|(origin, history)| (origin.clone(), history.clone()));
        let mut cursors = Vec::new();
        if checkpoint.cursors_changed() {
            let all = checkpoint.cursors();
            cursors.extend(all.map(|(transport, position)| Cursor {
                transport: transport.clone(),
                position: position.clone(),
            }));
        }
        Self { origins: origins.collect(), cursors }
    }
}

impl Writer {
    /// Makes everything written durable, and what the pump claims. `hangup`: then closes all files.
    ///
    /// Returns the origins of batches that were taken and could not be written, each with the reason:
    /// nothing of those is claimed.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(super) fn commit(&mut self, claims: Claims, hangup: bool) -> Result<Vec<(Origin, String)>> {
        self.begin_commit(claims, hangup, ())?;
        self.finish_record()?;
        Ok(self.committed.take().unwrap_or_default())
    }

    /// Begins to make durable everything written, and what the pump claims. `hangup`: closes all files. Whoever
    /// wants to know when it is over gives a `bell`, which is dropped then.
    pub(super) fn begin_commit(
        &mut self,
        claims: Claims,
        hangup: bool,
        bell: impl Send + 'static,
    ) -> Result<()> {
        self.begin_record(Some(claims), bell)?;
        if hangup {
            for (file, output) in self.outputs.active_files().collect::<Vec<_>>() {
                self.check_is_in_place(file, output)?;
            }
            self.files.close_all();
        }
        Ok(())
    }

    /// A commit that has come to its end, told once: the origins of batches that were taken and could not be
    /// written, each with the reason. Nothing of those is claimed.
    pub(super) fn take_committed(&mut self) -> Result<Option<Vec<(Origin, String)>>> {
        if let Some(outcome) = self.syncing.as_ref().and_then(Syncing::poll) {
            self.settle_record(outcome)?;
        }
        Ok(self.committed.take())
    }

    /// Whether a record is on its way to the disk.
    pub(super) fn is_syncing(&self) -> bool {
        self.syncing.is_some()
    }

    /// One record of everything since the last one, durable. No cursor moves, since it may lie behind what the pump
    /// has not handed over yet.
    pub(super) fn record(&mut self) -> Result<()> {
        self.begin_record(None, ()).map_err(OfEverything::seal)?;
        self.finish_record()
    }

    /// Appends one record of these entries, durable, when the one before is.
    pub(super) fn log(&mut self, entries: &mut Vec<Entry>) -> Result<()> {
        self.finish_record()?;
        self.patiently(|writer| writer.ledger.append(entries)).map_err(OfEverything::seal)
    }

    /// Waits until the record that is on its way is durable, if one is.
    pub(super) fn finish_record(&mut self) -> Result<()> {
        match self.syncing.as_ref().map(Syncing::wait) {
            Some(outcome) => self.settle_record(outcome).map_err(OfEverything::seal),
            None => Ok(()),
        }
    }

    fn settle_record(&mut self, outcome: Result<()>) -> Result<()> {
        let syncing = self.syncing.take();
        self.ledger.end(outcome.is_ok());
        outcome?;
        if let Some(held) = syncing.and_then(|mut syncing| syncing.held.take()) {
            self.committed = Some(held);
        }
        Ok(())
    }

    /// Begins one record of everything since the last one; without `claims` the sink does so of its own accord.
    fn begin_record(&mut self, claims: Option<Claims>, bell: impl Send + 'static) -> Result<()> {
        self.finish_record()?;
        self.flush()?;
        self.check_folders()?;
        let lost = self.lost();
        let unsynced = self.files.take_unsynced(&lost);
        let is_commit = claims.is_some();
        let mut entries = std::mem::take(&mut self.settled);
        let accepted = self.collect_positions(claims, &mut entries)?;
        self.collect_files(&lost, &mut entries)?;
        let frame = self.patiently(|writer| writer.ledger.begin(&mut entries))?;
        self.ledger.share(accepted);
        self.moved.clear();
        self.noted.clear();
        let (active, rotated) = self.files.settle(&lost);
        self.to_compress.extend(rotated);
        let held = is_commit.then(|| self.casualties.drain().collect());
        let job = Job { disk: self.disk.clone(), unsynced, frame };
        self.syncing = Some(self.start_syncing(job, held, bell)?);
        active.into_iter().try_for_each(|(file, output)| self.check_is_in_place(file, output))
    }

    fn start_syncing(
        &self,
        job: Job,
        held: Option<Vec<(Origin, String)>>,
        bell: impl Send + 'static,
    ) -> Result<Syncing> {
        #[cfg(test)]
        if self.syncs_late {
            return Ok(Syncing::late(job, held));
        }
        Syncing::start(job, held, bell)
    }

    /// Tells whether an output has lost what was taken for it.
    fn lost(&self) -> impl Fn(OutputId) -> bool + use<> {
        let lost: HashSet<OutputId> = self.outputs.lost().collect();
        move |output| lost.contains(&output)
    }

    /// Returns the claims that the ledger will hold as they are.
    fn collect_positions(
        &mut self,
        claims: Option<Claims>,
        entries: &mut Vec<Entry>,
    ) -> Result<Vec<(OriginId, Arc<History>)>> {
        let mut accepted = Vec::new();
        let Claims { origins, cursors } = claims.unwrap_or_default();
        if self.casualties.is_empty() {
            entries.extend(cursors.into_iter().map(Entry::Cursor));
        }
        for (origin, claimed) in origins {
            let Some(author) = self.outputs.author(self.ledger.state(), &origin) else {
                if claimed.current.offset == 0 {
                    continue;
                }
                bail!(
                    "the checkpoint claims {} bytes of `{origin}`, which never wrote any",
                    claimed.current.offset
                );
            };
            let held = self.outputs.held(author.output).is_some();
            let durable = self.ledger.state().history(author.id);
            let ours = self.moved.get(&author.id).or(durable.map(|history| &history.current));
            if !held && is_beyond(&claimed.current, ours) {
                bail!(
                    "the checkpoint claims `{origin}` up to {}, further than was written",
                    claimed.current.offset
                );
            }
            // Of an origin whose end is as claimed the pump knows more: where the source finds it, and all epochs.
            let same_end = ours.is_some_and(|ours| same_end(ours, &claimed.current));
            if same_end && durable != Some(&*claimed) {
                self.moved.remove(&author.id);
                let plain = durable.is_some_and(|durable| follows(durable, &claimed));
                entries.push(match plain {
                    true => Entry::Position(author.id, claimed.current.clone()),
                    false => Entry::History(author.id, Some(History::clone(&claimed))),
                });
                accepted.push((author.id, claimed));
            }
        }
        entries.extend(self.moved.iter().map(|(id, position)| Entry::Position(*id, position.clone())));
        Ok(accepted)
    }

    fn collect_files(&mut self, lost: impl Fn(OutputId) -> bool, entries: &mut Vec<Entry>) -> Result<()> {
        for file in self.files.changed().to_vec() {
            let length = self.files.length(file)?;
            let live = self.files.live(file);
            if lost(live.output) {
                continue;
            }
            let taken = live.record.length;
            ensure!(live.written == taken, "of {taken} bytes taken for a file {} are written", live.written);
            if let Some(length) = length.filter(|length| *length != live.written) {
                let path = self.disk.shown(&live.record.path);
                if length < live.written && live.output == LOSSES {
                    warn_of_emptied_notes(&path);
                    entries.push(self.forget(file, LOSSES));
                    continue;
                }
                if length < live.written {
                    return Err(self.refuse_cut(file, length));
                }
                tracing::warn!("somebody else writes to `{path}` too");
                (live.written, live.record.length) = (length, length);
            }
            let grown = live.birth == Birth::Recorded && live.record.stage == Stage::Active;
            let period = self.ledger.state().files.get(file).map(|record| record.period);
            let record = &live.record;
            entries.push(match grown && period == Some(record.period) {
                true => Entry::Length(file, record.length, record.tail),
                false => Entry::File(file, record.clone()),
            });
        }
        Ok(())
    }

    /// The error of a file that is shorter than what was written to it.
    ///
    /// Its length goes to the ledger as it should be. The committed one alone may be there again, of bytes
    /// that were written after the cut: then the next session would take them for what was committed, and
    /// write them a second time. What was committed goes there too: only that is kept when the rest comes again.
    fn refuse_cut(&mut self, file: FileId, length: u64) -> Error {
        let live = self.files.live(file);
        let path = self.disk.shown(&live.record.path);
        let error = anyhow!(
            "`{path}` was cut by somebody else: {length} bytes are left of {}; rotate it by renaming it",
            live.written
        );
        let Some(committed) = self.ledger.state().files.get(file).filter(|_| live.birth == Birth::Recorded)
        else {
            return error;
        };
        let restore = Intent::Restore { length: committed.length, tail: committed.tail };
        let length = Entry::Length(file, live.written, live.record.tail);
        let mut entries = vec![length, Entry::Intent(file, restore)];
        match self.ledger.append(&mut entries) {
            Ok(()) => error,
            Err(failed) => failed.context(error),
        }
    }
}

fn same_end(ours: &Position, claimed: &Position) -> bool {
    (ours.epoch, ours.offset) == (claimed.epoch, claimed.offset)
}

/// Whether more is claimed than was written.
fn is_beyond(claimed: &Position, ours: Option<&Position>) -> bool {
    match ours {
        Some(ours) if ours.epoch == claimed.epoch => claimed.offset > ours.offset,
        _ => claimed.offset > 0,
    }
}

/// Whether a position entry makes `claimed` out of `durable`.
fn follows(durable: &History, claimed: &History) -> bool {
    if durable.current.epoch == claimed.current.epoch {
        return durable.earlier == claimed.earlier;
    }
    let mut followed = durable.clone();
    followed.go_to(claimed.current.clone());
    followed == *claimed
}
