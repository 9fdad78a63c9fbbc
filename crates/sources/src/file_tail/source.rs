//! The asynchronous side: [`TailSource`] runs the engine on blocking threads and waits for its hints.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use anyhow::{Context as _, Result, anyhow};
use async_trait::async_trait;
use fshipper_pipeline::{Batch, Source};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::log::Now;
use super::tail::{Next, Tail};

/// A running `file_tail`.
pub(crate) struct TailSource {
    /// `None` while a blocking thread has it, and after it panicked.
    tail: Option<Tail>,
    batches: VecDeque<Batch>,
    hinted: Arc<Notify>,
    once: Option<CancellationToken>,
}

impl TailSource {
    pub(crate) fn new(tail: Tail, hinted: Arc<Notify>, once: Option<CancellationToken>) -> Self {
        Self { tail: Some(tail), batches: VecDeque::new(), hinted, once }
    }

    async fn fill(&mut self, is_ending: bool) -> Result<Next> {
        let mut tail = self.tail.take().ok_or_else(|| anyhow!("the file reader stopped"))?;
        let filled = tokio::task::spawn_blocking(move || {
            let now = Now { instant: Instant::now(), system: SystemTime::now() };
            let mut batches = VecDeque::new();
            let next = tail.fill(now, is_ending, &mut batches);
            (tail, batches, next)
        });
        let (tail, batches, next) = filled.await.context("the file reader stopped")?;
        self.tail = Some(tail);
        self.batches = batches;
        next
    }
}

#[async_trait]
impl Source for TailSource {
    async fn read(&mut self) -> Result<Option<Batch>> {
        loop {
            if let Some(batch) = self.batches.pop_front() {
                return Ok(Some(batch));
            }
            let is_ending = self.once.as_ref().is_some_and(CancellationToken::is_cancelled);
            match self.fill(is_ending).await? {
                Next::More => {}
                Next::End => return Ok(None),
                Next::Wait(until) => tokio::select! {
                    () = self.hinted.notified() => {}
                    () = tokio::time::sleep_until(until.into()) => {}
                    () = async {
                        match &self.once {
                            Some(once) => once.cancelled().await,
                            None => std::future::pending().await,
                        }
                    } => {}
                },
            }
        }
    }
}
