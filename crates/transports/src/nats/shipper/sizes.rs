//! How much of a log goes at once: [`Shipper::appetite`], [`Shipper::learn`].

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fshipper_pipeline::Batch;

use super::Shipper;
use crate::nats::config::{Compression, Framing};
use crate::nats::load::{FAR_BYTES, NEAR_BYTES};
use crate::nats::restore::Tail;
use crate::nats::wire;

/// A round trip that takes longer than the message itself: a log goes on only when it is over, so then several
/// messages share one. The server pays for that by writing everything twice.
const LONG_ROUND_TRIP: Duration = Duration::from_millis(5);

/// What JetStream's headers add to one of our messages, besides the name of the stream.
const JETSTREAM_HEADER_BYTES: usize = 256;

/// What shares a round trip at most: half of what a hop may hold, so that the other half is read meanwhile.
const MAX_SHARED_BYTES: usize = 4 << 20;

/// What is stored so soon may be more the next time, and what takes so long should be less: far below the time
/// after which nobody waits for an answer any more.
const QUICK: Duration = Duration::from_millis(500);
const SLOW: Duration = Duration::from_secs(2);

/// However slow the line, messages need not get smaller than this: a line of some hundred bytes a second is none.
const LEAST_MESSAGE_BYTES: usize = 16 << 10;

impl Shipper {
    /// How many bytes of `batch` one message can hold; `None` when not even one.
    pub(in crate::nats) fn room(&self, batch: &Batch) -> Option<usize> {
        let max_payload = self.api.requests().connection().client.max_payload();
        let max_bytes = self.stream.max_message_bytes.map_or(max_payload, |bytes| bytes.min(max_payload));
        let jetstream = JETSTREAM_HEADER_BYTES + self.stream.name.len();
        max_bytes.checked_sub(wire::header_bytes(batch, self.encoding) + jetstream).filter(|&room| room > 0)
    }

    /// How many bytes of a log are best published at once, `batch` being the first of them. `is_crowded`: so many
    /// logs publish now that no more atomic batches may be open.
    pub(in crate::nats) fn appetite(&self, batch: &Batch, is_crowded: bool) -> usize {
        let one = self.room(batch).map_or(self.max_batch_bytes, |room| self.fitting(room));
        if is_crowded || self.framing == Framing::Line || self.atomic_messages() == 1 {
            return one;
        }
        if self.is_far_away() { one.max(self.shared_bytes.load(Ordering::Relaxed)) } else { one }
    }

    /// Whether so much of a log is `waiting` that it is better [ingested](Shipper::ingest).
    pub(in crate::nats) fn is_worth_ingesting(&self, tail: &Tail, waiting: &VecDeque<Batch>) -> bool {
        let (Some(first), true) = (waiting.front(), self.fast.load(Ordering::Relaxed)) else { return false };
        let continues = tail.end == Some((first.epoch, first.start)) && !first.bytes().is_empty();
        let one = self.room(first).map_or(usize::MAX, |room| self.fitting(room));
        let bytes: usize = waiting.iter().map(|batch| batch.bytes().len()).sum();
        let compresses = self.encoding.compression == Compression::Zstd;
        continues && bytes > one && (self.framing == Framing::Line || compresses || self.is_far_away())
    }

    /// How many bytes a message carries that has room for so many.
    pub(in crate::nats) fn fitting(&self, room: usize) -> usize {
        room.min(self.message_bytes.load(Ordering::Relaxed))
    }

    /// How many messages one publish may have.
    pub(in crate::nats) fn atomic_messages(&self) -> usize {
        self.atomic_messages.load(Ordering::Relaxed)
    }

    /// How much of all logs together may wait or be under way.
    pub(in crate::nats) fn load_bytes(&self) -> usize {
        if self.is_far_away() { FAR_BYTES } else { NEAR_BYTES }
    }

    /// Whether a log spends more time waiting for an answer than it takes to send a message.
    pub(super) fn is_far_away(&self) -> bool {
        self.api.requests().round_trip().is_some_and(|least| least >= LONG_ROUND_TRIP)
    }

    /// Learns from how long `bytes` took how many may share the next round trip: what a fast line needs would
    /// block a slow one.
    pub(in crate::nats) fn learn(&self, bytes: usize, taken: Duration) {
        let message_bytes = self.message_bytes.load(Ordering::Relaxed);
        if taken < QUICK && bytes >= message_bytes / 2 {
            self.message_bytes.store((message_bytes * 2).min(self.max_batch_bytes), Ordering::Relaxed);
        }
        let shared = if taken < QUICK {
            (bytes * 2).clamp(self.shared_bytes.load(Ordering::Relaxed), MAX_SHARED_BYTES)
        } else if taken > SLOW {
            0
        } else {
            return;
        };
        self.shared_bytes.store(shared, Ordering::Relaxed);
    }

    /// Of `bytes` nothing arrived before the connection broke, or nobody knows: on a line where a message takes
    /// longer than the client waits for a sign of life, only a smaller one ever does.
    pub(in crate::nats) fn shrink(&self, bytes: usize) {
        let message_bytes = self.message_bytes.load(Ordering::Relaxed);
        let half = bytes.min(message_bytes) / 2;
        if half >= LEAST_MESSAGE_BYTES {
            self.message_bytes.store(half, Ordering::Relaxed);
        }
    }
}
