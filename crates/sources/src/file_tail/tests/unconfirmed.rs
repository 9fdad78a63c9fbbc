//! Losses that nobody may have taken note of yet: a crash does not turn them into silence.

use std::time::Duration;

use super::bench::{Bench, LOST, gzipped, lines};

fn was_deleted() -> Bench {
    let mut bench = Bench::with_log("a.log*", 10);
    bench.restart();
    bench.remove("a.log");
    bench.settle();
    bench
}

fn came_late() -> Bench {
    let mut bench = Bench::with_log("a.log*", 10);
    bench.rename("a.log", "a.log.1");
    bench.append("a.log", lines("b", 0..3));
    bench.settle();
    bench.commit();
    bench.append("a.log.1", lines("late", 0..1));
    bench.pump();
    bench
}

fn is_not_selected() -> Bench {
    let mut bench = Bench::with_log("a.log", 10);
    bench.wait(Duration::from_secs(60));
    bench.commit();
    bench.remove("a.log");
    bench.append("a.log.1", lines("never seen", 0..10));
    bench.append("a.log", lines("b", 0..3));
    bench.settle();
    bench.settle();
    bench
}

fn is_damaged() -> Bench {
    let mut packed = gzipped(lines("a", 0..2000));
    packed.truncate(packed.len() / 2);
    unpacks(&packed)
}

fn is_no_gzip() -> Bench {
    unpacks(b"no gzip at all")
}

fn unpacks(packed: &[u8]) -> Bench {
    let mut bench = Bench::new(&["a.log*"]);
    bench.write("a.log.1.gz", packed);
    bench.append("a.log", lines("b", 0..5));
    (0..3).for_each(|_| bench.settle());
    bench
}

/// Nothing tells the file at its place from the one that was read before.
fn is_unknown() -> Bench {
    let mut bench = Bench::with_log("a.log", 10);
    bench.forget_place("a.log");
    bench.restart();
    bench.lose_state();
    bench.settle();
    bench
}

/// Nor is there any file.
fn is_unknown_and_gone() -> Bench {
    let mut bench = Bench::with_log("a.log", 10);
    bench.forget_place("a.log");
    bench.restart();
    bench.lose_state();
    bench.remove("a.log");
    bench.settle();
    bench
}

const KINDS: [fn() -> Bench; 7] =
    [was_deleted, came_late, is_not_selected, is_damaged, is_no_gzip, is_unknown, is_unknown_and_gone];

#[test]
fn a_loss_of_unknown_length_is_said_again_until_it_is_committed_and_then_no_more() {
    for (kind, make) in KINDS.iter().enumerate() {
        let mut bench = make();
        assert_eq!(bench.unknown_losses(), 1, "{kind}");
        for crash in 0..3 {
            bench.crash();
            (0..3).for_each(|_| bench.settle());
            assert_eq!(bench.unknown_losses(), 1, "{kind}, after crash {crash}");
        }
        for restart in 0..3 {
            bench.restart();
            bench.append("a.log", lines("z", restart..restart + 1));
            (0..3).for_each(|_| bench.settle());
            assert_eq!(bench.unknown_losses(), 1, "{kind}, after restart {restart}");
        }
        let content = bench.content("a.log");
        assert!(content.ends_with(lines("z", 0..3).as_bytes()), "{kind}");
        assert_eq!(bench.names(), ["a.log"], "{kind}");
    }
}

/// It stands where the next file begins, and only its own file is finished there.
#[test]
fn the_file_behind_a_loss_that_was_committed_alone_is_read() {
    for is_packed in [false, true] {
        let mut bench = Bench::new(&["a.log*"]);
        bench.write("a.log.2.gz", "no gzip at all");
        bench.append("a.log.1", lines("b", 0..5));
        if is_packed {
            bench.gzip("a.log.1");
        }
        bench.append("a.log", lines("c", 0..5));
        bench.wait(Duration::from_secs(60));
        bench.read_up_to_a_loss();
        bench.commit();
        bench.crash();
        (0..5).for_each(|_| bench.settle());
        bench.check("a.log", lines("b", 0..5) + &lines("c", 0..5));
        assert_eq!(bench.unknown_losses(), 1, "{is_packed}");
    }
}

#[test]
fn of_two_losses_the_one_that_is_committed_is_not_said_again() {
    let mut bench = came_late();
    bench.commit();
    bench.wait(Duration::from_secs(60));
    bench.append("a.log.1", lines("late", 1..2));
    bench.pump();
    assert_eq!(bench.unknown_losses(), 2);
    for _ in 0..2 {
        bench.crash();
        bench.append("a.log", lines("b", 3..4));
        bench.settle();
        assert_eq!(bench.unknown_losses(), 2);
    }
    bench.commit();
    // What was committed with them, and before them, is all that a session goes by.
    bench.wait(Duration::from_secs(60));
    bench.append("a.log.1", lines("late", 2..3));
    bench.pump();
    assert_eq!(bench.unknown_losses(), 3);
    bench.crash();
    bench.settle();
    assert_eq!(bench.unknown_losses(), 3);
}

#[test]
fn a_loss_is_remembered_although_the_state_was_written_anew() {
    let mut bench = was_deleted();
    bench.break_state();
    bench.append("a.log", lines("b", 0..3));
    bench.settle();
    bench.crash();
    bench.settle();
    bench.check("a.log", lines("a", 0..10) + &lines("b", 0..3));
    assert_eq!(bench.unknown_losses(), 1);
}

#[test]
fn a_log_is_not_forgotten_before_its_loss_is_committed() {
    let mut bench = Bench::new(&["*.log"]);
    let names: Vec<String> = (0..300).map(|number| format!("{number}.log")).collect();
    names.iter().for_each(|name| bench.append(name, lines(name, 0..1)));
    bench.pump();
    bench.restart();
    names.iter().for_each(|name| bench.remove(name));
    for _ in 0..2 {
        bench.settle();
        bench.sweep_soon();
        bench.settle();
        assert_eq!(bench.unknown_losses(), 300);
        assert_eq!(bench.known()[3], 300, "all are known");
        bench.crash();
    }
    bench.settle();
    bench.commit();
    bench.sweep_soon();
    bench.settle();
    assert_eq!(bench.known()[3], 0, "none is needed any more");
    bench.restart();
    bench.settle();
    assert_eq!(bench.unknown_losses(), 300);
}

/// Its length is known, and its content is not: any file might be it.
#[test]
fn what_was_lost_unread_is_not_found_again_in_a_compressed_file() {
    let mut bench = Bench::with_log("a.log*", 5);
    bench.limit_held_files(0);
    bench.rename("a.log", "a.log.1");
    bench.append("a.log", lines("b", 0..5));
    bench.pump();
    bench.rotate();
    bench.append("a.log", lines("c", 0..5));
    bench.pump();
    bench.commit();
    bench.remove("a.log.1");
    (0..3).for_each(|_| bench.settle());
    let lost = vec![LOST; lines("b", 0..5).len()];
    let expected = [lines("a", 0..5).as_bytes(), &lost, lines("c", 0..5).as_bytes()].concat();
    bench.check("a.log", &expected);
    bench.crash();
    bench.gzip("a.log.2");
    (0..3).for_each(|_| bench.settle());
    bench.check("a.log", &expected);
    assert_eq!(bench.unknown_losses(), 0);
}
