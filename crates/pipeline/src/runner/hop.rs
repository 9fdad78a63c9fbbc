//! The sessions of a hop, one after the other: [`Hop`].

use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Error, Result};
use tokio::time::Instant;

use super::Run;

use crate::metrics::Metrics;
use crate::pump::{Ended, Memory, Trouble};
use crate::{Backoff, Complaint, Fatal};

/// The sessions of one hop.
pub(super) struct Hop<'a> {
    run: &'a Run,
    name: &'static str,
    metrics: &'a Metrics,
    /// Of another hop that opens and ends with this one.
    pub(super) linked: Option<&'a Metrics>,
    memory: Memory,
}

/// The pauses between the sessions of a hop that fails.
pub(super) const REOPEN_FIRST: Duration = Duration::from_millis(100);
pub(super) const REOPEN_MOST: Duration = Duration::from_secs(30);

/// Whether trying again cannot mend it.
pub(super) fn is_final(error: &Error) -> bool {
    error.chain().any(|cause| cause.is::<Fatal>())
}

/// With `--once`: how long logs that are held are tried again when nothing else is left to do. A directory that is
/// mounted late, or a rotation by somebody else, takes less; whoever runs this every few minutes wants to know.
pub(super) const ONCE_PATIENCE: Duration = Duration::from_secs(60);

impl<'a> Hop<'a> {
    pub(super) fn new(run: &'a Run, name: &'static str, metrics: &'a Metrics) -> Self {
        Self { run, name, metrics, linked: None, memory: Memory::default() }
    }

    /// Runs sessions until one finishes, reading is stopped, or one fails for good.
    pub(super) async fn sessions<F>(&mut self, session: F) -> Result<()>
    where
        F: AsyncFn(&mut Memory) -> Result<Ended>,
    {
        let result = self.run_sessions(session).await;
        for metrics in [Some(self.metrics), self.linked].into_iter().flatten() {
            metrics.end_session();
            if result.is_ok() {
                metrics.finish();
            }
        }
        result
    }

    async fn run_sessions<F>(&mut self, session: F) -> Result<()>
    where
        F: AsyncFn(&mut Memory) -> Result<Ended>,
    {
        let stop = &self.run.control.stop;
        let mut backoff = Backoff::new(REOPEN_FIRST, REOPEN_MOST);
        let mut complaint = Complaint::default();
        // With `--once`: since when there is nothing to do but to try again what is held.
        let mut held_since = None;
        let mut has_failed = false;
        loop {
            let commits = self.metrics.counts().commits;
            let opened = self.metrics.counts().sessions;
            let result = {
                let mut attempt = std::pin::pin!(session(&mut self.memory));
                tokio::select! {
                    result = &mut attempt => result,
                    // What is still opening has read nothing; what runs drains by itself.
                    () = stop.cancelled() => match self.metrics.counts().sessions == opened {
                        true => return Ok(()),
                        false => attempt.await,
                    },
                }
            };
            let worked = self.metrics.counts().commits > commits;
            if worked {
                backoff.reset();
                complaint.settle();
                held_since = None;
            }
            let wait_until = match result {
                Ok(Ended::Finished) => return Ok(()),
                Ok(Ended::Again(at)) => {
                    let held_since = *held_since.get_or_insert_with(Instant::now);
                    if self.run.context.settings.once && held_since.elapsed() >= ONCE_PATIENCE {
                        self.memory.give_up_held()?;
                    }
                    at
                }
                Err(error) if is_final(&error) => {
                    // What other attempts got past, or found before it, is no error of configuration.
                    self.run.started.fetch_or(has_failed, Ordering::Relaxed);
                    return Err(error);
                }
                Err(error) => {
                    // Until the next one is open. Where nothing failed it follows at once.
                    self.metrics.end_session();
                    if let Some(linked) = self.linked {
                        linked.end_session();
                    }
                    has_failed = true;
                    let pause = backoff.pause();
                    let (pipeline, hop) = (&self.run.context.settings.name, self.name);
                    complaint.report(&format!("{error:#}"), |text| {
                        // What worked until now most likely works again; what did not may need an operator.
                        match worked {
                            true => tracing::warn!(pipeline, hop, "{text}; opening again"),
                            false => tracing::error!(pipeline, hop, "{text}; trying again"),
                        }
                        let works_once_open = worked || self.metrics.counts().sessions == opened;
                        self.memory.trouble = Some(Trouble { hop, works_once_open });
                    });
                    Instant::now() + pause
                }
            };
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep_until(wait_until) => {}
            }
        }
    }
}
