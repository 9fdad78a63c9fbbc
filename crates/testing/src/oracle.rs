//! Whether what arrived is what was written: [`compare`].

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

/// How much of two streams is compared at once.
const BLOCK_BYTES: usize = 1 << 20;

/// How much of each side a [`Difference`] quotes.
const EXCERPT_BYTES: usize = 160;

/// What became of the lines that were written. All zero and no difference: the bytes are identical.
///
/// Lines are told apart by their bytes; of equal ones the first that arrives counts as the first written. A
/// damaged line is `torn`, and the one it should have been is `lost`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Lines that were written and never arrived.
    pub lost: usize,
    /// Lines that arrived more often than they were written.
    pub duplicated: usize,
    /// Lines that arrived after a later one.
    pub reordered: usize,
    /// Lines that nobody wrote like this.
    pub torn: usize,
    /// Where the two first differ.
    pub first_difference: Option<Difference>,
}

/// The first byte that is not as it should be, with what stands there on both sides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Its offset in both.
    pub offset: u64,
    /// What should stand there; nothing at the end.
    pub expected: Vec<u8>,
    /// What stands there; nothing at the end.
    pub actual: Vec<u8>,
}

impl Verdict {
    /// Whether every byte arrived once and in order.
    pub fn is_identical(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lost, duplicated, reordered, torn, first_difference } = self;
        write!(f, "{lost} lost, {duplicated} duplicated, {reordered} reordered, {torn} torn")?;
        let Some(Difference { offset, expected, actual }) = first_difference else { return Ok(()) };
        write!(f, "; first difference at byte {offset}: ")?;
        write!(f, "expected `{}`, got `{}`", expected.escape_ascii(), actual.escape_ascii())
    }
}

/// Compares the file that was expected with the files that hold what arrived, oldest first.
///
/// # Panics
///
/// When a file cannot be read.
#[track_caller]
pub fn compare<P: AsRef<Path>>(expected: &Path, actual: impl IntoIterator<Item = P>) -> Verdict {
    let mut chain: Box<dyn Read> = Box::new(io::empty());
    let mut actual_paths = Vec::new();
    for path in actual {
        chain = Box::new(chain.chain(open(path.as_ref())));
        actual_paths.push(path.as_ref().to_path_buf());
    }
    let Some(offset) = first_difference(open(expected), chain) else { return Verdict::default() };

    // Only a failing test pays for holding both sides in memory.
    let expected = read_all(expected);
    let actual = actual_paths.iter().flat_map(|path| read_all(path)).collect::<Vec<_>>();
    judge(&expected, &actual, offset)
}

fn open(path: &Path) -> BufReader<File> {
    let file = File::open(path).unwrap_or_else(|error| panic!("cannot open {path:?}: {error}"));
    BufReader::with_capacity(BLOCK_BYTES, file)
}

fn read_all(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("cannot read {path:?}: {error}"))
}

/// The offset of the first byte in which two streams differ; `None` when they are equal.
fn first_difference(mut expected: impl Read, mut actual: impl Read) -> Option<u64> {
    let (mut left, mut right) = (Vec::new(), Vec::new());
    let mut offset = 0;
    loop {
        read_block(&mut expected, &mut left);
        read_block(&mut actual, &mut right);
        if left != right {
            let same = left.iter().zip(&right).take_while(|(one, other)| one == other).count();
            return Some(offset + same as u64);
        }
        if left.is_empty() {
            return None;
        }
        offset += left.len() as u64;
    }
}

fn read_block(from: &mut impl Read, block: &mut Vec<u8>) {
    block.clear();
    from.take(BLOCK_BYTES as u64).read_to_end(block).expect("an open file can be read");
}

