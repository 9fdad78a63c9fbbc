//! Core NATS: the environment of the original programs, their subjects, and what "at most once" still keeps.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Command;

use fshipper_testing::{DEADLINE, Fshipper, LogWriter, NatsServer, Subscriber, compare, wait_until};

use crate::subjects::fnv1a32;
use crate::support::{HOST, Pipeline, Scene, length};

fn shipped(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../pipelines").join(name)
}

fn producer(scene: &Scene, server: &NatsServer, log: &LogWriter) -> Fshipper {
    let run = scene.fshipper().argument("run").argument(shipped("producer.toml"));
    run.variable("SHIPPER_FILE", log.path())
        .variable("SHIPPER_SUBJECT", "shipper")
        .variable("NATS_URL", format!("127.0.0.1:{}", server.port()))
}

fn consumer(scene: &Scene, server: &NatsServer) -> Fshipper {
    fs::create_dir_all(scene.path("out")).unwrap();
    let run = scene.fshipper().argument("run").argument(shipped("consumer.toml"));
    run.variable("SHIPPER_SUBJECT", "shipper")
        .variable("SHIPPER_OUTPUT", scene.path("out/logfile"))
        .variable("NATS_URL", format!("127.0.0.1:{}", server.port()))
}

/// What the consumer wrote, in one file a day: two, when midnight passes.
fn written(scene: &Scene) -> Vec<u8> {
    let files = scene.files_below("out");
    files.iter().flat_map(|file| fs::read(scene.path("out").join(file)).unwrap()).collect()
}

