//! The sink's state machine: [`Writer`]. It blocks, and knows no async: [`sink`](super::sink) runs it on a
//! thread of its own.

use std::collections::{HashMap, HashSet, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Error, Result, bail};
use bytes::Bytes;
use fshipper_pipeline::{
    Backoff, Batch, Checkpoint, Complaint, Content, Epoch, Escaped, Origin, Position, Written,
};
use jiff::Timestamp;

use super::compress::Compressor;
use super::config::Plan;
use super::confined::{Root, folder_mode};
use super::disk::{Cure, Disk, OfEverything};
use super::files::Files;
use super::ledger::{Entry, FileId, Ledger, OriginId, Stage, Tail, own};
use super::lock::{Lock, Owner};
use super::outputs::{Author, LOSSES, OutputId, Outputs};
use super::recovery;
use super::retention::{Retention, make_room_at_start};
use super::rotation::{self, Next, split};
use super::stop::Stop;
use super::syncing::Syncing;

/// Writes batches to files, and commits them.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) plan: Plan,
    pub(super) disk: Arc<Disk>,
    pub(super) ledger: Ledger,
    pub(super) outputs: Outputs,
    pub(super) files: Files,
    /// Where the origins stand that were written since the last record.
    pub(super) moved: HashMap<OriginId, Position>,
    /// Those of them with a loss that is noted since.
    pub(super) noted: HashSet<OriginId>,
    /// What the next record has to tell besides.
    pub(super) settled: Vec<Entry>,
    /// The origins that took a batch which will not be written, each with the reason. Until the pump knows
    /// of them, no cursor is recorded: it may lie behind such a batch.
    pub(super) casualties: HashMap<Origin, String>,
    pub(super) next_file: FileId,
    pub(super) compressor: Compressor,
    /// Rotated files that are to be compressed, the oldest first.
    pub(super) to_compress: VecDeque<FileId>,
    pub(super) retention: Retention,
    /// When the first file that waits to be created began to wait.
    unborn_since: Option<Instant>,
    stop: Arc<Stop>,
    is_full: bool,
    full: Complaint,
    full_pause: Backoff,
    /// The record that is on its way to the disk. Before the lock, which is let go when nobody writes any more.
    pub(super) syncing: Option<Syncing>,
    /// The commit that has come to its end, until somebody asks: what was held of it.
    pub(super) committed: Option<Vec<(Origin, String)>>,
    #[cfg(test)]
    pub(super) syncs_late: bool,
    pub(super) owner: Owner,
    _lock: Lock,
}

/// How much may wait in memory before it is written out: one call of the kernel for a large batch, and for
/// many small ones.
const WRITE_OUT_BYTES: usize = 1 << 20;

/// How long a new file waits for others, so that one fsync serves the intents of all.
const WAIT_FOR_OTHERS: Duration = Duration::from_millis(5);

/// The pauses between two tries while the disk is full.
pub(super) const FULL_FIRST: Duration = Duration::from_millis(100);
const FULL_MOST: Duration = Duration::from_secs(5);

impl Writer {
    /// Opens the output for a session of `owner` and repairs what a crash has left.
    ///
    /// # Errors
    ///
    /// A [`Fatal`](fshipper_pipeline::Fatal) when another pipeline owns the output, or the ledger is damaged or
    /// newer; others may be gone the next time.
    pub(super) fn open(plan: Plan, owner: Owner, stop: Arc<Stop>) -> Result<Self> {
        let fixed: &Path = plan.template.fixed();
        let disk = Arc::new(Disk::new(Root::open_or_create(fixed, folder_mode(plan.mode))?, plan.mode));
        Self::open_on(disk, plan, owner, stop)
    }

