//! Killed before every single change of the disk, and started again: the output is as if nothing had
//! happened.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;

use anyhow::Result;
use fshipper_pipeline::{Batch, Epoch, Origin, Written};

use super::bench::{Bench, Session, data, day, origin};

/// What a source and a pump do, in order.
struct Script(Vec<Step>);

enum Step {
    Write(Batch),
    Commit,
    Maintain,
}

impl Script {
    /// Lines of several logs over three days, some unfinished, with a loss and a new epoch, committed now and
    /// then.
    fn new() -> Self {
        let logs = [origin("web1", "/a/app.log"), origin("web1", "/b/app.log"), origin("web2", "/a/app.log")];
        let mut ends: HashMap<Origin, u64> = HashMap::new();
        let mut steps = Vec::new();
        let mut write = |steps: &mut Vec<Step>, log: usize, text: &str, days: u64| {
            let end = ends.entry(logs[log].clone()).or_default();
            steps.push(Step::Write(data(&logs[log], *end, text, day(days))));
            *end += text.len() as u64;
        };
        for days in 0..3 {
            for round in 0..2 {
                for log in 0..3 {
                    write(&mut steps, log, &format!("day {days} round {round} log {log}\n"), days);
                }
                write(&mut steps, 0, "two lines\nand the beginning", days);
                write(&mut steps, 1, "between\n", days);
                write(&mut steps, 0, " of a third\n", days + u64::from(round == 1));
                if round == 0 {
                    steps.push(Step::Commit);
                }
            }
            steps.push(Step::Commit);
            steps.push(Step::Maintain);
        }
        write(&mut steps, 2, "never finished", 3);
        let end = ends[&logs[2]];
        steps.push(Step::Write(Batch::loss(logs[2].clone(), Epoch(1), end, 100, "a test")));
        let mut later = data(&logs[2], end + 100, "after the loss, unfinished", day(3));
        steps.push(Step::Write(later.clone()));
        (later.epoch, later.start) = (Epoch(2), 0);
        steps.push(Step::Write(later));
        steps.push(Step::Commit);
        steps.push(Step::Maintain);
        Self(steps)
    }

    fn run(&self, session: &mut Session) -> Result<()> {
        for (number, step) in self.0.iter().enumerate() {
            match step {
                Step::Write(batch) => {
                    assert_eq!(session.feed(batch.clone())?, Written::Accepted);
                    session.cursor(number);
                }
                Step::Commit => {
                    session.try_commit()?;
                    check_durable(session);
                }
                Step::Maintain => session.maintain()?,
            }
        }
        Ok(())
    }
}

/// What the ledger says is durable is what the pump committed.
fn check_durable(session: &Session) {
    let durable = session.writer.checkpoint();
    for (origin, history) in session.checkpoint.origins() {
        assert_eq!(durable.history(origin), Some(history));
    }
    assert!(durable.cursors().eq(session.checkpoint.cursors()));
}

/// What is compared: plain files, compressed ones unpacked, notes of losses.
fn output(bench: &Bench) -> (BTreeMap<String, String>, String) {
    let unpack = |(name, content): (String, String)| {
        let Some(plain) = name.strip_suffix(".gz") else { return (name, content) };
        let mut content = String::new();
        let file = std::fs::File::open(bench.path(&name)).unwrap();
        flate2::read::GzDecoder::new(file).read_to_string(&mut content).unwrap();
        assert!(!bench.path(plain).try_exists().unwrap(), "{plain} is there plain and compressed");
        (plain.to_owned(), content)
    };
    // The time of a loss is the time of the run.
    let losses =
        bench.losses().lines().map(|line| format!("{}\n", line.split_once(' ').unwrap().1)).collect();
    (bench.files().into_iter().map(unpack).collect(), losses)
}

fn prepare(path: &str, keys: &str) -> Bench {
    let bench = Bench::new(path, keys);
    std::fs::create_dir_all(bench.path("web1")).unwrap();
    std::fs::write(bench.path("web1/app.log"), "before us, unfinished").unwrap();
    bench
}

