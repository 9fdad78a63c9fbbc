use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::Instant;

use super::*;
use crate::{Batch, Ends, Epoch, Invalid, Origin, Written};

mod holds;
mod linked;
mod starting;
mod unrepeatable;

/// What the sinks of a test share: the output, and the mischief they are asked to do.
#[derive(Default)]
struct World {
    /// The log that sources read.
    log: Mutex<Vec<u8>>,
    output: Mutex<Output>,
    can_go_back: AtomicBool,
    /// The source fails after so many batches of a session; 0: never.
    source_fails_after: AtomicUsize,
    /// So many commits fail, one after the other.
    commits_to_fail: AtomicUsize,
    /// So many commits refuse what was written.
    commits_to_refuse: AtomicUsize,
    /// So many writes are held.
    writes_to_hold: AtomicUsize,
    keeps_no_positions: AtomicBool,
    opens_forever: AtomicBool,
    /// So many attempts to open the sink fail.
    opens_to_fail: AtomicUsize,
    commits_forever: AtomicBool,
    fatal_at_open: AtomicUsize,
    opened: AtomicUsize,
}

#[derive(Default)]
struct Output {
    committed: Checkpoint,
    durable: BTreeMap<Origin, Vec<u8>>,
}

fn origin() -> Origin {
    Origin::new("h", "/log")
}

impl World {
    fn new(log: &str) -> Arc<Self> {
        let world = Self::default();
        world.log.lock().unwrap().extend(log.as_bytes());
        world.can_go_back.store(true, Ordering::Relaxed);
        Arc::new(world)
    }

    fn text(&self) -> String {
        let output = self.output.lock().unwrap();
        String::from_utf8(output.durable.get(&origin()).cloned().unwrap_or_default()).unwrap()
    }
}

/// Reads the world's log in batches of four bytes.
struct Log {
    world: Arc<World>,
    at: usize,
    given: usize,
    once: bool,
}

#[async_trait]
impl Source for Log {
    async fn read(&mut self) -> Result<Option<Batch>> {
        let limit = self.world.source_fails_after.load(Ordering::Relaxed);
        if limit > 0 && self.given == limit {
            anyhow::bail!("the disk is on fire");
        }
        let bytes: Vec<u8> = self.world.log.lock().unwrap().iter().skip(self.at).take(4).copied().collect();
        if bytes.is_empty() && self.once {
            return Ok(None);
        }
        if bytes.is_empty() {
            std::future::pending::<()>().await;
        }
        let mut batch = Batch::data(origin(), Epoch(1), self.at as u64, bytes);
        batch.place = Bytes::from_static(b"here");
        self.at = batch.end() as usize;
        self.given += 1;
        Ok(Some(batch))
    }

    fn can_go_back(&self) -> bool {
        self.world.can_go_back.load(Ordering::Relaxed)
    }
}

/// Holds what was written until a commit; a new one starts at what is durable.
struct Store {
    world: Arc<World>,
    written: Vec<Batch>,
    refused: Vec<(Origin, String)>,
}

#[async_trait]
impl Sink for Store {
    async fn restore(&mut self) -> Result<Option<Checkpoint>> {
        if self.world.keeps_no_positions.load(Ordering::Relaxed) {
            return Ok(None);
        }
        Ok(Some(self.world.output.lock().unwrap().committed.clone()))
    }

    async fn write(&mut self, batch: Batch) -> Result<Written> {
        if take_one(&self.world.writes_to_hold) {
            return Ok(Written::Held("the folder cannot be written to".to_owned()));
        }
        self.written.push(batch);
        Ok(Written::Accepted)
    }

    async fn commit(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        if self.world.commits_forever.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        if take_one(&self.world.commits_to_fail) {
            anyhow::bail!("no space left");
        }
        if take_one(&self.world.commits_to_refuse) {
            let refused = self.written.drain(..).map(|batch| (batch.origin, "unwritable".to_owned()));
            self.refused = refused.collect();
            return Ok(());
        }
        let mut output = self.world.output.lock().unwrap();
        for batch in self.written.drain(..) {
            output.durable.entry(batch.origin.clone()).or_default().extend(batch.bytes());
        }
        output.committed = checkpoint.clone();
        Ok(())
    }

