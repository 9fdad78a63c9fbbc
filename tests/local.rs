//! `file_tail` → `rotating_file`, without a broker.

use std::fs;
use std::time::Duration;

use fshipper_testing::{DEADLINE, LogWriter, wait_until};

use crate::support::{HOST, Pipeline, Scene, assert_identical, length};

fn local(scene: &Scene) {
    Pipeline::new().tail("app.log*").rotating_file("out/{host}.log").write(scene, "local.toml");
}

const OUTPUT: &str = "out/web1.example.net.log";

#[test]
fn once_ships_what_is_there_and_only_that_is_new() {
    let scene = Scene::new();
    local(&scene);
    let mut log = scene.log("app.log", 1);
    for _ in 0..3 {
        log.write_lines(2_000);
        scene.run(&["--once", "local.toml"]).finish().expect_code(0);
        assert_identical(log.expected(), &scene.path(OUTPUT));
    }
    scene.run(&["--once", "local.toml"]).finish().expect_code(0);
    assert_identical(log.expected(), &scene.path(OUTPUT));
}

#[test]
fn odd_bytes_arrive_unchanged() {
    let scene = Scene::new();
    let endless = [vec![b'x'; 20_000_000], b"\nnext\n".to_vec()].concat();
    let all_bytes = (0..=u8::MAX).cycle().take(70_000).collect::<Vec<_>>();
    let logs: [(&str, &[u8]); 9] = [
        ("nul.log", b"a\0b\n\0\n\0\0\0\nlast\n"),
        ("crlf.log", b"one\r\ntwo\r\n\r\nthree\n\r\r\n"),
        ("invalid_utf8.log", b"\xff\xfe\n\xc3(\n\xed\xa0\x80\n\xf0\x9f\x92\xa9\n"),
        ("empty.log", b""),
        ("only_newlines.log", b"\n\n\n\n"),
        ("no_last_newline.log", b"one\ntwo\nhalf a line"),
        ("endless_line.log", &endless),
        ("all_bytes.log", &all_bytes),
        ("escapes.log", b"\x1b[31mred\x1b[0m\x07\n"),
    ];
    for (name, bytes) in logs {
        scene.write(&format!("logs/{name}"), bytes);
    }
    Pipeline::new().tail("*.log").rotating_file("out/{file}").write(&scene, "local.toml");
    scene.run(&["--once", "local.toml"]).finish().expect_code(0);

    for (name, bytes) in logs.into_iter().filter(|(_, bytes)| !bytes.is_empty()) {
        let arrived = fs::read(scene.path("out").join(name)).unwrap();
        assert!(arrived == bytes, "{name}: {} bytes became {}", bytes.len(), arrived.len());
    }
}

#[test]
fn a_line_completed_between_two_runs_stays_one_line() {
    let scene = Scene::new();
    local(&scene);
    let mut log = scene.log("app.log", 2);
    log.write_half_line();
    scene.run(&["--once", "local.toml"]).finish().expect_code(0);
    log.write_lines(3);
    scene.run(&["--once", "local.toml"]).finish().expect_code(0);
    assert_identical(log.expected(), &scene.path(OUTPUT));
}

#[test]
fn follows_a_log_through_rotations() {
    let scene = Scene::new();
    local(&scene);
    let mut log = scene.log("app.log", 3);
    let run = scene.run(&["local.toml"]).start();
    for _ in 0..5 {
        log.write_lines(3_000);
        log.rotate_numbered();
        log.write_half_line();
    }
    log.write_lines(1_000);
    scene.assert_arrives(log.expected(), OUTPUT);
    run.stop(DEADLINE).expect_code(0);
    assert_identical(log.expected(), &scene.path(OUTPUT));
}

#[test]
fn finishes_a_renamed_file_that_is_still_written() {
    let scene = Scene::new();
    // The renamed file is outside the glob.
    Pipeline::new().tail("app.log").rotating_file("out/{host}.log").write(&scene, "local.toml");
    let mut log = scene.log("app.log", 4);
    log.write_lines(10);
    let run = scene.run(&["local.toml"]).start();
    scene.assert_arrives(log.expected(), OUTPUT);
    log.rename_to(&scene.path("logs/old-app"));
    log.write_lines(10);
    log.reopen();
    log.write_lines(10);
    scene.assert_arrives(log.expected(), OUTPUT);
    run.stop(DEADLINE).expect_code(0);
}

#[test]
fn follows_a_copied_and_truncated_log_that_was_read() {
    let scene = Scene::new();
    local(&scene);
    let mut log = scene.log("app.log", 5);
    let run = scene.run(&["local.toml"]).start();
    for number in 1..=3 {
        log.write_lines(500);
        scene.assert_arrives(log.expected(), OUTPUT);
        log.copy_and_truncate_to(&scene.path(&format!("logs/app.log.{number}")));
    }
    log.write_lines(100);
    scene.assert_arrives(log.expected(), OUTPUT);
    run.stop(DEADLINE).expect_code(0);
}

