//! Other people's hands on the output.

use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::Command;

use fshipper_testing::{DEADLINE, LogWriter, NatsServer, Running, compare, wait_until};

use crate::support::{HOST, Pipeline, Scene, assert_identical, length};
use crate::surroundings::{SmallDisk, works};

const OUTPUT: &str = "out/web1.example.net.log";

/// A log that is being shipped, with some lines already there.
fn shipping(scene: &Scene) -> (LogWriter, Running) {
    Pipeline::new().tail("app.log").rotating_file("out/{host}.log").write(scene, "local.toml");
    let mut log = scene.log("app.log", 1);
    log.write_lines(100);
    let run = scene.run(&["local.toml"]).start();
    scene.assert_arrives(log.expected(), OUTPUT);
    (log, run)
}

/// Rotates the output again and again while lines arrive, with `rotate`, which is given the number of the
/// rotation; what it leaves in `out/`, oldest first, is what was written.
#[track_caller]
fn check_rotations(hang_up: bool, rotate: impl Fn(&Scene, usize)) {
    let scene = Scene::new();
    let (mut log, mut run) = shipping(&scene);
    const ROTATIONS: usize = 4;
    let inode = || fs::metadata(scene.path(OUTPUT)).map_or(0, |metadata| metadata.ino());
    for number in 1..=ROTATIONS {
        log.write_lines(500);
        let before = inode();
        rotate(&scene, number);
        if hang_up {
            run.hang_up();
        }
        // Until it is noticed, lines still go to the file that was renamed: rightly so.
        wait_until(DEADLINE, "lines go to a new file", || {
            log.write_lines(20);
            inode() != before && length(&scene.path(OUTPUT)) > 0
        });
    }
    log.write_lines(100);
    let files = || {
        let mut files: Vec<PathBuf> =
            (1..=ROTATIONS).rev().map(|number| scene.path(&format!("{OUTPUT}.{number}"))).collect();
        files.push(scene.path(OUTPUT));
        files
    };
    let total = length(log.expected());
    wait_until(DEADLINE, "all is written", || files().iter().map(|file| length(file)).sum::<u64>() >= total);
    run.stop(DEADLINE).expect_code(0);
    let verdict = compare(log.expected(), files());
    assert!(verdict.is_identical(), "{:?}: {verdict}", scene.files_below("out"));
}

/// As logrotate does with numbers.
fn shift(scene: &Scene, number: usize) {
    for number in (1..number).rev() {
        let numbered = |number: usize| scene.path(&format!("{OUTPUT}.{number}"));
        fs::rename(numbered(number), numbered(number + 1)).unwrap();
    }
    fs::rename(scene.path(OUTPUT), scene.path(&format!("{OUTPUT}.1"))).unwrap();
}

#[test]
fn outputs_that_others_rename_go_on_in_new_files_after_a_sighup_and_without_one() {
    check_rotations(true, shift);
    check_rotations(false, shift);
}

#[test]
fn logrotate_on_the_output_loses_nothing() {
    if !works("there is no logrotate here", "logrotate", &["--version"]) {
        return;
    }
    for (how, hang_up) in [("create", true), ("create", false), ("nocreate", true), ("nocreate", false)] {
        check_rotations(hang_up, |scene, _| {
            let output = scene.path(OUTPUT);
            let text = format!("{} {{\nrotate 9\n{how}\n}}\n", output.display());
            let configuration = scene.write("logrotate.conf", text);
            let state = scene.path("logrotate.state");
            let rotated =
                Command::new("logrotate").arg("-f").arg("-s").args([state, configuration]).output().unwrap();
            assert!(rotated.status.success(), "{}", String::from_utf8_lossy(&rotated.stderr));
        });
    }
}

