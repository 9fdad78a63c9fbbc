//! How much a publisher holds: [`Load`].

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// What waits or is under way, counted by whoever takes it in and whoever lets it go.
#[derive(Debug, Default)]
pub(super) struct Load {
    batches: AtomicUsize,
    bytes: AtomicUsize,
    less: Notify,
}

/// The most that waits or is under way: as much as the whole hop may hold. Batches bring leases of that budget
/// with them, and this bounds those that do not.
pub(super) const MAX_BYTES: usize = 8 << 20;

/// The same in batches, which cost memory of their own.
pub(super) const MAX_BATCHES: usize = 4096;

impl Load {
    /// Whether there is room for more.
    pub(super) fn has_room(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) < MAX_BYTES && self.batches.load(Ordering::Relaxed) < MAX_BATCHES
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
