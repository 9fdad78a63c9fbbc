//! A disk that is full.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant, SystemTime};
use std::{fs, thread};

use anyhow::Result;
use fshipper_pipeline::Fatal;
use tempfile::TempDir;

use super::bench::{Session, day, origin, owner};
use crate::rotating_file::RotatingFile;
use crate::rotating_file::confined::Root;
use crate::rotating_file::disk::{Cure, Disk};
use crate::rotating_file::ledger::FOLDER;
use crate::rotating_file::stop::Stop;
use crate::rotating_file::writer::Writer;

/// A file system of a few megabytes, in a folder of its own.
struct SmallDisk {
    // Dropped before the folder.
    _mount: Mount,
    folder: TempDir,
}

/// A file system of a few megabytes, until it is dropped.
pub(super) struct Mount(PathBuf);

impl Mount {
    /// Mounts it over this folder; `None` where this process may not.
    pub(super) fn over(folder: &Path) -> Option<Self> {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=2m", "fshipper-test"])
            .arg(folder)
            .output()
            .is_ok_and(|output| output.status.success());
        if !mounted {
            println!("skipped: this process may not mount a small file system");
            return None;
        }
        Some(Self(folder.to_owned()))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("--lazy").arg(&self.0).status();
        if !thread::panicking() {
            assert!(unmounted.unwrap().success(), "cannot unmount the small disk");
        }
    }
}

impl SmallDisk {
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mount = Mount::over(folder.path())?;
        Some(Self { _mount: mount, folder })
    }
}

impl SmallDisk {
    fn open(&self, stop: &Arc<Stop>) -> Session {
        self.open_with("{host}/{file}", "", stop)
    }

    fn open_with(&self, path: &str, keys: &str, stop: &Arc<Stop>) -> Session {
        self.try_open(path, keys, stop).unwrap()
    }

    fn try_open(&self, path: &str, keys: &str, stop: &Arc<Stop>) -> Result<Session> {
        let table = format!("path = \"{}/{path}\"\n{keys}", self.folder.path().display());
        let plan = toml::from_str::<RotatingFile>(&table).unwrap().plan().unwrap();
        let disk = Arc::new(Disk::new(Root::open_or_create(self.folder.path(), 0o750)?, 0o640));
        let writer = Writer::open_on(disk.clone(), plan, owner("test"), stop.clone())?;
        let checkpoint = writer.checkpoint();
        Ok(Session { writer, disk, checkpoint, begun: None })
    }

    /// So many bytes stand in the folder of the sink's own.
    fn used(&self) -> u64 {
        let own = fs::read_dir(self.folder.path().join(FOLDER)).unwrap();
        own.map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
    }

    /// Leaves less room than a batch of these tests needs, and no multiple of a line.
    fn fill(&self) {
        fs::write(self.folder.path().join("hog"), vec![0; 1_400_000]).unwrap();
    }

    fn make_room(&self) {
        fs::remove_file(self.folder.path().join("hog")).unwrap();
    }
}

fn line() -> String {
    format!("{}\n", "x".repeat(99))
}

#[test]
fn what_does_not_fit_is_taken_back_and_written_when_it_does() {
    let Some(small) = SmallDisk::mount() else { return };
    let (log, stop) = (origin("h", "/f"), Arc::new(Stop::default()));
    let mut session = small.open(&stop);
    session.write(&log, &line(), day(0));
    session.commit();
    small.fill();
    session.write(&log, &line().repeat(9_000), day(0));
    let path = small.folder.path().join("h/f");
    thread::scope(|scope| {
        let writing = scope.spawn(|| session.commit());
        let deadline = Instant::now() + Duration::from_secs(30);
        while stop.pauses.load(Ordering::SeqCst) == 0 {
            assert!(Instant::now() < deadline && !writing.is_finished(), "it waits for room");
            thread::yield_now();
        }
        assert_eq!(fs::metadata(&path).unwrap().len(), 100, "what did not fit was taken back");
        small.make_room();
        writing.join().unwrap();
    });
    assert_eq!(fs::read_to_string(&path).unwrap(), line().repeat(9_001));
    assert_eq!(session.writer.checkpoint().position(&log).unwrap().offset, 900_100);
}

