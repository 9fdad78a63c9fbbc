//! The asynchronous side, through the plugin's own front door.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use fshipper_pipeline::config::OneOrMany;
use fshipper_pipeline::testing::{check_source, context};
use fshipper_pipeline::{Batch, Checkpoint, Origin, Position, Progress, Source, SourceConfig};

use super::bench::Bench;
use crate::file_tail::FileTail;
use crate::file_tail::source::TailSource;
use crate::file_tail::tail::Tail;

/// Far more than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

fn config(include: &Path) -> FileTail {
    FileTail {
        include: OneOrMany::One(include.to_str().unwrap().to_owned()),
        exclude: OneOrMany::default(),
        start_at: crate::file_tail::StartAt::Beginning,
        max_line_bytes: None,
        rotate_wait: None,
        ignore_older: None,
        encoding: crate::file_tail::Encoding::Utf8,
        multiline: None,
    }
}

async fn next(source: &mut Box<dyn Source>) -> Batch {
    tokio::time::timeout(PATIENCE, source.read()).await.expect("a batch in time").unwrap().unwrap()
}

#[tokio::test]
async fn keeps_the_contract_of_a_source() {
    let (logs, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut expected = BTreeMap::new();
    for (name, content) in [("a.log", "one\ntwo\n"), ("b.log", "no end"), ("c.log", "\0\r\n\n")] {
        fs::write(logs.path().join(name), content).unwrap();
        let path = logs.path().join(name);
        expected.insert(Origin::new("host", path.to_str().unwrap()), content.as_bytes().to_vec());
    }
    let mut context = context(state.path());
    let mut settings = (*context.settings).clone();
    settings.max_batch_bytes = 5;
    context.settings = settings.into();
    let config = config(&logs.path().join("*.log"));
    check_source(async |from| config.open(from, context.clone()).await, &expected, 5).await;
}

#[tokio::test]
async fn wakes_when_a_line_is_appended() {
    let (logs, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = logs.path().join("a.log");
    fs::write(&path, "one\n").unwrap();
    let mut context = context(state.path());
    context.once = None;
    let mut source = config(&path).open(Checkpoint::default(), context).await.unwrap();
    assert_eq!(next(&mut source).await.bytes(), b"one\n");
    let mut file = OpenOptions::new().append(true).open(&path).unwrap();
    for round in 0..20 {
        let line = format!("line {round}\n");
        let write = async {
            tokio::task::yield_now().await;
            file.write_all(line.as_bytes()).unwrap();
        };
        let (batch, ()) = tokio::join!(next(&mut source), write);
        assert_eq!(batch.bytes(), line.as_bytes());
    }
    // Replaced behind the watch's back.
    let other = logs.path().join("other");
    fs::write(&other, "another file\n").unwrap();
    fs::rename(&other, &path).unwrap();
    assert_eq!(next(&mut source).await.bytes(), b"another file\n");
}

/// As when all watches of the system are taken.
#[tokio::test]
async fn without_a_watch_it_notices_all_the_same() {
    let mut bench = Bench::new(&["*.log"]);
    bench.append("a.log", "one\n");
    bench.open();
    let tail = bench.tail.take().unwrap();
    let mut source: Box<dyn Source> =
        Box::new(TailSource::new(tail, Arc::default(), None, &Progress::default()));
    assert_eq!(next(&mut source).await.bytes(), b"one\n");
    bench.append("a.log", "two\n");
    assert_eq!(next(&mut source).await.bytes(), b"two\n");
    bench.append("b.log", "three\n");
    assert_eq!(next(&mut source).await.bytes(), b"three\n");
}

/// Nobody reads: the far end and the rotation go on all the same.
#[tokio::test]
async fn while_nobody_reads_floors_are_heard_and_files_that_come_and_go_are_held() {
    let mut bench = Bench::new(&["a.log"]);
    bench.append("a.log", "one\n");
    bench.open();
    let progress = Progress::default();
    let tail = bench.tail.take().unwrap();
    let mut source = TailSource::new(tail, Arc::default(), None, &progress);
    let first = source.read().await.unwrap().unwrap();
    let until = async |is_there: &dyn Fn(&Tail) -> bool| {
        let poll = async {
            while !source.look(is_there) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, poll).await.expect("it happens in time");
    };
    let floor = Position { epoch: first.epoch, offset: 4, place: first.place.clone() };
    progress.set_floor(&first.origin, floor);
    until(&|tail| tail.logs[0].floor == Some(4)).await;
    for text in ["two\n", "three\n"] {
        bench.rename("a.log", "a.log.1");
        bench.append("a.log", text);
        let held = text.len() as u64;
        until(&|tail| tail.logs[0].rotation.held.iter().any(|file| file.size == held && file.file.is_some()))
            .await;
        bench.remove("a.log.1");
    }
    bench.remove("a.log");
    let mut source: Box<dyn Source> = Box::new(source);
    assert_eq!(next(&mut source).await.bytes(), b"two\n");
    assert_eq!(next(&mut source).await.bytes(), b"three\n");
}

#[tokio::test]
async fn a_session_that_is_dropped_lets_go_of_its_state() {
    let (logs, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = logs.path().join("a.log");
    fs::write(&path, "one\n").unwrap();
    let mut context = context(state.path());
    context.once = None;
    for _ in 0..5 {
        let mut source = config(&path).open(Checkpoint::default(), context.clone()).await.unwrap();
        assert_eq!(next(&mut source).await.bytes(), b"one\n");
        // Dropped while it waits.
        let waiting = tokio::time::timeout(Duration::from_millis(1), source.read()).await;
        assert!(waiting.is_err());
    }
}
