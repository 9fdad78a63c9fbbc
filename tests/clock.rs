//! Clocks that jump. What waits for something counts with a clock that never does; the wall clock only stamps.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use fshipper_testing::{DEADLINE, Fshipper, NatsServer, wait_until};

use crate::support::{Pipeline, Scene, assert_identical};
use crate::surroundings::works;

const OUTPUT: &str = "out/web1.example.net.log";

/// In the place of the system's wall clock: ahead of it by as many seconds as the file `$SHIFT` says.
const SHIFTED_CLOCK: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = syscall(SYS_clock_gettime, clock, now);
    if (result == 0 && clock == CLOCK_REALTIME) {
        char text[32] = "";
        int file = open(getenv("SHIFT"), O_RDONLY | O_CLOEXEC);
        if (file >= 0 && read(file, text, sizeof text - 1) > 0) now->tv_sec += atol(text);
        if (file >= 0) close(file);
    }
    return result;
}
"#;

/// `None`, with a message, where there is no C compiler.
fn shifted_clock(scene: &Scene) -> Option<PathBuf> {
    let (source, library) = (scene.write("clock.c", SHIFTED_CLOCK), scene.path("clock.so"));
    let arguments = ["-shared", "-fPIC", "-o", library.to_str().unwrap(), source.to_str().unwrap()];
    works("there is no C compiler", "cc", &arguments).then_some(library)
}

#[test]
fn a_clock_that_jumps_back_a_day_and_ahead_a_year_changes_nothing() {
    let (scene, mut server) = (Scene::new(), NatsServer::jetstream());
    let Some(clock) = shifted_clock(&scene) else { return };
    Pipeline::new().tail("app.log*").jetstream(&server.url()).write(&scene, "producer.toml");
    Pipeline::new().jetstream(&server.url()).rotating_file("out/{host}.log").write(&scene, "consumer.toml");
    let shifted = |file| -> Fshipper {
        scene.run(&[file]).variable("LD_PRELOAD", &clock).variable("SHIFT", scene.path("shift"))
    };
    let mut log = scene.log("app.log", 1);
    log.write_lines(500);
    let consuming = shifted("consumer.toml").start();
    let mut producing = shifted("producer.toml").start();
    scene.assert_arrives(log.expected(), OUTPUT);
    for (jumps, seconds) in [(1, "-86400"), (2, "31536000"), (3, "0")] {
        // While both run: through a reconnect with its pauses, and a rotation with its wait.
        fs::write(scene.path("shift"), seconds).unwrap();
        server.restart();
        log.write_lines(500);
        log.rotate_numbered();
        log.write_lines(500);
        scene.assert_arrives(log.expected(), OUTPUT);
        wait_until(DEADLINE, "the jump shows in what it says", || {
            let said = consuming.stderr();
            let days: BTreeSet<_> = said.lines().filter_map(|line| line.get(..10)).collect();
            days.len() > jumps.min(2)
        });
        // And from one life of the producer to the next.
        producing.stop(DEADLINE).expect_code(0);
        log.write_lines(500);
        producing = shifted("producer.toml").start();
        scene.assert_arrives(log.expected(), OUTPUT);
    }
    for run in [producing, consuming] {
        run.stop(DEADLINE).expect_code(0);
    }
    assert_identical(log.expected(), &scene.path(OUTPUT));
}
