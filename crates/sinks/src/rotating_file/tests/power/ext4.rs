//! Real power cuts: an ext4 on a loop device is shut down in the middle of everything, with what its journal
//! has not flushed, and mounted again.
//!
//! Only root can do that; elsewhere the tests say that they are skipped.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use fastrand::Rng;
use fshipper_pipeline::{Checkpoint, Origin, Written};

use super::super::bench::{Session, data, day, origin, owner};
use super::oracle::unpacked;
use crate::rotating_file::RotatingFile;
use crate::rotating_file::confined::Root;
use crate::rotating_file::disk::Disk;
use crate::rotating_file::ledger::{LedgerSize, Stage};
use crate::rotating_file::stop::Stop;
use crate::rotating_file::writer::Writer;

/// A file system of its own, whose power can be cut.
struct PowerStrip {
    folder: tempfile::TempDir,
    cutter: Child,
    ask: ChildStdin,
    answers: BufReader<ChildStdout>,
    is_mounted: bool,
}

/// Cuts the power of each file system whose path it reads: `EXT4_IOC_SHUTDOWN` without flushing the journal.
const CUTTER: &str = "
import fcntl, os, struct, sys
for line in sys.stdin:
    folder = os.open(line.rstrip('\\n'), os.O_RDONLY)
    fcntl.ioctl(folder, 0x8004587D, struct.pack('I', 2))
    os.close(folder)
    print('dark', flush=True)
";

impl PowerStrip {
    /// `None` where this process cannot have one.
    fn new() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("image");
        fs::File::create(&image).unwrap().set_len(32 << 20).unwrap();
        fs::create_dir(folder.path().join("mnt")).unwrap();
        if !has_worked(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image)) {
            println!("skipped: there is no `mkfs.ext4`");
            return None;
        }
        let python =
            Command::new("python3").args(["-c", CUTTER]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let Ok(mut cutter) = python else {
            println!("skipped: there is no `python3`");
            return None;
        };
        let (ask, answers) = (cutter.stdin.take().unwrap(), BufReader::new(cutter.stdout.take().unwrap()));
        let mut strip = Self { folder, cutter, ask, answers, is_mounted: false };
        if !strip.turn_on() {
            println!("skipped: this process may not mount a file system on a loop device");
            return None;
        }
        Some(strip)
    }

    fn mount_point(&self) -> PathBuf {
        self.folder.path().join("mnt")
    }

    fn turn_on(&mut self) -> bool {
        let image = self.folder.path().join("image");
        let mounted =
            has_worked(Command::new("mount").args(["-o", "loop"]).arg(image).arg(self.mount_point()));
        self.is_mounted = mounted;
        mounted
    }

    fn cut(&mut self) {
        writeln!(self.ask, "{}", self.mount_point().display()).unwrap();
        let mut answer = String::new();
        self.answers.read_line(&mut answer).unwrap();
        assert_eq!(answer, "dark\n");
    }

    fn turn_off(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !has_worked(Command::new("umount").arg(self.mount_point())) {
            assert!(Instant::now() < deadline, "cannot unmount the dark file system");
            thread::yield_now();
        }
        self.is_mounted = false;
    }
}

impl Drop for PowerStrip {
    fn drop(&mut self) {
        // What fails here fails while a test fails already, or is gone.
        let _ = self.cutter.kill();
        let _ = self.cutter.wait();
        if self.is_mounted {
            let _ = Command::new("umount").arg("--lazy").arg(self.mount_point()).status();
        }
    }
}

fn has_worked(command: &mut Command) -> bool {
    command.output().is_ok_and(|Output { status, .. }| status.success())
}

/// Logs whose content is a function of the offset.
struct Logs([Origin; 3]);

impl Logs {
    fn new() -> Self {
        Self([origin("web1", "/app.log"), origin("web1", "/other.log"), origin("web2", "/app.log")])
    }

    /// A piece that continues a log at `offset`: whole lines and parts of them, short and long.
    fn piece(log: &Origin, offset: u64) -> String {
        let mut random = Rng::with_seed(offset);
        let mut text = format!("{log} at {offset} ");
        let letters = if random.u8(0..8) == 0 { 9_000 } else { 80 };
        text.extend((0..random.usize(..letters)).map(|_| random.alphanumeric()));
        if random.u8(0..4) > 0 {
            text.push('\n');
        }
        text
    }

    /// The first `end` bytes of a log.
    fn content(log: &Origin, end: u64) -> String {
        let mut content = String::new();
        while (content.len() as u64) < end {
            content += &Self::piece(log, content.len() as u64);
        }
        content.truncate(end as usize);
        content
    }
}

struct Town {
    folder: PathBuf,
    table: String,
    logs: Logs,
    promised: Checkpoint,
}

