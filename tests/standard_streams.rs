//! `stdin` and `stdout`.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::process::Command;

use async_nats::jetstream;
use fshipper_testing::{DEADLINE, NatsServer, Running, wait_until};

use crate::support::{Pipeline, Scene, length};

const OUTPUT: &str = "out/stdin";

/// A pipe, and the end of it that is written to. It stays open.
fn pipe(scene: &Scene) -> File {
    assert!(Command::new("mkfifo").arg(scene.path("pipe")).status().unwrap().success());
    // For reading too, so that it can be opened before anybody reads.
    OpenOptions::new().read(true).write(true).open(scene.path("pipe")).unwrap()
}

fn run_piped(scene: &Scene, file: &str) -> Running {
    scene.run(&[file]).stdin(scene.path("pipe")).start()
}

#[track_caller]
fn wait_for_output(scene: &Scene, expected: &str) {
    let output = scene.path(OUTPUT);
    wait_until(DEADLINE, expected, || length(&output) >= expected.len() as u64);
    assert_eq!(fs::read_to_string(&output).unwrap(), expected);
}

#[test]
fn stdin_is_shipped_to_its_end() {
    let scene = Scene::new();
    let input = scene.write("input", [&b"one\n\0\r\n"[..], &vec![b'x'; 3_000_000], b"\nno newline"].concat());
    Pipeline::new().table("source", "stdin", "").rotating_file("out/{file}").write(&scene, "stdin.toml");
    scene.run(&["stdin.toml"]).stdin(&input).finish().expect_code(0);
    let files = scene.files_below("out");
    assert_eq!(files.len(), 1, "{files:?}");
    let output = scene.path("out").join(&files[0]);
    assert!(fs::read(&output).unwrap() == fs::read(&input).unwrap());

    // Another run goes on in the same file, on a line of its own.
    scene.run(&["stdin.toml"]).stdin(scene.write("more", "more\n")).finish().expect_code(0);
    let all = [fs::read(&input).unwrap(), b"\nmore\n".to_vec()].concat();
    assert!(fs::read(&output).unwrap() == all);
}

#[test]
fn stdout_holds_data_and_nothing_else() {
    let scene = Scene::new();
    let mut log = scene.log("app.log", 1);
    log.write_lines(5_000);
    Pipeline::new().tail("app.log").table("sink", "stdout", "").write(&scene, "stdout.toml");
    let finished = scene.run(&["--once", "-v", "stdout.toml"]).finish().expect_code(0);
    assert!(finished.stdout == fs::read(log.expected()).unwrap());
    // Its position is kept for it.
    let finished = scene.run(&["--once", "stdout.toml"]).finish().expect_code(0);
    assert!(finished.stdout.is_empty());
}

#[test]
fn null_takes_everything() {
    let scene = Scene::new();
    let mut log = scene.log("app.log", 1);
    log.write_lines(100);
    Pipeline::new().tail("app.log").table("sink", "null", "").write(&scene, "null.toml");
    let finished = scene.run(&["--once", "null.toml"]).finish().expect_code(0);
    assert!(finished.stdout.is_empty());
}

#[test]
fn losing_what_stdin_cannot_give_again_exits_1_with_the_count() {
    let scene = Scene::new();
    let input = scene.write("input", "a line that goes nowhere\n");
    Pipeline::new().table("source", "stdin", "").table("sink", "stdout", "").write(&scene, "pipe.toml");
    // The device that is always full.
    let finished = scene.run(&["pipe.toml"]).stdin(&input).stdout("/dev/full").finish().expect_code(1);
    assert!(finished.stderr.contains("25 bytes"), "{}", finished.stderr);
}

#[test]
fn losing_it_between_two_ends_in_one_process_exits_1_too() {
    let scene = Scene::new();
    let input = scene.write("input", "a line that goes nowhere\n");
    let pipeline = Pipeline::new().table("source", "stdin", "").table("transport", "memory", "");
    pipeline.table("sink", "stdout", "").write(&scene, "pipe.toml");
    let finished = scene.run(&["pipe.toml"]).stdin(&input).stdout("/dev/full").finish().expect_code(1);
    assert!(finished.stderr.contains("25 bytes"), "{}", finished.stderr);
}

#[test]
fn a_stop_ships_what_was_taken_from_stdin_up_to_a_line_without_end() {
    for transport in [false, true] {
        let scene = Scene::new();
        let mut pipeline = Pipeline::new().table("source", "stdin", "");
        if transport {
            pipeline = pipeline.table("transport", "memory", "");
        }
        pipeline.rotating_file("out/{file}").write(&scene, "stdin.toml");
        let mut input = pipe(&scene);
        let run = run_piped(&scene, "stdin.toml");
        input.write_all(b"one\nno line end").unwrap();
        wait_for_output(&scene, "one\n");
        run.stop(DEADLINE).expect_code(0);
        wait_for_output(&scene, "one\nno line end");
    }
}

