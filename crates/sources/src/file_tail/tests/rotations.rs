//! Rotation while the source runs.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::Duration;

use super::bench::{Bench, ROTATE_WAIT, lines};

#[test]
fn ships_what_is_appended() {
    let mut bench = Bench::new(&["*.log"]);
    bench.append("a.log", "one\ntwo\n");
    bench.pump();
    bench.check("a.log", "one\ntwo\n");
    bench.append("a.log", "three\n");
    bench.append("b.log", "other\n");
    bench.pump();
    bench.check("a.log", "one\ntwo\nthree\n");
    bench.check("b.log", "other\n");
}

#[test]
fn holds_an_unfinished_line_back() {
    let mut bench = Bench::new(&["*.log"]);
    bench.append("a.log", "abc");
    bench.settle();
    bench.check("a.log", "");
    bench.append("a.log", "def\ngh");
    bench.pump();
    bench.check("a.log", "abcdef\n");
    bench.append("a.log", "i\n");
    bench.pump();
    bench.check("a.log", "abcdef\nghi\n");
}

/// Writes on to a renamed file, with and without the new name in the pattern.
#[test]
fn a_renamed_file_is_read_until_it_is_still() {
    for include in ["a.log*", "a.log"] {
        for renamed in ["a.log.1", "a.log-20261123", "a.log.old", "archive/a.log"] {
            let mut bench = Bench::new(&[include]);
            fs::create_dir(bench.path("archive")).unwrap();
            bench.append("a.log", lines("a", 0..10));
            bench.pump();
            bench.rename("a.log", renamed);
            bench.append("a.log", lines("a", 20..30));
            bench.pump();
            bench.append(renamed, lines("a", 10..19));
            bench.append(renamed, "unfinished");
            bench.pump();
            bench.check("a.log", lines("a", 0..19));
            bench.settle();
            bench.check("a.log", lines("a", 0..19) + "unfinished" + &lines("a", 20..30));
            assert_eq!(bench.names(), ["a.log"], "{include} {renamed}");
        }
    }
}

#[test]
fn a_line_unfinished_at_the_rename_is_completed_under_the_new_name() {
    let mut bench = Bench::new(&["a.log"]);
    bench.append("a.log", "first half, ");
    bench.pump();
    bench.rename("a.log", "a.log.1");
    bench.pump();
    bench.append("a.log.1", "second half\n");
    bench.append("a.log", "next\n");
    bench.settle();
    bench.check("a.log", "first half, second half\nnext\n");
}

#[test]
fn a_renamed_file_is_read_on_while_the_new_one_is_empty_or_missing() {
    let mut bench = Bench::with_log("a.log", 5);
    bench.rename("a.log", "a.log.1");
    bench.wait(Duration::from_secs(60));
    bench.pump();
    bench.append("a.log.1", lines("a", 5..8));
    bench.pump();
    bench.check("a.log", lines("a", 0..8));
    bench.write("a.log", "");
    bench.wait(Duration::from_secs(60));
    bench.pump();
    bench.append("a.log.1", lines("a", 8..10));
    bench.append("a.log", lines("a", 10..12));
    bench.settle();
    bench.check("a.log", lines("a", 0..12));
}

#[test]
fn several_rotations_between_two_looks_lose_nothing() {
    for include in ["a.log*", "a.log"] {
        let mut bench = Bench::with_log(include, 10);
        for rotation in 1..=3 {
            bench.rotate();
            bench.append("a.log", lines("a", rotation * 10..rotation * 10 + 10));
        }
        for _ in 0..4 {
            bench.settle();
        }
        bench.check("a.log", lines("a", 0..40));
        assert_eq!(bench.names(), ["a.log"]);
    }
}

#[test]
fn a_file_is_not_read_again_when_it_is_rotated_further_or_compressed() {
    let mut bench = Bench::with_log("a.log*", 10);
    bench.rename("a.log", "a.log.1");
    bench.append("a.log", lines("b", 0..10));
    bench.settle();
    bench.rotate();
    bench.append("a.log", lines("c", 0..10));
    bench.settle();
    bench.gzip("a.log.2");
    bench.settle();
    bench.restart();
    bench.settle();
    bench.check("a.log", lines("a", 0..10) + &lines("b", 0..10) + &lines("c", 0..10));
    assert_eq!(bench.names(), ["a.log"]);
    assert_eq!(bench.unknown_losses(), 0);
}