#[test]
fn rotations_while_nothing_runs_are_caught_up() {
    let scene = Scene::new();
    local(&scene);
    let mut log = scene.log("app.log", 6);
    log.write_lines(1_000);
    scene.run(&["--once", "local.toml"]).finish().expect_code(0);
    for _ in 0..3 {
        log.write_lines(1_000);
        log.rotate_numbered();
    }
    log.write_lines(1_000);
    scene.run(&["--once", "local.toml"]).finish().expect_code(0);
    assert_identical(log.expected(), &scene.path(OUTPUT));
}

#[test]
fn a_dated_path_names_the_file_by_its_day() {
    let scene = Scene::new();
    Pipeline::new().tail("*.log").rotating_file("out/{host}/{file}.%Y%m%d").write(&scene, "local.toml");
    let mut log = scene.log("app.log", 7);
    log.write_lines(100);
    scene.run(&["--once", "local.toml"]).finish().expect_code(0);
    let files = scene.files_below("out");
    // Two, when midnight passes between the read of one batch and the next.
    let paths = files.iter().map(|file| scene.path("out").join(file));
    let verdict = fshipper_testing::compare(log.expected(), paths);
    assert!(verdict.is_identical(), "{files:?}: {verdict}");
    for file in &files {
        let day = file.strip_prefix(&format!("{HOST}/app.log.")).unwrap();
        assert!(day.len() == 8 && day.bytes().all(|byte| byte.is_ascii_digit()), "{file}");
    }
}

#[test]
fn a_full_file_is_followed_by_the_next() {
    let scene = Scene::new();
    let keys = "path = 'out/{host}.log'\nrotate = { max_bytes = '64KiB' }";
    let pipeline = Pipeline::new().tail("app.log").table("sink", "rotating_file", keys);
    pipeline.write(&scene, "local.toml");
    let mut log = scene.log("app.log", 8);
    log.write_lines(2_000);
    scene.run(&["--once", "local.toml"]).finish().expect_code(0);

    let mut files = scene.files_below("out");
    // The active one keeps its name, which sorts first; the rotated ones carry their time.
    files.rotate_left(1);
    let paths = files.iter().map(|file| scene.path("out").join(file)).collect::<Vec<_>>();
    assert!(paths.len() > 4, "{files:?}");
    let most = (64 << 10) + LogWriter::MAX_LINE_BYTES;
    assert!(paths.iter().all(|path| length(path) <= most), "{files:?}");
    let verdict = fshipper_testing::compare(log.expected(), paths);
    assert!(verdict.is_identical(), "{files:?}: {verdict}");
}

#[test]
fn many_logs_share_one_output_with_whole_lines() {
    let scene = Scene::new();
    Pipeline::new().tail("*.log").rotating_file("out/all").write(&scene, "local.toml");
    let mut logs = (0..5).map(|number| scene.log(&format!("{number}.log"), 100 + number)).collect::<Vec<_>>();
    let run = scene.run(&["local.toml"]).start();
    for _ in 0..10 {
        logs.iter_mut().for_each(|log| log.write_lines(200));
    }
    let bytes = logs.iter().map(|log| length(log.path())).sum::<u64>();
    wait_until(DEADLINE, "all lines have arrived", || length(&scene.path("out/all")) >= bytes);
    run.stop(DEADLINE).expect_code(0);

    let output = fs::read(scene.path("out/all")).unwrap();
    assert_eq!(output.len() as u64, bytes);
    for log in &logs {
        let written = fs::read(log.path()).unwrap();
        let mut expected = written.split_inclusive(|&byte| byte == b'\n').peekable();
        for line in output.split_inclusive(|&byte| byte == b'\n') {
            expected.next_if_eq(&line);
        }
        assert!(expected.peek().is_none(), "{:?}: a line is missing or out of order", log.path());
    }
}

#[test]
fn sighup_goes_on_in_a_new_file_after_an_external_rename() {
    let scene = Scene::new();
    local(&scene);
    let mut log = scene.log("app.log", 9);
    let mut run = scene.run(&["local.toml"]).start();
    log.write_lines(100);
    scene.assert_arrives(log.expected(), OUTPUT);
    fs::rename(scene.path(OUTPUT), scene.path("out/moved")).unwrap();
    run.hang_up();
    // Before the signal is seen, lines still go to the file that was renamed: rightly so.
    wait_until(DEADLINE, "the rename is noticed", || run.stderr().contains("going on in a new file"));
    log.write_lines(100);
    let total = length(log.expected());
    let moved = scene.path("out/moved");
    wait_until(DEADLINE, "the rest stands in a new file", || {
        length(&moved) + length(&scene.path(OUTPUT)) >= total
    });
    run.stop(DEADLINE).expect_code(0);
    let verdict = fshipper_testing::compare(log.expected(), [moved, scene.path(OUTPUT)]);
    assert!(verdict.is_identical(), "{verdict}");
}

#[test]
fn a_stop_in_a_backlog_commits_what_was_read_and_the_next_run_goes_on() {
    let scene = Scene::new();
    local(&scene);
    let mut log = scene.log("app.log", 10);
    log.write_lines(200_000);
    let run = scene.run(&["local.toml"]).start();
    wait_until(DEADLINE, "shipping has begun", || length(&scene.path(OUTPUT)) > 0);
    run.stop(Duration::from_secs(20)).expect_code(0);
    let run = scene.run(&["local.toml"]).start();
    scene.assert_arrives(log.expected(), OUTPUT);
    run.stop(DEADLINE).expect_code(0);
}
