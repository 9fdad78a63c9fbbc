//! What the source remembers of its files: [`StateLog`].
//!
//! It holds no offsets: those are the receiving side's. It holds which physical files each log consists of,
//! and where in the log each of them begins. An entry is made before the first byte of a file is read, and
//! changes when the file is finished or has outgrown its fingerprint.
//!
//! ```text
//! record       line*                       what one discovery pass found, one record, one fdatasync
//! line         generation · forget · complete
//! generation   generation PATH EPOCH base=N skip=N fp=LENGTH:HASH id=DEVICE.INODE.BORN began=N [late=N] [copy=DEVICE.INODE.BORN:LENGTH:LENGTH:HASH] [end=N mark=LENGTH:HASH]
//! forget       forget PATH
//! complete     complete                    the first pass over all files has been recorded
//! ```

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use fshipper_pipeline::{Epoch, Fatal, Journal};
use rustix::fs::{FlockOperation, OFlags, flock};

use super::copies::Copied;
use super::identity::{FileId, Fingerprint, Marker};
use super::place::{decode_fingerprint, decode_marker};

const FILE: &str = "file_tail.journal";
const LOCK: &str = "file_tail.lock";
const VERSION: u32 = 1;

/// Below this length the file is not worth compacting.
const COMPACT_ABOVE_BYTES: u64 = 256 << 10;

/// One physical life of the file behind a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Generation {
    /// The offset of the first byte that is read of it.
    pub(crate) base: u64,
    /// How many bytes at its beginning do not belong to the log.
    pub(crate) skip: u64,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) id: FileId,
    /// When it was begun, in nanoseconds since 1970; 0 when nobody knows.
    pub(crate) began: u64,
    /// How many bytes behind its end are accounted for: zeros, and what came when the next one had begun, which
    /// is recorded as lost.
    pub(crate) late: u64,
    /// A copy of it that was seen, and lacks the end: of few there is one.
    pub(crate) copied: Option<Box<Copied>>,
    /// Once it is finished: the offset behind its last byte, and the bytes before it.
    pub(crate) end: Option<(u64, Option<Marker>)>,
}

/// What is known of a log: its epoch and its generations, oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) epoch: Epoch,
    pub(crate) generations: Vec<Generation>,
}

/// The open state log of one pipeline.
#[derive(Debug)]
pub(crate) struct StateLog {
    folder: PathBuf,
    /// `None` after an error: the file is written anew before anything else.
    journal: Option<Journal>,
    staged: String,
    /// How long the file was when it was last written anew.
    compacted_bytes: u64,
    _lock: File,
}

/// What a state log held.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Remembered {
    pub(crate) logs: BTreeMap<PathBuf, Known>,
    /// Whether a first pass was completed: what appears later is new.
    pub(crate) complete: bool,
    /// Whether something was lost of it.
    pub(crate) is_damaged: bool,
}

impl Known {
    /// Adds a generation, or brings one up to date. Of two that begin at the same offset in the same place
    /// of the same file the first was empty: the second replaces it.
    fn note(&mut self, generation: Generation) {
        let key = |generation: &Generation| (generation.base, generation.skip, generation.id);
        match self.generations.iter_mut().find(|known| key(known) == key(&generation)) {
            Some(known) => *known = generation,
            None => self.generations.push(generation),
        }
    }
}

