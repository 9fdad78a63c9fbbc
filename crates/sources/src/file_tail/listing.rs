//! What the names of a directory lead to: [`Names`].

use std::ffi::{OsStr, OsString};

/// One value for each name, in the order of the names.
///
/// There may be ten thousand names in one directory, and they are learned all at once: side by side they take a
/// third of the memory of a tree.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Names<T>(Vec<(Box<OsStr>, T)>);

impl<T> Names<T> {
    pub(super) fn get(&self, name: &OsStr) -> Option<&T> {
        self.find(name).ok().map(|index| &self.0[index].1)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&OsStr, &T)> {
        self.0.iter().map(|(name, value)| (&**name, value))
    }

    fn find(&self, name: &OsStr) -> Result<usize, usize> {
        self.0.binary_search_by(|(known, _)| (**known).cmp(name))
    }
}

#[cfg(test)]
impl<T> Names<T> {
    pub(super) fn insert(&mut self, name: &OsStr, value: T) {
        match self.find(name) {
            Ok(index) => self.0[index].1 = value,
            Err(index) => self.0.insert(index, (name.into(), value)),
        }
    }
}

impl<T> Default for Names<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

/// Of a name that comes more than once the last value counts.
impl<T> FromIterator<(OsString, T)> for Names<T> {
    fn from_iter<I: IntoIterator<Item = (OsString, T)>>(entries: I) -> Self {
        let entries = entries.into_iter().map(|(name, value)| (name.into_boxed_os_str(), value));
        let mut entries: Vec<_> = entries.collect();
        entries.sort_by(|(one, _), (other, _)| one.cmp(other));
        entries.dedup_by(|later, kept| {
            let is_same = later.0 == kept.0;
            if is_same {
                std::mem::swap(later, kept);
            }
            is_same
        });
        entries.shrink_to_fit();
        Self(entries)
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
    }
}
