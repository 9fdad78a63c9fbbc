//! The files of the ledger by their numbers: [`FileTable`].

use std::collections::BTreeMap;

use super::state::{FileId, FileRecord};

/// The records of files, in the order of their numbers.
///
/// Numbers come ascending and go in any order, and there may be hundreds of thousands of files. So those of
/// neighbouring numbers stand side by side, without a gap, in pages that are short enough to move things in them.
#[derive(Debug, Default)]
pub(crate) struct FileTable {
    /// By the number of the first file that a page may hold, divided by [`PAGE_FILES`]; none is empty.
    pages: BTreeMap<u32, Vec<(FileId, FileRecord)>>,
}

/// So many numbers share a page.
const PAGE_FILES: u32 = 64;

impl FileTable {
    /// What is known of a file.
    pub(crate) fn get(&self, id: FileId) -> Option<&FileRecord> {
        let page = self.pages.get(&(id / PAGE_FILES))?;
        find(page, id).ok().map(|index| &page[index].1)
    }

    pub(crate) fn get_mut(&mut self, id: FileId) -> Option<&mut FileRecord> {
        let page = self.pages.get_mut(&(id / PAGE_FILES))?;
        find(page, id).ok().map(|index| &mut page[index].1)
    }

    pub(super) fn insert(&mut self, id: FileId, record: FileRecord) {
        let page = self.pages.entry(id / PAGE_FILES).or_default();
        match find(page, id) {
            Ok(index) => page[index].1 = record,
            Err(index) => page.insert(index, (id, record)),
        }
    }

    pub(super) fn remove(&mut self, id: FileId) {
        let Some(page) = self.pages.get_mut(&(id / PAGE_FILES)) else { return };
        let Ok(index) = find(page, id) else { return };
        page.remove(index);
        if page.is_empty() {
            self.pages.remove(&(id / PAGE_FILES));
        } else if page.len() <= page.capacity() / 2 {
            page.shrink_to_fit();
        }
    }

    /// All files, in the order of their numbers.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = (FileId, &FileRecord)> {
        self.pages.values().flatten().map(|(id, record)| (*id, record))
    }

    /// The files from this number on, in the order of their numbers.
    pub(crate) fn from(&self, first: FileId) -> impl Iterator<Item = (FileId, &FileRecord)> {
        let pages = self.pages.range(first / PAGE_FILES..);
        let files = pages.flat_map(|(_, page)| page).map(|(id, record)| (*id, record));
        files.skip_while(move |(id, _)| *id < first)
    }

    /// The highest number.
    pub(super) fn last_id(&self) -> Option<FileId> {
        self.iter().next_back().map(|(id, _)| id)
    }
}

#[cfg(test)]
impl FromIterator<(FileId, FileRecord)> for FileTable {
    fn from_iter<I: IntoIterator<Item = (FileId, FileRecord)>>(files: I) -> Self {
        let mut table = Self::default();
        files.into_iter().for_each(|(id, record)| table.insert(id, record));
        table
    }
}

/// Where a file stands in a page, or would.
fn find(page: &[(FileId, FileRecord)], id: FileId) -> Result<usize, usize> {
    page.binary_search_by_key(&id, |(id, _)| *id)
}

#[cfg(test)]
mod tests {
    use super::super::state::{Stage, Tail};
    use super::*;
    use crate::rotating_file::ledger::own;

    fn record(number: u32) -> FileRecord {
        let path = own("file");
        FileRecord {
            family: path.clone(),
            path,
            identity: 0,
            length: 0,
            tail: Tail::Whole,
            period: (0, 0),
            number,
            stage: Stage::Active,
        }
    }

    #[test]
    fn behaves_like_a_map_whatever_comes_and_goes() {
        let (mut table, mut map) = (FileTable::default(), BTreeMap::new());
        let mut random = fastrand::Rng::with_seed(7);
        for step in 0..20_000 {
            let id = random.u32(..400);
            if random.bool() {
                table.insert(id, record(step));
                map.insert(id, record(step));
            } else {
                table.remove(id);
                map.remove(&id);
            }
            assert_eq!(table.get(id), map.get(&id));
            assert_eq!(table.last_id(), map.keys().next_back().copied());
        }
        let all = || map.iter().map(|(id, record)| (*id, record));
        assert!(!map.is_empty() && table.iter().eq(all()));
        for first in 0..=400 {
            assert!(table.from(first).eq(all().skip_while(|(id, _)| *id < first)), "from {first}");
        }
        map.keys().for_each(|id| table.remove(*id));
        assert!(table.pages.is_empty() && table.last_id().is_none());
    }
}
