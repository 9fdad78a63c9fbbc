//! An append-only file of checksummed records: [`Journal`].
//!
//! ```text
//! file    magic (8 bytes) · version (u32) · crc32c of the two (u32) · record*
//! record  length (u32) · crc32c of length and payload (u32) · payload
//! ```
//!
//! All numbers are little-endian. A record counts once it is complete and its checksum matches; the rest of
//! an append that a crash cut short is taken off at the next start. Compaction writes a new file whole, makes
//! it durable, and renames it over the old one.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::Fatal;
use crate::named_file::{OPEN_AT_ONCE, expect_regular, open_named_file, read_at_most};

const MAGIC: &[u8; 8] = b"fshipper";
const HEADER_BYTES: u64 = 16;
const RECORD_HEADER_BYTES: usize = 8;

/// More than any record ever holds: a larger length is damage, not a record.
const MAX_RECORD_BYTES: usize = 1 << 30;

/// A journal stands in memory while it is opened: one of a million logs has a few hundred MB.
const MAX_FILE_BYTES: u64 = MAX_RECORD_BYTES as u64 + (1 << 20);

/// An open journal, positioned at its end.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    version: u32,
    file: File,
    length: u64,
}

impl Journal {
    /// Opens the journal at `path`, or creates it, and returns the payloads it holds, oldest first.
    ///
    /// # Errors
    ///
    /// A [`Fatal`] when the file is no journal, was written by a newer version, or is damaged before its
    /// last record; any other error is the system's.
    pub fn open(path: &Path, version: u32) -> Result<(Self, Vec<Vec<u8>>)> {
        let context = || format!("cannot open `{}`", path.display());
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        options.custom_flags(OPEN_AT_ONCE.bits() as i32);
        let mut file = options.open(path).with_context(context)?;
        expect_regular(&file.metadata().with_context(context)?).map_err(|error| unusable(path, error))?;
        let content = read_at_most(&file, MAX_FILE_BYTES).map_err(|error| unusable(path, error))?;

        // A crash while the file was made leaves less than a header: nothing was recorded yet.
        if (content.len() as u64) < HEADER_BYTES {
            let journal = Self::create(path, version, &[])?;
            return Ok((journal, Vec::new()));
        }
        let found = read_header(&content).map_err(|problem| {
            Fatal::new(format!("`{}` {problem}: move it away to start afresh", path.display()))
        })?;
        if found != version {
            let name = path.display();
            return Err(Fatal::new(format!(
                "`{name}` has format {found}, this version of fshipper reads format {version}: use the version that wrote it"
            )));
        }
        let (records, sound) = read_records(&content, HEADER_BYTES as usize).map_err(|at| {
            Fatal::new(format!(
                "`{}` is damaged at byte {at}, before its last record: restore it from a backup, or move it away to start afresh",
                path.display()
            ))
        })?;
        if sound < content.len() {
            tracing::debug!(path = %path.display(), bytes = content.len() - sound, "cut off an unfinished record");
            file.set_len(sound as u64).with_context(context)?;
            file.sync_data().with_context(context)?;
        }
        file.seek(SeekFrom::Start(sound as u64)).with_context(context)?;
        let journal = Self { path: path.to_owned(), version, file, length: sound as u64 };
        Ok((journal, records))
    }

    /// Opens a journal that [`Journal::open`] finds damaged: the records that are sound, in their order, are
    /// written to a new file in its place, and the rest is gone. For whoever can do without some of them.
    ///
    /// # Errors
    ///
    /// A [`Fatal`] when the file was written by another version; any other error is the system's.
    pub fn salvage(path: &Path, version: u32) -> Result<(Self, Vec<Vec<u8>>)> {
        let file = open_named_file(path).map_err(|error| unusable(path, error))?;
        let content = read_at_most(&file, MAX_FILE_BYTES).map_err(|error| unusable(path, error))?;
        let found = if content.len() as u64 >= HEADER_BYTES { read_header(&content).ok() } else { None };
        if let Some(found) = found.filter(|found| *found != version) {
            let name = path.display();
            return Err(Fatal::new(format!(
                "`{name}` has format {found}, this version of fshipper reads format {version}: use the version that wrote it"
            )));
        }
        let (mut records, mut at) = (Vec::new(), HEADER_BYTES as usize);
        while at < content.len() {
            match read_record(&content, at) {
                // An empty payload may be a run of zeros; nobody misses it.
                Some((payload, next)) if !payload.is_empty() => {
                    records.push(payload.to_vec());
                    at = next;
                }
                _ => at += 1,
            }
        }
        Ok((Self::create(path, version, &records)?, records))
    }