#[test]
fn a_sink_that_waits_for_room_can_be_dropped_and_goes_on_later() {
    let Some(small) = SmallDisk::mount() else { return };
    let (log, stop) = (origin("h", "/f"), Arc::new(Stop::default()));
    let mut session = small.open(&stop);
    session.write(&log, &line(), day(0));
    session.commit();
    small.fill();
    session.write(&log, &line().repeat(9_000), day(0));
    stop.set();
    let error = session.try_commit().unwrap_err();
    assert!(error.to_string().contains("dropped"), "{error:#}");
    drop(session);
    small.make_room();
    let mut session = small.open(&Arc::default());
    assert_eq!(session.end(&log), 100);
    session.write(&log, &line(), day(0));
    session.commit();
    assert_eq!(fs::read_to_string(small.folder.path().join("h/f")).unwrap(), line().repeat(2));
}

/// A file for each of three days: the first is old, and takes most of the disk.
fn with_an_old_file(small: &SmallDisk, stop: &Arc<Stop>) -> Session {
    let mut session = small.open_with(PATH, KEEP, stop);
    let log = origin("h", "/f");
    session.write(&log, &line().repeat(13_000), long_ago(0));
    session.write(&log, &line(), long_ago(1));
    session.commit();
    session
}

const PATH: &str = "{host}/{file}.%Y%m%d";
const KEEP: &str = "keep = { age = \"1d\" }\ntimezone = \"UTC\"";

/// So many days after 2020-01-01.
fn long_ago(days: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_577_836_800 + days * 86_400)
}

#[test]
fn files_that_are_old_make_room_for_what_waits_for_it() {
    let Some(small) = SmallDisk::mount() else { return };
    let stop = Arc::new(Stop::default());
    let mut session = with_an_old_file(&small, &stop);
    // Without `keep` it would wait for ever.
    let deadline = stop.clone();
    let (done, waits) = sync_channel::<()>(1);
    let guard = thread::spawn(move || {
        if waits.recv_timeout(Duration::from_secs(20)) == Err(RecvTimeoutError::Timeout) {
            deadline.set();
        }
    });
    session.write(&origin("h", "/f"), &line().repeat(9_000), long_ago(1));
    session.commit();
    drop(done);
    guard.join().unwrap();
    let names: Vec<_> = fs::read_dir(small.folder.path().join("h"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["f.20200102"]);
}

#[test]
fn files_that_are_old_make_room_for_a_start() {
    let Some(small) = SmallDisk::mount() else { return };
    let stop = Arc::new(Stop::default());
    let session = with_an_old_file(&small, &stop);
    let end = session.end(&origin("h", "/f"));
    drop(session);
    // Up to the last byte.
    let mut hog = fs::File::create(small.folder.path().join("hog")).unwrap();
    while hog.write_all(&[0; 4096]).is_ok() {}
    let mut session = small.open_with(PATH, KEEP, &stop);
    assert_eq!(session.end(&origin("h", "/f")), end);
    session.write(&origin("h", "/f"), &line(), long_ago(1));
    session.commit();
    session.maintain().unwrap();
    assert_eq!(session.writer.ledger.state().files.iter().count(), 1);
}

#[test]
fn a_start_on_a_full_disk_is_tried_again_and_leaves_nothing_behind() {
    let Some(small) = SmallDisk::mount() else { return };
    let stop = Arc::new(Stop::default());
    let mut session = small.open(&stop);
    session.write(&origin("h", "/f"), &line(), day(0));
    session.commit();
    drop(session);
    let mut hog = fs::File::create(small.folder.path().join("hog")).unwrap();
    while hog.write_all(&[0; 4096]).is_ok() {}
    hog.set_len(hog.metadata().unwrap().len() - 100_000).unwrap();
    let before = small.used();
    for _ in 0..2 {
        let error = small.try_open("{host}/{file}", "", &stop).err().unwrap();
        assert!(!error.is::<Fatal>() && Cure::of(&error) == Cure::Wait, "{error:#}");
        assert_eq!(small.used(), before, "an unfinished ledger takes the room that it waits for");
    }
    drop(hog);
    small.make_room();
    assert_eq!(small.open(&stop).end(&origin("h", "/f")), 100);
}
