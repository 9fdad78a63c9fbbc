//! Sources that cannot go back.

use std::collections::VecDeque;

use tokio::sync::Notify;

use super::*;

/// What one end of a pipe puts in and a process takes out once.
#[derive(Default)]
pub(super) struct Pipe {
    bytes: Mutex<VecDeque<Bytes>>,
    filled: Notify,
    is_closed: AtomicBool,
    /// Taken for a line that is not complete: given only when there is nothing more to wait for.
    pub(super) rest: Mutex<Bytes>,
    drains: AtomicBool,
}

impl Pipe {
    /// Holds these lines, each of them a batch.
    pub(super) fn of(lines: &[&'static str]) -> Arc<Self> {
        let pipe = Self::default();
        pipe.bytes.lock().unwrap().extend(lines.iter().map(|line| Bytes::from_static(line.as_bytes())));
        pipe.drains.store(true, Ordering::Relaxed);
        Arc::new(pipe)
    }

    pub(super) fn close(&self) {
        self.is_closed.store(true, Ordering::Relaxed);
        self.filled.notify_one();
    }

    fn is_empty(&self) -> bool {
        self.bytes.lock().unwrap().is_empty()
    }
}

pub(super) struct OpenPipe(pub(super) Arc<Pipe>);

struct Taken {
    pipe: Arc<Pipe>,
    progress: Progress,
    at: u64,
    is_draining: bool,
}

pub(super) fn piped() -> Origin {
    Origin::new("h", "stdin")
}

#[async_trait]
impl OpenSource for OpenPipe {
    fn validate(&self, _: &Settings) -> Result<(), (usize, Invalid)> {
        Ok(())
    }

    fn describe(&self) -> String {
        String::new()
    }

    async fn open(&self, from: Checkpoint, context: Context) -> Result<Box<dyn Source>> {
        let in_hand = self.0.rest.lock().unwrap().len() as u64;
        context.progress.in_hand().store(in_hand, Ordering::Relaxed);
        let at = from.position(&piped()).map_or(0, |position| position.offset);
        let progress = context.progress;
        Ok(Box::new(Taken { pipe: self.0.clone(), progress, at, is_draining: false }))
    }
}

#[async_trait]
impl Source for Taken {
    async fn read(&mut self) -> Result<Option<Batch>> {
        loop {
            let taken = match self.is_draining {
                true => {
                    let rest = std::mem::take(&mut *self.pipe.rest.lock().unwrap());
                    self.progress.in_hand().store(0, Ordering::Relaxed);
                    Some(rest).filter(|rest| !rest.is_empty())
                }
                false => self.pipe.bytes.lock().unwrap().pop_front(),
            };
            if let Some(bytes) = taken {
                let batch = Batch::data(piped(), Epoch(5), self.at, bytes);
                self.at = batch.end();
                return Ok(Some(batch));
            }
            if self.is_draining || self.pipe.is_closed.load(Ordering::Relaxed) {
                return Ok(None);
            }
            self.pipe.filled.notified().await;
        }
    }

    fn can_go_back(&self) -> bool {
        false
    }

    fn drain(&mut self) -> bool {
        self.is_draining = self.pipe.drains.load(Ordering::Relaxed);
        self.is_draining
    }
}

impl World {
    pub(super) fn piped(&self) -> String {
        let output = self.output.lock().unwrap();
        String::from_utf8(output.durable.get(&piped()).cloned().unwrap_or_default()).unwrap()
    }
}

impl Bench {
    pub(super) fn run_pipe(&self, pipe: &Arc<Pipe>, transport: Option<(Arc<dyn Transport>, Ends)>) -> Run {
        self.run_from(vec![Box::new(OpenPipe(pipe.clone()))], false, transport)
    }
}

/// Polls, with a bound, so that what never happens fails.
pub(super) async fn until(condition: impl Fn() -> bool) {
    let polls = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), polls).await.expect("it happens");
}

