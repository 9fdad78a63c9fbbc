//! The receiving side: a sink with a ledger, in memory, [`Disk`].
//!
//! What is committed survives its process, what is only written does not. It takes nobody's word for anything:
//! the bytes are compared with the log's, their position with its own end, the cursor with what the stream
//! holds below it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Result, bail};
use async_trait::async_trait;
use fshipper_pipeline::{
    Batch, Checkpoint, Committing, Content, Context, Cursor, Epoch, History, Invalid, OpenSink, Origin,
    Position, Settings, Sink, Written,
};

use super::super::pattern::covers;
use super::super::session::Place;
use super::network::Network;
use super::truth::{SharedTruth, lock};

/// What survives, and how writing fares. Clones are one and the same.
#[derive(Clone)]
pub(super) struct Disk {
    name: String,
    filters: Vec<String>,
    truth: SharedTruth,
    network: Network,
    shared: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    ledger: BTreeMap<Origin, Entry>,
    cursor: Option<Cursor>,
    /// No room.
    full: bool,
    /// Origins that cannot be written now.
    held: BTreeSet<Origin>,
    /// Origins of which that is noticed at the commit.
    held_late: BTreeSet<Origin>,
    /// The longest a write or a step of a commit takes, in milliseconds.
    slow: u64,
}

#[derive(Clone, Debug)]
struct Entry {
    history: History,
    /// Data of the current epoch; lost bytes are zeros here.
    bytes: Vec<u8>,
    lost: Vec<(u64, u64)>,
}

/// How many messages below a cursor are looked at: what is further down was, when the cursor was lower.
const CHECKED_MESSAGES: usize = 50;

/// One life of the sink.
struct DiskSink {
    disk: Disk,
    entries: BTreeMap<Origin, Entry>,
    changed: BTreeSet<Origin>,
    /// Origins that turned out to be impossible to write: until the next life nothing more of them is taken.
    lost: BTreeSet<Origin>,
    news: Vec<(Origin, String)>,
}

/// What a commit that was begun is about to make durable.
struct Claim {
    disk: Disk,
    entries: Vec<(Origin, Entry)>,
    /// `None` when something of it turned out to be impossible to write.
    cursor: Option<Cursor>,
    /// All that was written when it was begun.
    written: BTreeMap<Origin, Entry>,
}

impl Disk {
    /// An empty disk for a sink that reads `filters`.
    pub(super) fn new(name: &str, filters: Vec<String>, truth: SharedTruth, network: Network) -> Self {
        Self { name: name.to_owned(), filters, truth, network, shared: Arc::default() }
    }

    /// Whose disk it is.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Whether its sink reads messages of this subject.
    pub(super) fn reads(&self, subject: &str) -> bool {
        self.filters.iter().any(|filter| covers(filter, subject))
    }

    /// Whether there is room.
    pub(super) fn set_full(&self, full: bool) {
        self.state().full = full;
    }

    /// Whether an origin can be written, and when it shows.
    pub(super) fn hold(&self, origin: &Origin, late: bool) {
        let mut state = self.state();
        let held = if late { &mut state.held_late } else { &mut state.held };
        held.insert(origin.clone());
    }

    /// All origins can be written again.
    pub(super) fn release(&self) {
        let mut state = self.state();
        state.held.clear();
        state.held_late.clear();
    }

    /// How long things take.
    pub(super) fn set_slow(&self, slow: u64) {
        self.state().slow = slow;
    }

    /// The committed bytes of an origin.
    pub(super) fn bytes(&self, origin: &Origin) -> Vec<u8> {
        self.state().ledger.get(origin).map(|entry| entry.bytes.clone()).unwrap_or_default()
    }

