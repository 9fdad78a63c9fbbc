//! Rotated files that were compressed with gzip.

use std::fs;

use super::bench::{Bench, ROTATE_WAIT, gzipped, lines};

/// The name of the log changes at a rotation, is compressed at once, and something was not read yet.
#[test]
fn the_rest_of_a_file_is_read_from_what_it_was_compressed_into() {
    for include in ["a.log*", "a.log"] {
        for unread in [0, 7] {
            for was_down in [false, true] {
                let mut bench = Bench::with_log(include, 10);
                if was_down {
                    bench.restart();
                }
                bench.append("a.log", lines("a", 10..10 + unread));
                bench.rename("a.log", "a.log.1");
                bench.gzip("a.log.1");
                bench.append("a.log", lines("b", 0..3));
                bench.settle();
                bench.settle();
                bench.check("a.log", lines("a", 0..10 + unread) + &lines("b", 0..3));
                bench.restart();
                bench.append("a.log", lines("b", 3..5));
                bench.settle();
                bench.check("a.log", lines("a", 0..10 + unread) + &lines("b", 0..5));
                bench.check_one_log_without_loss();
            }
        }
    }
}

#[test]
fn compressed_files_from_before_the_first_start_are_read_oldest_first() {
    for is_excluded in [false, true] {
        let mut bench = Bench::new(&["a.log*"]);
        if is_excluded {
            bench.tables[0].exclude = vec!["*.gz".to_owned()];
        }
        let mut expected = String::new();
        for number in (1..=4).rev() {
            let name = format!("a.log.{number}");
            let content = lines(&name, 0..200);
            bench.append(&name, &content);
            if number > 1 {
                bench.gzip(&name);
            }
            if number == 1 || !is_excluded {
                expected += &content;
            }
        }
        bench.append("a.log", lines("a", 0..3));
        for _ in 0..6 {
            bench.settle();
        }
        bench.check("a.log", expected + &lines("a", 0..3));
        bench.check_one_log_without_loss();
    }
}

#[test]
fn a_log_that_is_only_there_compressed_arrives_under_its_own_name() {
    let mut bench = Bench::new(&["*.gz"]);
    for day in ["a-1.log", "b-2.log"] {
        bench.append(day, lines(day, 0..10));
        bench.gzip(day);
    }
    // Not selected, and no part of what is.
    bench.append("a-1.log", lines("other", 0..10));
    for _ in 0..3 {
        bench.settle();
        bench.restart();
    }
    for day in ["a-1.log", "b-2.log"] {
        bench.check(day, lines(day, 0..10));
    }
    assert_eq!((bench.names().len(), bench.unknown_losses()), (2, 0));
}

#[test]
fn a_log_compressed_where_it_stood_is_not_read_again() {
    for was_down in [false, true] {
        let mut bench = Bench::new(&["*.log*"]);
        bench.append("a-1.log", lines("a", 0..10));
        bench.pump();
        bench.append("a-1.log", lines("a", 10..12));
        if was_down {
            bench.restart();
        }
        bench.gzip("a-1.log");
        for _ in 0..3 {
            bench.settle();
        }
        bench.check("a-1.log", lines("a", 0..12));
        bench.restart();
        bench.settle();
        bench.check("a-1.log", lines("a", 0..12));
        assert_eq!((bench.names().len(), bench.unknown_losses()), (1, 0));
    }
}

#[test]
fn a_plain_file_and_its_compressed_twin_are_one() {
    for is_read_first in [false, true] {
        let mut bench = Bench::new(&["a.log*"]);
        bench.append("a.log.1", lines("a", 0..10));
        if is_read_first {
            bench.append("a.log", lines("b", 0..3));
            bench.settle();
        }
        fs::write(bench.path("a.log.1.gz"), gzipped(lines("a", 0..10))).unwrap();
        bench.append("a.log", lines("b", 3..6));
        bench.settle();
        bench.settle();
        bench.restart();
        bench.remove("a.log.1");
        bench.settle();
        let b = if is_read_first { lines("b", 0..6) } else { lines("b", 3..6) };
        bench.check("a.log", lines("a", 0..10) + &b);
        assert_eq!(bench.unknown_losses(), 0);
    }
}