fn survives_a_kill_at_every_step(path: &str, keys: &str) {
    let script = Script::new();
    let bench = prepare(path, keys);
    let mut session = bench.open();
    script.run(&mut session).unwrap();
    drop(session);
    let expected = output(&bench);
    assert!(expected.0.len() > 2 && expected.1.contains("lost 100 bytes: a test"), "{expected:#?}");

    for changes in 0.. {
        let bench = prepare(path, keys);
        let killed = match bench.try_open(changes) {
            Err(_) => true,
            Ok(mut session) => {
                let run = script.run(&mut session);
                assert!(run.is_ok() || session.disk.fuse.is_blown(), "after {changes} changes: {run:?}");
                session.disk.fuse.is_blown()
            }
        };
        let mut session = bench.open();
        script.run(&mut session).unwrap();
        drop(session);
        assert_eq!(output(&bench), expected, "killed after {changes} changes");
        if !killed {
            assert!(changes > 50, "the script changes the disk, and not {changes} times only");
            return;
        }
    }
}

/// Killed again and again, also while it recovers, at places drawn from a seed.
fn survives_many_kills(path: &str, keys: &str) {
    let script = Script::new();
    let bench = prepare(path, keys);
    script.run(&mut bench.open()).unwrap();
    let expected = output(&bench);
    for seed in 0..20 {
        let mut random = fastrand::Rng::with_seed(seed);
        let bench = prepare(path, keys);
        for _ in 0..10 {
            if let Ok(mut session) = bench.try_open(random.u64(0..120)) {
                let run = script.run(&mut session);
                assert!(run.is_ok() || session.disk.fuse.is_blown(), "seed {seed}: {run:?}");
            }
        }
        script.run(&mut bench.open()).unwrap();
        assert_eq!(output(&bench), expected, "seed {seed}");
    }
}

const DATED: (&str, &str) = ("{host}/{file}.%Y%m%d", "");
const NUMBERED: (&str, &str) = ("{host}/{file}.%Y%m%d", "rotate = { max_bytes = 80 }\ncompress = \"gzip\"");
const PLAIN: (&str, &str) = ("{host}/{file}", "rotate = { every = \"1d\", max_bytes = 100 }");
const PLAIN_GZIP: (&str, &str) = ("{host}/{file}", "rotate = { max_bytes = 150 }\ncompress = \"gzip\"");
const SHARED: (&str, &str) = ("web1/app.log", "rotate = { every = \"1d\" }");
const KEPT: (&str, &str) =
    ("{host}/{file}", "rotate = { max_bytes = 100 }\nkeep = { files = 3 }\ncompress = \"gzip\"");

#[test]
fn a_kill_at_any_step_leaves_no_trace_with_dated_files() {
    survives_a_kill_at_every_step(DATED.0, DATED.1);
}

#[test]
fn a_kill_at_any_step_leaves_no_trace_with_numbered_and_compressed_files() {
    survives_a_kill_at_every_step(NUMBERED.0, NUMBERED.1);
}

#[test]
fn a_kill_at_any_step_leaves_no_trace_with_renamed_files() {
    survives_a_kill_at_every_step(PLAIN.0, PLAIN.1);
    survives_a_kill_at_every_step(PLAIN_GZIP.0, PLAIN_GZIP.1);
}

#[test]
fn a_kill_at_any_step_leaves_no_trace_with_a_shared_file() {
    survives_a_kill_at_every_step(SHARED.0, SHARED.1);
}

#[test]
fn a_kill_at_any_step_leaves_no_trace_with_deleted_files() {
    survives_a_kill_at_every_step(KEPT.0, KEPT.1);
}

#[test]
fn many_kills_leave_no_trace() {
    for (path, keys) in [NUMBERED, PLAIN, SHARED, KEPT] {
        survives_many_kills(path, keys);
    }
}
