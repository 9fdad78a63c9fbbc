//! SIGKILL, cuts and pauses at random moments, while a program logs and rotates: what arrives is byte-identical
//! all the same.
//!
//! A schedule comes from a seed, which is printed; the moments within it are the machine's.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use flate2::read::MultiGzDecoder;
use fshipper_testing::{
    DEADLINE, Direction, Fshipper, LogWriter, NatsServer, Proxy, Running, compare, wait_until,
};

use crate::support::{HOST, Pipeline, Scene, assert_identical, seeded};

/// How long a process may live before something happens to it: long enough to open and commit a few times,
/// short enough to be hit while it still opens.
const LIFE_MILLISECONDS: std::ops::Range<u64> = 5..600;

/// One in so many writes is followed by a rotation, or ends in the middle of a line.
const WRITES_TO_AN_EVENT: u32 = 60;

/// Writes steadily, rotates now and then, while `faults` happen.
fn writing(log: &mut LogWriter, random: &mut Rng, faults: impl FnOnce(&mut Rng)) {
    /// Ends the writing when the faults are over, and when they panic.
    struct Over<'a>(&'a AtomicBool);
    impl Drop for Over<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    let over = AtomicBool::new(false);
    let mut writer_random = random.fork();
    thread::scope(|scope| {
        let is_over = &over;
        scope.spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                log.write_lines(writer_random.u64(0..150));
                match writer_random.u32(..2 * WRITES_TO_AN_EVENT) {
                    0 => log.rotate_numbered(),
                    1 => log.write_half_line(),
                    _ => {}
                }
                thread::sleep(Duration::from_millis(2));
            }
            // Half a line would rightly be waited for.
            log.write_lines(1);
        });
        let _over = Over(is_over);
        faults(random);
    });
}

/// Lets time pass, so that the next fault hits somewhere else each time.
fn live_for_a_while(random: &mut Rng) {
    thread::sleep(Duration::from_millis(random.u64(LIFE_MILLISECONDS)));
}

/// Ends a process, in order or not, and starts another one.
fn restart(running: &mut Option<Running>, launch: &Fshipper, random: &mut Rng) {
    if let Some(process) = running.take() {
        if random.bool() {
            process.kill();
        } else {
            let finished = process.stop(DEADLINE);
            // Before it has started it does not handle signals yet, and has nothing to drain.
            if finished.stderr.contains("started") {
                finished.expect_code(0);
            }
        }
    }
    *running = Some(launch.start());
}

#[track_caller]
fn assert_arrives(scene: &Scene, log: &LogWriter, running: impl IntoIterator<Item = Running>) {
    let output = format!("out/{HOST}.log");
    scene.assert_arrives(log.expected(), &output);
    for process in running {
        process.stop(DEADLINE).expect_code(0);
    }
    assert_identical(log.expected(), &scene.path(&output));
}

/// Kills one process again and again.
fn check_kills(pipeline: &Pipeline, kills: usize) -> (Scene, LogWriter) {
    let (seed, mut random) = seeded();
    let scene = Scene::new();
    pipeline.write(&scene, "pipeline.toml");
    let launch = scene.run(&["pipeline.toml"]);
    let mut log = scene.log("app.log", seed);
    writing(&mut log, &mut random, |random| {
        for _ in 0..kills {
            let process = launch.start();
            live_for_a_while(random);
            process.kill();
        }
    });
    (scene, log)
}

#[test]
fn a_local_pipeline_killed_at_random_loses_and_repeats_nothing() {
    let pipeline = Pipeline::new().tail("app.log*").rotating_file("out/{host}.log");
    let (scene, log) = check_kills(&pipeline, 20);
    assert_arrives(&scene, &log, [scene.run(&["pipeline.toml"]).start()]);
}

#[test]
fn both_ends_over_memory_killed_at_random_lose_and_repeat_nothing() {
    let pipeline = Pipeline::new().tail("app.log*").table("transport", "memory", "");
    let (scene, log) = check_kills(&pipeline.rotating_file("out/{host}.log"), 12);
    assert_arrives(&scene, &log, [scene.run(&["pipeline.toml"]).start()]);
}

#[test]
fn a_sink_that_rotates_and_compresses_killed_at_random_loses_and_repeats_nothing() {
    let keys = "path = 'out/{host}.log'\nrotate = { max_bytes = '1MiB' }\ncompress = 'gzip'";
    let pipeline = Pipeline::new().tail("app.log*").table("sink", "rotating_file", keys);
    let (scene, log) = check_kills(&pipeline, 20);
    scene.run(&["--once", "pipeline.toml"]).finish().expect_code(0);

    // What is compressed when a process ends is finished by the next one.
    let run = scene.run(&["pipeline.toml"]).start();
    let is_plain = |file: &String| !file.ends_with(".gz");
    wait_until(DEADLINE, "only the active file is not compressed", || {
        scene.files_below("out").into_iter().filter(is_plain).count() == 1
    });
    run.stop(DEADLINE).expect_code(0);
    let mut files = scene.files_below("out");
    // The active one keeps its name, which sorts first; the rotated ones carry their time.
    files.rotate_left(1);
    assert!(files.len() > 5, "{files:?}");
    let plain = files.iter().map(|file| decompressed(&scene, file)).collect::<Vec<_>>();
    let verdict = compare(log.expected(), plain);
    assert!(verdict.is_identical(), "{files:?}: {verdict}");
}

