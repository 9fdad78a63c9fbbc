//! State that somebody damaged, removed, replaced, or that another version wrote.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use fshipper_testing::{DEADLINE, LogWriter, NatsServer, wait_until};

use crate::support::{Pipeline, Scene, assert_identical, length};
use crate::surroundings::SmallDisk;

const OUTPUT: &str = "out/web1.example.net.log";
const STATE: &str = ".local/state/fshipper/local/file_tail.journal";

/// A log that was shipped once, to its end.
fn shipped(scene: &Scene) -> LogWriter {
    Pipeline::new().tail("app.log*").rotating_file("out/{host}.log").write(scene, "local.toml");
    let mut log = scene.log("app.log", 1);
    log.write_lines(100);
    scene.run(&["--once", "local.toml"]).finish().expect_code(0);
    assert_identical(log.expected(), &scene.path(OUTPUT));
    log
}

/// Damages `bytes` in every way that a disk knows.
fn damages(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let length = bytes.len();
    let mut damages = vec![
        ("emptied".to_owned(), Vec::new()),
        ("filled with zeros".to_owned(), vec![0; length]),
        ("followed by zeros".to_owned(), [bytes, &[0; 4096]].concat()),
        ("text".to_owned(), b"somebody wrote something else into it\n".to_vec()),
    ];
    for at in [1, 15, 16, 20, length / 2, length - 1] {
        damages.push((format!("cut at {at}"), bytes[..at].to_vec()));
        let mut flipped = bytes.to_vec();
        flipped[at] ^= 0x10;
        damages.push((format!("flipped at {at}"), flipped));
    }
    damages
}

#[test]
fn a_damaged_state_of_the_source_costs_nothing() {
    let scene = Scene::new();
    let mut log = shipped(&scene);
    log.rotate_numbered();
    log.write_lines(10);
    scene.run(&["--once", "local.toml"]).finish().expect_code(0);
    let state = scene.path(STATE);
    let whole = fs::read(&state).unwrap();
    for (damage, bytes) in damages(&whole) {
        fs::write(&state, bytes).unwrap();
        log.write_lines(10);
        let said = scene.run(&["--once", "local.toml"]).finish().expect_code(0).stderr;
        assert!(!said.contains("ERROR"), "{damage}: {said}");
        let verdict = fshipper_testing::compare(log.expected(), [scene.path(OUTPUT)]);
        assert!(verdict.is_identical(), "{damage}: {verdict}");
    }
}

#[test]
fn a_damaged_ledger_is_repaired_or_refused_by_name_and_nothing_is_written_twice() {
    let scene = Scene::new();
    let mut log = shipped(&scene);
    for _ in 0..3 {
        log.write_lines(10);
        scene.run(&["--once", "local.toml"]).finish().expect_code(0);
    }
    let entries = fs::read_dir(scene.path("out/.fshipper")).unwrap().map(|entry| entry.unwrap().path());
    let ledgers: Vec<PathBuf> = entries.filter(|path| path.to_string_lossy().contains("/ledger.")).collect();
    let [ledger] = &ledgers[..] else { panic!("one ledger, not {ledgers:?}") };
    let (whole, output) = (fs::read(ledger).unwrap(), fs::read(scene.path(OUTPUT)).unwrap());
    let mut refused = 0;
    for (damage, bytes) in damages(&whole) {
        fs::write(ledger, &bytes).unwrap();
        let finished = scene.run(&["--once", "local.toml"]).finish();
        match finished.status.code() {
            Some(0) => {}
            Some(2) => {
                let named = finished.stderr.contains("ledger.") && finished.stderr.contains("move");
                assert!(named, "{damage}: {}", finished.stderr);
                assert!(fs::read(ledger).unwrap() == bytes, "{damage}: it was changed");
                refused += 1;
            }
            code => panic!("{damage}: exit code {code:?}: {}", finished.stderr),
        }
        let now = fs::read(scene.path(OUTPUT)).unwrap();
        assert!(now == output, "{damage}: {} bytes became {}; {}", output.len(), now.len(), finished.stderr);
        fs::write(ledger, &whole).unwrap();
    }
    assert!(refused > 0, "no damage was noticed");
    log.write_lines(10);
    scene.run(&["--once", "local.toml"]).finish().expect_code(0);
    assert_identical(log.expected(), &scene.path(OUTPUT));
}

#[test]
fn state_of_a_newer_version_is_refused_by_its_number_and_left_alone() {
    let scene = Scene::new();
    let mut log = shipped(&scene);
    let state = scene.path(STATE);
    let mut newer = fs::read(&state).unwrap();
    newer[8..12].copy_from_slice(&2_u32.to_le_bytes());
    // The checksum of the magic number and the version.
    let checksum = crc32c(&newer[..12]);
    newer[12..16].copy_from_slice(&checksum.to_le_bytes());
    fs::write(&state, &newer).unwrap();
    log.write_lines(10);
    let said = scene.run(&["--once", "local.toml"]).finish().expect_code(2).stderr;
    assert!(said.contains("has format 2") && said.contains("use the version that wrote it"), "{said}");
    assert!(fs::read(&state).unwrap() == newer);
}

fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), |crc, _| step(crc)))
}

#[test]
fn a_state_directory_that_cannot_be_used_is_named_with_the_remedy() {
    let scene = Scene::new();
    shipped(&scene);
    scene.write("file", "");
    for directory in ["file", "/proc/fshipper"] {
        let launch = scene.run(&["--once", "--state-dir", directory, "local.toml"]);
        let said = launch.finish().expect_code(2).stderr;
        assert!(said.contains(&format!("{directory}/local`")) && said.contains("--state-dir"), "{said}");
    }
}

