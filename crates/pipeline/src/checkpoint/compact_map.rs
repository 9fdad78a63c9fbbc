//! A map for as many entries as there are logs: [`CompactMap`].

use std::borrow::Borrow;
use std::hash::{BuildHasher, Hash, RandomState};

use hashbrown::HashTable;

/// A hash map that takes little more memory than its entries, also while it grows: they lie side by side, and the
/// table has only their numbers. A number stands for the same entry as long as none is removed.
#[derive(Clone, Debug)]
pub struct CompactMap<K, V> {
    entries: Vec<(K, V)>,
    numbers: HashTable<u32>,
    hasher: RandomState,
}

impl<K: Hash + Eq, V> CompactMap<K, V> {
    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// All entries, by their numbers.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&K, &V)> + ExactSizeIterator {
        self.entries.iter().map(|(key, value)| (key, value))
    }

    /// The number of the entry with this key.
    pub fn number_of<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<u32>
    where
        K: Borrow<Q>,
    {
        let is_it = |number: &u32| self.entries[*number as usize].0.borrow() == key;
        self.numbers.find(self.hasher.hash_one(key), is_it).copied()
    }

    /// The entry with this number.
    pub fn entry(&self, number: u32) -> Option<(&K, &V)> {
        self.entries.get(number as usize).map(|(key, value)| (key, value))
    }

    /// The value of the entry with this number.
    pub fn value_mut(&mut self, number: u32) -> Option<&mut V> {
        self.entries.get_mut(number as usize).map(|(_, value)| value)
    }

    /// The value of this key.
    pub fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.number_of(key).map(|number| &self.entries[number as usize].1)
    }

    /// The value of this key.
    pub fn get_mut<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        self.number_of(key).map(|number| &mut self.entries[number as usize].1)
    }

    /// Puts an entry in, or in the place of the one with this key. Returns its number.
    ///
    /// # Panics
    ///
    /// When there are 2³² entries already.
    pub fn insert(&mut self, key: K, value: V) -> u32 {
        if let Some(number) = self.number_of(&key) {
            self.entries[number as usize].1 = value;
            return number;
        }
        let number = u32::try_from(self.entries.len()).expect("a map of 2³² entries");
        let Self { entries, numbers, hasher } = self;
        let hash = hasher.hash_one(&key);
        entries.push((key, value));
        numbers.insert_unique(hash, number, |number| hasher.hash_one(&entries[*number as usize].0));
        number
    }

    /// Removes an entry. The last one gets its number.
    pub fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        let number = self.number_of(key)?;
        let last = self.entries.len() as u32 - 1;
        self.forget(number);
        if number != last {
            self.forget(last);
            let hash = self.hasher.hash_one(&self.entries[last as usize].0);
            let Self { entries, numbers, hasher } = self;
            // Room was just made for it.
            numbers.insert_unique(hash, number, |number| hasher.hash_one(&entries[*number as usize].0));
        }
        Some(self.entries.swap_remove(number as usize).1)
    }

    /// Takes a number out of the table.
    fn forget(&mut self, number: u32) {
        let hash = self.hasher.hash_one(&self.entries[number as usize].0);
        let entry = self.numbers.find_entry(hash, |found| *found == number);
        entry.expect("every entry stands in the table").remove();
    }
}

impl<K, V> Default for CompactMap<K, V> {
    fn default() -> Self {
        Self { entries: Vec::new(), numbers: HashTable::new(), hasher: RandomState::new() }
    }
}

impl<K: Hash + Eq, V> FromIterator<(K, V)> for CompactMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut map = Self::default();
        entries.into_iter().for_each(|(key, value)| {
            map.insert(key, value);
        });
        map
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn behaves_like_a_map_whatever_comes_and_goes() {
        let (mut compact, mut map) = (CompactMap::default(), HashMap::new());
        let mut random = fastrand::Rng::with_seed(7);
        for step in 0..20_000 {
            let key = random.u32(..300);
            if random.u32(..5) < 3 {
                let number = compact.insert(key, step);
                map.insert(key, step);
                assert_eq!(compact.entry(number), Some((&key, &step)));
            } else {
                assert_eq!(compact.remove(&key), map.remove(&key));
            }
            assert_eq!(compact.get(&key), map.get(&key));
            assert_eq!(compact.len(), map.len());
        }
        assert!(!map.is_empty());
        assert!(map.iter().all(|(key, value)| compact.get(key) == Some(value)));
        assert!(compact.iter().all(|(key, value)| map.get(key) == Some(value)));
    }
}