    fn held(&mut self) -> Vec<(Origin, String)> {
        std::mem::take(&mut self.refused)
    }
}

/// Counts down; whether there was something to count.
fn take_one(counter: &AtomicUsize) -> bool {
    counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| count.checked_sub(1)).is_ok()
}

struct OpenLog(Arc<World>);

#[async_trait]
impl OpenSource for OpenLog {
    fn validate(&self, _: &Settings) -> Result<(), (usize, Invalid)> {
        Ok(())
    }

    fn describe(&self) -> String {
        String::new()
    }

    async fn open(&self, from: Checkpoint, context: Context) -> Result<Box<dyn Source>> {
        let world = self.0.clone();
        let at = from.position(&origin()).map_or(0, |position| position.offset as usize);
        Ok(Box::new(Log { world, at, given: 0, once: context.once.is_some() }))
    }
}

struct OpenStore(Arc<World>);

#[async_trait]
impl OpenSink for OpenStore {
    fn validate(&self, _: &Settings) -> Result<(), Invalid> {
        Ok(())
    }

    fn describe(&self) -> String {
        String::new()
    }

    async fn open(&self, _: Context) -> Result<Box<dyn Sink>> {
        let opened = self.0.opened.fetch_add(1, Ordering::Relaxed) + 1;
        if self.0.opens_forever.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        if self.0.fatal_at_open.load(Ordering::Relaxed) == opened {
            return Err(Fatal::new("the ledger is locked by process 1"));
        }
        if take_one(&self.0.opens_to_fail) {
            anyhow::bail!("the output is not mounted");
        }
        Ok(Box::new(Store { world: self.0.clone(), written: Vec::new(), refused: Vec::new() }))
    }
}

struct Bench {
    world: Arc<World>,
    stop: CancellationToken,
    folder: tempfile::TempDir,
}

impl Bench {
    fn new(log: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { world: World::new(log), stop: CancellationToken::new(), folder }
    }

    fn settings(&self, once: bool) -> Arc<Settings> {
        let context = crate::testing::context(self.folder.path());
        Arc::new(Settings { once, drain_timeout: Duration::from_millis(200), ..(*context.settings).clone() })
    }

    fn run(&self, once: bool, transport: Option<(Arc<dyn Transport>, Ends)>) -> Run {
        self.run_from(vec![Box::new(OpenLog(self.world.clone()))], once, transport)
    }

    fn run_from(
        &self,
        sources: Vec<Box<dyn OpenSource>>,
        once: bool,
        transport: Option<(Arc<dyn Transport>, Ends)>,
    ) -> Run {
        let settings = self.settings(once);
        let parts = Parts { sources, transport, sink: Some(Box::new(OpenStore(self.world.clone()))) };
        std::fs::create_dir_all(settings.state_dir.join(&settings.name)).unwrap();
        let (stop, hangups) = (self.stop.clone(), watch::channel(0).1);
        Run::new(settings, parts, Control { stop, hangups })
    }

    async fn once(&self) -> Result<()> {
        self.run(true, None).until_stopped().await
    }
}

#[tokio::test]
async fn a_session_that_fails_is_followed_by_one_where_the_sink_ended() {
    let bench = Bench::new("one\ntwo\nsix\nten\n");
    bench.world.source_fails_after.store(1, Ordering::Relaxed);
    bench.world.commits_to_fail.store(2, Ordering::Relaxed);
    // A source that fails after each batch still gets through: every session commits what it read.
    let run = bench.run(true, None);
    let world = &bench.world;
    let repair = async {
        while world.text().len() < 12 {
            tokio::task::yield_now().await;
        }
        world.source_fails_after.store(0, Ordering::Relaxed);
    };
    let (result, ()) = tokio::join!(run.until_stopped(), repair);
    result.unwrap();
    assert_eq!(bench.world.text(), "one\ntwo\nsix\nten\n");
    assert!(run.consumed.counts().sessions >= 6);
}

