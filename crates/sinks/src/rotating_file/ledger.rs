//! What the sink durably knows: [`Ledger`].
//!
//! An append-only file in `.fshipper/`, one file system and one fate with the data it describes.
//!
//! ```text
//! file    `fshipper ledger\n` · version (u32) · sequence number up to which it was complete when it
//!         became the ledger (u64) · CRC-32C of these (u32) · frame* · zeros
//! frame   one record: a list of entries, all or nothing; see codec
//! ```
//!
//! - It is preallocated with zeros that are on the disk, so that a commit changes no metadata, needs one
//!   `fdatasync`, and still works when the disk is full.
//! - When it is full, and at every start, all that is known is written to a new file, which is complete and
//!   durable before the old one is unlinked. So nothing that is read at a start has to be trusted to be
//!   durable already: a failed fsync may have left it in memory only.
//! - A record that a crash cut short is left out: nothing that it describes counted. A damaged one that
//!   whole ones follow is no such thing: then the ledger is refused, and never restarted from nothing.

use std::fs::File;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use fshipper_pipeline::{Fatal, History};

use super::disk::{Cure, Disk};
use super::names::FilePath;

mod codec;
mod encoding;
mod file_table;
#[cfg(any(test, feature = "fuzzing"))]
pub(super) mod fuzzing;
mod scan;
mod state;

pub(super) use file_table::FileTable;
use scan::Scan;
pub(super) use state::{Entry, FileId, FileRecord, Intent, OriginId, OriginRecord, Stage, State, Tail};

/// The folder of everything that is not output.
pub(super) const FOLDER: &str = ".fshipper";

const MAGIC: &[u8; 16] = b"fshipper ledger\n";

/// Raised with every change that an older program would misread.
const VERSION: u32 = 1;

const HEADER_BYTES: usize = MAGIC.len() + 4 + 8 + 4;

/// The names of ledgers: this and a number, the highest is the current one.
const NAME: &str = "ledger.";

/// What is not complete yet has this at the end of its name.
const UNFINISHED: &str = ".new";

/// Neither ledgers nor records have a higher number: at a million a second it takes longer than there were
/// computers. What claims to have one is damaged, or not ours, and the next number always exists.
const MAX_NUMBER: u64 = 1 << 52;

/// A ledger is at least this long: a few thousand small commits.
const MIN_BYTES: usize = 256 << 10;

/// A new ledger has room for this many times what it begins with, so that writing it anew costs a third more.
const ROOM: usize = 4;

/// A snapshot is cut into records of about this size: it never stands in memory as a whole.
const SNAPSHOT_RECORD_BYTES: usize = 64 << 10;

/// How long a new ledger is.
#[derive(Clone, Copy, Debug)]
pub(super) struct LedgerSize {
    /// At least so many bytes.
    pub(super) min_bytes: usize,
    /// So many times what it begins with.
    pub(super) room: usize,
}

/// The open ledger.
#[derive(Debug)]
pub(super) struct Ledger {
    disk: Arc<Disk>,
    state: State,
    file: Arc<File>,
    number: u64,
    /// Where the next record goes.
    end: usize,
    capacity: usize,
    size: LedgerSize,
    sequence: u64,
    /// A sync failed, or somebody has taken the file away: what is on the disk is unknown until the ledger is
    /// opened again.
    broken: bool,
    /// A record was begun and is not known to be durable.
    under_way: bool,
}

/// One record, encoded, and where it goes.
#[derive(Debug)]
pub(super) struct Frame {
    disk: Arc<Disk>,
    file: Arc<File>,
    ledger: FilePath,
    at: u64,
    bytes: Vec<u8>,
}

impl Default for LedgerSize {
    fn default() -> Self {
        Self { min_bytes: MIN_BYTES, room: ROOM }
    }
}

