//! `file_tail` → JetStream → `rotating_file`: exactly once, in order.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use fshipper_testing::{DEADLINE, NatsOptions, NatsServer, wait_until};

use tokio::sync::watch;

use crate::relay::{Relay, Watcher};
use crate::support::{HOST, Pipeline, Scene, assert_identical, length};

const OUTPUT: &str = "out/web1.example.net.log";

/// For what moves hundreds of megabytes through debug builds on a loaded machine.
const LONG_DEADLINE: Duration = Duration::from_secs(240);

fn write_pair(scene: &Scene, url: &str) {
    Pipeline::new().tail("app.log*").jetstream(url).write(scene, "producer.toml");
    Pipeline::new().jetstream(url).rotating_file("out/{host}.log").write(scene, "consumer.toml");
}

#[test]
fn a_million_lines_through_ten_rotations_and_two_server_kills() {
    let scene = Scene::new();
    let mut server = NatsServer::jetstream();
    write_pair(&scene, &server.url());
    let mut log = scene.log("app.log", 1);
    let running = ["consumer.toml", "producer.toml"].map(|file| scene.run(&[file]).start());
    for rotation in 0..10 {
        log.write_lines(100_000);
        if rotation == 3 || rotation == 7 {
            let some = length(&scene.path(OUTPUT)) + 1;
            wait_until(LONG_DEADLINE, "lines are on their way", || length(&scene.path(OUTPUT)) >= some);
            server.restart();
        }
        log.rotate_numbered();
    }
    assert_eq!(log.lines(), 1_000_000);
    let (output, total) = (scene.path(OUTPUT), length(log.expected()));
    wait_until(LONG_DEADLINE, "a million lines have arrived", || length(&output) >= total);
    for run in running {
        run.stop(DEADLINE).expect_code(0);
    }
    assert_identical(log.expected(), &output);
}

#[test]
fn once_ships_from_end_to_end_and_back_to_where_it_was() {
    let scene = Scene::new();
    let server = NatsServer::jetstream();
    write_pair(&scene, &server.url());
    let mut log = scene.log("app.log", 2);
    for _ in 0..2 {
        log.write_lines(3_000);
        scene.run(&["--once", "producer.toml"]).finish().expect_code(0);
        scene.run(&["--once", "consumer.toml"]).finish().expect_code(0);
        assert_identical(log.expected(), &scene.path(OUTPUT));
    }
}

/// Keeps back all that the server says after it has acknowledged something, and counts what is published then.
#[derive(Default)]
struct FirstAcknowledgement {
    held: watch::Sender<bool>,
    is_over: AtomicBool,
    published: AtomicU64,
}

impl FirstAcknowledgement {
    fn end(&self) {
        self.is_over.store(true, Relaxed);
        self.held.send_replace(false);
    }
}

impl Watcher for FirstAcknowledgement {
    fn asked(&self, line: &mut [u8]) {
        if line.starts_with(b"HPUB shipper.") && *self.held.borrow() {
            self.published.fetch_add(1, Relaxed);
        }
    }

    fn answered(&self, line: &[u8]) {
        let says = |text: &[u8]| line.windows(text.len()).any(|window| window == text);
        // Of a batch that has only begun nothing is acknowledged.
        if !says(br#""seq":0,"#) && (says(br#"{"type":"ack","#) || says(br#"{"stream":"LOGS","#)) {
            self.held.send_replace(!self.is_over.load(Relaxed));
        }
    }

