//! `stdin` and `stdout`.

use std::fs;

use crate::support::{Pipeline, Scene};

#[test]
fn stdin_is_shipped_to_its_end() {
    let scene = Scene::new();
    let input = scene.write("input", [&b"one\n\0\r\n"[..], &vec![b'x'; 3_000_000], b"\nno newline"].concat());
    Pipeline::new().table("source", "stdin", "").rotating_file("out/{file}").write(&scene, "stdin.toml");
    scene.run(&["stdin.toml"]).stdin(&input).finish().expect_code(0);
    let files = scene.files_below("out");
    assert_eq!(files.len(), 1, "{files:?}");
    let output = scene.path("out").join(&files[0]);
    assert!(fs::read(&output).unwrap() == fs::read(&input).unwrap());

    // Another run continues the same origin.
    scene.run(&["stdin.toml"]).stdin(scene.write("more", "\nmore\n")).finish().expect_code(0);
    let all = [fs::read(&input).unwrap(), b"\nmore\n".to_vec()].concat();
    assert!(fs::read(&output).unwrap() == all);
}

#[test]
fn stdout_holds_data_and_nothing_else() {
    let scene = Scene::new();
    let mut log = scene.log("app.log", 1);
    log.write_lines(5_000);
    Pipeline::new().tail("app.log").table("sink", "stdout", "").write(&scene, "stdout.toml");
    let finished = scene.run(&["--once", "-v", "stdout.toml"]).finish().expect_code(0);
    assert!(finished.stdout == fs::read(log.expected()).unwrap());
    // Its position is kept for it.
    let finished = scene.run(&["--once", "stdout.toml"]).finish().expect_code(0);
    assert!(finished.stdout.is_empty());
}

#[test]
fn null_takes_everything() {
    let scene = Scene::new();
    let mut log = scene.log("app.log", 1);
    log.write_lines(100);
    Pipeline::new().tail("app.log").table("sink", "null", "").write(&scene, "null.toml");
    let finished = scene.run(&["--once", "null.toml"]).finish().expect_code(0);
    assert!(finished.stdout.is_empty());
}

#[test]
fn losing_what_stdin_cannot_give_again_exits_1_with_the_count() {
    let scene = Scene::new();
    let input = scene.write("input", "a line that goes nowhere\n");
    Pipeline::new().table("source", "stdin", "").table("sink", "stdout", "").write(&scene, "pipe.toml");
    // The device that is always full.
    let finished = scene.run(&["pipe.toml"]).stdin(&input).stdout("/dev/full").finish().expect_code(1);
    assert!(finished.stderr.contains("25 bytes"), "{}", finished.stderr);
}
