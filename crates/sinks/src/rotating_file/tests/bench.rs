//! A pump in a nutshell, and a look at the output.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};
use fshipper_pipeline::{Admission, Batch, Bytes, Checkpoint, Cursor, Epoch, Origin, Written};
use tempfile::TempDir;

use crate::rotating_file::RotatingFile;
use crate::rotating_file::commit::Claims;
use crate::rotating_file::config::Plan;
use crate::rotating_file::confined::Root;
use crate::rotating_file::disk::Disk;
use crate::rotating_file::ledger::FOLDER;
use crate::rotating_file::lock::Owner;
use crate::rotating_file::stop::Stop;
use crate::rotating_file::writer::Writer;

/// An output folder and the table of the sink that writes to it.
pub(super) struct Bench {
    pub(super) folder: TempDir,
    toml: String,
}

/// One life of a sink.
pub(super) struct Session {
    pub(super) writer: Writer,
    pub(super) disk: Arc<Disk>,
    /// The pump's.
    pub(super) checkpoint: Checkpoint,
    /// What the commit that was begun claims.
    pub(super) begun: Option<Checkpoint>,
}

/// A folder in memory, where syncs cost nothing, if the system has one.
pub(super) fn folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// So many days after 2026-11-01, at noon, UTC.
pub(super) fn day(days: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_793_491_200 + 43_200 + days * 86_400)
}

/// A pipeline on the host `here`.
pub(super) fn owner(pipeline: &str) -> Owner {
    Owner { pipeline: pipeline.to_owned(), host: "here".to_owned(), lock: Arc::default() }
}

pub(super) fn origin(host: &str, path: &str) -> Origin {
    Origin::new(host, path)
}

impl Bench {
    /// A sink with `path` below a fresh folder, times in UTC, and further keys.
    pub(super) fn new(path: &str, keys: &str) -> Self {
        Self::in_folder(folder(), path, keys)
    }

    /// The same in the system's folder for such things: a disk, mostly.
    pub(super) fn on_disk(path: &str, keys: &str) -> Self {
        Self::in_folder(tempfile::tempdir().unwrap(), path, keys)
    }

    fn in_folder(folder: TempDir, path: &str, keys: &str) -> Self {
        let toml = format!("path = \"{}/{path}\"\ntimezone = \"UTC\"\n{keys}", folder.path().display());
        Self { folder, toml }
    }

    /// The same output with another table.
    pub(super) fn with(self, path: &str, keys: &str) -> Self {
        let toml = format!("path = \"{}/{path}\"\ntimezone = \"UTC\"\n{keys}", self.folder.path().display());
        Self { toml, ..self }
    }

    pub(super) fn config(&self) -> RotatingFile {
        toml::from_str(&self.toml).unwrap()
    }

    pub(super) fn plan(&self) -> Plan {
        self.config().plan().unwrap()
    }

    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    pub(super) fn open(&self) -> Session {
        self.try_open(u64::MAX).unwrap()
    }

    /// Opens a sink that may change the disk so many times and is dead then.
    pub(super) fn try_open(&self, changes: u64) -> Result<Session> {
        self.open_with(changes, Arc::default())
    }

    /// The same with a way to drop the sink.
    pub(super) fn open_with(&self, changes: u64, stop: Arc<Stop>) -> Result<Session> {
        let plan = self.plan();
        let disk = Arc::new(Disk::new(Root::open_or_create(plan.template.fixed(), 0o750)?, plan.mode));
        disk.fuse.set(changes);
        let writer = Writer::open_on(disk.clone(), plan, owner("test"), stop)?;
        let checkpoint = writer.checkpoint();
        Ok(Session { writer, disk, checkpoint, begun: None })
    }

    /// All files but the sink's own, by path.
    pub(super) fn files(&self) -> BTreeMap<String, String> {
        let mut files = BTreeMap::new();
        collect(self.folder.path(), self.folder.path(), &mut files);
        files
    }

