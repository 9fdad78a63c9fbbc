//! What cannot be read is said: never silence, and never a false alarm.

use std::fs::File;
use std::time::Duration;

use super::bench::{Bench, LOST, ROTATE_WAIT, lines};
use crate::file_tail::tail::{Next, TICK};

/// The current file is gone; one that nobody saw is only there under a name that no pattern selects.
#[test]
fn a_generation_that_nobody_saw_under_an_unselected_name_is_a_loss() {
    for was_down in [false, true] {
        let mut bench = Bench::new(&["a.log"]);
        bench.append("a.log", lines("a", 0..10));
        bench.settle();
        if was_down {
            // Finished before: what is missing later is not missing of this file.
            bench.remove("a.log");
            bench.settle();
            bench.append("a.log", lines("b", 0..10));
            bench.settle();
            bench.restart();
        }
        let before = bench.content("a.log");
        bench.wait(Duration::from_secs(60));
        bench.remove("a.log");
        bench.append("a.log.1", lines("never seen", 0..10));
        bench.append("a.log", lines("c", 0..3));
        bench.settle();
        bench.settle();
        bench.check("a.log", [&before[..], lines("c", 0..3).as_bytes()].concat());
        // After a restart nobody knows whether the file that is gone had grown.
        let expected = if was_down { 2 } else { 1 };
        assert_eq!(bench.unknown_losses(), expected, "{was_down}");
        bench.restart();
        bench.rename("a.log.1", "a.log.2");
        bench.settle();
        assert_eq!(bench.unknown_losses(), expected, "said once");
    }
}

#[test]
fn a_generation_that_nobody_saw_beside_a_truncated_file_is_a_loss() {
    let mut bench = Bench::new(&["a.log"]);
    bench.append("a.log", lines("a", 0..10));
    bench.settle();
    bench.wait(Duration::from_secs(60));
    // Two copies were made, and one of them kept.
    bench.truncate("a.log");
    bench.append("a.log", lines("never seen", 0..10));
    bench.copy_and_truncate("a.log", "a.log.1");
    bench.append("a.log", lines("c", 0..3));
    bench.settle();
    bench.check("a.log", lines("a", 0..10) + &lines("c", 0..3));
    assert_eq!(bench.unknown_losses(), 1);
}

#[test]
fn a_file_written_anew_before_its_first_batch_is_a_loss_and_another_file() {
    let mut bench = Bench::new(&["*.log"]);
    let (old, new) = (lines("old", 0..200), lines("new", 0..250));
    bench.append("a.log", lines("a", 0..200));
    bench.append("b.log", lines("b", 0..200));
    bench.append("c.log", &old);
    // All are begun; of the last one nothing is read yet.
    bench.fill(false);
    assert!(!bench.content("b.log").is_empty() && bench.content("c.log").is_empty());
    bench.write("c.log", &new);
    bench.settle();
    bench.check("c.log", [vec![LOST; old.len()], new.into_bytes()].concat());
}

#[test]
fn a_file_cut_behind_what_was_read_is_a_loss_and_another_file() {
    let mut bench = Bench::new(&["a.log"]);
    let (old, new) = (lines("a", 0..400), lines("a", 0..300));
    bench.append("a.log", &old);
    bench.fill(false);
    let read = bench.content("a.log");
    assert!(!read.is_empty() && read.len() < new.len());
    File::options().write(true).open(bench.path("a.log")).unwrap().set_len(new.len() as u64).unwrap();
    bench.settle();
    let lost = vec![LOST; old.len() - read.len()];
    bench.check("a.log", [read, lost, new.into_bytes()].concat());
}

