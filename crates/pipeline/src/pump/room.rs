//! Room for what is read and not yet let go of: [`Room`].

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::sync::{Notify, Semaphore};

use crate::BudgetLease;

/// A hop's budget, in bytes.
pub(super) struct Room {
    budget: Arc<Semaphore>,
    bytes: usize,
    /// Told again and again while a batch waits for room.
    pub(super) starved: Arc<Notify>,
}

/// What a batch costs besides its bytes, so that a flood of tiny ones is bounded too.
const BATCH_OVERHEAD_BYTES: usize = 256;

/// Where nothing waits for the sink, and a batch waits this long for room, the sink keeps what it was given until
/// that is committed. A network that lets go of nothing for so long has other troubles.
const STARVED: Duration = Duration::from_secs(1);

impl Room {
    pub(super) fn new(bytes: usize) -> Self {
        Self { budget: Arc::new(Semaphore::new(bytes)), bytes, starved: Arc::default() }
    }

    /// Waits for room for a batch of so many bytes.
    pub(super) async fn lease(&self, bytes: usize) -> Result<BudgetLease> {
        let bytes = (bytes + BATCH_OVERHEAD_BYTES).min(self.bytes) as u32;
        if let Ok(lease) = self.budget.clone().try_acquire_many_owned(bytes) {
            return Ok(BudgetLease::new(lease));
        }
        let mut lease = pin!(self.budget.clone().acquire_many_owned(bytes));
        loop {
            tokio::select! {
                biased;
                lease = &mut lease => return Ok(BudgetLease::new(lease.context("the budget is closed")?)),
                () = tokio::time::sleep(STARVED) => self.starved.notify_one(),
            }
        }
    }
}