impl StateLog {
    /// Opens the state log in `folder`, or creates it. Waits until a session before this one, in the same
    /// process, has let go of it.
    ///
    /// # Errors
    ///
    /// A [`Fatal`] when a newer version wrote it; otherwise the system's. Damage is no error: what can be
    /// read is kept, and the positions that the receiving side holds bring the rest back.
    pub(crate) fn open(folder: &Path) -> Result<(Self, Remembered)> {
        let lock_path = folder.join(LOCK);
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false);
        // What a link leads to is somebody else's, and nobody else ever opens a FIFO.
        options.custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32);
        let locked = options.open(&lock_path).and_then(|lock| {
            flock(&lock, FlockOperation::LockExclusive)?;
            Ok(lock)
        });
        let lock = locked.with_context(|| format!("cannot lock `{}`", lock_path.display()))?;
        let path = folder.join(FILE);
        let mut remembered = Remembered::default();
        let (journal, records) = match Journal::open(&path, VERSION) {
            Err(error) if error.is::<Fatal>() => {
                let salvaged = Journal::salvage(&path, VERSION)?;
                tracing::warn!("{error}; going on with the {} records that are whole", salvaged.1.len());
                remembered.is_damaged = true;
                salvaged
            }
            opened => opened?,
        };
        for record in &records {
            for line in record.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                if remembered.apply(line).is_none() {
                    let line = fshipper_pipeline::Escaped(line);
                    tracing::warn!("`{}` holds a line that makes no sense: `{line}`", path.display());
                }
            }
        }
        let compacted_bytes = journal.bytes();
        let log = Self {
            folder: folder.to_owned(),
            journal: Some(journal),
            staged: String::new(),
            compacted_bytes,
            _lock: lock,
        };
        Ok((log, remembered))
    }

    /// Takes note of a generation, to be written by the next [`StateLog::flush`].
    pub(crate) fn stage_generation(&mut self, path: &Path, epoch: Epoch, generation: &Generation) {
        write_generation(&mut self.staged, path, epoch, generation);
    }

    /// Takes note that a log is forgotten.
    pub(crate) fn stage_forget(&mut self, path: &Path) {
        self.staged += &format!("forget {}\n", escape(path));
    }

    /// Takes note that the first pass over all files is in.
    pub(crate) fn stage_complete(&mut self) {
        self.staged += "complete\n";
    }

    /// How much is staged, for [`StateLog::unstage`].
    pub(crate) fn staged(&self) -> usize {
        self.staged.len()
    }

    /// Takes back what was staged since [`StateLog::staged`] was `length`.
    pub(crate) fn unstage(&mut self, length: usize) {
        self.staged.truncate(length);
    }

    /// Makes everything staged durable: one write and one fdatasync. Now and then, and after an error, the
    /// file is written anew from `all`, which gives each log as it is without what is staged.
    ///
    /// # Errors
    ///
    /// What is staged stays staged.
    pub(crate) fn flush(&mut self, all: impl Fn(&mut dyn FnMut(&Path, &Known))) -> Result<()> {
        if self.staged.is_empty() {
            return Ok(());
        }
        // Somebody may have deleted the directory; the file written into then is one that nobody will find.
        let path = self.folder.join(FILE);
        if !path.try_exists().with_context(|| format!("cannot find `{}`", path.display()))? {
            self.journal = None;
        }
        let is_long = |journal: &Journal| {
            journal.bytes() > COMPACT_ABOVE_BYTES && journal.bytes() > 4 * self.compacted_bytes
        };
        match self.journal.take() {
            Some(mut journal) if !is_long(&journal) => {
                journal.append(self.staged.as_bytes())?;
                self.journal = Some(journal);
            }
            journal => {
                let mut content = String::new();
                all(&mut |path, known| {
                    for generation in &known.generations {
                        write_generation(&mut content, path, known.epoch, generation);
                    }
                });
                content += "complete\n";
                content += &self.staged;
                let mut journal = match journal {
                    Some(journal) => journal,
                    None => {
                        fs::create_dir_all(&self.folder)
                            .with_context(|| format!("cannot create `{}`", self.folder.display()))?;
                        Journal::open(&path, VERSION).or_else(|_| Journal::salvage(&path, VERSION))?.0
                    }
                };
                journal.compact(&[content.into_bytes()])?;
                self.compacted_bytes = journal.bytes();
                self.journal = Some(journal);
            }
        }
        // A first pass may stage megabytes; later ones stage a line.
        self.staged = String::new();
        Ok(())
    }
}

impl Remembered {
    /// Applies one line; `None` when it makes no sense.
    fn apply(&mut self, line: &[u8]) -> Option<()> {
        let mut words = std::str::from_utf8(line).ok()?.split(' ');
        match words.next()? {
            "complete" => self.complete = true,
            "forget" => {
                self.logs.remove(&unescape(words.next()?)?);
            }
            "generation" => {
                let path = unescape(words.next()?)?;
                let epoch = Epoch(u64::from_str_radix(words.next()?, 16).ok()?);
                let generation = read_generation(words)?;
                let known = self.logs.entry(path).or_insert(Known { epoch, generations: Vec::new() });
                if known.epoch != epoch {
                    *known = Known { epoch, generations: Vec::new() };
                }
                known.note(generation);
            }
            _ => return None,
        }
        Some(())
    }
}

