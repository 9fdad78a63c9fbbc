//! Which rotated files go, and when: [`Writer::delete_old`]; and which of them have gone: [`Writer::forget_gone`].
//!
//! A little at a time: the thread that does it is the one that writes.

use std::collections::{HashMap, HashSet, VecDeque};
use std::mem;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Error, Result};
use jiff::Timestamp;

use super::compress;
use super::config::Keep;
use super::disk::{Cure, Disk};
use super::ledger::{Entry, FileId, FileRecord, FileTable, Intent, Stage, State};
use super::names::FilePath;
use super::outputs::losses_path;
use super::writer::Writer;

/// What is left to delete, and to look for.
#[derive(Debug)]
pub(super) struct Retention {
    /// Files have rotated since old ones were last looked for.
    is_due: bool,
    /// What `keep` did not cover then, the oldest first.
    doomed: VecDeque<FileId>,
    /// What could not be deleted, and how often since the last [look](Retention::look).
    failed: HashMap<FileId, u32>,
    /// The first number of the files that may have gone; `None`: all were looked at.
    unseen: Option<FileId>,
    /// When somebody who waits for room last looked for old files; `None`: nobody yet.
    sought_room: Option<Instant>,
    is_making_room: bool,
}

/// So many files are deleted in one go: some hundred milliseconds where a removal takes long.
const DELETED_AT_ONCE: usize = 64;

/// What could not be deleted so often is left alone for a while: there may be thousands, and each try is an error in
/// the log.
const TRIES: u32 = 2;

/// So many files are looked at in one go, to see whether they are still there: about a millisecond.
const SEEN_AT_ONCE: usize = 256;

/// How often whoever waits for room looks for files that have become old.
const SEEK_ROOM_EVERY: Duration = Duration::from_secs(10);

impl Retention {
    pub(super) fn new() -> Self {
        Self {
            is_due: true,
            doomed: VecDeque::new(),
            failed: HashMap::new(),
            unseen: Some(0),
            sought_room: None,
            is_making_room: false,
        }
    }

    /// A file has rotated: others may be too many now.
    pub(super) fn note_rotation(&mut self) {
        self.is_due = true;
    }

    /// Everything is looked at again: time has passed.
    pub(super) fn look(&mut self) {
        self.is_due = true;
        self.failed.clear();
        self.unseen = Some(0);
    }

    /// Whether there is more to do at once, and not only after the next commit.
    pub(super) fn has_more(&self) -> bool {
        !self.doomed.is_empty() || self.unseen.is_some()
    }
}

impl Writer {
    /// Does some of what there is to do for files that are not written to any more.
    pub(super) fn tidy(&mut self) -> Result<()> {
        self.delete_old()?;
        self.forget_gone()?;
        self.compress()
    }

    /// Deletes some of what `keep` no longer covers: only files that this sink wrote and rotated. What is about to
    /// be deleted is in the ledger first. Says whether it deleted any.
    pub(super) fn delete_old(&mut self) -> Result<bool> {
        if mem::take(&mut self.retention.is_due) && !self.plan.keep.is_everything() {
            let mut victims = victims(&self.ledger.state().files, &self.plan.keep, now());
            victims.retain(|id| self.retention.failed.get(id).is_none_or(|tries| *tries < TRIES));
            self.retention.doomed = victims.into();
        }
        let count = self.retention.doomed.len().min(DELETED_AT_ONCE);
        let mut doomed: Vec<FileId> = self.retention.doomed.drain(..count).collect();
        doomed.retain(|id| self.is_at_rest(*id));
        // The others are, once what is about to happen to them has happened.
        self.retention.is_due |= doomed.len() < count;
        if doomed.is_empty() {
            return Ok(false);
        }
        // Whoever has moved the output away keeps it as it is.
        self.disk.check_root()?;
        self.delete(&doomed)
    }

    /// Whether a file is not written to any more, and nothing is about to happen to it.
    fn is_at_rest(&self, id: FileId) -> bool {
        let state = self.ledger.state();
        let is_rotated = state.files.get(id).is_some_and(|record| record.stage != Stage::Active);
        is_rotated && !state.intents.contains_key(&id) && self.compressor.file() != Some(id)
    }