    pub(super) fn open_on(disk: Arc<Disk>, plan: Plan, owner: Owner, stop: Arc<Stop>) -> Result<Self> {
        disk.create_folders(&own("lock"))?;
        let lock = owner.lock(&disk)?;
        let make_room = |state: &_| make_room_at_start(&disk, state, &plan.keep);
        let mut ledger = Ledger::open(disk.clone(), plan.limits.ledger, make_room)?;
        let unsettled = recovery::settle_intents(&disk, &mut ledger)?;
        let (mut outputs, mut changes) = Outputs::new(&plan.template, ledger.state());
        recovery::finish_retired(&disk, ledger.state(), &mut changes, plan.limits.single_syncs)?;
        ledger.append(&mut changes)?;
        for (family, reason) in unsettled {
            if let Some(output) = outputs.of_family(&family) {
                outputs.hold(output, reason);
            }
        }
        recovery::check_active_files(&disk, &mut ledger, &mut outputs)?;
        let rotated = ledger.state().files.iter().filter(|(_, record)| record.stage == Stage::Rotated);
        let to_compress = rotated.map(|(id, _)| id).collect();
        Ok(Self {
            next_file: ledger.state().next_file_id(),
            files: Files::new(disk.clone(), &plan.limits),
            compressor: Compressor::new(disk.clone(), stop.clone()),
            full_pause: Backoff::new(plan.limits.full_pause, FULL_MOST),
            plan,
            disk,
            ledger,
            outputs,
            moved: HashMap::new(),
            noted: HashSet::new(),
            settled: Vec::new(),
            casualties: HashMap::new(),
            to_compress,
            retention: Retention::new(),
            unborn_since: None,
            stop,
            is_full: false,
            full: Complaint::default(),
            syncing: None,
            committed: None,
            #[cfg(test)]
            syncs_late: false,
            owner,
            _lock: lock,
        })
    }

    /// What is durable.
    pub(super) fn checkpoint(&self) -> Checkpoint {
        self.ledger.state().checkpoint()
    }

    /// Takes a batch that continues its origin; `answered`: the pump waits for what this returns, and knows
    /// then that a held batch was not taken.
    pub(super) fn accept(&mut self, batch: &Batch, answered: bool) -> Result<Written> {
        if answered && let Some(reason) = self.refusal(batch) {
            return Ok(Written::Held(reason));
        }
        let (author, entry) =
            self.outputs.author_or_new(&self.plan.template, self.ledger.state(), &batch.origin);
        self.settled.extend(entry);
        // A loss needs its note as well.
        let notes = matches!(batch.content, Content::Loss { .. }).then_some(LOSSES);
        let needed = || [author.output].into_iter().chain(notes);
        for output in needed() {
            // Whoever cannot go back offers the same batch again.
            if answered && self.outputs.is_mendable(output) {
                recovery::check_held_file(&self.disk, &mut self.ledger, &mut self.outputs, output)?;
            }
        }
        let held = match needed().find_map(|output| self.outputs.held(output)) {
            Some(reason) => reason.to_owned(),
            None => match self.place(batch, author) {
                Ok(()) => return Ok(Written::Accepted),
                Err(error) if error.is::<OfEverything>() => return Err(error),
                Err(error) if Cure::of(&error) == Cure::Hold || self.outputs.is_lost(author.output) => {
                    format!("{error:#}")
                }
                Err(error) => return Err(error),
            },
        };
        if !answered {
            self.outputs.hold(author.output, held.clone());
            self.casualties.entry(batch.origin.clone()).or_insert_with(|| held.clone());
        }
        Ok(Written::Held(held))
    }

    fn place(&mut self, batch: &Batch, author: Author) -> Result<()> {
        let before = self.position(author.id);
        let expected = before.filter(|(epoch, _)| *epoch == batch.epoch).map_or(0, |(_, offset)| offset);
        if batch.start != expected {
            bail!("`{}` goes on at {}, and the sink stands at {expected}", batch.origin, batch.start);
        }
        if let Some((epoch, _)) = before.filter(|(epoch, _)| *epoch != batch.epoch) {
            tracing::info!(origin = %batch.origin, %epoch, next = %batch.epoch, "a new history begins");
            self.break_line(author)?;
        }
        match &batch.content {
            Content::Data(bytes) => self.place_data(batch, author, bytes.clone()),
            Content::Loss { missing, reason } => {
                self.settle_lines_of(author)?;
                self.note_loss(batch, *missing, reason)?;
                self.noted.insert(author.id);
                self.break_line(author)?;
                self.advance(batch, author, batch.end());
                Ok(())
            }
        }
    }