fn write_generation(text: &mut String, path: &Path, epoch: Epoch, generation: &Generation) {
    let Generation { base, skip, fingerprint, id, began, late, copied, end } = generation;
    *text += &format!(
        "generation {} {epoch} base={base} skip={skip} fp={}:{:016x} id={}.{}.{} began={began}",
        escape(path),
        fingerprint.length,
        fingerprint.hash,
        id.device,
        id.inode,
        id.born,
    );
    if *late > 0 {
        *text += &format!(" late={late}");
    }
    if let Some(copied) = copied {
        let Copied { id, length, marker } = **copied;
        let FileId { device, inode, born } = id;
        let Marker { length: marked, hash } = marker;
        *text += &format!(" copy={device}.{inode}.{born}:{length}:{marked}:{hash:016x}");
    }
    if let Some((end, marker)) = end {
        *text += &format!(" end={end}");
        if let Some(marker) = marker {
            *text += &format!(" mark={}:{:016x}", marker.length, marker.hash);
        }
    }
    text.push('\n');
}

fn read_generation<'a>(words: impl Iterator<Item = &'a str>) -> Option<Generation> {
    let (mut base, mut skip, mut fingerprint, mut id) = (None, None, None, None);
    let (mut began, mut late, mut copied, mut end, mut marker) = (0, 0, None, None, None);
    for word in words {
        let (key, value) = word.split_once('=')?;
        match key {
            "base" => base = Some(value.parse().ok()?),
            "skip" => skip = Some(value.parse().ok()?),
            "fp" => fingerprint = Some(decode_fingerprint(value)?),
            "id" => id = Some(decode_id(value)?),
            "began" => began = value.parse().ok()?,
            "late" => late = value.parse().ok()?,
            "copy" => copied = Some(Box::new(decode_copied(value)?)),
            "end" => end = Some(value.parse().ok()?),
            "mark" => marker = Some(decode_marker(value)?),
            _ => {}
        }
    }
    let end = end.map(|end| (end, marker));
    Some(Generation {
        base: base?,
        skip: skip?,
        fingerprint: fingerprint?,
        id: id?,
        began,
        late,
        copied,
        end,
    })
}

fn decode_copied(text: &str) -> Option<Copied> {
    let (id, rest) = text.split_once(':')?;
    let (length, marker) = rest.split_once(':')?;
    Some(Copied { id: decode_id(id)?, length: length.parse().ok()?, marker: decode_marker(marker)? })
}

fn decode_id(text: &str) -> Option<FileId> {
    let mut numbers = text.split('.').map(|number| number.parse().ok());
    Some(FileId { device: numbers.next()??, inode: numbers.next()??, born: numbers.next()?? })
}

/// Printable ASCII without spaces; every path survives the round trip.
fn escape(path: &Path) -> String {
    let mut text = String::new();
    for byte in path.as_os_str().as_bytes() {
        if byte.is_ascii_graphic() && *byte != b'%' {
            text.push(char::from(*byte));
        } else {
            text += &format!("%{byte:02x}");
        }
    }
    text
}

