//! Files of a network file system whose handles turn stale: calls fail with `ESTALE`, again and again, and opening
//! the file anew helps. `strace` makes them fail, in one process and for one file.

use std::collections::BTreeSet;
use std::fs;

use fshipper_testing::DEADLINE;

use crate::support::{Pipeline, Scene};
use crate::surroundings::{in_shell, works};

/// Runs a local pipeline while calls for one file fail, `which` of each thread's, as `strace` counts, through a
/// rotation and a restart. What has failed once is not asked again: another handle is.
#[track_caller]
fn check(file: &str, calls: &str, which: &str) {
    if !works("strace cannot be used here", "strace", &["-D", "-f", "-o", "/dev/null", "true"]) {
        return;
    }
    let scene = Scene::new();
    Pipeline::new().tail("app.log*").rotating_file("out/{file}").write(&scene, "local.toml");
    let script = format!(
        "exec strace -D -f -qq -o trace -P \"$PWD/{file}\" -e trace={calls},close \
         -e inject={calls}:error=ESTALE:when={which} \"$0\" \"$@\""
    );
    let mut log = scene.log("app.log", 1);
    for _ in 0..2 {
        log.write_lines(100);
        let run = in_shell(&scene, &script, &["run", "local.toml"]).start();
        scene.assert_arrives(log.expected(), "out/app.log");
        for _ in 0..10 {
            log.write_lines(10);
            scene.assert_arrives(log.expected(), "out/app.log");
        }
        log.rotate_numbered();
        log.write_lines(100);
        scene.assert_arrives(log.expected(), "out/app.log");
        let said = run.stop(DEADLINE).expect_code(0).stderr;
        assert!(said.contains("Stale file handle"), "nothing has failed:\n{said}");
        assert_opened_again(&fs::read_to_string(scene.path("trace")).unwrap());
    }
}

/// A handle that has failed is closed before anything else is done to its number.
#[track_caller]
fn assert_opened_again(trace: &str) {
    let mut stale = BTreeSet::new();
    for line in trace.lines() {
        let call = line.split_once(' ').map_or(line, |(_, call)| call.trim_start());
        let Some((name, arguments)) = call.split_once('(') else { continue };
        let Ok(handle) =
            arguments.chars().take_while(char::is_ascii_digit).collect::<String>().parse::<u32>()
        else {
            // The file was named by its path.
            continue;
        };
        if name == "close" {
            stale.remove(&handle);
            continue;
        }
        assert!(!stale.contains(&handle), "a stale handle is used again:\n{line}\nin\n{trace}");
        if line.contains("(INJECTED)") {
            stale.insert(handle);
        }
    }
}

#[test]
fn a_log_whose_handle_is_stale_is_opened_again() {
    check("logs/app.log", "pread64,statx", "5+11");
}

#[test]
fn an_output_whose_handle_is_stale_is_opened_again() {
    check("out/app.log", "writev,pwrite64,fdatasync", "6+6");
}
