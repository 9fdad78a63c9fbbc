//! Bytes that nobody can read again, on their way: [`Unrepeatable`].

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::checkpoint::Changes;
use crate::{Batch, Content, Epoch, Origin};

/// What sources that cannot go back have taken from their inputs, and what of it is not durable.
#[derive(Debug, Default)]
pub(super) struct Unrepeatable {
    /// Taken and not given yet.
    pub(super) in_hand: AtomicU64,
    given: Mutex<HashMap<(Origin, Epoch), Ranges>>,
}

/// Start and end of what is not durable, in order and apart from each other: one, unless losses lie between.
type Ranges = VecDeque<(u64, u64)>;

impl Unrepeatable {
    /// A source gave `batch`.
    pub(super) fn note(&self, batch: &Batch) {
        if matches!(batch.content, Content::Loss { .. }) {
            return;
        }
        let mut given = self.lock();
        let ranges = given.entry((batch.origin.clone(), batch.epoch)).or_default();
        match ranges.back_mut() {
            Some((_, end)) if *end == batch.start => *end = batch.end(),
            _ => ranges.push_back((batch.start, batch.end())),
        }
    }

    /// These changes are durable.
    pub(super) fn commit(&self, changes: &Changes) {
        let mut given = self.lock();
        if given.is_empty() {
            return;
        }
        for (origin, history) in &changes.origins {
            let current = (history.current.epoch, history.current.offset);
            // The present epoch among the earlier ones says where it was, not where it is.
            let earlier = history.earlier.iter().copied().filter(|(epoch, _)| *epoch != current.0);
            for (epoch, end) in earlier.chain([current]) {
                let key = (origin.clone(), epoch);
                let Some(ranges) = given.get_mut(&key) else { continue };
                ranges.retain_mut(|range| {
                    range.0 = range.0.max(end);
                    range.0 < range.1
                });
                if ranges.is_empty() {
                    given.remove(&key);
                }
            }
        }
    }

    /// How many bytes were given and are not durable.
    pub(super) fn given(&self) -> u64 {
        self.lock().values().flatten().map(|(start, end)| end - start).sum()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(Origin, Epoch), Ranges>> {
        // Nothing that holds the lock can panic between two changes.
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
