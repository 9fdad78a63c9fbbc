//! Odd content, odd files, many files.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, setrlimit};

use super::bench::{Bench, lines};
use crate::file_tail::tail::{Next, TICK};

#[test]
fn any_bytes_are_bytes() {
    let mut bench = Bench::new(&["*.log"]);
    let content = b"nul \0 cr \r\n\xff\xfe \xed\xa0\x80\n\n\n\r\n\x1b[31mred\n\xef\xbb\xbfbom\n";
    bench.append("a.log", content);
    bench.pump();
    bench.check("a.log", content);
}

#[test]
fn long_lines_travel_in_parts() {
    for length in [99, 100, 101, 199, 200, 201, 1000] {
        let mut bench = Bench::new(&["a.log"]);
        bench.max_batch_bytes = 200;
        bench.tables[0].options.max_line_bytes = 100;
        let line = "x".repeat(length);
        let content = format!("before\n{line}\nafter\n");
        for piece in content.as_bytes().chunks(37) {
            bench.append("a.log", piece);
            bench.pump();
        }
        bench.check("a.log", &content);
        let mut whole = Bench::new(&["a.log"]);
        whole.max_batch_bytes = 200;
        whole.tables[0].options.max_line_bytes = 100;
        whole.append("a.log", &content);
        whole.pump();
        whole.check("a.log", &content);
    }
}

#[test]
fn a_line_without_end_is_shipped_as_soon_as_it_is_too_long() {
    let mut bench = Bench::new(&["a.log"]);
    bench.tables[0].options.max_line_bytes = 1000;
    bench.append("a.log", vec![b'x'; 2500]);
    bench.pump();
    bench.check("a.log", vec![b'x'; 2000]);
    bench.restart();
    bench.append("a.log", "\nnext\n");
    bench.pump();
    bench.check("a.log", "x".repeat(2500) + "\nnext\n");
}

#[test]
fn files_and_directories_that_appear_later_are_found() {
    let mut bench = Bench::new(&["logs/**/*.log", "*/fixed/x.log"]);
    bench.pump();
    fs::create_dir_all(bench.path("logs/a/b")).unwrap();
    bench.append("logs/a/b/x.log", "one\n");
    bench.append("logs/a/b/x.txt", "not selected\n");
    bench.pump();
    bench.append("logs/y.log", "two\n");
    fs::create_dir_all(bench.path("later/fixed")).unwrap();
    bench.append("later/fixed/x.log", "three\n");
    bench.pump();
    assert_eq!(bench.names(), ["later/fixed/x.log", "logs/a/b/x.log", "logs/y.log"]);
    bench.check("logs/a/b/x.log", "one\n");
    fs::remove_dir_all(bench.path("logs")).unwrap();
    bench.settle();
    fs::create_dir_all(bench.path("logs/a/b")).unwrap();
    bench.append("logs/a/b/x.log", "again\n");
    bench.settle();
    bench.check("logs/a/b/x.log", "one\nagain\n");
}

#[test]
fn the_first_table_to_match_a_file_owns_it() {
    let mut bench = Bench::new(&["a*.log"]);
    bench.tables[0].exclude = vec!["*private*".to_owned()];
    bench.add_table(&["*.log"]);
    bench.tables[1].options.start_at_end = true;
    bench.append("a.log", "one\n");
    bench.append("a-private.log", "two\n");
    bench.append("b.log", "three\n");
    bench.pump();
    assert_eq!(bench.names(), ["a.log"]);
    for name in ["a.log", "a-private.log", "b.log"] {
        bench.append(name, "next\n");
    }
    bench.pump();
    bench.check("a.log", "one\nnext\n");
    bench.check("a-private.log", "next\n");
    bench.check("b.log", "next\n");
}

