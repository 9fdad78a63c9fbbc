//! Several servers that keep one stream, and die one after the other.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use fshipper_testing::{DEADLINE, NatsCluster, wait_until};

use crate::support::{Pipeline, Scene, assert_identical, length};

const OUTPUT: &str = "out/web1.example.net.log";

/// How fast the log grows, and how far: a program that logs a few thousand lines a second, for minutes at most.
const PAUSE: Duration = Duration::from_millis(10);
const MOST_WRITES: usize = 12_000;

#[test]
fn leaders_killed_under_load_cost_nothing() {
    let (scene, mut cluster) = (Scene::new(), NatsCluster::start(3));
    let servers = cluster.urls();
    let pipeline =
        || Pipeline::new().nats(&servers, "stream = { name = 'LOGS', create = true, replicas = 3 }");
    pipeline()
        .table("source", "file_tail", "include = 'logs/app.log*'\nrotate_wait = '1s'")
        .write(&scene, "producer.toml");
    pipeline().rotating_file("out/{host}.log").write(&scene, "consumer.toml");
    let mut log = scene.log("app.log", 1);
    log.write_lines(100);
    let running = ["producer.toml", "consumer.toml"].map(|file| scene.run(&[file]).start());
    scene.assert_arrives(log.expected(), OUTPUT);

    let is_over = AtomicBool::new(false);
    let (expected, output) = (log.expected().to_owned(), scene.path(OUTPUT));
    let log = thread::scope(|scope| {
        let writing = scope.spawn(|| {
            // It ends by itself, also when the test has failed.
            for _ in 0..MOST_WRITES {
                if is_over.load(Ordering::Relaxed) {
                    break;
                }
                log.write_lines(50);
                thread::sleep(PAUSE);
            }
            log
        });
        let mut killed = Vec::new();
        for _ in 0..2 {
            let there = length(&output);
            wait_until(DEADLINE, "lines arrive", || length(&output) > there);
            let leader = cluster.leader_of("LOGS");
            cluster.server(leader).kill();
            let written = length(&expected);
            wait_until(DEADLINE, "what was written after the kill arrives", || length(&output) > written);
            // The next one dies while this one may still catch up.
            cluster.server(leader).restart();
            killed.push(leader);
        }
        is_over.store(true, Ordering::Relaxed);
        println!("killed: {killed:?}");
        writing.join().unwrap()
    });
    scene.assert_arrives(log.expected(), OUTPUT);
    for run in running {
        run.stop(DEADLINE).expect_code(0);
    }
    assert_identical(log.expected(), &scene.path(OUTPUT));
}
