//! The notes of losses beside the output, and what others do to them.

use std::fs;

use fshipper_pipeline::{Batch, Epoch, Written};

use super::bench::{Bench, day, origin};
use crate::rotating_file::outputs::{LOSSES, losses_path};

#[test]
fn notes_of_losses_that_cannot_be_written_are_no_trouble_of_the_log_that_wrote_next() {
    let bench = Bench::new("{host}/{file}", "");
    let (log, other) = (origin("h", "/f"), origin("other", "/f"));
    let loss = |start| {
        let mut loss = Batch::loss(log.clone(), Epoch(1), start, 10, "a test");
        loss.time = day(0);
        loss
    };
    let mut session = bench.open();
    session.feed(loss(0)).unwrap();
    session.commit();
    drop(session);
    let notes = bench.path(".fshipper/losses.log");
    let replace_notes = || {
        fs::rename(&notes, bench.path("notes")).unwrap();
        fs::create_dir(&notes).unwrap();
    };

    // It shows when they are to be written, together with what was taken of others.
    let mut session = bench.open();
    session.feed(loss(10)).unwrap();
    replace_notes();
    session.writer.files.close_all();
    session.write(&other, "x\n", day(0));
    session.feed(loss(20)).unwrap_err();
    drop(session);

    // It shows at the start: then the log waits whose loss it is, and the others go on.
    let mut session = bench.open();
    session.write(&other, "x\n", day(0));
    assert!(matches!(session.feed(loss(10)).unwrap(), Written::Held(_)));
    session.commit();
    assert_eq!(bench.read("other/f"), "x\n");
}

#[test]
fn notes_of_losses_that_somebody_empties_stop_nothing() {
    // While nothing runs, while it runs, and after the note was written and before it is committed.
    for moment in ["stopped", "running", "noted"] {
        let bench = Bench::new("{host}/{file}", "");
        let (log, other) = (origin("h", "/f"), origin("other", "/f"));
        let loss = |start, reason: &str| {
            let mut loss = Batch::loss(log.clone(), Epoch(1), start, 10, reason);
            loss.time = day(0);
            loss
        };
        let empty = || fs::write(bench.path(".fshipper/losses.log"), "").unwrap();
        let mut session = bench.open();
        session.feed(loss(0, "the first")).unwrap();
        session.commit();
        if moment == "stopped" {
            drop(session);
            empty();
            session = bench.open();
        }
        if moment == "running" {
            empty();
        }
        session.feed(loss(10, "the second")).unwrap();
        session.write(&other, "x\n", day(0));
        session.writer.flush().unwrap();
        if moment == "noted" {
            empty();
        }
        session.commit();
        session.feed(loss(20, "the third")).unwrap();
        session.commit();
        drop(session);
        let mut session = bench.open();
        assert_eq!(session.end(&log), 30);
        session.feed(loss(30, "the fourth")).unwrap();
        session.commit();
        let noted = bench
            .losses()
            .lines()
            .map(|line| line.rsplit_once("the ").unwrap().1.to_owned())
            .collect::<Vec<_>>();
        let expected = ["second", "third", "fourth"];
        assert_eq!(noted, expected[usize::from(moment == "noted")..], "{moment}");
        assert_eq!(bench.read("other/f"), "x\n");
    }
}

#[test]
fn notes_of_losses_that_cannot_be_looked_at_hold_the_log_whose_loss_it_is() {
    let bench = Bench::new("{host}/{file}", "");
    let (log, other) = (origin("h", "/f"), origin("other", "/f"));
    let mut session = bench.open();
    session.writer.outputs.hold_until_mended(LOSSES, "a test".to_owned());
    let loss = Batch::loss(log.clone(), Epoch(1), 0, 10, "gone");
    let written = session.writer.accept(&loss, false).unwrap();
    assert_eq!(written, Written::Held("a test".to_owned()));
    session.write(&other, "x\n", day(0));
    let held = session.try_commit().unwrap();
    assert_eq!(held, [(log.clone(), "a test".to_owned())]);
    assert_eq!((bench.read("other/f").as_str(), bench.losses().as_str()), ("x\n", ""));
}

#[test]
fn a_loss_is_noted_once_and_ends_an_unfinished_line() {
    let bench = Bench::new("{host}/{file}", "");
    let log = origin("h", "/f");
    let loss = |start| {
        let mut loss = Batch::loss(log.clone(), Epoch(1), start, 100, "deleted\nbefore it was read");
        loss.time = day(0);
        loss
    };
    let mut session = bench.open();
    session.write(&log, "unfinished", day(0));
    session.feed(loss(10)).unwrap();
    session.writer.flush().unwrap();
    drop(session);
    let mut session = bench.open();
    assert_eq!(bench.losses(), "", "nothing was committed");
    session.write(&log, "unfinished", day(0));
    session.feed(loss(10)).unwrap();
    assert_eq!(session.end(&log), 110);
    session.write(&log, "after\n", day(0));
    session.commit();
    assert_eq!(bench.read("h/f"), "unfinished\nafter\n");
    let expected = "2026-11-01T12:00:00Z h:/f epoch 0000000000000001 offset 10: lost 100 bytes: deleted\\nbefore it was read\n";
    assert_eq!(bench.losses(), expected, "in {}", losses_path());
}
