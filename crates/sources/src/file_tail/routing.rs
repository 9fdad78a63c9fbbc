//! Which log a path belongs to: its own, the one it is a rotated sibling of, or the one whose file was renamed or
//! copied to it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::candidates::{self, Candidate};
use super::contents::head_of;
use super::discovery::Change;
use super::identity::FileId;
use super::log::{Log, Now, Stage};
use super::reading::Reading;
use super::rotation::Held;
use super::siblings::{self, Suffix};
use super::tail::Tail;

impl Tail {
    /// Gives each path that changed to the log it concerns.
    pub(super) fn route(&mut self, mut changes: Vec<Change>, now: Now) {
        // Logs before their siblings, whose names are longer; logs that are known first of all.
        let is_new = |change: &Change| self.log_at(&change.path).is_none();
        changes.sort_by_cached_key(|change| {
            (is_new(change), change.path.as_os_str().len(), change.path.clone())
        });
        // Before any of them is taken for another one whose device was numbered anew.
        changes.iter().filter_map(|change| change.now).for_each(|id| self.owners.see(id));
        for change in changes {
            self.route_one(change, now);
        }
    }

    fn route_one(&mut self, change: Change, time: Now) {
        let Change { path, now } = change;
        // Whoever's file was there before, it may be another one's now.
        if let Some(index) = self.by_member.remove(&path) {
            self.logs[index].rotation.clear(|rotation| {
                rotation.members.remove(&path);
            });
            self.unsettled.insert(index);
        }
        if let Some(index) = self.log_at(&path) {
            self.unsettled.insert(index);
            let Some(id) = now else { return };
            let other = match self.owners.of(id) {
                Some(other) if other == index => None,
                Some(other) if self.is_of(other, &path, id) => Some(other),
                _ => self.original_of(index, time),
            };
            if let Some(other) = other {
                self.add_member(other, &path);
            }
            self.own(id, other.unwrap_or(index));
            return;
        }
        let Some(id) = now else { return };
        let primaries = siblings::primaries(&path);
        let primary = primaries.iter().find_map(|(primary, _)| self.log_at(primary));
        match self.owners.of(id) {
            Some(index) if primary == Some(index) || self.is_of(index, &path, id) => {
                self.own(id, index);
                return self.add_member(index, &path);
            }
            // The inode was used again for another file.
            Some(_) => self.owners.remove(id),
            None => {}
        }
        if let Some(index) = primary {
            self.add_member(index, &path);
        } else if let Some((primary, table)) = self.absent_log(&path, primaries) {
            let index = self.add_log(&primary, table);
            self.add_member(index, &path);
            self.own(id, index);
        } else if let Some(table) = self.options.patterns.owner(&path) {
            // One that there is only compressed is known by the name that it had before.
            let log = siblings::without_gzip(&path);
            let index = self.add_log(log.as_ref().unwrap_or(&path), table);
            if log.is_some() {
                self.add_member(index, &path);
            }
            self.own(id, index);
        }
    }

    /// The log that a numbered file is a part of although nothing stands at that log's own path, and the table
    /// that owns it. `worker.1` may be a log of its own, and so may a file that a day is named after.
    fn absent_log(&self, path: &Path, primaries: Vec<(PathBuf, Suffix)>) -> Option<(PathBuf, usize)> {
        let patterns = &self.options.patterns;
        let is_part = patterns.owner(path).is_some() && !siblings::is_unreadable(path);
        let is_numbered = |(primary, suffix): &(PathBuf, Suffix)| {
            matches!(suffix, Suffix::Number(_)) && primary.extension().is_some()
        };
        let mut primaries = primaries.into_iter().filter(|found| is_part && is_numbered(found));
        primaries.find_map(|(primary, _)| patterns.owner(&primary).map(|table| (primary, table)))
    }