    /// The committed origins.
    pub(super) fn origins(&self) -> Vec<Origin> {
        self.state().ledger.keys().cloned().collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn pause(&self) {
        let slow = self.state().slow;
        if slow > 0 && fastrand::bool() {
            tokio::time::sleep(Duration::from_millis(fastrand::u64(..=slow))).await;
        }
    }

    /// Whether everything in the stream up to the cursor is in the ledger.
    fn check_cursor(&self, cursor: &Cursor, ledger: &BTreeMap<Origin, Entry>) {
        let Some(place) = Place::parse(&cursor.position) else {
            return lock(&self.truth).violate(format!("a cursor makes no sense: {:?}", cursor.position));
        };
        let unwritten = self.network.look(|broker| {
            let truth = lock(&self.truth);
            let stream = broker.stream(&truth.stream)?;
            let same = stream.messages.get(&place.sequence).is_some_and(|message| message.time == place.time);
            if !same {
                return None;
            }
            let below = stream.messages.range(..=place.sequence).rev().take(CHECKED_MESSAGES);
            below.into_iter().find_map(|(sequence, message)| {
                let described = truth.described(message).filter(|_| self.reads(&message.subject))?;
                let end =
                    ledger.get(&described.origin).map_or(0, |entry| match entry.history.current.epoch {
                        epoch if epoch == described.epoch => entry.history.current.offset,
                        _ => u64::MAX,
                    });
                (end < described.end).then_some((*sequence, described.origin, described.end, end))
            })
        });
        if let Some((sequence, origin, message_end, end)) = unwritten {
            lock(&self.truth).violate(format!(
                "{} committed a cursor at {}, and of {origin} only {end} bytes, where the message {sequence} ends at {message_end}",
                self.name, place.sequence
            ));
        }
    }
}

#[async_trait]
impl OpenSink for Disk {
    fn validate(&self, _: &Settings) -> Result<(), Invalid> {
        Ok(())
    }

    fn describe(&self) -> String {
        "a disk in memory".to_owned()
    }

    async fn open(&self, _: Context) -> Result<Box<dyn Sink>> {
        self.pause().await;
        let entries = self.state().ledger.clone();
        let (changed, lost) = (BTreeSet::new(), BTreeSet::new());
        Ok(Box::new(DiskSink { disk: self.clone(), entries, changed, lost, news: Vec::new() }))
    }
}

impl DiskSink {
    /// Appends a batch, which must continue what is there.
    fn append(&mut self, batch: Batch) {
        let mut truth = lock(&self.disk.truth);
        let Batch { origin, epoch, start, place, .. } = &batch;
        let entry = self.entries.entry(origin.clone()).or_insert_with(|| Entry {
            history: History {
                current: Position { epoch: *epoch, offset: 0, place: place.clone() },
                earlier: Vec::new(),
            },
            bytes: Vec::new(),
            lost: Vec::new(),
        });
        let current = &mut entry.history.current;
        if current.epoch != *epoch {
            let ended = (current.epoch, current.offset);
            entry.history.earlier.push(ended);
            *current = Position { epoch: *epoch, offset: 0, place: place.clone() };
            entry.bytes.clear();
            entry.lost.clear();
        }
        if *start != current.offset {
            truth.violate(format!(
                "{} has {} bytes of {origin}, and was given those from {start} on",
                self.disk.name, current.offset
            ));
        }
        let log = truth.logs.get(origin).filter(|log| log.epoch == *epoch);
        let (from, to) = (*start as usize, batch.end() as usize);
        let wrong = match (&batch.content, log) {
            (Content::Data(bytes), Some(log)) => log.bytes.get(from..to) != Some(bytes),
            (Content::Loss { .. }, Some(log)) => to > log.written,
            (_, None) => false,
        };
        if wrong {
            truth.violate(format!("{} was given wrong bytes of {origin}: {from}..{to}", self.disk.name));
        }
        match &batch.content {
            Content::Data(bytes) => entry.bytes.extend_from_slice(bytes),
            Content::Loss { missing, .. } => {
                entry.lost.push((batch.start, batch.end()));
                let length = entry.bytes.len() + usize::try_from(*missing).unwrap_or(0);
                entry.bytes.resize(length, 0);
            }
        }
        (current.offset, current.place) = (batch.end(), batch.place.clone());
        drop(truth);
        self.changed.insert(batch.origin);
    }
}

#[async_trait]
impl Sink for DiskSink {
    async fn restore(&mut self) -> Result<Option<Checkpoint>> {
        self.disk.pause().await;
        let mut checkpoint = Checkpoint::default();
        for (origin, entry) in &self.entries {
            checkpoint.set_history(origin, Some(entry.history.clone()));
        }
        if let Some(cursor) = &self.disk.state().cursor {
            checkpoint.set_cursor(cursor);
        }
        Ok(Some(checkpoint))
    }