    /// Deletes files of the ledger. Says whether there were any.
    pub(super) fn delete(&mut self, files: &[FileId]) -> Result<bool> {
        let mut entries: Vec<Entry> = files.iter().map(|id| Entry::Intent(*id, Intent::Delete)).collect();
        self.log(&mut entries)?;
        let mut outcomes = Vec::new();
        let mut folders = HashMap::new();
        let mut failures = Vec::new();
        let mut deleted_any = false;
        for id in files {
            let record = self.ledger.state().files.get(*id);
            let record = record.context("a file that is deleted is in the ledger")?.clone();
            let path = self.disk.shown(&record.path);
            match self.disk.remove(&record.path, record.identity) {
                Ok(was_there) => {
                    if !was_there && self.disk.stat(&record.path)?.is_some() {
                        tracing::warn!("`{path}` is a file of somebody else now: it stays");
                    }
                    tracing::debug!(path, was_there, "deleted an old file");
                    deleted_any |= was_there;
                    outcomes.push(Entry::Forget(*id));
                    // Also when it was gone already: who removed it may not have come to this.
                    folders.entry(FilePath::from_components(record.path.folder())).or_insert(record.path);
                }
                Err(error) => {
                    failures.push((path, error));
                    *self.retention.failed.entry(*id).or_default() += 1;
                    outcomes.push(Entry::Withdraw(*id));
                }
            }
        }
        for path in folders.values() {
            self.disk.sync_folder_of(path)?;
        }
        for path in folders.values() {
            if let Err(error) = self.disk.remove_empty_folders(path) {
                tracing::warn!("cannot remove the empty folder of `{}`: {error:#}", self.disk.shown(path));
            }
        }
        report(&failures);
        self.log(&mut outcomes)?;
        Ok(deleted_any)
    }

    /// Forgets some of the rotated files that others have deleted or moved away, so that what is known does not grow
    /// for ever.
    pub(super) fn forget_gone(&mut self) -> Result<()> {
        let Some(first) = self.retention.unseen else { return Ok(()) };
        let mut rest = self.ledger.state().files.from(first);
        let mut gone = Vec::new();
        for (id, record) in rest.by_ref().take(SEEN_AT_ONCE) {
            if !self.is_at_rest(id) {
                continue;
            }
            let found = match self.disk.stat(&record.path) {
                // Nobody can tell.
                Err(error) if Cure::of(&error) == Cure::Hold => continue,
                found => found?,
            };
            if found.is_none_or(|entry| !entry.is(record.identity)) {
                tracing::debug!(path = %record.path, "a rotated file has gone");
                gone.push(Entry::Forget(id));
            }
        }
        let unseen = rest.next().map(|(id, _)| id);
        drop(rest);
        self.retention.unseen = unseen;
        if gone.is_empty() { Ok(()) } else { self.log(&mut gone) }
    }

    /// Deletes old files for whoever waits for room, now and then. Says whether it deleted any.
    pub(super) fn make_room(&mut self) -> Result<bool> {
        let too_soon = self.retention.sought_room.is_some_and(|then| then.elapsed() < SEEK_ROOM_EVERY);
        // Who makes room may wait for room itself.
        if too_soon || self.retention.is_making_room {
            return Ok(false);
        }
        self.retention.is_making_room = true;
        self.retention.is_due |= self.retention.doomed.is_empty();
        let made = self.delete_old();
        self.retention.is_making_room = false;
        if !matches!(made, Ok(true)) {
            self.retention.sought_room = Some(Instant::now());
        }
        made
    }
}

/// The same at a start on a full disk, for a ledger that cannot be written yet: it says later what was deleted, when
/// what `keep` does not cover is deleted again.
pub(super) fn make_room_at_start(disk: &Disk, state: &State, keep: &Keep) -> Result<bool> {
    compress::remove_leftovers(disk)?;
    let mut victims = victims(&state.files, keep, now());
    victims.retain(|id| !state.intents.contains_key(id));
    let (mut made, mut failures) = (false, Vec::new());
    for record in victims.into_iter().filter_map(|id| state.files.get(id)) {
        match disk.remove(&record.path, record.identity) {
            Ok(was_there) => made |= was_there,
            Err(error) => failures.push((disk.shown(&record.path), error)),
        }
    }
    report(&failures);
    Ok(made)
}

