//! Starting again: after a stop, a crash, rotations that nobody saw, and without the state directory.

use std::fs;
use std::time::Duration;

use super::bench::{Bench, LOST, ROTATE_WAIT, lines};

#[test]
fn continues_behind_the_last_committed_byte() {
    let mut bench = Bench::with_log("*.log", 10);
    bench.restart();
    bench.append("a.log", lines("a", 10..20));
    bench.pump();
    bench.check("a.log", lines("a", 0..20));
    bench.crash();
    bench.pump();
    bench.check("a.log", lines("a", 0..20));
}

/// Three generations, and every offset at which the receiving side may stand.
#[test]
fn resumes_from_every_offset() {
    let mut bench = Bench::new(&["a.log*"]);
    bench.max_batch_bytes = 100;
    bench.append("a.log.2", lines("a", 0..3) + "joined ");
    bench.append("a.log.1", "with this\n".to_owned() + &lines("b", 0..2));
    bench.append("a.log", lines("c", 0..4));
    bench.finish();
    let expected = bench.content("a.log");
    for without_state in [false, true] {
        for offset in 0..=expected.len() as u64 {
            bench.rewind("a.log", offset.max(1) - 1);
            bench.restart();
            if without_state && offset as usize > expected.len() - lines("c", 0..4).len() {
                bench.lose_state();
            }
            bench.finish();
            assert_eq!(bench.content("a.log"), expected, "from {offset}, without state: {without_state}");
        }
    }
}

#[test]
fn rotations_while_it_was_down_lose_nothing() {
    for include in ["a.log*", "a.log"] {
        for rotations in [1, 2, 3] {
            for is_dated in [false, true] {
                let mut bench = Bench::with_log(include, 10);
                bench.restart();
                bench.append("a.log", lines("a", 10..13));
                for rotation in 0..rotations {
                    if is_dated {
                        bench.rename("a.log", &format!("a.log-2026112{rotation}"));
                    } else {
                        bench.rotate();
                    }
                    bench.append("a.log", lines(&format!("rotation {rotation}"), 0..10));
                }
                for _ in 0..4 {
                    bench.settle();
                }
                let rotated = (0..rotations).map(|rotation| lines(&format!("rotation {rotation}"), 0..10));
                bench.check("a.log", lines("a", 0..13) + &rotated.collect::<String>());
                bench.check_one_log_without_loss();
            }
        }
    }
}

#[test]
fn renamed_to_an_unrelated_name_while_it_was_down() {
    for renamed in ["b.log", "b.txt"] {
        let mut bench = Bench::with_log("*.log", 10);
        bench.restart();
        bench.append("a.log", lines("a", 10..12));
        bench.rename("a.log", renamed);
        bench.append("a.log", lines("b", 0..3));
        bench.settle();
        bench.settle();
        bench.check("a.log", lines("a", 0..12) + &lines("b", 0..3));
        assert_eq!(bench.names(), ["a.log"], "{renamed}");
    }
}

#[test]
fn rewritten_while_it_was_down_is_read_from_its_first_byte() {
    for count in [1, 10, 40] {
        let mut bench = Bench::with_log("a.log", 10);
        bench.restart();
        bench.write("a.log", lines("b", 0..count));
        bench.settle();
        bench.check("a.log", lines("a", 0..10) + &lines("b", 0..count));
        // Nobody can know whether more was written before: that is said.
        assert_eq!(bench.unknown_losses(), 1);
    }
}

#[test]
fn copied_and_truncated_while_it_was_down() {
    for include in ["a.log*", "a.log"] {
        let mut bench = Bench::with_log(include, 10);
        bench.restart();
        bench.append("a.log", lines("a", 10..15));
        bench.copy_and_truncate("a.log", "a.log.1");
        bench.append("a.log", lines("b", 0..30));
        bench.settle();
        bench.check("a.log", lines("a", 0..15) + &lines("b", 0..30));
        assert_eq!(bench.names(), ["a.log"]);
    }
}

#[test]
fn deleted_while_it_was_down_is_a_loss_of_unknown_length_said_once() {
    let mut bench = Bench::with_log("a.log", 10);
    bench.restart();
    bench.remove("a.log");
    bench.settle();
    bench.restart();
    bench.settle();
    bench.append("a.log", lines("b", 0..2));
    bench.settle();
    bench.check("a.log", lines("a", 0..10) + &lines("b", 0..2));
    assert_eq!(bench.unknown_losses(), 1);
}

#[test]
fn deleted_after_it_was_read_is_no_loss() {
    let mut bench = Bench::with_log("a.log", 10);
    bench.remove("a.log");
    bench.settle();
    bench.restart();
    bench.settle();
    bench.restart();
    bench.append("a.log", lines("b", 0..2));
    bench.settle();
    bench.check("a.log", lines("a", 0..10) + &lines("b", 0..2));
    assert_eq!(bench.unknown_losses(), 0);
}

