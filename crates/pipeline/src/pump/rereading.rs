//! What a session reads that one before it has read: [`Rereading`].
//!
//! While an origin is held the cursor stays, and the next session starts there: it reads again what lies between,
//! for the one that is held, and passes over what the others have. Were it to end before it is beyond all that,
//! the others would never go on.

use std::time::Duration;

use tokio::time::Instant;

/// How far a session is with that, in batches that move the cursor.
pub(super) struct Rereading {
    /// Since when, and how many batches since then: since the session began, or the cursor last moved.
    began: Instant,
    taken: u64,
    /// So many the sessions before have taken from here on, at most.
    known: u64,
    /// Before this moment nothing is worth another session.
    again_at: Instant,
}

/// Without a batch for so long there is nothing more to pass: what was read before may have been deleted meanwhile.
const PAUSE: Duration = Duration::from_secs(1);

impl Rereading {
    pub(super) fn new(known: u64) -> Self {
        let began = Instant::now();
        Self { began, taken: 0, known, again_at: if known > 0 { began + PAUSE } else { began } }
    }

    /// Another batch was taken. Beyond what is known it goes on for as long as it took to get there, so that at
    /// least half of the time is spent on what is new.
    pub(super) fn note(&mut self) {
        self.taken += 1;
        if self.taken <= self.known {
            let now = Instant::now();
            self.again_at = now + if self.taken == self.known { now - self.began } else { PAUSE };
        }
    }

    /// The cursor moved behind what was taken: whatever starts there reads none of it again.
    pub(super) fn pass(&mut self) {
        let now = Instant::now();
        (self.began, self.taken, self.again_at) = (now, 0, now);
        self.known = self.known.saturating_sub(1);
    }

    /// When another session may start, if one is due at `retry_at`.
    pub(super) fn postpone(&self, retry_at: Option<Instant>) -> Option<Instant> {
        retry_at.map(|retry_at| retry_at.max(self.again_at))
    }

    /// What the next session finds again if its cursor is where this one's was.
    pub(super) fn known(&self) -> u64 {
        self.taken.max(self.known)
    }
}