/// As logrotate does it day by day, with `compress` or with `delaycompress`.
#[test]
fn a_chain_of_compressed_files_is_read_once() {
    for include in ["a.log*", "a.log"] {
        for delay in [1, 2] {
            for restarts in [false, true] {
                let mut bench = Bench::new(&[include]);
                let mut expected = String::new();
                for day in 0..6 {
                    let content = lines(&format!("day {day}"), 0..20);
                    bench.append("a.log", &content);
                    expected += &content;
                    if day % 2 == 0 {
                        bench.pump();
                    }
                    if restarts {
                        bench.restart();
                    }
                    for number in (1..=day).rev() {
                        let suffix = if number >= delay { ".gz" } else { "" };
                        let (from, to) = (format!("a.log.{number}{suffix}"), number + 1);
                        bench.rename(&from, &format!("a.log.{to}{suffix}"));
                    }
                    bench.rename("a.log", "a.log.1");
                    if day + 1 >= delay {
                        bench.gzip(&format!("a.log.{delay}"));
                    }
                }
                bench.append("a.log", lines("last", 0..3));
                for _ in 0..6 {
                    bench.settle();
                }
                if include == "a.log*" || !restarts {
                    bench.check("a.log", expected + &lines("last", 0..3));
                    assert_eq!((bench.names().len(), bench.unknown_losses()), (1, 0));
                }
            }
        }
    }
}

#[test]
fn a_file_that_is_still_being_compressed_is_read_when_it_is_whole() {
    let content = lines("a", 0..2000);
    let packed = gzipped(&content);
    // Of what was read before, the first piece holds more, and less.
    for (exists_at_start, read) in [(false, 10), (false, 1500), (true, 0)] {
        let mut bench = Bench::new(&["a.log*"]);
        if !exists_at_start {
            bench.append("a.log", lines("a", 0..read));
            bench.pump();
            bench.restart();
        }
        let mut done = 0;
        for piece in packed.chunks(packed.len() / 4) {
            let file = fs::File::options().append(true).create(true).open(bench.path("a.log.1.gz"));
            bench.append_to(&mut file.unwrap(), piece);
            done += 1;
            if done == 1 && !exists_at_start {
                bench.remove("a.log");
            }
            bench.pump();
            let arrived = bench.content("a.log");
            assert!(content.as_bytes().starts_with(&arrived) && bench.unknown_losses() == 0);
        }
        bench.append("a.log", lines("b", 0..3));
        bench.settle();
        bench.settle();
        bench.check("a.log", content.clone() + &lines("b", 0..3));
        assert_eq!(bench.unknown_losses(), 0);
    }
}

#[test]
fn what_a_damaged_or_truncated_file_does_not_give_is_a_loss_once() {
    let content = lines("a", 0..2000);
    let packed = gzipped(&content);
    let mut hit = packed.clone();
    let middle = packed.len() / 2;
    hit[middle..middle + 40].fill(0xff);
    for (damaged, gives) in [(packed[..middle].to_vec(), 1000), (hit, 1000), (b"no gzip at all".to_vec(), 0)]
    {
        let mut bench = Bench::new(&["a.log*"]);
        bench.write("a.log.2.gz", damaged);
        bench.append("a.log.1", lines("b", 0..5));
        bench.append("a.log", lines("c", 0..5));
        for _ in 0..5 {
            bench.settle();
        }
        let arrived = String::from_utf8_lossy(&bench.content("a.log")).into_owned();
        let rest = lines("b", 0..5) + &lines("c", 0..5);
        assert!(arrived.ends_with(&rest), "{gives}");
        assert!(arrived.starts_with(&content[..gives]) && arrived.len() >= gives + rest.len());
        assert_eq!(bench.unknown_losses(), 1);
        let length = bench.content("a.log").len();
        bench.restart();
        bench.append("a.log", lines("c", 5..6));
        for _ in 0..3 {
            bench.settle();
        }
        assert_eq!(bench.content("a.log").len(), length + lines("c", 5..6).len());
        assert_eq!((bench.names().len(), bench.unknown_losses()), (1, 1));
    }
}