/// The state log said how long the first generation was: what the receiving side lacks of it is counted.
#[test]
fn a_generation_deleted_before_it_was_committed_is_a_loss_with_its_length() {
    let mut bench = Bench::with_log("a.log", 10);
    bench.commit();
    bench.append("a.log", lines("a", 10..12));
    bench.pump();
    bench.rename("a.log", "a.log.1");
    bench.append("a.log", lines("b", 0..2));
    bench.settle();
    bench.crash();
    bench.remove("a.log.1");
    bench.settle();
    bench.check("a.log", lines("a", 0..10) + &"?".repeat(lines("a", 10..12).len()) + &lines("b", 0..2));
    assert_eq!(bench.unknown_losses(), 0);
}

#[test]
fn a_file_is_read_again_only_up_to_where_the_next_one_began() {
    let mut bench = Bench::with_log("a.log*", 5);
    bench.commit();
    bench.append("a.log", lines("a", 5..10));
    bench.rename("a.log", "a.log.1");
    bench.append("a.log", lines("b", 0..10));
    bench.settle();
    bench.crash();
    bench.append("a.log.1", lines("late", 0..3));
    bench.settle();
    bench.check("a.log", lines("a", 0..10) + &lines("b", 0..10));
    assert_eq!(bench.unknown_losses(), 1, "what came late");
}

#[test]
fn bytes_wanted_again_and_gone_are_lost_up_to_where_they_went() {
    let mut bench = Bench::new(&["a.log"]);
    let old = lines("a", 0..10);
    bench.append("a.log", &old);
    bench.pump();
    let rest = old.len() / 2;
    bench.go_back("a.log", (old.len() - rest) as u64);
    bench.restart();
    bench.remove("a.log");
    bench.append("a.log", lines("b", 0..10));
    bench.settle();
    let lost = String::from_utf8(vec![LOST; rest]).unwrap();
    bench.check("a.log", old[..old.len() - rest].to_owned() + &lost + &lines("b", 0..10));
}

#[test]
fn without_its_state_it_continues_at_the_receiving_sides_word() {
    for include in ["a.log*", "a.log"] {
        let mut bench = Bench::new(&[include]);
        bench.append("a.log.1", lines("a", 0..10));
        bench.append("a.log", lines("b", 0..10));
        bench.settle();
        let before = bench.content("a.log");
        bench.restart();
        bench.lose_state();
        bench.append("a.log", lines("b", 10..12));
        bench.settle();
        bench.check("a.log", [&before[..], lines("b", 10..12).as_bytes()].concat());
        bench.check_one_log_without_loss();
    }
}

#[test]
fn without_its_state_a_rotation_while_it_was_down_is_followed() {
    let mut bench = Bench::with_log("a.log", 10);
    bench.restart();
    bench.lose_state();
    bench.append("a.log", lines("a", 10..12));
    bench.rename("a.log", "a.log.1");
    bench.append("a.log", lines("b", 0..3));
    bench.settle();
    bench.check("a.log", lines("a", 0..12) + &lines("b", 0..3));
}

/// The record of the second generation is cut off at each byte.
#[test]
fn a_torn_state_log_changes_nothing() {
    let mut bench = Bench::with_log("a.log*", 10);
    let before = fs::metadata(bench.state_file()).unwrap().len();
    bench.rename("a.log", "a.log.1");
    bench.append("a.log", lines("b", 0..10));
    bench.settle();
    bench.restart();
    let whole = fs::read(bench.state_file()).unwrap();
    for length in before..whole.len() as u64 {
        fs::write(bench.state_file(), &whole[..length as usize]).unwrap();
        bench.finish();
        bench.check("a.log", lines("a", 0..10) + &lines("b", 0..10));
        assert_eq!((bench.names(), bench.unknown_losses()), (vec!["a.log".to_owned()], 0), "cut at {length}");
        bench.restart();
    }
}

#[test]
fn another_epoch_on_the_receiving_side_is_adopted_when_its_file_is_there() {
    let mut bench = Bench::with_log("a.log", 10);
    bench.restart();
    // A state log made while the receiving side was not known.
    bench.lose_state();
    let mut stranger = bench.without_receiver();
    stranger.pump();
    bench.take_state(stranger);
    bench.append("a.log", lines("a", 10..11));
    bench.pump();
    bench.check("a.log", lines("a", 0..11));
}

#[test]
fn grows_byte_by_byte_over_every_length_of_a_fingerprint() {
    let mut bench = Bench::new(&["a.log*"]);
    let content = lines("a", 0..40);
    for (index, byte) in content.bytes().enumerate() {
        bench.append("a.log", [byte]);
        if index % 7 == 0 {
            bench.pump();
            bench.restart();
        }
    }
    bench.finish();
    bench.check("a.log", content);
}

