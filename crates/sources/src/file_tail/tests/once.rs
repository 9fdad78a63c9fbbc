//! What `--once` does about files that others are at while it runs: it comes to an end, and says what is lost.

use super::bench::{Bench, lines};
use crate::file_tail::tail::Next;

/// Nobody looks again: what a copy would show was looked for.
#[test]
fn a_log_that_was_truncated_while_nothing_ran_is_read_at_once() {
    for content in [lines("b", 0..3), String::new()] {
        let mut bench = Bench::with_log("a.log", 10);
        bench.restart();
        bench.write("a.log", &content);
        bench.finish();
        bench.check("a.log", lines("a", 0..10) + &content);
        assert_eq!(bench.unknown_losses(), 1);
        bench.restart();
        bench.append("a.log", lines("b", 3..5));
        bench.finish();
        bench.check("a.log", lines("a", 0..10) + &content + &lines("b", 3..5));
        assert_eq!(bench.unknown_losses(), 1, "said once");
    }
}

#[test]
fn the_copy_of_a_log_that_was_truncated_while_nothing_ran_is_read_first() {
    let mut bench = Bench::with_log("a.log*", 10);
    bench.restart();
    bench.append("a.log", lines("a", 10..15));
    bench.copy_and_truncate("a.log", "a.log.1");
    bench.append("a.log", lines("b", 0..3));
    bench.finish();
    bench.check("a.log", lines("a", 0..15) + &lines("b", 0..3));
    bench.check_one_log_without_loss();
}

/// Its writer missed two rotations, and nothing follows the file that was renamed last.
#[test]
fn the_end_comes_although_somebody_writes_on_into_a_finished_file() {
    let mut bench = Bench::with_log("a.log*", 3);
    bench.rotate();
    bench.append("a.log", lines("b", 0..3));
    bench.settle();
    bench.rotate();
    bench.settle();
    bench.append("a.log.2", lines("late", 0..1));
    bench.pump();
    assert_eq!(bench.unknown_losses(), 1);
    for line in 1..20 {
        bench.append("a.log.2", lines("late", line..line + 1));
        if bench.fill(true) == Next::End {
            assert_eq!(bench.unknown_losses(), 2, "at the end it is said once more");
            return;
        }
    }
    panic!("the end never comes");
}
