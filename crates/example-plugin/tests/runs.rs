//! The example as its copies will be used: through its own binary.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs;
use std::path::Path;
use std::time::Duration;

use fshipper_testing::{DEADLINE, Fshipper, wait_until};

fn example(directory: &Path) -> Fshipper {
    Fshipper::new(env!("CARGO_BIN_EXE_example-plugin"), directory)
}

fn numbers(range: std::ops::Range<u64>) -> String {
    range.map(|number| format!("{number:010}\n")).collect()
}

fn write_pipeline(directory: &Path, count: u64, rest: &str) {
    let text = format!(
        "[pipeline]\nstate_dir = 'state'\n\
         [source]\ntype = 'numbers'\ncount = {count}\nrest = '{rest}'\n\
         [sink]\ntype = 'append_file'\npath = 'numbers.log'\n"
    );
    fs::write(directory.join("numbers.toml"), text).unwrap();
}

#[test]
fn its_plugins_are_listed_beside_the_built_in_ones() {
    let directory = tempfile::tempdir().unwrap();
    let finished = example(directory.path()).argument("plugins").finish().expect_code(0);
    let listed = String::from_utf8(finished.stdout).unwrap();
    for name in ["numbers", "append_file", "file_tail", "nats", "rotating_file"] {
        assert!(listed.contains(name), "`{name}` is missing in:\n{listed}");
    }
}

#[test]
fn its_pipeline_file_is_valid() {
    let directory = tempfile::tempdir().unwrap();
    let pipeline = concat!(env!("CARGO_MANIFEST_DIR"), "/pipeline.toml");
    example(directory.path()).arguments(["check", pipeline]).finish().expect_code(0);
}

#[test]
fn counts_to_the_end_and_exits() {
    let directory = tempfile::tempdir().unwrap();
    write_pipeline(directory.path(), 1_000, "0ms");
    let run = example(directory.path()).arguments(["run", "numbers.toml"]);
    run.finish().expect_code(0);
    assert_eq!(fs::read_to_string(directory.path().join("numbers.log")).unwrap(), numbers(0..1_000));
}

#[test]
fn goes_on_after_a_stop_where_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let output = directory.path().join("numbers.log");
    write_pipeline(directory.path(), 1_000_000, "1ms");
    let mut written = 0;
    for _ in 0..2 {
        let run = example(directory.path()).arguments(["run", "numbers.toml"]).start();
        wait_until(DEADLINE, "some more numbers are written", || {
            fs::metadata(&output).is_ok_and(|metadata| metadata.len() > written + 200)
        });
        run.stop(Duration::from_secs(10)).expect_code(0);
        written = fs::metadata(&output).unwrap().len();
    }
    assert_eq!(fs::read_to_string(&output).unwrap(), numbers(0..written / 11));
}