impl Ledger {
    /// Reads the ledger, or begins one. The caller holds the lock. On a full disk `make_room` is asked to delete
    /// what it can, by what is known, and says whether it did.
    ///
    /// # Errors
    ///
    /// A [`Fatal`] when it is damaged, or was written by a newer version; others are the system's.
    pub(super) fn open(
        disk: Arc<Disk>,
        size: LedgerSize,
        mut make_room: impl FnMut(&State) -> Result<bool>,
    ) -> Result<Self> {
        let mut ledgers = Vec::new();
        for path in disk.list(&own("."))? {
            let name = path.file_name().to_string_lossy().into_owned();
            let Some(number) = name.strip_prefix(NAME) else { continue };
            match number.parse::<u64>() {
                Ok(number) if number <= MAX_NUMBER => ledgers.push((number, path)),
                Err(_) if number.ends_with(UNFINISHED) => remove(&disk, &path)?,
                // Somebody has put a copy aside.
                _ => {}
            }
        }
        ledgers.sort();
        let (mut state, mut sequence, mut number) = (State::default(), 0, 0);
        if let Some((newest, path)) = ledgers.last() {
            (state, sequence) = read(&disk, path)?;
            number = *newest;
        }
        let fresh = loop {
            match write_snapshot(&disk, &state, number + 1, sequence, size) {
                Err(error) if Cure::of(&error) == Cure::Wait && make_room(&state)? => {}
                written => break written?,
            }
        };
        for (_, path) in &ledgers {
            remove(&disk, path)?;
        }
        let Snapshot { file, end, capacity, sequence } = fresh;
        let file = file.into();
        Ok(Self {
            disk,
            state,
            file,
            number: number + 1,
            end,
            capacity,
            size,
            sequence,
            broken: false,
            under_way: false,
        })
    }

    /// What is durable, and what of the record that is on its way.
    pub(super) fn state(&self) -> &State {
        &self.state
    }

    /// Keeps somebody else's copies of what it knows in place of its own: most of what a hundred thousand logs
    /// take is their histories.
    pub(super) fn share(&mut self, histories: impl IntoIterator<Item = (OriginId, Arc<History>)>) {
        histories.into_iter().for_each(|(id, history)| self.state.share(id, history));
    }

    /// Appends one record, makes it durable and carries it out; afterwards `entries` is empty.
    ///
    /// # Errors
    ///
    /// Nothing of it counts. When the disk is full the same record may be appended again; after any other
    /// error the ledger has to be opened again.
    pub(super) fn append(&mut self, entries: &mut Vec<Entry>) -> Result<()> {
        let Some(frame) = self.frame(entries)? else { return Ok(()) };
        if let Err(gone) = frame.check_is_in_place() {
            self.broken = true;
            return Err(gone);
        }
        frame.write()?;
        if let Err(error) = frame.sync() {
            self.broken = true;
            return Err(error);
        }
        self.carry_out(&frame, entries)
    }

    /// Carries out one record, and leaves it to the caller to [make it durable](Frame::make_durable); until then
    /// nothing may be appended, and nothing happen that rests on it. `None`: there is nothing to tell.
    ///
    /// # Errors
    ///
    /// There was no room for it; it may be begun again.
    pub(super) fn begin(&mut self, entries: &mut Vec<Entry>) -> Result<Option<Frame>> {
        let Some(frame) = self.frame(entries)? else { return Ok(None) };
        self.carry_out(&frame, entries)?;
        self.under_way = true;
        Ok(Some(frame))
    }

    /// The record that was begun is durable, or nobody knows what is on the disk.
    pub(super) fn end(&mut self, durable: bool) {
        self.under_way = false;
        self.broken |= !durable;
    }

    /// The next record, as it will stand in the file: made longer, or a new one, where there is no room.
    fn frame(&mut self, entries: &[Entry]) -> Result<Option<Frame>> {
        if self.broken || self.under_way {
            bail!("the ledger of `{}` has to be opened again", self.disk.shown(&own(".")));
        }
        if entries.is_empty() {
            return Ok(None);
        }
        let mut payload = Vec::with_capacity(64 * entries.len());
        entries.iter().for_each(|entry| entry.encode(&mut payload));
        let length = codec::frame_length(payload.len());
        if self.end + length > self.capacity {
            self.renew(length)?;
        }
        let mut bytes = Vec::with_capacity(length);
        codec::put_frame(&mut bytes, self.sequence + 1, &payload);
        let (disk, file) = (self.disk.clone(), self.file.clone());
        Ok(Some(Frame { disk, file, ledger: ledger_path(self.number), at: self.end as u64, bytes }))
    }

