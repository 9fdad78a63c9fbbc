//! What the tests share: a directory of logs, a receiving side, and a clock that is moved by hand.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use fshipper_pipeline::{Admission, Batch, Checkpoint, Content, Origin};
use rustix::fs::OFlags;
use tempfile::TempDir;

use crate::file_tail::identity::{DEVICES_BEFORE, Stat};
use crate::file_tail::lines::Lines;
use crate::file_tail::log::{Now, Stage};
use crate::file_tail::patterns::Patterns;
use crate::file_tail::reading::{Reading, Whereabouts};
use crate::file_tail::survivors::Survivors;
use crate::file_tail::tail::{Next, Options, TICK, TableOptions, Tail};
use crate::file_tail::watch::{Hints, Watch};

mod receiver;

pub(super) const HOST: &str = "host";
pub(super) const ROTATE_WAIT: Duration = Duration::from_secs(5);

/// What a missing byte reads as.
pub(super) const LOST: u8 = b'?';

/// No hints but those that a test gives: everything must be right without them.
#[derive(Default, Clone)]
struct Blind(Arc<Mutex<Hints>>);

impl Watch for Blind {
    fn watch(&mut self, _: usize, _: &Arc<Path>, _: crate::file_tail::identity::FileId) {}
    fn forget(&mut self, _: usize) {}
    fn take(&mut self) -> Hints {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// One `[[source]]` table.
#[derive(Clone)]
pub(super) struct Table {
    pub(super) include: Vec<String>,
    pub(super) exclude: Vec<String>,
    pub(super) options: TableOptions,
}

pub(super) struct Bench {
    folder: TempDir,
    state: TempDir,
    pub(super) tables: Vec<Table>,
    pub(super) max_batch_bytes: usize,
    pub(super) tail: Option<Tail>,
    watch: Blind,
    /// What one session leaves open for the next one.
    survivors: Arc<Survivors>,
    /// How far the clock was moved.
    ahead: Duration,
    began: Instant,
    /// What the receiving side has taken, and what of it is durable.
    received: Received,
    committed: Received,
    /// The data of each batch that was new.
    pub(super) batches: Vec<Vec<u8>>,
}

#[derive(Clone, Default)]
struct Received {
    checkpoint: Checkpoint,
    bytes: BTreeMap<Origin, Vec<u8>>,
    unknown_losses: usize,
}

impl Bench {
    /// Reads what `include` selects below the directory of logs.
    pub(super) fn new(include: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        DEVICES_BEFORE.set(0);
        let mut bench = Self {
            folder,
            state: tempfile::tempdir().unwrap(),
            tables: Vec::new(),
            max_batch_bytes: 4096,
            tail: None,
            watch: Blind::default(),
            survivors: Arc::default(),
            ahead: Duration::ZERO,
            began: Instant::now(),
            received: Received::default(),
            committed: Received::default(),
            batches: Vec::new(),
        };
        bench.add_table(include);
        bench
    }

    /// Reads what `include` selects, `a.log` above all, of which so many lines were read.
    pub(super) fn with_log(include: &str, count: usize) -> Self {
        let mut bench = Self::new(&[include]);
        bench.append("a.log", lines("a", 0..count));
        bench.pump();
        bench
    }

    pub(super) fn add_table(&mut self, include: &[&str]) {
        let include = include.iter().map(|glob| self.path(glob).to_str().unwrap().to_owned()).collect();
        let options = TableOptions {
            start_at_end: false,
            max_line_bytes: self.max_batch_bytes,
            rotate_wait: ROTATE_WAIT,
            ignore_older: None,
            lines: Lines::default(),
        };
        self.tables.push(Table { include, exclude: Vec::new(), options });
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn state_file(&self) -> PathBuf {
        self.state.path().join("file_tail.journal")
    }

    pub(super) fn now(&self) -> Now {
        // The clock stands still but for what it is moved.
        Now { instant: self.began + self.ahead, system: self.system() }
    }

    fn system(&self) -> SystemTime {
        SystemTime::now() + self.ahead
    }

    pub(super) fn options(&self) -> Options {
        let lists = self.tables.iter().map(|table| (&table.include[..], &table.exclude[..]));
        Options {
            host: HOST.to_owned(),
            max_batch_bytes: self.max_batch_bytes,
            patterns: Patterns::new(lists).unwrap(),
            tables: self.tables.iter().map(|table| table.options.clone()).collect(),
        }
    }

    /// Appends to a file, and dates it by the clock of the test.
    pub(super) fn append(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(name);
        let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
        self.append_to(&mut file, bytes);
    }

    pub(super) fn append_to(&self, file: &mut File, bytes: impl AsRef<[u8]>) {
        file.write_all(bytes.as_ref()).unwrap();
        file.set_modified(self.system()).unwrap();
    }

    pub(super) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let mut file = File::create(self.path(name)).unwrap();
        self.append_to(&mut file, bytes);
    }

    pub(super) fn rename(&self, from: &str, to: &str) {
        fs::rename(self.path(from), self.path(to)).unwrap();
    }

    /// `a.log` becomes `a.log.1`, which becomes `a.log.2`, and so on.
    pub(super) fn rotate(&self) {
        let name = |number: usize| format!("a.log.{number}");
        let is_there = |number: &usize| self.path(&name(*number)).try_exists().unwrap();
        let last = (1..).take_while(is_there).last().unwrap_or(0);
        (1..=last).rev().for_each(|number| self.rename(&name(number), &name(number + 1)));
        self.rename("a.log", "a.log.1");
    }

    pub(super) fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).unwrap();
    }