#[test]
fn truncated_before_it_was_read_is_a_loss_with_its_length() {
    let mut bench = Bench::new(&["a.log"]);
    bench.append("a.log", lines("a", 0..10));
    bench.append("a.log", "not finished");
    bench.pump();
    bench.truncate("a.log");
    bench.append("a.log", lines("b", 0..2));
    bench.pump();
    bench.check("a.log", lines("a", 0..10) + "????????????" + &lines("b", 0..2));
}

/// Same size, shorter, longer; truncated in place or written anew over the same inode.
#[test]
fn a_rewritten_file_is_read_from_its_first_byte() {
    for count in [1, 9, 10, 11, 40] {
        let mut bench = Bench::with_log("a.log", 10);
        bench.wait(Duration::from_secs(1));
        bench.write("a.log", lines("b", 0..count));
        bench.pump();
        bench.check("a.log", lines("a", 0..10) + &lines("b", 0..count));
    }
}

#[test]
fn a_rewritten_file_with_the_same_banner_is_read_from_its_first_byte() {
    let banner = "a banner of some length that every file begins with\n".repeat(50);
    let mut bench = Bench::new(&["a.log"]);
    bench.append("a.log", banner.clone() + &lines("a", 0..10));
    bench.pump();
    bench.write("a.log", banner.clone() + &lines("b", 0..30));
    bench.pump();
    bench.check("a.log", banner.clone() + &lines("a", 0..10) + &banner + &lines("b", 0..30));
}

#[test]
fn fifty_truncations_of_one_inode() {
    let mut bench = Bench::new(&["a.log"]);
    let mut expected = String::new();
    for round in 0..50 {
        let content = lines(&format!("round {round}"), 0..1 + round % 7);
        bench.write("a.log", &content);
        bench.pump();
        expected += &content;
    }
    bench.check("a.log", expected);
}

#[test]
fn a_reused_inode_is_another_file() {
    let mut bench = Bench::new(&["*.log"]);
    bench.append("a.log", lines("a", 0..10));
    bench.settle();
    bench.restart();
    let inode = fs::metadata(bench.path("a.log")).unwrap().ino();
    bench.remove("a.log");
    // The file system may or may not give the inode again; both have to come out the same.
    bench.append("a.log", lines("b", 0..20));
    let is_reused = fs::metadata(bench.path("a.log")).unwrap().ino() == inode;
    bench.settle();
    let content = String::from_utf8(bench.content("a.log")).unwrap();
    assert_eq!(content, lines("a", 0..10) + &lines("b", 0..20), "inode reused: {is_reused}");
}

#[test]
fn a_deleted_file_is_read_to_its_end_and_let_go() {
    let mut bench = Bench::new(&["a.log"]);
    bench.append("a.log", lines("a", 0..200));
    // One batch only: the rest is unread when the file is deleted.
    bench.fill(false);
    bench.remove("a.log");
    bench.pump();
    bench.check("a.log", lines("a", 0..200));
    bench.settle();
    bench.append("a.log", lines("b", 0..5));
    bench.settle();
    bench.check("a.log", lines("a", 0..200) + &lines("b", 0..5));
    bench.remove("a.log");
    bench.settle();
    bench.commit();
    assert_eq!(bench.open_files(), 0);
    assert_eq!(bench.unknown_losses(), 0);
}

#[test]
fn files_deleted_while_they_wait_for_their_turn_are_read() {
    let mut bench = Bench::with_log("a.log", 5);
    for rotation in 1..8 {
        bench.rename("a.log", "a.log.1");
        bench.append("a.log", lines("a", rotation * 5..rotation * 5 + 5));
        // Seen, but not finished: the first file is still waited for.
        bench.wait(Duration::from_millis(300));
        bench.fill(false);
    }
    for _ in 0..8 {
        bench.settle();
    }
    bench.check("a.log", lines("a", 0..40));
}

#[test]
fn a_waiting_file_that_was_noticed_late_is_read_at_its_place() {
    let mut bench = Bench::with_log("a.log*", 10);
    bench.rename("a.log", "a.log.2");
    bench.append("a.log", lines("c", 0..10));
    bench.pump();
    bench.append("a.log.1", lines("b", 0..10));
    bench.pump();
    bench.remove("a.log.1");
    bench.remove("a.log");
    bench.settle();
    bench.check("a.log", lines("a", 0..10) + &lines("b", 0..10) + &lines("c", 0..10));
}

