//! What moves through a pipeline: [`Batch`].

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use crate::{Epoch, Origin};

/// A run of consecutive bytes of one origin, or the record of a loss.
///
/// Data are whole lines, each with its end, as they stand in the source; only the last line of a finished
/// file and the parts of an over-long line may lack one. Cloning is cheap: bytes are shared.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The log the bytes belong to.
    pub origin: Origin,
    /// The history in which `start` counts.
    pub epoch: Epoch,
    /// The offset of the first byte.
    pub start: u64,
    /// The bytes, or what is missing.
    pub content: Content,
    /// When a file source read the bytes, or when the transport stored the message. It decides the period
    /// of the output they belong to.
    pub time: SystemTime,
    /// What the source needs to find its place again, opaque to all others; stored with the position
    /// and handed back to the source in [`Position::place`](crate::Position::place). At most a few hundred
    /// bytes, printable ASCII.
    pub place: Bytes,
    /// Where the receiver resumes after this batch; only a receiver sets it.
    pub cursor: Option<Cursor>,
    /// The share of the hop's byte budget that this batch holds until its last clone is dropped. Only the
    /// pump sets it; everybody else leaves it `None`.
    pub lease: Option<BudgetLease>,
}

/// What a [`Batch`] carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Bytes of the log, at least one.
    Data(Bytes),
    /// Bytes that nobody can deliver any more: `[start, start + missing)`, zero when the amount is unknown.
    Loss {
        /// How many bytes are missing; 0 when nobody knows.
        missing: u64,
        /// Why, for the operator.
        reason: Arc<str>,
    },
}

/// Where a receiver resumes in a transport. Only the transport that made it reads `position`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Which transport, as a stable name; a checkpoint holds one cursor for each.
    pub transport: Arc<str>,
    /// Where in it: printable ASCII, at most a few hundred bytes.
    pub position: Bytes,
}

/// Bytes of the hop's budget, given back when the last clone is dropped.
#[derive(Clone, Debug)]
pub struct BudgetLease(#[allow(dead_code, reason = "held for its drop")] Arc<OwnedSemaphorePermit>);

impl BudgetLease {
    pub(crate) fn new(permit: OwnedSemaphorePermit) -> Self {
        Self(Arc::new(permit))
    }
}

impl Batch {
    /// A batch of data read now, without a place, a cursor or a lease.
    pub fn data(origin: Origin, epoch: Epoch, start: u64, bytes: impl Into<Bytes>) -> Self {
        let content = Content::Data(bytes.into());
        Self::new(origin, epoch, start, content)
    }

    /// The record of a loss noticed now: `missing` bytes from `start` on, 0 when the amount is unknown.
    pub fn loss(origin: Origin, epoch: Epoch, start: u64, missing: u64, reason: impl Into<Arc<str>>) -> Self {
        let content = Content::Loss { missing, reason: reason.into() };
        Self::new(origin, epoch, start, content)
    }

    fn new(origin: Origin, epoch: Epoch, start: u64, content: Content) -> Self {
        let (place, time) = (Bytes::new(), SystemTime::now());
        Self { origin, epoch, start, content, time, place, cursor: None, lease: None }
    }

    /// The offset after the last byte.
    pub fn end(&self) -> u64 {
        self.start + self.span()
    }

    /// How many bytes of the origin this batch accounts for, present or missing.
    pub fn span(&self) -> u64 {
        match &self.content {
            Content::Data(bytes) => bytes.len() as u64,
            Content::Loss { missing, .. } => *missing,
        }
    }

    /// The bytes; empty for a loss.
    pub fn bytes(&self) -> &[u8] {
        match &self.content {
            Content::Data(bytes) => bytes,
            Content::Loss { .. } => &[],
        }
    }

    /// Takes off the first `count` bytes, which somebody already has.
    ///
    /// # Panics
    ///
    /// When the batch holds fewer.
    pub fn cut_front(&mut self, count: u64) {
        assert!(count <= self.span(), "cannot cut {count} bytes off a batch of {}", self.span());
        match &mut self.content {
            Content::Data(bytes) => *bytes = bytes.slice(count as usize..),
            Content::Loss { missing, .. } => *missing -= count,
        }
        self.start += count;
    }
}
