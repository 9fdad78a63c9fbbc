//! Which rotated files go, and when: [`Writer::delete_old`].

use std::collections::{HashMap, HashSet};
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use jiff::Timestamp;

use super::config::Keep;
use super::ledger::{Entry, FileId, FileRecord, FileTable, Intent, Stage};
use super::outputs::losses_path;
use super::writer::Writer;

impl Writer {
    /// Deletes what `keep` no longer covers: only files that this sink wrote and rotated. What is about to be
    /// deleted is in the ledger first.
    pub(super) fn delete_old(&mut self) -> Result<()> {
        self.retention_due = false;
        if self.plan.keep.is_everything() {
            return Ok(());
        }
        let now = Timestamp::try_from(SystemTime::now()).map_or(i64::MIN, Timestamp::as_second);
        let state = self.ledger.state();
        let mut victims = victims(&state.files, &self.plan.keep, now);
        victims.retain(|id| !state.intents.contains_key(id) && self.compressor.file() != Some(*id));
        if victims.is_empty() {
            return Ok(());
        }
        let mut entries: Vec<Entry> = victims.iter().map(|id| Entry::Intent(*id, Intent::Delete)).collect();
        self.log(&mut entries)?;
        let mut outcomes = Vec::new();
        for id in victims {
            let record =
                self.ledger.state().files.get(id).context("a file that is deleted is in the ledger")?.clone();
            let path = self.disk.shown(&record.path);
            match self.disk.remove(&record.path, record.identity) {
                Ok(was_there) => {
                    if !was_there && self.disk.stat(&record.path)?.is_some() {
                        tracing::warn!("`{path}` is a file of somebody else now: it stays");
                    }
                    // Also when it was gone already: who removed it may not have come to this.
                    self.disk.sync_folder_of(&record.path)?;
                    if let Err(error) = self.disk.remove_empty_folders(&record.path) {
                        tracing::warn!("cannot remove the empty folder of `{path}`: {error:#}");
                    }
                    tracing::debug!(path, was_there, "deleted an old file");
                    outcomes.push(Entry::Forget(id));
                }
                Err(error) => {
                    tracing::error!("cannot delete the old file `{path}`: {error:#}");
                    outcomes.push(Entry::Withdraw(id));
                }
            }
        }
        self.log(&mut outcomes)
    }
}

/// The files that `keep` does not cover at `now`, in seconds since 1970, the oldest first.
fn victims(files: &FileTable, keep: &Keep, now: i64) -> Vec<FileId> {
    let losses = losses_path();
    let ours = || files.iter().filter(|(_, record)| record.path != losses);
    let mut oldest_first: Vec<_> = ours().collect();
    oldest_first.sort_by_key(|(id, record)| (record.period.1, *id));

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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use fshipper_pipeline::config::{Period, Size};

    use super::super::ledger::Tail;
    use super::super::names::FilePath;
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
