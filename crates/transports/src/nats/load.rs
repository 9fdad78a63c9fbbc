//! How much a publisher holds: [`Load`].

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// What waits or is under way, counted by whoever takes it in and whoever lets it go.
#[derive(Debug)]
pub(super) struct Load {
    max_bytes: usize,
    batches: AtomicUsize,
    bytes: AtomicUsize,
    less: Notify,
}

/// The most that waits or is under way near by, and in all: as much as the whole hop may hold.
pub(super) const NEAR_BYTES: usize = 8 << 20;

/// The same where a round trip is long: over 50 ms this is 280 MB a second. Measured, the process then has 29 MiB.
pub(super) const FAR_BYTES: usize = 14 << 20;

/// The same in batches, which cost memory of their own.
pub(super) const MAX_BATCHES: usize = 4096;

impl Load {
    /// Nothing yet, and at most so many bytes. Batches bring leases of the hop's budget with them, and this bounds
    /// those that do not.
    pub(super) fn new(max_bytes: usize) -> Self {
        Self { max_bytes, batches: AtomicUsize::new(0), bytes: AtomicUsize::new(0), less: Notify::new() }
    }

    /// The most that waits or is under way, in bytes.
    pub(super) fn max_bytes(&self) -> usize {
        self.max_bytes
    }

    /// Whether there is room for more.
    pub(super) fn has_room(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) < self.max_bytes
            && self.batches.load(Ordering::Relaxed) < MAX_BATCHES
    }

    /// Takes in one batch of so many bytes.
    pub(super) fn add(&self, bytes: usize) {
        self.batches.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Lets go of so much.
    pub(super) fn take(&self, batches: usize, bytes: usize) {
        self.batches.fetch_sub(batches, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.less.notify_one();
    }

    /// Waits until something was let go since the last time.
    pub(super) async fn less(&self) {
        self.less.notified().await;
    }
}
