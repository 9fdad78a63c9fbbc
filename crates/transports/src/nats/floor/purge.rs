//! Deleting what is durable: [`Purger`], for `purge = true`.
//!
//! Of every origin the last committed message stays: the producer asks it where the stream ends. So does the
//! message of the committed cursor, which proves that the stream is the one that was read before: a stream that
//! was replaced, or went back, has other messages under the same sequences, which nobody may have read yet. It is
//! looked at before each round, because the server knows no deletion with a condition. What is left is a stream
//! that is replaced and filled again while a request is under way; its bytes are then missing like any others.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fshipper_pipeline::{Epoch, Origin, Position};
use futures::StreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::nats::api::{Api, ApiError};
use crate::nats::requests::Failure;
use crate::nats::session::Place;
use crate::nats::subject::Subjects;

/// Deletes messages of one stream below what is committed.
#[derive(Debug)]
pub(in crate::nats) struct Purger {
    stream: String,
    subjects: Subjects,
    marks: Arc<Marks>,
    /// The life of the stream that `due` is about.
    life: u64,
    /// Origins with messages to delete, and the sequence below which they are.
    due: BTreeMap<Origin, u64>,
    next_at: Instant,
}

/// Which messages hold which bytes, as far as it is needed: two for each origin that has something to delete.
#[derive(Debug, Default)]
pub(in crate::nats) struct Marks(Mutex<Noted>);

#[derive(Debug, Default)]
struct Noted {
    pairs: HashMap<Origin, Pair>,
    /// How often the stream turned out to be another one, or to have gone back.
    life: u64,
}

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
        let pairs = &mut self.lock().pairs;
        match pairs.get_mut(origin) {
            Some(pair) => pair.newest = mark,
            None => {
                pairs.insert(origin.clone(), Pair { older: mark, newest: mark });
            }
        }
    }

    /// The stream is another one, or has gone back: nothing is known of its messages any more.
    pub(in crate::nats) fn forget(&self) {
        let mut noted = self.lock();
        noted.pairs.clear();
        noted.life += 1;
    }

    fn life(&self) -> u64 {
        self.lock().life
    }

    /// The last message that is known to hold nothing beyond `position`.
    fn committed(&self, origin: &Origin, position: &Position) -> Option<u64> {
        let pairs = &mut self.lock().pairs;
        let pair = pairs.get_mut(origin)?;
        if pair.newest.is_covered_by(position) {
            return pairs.remove(origin).map(|pair| pair.newest.sequence);
        }
        pair.older.is_covered_by(position).then(|| std::mem::replace(&mut pair.older, pair.newest).sequence)
    }

    fn lock(&self) -> MutexGuard<'_, Noted> {
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
        let (stream, life, due) = (stream.to_owned(), marks.life(), BTreeMap::new());
        Self { stream, subjects, marks, life, due, next_at: Instant::now() }
    }

    /// When there is something to do; `None` while there is nothing.
    pub(super) fn due(&self) -> Option<Instant> {
        (!self.due.is_empty()).then_some(self.next_at)
    }

    /// `origin` is durable up to `position`.
    pub(super) fn note_commit(&mut self, origin: &Origin, position: &Position) {
        self.leave_other_lives();
        if let Some(sequence) = self.marks.committed(origin, position) {
            self.due.insert(origin.clone(), sequence);
        }
    }

    /// Whether it is time to delete something; if so, it is not again for a while, whatever comes of it.
    pub(super) fn takes_its_turn(&mut self) -> bool {
        let now = Instant::now();
        let is_time = now >= self.next_at && !self.due.is_empty();
        if is_time {
            self.next_at = now + PURGE_EVERY;
        }
        is_time
    }

    /// Deletes what is due of the messages up to the committed cursor.
    pub(super) async fn purge(&mut self, api: &Api, cursor: &Place) -> Result<(), String> {
        match api.message_at(&self.stream, cursor.sequence).await {
            Ok(stored) if stored.as_ref().is_some_and(|stored| stored.time == cursor.time) => {}
            Ok(_) => {
                self.marks.forget();
                self.leave_other_lives();
                tracing::debug!("purged nothing: `{}` is not provably the stream that was read", self.stream);
                return Ok(());
            }
            Err(ApiError::Failure { failure: Failure::Reconnected, .. }) => return Ok(()),
            Err(error) => return Err(error.to_string()),
        }
        self.leave_other_lives();
        // What lies beyond the cursor may be needed again.
        let due = self.due.iter().filter(|&(_, &sequence)| sequence <= cursor.sequence).take(MOST_AT_A_TIME);
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

impl Purger {
    /// Forgets what is due in a stream that is not there any more.
    fn leave_other_lives(&mut self) {
        let life = self.marks.life();
        if std::mem::replace(&mut self.life, life) != life {
            self.due.clear();
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
        assert!(marks.lock().pairs.is_empty(), "an idle log costs nothing");
    }

    #[test]
    fn a_turn_that_comes_to_nothing_is_over() {
        let (marks, log) = (Arc::<Marks>::default(), Origin::new("h", "/l"));
        let mut purger = Purger::new("S", Subjects::new("s", None, true), marks.clone());
        assert!(!purger.takes_its_turn());
        marks.note(&log, EPOCH, 10, 7);
        purger.note_commit(&log, &at(EPOCH, 10));
        // Nothing is deleted before there is a committed cursor.
        assert!(purger.takes_its_turn());
        assert!(purger.due().is_some_and(|due| due > Instant::now()), "it would be due again at once");
        assert!(!purger.takes_its_turn());
    }

    #[test]
    fn what_was_read_from_a_stream_that_was_replaced_deletes_nothing() {
        let (marks, log) = (Arc::<Marks>::default(), Origin::new("h", "/l"));
        let mut purger = Purger::new("S", Subjects::new("s", None, true), marks.clone());
        marks.note(&log, EPOCH, 10, 70);
        purger.note_commit(&log, &at(EPOCH, 10));
        assert!(purger.due().is_some());
        marks.note(&log, EPOCH, 20, 71);
        marks.forget();
        purger.note_commit(&log, &at(EPOCH, 20));
        assert!(purger.due().is_none());
    }
}
