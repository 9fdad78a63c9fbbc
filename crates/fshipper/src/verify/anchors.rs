//! Lines that both sides have once, in the same order: [`find`].
//!
//! They cut two logs of any length into short pieces that correspond, wherever a long run was lost, sent
//! again or moved to. Lines are sampled by their hash, so that both sides sample the same ones, as many as
//! a limit allows.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

use fshipper_pipeline::anyhow::Result;

use super::limits::Limits;
use super::lines::Lines;

/// A line of one side and the same line of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Anchor {
    pub(super) source: u64,
    pub(super) central: u64,
}

#[derive(Clone, Copy)]
struct Sample {
    /// In the source; `None` when it is there twice.
    source: Option<u64>,
    /// Where it is first and last: what was sent again may have come too early or too late.
    central: Option<[u64; 2]>,
}

/// Reads both to their ends. Anchors ascend on both sides.
pub(super) fn find(mut source: Lines<'_>, mut central: Lines<'_>, limits: Limits) -> Result<Vec<Anchor>> {
    let mut samples: HashMap<u64, Sample> = HashMap::new();
    let mut mask = 0;
    while let Some((place, line)) = source.pop()? {
        if line.hash & mask != 0 {
            continue;
        }
        match samples.entry(line.hash) {
            Entry::Occupied(mut seen) => seen.get_mut().source = None,
            Entry::Vacant(free) => {
                free.insert(Sample { source: Some(place.line), central: None });
            }
        }
        while samples.len() > limits.samples {
            mask = mask << 1 | 1;
            samples.retain(|hash, _| hash & mask == 0);
        }
    }
    while let Some((place, line)) = central.pop()? {
        if line.hash & mask == 0
            && let Some(sample) = samples.get_mut(&line.hash)
        {
            sample.central.get_or_insert([place.line; 2])[1] = place.line;
        }
    }
    let both = |sample: Sample| {
        let (source, [first, last]) = (sample.source?, sample.central?);
        let anchor = |central| Anchor { source, central };
        Some([Some(anchor(first)), (last > first).then(|| anchor(last))])
    };
    let mut anchors: Vec<Anchor> = samples.into_values().filter_map(both).flatten().flatten().collect();
    // The two of one line descend, so that at most one of them is in an ascending row.
    anchors.sort_unstable_by_key(|anchor| (anchor.source, Reverse(anchor.central)));
    Ok(longest_ascending(&anchors, |anchor| anchor.central))
}

/// The most items whose keys ascend, in their order.
pub(super) fn longest_ascending<T: Copy>(items: &[T], key: impl Fn(&T) -> u64) -> Vec<T> {
    // For each length, the item with the lowest key that ends a row of it, and what comes before each item.
    let mut ends: Vec<usize> = Vec::new();
    let mut before = vec![usize::MAX; items.len()];
    for (index, item) in items.iter().enumerate() {
        let length = ends.partition_point(|&end| key(&items[end]) < key(item));
        if length > 0 {
            before[index] = ends[length - 1];
        }
        match ends.get_mut(length) {
            Some(end) => *end = index,
            None => ends.push(index),
        }
    }
    let mut row = Vec::with_capacity(ends.len());
    let mut at = ends.last().copied();
    while let Some(index) = at {
        row.push(items[index]);
        at = Some(before[index]).filter(|&index| index != usize::MAX);
    }
    row.reverse();
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_ascending_row_leaves_out_as_few_as_possible() {
        let check =
            |keys: &[u64], row: &[u64]| assert_eq!(longest_ascending(keys, |key| *key), row, "{keys:?}");
        check(&[], &[]);
        check(&[1, 2, 3], &[1, 2, 3]);
        check(&[5, 1, 2, 3, 4], &[1, 2, 3, 4]);
        check(&[4, 5, 6, 7, 1, 2, 8], &[4, 5, 6, 7, 8]);
        check(&[3, 2, 1], &[1]);
        check(&[2, 2, 3], &[2, 3]);
    }
}
