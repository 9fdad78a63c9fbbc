//! Origins that cannot go on because the sink does not take them: held ones, and [`Offers`].
//!
//! | the source | what is not taken |
//! | --- | --- |
//! | can go back | is dropped, with everything of its origin, and read again when another session tries it |
//! | cannot | waits here, with everything behind it, and is offered to the same sink again and again |
//!
//! While something is offered nothing more is taken from the source; what was written before is committed at once,
//! so that only what waits depends on the process, and a sink that threw something away says so.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::Result;
use tokio::time::Instant;

use super::{Relaxed, Writer};
use crate::{Batch, Origin, Written};

/// The pauses before a held origin is tried again.
pub(super) const HOLD_FIRST: Duration = Duration::from_secs(1);
pub(super) const HOLD_MOST: Duration = Duration::from_secs(60);

/// So many held origins are named; of more only that there are some, once a minute.
const MAX_HELD_NAMED: usize = 100;

/// What the sink did not take and nobody can read again: the batch that is offered, and what was to be written
/// right after it. Nothing more is read meanwhile.
#[derive(Default)]
pub(super) struct Offers {
    waiting: VecDeque<Batch>,
    /// When the first of them is offered again.
    due_at: Option<Instant>,
}

impl Offers {
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub(super) fn due_at(&self) -> Option<Instant> {
        self.due_at
    }

    pub(super) fn add(&mut self, batch: Batch) {
        self.waiting.push_back(batch);
    }
}

impl Writer<'_> {
    /// The sink did not take `batch`, and nobody can read it again.
    pub(super) fn keep_offering(&mut self, batch: Batch, reason: &str) {
        self.report_held(&batch.origin, reason, "what comes after it waits");
        self.offers.add(batch);
        self.offers.due_at = Some(Instant::now() + self.memory.hold.pause());
        if self.dirty {
            self.commit_at = Some(Instant::now());
        }
        self.count_held();
    }

    /// Offers what the sink did not take once more.
    pub(super) async fn offer_again(&mut self) -> Result<()> {
        while let Some(batch) = self.offers.waiting.front().cloned() {
            match self.sink.write(batch.clone()).await? {
                Written::Accepted => {
                    self.offers.waiting.pop_front();
                    self.memory.hold.reset();
                    self.note_written(&batch);
                }
                Written::Held(reason) => {
                    self.report_held(&batch.origin, &reason, "what comes after it waits");
                    self.offers.due_at = Some(Instant::now() + self.memory.hold.pause());
                    return Ok(());
                }
            }
        }
        self.offers.due_at = None;
        self.count_held();
        Ok(())
    }

    /// `origin` cannot go on in this session.
    pub(super) fn hold(&mut self, origin: &Origin, reason: String, wait: bool) {
        let pause = if wait { self.memory.hold.pause() } else { Duration::ZERO };
        let retry_at = Instant::now() + pause;
        self.retry_at = Some(self.retry_at.map_or(retry_at, |earlier| earlier.min(retry_at)));
        if wait {
            self.report_held(origin, &reason, "the others go on");
        } else {
            tracing::warn!(%origin, "{reason}");
        }
        self.held.insert(origin.clone(), reason);
        self.count_held();
    }

    pub(super) fn count_held(&self) {
        let held = self.held.len() + self.waits.len() + usize::from(self.offers.is_waiting());
        self.metrics.origins_held.store(held as u64, Relaxed);
    }

    /// Reports a reason once for as long as it lasts, of some origins by name: whoever may publish can invent any
    /// number of them.
    fn report_held(&mut self, origin: &Origin, reason: &str, meanwhile: &str) {
        let held = &mut self.memory.held;
        if held.get(origin).map(String::as_str) == Some(reason) {
            return;
        }
        if held.len() < MAX_HELD_NAMED || held.contains_key(origin) {
            tracing::error!(%origin, "cannot go on: {reason}; trying again, {meanwhile}");
            held.insert(origin.clone(), reason.to_owned());
            return;
        }
        let message = format!("others than the {MAX_HELD_NAMED} that were named cannot go on: {reason}");
        self.memory.more_held.report(&message, |message| tracing::error!(%origin, "{message}"));
    }
}
