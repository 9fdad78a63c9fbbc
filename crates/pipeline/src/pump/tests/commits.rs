//! Commits that take time: the pump goes on meanwhile, and nothing counts before they end.

use tokio::sync::{mpsc, oneshot};

use super::*;
use crate::{Committing, News};

/// A sink whose commits end when the test says so.
struct Slow {
    tape: Tape,
    begun: mpsc::Sender<Commit>,
}

/// A commit that was begun.
struct Commit {
    claimed: Checkpoint,
    ending: oneshot::Sender<Result<Vec<(Origin, String)>>>,
}

#[async_trait]
impl Sink for Slow {
    async fn restore(&mut self) -> Result<Option<Checkpoint>> {
        self.tape.restore().await
    }

    async fn write(&mut self, batch: Batch) -> Result<Written> {
        self.tape.write(batch).await
    }

    async fn commit(&mut self, _: &Checkpoint) -> Result<()> {
        unreachable!("its commits are begun")
    }

    async fn begin_commit(&mut self, checkpoint: &Checkpoint) -> Result<Committing> {
        self.tape.0.lock().unwrap().log.push("begin".to_owned());
        let (ending, ended) = oneshot::channel();
        self.begun.try_send(Commit { claimed: checkpoint.clone(), ending }).expect("one commit at a time");
        Ok(Box::pin(async move { ended.await.expect("every commit ends") }))
    }
}

impl Commit {
    fn claims(&self, file: &str) -> Option<u64> {
        self.claimed.position(&origin(file)).map(|position| position.offset)
    }

    fn cursor(&self) -> Option<Bytes> {
        self.claimed.cursor("test").cloned()
    }

    fn end(self) {
        self.ending.send(Ok(Vec::new())).unwrap();
    }

    fn end_but(self, file: &str) {
        self.ending.send(Ok(vec![(origin(file), "refused".to_owned())])).unwrap();
    }
}

/// A session over the script, in a task of its own, and the commits it begins.
struct Session {
    ended: tokio::task::JoinHandle<(Bench, Result<Ended>)>,
    commits: mpsc::Receiver<Commit>,
    tape: Tape,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
}

impl Session {
    fn start(mut bench: Bench, steps: Vec<Step>) -> Self {
        let (begun, commits) = mpsc::channel(1);
        let (tape, metrics, stop) = (bench.tape.clone(), bench.metrics.clone(), bench.stop.clone());
        let ended = tokio::spawn(async move {
            let sink = Slow { tape: bench.tape.clone(), begun };
            let source = Box::new(Script::new(steps));
            let ended = pump(source, Box::new(sink), Checkpoint::default(), bench.parts()).await;
            (bench, ended)
        });
        Self { ended, commits, tape, metrics, stop }
    }

    async fn begun(&mut self) -> Commit {
        self.commits.recv().await.expect("a commit begins")
    }

    /// Lets the pump do all it can do now.
    async fn rest(&self) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    fn committed_bytes(&self) -> u64 {
        self.metrics.counts().bytes_committed
    }
}

fn lines(file: &str, numbers: std::ops::Range<u64>) -> Vec<Step> {
    give(numbers.map(|number| with_cursor(data(file, number * 2, "x\n"), number + 1)))
}

fn bench() -> Bench {
    let mut bench = Bench::new();
    bench.settings.commit_bytes = 4;
    bench
}

#[tokio::test(start_paused = true)]
async fn what_is_written_during_a_commit_belongs_to_the_next_one() {
    let mut session = Session::start(bench(), lines("a", 0..5));
    let first = session.begun().await;
    session.rest().await;
    assert_eq!((first.claims("a"), first.cursor().as_deref()), (Some(4), Some(&b"2"[..])));
    assert_eq!(session.tape.log(), ["a@0 x\n", "a@2 x\n", "begin", "a@4 x\n", "a@6 x\n", "a@8 x\n"]);
    assert_eq!(session.committed_bytes(), 0, "nothing is durable yet");
    first.end();
    let second = session.begun().await;
    assert_eq!(session.committed_bytes(), 4);
    assert_eq!((second.claims("a"), second.cursor().as_deref()), (Some(10), Some(&b"5"[..])));
    second.end();
    let (_, ended) = session.ended.await.unwrap();
    assert_eq!(ended.unwrap(), Ended::Finished);
    assert_eq!(session.metrics.counts().bytes_committed, 10);
}