fn judge(expected: &[u8], actual: &[u8], offset: u64) -> Verdict {
    /// Where a line stands among those written, and how many of its occurrences have arrived.
    #[derive(Default)]
    struct Occurrences {
        at: Vec<usize>,
        arrived: usize,
    }

    let mut written: HashMap<&[u8], Occurrences> = HashMap::new();
    for (index, line) in lines(expected).enumerate() {
        written.entry(line).or_default().at.push(index);
    }

    let mut verdict = Verdict::default();
    let mut latest = None;
    for line in lines(actual) {
        let Some(occurrences) = written.get_mut(line) else {
            verdict.torn += 1;
            continue;
        };
        let Some(&index) = occurrences.at.get(occurrences.arrived) else {
            verdict.duplicated += 1;
            continue;
        };
        occurrences.arrived += 1;
        if latest > Some(index) {
            verdict.reordered += 1;
        }
        latest = latest.max(Some(index));
    }
    verdict.lost = written.values().map(|occurrences| occurrences.at.len() - occurrences.arrived).sum();
    let (expected, actual) = (excerpt(expected, offset), excerpt(actual, offset));
    verdict.first_difference = Some(Difference { offset, expected, actual });
    verdict
}

fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split_inclusive(|&byte| byte == b'\n')
}

fn excerpt(bytes: &[u8], offset: u64) -> Vec<u8> {
    let rest = &bytes[offset as usize..];
    rest[..rest.len().min(EXCERPT_BYTES)].to_vec()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const WRITTEN: &str = "one\ntwo\nthree\nfour\nfive\n";

    /// Lost, duplicated, reordered, torn, and the offset of the first difference.
    #[track_caller]
    fn check(actual: &[&str], counts: [usize; 4], offset: Option<u64>) {
        let directory = tempfile::tempdir().unwrap();
        let expected = directory.path().join("expected");
        fs::write(&expected, WRITTEN).unwrap();
        let files = actual.iter().enumerate().map(|(index, text)| {
            let path = directory.path().join(index.to_string());
            fs::write(&path, text).unwrap();
            path
        });
        let verdict = compare(&expected, files.collect::<Vec<_>>());
        let found = [verdict.lost, verdict.duplicated, verdict.reordered, verdict.torn];
        assert_eq!(found, counts, "{verdict}");
        assert_eq!(verdict.first_difference.as_ref().map(|difference| difference.offset), offset);
        assert_eq!(verdict.is_identical(), offset.is_none());
    }

    #[test]
    fn identical_bytes_pass_however_they_are_cut_into_files() {
        check(&[WRITTEN], [0, 0, 0, 0], None);
        check(&["one\ntw", "o\nthree\n", "", "four\nfive\n"], [0, 0, 0, 0], None);
    }

    #[test]
    fn catches_lost_lines() {
        check(&["one\nthree\nfour\nfive\n"], [1, 0, 0, 0], Some(5));
        check(&["one\ntwo\n"], [3, 0, 0, 0], Some(8));
        check(&[], [5, 0, 0, 0], Some(0));
    }

    #[test]
    fn catches_duplicated_lines() {
        check(&["one\ntwo\nthree\nfour\nfive\nfive\n"], [0, 1, 0, 0], Some(24));
        check(&["one\ntwo\nthree\ntwo\nthree\nfour\nfive\n"], [0, 2, 0, 0], Some(14));
    }

    #[test]
    fn catches_reordered_lines() {
        check(&["one\nthree\ntwo\nfour\nfive\n"], [0, 0, 1, 0], Some(5));
        check(&["five\none\ntwo\nthree\nfour\n"], [0, 0, 4, 0], Some(0));
    }

    #[test]
    fn catches_torn_lines() {
        check(&["one\ntwo\nthr", "four\nfive\n"], [2, 0, 0, 1], Some(11));
        check(&["one\ntwo\nthree\nfour\nfive"], [1, 0, 0, 1], Some(23));
        check(&["one\ntwo\nthree\n\0\0\0\0\nfive\n"], [1, 0, 0, 1], Some(14));
    }

    #[test]
    fn says_what_stands_where_they_differ() {
        let verdict = judge(b"a\nb\n", b"a\n\xff\n", 2);
        let text = r"1 lost, 0 duplicated, 0 reordered, 1 torn; first difference at byte 2: expected `b\n`, got `\xff\n`";
        assert_eq!(verdict.to_string(), text);
    }
}
