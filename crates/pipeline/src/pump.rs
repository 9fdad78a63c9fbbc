//! The loop that moves one source into one sink: [`pump`].
//!
//! ```text
//! reader   batches(source) until stop ──► bounded channel ──► writer
//! writer   admit ─► write ─► at commit_bytes or commit_interval: begin to commit, and go on
//! ```
//!
//! Invariants:
//!
//! - **Stopping is the channel closing.** The reader stops; the writer takes what is left, commits and
//!   returns. No sink sees a stop signal. A source's error drains the same way; a sink's error, which drops
//!   the channel's other end, stops an idle reader.
//! - Bytes are counted, not batches: a batch holds its share of the budget until its last clone is gone, in
//!   the channel, in the writer, and in whatever queue a sink keeps.
//! - The cursor never passes a batch of an origin that is held, or that waits for bytes which are
//!   [missing](gaps).
//! - One [commit](commits) at a time is under way; nothing counts before it is durable.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::metrics::Metrics;
use crate::{
    Admission, Backoff, Batch, Checkpoint, Complaint, Content, Cursor, Fatal, History, Origin, Settings,
    Sink, Source, Written,
};

mod commits;
mod gaps;
mod holds;
mod losses;
mod rereading;
mod room;

use commits::UnderWay;
use gaps::{KnownGaps, Waits};
use holds::{HOLD_FIRST, HOLD_MOST, Offers};
use losses::{KnownLosses, Lost};
use rereading::Rereading;
use room::Room;

/// What one hop usually may hold of bytes that are read and not yet written: channel, in flight and waiting.
pub(crate) const HOP_BUDGET_BYTES: usize = 8 << 20;

/// More batches than this wait nowhere: it bounds the channel's own memory, the budget bounds the bytes.
const CHANNEL_BATCHES: usize = 1024;

/// How long the end of a session waits for what follows its commits to be told: a second or two are enough for
/// any server that answers at all.
const SETTLE_PATIENCE: Duration = Duration::from_secs(2);

/// What a pump is given besides its source and sink.
pub(crate) struct Pump<'a> {
    pub(crate) settings: &'a Settings,
    /// Ends the reading.
    pub(crate) stop: CancellationToken,
    pub(crate) hangups: watch::Receiver<u64>,
    pub(crate) metrics: Arc<Metrics>,
    /// What outlives the session.
    pub(crate) memory: &'a mut Memory,
}

/// What a hop remembers of its earlier sessions.
#[derive(Debug)]
pub(crate) struct Memory {
    gaps: KnownGaps,
    losses: KnownLosses,
    /// What was held when the last session ended, so that a reason is reported once.
    held: HashMap<Origin, String>,
    more_held: Complaint,
    hold: Backoff,
    /// How many batches a session reads again because something is held.
    read_again: u64,
    /// The failure that was reported: that it is over is worth a line too.
    pub(crate) trouble: Option<Trouble>,
}

/// A failure of a hop that was reported.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trouble {
    /// The hop's name.
    pub(crate) hop: &'static str,
    /// Whether it is over with the next session; else with the next commit.
    pub(crate) works_once_open: bool,
}

impl Trouble {
    fn is_over(self, pipeline: &str) {
        let news = if self.works_once_open { "opened again" } else { "works again" };
        tracing::info!(pipeline, hop = self.hop, "{news}: going on");
    }
}

impl Memory {
    /// Fails with one of those that are held, if any are.
    pub(crate) fn give_up_held(&self) -> Result<()> {
        let Some((origin, reason)) = self.held.iter().min_by_key(|(origin, _)| *origin) else {
            return Ok(());
        };
        let others = match self.held.len() - 1 {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        Err(Fatal::new(format!(
            "`{origin}`{others} cannot go on: {reason}; everything else that was there is shipped"
        )))
    }
}

impl Default for Memory {
    fn default() -> Self {
        let hold = Backoff::new(HOLD_FIRST, HOLD_MOST);
        Self {
            gaps: KnownGaps::default(),
            losses: KnownLosses::default(),
            held: HashMap::new(),
            more_held: Complaint::default(),
            hold,
            read_again: 0,
            trouble: None,
        }
    }
}

/// How a session ended when nothing failed; everything that is not held is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The input ended, or reading was stopped.
    Finished,
    /// Held origins are to be tried again: open a new session, not before this moment.
    Again(Instant),
}