fn unescape(text: &str) -> Option<PathBuf> {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &rest[2..];
    }
    Some(PathBuf::from(OsString::from_vec(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generation(base: u64) -> Generation {
        let id = FileId { device: 1, inode: base, born: 3 };
        Generation {
            base,
            skip: 0,
            fingerprint: Fingerprint::of(b"head"),
            id,
            began: 9,
            late: 0,
            copied: None,
            end: None,
        }
    }

    fn odd_path() -> PathBuf {
        PathBuf::from(OsString::from_vec(b"/var/odd \xff\n%41.log".to_vec()))
    }

    fn nothing(_: &mut dyn FnMut(&Path, &Known)) {}

    fn written(folder: &Path) -> Remembered {
        let (mut log, _) = StateLog::open(folder).unwrap();
        let copied = Some(Box::new(Copied { id: generation(9).id, length: 70, marker: Marker::of(b"copy") }));
        let finished =
            Generation { late: 4, copied, end: Some((7, Some(Marker::of(b"tail")))), ..generation(0) };
        log.stage_generation(&odd_path(), Epoch(5), &generation(0));
        log.stage_complete();
        log.flush(nothing).unwrap();
        log.stage_generation(&odd_path(), Epoch(5), &finished);
        log.stage_generation(&odd_path(), Epoch(5), &generation(7));
        log.stage_generation(Path::new("/gone"), Epoch(6), &generation(0));
        log.flush(nothing).unwrap();
        log.stage_forget(Path::new("/gone"));
        log.flush(nothing).unwrap();
        let known = Known { epoch: Epoch(5), generations: vec![finished, generation(7)] };
        Remembered { logs: BTreeMap::from([(odd_path(), known)]), complete: true, is_damaged: false }
    }

    #[test]
    fn remembers_what_was_flushed() {
        let folder = tempfile::tempdir().unwrap();
        let expected = written(folder.path());
        assert_eq!(StateLog::open(folder.path()).unwrap().1, expected);
    }

    #[test]
    fn neither_a_fifo_nor_a_link_is_taken_for_the_lock() {
        use rustix::fs::{CWD, Mode, mkfifoat};

        let folder = tempfile::tempdir().unwrap();
        let lock = folder.path().join(LOCK);
        mkfifoat(CWD, &lock, Mode::RUSR | Mode::WUSR).unwrap();
        let error = StateLog::open(folder.path()).unwrap_err();
        assert!(format!("{error:#}").contains("file_tail.lock`: No such device"), "{error:#}");

        fs::remove_file(&lock).unwrap();
        let elsewhere = folder.path().join("elsewhere");
        std::os::unix::fs::symlink(&elsewhere, &lock).unwrap();
        assert!(StateLog::open(folder.path()).is_err());
        assert!(!elsewhere.try_exists().unwrap());
    }

    #[test]
    fn cut_at_any_byte_or_damaged_anywhere_it_opens_with_what_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let expected = written(folder.path());
        let path = folder.path().join(FILE);
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 0x10;
            for content in [&whole[..at], &flipped] {
                fs::write(&path, content).unwrap();
                // A changed version number is only possible together with its checksum: it counts as damage.
                let (mut log, remembered) = StateLog::open(folder.path()).unwrap();
                for (path, known) in &remembered.logs {
                    let rightful = expected.logs.get(path).is_none_or(|log| log.epoch == known.epoch);
                    assert!(rightful, "{at}: {remembered:?}");
                }
                log.stage_complete();
                log.flush(nothing).unwrap();
                assert!(StateLog::open_after(log).complete, "{at}");
            }
        }
        for content in [&b""[..], &[0; 4096], b"not a journal at all, but long enough"] {
            fs::write(&path, content).unwrap();
            let remembered = StateLog::open(folder.path()).unwrap().1;
            assert!(remembered.logs.is_empty() && !remembered.complete);
        }
    }

    #[test]
    fn a_newer_version_is_fatal() {
        let folder = tempfile::tempdir().unwrap();
        drop(Journal::open(&folder.path().join(FILE), VERSION + 1).unwrap());
        assert!(StateLog::open(folder.path()).unwrap_err().is::<Fatal>());
    }

    #[test]
    fn is_written_anew_when_its_directory_is_gone_and_when_it_is_long() {
        let outer = tempfile::tempdir().unwrap();
        let folder = outer.path().join("state");
        fs::create_dir(&folder).unwrap();
        let (mut log, _) = StateLog::open(&folder).unwrap();
        let known = Known { epoch: Epoch(5), generations: vec![generation(0)] };
        fs::remove_dir_all(&folder).unwrap();
        log.stage_generation(Path::new("/b"), Epoch(6), &generation(0));
        log.flush(|each| each(Path::new("/a"), &known)).unwrap();
        for _ in 0..5000 {
            log.stage_generation(Path::new("/b"), Epoch(6), &generation(0));
            if log.staged.len() > 8 << 10 {
                log.flush(|each| each(Path::new("/a"), &known)).unwrap();
            }
        }
        assert!(fs::metadata(folder.join(FILE)).unwrap().len() < 2 * COMPACT_ABOVE_BYTES);
        let remembered = StateLog::open_after(log);
        assert_eq!(remembered.logs.len(), 2);
        assert!(remembered.complete);
    }

    impl StateLog {
        /// What a write error does.
        pub(crate) fn break_journal(&mut self) {
            self.journal = None;
        }

        fn open_after(log: StateLog) -> Remembered {
            let folder = log.folder.clone();
            drop(log);
            StateLog::open(&folder).unwrap().1
        }
    }
}
