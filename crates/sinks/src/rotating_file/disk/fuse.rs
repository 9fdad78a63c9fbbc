//! Stops the sink before its n-th change of the disk, and every later one, as a kill would.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Result, bail};

#[derive(Debug)]
pub(in crate::rotating_file) struct Fuse {
    left: AtomicU64,
    blown: AtomicBool,
}

impl Default for Fuse {
    fn default() -> Self {
        Self { left: AtomicU64::new(u64::MAX), blown: AtomicBool::new(false) }
    }
}

impl Fuse {
    /// Lets so many more changes happen.
    pub(in crate::rotating_file) fn set(&self, changes: u64) {
        self.left.store(changes, Ordering::SeqCst);
    }

    /// Whether it stopped anything.
    pub(in crate::rotating_file) fn is_blown(&self) -> bool {
        self.blown.load(Ordering::SeqCst)
    }

    pub(super) fn step(&self) -> Result<()> {
        let left = self.left.load(Ordering::SeqCst);
        if left == 0 {
            self.blown.store(true, Ordering::SeqCst);
            bail!("killed by the test");
        }
        self.left.store(left - 1, Ordering::SeqCst);
        Ok(())
    }
}