    fn held(&self) -> watch::Receiver<bool> {
        self.held.subscribe()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_do_not_wait_for_the_acknowledgement_of_those_before_them() {
    let (scene, server) = (Scene::new(), NatsServer::jetstream());
    let first = Arc::new(FirstAcknowledgement::default());
    let relay = Relay::start(server.address(), first.clone()).await;
    let keys = "framing = 'line'\nstream = { name = 'LOGS', create = true }";
    Pipeline::new().tail("app.log*").nats(&relay.url(), keys).write(&scene, "producer.toml");
    Pipeline::new().jetstream(&server.url()).rotating_file("out/{host}.log").write(&scene, "consumer.toml");
    let mut log = scene.log("app.log", 4);
    log.write_lines(20_000);
    let running = ["producer.toml", "consumer.toml"].map(|file| scene.run(&[file]).start());
    // Whatever the round trip takes: so many times as fast as one line after the other, on a long line.
    wait_until(DEADLINE, "lines are under way", || first.published.load(Relaxed) >= 20);
    first.end();
    scene.assert_arrives(log.expected(), OUTPUT);
    for run in running {
        run.stop(DEADLINE).expect_code(0);
    }
    assert_identical(log.expected(), &scene.path(OUTPUT));
}

/// Ships logs of odd bytes with `--once` through one process with both ends, twice.
#[track_caller]
fn check_both_ends(transport: impl Fn(Pipeline) -> Pipeline) {
    let scene = Scene::new();
    let endless = [vec![b'y'; 3_000_000], b"\nnext\n".to_vec()].concat();
    let odd: [(&str, &[u8]); 5] = [
        ("bytes.log", b"a\0b\r\n\xff\xfe\n\n\nlast\n"),
        ("endless.log", &endless),
        ("empty.log", b""),
        ("unfinished.log", b"one\nhalf a line"),
        ("odd \u{e4} name.log", b"one\n"),
    ];
    for (name, bytes) in odd {
        scene.write(&format!("logs/{name}"), bytes);
    }
    let mut log = scene.log("app.log", 3);
    transport(Pipeline::new().tail("*.log")).rotating_file("out/{file}").write(&scene, "both.toml");
    for _ in 0..2 {
        log.write_lines(5_000);
        scene.run(&["--once", "both.toml"]).finish().expect_code(0);
        assert_identical(log.expected(), &scene.path("out/app.log"));
    }
    for (name, bytes) in odd.into_iter().filter(|(_, bytes)| !bytes.is_empty()) {
        let arrived =
            scene.files_below("out").into_iter().map(|file| fs::read(scene.path("out").join(file)).unwrap());
        assert_eq!(arrived.filter(|arrived| arrived == bytes).count(), 1, "{name} did not arrive unchanged");
    }
}

const STREAM: &str = "stream = { name = 'LOGS', create = true }";

#[test]
fn both_ends_in_one_process() {
    let server = NatsServer::jetstream();
    check_both_ends(|pipeline| pipeline.nats(&server.url(), STREAM));
}

#[test]
fn both_ends_over_memory() {
    check_both_ends(|pipeline| pipeline.table("transport", "memory", ""));
}

#[test]
fn one_line_per_message() {
    let server = NatsServer::jetstream();
    check_both_ends(|pipeline| pipeline.nats(&server.url(), &format!("framing = 'line'\n{STREAM}")));
}

#[test]
fn compressed_batches() {
    let server = NatsServer::jetstream();
    check_both_ends(|pipeline| pipeline.nats(&server.url(), &format!("compression = 'zstd'\n{STREAM}")));
}

#[test]
fn partitions() {
    let server = NatsServer::jetstream();
    check_both_ends(|pipeline| pipeline.nats(&server.url(), &format!("partitions = 4\n{STREAM}")));
}

#[test]
fn a_server_that_takes_only_small_messages() {
    let config_extra = "max_payload: 8KB".to_owned();
    let server = NatsServer::start(NatsOptions { jetstream: true, config_extra, ..NatsOptions::default() });
    check_both_ends(|pipeline| pipeline.nats(&server.url(), STREAM));
}

#[test]
fn a_server_that_starts_late_gets_everything() {
    let scene = Scene::new();
    let mut server = NatsServer::jetstream();
    write_pair(&scene, &server.url());
    server.stop();
    let mut log = scene.log("app.log", 4);
    log.write_lines(1_000);
    let running = ["producer.toml", "consumer.toml"].map(|file| scene.run(&[file]).start());
    wait_until(DEADLINE, "both have said that nobody answers", || {
        running.iter().all(|run| run.stderr().contains(&server.port().to_string()))
    });
    server.restart();
    scene.assert_arrives(log.expected(), OUTPUT);
    for run in running {
        run.stop(DEADLINE).expect_code(0);
    }
}

#[test]
fn a_stop_while_the_server_is_down_exits_0_in_time() {
    let scene = Scene::new();
    let mut server = NatsServer::jetstream();
    let url = server.url();
    Pipeline::with("drain_timeout = '500ms'").tail("*.log").jetstream(&url).write(&scene, "producer.toml");
    let mut log = scene.log("app.log", 5);
    log.write_lines(100);
    let run = scene.run(&["producer.toml"]).start();
    let store = server.store_dir();
    wait_until(DEADLINE, "the stream is there", || store.join("jetstream/$G/streams/LOGS").is_dir());
    server.kill();
    log.write_lines(1_000);
    run.stop(DEADLINE).expect_code(0);

    // Nothing is lost by that.
    server.restart();
    Pipeline::new().jetstream(&url).rotating_file("out/{host}.log").write(&scene, "consumer.toml");
    scene.run(&["--once", "producer.toml"]).finish().expect_code(0);
    scene.run(&["--once", "consumer.toml"]).finish().expect_code(0);
    assert_identical(log.expected(), &scene.path(OUTPUT));
}

#[test]
fn a_lost_state_directory_is_rebuilt_from_the_stream() {
    let scene = Scene::new();
    let server = NatsServer::jetstream();
    write_pair(&scene, &server.url());
    let mut log = scene.log("app.log", 6);
    for _ in 0..2 {
        log.write_lines(1_000);
        scene.run(&["--once", "producer.toml"]).finish().expect_code(0);
        fs::remove_dir_all(scene.path(".local")).unwrap();
    }
    scene.run(&["--once", "consumer.toml"]).finish().expect_code(0);
    assert_identical(log.expected(), &scene.path(OUTPUT));
}

#[test]
fn a_stream_deleted_and_made_again_is_read_from_its_start() {
    let scene = Scene::new();
    let mut server = NatsServer::jetstream();
    write_pair(&scene, &server.url());
    let mut log = scene.log("app.log", 7);
    for _ in 0..2 {
        log.write_lines(1_000);
        scene.run(&["--once", "producer.toml"]).finish().expect_code(0);
        scene.run(&["--once", "consumer.toml"]).finish().expect_code(0);
        assert_identical(log.expected(), &scene.path(OUTPUT));
        server.stop();
        fs::remove_dir_all(server.store_dir()).unwrap();
        server.restart();
    }
    // The producer starts again at its oldest byte, and the sink has it all already.
    scene.run(&["--once", "producer.toml"]).finish().expect_code(0);
    scene.run(&["--once", "consumer.toml"]).finish().expect_code(0);
    assert_identical(log.expected(), &scene.path(OUTPUT));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_stream_makes_the_producer_wait_and_nothing_is_lost() {
    let scene = Scene::new();
    let server = NatsServer::jetstream();
    let stream = "stream = { name = 'LOGS', create = true, max_bytes = '1MiB' }";
    let pipeline = Pipeline::with("max_batch_bytes = '100KB'").tail("app.log*").nats(&server.url(), stream);
    pipeline.write(&scene, "producer.toml");
    Pipeline::new().jetstream(&server.url()).rotating_file("out/{host}.log").write(&scene, "consumer.toml");
    let mut log = scene.log("app.log", 9);
    log.write_lines(15_000);
    let producing = scene.run(&["producer.toml"]).start();
    let jetstream = async_nats::jetstream::new(async_nats::connect(server.url()).await.unwrap());
    let (output, total) = (scene.path(OUTPUT), length(log.expected()));
    let mut rounds = 0;
    while length(&output) < total {
        scene.run(&["--once", "consumer.toml"]).finish().expect_code(0);
        rounds += 1;
        assert!(rounds < 1_000, "{} of {total} bytes arrived", length(&output));
        // An operator who makes room: what the consumer read before this moment may go.
        let Ok(mut stream) = jetstream.get_stream("LOGS").await else { continue };
        let last = stream.info().await.unwrap().state.last_sequence;
        scene.run(&["--once", "consumer.toml"]).finish().expect_code(0);
        stream.purge().sequence(last + 1).await.unwrap();
    }
    assert!(rounds > 1, "the stream was never full");
    producing.stop(DEADLINE).expect_code(0);
    assert_identical(log.expected(), &output);
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_of_other_publishers_become_files_of_their_host() {
    let scene = Scene::new();
    let server = NatsServer::jetstream();
    write_pair(&scene, &server.url());
    // The stream is made by whoever comes first.
    scene.run(&["--once", "consumer.toml"]).finish().expect_code(0);
    let jetstream = async_nats::jetstream::new(async_nats::connect(server.url()).await.unwrap());
    for payload in ["one", "two", "two", "three\nfour"] {
        let stored = jetstream.publish("shipper.db7.app", payload.into()).await.unwrap();
        stored.await.unwrap();
    }
    for _ in 0..2 {
        scene.run(&["--once", "consumer.toml"]).finish().expect_code(0);
        let files = scene.files_below("out");
        assert_eq!(files.len(), 1, "{files:?}");
        assert!(files[0].starts_with("db7"), "{files:?}");
        assert_eq!(fs::read(scene.path("out").join(&files[0])).unwrap(), b"one\ntwo\ntwo\nthree\nfour\n");
    }
}

#[test]
fn the_shipped_pair_works_from_the_environment_alone() {
    let scene = Scene::new();
    let server = NatsServer::jetstream();
    let mut log = scene.log("app.log", 8);
    log.write_lines(1_000);
    for file in ["jetstream-producer.toml", "jetstream-consumer.toml"] {
        let pipeline = format!("{}/../../pipelines/{file}", env!("CARGO_MANIFEST_DIR"));
        let run = scene.run(&["--once", &pipeline]).variable("NATS_URL", server.address().to_string());
        let run = run.variable("SHIPPER_FILE", log.path()).variable("SHIPPER_OUTPUT", scene.path("out"));
        run.finish().expect_code(0);
    }
    let files = scene.files_below("out");
    assert!(files.iter().all(|file| file.starts_with(&format!("{HOST}/app.log."))), "{files:?}");
    let verdict =
        fshipper_testing::compare(log.expected(), files.iter().map(|file| scene.path("out").join(file)));
    assert!(verdict.is_identical(), "{files:?}: {verdict}");
}

#[test]
fn check_connect_says_what_it_found() {
    let scene = Scene::new();
    let mut server = NatsServer::jetstream();
    write_pair(&scene, &server.url());
    let check = scene.fshipper().arguments(["check", "--connect", "consumer.toml"]);
    let printed = String::from_utf8(check.finish().expect_code(0).stdout).unwrap();
    for line in ["ok: connected to nats-server", "ok: messages of at most 1048576 bytes"] {
        assert!(printed.contains(line), "`{line}` is missing in:\n{printed}");
    }
    let transport = "stream = { name = 'ABSENT' }";
    Pipeline::new().tail("*.log").nats(&server.url(), transport).write(&scene, "absent.toml");
    let finished = scene.fshipper().arguments(["check", "--connect", "absent.toml"]).finish().expect_code(1);
    assert!(finished.stderr.contains("ABSENT"), "{}", finished.stderr);
    server.stop();
    let finished = check.finish().expect_code(1);
    assert!(finished.stderr.contains(&server.port().to_string()), "{}", finished.stderr);
}
