//! What the fuzz targets share. A target is a function of bytes that panics when a promise does not hold; the
//! packages that own the code own the targets as well, `fuzz/` runs them, and their tests [`replay`] what it found.
//!
//! - [`Input`]: bytes, taken apart into values;
//! - [`journal`]: the target of [`Journal`].

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use crate::{Fatal, Journal};

/// Bytes to make values of. Where they end, everything is zero or empty.
#[derive(Debug)]
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// All of `data`.
    pub fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or_default()
    }

    /// The lowest bit of the next byte.
    pub fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// A number of up to 8 bytes, after one that says how many: small ones are as likely as large ones.
    pub fn number(&mut self) -> u64 {
        let length = usize::from(self.byte()) % 9;
        self.take(length).iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    /// A number below `end`; 0 when there is none.
    pub fn below(&mut self, end: usize) -> usize {
        self.number().checked_rem(end as u64).unwrap_or_default() as usize
    }

    /// Up to 255 bytes, after one that says how many.
    pub fn bytes(&mut self) -> &'a [u8] {
        let length = self.byte().into();
        self.take(length)
    }

    /// The same as text; what is no UTF-8 is replaced.
    pub fn text(&mut self) -> String {
        String::from_utf8_lossy(self.bytes()).into_owned()
    }

    /// Everything that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        self.take(self.0.len())
    }

    fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

/// Runs a target over its corpus, `fuzz/corpus/{target}`.
///
/// # Panics
///
/// The target does, or there is no corpus.
pub fn replay(target: &str, mut body: impl FnMut(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
    let mut count = 0;
    for entry in fs::read_dir(&folder).expect("there is a corpus") {
        let path = entry.expect("a corpus can be listed").path();
        let data = fs::read(&path).expect("a corpus can be read");
        // The target's own message was printed when it panicked.
        let held = catch_unwind(AssertUnwindSafe(|| body(&data))).is_ok();
        assert!(held, "the target `{target}` failed for `{}`", path.display());
        count += 1;
    }
    assert!(count > 0, "`{}` is empty", folder.display());
}

/// A journal that is anything at all, or one that was damaged: what is read of it was written to it, and it can
/// be continued.
///
/// # Panics
///
/// This is not so.
pub fn journal(folder: &Path, data: &[u8]) {
    let path = folder.join("journal");
    let mut input = Input::new(data);
    if input.flag() {
        fs::write(&path, input.rest()).expect("a file can be written");
        match Journal::open(&path, VERSION) {
            Ok((journal, records)) => continues(&path, journal, records),
            Err(error) => {
                assert!(error.is::<Fatal>(), "{error:#}");
                salvaged(&path);
            }
        }
        return;
    }
    // With the highest bit set no payload holds a record of its own.
    let count = input.below(6);
    let payload = |bytes: &[u8]| bytes.iter().map(|byte| byte | 0x80).collect::<Vec<u8>>();
    let payloads: Vec<Vec<u8>> = (0..count).map(|_| payload(input.bytes())).collect();
    fs::write(&path, b"").expect("a file can be written");
    let (mut journal, _) = Journal::open(&path, VERSION).expect("an empty file is an empty journal");
    let begin = journal.bytes() as usize;
    journal.compact(&payloads).expect("a journal can be compacted");
    drop(journal);
    let mut content = fs::read(&path).expect("the journal is there");
    let ends: Vec<usize> = payloads
        .iter()
        .scan(begin, |end, payload| {
            *end += RECORD_HEADER_BYTES + payload.len();
            Some(*end)
        })
        .collect();

    if input.flag() {
        let cut = input.below(content.len() + 1);
        fs::write(&path, &content[..cut]).expect("a file can be written");
        let whole = ends.iter().filter(|end| **end <= cut).count();
        let (journal, records) = Journal::open(&path, VERSION).expect("a short journal is no damaged one");
        assert_eq!(records, payloads[..whole]);
        continues(&path, journal, records);
        return;
    }
    let at = input.below(content.len());
    content[at] ^= input.byte().max(1);
    fs::write(&path, &content).expect("a file can be written");
    let damaged = ends.iter().filter(|end| **end <= at).count();
    match Journal::open(&path, VERSION) {
        Ok((journal, records)) => {
            assert!(at >= begin, "the header is damaged at {at}");
            assert_eq!(records, payloads[..damaged]);
            continues(&path, journal, records);
        }
        Err(error) => {
            assert!(error.is::<Fatal>(), "{error:#}");
            let hit = (at >= begin).then_some(damaged);
            let whole = payloads.iter().enumerate().filter(|(index, _)| Some(*index) != hit);
            let expected = whole.map(|(_, payload)| payload).filter(|payload| !payload.is_empty());
            assert!(salvaged(&path).iter().eq(expected));
        }
    }
}

const VERSION: u32 = 1;

const RECORD_HEADER_BYTES: usize = 8;

/// What is appended now stands behind what was there.
fn continues(path: &Path, mut journal: Journal, mut records: Vec<Vec<u8>>) {
    journal.append(b"one more").expect("a journal can be continued");
    records.push(b"one more".to_vec());
    let (_, found) = Journal::open(path, VERSION).expect("a sound journal opens");
    assert_eq!(found, records);
}

/// The records of a damaged journal; nothing when another version wrote it.
fn salvaged(path: &Path) -> Vec<Vec<u8>> {
    match Journal::salvage(path, VERSION) {
        Ok((journal, records)) => {
            continues(path, journal, records.clone());
            records
        }
        Err(error) => {
            assert!(error.is::<Fatal>(), "{error:#}");
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_corpus_of_journals_holds() {
        let folder = tempfile::tempdir().unwrap();
        replay("journal", |data| journal(folder.path(), data));
    }

    #[test]
    fn input_never_ends() {
        let mut input = Input::new(b"\x02\x01\x02\x03abc");
        assert_eq!((input.number(), input.bytes(), input.text()), (0x0201, &b"abc"[..], String::new()));
        assert_eq!((input.below(0), input.flag(), input.rest()), (0, false, &b""[..]));
    }
}
