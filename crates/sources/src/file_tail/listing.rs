//! What the names of a directory lead to: [`Names`].

use std::cmp::Ordering;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

/// One value for each name, in the order of the names.
///
/// There may be ten thousand names in one directory, and they are learned all at once: side by side, and their
/// text in one piece, they take a third of the memory of a tree.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Names<T> {
    /// All names, one after the other.
    text: Box<[u8]>,
    /// Where in the text each name ends, and its value.
    entries: Box<[(usize, T)]>,
}

impl<T> Names<T> {
    pub(super) fn get(&self, name: &OsStr) -> Option<&T> {
        self.find(name).ok().map(|index| &self.entries[index].1)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&OsStr, &T)> {
        self.entries.iter().enumerate().map(|(index, (_, value))| (self.name(index), value))
    }

    fn name(&self, index: usize) -> &OsStr {
        let start = index.checked_sub(1).map_or(0, |before| self.entries[before].0);
        OsStr::from_bytes(&self.text[start..self.entries[index].0])
    }

    fn find(&self, name: &OsStr) -> Result<usize, usize> {
        let (mut low, mut high) = (0, self.entries.len());
        while low < high {
            let middle = low.midpoint(high);
            match self.name(middle).cmp(name) {
                Ordering::Equal => return Ok(middle),
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }
}

#[cfg(test)]
impl<T: Clone> Names<T> {
    pub(super) fn insert(&mut self, name: &OsStr, value: T) {
        let known = self.iter().map(|(name, value)| (name.to_owned(), value.clone()));
        *self = known.chain([(name.to_owned(), value)]).collect::<Vec<_>>().into_iter().collect();
    }
}

impl<T> Default for Names<T> {
    fn default() -> Self {
        Self { text: Box::default(), entries: Box::default() }
    }
}

/// Of a name that comes more than once the last value counts.
impl<T> FromIterator<(OsString, T)> for Names<T> {
    fn from_iter<I: IntoIterator<Item = (OsString, T)>>(entries: I) -> Self {
        let mut entries: Vec<_> = entries.into_iter().collect();
        entries.sort_by(|(one, _), (other, _)| one.cmp(other));
        entries.dedup_by(|later, kept| {
            let is_same = later.0 == kept.0;
            if is_same {
                std::mem::swap(later, kept);
            }
            is_same
        });
        let mut text = Vec::with_capacity(entries.iter().map(|(name, _)| name.len()).sum());
        let mut end_of = |name: &OsStr| {
            text.extend_from_slice(name.as_bytes());
            text.len()
        };
        let entries = entries.into_iter().map(|(name, value)| (end_of(&name), value)).collect();
        Self { text: text.into(), entries }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_value_of_a_name_counts() {
        let entries = [("b", 1), ("a", 2), ("b", 3), ("c", 4), ("b", 5)];
        let names: Names<u32> = entries.into_iter().map(|(name, value)| (name.into(), value)).collect();
        let all: Vec<_> = names.iter().map(|(name, value)| (name.to_str().unwrap(), *value)).collect();
        assert_eq!(all, [("a", 2), ("b", 5), ("c", 4)]);
        assert_eq!((names.get(OsStr::new("b")), names.get(OsStr::new("d"))), (Some(&5), None));
        assert_eq!((names.get(OsStr::new("")), names.get(OsStr::new("ab"))), (None, None));
    }
}