#[test]
fn what_was_read_is_not_read_again_from_a_truncated_copy() {
    let mut bench = Bench::with_log("a.log*", 2000);
    bench.rename("a.log", "a.log.1");
    bench.append("a.log", lines("b", 0..5));
    bench.remove("a.log.1");
    let packed = gzipped(lines("a", 0..2000));
    bench.write("a.log.1.gz", &packed[..packed.len() / 2]);
    for _ in 0..2 {
        bench.settle();
        bench.restart();
        bench.wait(ROTATE_WAIT);
    }
    bench.rename("a.log", "a.log.0");
    bench.append("a.log", lines("c", 0..5));
    bench.settle();
    bench.settle();
    bench.check("a.log", lines("a", 0..2000) + &lines("b", 0..5) + &lines("c", 0..5));
    assert_eq!(bench.unknown_losses(), 0);
}

#[test]
fn members_are_joined_and_a_crash_in_the_middle_changes_nothing() {
    let mut bench = Bench::new(&["a.log*"]);
    let content = lines("a", 0..3000);
    let (first, rest) = content.split_at(50_000);
    bench.write("a.log.1.gz", [gzipped(first), gzipped(""), gzipped(rest)].concat());
    bench.append("a.log", lines("b", 0..5));
    let mut crashes_within = 0;
    for _ in 0..40 {
        bench.wait(ROTATE_WAIT);
        bench.fill(false);
        bench.commit();
        bench.fill(false);
        crashes_within += usize::from((1..content.len()).contains(&bench.content("a.log").len()));
        bench.crash();
    }
    assert!(crashes_within > 5);
    bench.settle();
    bench.settle();
    bench.check("a.log", content + &lines("b", 0..5));
    assert_eq!(bench.unknown_losses(), 0);
}

#[test]
fn an_empty_compressed_file_is_nothing() {
    let mut bench = Bench::new(&["a.log*"]);
    bench.write("a.log.2.gz", gzipped(""));
    bench.write("a.log.1.gz", gzipped("tiny\n"));
    bench.append("a.log", lines("b", 0..5));
    for _ in 0..3 {
        bench.settle();
        bench.check("a.log", "tiny\n".to_owned() + &lines("b", 0..5));
        bench.restart();
    }
    assert_eq!(bench.unknown_losses(), 0);
}

/// Too short to be told apart by its beginning.
#[test]
fn a_tiny_file_that_was_compressed_is_not_read_again() {
    for was_down in [false, true] {
        let mut bench = Bench::new(&["a.log*"]);
        bench.append("a.log", "tiny\n");
        bench.pump();
        if was_down {
            bench.restart();
        }
        bench.rename("a.log", "a.log.1");
        bench.gzip("a.log.1");
        bench.append("a.log", "tinier\n");
        for _ in 0..3 {
            bench.settle();
        }
        bench.check("a.log", "tiny\ntinier\n");
        assert_eq!((bench.names().len(), bench.unknown_losses()), (1, 0));
    }
}

#[test]
fn many_logs_share_a_few_decoders() {
    let mut bench = Bench::new(&["*"]);
    for number in 0..30 {
        bench.write(&format!("{number}.log.1.gz"), gzipped(lines(&format!("{number}"), 0..300)));
        bench.append(&format!("{number}.log"), lines("live", 0..3));
    }
    bench.wait(ROTATE_WAIT);
    let mut most = 0;
    for _ in 0..200 {
        bench.wait(crate::file_tail::tail::TICK);
        while let crate::file_tail::tail::Next::More = bench.fill(false) {
            most = most.max(bench.decoders());
        }
    }
    for number in 0..30 {
        bench.check(&format!("{number}.log"), lines(&format!("{number}"), 0..300) + &lines("live", 0..3));
    }
    assert!((1..=4).contains(&most), "{most}");
    assert_eq!(bench.decoders(), 0);
}

