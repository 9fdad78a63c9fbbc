//! Rotations as real programs make them, while fshipper is fast, slow, or down.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use fshipper_testing::{DEADLINE, Direction, LogWriter, NatsServer, Proxy, Running, wait_until};

use crate::support::{Pipeline, Scene, assert_identical};
use crate::surroundings::{has_open, open_files, works};

const OUTPUT: &str = "out/web1.example.net.log";

/// More than a hop holds in memory: whoever cannot get rid of it stops reading.
const BACKLOG_LINES: u64 = 80_000;

/// A log below `logs/` that logrotate rotates, and how.
struct Rotated {
    name: &'static str,
    how: &'static str,
    /// Whether the program must open its log again after a rotation.
    is_renamed: bool,
}

const MODES: [Rotated; 10] = [
    Rotated { name: "create", how: "create", is_renamed: true },
    Rotated { name: "nocreate", how: "nocreate", is_renamed: true },
    Rotated { name: "dateext", how: "dateext\ndateformat -%s\ncreate", is_renamed: true },
    Rotated { name: "compress", how: "create\ncompress", is_renamed: true },
    Rotated { name: "delaycompress", how: "create\ncompress\ndelaycompress", is_renamed: true },
    Rotated { name: "olddir", how: "create\nolddir ../old", is_renamed: true },
    // What its program writes before it opens its log again goes into a file that is deleted by then.
    Rotated { name: "renamecopy", how: "renamecopy\ncreate", is_renamed: true },
    Rotated {
        name: "renamecopy-reopened",
        how: "renamecopy\nnocreate\npostrotate\nREOPEN\nendscript",
        is_renamed: true,
    },
    Rotated { name: "copy", how: "copy", is_renamed: false },
    Rotated { name: "copytruncate", how: "copytruncate", is_renamed: false },
];

/// Programs that log numbered lines, as fast as they can, each into a log of its own; they open it again when
/// they are told to, as after a SIGHUP.
struct Programs {
    over: AtomicBool,
    hangups: AtomicUsize,
    written: [AtomicUsize; MODES.len()],
}

impl Programs {
    fn new() -> Self {
        let (over, hangups) = (AtomicBool::new(false), AtomicUsize::new(0));
        Self { over, hangups, written: [const { AtomicUsize::new(0) }; MODES.len()] }
    }

    /// Also opens all logs again when there is a file at `reopen`, and takes it away then.
    fn run(&self, logs: &Path, reopen: &Path) {
        let open = |mode: &Rotated| {
            let path = logs.join(mode.name).with_extension("log");
            File::options().append(true).create(true).open(path).expect("a log can be opened")
        };
        let mut files = MODES.each_ref().map(open);
        let mut hangups = 0;
        while !self.over.load(Ordering::Relaxed) {
            let now = self.hangups.load(Ordering::Relaxed);
            if now != hangups || reopen.is_file() {
                hangups = now;
                for (file, mode) in files.iter_mut().zip(&MODES).filter(|(_, mode)| mode.is_renamed) {
                    *file = open(mode);
                }
                // It may be there or not.
                let _ = fs::remove_file(reopen);
            }
            for (file, written) in files.iter_mut().zip(&self.written) {
                let number = written.load(Ordering::Relaxed);
                let lines: String = (number..number + 10).map(line).collect();
                file.write_all(lines.as_bytes()).expect("a log can be written");
                written.store(number + 10, Ordering::Relaxed);
            }
            thread::sleep(Duration::from_millis(2));
        }
    }
}

fn line(number: usize) -> String {
    format!("line {number:09} of a program that logs a lot\n")
}

/// The number of the last whole line in a file, 0 when there is none.
fn last_line(path: &Path) -> usize {
    let text = fs::read(path).unwrap_or_default();
    let end = text.iter().rposition(|byte| *byte == b'\n').unwrap_or_default();
    let text = String::from_utf8_lossy(&text[..end]);
    text.lines().next_back().and_then(number_of).unwrap_or_default()
}

fn number_of(line: &str) -> Option<usize> {
    let number = line.strip_prefix("line ")?.split(' ').next()?.parse().ok()?;
    (self::line(number).trim_end() == line).then_some(number)
}