/// What it began with nobody knows: what its file holds now is no part of it.
#[test]
fn a_file_cut_before_the_first_look_into_it_is_the_same_loss_after_a_crash() {
    let mut bench = Bench::with_log("a.log", 5);
    bench.commit();
    bench.rename("a.log", "a.log.1");
    bench.append("a.log", lines("b", 0..5));
    bench.wait(TICK);
    bench.fill(false);
    bench.truncate("a.log");
    bench.append("a.log", lines("c", 0..3));
    for crash in 0..3 {
        (0..4).for_each(|_| bench.settle());
        let lost = vec![LOST; lines("b", 0..5).len()];
        let expected = [lines("a", 0..5).as_bytes(), &lost, lines("c", 0..3).as_bytes()].concat();
        bench.check("a.log", expected);
        assert_eq!(bench.unknown_losses(), 0, "{crash}");
        bench.crash();
    }
}

#[test]
fn unselected_siblings_from_before_the_first_start_are_no_loss() {
    for is_cut in [false, true] {
        let mut bench = Bench::new(&["a.log"]);
        bench.append("a.log.2", lines("old", 0..10));
        bench.append("a.log.1", lines("older", 0..10));
        bench.append("a.log", lines("a", 0..10));
        bench.wait(Duration::from_secs(60));
        bench.settle();
        bench.wait(Duration::from_secs(60));
        if is_cut {
            bench.truncate("a.log");
        } else {
            bench.remove("a.log");
            bench.settle();
        }
        bench.append("a.log", lines("b", 0..10));
        bench.settle();
        bench.restart();
        bench.append("a.log", lines("b", 10..12));
        bench.settle();
        bench.check("a.log", lines("a", 0..10) + &lines("b", 0..12));
        assert_eq!(bench.unknown_losses(), 0, "{is_cut}");
    }
}

#[test]
fn what_is_appended_to_a_finished_file_is_a_loss() {
    for include in ["a.log*", "a.log"] {
        let mut bench = Bench::with_log(include, 10);
        bench.rename("a.log", "a.log.1");
        bench.append("a.log", lines("b", 0..3));
        bench.settle();
        assert_eq!(bench.unknown_losses(), 0);
        for round in 0..5 {
            // Reported at once, and then not at every line.
            bench.append("a.log.1", lines("late", round..round + 1));
            bench.append("a.log", lines("b", 3 + round..4 + round));
            bench.pump();
            assert_eq!(bench.unknown_losses(), 1, "{include} {round}");
        }
        bench.wait(Duration::from_secs(60));
        bench.pump();
        assert_eq!(bench.unknown_losses(), 2, "{include}");
        bench.restart();
        bench.settle();
        assert_eq!(bench.unknown_losses(), 2, "nothing more came");
        // While it was down, and rotated once more.
        bench.restart();
        bench.append("a.log.1", lines("late", 5..6));
        bench.rotate();
        bench.append("a.log", lines("c", 0..3));
        bench.settle();
        bench.settle();
        assert_eq!(bench.unknown_losses(), 3, "{include}");
        bench.check("a.log", lines("a", 0..10) + &lines("b", 0..8) + &lines("c", 0..3));
        assert_eq!(bench.names(), ["a.log"]);
    }
}

/// The file at the log's own path is truncated, or written anew, while the renamed one before it is still
/// waited for.
#[test]
fn what_a_waiting_file_held_before_it_was_cut_is_a_loss_with_its_length() {
    for include in ["a.log*", "a.log"] {
        for (rounds, stays_empty) in [(1, false), (2, false), (1, true)] {
            let mut bench = Bench::with_log(include, 10);
            bench.rename("a.log", "a.log.1");
            let mut expected = lines("a", 0..10);
            for round in 0..rounds {
                let content = lines("b", round * 10..round * 10 + 5);
                // The second time it holds more than the first time.
                bench.write("a.log", content.repeat(round + 1));
                bench.pump();
                expected += &"?".repeat(content.len() * (round + 1));
            }
            bench.truncate("a.log");
            if !stays_empty {
                bench.append("a.log", lines("c", 0..30));
                expected += &lines("c", 0..30);
            }
            bench.settle();
            bench.settle();
            bench.check("a.log", &expected);
            bench.restart();
            bench.append("a.log", lines("d", 0..3));
            bench.settle();
            bench.check("a.log", expected + &lines("d", 0..3));
            assert_eq!(bench.unknown_losses(), 0);
        }
    }
}

