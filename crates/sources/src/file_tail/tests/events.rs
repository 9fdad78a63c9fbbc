//! Events of several lines, and lines of two-byte characters.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use regex::bytes::Regex;

use super::bench::{Bench, ROTATE_WAIT};
use crate::file_tail::lines::{COMPARISONS, Encoding, Events, Lines};
use crate::file_tail::tail::{Next, TICK};

const TIMEOUT: Duration = Duration::from_secs(60);

/// Events begin with a letter at the beginning of a line; lines that continue one are indented.
fn rules() -> [Lines; 2] {
    [(r"^[a-z]", true), (r"^\s", false)].map(|(pattern, match_begins)| Lines {
        encoding: Encoding::Utf8,
        events: Some(Events { pattern: Regex::new(pattern).unwrap(), match_begins, timeout: TIMEOUT }),
    })
}

fn benches(include: &str) -> [Bench; 2] {
    rules().map(|rule| {
        let mut bench = Bench::new(&[include]);
        bench.tables[0].options.lines = rule;
        bench
    })
}

/// An event of so many lines.
fn event(number: usize, lines: usize) -> String {
    let more: String = (1..lines).map(|line| format!("  at line {line} of event {number}\n")).collect();
    format!("event {number}\n{more}")
}

fn begins_event(batch: &[u8]) -> bool {
    batch.starts_with(b"event")
}

#[test]
fn batches_are_cut_between_events() {
    for piece in [1, 7, 100, 100_000] {
        for mut bench in benches("a.log") {
            bench.max_batch_bytes = 400;
            bench.tables[0].options.max_line_bytes = 400;
            let mut content: String = (0..40).map(|number| event(number, number * 7 % 11 + 1)).collect();
            for piece in content.as_bytes().chunks(piece) {
                bench.append("a.log", piece);
                while let Next::More = bench.fill(false) {}
                if piece.len() < 50 {
                    bench.wait(TICK / 10);
                } else {
                    bench.pump();
                }
            }
            bench.pump();
            let held = content.rfind("\nevent 39").unwrap() + 1;
            bench.check("a.log", &content[..held]);
            content += "event 40\n";
            bench.append("a.log", "event 40\n");
            bench.pump();
            bench.check("a.log", content.trim_end_matches("event 40\n"));
            assert!(bench.batches.iter().all(|batch| begins_event(batch)), "pieces of {piece}");
            assert!(bench.batches.len() > 10);
        }
    }
}

#[test]
fn the_last_event_is_released_when_it_has_not_grown_for_the_timeout() {
    for mut bench in benches("a.log") {
        bench.append("a.log", event(1, 3));
        bench.pump();
        bench.check("a.log", "");
        bench.wait(TIMEOUT - Duration::from_secs(5));
        bench.append("a.log", "  one more\n  and half a");
        bench.pump();
        bench.wait(TIMEOUT - Duration::from_secs(5));
        bench.pump();
        bench.check("a.log", "");
        // The source says when it wants to be asked again, and no sooner than it must.
        let Next::Wait(until) = bench.fill(false) else { panic!("there is nothing to read") };
        assert!(until > bench.now().instant);
        bench.wait(Duration::from_secs(5));
        bench.pump();
        // Half a line is no line, however long it stays.
        bench.check("a.log", event(1, 3) + "  one more\n");
        // What continues it nevertheless comes with what is next.
        bench.append("a.log", " line\n");
        bench.pump();
        bench.check("a.log", event(1, 3) + "  one more\n");
        bench.append("a.log", event(2, 2) + &event(3, 1));
        bench.pump();
        bench.check("a.log", event(1, 3) + "  one more\n  and half a line\n" + &event(2, 2));
        bench.wait(TIMEOUT);
        bench.pump();
        bench.check("a.log", event(1, 3) + "  one more\n  and half a line\n" + &event(2, 2) + &event(3, 1));
        assert_eq!(bench.unknown_losses(), 0);
    }
}