    async fn write(&mut self, batch: Batch) -> Result<Written> {
        self.disk.pause().await;
        if self.disk.state().held.contains(&batch.origin) {
            return Ok(Written::Held("the simulation wants it so".to_owned()));
        }
        if self.disk.state().full {
            bail!("no space left on the simulated device");
        }
        if !self.lost.contains(&batch.origin) {
            self.append(batch);
        }
        Ok(Written::Accepted)
    }

    async fn commit(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        self.news = self.begin_commit(checkpoint).await?.await?;
        Ok(())
    }

    async fn begin_commit(&mut self, checkpoint: &Checkpoint) -> Result<Committing> {
        self.disk.pause().await;
        if self.disk.state().full {
            bail!("no space left on the simulated device");
        }
        let late: Vec<_> = self.disk.state().held_late.intersection(&self.changed).cloned().collect();
        let mut news = Vec::new();
        for origin in late {
            // Its writes have failed meanwhile: what is committed of it stands.
            match self.disk.state().ledger.get(&origin).cloned() {
                Some(entry) => self.entries.insert(origin.clone(), entry),
                None => self.entries.remove(&origin),
            };
            self.changed.remove(&origin);
            self.lost.insert(origin.clone());
            news.push((origin, "the simulation wanted it so".to_owned()));
        }
        for (origin, history) in checkpoint.origins() {
            let offset = self.entries.get(origin).map_or(0, |entry| entry.history.current.offset);
            if history.current.offset > offset && !self.lost.contains(origin) {
                lock(&self.disk.truth).violate(format!(
                    "{} was to commit {origin} at {}, and was given {offset}",
                    self.disk.name, history.current.offset
                ));
            }
        }
        let cursor = checkpoint.cursors().next().filter(|_| news.is_empty());
        let cursor = cursor
            .map(|(transport, position)| Cursor { transport: transport.clone(), position: position.clone() });
        let changed = std::mem::take(&mut self.changed);
        let entries = changed.into_iter().map(|origin| (origin.clone(), self.entries[&origin].clone()));
        let (disk, entries, written) = (self.disk.clone(), entries.collect(), self.entries.clone());
        let claim = Claim { disk, entries, cursor, written };
        Ok(Box::pin(async move { claim.make_durable().await.map(|()| news) }))
    }

    fn held(&mut self) -> Vec<(Origin, String)> {
        std::mem::take(&mut self.news)
    }
}

impl Claim {
    async fn make_durable(self) -> Result<()> {
        let Self { disk, entries, cursor, written } = self;
        disk.pause().await;
        if disk.state().full {
            bail!("no space left on the simulated device");
        }
        if let Some(cursor) = &cursor {
            disk.check_cursor(cursor, &written);
        }
        {
            let mut state = disk.state();
            let mut truth = lock(&disk.truth);
            for (origin, entry) in entries {
                let end = entry.history.current.offset;
                truth.note(&format!("{} committed {origin} up to {end}", disk.name));
                if let Some(delivered) =
                    truth.sinks.get_mut(&disk.name).and_then(|sink| sink.get_mut(&origin))
                {
                    delivered.committed = end as usize;
                    for (start, end) in &entry.lost {
                        delivered.lost[*start as usize..*end as usize].fill(true);
                    }
                }
                state.ledger.insert(origin, entry);
            }
            if cursor.is_some() {
                state.cursor = cursor;
            }
        }
        disk.pause().await;
        Ok(())
    }
}

/// The epoch of a log that exists in the simulation.
pub(super) fn epoch_of(log: usize, host: usize) -> Epoch {
    Epoch(0x1000 + (host * 100 + log) as u64)
}
