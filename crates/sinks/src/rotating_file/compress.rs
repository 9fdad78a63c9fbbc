//! Rotated files become `.gz` files, off the writer's thread, one at a time: [`Compressor`].
//!
//! The copy is written under a name of our own in `.fshipper/` and synced. Then, on the writer's thread, its
//! identity goes to the ledger as an intent, it is renamed into place, the folder is synced, the plain file is
//! unlinked, and a record ends it. Killed at any step, exactly one of the two survives the next start.

use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use flate2::Compression;
use flate2::write::GzEncoder;

use super::config::Compress;
use super::disk::{Cure, Disk};
use super::ledger::{Entry, FileId, FileRecord, Intent, Stage, own};
use super::names::FilePath;
use super::stop::Stop;
use super::writer::Writer;

/// Makes compressed copies.
#[derive(Debug)]
pub(super) struct Compressor {
    disk: Arc<Disk>,
    stop: Arc<Stop>,
    running: Option<Running>,
    not_before: Option<Instant>,
}

#[derive(Debug)]
struct Running {
    file: FileId,
    /// Where the copy is made.
    temporary: FilePath,
    thread: JoinHandle<Result<Copied>>,
}

/// A complete, durable copy.
#[derive(Debug)]
struct Copied {
    identity: u64,
    length: u64,
}

/// What the names of copies that are being made begin with.
const TEMPORARY: &str = "compress.";

const SUFFIX: &str = ".gz";

/// How much is read at a time: a stop is noticed after each.
const CHUNK_BYTES: usize = 128 << 10;

/// The pause before the next try when the disk is full.
const FULL_PAUSE: Duration = Duration::from_secs(60);

impl Compressor {
    pub(super) fn new(disk: Arc<Disk>, stop: Arc<Stop>) -> Self {
        Self { disk, stop, running: None, not_before: None }
    }

    /// The file that is being compressed.
    pub(super) fn file(&self) -> Option<FileId> {
        self.running.as_ref().map(|running| running.file)
    }

    fn is_free(&self) -> bool {
        self.running.is_none() && self.not_before.is_none_or(|moment| Instant::now() >= moment)
    }

    fn start(&mut self, file: FileId, record: &FileRecord) -> Result<()> {
        let temporary = own(&format!("{TEMPORARY}{:016x}", fastrand::u64(..)));
        let (disk, stop) = (self.disk.clone(), self.stop.clone());
        let (from, to) = (record.clone(), temporary.clone());
        let thread = thread::Builder::new()
            .name("compress".to_owned())
            .spawn(move || copy(&disk, &stop, &from, &to))
            .context("cannot start a thread")?;
        self.running = Some(Running { file, temporary, thread });
        Ok(())
    }

    fn take_finished(&mut self) -> Option<(FileId, FilePath, Result<Copied>)> {
        let Running { file, temporary, thread } =
            self.running.take_if(|running| running.thread.is_finished())?;
        let copied = thread.join().unwrap_or_else(|_| Err(anyhow!("the compressing thread panicked")));
        Some((file, temporary, copied))
    }
}

impl Writer {
    /// Puts a finished copy in place, and starts the next one.
    pub(super) fn compress(&mut self) -> Result<()> {
        if let Some((file, temporary, copied)) = self.compressor.take_finished() {
            self.finish_compression(file, &temporary, copied)?;
        }
        if self.plan.compress == Compress::None {
            self.to_compress.clear();
        }
        while self.compressor.is_free()
            && let Some(file) = self.to_compress.front().copied()
        {
            let state = self.ledger.state();
            match state.files.get(file) {
                // Its record is on its way.
                Some(record) if record.stage == Stage::Active || state.intents.contains_key(&file) => break,
                Some(record) if record.stage == Stage::Rotated => self.compressor.start(file, record)?,
                _ => {}
            }
            self.to_compress.pop_front();
        }
        Ok(())
    }

    /// Whether something is being compressed: somebody has to look whether it is done.
    pub(super) fn is_compressing(&self) -> bool {
        self.compressor.running.is_some()
    }

    fn finish_compression(
        &mut self,
        file: FileId,
        temporary: &FilePath,
        copied: Result<Copied>,
    ) -> Result<()> {
        let Some(record) = self.ledger.state().files.get(file).cloned() else {
            return remove(&self.disk, temporary);
        };
        let path = self.disk.shown(&record.path);
        let copied = match copied {
            Ok(copied) => copied,
            Err(error) => {
                remove(&self.disk, temporary)?;
                if Cure::of(&error) == Cure::Wait {
                    self.compressor.not_before = Some(Instant::now() + FULL_PAUSE);
                    self.to_compress.push_front(file);
                } else {
                    tracing::error!("cannot compress `{path}`: {error:#}; it stays as it is");
                }
                return Ok(());
            }
        };
        let to = record.path.with_suffix(SUFFIX);
        if self.ledger.state().file_at(&to).is_some() || self.disk.stat(&to)?.is_some() {
            tracing::warn!("`{}` is there already: `{path}` stays as it is", self.disk.shown(&to));
            return remove(&self.disk, temporary);
        }
        let Copied { identity, length } = copied;
        let mut entries = vec![Entry::Intent(file, Intent::Compress { to: to.clone(), identity, length })];
        self.log(&mut entries)?;
        if let Err(error) = self.disk.rename(temporary, &to) {
            tracing::error!("cannot compress `{path}`: {error:#}; it stays as it is");
            let mut entries = vec![Entry::Withdraw(file)];
            self.log(&mut entries)?;
            return remove(&self.disk, temporary);
        }
        self.disk.sync_folder_of(&to)?;
        self.disk.remove(&record.path, record.identity)?;
        self.disk.sync_folder_of(&record.path)?;
        let compressed = FileRecord { path: to, identity, length, stage: Stage::Compressed, ..record };
        let mut entries = vec![Entry::File(file, compressed)];
        self.log(&mut entries)
    }
}

/// Removes what copies were being made when the process died.
pub(super) fn remove_leftovers(disk: &Disk) -> Result<()> {
    for path in disk.list(&own("."))? {
        if path.file_name().to_string_lossy().starts_with(TEMPORARY) {
            remove(disk, &path)?;
        }
    }
    Ok(())
}

fn remove(disk: &Disk, path: &FilePath) -> Result<()> {
    let Some(entry) = disk.stat(path)? else { return Ok(()) };
    disk.remove(path, entry.identity)?;
    Ok(())
}

fn copy(disk: &Disk, stop: &Stop, from: &FileRecord, to: &FilePath) -> Result<Copied> {
    let source = disk.open(&from.path)?.context("it has gone")?;
    let found = disk.look_at(&source)?;
    if !found.is(from.identity) || found.length != from.length {
        bail!("it was changed by somebody else");
    }
    let file = disk.stream(disk.create(to)?);
    let mut encoder = GzEncoder::new(io::BufWriter::with_capacity(CHUNK_BYTES, file), Compression::default());
    compress(&source, &mut encoder, stop)?;
    let file = encoder.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?.into_file();
    disk.sync(&file)?;
    let (identity, length) = disk.identity_and_length(&file)?;
    Ok(Copied { identity, length })
}

fn compress(mut source: &File, encoder: &mut impl Write, stop: &Stop) -> Result<()> {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        if stop.is_set() {
            bail!("the sink was dropped");
        }
        let count = source.read(&mut chunk)?;
        if count == 0 {
            return Ok(());
        }
        encoder.write_all(&chunk[..count])?;
    }
}