#[test]
fn replaced_by_a_file_that_continues_it_only_the_new_lines_are_shipped() {
    let mut bench = Bench::with_log("a.log", 10);
    bench.write("temporary", lines("a", 0..12));
    bench.rename("temporary", "a.log");
    bench.settle();
    bench.check("a.log", lines("a", 0..12));
}

#[test]
fn moved_away_cut_and_moved_back() {
    let mut bench = Bench::with_log("*.log", 5);
    bench.rename("a.log", "b.log");
    bench.pump();
    bench.write("b.log", "test1\n");
    bench.rename("b.log", "a.log");
    bench.settle();
    bench.check("a.log", lines("a", 0..5) + "test1\n");
    assert_eq!(bench.names(), ["a.log"]);
}

#[test]
fn renamed_and_renamed_back_is_not_read_again() {
    let mut bench = Bench::with_log("*.log", 5);
    for other in ["b.log", "c.txt"] {
        bench.rename("a.log", other);
        bench.settle();
        bench.rename(other, "a.log");
        bench.settle();
    }
    bench.append("a.log", lines("a", 5..6));
    bench.settle();
    bench.check("a.log", lines("a", 0..6));
}

#[test]
fn an_earlier_file_that_comes_back_is_not_read_again() {
    let mut bench = Bench::with_log("a.log*", 10);
    bench.rename("a.log", "a.log.1");
    bench.append("a.log", lines("b", 0..10));
    bench.settle();
    bench.remove("a.log");
    bench.rename("a.log.1", "a.log");
    bench.settle();
    bench.check("a.log", lines("a", 0..10) + &lines("b", 0..10));
    assert_eq!(bench.unknown_losses(), 0);
}

#[test]
fn a_hard_link_to_the_latest_file_is_followed_once() {
    let mut bench = Bench::new(&["*"]);
    let link = |bench: &Bench, day: &str| {
        fs::remove_file(bench.path("latest")).ok();
        fs::hard_link(bench.path(day), bench.path("latest")).unwrap();
    };
    bench.append("log-20261123", lines("a", 0..5));
    link(&bench, "log-20261123");
    bench.settle();
    bench.append("log-20261124", lines("a", 5..9));
    link(&bench, "log-20261124");
    bench.settle();
    bench.settle();
    let total: usize = bench.names().iter().map(|name| bench.content(name).len()).sum();
    assert_eq!(total, lines("a", 0..9).len());
}

#[test]
fn a_hole_left_by_a_writer_that_does_not_append_is_not_shipped() {
    let mut bench = Bench::new(&["a.log"]);
    let file = File::create(bench.path("a.log")).unwrap();
    let first = lines("a", 0..400);
    file.write_all_at(first.as_bytes(), 0).unwrap();
    bench.pump();
    bench.truncate("a.log");
    file.write_all_at(lines("b", 0..3).as_bytes(), first.len() as u64).unwrap();
    bench.pump();
    file.write_all_at(lines("b", 3..5).as_bytes(), first.len() as u64 + lines("b", 0..3).len() as u64)
        .unwrap();
    bench.pump();
    bench.check("a.log", first + &lines("b", 0..5));
}

#[test]
fn the_end_comes_without_waiting_for_rotated_files() {
    let mut bench = Bench::new(&["a.log*"]);
    bench.append("a.log.2", lines("a", 0..3));
    bench.append("a.log.1", lines("a", 3..6));
    bench.append("a.log", lines("a", 6..9));
    bench.append("a.log", "no end");
    bench.finish();
    bench.check("a.log", lines("a", 0..9) + "no end");
    bench.restart();
    bench.append("a.log", " yet\n");
    bench.wait(ROTATE_WAIT);
    bench.finish();
    bench.check("a.log", lines("a", 0..9) + "no end yet\n");
}

