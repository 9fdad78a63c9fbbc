//! A disk that is full.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use std::{fs, thread};

use super::bench::{Session, day, origin, owner};
use crate::rotating_file::RotatingFile;
use crate::rotating_file::confined::Root;
use crate::rotating_file::disk::Disk;
use crate::rotating_file::stop::Stop;
use crate::rotating_file::writer::Writer;

/// A file system of a few megabytes; `None` where this process may not mount one.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=2m", "fshipper-test"])
            .arg(folder.path())
            .output()
            .is_ok_and(|output| output.status.success());
        if !mounted {
            println!("skipped: this process may not mount a small file system");
            return None;
        }
        Some(Self(folder))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
        if !thread::panicking() {
            assert!(unmounted.unwrap().success(), "cannot unmount the small disk");
        }
    }
}

impl SmallDisk {
    fn open(&self, stop: &Arc<Stop>) -> Session {
        let table = format!("path = \"{}/{{host}}/{{file}}\"", self.0.path().display());
        let plan = toml::from_str::<RotatingFile>(&table).unwrap().plan().unwrap();
        let disk = Arc::new(Disk::new(Root::open_or_create(self.0.path(), 0o750).unwrap(), 0o640));
        let writer = Writer::open_on(disk.clone(), plan, owner("test"), stop.clone()).unwrap();
        let checkpoint = writer.checkpoint();
        Session { writer, disk, checkpoint, begun: None }
    }

    /// Leaves less room than a batch of these tests needs, and no multiple of a line.
    fn fill(&self) {
        fs::write(self.0.path().join("hog"), vec![0; 1_400_000]).unwrap();
    }

    fn make_room(&self) {
        fs::remove_file(self.0.path().join("hog")).unwrap();
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
    let path = small.0.path().join("h/f");
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
    assert_eq!(fs::read_to_string(small.0.path().join("h/f")).unwrap(), line().repeat(2));
}