    /// The names of all files but the sink's own.
    pub(super) fn names(&self) -> Vec<String> {
        self.files().into_keys().collect()
    }

    pub(super) fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }

    pub(super) fn losses(&self) -> String {
        let own = self.plan().template.fixed().join(FOLDER);
        fs::read_to_string(own.join("losses.log")).unwrap_or_default()
    }
}

fn collect(root: &Path, folder: &Path, files: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if path.file_name().unwrap() != FOLDER {
                collect(root, &path, files);
            }
            continue;
        }
        let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        files.insert(name, String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned());
    }
}

impl Session {
    /// Where the pump stands with an origin.
    pub(super) fn end(&self, origin: &Origin) -> u64 {
        self.checkpoint.position(origin).map_or(0, |position| position.offset)
    }

    /// The next bytes of an origin.
    pub(super) fn write(&mut self, origin: &Origin, text: &str, time: SystemTime) -> Written {
        let batch = data(origin, self.end(origin), text, time);
        self.feed(batch).unwrap()
    }

    /// A batch as it comes: what is there already is cut off.
    pub(super) fn feed(&mut self, mut batch: Batch) -> Result<Written> {
        match self.checkpoint.admit(&batch) {
            Admission::Pass => {}
            Admission::Cut(count) => batch.cut_front(count),
            Admission::Duplicate => return Ok(Written::Accepted),
            wrong => panic!("{wrong:?} at {} of {}", batch.start, batch.origin),
        }
        let written = self.writer.accept(&batch, true)?;
        if written == Written::Accepted {
            self.checkpoint.advance(&batch);
        }
        Ok(written)
    }

    pub(super) fn cursor(&mut self, position: usize) {
        let position = Bytes::from(position.to_string());
        self.checkpoint.set_cursor(&Cursor { transport: "test".into(), position });
    }

    pub(super) fn cursor_position(&self) -> Option<usize> {
        let position = self.checkpoint.cursor("test")?;
        std::str::from_utf8(position).ok()?.parse().ok()
    }

    pub(super) fn commit(&mut self) {
        assert_eq!(self.try_commit().unwrap(), []);
    }

    pub(super) fn try_commit(&mut self) -> Result<Vec<(Origin, String)>> {
        let held = self.writer.commit(Claims::of(&self.checkpoint), false)?;
        self.checkpoint.clear_changes();
        Ok(held)
    }

    /// Begins a commit, when the one before is durable; returns what that one made durable, if there was one.
    pub(super) fn begin_commit(&mut self) -> Result<Option<Checkpoint>> {
        let before = self.finish_commit()?;
        self.writer.begin_commit(Claims::of(&self.checkpoint), false, ())?;
        self.begun = Some(self.checkpoint.clone());
        self.checkpoint.clear_changes();
        Ok(before)
    }

    /// Waits for the commit that was begun; returns what it made durable.
    pub(super) fn finish_commit(&mut self) -> Result<Option<Checkpoint>> {
        self.writer.finish_record()?;
        self.take_durable()
    }

    /// What a commit has made durable since somebody asked.
    pub(super) fn take_durable(&mut self) -> Result<Option<Checkpoint>> {
        let Some(held) = self.writer.take_committed()? else { return Ok(None) };
        ensure!(held.is_empty(), "{held:?}");
        Ok(self.begun.take())
    }

    /// Deletes and compresses until nothing is left to do.
    pub(super) fn maintain(&mut self) -> Result<()> {
        self.writer.retention.note_rotation();
        loop {
            self.writer.tidy()?;
            if !self.writer.is_compressing() && !self.writer.retention.has_more() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_micros(50));
        }
    }
}

pub(super) fn data(origin: &Origin, start: u64, text: &str, time: SystemTime) -> Batch {
    let mut batch = Batch::data(origin.clone(), Epoch(1), start, text.as_bytes().to_vec());
    batch.time = time;
    batch.place = Bytes::from(format!("place {start}"));
    batch
}