#[test]
fn an_output_file_that_is_deleted_is_followed_by_a_new_one_and_that_is_said() {
    let scene = Scene::new();
    let (mut log, run) = shipping(&scene);
    fs::remove_file(scene.path(OUTPUT)).unwrap();
    wait_until(DEADLINE, "the deletion is noticed", || {
        log.write_lines(20);
        run.stderr().contains("was deleted by somebody else: going on in a new file")
    });
    log.write_lines(100);
    // What went into the deleted file is gone with it; what follows is complete to the last byte.
    let expected = || fs::read(log.expected()).unwrap();
    let written = || fs::read(scene.path(OUTPUT)).unwrap_or_default();
    wait_until(DEADLINE, "the last line has arrived", || {
        !written().is_empty() && expected().ends_with(&written())
    });
    run.stop(DEADLINE).expect_code(0);
    let first = written().split(|byte| *byte == b'\n').next().and_then(LogWriter::line_number);
    assert!(first.is_some(), "the new file begins in the middle of a line");
}

/// Two hosts, one of which cannot be written; `break_it` and `mend_it` say why and how it ends.
#[track_caller]
fn check_one_host(break_it: impl Fn(&Scene), mend_it: impl Fn(&Scene), reason: &str) {
    let scene = Scene::new();
    Pipeline::new().tail("*.log").rotating_file("out/{file}/log").write(&scene, "local.toml");
    let (mut good, mut bad) = (scene.log("good.log", 1), scene.log("bad.log", 2));
    good.write_lines(100);
    scene.write("out/notes.txt", "ours\n");
    break_it(&scene);
    bad.write_lines(100);
    let run = scene.run(&["local.toml"]).start();
    wait_until(DEADLINE, "it is said", || run.stderr().contains("cannot go on"));
    for _ in 0..3 {
        good.write_lines(100);
        bad.write_lines(100);
        scene.assert_arrives(good.expected(), "out/good.log/log");
    }
    let said = run.stderr();
    let report = said.lines().find(|line| line.contains("cannot go on")).unwrap();
    assert!(report.contains("ERROR") && report.contains("bad.log") && report.contains(reason), "{report}");
    mend_it(&scene);
    scene.assert_arrives(bad.expected(), "out/bad.log/log");
    run.stop(DEADLINE).expect_code(0);
    assert_identical(good.expected(), &scene.path("out/good.log/log"));
    assert_eq!(fs::read_to_string(scene.path("out/notes.txt")).unwrap(), "ours\n");
}

#[test]
fn a_file_where_the_folder_of_one_host_should_be_stops_that_host_alone() {
    let in_the_way = |scene: &Scene| drop(scene.write("out/bad.log", "somebody's\n"));
    let moved = |scene: &Scene| fs::rename(scene.path("out/bad.log"), scene.path("out/somebodys")).unwrap();
    check_one_host(in_the_way, moved, "Not a directory");
}

#[test]
fn a_link_where_the_folder_of_one_host_should_be_is_not_followed() {
    let link = |scene: &Scene| {
        fs::create_dir(scene.path("elsewhere")).unwrap();
        std::os::unix::fs::symlink(scene.path("elsewhere"), scene.path("out/bad.log")).unwrap();
    };
    let unlink = |scene: &Scene| {
        assert_eq!(fs::read_dir(scene.path("elsewhere")).unwrap().count(), 0, "the link was followed");
        fs::remove_file(scene.path("out/bad.log")).unwrap();
    };
    check_one_host(link, unlink, "bad.log");
}

#[test]
fn a_folder_that_may_not_be_written_stops_its_host_alone() {
    let is_root = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n");
    let path = |scene: &Scene| scene.path("out/bad.log").into_os_string().into_string().unwrap();
    let chmod = |mode: &str, path: &str| assert!(works("it must", "chmod", &[mode, path]));
    if is_root {
        // Permissions do not bind this user; a read-only file system does.
        let what = "this process may not mount a file system";
        if !works(what, "unshare", &["--mount", "mount", "-t", "tmpfs", "none", "/mnt"]) {
            return;
        }
        let disk = RefCell::new(None);
        let mount = |scene: &Scene| {
            let mounted = SmallDisk::mount(scene, "out/bad.log", "1m").unwrap();
            mounted.remount("ro");
            disk.replace(Some(mounted));
        };
        let unmount = |_: &Scene| drop(disk.take());
        check_one_host(mount, unmount, "Read-only file system");
    } else {
        let forbid = |scene: &Scene| {
            fs::create_dir(path(scene)).unwrap();
            chmod("555", &path(scene));
        };
        check_one_host(forbid, |scene| chmod("755", &path(scene)), "Permission denied");
    }
}

