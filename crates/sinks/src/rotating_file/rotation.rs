//! When a file ends, and what its successor is called: [`split`], [`Writer::rotate`].
//!
//! With a `%` in the path nothing is ever renamed: the next file has another name. A plain path keeps its
//! name for the file that is written to, and the one before gets a timestamp, in steps that a start after a
//! crash can finish or undo by looking at identities:
//!
//! 1. everything written is committed, then the intent, and both are durable;
//! 2. the file is renamed, once, to a name that was free, and its folder is synced;
//! 3. the new file is created like any other, and the next record tells of both.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use std::{fmt, io};

use anyhow::{Context as _, Result, bail};
use file_rotate::compression::Compression;
use file_rotate::suffix::{Representation, SuffixScheme};
use file_rotate::{ContentLimit, FileRotate, SuffixInfo};
use fshipper_pipeline::Origin;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::confined::Handle;
use super::files::Birth;
use super::ledger::{Entry, FileId, FileRecord, Intent, Stage, Tail};
use super::names::FilePath;
use super::outputs::{LOSSES, OutputId, losses_path};
use super::path::MAX_NUMBER;
use super::period::Calendar;
use super::writer::Writer;

/// Which file of an output is to begin.
#[derive(Clone, Copy, Debug)]
pub(super) enum Next {
    /// The first one of the period of this time.
    Period(SystemTime),
    /// The next one of the same period.
    Number {
        /// The start of the period, in seconds since 1970.
        period_start: i64,
        number: u32,
    },
}

/// How many of `bytes` belong to a file of `length` bytes before it ends; 0: it ends here.
///
/// Files end at line ends. What continues a line that stands there `unfinished` follows it, whatever the
/// limits say; a single line that is longer than `max_bytes` has a file of its own.
pub(super) fn split(
    bytes: &[u8],
    length: u64,
    unfinished: bool,
    moved_on: bool,
    max_bytes: Option<u64>,
) -> usize {
    let first_line = || memchr::memchr(b'\n', bytes).map_or(bytes.len(), |end| end + 1);
    if moved_on {
        return if unfinished { first_line() } else { 0 };
    }
    let Some(max_bytes) = max_bytes else { return bytes.len() };
    let room = max_bytes.saturating_sub(length);
    if bytes.len() as u64 <= room {
        return bytes.len();
    }
    match memchr::memrchr(b'\n', &bytes[..room as usize]) {
        Some(end) => end + 1,
        None if unfinished || length == 0 => first_line(),
        None => 0,
    }
}

/// Whether lines of `time` belong to a later period. An earlier one is none: files do not go back.
pub(super) fn moved_on(calendar: &Calendar, period: (i64, i64), time: SystemTime) -> bool {
    let seconds = Timestamp::try_from(time).map_or(i64::MIN, Timestamp::as_second);
    seconds >= period.1 && calendar.period_of(time).start().as_second() > period.0
}

impl Writer {
    /// Begins a file of an output: finds its name, and notes what is about to happen.
    pub(super) fn begin_file(&mut self, output: OutputId, origin: &Origin, next: Next) -> Result<FileId> {
        let (period, mut number) = match next {
            Next::Period(time) => (self.plan.calendar.period_of(time), 0),
            Next::Number { period_start, number } => {
                let start = Timestamp::from_second(period_start).unwrap_or(Timestamp::MIN);
                (self.plan.calendar.period_at(start), number)
            }
        };
        let suffix = self.outputs.suffix(output);
        let (first, seconds) = if output == LOSSES {
            (losses_path(), (i64::MIN, i64::MAX))
        } else {
            let seconds = (period.start().as_second(), period.end().as_second());
            (self.plan.template.render(origin, &period).with_suffix(suffix), seconds)
        };
        let family = self.outputs.family(output).clone();
        // There are as many of these as logs: those that are the same stand in memory once.
        let first = if first == family { family.clone() } else { first };
        let mut record = FileRecord {
            path: first.clone(),
            family,
            identity: 0,
            length: 0,
            tail: Tail::Whole,
            period: seconds,
            number,
            stage: Stage::Active,
        };
        self.patiently(|writer| writer.disk.create_folders(&first))?;
        let birth = loop {
            record.number = number;
            record.path = if number == 0 { first.clone() } else { first.with_suffix(&format!(".{number}")) };
            if !self.is_ours(&record.path) {
                match self.disk.stat_to_create(&record.path)? {
                    None => break Birth::New,
                    Some(_) if number > 0 => {}
                    Some(_) => {
                        self.adopt(&mut record)?;
                        break Birth::Adopted;
                    }
                }
            }
            number = number.saturating_add(1);
            if number > MAX_NUMBER {
                bail!("more than {MAX_NUMBER} files of the name `{}`", self.disk.shown(&first));
            }
        };
        let intent = if birth == Birth::New { Intent::Create } else { Intent::Adopt };
        let id = self.next_file;
        self.next_file += 1;
        self.settled.push(Entry::Intent(id, intent(record.clone())));
        self.files.insert(id, output, record, birth);
        self.outputs.set_active(output, Some(id));
        self.expect_birth();
        Ok(id)
    }