fn wait_for_consumer(server: &NatsServer) {
    wait_until(DEADLINE, "the consumer has subscribed", || server.subscribers("shipper") == 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shipped_pair_works_from_the_environment_alone() {
    let (scene, server) = (Scene::new(), NatsServer::core());
    let mut log = scene.log("app.log", 1);
    log.write_lines(500);
    let subscriber = Subscriber::start(&server.url(), "shipper").await;
    let consuming = consumer(&scene, &server).start();
    wait_until(DEADLINE, "the consumer has subscribed too", || server.subscribers("shipper") == 2);
    let producing = producer(&scene, &server, &log).start();
    wait_until(DEADLINE, "the first lines are written", || !scene.files_below("out").is_empty());
    log.write_lines(500);

    let total = length(log.expected());
    wait_until(DEADLINE, "all lines are written", || written(&scene).len() as u64 >= total);
    producing.stop(DEADLINE).expect_code(0);
    consuming.stop(DEADLINE).expect_code(0);

    let files = scene.files_below("out");
    let verdict = compare(log.expected(), files.iter().map(|file| scene.path("out").join(file)));
    assert!(verdict.is_identical(), "{files:?}: {verdict}");
    for name in files {
        let date = name.strip_prefix("logfile-").unwrap();
        assert!(date.len() == 12 && date.ends_with("0000"), "{name}");
    }
    subscriber.wait_for_lines(1_000, DEADLINE).await;
    assert!(subscriber.printed() == fs::read(log.expected()).unwrap(), "a plain subscriber sees other lines");
}

#[test]
fn an_output_with_a_date_of_its_own_names_the_files() {
    let (scene, server) = (Scene::new(), NatsServer::core());
    let mut log = scene.log("app.log", 3);
    log.write_lines(100);
    let output = scene.path("out").join("%Y%m%d.log");
    let consuming = consumer(&scene, &server).variable("SHIPPER_OUTPUT", output).start();
    wait_for_consumer(&server);
    let producing = producer(&scene, &server, &log).start();
    let total = length(log.expected());
    wait_until(DEADLINE, "all lines are written", || written(&scene).len() as u64 >= total);
    producing.stop(DEADLINE).expect_code(0);
    consuming.stop(DEADLINE).expect_code(0);
    assert!(written(&scene) == fs::read(log.expected()).unwrap());
    for name in scene.files_below("out") {
        let day = name.strip_suffix(".log").unwrap();
        assert!(day.len() == 8 && day.bytes().all(|byte| byte.is_ascii_digit()), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_received_is_counted_and_reported() {
    let (scene, server) = (Scene::new(), NatsServer::core());
    let mut log = scene.log("app.log", 5);
    let subscriber = Subscriber::start(&server.url(), "shipper").await;
    let producing = producer(&scene, &server, &log).start();
    let ship = |log: &mut LogWriter| {
        log.write_lines(10);
        let end = fs::read(log.expected()).unwrap().split_off(length(log.expected()) as usize - 100);
        wait_until(DEADLINE, "the last line is written", || written(&scene).ends_with(&end));
    };
    let waiting = || {
        let run = consumer(&scene, &server).start();
        wait_until(DEADLINE, "the consumer has subscribed", || server.subscribers("shipper") == 2);
        run
    };
    let consuming = waiting();
    ship(&mut log);
    consuming.stop(DEADLINE).expect_code(0);

    let before = length(log.expected());
    log.write_lines(10);
    let missing = length(log.expected()) - before;
    subscriber.wait_for_lines(20, DEADLINE).await;
    let consuming = waiting();
    ship(&mut log);
    let said = consuming.stop(DEADLINE).expect_code(0).stderr;
    let error = said.lines().find(|line| line.contains("ERROR") && line.contains(&missing.to_string()));
    assert!(error.is_some(), "{missing} lost bytes are not reported in:\n{said}");
    let losses = fs::read_to_string(scene.path("out/.fshipper/losses.log")).unwrap();
    assert!(losses.contains(&missing.to_string()), "{missing} lost bytes are not in: {losses}");
    producing.stop(DEADLINE).expect_code(0);
}

#[test]
fn a_consumer_that_falls_behind_says_so() {
    let (scene, server) = (Scene::new(), NatsServer::core());
    // Standard output is a pipe that nobody empties; held open at both ends, so that opening it waits for nobody.
    let pipe = scene.path("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let held = File::options().read(true).write(true).open(&pipe).unwrap();
    Pipeline::new().nats(&server.url(), "").table("sink", "stdout", "").write(&scene, "consumer.toml");
    let consuming = scene.run(&["consumer.toml"]).stdout(&pipe).start();
    wait_for_consumer(&server);
    let mut log = scene.log("app.log", 4);
    let producing = producer(&scene, &server, &log).start();
    wait_until(DEADLINE, "the consumer complains", || {
        // More than it holds in memory; it waits a few seconds for room before it drops any of it.
        if length(log.expected()) < 64 << 20 {
            log.write_lines(20_000);
        }
        consuming
            .stderr()
            .contains("messages of `shipper` arrive from NATS faster than they are written: some are dropped")
    });
    producing.stop(DEADLINE).expect_code(0);
    consuming.kill();
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_other_publishers_are_lines() {
    let (scene, server) = (Scene::new(), NatsServer::core());
    let consuming = consumer(&scene, &server).start();
    wait_for_consumer(&server);
    let client = async_nats::connect(server.url()).await.unwrap();
    for payload in ["one", "two\nthree", "", "four"] {
        client.publish("shipper", payload.into()).await.unwrap();
    }
    client.flush().await.unwrap();
    let expected = b"one\ntwo\nthree\n\nfour\n";
    wait_until(DEADLINE, "all lines are written", || written(&scene).len() >= expected.len());
    consuming.stop(DEADLINE).expect_code(0);
    assert_eq!(written(&scene), expected);
}

#[test]
fn goes_on_after_the_server_restarted() {
    let (scene, mut server) = (Scene::new(), NatsServer::core());
    let mut log = scene.log("app.log", 2);
    let consuming = consumer(&scene, &server).start();
    wait_for_consumer(&server);
    let producing = producer(&scene, &server, &log).start();
    for _ in 0..3 {
        log.write_lines(1_000);
        let last = fs::read(log.expected())
            .unwrap()
            .split_inclusive(|&byte| byte == b'\n')
            .next_back()
            .unwrap()
            .to_vec();
        wait_until(DEADLINE, "the last line is written", || written(&scene).ends_with(&last));
        server.restart();
        wait_for_consumer(&server);
    }
    log.write_lines(1);
    let last = log.lines() - 1;
    wait_until(DEADLINE, "the last line is written", || {
        let written = written(&scene);
        written.split(|&byte| byte == b'\n').rev().nth(1).and_then(LogWriter::line_number) == Some(last)
    });
    producing.stop(DEADLINE).expect_code(0);
    consuming.stop(DEADLINE).expect_code(0);
    assert_at_most_once(&written(&scene));
}

/// Whole lines, each at most once, in order.
#[track_caller]
fn assert_at_most_once(output: &[u8]) {
    let mut next = 0;
    for line in output.split_inclusive(|&byte| byte == b'\n') {
        let number = LogWriter::line_number(line);
        let number = number.unwrap_or_else(|| panic!("torn: {}", line.escape_ascii()));
        assert!(number >= next, "line {number} came after line {}", next - 1);
        next = number + 1;
    }
}

#[test]
fn a_consumer_reads_its_partitions_only() {
    let (scene, server) = (Scene::new(), NatsServer::core());
    let mine = fnv1a32(HOST.as_bytes()) % 8;
    let other = (mine + 1) % 8;
    for (name, partition) in [("mine", mine), ("other", other)] {
        let keys = format!("partitions = 8\nread_partitions = [{partition}]");
        let pipeline = Pipeline::new().nats(&server.url(), &keys).rotating_file(&format!("{name}/{{host}}"));
        pipeline.write(&scene, &format!("{name}.toml"));
    }
    let consuming = ["mine.toml", "other.toml"].map(|file| scene.run(&[file]).start());
    for partition in [mine, other] {
        let subject = format!("shipper.p{partition}.>");
        wait_until(DEADLINE, "the consumers have subscribed", || server.subscribers(&subject) == 1);
    }
    let mut log = scene.log("app.log", 4);
    log.write_lines(1_000);
    Pipeline::new().tail("app.log").nats(&server.url(), "partitions = 8").write(&scene, "producer.toml");
    let producing = scene.run(&["producer.toml"]).start();
    scene.assert_arrives(log.expected(), &format!("mine/{HOST}"));
    producing.stop(DEADLINE).expect_code(0);
    for run in consuming {
        run.stop(DEADLINE).expect_code(0);
    }
    assert!(!scene.path(&format!("other/{HOST}")).is_file());
}

#[test]
fn once_is_refused_by_a_receiver_that_has_no_end() {
    let (scene, server) = (Scene::new(), NatsServer::core());
    let finished = consumer(&scene, &server).argument("--once").finish().expect_code(2);
    assert!(finished.stderr.contains("once"), "{}", finished.stderr);
}
