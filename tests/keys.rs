//! Keys of pipeline files whose effect no other test sees.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use fshipper_testing::{DEADLINE, Direction, NatsServer, Proxy, Running, Subscriber, compare, wait_until};

use crate::support::{HOST, Pipeline, Scene, assert_identical, length};

#[test]
fn name_and_state_dir_say_where_the_state_is() {
    let scene = Scene::new();
    scene.write("logs/app.log", "one\n");
    let once = |keys: &str, arguments: &[&str]| {
        Pipeline::with(keys).tail("*.log").table("sink", "null", "").write(&scene, "file.toml");
        scene.run(&["--once", "file.toml"]).arguments(arguments).finish().expect_code(0);
    };
    once("", &[]);
    assert!(scene.path(".local/state/fshipper/file").is_dir());
    once("name = 'mine'\nstate_dir = 'state'", &[]);
    assert!(scene.path("state/mine").is_dir());
    once("name = 'mine'\nstate_dir = 'state'", &["--state-dir", "elsewhere"]);
    assert!(scene.path("elsewhere/mine").is_dir());
}

#[test]
fn host_goes_before_the_environment() {
    let scene = Scene::new();
    scene.write("logs/app.log", "one\n");
    Pipeline::with("host = 'db7'").tail("*.log").rotating_file("out/{host}").write(&scene, "local.toml");
    scene.run(&["--once", "local.toml"]).finish().expect_code(0);
    assert_eq!(scene.files_below("out"), ["db7"]);
}

/// Ships to standard output, whose positions stand in the state directory, and is killed once `is_due`. What the
/// next run prints is what was not committed.
fn printed_again(keys: &str, is_due: impl Fn(&Path) -> bool) -> Vec<u8> {
    let scene = Scene::new();
    scene.write("logs/app.log", "one\ntwo\n");
    let keys = format!("state_dir = 'state'\n{keys}");
    Pipeline::with(&keys).tail("*.log").table("sink", "stdout", "").write(&scene, "stdout.toml");
    let run = scene.run(&["stdout.toml"]).start();
    wait_until(DEADLINE, "the lines are printed", || run.stdout() == b"one\ntwo\n");
    wait_until(DEADLINE, "it is due", || is_due(&scene.path("state/stdout")));
    run.kill();
    scene.run(&["--once", "stdout.toml"]).finish().expect_code(0).stdout
}

