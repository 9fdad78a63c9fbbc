//! The example as its copies will be used: through its own binary, with nothing but the standard library.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Far more than anything here takes.
const DEADLINE: Duration = Duration::from_secs(60);

fn example(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_example-plugin"));
    command.args(arguments).current_dir(directory).stdin(Stdio::null());
    command
}

/// Runs it to its end, which is a good one.
fn finish(directory: &Path, arguments: &[&str]) -> String {
    let Output { status, stdout, stderr } = example(directory, arguments).output().expect("it starts");
    assert!(status.success(), "{status}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).expect("text")
}

/// Killed when a test fails.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // After its end there is nothing to kill.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    /// Asks it to ship and commit what it has read, and waits until it has.
    fn stop(mut self) {
        let asked = Command::new("kill").args(["-TERM", &self.0.id().to_string()]).status();
        assert!(asked.expect("`kill` starts").success());
        let status = self.0.wait().expect("it ends");
        assert!(status.success(), "{status}");
    }
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
    fs::write(directory.join("numbers.toml"), text).expect("a pipeline file");
}

#[test]
fn its_plugins_are_listed_beside_the_built_in_ones() {
    let directory = tempfile::tempdir().expect("a folder");
    let listed = finish(directory.path(), &["plugins"]);
    for name in ["numbers", "append_file", "file_tail", "nats", "rotating_file"] {
        assert!(listed.contains(name), "`{name}` is missing in:\n{listed}");
    }
}

#[test]
fn its_pipeline_file_is_valid() {
    let directory = tempfile::tempdir().expect("a folder");
    finish(directory.path(), &["check", concat!(env!("CARGO_MANIFEST_DIR"), "/pipeline.toml")]);
}

#[test]
fn counts_to_the_end_and_exits() {
    let directory = tempfile::tempdir().expect("a folder");
    write_pipeline(directory.path(), 1_000, "0ms");
    finish(directory.path(), &["run", "numbers.toml"]);
    let written = fs::read_to_string(directory.path().join("numbers.log")).expect("the output");
    assert_eq!(written, numbers(0..1_000));
}

#[test]
fn goes_on_after_a_stop_where_it_was() {
    let directory = tempfile::tempdir().expect("a folder");
    let output = directory.path().join("numbers.log");
    write_pipeline(directory.path(), 1_000_000, "1ms");
    let mut written = 0;
    for _ in 0..2 {
        let run = Running(example(directory.path(), &["run", "numbers.toml"]).spawn().expect("it starts"));
        let deadline = Instant::now() + DEADLINE;
        while !fs::metadata(&output).is_ok_and(|metadata| metadata.len() > written + 200) {
            assert!(Instant::now() < deadline, "nothing more is written");
            std::thread::sleep(Duration::from_millis(10));
        }
        run.stop();
        written = fs::metadata(&output).expect("the output").len();
    }
    assert_eq!(fs::read_to_string(&output).expect("the output"), numbers(0..written / 11));
}
