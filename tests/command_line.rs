//! Commands, exit codes and messages.

use std::fs;

use fshipper_testing::{DEADLINE, wait_until};

use crate::support::{Pipeline, Scene, length};

fn local(scene: &Scene, name: &str) {
    Pipeline::new().tail("*.log").rotating_file("out/{file}").write(scene, name);
    scene.write("logs/app.log", "one\n");
}

#[test]
fn version_and_help_are_printed() {
    let scene = Scene::new();
    let version = scene.fshipper().argument("--version").finish().expect_code(0);
    assert_eq!(
        String::from_utf8_lossy(&version.stdout),
        concat!("fshipper ", env!("CARGO_PKG_VERSION"), "\n")
    );
    let help = scene.fshipper().argument("--help").finish().expect_code(0);
    let help = String::from_utf8(help.stdout).unwrap();
    for command in ["run", "check", "plugins"] {
        assert!(help.contains(command), "`{command}` is missing in:\n{help}");
    }
    let help = scene.fshipper().arguments(["run", "--help"]).finish().expect_code(0);
    let help = String::from_utf8(help.stdout).unwrap();
    for option in ["--once", "--state-dir", "--log-format", "--verbose", "--quiet"] {
        assert!(help.contains(option), "`{option}` is missing in:\n{help}");
    }
}

#[test]
fn plugins_lists_everything_built_in() {
    let scene = Scene::new();
    let finished = scene.fshipper().argument("plugins").finish().expect_code(0);
    let listed = String::from_utf8(finished.stdout).unwrap();
    for name in ["file_tail", "stdin", "nats", "memory", "rotating_file", "stdout", "null"] {
        assert!(
            listed.lines().any(|line| line.split_whitespace().any(|word| word == name)),
            "{name}:\n{listed}"
        );
    }
}

#[test]
fn wrong_usage_exits_2() {
    let scene = Scene::new();
    for arguments in [&[][..], &["run"], &["start"], &["run", "--twice", "x.toml"], &["run", "absent.toml"]] {
        let finished = scene.fshipper().arguments(arguments).finish().expect_code(2);
        assert!(
            finished.stdout.is_empty() && !finished.stderr.is_empty(),
            "{arguments:?}: {}",
            finished.stderr
        );
    }
}

#[test]
fn an_error_in_a_pipeline_file_exits_2_before_anything_starts() {
    let scene = Scene::new();
    local(&scene, "good.toml");
    Pipeline::new().tail("*.log").rotating_file("out/{fiel}").write(&scene, "bad.toml");
    let finished = scene.run(&["--once", "good.toml", "bad.toml"]).finish().expect_code(2);
    assert!(finished.stderr.contains("bad.toml"), "{}", finished.stderr);
    assert!(!scene.path("out").is_dir(), "the good pipeline ran all the same");
}

#[test]
fn check_touches_nothing() {
    let scene = Scene::new();
    local(&scene, "local.toml");
    let finished = scene.fshipper().arguments(["check", "local.toml"]).finish().expect_code(0);
    let printed = String::from_utf8(finished.stdout).unwrap();
    for word in ["local", "file_tail", "rotating_file"] {
        assert!(printed.contains(word), "`{word}` is missing in:\n{printed}");
    }
    assert!(!scene.path("out").is_dir());
    assert!(!scene.path(".local").is_dir(), "a state directory was made");
}

#[test]
fn a_second_instance_with_the_same_state_is_refused_and_names_the_first() {
    let scene = Scene::new();
    local(&scene, "local.toml");
    let first = scene.run(&["local.toml"]).start();
    wait_until(DEADLINE, "the first one ships", || length(&scene.path("out/app.log")) > 0);
    let second = scene.run(&["local.toml"]).finish().expect_code(2);
    let pid = first.pid().to_string();
    assert!(second.stderr.contains(&pid), "process {pid} is not named in:\n{}", second.stderr);
    first.stop(DEADLINE).expect_code(0);
    scene.run(&["--once", "local.toml"]).finish().expect_code(0);
}

#[test]
fn a_second_owner_of_an_output_is_refused_and_names_the_first() {
    let scene = Scene::new();
    local(&scene, "one.toml");
    local(&scene, "other.toml");
    let first = scene.run(&["one.toml"]).start();
    wait_until(DEADLINE, "the first one ships", || length(&scene.path("out/app.log")) > 0);
    let second = scene.run(&["--state-dir", "elsewhere", "other.toml"]).finish().expect_code(2);
    let pid = first.pid().to_string();
    assert!(second.stderr.contains(&pid), "process {pid} is not named in:\n{}", second.stderr);
    first.stop(DEADLINE).expect_code(0);
    assert_eq!(fs::read(scene.path("out/app.log")).unwrap(), b"one\n");
}

#[test]
fn a_killed_instance_leaves_no_lock_behind() {
    let scene = Scene::new();
    local(&scene, "local.toml");
    let first = scene.run(&["local.toml"]).start();
    wait_until(DEADLINE, "the first one ships", || length(&scene.path("out/app.log")) > 0);
    first.kill();
    scene.run(&["--once", "local.toml"]).finish().expect_code(0);
    assert_eq!(fs::read(scene.path("out/app.log")).unwrap(), b"one\n");
}

#[test]
fn interrupt_ends_in_order_too() {
    let scene = Scene::new();
    local(&scene, "local.toml");
    let mut run = scene.run(&["local.toml"]).start();
    wait_until(DEADLINE, "it ships", || length(&scene.path("out/app.log")) > 0);
    run.interrupt();
    run.wait(DEADLINE).expect_code(0);
}

#[test]
fn several_pipelines_run_in_one_process() {
    let scene = Scene::new();
    scene.write("logs/app.log", "one\n");
    for name in ["one", "two"] {
        let path = format!("out-{name}/{{file}}");
        Pipeline::new().tail("*.log").rotating_file(&path).write(&scene, &format!("{name}.toml"));
    }
    scene.run(&["--once", "one.toml", "two.toml"]).finish().expect_code(0);
    for name in ["one", "two"] {
        assert_eq!(fs::read(scene.path(&format!("out-{name}/app.log"))).unwrap(), b"one\n");
    }
    // The same name twice would be one state directory for both.
    let finished = scene.run(&["--once", "one.toml", "one.toml"]).finish().expect_code(2);
    assert!(finished.stderr.contains("`one`"), "{}", finished.stderr);
}

#[test]
fn logs_can_be_json() {
    let scene = Scene::new();
    local(&scene, "local.toml");
    let finished = scene.run(&["--once", "--log-format", "json", "-v", "local.toml"]).finish().expect_code(0);
    assert!(!finished.stderr.is_empty());
    for line in finished.stderr.lines() {
        assert!(line.starts_with('{') && line.ends_with('}'), "{line}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_reported_once_and_the_others_go_on() {
    let scene = Scene::new();
    local(&scene, "local.toml");
    // A directory of a log's name cannot be read by anyone, not even by root.
    fs::create_dir(scene.path("logs/directory.log")).unwrap();
    let finished = scene.run(&["--once", "local.toml"]).finish().expect_code(0);
    assert_eq!(fs::read(scene.path("out/app.log")).unwrap(), b"one\n");
    let reports = finished.stderr.lines().filter(|line| line.contains("directory.log")).count();
    assert!(reports <= 1, "{}", finished.stderr);
}
