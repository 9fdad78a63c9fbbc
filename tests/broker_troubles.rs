//! What brokers, networks and other people's clients do to a pipeline over a stream.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use async_nats::HeaderMap;
use fshipper_testing::{DEADLINE, NatsOptions, NatsServer, Proxy, wait_until};

use crate::relay::{Relay, Watcher};
use crate::support::{Pipeline, Scene, assert_identical};
use crate::surroundings::SmallDisk;

const OUTPUT: &str = "out/web1.example.net.log";

/// How many requests of a consumer wait at the server.
const MOST_REQUESTS_AT_ONCE: usize = 4;

fn write_pair(scene: &Scene, producer_url: &str, consumer_url: &str) {
    Pipeline::new().tail("app.log*").jetstream(producer_url).write(scene, "producer.toml");
    let consumer = Pipeline::new().jetstream(consumer_url).rotating_file("out/{host}.log");
    consumer.write(scene, "consumer.toml");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_deleted_while_both_ends_run_is_made_again_and_nothing_is_lost() {
    let (scene, server) = (Scene::new(), NatsServer::jetstream());
    write_pair(&scene, &server.url(), &server.url());
    let mut log = scene.log("app.log", 1);
    log.write_lines(1_000);
    let running = ["producer.toml", "consumer.toml"].map(|file| scene.run(&[file]).start());
    scene.assert_arrives(log.expected(), OUTPUT);
    let jetstream = async_nats::jetstream::new(async_nats::connect(server.url()).await.unwrap());
    for _ in 0..2 {
        jetstream.delete_stream("LOGS").await.unwrap();
        log.write_lines(1_000);
        scene.assert_arrives(log.expected(), OUTPUT);
    }
    for run in running {
        run.stop(DEADLINE).expect_code(0);
    }
    assert_identical(log.expected(), &scene.path(OUTPUT));
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_only_one_side_knows_of_are_given_up() {
    let (scene, server) = (Scene::new(), NatsServer::jetstream());
    let near_producer = Proxy::start(server.address()).await;
    let near_consumer = Proxy::start(server.address()).await;
    write_pair(&scene, &near_producer.url(), &near_consumer.url());
    let mut log = scene.log("app.log", 1);
    log.write_lines(1_000);
    let running = ["producer.toml", "consumer.toml"].map(|file| scene.run(&[file]).start());
    scene.assert_arrives(log.expected(), OUTPUT);
    near_producer.abandon();
    near_consumer.abandon();
    log.write_lines(1_000);
    scene.assert_arrives(log.expected(), OUTPUT);
    for run in running {
        run.stop(DEADLINE).expect_code(0);
    }
    assert_identical(log.expected(), &scene.path(OUTPUT));
}

/// Makes the requests of a consumer end sixty times as soon, so that it need not be idle for a minute.
#[derive(Default)]
struct Hurry {
    connections: AtomicUsize,
    requests: AtomicUsize,
}

impl Watcher for Hurry {
    fn asked(&self, line: &mut [u8]) {
        for (text, shorter) in [
            (r#""expires":30000000000,"#, r#""expires":500000000  ,"#),
            (r#""idle_heartbeat":5000000000,"#, r#""idle_heartbeat":100000000 ,"#),
        ] {
            let Some(at) = line.windows(text.len()).position(|window| window == text.as_bytes()) else {
                return;
            };
            line[at..][..text.len()].copy_from_slice(shorter.as_bytes());
        }
        self.requests.fetch_add(1, Relaxed);
    }

    fn connected(&self) {
        self.connections.fetch_add(1, Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_was_idle_for_several_requests_gets_the_next_line_without_a_new_connection() {
    let (scene, server) = (Scene::new(), NatsServer::jetstream());
    let hurry = Arc::new(Hurry::default());
    let relay = Relay::start(server.address(), hurry.clone()).await;
    write_pair(&scene, &server.url(), &relay.url());
    let mut log = scene.log("app.log", 1);
    log.write_lines(100);
    let running = ["producer.toml", "consumer.toml"].map(|file| scene.run(&[file]).start());
    scene.assert_arrives(log.expected(), OUTPUT);
    // Each follows one that has ended without a message, and the server ends them together.
    let connections = hurry.connections.load(Relaxed);
    let enough = hurry.requests.load(Relaxed) + 4 * MOST_REQUESTS_AT_ONCE;
    wait_until(DEADLINE, "several requests have ended", || hurry.requests.load(Relaxed) >= enough);
    log.write_lines(1);
    scene.assert_arrives(log.expected(), OUTPUT);
    assert_eq!(hurry.connections.load(Relaxed), connections);
    for run in running {
        let said = run.stop(DEADLINE).expect_code(0).stderr;
        assert!(!said.contains("WARN") && !said.contains("ERROR"), "{said}");
    }
}

#[test]
fn a_broker_whose_disk_is_full_makes_the_producer_wait() {
    let scene = Scene::new();
    let Some(disk) = SmallDisk::mount(&scene, "store", "8m") else { return };
    let store_dir = Some(scene.path("store/data"));
    let options = NatsOptions { jetstream: true, store_dir, ..NatsOptions::default() };
    let mut server = NatsServer::start(options);
    write_pair(&scene, &server.url(), &server.url());
    let mut log = scene.log("app.log", 1);
    log.write_lines(100);
    let running = ["producer.toml", "consumer.toml"].map(|file| scene.run(&[file]).start());
    scene.assert_arrives(log.expected(), OUTPUT);
    disk.fill();
    log.write_lines(20_000);
    wait_until(DEADLINE, "the server cannot store anything", || {
        server.log().contains("no space left on device")
    });
    wait_until(DEADLINE, "an operator is told", || running[0].stderr().contains("is its disk full"));
    disk.make_room();
    // A server that could not write may take nothing until it is started again.
    server.restart();
    scene.assert_arrives(log.expected(), OUTPUT);
    for run in running {
        run.stop(DEADLINE).expect_code(0);
    }
    assert_identical(log.expected(), &scene.path(OUTPUT));
    // Before its disk is.
    drop(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_with_impossible_offsets_holds_its_log_alone() {
    let (scene, server) = (Scene::new(), NatsServer::jetstream());
    write_pair(&scene, &server.url(), &server.url());
    scene.run(&["--once", "consumer.toml"]).finish().expect_code(0);
    let client = async_nats::connect(server.url()).await.unwrap();
    let (start, end) = (u64::MAX - 4, u64::MAX);
    let mut headers = HeaderMap::new();
    // The CRC-32C of "one\n".
    let header = format!("v=1 epoch=0000000000000001 start={start} end={end} crc=a2379c0d host=liar path=/f");
    headers.insert("Fs-Batch", header);
    client.publish_with_headers("shipper", headers, "one".into()).await.unwrap();
    client.flush().await.unwrap();
    let mut log = scene.log("app.log", 1);
    log.write_lines(1_000);
    let running = ["producer.toml", "consumer.toml"].map(|file| scene.run(&[file]).start());
    scene.assert_arrives(log.expected(), OUTPUT);
    log.write_lines(1_000);
    scene.assert_arrives(log.expected(), OUTPUT);
    let said: String = running.into_iter().map(|run| run.stop(DEADLINE).expect_code(0).stderr).collect();
    assert!(!said.contains("panicked"), "{said}");
    assert!(said.contains("liar"), "{said}");
}

#[test]
fn a_login_that_starts_to_work_is_used_without_a_restart() {
    let scene = Scene::new();
    let authorization = |password: &str| format!("authorization: {{ user: alice, password: {password} }}");
    let config_extra = authorization("old");
    let mut server =
        NatsServer::start(NatsOptions { jetstream: true, config_extra, ..NatsOptions::default() });
    let address = server.address();
    let url = format!("nats://alice:new@{address}");
    write_pair(&scene, &url, &url);
    let mut log = scene.log("app.log", 1);
    log.write_lines(100);
    let running = ["producer.toml", "consumer.toml"].map(|file| scene.run(&[file]).start());
    for run in &running {
        wait_until(DEADLINE, "it says that the login is refused", || {
            run.stderr().contains("the server does not accept this login")
        });
    }
    server.set_config_extra(authorization("new"));
    server.restart();
    scene.assert_arrives(log.expected(), OUTPUT);
    for run in running {
        let said = run.stop(DEADLINE).expect_code(0).stderr;
        assert!(!said.contains("alice:new"), "a password is shown:\n{said}");
    }
}

#[test]
fn a_broker_that_sleeps_for_seconds_is_waited_for() {
    let scene = Scene::new();
    let mut server = NatsServer::jetstream();
    write_pair(&scene, &server.url(), &server.url());
    let mut log = scene.log("app.log", 1);
    log.write_lines(1_000);
    let running = ["producer.toml", "consumer.toml"].map(|file| scene.run(&[file]).start());
    scene.assert_arrives(log.expected(), OUTPUT);
    server.pause();
    for _ in 0..2 {
        log.write_lines(1_000);
        std::thread::sleep(Duration::from_secs(1));
    }
    log.rotate_numbered();
    log.write_lines(1_000);
    server.resume();
    scene.assert_arrives(log.expected(), OUTPUT);
    for run in running {
        run.stop(DEADLINE).expect_code(0);
    }
    assert_identical(log.expected(), &scene.path(OUTPUT));
}