/// A listing that runs while files are renamed can miss some of them; what it missed must not be taken for
/// something that never was.
#[test]
fn rotations_during_a_look_are_not_missed() {
    for round in 0..200 {
        let are_siblings_selected = round % 2 == 0;
        let mut bench = Bench::new(&[if are_siblings_selected { "a.log*" } else { "a.log" }]);
        let paths: Vec<_> = std::iter::once(bench.path("a.log"))
            .chain((1..=20).map(|number| bench.path(&format!("a.log.{number}"))))
            .collect();
        let (started, start) = std::sync::mpsc::sync_channel(0);
        let writer = std::thread::spawn(move || {
            started.send(()).unwrap();
            for rotation in 0..20 {
                fs::write(&paths[0], lines("a", rotation * 10..rotation * 10 + 10)).unwrap();
                for number in (0..=rotation).rev() {
                    fs::rename(&paths[number], &paths[number + 1]).unwrap();
                }
            }
            fs::write(&paths[0], lines("a", 200..210)).unwrap();
        });
        start.recv().unwrap();
        std::thread::sleep(Duration::from_micros(round * 10));
        bench.pump();
        writer.join().unwrap();
        bench.settle();
        bench.settle();
        if are_siblings_selected {
            bench.check("a.log", lines("a", 0..210));
            continue;
        }
        // Files that no pattern selects, and that were rotated before the first look, are not asked for.
        let content = String::from_utf8(bench.content("a.log")).unwrap();
        assert!(lines("a", 0..210).ends_with(&content), "round {round}: {content}");
        assert!(content.ends_with(&lines("a", 200..210)));
        assert_eq!(bench.unknown_losses(), 0);
    }
}

/// What was renamed after the listing, and before the look at its place, is no file from before the first start.
#[test]
fn a_log_renamed_between_its_listing_and_the_first_look_is_read_from_its_first_file() {
    for include in ["a.log*", "a.log"] {
        for rotations in [1, 2] {
            for is_ending in [false, true] {
                let mut bench = Bench::new(&[include]);
                bench.append("other.log", "x\n");
                bench.append("a.log", lines("a", 0..10));
                // It is listed here, and settled by the first read.
                bench.open();
                let mut expected = lines("a", 0..10);
                for rotation in 1..=rotations {
                    if rotation > 1 {
                        bench.rename("a.log.1", "a.log.2");
                    }
                    bench.rename("a.log", "a.log.1");
                    bench.append("a.log", lines("a", rotation * 10..rotation * 10 + 10));
                    expected += &lines("a", rotation * 10..rotation * 10 + 10);
                }
                if is_ending {
                    bench.finish();
                } else {
                    (0..3).for_each(|_| bench.settle());
                }
                bench.check("a.log", &expected);
                assert_eq!(bench.unknown_losses(), 0);
            }
        }
    }
}

/// The shift from `.1` to `.2` goes on between two looks at names that a listing gave.
#[test]
fn rotations_between_a_listing_and_the_next_file_are_not_missed() {
    for include in ["a.log*", "a.log"] {
        let mut bench = Bench::new(&[include]);
        bench.append("a.log", lines("a", 0..10));
        bench.settle();
        bench.rename("a.log", "a.log.1");
        bench.append("a.log", lines("a", 10..20));
        bench.pump();
        // The first file is finished at this moment, and what comes next is looked for among stale names.
        bench.wait(ROTATE_WAIT);
        for rotation in 2..4 {
            bench.rotate();
            bench.append("a.log", lines("a", rotation * 10..rotation * 10 + 10));
        }
        (0..4).for_each(|_| bench.settle());
        bench.check("a.log", lines("a", 0..40));
        assert_eq!(bench.unknown_losses(), 0);
    }
}

#[test]
fn half_a_line_that_comes_late_into_a_renamed_file_waits_for_its_end() {
    let mut bench = Bench::with_log("a.log", 3);
    bench.rename("a.log", "a.log.1");
    for _ in 0..3 {
        bench.settle();
    }
    let (half, rest) = ("written in two ", "halves\n");
    bench.append("a.log.1", half);
    bench.pump();
    bench.check("a.log", lines("a", 0..3));
    bench.append("a.log.1", rest);
    bench.pump();
    bench.check("a.log", lines("a", 0..3) + half + rest);
    // One that never ends comes when nobody can be expected to end it any more.
    bench.append("a.log.1", half);
    bench.settle();
    bench.check("a.log", lines("a", 0..3) + half + rest + half);
}
