//! Files that others cut.

use std::fs;

use fshipper_pipeline::Written;

use super::bench::{Bench, day, origin};

#[test]
fn a_file_shorter_than_committed_is_not_touched_and_only_its_log_waits() {
    let bench = Bench::new("{host}/{file}", "");
    let (cut, other) = (origin("h", "/cut"), origin("h", "/other"));
    let mut session = bench.open();
    session.write(&cut, "one\ntwo\n", day(0));
    session.commit();
    drop(session);
    fs::OpenOptions::new().write(true).open(bench.path("h/cut")).unwrap().set_len(4).unwrap();
    let mut session = bench.open();
    let Written::Held(reason) = session.write(&cut, "three\n", day(0)) else { panic!("it goes on") };
    assert!(reason.contains("h/cut` holds 4 bytes of the 8 that were committed"), "{reason}");
    assert_eq!(session.write(&other, "fine\n", day(0)), Written::Accepted);
    session.commit();
    assert_eq!((bench.read("h/cut").as_str(), bench.read("h/other").as_str()), ("one\n", "fine\n"));
    drop(session);
    fs::remove_file(bench.path("h/cut")).unwrap();
    let mut session = bench.open();
    assert_eq!(session.write(&cut, "three\n", day(0)), Written::Accepted);
}

#[test]
fn a_file_cut_while_it_is_written_to_fails_the_commit() {
    let bench = Bench::new("{host}/{file}", "");
    let (log, mut session) = (origin("h", "/f"), bench.open());
    session.write(&log, "one\n", day(0));
    session.commit();
    fs::OpenOptions::new().write(true).open(bench.path("h/f")).unwrap().set_len(0).unwrap();
    session.write(&log, "two\n", day(0));
    let error = session.try_commit().unwrap_err();
    assert!(error.to_string().contains("was cut by somebody else"), "{error:#}");
}

#[test]
fn a_file_cut_while_it_is_written_to_is_not_written_to_a_second_time() {
    let bench = Bench::new("{host}/{file}", "");
    let (log, mut session) = (origin("h", "/f"), bench.open());
    session.write(&log, "one\n", day(0));
    session.commit();
    fs::OpenOptions::new().write(true).open(bench.path("h/f")).unwrap().set_len(0).unwrap();
    // More than was committed before: by its length alone the file looks whole.
    session.write(&log, "two\nthree\n", day(0));
    session.try_commit().unwrap_err();
    drop(session);

    let mut session = bench.open();
    let Written::Held(reason) = session.write(&log, "two\nthree\n", day(0)) else { panic!("it goes on") };
    assert!(reason.contains("move it away"), "{reason}");
    session.commit();
    assert_eq!(bench.read("h/f"), "two\nthree\n");
    drop(session);

    fs::remove_file(bench.path("h/f")).unwrap();
    let mut session = bench.open();
    session.write(&log, "two\nthree\n", day(0));
    session.commit();
    assert_eq!(bench.read("h/f"), "two\nthree\n");
}

#[test]
fn what_was_cut_and_is_put_back_is_followed_by_what_was_not_committed_once() {
    // Put back between two sessions, while one waits for it, or under another `path`.
    for (is_waiting, path) in
        [(false, "{host}/{file}"), (true, "{host}/{file}"), (false, "{host}/{file}.%Y%m%d")]
    {
        let bench = Bench::new("{host}/{file}", "");
        let (log, mut session) = (origin("h", "/f"), bench.open());
        session.write(&log, "one\n", day(0));
        session.commit();
        session.write(&log, "two\n", day(0));
        session.writer.flush().unwrap();
        // As with copy and truncate.
        fs::copy(bench.path("h/f"), bench.path("h/f.1")).unwrap();
        fs::OpenOptions::new().write(true).open(bench.path("h/f")).unwrap().set_len(0).unwrap();
        session.try_commit().unwrap_err();
        drop(session);
        if !is_waiting {
            fs::write(bench.path("h/f"), "one\ntwo\n").unwrap();
        }
        let bench = bench.with(path, "");
        let mut session = bench.open();
        if is_waiting {
            let Written::Held(reason) = session.write(&log, "two\n", day(0)) else { panic!("it goes on") };
            assert!(
                reason.contains("0 bytes of the 8 that were written to it, 4 of them committed"),
                "{reason}"
            );
            fs::write(bench.path("h/f"), "one\ntwo\n").unwrap();
        }
        assert_eq!(session.write(&log, "two\n", day(0)), Written::Accepted);
        session.commit();
        drop(session);
        fs::remove_file(bench.path("h/f.1")).unwrap();
        assert_eq!(bench.files().into_values().collect::<String>(), "one\ntwo\n", "{path}");
        assert!(bench.open().writer.ledger.state().intents.is_empty());
    }
}