    /// As `gzip` does: the compressed file has the time of the one that it takes the place of.
    pub(super) fn gzip(&self, name: &str) {
        let path = self.path(name);
        let modified = fs::metadata(&path).unwrap().modified().unwrap();
        let compressed = format!("{name}.gz");
        fs::write(self.path(&compressed), gzipped(fs::read(&path).unwrap())).unwrap();
        File::options().write(true).open(self.path(&compressed)).unwrap().set_modified(modified).unwrap();
        self.remove(name);
    }

    /// As a backup that is restored: another file with the same content, time and name.
    pub(super) fn copy_to_another_inode(&self, name: &str) {
        let modified = fs::metadata(self.path(name)).unwrap().modified().unwrap();
        fs::copy(self.path(name), self.path("copy")).unwrap();
        File::options().write(true).open(self.path("copy")).unwrap().set_modified(modified).unwrap();
        self.rename("copy", name);
    }

    /// As `copytruncate` does; the copy is dated by the clock of the test.
    pub(super) fn copy_and_truncate(&self, from: &str, to: &str) {
        self.write(to, fs::read(self.path(from)).unwrap());
        self.truncate(from);
    }

    pub(super) fn truncate(&self, name: &str) {
        let file = OpenOptions::new().write(true).open(self.path(name)).unwrap();
        file.set_len(0).unwrap();
        file.set_modified(self.system()).unwrap();
    }

    pub(super) fn open(&mut self) {
        let from = self.committed.checkpoint.clone();
        let (options, now) = (self.options(), self.now());
        let watch = Box::new(self.watch.clone());
        let mut tail = Tail::open(options, self.state.path(), &from, watch, now).unwrap();
        tail.take_over(self.survivors.clone());
        self.tail = Some(tail);
    }

    /// Moves the clock.
    pub(super) fn wait(&mut self, time: Duration) {
        self.ahead += time;
    }

    /// Reads until there is nothing to read, over some ticks.
    pub(super) fn pump(&mut self) {
        for _ in 0..4 {
            self.wait(TICK);
            while let Next::More = self.fill(false) {}
        }
    }

    /// Reads until rotated files are finished, too.
    pub(super) fn settle(&mut self) {
        self.pump();
        self.wait(ROTATE_WAIT);
        self.pump();
    }

    /// Reads to the end, as `--once` does.
    pub(super) fn finish(&mut self) {
        for _ in 0..100_000 {
            if self.fill(true) == Next::End {
                return;
            }
        }
        panic!("the end never comes");
    }

    pub(super) fn fill(&mut self, is_ending: bool) -> Next {
        if self.tail.is_none() {
            self.open();
        }
        let now = self.now();
        let mut batches = VecDeque::new();
        let next = self.tail.as_mut().unwrap().fill(now, is_ending, &mut batches).unwrap();
        for batch in batches {
            self.receive(batch);
        }
        next
    }