    fn place_data(&mut self, batch: &Batch, author: Author, mut rest: Bytes) -> Result<()> {
        let mut offset = batch.start;
        while !rest.is_empty() {
            let file = match self.active(author.output)? {
                Some(file) => file,
                None => self.begin_file(author.output, &batch.origin, Next::Period(batch.time))?,
            };
            let record = &self.files.live(file).record;
            let unfinished = record.tail == Tail::Unfinished(author.id);
            let moved_on = rotation::moved_on(&self.plan.calendar, record.period, batch.time);
            let taken = split(&rest, record.length, unfinished, moved_on, self.plan.max_bytes);
            if taken == 0 {
                self.rotate(file, &batch.origin, batch.time, moved_on)?;
                continue;
            }
            self.files.push(file, Some(author.id), rest.split_to(taken));
            offset += taken as u64;
            self.advance(batch, author, offset);
        }
        if self.files.waiting_bytes() >= WRITE_OUT_BYTES { self.flush() } else { Ok(()) }
    }

    fn advance(&mut self, batch: &Batch, author: Author, offset: u64) {
        let position = Position { epoch: batch.epoch, offset, place: batch.place.clone() };
        self.moved.insert(author.id, position);
    }

    /// Where an origin stands, with what was taken since the last record.
    fn position(&self, origin: OriginId) -> Option<(Epoch, u64)> {
        let durable = || self.ledger.state().history(origin).map(|history| &history.current);
        let position = self.moved.get(&origin).or_else(durable)?;
        Some((position.epoch, position.offset))
    }

    /// The line that an origin has begun will not be finished: the next one begins a line of its own.
    fn break_line(&mut self, author: Author) -> Result<()> {
        let Some(file) = self.active(author.output)? else { return Ok(()) };
        let live = self.files.live(file);
        if live.record.tail == Tail::Unfinished(author.id) {
            live.record.tail = Tail::Broken;
            self.files.note_change(file);
        }
        Ok(())
    }

    /// Finds out whether what was taken for an origin can be written. If it cannot, the origin goes back to
    /// the last record, and a note of its loss, which stands in another file, would be written twice.
    fn settle_lines_of(&mut self, author: Author) -> Result<()> {
        self.flush()?;
        if let Some(reason) = self.outputs.held(author.output) {
            bail!("{reason}");
        }
        match self.active(author.output)? {
            Some(file) => self.files.open(file),
            None => Ok(()),
        }
    }

    /// Writes a line about a loss, for people, as exactly once as everything else.
    fn note_loss(&mut self, batch: &Batch, missing: u64, reason: &str) -> Result<()> {
        let time =
            Timestamp::try_from(batch.time).map_or_else(|_| "?".to_owned(), |time| format!("{time:.0}"));
        let amount = if missing == 0 { "an unknown number of".to_owned() } else { missing.to_string() };
        let line = format!(
            "{time} {} epoch {} offset {}: lost {amount} bytes: {}\n",
            batch.origin,
            batch.epoch,
            batch.start,
            Escaped(reason.as_bytes())
        );
        let file = match self.active(LOSSES)? {
            Some(file) => file,
            None => self.begin_file(LOSSES, &batch.origin, Next::Period(batch.time))?,
        };
        self.files.push(file, None, line.into());
        Ok(())
    }

