//! The fast way: comparing blocks, up to the first byte that differs.

use fshipper_pipeline::anyhow::Result;
use memchr::{memchr_iter, memrchr};

use super::side::{BLOCK_BYTES, Bytes};

/// How far two sides are the same.
#[derive(Clone, Copy, Debug)]
pub(super) struct Common {
    pub(super) bytes: u64,
    /// Line ends among them.
    pub(super) lines: u64,
    /// Where the last line begins of which these bytes hold anything, or the next one, counted as they are.
    pub(super) line_start: u64,
    pub(super) end: End,
}

/// What comes after that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Nothing on either side.
    Both,
    /// The source goes on, the central side does not.
    Behind,
    /// Bytes that differ, or only the central side goes on.
    Differs,
}

/// Reads both until they differ.
///
/// The central side was opened first, so what it held then was in the source when that was opened. What it
/// gained since counts only as far as the source reaches.
pub(super) fn compare(mut source: Bytes<'_>, mut central: Bytes<'_>) -> Result<Common> {
    let (mut left, mut right) = (vec![0; BLOCK_BYTES], vec![0; BLOCK_BYTES]);
    let mut common = Common { bytes: 0, lines: 0, line_start: 0, end: End::Both };
    loop {
        let wanted = source.fill(&mut left)?;
        let arrived = central.fill(&mut right[..wanted])?;
        let (expected, actual) = (&left[..arrived], &right[..arrived]);
        let same = if expected == actual {
            arrived
        } else {
            expected.iter().zip(actual).take_while(|(one, other)| one == other).count()
        };
        common.lines += memchr_iter(b'\n', &left[..same]).count() as u64;
        if let Some(end) = memrchr(b'\n', &left[..same]) {
            common.line_start = common.bytes + end as u64 + 1;
        }
        common.bytes += same as u64;
        if same < arrived {
            common.end = End::Differs;
        } else if arrived < wanted {
            common.end = End::Behind;
        } else if wanted == BLOCK_BYTES {
            continue;
        } else if !central.is_at_end()? {
            common.end = End::Differs;
        }
        return Ok(common);
    }
}