    fn receive(&mut self, mut batch: Batch) {
        assert!(batch.bytes().len() <= self.max_batch_bytes);
        let received = &mut self.received;
        match received.checkpoint.admit(&batch) {
            Admission::Pass => {}
            Admission::Cut(count) => batch.cut_front(count),
            Admission::Duplicate => return,
            wrong => panic!("{wrong:?} for `{}` at {}", batch.origin, batch.start),
        }
        let bytes = received.bytes.entry(batch.origin.clone()).or_default();
        match &batch.content {
            Content::Data(data) => {
                bytes.extend(data);
                self.batches.push(data.to_vec());
            }
            Content::Loss { missing: 0, .. } => received.unknown_losses += 1,
            Content::Loss { missing, .. } => bytes.extend(vec![LOST; *missing as usize]),
        }
        received.checkpoint.advance(&batch);
    }

    pub(super) fn commit(&mut self) {
        self.committed = self.received.clone();
        if let Some(tail) = &mut self.tail {
            for (origin, history) in self.committed.checkpoint.origins() {
                tail.set_committed(origin, &history.current);
            }
        }
    }

    /// The process dies; what was not committed is forgotten. A new one starts at the next read.
    pub(super) fn crash(&mut self) {
        self.reopen();
        self.survivors = Arc::default();
    }

    /// The hop fails, and what was not committed is forgotten. The same process starts again at the next read.
    pub(super) fn reopen(&mut self) {
        self.tail = None;
        self.received = self.committed.clone();
    }

    /// The process stops in order, and a new one starts at the next read.
    pub(super) fn restart(&mut self) {
        self.commit();
        self.crash();
    }

    pub(super) fn lose_state(&mut self) {
        assert!(self.tail.is_none());
        fs::remove_file(self.state_file()).unwrap();
    }

    pub(super) fn origin(&self, name: &str) -> Origin {
        Origin::new(HOST, self.path(name).to_str().unwrap())
    }

    pub(super) fn content(&self, name: &str) -> Vec<u8> {
        self.received.bytes.get(&self.origin(name)).cloned().unwrap_or_default()
    }

    pub(super) fn unknown_losses(&self) -> usize {
        self.received.unknown_losses
    }

    #[track_caller]
    pub(super) fn check(&self, name: &str, expected: impl AsRef<[u8]>) {
        let content = self.content(name);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert_eq!(text(&content), text(expected.as_ref()), "{name}");
        assert_eq!(content, expected.as_ref(), "{name}");
    }

    /// Nothing arrived but of `a.log`, and nothing was lost that nobody can count.
    #[track_caller]
    pub(super) fn check_one_log_without_loss(&self) {
        assert_eq!((self.names(), self.unknown_losses()), (vec!["a.log".to_owned()], 0));
    }

    /// All names under which something arrived.
    pub(super) fn names(&self) -> Vec<String> {
        let base = self.folder.path();
        let name = |origin: &Origin| {
            let path = PathBuf::from(String::from_utf8(origin.path().to_vec()).unwrap());
            path.strip_prefix(base).unwrap().to_str().unwrap().to_owned()
        };
        self.received.bytes.keys().map(name).collect()
    }
}

/// What `gzip` makes of this.
pub(super) fn gzipped(content: impl AsRef<[u8]>) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(content.as_ref()).unwrap();
    encoder.finish().unwrap()
}

/// Lines that tell files and positions apart, long enough for a fingerprint.
pub(super) fn lines(tag: &str, range: std::ops::Range<usize>) -> String {
    range.map(|number| format!("{tag} line number {number:06} of the test\n")).collect()
}

impl Bench {
    /// How many logs arrived.
    pub(super) fn origins(&self) -> usize {
        self.received.bytes.len()
    }

    /// Another source for the same files, with a state of its own and nobody who knows any of them.
    pub(super) fn without_receiver(&self) -> Bench {
        let mut other = Bench::new(&[]);
        other.tables = self.tables.clone();
        other.ahead = self.ahead;
        other
    }

    /// Takes over the state of another source.
    pub(super) fn take_state(&mut self, mut other: Bench) {
        other.tail = None;
        fs::copy(other.state_file(), self.state_file()).unwrap();
    }

    pub(super) fn limit_open_files(&mut self, limit: usize) {
        self.tail.as_mut().unwrap().open_files.most = limit;
    }

    pub(super) fn limit_held_files(&mut self, limit: usize) {
        self.tail.as_mut().unwrap().open_files.most_held = limit;
    }

    /// Whether a compressed sibling of a log was reported.
    pub(super) fn has_warned(&self, name: &str) -> bool {
        let tail = self.tail.as_ref().unwrap();
        tail.logs[tail.log_at(&self.path(name)).unwrap()].rotation.has_warned
    }

