//! Few descriptors, many files, no watches.

use std::fs;

use fshipper_testing::{DEADLINE, NatsServer, wait_until};

use crate::support::{Pipeline, Scene};
use crate::surroundings::{in_shell, open_files, works};

/// The files of the tests that may have 64 open.
const FILES: usize = 500;

const FEW: &str = "ulimit -n 64; exec \"$0\" \"$@\"";

fn content(number: usize, lines: usize) -> String {
    (0..lines).map(|line| format!("file {number} line {line}\n")).collect()
}

#[track_caller]
fn assert_all_arrived(scene: &Scene, lines: usize) {
    let file = |number: usize| scene.path(&format!("out/{number}.log"));
    wait_until(DEADLINE, "all files have arrived", || {
        (0..FILES)
            .all(|number| fs::read(file(number)).unwrap_or_default().len() >= content(number, lines).len())
    });
    for number in 0..FILES {
        assert_eq!(fs::read_to_string(file(number)).unwrap(), content(number, lines));
    }
}

#[test]
fn five_hundred_logs_are_shipped_with_sixty_four_open_files() {
    let scene = Scene::new();
    Pipeline::new().tail("*.log").rotating_file("out/{file}").write(&scene, "local.toml");
    let write = |lines: usize| {
        for number in 0..FILES {
            scene.write(&format!("logs/{number}.log"), content(number, lines));
        }
    };
    write(3);
    let launch = in_shell(&scene, FEW, &["run", "local.toml"]);
    let run = launch.start();
    assert_all_arrived(&scene, 3);
    assert!(open_files(run.pid()).len() <= 64);
    let said = run.stop(DEADLINE).expect_code(0).stderr;
    assert!(!said.contains("ERROR"), "{said}");

    // What was not open when it stopped is known all the same.
    write(5);
    let run = launch.start();
    assert_all_arrived(&scene, 5);
    let said = run.stop(DEADLINE).expect_code(0).stderr;
    assert!(!said.contains("ERROR"), "{said}");
}

#[test]
fn empty_files_are_nothing_until_they_grow() {
    let scene = Scene::new();
    Pipeline::new().tail("*.log").rotating_file("out/{file}").write(&scene, "local.toml");
    for number in 0..400 {
        scene.write(&format!("logs/{number}.log"), "");
    }
    let mut log = scene.log("app.log", 1);
    let run = scene.run(&["local.toml"]).start();
    log.write_lines(10);
    scene.assert_arrives(log.expected(), "out/app.log");
    for number in [7, 300] {
        scene.write(&format!("logs/{number}.log"), content(number, 2));
    }
    for number in [7, 300] {
        scene.assert_arrives(&scene.path(&format!("logs/{number}.log")), &format!("out/{number}.log"));
    }
    let said = run.stop(DEADLINE).expect_code(0).stderr;
    assert_eq!(scene.files_below("out"), ["300.log", "7.log", "app.log"]);
    assert!(said.lines().count() < 10, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_hosts_are_written_with_sixty_four_open_files() {
    let (scene, server) = (Scene::new(), NatsServer::jetstream());
    Pipeline::new().jetstream(&server.url()).rotating_file("out/{host}.log").write(&scene, "consumer.toml");
    scene.run(&["--once", "consumer.toml"]).finish().expect_code(0);
    let client = async_nats::connect(server.url()).await.unwrap();
    let run = in_shell(&scene, FEW, &["run", "consumer.toml"]).start();
    for line in 0..3 {
        for number in 0..FILES {
            let text = format!("file {number} line {line}");
            client.publish(format!("shipper.{number}.app"), text.into()).await.unwrap();
        }
    }
    client.flush().await.unwrap();
    assert_all_arrived(&scene, 3);
    assert!(open_files(run.pid()).len() <= 64);
    let said = run.stop(DEADLINE).expect_code(0).stderr;
    assert!(!said.contains("ERROR"), "{said}");
}

#[test]
fn without_watches_files_are_polled_and_the_log_names_the_sysctl() {
    let deny = "echo 0 > /proc/sys/user/max_inotify_watches; exec \"$0\" \"$@\"";
    let is_denied = ["-Ur", "sh", "-c", "echo 0 > /proc/sys/user/max_inotify_watches"];
    if !works("this process may not make a user namespace", "unshare", &is_denied) {
        return;
    }
    let scene = Scene::new();
    Pipeline::new().tail("*.log").rotating_file("out/{file}").write(&scene, "local.toml");
    let mut log = scene.log("app.log", 1);
    log.write_lines(10);
    let script = format!("exec unshare -Ur sh -c '{deny}' \"$0\" \"$@\"");
    let run = in_shell(&scene, &script, &["run", "local.toml"]).start();
    scene.assert_arrives(log.expected(), "out/app.log");
    for _ in 0..3 {
        log.write_lines(10);
        scene.assert_arrives(log.expected(), "out/app.log");
    }
    let said = run.stop(DEADLINE).expect_code(0).stderr;
    assert!(said.contains("are polled") && said.contains("fs.inotify.max_user_watches"), "{said}");
}

#[test]
fn of_many_logs_that_cannot_go_on_a_hundred_are_named() {
    const LOGS: usize = 130;
    let scene = Scene::new();
    let sink = "path = 'out/{file}'\nmax_logs = 2";
    Pipeline::new().tail("*.log").table("sink", "rotating_file", sink).write(&scene, "local.toml");
    for number in 0..LOGS {
        scene.write(&format!("logs/{number}.log"), "line\n");
    }
    let run = scene.run(&["local.toml"]).start();
    let said = || run.stderr();
    wait_until(DEADLINE, "the others are said to wait", || said().contains("others than the 100"));
    let named = said().lines().filter(|line| line.contains("trying again, the others go on")).count();
    assert_eq!(named, 100, "{}", said());
    let written = || scene.files_below("out").len();
    wait_until(DEADLINE, "what may be written is written", || written() == 2);
    run.stop(DEADLINE).expect_code(0);
    assert_eq!(written(), 2);
}
