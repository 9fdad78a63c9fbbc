//! The log that each file belongs to: [`Owners`].

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use super::identity::FileId;

/// Finds the log of a file by its inode, also after a reboot or a mount has numbered its device anew. Of two
/// files that differ in nothing but their devices, as the snapshots of a file system have them, each is its own,
/// once it was seen.
#[derive(Debug, Default)]
pub(crate) struct Owners {
    files: HashTable<Owned>,
    hasher: RandomState,
}

#[derive(Debug)]
struct Owned {
    id: FileId,
    /// The number of the log.
    log: u32,
    /// Whether its device has this number in the present session.
    is_seen: bool,
}

impl Owners {
    pub(crate) fn len(&self) -> usize {
        self.files.len()
    }

    /// The number of the log that a file belongs to.
    pub(crate) fn of(&self, id: FileId) -> Option<usize> {
        let hash = self.hash(id);
        let found = self.files.find(hash, |owned| owned.id == id);
        let found = found.or_else(|| self.files.find(hash, |owned| !owned.is_seen && owned.id.same(&id)));
        found.map(|owned| owned.log as usize)
    }

    /// Takes note that there is a file with this number, whosever it is.
    pub(crate) fn see(&mut self, id: FileId) {
        if let Some(owned) = self.files.find_mut(self.hash(id), |owned| owned.id == id) {
            owned.is_seen = true;
        }
    }

    /// Gives a file that was seen to a log.
    pub(crate) fn insert(&mut self, id: FileId, log: usize) {
        self.put(id, log, true);
    }

    /// Gives a file to a log that had it in an earlier session.
    pub(crate) fn remember(&mut self, id: FileId, log: usize) {
        self.put(id, log, false);
    }

    /// Takes a file away from its log.
    pub(crate) fn remove(&mut self, id: FileId) {
        let hash = self.hash(id);
        if let Ok(entry) = self.files.find_entry(hash, |owned| owned.id == id) {
            entry.remove();
        } else if let Ok(entry) = self.files.find_entry(hash, |owned| !owned.is_seen && owned.id.same(&id)) {
            entry.remove();
        }
    }

    /// Keeps those of which `is_kept`, told the file and the number of its log, says so.
    pub(crate) fn retain(&mut self, is_kept: impl Fn(&FileId, usize) -> bool) {
        self.files.retain(|owned| is_kept(&owned.id, owned.log as usize));
    }

    pub(crate) fn inodes(&self) -> impl Iterator<Item = u64> {
        self.files.iter().map(|owned| owned.id.inode)
    }

    fn put(&mut self, id: FileId, log: usize, is_seen: bool) {
        let log = u32::try_from(log).expect("2³² logs");
        let hash = self.hash(id);
        if let Some(owned) = self.files.find_mut(hash, |owned| owned.id == id) {
            owned.log = log;
            owned.is_seen |= is_seen;
            return;
        }
        // The same file, as it was numbered before.
        let is_it = |owned: &Owned| is_seen && !owned.is_seen && owned.id.same(&id);
        if let Ok(entry) = self.files.find_entry(hash, is_it) {
            entry.remove();
        }
        let hash_of = |owned: &Owned| hash_of(&self.hasher, owned.id);
        self.files.insert_unique(hash, Owned { id, log, is_seen }, hash_of);
    }

    fn hash(&self, id: FileId) -> u64 {
        hash_of(&self.hasher, id)
    }
}

/// Of what is the same on a device with another number.
fn hash_of(hasher: &RandomState, id: FileId) -> u64 {
    hasher.hash_one((id.inode, id.born))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(device: u64, inode: u64) -> FileId {
        FileId { device, inode, born: 1000 + inode }
    }

    #[test]
    fn a_file_is_known_although_its_device_was_numbered_anew() {
        let mut owners = Owners::default();
        (0..1000).for_each(|inode| owners.remember(id(1, inode), inode as usize));
        assert!((0..1000).all(|inode| owners.of(id(7, inode)) == Some(inode as usize)));
        assert_eq!(owners.of(FileId { born: 1, ..id(1, 5) }), None, "another file with its inode");
        owners.insert(id(7, 5), 3);
        assert_eq!((owners.of(id(7, 5)), owners.of(id(1, 5)), owners.len()), (Some(3), None, 1000));
        owners.remove(id(7, 6));
        assert_eq!((owners.of(id(1, 6)), owners.len()), (None, 999));
        owners.retain(|id, log| id.inode < 10 && log != 3);
        assert_eq!(owners.inodes().max(), Some(9));
        assert_eq!(owners.len(), 7);
    }

    #[test]
    fn a_snapshot_of_a_file_that_is_there_is_another_file() {
        let mut owners = Owners::default();
        owners.remember(id(1, 5), 3);
        owners.see(id(1, 5));
        assert_eq!((owners.of(id(1, 5)), owners.of(id(2, 5))), (Some(3), None));
        owners.insert(id(2, 5), 4);
        assert_eq!((owners.of(id(1, 5)), owners.of(id(2, 5)), owners.of(id(3, 5))), (Some(3), Some(4), None));
    }

    #[test]
    fn without_a_time_of_birth_another_device_has_another_file() {
        let mut owners = Owners::default();
        let unborn = |device| FileId { born: 0, ..id(device, 5) };
        owners.remember(unborn(1), 3);
        assert_eq!((owners.of(unborn(1)), owners.of(unborn(2))), (Some(3), None));
    }
}
