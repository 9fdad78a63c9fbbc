//! Every way to stop, pause and confine a running shipper.

use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::process::Command;
use std::thread;
use std::time::Duration;

use fshipper_testing::{DEADLINE, NatsServer, wait_until};

use crate::support::{HOST, Pipeline, Scene, assert_identical, length};
use crate::surroundings::{SmallDisk, in_shell, works};

const OUTPUT: &str = "out/web1.example.net.log";

/// More than a process moves before a signal reaches it.
const BACKLOG_LINES: u64 = 300_000;

fn write_pair(scene: &Scene, url: &str) {
    Pipeline::new().tail("app.log*").jetstream(url).write(scene, "producer.toml");
    Pipeline::new().jetstream(url).rotating_file("out/{host}.log").write(scene, "consumer.toml");
}

#[test]
fn both_ends_stopped_in_a_deep_backlog_exit_0_and_lose_nothing() {
    let (scene, server) = (Scene::new(), NatsServer::jetstream());
    write_pair(&scene, &server.url());
    let mut log = scene.log("app.log", 1);
    log.write_lines(BACKLOG_LINES);
    let consuming = scene.run(&["consumer.toml"]).start();
    let producing = scene.run(&["producer.toml"]).start();
    wait_until(DEADLINE, "lines arrive", || length(&scene.path(OUTPUT)) > 0);
    producing.stop(DEADLINE).expect_code(0);
    consuming.stop(DEADLINE).expect_code(0);
    assert!(length(&scene.path(OUTPUT)) < length(log.expected()), "there was no backlog");
    scene.run(&["--once", "producer.toml"]).finish().expect_code(0);
    scene.run(&["--once", "consumer.toml"]).finish().expect_code(0);
    assert_identical(log.expected(), &scene.path(OUTPUT));
}

#[test]
fn a_consumer_stopped_while_the_broker_is_down_exits_0_and_goes_on_later() {
    let scene = Scene::new();
    let mut server = NatsServer::jetstream();
    write_pair(&scene, &server.url());
    let mut log = scene.log("app.log", 2);
    log.write_lines(1_000);
    let consuming = scene.run(&["consumer.toml"]).start();
    scene.run(&["--once", "producer.toml"]).finish().expect_code(0);
    scene.assert_arrives(log.expected(), OUTPUT);
    server.kill();
    wait_until(DEADLINE, "it says that the broker is down", || consuming.stderr().contains("is lost"));
    consuming.stop(DEADLINE).expect_code(0);

    // One that never reached it stops as well.
    let consuming = scene.run(&["consumer.toml"]).start();
    wait_until(DEADLINE, "it says so", || consuming.stderr().contains(&server.port().to_string()));
    consuming.stop(DEADLINE).expect_code(0);
    server.restart();
    log.write_lines(1_000);
    scene.run(&["--once", "producer.toml"]).finish().expect_code(0);
    scene.run(&["--once", "consumer.toml"]).finish().expect_code(0);
    assert_identical(log.expected(), &scene.path(OUTPUT));
}

#[test]
fn a_full_disk_makes_it_wait_and_a_stop_meanwhile_loses_nothing() {
    let scene = Scene::new();
    let Some(disk) = SmallDisk::mount(&scene, "out", "4m") else { return };
    let keys = "commit_interval = '100ms'\ndrain_timeout = '500ms'";
    Pipeline::with(keys).tail("app.log").rotating_file("out/{host}.log").write(&scene, "local.toml");
    let mut log = scene.log("app.log", 3);
    log.write_lines(100);
    let run = scene.run(&["local.toml"]).start();
    scene.assert_arrives(log.expected(), OUTPUT);
    disk.fill();
    log.write_lines(10_000);
    wait_until(DEADLINE, "it says that the disk is full", || run.stderr().contains("waiting for room"));
    let said = run.stop(DEADLINE).expect_code(0).stderr;
    assert!(said.contains("then leaving; after 500ms, `drain_timeout`, in any case"), "{said}");
    assert!(said.contains("bytes stay in the source"), "{said}");

    // A start on a full disk waits as well.
    let run = scene.run(&["local.toml"]).start();
    wait_until(DEADLINE, "it says that the disk is full", || {
        run.stderr().contains("No space left on device")
    });
    disk.make_room();
    scene.assert_arrives(log.expected(), OUTPUT);
    run.stop(DEADLINE).expect_code(0);
    assert_identical(log.expected(), &scene.path(OUTPUT));
}