#[test]
fn what_is_no_file_is_skipped() {
    let mut bench = Bench::new(&["*"]);
    let fifo = bench.path("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(bench.path("socket")).unwrap();
    fs::create_dir(bench.path("directory")).unwrap();
    symlink("/dev/zero", bench.path("device")).unwrap();
    symlink("loop", bench.path("loop")).unwrap();
    symlink("nowhere", bench.path("dangling")).unwrap();
    bench.append("a.log", "one\n");
    bench.pump();
    assert_eq!(bench.names(), ["a.log"]);
    fs::write(bench.path("nowhere"), "found\n").unwrap();
    bench.pump();
    let total: usize = bench.names().iter().map(|name| bench.content(name).len()).sum();
    assert_eq!(total, "one\nfound\n".len());
}

#[test]
fn a_symbolic_link_is_followed_to_its_file_and_to_the_next_one() {
    let mut bench = Bench::new(&["current"]);
    bench.append("first", lines("a", 0..3));
    symlink("first", bench.path("current")).unwrap();
    bench.pump();
    bench.append("first", lines("a", 3..4));
    bench.append("second", lines("b", 0..3));
    fs::remove_file(bench.path("current")).unwrap();
    symlink("second", bench.path("current")).unwrap();
    bench.settle();
    bench.check("current", lines("a", 0..4) + &lines("b", 0..3));
}

#[test]
fn a_file_under_several_names_is_shipped_once() {
    let mut bench = Bench::new(&["*", "*.log"]);
    bench.append("a.log", "one\n");
    symlink("a.log", bench.path("b")).unwrap();
    fs::hard_link(bench.path("a.log"), bench.path("c")).unwrap();
    bench.pump();
    bench.append("a.log", "two\n");
    bench.pump();
    bench.restart();
    bench.append("a.log", "three\n");
    bench.settle();
    assert_eq!(bench.names().len(), 1);
    bench.check(&bench.names()[0], "one\ntwo\nthree\n");
}

#[test]
fn odd_names_survive() {
    let mut bench = Bench::new(&["*.log"]);
    for name in [&b"new\nline.log"[..], b"\xff\xfe.log", b"100%25.log", "x".repeat(251).as_bytes()] {
        let name = if name.starts_with(b"x") { [name, b".log"].concat() } else { name.to_vec() };
        let path = bench.path("").join(Path::new(std::ffi::OsStr::from_bytes(&name)));
        fs::write(path, "one\n").unwrap();
    }
    bench.pump();
    assert_eq!(bench.origins(), 4);
    bench.restart();
    bench.pump();
    assert_eq!(bench.origins(), 4);
}

#[test]
fn a_busy_file_does_not_starve_a_thousand_slow_ones() {
    let mut bench = Bench::new(&["*.log"]);
    bench.append("busy.log", lines("busy", 0..1000));
    for number in 0..1000 {
        bench.append(&format!("slow{number}.log"), format!("{number}\n"));
    }
    let mut fills = 0;
    while bench.names().len() < 1001 {
        bench.fill(false);
        fills += 1;
        assert!(fills < 10, "the slow ones wait");
    }
    assert!(bench.content("busy.log").len() < lines("busy", 0..1000).len());
    bench.pump();
    bench.check("busy.log", lines("busy", 0..1000));
    bench.check("slow999.log", "999\n");
}

/// Without it they are looked at in turns, at the next tick.
#[test]
fn after_an_overflow_of_hints_every_file_is_looked_at_at_once() {
    let mut bench = Bench::new(&["*.log"]);
    let name = |number: usize| format!("{number}.log");
    (0..20).for_each(|number| bench.append(&name(number), lines("a", 0..1)));
    bench.pump();
    (0..20).for_each(|number| bench.append(&name(number), lines("a", 1..2)));
    assert!(matches!(bench.fill(false), Next::Wait(_)));
    bench.overflow();
    while let Next::More = bench.fill(false) {}
    (0..20).for_each(|number| bench.check(&name(number), lines("a", 0..2)));
}

#[test]
fn files_that_come_and_go_leave_nothing_but_their_positions() {
    let mut bench = Bench::new(&["*.log"]);
    bench.append("stays.log", lines("stays", 0..1));
    bench.pump();
    let names: Vec<String> = (0..2000).map(|number| format!("{number}.log")).collect();
    let mut rotations = 0;
    for names in names.chunks(200) {
        names.iter().for_each(|name| bench.append(name, lines(name, 0..2)));
        bench.rename("stays.log", "rotated");
        bench.append("stays.log", lines("stays", rotations + 1..rotations + 2));
        rotations += 1;
        bench.pump();
        bench.commit();
        names.iter().for_each(|name| bench.remove(name));
        bench.settle();
        bench.commit();
        bench.pump();
        let known = bench.known();
        assert!(known.iter().all(|count| *count <= 800), "{known:?}");
    }
    // They come back, in the same process and after a restart.
    for (round, names) in names.chunks(10).take(3).enumerate() {
        for name in names {
            bench.append(name, lines(name, 2..3));
        }
        bench.pump();
        if round == 1 {
            bench.restart();
        }
        for name in names {
            bench.append(name, lines(name, 3..4));
        }
        bench.pump();
        names.iter().for_each(|name| bench.check(name, lines(name, 0..4)));
    }
    bench.settle();
    bench.check("stays.log", lines("stays", 0..rotations + 1));
    assert_eq!(bench.unknown_losses(), 0);
}

#[test]
fn what_is_not_durable_is_not_forgotten_when_its_file_is_gone() {
    let mut bench = Bench::new(&["*.log"]);
    let names: Vec<String> = (0..600).map(|number| format!("{number}.log")).collect();
    names.iter().for_each(|name| bench.append(name, lines(name, 0..1)));
    bench.pump();
    bench.commit();
    for name in &names {
        bench.append(name, lines(name, 1..2));
    }
    bench.pump();
    names.iter().for_each(|name| bench.remove(name));
    bench.settle();
    bench.sweep_soon();
    bench.settle();
    // What was sent and not committed can never be read again: that is a loss, and said.
    bench.crash();
    bench.settle();
    let lost = "?".repeat(lines("0.log", 1..2).len());
    bench.check("0.log", lines("0.log", 0..1) + &lost);
}

/// A name and an inode that are used again leave no trace in a listing but the time of birth.
#[test]
fn what_a_listing_remembers_of_a_file_is_doubted_when_another_one_stands_there() {
    let mut bench = Bench::new(&["a.log"]);
    bench.tables[0].options.rotate_wait = Duration::ZERO;
    bench.append("a.log", lines("a", 0..3));
    bench.pump();
    bench.remove("a.log");
    bench.pump();
    bench.append("a.log", lines("b", 0..3));
    bench.misremember("a.log");
    bench.wait(TICK);
    bench.fill(false);
    bench.misremember("a.log");
    bench.pump();
    bench.check("a.log", lines("a", 0..3) + &lines("b", 0..3));
}

#[test]
fn many_files_are_read_with_few_open() {
    let mut bench = Bench::new(&["*.log"]);
    for number in 0..300 {
        bench.append(&format!("{number}.log"), lines("a", 0..3));
    }
    for round in 0..2 {
        bench.open();
        bench.limit_open_files(8);
        for number in 0..300 {
            bench.append(&format!("{number}.log"), lines("a", 3 + round..4 + round));
        }
        bench.pump();
        assert!(bench.open_files() <= 8, "{} are open", bench.open_files());
        bench.restart();
    }
    for number in 0..300 {
        bench.check(&format!("{number}.log"), lines("a", 0..5));
    }
}

#[test]
fn files_with_the_same_beginning_are_different_logs() {
    let banner = "the same banner in each and every file\n".repeat(100);
    let mut bench = Bench::new(&["*.log"]);
    for name in ["a.log", "b.log", "c.log"] {
        bench.append(name, banner.clone() + &lines(name, 0..2));
    }
    bench.pump();
    bench.restart();
    for name in ["a.log", "b.log", "c.log"] {
        bench.append(name, lines(name, 2..3));
    }
    bench.settle();
    for name in ["a.log", "b.log", "c.log"] {
        bench.check(name, banner.clone() + &lines(name, 0..3));
    }
}

#[test]
fn nothing_is_begun_while_the_state_cannot_be_written_and_known_files_go_on() {
    let mut bench = Bench::with_log("*.log", 3);
    let state = bench.state_file();
    // A directory where the state log should be: it can be neither written nor replaced.
    fs::remove_file(&state).unwrap();
    fs::create_dir(&state).unwrap();
    fs::write(state.join("x"), "").unwrap();
    bench.break_state();
    bench.append("a.log", lines("a", 3..5));
    bench.append("b.log", lines("b", 0..3));
    bench.pump();
    bench.check("a.log", lines("a", 0..5));
    bench.check("b.log", "");
    fs::remove_dir_all(&state).unwrap();
    bench.pump();
    bench.check("b.log", lines("b", 0..3));
    bench.restart();
    bench.append("a.log", lines("a", 5..6));
    bench.pump();
    bench.check("a.log", lines("a", 0..6));
    bench.check("b.log", lines("b", 0..3));
}

#[test]
fn a_file_that_cannot_be_read_is_tried_again_and_does_not_keep_the_others_waiting() {
    let mut bench = Bench::new(&["*.log"]);
    bench.append("a.log", lines("a", 0..3));
    bench.append("b.log", lines("b", 0..3));
    bench.pump();
    bench.append("a.log", lines("a", 3..5));
    bench.append("b.log", lines("b", 3..5));
    for _ in 0..3 {
        bench.break_file("a.log");
        bench.wait(TICK);
        let mut fills = 0;
        while let Next::More = bench.fill(false) {
            fills += 1;
            assert!(fills < 10, "it spins");
        }
        bench.check("a.log", lines("a", 0..3));
    }
    bench.check("b.log", lines("b", 0..5));
    bench.pump();
    bench.check("a.log", lines("a", 0..5));
    assert_eq!(bench.unknown_losses(), 0);
}

#[test]
fn a_file_that_is_only_appended_to_takes_no_room_for_rotations() {
    let mut bench = Bench::with_log("*.log*", 5);
    let has_room = |bench: &Bench| bench.tail.as_ref().unwrap().logs[0].rotation.is_made();
    for number in 1..4 {
        bench.append("a.log", lines("a", number * 5..number * 5 + 5));
        bench.settle();
        assert!(!has_room(&bench));
        bench.commit();
        bench.restart();
        bench.pump();
        assert!(!has_room(&bench));
    }
    bench.rotate();
    bench.settle();
    assert!(has_room(&bench));
}

/// Run again as a process of its own: the limit holds for all of a process.
#[test]
fn without_free_descriptors_nothing_counts_as_deleted() {
    const CHILD: &str = "FSHIPPER_TEST_WITHOUT_DESCRIPTORS";
    if std::env::var_os(CHILD).is_none() {
        let name = "file_tail::tests::limits::without_free_descriptors_nothing_counts_as_deleted";
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--test-threads=1", "--nocapture"])
            .env(CHILD, "1")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&child.stdout) + String::from_utf8_lossy(&child.stderr);
        assert!(child.status.success() && text.contains("1 passed"), "{text}");
        return;
    }
    let mut bench = Bench::new(&["*.log"]);
    for name in ["a.log", "b.log", "c.log"] {
        bench.append(name, lines(name, 0..3));
    }
    bench.pump();
    bench.restart();
    bench.open();
    // Everything that can be open is open.
    let mut hog = Vec::new();
    setrlimit(Resource::Nofile, Rlimit { current: Some(64), maximum: Some(64) }).unwrap();
    while let Ok(file) = File::open("/dev/null") {
        hog.push(file);
    }
    for name in ["a.log", "b.log", "c.log"] {
        let mut file = reuse(&mut hog, || OpenOptions::new().append(true).open(bench.path(name)));
        bench.append_to(&mut file, lines(name, 3..5));
        drop(file);
        hog.push(File::open("/dev/null").unwrap());
    }
    bench.rename("c.log", "c.log.1");
    for _ in 0..3 {
        bench.settle();
    }
    assert_eq!(bench.unknown_losses(), 0);
    drop(hog);
    bench.settle();
    for name in ["a.log", "b.log", "c.log"] {
        bench.check(name, lines(name, 0..5));
    }
    assert_eq!(bench.unknown_losses(), 0);
}

/// Opens a file in the place of one that only takes up a descriptor.
fn reuse(hog: &mut Vec<File>, open: impl Fn() -> io::Result<File>) -> File {
    drop(hog.pop());
    open().unwrap()
}