    /// The file that the next line of an output goes to.
    pub(super) fn active(&mut self, output: OutputId) -> Result<Option<FileId>> {
        let Some(file) = self.outputs.active(output) else { return Ok(None) };
        if self.files.get(file).is_none() {
            // Its name is all that is known of it; and people empty the notes when they have read them.
            if output == LOSSES || !self.files.is_open(file) {
                self.check_is_in_place(file, output)?;
                if self.outputs.active(output).is_none() {
                    return Ok(None);
                }
            }
            let record = self.ledger.state().files.get(file).context("an active file is in the ledger")?;
            self.files.insert(file, output, record.clone(), super::files::Birth::Recorded);
        }
        Ok(Some(file))
    }

    /// Writes out what waits: first, durably, what is about to happen to files that nobody knows yet.
    ///
    /// # Errors
    ///
    /// [Of everything](OfEverything): what waits for other files is not written either.
    pub(super) fn flush(&mut self) -> Result<()> {
        self.try_flush().map_err(OfEverything::seal)
    }

    fn try_flush(&mut self) -> Result<()> {
        self.unborn_since = None;
        if !self.settled.is_empty() {
            let mut entries = std::mem::take(&mut self.settled);
            self.log(&mut entries)?;
            self.outputs.forget_unrecorded();
        }
        for file in self.files.take_waiting() {
            let Some(output) = self.files.get(file).map(|live| live.output) else { continue };
            if self.outputs.is_lost(output) {
                continue;
            }
            match self.patiently(|writer| writer.files.write_out(file)) {
                Ok(()) => {}
                Err(error) if Cure::of(&error) == Cure::Hold && output != LOSSES => {
                    self.lose(output, error)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// What was taken for an output since the last record cannot be written, for the reason of `error`.
    ///
    /// # Errors
    ///
    /// That, when a loss of one of its origins is noted since: only a new session takes the note back.
    fn lose(&mut self, id: OutputId, error: Error) -> Result<()> {
        if self.noted.iter().any(|origin| self.outputs.output_of(*origin) == id) {
            return Err(error);
        }
        let reason = &format!("{error:#}");
        self.outputs.lose(id, reason);
        self.files.drop_waiting(id);
        let (outputs, state) = (&self.outputs, self.ledger.state());
        let mut lost = HashSet::new();
        self.moved.retain(|origin, _| {
            let is_lost = outputs.output_of(*origin) == id;
            if is_lost {
                let origin = state.origin(*origin).expect("the entry of an origin comes before its bytes");
                lost.insert(origin.clone());
            }
            !is_lost
        });
        self.casualties.extend(lost.into_iter().map(|origin| (origin, reason.to_owned())));
        Ok(())
    }

    /// A file that is to be created waits; others may join it.
    pub(super) fn expect_birth(&mut self) {
        self.unborn_since.get_or_insert_with(Instant::now);
    }

    /// How long until what waits is to be written out; `None`: nothing waits.
    pub(super) fn write_out_in(&self) -> Option<Duration> {
        if !self.files.is_waiting() {
            return None;
        }
        let since = self.unborn_since.map(|since| WAIT_FOR_OTHERS.saturating_sub(since.elapsed()));
        Some(since.unwrap_or_default())
    }

    /// Tries again for as long as the disk is full, and deletes old files meanwhile.
    pub(super) fn patiently<T>(&mut self, mut attempt: impl FnMut(&mut Self) -> Result<T>) -> Result<T> {
        loop {
            let error = match attempt(self) {
                Err(error) if Cure::of(&error) == Cure::Wait => error,
                done => {
                    if std::mem::take(&mut self.is_full) {
                        tracing::info!("there is room again in `{}`", self.plan.template.fixed().display());
                        self.full.settle();
                        self.full_pause.reset();
                    }
                    return done;
                }
            };
            self.is_full = true;
            self.full.report(&format!("{error:#}: waiting for room"), |message| tracing::error!("{message}"));
            if !self.make_room()? {
                self.stop.sleep(self.full_pause.pause())?;
            }
        }
    }
}