#[test]
fn stdin_goes_on_when_an_output_that_could_not_be_used_is_moved_away() {
    let scene = Scene::new();
    Pipeline::new().table("source", "stdin", "").rotating_file("out/{file}").write(&scene, "stdin.toml");
    scene.run(&["stdin.toml"]).stdin(scene.write("input", "one\ntwo\n")).finish().expect_code(0);
    scene.write(OUTPUT, "one\n");
    let mut input = pipe(&scene);
    let run = run_piped(&scene, "stdin.toml");
    input.write_all(b"three\n").unwrap();
    wait_until(DEADLINE, "it says that it is cut", || run.stderr().contains("holds 4 bytes of the 8"));
    fs::rename(scene.path(OUTPUT), scene.path("out/away")).unwrap();
    wait_for_output(&scene, "three\n");
    run.stop(DEADLINE).expect_code(0);
}

#[test]
fn a_broker_that_restarts_while_nothing_is_under_way_is_no_end_for_stdin() {
    let (scene, mut server) = (Scene::new(), NatsServer::core());
    let producer = Pipeline::with("commit_interval = '100ms'\nstate_dir = 'state'");
    producer.table("source", "stdin", "").nats(&server.url(), "").write(&scene, "producer.toml");
    Pipeline::new().nats(&server.url(), "").rotating_file(OUTPUT).write(&scene, "consumer.toml");
    let mut input = pipe(&scene);
    let consuming = scene.run(&["consumer.toml"]).start();
    wait_until(DEADLINE, "the consumer listens", || server.subscribers("shipper") > 0);
    let producing = run_piped(&scene, "producer.toml");
    input.write_all(b"one\n").unwrap();
    wait_for_output(&scene, "one\n");
    // The name `stdin`, as it stands there once that is committed.
    let kept = scene.path("state/producer/sender.checkpoint");
    wait_until(DEADLINE, "it is committed", || {
        let kept = fs::read(&kept).unwrap_or_default();
        kept.windows(10).any(|name| name == b"737464696e")
    });
    server.kill();
    server.restart();
    for run in [&producing, &consuming] {
        wait_until(DEADLINE, "it is connected again", || run.stderr().contains("connected to NATS again"));
    }
    wait_until(DEADLINE, "the consumer listens again", || server.subscribers("shipper") > 0);
    input.write_all(b"two\n").unwrap();
    wait_for_output(&scene, "one\ntwo\n");
    producing.stop(DEADLINE).expect_code(0);
    consuming.stop(DEADLINE).expect_code(0);
}

