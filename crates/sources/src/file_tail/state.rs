//! What the source remembers of its files: [`StateLog`].
//!
//! It holds no offsets: those are the receiving side's. It holds which physical files each log consists of,
//! and where in the log each of them begins. An entry is made before the first byte of a file is read, and
//! changes when the file is finished or has outgrown its fingerprint. A loss of unknown length moves no offset: it
//! is held too, so that a crash before it is committed does not turn it into silence.
//!
//! ```text
//! record       line*                       what one discovery pass found, one record, one fdatasync
//! line         generation · loss · forget · complete
//! generation   generation PATH EPOCH base=N skip=N fp=LENGTH:HASH id=DEVICE.INODE.BORN began=N [late=N] [copy=DEVICE.INODE.BORN:LENGTH:LENGTH:HASH] [end=N mark=LENGTH:HASH]
//! loss         loss PATH EPOCH id=ID reason=TEXT
//! forget       forget PATH
//! complete     complete                    the first pass over all files has been recorded
//! ```

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use fshipper_pipeline::{Epoch, Fatal, Journal};
use rustix::fs::{FlockOperation, OFlags, flock};

use super::copies::Copied;
use super::identity::{FileId, Fingerprint, Marker};

mod line;

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

/// A loss of unknown length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Loss {
    /// A random number: with it the places of all that comes later say that the loss came before.
    pub(crate) id: u64,
    pub(crate) reason: Arc<str>,
}

/// What is known of a log: its epoch, and what it consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) epoch: Epoch,
    /// Oldest first.
    pub(crate) generations: Vec<Generation>,
    /// Those that may not be committed, in the order in which they were recorded.
    pub(crate) losses: Vec<Loss>,
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

impl Loss {
    /// A new one.
    pub(crate) fn new(reason: Arc<str>) -> Self {
        Self { id: Epoch::random().0, reason }
    }
}

impl Known {
    fn new(epoch: Epoch) -> Self {
        Self { epoch, generations: Vec::new(), losses: Vec::new() }
    }

    /// Adds a generation, or brings one up to date. Of two that begin at the same offset in the same place
    /// of the same file the first was empty: the second replaces it.
    fn note(&mut self, generation: Generation) {
        let key = |generation: &Generation| (generation.base, generation.skip, generation.id);
        match self.generations.iter_mut().find(|known| key(known) == key(&generation)) {
            Some(known) => *known = generation,
            None => self.generations.push(generation),
        }
    }

    /// Adds a loss; it may be there already.
    fn note_loss(&mut self, loss: Loss) {
        if !self.losses.iter().any(|known| known.id == loss.id) {
            self.losses.push(loss);
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
        line::write_generation(&mut self.staged, path, epoch, generation);
    }

    /// Takes note of a loss.
    pub(crate) fn stage_loss(&mut self, path: &Path, epoch: Epoch, loss: &Loss) {
        line::write_loss(&mut self.staged, path, epoch, loss);
    }

    /// Takes note that a log is forgotten.
    pub(crate) fn stage_forget(&mut self, path: &Path) {
        self.staged += &format!("forget {}\n", line::escape(path.as_os_str().as_bytes()));
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
                        line::write_generation(&mut content, path, known.epoch, generation);
                    }
                    for loss in &known.losses {
                        line::write_loss(&mut content, path, known.epoch, loss);
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
        let path = |text: &str| Some(PathBuf::from(OsString::from_vec(line::unescape(text)?)));
        let epoch = |text: &str| Some(Epoch(u64::from_str_radix(text, 16).ok()?));
        let mut words = std::str::from_utf8(line).ok()?.split(' ');
        match words.next()? {
            "complete" => self.complete = true,
            "forget" => {
                self.logs.remove(&path(words.next()?)?);
            }
            "generation" => {
                let (path, epoch) = (path(words.next()?)?, epoch(words.next()?)?);
                let generation = line::read_generation(words)?;
                self.of(path, epoch).note(generation);
            }
            "loss" => {
                let (path, epoch) = (path(words.next()?)?, epoch(words.next()?)?);
                let loss = line::read_loss(words)?;
                self.of(path, epoch).note_loss(loss);
            }
            _ => return None,
        }
        Some(())
    }

    /// What is known of a log in this epoch: of another one it is history.
    fn of(&mut self, path: PathBuf, epoch: Epoch) -> &mut Known {
        let known = self.logs.entry(path).or_insert_with(|| Known::new(epoch));
        if known.epoch != epoch {
            *known = Known::new(epoch);
        }
        known
    }
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

    fn loss(id: u64) -> Loss {
        Loss { id, reason: format!("`odd \u{fe0f}\n%41` was deleted {id} times").into() }
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
        let losses = vec![loss(1), loss(2)];
        losses.iter().for_each(|loss| log.stage_loss(&odd_path(), Epoch(5), loss));
        log.stage_loss(&odd_path(), Epoch(5), &loss(1));
        log.stage_loss(Path::new("/lost"), Epoch(7), &loss(3));
        log.flush(nothing).unwrap();
        log.stage_forget(Path::new("/gone"));
        log.flush(nothing).unwrap();
        let known = Known { epoch: Epoch(5), generations: vec![finished, generation(7)], losses };
        let lost = Known { losses: vec![loss(3)], ..Known::new(Epoch(7)) };
        let logs = BTreeMap::from([(odd_path(), known), (PathBuf::from("/lost"), lost)]);
        Remembered { logs, complete: true, is_damaged: false }
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
        let known = Known { generations: vec![generation(0)], losses: vec![loss(1)], ..Known::new(Epoch(5)) };
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
        assert_eq!(remembered.logs[Path::new("/a")], known);
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
