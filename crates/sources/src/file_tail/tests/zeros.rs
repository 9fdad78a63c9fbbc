//! Files that end in zeros: space reserved in advance, and what a crash left.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use super::bench::{Bench, ROTATE_WAIT, lines};
use crate::file_tail::lines::Encoding;

/// More than a batch, and more than a line may have.
const RESERVED: u64 = 20_000;

/// A log with room for so many bytes, and how far it was written.
struct Reserved {
    file: File,
    end: u64,
}

impl Reserved {
    /// Zeros that were written, or a hole.
    fn new(bench: &Bench, name: &str, is_hole: bool) -> Self {
        let file = File::create(bench.path(name)).unwrap();
        match is_hole {
            true => file.set_len(RESERVED).unwrap(),
            false => file.write_all_at(&vec![0; RESERVED as usize], 0).unwrap(),
        }
        Self { file, end: 0 }
    }

    fn write(&mut self, text: impl AsRef<[u8]>) {
        self.file.write_all_at(text.as_ref(), self.end).unwrap();
        self.end += text.as_ref().len() as u64;
    }

    /// As a memory map does it now and then: the time of change stays what it was.
    fn write_without_a_trace(&mut self, text: impl AsRef<[u8]>) {
        let modified = self.file.metadata().unwrap().modified().unwrap();
        self.write(text);
        self.file.set_modified(modified).unwrap();
    }
}

#[test]
fn text_that_takes_the_place_of_zeros_is_shipped_and_the_zeros_are_not() {
    for is_hole in [false, true] {
        for leaves_trace in [false, true] {
            let mut bench = Bench::new(&["a.log"]);
            let mut log = Reserved::new(&bench, "a.log", is_hole);
            bench.pump();
            bench.check("a.log", "");
            let mut expected = String::new();
            for round in 0..40 {
                // Over each length of a fingerprint, and over the end of a batch.
                let text = lines("a", round..round + 1 + round % 7 * 6) + "begun, ";
                expected += &text;
                match leaves_trace {
                    true => log.write(&text),
                    false => log.write_without_a_trace(&text),
                }
                bench.pump();
                bench.check("a.log", expected.rsplit_once('\n').unwrap().0.to_owned() + "\n");
                if round % 5 == 0 {
                    bench.restart();
                }
            }
            // More than was reserved.
            assert!(log.end > RESERVED);
            log.write("finished\n");
            bench.pump();
            bench.check("a.log", expected + "finished\n");
            assert_eq!(bench.unknown_losses(), 0);
        }
    }
}

#[test]
fn zeros_with_text_behind_them_are_bytes() {
    for (is_hole, at_the_end) in [(false, false), (true, false), (true, true)] {
        let mut bench = Bench::new(&["a.log"]);
        let mut log = Reserved::new(&bench, "a.log", is_hole);
        log.write(lines("a", 0..3));
        log.write("cut off by a pow");
        bench.pump();
        bench.check("a.log", lines("a", 0..3));
        let mut expected = fs::read(bench.path("a.log")).unwrap();
        let text = lines("b", 0..3);
        let place = if at_the_end { expected.len() } else { 15_000 };
        log.file.write_all_at(text.as_bytes(), place as u64).unwrap();
        bench.pump();
        expected.truncate(place);
        expected.extend(text.as_bytes());
        bench.check("a.log", &expected);
        bench.restart();
        log.end = expected.len() as u64;
        log.write(lines("c", 0..2));
        bench.pump();
        expected.extend(lines("c", 0..2).as_bytes());
        bench.check("a.log", expected);
        assert_eq!(bench.unknown_losses(), 0);
    }
}

#[test]
fn zeros_that_end_a_rotated_file_are_left_out() {
    for include in ["a.log*", "a.log"] {
        for is_packed in [false, true] {
            for was_down in [false, true] {
                let mut bench = Bench::new(&[include]);
                let mut log = Reserved::new(&bench, "a.log", false);
                log.write(lines("a", 0..10));
                bench.pump();
                log.write(lines("a", 10..12) + "no end");
                if was_down {
                    bench.restart();
                }
                bench.rename("a.log", "a.log.1");
                let mut next = Reserved::new(&bench, "a.log", true);
                next.write(lines("b", 0..3));
                if is_packed {
                    bench.gzip("a.log.1");
                }
                (0..3).for_each(|_| bench.settle());
                let expected = lines("a", 0..12) + "no end" + &lines("b", 0..3);
                bench.check("a.log", &expected);
                bench.restart();
                next.write(lines("b", 3..4));
                bench.wait(ROTATE_WAIT);
                bench.settle();
                bench.check("a.log", expected + &lines("b", 3..4));
                assert_eq!(bench.unknown_losses(), 0, "{include} {is_packed} {was_down}");
            }
        }
    }
}

/// As a program does that reserves room while it logs.
#[test]
fn room_given_back_at_the_end_is_no_truncation() {
    let mut bench = Bench::new(&["a.log"]);
    let mut log = Reserved::new(&bench, "a.log", false);
    log.write(lines("a", 0..10));
    bench.pump();
    log.file.set_len(log.end).unwrap();
    bench.pump();
    log.file.set_len(RESERVED).unwrap();
    bench.pump();
    log.write(lines("a", 10..12));
    bench.pump();
    bench.check("a.log", lines("a", 0..12));
    assert_eq!(bench.unknown_losses(), 0);
}

#[test]
fn the_end_comes_before_the_zeros() {
    let mut bench = Bench::new(&["*.log"]);
    let mut logs = ["a.log", "b.log"].map(|name| Reserved::new(&bench, name, false));
    logs[0].write(lines("a", 0..3) + "no end");
    bench.finish();
    bench.check("a.log", lines("a", 0..3) + "no end");
    bench.check("b.log", "");
    bench.restart();
    logs[0].write(" yet\n");
    logs[1].write("text\n");
    bench.finish();
    bench.check("a.log", lines("a", 0..3) + "no end yet\n");
    bench.check("b.log", "text\n");
}

#[test]
fn a_start_at_the_end_is_one_at_the_end_of_the_text() {
    let mut bench = Bench::new(&["a.log"]);
    bench.tables[0].options.start_at_end = true;
    let mut log = Reserved::new(&bench, "a.log", false);
    // More than a line may have.
    log.file.set_len(2 << 20).unwrap();
    log.write(lines("old", 0..3) + "begun before, ");
    bench.pump();
    log.write("finished after\n");
    bench.pump();
    bench.check("a.log", "begun before, finished after\n");
}

#[test]
fn two_byte_characters_before_zeros_keep_both_their_bytes() {
    for encoding in [Encoding::Utf16Le, Encoding::Utf16Be] {
        let bytes = |unit: u16| match encoding {
            Encoding::Utf16Le => unit.to_le_bytes(),
            _ => unit.to_be_bytes(),
        };
        let mut bench = Bench::new(&["a.log"]);
        bench.tables[0].options.lines.encoding = encoding;
        let mut log = Reserved::new(&bench, "a.log", false);
        let mut expected = Vec::new();
        for round in 0..5 {
            let text: Vec<u8> = format!("line {round} \u{0100}\n").encode_utf16().flat_map(bytes).collect();
            log.write(&text);
            expected.extend(text);
            bench.pump();
            bench.check("a.log", &expected);
        }
    }
}