#[test]
fn siblings_are_earlier_generations_oldest_first() {
    let mut bench = Bench::new(&["*"]);
    for number in [3, 1, 2] {
        bench.append(&format!("a.log.{number}"), lines(&format!("number {number}"), 0..3));
    }
    bench.append("a.log", lines("live", 0..3));
    bench.append("b-20261122.log", lines("yesterday", 0..3));
    bench.append("b.log", lines("today", 0..3));
    bench.append("c.2", "no log is named c\n");
    bench.wait(ROTATE_WAIT);
    bench.settle();
    let expected = ["number 3", "number 2", "number 1", "live"].map(|tag| lines(tag, 0..3)).concat();
    bench.check("a.log", expected);
    bench.check("b.log", lines("yesterday", 0..3) + &lines("today", 0..3));
    assert_eq!(bench.names(), ["a.log", "b.log", "c.2"]);
}

#[test]
fn start_at_end_ships_what_comes_after_the_first_start() {
    let mut bench = Bench::new(&["*.log*"]);
    bench.tables[0].options.start_at_end = true;
    bench.append("a.log.1", lines("old", 0..5));
    bench.append("a.log", lines("a", 0..5) + "begun before, ");
    bench.append("empty.log", "");
    bench.pump();
    bench.append("a.log", "finished after\n");
    bench.append("empty.log", "first\n");
    bench.append("b.log", lines("b", 0..2));
    bench.pump();
    bench.check("a.log", "begun before, finished after\n");
    bench.check("empty.log", "first\n");
    bench.check("b.log", lines("b", 0..2));
    bench.restart();
    bench.append("c.log", lines("c", 0..2));
    bench.rotate();
    bench.append("a.log", lines("new", 0..2));
    bench.settle();
    bench.check("a.log", "begun before, finished after\n".to_owned() + &lines("new", 0..2));
    bench.check("c.log", lines("c", 0..2));
    assert_eq!(bench.unknown_losses(), 0);
}

#[test]
fn start_at_end_ships_what_is_appended_once_the_end_is_taken() {
    let mut bench = Bench::new(&["*.log"]);
    bench.tables[0].options.start_at_end = true;
    bench.append("a.log", lines("old", 0..5));
    // The end is taken here, and the first look comes later.
    bench.open();
    bench.append("a.log", lines("a", 0..2));
    bench.rename("a.log", "a.log.1");
    bench.append("a.log", lines("a", 2..4));
    bench.settle();
    bench.settle();
    bench.check("a.log", lines("a", 0..4));
    assert_eq!(bench.unknown_losses(), 0);
}

#[test]
fn start_at_end_counts_from_the_first_start_even_if_nothing_was_shipped_then() {
    let mut bench = Bench::new(&["*.log"]);
    bench.tables[0].options.start_at_end = true;
    bench.append("a.log", lines("a", 0..5));
    bench.pump();
    bench.crash();
    bench.append("a.log", lines("a", 5..7));
    bench.append("b.log", lines("b", 0..2));
    bench.pump();
    bench.check("a.log", lines("a", 5..7));
    bench.check("b.log", lines("b", 0..2));
}

#[test]
fn old_files_are_not_started_and_known_ones_go_on() {
    let mut bench = Bench::new(&["*.log"]);
    bench.tables[0].options.ignore_older = Some(Duration::from_secs(3600));
    bench.append("known.log", lines("a", 0..2));
    bench.pump();
    bench.restart();
    bench.append("old.log", lines("a", 0..2));
    bench.wait(Duration::from_secs(7200));
    bench.append("known.log", "");
    bench.append("young.log", lines("a", 0..2));
    bench.pump();
    assert_eq!(bench.names(), ["known.log", "young.log"]);
    bench.append("known.log", lines("a", 2..3));
    bench.append("old.log", lines("a", 2..3));
    bench.pump();
    bench.check("known.log", lines("a", 0..3));
    bench.check("old.log", lines("a", 0..3));
}

/// What it had read of a file that is gone, and not remembered either, is lost to whoever begins anew. Somebody
/// else may still hold it: no other bytes may take its offsets.
#[test]
fn what_is_forgotten_is_a_loss_with_its_length_to_a_receiver_that_knows_nothing() {
    let mut bench = Bench::with_log("a.log", 10);
    bench.remove("a.log");
    bench.settle();
    // It is forgotten, and begun once more behind that.
    bench.restart();
    bench.open();
    bench.append("a.log", lines("b", 0..5));
    bench.settle();
    bench.check("a.log", lines("a", 0..10) + &lines("b", 0..5));
    bench.forget_everything();
    bench.settle();
    let lost = "?".repeat(lines("a", 0..10).len());
    bench.check("a.log", lost.clone() + &lines("b", 0..5));
    bench.restart();
    bench.append("a.log", lines("b", 5..6));
    bench.rename("a.log", "a.log.1");
    bench.append("a.log", lines("c", 0..5));
    bench.settle();
    bench.settle();
    bench.check("a.log", lost + &lines("b", 0..6) + &lines("c", 0..5));
    bench.check_one_log_without_loss();
}