/// What could not be deleted, in one line: there may be thousands, and each for the same reason.
fn report(failures: &[(String, Error)]) {
    let Some((path, error)) = failures.first() else { return };
    match failures.len() {
        1 => tracing::error!("cannot delete the old file `{path}`: {error:#}"),
        count => tracing::error!("cannot delete {count} old files, among them `{path}`: {error:#}"),
    }
}

/// In seconds since 1970.
fn now() -> i64 {
    Timestamp::try_from(SystemTime::now()).map_or(i64::MIN, Timestamp::as_second)
}

/// The files that `keep` does not cover at `now`, in seconds since 1970, the oldest first.
fn victims(files: &FileTable, keep: &Keep, now: i64) -> Vec<FileId> {
    let losses = losses_path();
    let ours = || files.iter().filter(|(_, record)| record.path != losses);
    let oldest_first = oldest_first(ours());

    let mut victims = HashSet::new();
    if let Some(age) = keep.age {
        let age = i64::try_from(age.0.as_secs()).unwrap_or(i64::MAX);
        let old = |record: &FileRecord| record.period.1.saturating_add(age) <= now;
        victims.extend(ours().filter(|(_, record)| old(record)).map(|(id, _)| id));
    }
    if let Some(limit) = keep.files {
        // The active file counts, and is the last to go: that is, never.
        let mut kept: HashMap<_, u64> = HashMap::new();
        for active_first in [true, false] {
            let newest_first = oldest_first.iter().rev();
            for (id, record) in newest_first.filter(|(_, file)| (file.stage == Stage::Active) == active_first)
            {
                let kept = kept.entry(&record.family).or_default();
                *kept += 1;
                if *kept > limit {
                    victims.insert(*id);
                }
            }
        }
    }
    if let Some(limit) = keep.bytes {
        let left = oldest_first.iter().filter(|(id, _)| !victims.contains(id));
        let mut total = left.fold(0, |total: u64, (_, record)| total.saturating_add(record.length));
        for (id, record) in &oldest_first {
            if total > limit.0 && record.stage != Stage::Active && victims.insert(*id) {
                total = total.saturating_sub(record.length);
            }
        }
    }
    let goes = |(id, record): &(FileId, &FileRecord)| victims.contains(id) && record.stage != Stage::Active;
    oldest_first.into_iter().filter(goes).map(|(id, _)| id).collect()
}

