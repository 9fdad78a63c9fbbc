//! Files that are written anew, to a length at which nothing shows it but their content.

use std::fs;
use std::time::Duration;

use regex::bytes::Regex;

use super::bench::{Bench, lines};
use crate::file_tail::lines::Events;

#[test]
fn an_event_that_is_held_back_is_read_from_its_copy_although_its_file_has_outgrown_it() {
    let mut bench = Bench::new(&["a.log*"]);
    let pattern = Regex::new(r"^\s").unwrap();
    let timeout = Duration::from_secs(60);
    bench.tables[0].options.lines.events = Some(Events { pattern, match_begins: false, timeout });
    let old = lines("old", 0..1) + &"\tcontinues it\n".repeat(6) + "begun, and ";
    bench.append("a.log", &old);
    bench.fill(false);
    assert!(bench.batches.is_empty());
    bench.copy_and_truncate("a.log", "a.log.1");
    let new = lines("new", 0..4);
    assert!(new.len() > old.len());
    bench.append("a.log", &new);
    bench.settle();
    bench.append("a.log", lines("new", 4..5));
    bench.settle();
    bench.check("a.log", old + &new);
    bench.check_one_log_without_loss();
}

/// A log whose present content, so many lines of it, counts as read.
fn passed_over(banner: &str, count: usize) -> Bench {
    let mut bench = Bench::new(&["a.log"]);
    bench.tables[0].options.start_at_end = true;
    bench.append("a.log", banner.to_owned() + &lines("old", 0..count));
    bench.pump();
    bench
}

#[test]
fn a_file_that_was_passed_over_and_has_outgrown_that_is_read_from_its_beginning() {
    for is_restarted in [false, true] {
        // Longer than a fingerprint, so that none is taken anew.
        let mut bench = passed_over("", 50);
        if is_restarted {
            bench.crash();
            bench.open();
        }
        bench.truncate("a.log");
        bench.append("a.log", lines("new", 0..80));
        bench.settle();
        bench.check("a.log", lines("new", 0..80));
    }
}

#[test]
fn a_file_that_was_passed_over_is_read_from_its_beginning_although_it_begins_alike() {
    let banner = "the same beginning in each and every file\n".repeat(30);
    let mut bench = passed_over(&banner, 10);
    let new = banner + &lines("new", 0..20);
    assert!(new.len() as u64 > fs::metadata(bench.path("a.log")).unwrap().len());
    bench.truncate("a.log");
    bench.append("a.log", &new);
    bench.settle();
    bench.check("a.log", new);
}

#[test]
fn a_file_written_anew_to_the_same_length_while_it_could_not_be_read_is_read() {
    let mut bench = Bench::with_log("a.log", 5);
    bench.break_file("a.log");
    bench.write("a.log", lines("b", 0..5));
    bench.settle();
    bench.check("a.log", lines("a", 0..5) + &lines("b", 0..5));
}

/// Its copy was made before the directory was listed again.
#[test]
fn what_was_written_into_an_empty_file_before_it_was_copied_and_truncated_is_read() {
    let mut bench = Bench::new(&["a.log*"]);
    bench.append("a.log", "");
    bench.fill(false);
    bench.append("a.log", lines("a", 0..5));
    bench.copy_and_truncate("a.log", "a.log.1");
    bench.append("a.log", lines("b", 0..5));
    bench.hint("a.log");
    bench.fill(false);
    bench.settle();
    bench.settle();
    bench.check("a.log", lines("a", 0..5) + &lines("b", 0..5));
    bench.check_one_log_without_loss();
}