    fn carry_out(&mut self, frame: &Frame, entries: &mut Vec<Entry>) -> Result<()> {
        self.end += frame.bytes.len();
        self.sequence += 1;
        for entry in entries.drain(..) {
            self.state.apply(entry).map_err(|e| anyhow::anyhow!("the sink wrote a wrong record: {e}"))?;
        }
        Ok(())
    }

    /// Whether the ledger still stands where the next start looks for it.
    ///
    /// # Errors
    ///
    /// It does not, and what becomes of that; once an [`Ledger::append`] has said so, nothing more is said.
    pub(super) fn check_is_in_place(&self) -> Result<()> {
        if self.broken {
            return Ok(());
        }
        check_is_in_place(&self.disk, &self.file, &ledger_path(self.number))
    }

    /// Goes on in a new file, with room for a record of `length` bytes at least.
    fn renew(&mut self, length: usize) -> Result<()> {
        let old = ledger_path(self.number);
        let snapshot = write_snapshot(&self.disk, &self.state, self.number + 1, self.sequence, self.size)?;
        (self.file, self.end) = (snapshot.file.into(), snapshot.end);
        (self.capacity, self.sequence) = (snapshot.capacity, snapshot.sequence);
        self.number += 1;
        remove(&self.disk, &old)?;
        if self.end + length > self.capacity {
            // A record larger than three snapshots: it makes the file longer, this once.
            self.capacity = self.end + length;
        }
        Ok(())
    }
}

impl Frame {
    /// Writes the record and syncs it.
    ///
    /// # Errors
    ///
    /// Nobody knows whether it is there.
    pub(super) fn make_durable(&self) -> Result<()> {
        self.check_is_in_place()?;
        self.write()?;
        self.sync()
    }

    /// Whether the ledger still stands where the next start looks for it.
    pub(super) fn check_is_in_place(&self) -> Result<()> {
        check_is_in_place(&self.disk, &self.file, &self.ledger)
    }

    fn write(&self) -> Result<()> {
        self.disk.write_at(&self.file, &self.bytes, self.at).context("cannot write the ledger")
    }

    fn sync(&self) -> Result<()> {
        self.disk.sync(&self.file).context("cannot sync the ledger")
    }
}

fn check_is_in_place(disk: &Disk, file: &File, path: &FilePath) -> Result<()> {
    let identity = disk.identity_and_length(file)?.0;
    if disk.stat(path)?.is_some_and(|entry| entry.identity == identity) {
        return Ok(());
    }
    bail!(
        "the ledger `{}` was deleted or moved away while it was in use: nobody knows any more what was committed, and everything that the source still has comes again, into new files and behind what is left of the old ones",
        disk.shown(path)
    );
}

struct Snapshot {
    file: File,
    end: usize,
    capacity: usize,
    sequence: u64,
}

/// Writes all that is known to a new file and puts it in place, complete and durable.
fn write_snapshot(
    disk: &Disk,
    state: &State,
    number: u64,
    mut sequence: u64,
    size: LedgerSize,
) -> Result<Snapshot> {
    let path = ledger_path(number);
    let unfinished = path.with_suffix(UNFINISHED);
    remove(disk, &unfinished)?;
    let mut write = || -> Result<Snapshot> {
        let file = disk.create(&unfinished)?;
        let mut end = HEADER_BYTES;
        let mut entries = state.snapshot().peekable();
        // At least one record, if an empty one: it carries the sequence number on.
        loop {
            let mut payload = Vec::new();
            while let Some(entry) = entries.next_if(|_| payload.len() < SNAPSHOT_RECORD_BYTES) {
                entry.encode(&mut payload);
            }
            sequence += 1;
            let mut frame = Vec::with_capacity(codec::frame_length(payload.len()));
            codec::put_frame(&mut frame, sequence, &payload);
            disk.write_at(&file, &frame, end as u64)?;
            end += frame.len();
            if entries.peek().is_none() {
                break;
            }
        }
        disk.write_at(&file, &header(sequence), 0)?;
        let capacity = (end * size.room).max(size.min_bytes);
        fill_with_zeros(disk, &file, end, capacity)?;
        disk.sync(&file)?;
        disk.rename(&unfinished, &path)?;
        disk.sync_folders([&path])?;
        Ok(Snapshot { file, end, capacity, sequence })
    };
    let written = write();
    if written.is_err() {
        // On a full disk it would take the room that it waits for. If it cannot go either, the next one removes it.
        let _ = remove(disk, &unfinished);
    }
    written.with_context(|| format!("cannot write `{}`", disk.shown(&path)))
}

