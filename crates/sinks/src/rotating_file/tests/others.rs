//! What others do to the files, and logs that share one.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::Ordering;

use fshipper_pipeline::{Batch, Epoch, Written};

use super::bench::{Bench, Session, data, day, origin};
use crate::rotating_file::commit::Claims;
use crate::rotating_file::ledger::{Entry, FileRecord};

#[test]
fn lines_of_several_logs_stay_whole_in_a_shared_file() {
    let bench = Bench::new("all.log", "");
    let (one, two) = (origin("h", "/one"), origin("h", "/two"));
    let mut session = bench.open();
    session.write(&one, "one begins", day(0));
    session.write(&one, " and goes on", day(0));
    session.commit();
    drop(session);
    let mut session = bench.open();
    session.write(&one, " after a start\nanother", day(0));
    session.write(&two, "two\n", day(0));
    session.write(&one, " part\n", day(0));
    session.commit();
    assert_eq!(bench.read("all.log"), "one begins and goes on after a start\nanother\ntwo\n part\n");
}

#[test]
fn a_file_that_was_there_before_is_followed_and_its_last_line_ended() {
    let bench = Bench::new("all.log", "");
    fs::write(bench.path("all.log"), "not ours").unwrap();
    let mut session = bench.open();
    session.write(&origin("h", "/f"), "ours\n", day(0));
    drop(session);
    assert_eq!(bench.open().end(&origin("h", "/f")), 0);
    assert_eq!(bench.read("all.log"), "not ours", "nothing was committed");
    let mut session = bench.open();
    session.write(&origin("h", "/f"), "ours\n", day(0));
    session.commit();
    assert_eq!(bench.read("all.log"), "not ours\nours\n");
}

#[test]
fn a_file_that_others_rename_is_finished_and_a_new_one_begins() {
    let bench = Bench::new("{host}/{file}", "");
    let (log, mut session) = (origin("h", "/f"), bench.open());
    session.write(&log, "one\n", day(0));
    session.commit();
    fs::rename(bench.path("h/f"), bench.path("h/f.1")).unwrap();
    // Not yet noticed: looked at with each commit.
    session.write(&log, "two\n", day(0));
    session.commit();
    session.write(&log, "three\n", day(0));
    session.commit();
    assert_eq!((bench.read("h/f.1").as_str(), bench.read("h/f").as_str()), ("one\ntwo\n", "three\n"));
}

/// What a file system does that gives out an inode again, and does not tell when a file came to be.
#[test]
fn a_file_of_ours_is_not_taken_for_a_deleted_one_whose_inode_it_was_given() {
    let bench = Bench::new("{host}.log", "");
    let (gone, here) = (origin("gone", "/f"), origin("here", "/f"));
    let mut session = bench.open();
    session.write(&gone, "a\n", day(0));
    session.write(&here, "committed, and longer\n", day(0));
    session.commit();
    let (path, state) = (bench.path("here.log"), session.writer.ledger.state());
    let find = |name: &str| state.files.iter().find(|(_, file)| file.path.to_string() == name).unwrap();
    let ((first, of_gone), (_, of_here)) = (find("gone.log"), find("here.log"));
    let reused = FileRecord { identity: of_here.identity, ..of_gone.clone() };
    session.writer.log(&mut vec![Entry::File(first, reused)]).unwrap();
    drop(session);
    fs::remove_file(bench.path("gone.log")).unwrap();

    let mut session = bench.open();
    assert_eq!(fs::read_to_string(path).unwrap(), "committed, and longer\n");
    session.write(&gone, "b\n", day(0));
    session.write(&here, "and on\n", day(0));
    session.commit();
    assert_eq!(bench.read("gone.log"), "b\n");
    assert_eq!(bench.read("here.log"), "committed, and longer\nand on\n");
}

#[test]
fn after_the_last_number_of_a_file_its_log_waits_and_is_told_why() {
    let bench = Bench::new("{file}.%Y%m%d", "rotate = { max_bytes = 8 }");
    let log = origin("h", "/f");
    let mut session = bench.open();
    session.write(&log, "one\n", day(0));
    session.commit();
    let (id, record) = session.writer.ledger.state().files.iter().next().unwrap();
    let last = FileRecord { number: u32::MAX, ..record.clone() };
    session.writer.log(&mut vec![Entry::File(id, last)]).unwrap();
    drop(session);
    let mut session = bench.open();
    session.write(&log, "two and more\n", day(0));
    let batch = data(&log, session.end(&log), "three and more\n", day(0));
    let error = session.feed(batch).unwrap_err();
    assert!(error.to_string().contains("more than 999999 files of the name"), "{error}");
}

