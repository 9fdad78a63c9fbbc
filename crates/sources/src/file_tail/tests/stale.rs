//! Open files that are none any more, as on NFS: see `is_stale`.

use super::bench::{Bench, ROTATE_WAIT, lines};

#[test]
fn a_file_at_its_place_is_opened_again() {
    let mut bench = Bench::with_log("a.log", 5);
    bench.append("a.log", lines("a", 5..8));
    bench.make_stale("a.log");
    bench.pump();
    bench.pump();
    bench.check("a.log", lines("a", 0..8));
    bench.rename("a.log", "a.log.1");
    bench.make_stale("a.log");
    bench.settle();
    bench.append("a.log", lines("b", 0..3));
    bench.settle();
    bench.check("a.log", lines("a", 0..8) + &lines("b", 0..3));
    assert_eq!(bench.unknown_losses(), 0);
}

#[test]
fn a_renamed_file_is_opened_again_where_it_is_now() {
    let mut bench = Bench::with_log("a.log*", 5);
    bench.rename("a.log", "a.log.1");
    bench.append("a.log", lines("b", 0..3));
    bench.pump();
    bench.append("a.log.1", lines("a", 5..8));
    bench.make_stale("a.log");
    bench.settle();
    bench.settle();
    bench.check("a.log", lines("a", 0..8) + &lines("b", 0..3));
    assert_eq!(bench.unknown_losses(), 0);
}

/// Another host deleted it, and the server keeps it for nobody.
#[test]
fn a_deleted_file_that_was_read_to_its_end_is_no_loss_and_the_next_one_is_read() {
    let mut bench = Bench::with_log("a.log", 5);
    bench.remove("a.log");
    bench.make_stale("a.log");
    bench.append("a.log", lines("b", 0..3));
    bench.settle();
    bench.settle();
    bench.check("a.log", lines("a", 0..5) + &lines("b", 0..3));
    assert_eq!(bench.unknown_losses(), 0);
}

#[test]
fn what_was_not_read_of_a_deleted_file_is_a_loss_and_the_next_one_is_read() {
    let mut bench = Bench::with_log("a.log", 5);
    bench.rename("a.log", "gone");
    bench.append("gone", lines("a", 5..7) + "a part of");
    bench.pump();
    bench.append("gone", " a line\n");
    bench.remove("gone");
    bench.make_stale("a.log");
    bench.append("a.log", lines("b", 0..3));
    bench.settle();
    bench.settle();
    bench.check("a.log", lines("a", 0..7) + "?????????" + &lines("b", 0..3));
}

#[test]
fn a_deleted_file_that_waited_is_a_loss_and_the_next_one_is_read() {
    let mut bench = Bench::with_log("a.log", 5);
    bench.rename("a.log", "first");
    bench.append("a.log", lines("b", 0..3));
    bench.fill(false);
    bench.wait(crate::file_tail::tail::TICK);
    bench.fill(false);
    bench.remove("a.log");
    bench.append("a.log", lines("c", 0..3));
    bench.make_stale("a.log");
    for _ in 0..4 {
        bench.settle();
    }
    let lost = "?".repeat(lines("b", 0..3).len());
    bench.check("a.log", lines("a", 0..5) + &lost + &lines("c", 0..3));
}

#[test]
fn a_copy_is_opened_again() {
    let mut bench = Bench::with_log("a.log", 5);
    bench.max_batch_bytes = 64;
    bench.restart();
    bench.append("a.log", lines("a", 5..30));
    bench.copy_and_truncate("a.log", "a.log.1");
    bench.append("a.log", lines("b", 0..3));
    bench.fill(false);
    bench.make_stale("a.log");
    bench.settle();
    bench.settle();
    bench.check("a.log", lines("a", 0..30) + &lines("b", 0..3));
    assert_eq!(bench.unknown_losses(), 0);
}

/// A copy may have been made of it: nobody will know.
#[test]
fn a_finished_file_that_cannot_be_read_any_more_holds_nobody_up() {
    for is_stale in [false, true] {
        let mut bench = Bench::with_log("a.log", 5);
        match is_stale {
            false => bench.break_file("a.log"),
            true => bench.make_stale("a.log"),
        }
        bench.rename("a.log", "a.log.1");
        bench.append("a.log", "");
        bench.gzip("a.log.1");
        bench.wait(ROTATE_WAIT);
        bench.settle();
        bench.append("a.log", lines("b", 0..3));
        bench.settle();
        bench.check("a.log", lines("a", 0..5) + &lines("b", 0..3));
        assert_eq!(bench.unknown_losses(), 0, "{is_stale}");
    }
}