#[test]
fn the_time_of_the_release_is_waited_for_and_not_the_next_tick() {
    for mut bench in benches("a.log") {
        let timeout = TICK / 5;
        let events = bench.tables[0].options.lines.events.as_mut().unwrap();
        events.timeout = timeout;
        bench.append("a.log", "event 0\n");
        bench.pump();
        bench.append("a.log", event(1, 3));
        bench.wait(TICK);
        assert_eq!(bench.fill(false), Next::Wait(bench.now().instant + timeout));
        bench.wait(timeout);
        assert_eq!(bench.fill(false), Next::More);
        bench.check("a.log", "event 0\n".to_owned() + &event(1, 3));
    }
}

#[test]
fn a_finished_file_is_released_at_once() {
    for mut bench in benches("a.log*") {
        bench.append("a.log", event(1, 3));
        bench.pump();
        bench.rename("a.log", "a.log.1");
        bench.append("a.log.1", "  the last line of it\n");
        bench.append("a.log", event(2, 3));
        bench.pump();
        bench.check("a.log", "");
        bench.wait(ROTATE_WAIT);
        bench.pump();
        let first = event(1, 3) + "  the last line of it\n";
        bench.check("a.log", &first);
        bench.restart();
        bench.finish();
        bench.check("a.log", first + &event(2, 3));
        assert_eq!(bench.batches.len(), 2);
    }
}

#[test]
fn an_event_that_is_too_long_travels_in_parts_cut_at_lines() {
    for growing in [false, true] {
        for mut bench in benches("a.log") {
            bench.max_batch_bytes = 300;
            bench.tables[0].options.max_line_bytes = 300;
            let endless = format!("event 2 {}\n", "x".repeat(700));
            let content = event(1, 40) + &endless + &event(3, 1);
            let pieces = content.as_bytes().chunks(if growing { 13 } else { content.len() });
            for piece in pieces {
                bench.append("a.log", piece);
                bench.wait(TICK / 10);
                while let Next::More = bench.fill(false) {}
            }
            bench.pump();
            bench.check("a.log", content.trim_end_matches(&event(3, 1)));
            let parts = bench.batches.iter().position(|batch| batch.starts_with(b"event 2")).unwrap();
            assert!(parts > 2, "the first one is longer than two parts");
            assert!(bench.batches[..parts].iter().all(|batch| batch.ends_with(b"\n")));
            assert!(bench.batches[..parts - 1].iter().all(|batch| batch.len() > 200), "as long as may be");
            bench.restart();
            bench.append("a.log", event(4, 1));
            bench.pump();
            bench.check("a.log", content);
        }
    }
}

/// However it arrives, a line is compared with the pattern once.
#[test]
fn no_line_is_compared_with_the_pattern_twice() {
    for piece in [37, 1000, 1_000_000] {
        for mut bench in benches("a.log") {
            bench.max_batch_bytes = 1_000_000;
            bench.tables[0].options.max_line_bytes = 1_000_000;
            let content = event(1, 2000) + &event(2, 1) + &event(3, 2000);
            let before = COMPARISONS.get();
            for piece in content.as_bytes().chunks(piece) {
                bench.append("a.log", piece);
                bench.wait(TICK);
                while let Next::More = bench.fill(false) {}
            }
            bench.check("a.log", event(1, 2000) + &event(2, 1));
            let compared = COMPARISONS.get() - before;
            assert!(compared <= content.lines().count(), "pieces of {piece}: {compared}");
            assert!(bench.batches.iter().all(|batch| begins_event(batch)));
        }
    }
}

fn utf16(text: &str, encoding: Encoding) -> Vec<u8> {
    let bytes = |unit: u16| match encoding {
        Encoding::Utf16Be => unit.to_be_bytes(),
        _ => unit.to_le_bytes(),
    };
    text.encode_utf16().flat_map(bytes).collect()
}

/// As after a crash of its machine: the size stays, and what was looked at and held back is no text any more.
#[test]
fn lines_that_become_zeros_while_they_are_held_back_are_not_awaited() {
    for mut bench in benches("a.log") {
        let kept = event(1, 3);
        bench.append("a.log", kept.clone() + "  and more\n");
        bench.pump();
        let file = OpenOptions::new().write(true).open(bench.path("a.log")).unwrap();
        file.write_all_at(&[0; 11], kept.len() as u64).unwrap();
        file.set_modified(bench.now().system).unwrap();
        bench.pump();
        file.write_all_at(b"event 2\n   ", kept.len() as u64).unwrap();
        file.set_modified(bench.now().system + TICK).unwrap();
        bench.pump();
        bench.append("a.log", "\nevent 3\n");
        bench.pump();
        bench.check("a.log", kept + "event 2\n   \n");
    }
}

