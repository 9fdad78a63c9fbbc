//! The places of batches that go out together: [`Places`].
//!
//! A source's place holds only within the batch it came with: the next batch may be of another file. Batches that
//! were joined may come apart again, as messages and by accident, so each message takes the place of the batch in
//! which it ends.

use bytes::Bytes;
use fshipper_pipeline::Batch;

/// Where batches that continue each other end, and their places; never empty.
#[derive(Debug)]
pub(super) struct Places(Vec<(u64, Bytes)>);

impl Places {
    /// The place of one batch.
    pub(super) fn of(batch: &Batch) -> Self {
        Self(vec![(batch.end(), batch.place.clone())])
    }

    /// Adds that of a batch that continues the last one.
    pub(super) fn add(&mut self, batch: &Batch) {
        self.0.push((batch.end(), batch.place.clone()));
    }

    /// Of how many batches.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The place for bytes that end at the offset `end`.
    pub(super) fn at(&self, end: u64) -> Bytes {
        let number = self.0.partition_point(|(batch_end, _)| *batch_end < end).min(self.0.len() - 1);
        self.0[number].1.clone()
    }

    /// The one that takes the most room in a header.
    pub(super) fn longest(&self) -> Bytes {
        let longest = self.0.iter().max_by_key(|(_, place)| place.len());
        longest.map(|(_, place)| place.clone()).unwrap_or_default()
    }
}
