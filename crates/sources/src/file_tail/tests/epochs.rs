//! The state directory and the receiving side do not agree on what a log is.

use std::fs;
use std::time::Duration;

use fshipper_pipeline::{Admission, Batch, Bytes};

use super::bench::{Bench, LOST, gzipped, lines};

/// A log of which so much was committed, and a state log that somebody made who did not know that.
fn with_state_of_a_stranger(meanwhile: impl FnOnce(&Bench, &mut Bench)) -> Bench {
    let mut bench = Bench::with_log("a.log*", 10);
    bench.restart();
    bench.lose_state();
    let mut stranger = bench.without_receiver();
    stranger.pump();
    meanwhile(&bench, &mut stranger);
    bench.take_state(stranger);
    bench
}

/// A consumer has what is asked for again, and what replaces it must not take its offsets.
#[test]
fn new_bytes_take_no_offsets_that_were_given_in_the_epoch_that_is_gone_on_with() {
    let mut bench = with_state_of_a_stranger(|_, _| {});
    let (whole, kept) = (lines("a", 0..10), lines("a", 0..4));
    bench.go_back("a.log", kept.len() as u64);
    bench.restart();
    bench.open();
    bench.write("a.log", lines("b", 0..3));
    bench.settle();
    let lost = vec![LOST; whole.len() - kept.len()];
    bench.check("a.log", [kept.as_bytes(), &lost, lines("b", 0..3).as_bytes()].concat());
    assert_eq!(bench.unknown_losses(), 0);
}

#[test]
fn a_loss_that_nobody_was_told_is_told_in_the_epoch_that_is_gone_on_with() {
    let mut bench = with_state_of_a_stranger(|files, stranger| {
        files.rotate();
        files.append("a.log", lines("b", 0..3));
        stranger.settle();
        files.append("a.log.1", lines("late", 0..1));
        stranger.pump();
        assert_eq!(stranger.unknown_losses(), 1);
    });
    for _ in 0..2 {
        (0..2).for_each(|_| bench.settle());
        bench.check("a.log", lines("a", 0..10) + &lines("late", 0..1) + &lines("b", 0..3));
        assert_eq!(bench.unknown_losses(), 1);
        bench.crash();
    }
    (0..2).for_each(|_| bench.settle());
    bench.restart();
    bench.settle();
    assert_eq!(bench.unknown_losses(), 1, "said once");
}

/// Another host goes by the same name, or the state was lost with the file: whoever it is, it must not give the
/// offsets of one log to the bytes of another.
#[test]
fn without_its_state_a_log_of_which_nothing_is_there_any_more_begins_a_new_epoch() {
    let mut bench = Bench::with_log("a.log*", 10);
    bench.restart();
    let before = bench.position("a.log");
    bench.lose_state();
    bench.remove("a.log");
    bench.write("a.log.1.gz", gzipped(lines("older", 0..50)));
    bench.append("a.log", lines("b", 0..3));
    bench.wait(Duration::from_secs(60));
    for crash in 0..3 {
        (0..2).for_each(|_| bench.settle());
        bench.check("a.log", lines("a", 0..10) + &lines("b", 0..3));
        assert_eq!(bench.unknown_losses(), 1, "{crash}");
        let after = bench.position("a.log");
        assert_eq!((after.epoch == before.epoch, after.offset), (false, lines("b", 0..3).len() as u64));
        bench.crash();
    }
    (0..2).for_each(|_| bench.settle());
    bench.restart();
    bench.append("a.log", lines("b", 3..5));
    bench.settle();
    bench.check("a.log", lines("a", 0..10) + &lines("b", 0..5));
    assert_eq!((bench.names().len(), bench.unknown_losses()), (1, 1));
    // The other host goes on.
    let next = Batch::data(bench.origin("a.log"), before.epoch, before.offset, Bytes::from_static(b"c\n"));
    assert!(matches!(bench.admit(&next), Admission::Stale { .. }));
}

/// Somebody has what comes behind the position, in the epoch that it asks for.
#[test]
fn what_was_asked_for_again_is_lost_in_the_epoch_that_has_it() {
    let mut bench = Bench::with_log("a.log", 10);
    bench.restart();
    let (whole, kept) = (lines("a", 0..10), lines("a", 0..4));
    bench.go_back("a.log", kept.len() as u64);
    bench.restart();
    let before = bench.position("a.log");
    bench.lose_state();
    bench.remove("a.log");
    bench.append("a.log", lines("b", 0..3));
    (0..2).for_each(|_| bench.settle());
    let lost = vec![LOST; whole.len() - kept.len()];
    bench.check("a.log", [kept.as_bytes(), &lost, lines("b", 0..3).as_bytes()].concat());
    assert_eq!((bench.position("a.log").epoch, bench.unknown_losses()), (before.epoch, 0));
}

/// The other host goes on in its own epoch and is refused: to take over the new one would be to mix two logs.
#[test]
fn who_has_the_files_of_an_epoch_that_was_left_behind_does_not_take_over_the_one_that_followed() {
    for is_there in [true, false] {
        let mut bench = Bench::with_log("a.log", 10);
        bench.restart();
        let first = bench.position("a.log").epoch;
        let state = fs::read(bench.state_file()).unwrap();
        bench.rename("a.log", "away");
        bench.lose_state();
        bench.append("a.log", lines("b", 0..10));
        (0..2).for_each(|_| bench.settle());
        bench.restart();
        let second = bench.position("a.log").epoch;
        assert!(first != second);
        fs::write(bench.state_file(), state).unwrap();
        match is_there {
            true => bench.rename("away", "a.log"),
            false => bench.remove("away"),
        }
        bench.open();
        let tail = bench.tail.as_ref().unwrap();
        let epoch = tail.logs[tail.log_at(&bench.path("a.log")).unwrap()].epoch;
        assert_eq!(epoch, if is_there { first } else { second });
    }
}
