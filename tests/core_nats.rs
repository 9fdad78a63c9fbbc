//! Core NATS: the environment of the original programs, their subjects, and what "at most once" still keeps.

use std::fs;
use std::path::PathBuf;

use fshipper_testing::{DEADLINE, Fshipper, LogWriter, NatsServer, Subscriber, wait_until};

use crate::support::{HOST, Pipeline, Scene, assert_identical, length};

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

/// The one file below `out/`. Midnight makes a second one: then the test is run again by hand.
fn output(scene: &Scene) -> PathBuf {
    let files = scene.files_below("out");
    assert_eq!(files.len(), 1, "{files:?}");
    scene.path("out").join(&files[0])
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
    wait_until(DEADLINE, "all lines are written", || length(&output(&scene)) >= total);
    producing.stop(DEADLINE).expect_code(0);
    consuming.stop(DEADLINE).expect_code(0);

    let output = output(&scene);
    assert_identical(log.expected(), &output);
    let name = output.file_name().unwrap().to_string_lossy().into_owned();
    let date = name.strip_prefix("logfile-").unwrap();
    assert!(date.len() == 12 && date.ends_with("0000"), "{name}");
    subscriber.wait_for_lines(1_000, DEADLINE).await;
    assert!(subscriber.printed() == fs::read(log.expected()).unwrap(), "a plain subscriber sees other lines");
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
    wait_until(DEADLINE, "all lines are written", || {
        !scene.files_below("out").is_empty() && length(&output(&scene)) >= expected.len() as u64
    });
    consuming.stop(DEADLINE).expect_code(0);
    assert_eq!(fs::read(output(&scene)).unwrap(), expected);
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
        wait_until(DEADLINE, "the last line is written", || {
            !scene.files_below("out").is_empty() && fs::read(output(&scene)).unwrap().ends_with(&last)
        });
        server.restart();
        wait_for_consumer(&server);
    }
    log.write_lines(1);
    let last = log.lines() - 1;
    wait_until(DEADLINE, "the last line is written", || {
        let written = fs::read(output(&scene)).unwrap();
        written.split(|&byte| byte == b'\n').rev().nth(1).and_then(LogWriter::line_number) == Some(last)
    });
    producing.stop(DEADLINE).expect_code(0);
    consuming.stop(DEADLINE).expect_code(0);
    assert_at_most_once(&fs::read(output(&scene)).unwrap());
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

#[tokio::test(flavor = "multi_thread")]
async fn a_partitioned_producer_publishes_where_the_original_did() {
    let (scene, server) = (Scene::new(), NatsServer::core());
    let mut log = scene.log("app.log", 3);
    log.write_lines(10);
    let subscriber = Subscriber::start(&server.url(), ">").await;
    Pipeline::new().tail("app.log").nats(&server.url(), "partitions = 8").write(&scene, "producer.toml");
    let producing = scene.run(&["producer.toml"]).start();
    subscriber.wait_for_lines(10, DEADLINE).await;
    producing.stop(DEADLINE).expect_code(0);
    let subject = format!("shipper.p{}.{HOST}", fnv1a32(HOST.as_bytes()) % 8);
    let lines = subscriber.messages().into_iter().filter(|message| message.subject.starts_with("shipper"));
    for message in lines {
        assert_eq!(message.subject.as_str(), subject);
    }
}

fn fnv1a32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, &byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
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