#[test]
fn closed_standard_streams_are_no_reason_to_stop() {
    let scene = Scene::new();
    Pipeline::new().tail("app.log").rotating_file("out/{host}.log").write(&scene, "local.toml");
    let mut log = scene.log("app.log", 4);
    for closed in ["<&- >&- 2>&-", ">&-", "2>&-", ">&- 2>&-"] {
        log.write_lines(100);
        let run =
            in_shell(&scene, &format!("exec \"$0\" \"$@\" {closed}"), &["run", "-v", "local.toml"]).start();
        scene.assert_arrives(log.expected(), OUTPUT);
        log.write_lines(100);
        scene.assert_arrives(log.expected(), OUTPUT);
        run.stop(DEADLINE).expect_code(0);
    }
    // Nothing that was meant for people stands in a file.
    assert_identical(log.expected(), &scene.path(OUTPUT));
    assert_identical(log.expected(), &scene.path("logs/app.log"));
}

#[test]
fn a_reader_of_the_log_that_does_not_read_or_has_gone_stops_nothing() {
    let scene = Scene::new();
    Pipeline::new().tail("*.log").rotating_file("out/{file}").write(&scene, "local.toml");
    let pipe = scene.path("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());
    let mut log = scene.log("app.log", 5);
    for script in [
        // Opened for reading too, so that it can be opened at all, and full before the first line.
        "exec 2<>pipe; head -c 65536 /dev/zero >&2; exec \"$0\" \"$@\"",
        // Whoever read it has gone.
        "true <pipe & exec 2>pipe; wait; exec \"$0\" \"$@\"",
    ] {
        log.write_lines(100);
        let run = in_shell(&scene, script, &["run", "-vv", "local.toml"]).start();
        scene.assert_arrives(log.expected(), "out/app.log");
        log.write_lines(100);
        scene.assert_arrives(log.expected(), "out/app.log");
        run.stop(DEADLINE).expect_code(0);
    }
}

#[test]
fn several_seconds_of_sleep_in_the_middle_of_rotations_cost_nothing() {
    let (scene, server) = (Scene::new(), NatsServer::jetstream());
    write_pair(&scene, &server.url());
    let mut log = scene.log("app.log", 6);
    let mut running = ["consumer.toml", "producer.toml"].map(|file| scene.run(&[file]).start());
    log.write_lines(1_000);
    scene.assert_arrives(log.expected(), OUTPUT);
    for run in &mut running {
        run.pause();
    }
    for _ in 0..2 {
        log.write_lines(1_000);
        thread::sleep(Duration::from_secs(1));
        log.rotate_numbered();
    }
    log.write_lines(1_000);
    for run in &mut running {
        run.resume();
    }
    scene.assert_arrives(log.expected(), OUTPUT);
    for run in running {
        run.stop(DEADLINE).expect_code(0);
    }
    assert_identical(log.expected(), &scene.path(OUTPUT));
}

/// The process that `unshare --fork` started.
fn child_of(process: u32) -> Option<i32> {
    let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

#[test]
fn as_the_first_process_of_a_container_it_obeys_signals_with_one_writable_directory() {
    // Everything is read-only except this test's own directory.
    const CONTAINER: &str = "exec unshare --mount --pid --fork --kill-child /bin/sh -c \
         'mount --bind \"$PWD\" \"$PWD\" && mount -o remount,ro,bind / && cd \"$PWD\" && exec \"$0\" \"$@\"' \"$0\" \"$@\"";
    let script = "mount -o remount,ro,bind /";
    if !works(
        "this process may not make a container",
        "unshare",
        &["--mount", "--pid", "--fork", "/bin/sh", "-c", script],
    ) {
        return;
    }
    let scene = Scene::new();
    Pipeline::new().tail("app.log").rotating_file("out/{host}.log").write(&scene, "local.toml");
    let mut log = scene.log("app.log", 7);
    for signal in ["TERM", "INT"] {
        log.write_lines(100);
        let run = in_shell(&scene, CONTAINER, &["run", "local.toml"]).start();
        scene.assert_arrives(log.expected(), OUTPUT);
        let first = child_of(run.pid()).unwrap().to_string();
        assert!(Command::new("kill").args(["-s", "HUP", &first]).status().unwrap().success());
        wait_until(DEADLINE, "SIGHUP is seen", || run.stderr().contains("SIGHUP"));
        assert!(Command::new("kill").args(["-s", signal, &first]).status().unwrap().success());
        let said = run.wait(DEADLINE).expect_code(0).stderr;
        assert!(said.contains(&format!("SIG{signal}")), "{said}");
    }
    assert_identical(log.expected(), &scene.path(&format!("out/{HOST}.log")));
}