/// ext4 gives the inode of a deleted file to the next one. On other file systems there is nothing to see.
#[test]
fn a_file_of_others_in_the_place_of_a_deleted_one_is_appended_to_and_never_cut() {
    let bench = Bench::on_disk("all.log", "");
    let log = origin("h", "/f");
    for attempt in 0..20 {
        let mut session = bench.open();
        session.write(&log, "ours\n", day(0));
        session.commit();
        drop(session);
        let before = fs::metadata(bench.path("all.log")).unwrap().ino();
        fs::remove_file(bench.path("all.log")).unwrap();
        let theirs = format!("{attempt}: theirs, and longer than ours\n");
        fs::write(bench.path("all.log"), &theirs).unwrap();
        let is_reused = fs::metadata(bench.path("all.log")).unwrap().ino() == before;
        let mut session = bench.open();
        session.write(&log, "more\n", day(0));
        session.commit();
        assert_eq!(bench.read("all.log"), theirs + "more\n", "the inode was given again: {is_reused}");
    }
}

#[test]
fn of_a_quiet_file_only_the_ledger_knows_and_it_stays_open() {
    let bench = Bench::new("{host}/{file}", "");
    let (log, mut session) = (origin("h", "/f"), bench.open());
    session.write(&log, "one\n", day(0));
    let files = |session: &Session| {
        let files = session.writer.outputs.active_files().map(|(file, _)| file);
        files
            .map(|file| {
                (session.writer.files.get(file).is_some(), session.writer.files.length(file).unwrap())
            })
            .collect()
    };
    let before: Vec<(bool, Option<u64>)> = files(&session);
    assert!(before[0].0);
    session.commit();
    assert_eq!(files(&session), [(false, Some(4))]);
    session.write(&log, "two\n", day(0));
    session.commit();
    assert_eq!(bench.read("h/f"), "one\ntwo\n");
}

#[test]
fn a_hangup_reopens_files_that_nothing_was_written_to() {
    let bench = Bench::new("{host}/{file}", "");
    let (log, mut session) = (origin("h", "/f"), bench.open());
    session.write(&log, "one\n", day(0));
    session.commit();
    fs::rename(bench.path("h/f"), bench.path("h/f.1")).unwrap();
    fs::write(bench.path("h/f"), "").unwrap();
    session.writer.commit(Claims::of(&session.checkpoint), true).unwrap();
    session.write(&log, "two\n", day(0));
    session.commit();
    assert_eq!((bench.read("h/f.1").as_str(), bench.read("h/f").as_str()), ("one\n", "two\n"));
}

#[test]
fn a_file_renamed_or_deleted_in_the_meantime_is_followed_by_a_new_one() {
    let bench = Bench::new("{host}/{file}", "");
    let (log, gone) = (origin("h", "/f"), origin("h", "/gone"));
    let mut session = bench.open();
    session.write(&log, "one\n", day(0));
    session.write(&gone, "one\n", day(0));
    session.commit();
    session.write(&log, "not committed\n", day(0));
    session.writer.flush().unwrap();
    drop(session);
    fs::rename(bench.path("h/f"), bench.path("h/f.1")).unwrap();
    fs::remove_file(bench.path("h/gone")).unwrap();
    let mut session = bench.open();
    assert_eq!(bench.read("h/f.1"), "one\n", "what was not committed comes again");
    session.write(&log, "two\n", day(0));
    session.write(&gone, "two\n", day(0));
    session.commit();
    assert_eq!((bench.read("h/f").as_str(), bench.read("h/gone").as_str()), ("two\n", "two\n"));
}

/// As it is for a source that cannot go back: there is no other session.
#[test]
fn a_log_goes_on_in_the_same_session_when_its_output_is_mended() {
    for is_moved_away in [true, false] {
        let bench = Bench::new("{host}/{file}", "");
        let log = origin("h", "/cut");
        let mut session = bench.open();
        session.write(&log, "one\ntwo\n", day(0));
        session.commit();
        drop(session);
        fs::write(bench.path("h/cut"), "one\n").unwrap();
        let mut session = bench.open();
        for _ in 0..2 {
            assert!(matches!(session.write(&log, "three\n", day(0)), Written::Held(_)));
        }
        let expected = if is_moved_away {
            fs::rename(bench.path("h/cut"), bench.path("h/away")).unwrap();
            "three\n"
        } else {
            fs::write(bench.path("h/cut"), "one\ntwo\n").unwrap();
            "one\ntwo\nthree\n"
        };
        assert_eq!(session.write(&log, "three\n", day(0)), Written::Accepted);
        session.commit();
        drop(session);
        assert_eq!(bench.read("h/cut"), expected);
        // The ledger has it too.
        assert_eq!(bench.open().write(&log, "four\n", day(0)), Written::Accepted);
    }
}