#[test]
fn logrotate_in_every_mode_under_programs_that_log_on_costs_nothing() {
    if !works("there is no logrotate here", "logrotate", &["--version"]) {
        return;
    }
    let scene = Scene::new();
    for directory in ["logs", "old"] {
        fs::create_dir(scene.path(directory)).unwrap();
    }
    let reopen = scene.path("reopen");
    let wait = format!("touch {0}; while [ -e {0} ]; do sleep 0.01; done", reopen.display());
    let mut configuration = String::new();
    for Rotated { name, how, .. } in &MODES {
        let log = scene.path("logs").join(name).with_extension("log");
        configuration += &format!("{} {{\nrotate 20\n{}\n}}\n", log.display(), how.replace("REOPEN", &wait));
    }
    let configuration = scene.write("logrotate.conf", configuration);
    let state = scene.path("logrotate.state");
    let rotate = || {
        let rotated = Command::new("logrotate").arg("-f").arg("-s").args([&state, &configuration]).output();
        let rotated = rotated.unwrap();
        assert!(rotated.status.success(), "{}", String::from_utf8_lossy(&rotated.stderr));
    };
    Pipeline::new().tail("*").rotating_file("out/{file}").write(&scene, "local.toml");

    let programs = Programs::new();
    let logs = scene.path("logs");
    let output = |mode: &Rotated| scene.path("out").join(mode.name).with_extension("log");
    let run = thread::scope(|scope| {
        scope.spawn(|| programs.run(&logs, &reopen));
        let over = Over(&programs.over);
        let run = scene.run(&["local.toml"]).start();
        let wait_for_more = || {
            let written = programs.written.each_ref().map(|written| written.load(Ordering::Relaxed));
            wait_until(DEADLINE, "lines of all logs since the last rotation have arrived", || {
                MODES.iter().zip(written).all(|(mode, written)| last_line(&output(mode)) > written)
            });
        };
        for _ in 0..4 {
            wait_for_more();
            rotate();
            programs.hangups.fetch_add(1, Ordering::Relaxed);
        }
        wait_for_more();
        drop(over);
        run
    });
    for (mode, written) in MODES.iter().zip(&programs.written) {
        let last = written.load(Ordering::Relaxed) - 1;
        wait_until(DEADLINE, "the last line has arrived", || last_line(&output(mode)) == last);
    }
    let said = run.stop(DEADLINE).expect_code(0).stderr;
    let files = scene.files_below("out");
    assert_eq!(files.len(), MODES.len(), "{files:?}");
    for (mode, written) in MODES.iter().zip(&programs.written) {
        let arrived = fs::read_to_string(output(mode)).unwrap();
        let arrived: Vec<usize> = arrived.lines().map(|line| number_of(line).expect(line)).collect();
        assert!(arrived.is_sorted_by(|one, next| one < next), "{}: out of order or twice", mode.name);
        let written = written.load(Ordering::Relaxed);
        if mode.name != "copytruncate" {
            assert_eq!(arrived.len(), written, "{}: lines are missing; it says:\n{said}", mode.name);
            continue;
        }
        // What is in the copies and in the log is what any reader can get for certain.
        let mut possible = Vec::new();
        for entry in fs::read_dir(scene.path("logs")).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().unwrap().to_string_lossy().starts_with(mode.name) {
                possible.extend(fs::read_to_string(path).unwrap().lines().filter_map(number_of));
            }
        }
        let missing: Vec<&usize> =
            possible.iter().filter(|number| arrived.binary_search(number).is_err()).collect();
        assert!(missing.is_empty(), "copytruncate: {missing:?} could be read; it says:\n{said}");
        let all = arrived.len() == written;
        assert!(all || possible.len() < written, "copytruncate: lines are missing that nobody cut");
    }
}

/// Ends the programs, also when the test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn rotated_into_another_directory_while_it_is_read_it_is_read_to_its_end() {
    let scene = Scene::new();
    fs::create_dir(scene.path("archive")).unwrap();
    Pipeline::new().tail("app.log").rotating_file("out/{host}.log").write(&scene, "local.toml");
    let mut log = scene.log("app.log", 1);
    let run = scene.run(&["local.toml"]).start();
    for number in 1..=3 {
        log.write_lines(BACKLOG_LINES / 8);
        // Rotated as soon as it is noticed, long before it is read.
        wait_until(DEADLINE, "the log is being read", || has_open(&run, log.path()));
        log.rename_to(&scene.path(&format!("archive/app.log.{number}")));
        log.write_lines(1_000);
        log.reopen();
    }
    log.write_lines(10);
    scene.assert_arrives(log.expected(), OUTPUT);
    run.stop(DEADLINE).expect_code(0);
    assert_identical(log.expected(), &scene.path(OUTPUT));
}

#[test]
fn rotated_into_another_directory_while_nothing_ran_it_is_a_loss_that_is_said() {
    let scene = Scene::new();
    fs::create_dir(scene.path("archive")).unwrap();
    Pipeline::new().tail("app.log").rotating_file("out/{host}.log").write(&scene, "local.toml");
    let mut log = scene.log("app.log", 1);
    log.write_lines(100);
    scene.run(&["--once", "local.toml"]).finish().expect_code(0);
    let before = fs::read(log.expected()).unwrap();
    log.write_lines(100);
    log.rotate_to(&scene.path("archive/app.log.1"));
    let skipped = fs::read(log.expected()).unwrap().len();
    log.write_lines(100);
    let said = scene.run(&["--once", "local.toml"]).finish().expect_code(0).stderr;
    assert!(said.contains("ERROR") && said.contains("was deleted before it was read to its end"), "{said}");
    let after = fs::read(log.expected()).unwrap().split_off(skipped);
    assert!(fs::read(scene.path(OUTPUT)).unwrap() == [before, after].concat());
    let noted = fs::read_to_string(scene.path("out/.fshipper/losses.log")).unwrap();
    assert!(noted.contains("was deleted before it was read to its end"), "{noted}");

    // Said once.
    let said = scene.run(&["--once", "local.toml"]).finish().expect_code(0).stderr;
    assert!(!said.contains("ERROR"), "{said}");
}

