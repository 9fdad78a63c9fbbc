//! Which log a file belongs to, when the paths of several logs are names that rotated files go by.

use std::fs;
use std::time::Duration;

use super::bench::{Bench, ROTATE_WAIT, lines};
use crate::file_tail::candidates;
use crate::file_tail::log::Now;
use crate::file_tail::tail::TICK;

/// `a.log.1` was selected alone, and became a log of its own. Then all of `a.log` is.
fn with_log_under_the_name_of_a_rotated_file() -> Bench {
    let mut bench = Bench::new(&["a.log.1"]);
    bench.append("a.log.1", lines("x", 0..5));
    bench.pump();
    bench.restart();
    bench.tables.clear();
    bench.add_table(&["a.log*"]);
    bench
}

/// What was there first under the name of a rotated file is a log of its own; what comes to that name later is
/// what it was before.
#[test]
fn a_log_under_the_name_of_a_rotated_file_takes_nothing_of_the_log_that_is_rotated_to_it() {
    for restarts in [false, true] {
        let mut bench = with_log_under_the_name_of_a_rotated_file();
        let mut expected = String::new();
        for generation in 0..4 {
            let content = lines(&format!("generation {generation}"), 0..5);
            bench.append("a.log", &content);
            expected += &content;
            (0..3).for_each(|_| bench.settle());
            if restarts {
                bench.restart();
            }
            bench.rotate();
        }
        bench.append("a.log", lines("last", 0..3));
        (0..4).for_each(|_| bench.settle());
        bench.check("a.log.1", lines("x", 0..5));
        bench.check("a.log", expected + &lines("last", 0..3));
        assert_eq!((bench.names().len(), bench.unknown_losses()), (2, 0), "{restarts}");
    }
}

/// Where the copy is begun and seen before it holds anything, it is known once it does.
#[test]
fn a_log_under_the_name_of_a_rotated_file_takes_no_copy_of_the_log_that_is_copied_to_it() {
    for (restarts, is_seen_empty) in [(false, false), (true, false), (false, true)] {
        let mut bench = with_log_under_the_name_of_a_rotated_file();
        let mut expected = String::new();
        for generation in 0..4 {
            let content = lines(&format!("generation {generation}"), 0..8);
            bench.append("a.log", &content[..content.len() / 2]);
            (0..2).for_each(|_| bench.settle());
            if restarts {
                bench.restart();
            }
            // The rest has to come out of the copy.
            bench.append("a.log", &content[content.len() / 2..]);
            for number in (1..=generation + 1).rev() {
                bench.rename(&format!("a.log.{number}"), &format!("a.log.{}", number + 1));
            }
            if is_seen_empty {
                bench.settle();
                bench.append("a.log.1", "");
                bench.settle();
            }
            bench.copy_and_truncate("a.log", "a.log.1");
            (0..3).for_each(|_| bench.settle());
            expected += &content;
            bench.check("a.log", &expected);
        }
        bench.check("a.log.1", lines("x", 0..5));
        assert_eq!((bench.names().len(), bench.unknown_losses()), (2, 0), "{restarts} {is_seen_empty}");
    }
}

/// As logrotate leaves them with `nocreate`, while their program does not run.
#[test]
fn numbered_files_are_parts_of_a_log_that_is_not_there_yet() {
    for copies in [false, true] {
        let mut bench = Bench::new(&["*"]);
        bench.append("a.log.2", lines("x", 0..5));
        bench.gzip("a.log.2");
        bench.append("a.log.1", lines("y", 0..5));
        bench.wait(Duration::from_secs(60));
        (0..3).for_each(|_| bench.settle());
        let mut expected = lines("x", 0..5) + &lines("y", 0..5);
        bench.check("a.log", &expected);
        for generation in 0..3 {
            let content = lines(&format!("generation {generation}"), 0..5);
            bench.append("a.log", &content);
            expected += &content;
            (0..3).for_each(|_| bench.settle());
            bench.restart();
            bench.rename("a.log.2.gz", "a.log.3.gz");
            bench.gzip("a.log.1");
            bench.rename("a.log.1.gz", "a.log.2.gz");
            match copies {
                true => bench.copy_and_truncate("a.log", "a.log.1"),
                false => bench.rename("a.log", "a.log.1"),
            }
        }
        (0..4).for_each(|_| bench.settle());
        bench.check("a.log", expected);
        bench.check_one_log_without_loss();
    }
}

#[test]
fn a_number_makes_no_part_of_a_log_that_no_pattern_selects_or_that_has_no_extension() {
    let mut bench = Bench::new(&["worker.log.[0-9]", "task*"]);
    for name in ["worker.log.1", "worker.log.2", "task.1", "task.2", "task-1.log", "task-2.log"] {
        bench.append(name, lines(name, 0..3));
    }
    bench.settle();
    let own = ["task-1.log", "task-2.log", "task.1", "task.2", "worker.log.1", "worker.log.2"];
    assert_eq!(bench.names(), own);
}