    /// Appends a record and makes it durable.
    ///
    /// # Errors
    ///
    /// The record may or may not be there afterwards: drop the journal and open it again.
    pub fn append(&mut self, payload: &[u8]) -> Result<()> {
        let record = frame(payload);
        let write = |file: &mut File| -> io::Result<()> {
            file.write_all(&record)?;
            file.sync_data()
        };
        write(&mut self.file).with_context(|| format!("cannot write `{}`", self.path.display()))?;
        self.length += record.len() as u64;
        Ok(())
    }

    /// Replaces everything by `payloads`: the new file is complete and durable before the old one goes.
    ///
    /// # Errors
    ///
    /// The old content stays, unless the new one is complete.
    pub fn compact(&mut self, payloads: &[Vec<u8>]) -> Result<()> {
        *self = Self::create(&self.path, self.version, payloads)?;
        Ok(())
    }

    /// The file's length in bytes.
    pub fn bytes(&self) -> u64 {
        self.length
    }

    fn create(path: &Path, version: u32, payloads: &[Vec<u8>]) -> Result<Self> {
        let Some(folder) = path.parent() else { bail!("`{}` is no file", path.display()) };
        let temporary = path.with_extension("new");
        let make = || -> io::Result<(File, u64)> {
            let mut content = MAGIC.to_vec();
            content.extend(version.to_le_bytes());
            content.extend(crc32c::crc32c(&content).to_le_bytes());
            for payload in payloads {
                content.extend(frame(payload));
            }
            let mut file = File::create(&temporary)?;
            file.write_all(&content)?;
            file.sync_all()?;
            std::fs::rename(&temporary, path)?;
            File::open(folder)?.sync_all()?;
            Ok((file, content.len() as u64))
        };
        let (file, length) = make().with_context(|| format!("cannot write `{}`", path.display()))?;
        Ok(Self { path: path.to_owned(), version, file, length })
    }
}

/// A [`Fatal`] when opening it again changes nothing.
fn unusable(path: &Path, error: io::Error) -> anyhow::Error {
    let path = path.display();
    match error.kind() {
        io::ErrorKind::InvalidInput | io::ErrorKind::FileTooLarge | io::ErrorKind::IsADirectory => {
            Fatal::new(format!("cannot use `{path}`: {error}: move it away to start afresh"))
        }
        _ => anyhow::Error::new(error).context(format!("cannot open `{path}`")),
    }
}

fn frame(payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_le_bytes();
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&length), payload);
    let mut record = Vec::with_capacity(RECORD_HEADER_BYTES + payload.len());
    record.extend(length);
    record.extend(checksum.to_le_bytes());
    record.extend(payload);
    record
}

/// The version in a header, or what is wrong with it.
fn read_header(content: &[u8]) -> Result<u32, &'static str> {
    if &content[..8] != MAGIC {
        return Err("is no journal of fshipper");
    }
    if number(content, 12) != crc32c::crc32c(&content[..12]) {
        return Err("has a damaged header");
    }
    Ok(number(content, 8))
}

/// The payloads from `at` on and the offset up to which the file is sound; or where it is damaged in a way
/// that an interrupted append does not explain: sound records follow.
fn read_records(content: &[u8], mut at: usize) -> Result<(Vec<Vec<u8>>, usize), usize> {
    let mut records = Vec::new();
    while let Some((payload, next)) = read_record(content, at) {
        records.push(payload.to_vec());
        at = next;
    }
    let sound_record_follows = (at + 1..content.len())
        .any(|later| read_record(content, later).is_some_and(|(payload, _)| !payload.is_empty()));
    if sound_record_follows { Err(at) } else { Ok((records, at)) }
}

fn read_record(content: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let header_end = at.checked_add(RECORD_HEADER_BYTES).filter(|end| *end <= content.len())?;
    let length = number(content, at) as usize;
    let end = header_end.checked_add(length).filter(|end| *end <= content.len())?;
    let payload = &content[header_end..end];
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&content[at..at + 4]), payload);
    let sound = length <= MAX_RECORD_BYTES && number(content, at + 4) == checksum;
    sound.then_some((payload, end))
}