/// Moves everything from `source`, which was opened at `checkpoint`, into `sink`, which restored it, until the
/// input ends, reading is stopped, something fails, or held origins are due to be tried again.
///
/// # Errors
///
/// The source's or the sink's. After the source's, all it gave before is committed.
pub(crate) async fn pump(
    source: Box<dyn Source>,
    sink: Box<dyn Sink>,
    checkpoint: Checkpoint,
    pump: Pump<'_>,
) -> Result<Ended> {
    let can_go_back = source.can_go_back();
    let session_stop = pump.stop.child_token();
    let (sender, receiver) = mpsc::channel(CHANNEL_BATCHES);
    let metrics = pump.metrics.clone();
    metrics.progress.start(&checkpoint);
    metrics.origins_held.store(0, Relaxed);
    let budget_bytes = sink.budget_bytes(HOP_BUDGET_BYTES);
    metrics.begin_session();
    let room = Room::new(budget_bytes);
    let starved = room.starved.clone();
    let reader = read_all(source, room, session_stop.clone(), sender, metrics.clone());
    let reader = tokio::spawn(reader);
    let reader = AbortOnDropHandle::new(reader);
    if let Some(trouble) = pump.memory.trouble.take_if(|trouble| trouble.works_once_open) {
        trouble.is_over(&pump.settings.name);
    }

    let writer = Writer {
        sink,
        committed_cursors: checkpoint.clone_cursors(),
        checkpoint,
        before: HashMap::new(),
        held: HashMap::new(),
        offers: Offers::default(),
        waits: Waits::new(metrics.progress.asking()),
        last_read: None,
        retry_at: None,
        rereading: Rereading::new(pump.memory.read_again),
        uncommitted_bytes: 0,
        dirty: false,
        losses: HashSet::new(),
        commit_at: None,
        under_way: None,
        starved,
        settings: pump.settings,
        metrics: &metrics,
        memory: pump.memory,
        can_go_back,
    };
    let ended = writer.run(receiver, session_stop, pump.hangups).await;
    // Whoever asked for it is gone with the sink.
    metrics.progress.forget_reopening();
    // It has nobody to read for any more; what it had read by then is counted.
    let read = reader.await.context("the reader died");
    let (ended, missing) = ended?;
    // The source stays until what it follows is dealt with.
    let source = read??;
    metrics.progress.settle(SETTLE_PATIENCE).await;
    drop(source);
    match missing {
        // The input ended by itself, and what is missing can no longer come.
        Some(missing) if ended == Ended::Finished && !pump.stop.is_cancelled() => Err(Fatal::new(missing)),
        _ => Ok(ended),
    }
}

/// The reader: everything the source gives, into the channel, within the byte budget. A read that is given up
/// is the last one.
async fn read_all(
    mut source: Box<dyn Source>,
    room: Room,
    stop: CancellationToken,
    sender: mpsc::Sender<Batch>,
    metrics: Arc<Metrics>,
) -> Result<Box<dyn Source>> {
    loop {
        let next = tokio::select! {
            biased;
            () = sender.closed() => None,
            () = stop.cancelled() => None,
            next = source.read() => next?,
        };
        let Some(mut batch) = next else { return Ok(source) };
        Metrics::add(&metrics.bytes_read, batch.bytes().len() as u64);
        let lease = tokio::select! {
            biased;
            () = sender.closed() => return Ok(source),
            lease = room.lease(batch.bytes().len()) => lease?,
        };
        batch.lease = Some(lease);
        if sender.send(batch).await.is_err() {
            return Ok(source);
        }
    }
}

struct Writer<'a> {
    sink: Box<dyn Sink>,
    checkpoint: Checkpoint,
    /// What the origins that changed since the last commit was begun were before.
    before: HashMap<Origin, Option<History>>,
    committed_cursors: crate::checkpoint::Cursors,
    held: HashMap<Origin, String>,
    /// What the sink did not take and nobody can read again.
    offers: Offers,
    waits: Waits,
    /// The cursor of the last batch that was taken, whatever became of it.
    last_read: Option<Cursor>,
    retry_at: Option<Instant>,
    rereading: Rereading,
    /// Written since the last commit was begun.
    uncommitted_bytes: u64,
    /// Something changed since then.
    dirty: bool,
    /// The losses written since then.
    losses: HashSet<Lost>,
    commit_at: Option<Instant>,
    under_way: Option<UnderWay>,
    /// Told while the source waits for room.
    starved: Arc<Notify>,
    settings: &'a Settings,
    metrics: &'a Metrics,
    memory: &'a mut Memory,
    can_go_back: bool,
}

