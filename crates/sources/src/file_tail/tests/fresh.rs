//! Compressed files that somebody may still be writing: waited for as long as that makes sense, and no longer.

use std::fs::File;
use std::time::Duration;

use super::bench::{Bench, gzipped, lines};
use crate::file_tail::unpacking::COMPLETE_AFTER;

const HOUR: Duration = Duration::from_secs(3600);

/// `fshipper run --once` right after logrotate.
#[test]
fn the_end_comes_with_a_small_file_that_was_compressed_just_now() {
    let mut bench = Bench::new(&["a.log*"]);
    bench.write("a.log.2.gz", gzipped("tiny\n"));
    bench.write("a.log.1.gz", gzipped(lines("b", 0..3)));
    bench.append("a.log", lines("c", 0..3));
    bench.finish();
    bench.check("a.log", "tiny\n".to_owned() + &lines("b", 0..3) + &lines("c", 0..3));
    bench.check_one_log_without_loss();
}

#[test]
fn the_end_comes_with_more_logs_than_decoders() {
    for is_fresh in [false, true] {
        let mut bench = Bench::new(&["*"]);
        let names: Vec<String> = (0..30).map(|number| format!("{number}.log")).collect();
        for name in &names {
            bench.write(&format!("{name}.1.gz"), gzipped(lines(name, 0..3)));
            bench.append(name, lines("live", 0..3));
        }
        bench.wait(if is_fresh { Duration::ZERO } else { COMPLETE_AFTER });
        bench.finish();
        for name in &names {
            bench.check(name, lines(name, 0..3) + &lines("live", 0..3));
        }
        assert_eq!(bench.unknown_losses(), 0);
    }
}

/// The clock was stepped back, or the file keeps the time of another machine's.
#[test]
fn a_file_dated_in_the_future_is_read_once_it_has_not_grown_for_a_while() {
    let packed = gzipped(lines("a", 0..3));
    let (first, rest) = packed.split_at(packed.len() / 2);
    let mut bench = Bench::new(&["a.log*"]);
    let write = |bench: &Bench, bytes: &[u8]| {
        let path = bench.path("a.log.1.gz");
        bench.append("a.log.1.gz", bytes);
        File::options().write(true).open(path).unwrap().set_modified(bench.now().system + HOUR).unwrap();
    };
    write(&bench, first);
    bench.append("a.log", lines("b", 0..3));
    bench.pump();
    bench.wait(COMPLETE_AFTER / 2);
    write(&bench, rest);
    bench.pump();
    bench.wait(COMPLETE_AFTER / 2);
    bench.pump();
    bench.check("a.log", "");
    bench.wait(COMPLETE_AFTER / 2);
    (0..2).for_each(|_| bench.settle());
    bench.check("a.log", lines("a", 0..3) + &lines("b", 0..3));
    bench.check_one_log_without_loss();
}

/// Too little of it is there to be told apart from others; and then nobody goes on with it for a while.
#[test]
fn a_file_that_is_compressed_for_long_is_waited_for_and_said() {
    for is_once in [false, true] {
        let packed = gzipped(lines("a", 0..3));
        let (first, rest) = packed.split_at(packed.len() / 2);
        let mut bench = Bench::new(&["a.log*"]);
        let append = |bench: &Bench, bytes: &[u8]| bench.append("a.log.1.gz", bytes);
        append(&bench, first);
        bench.append("a.log", lines("b", 0..3));
        if is_once {
            bench.finish();
            assert!(has_complained(&mut bench, "a.log"), "nobody will look again");
            bench.restart();
        } else {
            for _ in 0..5 {
                bench.pump();
                append(&bench, b"");
            }
            assert!(!has_complained(&mut bench, "a.log"), "that is no news");
            for _ in 0..10 {
                bench.pump();
                append(&bench, b"");
            }
            assert!(has_complained(&mut bench, "a.log"));
        }
        bench.check("a.log", "");
        append(&bench, rest);
        (0..2).for_each(|_| bench.settle());
        bench.check("a.log", lines("a", 0..3) + &lines("b", 0..3));
        bench.check_one_log_without_loss();
    }
}

/// `fshipper run` with `start_at = "end"` right after logrotate.
#[test]
fn what_was_compressed_just_before_the_first_start_is_passed_over() {
    let mut bench = Bench::new(&["a.log*"]);
    bench.tables[0].options.start_at_end = true;
    bench.write("a.log.1.gz", gzipped(lines("old", 0..3)));
    bench.append("a.log", lines("a", 0..3));
    bench.pump();
    bench.append("a.log", lines("a", 3..5));
    bench.wait(COMPLETE_AFTER);
    (0..2).for_each(|_| bench.settle());
    bench.remove("a.log");
    (0..2).for_each(|_| bench.settle());
    bench.check("a.log", lines("a", 3..5));
    bench.check_one_log_without_loss();
}

/// What is older than the current file counts as read, also when that cannot be looked into at first.
#[test]
fn what_was_compressed_just_before_the_state_was_lost_is_passed_over() {
    let mut bench = Bench::with_log("a.log*", 10);
    bench.restart();
    bench.lose_state();
    bench.write("a.log.1.gz", gzipped(lines("old", 0..3)));
    bench.append("a.log", lines("a", 10..12));
    (0..2).for_each(|_| bench.settle());
    bench.remove("a.log");
    (0..2).for_each(|_| bench.settle());
    bench.check("a.log", lines("a", 0..12));
    bench.check_one_log_without_loss();
}

/// Whether something of a log was reported since it was asked last.
fn has_complained(bench: &mut Bench, name: &str) -> bool {
    let path = bench.path(name);
    let tail = bench.tail.as_mut().unwrap();
    let index = tail.log_at(&path).unwrap();
    tail.logs[index].complaint.settle()
}
