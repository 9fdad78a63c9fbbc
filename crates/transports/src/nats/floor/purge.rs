//! Deleting what is durable: [`Purger`], for `purge = true`.
//!
//! Of every origin the last committed message stays: the producer asks it where the stream ends. So does the
//! message of the committed cursor, which proves that the stream is the one that was read before.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fshipper_pipeline::{Epoch, Origin, Position};
use futures::StreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::nats::api::{Api, ApiError};
use crate::nats::requests::Failure;
use crate::nats::subject::Subjects;

/// Deletes messages of one stream below what is committed.
#[derive(Debug)]
pub(in crate::nats) struct Purger {
    stream: String,
    subjects: Subjects,
    marks: Arc<Marks>,
    /// Origins with messages to delete, and the sequence below which they are.
    due: HashMap<Origin, u64>,
    next_at: Instant,
}

/// Which messages hold which bytes, as far as it is needed: two for each origin that has something to delete.
#[derive(Debug, Default)]
pub(in crate::nats) struct Marks(Mutex<HashMap<Origin, Pair>>);

/// While an origin flows its newest message is never committed, so one is kept until it is.
#[derive(Debug)]
struct Pair {
    older: Mark,
    newest: Mark,
}

/// A message and where its bytes end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    epoch: Epoch,
    end: u64,
    sequence: u64,
}

#[derive(Serialize)]
struct PurgeRequest {
    filter: String,
    seq: u64,
}

#[derive(Deserialize)]
struct Purged {
    #[serde(default)]
    purged: u64,
}

/// The server goes through an origin's messages for each request, and what is saved by more of them is little.
const PURGE_EVERY: Duration = Duration::from_secs(10);

/// How many origins are purged in one go, and how many at once: a hundred thousand of them take their time.
const MOST_AT_A_TIME: usize = 1000;
const AT_ONCE: usize = 8;

impl Marks {
    /// A message was read, and its bytes end here.
    pub(in crate::nats) fn note(&self, origin: &Origin, epoch: Epoch, end: u64, sequence: u64) {
        let mark = Mark { epoch, end, sequence };
        let mut marks = self.lock();
        match marks.get_mut(origin) {
            Some(pair) => pair.newest = mark,
            None => {
                marks.insert(origin.clone(), Pair { older: mark, newest: mark });
            }
        }
    }

    /// The last message that is known to hold nothing beyond `position`.
    fn committed(&self, origin: &Origin, position: &Position) -> Option<u64> {
        let mut marks = self.lock();
        let pair = marks.get_mut(origin)?;
        if pair.newest.is_covered_by(position) {
            return marks.remove(origin).map(|pair| pair.newest.sequence);
        }
        pair.older.is_covered_by(position).then(|| std::mem::replace(&mut pair.older, pair.newest).sequence)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Origin, Pair>> {
        // Nothing that holds the lock can panic between two changes.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Mark {
    fn is_covered_by(self, position: &Position) -> bool {
        self.epoch == position.epoch && self.end <= position.offset
    }
}

impl Purger {
    /// For the messages of `stream` that `marks` knows.
    pub(in crate::nats) fn new(stream: &str, subjects: Subjects, marks: Arc<Marks>) -> Self {
        Self { stream: stream.to_owned(), subjects, marks, due: HashMap::new(), next_at: Instant::now() }
    }

    /// When there is something to do; `None` while there is nothing.
    pub(super) fn due(&self) -> Option<Instant> {
        (!self.due.is_empty()).then_some(self.next_at)
    }

    /// `origin` is durable up to `position`.
    pub(super) fn note_commit(&mut self, origin: &Origin, position: &Position) {
        if let Some(sequence) = self.marks.committed(origin, position) {
            self.due.insert(origin.clone(), sequence);
        }
    }

    /// Deletes what is due, when it is time to, of the messages up to the committed cursor.
    pub(super) async fn purge(&mut self, api: &Api, cursor: u64) -> Result<(), String> {
        if Instant::now() < self.next_at || self.due.is_empty() {
            return Ok(());
        }
        self.next_at = Instant::now() + PURGE_EVERY;
        // What lies beyond the cursor may be needed again.
        let due = self.due.iter().filter(|&(_, &sequence)| sequence <= cursor).take(MOST_AT_A_TIME);
        let due: Vec<_> = due.map(|(origin, &sequence)| (origin.clone(), sequence)).collect();
        let requests = due.into_iter().map(|(origin, seq)| {
            let request = PurgeRequest { filter: self.subjects.publish(&origin), seq };
            let operation = format!("STREAM.PURGE.{}", self.stream);
            async move { (origin, api.call::<Purged>(&operation, Some(&request)).await) }
        });
        let mut results = futures::stream::iter(requests).buffer_unordered(AT_ONCE);
        let (mut purged, mut problem) = (0, None);
        let mut done = Vec::new();
        while let Some((origin, result)) = results.next().await {
            match result {
                Ok(Purged { purged: count }) => {
                    purged += count;
                    done.push(origin);
                }
                // What fails for one fails for all of them now; they stay due.
                Err(error) => {
                    problem = Some(error);
                    break;
                }
            }
        }
        drop(results);
        for origin in done {
            self.due.remove(&origin);
        }
        tracing::debug!("purged {purged} messages from the stream `{}`", self.stream);
        match problem {
            None | Some(ApiError::Failure { failure: Failure::Reconnected, .. }) => Ok(()),
            Some(error) => Err(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use fshipper_pipeline::Bytes;

    use super::*;

    const EPOCH: Epoch = Epoch(1);

    fn at(epoch: Epoch, offset: u64) -> Position {
        Position { epoch, offset, place: Bytes::new() }
    }

    #[test]
    fn nothing_above_what_is_committed_is_given_up() {
        let (marks, log) = (Marks::default(), Origin::new("h", "/l"));
        for (end, sequence) in [(10, 1), (20, 2), (30, 3)] {
            marks.note(&log, EPOCH, end, sequence);
        }
        assert_eq!(marks.committed(&log, &at(EPOCH, 9)), None);
        assert_eq!(marks.committed(&log, &at(Epoch(2), 100)), None, "another history says nothing");
        assert_eq!(marks.committed(&log, &at(EPOCH, 25)), Some(1));
        assert_eq!(marks.committed(&log, &at(EPOCH, 25)), None);
        marks.note(&log, EPOCH, 40, 4);
        assert_eq!(marks.committed(&log, &at(EPOCH, 35)), Some(3));
        assert_eq!(marks.committed(&log, &at(EPOCH, 40)), Some(4));
        assert!(marks.lock().is_empty(), "an idle log costs nothing");
    }
}