fn is_committed(state: &Path) -> bool {
    let files = fs::read_dir(state).into_iter().flatten().map(|entry| entry.unwrap().path());
    let mut checkpoints = files.filter(|path| path.extension().is_some_and(|it| it == "checkpoint"));
    checkpoints.any(|path| String::from_utf8_lossy(&fs::read(path).unwrap()).contains(r#""offset":8,"#))
}

#[test]
fn commits_come_after_an_interval_or_so_many_bytes() {
    let never = "commit_interval = '1h'\ncommit_bytes = '1GiB'";
    assert_eq!(printed_again(never, |_| true), b"one\ntwo\n");
    let soon = "commit_interval = '10ms'\ncommit_bytes = '1GiB'";
    assert_eq!(printed_again(soon, is_committed), b"");
    let small = "commit_interval = '1h'\ncommit_bytes = 4";
    assert_eq!(printed_again(small, is_committed), b"");
}

#[tokio::test(flavor = "multi_thread")]
async fn max_batch_bytes_bounds_what_moves_at_once() {
    let (scene, server) = (Scene::new(), NatsServer::core());
    let mut log = scene.log("app.log", 1);
    log.write_lines(500);
    let subscriber = Subscriber::start(&server.url(), "shipper").await;
    let pipeline = Pipeline::with("max_batch_bytes = '2KiB'").tail("*.log").nats(&server.url(), "");
    pipeline.write(&scene, "producer.toml");
    scene.run(&["--once", "producer.toml"]).finish().expect_code(0);
    subscriber.wait_for_lines(500, DEADLINE).await;
    let messages = subscriber.messages();
    assert!(messages.len() > 10 && messages.iter().all(|message| message.payload.len() <= 2048));
}

/// A producer that has lines under way, and does not hear any more from the server that it is connected to.
async fn stuck_producer(drain_timeout: &str) -> (Scene, NatsServer, Proxy, Running) {
    let (scene, server) = (Scene::new(), NatsServer::jetstream());
    let proxy = Proxy::start(server.address()).await;
    let keys = format!("drain_timeout = '{drain_timeout}'");
    Pipeline::with(&keys).tail("*.log").jetstream(&proxy.url()).write(&scene, "producer.toml");
    let mut log = scene.log("app.log", 1);
    let subscriber = Subscriber::start(&server.url(), "shipper.>").await;
    let run = scene.run(&["producer.toml"]).start();
    log.write_lines(10);
    subscriber.wait_for_lines(10, DEADLINE).await;
    proxy.stall(Direction::ToClient);
    log.write_lines(10);
    subscriber.wait_for_lines(20, DEADLINE).await;
    (scene, server, proxy, run)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_when_drain_timeout_runs_out_is_said() {
    let (_scene, _server, _proxy, run) = stuck_producer("100ms").await;
    let stopped = run.stop(DEADLINE).expect_code(0);
    let warning = stopped.stderr.lines().find(|line| line.contains("within `drain_timeout`"));
    let warning = warning.unwrap_or_else(|| panic!("no warning in:\n{}", stopped.stderr));
    assert!(warning.contains("WARN") && warning.contains("bytes stay in the source"), "{warning}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_it_at_once() {
    let (_scene, _server, _proxy, mut run) = stuck_producer("1h").await;
    run.terminate();
    wait_until(DEADLINE, "it is draining", || run.stderr().contains("shipping what was read"));
    assert!(run.is_running());
    run.interrupt();
    let ended = run.wait(DEADLINE).expect_code(1);
    assert!(ended.stderr.contains("SIGINT again: leaving at once"), "{}", ended.stderr);
}

#[test]
fn rotate_by_time_begins_a_new_file() {
    let scene = Scene::new();
    let keys = "path = 'out/{host}.log'\nrotate = { every = '1s' }";
    Pipeline::new().tail("app.log").table("sink", "rotating_file", keys).write(&scene, "local.toml");
    let mut log = scene.log("app.log", 1);
    let run = scene.run(&["local.toml"]).start();
    wait_until(DEADLINE, "there are three files", || {
        log.write_lines(10);
        scene.path("out").is_dir() && scene.files_below("out").len() >= 3
    });
    let written = || {
        let files = scene.files_below("out").into_iter();
        files.map(|file| length(&scene.path("out").join(file))).sum::<u64>()
    };
    wait_until(DEADLINE, "all is written", || written() >= length(log.expected()));
    run.stop(DEADLINE).expect_code(0);
    let mut files = scene.files_below("out");
    // The active one keeps its name, which sorts first; the rotated ones carry their time.
    assert_eq!(files[0], format!("{HOST}.log"));
    files.rotate_left(1);
    let verdict = compare(log.expected(), files.iter().map(|file| scene.path("out").join(file)));
    assert!(verdict.is_identical(), "{files:?}: {verdict}");
}

/// What is left of a log of many small files.
fn kept(keep: &str) -> Vec<(String, u64)> {
    let scene = Scene::new();
    let keys = format!("path = 'out/{{host}}.log'\nrotate = {{ max_bytes = '16KiB' }}\nkeep = {keep}");
    Pipeline::new().tail("app.log").table("sink", "rotating_file", &keys).write(&scene, "local.toml");
    let mut log = scene.log("app.log", 1);
    log.write_lines(2_000);
    let run = scene.run(&["local.toml"]).start();
    let last = || fs::read(scene.path(&format!("out/{HOST}.log"))).unwrap_or_default();
    let end = fs::read(log.expected()).unwrap();
    wait_until(DEADLINE, "all is written", || !last().is_empty() && end.ends_with(&last()));
    let files = || scene.files_below("out");
    let mut before = files();
    wait_until(DEADLINE, "nothing more is deleted", || {
        let now = files();
        let is_settled = now.len() < 10 && now == before;
        before = now;
        is_settled
    });
    run.stop(DEADLINE).expect_code(0);
    files().into_iter().map(|file| (file.clone(), length(&scene.path("out").join(&file)))).collect()
}

#[test]
fn keep_deletes_what_is_too_much() {
    let files = kept("{ files = 3 }");
    assert_eq!(files.len(), 3, "{files:?}");
    let files = kept("{ bytes = '64KiB' }");
    let total = files.iter().map(|(_, bytes)| bytes).sum::<u64>();
    assert!(files.len() > 1 && total <= 64 << 10, "{files:?}");
}

/// The hour of the only file that is written, with this time zone in the environment.
fn hour(timezone: &str, zone: &str) -> u64 {
    let scene = Scene::new();
    scene.write("logs/app.log", "one\n");
    let keys = format!("path = 'out/app.%Y%m%d%H'\ntimezone = '{timezone}'");
    Pipeline::new().tail("*.log").table("sink", "rotating_file", &keys).write(&scene, "local.toml");
    scene.run(&["--once", "local.toml"]).variable("TZ", zone).finish().expect_code(0);
    let files = scene.files_below("out");
    assert_eq!(files.len(), 1, "{files:?}");
    files[0][files[0].len() - 2..].parse().unwrap()
}

#[test]
fn timezone_says_whose_clock_counts() {
    let utc = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() / 3600 % 24;
    for (timezone, zone, ahead) in [("UTC", "PKT-5", 0), ("local", "PKT-5", 5), ("local", "UTC0", 0)] {
        let before = utc();
        let found = hour(timezone, zone);
        // The hour may end in between.
        assert!([before, utc()].contains(&((found + 24 - ahead) % 24)), "{timezone} {zone}: {found}");
    }
}

#[test]
fn mode_is_that_of_files_and_with_x_that_of_directories() {
    let scene = Scene::new();
    scene.write("logs/app.log", "one\n");
    let keys = "path = 'out/{host}/{file}'\nmode = '0604'";
    Pipeline::new().tail("*.log").table("sink", "rotating_file", keys).write(&scene, "local.toml");
    scene.run(&["--once", "local.toml"]).finish().expect_code(0);
    let mode = |name: &str| fs::metadata(scene.path(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!(format!("{:o}", mode(&format!("out/{HOST}/app.log"))), "604");
    assert_eq!(format!("{:o}", mode(&format!("out/{HOST}"))), "705");
}

#[test]
fn start_at_end_leaves_out_what_was_there_at_the_first_start() {
    let scene = Scene::new();
    scene.write("logs/old.log", "old\n");
    let keys = "include = 'logs/*.log'\nexclude = ['*.tmp.log']\nstart_at = 'end'";
    let pipeline = Pipeline::new().table("source", "file_tail", keys).rotating_file("out/{file}");
    pipeline.write(&scene, "local.toml");
    scene.run(&["--once", "local.toml"]).finish().expect_code(0);
    scene.write("logs/old.log", "old\nnew\n");
    scene.write("logs/later.log", "all\n");
    scene.write("logs/x.tmp.log", "none\n");
    scene.run(&["--once", "local.toml"]).finish().expect_code(0);
    assert_eq!(scene.files_below("out"), ["later.log", "old.log"]);
    assert_eq!(fs::read(scene.path("out/old.log")).unwrap(), b"new\n");
    assert_eq!(fs::read(scene.path("out/later.log")).unwrap(), b"all\n");
}

#[test]
fn several_sources_feed_one_pipeline_and_the_first_to_match_owns_a_file() {
    let scene = Scene::new();
    for name in ["one", "two"] {
        scene.write(&format!("logs/{name}.log"), format!("{name}\n"));
    }
    let file = "[[source]]\ntype = 'file_tail'\ninclude = 'logs/one.log'\n\
                [[source]]\ntype = 'file_tail'\ninclude = 'logs/*.log'\n\
                [sink]\ntype = 'rotating_file'\npath = 'out/{file}'\n";
    scene.write("local.toml", file);
    scene.run(&["--once", "local.toml"]).finish().expect_code(0);
    for name in ["one", "two"] {
        let (log, output) = (scene.path(&format!("logs/{name}.log")), format!("out/{name}.log"));
        assert_identical(&log, &scene.path(&output));
    }
}