#[test]
fn what_a_waiting_file_held_before_it_was_cut_is_read_from_its_copy() {
    let mut bench = Bench::with_log("a.log", 10);
    bench.rename("a.log", "a.log.2");
    bench.append("a.log", lines("b", 0..10));
    bench.pump();
    bench.append("a.log", lines("b", 10..12));
    bench.copy_and_truncate("a.log", "a.log.1");
    bench.append("a.log", lines("c", 0..30));
    for _ in 0..3 {
        bench.settle();
    }
    bench.check("a.log", lines("a", 0..10) + &lines("b", 0..12) + &lines("c", 0..30));
    assert_eq!(bench.unknown_losses(), 0);
}

#[test]
fn what_a_waiting_file_held_is_read_from_its_copy_although_the_state_was_lost() {
    for include in ["a.log*", "a.log"] {
        for is_looked_at in [false, true] {
            let mut bench = Bench::new(&[include]);
            bench.append("a.log", lines("a", 0..10));
            bench.settle();
            bench.copy_and_truncate("a.log", "a.log-20261123-000001");
            bench.append("a.log", lines("b", 0..10));
            bench.settle();
            bench.append("a.log", lines("b", 10..20));
            bench.copy_and_truncate("a.log", "a.log-20261123-000002");
            bench.restart();
            bench.lose_state();
            bench.append("a.log", lines("c", 0..10));
            bench.pump();
            bench.append("a.log", lines("c", 10..20));
            if is_looked_at {
                bench.pump();
            }
            bench.copy_and_truncate("a.log", "a.log-20261123-000003");
            bench.append("a.log", lines("d", 0..3));
            (0..4).for_each(|_| bench.settle());
            let expected = lines("a", 0..10) + &lines("b", 0..20) + &lines("c", 0..20) + &lines("d", 0..3);
            bench.check("a.log", expected);
            assert_eq!(bench.unknown_losses(), 0);
        }
    }
}

/// The one before it is finished at the very moment at which it is copied and truncated, between two listings.
#[test]
fn what_a_waiting_file_held_is_read_from_a_copy_that_was_not_listed_yet() {
    for include in ["a.log*", "a.log"] {
        let mut bench = Bench::with_log(include, 10);
        bench.rename("a.log", "a.log-20261123-000001");
        bench.append("a.log", lines("b", 0..10));
        bench.pump();
        // The next tick is not due yet when the first file is still for long enough.
        bench.wait(ROTATE_WAIT - 3 * TICK - TICK / 2);
        bench.fill(false);
        bench.append("a.log", lines("b", 10..20));
        bench.copy_and_truncate("a.log", "a.log-20261123-000002");
        bench.append("a.log", lines("c", 0..3));
        for _ in 0..30 {
            bench.wait(TICK / 10);
            bench.hint("a.log");
            while let Next::More = bench.fill(false) {}
        }
        (0..3).for_each(|_| bench.settle());
        bench.check("a.log", lines("a", 0..10) + &lines("b", 0..20) + &lines("c", 0..3));
        assert_eq!(bench.unknown_losses(), 0);
    }
}

#[test]
fn a_loss_within_a_generation_does_not_end_it() {
    let mut bench = Bench::with_log("a.log", 10);
    bench.rename("a.log", "a.log.1");
    bench.append("a.log", lines("b", 0..3));
    bench.settle();
    bench.append("a.log.1", lines("late", 0..1));
    bench.pump();
    assert_eq!(bench.unknown_losses(), 1);
    // The loss is the last thing that the receiving side has.
    bench.restart();
    bench.append("a.log", lines("b", 3..6));
    bench.rename("a.log", "a.log.2");
    bench.append("a.log", lines("c", 0..3));
    bench.settle();
    bench.settle();
    bench.check("a.log", lines("a", 0..10) + &lines("b", 0..6) + &lines("c", 0..3));
    assert_eq!(bench.unknown_losses(), 1);
}

