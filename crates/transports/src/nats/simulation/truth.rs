//! What really happened, kept apart from everything under test: [`Truth`].
//!
//! It knows every byte that was ever written to a log, which of them the stream ever stored and stores now, and
//! which of them each sink has committed. Whatever contradicts that is a violation.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use fshipper_pipeline::{Epoch, Origin};
use tokio::time::Instant;

use super::super::subject::Subjects;
use super::super::wire::{self, Described};
use super::broker::{Broker, Change, Removal, Stored, Stream};

/// The books of one run.
pub(super) struct Truth {
    started: Instant,
    pub(super) stream: String,
    /// Whether producers go on where a consumer has a log, when the stream has nothing of it.
    floor: bool,
    subjects: Subjects,
    pub(super) logs: BTreeMap<Origin, LogTruth>,
    /// By the name of the sink.
    pub(super) sinks: BTreeMap<String, BTreeMap<Origin, Delivered>>,
    /// What must never happen, and did.
    pub(super) violations: Vec<String>,
    /// What happened, in order; the same seed gives the same.
    pub(super) trace: Vec<String>,
    /// How often each notable thing happened.
    pub(super) counts: BTreeMap<String, u64>,
    /// Messages of others: where, when stored, what.
    pub(super) foreign: Vec<(String, Vec<u8>)>,
    /// What messages say, by the time they were stored, which no two share.
    described: BTreeMap<i64, Option<Described>>,
    /// Whether the stream ever lost what it had acknowledged, or was replaced.
    pub(super) went_back: bool,
    /// Whether messages were deleted from it.
    pub(super) deleted: bool,
}

/// One log.
#[derive(Debug)]
pub(super) struct LogTruth {
    pub(super) epoch: Epoch,
    /// All bytes that it will ever have.
    pub(super) bytes: Vec<u8>,
    /// How many of them are there already.
    pub(super) written: usize,
    /// The first that the source still has.
    pub(super) oldest: usize,
    /// Which bytes the stream ever stored, data or the record of a loss.
    stored: Vec<bool>,
}

/// What a sink has of one log.
#[derive(Clone, Debug, Default)]
pub(super) struct Delivered {
    /// Whether it asks a producer for bytes that the stream has lost or let go, and waits for the answer: then
    /// they are only lost when the source has lost them as well.
    asks: bool,
    /// How far it has committed.
    pub(super) committed: usize,
    /// The bytes that may be missing: both sides lost them before this sink had committed them.
    pub(super) may_lack: Vec<bool>,
    /// The bytes that it recorded as lost and committed.
    pub(super) lost: Vec<bool>,
}

/// The truth, shared.
pub(super) type SharedTruth = Arc<Mutex<Truth>>;

