//! The log at each path: [`LogsByPath`].

use std::hash::{BuildHasher, RandomState};
use std::path::Path;

use hashbrown::HashTable;

use super::log::Log;

/// Finds logs by their paths. The paths are the logs' own, and the table has only the numbers of the logs: there
/// may be ten thousand.
#[derive(Debug, Default)]
pub(crate) struct LogsByPath {
    numbers: HashTable<u32>,
    hasher: RandomState,
}

impl LogsByPath {
    pub(crate) fn len(&self) -> usize {
        self.numbers.len()
    }

    /// The number of the log at `path`, among `logs`.
    pub(crate) fn get(&self, logs: &[Log], path: &Path) -> Option<usize> {
        let is_it = |number: &u32| *logs[*number as usize].path == *path;
        self.numbers.find(self.hasher.hash_one(path), is_it).map(|number| *number as usize)
    }

    /// Takes note of the log number `index`: it takes the place of another one at its path.
    pub(crate) fn insert(&mut self, logs: &[Log], index: usize) {
        let number = u32::try_from(index).expect("2³² logs");
        let hash_of = |number: &u32| self.hasher.hash_one(&*logs[*number as usize].path);
        let is_it = |other: &u32| logs[*other as usize].path == logs[index].path;
        match self.numbers.find_mut(hash_of(&number), is_it) {
            Some(other) => *other = number,
            None => drop(self.numbers.insert_unique(hash_of(&number), number, hash_of)),
        }
    }

    /// Forgets the log number `index`.
    pub(crate) fn remove(&mut self, logs: &[Log], index: usize) {
        let hash = self.hasher.hash_one(&*logs[index].path);
        if let Ok(entry) = self.numbers.find_entry(hash, |number| *number as usize == index) {
            entry.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use fshipper_pipeline::Origin;

    use super::*;

    #[test]
    fn a_log_is_found_by_its_path_until_it_is_forgotten() {
        let path = |index: usize| format!("/{index}.log");
        let log = |path: String| Log::new(Origin::new("host", &path), Path::new(&path).into(), 0);
        let mut logs: Vec<Log> = (0..1000).map(path).map(log).collect();
        let mut by_path = LogsByPath::default();
        (0..1000).for_each(|index| by_path.insert(&logs, index));
        let get = |by_path: &LogsByPath, logs: &[Log], index| by_path.get(logs, Path::new(&path(index)));
        assert!((0..1000).all(|index| get(&by_path, &logs, index) == Some(index)));
        assert_eq!(get(&by_path, &logs, 1000), None);
        (0..500).for_each(|index| by_path.remove(&logs, index));
        assert!((0..1000).all(|index| get(&by_path, &logs, index) == (index >= 500).then_some(index)));
        // Another one at the same path.
        logs[0] = log(path(700));
        by_path.insert(&logs, 0);
        assert_eq!((get(&by_path, &logs, 700), by_path.len()), (Some(0), 500));
    }
}