/// Files in the order of the ends of their periods, and those of one output as they followed each other, whatever a
/// clock said.
fn oldest_first<'a>(files: impl Iterator<Item = (FileId, &'a FileRecord)>) -> Vec<(FileId, &'a FileRecord)> {
    let mut ends: HashMap<&FilePath, i64> = HashMap::new();
    let mut files: Vec<_> = files
        .map(|(id, record)| {
            let end = ends.entry(&record.family).or_insert(i64::MIN);
            *end = record.period.1.max(*end);
            (*end, id, record)
        })
        .collect();
    files.sort_unstable_by_key(|(end, id, _)| (*end, *id));
    files.into_iter().map(|(_, id, record)| (id, record)).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use fshipper_pipeline::config::{Period, Size};

    use super::super::ledger::Tail;
    use super::*;

    const DAY: i64 = 86_400;
    const NONE: [FileId; 0] = [];

    /// Files of (family, day, length, stage); a file's number is its place in the list.
    fn files(list: &[(&str, i64, u64, Stage)]) -> FileTable {
        let record = |(index, &(family, day, length, stage)): (usize, &(&str, i64, u64, Stage))| {
            let family = FilePath::from_bytes(family.as_bytes()).unwrap();
            let path = family.with_suffix(&format!(".{day}-{index}"));
            let period = (day * DAY, (day + 1) * DAY);
            let record =
                FileRecord { path, family, identity: 1, length, tail: Tail::Whole, period, number: 0, stage };
            (index as FileId, record)
        };
        list.iter().enumerate().map(record).collect()
    }

    #[test]
    fn age_counts_from_the_end_of_the_period_and_spares_active_files() {
        use Stage::{Active, Compressed, Rotated};
        let files =
            files(&[("a", 1, 1, Compressed), ("a", 2, 1, Rotated), ("b", 1, 1, Active), ("a", 3, 1, Active)]);
        let keep = Keep { age: Some(Period(Duration::from_secs(2 * 86_400))), ..Keep::default() };
        assert_eq!(victims(&files, &keep, 4 * DAY - 1), NONE);
        assert_eq!(victims(&files, &keep, 4 * DAY), [0]);
        assert_eq!(victims(&files, &keep, 100 * DAY), [0, 1]);
    }

    #[test]
    fn files_count_for_each_log() {
        use Stage::{Active, Rotated};
        let list = [("a", 1, 1, Rotated), ("a", 2, 1, Rotated), ("a", 3, 1, Active), ("b", 1, 1, Rotated)];
        let keep = |files| Keep { files: Some(files), ..Keep::default() };
        assert_eq!(victims(&files(&list), &keep(3), 0), NONE);
        assert_eq!(victims(&files(&list), &keep(2), 0), [0]);
        assert_eq!(victims(&files(&list), &keep(1), 0), [0, 1]);
    }

    #[test]
    fn bytes_count_for_all_and_the_oldest_goes_first() {
        use Stage::{Active, Rotated};
        let list = [("a", 2, 10, Rotated), ("b", 1, 10, Rotated), ("a", 3, 10, Active)];
        let keep = |bytes| Keep { bytes: Some(Size(bytes)), ..Keep::default() };
        assert_eq!(victims(&files(&list), &keep(30), 0), NONE);
        assert_eq!(victims(&files(&list), &keep(29), 0), [1]);
        assert_eq!(victims(&files(&list), &keep(19), 0), [1, 0]);
        assert_eq!(victims(&files(&list), &keep(1), 0), [1, 0], "never the active one");
    }

    #[test]
    fn of_one_log_the_file_that_came_first_goes_first_whatever_the_clock_said() {
        use Stage::{Active, Rotated};
        // The clock went back by three days.
        let list = [("a", 5, 1, Rotated), ("a", 6, 1, Rotated), ("a", 3, 1, Rotated), ("a", 7, 1, Active)];
        let keep = |files| Keep { files: Some(files), ..Keep::default() };
        assert_eq!(victims(&files(&list), &keep(3), 0), [0]);
        assert_eq!(victims(&files(&list), &keep(2), 0), [0, 1]);
        let keep = Keep { bytes: Some(Size(2)), ..Keep::default() };
        assert_eq!(victims(&files(&list), &keep, 0), [0, 1]);
    }

    /// Only a ledger that somebody else wrote holds such numbers, and it is no reason to delete anything else.
    #[test]
    fn the_greatest_numbers_are_numbers() {
        use Stage::Rotated;
        let mut files = files(&[("a", 1, u64::MAX, Rotated), ("a", 2, 10, Rotated), ("a", 3, 10, Rotated)]);
        let age = |seconds| Keep { age: Some(Period(Duration::from_secs(seconds))), ..Keep::default() };
        files.get_mut(2).unwrap().period.1 = i64::MAX;
        assert_eq!(victims(&files, &age(86_400), 100 * DAY), [0, 1]);
        assert_eq!(victims(&files, &age(u64::MAX), 100 * DAY), NONE);
        let bytes = Keep { bytes: Some(Size(20)), ..Keep::default() };
        assert_eq!(victims(&files, &bytes, 0), [0]);
        let bytes = Keep { bytes: Some(Size(u64::MAX)), ..Keep::default() };
        assert_eq!(victims(&files, &bytes, 0), NONE);
    }

    #[test]
    fn notes_of_losses_stay() {
        let mut files = files(&[("a", 1, 1, Stage::Rotated)]);
        files.get_mut(0).unwrap().path = losses_path();
        let keep = Keep { age: Some(Period(Duration::from_secs(1))), ..Keep::default() };
        assert_eq!(victims(&files, &keep, 100 * DAY), NONE);
    }
}