/// How a run ends, if it does.
pub(super) async fn end_of(run: &Run) -> Result<()> {
    tokio::time::timeout(Duration::from_secs(600), run.until_stopped()).await.expect("it ends")
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_loses_nothing_is_mended_by_opening_again() {
    let bench = Bench::new("one\ntwo\nsix\n");
    bench.world.can_go_back.store(false, Ordering::Relaxed);
    // Each session commits what it read before it fails.
    bench.world.source_fails_after.store(1, Ordering::Relaxed);
    let run = bench.run(true, None);
    let repair = async {
        until(|| bench.world.text().len() >= 8).await;
        bench.world.source_fails_after.store(0, Ordering::Relaxed);
    };
    let (result, ()) = tokio::join!(run.until_stopped(), repair);
    result.unwrap();
    assert_eq!(bench.world.text(), "one\ntwo\nsix\n");
}

#[tokio::test]
async fn only_what_cannot_be_read_again_is_counted() {
    let bench = Bench::new("a log that is still there\n");
    let pipe = Pipe::of(&["one\n", "two\n"]);
    let sources: Vec<Box<dyn OpenSource>> =
        vec![Box::new(OpenPipe(pipe.clone())), Box::new(OpenLog(bench.world.clone()))];
    bench.world.commits_forever.store(true, Ordering::Relaxed);
    let run = bench.run_from(sources, false, None);
    let stop = async {
        until(|| run.consumed.counts().bytes_written == 34).await;
        bench.stop.cancel();
    };
    let (result, ()) = tokio::join!(run.until_stopped(), stop);
    let error = result.unwrap_err().to_string();
    assert!(error.starts_with("8 bytes that cannot be read again were not delivered within"), "{error}");
}

#[tokio::test]
async fn a_stop_ships_what_was_taken_from_the_input() {
    let bench = Bench::new("a log\n");
    let pipe = Pipe::of(&["one\n"]);
    *pipe.rest.lock().unwrap() = Bytes::from_static(b"no line end");
    // Beside a log: that ends at once.
    let sources: Vec<Box<dyn OpenSource>> =
        vec![Box::new(OpenPipe(pipe.clone())), Box::new(OpenLog(bench.world.clone()))];
    let run = bench.run_from(sources, false, None);
    let stop = async {
        until(|| pipe.is_empty() && run.consumed.counts().bytes_read == 10).await;
        bench.stop.cancel();
    };
    let (result, ()) = tokio::join!(run.until_stopped(), stop);
    result.unwrap();
    assert_eq!(bench.world.piped(), "one\nno line end");
    assert_eq!(bench.world.text(), "a log\n");
}

#[tokio::test]
async fn a_source_with_nothing_in_hand_ends_with_a_stop() {
    let bench = Bench::new("");
    let pipe = Pipe::of(&["one\n"]);
    pipe.drains.store(false, Ordering::Relaxed);
    let run = bench.run_pipe(&pipe, None);
    let stop = async {
        until(|| run.consumed.counts().bytes_read == 4).await;
        bench.stop.cancel();
    };
    let (result, ()) = tokio::join!(run.until_stopped(), stop);
    result.unwrap();
    assert_eq!(bench.world.piped(), "one\n");
}

#[tokio::test]
async fn a_stop_with_bytes_in_hand_and_nothing_open_to_take_them_fails_with_the_count() {
    let bench = Bench::new("");
    let pipe = Pipe::of(&[]);
    *pipe.rest.lock().unwrap() = Bytes::from_static(b"no line end");
    let run = bench.run_pipe(&pipe, None);
    // A source was open once, and the sink cannot be opened any more.
    drop(OpenPipe(pipe).open(Checkpoint::default(), run.context.clone()).await.unwrap());
    bench.world.opens_forever.store(true, Ordering::Relaxed);
    let stop = async { bench.stop.cancel() };
    let (result, ()) = tokio::join!(run.until_stopped(), stop);
    assert_eq!(result.unwrap_err().to_string(), "11 bytes that cannot be read again were not delivered");
}

/// A stream keeps them.
#[tokio::test]
async fn a_drain_that_ends_with_everything_in_the_stream_loses_nothing() {
    let bench = Bench::new("");
    let pipe = Pipe::of(&["one\n"]);
    bench.world.commits_forever.store(true, Ordering::Relaxed);
    let run = bench.run_pipe(&pipe, Some((Arc::new(Stream::default()), Ends::Both)));
    let stop = async {
        until(|| run.produced.counts().bytes_committed == 4 && run.consumed.counts().bytes_written == 4)
            .await;
        bench.stop.cancel();
    };
    let (result, ()) = tokio::join!(run.until_stopped(), stop);
    result.unwrap();
}

#[test]
fn what_is_read_again_is_in_flight_once() {
    let metrics = Metrics::default();
    for _ in 0..3 {
        metrics.begin_session();
        Metrics::add(&metrics.bytes_read, 10);
        Metrics::add(&metrics.bytes_duplicate, 2);
        assert_eq!(metrics.in_flight(), 8);
    }
    Metrics::add(&metrics.bytes_committed, 8);
    assert_eq!(metrics.in_flight(), 0);
}