#[test]
fn a_waiting_file_deleted_while_too_many_are_held_is_a_loss_with_its_length() {
    for compressed in [false, true] {
        let mut bench = Bench::with_log("a.log*", 5);
        bench.limit_held_files(0);
        bench.rename("a.log", "a.log.1");
        bench.append("a.log", lines("b", 0..5));
        bench.pump();
        bench.rotate();
        bench.append("a.log", lines("c", 0..5));
        bench.pump();
        bench.remove("a.log.1");
        if compressed {
            bench.write("a.log.1.zst", "compressed");
        }
        for _ in 0..3 {
            bench.settle();
        }
        let lost = "?".repeat(lines("b", 0..5).len());
        bench.check("a.log", lines("a", 0..5) + &lost + &lines("c", 0..5));
        bench.restart();
        bench.append("a.log", lines("c", 5..6));
        bench.settle();
        bench.check("a.log", lines("a", 0..5) + &lost + &lines("c", 0..6));
        bench.check_one_log_without_loss();
    }
}

#[test]
fn a_waiting_file_that_is_not_held_and_renamed_again_is_read() {
    let mut bench = Bench::with_log("a.log*", 5);
    bench.limit_held_files(0);
    for rotation in 1..5 {
        bench.rotate();
        bench.append("a.log", lines("a", rotation * 5..rotation * 5 + 5));
        bench.pump();
    }
    for _ in 0..6 {
        bench.settle();
    }
    bench.check("a.log", lines("a", 0..25));
    assert_eq!(bench.unknown_losses(), 0);
}

#[test]
fn compressed_before_it_was_read_is_a_loss() {
    for include in ["a.log*", "a.log"] {
        let mut bench = Bench::with_log(include, 10);
        bench.restart();
        bench.append("a.log", lines("a", 10..12));
        bench.remove("a.log");
        bench.write("a.log.1.zst", "compressed");
        bench.append("a.log", lines("b", 0..3));
        bench.settle();
        bench.check("a.log", lines("a", 0..10) + &lines("b", 0..3));
        assert_eq!((bench.names(), bench.unknown_losses()), (vec!["a.log".to_owned()], 1), "{include}");
    }
}

#[test]
fn a_compressed_sibling_that_may_be_unread_is_reported_once() {
    let mut bench = Bench::new(&["a.log*"]);
    bench.write("a.log.2.zst", "compressed");
    bench.append("a.log", lines("a", 0..3));
    bench.pump();
    assert!(bench.has_warned("a.log"));

    let mut bench = Bench::with_log("a.log*", 3);
    let modified = std::fs::metadata(bench.path("a.log")).unwrap().modified().unwrap();
    for is_newer in [false, true] {
        bench.wait(ROTATE_WAIT);
        bench.remove("a.log");
        bench.write("a.log.1.zst", "compressed");
        if !is_newer {
            // As gzip does it: what was read to its end has the time of its last line.
            let file = std::fs::File::options().write(true).open(bench.path("a.log.1.zst")).unwrap();
            file.set_modified(modified).unwrap();
        }
        bench.append("a.log", lines(&format!("newer {is_newer}"), 0..3));
        bench.settle();
        assert_eq!(bench.has_warned("a.log"), is_newer);
    }
    assert_eq!(bench.unknown_losses(), 0);
}

#[test]
fn a_file_renamed_while_it_was_looked_for_is_no_loss() {
    let mut bench = Bench::with_log("a.log", 10);
    bench.restart();
    bench.open();
    // The directory was listed before this.
    bench.append("a.log", lines("a", 10..12));
    bench.rename("a.log", "a.log.1");
    bench.append("a.log", lines("b", 0..3));
    bench.fill(false);
    bench.settle();
    bench.settle();
    bench.check("a.log", lines("a", 0..12) + &lines("b", 0..3));
    assert_eq!(bench.unknown_losses(), 0);
}