/// The path of an output file, or of what a compressed one holds.
fn decompressed(scene: &Scene, file: &str) -> PathBuf {
    let path = scene.path("out").join(file);
    if path.extension().is_none_or(|extension| extension != "gz") {
        return path;
    }
    let plain = scene.path("expected").join(Path::new(file).with_extension(""));
    let mut reader = MultiGzDecoder::new(File::open(path).unwrap());
    io::copy(&mut reader, &mut File::create(&plain).unwrap()).unwrap();
    plain
}

/// Kills, stops and restarts producer, consumer and server; `keys` are those of the `[transport]` table.
fn check_kills_over_jetstream(keys: &str) {
    let (seed, mut random) = seeded();
    let scene = Scene::new();
    let mut server = NatsServer::jetstream();
    let keys = format!("stream = {{ name = 'LOGS', create = true }}\n{keys}");
    Pipeline::new().tail("app.log*").nats(&server.url(), &keys).write(&scene, "producer.toml");
    let consumer = Pipeline::new().nats(&server.url(), &keys).rotating_file("out/{host}.log");
    consumer.write(&scene, "consumer.toml");
    let launches = [scene.run(&["producer.toml"]), scene.run(&["consumer.toml"])];
    let mut running = launches.each_ref().map(|launch| Some(launch.start()));
    let mut log = scene.log("app.log", seed);
    writing(&mut log, &mut random, |random| {
        for _ in 0..20 {
            live_for_a_while(random);
            match random.u8(..5) {
                0 | 1 => restart(&mut running[0], &launches[0], random),
                2 | 3 => restart(&mut running[1], &launches[1], random),
                _ => server.restart(),
            }
        }
    });
    assert_arrives(&scene, &log, running.into_iter().flatten());
}

#[test]
fn producer_broker_and_consumer_killed_at_random_lose_and_repeat_nothing() {
    check_kills_over_jetstream("");
}

#[test]
fn the_same_with_a_line_per_message() {
    check_kills_over_jetstream("framing = 'line'");
}

#[test]
fn the_same_with_compression_and_partitions() {
    check_kills_over_jetstream("compression = 'zstd'\npartitions = 3");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_cut_and_stalled_at_random_loses_and_repeats_nothing() {
    let (seed, mut random) = seeded();
    let scene = Scene::new();
    let server = NatsServer::jetstream();
    let near_producer = Proxy::start(server.address()).await;
    let near_consumer = Proxy::start(server.address()).await;
    Pipeline::new().tail("app.log*").jetstream(&near_producer.url()).write(&scene, "producer.toml");
    let consumer = Pipeline::new().jetstream(&near_consumer.url()).rotating_file("out/{host}.log");
    consumer.write(&scene, "consumer.toml");
    let running = ["producer.toml", "consumer.toml"].map(|file| scene.run(&[file]).start());
    let mut log = scene.log("app.log", seed);
    writing(&mut log, &mut random, |random| {
        for _ in 0..15 {
            let proxy = if random.bool() { &near_producer } else { &near_consumer };
            match random.u8(..4) {
                0 => proxy.cut(),
                1 => proxy.refuse(),
                // What was sent is stored, and nobody hears of it before the connection breaks.
                2 => {
                    proxy.stall(Direction::ToClient);
                    live_for_a_while(random);
                    proxy.cut();
                }
                _ => proxy.stall(Direction::ToServer),
            }
            live_for_a_while(random);
            proxy.resume();
        }
    });
    assert_arrives(&scene, &log, running);
}

#[test]
fn paused_processes_go_on_where_they_were() {
    let (seed, mut random) = seeded();
    let scene = Scene::new();
    let mut server = NatsServer::jetstream();
    Pipeline::new().tail("app.log*").jetstream(&server.url()).write(&scene, "producer.toml");
    let consumer = Pipeline::new().jetstream(&server.url()).rotating_file("out/{host}.log");
    consumer.write(&scene, "consumer.toml");
    let mut running = ["producer.toml", "consumer.toml"].map(|file| scene.run(&[file]).start());
    let mut log = scene.log("app.log", seed);
    writing(&mut log, &mut random, |random| {
        for _ in 0..8 {
            match random.usize(..3) {
                2 => {
                    server.pause();
                    live_for_a_while(random);
                    server.resume();
                }
                index => {
                    running[index].pause();
                    live_for_a_while(random);
                    running[index].resume();
                }
            }
        }
    });
    assert_arrives(&scene, &log, running);
}

#[test]
fn a_lost_output_directory_is_written_again_from_the_stream() {
    let scene = Scene::new();
    let server = NatsServer::jetstream();
    Pipeline::new().tail("app.log*").jetstream(&server.url()).write(&scene, "producer.toml");
    let consumer = Pipeline::new().jetstream(&server.url()).rotating_file("out/{host}.log");
    consumer.write(&scene, "consumer.toml");
    let mut log = scene.log("app.log", 1);
    log.write_lines(1_000);
    scene.run(&["--once", "producer.toml"]).finish().expect_code(0);
    for _ in 0..2 {
        scene.run(&["--once", "consumer.toml"]).finish().expect_code(0);
        assert_identical(log.expected(), &scene.path(&format!("out/{HOST}.log")));
        fs::remove_dir_all(scene.path("out")).unwrap();
    }
}
