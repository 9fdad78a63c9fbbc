//! What the pump counts, so that no plugin has to: [`Metrics`].

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::{BacklogUnit, Progress};

/// The counters of one hop since the process started. Reading them costs nothing to the hop.
#[derive(Debug, Default)]
pub struct Metrics {
    pub(crate) bytes_read: AtomicU64,
    pub(crate) bytes_written: AtomicU64,
    pub(crate) lines_written: AtomicU64,
    pub(crate) batches_written: AtomicU64,
    pub(crate) bytes_committed: AtomicU64,
    pub(crate) commits: AtomicU64,
    pub(crate) bytes_duplicate: AtomicU64,
    pub(crate) bytes_lost: AtomicU64,
    pub(crate) losses: AtomicU64,
    pub(crate) origins_held: AtomicU64,
    pub(crate) sessions: AtomicU64,
    /// Those of them that have ended.
    pub(crate) ended_sessions: AtomicU64,
    /// What sessions before this one read and did not commit: it was, or will be, read again.
    left_before: AtomicU64,
    is_finished: AtomicBool,
    /// What the hop's ends tell each other; here because it counts what is under way.
    pub(crate) progress: Progress,
}

/// The counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Bytes that the source gave.
    pub bytes_read: u64,
    /// Bytes that the sink took.
    pub bytes_written: u64,
    /// Line ends among them.
    pub lines_written: u64,
    /// The batches they came in.
    pub batches_written: u64,
    /// Bytes that are durable at the sink.
    pub bytes_committed: u64,
    /// How often they were made so.
    pub commits: u64,
    /// Bytes that the sink already had and that were cut off.
    pub bytes_duplicate: u64,
    /// Bytes that are known to be lost.
    pub bytes_lost: u64,
    /// Records of a loss, those of unknown amount included.
    pub losses: u64,
    /// Origins that cannot go on now.
    pub origins_held: u64,
    /// How often the hop was opened.
    pub sessions: u64,
    /// Bytes that this hop has committed and that are not durable beyond its transport, as far as that end has
    /// told; `None` when it tells nothing. See [`Progress::lag`].
    pub bytes_behind: Option<u64>,
    /// Bytes that the sources know of and have not read; `None` when they cannot tell.
    pub bytes_unread: Option<u64>,
    /// The same in messages of a stream.
    pub messages_unread: Option<u64>,
}

impl Metrics {
    /// The counters now.
    pub fn counts(&self) -> Counts {
        Counts {
            bytes_read: self.bytes_read.load(Relaxed),
            bytes_written: self.bytes_written.load(Relaxed),
            lines_written: self.lines_written.load(Relaxed),
            batches_written: self.batches_written.load(Relaxed),
            bytes_committed: self.bytes_committed.load(Relaxed),
            commits: self.commits.load(Relaxed),
            bytes_duplicate: self.bytes_duplicate.load(Relaxed),
            bytes_lost: self.bytes_lost.load(Relaxed),
            losses: self.losses.load(Relaxed),
            origins_held: self.origins_held.load(Relaxed),
            sessions: self.sessions.load(Relaxed),
            bytes_behind: self.progress.lag(),
            bytes_unread: self.progress.backlog(BacklogUnit::Bytes),
            messages_unread: self.progress.backlog(BacklogUnit::Messages),
        }
    }

    /// Whether a session runs.
    pub(crate) fn is_open(&self) -> bool {
        self.sessions.load(Relaxed) > self.ended_sessions.load(Relaxed)
    }

    /// A session starts to read.
    pub(crate) fn begin_session(&self) {
        self.left_before.store(self.left(), Relaxed);
        Self::add(&self.sessions, 1);
    }

    /// How many bytes this session has read and not committed.
    pub(crate) fn in_flight(&self) -> u64 {
        self.left().saturating_sub(self.left_before.load(Relaxed))
    }

    fn left(&self) -> u64 {
        let settled = self.bytes_committed.load(Relaxed) + self.bytes_duplicate.load(Relaxed);
        self.bytes_read.load(Relaxed).saturating_sub(settled)
    }

    /// Whether the hop has ended as it should.
    pub(crate) fn is_finished(&self) -> bool {
        self.is_finished.load(Relaxed)
    }

    /// The hop has ended as it should.
    pub(crate) fn finish(&self) {
        self.is_finished.store(true, Relaxed);
    }

    /// The session that ran, if one did, has ended.
    pub(crate) fn end_session(&self) {
        self.ended_sessions.store(self.sessions.load(Relaxed), Relaxed);
    }

    pub(crate) fn add(counter: &AtomicU64, amount: u64) {
        counter.fetch_add(amount, Relaxed);
    }
}