fn header(sequence: u64) -> Vec<u8> {
    let mut header = MAGIC.to_vec();
    header.extend_from_slice(&VERSION.to_le_bytes());
    header.extend_from_slice(&sequence.to_le_bytes());
    header.extend_from_slice(&crc32c::crc32c(&header).to_le_bytes());
    header
}

fn fill_with_zeros(disk: &Disk, file: &File, mut at: usize, end: usize) -> Result<()> {
    let zeros = vec![0; SNAPSHOT_RECORD_BYTES];
    while at < end {
        let length = zeros.len().min(end - at);
        disk.write_at(file, &zeros[..length], at as u64)?;
        at += length;
    }
    Ok(())
}

/// Reads a ledger: what it knows, and the sequence number of its last record.
fn read(disk: &Disk, path: &FilePath) -> Result<(State, u64)> {
    let name = disk.shown(path);
    let file = disk.open(path)?.with_context(|| format!("`{name}` has just gone"))?;
    let mut scan = Scan::new(file);
    let unreadable = || format!("cannot read `{name}`");
    let damaged = |at: usize| {
        Fatal::new(format!(
            "`{name}` is damaged at byte {at}: restore `{FOLDER}` from a backup, or move it away together with the output to receive everything again"
        ))
    };
    let header = scan.peek(HEADER_BYTES).with_context(unreadable)?;
    let header: [u8; HEADER_BYTES] = header.try_into().map_err(|_| damaged(0))?;
    scan.pass(HEADER_BYTES);
    if !header.starts_with(MAGIC) {
        return Err(damaged(0));
    }
    let version = u32::from_le_bytes(array(&header[MAGIC.len()..]));
    if version > VERSION {
        return Err(Fatal::new(format!(
            "`{name}` has format {version}, and this version of fshipper reads up to {VERSION}: use the version that wrote it"
        )));
    }
    let (summed, checksum) = header.split_at(HEADER_BYTES - 4);
    if crc32c::crc32c(summed).to_le_bytes() != checksum {
        return Err(damaged(0));
    }
    let complete_up_to = u64::from_le_bytes(array(&header[MAGIC.len() + 4..]));
    let (mut state, mut sequence) = (State::default(), 0);
    loop {
        let at = scan.at();
        let Some((found, payload)) = scan.frame().with_context(unreadable)? else { break };
        if sequence != 0 && found != sequence + 1 || found > MAX_NUMBER {
            return Err(damaged(at));
        }
        let mut reader = codec::Reader::new(payload);
        while !reader.is_empty() {
            let applied = Entry::decode(&mut reader).and_then(|entry| state.apply(entry));
            applied.map_err(|_| damaged(at))?;
        }
        sequence = found;
        let length = codec::frame_length(payload.len());
        scan.pass(length);
    }
    let at = scan.at();
    let rest = scan.rest(sequence).with_context(unreadable)?;
    if sequence < complete_up_to || rest.holds_frame {
        return Err(damaged(at));
    }
    if let Some(path) = state.contradiction() {
        return Err(Fatal::new(format!(
            "`{name}` is damaged, it says of `{path}` twice how much is committed: restore `{FOLDER}` from a backup, or move it away together with the output to receive everything again"
        )));
    }
    if rest.holds_bytes {
        tracing::debug!(path = name, at, "left out an unfinished record");
    }
    Ok((state, sequence))
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    std::array::from_fn(|index| bytes[index])
}

fn remove(disk: &Disk, path: &FilePath) -> Result<()> {
    let Some(entry) = disk.stat(path)? else { return Ok(()) };
    disk.remove(path, entry.identity)?;
    Ok(())
}

fn ledger_path(number: u64) -> FilePath {
    own(&format!("{NAME}{number:08}"))
}

/// A file in the folder of the sink's own; `.` is the folder itself.
pub(super) fn own(name: &str) -> FilePath {
    let path = if name == "." { FOLDER.to_owned() } else { format!("{FOLDER}/{name}") };
    FilePath::from_bytes(path.as_bytes()).expect("a proper name")
}

#[cfg(test)]
mod tests;
