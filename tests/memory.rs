//! Memory stays flat, however long the backlog is. A bound, not a measurement of time.

use std::time::Duration;

use fshipper_testing::{DEADLINE, NatsServer, Running, wait_until};

use crate::support::{HOST, Pipeline, Scene, assert_identical, length};

/// What each side may hold at most at any moment: ARCHITECTURE.md promises it.
const MOST_KIB: u64 = 32 << 10;

/// About 250 MB: eight times what may be held.
const LINES: u64 = 1_400_000;

const LONG_DEADLINE: Duration = Duration::from_secs(240);

#[track_caller]
fn assert_flat(who: &str, run: &Running) {
    let peak = run.peak_memory_kib().expect("it still runs");
    println!("{who}: {peak} KiB at most");
    assert!(peak <= MOST_KIB, "{who} held {peak} KiB of the {MOST_KIB} KiB it may hold");
}

#[test]
fn a_backlog_far_larger_than_the_bound_is_shipped_within_it() {
    let scene = Scene::new();
    let server = NatsServer::jetstream();
    Pipeline::new().tail("*.log").jetstream(&server.url()).write(&scene, "producer.toml");
    let consumer = Pipeline::new().jetstream(&server.url()).rotating_file("out/{host}.log");
    consumer.write(&scene, "consumer.toml");
    let mut log = scene.log("app.log", 1);
    log.write_lines(LINES);

    let [consuming, producing] = ["consumer.toml", "producer.toml"].map(|file| scene.run(&[file]).start());
    let (output, total) = (scene.path(&format!("out/{HOST}.log")), length(log.expected()));
    wait_until(LONG_DEADLINE, "the backlog has arrived", || length(&output) >= total);
    assert_flat("the producer", &producing);
    assert_flat("the consumer", &consuming);
    producing.stop(DEADLINE).expect_code(0);
    consuming.stop(DEADLINE).expect_code(0);
    assert_identical(log.expected(), &output);
}

#[test]
fn a_local_backlog_is_shipped_within_the_bound() {
    let scene = Scene::new();
    Pipeline::new().tail("*.log").rotating_file("out/{host}.log").write(&scene, "local.toml");
    let mut log = scene.log("app.log", 2);
    log.write_lines(LINES);
    let run = scene.run(&["local.toml"]).start();
    let (output, total) = (scene.path(&format!("out/{HOST}.log")), length(log.expected()));
    wait_until(LONG_DEADLINE, "the backlog has arrived", || length(&output) >= total);
    assert_flat("the pipeline", &run);
    run.stop(DEADLINE).expect_code(0);
    assert_identical(log.expected(), &output);
}