/// As with programs that rotate `app.log` to `app.1.log`, when both were there at the first start.
#[test]
fn logs_whose_files_are_renamed_to_each_other_are_shipped_once() {
    for restarts in [false, true] {
        let mut bench = Bench::new(&["*.log"]);
        let mut expected = [lines("live", 0..5), lines("one", 0..5), lines("two", 0..5)];
        for (name, content) in ["app.log", "app.1.log", "app.2.log"].into_iter().zip(&expected) {
            bench.append(name, content);
        }
        bench.settle();
        for rotation in 0..4 {
            bench.remove("app.2.log");
            if restarts {
                bench.settle();
                bench.restart();
            }
            bench.rename("app.1.log", "app.2.log");
            bench.rename("app.log", "app.1.log");
            let content = lines(&format!("rotation {rotation}"), 0..5);
            bench.append("app.log", &content);
            expected[0] += &content;
            (0..3).for_each(|_| bench.settle());
        }
        for (name, content) in ["app.log", "app.1.log", "app.2.log"].into_iter().zip(&expected) {
            bench.check(name, content);
        }
        assert_eq!(bench.unknown_losses(), 0, "{restarts}");
    }
}

#[test]
fn a_path_that_a_renamed_file_has_left_belongs_to_its_log_again() {
    let mut bench = Bench::new(&["*.log"]);
    bench.append("a.log", lines("x", 0..5));
    bench.append("b.log", lines("b", 0..5));
    bench.settle();
    bench.remove("b.log");
    bench.settle();
    bench.rename("a.log", "b.log");
    bench.settle();
    bench.rename("b.log", "c.txt");
    bench.append("b.log", lines("y", 0..5));
    (0..3).for_each(|_| bench.settle());
    bench.append("a.log", lines("z", 0..5));
    (0..3).for_each(|_| bench.settle());
    bench.check("a.log", lines("x", 0..5) + &lines("z", 0..5));
    bench.check("b.log", lines("b", 0..5) + &lines("y", 0..5));
    assert_eq!((bench.names().len(), bench.unknown_losses()), (2, 0));
}

/// As long as nothing follows it, its writer may still be at it.
#[test]
fn a_renamed_file_is_read_on_while_the_file_of_another_log_stands_at_its_place() {
    let mut bench = Bench::new(&["*.log"]);
    bench.append("a.log", lines("a", 0..5));
    bench.append("b.log", lines("b", 0..5));
    bench.settle();
    bench.rename("a.log", "swap");
    bench.rename("b.log", "a.log");
    bench.rename("swap", "b.log");
    (0..3).for_each(|_| bench.settle());
    bench.append("b.log", lines("a", 5..8));
    bench.append("a.log", lines("b", 5..8));
    (0..3).for_each(|_| bench.settle());
    bench.check("a.log", lines("a", 0..8));
    bench.check("b.log", lines("b", 0..8));
    assert_eq!(bench.unknown_losses(), 0);
}

/// What waited for its turn is renamed to a name that makes it a log of its own.
#[test]
fn a_file_that_waits_and_becomes_another_logs_is_shipped_once() {
    for is_cut in [false, true] {
        let mut bench = Bench::new(&["a.log*", "*.txt"]);
        bench.append("a.log", lines("a", 0..5));
        bench.settle();
        bench.rename("a.log", "a.log.2");
        bench.append("a.log", lines("c", 0..5));
        bench.pump();
        let old = lines("b", 0..9);
        bench.append("a.log.1", &old);
        bench.pump();
        if is_cut {
            bench.wait(ROTATE_WAIT / 10);
            fs::write(bench.path("a.log.1"), "").unwrap();
            bench.append("a.log.1", lines("new", 0..5));
            bench.append("a.log.2", lines("a", 5..6));
            bench.pump();
        }
        bench.rename("a.log.1", "b.txt");
        (0..3).for_each(|_| bench.settle());
        let a = lines("a", 0..if is_cut { 6 } else { 5 });
        bench.check("a.log", a + &lines("c", 0..5));
        bench.check("b.txt", if is_cut { lines("new", 0..5) } else { old });
        assert_eq!(bench.unknown_losses(), usize::from(is_cut), "{is_cut}");
    }
}

/// In a directory that changes all the time a look and the listing never agree. One decision waits for that only
/// so long; the next one waits again.
#[test]
fn what_was_decided_in_doubt_once_is_doubted_the_next_time() {
    let mut bench = Bench::with_log("a.log", 5);
    bench.misremember("a.log");
    let (path, start) = (bench.path("a.log"), bench.now());
    let agrees = |bench: &mut Bench, wait: u64| {
        let now = Now { instant: start.instant + Duration::from_secs(wait), ..start };
        let tail = bench.tail.as_mut().unwrap();
        let index = tail.log_at(&path).unwrap();
        let files = candidates::gather(&tail.logs[index], &tail.options.patterns, now, false).unwrap();
        tail.agrees(index, &files, false, now)
    };
    let agreed = [0, 4, 5, 6, 10, 11].map(|wait| agrees(&mut bench, wait));
    assert_eq!(agreed, [false, false, true, false, false, true]);
}

#[test]
fn each_time_that_a_cut_is_recorded_its_copy_is_looked_for() {
    let mut bench = Bench::with_log("a.log", 5);
    bench.rename("a.log", "a.log.1");
    bench.append("a.log", lines("b", 0..9));
    bench.pump();
    bench.write("a.log", lines("c", 0..5));
    bench.pump();
    let path = bench.path("a.log");
    for _ in 0..3 {
        for is_looked_for in [false, true] {
            let now = bench.now();
            let tail = bench.tail.as_mut().unwrap();
            let index = tail.log_at(&path).unwrap();
            assert_eq!(tail.lose_cut(index, None, now).is_ok(), is_looked_for);
            bench.wait(TICK);
            bench.fill(false);
        }
    }
}
