//! The hop reopens, and deleted files of which something was not committed are read again all the same.

use super::bench::{Bench, LOST, ROTATE_WAIT, lines};

/// How far the log was committed when the hop failed.
#[derive(Clone, Copy, PartialEq)]
enum Until {
    Nothing,
    First,
    Second,
}

/// Three files that follow each other, two of them deleted while they are read or wait.
fn with_deleted_files(until: Until, is_finished: bool) -> Bench {
    let mut bench = Bench::new(&["a.log"]);
    if is_finished {
        bench.append("a.log", lines("a", 0..5));
        bench.pump();
        if until == Until::First {
            bench.commit();
        }
    } else {
        // Many batches: not all of it is read.
        bench.append("a.log", lines("a", 0..1000));
        bench.fill(false);
    }
    for tag in ["b", "c"] {
        bench.rotate();
        bench.append("a.log", lines(tag, 0..5));
        bench.keep_up();
        bench.remove("a.log.1");
        bench.keep_up();
    }
    if is_finished {
        bench.wait(ROTATE_WAIT);
        bench.settle();
        if until == Until::Second {
            bench.commit();
        }
        bench.settle();
    }
    bench
}

#[test]
fn deleted_files_that_were_not_committed_are_read_again_when_the_hop_reopens() {
    for is_finished in [false, true] {
        for until in [Until::Nothing, Until::First, Until::Second] {
            let mut bench = with_deleted_files(until, is_finished);
            let first = lines("a", 0..if is_finished { 5 } else { 1000 });
            let expected = first + &lines("b", 0..5) + &lines("c", 0..5);
            for _ in 0..3 {
                bench.reopen();
                bench.fill(false);
            }
            (0..4).for_each(|_| bench.settle());
            bench.check("a.log", &expected);
            assert_eq!(bench.unknown_losses(), 0);
            bench.commit();
            bench.settle();
            assert_eq!(bench.open_files(), 1, "those that are committed are let go");
            bench.reopen();
            bench.append("a.log", lines("c", 5..6));
            (0..2).for_each(|_| bench.settle());
            bench.check("a.log", expected + &lines("c", 5..6));
            assert_eq!((bench.open_files(), bench.unknown_losses()), (1, 0));
        }
    }
}

/// Another process has none of them.
#[test]
fn deleted_files_that_were_not_committed_are_a_loss_to_another_process() {
    let mut bench = with_deleted_files(Until::First, true);
    bench.crash();
    (0..4).for_each(|_| bench.settle());
    let lost = vec![LOST; lines("b", 0..5).len()];
    bench.check("a.log", [lines("a", 0..5).as_bytes(), &lost, lines("c", 0..5).as_bytes()].concat());
    assert_eq!(bench.unknown_losses(), 0);
}

#[test]
fn no_more_files_are_left_open_than_may_wait() {
    let mut bench = Bench::new(&["*.log"]);
    let name = |number: usize| format!("{number}.log");
    (0..20).for_each(|number| bench.append(&name(number), lines("a", 0..3)));
    bench.pump();
    bench.limit_held_files(5);
    (0..20).for_each(|number| bench.remove(&name(number)));
    bench.keep_up();
    bench.reopen();
    assert_eq!(bench.open_files(), 5);
    bench.settle();
    (0..20).for_each(|number| bench.append(&name(number), lines("b", 0..1)));
    (0..3).for_each(|_| bench.settle());
    let whole =
        (0..20).filter(|number| bench.content(&name(*number)).starts_with(lines("a", 0..3).as_bytes()));
    assert_eq!(whole.count(), 5);
}
