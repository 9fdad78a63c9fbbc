//! Losses that were told: [`KnownLosses`].
//!
//! A loss that the sink took is told once, although the record of it comes again when the session fails before it
//! is committed, or when the commit refuses it.

use std::collections::HashMap;

use super::Writer;
use crate::metrics::Metrics;
use crate::{Batch, Epoch, Origin};

/// Which loss: whose, and where it begins.
pub(super) type Lost = (Origin, Epoch, u64);

/// Those that were told and are not known to be committed, each with how many bytes were said to be lost.
#[derive(Debug, Default)]
pub(super) struct KnownLosses(HashMap<Lost, u64>);

/// More than this are not remembered, and told again should they come again: it takes as many logs that lost
/// something within one commit.
const MAX_KNOWN: usize = 100_000;

impl KnownLosses {
    /// These are committed: should one like it come, it is another one.
    pub(super) fn forget(&mut self, committed: impl IntoIterator<Item = Lost>) {
        for lost in committed {
            self.0.remove(&lost);
        }
    }
}

impl Writer<'_> {
    /// The sink took the record of a loss.
    pub(super) fn note_loss(&mut self, batch: &Batch, missing: u64, reason: &str) {
        let lost = (batch.origin.clone(), batch.epoch, batch.start);
        let under_way = self.under_way.as_ref().is_some_and(|under_way| under_way.losses.contains(&lost));
        // Within a session nothing comes twice: one more of unknown amount may be at the same place.
        let is_another = under_way || !self.losses.insert(lost.clone());
        let told = self.memory.losses.0.get(&lost).copied().filter(|_| !is_another);
        if told.is_some_and(|told| missing <= told) {
            return;
        }
        let amount = if missing == 0 { "an unknown number of".to_owned() } else { missing.to_string() };
        tracing::error!(origin = %batch.origin, offset = batch.start, "lost {amount} bytes: {reason}");
        Metrics::add(&self.metrics.bytes_lost, missing - told.unwrap_or(0));
        Metrics::add(&self.metrics.losses, u64::from(told.is_none()));
        if self.memory.losses.0.len() < MAX_KNOWN {
            self.memory.losses.0.insert(lost, missing);
        }
    }
}