#[test]
fn folders_of_hosts_removed_while_it_runs_are_made_again() {
    let scene = Scene::new();
    Pipeline::new().tail("app.log").rotating_file("out/{host}/{file}").write(&scene, "local.toml");
    let output = format!("out/{HOST}/app.log");
    let mut log = scene.log("app.log", 1);
    log.write_lines(100);
    let run = scene.run(&["local.toml"]).start();
    scene.assert_arrives(log.expected(), &output);
    fs::remove_dir_all(scene.path(&format!("out/{HOST}"))).unwrap();
    wait_until(DEADLINE, "there is a new one", || {
        log.write_lines(10);
        length(&scene.path(&output)) > 0
    });
    log.write_lines(10);
    let end = fs::read(log.expected()).unwrap();
    let written = || fs::read(scene.path(&output)).unwrap_or_default();
    wait_until(DEADLINE, "the rest stands in it", || !written().is_empty() && end.ends_with(&written()));
    let said = run.stop(DEADLINE).expect_code(0).stderr;
    let is_told = |line: &str| line.contains(HOST) && (line.contains("WARN") || line.contains("ERROR"));
    assert!(said.lines().any(is_told), "{said}");
}

#[test]
fn a_file_system_that_turns_read_only_is_waited_for() {
    let scene = Scene::new();
    let Some(disk) = SmallDisk::mount(&scene, "out", "8m") else { return };
    // Without an open file there: a system refuses to make a file system read-only that is written to.
    Pipeline::new().tail("app.log").rotating_file("out/{host}.log").write(&scene, "local.toml");
    let mut log = scene.log("app.log", 1);
    log.write_lines(100);
    scene.run(&["--once", "local.toml"]).finish().expect_code(0);
    disk.remount("ro");
    log.write_lines(100);
    let run = scene.run(&["local.toml"]).start();
    wait_until(DEADLINE, "it is said", || run.stderr().contains("Read-only file system"));
    disk.remount("rw");
    scene.assert_arrives(log.expected(), OUTPUT);
    run.stop(DEADLINE).expect_code(0);
    assert_identical(log.expected(), &scene.path(OUTPUT));
}

#[test]
fn an_output_below_the_patterns_of_the_source_is_left_out_by_exclude() {
    let scene = Scene::new();
    let source =
        format!("include = 'logs/**/*.log'\nexclude = ['{}/**']", scene.path("logs/central").display());
    let pipeline = Pipeline::new().table("source", "file_tail", &source);
    pipeline.rotating_file("logs/central/{file}").write(&scene, "local.toml");
    let mut log = scene.log("app.log", 1);
    for _ in 0..2 {
        log.write_lines(100);
        scene.run(&["--once", "local.toml"]).finish().expect_code(0);
    }
    assert_eq!(scene.files_below("logs/central"), ["app.log"]);
    assert_identical(log.expected(), &scene.path("logs/central/app.log"));
}

/// What `check` says about pipelines that run together, each an include pattern and a path to write to.
#[track_caller]
fn check_together(pipelines: &[(&str, &str)], code: i32) -> String {
    let scene = Scene::new();
    let mut names = Vec::new();
    for (include, path) in pipelines {
        let name = format!("{}.toml", names.len() + 1);
        let source = format!("include = '{include}'");
        Pipeline::new().table("source", "file_tail", &source).rotating_file(path).write(&scene, &name);
        names.push(name);
    }
    let checked = scene.fshipper().argument("check").arguments(names).finish();
    checked.expect_code(code).stderr
}