/// The bytes that a stream loses are asked for, and nobody has them any more.
#[tokio::test(flavor = "multi_thread")]
async fn what_stdin_cannot_send_again_is_recorded_and_no_new_line_takes_its_place() {
    let (scene, server) = (Scene::new(), NatsServer::jetstream());
    Pipeline::new().table("source", "stdin", "").jetstream(&server.url()).write(&scene, "producer.toml");
    Pipeline::new().jetstream(&server.url()).rotating_file("out/{file}").write(&scene, "consumer.toml");
    let client = jetstream::new(async_nats::connect(server.url()).await.unwrap());
    let mut input = pipe(&scene);
    let producing = run_piped(&scene, "producer.toml");
    input.write_all(b"one\n").unwrap();
    let consuming = scene.run(&["consumer.toml"]).start();
    wait_for_output(&scene, "one\n");
    consuming.stop(DEADLINE).expect_code(0);
    let stream = client.get_stream("LOGS").await.unwrap();
    for (number, line) in [(2, "two\n"), (3, "three\n")] {
        input.write_all(line.as_bytes()).unwrap();
        let start = std::time::Instant::now();
        while stream.get_info().await.unwrap().state.last_sequence < number {
            assert!(start.elapsed() < DEADLINE, "{line:?} is not stored");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
    assert!(stream.delete_message(2).await.unwrap());
    let consuming = scene.run(&["consumer.toml"]).start();
    wait_for_output(&scene, "one\nthree\n");
    input.write_all(b"four\n").unwrap();
    wait_for_output(&scene, "one\nthree\nfour\n");
    producing.stop(DEADLINE).expect_code(0);
    consuming.stop(DEADLINE).expect_code(0);
    let losses = fs::read_to_string(scene.path("out/.fshipper/losses.log")).unwrap();
    assert!(losses.contains("offset 4: lost 4 bytes"), "{losses}");
}

/// Lines of the one never pass for those of the other: the first hears that it was overtaken.
#[test]
fn of_two_processes_that_send_stdin_as_one_log_the_first_ends_with_the_count_and_the_remedy() {
    let (scene, server) = (Scene::new(), NatsServer::jetstream());
    for name in ["first.toml", "second.toml"] {
        Pipeline::new().table("source", "stdin", "").jetstream(&server.url()).write(&scene, name);
    }
    Pipeline::new().jetstream(&server.url()).rotating_file("out/{file}").write(&scene, "consumer.toml");
    let consuming = scene.run(&["consumer.toml"]).start();
    let mut input = pipe(&scene);
    let first = run_piped(&scene, "first.toml");
    input.write_all(b"one\n").unwrap();
    wait_for_output(&scene, "one\n");
    scene.run(&["second.toml"]).stdin(scene.write("input", "two\n")).finish().expect_code(0);
    wait_for_output(&scene, "one\ntwo\n");
    input.write_all(b"three\n").unwrap();
    let said = first.wait(DEADLINE).expect_code(1).stderr;
    assert!(said.contains("`name` of a source `stdin`"), "{said}");
    assert!(said.contains("bytes that cannot be read again were not delivered"), "{said}");
    consuming.stop(DEADLINE).expect_code(0);
    wait_for_output(&scene, "one\ntwo\n");
}

#[test]
fn two_processes_of_one_host_send_their_stdin_as_two_logs() {
    let (scene, server) = (Scene::new(), NatsServer::jetstream());
    Pipeline::new().jetstream(&server.url()).rotating_file("out/{file}").write(&scene, "consumer.toml");
    let consuming = scene.run(&["consumer.toml"]).start();
    let mut runs = Vec::new();
    for name in ["journal", "cron"] {
        let (file, named) = (format!("{name}.toml"), format!("name = '{name}'"));
        Pipeline::new().table("source", "stdin", &named).jetstream(&server.url()).write(&scene, &file);
        let lines = format!("a line of {name}\n").repeat(1000);
        runs.push((name, lines.clone(), scene.run(&[&file]).stdin(scene.write(name, lines)).start()));
    }
    for (name, lines, run) in runs {
        run.wait(DEADLINE).expect_code(0);
        let output = scene.path(&format!("out/{name}"));
        wait_until(DEADLINE, name, || length(&output) >= lines.len() as u64);
        assert_eq!(fs::read_to_string(&output).unwrap(), lines);
    }
    consuming.stop(DEADLINE).expect_code(0);
}

#[test]
fn stdin_twice_in_one_process_is_refused_with_its_places() {
    let scene = Scene::new();
    for name in ["one.toml", "two.toml"] {
        Pipeline::new().table("source", "stdin", "").table("sink", "null", "").write(&scene, name);
    }
    let twice = Pipeline::new().table("[source]", "stdin", "").table("[source]", "stdin", "name = 'x'");
    twice.table("sink", "null", "").write(&scene, "twice.toml");
    let input = scene.write("input", "a line that stays where it is\n");
    for command in ["check", "run"] {
        let fshipper = || scene.fshipper().argument(command).stdin(&input);
        let said = fshipper().arguments(["twice.toml"]).finish().expect_code(2).stderr;
        assert!(said.contains("only one source of a process can have standard input"), "{said}");
        assert!(said.contains("twice.toml:8:1"), "{said}");
        let said = fshipper().arguments(["one.toml", "two.toml"]).finish().expect_code(2).stderr;
        assert!(said.contains("`one.toml` and `two.toml` both read standard input"), "{said}");
    }
}

#[test]
fn a_pipeline_that_ends_for_good_says_so_at_once_while_others_go_on() {
    for format in ["text", "json"] {
        let scene = Scene::new();
        Pipeline::new().table("source", "stdin", "").table("sink", "stdout", "").write(&scene, "pipe.toml");
        let mut log = scene.log("app.log", 1);
        Pipeline::new().tail("*.log").rotating_file("out/{file}").write(&scene, "tail.toml");
        let input = scene.write("input", "a line that goes nowhere\n");
        let both = scene.run(&["--log-format", format, "pipe.toml", "tail.toml"]);
        // The device that is always full.
        let run = both.stdin(&input).stdout("/dev/full").start();
        let reason = "25 bytes that cannot be read again were not delivered";
        wait_until(DEADLINE, "it says why", || run.stderr().contains(reason));
        log.write_lines(10);
        scene.assert_arrives(log.expected(), "out/app.log");
        let said = run.stop(DEADLINE).expect_code(1).stderr;
        assert_eq!(said.matches(reason).count(), 1, "{said}");
    }
}

#[test]
fn with_logs_in_json_the_reason_of_the_end_is_json_too() {
    let scene = Scene::new();
    Pipeline::new().table("source", "stdin", "").table("sink", "stdout", "").write(&scene, "pipe.toml");
    let run = scene.run(&["--log-format", "json", "pipe.toml"]);
    let input = scene.write("input", "a line that goes nowhere\n");
    let said = run.stdin(&input).stdout("/dev/full").finish().expect_code(1).stderr;
    let last = said.lines().last().unwrap_or_default();
    assert!(last.starts_with('{') && last.contains("25 bytes"), "{said}");
}
