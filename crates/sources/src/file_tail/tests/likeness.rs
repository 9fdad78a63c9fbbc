//! Files that are like one another and are not the same: what only looks as if it had been read is read.

use std::fs;
use std::time::Duration;

use super::bench::{Bench, ROTATE_WAIT, gzipped, lines};
use crate::file_tail::tail::{Next, TICK};

/// More than a fingerprint covers.
fn banner() -> String {
    lines("the same beginning in each file,", 0..40)
}

/// A job that says the same every night.
#[test]
fn compressed_files_that_hold_the_same_are_all_read() {
    for was_down in [false, true] {
        let mut bench = Bench::new(&["a.log*"]);
        let mut expected = String::new();
        if was_down {
            bench.append("a.log", lines("before", 0..20));
            bench.settle();
            expected += &lines("before", 0..20);
            bench.restart();
            bench.rename("a.log", "a.log.4");
            bench.gzip("a.log.4");
        }
        for number in [3, 2, 1] {
            bench.write(&format!("a.log.{number}.gz"), gzipped(lines("same", 0..20)));
            expected += &lines("same", 0..20);
        }
        bench.append("a.log", lines("a", 0..3));
        (0..6).for_each(|_| bench.settle());
        bench.check("a.log", expected.clone() + &lines("a", 0..3));
        bench.restart();
        for number in [3, 2, 1] {
            bench.rename(&format!("a.log.{number}.gz"), &format!("a.log.{}.gz", number + 1));
        }
        bench.rename("a.log", "a.log.1");
        bench.gzip("a.log.1");
        bench.append("a.log", lines("b", 0..3));
        (0..4).for_each(|_| bench.settle());
        bench.check("a.log", expected + &lines("a", 0..3) + &lines("b", 0..3));
        bench.check_one_log_without_loss();
    }
}

#[test]
fn a_file_that_begins_with_all_that_another_one_holds_is_another_file() {
    for is_packed in [false, true] {
        let mut bench = Bench::new(&["a.log*"]);
        bench.append("a.log.2", lines("same", 0..20));
        bench.append("a.log.1", lines("same", 0..25));
        if is_packed {
            bench.gzip("a.log.2");
            bench.gzip("a.log.1");
        }
        bench.append("a.log", lines("a", 0..3));
        (0..6).for_each(|_| bench.settle());
        bench.check("a.log", lines("same", 0..20) + &lines("same", 0..25) + &lines("a", 0..3));
        bench.check_one_log_without_loss();
    }
}

/// The one that it looks like was deleted meanwhile.
#[test]
fn a_file_that_begins_with_all_that_a_deleted_one_held_is_another_file() {
    for is_packed in [false, true] {
        let start = "the program has started, and says the same each time: hello, world\n";
        let mut bench = Bench::new(&["a.log*"]);
        bench.append("a.log", start);
        bench.settle();
        bench.rotate();
        bench.append("a.log", lines("b", 0..3));
        (0..2).for_each(|_| bench.settle());
        bench.restart();
        bench.remove("a.log.1");
        let unseen = start.to_owned() + &lines("unseen", 0..10);
        bench.rename("a.log", "a.log.2");
        bench.append("a.log.1", &unseen);
        if is_packed {
            bench.gzip("a.log.1");
        }
        bench.append("a.log", lines("c", 0..3));
        (0..4).for_each(|_| bench.settle());
        bench.check("a.log", start.to_owned() + &lines("b", 0..3) + &unseen + &lines("c", 0..3));
        bench.check_one_log_without_loss();
    }
}

/// So many logs that some of them wait for a decoder, with nothing read of their files.
#[test]
fn compressed_files_that_begin_alike_are_all_read_however_long_they_wait() {
    let mut bench = Bench::new(&["*"]);
    let names: Vec<String> = (0..12).map(|number| format!("{number}.log")).collect();
    let of = |name: &str, number: usize| banner() + &lines(&format!("{name} {number}"), 0..20);
    for name in &names {
        for number in [3, 2, 1] {
            bench.write(&format!("{name}.{number}.gz"), gzipped(of(name, number)));
        }
        bench.append(name, lines("live", 0..3));
    }
    bench.wait(ROTATE_WAIT);
    for _ in 0..100 {
        bench.wait(TICK);
        while let Next::More = bench.fill(false) {}
    }
    for name in &names {
        bench.check(name, of(name, 3) + &of(name, 2) + &of(name, 1) + &lines("live", 0..3));
    }
    assert_eq!((bench.names().len(), bench.unknown_losses()), (names.len(), 0));
}

/// Of the first file it is only known how it began: it was recorded, and deleted while nobody took what is read.
#[test]
fn files_that_begin_as_one_of_which_nothing_was_read_are_other_files() {
    for is_deleted in [false, true] {
        let mut bench = Bench::new(&["*.log*"]);
        bench.append("a.log", lines("a", 0..200));
        bench.append("b.log", lines("b", 0..200));
        let [first, second, third] = ["first", "second", "third"].map(|tag| banner() + &lines(tag, 0..3));
        bench.append("c.log", &first);
        bench.fill(false);
        assert!(!bench.content("a.log").is_empty() && bench.content("c.log").is_empty());
        bench.rename("c.log", "c.log.3");
        if is_deleted {
            bench.remove("c.log.3");
        }
        bench.append("c.log.2", &second);
        bench.append("c.log.1", &third);
        bench.append("c.log", lines("live", 0..3));
        for _ in 0..8 {
            bench.wait(TICK);
            let now = bench.now();
            bench.tail.as_mut().unwrap().keep_up(now);
        }
        (0..4).for_each(|_| bench.settle());
        bench.check("c.log", first + &second + &third + &lines("live", 0..3));
        assert_eq!((bench.names().len(), bench.unknown_losses()), (3, 0));
    }
}

