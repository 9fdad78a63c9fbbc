//! How much is there and was not read, for whoever looks from outside: [`Tail::unread`].

use std::time::{Duration, Instant};

use fshipper_pipeline::Backlog;

use super::identity::Stat;
use super::log::{Log, Stage};
use super::tail::Tail;

/// Who is told, and when it was last.
pub(crate) struct Told {
    backlog: Backlog,
    at: Option<Instant>,
}

/// How often it is counted.
const COUNT_EVERY: Duration = Duration::from_secs(1);

impl Tail {
    /// Tells `backlog` from now on.
    pub(crate) fn tell_to(&mut self, backlog: Backlog) {
        self.told = Some(Told { backlog, at: None });
    }

    /// At a tick.
    pub(super) fn tell_unread(&mut self, now: Instant) {
        let is_due = |told: &Told| told.at.is_none_or(|at| now.duration_since(at) >= COUNT_EVERY);
        if self.told.as_ref().is_some_and(is_due) {
            let unread = self.unread();
            if let Some(told) = &mut self.told {
                told.backlog.set(unread);
                told.at = Some(now);
            }
        }
    }

    /// How many bytes are still to be read, of files that are open or known to wait, as of the last look at each.
    /// What is compressed counts when it is read.
    pub(crate) fn unread(&self) -> u64 {
        self.logs.iter().map(Log::unread).sum()
    }
}

impl Log {
    fn unread(&self) -> u64 {
        let present = match &self.stage {
            Stage::Reading(reading) if !reading.is_packed => {
                // It has grown since it was looked into.
                let grown = reading.file.as_ref().filter(|_| self.is_ready);
                let size =
                    grown.and_then(|file| Stat::of_file(file).ok()).map_or(reading.size, |stat| stat.size);
                size.saturating_sub(reading.text.zeros()).saturating_sub(self.position())
            }
            _ => 0,
        };
        present + self.rotation.held.iter().map(|held| held.size).sum::<u64>()
    }
}
