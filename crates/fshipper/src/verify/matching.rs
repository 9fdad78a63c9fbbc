//! The longest row of lines that two short pieces have in common: [`pairs`].

use super::anchors::longest_ascending;
use super::lines::Line;

/// Equal lines of two pieces are paired in every way, unless that makes more pairs than these: then the first
/// with the first, the second with the second. About 40 MiB while they are looked at.
const MAX_CANDIDATES: usize = 1 << 20;

/// Indices of lines that are equal, ascending on both sides: as many as possible.
pub(super) fn pairs(one: &[Line], other: &[Line]) -> Vec<(usize, usize)> {
    let before = one.iter().zip(other).take_while(|(one, other)| one == other).count();
    let (inner, outer) = (&one[before..], &other[before..]);
    let behind = inner.iter().rev().zip(outer.iter().rev()).take_while(|(one, other)| one == other).count();
    let (inner, outer) = (&inner[..inner.len() - behind], &outer[..outer.len() - behind]);

    let mut row: Vec<_> = (0..before).map(|index| (index, index)).collect();
    let between = longest_ascending(&candidates(inner, outer), |pair| pair.1 as u64);
    row.extend(between.into_iter().map(|(one, other)| (before + one, before + other)));
    row.extend((0..behind).map(|index| (one.len() - behind + index, other.len() - behind + index)));
    row
}

/// Pairs of equal lines. Those of one line descend on the other side, so that no row holds two of them.
fn candidates(one: &[Line], other: &[Line]) -> Vec<(usize, usize)> {
    let mut by_hash: Vec<(u64, usize)> =
        other.iter().enumerate().map(|(index, line)| (line.hash, index)).collect();
    by_hash.sort_unstable();
    let equal = |line: &Line| {
        let start = by_hash.partition_point(|(hash, _)| *hash < line.hash);
        let count = by_hash[start..].partition_point(|(hash, _)| *hash == line.hash);
        &by_hash[start..start + count]
    };
    let all: usize = one.iter().map(|line| equal(line).len()).sum();
    if all <= MAX_CANDIDATES {
        let pairs_of = |(index, line)| equal(line).iter().rev().map(move |(_, other)| (index, *other));
        return one.iter().enumerate().flat_map(pairs_of).collect();
    }
    let mut ordered: Vec<(u64, usize)> =
        one.iter().enumerate().map(|(index, line)| (line.hash, index)).collect();
    ordered.sort_unstable();
    let mut first_with_first = Vec::new();
    let mut used = 0;
    for (hash, index) in ordered {
        while by_hash.get(used).is_some_and(|(theirs, _)| *theirs < hash) {
            used += 1;
        }
        if let Some((theirs, other)) = by_hash.get(used)
            && *theirs == hash
        {
            first_with_first.push((index, *other));
            used += 1;
        }
    }
    first_with_first.sort_unstable();
    first_with_first
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(one: &str, other: &str, expected: usize) {
        let lines = |text: &str| {
            let line = |byte| Line { hash: u64::from(byte), bytes: 1, is_whole: true };
            text.bytes().map(line).collect::<Vec<_>>()
        };
        let (one, other) = (lines(one), lines(other));
        let row = pairs(&one, &other);
        assert!(row.iter().all(|&(index, theirs)| one[index] == other[theirs]), "{row:?}");
        assert!(row.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1), "{row:?}");
        assert_eq!(row.len(), expected, "{row:?}");
    }

    #[test]
    fn as_many_lines_as_possible_are_paired() {
        check("", "abc", 0);
        check("abc", "abc", 3);
        check("abcde", "abde", 4);
        check("abcdef", "abxcdabef", 6);
        check("aaaa", "aaa", 3);
        check("axaxbx", "aaxbxx", 5);
        check("bcda", "abcd", 3);
    }

    #[test]
    fn too_many_equal_lines_are_paired_in_their_order() {
        check(&format!("a{}b", "x".repeat(2_000)), &format!("b{}a", "x".repeat(1_900)), 1_900);
    }
}
