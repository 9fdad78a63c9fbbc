//! Files come and go, and what is gone for good is forgotten: [`Tail::sweep`].
//!
//! A log of which nothing is left, and whose end is durable, takes no more room than its position. A file that
//! is part of no log that is known, and at no path that is listed, takes none.

use std::collections::HashSet;
use std::path::Path;

use fshipper_pipeline::{Bytes, Origin, Position};

use super::identity::FileId;
use super::log::{Log, Stage};
use super::tail::Tail;

/// Fewer files and logs than this are not looked through; then whenever they are twice as many as were left.
const SWEEP_ABOVE: usize = 512;

impl Tail {
    /// Forgets what is gone for good, now and then.
    pub(super) fn sweep(&mut self) {
        if self.by_id.len() + self.by_path.len() < self.sweep_above.max(SWEEP_ABOVE) {
            return;
        }
        let gone: HashSet<usize> =
            (0..self.logs.len()).filter(|index| self.is_gone_for_good(*index)).collect();
        gone.iter().for_each(|index| self.forget_log(*index));
        let listed: HashSet<FileId> = self.discovery.files().collect();
        let mut known = listed.clone();
        for log in &mut self.logs {
            log.passed.retain(|id| listed.contains(id));
            known.extend(log.generations.iter().map(|generation| generation.id));
            known.extend(log.held.iter().map(|held| held.id));
            known.extend(log.last_read);
        }
        self.by_id.retain(|id, owner| known.contains(id) && !gone.contains(owner));
        self.inodes = self.by_id.keys().map(|id| id.inode).collect();
        self.sweep_above = 2 * (self.by_id.len() + self.by_path.len());
    }

    /// Whether nothing of a log is left, nothing of it is under way, and its end is durable.
    fn is_gone_for_good(&self, index: usize) -> bool {
        let log = &self.logs[index];
        let is_there = self.by_path.get(&log.path) == Some(&index);
        let is_idle = matches!(log.stage, Stage::Over) && log.is_at_last() && log.outbox.is_empty();
        let is_awaited = log.is_ready
            || log.awaits_release
            || self.unsettled.contains(&index)
            || self.waiting.contains(&index);
        let is_left =
            !log.members.is_empty() || !log.held.is_empty() || !self.discovery.shows(&log.path, None);
        let is_durable = (log.offset == 0 || log.committed == Some(log.offset))
            && log.floor.is_none_or(|floor| floor >= log.offset);
        is_there && is_idle && !is_awaited && !is_left && is_durable
    }

    fn forget_log(&mut self, index: usize) {
        let nothing = Log::new(Origin::new("", ""), Path::new("").into(), 0);
        let log = std::mem::replace(&mut self.logs[index], nothing);
        self.free.push(index);
        self.by_path.remove(&log.path);
        if !log.generations.is_empty() {
            self.state.stage_forget(&log.path);
        }
        if log.offset > 0 {
            let place = log.place(true).map_or_else(Bytes::new, |place| place.encode());
            self.dormant.insert(log.origin, Position { epoch: log.epoch, offset: log.offset, place });
        }
    }
}
