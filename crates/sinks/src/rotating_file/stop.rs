//! How the threads of a sink hear that it was dropped: [`Stop`].

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, bail};

/// Set once, when the sink is dropped. Everything that is not committed by then does not count.
#[derive(Debug, Default)]
pub(super) struct Stop {
    stopped: Mutex<bool>,
    changed: Condvar,
    /// How many pauses have begun.
    #[cfg(test)]
    pub(super) pauses: std::sync::atomic::AtomicU64,
}

impl Stop {
    /// Ends every pause, now and later.
    pub(super) fn set(&self) {
        // Nobody panics while they hold it, and a flag cannot be half set.
        *self.stopped.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    /// Whether the sink was dropped.
    pub(super) fn is_set(&self) -> bool {
        *self.stopped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whoever looks whether the sink was dropped waits until this is let go.
    #[cfg(test)]
    pub(super) fn hold(&self) -> std::sync::MutexGuard<'_, bool> {
        self.stopped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for `pause`.
    ///
    /// # Errors
    ///
    /// The sink was dropped.
    pub(super) fn sleep(&self, pause: Duration) -> Result<()> {
        #[cfg(test)]
        self.pauses.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        let (stopped, _) = self
            .changed
            .wait_timeout_while(stopped, pause, |stopped| !*stopped)
            .unwrap_or_else(PoisonError::into_inner);
        if *stopped {
            bail!("the sink was dropped while it waited");
        }
        Ok(())
    }
}