#[test]
fn without_a_successor_for_a_while_nothing_is_lost_and_nothing_is_repeated_in_the_log() {
    let scene = Scene::new();
    Pipeline::new().tail("app.log").rotating_file("out/{host}.log").write(&scene, "local.toml");
    let mut log = scene.log("app.log", 1);
    log.write_lines(100);
    let run = scene.run(&["local.toml"]).start();
    scene.assert_arrives(log.expected(), OUTPUT);
    let before = run.stderr().lines().count();
    log.rename_to(&scene.path("logs/old"));
    // Written on after `rotate_wait`, which is one second here: the file is read on as long as nothing follows.
    for _ in 0..3 {
        log.write_lines(100);
        scene.assert_arrives(log.expected(), OUTPUT);
        thread::sleep(Duration::from_millis(600));
    }
    log.reopen();
    log.write_lines(100);
    scene.assert_arrives(log.expected(), OUTPUT);
    let said = run.stop(DEADLINE).expect_code(0).stderr;
    let lines: Vec<&str> = said.lines().skip(before).collect();
    assert!(lines.len() <= 3, "{lines:?}");
    assert!(!said.contains("ERROR"), "{said}");
}

/// A producer whose broker takes nothing, in front of a log that is longer than what it holds in memory.
async fn stalled_producer(scene: &Scene) -> (NatsServer, Proxy, LogWriter, Running) {
    let server = NatsServer::jetstream();
    let proxy = Proxy::start(server.address()).await;
    Pipeline::new().tail("app.log").jetstream(&proxy.url()).write(scene, "producer.toml");
    Pipeline::new().jetstream(&server.url()).rotating_file("out/{host}.log").write(scene, "consumer.toml");
    let mut log = scene.log("app.log", 1);
    log.write_lines(10);
    let producing = scene.run(&["producer.toml"]).start();
    wait_until(DEADLINE, "the log is being read", || has_open(&producing, log.path()));
    proxy.stall(Direction::ToServer);
    log.write_lines(BACKLOG_LINES);
    (server, proxy, log, producing)
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_while_the_broker_takes_nothing_it_is_read_to_its_end_and_let_go() {
    let scene = Scene::new();
    let (_server, proxy, mut log, producing) = stalled_producer(&scene).await;
    fs::remove_file(log.path()).unwrap();
    log.reopen();
    log.write_lines(1_000);
    let is_held = || open_files(producing.pid()).iter().any(|file| file.ends_with("app.log (deleted)"));
    assert!(is_held(), "it is held open until it is read");
    proxy.resume();
    let consuming = scene.run(&["consumer.toml"]).start();
    scene.assert_arrives(log.expected(), OUTPUT);
    wait_until(DEADLINE, "it is let go", || !is_held());
    for run in [producing, consuming] {
        run.stop(DEADLINE).expect_code(0);
    }
}

/// More files come and go than the one that is being read, and nobody reads meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn rotated_and_deleted_while_the_broker_takes_nothing_nothing_is_lost() {
    let scene = Scene::new();
    let (_server, proxy, mut log, producing) = stalled_producer(&scene).await;
    let rotated = scene.path("logs/app.log.1");
    for _ in 0..3 {
        log.rotate_to(&rotated);
        log.write_lines(1_000);
        // Each lives for several looks at its directory.
        thread::sleep(Duration::from_millis(1500));
        fs::remove_file(&rotated).unwrap();
    }
    proxy.resume();
    let consuming = scene.run(&["consumer.toml"]).start();
    scene.assert_arrives(log.expected(), OUTPUT);
    for run in [producing, consuming] {
        run.stop(DEADLINE).expect_code(0);
    }
    assert_identical(log.expected(), &scene.path(OUTPUT));
}

#[test]
fn after_many_rotations_as_many_files_are_open_as_before() {
    let scene = Scene::new();
    let keys = "include = 'logs/app.log'\nrotate_wait = '10ms'";
    let pipeline = Pipeline::new().table("source", "file_tail", keys).rotating_file("out/{host}.log");
    pipeline.write(&scene, "local.toml");
    let mut log = scene.log("app.log", 1);
    log.write_lines(10);
    let run = scene.run(&["local.toml"]).start();
    scene.assert_arrives(log.expected(), OUTPUT);
    let before = open_files(run.pid()).len();
    for _ in 0..15 {
        log.rotate_to(&scene.path("logs/old"));
        log.write_lines(10);
        scene.assert_arrives(log.expected(), OUTPUT);
        fs::remove_file(scene.path("logs/old")).unwrap();
    }
    let now = || open_files(run.pid());
    wait_until(DEADLINE, "rotated files are let go", || {
        now().len() <= before && !now().iter().any(|file| file.ends_with("(deleted)"))
    });
    run.stop(DEADLINE).expect_code(0);
    assert_identical(log.expected(), &scene.path(OUTPUT));
}