/// What is the same to the last byte, and whose original is nowhere, was moved: to another disk, for one.
#[test]
fn files_that_were_copied_to_new_inodes_while_it_was_down_are_not_read_again() {
    for is_packed in [false, true] {
        let mut bench = Bench::new(&["a.log*"]);
        let mut expected = String::new();
        for number in [3, 2, 1] {
            let name = format!("a.log.{number}");
            bench.append(&name, lines(&name, 0..20));
            expected += &lines(&name, 0..20);
            if is_packed {
                bench.gzip(&name);
            }
        }
        bench.append("a.log", lines("a", 0..20));
        expected += &lines("a", 0..20);
        (0..6).for_each(|_| bench.settle());
        bench.restart();
        let suffix = if is_packed { ".gz" } else { "" };
        let names = [3, 2, 1].map(|number| format!("a.log.{number}{suffix}"));
        for name in names.iter().map(String::as_str).chain(["a.log"]) {
            let content = fs::read(bench.path(name)).unwrap();
            bench.write("moved", content);
            bench.rename("moved", name);
        }
        (0..4).for_each(|_| bench.settle());
        bench.rename("a.log", "a.log.0");
        bench.append("a.log", lines("b", 0..3));
        (0..4).for_each(|_| bench.settle());
        bench.check("a.log", expected + &lines("b", 0..3));
        bench.check_one_log_without_loss();
    }
}

/// A directory that is mounted, and mounted again.
#[test]
fn a_forgotten_log_whose_file_comes_back_goes_on_where_it_was() {
    let mut bench = Bench::new(&["logs/*.log"]);
    fs::create_dir(bench.path("logs")).unwrap();
    bench.append("logs/a.log", lines("a", 0..5));
    bench.append("logs/tiny.log", "tiny\n");
    let names = many_names("logs/");
    names.iter().for_each(|name| bench.append(name, lines(name, 0..2)));
    bench.settle();
    bench.commit();
    for round in 1..4 {
        bench.rename("logs", "elsewhere");
        (0..2).for_each(|_| bench.settle());
        bench.sweep_soon();
        bench.settle();
        assert_eq!(bench.known()[3], 0, "all are forgotten");
        bench.rename("elsewhere", "logs");
        (0..3).for_each(|_| bench.settle());
        bench.append("logs/a.log", lines("a", 4 + round..5 + round));
        bench.settle();
        bench.check("logs/a.log", lines("a", 0..5 + round));
        bench.check("logs/tiny.log", "tiny\n");
        names.iter().for_each(|name| bench.check(name, lines(name, 0..2)));
        bench.commit();
    }
    assert_eq!(bench.unknown_losses(), 0);
}

/// How much of it was read is known, and not what: it was lost.
#[test]
fn a_forgotten_log_whose_end_nobody_read_begins_anew() {
    let mut bench = Bench::with_log("*.log", 60);
    bench.restart();
    bench.remove("a.log");
    bench.settle();
    let names = many_names("");
    names.iter().for_each(|name| bench.append(name, "x\n"));
    bench.settle();
    names.iter().for_each(|name| bench.remove(name));
    bench.settle();
    bench.commit();
    bench.sweep_soon();
    bench.settle();
    assert_eq!(bench.known()[3], 0, "it is forgotten");
    bench.append("a.log", lines("a", 0..70));
    bench.settle();
    bench.check("a.log", lines("a", 0..60) + &lines("a", 0..70));
    assert_eq!(bench.unknown_losses(), 1);
}

/// So many logs that those which are gone are looked for.
fn many_names(folder: &str) -> Vec<String> {
    (0..300).map(|number| format!("{folder}many-{number}.log")).collect()
}

/// Nothing was read of the current file, so its beginning is all that it is known by: the oldest file that begins
/// so is as good as any, for all the others come after it.
#[test]
fn of_files_that_begin_alike_none_is_passed_over_when_nothing_was_read_of_the_current_one() {
    for is_packed in [false, true] {
        for has_earlier in [false, true] {
            let banner = banner();
            let content = |tag: &str| banner.clone() + &lines(tag, 0..5);
            let mut bench = Bench::new(&["a.log*"]);
            bench.append("a.log", content("w"));
            bench.settle();
            bench.commit();
            if has_earlier {
                bench.rotate();
            } else {
                bench.remove("a.log");
                bench.settle();
            }
            bench.append("a.log", content("x"));
            bench.settle();
            bench.crash();
            for tag in ["y", "z"] {
                bench.rotate();
                bench.append("a.log", content(tag));
            }
            let oldest = if has_earlier { 3 } else { 2 };
            for name in (1..=oldest).map(|number| format!("a.log.{number}")) {
                match is_packed {
                    true => bench.gzip(&name),
                    false => bench.copy_to_another_inode(&name),
                }
            }
            bench.wait(Duration::from_secs(60));
            (0..6).for_each(|_| bench.settle());
            bench.check("a.log", ["w", "x", "y", "z"].map(content).concat());
            bench.check_one_log_without_loss();
        }
    }
}

/// Its end is what it was as far as anybody looks; its beginning is not.
#[test]
fn a_file_written_anew_that_is_as_long_and_ends_as_before_is_another_file() {
    let mut bench = Bench::new(&["a.log"]);
    let (old, new) = (lines("a", 0..10), lines("b", 0..10));
    let end = lines("the same end", 0..3);
    bench.append("a.log", old.clone() + &end);
    bench.pump();
    bench.wait(Duration::from_secs(1));
    bench.write("a.log", new.clone() + &end);
    bench.settle();
    bench.check("a.log", old + &end + &new + &end);
    assert_eq!(bench.unknown_losses(), 0);
}
