//! The asynchronous side: [`TailSource`] runs the engine on blocking threads and waits for its hints.
//!
//! While nobody reads, because what comes after it takes nothing, files are rotated and deleted all the same:
//! so the engine is woken then too, and holds open what waits.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Instant, SystemTime};

use anyhow::{Context as _, Result, anyhow};
use async_trait::async_trait;
use fshipper_pipeline::{Batch, Follower, News, Position, Progress, Source};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::log::Now;
use super::tail::{Next, TICK, Tail};

/// What is told of at most so many logs is taken at once.
const TOLD_AT_ONCE: usize = 1024;

/// A running `file_tail`.
pub(crate) struct TailSource {
    /// Locked for long on blocking threads only.
    tail: Arc<Mutex<Tail>>,
    batches: VecDeque<Batch>,
    hinted: Arc<Notify>,
    once: Option<CancellationToken>,
    /// Ends with this struct.
    _keeper: JoinSet<()>,
}

impl TailSource {
    /// `progress` says how far logs are durable, here and at the far end.
    pub(crate) fn new(
        tail: Tail,
        hinted: Arc<Notify>,
        once: Option<CancellationToken>,
        progress: &Progress,
    ) -> Self {
        let tail = Arc::new(Mutex::new(tail));
        let mut keeper = JoinSet::new();
        keeper.spawn(keep_up(tail.clone(), progress.follow_floors(), progress.follow_news()));
        Self { tail, batches: VecDeque::new(), hinted, once, _keeper: keeper }
    }

    async fn fill(&mut self, is_ending: bool) -> Result<Next> {
        let tail = self.tail.clone();
        let filled = tokio::task::spawn_blocking(move || {
            let mut batches = VecDeque::new();
            let next = lock(&tail)?.fill(now(), is_ending, &mut batches);
            next.map(|next| (batches, next))
        });
        let (batches, next) = filled.await.context("the file reader stopped")??;
        self.batches = batches;
        Ok(next)
    }
}

/// Lets the engine look at its files as long as nobody reads, and tells it how far logs are durable.
async fn keep_up(tail: Arc<Mutex<Tail>>, mut floors: Follower<Position>, mut news: Follower<News>) {
    loop {
        let (mut far, mut here) = (Vec::new(), Vec::new());
        tokio::select! {
            told = floors.changed(TOLD_AT_ONCE) => far = told,
            told = news.changed(TOLD_AT_ONCE) => here = told,
            () = tokio::time::sleep(TICK) => {}
        }
        // Whoever holds the lock is reading.
        if far.is_empty() && here.is_empty() && !tail.try_lock().is_ok_and(|tail| tail.is_overdue(now())) {
            continue;
        }
        let tail = tail.clone();
        let kept = tokio::task::spawn_blocking(move || {
            let mut tail = lock(&tail)?;
            far.iter().for_each(|(origin, floor)| tail.set_floor(origin, floor));
            for (origin, news) in &here {
                if let News::Committed(position) = news {
                    tail.set_committed(origin, position);
                }
            }
            if tail.is_overdue(now()) {
                tail.keep_up(now());
            }
            Ok(())
        });
        // A panic is the next reader's error.
        let Ok(Ok::<(), anyhow::Error>(())) = kept.await else { return };
    }
}

fn lock(tail: &Mutex<Tail>) -> Result<MutexGuard<'_, Tail>> {
    tail.lock().map_err(|_| anyhow!("the file reader stopped"))
}

fn now() -> Now {
    Now { instant: Instant::now(), system: SystemTime::now() }
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

#[cfg(test)]
impl TailSource {
    /// What the engine answers, unless somebody else has it now.
    pub(crate) fn look(&self, question: &dyn Fn(&Tail) -> bool) -> bool {
        self.tail.try_lock().is_ok_and(|tail| question(&tail))
    }
}