#[test]
fn a_start_lists_a_folder_once_however_many_of_its_files_are_missing() {
    let bench = Bench::new("{host}_{file}", "");
    let mut session = bench.open();
    let logs: Vec<_> = (0..400).map(|number| origin(&format!("h{number}"), "/f")).collect();
    for log in &logs {
        session.write(log, "one\n", day(0));
    }
    session.commit();
    drop(session);
    for number in 0..200 {
        fs::remove_file(bench.path(&format!("h{number}_f"))).unwrap();
    }
    let session = bench.open();
    let looks = session.disk.looks.load(Ordering::Relaxed);
    assert!(looks < 3 * 400, "{looks}");
    assert_eq!(session.writer.ledger.state().files.iter().count(), 200);
}

#[test]
fn bytes_that_others_append_stay() {
    let bench = Bench::new("{host}/{file}", "");
    let (log, mut session) = (origin("h", "/f"), bench.open());
    session.write(&log, "one\n", day(0));
    session.writer.flush().unwrap();
    let mut file = fs::OpenOptions::new().append(true).open(bench.path("h/f")).unwrap();
    file.write_all(b"foreign\n").unwrap();
    session.commit();
    drop(session);
    let mut session = bench.open();
    session.write(&log, "two\n", day(0));
    session.commit();
    assert_eq!(bench.read("h/f"), "one\nforeign\ntwo\n");
}

#[test]
fn a_symbolic_link_is_not_followed_and_only_its_log_waits() {
    let bench = Bench::new("{host}/{file}", "");
    let outside = super::bench::folder();
    std::os::unix::fs::symlink(outside.path(), bench.path("evil")).unwrap();
    let mut session = bench.open();
    let Written::Held(reason) = session.write(&origin("evil", "/f"), "x\n", day(0)) else {
        panic!("it wrote")
    };
    assert!(reason.contains("symbolic link"), "{reason}");
    assert_eq!(session.write(&origin("good", "/f"), "x\n", day(0)), Written::Accepted);
    session.commit();
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    assert_eq!(session.writer.checkpoint().len(), 1);
}

#[test]
fn a_folder_that_becomes_a_link_between_two_starts_holds_its_log_alone() {
    // Committed, and about to be created when the process died.
    for is_committed in [true, false] {
        let bench = Bench::new("{host}/{file}", "");
        let (bad, good) = (origin("bad", "/f"), origin("good", "/f"));
        let mut session = bench.open();
        for log in [&bad, &good] {
            session.write(log, "one\n", day(0));
        }
        session.writer.flush().unwrap();
        if is_committed {
            session.commit();
        }
        drop(session);
        fs::rename(bench.path("bad"), bench.path("elsewhere")).unwrap();
        std::os::unix::fs::symlink(bench.path("elsewhere"), bench.path("bad")).unwrap();

        let mut session = bench.open();
        let end = session.end(&bad);
        let Written::Held(reason) = session.write(&bad, "two\n", day(0)) else { panic!("it wrote") };
        assert!(reason.contains("symbolic link"), "{reason}");
        assert_eq!(session.write(&good, "two\n", day(0)), Written::Accepted);
        session.commit();
        assert_eq!(session.writer.checkpoint().position(&bad).map_or(0, |position| position.offset), end);
        drop(session);

        fs::remove_file(bench.path("bad")).unwrap();
        fs::rename(bench.path("elsewhere"), bench.path("bad")).unwrap();
        let mut session = bench.open();
        session.write(&bad, "two\n", day(0));
        session.commit();
        let [one, both] =
            [if is_committed { "one\n" } else { "" }, if is_committed { "one\ntwo\n" } else { "two\n" }];
        assert_eq!((bench.read("bad/f"), bench.read("good/f")), (both.to_owned(), one.to_owned() + "two\n"));
    }
}

#[test]
fn a_quiet_file_that_others_rotated_is_not_renamed_in_the_place_of_ours() {
    // With another file in its place or without, and with its handle open or closed.
    for (successor, is_closed, days) in [
        (true, false, 1),
        (false, false, 1),
        (true, true, 1),
        (false, true, 1),
        (true, true, 0),
        (false, true, 0),
    ] {
        let bench = Bench::new("{host}/{file}", "rotate = { every = \"1d\" }");
        let (log, mut session) = (origin("h", "/f"), bench.open());
        session.write(&log, "one\n", day(0));
        session.commit();
        if is_closed {
            session.writer.files.close_all();
        }
        fs::rename(bench.path("h/f"), bench.path("h/f.1")).unwrap();
        if successor {
            fs::write(bench.path("h/f"), "theirs\n").unwrap();
        }
        session.write(&log, "two\n", day(days));
        session.commit();
        assert_eq!(bench.names(), ["h/f", "h/f.1"], "{successor} {is_closed} {days}");
        let expected = if successor { "theirs\ntwo\n" } else { "two\n" };
        assert_eq!((bench.read("h/f.1").as_str(), bench.read("h/f").as_str()), ("one\n", expected));
    }
}