#[test]
fn a_state_directory_on_a_disk_that_is_full_or_read_only_is_waited_for() {
    for is_full in [true, false] {
        let scene = Scene::new();
        Pipeline::new().tail("app.log*").rotating_file("out/{host}.log").write(&scene, "local.toml");
        let mut log = scene.log("app.log", 1);
        log.write_lines(10);
        let Some(disk) = SmallDisk::mount(&scene, "state", "1m,nr_inodes=2") else { return };
        match is_full {
            true => disk.fill(),
            false => disk.remount("ro"),
        }
        let run = scene.run(&["--state-dir", "state", "local.toml"]).start();
        let warned = "WARN cannot use the state directory `state/local`";
        wait_until(DEADLINE, "it says so", || run.stderr().contains(warned));
        match is_full {
            true => disk.make_room(),
            false => disk.remount("rw"),
        }
        // Room for the directory is not yet room for what stands in it.
        disk.remount("nr_inodes=100");
        scene.assert_arrives(log.expected(), OUTPUT);
        let said = run.stop(DEADLINE).expect_code(0).stderr;
        assert!(said.contains("the state directory can be used: going on"), "{said}");
    }
}

#[test]
fn a_state_directory_deleted_while_it_runs_is_made_again() {
    let scene = Scene::new();
    let mut log = shipped(&scene);
    let run = scene.run(&["local.toml"]).start();
    log.write_lines(10);
    scene.assert_arrives(log.expected(), OUTPUT);
    fs::remove_dir_all(scene.path(".local")).unwrap();
    for _ in 0..2 {
        log.rotate_numbered();
        log.write_lines(10);
        scene.assert_arrives(log.expected(), OUTPUT);
    }
    assert!(length(&scene.path(STATE)) > 0, "there is no state");
    run.kill();
    log.rotate_numbered();
    log.write_lines(10);
    let said = scene.run(&["--once", "local.toml"]).finish().expect_code(0).stderr;
    assert!(!said.contains("ERROR"), "{said}");
    assert_identical(log.expected(), &scene.path(OUTPUT));
}

#[test]
fn a_state_directory_deleted_between_two_runs_costs_nothing() {
    let scene = Scene::new();
    let mut log = shipped(&scene);
    for _ in 0..2 {
        fs::remove_dir_all(scene.path(".local")).unwrap();
        log.write_lines(10);
        log.rotate_numbered();
        log.write_lines(10);
        let said = scene.run(&["--once", "local.toml"]).finish().expect_code(0).stderr;
        assert!(!said.contains("ERROR"), "{said}");
        assert_identical(log.expected(), &scene.path(OUTPUT));
    }
}

#[test]
fn another_name_for_the_pipeline_ships_nothing_twice() {
    let scene = Scene::new();
    let mut log = shipped(&scene);
    fs::rename(scene.path("local.toml"), scene.path("renamed.toml")).unwrap();
    log.write_lines(10);
    log.rotate_numbered();
    log.write_lines(10);
    scene.run(&["--once", "renamed.toml"]).finish().expect_code(0);
    assert_identical(log.expected(), &scene.path(OUTPUT));
}

#[test]
fn links_in_the_place_of_state_do_not_lead_to_other_peoples_files() {
    let scene = Scene::new();
    let mut log = shipped(&scene);
    let others = scene.write("others", "not a state, and not to be touched\n".repeat(10));
    let before = fs::read(&others).unwrap();
    let state = scene.path(STATE);
    fs::remove_file(&state).unwrap();
    symlink(&others, &state).unwrap();
    log.write_lines(10);
    scene.run(&["--once", "local.toml"]).finish().expect_code(0);
    assert!(fs::read(&others).unwrap() == before, "somebody else's file was changed");
    assert_identical(log.expected(), &scene.path(OUTPUT));

    // A directory may be anywhere.
    fs::rename(scene.path(".local"), scene.path("moved")).unwrap();
    symlink(scene.path("moved"), scene.path(".local")).unwrap();
    log.write_lines(10);
    scene.run(&["--once", "local.toml"]).finish().expect_code(0);
    assert_identical(log.expected(), &scene.path(OUTPUT));
}

#[test]
fn a_producer_whose_state_is_gone_and_whose_log_was_rotated_meanwhile_asks_the_stream() {
    let (scene, server) = (Scene::new(), NatsServer::jetstream());
    Pipeline::new().tail("app.log*").jetstream(&server.url()).write(&scene, "producer.toml");
    Pipeline::new().jetstream(&server.url()).rotating_file("out/{host}.log").write(&scene, "consumer.toml");
    let mut log = scene.log("app.log", 1);
    let consuming = scene.run(&["consumer.toml"]).start();
    for _ in 0..3 {
        log.write_lines(100);
        scene.run(&["--once", "producer.toml"]).finish().expect_code(0);
        scene.assert_arrives(log.expected(), OUTPUT);
        fs::remove_dir_all(scene.path(".local/state/fshipper/producer")).unwrap();
        log.write_lines(100);
        log.rotate_numbered();
    }
    let producing = scene.run(&["producer.toml"]).start();
    wait_until(DEADLINE, "all arrives", || length(&scene.path(OUTPUT)) >= length(log.expected()));
    for run in [producing, consuming] {
        run.stop(DEADLINE).expect_code(0);
    }
    assert_identical(log.expected(), &scene.path(OUTPUT));
}