fn number(content: &[u8], at: usize) -> u32 {
    content[at..at + 4].iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        (folder, path)
    }

    #[test]
    fn what_is_no_file_is_refused_at_once_and_left_alone() {
        use rustix::fs::{CWD, Mode, mkfifoat};

        let (_folder, path) = path();
        mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
        for refused in [Journal::open(&path, 1), Journal::salvage(&path, 1)] {
            let error = refused.unwrap_err();
            assert!(error.is::<Fatal>() && error.to_string().contains("it is a FIFO"), "{error:#}");
        }
        assert!(!path.metadata().unwrap().is_file());

        // Sparse: it takes no room, and reading it would.
        std::fs::remove_file(&path).unwrap();
        File::create(&path).unwrap().set_len(MAX_FILE_BYTES + 1).unwrap();
        for refused in [Journal::open(&path, 1), Journal::salvage(&path, 1)] {
            assert!(refused.unwrap_err().to_string().contains("it holds more than"));
        }
    }

    #[test]
    fn gives_back_what_was_appended() {
        let (_folder, path) = path();
        let (mut journal, records) = Journal::open(&path, 1).unwrap();
        assert!(records.is_empty());
        journal.append(b"one").unwrap();
        journal.append(b"").unwrap();
        journal.append(b"three").unwrap();
        let (journal, records) = Journal::open(&path, 1).unwrap();
        assert_eq!(records, [&b"one"[..], b"", b"three"]);
        assert_eq!(journal.bytes(), std::fs::metadata(&path).unwrap().len());
    }

    #[test]
    fn an_append_cut_short_at_any_byte_is_taken_off_and_the_rest_stays() {
        let (_folder, path) = path();
        let (mut journal, _) = Journal::open(&path, 1).unwrap();
        journal.append(b"first").unwrap();
        let before = journal.bytes();
        journal.append(b"second").unwrap();
        let whole = std::fs::read(&path).unwrap();
        for cut in before..whole.len() as u64 {
            std::fs::write(&path, &whole[..cut as usize]).unwrap();
            let (mut journal, records) = Journal::open(&path, 1).unwrap();
            assert_eq!(records, [b"first"], "cut at {cut}");
            assert_eq!(std::fs::metadata(&path).unwrap().len(), before, "cut at {cut}");
            journal.append(b"third").unwrap();
            let (_, records) = Journal::open(&path, 1).unwrap();
            assert_eq!(records, [b"first", b"third"], "cut at {cut}");
        }
    }

    #[test]
    fn a_file_cut_within_its_header_is_new() {
        let (_folder, path) = path();
        drop(Journal::open(&path, 1).unwrap());
        let whole = std::fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            assert!(Journal::open(&path, 1).unwrap().1.is_empty(), "cut at {cut}");
        }
    }

    #[test]
    fn damage_before_the_last_record_is_refused_and_names_the_place() {
        let (_folder, path) = path();
        let (mut journal, _) = Journal::open(&path, 1).unwrap();
        journal.append(b"first").unwrap();
        journal.append(b"second").unwrap();
        let mut content = std::fs::read(&path).unwrap();
        content[HEADER_BYTES as usize + RECORD_HEADER_BYTES] ^= 1;
        std::fs::write(&path, &content).unwrap();
        let error = Journal::open(&path, 1).unwrap_err();
        assert!(error.is::<Fatal>());
        assert!(error.to_string().contains("is damaged at byte 16"), "{error}");
    }

    #[test]
    fn salvage_keeps_every_sound_record_and_refuses_another_format() {
        let (_folder, path) = path();
        let (mut journal, _) = Journal::open(&path, 1).unwrap();
        for payload in [b"first", b"other", b"third"] {
            journal.append(payload).unwrap();
        }
        let mut content = std::fs::read(&path).unwrap();
        content[HEADER_BYTES as usize + 2 * RECORD_HEADER_BYTES + 5] ^= 1;
        content[0] ^= 1;
        std::fs::write(&path, &content).unwrap();
        let (mut journal, records) = Journal::salvage(&path, 1).unwrap();
        assert_eq!(records, [b"first", b"third"]);
        journal.append(b"fourth").unwrap();
        assert_eq!(Journal::open(&path, 1).unwrap().1.len(), 3);
        assert!(Journal::salvage(&path, 2).unwrap_err().is::<Fatal>());
    }

    #[test]
    fn another_format_or_file_is_refused() {
        let (_folder, path) = path();
        drop(Journal::open(&path, 2).unwrap());
        let error = Journal::open(&path, 1).unwrap_err();
        assert!(
            error.to_string().contains("has format 2, this version of fshipper reads format 1"),
            "{error}"
        );
        std::fs::write(&path, "a shopping list, long enough").unwrap();
        assert!(Journal::open(&path, 1).unwrap_err().to_string().contains("is no journal"));
    }

    #[test]
    fn compaction_replaces_everything() {
        let (_folder, path) = path();
        let (mut journal, _) = Journal::open(&path, 1).unwrap();
        for number in 0..100 {
            journal.append(format!("{number}").as_bytes()).unwrap();
        }
        journal.compact(&[b"sum".to_vec()]).unwrap();
        journal.append(b"next").unwrap();
        let (_, records) = Journal::open(&path, 1).unwrap();
        assert_eq!(records, [&b"sum"[..], b"next"]);
    }
}