#[test]
fn a_pipeline_that_would_read_what_it_writes_is_refused_and_told_the_remedy() {
    for (include, path, written) in [
        ("logs/**/*.log", "logs/central/{file}", "logs/central/x.log"),
        ("logs/**", "logs/central/{host}/{file}.%Y", "logs/central/web1.example.net/x."),
        ("logs/*.log", "logs/all.log", "logs/all.log"),
        ("logs/app.log", "logs/{file}", "logs/app.log"),
    ] {
        let said = check_together(&[(include, path)], 2);
        for word in ["lines would go in a circle", "`1.toml`", "`exclude`", include, path, written] {
            assert!(said.contains(word), "`{word}` is missing in:\n{said}");
        }
    }
    // The folder may be reached as long as no file in it is read.
    check_together(&[("logs/*.log", "logs/central/{file}")], 0);
    check_together(&[("logs/**/*.log", "logs/central/{host}/{file}.%Y%m%d")], 0);
}

#[test]
fn pipelines_that_would_feed_each_other_are_refused_together_and_not_alone() {
    let (there, back) = (("logs/a/*", "logs/b/{file}"), ("logs/b/*", "logs/a/{file}"));
    let said = check_together(&[there, back], 2);
    assert!(said.contains("`1.toml`") && said.contains("`2.toml`"), "{said}");
    check_together(&[there, ("logs/b/*", "logs/c/{file}"), ("logs/c/*", "logs/a/{file}")], 2);
    check_together(&[there], 0);
    check_together(&[there, ("logs/b/*", "logs/c/{file}")], 0);
}

#[test]
fn a_circle_through_a_broker_is_refused_and_a_relay_is_not() {
    let scene = Scene::new();
    let (near, far) = ("nats://127.0.0.1:4222", "nats://127.0.0.1:4223");
    Pipeline::new()
        .jetstream(near)
        .rotating_file("logs/central/{host}/{file}")
        .write(&scene, "consumer.toml");
    for (name, url) in [("back.toml", near), ("relay.toml", far)] {
        Pipeline::new().tail("central/**").jetstream(url).write(&scene, name);
    }
    let check = |names: &[&str]| scene.fshipper().argument("check").arguments(names).finish();
    let said = check(&["back.toml", "consumer.toml"]).expect_code(2).stderr;
    assert!(said.contains("in a circle") && said.contains("`consumer.toml` writes"), "{said}");
    check(&["relay.toml", "consumer.toml"]).expect_code(0);
}

#[test]
fn nothing_is_begun_by_pipelines_that_would_go_in_a_circle() {
    let scene = Scene::new();
    Pipeline::new().tail("**").rotating_file("logs/central/{file}").write(&scene, "local.toml");
    scene.write("logs/app.log", "one\n");
    scene.run(&["--once", "local.toml"]).finish().expect_code(2);
    assert_eq!(scene.files_below("logs"), ["app.log"]);
}

#[test]
fn an_output_that_comes_back_over_the_broker_is_held_and_other_logs_go_on() {
    let (scene, server) = (Scene::new(), NatsServer::jetstream());
    Pipeline::new().tail("**").jetstream(&server.url()).write(&scene, "producer.toml");
    let consumer = Pipeline::new().jetstream(&server.url());
    consumer.rotating_file("logs/central/{file}").write(&scene, "consumer.toml");
    let mut log = scene.log("app.log", 1);
    log.write_lines(100);
    let running = ["consumer.toml", "producer.toml"].map(|file| scene.run(&[file]).start());
    wait_until(DEADLINE, "it is noticed", || running[0].stderr().contains("lines would go in a circle"));
    for _ in 0..3 {
        log.write_lines(100);
        scene.assert_arrives(log.expected(), "logs/central/app.log");
    }
    let said = running[0].stderr();
    let report = said.lines().find(|line| line.contains("cannot go on")).unwrap();
    assert!(report.contains("ERROR") && report.contains("logs/central/") && report.contains("`exclude`"));
    for run in running {
        run.stop(DEADLINE).expect_code(0);
    }
    assert_eq!(scene.files_below("logs/central"), ["app.log"]);
    assert_identical(log.expected(), &scene.path("logs/central/app.log"));
}
