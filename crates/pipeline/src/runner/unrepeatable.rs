//! Sources that cannot go back: [`Noted`], [`UntilStopped`].
//!
//! What such a source has taken from its input and nobody has made durable is lost with the process. So it is
//! counted wherever it is, and a stop lets the source give all of it before it ends.

use std::sync::atomic::Ordering;

use anyhow::Result;
use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::Run;
use crate::pump::Ended;
use crate::{Batch, Fatal, Progress, Source};

/// A source that cannot go back; what it gives is on its way until the hop of `progress` has committed it.
pub(super) struct Noted {
    pub(super) source: Box<dyn Source>,
    pub(super) progress: Progress,
}

/// Reads until the run is stopped, and then what was taken already. It may give up a read and begin another one,
/// which is why such a source must not lose anything thereby.
pub(super) struct UntilStopped {
    source: Box<dyn Source>,
    stop: CancellationToken,
    is_draining: bool,
}

#[async_trait]
impl Source for Noted {
    async fn read(&mut self) -> Result<Option<Batch>> {
        let batch = self.source.read().await?;
        if let Some(batch) = &batch {
            self.progress.note_unrepeatable(batch);
        }
        Ok(batch)
    }

    fn can_go_back(&self) -> bool {
        self.source.can_go_back()
    }

    fn drain(&mut self) -> bool {
        self.source.drain()
    }
}

impl UntilStopped {
    pub(super) fn new(source: Box<dyn Source>, stop: CancellationToken) -> Self {
        Self { source, stop, is_draining: false }
    }
}

#[async_trait]
impl Source for UntilStopped {
    async fn read(&mut self) -> Result<Option<Batch>> {
        if !self.is_draining {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => {}
                next = self.source.read() => return next,
            }
            if !self.source.drain() {
                return Ok(None);
            }
            self.is_draining = true;
        }
        self.source.read().await
    }

    fn can_go_back(&self) -> bool {
        self.source.can_go_back()
    }
}

impl Run {
    /// How many bytes would be lost with the process now.
    pub(super) fn unrepeatable_bytes(&self) -> u64 {
        let given = [&self.produced, &self.consumed].map(|metrics| metrics.progress.unrepeatable_bytes());
        given.iter().sum::<u64>() + self.bytes_in_hand()
    }

    /// How many of them were not given yet: by whichever hop they go, the source counts them at its own.
    fn bytes_in_hand(&self) -> u64 {
        let hops = [&self.produced, &self.consumed];
        hops.map(|metrics| metrics.progress.in_hand().load(Ordering::Relaxed)).iter().sum()
    }

    /// The end of a session whose source cannot go back, and gave what the hop of `progress` has to commit: one that
    /// lost something is the last one.
    pub(super) fn count_lost(&self, ended: Result<Ended>, progress: &Progress) -> Result<Ended> {
        let lost = progress.unrepeatable_bytes();
        if lost == 0 {
            return ended;
        }
        // What waits to be given is lost with the rest when the run ends.
        let lost = not_delivered(lost + self.bytes_in_hand());
        match ended {
            Ok(_) => Err(Fatal::new(lost)),
            Err(error) => Err(Fatal::new(format!("{error:#}; {lost}"))),
        }
    }
}

pub(super) fn not_delivered(bytes: u64) -> String {
    format!("{bytes} bytes that cannot be read again were not delivered")
}