    /// The log of which the file at the own path of the log number `index` is a copy, as it comes to a name that
    /// rotated files go by.
    pub(super) fn original_of(&self, index: usize, now: Now) -> Option<usize> {
        let path = &self.logs[index].path;
        let holds = |other: usize, suffix: Suffix| {
            let is_copy =
                candidates::is_rotated(&self.logs[other], &self.options.patterns, path, suffix, now);
            // One that cannot be read now is looked at again before anything of it is.
            is_copy.unwrap_or(false)
        };
        let primaries = siblings::primaries(path).into_iter();
        let mut logs = primaries.filter_map(|(primary, suffix)| Some((self.log_at(&primary)?, suffix)));
        logs.find_map(|(other, suffix)| (other != index && holds(other, suffix)).then_some(other))
    }

    /// Whether a log does not begin the file at its own path, because another one has it as a copy.
    pub(super) fn leave_copy(&mut self, index: usize, id: FileId, now: Now) -> bool {
        let Some(other) = self.original_of(index, now) else { return false };
        let path = self.logs[index].path.clone();
        self.add_member(other, &path);
        self.own(id, other);
        true
    }

    pub(super) fn add_log(&mut self, path: &Path, table: usize) -> usize {
        let path: Arc<Path> = path.into();
        let mut log = Log::new(self.options.origin(&path), path, table);
        if let Some(position) = self.dormant.remove(&log.origin) {
            log.resume(None, Some(&position));
            log.committed = position.offset;
            // Nothing is missing, whatever is there now.
            log.is_rebuilt = false;
            log.rotation.make().seen_end = Some(log.offset);
        }
        let index = match self.free.pop() {
            Some(index) => {
                self.logs[index] = log;
                index
            }
            None => {
                self.logs.push(log);
                self.logs.len() - 1
            }
        };
        self.by_path.insert(&self.logs, index);
        self.unsettled.insert(index);
        index
    }

    fn add_member(&mut self, index: usize, path: &Path) {
        self.logs[index].rotation.make().members.insert(path.to_owned());
        self.by_member.insert(path.to_owned(), index);
        self.unsettled.insert(index);
    }

    pub(super) fn own(&mut self, id: FileId, index: usize) {
        self.owners.insert(id, index);
        self.inodes.insert(id.inode);
    }

    /// Makes a log's files known by their inodes.
    pub(super) fn register(&mut self, index: usize) {
        let ids: Vec<_> = self.logs[index].generations.iter().map(|generation| generation.id).collect();
        for id in ids {
            self.owners.remember(id, index);
            self.inodes.insert(id.inode);
        }
    }

    /// Leaves out of the files found at a log's paths those that belong to other logs: under the name of its
    /// rotated files another log may have its own path, and at its own path may stand what another one had
    /// renamed. Nothing of that waits for its turn any more, should it have done so before it was known whose it is.
    pub(super) fn leave_others(&mut self, index: usize, files: &mut Vec<Candidate>) {
        let owners = &self.owners;
        let is_others = |id: FileId| owners.of(id).is_some_and(|owner| owner != index);
        files.retain(|file| !is_others(file.stat.id));
        let log = &mut self.logs[index];
        let is_left = |held: &mut Held| is_others(held.id);
        let left: Vec<Held> = log
            .rotation
            .if_any()
            .map_or_else(Vec::new, |rotation| rotation.held.extract_if(.., is_left).collect());
        for held in left {
            self.open_files.held -= usize::from(held.file.is_some());
            if !held.cuts.is_empty() {
                let path = held.path.display();
                let reason = format!("`{path}` was truncated or overwritten while it waited to be read");
                self.logs[index].lose_earlier(&mut self.state, reason);
                self.make_ready(index);
            }
        }
    }

    /// Whether the file at `path`, which has the inode of a file of this log, is that file.
    fn is_of(&self, index: usize, path: &Path, id: FileId) -> bool {
        // An inode in use is not used again: what is open is the same file, whatever it holds.
        if let Stage::Reading(Reading { id: open, file: Some(_), .. }) = &self.logs[index].stage
            && *open == id
        {
            return true;
        }
        let mut generations = self.logs[index].generations.iter().rev();
        let Some(generation) = generations.find(|generation| generation.id.same(&id)) else { return true };
        let head = head_of(path);
        // One that cannot be read now is not given to anybody else.
        head.map_or(true, |head| generation.fingerprint.matches(&head))
    }
}
