//! Files come and go, and what is gone for good is forgotten: [`Tail::sweep`].
//!
//! A log of which nothing is left, and whose end is durable, takes no more room than its position. A file that
//! is part of no log that is known, and at no path that is listed, takes none.

use std::collections::HashSet;
use std::path::Path;

use fshipper_pipeline::{Bytes, Origin, Position};

use super::identity::FileId;
use super::log::{Log, Stage};
use super::place::Place;
use super::tail::Tail;

/// Fewer files and logs than this are not looked through; then whenever they are twice as many as were left.
const SWEEP_ABOVE: usize = 512;

impl Tail {
    /// Forgets what is gone for good, now and then.
    pub(super) fn sweep(&mut self) {
        if self.owners.len() + self.by_path.len() < self.sweep_above.max(SWEEP_ABOVE) {
            return;
        }
        let gone: HashSet<usize> =
            (0..self.logs.len()).filter(|index| self.is_gone_for_good(*index)).collect();
        gone.iter().for_each(|index| self.forget_log(*index));
        let mut listed: Vec<FileId> = self.discovery.files().collect();
        listed.sort_unstable();
        let is_listed = |id: &FileId| listed.binary_search(id).is_ok();
        // Of those that are at no path that is listed, the ones that are part of a log.
        let mut known = HashSet::new();
        for log in &mut self.logs {
            log.rotation.clear(|rotation| rotation.passed.retain(is_listed));
            known.extend(log.generations.iter().map(|generation| generation.id).filter(|id| !is_listed(id)));
            known.extend(log.rotation.held.iter().map(|held| held.id));
            known.extend(log.last_read().filter(|id| !is_listed(id)));
        }
        let is_known = |id: &FileId| is_listed(id) || known.contains(id);
        self.owners.retain(|id, owner| is_known(id) && !gone.contains(&owner));
        self.inodes.clear();
        self.inodes.extend(self.owners.inodes());
        self.inodes.shrink_to_fit();
        self.sweep_above = 2 * (self.owners.len() + self.by_path.len());
    }

    /// Whether nothing of a log is left, nothing of it is under way, and its end is durable.
    fn is_gone_for_good(&self, index: usize) -> bool {
        let log = &self.logs[index];
        let is_there = self.log_at(&log.path) == Some(index);
        let is_idle = matches!(log.stage, Stage::Over)
            && log.is_at_last()
            && log.rotation.outbox.is_empty()
            && log.rotation.uncommitted.is_empty();
        let is_awaited = log.is_ready
            || log.awaits_release
            || self.unsettled.contains(&index)
            || self.waiting.contains(&index);
        let is_left = !log.rotation.members.is_empty()
            || !log.rotation.held.is_empty()
            || !self.discovery.shows(&log.path, None);
        let is_durable = (log.offset == 0 || log.committed == log.offset)
            && log.floor.is_none_or(|floor| floor >= log.offset);
        is_there && is_idle && !is_awaited && !is_left && is_durable
    }

    fn forget_log(&mut self, index: usize) {
        self.by_path.remove(&self.logs, index);
        let nothing = Log::new(Origin::new("", ""), Path::new("").into(), 0);
        let log = std::mem::replace(&mut self.logs[index], nothing);
        self.free.push(index);
        if !log.generations.is_empty() {
            self.state.stage_forget(&log.path);
        }
        if log.offset > 0 {
            // Should its file come back it goes on, unless nobody knows how what was read of it ended.
            let place = log.place(false).map(|place| Place { over: place.marker.is_none(), ..place });
            let place = place.map_or_else(Bytes::new, |place| place.encode());
            self.dormant.insert(log.origin, Position { epoch: log.epoch, offset: log.offset, place });
        }
    }
}