    /// Whether `path` is, or was before it was compressed, a file of this sink.
    fn is_ours(&self, path: &FilePath) -> bool {
        self.is_recorded(path) || self.is_recorded(&path.with_suffix(".gz")) || self.files.claims(path)
    }

    /// Whether a file of ours stands at `path`: one in the ledger that has not just left it.
    fn is_recorded(&self, path: &FilePath) -> bool {
        let Some(id) = self.ledger.state().file_at(path) else { return false };
        let has_left = |entry: &Entry| match entry {
            Entry::File(moved, record) => *moved == id && record.path != *path,
            Entry::Forget(gone) => *gone == id,
            _ => false,
        };
        !self.settled.iter().any(has_left)
    }

    /// A file that was there before us is appended to; a line that stands there unfinished is ended first.
    fn adopt(&self, record: &mut FileRecord) -> Result<()> {
        use std::os::unix::fs::FileExt;
        let file = self.disk.open(&record.path)?;
        let file = file.with_context(|| format!("`{}` has just gone", self.disk.shown(&record.path)))?;
        (record.identity, record.length) = self.disk.identity_and_length(&file)?;
        let mut last = [b'\n'];
        if record.length > 0 {
            file.read_exact_at(&mut last, record.length - 1)?;
            let path = self.disk.shown(&record.path);
            tracing::info!("`{path}` was there before: its {} bytes stay, and are followed", record.length);
        }
        record.tail = if last == [b'\n'] { Tail::Whole } else { Tail::Broken };
        Ok(())
    }

    /// Ends an active file, so that the next line goes to another one.
    pub(super) fn rotate(
        &mut self,
        file: FileId,
        origin: &Origin,
        time: SystemTime,
        moved_on: bool,
    ) -> Result<()> {
        self.retention.note_rotation();
        if self.plan.template.finest().is_none() {
            return self.rename_away(file, time);
        }
        let live = self.files.live(file);
        let (output, period, number) = (live.output, live.record.period, live.record.number);
        live.record.stage = Stage::Rotated;
        self.files.note_change(file);
        self.outputs.set_active(output, None);
        let next = match moved_on {
            true => Next::Period(time),
            false => Next::Number { period_start: period.0, number: number.saturating_add(1) },
        };
        self.begin_file(output, origin, next).map(drop)
    }

    /// The steps of a rotation by rename.
    fn rename_away(&mut self, file: FileId, time: SystemTime) -> Result<()> {
        let live = self.files.live(file);
        let output = live.output;
        if live.record.length == 0 {
            // Nothing to keep: the empty file serves the next period.
            let period = self.plan.calendar.period_of(time);
            live.record.period = (period.start().as_second(), period.end().as_second());
            self.files.note_change(file);
            return Ok(());
        }
        self.record()?;
        if let Some(reason) = self.outputs.held(output) {
            bail!("{reason}");
        }
        // A quiet file was last looked at long ago.
        self.check_is_in_place(file, output)?;
        if self.outputs.active(output) != Some(file) {
            // Somebody else was faster: it is gone from its path already.
            return Ok(());
        }
        let record = self.ledger.state().files.get(file);
        let mut record = record.context("an active file is in the ledger")?.clone();
        let (suffix, stamp) = self.free_stamp(&record, time)?;
        if record.period.1 > stamp && record.period.0 == Timestamp::MIN.as_second() {
            record.period.1 = stamp;
        }
        let to = record.path.with_suffix(&suffix);
        let intent = Intent::Rotate { to: to.clone(), period_end: record.period.1, stamp };
        let mut entries = vec![Entry::Intent(file, intent)];
        self.log(&mut entries)?;

        let shown = self.disk.shown(&record.path);
        let renamed = self.disk.rename_by(&record.path, &to, |handle| rename(handle, suffix));
        renamed.with_context(|| format!("cannot rotate `{shown}`"))?;
        if self.disk.stat(&to)?.is_none_or(|entry| !entry.is(record.identity)) {
            bail!("`{shown}` was replaced while it was rotated");
        }
        self.disk.sync_folder_of(&to)?;
        record.path = to;
        record.stage = Stage::Rotated;
        self.settled.push(Entry::File(file, record));
        self.files.remove(file);
        self.to_compress.push_back(file);
        self.outputs.set_active(output, None);
        Ok(())
    }

    /// The suffix for a file that is rotated at `time`, and the time it names: the first second from then on
    /// whose name is free, compressed or not, and sorts behind the names that its output gave out before. So names
    /// never come again, and sort as the files follow each other, whatever a clock does.
    fn free_stamp(&self, record: &FileRecord, time: SystemTime) -> Result<(String, i64)> {
        let path = &record.path;
        let mut time = Timestamp::try_from(time).unwrap_or(Timestamp::UNIX_EPOCH);
        let mut last = None;
        if let Some(before) = self.ledger.state().stamp(&record.family) {
            let before = Timestamp::from_second(before)?;
            time = time.max(before.saturating_add(SignedDuration::from_secs(1))?);
            last = Some(stamp(before, &self.plan.zone));
        }
        for _ in 0..MAX_NUMBER {
            let suffix = stamp(time, &self.plan.zone);
            // When daylight saving time ends, an hour's names come a second time.
            if last.as_ref().is_none_or(|last| suffix > *last) && self.is_free(&path.with_suffix(&suffix))? {
                return Ok((suffix, time.as_second()));
            }
            time = time.saturating_add(SignedDuration::from_secs(1))?;
        }
        bail!("no name is free for the rotated `{}`", self.disk.shown(path));
    }

