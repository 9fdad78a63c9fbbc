//! Copies beside a log: of a file that is truncated, of one that is renamed, and of one that is left alone.

use std::fs;

use super::bench::{Bench, lines};
use crate::file_tail::tail::Next;
use crate::file_tail::unpacking::COMPLETE_AFTER;

/// As logrotate's `renamecopy` does it, under a program that opens its log again only later.
#[test]
fn a_copy_of_a_renamed_file_whose_writer_goes_on_is_not_shipped() {
    for include in ["a.log*", "a.log"] {
        for is_packed in [false, true] {
            for is_followed_at_once in [false, true] {
                for is_slow in [false, true] {
                    let mut bench = Bench::with_log(include, 60);
                    let mut writer = fs::File::options().append(true).open(bench.path("a.log")).unwrap();
                    bench.rename("a.log", "a.log.tmp");
                    if is_followed_at_once {
                        bench.append("a.log", lines("b", 0..3));
                    }
                    let original = fs::read(bench.path("a.log.tmp")).unwrap();
                    if is_slow {
                        for length in [1200, 1500] {
                            bench.write("a.log.1", &original[..length]);
                            bench.append_to(&mut writer, lines("a", 60 + length / 1400..61 + length / 1400));
                            bench.pump();
                        }
                    }
                    bench.write("a.log.1", &original);
                    bench.remove("a.log.tmp");
                    if is_packed {
                        bench.gzip("a.log.1");
                    }
                    let late = if is_slow { 62 } else { 60 };
                    bench.append_to(&mut writer, lines("a", late..late + 5));
                    bench.pump();
                    if !is_followed_at_once {
                        bench.append("a.log", lines("b", 0..3));
                    }
                    (0..3).for_each(|_| bench.settle());
                    let expected = lines("a", 0..late + 5) + &lines("b", 0..3);
                    bench.check("a.log", &expected);
                    bench.restart();
                    let suffix = if is_packed { ".gz" } else { "" };
                    bench.rename(&format!("a.log.1{suffix}"), &format!("a.log.2{suffix}"));
                    bench.rename("a.log", "a.log.1");
                    bench.append("a.log", lines("c", 0..3));
                    (0..3).for_each(|_| bench.settle());
                    bench.check("a.log", expected + &lines("c", 0..3));
                    bench.check_one_log_without_loss();
                }
            }
        }
    }
}

#[test]
fn copy_and_truncate_ships_both_sides_once() {
    for include in ["a.log*", "a.log"] {
        for unread in [0, 7] {
            let mut bench = Bench::with_log(include, 10);
            bench.append("a.log", lines("a", 10..10 + unread));
            bench.copy_and_truncate("a.log", "a.log.1");
            bench.append("a.log", lines("b", 0..3));
            bench.settle();
            bench.check("a.log", lines("a", 0..10 + unread) + &lines("b", 0..3));
            bench.restart();
            bench.settle();
            bench.check("a.log", lines("a", 0..10 + unread) + &lines("b", 0..3));
            assert_eq!(bench.names(), ["a.log"]);
        }
    }
}

#[test]
fn a_copy_that_lacks_the_last_lines_is_not_taken_for_a_new_file() {
    let mut bench = Bench::with_log("a.log*", 10);
    bench.write("a.log.1", lines("a", 0..9));
    bench.truncate("a.log");
    bench.append("a.log", lines("b", 0..3));
    bench.settle();
    bench.check("a.log", lines("a", 0..10) + &lines("b", 0..3));
    assert_eq!(bench.names(), ["a.log"]);
}

#[test]
fn a_plain_copy_beside_the_log_is_not_shipped() {
    let mut bench = Bench::with_log("a.log*", 10);
    fs::copy(bench.path("a.log"), bench.path("a.log.1")).unwrap();
    bench.append("a.log", lines("a", 10..20));
    bench.settle();
    bench.check("a.log", lines("a", 0..20));
    assert_eq!(bench.names(), ["a.log"]);
}

/// The original is gone, and nothing was begun yet: what is known of the copy is all there is.
#[test]
fn a_copy_of_a_renamed_file_is_not_shipped_after_a_restart() {
    for include in ["a.log*", "a.log"] {
        for packed_at in [0, 1, 2] {
            let mut bench = Bench::with_log(include, 60);
            let mut writer = fs::File::options().append(true).open(bench.path("a.log")).unwrap();
            bench.rename("a.log", "a.log.tmp");
            fs::copy(bench.path("a.log.tmp"), bench.path("a.log.1")).unwrap();
            bench.remove("a.log.tmp");
            if packed_at == 1 {
                bench.gzip("a.log.1");
            }
            bench.append_to(&mut writer, lines("a", 60..65));
            bench.pump();
            // Nobody knows before that whether what is compressed is whole.
            bench.wait(COMPLETE_AFTER / 2);
            bench.pump();
            bench.append_to(&mut writer, lines("a", 65..66));
            bench.wait(COMPLETE_AFTER / 2);
            bench.pump();
            bench.restart();
            if packed_at == 2 {
                bench.gzip("a.log.1");
            }
            bench.pump();
            bench.settle();
            bench.append("a.log", lines("b", 0..3));
            (0..3).for_each(|_| bench.settle());
            bench.check("a.log", lines("a", 0..66) + &lines("b", 0..3));
            // Nobody can know whether the file that is gone had grown.
            assert_eq!((bench.names(), bench.unknown_losses()), (vec!["a.log".to_owned()], 1));
        }
    }
}

/// It begins as the one before it does, and is shorter: another run of the same program.
#[test]
fn a_rotated_file_that_begins_like_the_one_before_it_is_no_copy() {
    for include in ["a.log*", "a.log"] {
        let mut bench = Bench::with_log(include, 60);
        bench.rotate();
        bench.append("a.log", lines("a", 0..50));
        bench.rotate();
        bench.append("a.log", lines("b", 0..3));
        (0..3).for_each(|_| bench.settle());
        bench.check("a.log", lines("a", 0..60) + &lines("a", 0..50) + &lines("b", 0..3));
        bench.check_one_log_without_loss();
    }
}

/// As it happens at a start beside a rotation.
#[test]
fn a_copy_that_appears_between_a_listing_and_the_look_at_the_truncated_file_is_no_loss() {
    let mut bench = Bench::with_log("a.log*", 60);
    bench.restart();
    bench.open();
    bench.copy_and_truncate("a.log", "a.log.1");
    while let Next::More = bench.fill(false) {}
    bench.append("a.log", lines("b", 0..3));
    (0..3).for_each(|_| bench.settle());
    bench.check("a.log", [lines("a", 0..60), lines("b", 0..3)].concat());
    bench.check_one_log_without_loss();
}