#[test]
fn two_byte_characters_are_never_cut() {
    for encoding in [Encoding::Utf16Le, Encoding::Utf16Be] {
        for piece in [1, 2, 3, 1000] {
            let mut bench = Bench::new(&["a.log"]);
            bench.max_batch_bytes = 201;
            bench.tables[0].options.max_line_bytes = 101;
            bench.tables[0].options.lines.encoding = encoding;
            // Characters whose bytes look like line ends when they are taken from the wrong side.
            let long = "\u{0a00}\u{010a}".repeat(150);
            let text = format!("\u{feff}one\r\n\u{0a0d}\u{0a00}two\n{long}\nthree \u{1f4dc}\n");
            let content = utf16(&text, encoding);
            for piece in content.chunks(piece) {
                bench.append("a.log", piece);
                bench.wait(TICK);
                while let Next::More = bench.fill(false) {}
            }
            bench.check("a.log", &content);
            assert!(bench.batches.iter().all(|batch| batch.len() % 2 == 0), "{encoding:?} {piece}");
            let is_whole = |batch: &Vec<u8>| batch.ends_with(&utf16("\n", encoding)) || batch.len() == 100;
            assert!(bench.batches.iter().all(is_whole), "{encoding:?} {piece}");
        }
    }
}

#[test]
fn half_a_character_is_held_back_until_it_is_whole_or_its_file_finished() {
    for encoding in [Encoding::Utf16Le, Encoding::Utf16Be] {
        let mut bench = Bench::new(&["a.log"]);
        bench.tables[0].options.lines.encoding = encoding;
        let content = utf16("one\ntwo\n", encoding);
        bench.append("a.log", &content[..7]);
        bench.pump();
        bench.check("a.log", "");
        bench.finish();
        bench.check("a.log", &content[..6]);
        bench.restart();
        bench.append("a.log", &content[7..11]);
        bench.pump();
        bench.check("a.log", &content[..8]);
        bench.rename("a.log", "a.log.1");
        bench.append("a.log", utf16("next\n", encoding));
        bench.settle();
        bench.check("a.log", [&content[..11], &utf16("next\n", encoding)].concat());
        assert_eq!(bench.unknown_losses(), 0);
    }
}

#[test]
fn a_hole_before_two_byte_characters_ends_at_the_first_one() {
    use std::os::unix::fs::FileExt;
    for encoding in [Encoding::Utf16Le, Encoding::Utf16Be] {
        let mut bench = Bench::new(&["a.log"]);
        bench.tables[0].options.lines.encoding = encoding;
        let file = std::fs::File::create(bench.path("a.log")).unwrap();
        // U+0100 begins with a zero byte in one encoding, an ASCII letter in the other.
        let first = utf16(&"some line of the first file\n".repeat(300), encoding);
        file.write_all_at(&first, 0).unwrap();
        bench.pump();
        bench.truncate("a.log");
        let second = utf16("\u{0100}bc\n", encoding);
        file.write_all_at(&second, first.len() as u64).unwrap();
        bench.pump();
        bench.check("a.log", [first, second].concat());
    }
}

#[test]
fn the_end_of_a_file_of_two_byte_characters_is_a_line_end() {
    for encoding in [Encoding::Utf16Le, Encoding::Utf16Be] {
        let mut bench = Bench::new(&["a.log"]);
        bench.tables[0].options.lines.encoding = encoding;
        bench.tables[0].options.start_at_end = true;
        bench.append("a.log", utf16("old\n\u{0a00}\u{000a}\u{010a}beg", encoding));
        bench.pump();
        bench.append("a.log", utf16("un\n", encoding));
        bench.pump();
        bench.check("a.log", utf16("\u{010a}begun\n", encoding));
    }
}
