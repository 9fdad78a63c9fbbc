//! The sink as the pump sees it.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use fshipper_pipeline::{Batch, Checkpoint, Context, Epoch, Fatal, Sink, SinkConfig, Written, testing};
use tokio::sync::watch;

use super::bench::{Bench, data, day, origin};
use crate::rotating_file::period::Calendar;

fn context(folder: &Path) -> Context {
    testing::context(folder)
}

async fn open(bench: &Bench) -> Box<dyn Sink> {
    bench.config().open(context(bench.folder.path())).await.unwrap()
}

#[tokio::test]
async fn keeps_the_contract() {
    let bench = Bench::new("{host}/{path}", "");
    let template = bench.plan().template;
    let period = Calendar::new(jiff::tz::TimeZone::UTC, None).period_of(day(0));
    let read_back = |origin: &_| {
        let path = template.render(origin, &period);
        let path: std::path::PathBuf = path.components().iter().collect();
        fs::read(bench.folder.path().join(path)).unwrap()
    };
    let open = async || bench.config().open(context(bench.folder.path())).await;
    testing::check_sink(open, read_back).await;
}

#[tokio::test]
async fn five_hundred_logs_are_written_with_few_open_files() {
    let bench = Bench::new("{host}/{file}.%Y%m%d", "");
    let mut sink = open(&bench).await;
    let mut checkpoint = sink.restore().await.unwrap().unwrap();
    let logs: Vec<_> = (0..1200).map(|number| origin(&format!("host{number}"), "/app.log")).collect();
    for round in 0..3 {
        for log in &logs {
            let start = checkpoint.position(log).map_or(0, |position| position.offset);
            let batch = data(log, start, &format!("round {round}\n"), day(0));
            assert_eq!(sink.write(batch.clone()).await.unwrap(), Written::Accepted);
            checkpoint.advance(&batch);
        }
        sink.commit(&checkpoint).await.unwrap();
        checkpoint.clear_changes();
    }
    drop(sink);
    let files = bench.files();
    assert_eq!(files.len(), 1200);
    assert!(files.values().all(|content| content == "round 0\nround 1\nround 2\n"));
}