    /// Whether nothing stands at `path`, compressed or not.
    fn is_free(&self, path: &FilePath) -> Result<bool> {
        let gzip = path.with_suffix(".gz");
        Ok(!self.is_ours(path) && self.disk.stat(path)?.is_none() && self.disk.stat(&gzip)?.is_none())
    }
}

fn stamp(time: Timestamp, zone: &TimeZone) -> String {
    time.to_zoned(zone.clone()).strftime(".%Y%m%dT%H%M%S").to_string()
}

/// Renames the file behind `handle` by appending `suffix`, with [`FileRotate`]: a new one for each rotation,
/// which never writes, scans, compresses or deletes.
fn rename(handle: &Handle, suffix: String) -> Result<()> {
    let path = handle.path();
    // Not `create`: the next file is created by whoever knows its mode, after the folder was synced.
    let mut options = OpenOptions::new();
    options.read(true);
    let rotated = catch_unwind(AssertUnwindSafe(|| {
        let scheme = Once(Suffix(suffix));
        FileRotate::new(path, scheme, ContentLimit::None, Compression::None, Some(options)).rotate()
    }));
    match rotated {
        Ok(renamed) => Ok(renamed?),
        // It asserts what was true a moment ago.
        Err(_) => bail!("somebody else changes the same names"),
    }
}

/// Gives one suffix, and knows no others.
struct Once(Suffix);

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Suffix(String);

impl fmt::Display for Suffix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Representation for Suffix {
    fn to_path(&self, path: &Path) -> PathBuf {
        let mut path = path.as_os_str().to_owned();
        path.push(&self.0);
        path.into()
    }
}

impl SuffixScheme for Once {
    type Repr = Suffix;

    fn rotate_file(&mut self, _: &Path, _: Option<&Suffix>, _: &Option<Suffix>) -> io::Result<Suffix> {
        Ok(self.0.clone())
    }

    fn parse(&self, _: &str) -> Option<Suffix> {
        None
    }

    fn too_old(&self, _: &Suffix, _: usize) -> bool {
        false
    }

    fn scan_suffixes(&self, _: &Path) -> BTreeSet<SuffixInfo<Suffix>> {
        BTreeSet::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_end_at_line_ends() {
        // bytes, length, unfinished, moved on, limit → taken
        for (bytes, length, unfinished, moved_on, limit, taken) in [
            ("a\nb\n", 0, false, false, None, 4),
            ("a\nb\n", 9, false, false, Some(20), 4),
            ("a\nb\n", 17, false, false, Some(20), 2),
            ("a\nb\n", 19, false, false, Some(20), 0),
            ("a\nb\n", 20, false, false, Some(20), 0),
            ("a\nb\n", 30, false, false, Some(20), 0),
            // A line longer than the limit has a file of its own.
            ("aaaaaa\nb\n", 0, false, false, Some(3), 7),
            ("aaaaaa", 0, false, false, Some(3), 6),
            ("aaaaaa\nb\n", 1, false, false, Some(3), 0),
            // What continues a line follows it.
            ("aa\nb\n", 3, true, false, Some(3), 3),
            ("aaaa", 3, true, false, Some(3), 4),
            ("aa\nb\nccccc\n", 1, true, false, Some(7), 5),
            // A later period begins at a line end.
            ("a\nb\n", 5, false, true, None, 0),
            ("a\nb\n", 5, true, true, None, 2),
            ("aaaa", 5, true, true, Some(1), 4),
        ] {
            let found = split(bytes.as_bytes(), length, unfinished, moved_on, limit);
            assert_eq!(found, taken, "{bytes:?} {length} {unfinished} {moved_on} {limit:?}");
        }
    }

    #[test]
    fn renames_without_creating_or_replacing() {
        use super::super::confined::Root;
        let folder = tempfile::tempdir().unwrap();
        let root = Root::open_or_create(folder.path(), 0o700).unwrap();
        std::fs::write(folder.path().join("app.log"), "old").unwrap();
        let handle = root.handle(&FilePath::from_bytes(b"app.log").unwrap()).unwrap();
        rename(&handle, ".1".to_owned()).unwrap();
        let names = || std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(names().collect::<Vec<_>>(), ["app.log.1"]);
        std::fs::write(folder.path().join("app.log"), "new").unwrap();
        assert!(rename(&handle, ".1".to_owned()).is_err());
        assert_eq!(std::fs::read(folder.path().join("app.log.1")).unwrap(), b"old");
    }
}