impl Writer<'_> {
    async fn run(
        mut self,
        mut batches: mpsc::Receiver<Batch>,
        session_stop: CancellationToken,
        mut hangups: watch::Receiver<u64>,
    ) -> Result<(Ended, Option<String>)> {
        let (mut again_at, metrics) = (None, self.metrics);
        let commit_bytes = self.sink.commit_bytes(self.settings.commit_bytes);
        let starved = self.starved.clone();
        loop {
            let commit_due = sleep_until(self.commit_at);
            let is_committing = self.under_way.is_some();
            let retry_due = sleep_until(self.rereading.postpone(self.retry_at));
            let missing = self.waits.due();
            let (offer_due, is_offering) = (sleep_until(self.offers.due_at()), self.offers.is_waiting());
            tokio::select! {
                biased;
                outcome = commits::outcome(&mut self.under_way) => self.settle_commit(outcome?)?,
                () = commit_due, if !is_committing => self.begin_commit().await?,
                // Batches may be ready without a pause; what is rare comes first.
                () = retry_due, if again_at.is_none() => {
                    again_at = self.retry_at;
                    session_stop.cancel();
                }
                () = missing => self.go_on_waiting(),
                () = metrics.progress.reopening(), if again_at.is_none() => {
                    again_at = Some(Instant::now());
                    session_stop.cancel();
                }
                () = offer_due => self.offer_again().await?,
                batch = batches.recv(), if !is_offering => match batch {
                    Some(batch) => self.take(batch).await?,
                    None => break,
                },
                Ok(()) = hangups.changed() => {
                    self.finish_commit().await?;
                    self.begin_commit().await?;
                    if is_offering {
                        // The sink may have opened its files again.
                        self.finish_commit().await?;
                        self.offer_again().await?;
                    }
                }
                () = starved.notified(), if self.dirty && !is_committing => self.begin_commit().await?,
            }
            self.commit_what_is_enough(commit_bytes).await?;
        }
        self.finish_commit().await?;
        if self.dirty {
            self.begin_commit().await?;
            self.finish_commit().await?;
        }
        self.memory.held = std::mem::take(&mut self.held);
        if self.memory.held.is_empty() {
            self.memory.hold.reset();
            self.memory.read_again = 0;
        } else {
            self.memory.read_again = self.rereading.known();
        }
        // An input that ends while an origin is held is not finished.
        Ok((again_at.or(self.retry_at).map_or(Ended::Finished, Ended::Again), self.waits.unanswered()))
    }

    /// Admits a batch and writes what is new of it.
    async fn take(&mut self, mut batch: Batch) -> Result<()> {
        let cursor = batch.cursor.take();
        if cursor.is_some() {
            self.last_read.clone_from(&cursor);
            self.rereading.note();
        }
        if self.is_superseded(&batch) {
            self.read_again(&batch.origin, "its producer began anew and does not send them again");
        }
        if !self.held.contains_key(&batch.origin) {
            match self.checkpoint.admit(&batch) {
                Admission::Pass => self.write_answer(batch).await?,
                Admission::Cut(count) => {
                    Metrics::add(&self.metrics.bytes_duplicate, count);
                    batch.cut_front(count);
                    self.write_answer(batch).await?;
                }
                Admission::Duplicate => Metrics::add(&self.metrics.bytes_duplicate, batch.span()),
                Admission::Gap { expected } => self.meet_gap(batch, expected).await?,
                Admission::Stale { current } => {
                    let reason = format!(
                        "two producers claim it: its bytes come in epoch {}, after those of epoch {current}; stop one of them, or give them different names: `host` in `[pipeline]`, or `name` of a source `stdin`",
                        batch.epoch
                    );
                    self.hold(&batch.origin, reason, true);
                }
            }
        }
        if self.offers.is_waiting() {
            return Ok(());
        }
        if let Some(cursor) = cursor.filter(|_| self.held.is_empty() && self.waits.is_empty()) {
            self.checkpoint.set_cursor(&cursor);
            self.note_dirty();
            self.rereading.pass();
            self.memory.read_again = self.rereading.known();
        }
        Ok(())
    }

    /// Writes what was admitted. What is not taken and cannot be read again waits, with everything behind it.
    async fn write(&mut self, batch: Batch) -> Result<()> {
        if self.offers.is_waiting() {
            self.offers.add(batch);
            return Ok(());
        }
        match self.sink.write(batch.clone()).await? {
            Written::Accepted => self.note_written(&batch),
            Written::Held(reason) if self.can_go_back => self.hold(&batch.origin, reason, true),
            Written::Held(reason) => self.keep_offering(batch, &reason),
        }
        Ok(())
    }

    fn note_written(&mut self, batch: &Batch) {
        if let Content::Loss { missing, reason } = &batch.content {
            self.note_loss(batch, *missing, reason);
        }
        let (origin, bytes) = (&batch.origin, batch.bytes().len() as u64);
        if !self.before.contains_key(origin) {
            self.before.insert(origin.clone(), self.checkpoint.history(origin).cloned());
        }
        self.checkpoint.advance(batch);
        self.uncommitted_bytes += bytes;
        self.note_dirty();
        Metrics::add(&self.metrics.bytes_written, bytes);
        Metrics::add(&self.metrics.lines_written, count_lines(batch.bytes()));
        Metrics::add(&self.metrics.batches_written, 1);
        if self.memory.gaps.is_empty() && self.memory.held.is_empty() {
            return;
        }
        self.note_arrival(origin);
        if self.memory.held.remove(origin).is_some() {
            tracing::info!(%origin, "goes on");
        }
    }

    fn note_dirty(&mut self) {
        self.dirty = true;
        if self.commit_at.is_none() {
            self.commit_at = Some(Instant::now() + self.settings.commit_interval);
        }
    }
}

fn count_lines(bytes: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', bytes).count() as u64
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