#[test]
fn a_folder_in_the_way_holds_its_log_and_lets_it_go_when_it_has_gone() {
    let bench = Bench::new("{host}/{file}", "");
    fs::create_dir_all(bench.path("h/f")).unwrap();
    let (log, mut session) = (origin("h", "/f"), bench.open());
    let Written::Held(reason) = session.write(&log, "x\n", day(0)) else { panic!("it wrote") };
    assert!(reason.contains("is a folder where a file should be"), "{reason}");
    session.commit();
    fs::remove_dir(bench.path("h/f")).unwrap();
    assert_eq!(session.write(&log, "x\n", day(0)), Written::Accepted);
    session.commit();
    assert_eq!(bench.read("h/f"), "x\n");
}

#[test]
fn a_log_that_turns_out_to_be_impossible_claims_nothing_and_moves_no_cursor() {
    let bench = Bench::new("{host}/{file}.%Y%m%d", "");
    let (bad, good) = (origin("bad", "/f"), origin("good", "/f"));
    let mut session = bench.open();
    session.write(&bad, "one\n", day(0));
    session.write(&good, "one\n", day(0));
    session.cursor(1);
    session.commit();
    let before = session.writer.checkpoint();
    // The next file of `bad` cannot be created: it is found out after the pump went on.
    session.write(&bad, "two\n", day(1));
    fs::remove_dir_all(bench.path("bad")).unwrap();
    fs::write(bench.path("bad"), "in the way").unwrap();
    session.write(&good, "two\n", day(1));
    session.cursor(2);
    let held = session.try_commit().unwrap();
    assert_eq!(held.iter().map(|(origin, _)| origin).collect::<Vec<_>>(), [&bad]);
    let after = session.writer.checkpoint();
    assert_eq!(after.position(&bad), before.position(&bad));
    assert_eq!(after.position(&good).unwrap().offset, 8);
    assert!(after.cursors().eq(before.cursors()), "the cursor stays below what is held");

    fs::remove_file(bench.path("bad")).unwrap();
    drop(session);
    let mut session = bench.open();
    session.write(&bad, "two\n", day(1));
    session.commit();
    assert_eq!(bench.read("bad/f.20261102"), "two\n");
}

#[test]
fn a_loss_of_a_log_that_turns_out_to_be_impossible_is_noted_once_in_the_end() {
    let bench = Bench::new("{host}/{file}.%Y%m%d", "");
    let log = origin("h", "/f");
    let mut loss = Batch::loss(log.clone(), Epoch(1), 8, 100, "a test");
    loss.time = day(1);
    let mut session = bench.open();
    session.write(&log, "one\n", day(0));
    session.commit();
    // The next file of the log cannot be created: it is found out before its loss is noted.
    session.write(&log, "two\n", day(1));
    fs::remove_dir_all(bench.path("h")).unwrap();
    fs::write(bench.path("h"), "in the way").unwrap();
    let Written::Held(reason) = session.feed(loss.clone()).unwrap() else { panic!("it goes on") };
    assert!(reason.contains("is a file where a folder should be"), "{reason}");
    assert_eq!(session.try_commit().unwrap().len(), 1);
    assert_eq!(
        (session.writer.checkpoint().position(&log).unwrap().offset, bench.losses()),
        (4, String::new())
    );
    drop(session);

    fs::remove_file(bench.path("h")).unwrap();
    let mut session = bench.open();
    session.write(&log, "two\n", day(1));
    session.feed(loss).unwrap();
    session.commit();
    assert_eq!(bench.losses().lines().count(), 1);
    assert_eq!(bench.read("h/f.20261102"), "two\n");
}

#[test]
fn a_claim_of_bytes_that_were_never_written_is_refused() {
    let bench = Bench::new("{host}/{file}", "");
    let (log, mut session) = (origin("h", "/f"), bench.open());
    session.write(&log, "one\n", day(0));
    session.checkpoint.advance(&data(&log, 4, "two\n", day(0)));
    assert!(session.try_commit().unwrap_err().to_string().contains("further than was written"));
    drop(session);

    let mut session = bench.open();
    session.checkpoint.advance(&data(&origin("h", "/other"), 0, "two\n", day(0)));
    assert!(session.try_commit().unwrap_err().to_string().contains("never wrote any"));
}

#[test]
fn a_batch_that_does_not_continue_its_log_is_refused() {
    let bench = Bench::new("{host}/{file}", "");
    let (log, mut session) = (origin("h", "/f"), bench.open());
    session.write(&log, "one\n", day(0));
    for start in [0, 3, 5] {
        let error = session.writer.accept(&data(&log, start, "x\n", day(0)), true).unwrap_err();
        assert!(error.to_string().contains("the sink stands at 4"), "{error}");
    }
}
