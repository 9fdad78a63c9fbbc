//! Commits, which run beside the writing: [`UnderWay`].
//!
//! ```text
//! write  write  begin ──► write  write  write   (commit_bytes reached: waits for the end)
//!                 └─ durable? ─────────────► settle ─► begin ──►
//! ```
//!
//! At most one is under way, so that commits end in the order in which they were begun. The longer one takes,
//! the more the next one covers: a slow disk is asked less often.

use std::collections::{HashMap, HashSet};

use anyhow::{Result, ensure};

use super::Writer;
use super::losses::Lost;
use crate::checkpoint::Changes;
use crate::metrics::Metrics;
use crate::plugin::Committing;
use crate::{History, Origin, Position};

/// A commit that was begun and is not known to be durable.
pub(super) struct UnderWay {
    commit: Committing,
    changes: Changes,
    /// What the origins that it covers were before.
    before: HashMap<Origin, Option<History>>,
    bytes: u64,
    dirty: bool,
    pub(super) losses: HashSet<Lost>,
}

/// While a commit is under way so many times `commit_bytes` may be written: a second of a busy machine, in which a
/// disk that others keep busy syncs too, and a bound for what a crash makes it write again.
const MOST_AHEAD: u64 = 32;

/// Waits for the end of the commit that is under way; for ever when none is. Nothing is lost when it is dropped.
pub(super) async fn outcome(under_way: &mut Option<UnderWay>) -> Result<Vec<(Origin, String)>> {
    match under_way {
        Some(under_way) => (&mut under_way.commit).await,
        None => std::future::pending().await,
    }
}

impl Writer<'_> {
    /// Begins to commit when `commit_bytes` are written; with far more it waits for the commit before.
    pub(super) async fn commit_what_is_enough(&mut self, commit_bytes: u64) -> Result<()> {
        if self.uncommitted_bytes < commit_bytes {
            return Ok(());
        }
        if self.under_way.is_some() {
            if self.uncommitted_bytes < commit_bytes.saturating_mul(MOST_AHEAD) {
                return Ok(());
            }
            self.finish_commit().await?;
        }
        self.begin_commit().await
    }

    /// Where `origin` is durable, as far as anybody knows.
    pub(super) fn durable_position(&self, origin: &Origin) -> Option<&Position> {
        let under_way = self.under_way.as_ref().and_then(|under_way| under_way.before.get(origin));
        match under_way.or_else(|| self.before.get(origin)) {
            Some(before) => before.as_ref().map(|history| &history.current),
            None => self.checkpoint.position(origin),
        }
    }

    /// Begins to commit everything written. None is under way.
    pub(super) async fn begin_commit(&mut self) -> Result<()> {
        debug_assert!(self.under_way.is_none(), "one commit at a time");
        self.commit_at = None;
        let commit = self.sink.begin_commit(&self.checkpoint).await?;
        self.under_way = Some(UnderWay {
            commit,
            changes: self.checkpoint.take_changes(),
            before: std::mem::take(&mut self.before),
            bytes: std::mem::take(&mut self.uncommitted_bytes),
            dirty: std::mem::take(&mut self.dirty),
            losses: std::mem::take(&mut self.losses),
        });
        Ok(())
    }

    /// Waits for the commit that is under way, if one is.
    pub(super) async fn finish_commit(&mut self) -> Result<()> {
        if self.under_way.is_none() {
            return Ok(());
        }
        let held = outcome(&mut self.under_way).await?;
        self.settle_commit(held)
    }

    /// The commit that was under way is durable, but for what of it turned out to be impossible to store.
    pub(super) fn settle_commit(&mut self, held: Vec<(Origin, String)>) -> Result<()> {
        let Some(under_way) = self.under_way.take() else { return Ok(()) };
        let UnderWay { mut changes, mut before, bytes, dirty, mut losses, commit: _ } = under_way;
        if !held.is_empty() {
            // Nobody may hear that it is durable, nor go on behind it.
            let refused: HashSet<&Origin> = held.iter().map(|(origin, _)| origin).collect();
            changes.origins.retain(|(origin, _)| !refused.contains(origin));
            losses.retain(|(origin, ..)| !refused.contains(origin));
            changes.cursors.clone_from(&self.committed_cursors);
            self.checkpoint.set_cursors(&self.committed_cursors);
        }
        for (origin, reason) in held {
            ensure!(self.can_go_back, "cannot store what was taken of `{origin}`: {reason}");
            let since = self.before.remove(&origin);
            if let Some(before) = before.remove(&origin).or(since) {
                self.checkpoint.set_history(&origin, before);
            }
            if !self.held.contains_key(&origin) {
                self.hold(&origin, reason, true);
            }
        }
        if dirty {
            Metrics::add(&self.metrics.commits, 1);
            Metrics::add(&self.metrics.bytes_committed, bytes);
            if let Some(trouble) = self.memory.trouble.take() {
                trouble.is_over(&self.settings.name);
            }
        }
        self.memory.losses.forget(losses);
        self.metrics.progress.commit(&changes);
        self.committed_cursors = changes.cursors;
        self.ask_for_the_unasked();
        Ok(())
    }
}