#[test]
fn the_end_comes_with_compressed_files_too() {
    let mut bench = Bench::new(&["a.log*"]);
    bench.write("a.log.2.gz", gzipped(lines("a", 0..300) + "no end"));
    bench.write("a.log.1.gz", gzipped(lines("b", 0..300)));
    bench.append("a.log", lines("c", 0..3));
    bench.finish();
    bench.check("a.log", lines("a", 0..300) + "no end" + &lines("b", 0..300) + &lines("c", 0..3));
    bench.restart();
    bench.finish();
    assert_eq!(bench.unknown_losses(), 0);
}

/// It was not held open, and is found again by what it held.
#[test]
fn a_waiting_file_that_was_compressed_is_read_from_there() {
    for limit in [0, 64] {
        let mut bench = Bench::with_log("a.log*", 5);
        bench.limit_held_files(limit);
        bench.rename("a.log", "a.log.1");
        bench.append("a.log", lines("b", 0..5));
        bench.pump();
        bench.rotate();
        bench.append("a.log", lines("c", 0..5));
        bench.pump();
        bench.gzip("a.log.1");
        for _ in 0..4 {
            bench.settle();
        }
        bench.check("a.log", lines("a", 0..5) + &lines("b", 0..5) + &lines("c", 0..5));
        assert_eq!((bench.names().len(), bench.unknown_losses()), (1, 0), "{limit}");
    }
}

#[test]
fn a_file_that_fails_to_be_read_is_read_from_what_it_was_compressed_into() {
    let mut bench = Bench::with_log("a.log", 5);
    bench.break_file("a.log");
    bench.append("a.log", lines("a", 5..8));
    bench.rename("a.log", "a.log.1");
    bench.gzip("a.log.1");
    bench.append("a.log", lines("b", 0..3));
    bench.settle();
    bench.settle();
    bench.check("a.log", lines("a", 0..8) + &lines("b", 0..3));
    assert_eq!(bench.unknown_losses(), 0);
}

/// It is held open, and was not the oldest of those that wait.
#[test]
fn a_waiting_file_that_was_compressed_keeps_its_place() {
    let mut bench = Bench::with_log("a.log", 5);
    for rotation in 1..4 {
        bench.rotate();
        bench.append("a.log", lines("a", rotation * 5..rotation * 5 + 5));
    }
    bench.fill(false);
    bench.wait(crate::file_tail::tail::TICK);
    bench.fill(false);
    bench.gzip("a.log.1");
    for _ in 0..5 {
        bench.settle();
    }
    bench.check("a.log", lines("a", 0..20));
    assert_eq!(bench.unknown_losses(), 0);
}

#[test]
fn what_was_compressed_before_the_start_at_the_end_counts_as_read() {
    let mut bench = Bench::new(&["a.log*"]);
    bench.tables[0].options.start_at_end = true;
    bench.write("a.log.1.gz", gzipped(lines("a", 0..300)));
    bench.append("a.log", lines("b", 0..5));
    bench.settle();
    bench.append("a.log", lines("b", 5..6));
    bench.settle();
    bench.rename("a.log.1.gz", "a.log.2.gz");
    bench.rename("a.log", "a.log.1");
    bench.gzip("a.log.1");
    bench.append("a.log", lines("c", 0..2));
    for _ in 0..3 {
        bench.settle();
        bench.check("a.log", lines("b", 5..6) + &lines("c", 0..2));
        bench.restart();
    }
    assert_eq!(bench.unknown_losses(), 0);
}
