//! Commits that are on their way to the disk while the sink goes on writing.

use fshipper_pipeline::{Sink, SinkConfig, Written, testing};

use super::bench::{Bench, Session, data, day, origin};

/// A sink whose commits end when it needs the ledger, or when somebody waits for them.
fn with_late_syncs(bench: &Bench) -> Session {
    let mut session = bench.open();
    session.writer.syncs_late = true;
    session
}

#[tokio::test]
async fn what_is_written_since_a_commit_began_does_not_count() {
    let bench = Bench::new("{host}/{file}", "");
    let open = async || bench.config().open(testing::context(bench.folder.path())).await.unwrap();
    let mut sink: Box<dyn Sink> = open().await;
    let mut checkpoint = sink.restore().await.unwrap().unwrap();
    let log = origin("h", "/f");
    let (first, second) = (data(&log, 0, "one\n", day(0)), data(&log, 4, "two\n", day(0)));
    assert_eq!(sink.write(first.clone()).await.unwrap(), Written::Accepted);
    checkpoint.advance(&first);
    let commit = sink.begin_commit(&checkpoint).await.unwrap();
    assert_eq!(sink.write(second.clone()).await.unwrap(), Written::Accepted);
    assert_eq!(commit.await.unwrap(), []);
    drop(sink);

    let mut sink = open().await;
    let mut checkpoint = sink.restore().await.unwrap().unwrap();
    assert_eq!(checkpoint.position(&log).unwrap().offset, 4);
    assert_eq!(bench.read("h/f"), "one\n", "what no record covers is cut off");
    assert_eq!(sink.write(second.clone()).await.unwrap(), Written::Accepted);
    checkpoint.advance(&second);
    sink.commit(&checkpoint).await.unwrap();
    assert_eq!(bench.read("h/f"), "one\ntwo\n");
}

#[test]
fn lines_are_in_their_file_before_the_commit_that_runs_is_durable() {
    let bench = Bench::new("{host}/{file}", "");
    let mut session = with_late_syncs(&bench);
    let log = origin("h", "/f");
    session.write(&log, "one\n", day(0));
    session.begin_commit().unwrap();
    session.write(&log, "two\n", day(0));
    session.writer.flush().unwrap();
    assert_eq!(bench.read("h/f"), "one\ntwo\n");
    assert!(session.take_durable().unwrap().is_none() && session.writer.is_syncing());
    let durable = session.finish_commit().unwrap().unwrap();
    assert_eq!(durable.position(&log).unwrap().offset, 4);
}

#[test]
fn a_commit_that_a_rotation_waited_for_is_told_all_the_same() {
    let bench = Bench::new("{host}/{file}", "rotate = { every = \"1d\" }");
    let mut session = with_late_syncs(&bench);
    let log = origin("h", "/f");
    session.write(&log, "one\n", day(0));
    session.begin_commit().unwrap();
    // It ends the file, for which it needs a record of its own.
    session.write(&log, "two\n", day(1));
    let durable = session.take_durable().unwrap().expect("the commit is over");
    assert_eq!(durable.position(&log).unwrap().offset, 4);
    assert!(session.begin_commit().unwrap().is_none());
    assert_eq!(session.finish_commit().unwrap().unwrap().position(&log).unwrap().offset, 8);
    assert_eq!(bench.names(), ["h/f", "h/f.20261102T120000"]);
}

#[test]
fn a_log_that_cannot_be_written_since_a_commit_began_is_named_by_the_next_one() {
    let bench = Bench::new("{host}/{file}.%Y%m%d", "");
    let mut session = with_late_syncs(&bench);
    let (good, bad) = (origin("good", "/f"), origin("bad", "/f"));
    session.write(&good, "one\n", day(0));
    session.write(&bad, "one\n", day(0));
    session.begin_commit().unwrap();
    session.write(&good, "two\n", day(0));
    session.write(&bad, "two\n", day(0));
    session.writer.files.close_all();
    let path = bench.path("bad/f.20261101");
    std::fs::rename(&path, bench.path("elsewhere")).unwrap();
    std::fs::create_dir(&path).unwrap();
    session.writer.flush().unwrap();
    let durable = session.finish_commit().unwrap().unwrap();
    assert_eq!(durable.position(&bad).unwrap().offset, 4, "the commit that ran has nothing to do with it");
    let held = session.try_commit().unwrap();
    let [(origin, _)] = &held[..] else { panic!("{held:?}") };
    assert_eq!(*origin, bad);
    let durable = session.writer.checkpoint();
    let end = |origin| durable.position(origin).unwrap().offset;
    assert_eq!((end(&good), end(&bad)), (8, 4));
}

#[test]
fn a_commit_that_fails_while_a_rotation_waits_for_it_is_no_trouble_of_one_log() {
    let bench = Bench::new("{host}/{file}", "rotate = { every = \"1d\" }");
    let mut session = with_late_syncs(&bench);
    let log = origin("h", "/f");
    session.write(&log, "one\n", day(0));
    session.begin_commit().unwrap();
    // Its folder cannot be synced any more: by the system's error that could be a trouble of this file alone.
    std::fs::rename(bench.path("h"), bench.path("elsewhere")).unwrap();
    std::os::unix::fs::symlink(bench.path("elsewhere"), bench.path("h")).unwrap();
    let error = session.feed(data(&log, 4, "two\n", day(1))).unwrap_err();
    assert!(error.to_string().contains("symbolic link"), "{error:#}");
    assert!(session.writer.record().is_err(), "nobody knows what the ledger holds");
}