#[tokio::test(start_paused = true)]
async fn far_ahead_of_a_commit_nothing_more_is_written() {
    let mut session = Session::start(bench(), lines("a", 0..100));
    let first = session.begun().await;
    session.rest().await;
    // Two lines that it covers, and 32 times as much behind them.
    assert_eq!(session.tape.0.lock().unwrap().writes, 2 + 64);
    first.end();
    let second = session.begun().await;
    assert_eq!(second.claims("a"), Some(132));
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_fails_ends_the_session_with_nothing_counted() {
    let mut session = Session::start(bench(), [lines("a", 0..3), vec![Step::Idle]].concat());
    let first = session.begun().await;
    first.ending.send(Err(anyhow::anyhow!("the disk broke"))).unwrap();
    let (_, ended) = session.ended.await.unwrap();
    assert_eq!(ended.unwrap_err().to_string(), "the disk broke");
    assert_eq!(session.metrics.counts().bytes_committed, 0);
}

#[tokio::test(start_paused = true)]
async fn what_turns_out_to_be_refused_is_told_to_nobody_and_holds_what_came_since() {
    let bench = bench();
    let mut news = bench.metrics.progress.follow_news();
    let steps = [
        give([with_cursor(data("b", 0, "b\n"), 1)]),
        give([with_cursor(data("a", 0, "a\n"), 2), with_cursor(data("a", 2, "c\n"), 3)]),
        vec![Step::Idle],
    ];
    let mut session = Session::start(bench, steps.concat());
    let first = session.begun().await;
    session.rest().await;
    assert_eq!(session.tape.log().last().map(String::as_str), Some("a@2 c\n"));
    first.end_but("a");
    let told = news.changed(10).await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].0, origin("b"));
    assert_eq!(news.cursor("test"), None);
    session.stop.cancel();
    // What came since is dirty: nothing of the refused log may be in the claim, and no cursor beyond it.
    let last = session.begun().await;
    assert_eq!((last.claims("a"), last.claims("b"), last.cursor()), (None, Some(2), None));
    last.end();
    let (bench, ended) = session.ended.await.unwrap();
    assert!(matches!(ended.unwrap(), Ended::Again(_)));
    assert_eq!(bench.memory.held.get(&origin("a")).map(String::as_str), Some("refused"));
}

#[tokio::test(start_paused = true)]
async fn a_log_that_the_second_commit_refuses_stays_where_the_first_one_left_it() {
    let mut session = Session::start(bench(), [lines("a", 0..3), lines("b", 0..100)].concat());
    session.begun().await.end();
    let second = session.begun().await;
    assert_eq!(second.claims("a"), Some(6));
    session.rest().await;
    second.end_but("a");
    let third = session.begun().await;
    assert_eq!(
        (third.claims("a"), third.claims("b"), third.cursor().as_deref()),
        (Some(4), Some(200), Some(&b"2"[..]))
    );
    third.end();
    let (_, ended) = session.ended.await.unwrap();
    assert!(matches!(ended.unwrap(), Ended::Again(_)));
}

#[tokio::test(start_paused = true)]
async fn a_producer_is_told_what_is_durable_and_no_more() {
    let bench = bench();
    let mut news = bench.metrics.progress.follow_news();
    let mut session = Session::start(bench, [lines("a", 0..4), vec![Step::Idle]].concat());
    let first = session.begun().await;
    session.rest().await;
    first.end();
    let (told, second) = tokio::join!(news.changed(10), session.begun());
    let [(_, News::Committed(position))] = &told[..] else { panic!("{told:?}") };
    assert_eq!((position.offset, news.cursor("test").as_deref()), (4, Some(&b"2"[..])));
    second.end();
    let told = news.changed(10).await;
    let [(_, News::Committed(position))] = &told[..] else { panic!("{told:?}") };
    assert_eq!(position.offset, 8);
    session.stop.cancel();
    session.ended.await.unwrap().1.unwrap();
}
