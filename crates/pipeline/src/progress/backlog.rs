//! What waits in front of a source: [`Backlog`].

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use super::Progress;

/// How much one source knows to be there and has not read, as it says itself. Dropping it takes the word back.
#[derive(Debug)]
pub struct Backlog {
    progress: Progress,
    unit: BacklogUnit,
    amount: u64,
}

/// In what a backlog is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BacklogUnit {
    /// Of files and the like.
    Bytes,
    /// Of a stream.
    Messages,
}

/// What the sources of a hop say together.
#[derive(Debug, Default)]
pub(super) struct Backlogs {
    bytes: Sum,
    messages: Sum,
}

#[derive(Debug, Default)]
struct Sum {
    tellers: AtomicUsize,
    amount: AtomicU64,
}

impl Backlog {
    /// So much waits now.
    pub fn set(&mut self, amount: u64) {
        let sum = self.progress.0.backlogs.of(self.unit);
        // Only this source changes its own part, so the sum never falls below it.
        sum.amount.fetch_add(amount, Relaxed);
        sum.amount.fetch_sub(std::mem::replace(&mut self.amount, amount), Relaxed);
    }
}

impl Drop for Backlog {
    fn drop(&mut self) {
        self.set(0);
        self.progress.0.backlogs.of(self.unit).tellers.fetch_sub(1, Relaxed);
    }
}

impl Backlogs {
    fn of(&self, unit: BacklogUnit) -> &Sum {
        match unit {
            BacklogUnit::Bytes => &self.bytes,
            BacklogUnit::Messages => &self.messages,
        }
    }
}

impl Progress {
    /// For a source that can tell how much waits in front of it.
    pub fn tell_backlog(&self, unit: BacklogUnit) -> Backlog {
        self.0.backlogs.of(unit).tellers.fetch_add(1, Relaxed);
        Backlog { progress: self.clone(), unit, amount: 0 }
    }

    /// How much waits in front of this hop's sources; `None` when none of them tells it in this unit.
    pub fn backlog(&self, unit: BacklogUnit) -> Option<u64> {
        let sum = self.0.backlogs.of(unit);
        (sum.tellers.load(Relaxed) > 0).then(|| sum.amount.load(Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_several_sources_say_is_added_and_taken_back_when_they_end() {
        let progress = Progress::default();
        assert_eq!(progress.backlog(BacklogUnit::Bytes), None);
        let mut one = progress.tell_backlog(BacklogUnit::Bytes);
        let mut other = progress.tell_backlog(BacklogUnit::Bytes);
        one.set(5);
        other.set(7);
        one.set(3);
        assert_eq!(progress.backlog(BacklogUnit::Bytes), Some(10));
        assert_eq!(progress.backlog(BacklogUnit::Messages), None);
        drop(other);
        assert_eq!(progress.backlog(BacklogUnit::Bytes), Some(3));
        drop(one);
        assert_eq!(progress.backlog(BacklogUnit::Bytes), None);
    }
}