#[tokio::test(start_paused = true)]
async fn a_hop_that_failed_is_shown_as_closed_until_it_is_opened_again() {
    let bench = Bench::new("one\n");
    bench.world.commits_to_fail.store(1, Ordering::Relaxed);
    let run = bench.run(false, None);
    let monitor = Monitor::default();
    run.show(&monitor);
    let state =
        || monitor.hops().iter().map(|hop| (hop.hop, hop.is_open, hop.counts.sessions)).collect::<Vec<_>>();
    assert_eq!(state(), [("written", false, 0)]);
    let look = async {
        for (is_open, sessions) in [(true, 1), (false, 1), (true, 2)] {
            while state() != [("written", is_open, sessions)] {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        bench.stop.cancel();
    };
    let (result, ()) = tokio::join!(run.until_stopped(), look);
    result.unwrap();
    assert_eq!(state(), [("written", false, 2)]);
}

#[tokio::test]
async fn what_the_local_files_show_at_start_is_an_error_of_configuration() {
    let bench = Bench::new("one\n");
    bench.world.fatal_at_open.store(1, Ordering::Relaxed);
    let run = bench.run(true, None);
    assert!(run.until_stopped().await.unwrap_err().chain().any(|cause| cause.is::<Fatal>()));
    assert!(!run.started.load(Ordering::Relaxed));
}

#[tokio::test]
async fn a_fatal_error_later_is_a_failure() {
    let bench = Bench::new("one\n");
    bench.world.fatal_at_open.store(2, Ordering::Relaxed);
    bench.world.commits_to_fail.store(1, Ordering::Relaxed);
    let run = bench.run(true, None);
    run.until_stopped().await.unwrap_err();
    assert!(run.started.load(Ordering::Relaxed));
}

/// The output was away when everything started; only when it was back could its ledger be read.
#[tokio::test]
async fn a_fatal_error_behind_one_that_was_retried_is_a_failure() {
    let bench = Bench::new("one\n");
    bench.world.opens_to_fail.store(1, Ordering::Relaxed);
    bench.world.fatal_at_open.store(2, Ordering::Relaxed);
    let run = bench.run(true, None);
    run.until_stopped().await.unwrap_err();
    assert!(run.started.load(Ordering::Relaxed), "others may have shipped for hours");
}

#[tokio::test]
async fn a_stop_ends_what_is_still_opening() {
    let bench = Bench::new("one\n");
    bench.world.opens_forever.store(true, Ordering::Relaxed);
    let run = bench.run(false, None);
    let stop = async { bench.stop.cancel() };
    let (result, ()) = tokio::join!(run.until_stopped(), stop);
    result.unwrap();
}

#[tokio::test]
async fn a_drain_that_takes_too_long_leaves_the_rest_in_the_source() {
    let bench = Bench::new("one\n");
    bench.world.commits_forever.store(true, Ordering::Relaxed);
    let run = bench.run(false, None);
    let stop = async {
        while run.consumed.counts().bytes_written < 4 {
            tokio::task::yield_now().await;
        }
        bench.stop.cancel();
    };
    let (result, ()) = tokio::join!(run.until_stopped(), stop);
    result.unwrap();

    bench.world.commits_forever.store(false, Ordering::Relaxed);
    drop(run);
    let bench = Bench { stop: CancellationToken::new(), ..bench };
    bench.once().await.unwrap();
    assert_eq!(bench.world.text(), "one\n");
}

#[tokio::test]
async fn a_drain_that_loses_what_cannot_be_read_again_fails_with_the_count() {
    let bench = Bench::new("one\n");
    bench.world.can_go_back.store(false, Ordering::Relaxed);
    bench.world.commits_forever.store(true, Ordering::Relaxed);
    let run = bench.run(false, None);
    let stop = async {
        while run.consumed.counts().bytes_written < 4 {
            tokio::task::yield_now().await;
        }
        bench.stop.cancel();
    };
    let (result, ()) = tokio::join!(run.until_stopped(), stop);
    assert!(result.unwrap_err().to_string().starts_with("4 bytes that cannot be read again"));
}

#[tokio::test]
async fn a_failure_that_loses_what_cannot_be_read_again_ends_the_run_with_the_count() {
    let bench = Bench::new("one\ntwo\n");
    bench.world.can_go_back.store(false, Ordering::Relaxed);
    bench.world.commits_to_fail.store(1, Ordering::Relaxed);
    let error = bench.once().await.unwrap_err().to_string();
    assert_eq!(error, "no space left; 8 bytes that cannot be read again were not delivered");
}

#[tokio::test]
async fn a_sink_that_keeps_no_positions_goes_on_where_it_committed() {
    let bench = Bench::new("one\n");
    bench.world.keeps_no_positions.store(true, Ordering::Relaxed);
    bench.once().await.unwrap();
    bench.world.log.lock().unwrap().extend(b"two\n");
    bench.once().await.unwrap();
    assert_eq!(bench.world.text(), "one\ntwo\n");
}

#[tokio::test(start_paused = true)]
async fn positions_are_kept_of_nothing_that_a_commit_failed_to_store() {
    let bench = Bench::new("one\n");
    bench.world.keeps_no_positions.store(true, Ordering::Relaxed);
    bench.world.commits_to_fail.store(1, Ordering::Relaxed);
    bench.world.commits_to_refuse.store(1, Ordering::Relaxed);
    bench.once().await.unwrap();
    assert_eq!(bench.world.text(), "one\n");
}

/// A transport whose stream is a vector that outlives everything.
#[derive(Default)]
struct Stream {
    batches: Arc<Mutex<Vec<Batch>>>,
    sent: Arc<World>,
}

struct Sender(Arc<Mutex<Vec<Batch>>>, Arc<World>);

struct Receiver {
    batches: Arc<Mutex<Vec<Batch>>>,
    next: usize,
    nothing_more_comes: CancellationToken,
}

#[async_trait]
impl Sink for Sender {
    async fn restore(&mut self) -> Result<Option<Checkpoint>> {
        let mut checkpoint = Checkpoint::default();
        self.0.lock().unwrap().iter().for_each(|batch| checkpoint.advance(batch));
        Ok(Some(checkpoint))
    }

    async fn write(&mut self, mut batch: Batch) -> Result<Written> {
        if take_one(&self.1.writes_to_hold) {
            return Ok(Written::Held("nobody may publish".to_owned()));
        }
        batch.lease = None;
        self.0.lock().unwrap().push(batch);
        Ok(Written::Accepted)
    }

    async fn commit(&mut self, _: &Checkpoint) -> Result<()> {
        Ok(())
    }
}

#[async_trait]
impl Source for Receiver {
    async fn read(&mut self) -> Result<Option<Batch>> {
        loop {
            let over = self.nothing_more_comes.is_cancelled();
            let batch = self.batches.lock().unwrap().get(self.next).cloned();
            match batch {
                Some(batch) => {
                    self.next += 1;
                    return Ok(Some(batch));
                }
                None if over => return Ok(None),
                None => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
    }
}

#[async_trait]
impl Transport for Stream {
    async fn open_sender(&self, _: Context) -> Result<Box<dyn Sink>> {
        if take_one(&self.sent.commits_to_fail) {
            anyhow::bail!("no responders");
        }
        Ok(Box::new(Sender(self.batches.clone(), self.sent.clone())))
    }

    async fn open_receiver(&self, _: Checkpoint, context: Context) -> Result<Box<dyn Source>> {
        let nothing_more_comes = context.once.unwrap_or_default();
        Ok(Box::new(Receiver { batches: self.batches.clone(), next: 0, nothing_more_comes }))
    }
}

#[tokio::test]
async fn with_both_ends_the_receiver_ends_after_the_producer_finished() {
    let bench = Bench::new("one\ntwo\nsix\n");
    let stream = Stream::default();
    // The producer opens late: a receiver that took its end at its own start would see an empty stream.
    stream.sent.commits_to_fail.store(1, Ordering::Relaxed);
    let run = bench.run(true, Some((Arc::new(stream), Ends::Both)));
    run.until_stopped().await.unwrap();
    assert_eq!(bench.world.text(), "one\ntwo\nsix\n");
}