/// Locks the books.
pub(super) fn lock(truth: &SharedTruth) -> MutexGuard<'_, Truth> {
    truth.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Truth {
    /// Empty books about a stream.
    pub(super) fn new(stream: &str, floor: bool, subjects: Subjects) -> Self {
        Self {
            started: Instant::now(),
            stream: stream.to_owned(),
            floor,
            subjects,
            logs: BTreeMap::new(),
            sinks: BTreeMap::new(),
            violations: Vec::new(),
            trace: Vec::new(),
            counts: BTreeMap::new(),
            foreign: Vec::new(),
            described: BTreeMap::new(),
            went_back: false,
            deleted: false,
        }
    }

    /// Adds a log that will have these bytes.
    pub(super) fn add_log(&mut self, origin: Origin, epoch: Epoch, bytes: Vec<u8>) {
        let stored = vec![false; bytes.len()];
        self.logs.insert(origin, LogTruth { epoch, bytes, written: 0, oldest: 0, stored });
    }

    /// Adds a sink that is to have these logs.
    pub(super) fn add_sink(&mut self, name: &str, asks: bool, origins: impl Iterator<Item = Origin>) {
        let logs = &self.logs;
        let delivered = origins.map(|origin| {
            let length = logs[&origin].bytes.len();
            let (may_lack, lost) = (vec![false; length], vec![false; length]);
            (origin, Delivered { asks, committed: 0, may_lack, lost })
        });
        let delivered = delivered.collect();
        self.sinks.insert(name.to_owned(), delivered);
    }

    /// Notes what happened.
    pub(super) fn note(&mut self, what: &str) {
        let millis = self.started.elapsed().as_millis();
        self.trace.push(format!("{millis:>7} {what}"));
    }

    /// Counts one of a kind.
    pub(super) fn count(&mut self, kind: &str) {
        *self.counts.entry(kind.to_owned()).or_default() += 1;
    }

    /// Notes what must not happen.
    pub(super) fn violate(&mut self, what: String) {
        self.note(&format!("VIOLATION {what}"));
        self.violations.push(what);
    }

    /// Takes note of what the server did.
    pub(super) fn observe(&mut self, changes: &[Change], broker: &Broker) {
        let mut removed = false;
        for change in changes {
            match change {
                Change::Stored { stream, .. }
                | Change::Removed { stream, .. }
                | Change::Deleted { stream }
                    if *stream != self.stream => {}
                Change::Stored { sequence, message, before, .. } => {
                    self.stored(*sequence, message, before.as_ref());
                }
                Change::Removed { message, why, .. } => {
                    removed = true;
                    self.removed(message, *why, broker);
                }
                Change::Deleted { .. } => self.went_back = true,
            }
        }
        if removed {
            self.note("the stream lost messages");
        }
    }

    /// The source loses the bytes of a log before `oldest`.
    pub(super) fn forget(&mut self, origin: &Origin, oldest: usize, broker: &Broker) {
        let Some(log) = self.logs.get_mut(origin) else { return };
        let from = std::mem::replace(&mut log.oldest, oldest);
        self.allow_lack(origin, from, oldest, broker);
    }

    /// What of one of ours a message says.
    pub(super) fn described(&self, message: &Stored) -> Option<Described> {
        self.described.get(&message.time).cloned().flatten()
    }

    fn stored(&mut self, sequence: u64, message: &Stored, before: Option<&Stored>) {
        let read = wire::headers_only(&self.subjects, &message.subject, message.headers.as_ref());
        self.described.insert(message.time, read.ok().flatten());
        let Some(described) = self.described(message) else {
            self.note(&format!("stored {sequence} of others on {}", message.subject));
            self.foreign.push((message.subject.clone(), message.payload.to_vec()));
            return;
        };
        let Described { origin, epoch, start, end, .. } = described;
        self.note(&format!("stored {sequence} {origin} {start}..{end}"));
        if let Some(before) = before.and_then(|before| self.described(before))
            && before.epoch == epoch
            && before.end != start
        {
            self.not_contiguous(&origin, before.end, start);
        }
        let Some(log) = self.logs.get_mut(&origin) else {
            return self.violate(format!("the stream took a message of {origin}, which does not exist"));
        };
        if end as usize > log.written || epoch != log.epoch {
            return self
                .violate(format!("the stream took bytes of {origin} that were never written: up to {end}"));
        }
        log.stored[start as usize..end as usize].fill(true);
    }

    /// A stream that was never anything else holds every log contiguous, in order and once. One that went back
    /// gives sequences again, and then an old copy of a publish may find the very sequence that it expects.
    fn not_contiguous(&mut self, origin: &Origin, end: u64, start: u64) {
        let has_reason = self.went_back || self.floor && self.deleted;
        if !has_reason {
            let message = "the stream holds";
            return self
                .violate(format!("{message} {origin} up to {end}, and took one that starts at {start}"));
        }
        self.count(if start < end {
            "bytes stored twice after a go-back"
        } else {
            "gaps stored after a go-back"
        });
        self.allow(origin, false, |byte| (end as usize..start as usize).contains(&byte));
    }

    fn removed(&mut self, message: &Stored, why: Removal, broker: &Broker) {
        match why {
            Removal::WentBack => self.went_back = true,
            Removal::Deleted => self.deleted = true,
            Removal::Purged => return self.purged(message, broker),
        }
        let Some(Described { origin, start, end, .. }) = self.described(message) else { return };
        let (start, end) = (start as usize, end as usize);
        self.allow_lack(&origin, start, end, broker);
        if why == Removal::WentBack && !self.floor {
            return;
        }
        // The producer is not told, or goes on where somebody else has the log. What the stream had lost before,
        // and nobody had noticed yet, looks like a part of it.
        let unnoticed = self.went_back.then(|| self.logs.get(&origin).map(|log| log.stored.clone()));
        let unnoticed = unnoticed.flatten().unwrap_or_default();
        self.allow(&origin, false, |byte| {
            (start..end).contains(&byte) || unnoticed.get(byte).is_some_and(|&stored| stored)
        });
    }

    /// A consumer deletes only what every sink has, and never the last message of a log.
    fn purged(&mut self, message: &Stored, broker: &Broker) {
        self.count("messages purged once they were durable");
        let Some(Described { origin, end, .. }) = self.described(message) else { return };
        let sinks = self.sinks.iter().filter_map(|(name, origins)| Some((name, origins.get(&origin)?)));
        let lacking = sinks.filter(|(_, delivered)| delivered.committed < end as usize);
        let mut wrong: Vec<_> = lacking
            .map(|(name, delivered)| {
                let has = delivered.committed;
                format!("{origin} up to {end} was purged, and {name} has only {has} of it")
            })
            .collect();
        // Where it is the only one left, somebody else deleted what came after it.
        if !self.deleted
            && broker.stream(&self.stream).is_some_and(|stream| stream.last_of(&message.subject).is_none())
        {
            wrong.push(format!("the last message of {origin} was purged"));
        }
        wrong.into_iter().for_each(|wrong| self.violate(wrong));
    }

    /// Of the bytes of a log from `start` to `end` those that nobody has any more may be missing.
    fn allow_lack(&mut self, origin: &Origin, start: usize, end: usize, broker: &Broker) {
        let held = broker.stream(&self.stream).map(|stream| self.held_by(stream, origin)).unwrap_or_default();
        let Some(oldest) = self.logs.get(origin).map(|log| log.oldest) else { return };
        let lost = |byte| (start..end).contains(&byte) && byte < oldest && !held.contains(&byte);
        self.allow(origin, true, lost);
    }

    /// These bytes may be missing: to all sinks, or only to those that ask nobody.
    fn allow(&mut self, origin: &Origin, to_all: bool, lost: impl Fn(usize) -> bool) {
        let of_origin = self.sinks.values_mut().filter_map(|origins| origins.get_mut(origin));
        for delivered in of_origin.filter(|delivered| to_all || !delivered.asks) {
            let committed = delivered.committed;
            for (byte, may_lack) in delivered.may_lack.iter_mut().enumerate().skip(committed) {
                *may_lack |= lost(byte);
            }
        }
    }

    /// The bytes of a log that a stream holds as data.
    fn held_by(&self, stream: &Stream, origin: &Origin) -> std::collections::BTreeSet<usize> {
        let described = stream.messages.values().filter(|message| !message.payload.is_empty());
        let described = described.filter_map(|message| self.described(message));
        let ours = described.filter(|described| described.origin == *origin);
        ours.flat_map(|described| described.start as usize..described.end as usize).collect()
    }
}

impl LogTruth {
    /// Whether the stream has stored all of this at some time.
    pub(super) fn was_stored(&self, start: u64, end: u64) -> bool {
        self.stored[start as usize..end as usize].iter().all(|&stored| stored)
    }
}
