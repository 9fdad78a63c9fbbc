//! The table of subjects that the documentation of the wire format shows, row by row, as plain clients see it.

use std::fs;

use fshipper_testing::{DEADLINE, NatsServer, Subscriber, wait_until};

use crate::support::{HOST, Pipeline, Scene, length};

/// FNV-1a of 64 bits.
fn fnv1a64(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

/// FNV-1a of 32 bits.
pub(crate) fn fnv1a32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, &byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// The subjects of what a producer with these keys publishes of a log with an odd name, without repetitions.
async fn published(keys: &str) -> (Scene, Vec<String>) {
    let (scene, server) = (Scene::new(), NatsServer::jetstream());
    let mut log = scene.log("my app+ü.log", 1);
    log.write_lines(10);
    let subscriber = Subscriber::start(&server.url(), "shipper.>").await;
    let whole = Subscriber::start(&server.url(), "shipper").await;
    Pipeline::new().tail("*.log").nats(&server.url(), keys).write(&scene, "producer.toml");
    scene.run(&["--once", "producer.toml"]).finish().expect_code(0);
    let messages = || [subscriber.messages(), whole.messages()].concat();
    wait_until(DEADLINE, "the lines have come", || !messages().is_empty());
    let mut subjects = messages().iter().map(|message| message.subject.to_string()).collect::<Vec<_>>();
    subjects.dedup();
    (scene, subjects)
}

#[tokio::test(flavor = "multi_thread")]
async fn over_core_nats_a_producer_publishes_to_the_subject_or_the_partition_of_its_host() {
    assert_eq!(published("").await.1, ["shipper"]);
    let partition = fnv1a32(HOST.as_bytes()) % 8;
    assert_eq!(published("partitions = 8").await.1, [format!("shipper.p{partition}.{HOST}")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn into_a_stream_every_log_has_a_subject_of_its_own() {
    let stream = "stream = { name = 'LOGS', create = true }";
    let partition = fnv1a32(HOST.as_bytes()) % 8;
    for (keys, start) in [
        (stream.to_owned(), format!("shipper.{HOST}")),
        (format!("{stream}\npartitions = 8"), format!("shipper.p{partition}.{HOST}")),
    ] {
        let (scene, subjects) = published(&keys).await;
        let path = fs::canonicalize(scene.path("logs")).unwrap().join("my app+ü.log");
        let hash = fnv1a64(path.to_str().unwrap().as_bytes());
        assert_eq!(subjects, [format!("{start}.my=20app=2B=C3=BC=2Elog-{hash:016x}")]);
    }
}

/// Publishes a line, its own subject, to each of these subjects.
async fn publish(server: &NatsServer, subjects: &[&str]) {
    let client = async_nats::connect(server.url()).await.unwrap();
    for subject in subjects {
        client.publish((*subject).to_owned(), (*subject).to_owned().into()).await.unwrap();
    }
    client.flush().await.unwrap();
}

/// The lines below `out/` by file, once there are `count` of them.
#[track_caller]
fn written(scene: &Scene, count: usize) -> Vec<(String, String)> {
    let read = || {
        let files = scene.files_below("out").into_iter();
        let lines = files.flat_map(|file| {
            let text = fs::read_to_string(scene.path("out").join(&file)).unwrap();
            text.lines().map(|line| (file.clone(), line.to_owned())).collect::<Vec<_>>()
        });
        lines.collect::<Vec<_>>()
    };
    wait_until(DEADLINE, "all lines are written", || scene.path("out").is_dir() && read().len() >= count);
    read()
}

fn pair(host: &str, line: &str) -> (String, String) {
    (host.to_owned(), line.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn over_core_nats_a_consumer_reads_what_the_original_published() {
    let (scene, server) = (Scene::new(), NatsServer::core());
    let keys = "partitions = 8\nread_partitions = [1, 3]";
    Pipeline::new().nats(&server.url(), keys).rotating_file("out/{host}").write(&scene, "consumer.toml");
    let consuming = scene.run(&["consumer.toml"]).start();
    for subject in ["shipper.p1.>", "shipper.p3.>"] {
        wait_until(DEADLINE, "the consumer has subscribed", || server.subscribers(subject) == 1);
    }
    publish(&server, &["shipper", "shipper.p2.web2", "shipper.p1.web1.example.net", "shipper.p3.web3"]).await;
    let lines = [pair("web1.example.net", "shipper.p1.web1.example.net"), pair("web3", "shipper.p3.web3")];
    assert_eq!(written(&scene, 2), lines);
    consuming.stop(DEADLINE).expect_code(0);
    assert_eq!(written(&scene, 2), lines);
}

#[tokio::test(flavor = "multi_thread")]
async fn from_a_stream_a_consumer_reads_the_subject_and_all_below_it() {
    let (scene, server) = (Scene::new(), NatsServer::jetstream());
    Pipeline::new().jetstream(&server.url()).rotating_file("out/{host}").write(&scene, "consumer.toml");
    let keys = "stream = { name = 'LOGS' }\npartitions = 8\nread_partitions = [1]";
    let mine = Pipeline::new().nats(&server.url(), keys).rotating_file("mine/{host}");
    mine.write(&scene, "mine.toml");
    // Makes the stream.
    scene.run(&["--once", "consumer.toml"]).finish().expect_code(0);
    publish(&server, &["shipper", "shipper.web1.app", "shipper.p1.web2.app", "other"]).await;
    let jetstream = async_nats::jetstream::new(async_nats::connect(server.url()).await.unwrap());
    let mut stream = jetstream.get_stream("LOGS").await.unwrap();
    assert_eq!(stream.info().await.unwrap().config.subjects, ["shipper", "shipper.>"]);
    assert_eq!(stream.info().await.unwrap().state.messages, 3);

    scene.run(&["--once", "consumer.toml"]).finish().expect_code(0);
    let mut lines = written(&scene, 3).into_iter().map(|(_, line)| line).collect::<Vec<_>>();
    lines.sort();
    assert_eq!(lines, ["shipper", "shipper.p1.web2.app", "shipper.web1.app"]);
    scene.run(&["--once", "mine.toml"]).finish().expect_code(0);
    assert_eq!(scene.files_below("mine"), ["web2"]);
    assert_eq!(length(&scene.path("mine/web2")), "shipper.p1.web2.app\n".len() as u64);
}
