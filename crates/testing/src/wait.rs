//! Waiting for something outside the test, with a deadline: [`wait_until`].

use std::thread;
use std::time::{Duration, Instant};

/// Long enough for anything a test waits for on a loaded machine; reaching it is a failure, never a measure.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// How often [`wait_until`] looks: often enough not to slow a test down, rarely enough to leave the
/// processor to what is waited for.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Polls `condition` until it holds. Blocks the thread, so an async test needs a second worker thread.
///
/// # Panics
///
/// When `deadline` passes first, with `what` was waited for.
#[track_caller]
pub fn wait_until(deadline: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < deadline, "waited {deadline:?} in vain until {what}");
        thread::sleep(POLL_INTERVAL);
    }
}