#[tokio::test]
async fn small_batches_are_in_their_file_without_a_commit() {
    let bench = Bench::new("all.log", "");
    let mut sink = open(&bench).await;
    sink.write(data(&origin("h", "/f"), 0, "line\n", day(0))).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while fs::read_to_string(bench.path("all.log")).is_ok_and(|text| text != "line\n")
        || !bench.path("all.log").try_exists().unwrap()
    {
        assert!(Instant::now() < deadline, "the line never came");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_second_pipeline_is_told_who_writes_here() {
    let bench = Bench::new("{host}/{file}", "");
    let first = context(bench.folder.path());
    let sink = bench.config().open(first.clone()).await.unwrap();
    let mut other = context(bench.folder.path());
    let mut settings = (*other.settings).clone();
    settings.name = "second".to_owned();
    other.settings = settings.into();
    let error = bench.config().open(other.clone()).await.err().unwrap();
    assert!(error.is::<Fatal>());
    assert!(error.to_string().contains("pipeline `test`, process"), "{error}");
    // Between two sessions the output is not free either.
    drop(sink);
    let error = bench.config().open(other.clone()).await.err().unwrap();
    assert!(error.to_string().contains("pipeline `test`, process"), "{error}");
    drop(bench.config().open(first.clone()).await.unwrap());
    drop(first);
    bench.config().open(other).await.unwrap();
}

/// What its thread is at when it is dropped is finished: no reader finds a compressed file beside the plain one.
#[tokio::test]
async fn a_sink_that_was_dropped_does_nothing_more() {
    let bench = Bench::new("{host}/{file}", "");
    let long = "x".repeat(8 << 20) + "\n";
    for round in 0..20 {
        let mut context = context(bench.folder.path());
        let mut settings = (*context.settings).clone();
        settings.name = format!("pipeline {round}");
        context.settings = settings.into();
        let mut sink = bench.config().open(context).await.expect("the one before has let go");
        sink.write(data(&origin("h", "/f"), 0, "line\n", day(0))).await.unwrap();
        sink.write(data(&origin("h", "/f"), 5, &long, day(0))).await.unwrap();
        drop(sink);
    }
}

#[tokio::test]
async fn an_error_of_the_thread_comes_with_the_next_call() {
    let bench = Bench::new("{host}/{file}", "");
    let mut sink = open(&bench).await;
    let log = origin("h", "/f");
    sink.write(data(&log, 0, "one\n", day(0))).await.unwrap();
    // Accepted at first: nobody waits for it.
    sink.write(data(&log, 100, "gap\n", day(0))).await.unwrap();
    let error = sink.commit(&Checkpoint::default()).await.unwrap_err();
    assert!(error.to_string().contains("the sink stands at 4"), "{error:#}");
}

/// Whatever fails first when its folder is deleted, the error says what that means.
#[tokio::test]
async fn a_deleted_output_is_named_with_what_becomes_of_it_and_written_anew() {
    // The next line goes to the file that is open, or to a new one.
    for days in [0, 1] {
        let bench = Bench::new("deep/{host}/{file}.%Y%m%d", "");
        let log = origin("h", "/f");
        let mut sink = bench.config().open(context(bench.folder.path())).await.unwrap();
        let mut checkpoint = sink.restore().await.unwrap().unwrap();
        let (first, second) = (data(&log, 0, "one\n", day(0)), data(&log, 4, "two\n", day(days)));
        sink.write(first.clone()).await.unwrap();
        checkpoint.advance(&first);
        sink.commit(&checkpoint).await.unwrap();
        checkpoint.clear_changes();
        fs::remove_dir_all(bench.path("deep")).unwrap();
        // Accepted or not: the commit fails.
        let _ = sink.write(second.clone()).await;
        checkpoint.advance(&second);
        let error = format!("{:#}", sink.commit(&checkpoint).await.unwrap_err());
        assert!(error.contains("was deleted or moved away while it was in use"), "{error}");
        assert_eq!(error.matches("everything that the source still has comes again").count(), 1, "{error}");
        drop(sink);

        let mut sink = bench.config().open(context(bench.folder.path())).await.unwrap();
        assert!(sink.restore().await.unwrap().unwrap().is_empty());
        let mut checkpoint = Checkpoint::default();
        for batch in [first, second] {
            sink.write(batch.clone()).await.unwrap();
            checkpoint.advance(&batch);
        }
        sink.commit(&checkpoint).await.unwrap();
        assert_eq!(bench.files().into_values().collect::<String>(), "one\ntwo\n");
    }
}

#[tokio::test]
async fn a_hangup_closes_and_reopens_at_the_next_commit() {
    let bench = Bench::new("all.log", "");
    let (hangup, hangups) = watch::channel(0);
    let context = Context { hangups, ..context(bench.folder.path()) };
    let mut sink = bench.config().open(context).await.unwrap();
    let mut checkpoint = sink.restore().await.unwrap().unwrap();
    let log = origin("h", "/f");
    let first = data(&log, 0, "one\n", day(0));
    sink.write(first.clone()).await.unwrap();
    checkpoint.advance(&first);
    sink.commit(&checkpoint).await.unwrap();
    checkpoint.clear_changes();
    fs::rename(bench.path("all.log"), bench.path("all.log.1")).unwrap();
    hangup.send(1).unwrap();
    sink.commit(&checkpoint).await.unwrap();
    sink.write(data(&log, 4, "two\n", day(0))).await.unwrap();
    checkpoint.advance(&data(&log, 4, "two\n", day(0)));
    sink.commit(&checkpoint).await.unwrap();
    assert_eq!((bench.read("all.log.1").as_str(), bench.read("all.log").as_str()), ("one\n", "two\n"));
}

#[tokio::test]
async fn rotated_files_are_compressed_without_another_commit() {
    let bench = Bench::new("{host}/{file}.%Y%m%d", "compress = \"gzip\"");
    let mut sink = open(&bench).await;
    let mut checkpoint = sink.restore().await.unwrap().unwrap();
    let log = origin("h", "/f");
    for (start, days) in [(0, 0), (5, 1)] {
        let batch = data(&log, start, "line\n", day(days));
        sink.write(batch.clone()).await.unwrap();
        checkpoint.advance(&batch);
    }
    sink.commit(&checkpoint).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while bench.names() != ["h/f.20261101.gz", "h/f.20261102"] {
        assert!(Instant::now() < deadline, "{:?}", bench.names());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_loss_of_unknown_amount_moves_nothing_and_is_noted() {
    let bench = Bench::new("{host}/{file}", "");
    let mut sink = open(&bench).await;
    let log = origin("h", "/f");
    let loss = Batch::loss(log.clone(), Epoch(1), 0, 0, "nobody counted");
    sink.write(loss.clone()).await.unwrap();
    let mut checkpoint = Checkpoint::default();
    checkpoint.advance(&loss);
    sink.commit(&checkpoint).await.unwrap();
    assert!(bench.losses().contains("lost an unknown number of bytes: nobody counted"));
}