    /// Makes each read of a file fail, until it is opened again.
    pub(super) fn break_file(&mut self, name: &str) {
        let path = self.path(name);
        let write_only = OpenOptions::new().append(true).open(&path).unwrap();
        let tail = self.tail.as_mut().unwrap();
        let index = tail.log_at(&path).unwrap();
        let Stage::Reading(reading) = &mut tail.logs[index].stage else { panic!("`{name}` is not read") };
        reading.file = Some(write_only);
    }

    /// Makes the open file of a log, and those that wait behind it, what NFS makes of one that is no more.
    pub(super) fn make_stale(&mut self, name: &str) {
        let path = self.path(name);
        let tail = self.tail.as_mut().unwrap();
        let index = tail.log_at(&path).unwrap();
        let log = &mut tail.logs[index];
        let stale = |file: &File| {
            let path = format!("/proc/self/fd/{}", file.as_raw_fd());
            let flags = OFlags::SYNC.bits() as i32;
            OpenOptions::new().read(true).custom_flags(flags).open(path).unwrap()
        };
        if let Stage::Reading(Reading { file: Some(file), .. }) = &mut log.stage {
            *file = stale(file);
        }
        if let Some(rotation) = log.rotation.if_any() {
            rotation.finished = rotation.finished.as_ref().map(stale);
            for held in &mut rotation.held {
                held.file = held.file.as_deref().map(|file| stale(file).into());
            }
        }
    }

    /// The same, if it is being read at its own path.
    pub(super) fn break_live(&mut self, name: &str) {
        let path = self.path(name);
        let Ok(stat) = Stat::of_path(&path) else { return };
        let is_home = |reading: &Reading| reading.whereabouts == Whereabouts::Home && reading.id == stat.id;
        if let Some(tail) = &self.tail
            && let Some(index) = tail.log_at(&path)
            && matches!(&tail.logs[index].stage, Stage::Reading(reading) if is_home(reading))
        {
            self.break_file(name);
        }
    }

    /// What a watch does when something happens to a log.
    pub(super) fn hint(&mut self, name: &str) {
        let path = self.path(name);
        let tail = self.tail.as_mut().unwrap();
        let index = tail.log_at(&path).unwrap();
        tail.look(index);
    }

    /// What a watch does when the kernel's queue of hints overflowed.
    pub(super) fn overflow(&mut self) {
        self.watch.0.lock().unwrap().everything = true;
    }

    /// How many of its files this process holds open, deleted ones too.
    pub(super) fn open_files(&self) -> usize {
        let open = fs::read_dir("/proc/self/fd").unwrap().flatten();
        let paths = open.filter_map(|link| fs::read_link(link.path()).ok());
        paths.filter(|path| path.starts_with(self.folder.path())).count()
    }

    /// Makes the open state log notice that its file is not its file any more.
    pub(super) fn break_state(&mut self) {
        self.tail.as_mut().unwrap().break_state();
    }
}

impl Bench {
    /// Looks for what is gone for good at the next tick.
    pub(super) fn sweep_soon(&mut self) {
        self.tail.as_mut().unwrap().sweep_above = 0;
    }

    /// How many files and logs are known, and how much is known of them.
    pub(super) fn known(&self) -> [usize; 5] {
        let tail = self.tail.as_ref().unwrap();
        let logs = tail.logs.len();
        [logs, tail.owners.len(), tail.inodes.len(), tail.by_path.len(), tail.by_member.len()]
    }

    /// As a listing remembers a file when its name and its inode belong to another one by now.
    pub(super) fn misremember(&mut self, name: &str) {
        let path = self.path(name);
        let id = Stat::of_path(&path).unwrap().id;
        let stale = crate::file_tail::identity::FileId { born: id.born + 1, ..id };
        self.tail.as_mut().unwrap().discovery.misremember(&path, stale);
    }

    /// A reboot: the next process finds all files on a device with another number.
    pub(super) fn renumber_devices(&self, number: u64) {
        assert!(self.tail.is_none());
        DEVICES_BEFORE.set(number);
    }

    /// What happens at a tick while nobody reads.
    pub(super) fn keep_up(&mut self) {
        self.wait(TICK);
        let now = self.now();
        self.tail.as_mut().unwrap().keep_up(now);
    }

    /// How many decoders are at work.
    pub(super) fn decoders(&self) -> usize {
        Arc::strong_count(&self.tail.as_ref().unwrap().decoders) - 1
    }
}