impl Town {
    fn open(&self) -> Result<Session> {
        let mut plan = toml::from_str::<RotatingFile>(&self.table)?.plan().unwrap();
        plan.limits.ledger = LedgerSize { min_bytes: 16 << 10, room: 2 };
        let disk = Arc::new(Disk::new(Root::open_or_create(plan.template.fixed(), 0o750)?, plan.mode));
        let writer = Writer::open_on(disk.clone(), plan, owner("test"), Arc::new(Stop::default()))?;
        let checkpoint = writer.checkpoint();
        Ok(Session { writer, disk, checkpoint, begun: None })
    }

    /// Writes and commits until the disk is gone.
    fn write(&self, random: &mut Rng, steps: &AtomicU64, promised: &mut Checkpoint) -> Result<()> {
        let mut session = self.open()?;
        self.check(&session);
        let deadline = Instant::now() + Duration::from_secs(60);
        while Instant::now() < deadline {
            let log = &self.logs.0[random.usize(..3)];
            let end = session.end(log);
            let batch = data(log, end, &Logs::piece(log, end), day(end / 200_000));
            ensure!(session.feed(batch)? == Written::Accepted);
            if random.u8(0..3) == 0 {
                session.writer.flush()?;
            }
            if random.u8(0..5) == 0 {
                ensure!(session.try_commit()?.is_empty());
                promised.clone_from(&session.checkpoint);
            }
            if random.u8(0..20) == 0 {
                session.maintain()?;
            }
            steps.fetch_add(1, Ordering::SeqCst);
        }
        panic!("the power was cut, and the sink did not notice");
    }

    /// What was promised is there, and each log's files hold what the ledger says, byte for byte.
    fn check(&self, session: &Session) {
        for (origin, history) in self.promised.origins() {
            assert!(session.end(origin) >= history.current.offset, "{origin}: {:?}", history.current);
        }
        let mut contents: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for (_, record) in session.writer.ledger.state().files.iter() {
            let path = self.folder.join(record.path.to_string());
            let content = fs::read(&path).unwrap();
            assert_eq!(content.len() as u64, record.length, "{}", path.display());
            let plain = if record.stage == Stage::Compressed { unpacked(&content) } else { content };
            let host = record.family.to_string();
            contents.entry(host).or_default().extend(plain);
        }
        let mut found: Vec<String> =
            contents.into_values().map(|content| String::from_utf8(content).unwrap()).collect();
        let mut expected: Vec<String> = self
            .logs
            .0
            .iter()
            .map(|log| Logs::content(log, session.end(log)))
            .filter(|text| !text.is_empty())
            .collect();
        found.sort();
        expected.sort();
        assert!(found == expected, "the files do not hold what was committed");
        assert_eq!(count_files(&self.folder.join("web1")), files_below(session, "web1/"));
    }
}

fn files_below(session: &Session, folder: &str) -> usize {
    let files = session.writer.ledger.state().files.iter();
    files.filter(|(_, record)| record.path.to_string().starts_with(folder)).count()
}

fn count_files(folder: &Path) -> usize {
    fs::read_dir(folder).map_or(0, Iterator::count)
}

/// Cuts the power so often, each time at another moment, and looks what is there afterwards.
fn survives_power_cuts(path: &str, keys: &str, cuts: u64) {
    let Some(mut strip) = PowerStrip::new() else { return };
    let folder = strip.mount_point();
    let table = format!("path = \"{}/{path}\"\ntimezone = \"UTC\"\n{keys}", folder.display());
    let mut town = Town { folder, table, logs: Logs::new(), promised: Checkpoint::default() };
    for cut in 0..cuts {
        let mut random = Rng::with_seed(cut);
        let (moment, steps) = (random.u64(..200), AtomicU64::new(0));
        let mut promised = town.promised.clone();
        thread::scope(|scope| {
            let writing = scope.spawn(|| town.write(&mut random, &steps, &mut promised));
            while steps.load(Ordering::SeqCst) < moment && !writing.is_finished() {
                thread::yield_now();
            }
            strip.cut();
            let error = writing.join().unwrap().unwrap_err();
            assert!(steps.load(Ordering::SeqCst) >= moment, "it failed before the power was cut: {error:#}");
        });
        town.promised = promised;
        strip.turn_off();
        assert!(strip.turn_on(), "cannot mount it again");
    }
    let session = town.open().unwrap();
    town.check(&session);
    let bytes: u64 = town.logs.0.iter().map(|log| session.end(log)).sum();
    assert!(bytes > 0, "something was committed");
    println!("{cuts} power cuts of ext4, {bytes} bytes committed");
}

#[test]
fn real_power_cuts_lose_nothing_that_counts_with_renamed_files() {
    let keys = "rotate = { every = \"1d\", max_bytes = \"24KiB\" }\ncompress = \"gzip\"";
    survives_power_cuts("{host}/{file}", keys, 20);
}

#[test]
fn real_power_cuts_lose_nothing_that_counts_with_numbered_files() {
    survives_power_cuts("{host}/{file}.%Y%m%d", "rotate = { max_bytes = \"16KiB\" }", 20);
}
