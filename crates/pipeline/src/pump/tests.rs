use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use async_trait::async_trait;
use bytes::Bytes;

use super::*;
use crate::{Cursor, Epoch, testing};

mod commits;
mod gaps;
mod losses;
mod offers;
mod rereading;

/// What a scripted source does next.
#[derive(Clone)]
enum Step {
    Give(Batch),
    Fail,
    Rest(Duration),
    /// Waits for ever, as an idle source does.
    Idle,
}

struct Script {
    steps: VecDeque<Step>,
    can_go_back: bool,
}

impl Script {
    fn new(steps: Vec<Step>) -> Self {
        Self { steps: steps.into(), can_go_back: true }
    }
}

#[async_trait]
impl Source for Script {
    async fn read(&mut self) -> Result<Option<Batch>> {
        while let Some(Step::Rest(time)) = self.steps.front() {
            tokio::time::sleep(*time).await;
            self.steps.pop_front();
        }
        match self.steps.pop_front() {
            Some(Step::Rest(_)) => unreachable!("that was before"),
            Some(Step::Give(batch)) => Ok(Some(batch)),
            Some(Step::Fail) => anyhow::bail!("the source broke"),
            Some(Step::Idle) => std::future::pending().await,
            None => Ok(None),
        }
    }

    fn can_go_back(&self) -> bool {
        self.can_go_back
    }
}

/// What a sink was asked, in order; shared with the test.
#[derive(Clone, Default)]
struct Tape(Arc<Mutex<Recorded>>);

#[derive(Default)]
struct Recorded {
    log: Vec<String>,
    committed: Checkpoint,
    hold: Option<Origin>,
    /// Its next write is held, and no more.
    hold_once: Option<Origin>,
    hold_late: Option<Origin>,
    fail_at_write: Option<usize>,
    fail_at_commit: bool,
    writes: usize,
    commit_bytes: Option<u64>,
    budget_bytes: Option<usize>,
    /// What is kept until it is committed, where that is so.
    kept: Option<Vec<Batch>>,
}

#[async_trait]
impl Sink for Tape {
    async fn restore(&mut self) -> Result<Option<Checkpoint>> {
        Ok(Some(self.0.lock().unwrap().committed.clone()))
    }

    async fn write(&mut self, batch: Batch) -> Result<Written> {
        let mut tape = self.0.lock().unwrap();
        tape.writes += 1;
        if tape.fail_at_write == Some(tape.writes) {
            anyhow::bail!("the sink broke");
        }
        let is_held_once = tape.hold_once.take_if(|origin| *origin == batch.origin).is_some();
        if is_held_once || tape.hold.as_ref() == Some(&batch.origin) {
            return Ok(Written::Held("unwritable".to_owned()));
        }
        let file = String::from_utf8_lossy(batch.origin.file()).into_owned();
        tape.log.push(match &batch.content {
            Content::Data(bytes) => format!("{file}@{} {}", batch.start, String::from_utf8_lossy(bytes)),
            Content::Loss { missing, .. } => format!("{file}@{} lost {missing}", batch.start),
        });
        if let Some(kept) = &mut tape.kept {
            kept.push(batch);
        }
        Ok(Written::Accepted)
    }

    async fn commit(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        let mut tape = self.0.lock().unwrap();
        if tape.fail_at_commit {
            anyhow::bail!("the sink broke");
        }
        tape.log.push("commit".to_owned());
        if let Some(kept) = &mut tape.kept {
            kept.clear();
        }
        tape.committed = checkpoint.clone();
        Ok(())
    }

    fn commit_bytes(&self, configured: u64) -> u64 {
        self.0.lock().unwrap().commit_bytes.unwrap_or(configured)
    }

    fn budget_bytes(&self, usually: usize) -> usize {
        self.0.lock().unwrap().budget_bytes.unwrap_or(usually)
    }

    fn held(&mut self) -> Vec<(Origin, String)> {
        let origin = self.0.lock().unwrap().hold_late.take();
        origin.into_iter().map(|origin| (origin, "refused".to_owned())).collect()
    }
}

impl Tape {
    fn log(&self) -> Vec<String> {
        self.0.lock().unwrap().log.clone()
    }

    fn committed(&self, file: &str) -> Option<u64> {
        self.0.lock().unwrap().committed.position(&origin(file)).map(|position| position.offset)
    }

    fn cursor(&self) -> Option<Bytes> {
        self.0.lock().unwrap().committed.cursor("test").cloned()
    }
}

fn origin(file: &str) -> Origin {
    Origin::new("h", file)
}

fn data(file: &str, start: u64, text: &str) -> Batch {
    Batch::data(origin(file), Epoch(1), start, text.to_owned())
}

fn with_cursor(mut batch: Batch, sequence: u64) -> Batch {
    let position = Bytes::from(sequence.to_string());
    batch.cursor = Some(Cursor { transport: "test".into(), position });
    batch
}

fn give(batches: impl IntoIterator<Item = Batch>) -> Vec<Step> {
    batches.into_iter().map(Step::Give).collect()
}

struct Bench {
    settings: Settings,
    tape: Tape,
    memory: Memory,
    stop: CancellationToken,
    hangup: watch::Sender<u64>,
    metrics: Arc<Metrics>,
}

impl Bench {
    fn new() -> Self {
        let (hangup, _) = watch::channel(0);
        let context = testing::context(std::path::Path::new("unused"));
        Self {
            settings: (*context.settings).clone(),
            tape: Tape::default(),
            memory: Memory::default(),
            stop: CancellationToken::new(),
            hangup,
            metrics: Arc::default(),
        }
    }

    /// One session over the script, opened at what the tape has committed.
    async fn session(&mut self, steps: Vec<Step>) -> Result<Ended> {
        self.session_of(Script::new(steps)).await
    }

    async fn session_of(&mut self, source: Script) -> Result<Ended> {
        let mut sink = self.tape.clone();
        let checkpoint = sink.restore().await?.unwrap_or_default();
        pump(Box::new(source), Box::new(sink), checkpoint, self.parts()).await
    }

    fn parts(&mut self) -> Pump<'_> {
        Pump {
            settings: &self.settings,
            stop: self.stop.clone(),
            hangups: self.hangup.subscribe(),
            metrics: self.metrics.clone(),
            memory: &mut self.memory,
        }
    }
}

#[tokio::test]
async fn writes_what_is_new_and_cuts_what_is_there() {
    let mut bench = Bench::new();
    let batches =
        [data("a", 0, "one\n"), data("a", 0, "one\ntwo\n"), data("a", 4, "two\n"), data("b", 0, "x\n")];
    assert_eq!(bench.session(give(batches)).await.unwrap(), Ended::Finished);
    assert_eq!(bench.tape.log(), ["a@0 one\n", "a@4 two\n", "b@0 x\n", "commit"]);
    let counts = bench.metrics.counts();
    assert_eq!((counts.bytes_written, counts.bytes_duplicate, counts.lines_written), (10, 8, 3));
    assert_eq!(counts.bytes_committed, 10);
}

#[tokio::test]
async fn a_reported_failure_is_over_with_the_next_session_or_with_its_first_commit() {
    let trouble = |works_once_open| Some(Trouble { hop: "written", works_once_open });
    let mut bench = Bench::new();
    bench.memory.trouble = trouble(true);
    bench.session(vec![]).await.unwrap();
    assert!(bench.memory.trouble.is_none());
    bench.memory.trouble = trouble(false);
    bench.session(vec![]).await.unwrap();
    assert!(bench.memory.trouble.is_some(), "nothing was committed");
    bench.session(give([data("a", 0, "one\n")])).await.unwrap();
    assert!(bench.memory.trouble.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_write_is_committed_within_the_interval_and_an_idle_hop_commits_nothing() {
    let mut bench = Bench::new();
    let (tape, stop) = (bench.tape.clone(), bench.stop.clone());
    let session = bench.session(vec![Step::Give(data("a", 0, "one\n")), Step::Idle]);
    let watch = async {
        tokio::time::sleep(Duration::from_millis(999)).await;
        assert_eq!(tape.log(), ["a@0 one\n"]);
        tokio::time::sleep(Duration::from_millis(2)).await;
        assert_eq!(tape.log(), ["a@0 one\n", "commit"]);
        tokio::time::sleep(Duration::from_secs(3600)).await;
        stop.cancel();
    };
    let (ended, ()) = tokio::join!(session, watch);
    assert_eq!(ended.unwrap(), Ended::Finished);
    assert_eq!(bench.tape.log(), ["a@0 one\n", "commit"]);
}

#[tokio::test(start_paused = true)]
async fn a_stop_commits_what_was_read() {
    let mut bench = Bench::new();
    let (tape, stop) = (bench.tape.clone(), bench.stop.clone());
    let session = bench.session(vec![Step::Give(data("a", 0, "one\n")), Step::Idle]);
    let watch = async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        stop.cancel();
    };
    let (ended, ()) = tokio::join!(session, watch);
    assert_eq!(ended.unwrap(), Ended::Finished);
    assert_eq!(tape.committed("a"), Some(4));
}

#[tokio::test(start_paused = true)]
async fn a_hangup_commits_even_when_nothing_was_written() {
    let mut bench = Bench::new();
    let (hangup, stop, tape) = (bench.hangup.clone(), bench.stop.clone(), bench.tape.clone());
    let session = bench.session(vec![Step::Idle]);
    let watch = async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        hangup.send_modify(|number| *number += 1);
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert_eq!(tape.log(), ["commit"]);
        stop.cancel();
    };
    let (ended, ()) = tokio::join!(session, watch);
    assert_eq!(ended.unwrap(), Ended::Finished);
}

#[tokio::test]
async fn a_source_that_breaks_has_everything_before_committed() {
    let mut bench = Bench::new();
    let error = bench.session(vec![Step::Give(data("a", 0, "one\n")), Step::Fail]).await.unwrap_err();
    assert_eq!(error.to_string(), "the source broke");
    assert_eq!(bench.tape.committed("a"), Some(4));
}

#[tokio::test]
async fn a_sink_that_breaks_stops_an_idle_reader() {
    let mut bench = Bench::new();
    bench.tape.0.lock().unwrap().fail_at_write = Some(1);
    let error = bench.session(vec![Step::Give(data("a", 0, "one\n")), Step::Idle]).await.unwrap_err();
    assert_eq!(error.to_string(), "the sink broke");
    assert_eq!(bench.tape.committed("a"), None);
}

/// Gives a batch, then nothing, and says when it is dropped.
struct Watched(Arc<AtomicBool>);

#[async_trait]
impl Source for Watched {
    async fn read(&mut self) -> Result<Option<Batch>> {
        if self.0.swap(false, Relaxed) {
            return Ok(Some(data("a", 0, "one\n")));
        }
        std::future::pending().await
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// The next session may open the same input, and counts what this one has read.
#[tokio::test]
async fn a_session_that_fails_is_over_only_when_its_source_is_gone() {
    let mut bench = Bench::new();
    bench.tape.0.lock().unwrap().fail_at_write = Some(1);
    let (tape, is_gone) = (bench.tape.clone(), Arc::new(AtomicBool::new(true)));
    let source = Box::new(Watched(is_gone.clone()));
    let session = pump(source, Box::new(tape), Checkpoint::default(), bench.parts());
    session.await.unwrap_err();
    assert!(is_gone.load(Relaxed));
}

#[tokio::test(start_paused = true)]
async fn a_held_origin_stops_alone_and_the_cursor_stays_below_it() {
    let mut bench = Bench::new();
    bench.tape.0.lock().unwrap().hold = Some(origin("a"));
    let batches = || {
        give([
            with_cursor(data("b", 0, "b\n"), 1),
            with_cursor(data("a", 0, "a\n"), 2),
            with_cursor(data("b", 2, "c\n"), 3),
            // No gap: what is held is not missing.
            with_cursor(data("a", 2, "d\n"), 4),
        ])
    };
    let Ended::Again(at) = bench.session(batches()).await.unwrap() else { panic!("it is to be tried again") };
    assert!(at > Instant::now());
    assert_eq!(bench.tape.log(), ["b@0 b\n", "b@2 c\n", "commit"]);
    assert_eq!(bench.tape.cursor().as_deref(), Some(&b"1"[..]));

    bench.tape.0.lock().unwrap().hold = None;
    assert_eq!(bench.session(batches()).await.unwrap(), Ended::Finished);
    assert_eq!(bench.tape.log()[3..], ["a@0 a\n", "a@2 d\n", "commit"]);
    assert_eq!(bench.tape.cursor().as_deref(), Some(&b"4"[..]));
}

#[tokio::test(start_paused = true)]
async fn a_held_origin_ends_the_session_when_it_is_due_even_if_the_source_is_idle() {
    let mut bench = Bench::new();
    bench.tape.0.lock().unwrap().hold = Some(origin("a"));
    let ended = bench.session(vec![Step::Give(data("a", 0, "a\n")), Step::Idle]).await.unwrap();
    assert!(matches!(ended, Ended::Again(_)));
}

#[tokio::test]
async fn what_one_commit_refused_is_not_claimed_by_the_next() {
    let mut bench = Bench::new();
    bench.settings.commit_bytes = 1;
    bench.tape.0.lock().unwrap().hold_late = Some(origin("a"));
    let batches = [with_cursor(data("a", 0, "a\n"), 1), with_cursor(data("b", 0, "b\n"), 2)];
    assert!(matches!(bench.session(give(batches)).await.unwrap(), Ended::Again(_)));
    assert_eq!(bench.tape.log(), ["a@0 a\n", "commit", "b@0 b\n", "commit"]);
    assert_eq!((bench.tape.committed("a"), bench.tape.committed("b")), (None, Some(2)));
    assert_eq!(bench.tape.cursor(), None);
}

#[tokio::test]
async fn a_commit_claims_nothing_for_what_turned_out_to_be_refused() {
    let mut bench = Bench::new();
    bench.tape.0.lock().unwrap().hold_late = Some(origin("a"));
    let ended = bench.session(give([data("a", 0, "a\n"), data("b", 0, "b\n")])).await.unwrap();
    assert!(matches!(ended, Ended::Again(_)));
    assert_eq!(bench.memory.held.get(&origin("a")).map(String::as_str), Some("refused"));
}

#[tokio::test]
async fn a_gap_is_read_again_first_and_then_recorded_as_a_loss() {
    let mut bench = Bench::new();
    let batches = || give([with_cursor(data("a", 0, "one\n"), 1), with_cursor(data("a", 10, "late\n"), 2)]);
    assert!(matches!(bench.session(batches()).await.unwrap(), Ended::Again(_)));
    assert_eq!(bench.tape.log(), ["a@0 one\n", "commit"]);
    assert_eq!(bench.tape.cursor().as_deref(), Some(&b"1"[..]));

    assert_eq!(bench.session(batches()).await.unwrap(), Ended::Finished);
    assert_eq!(bench.tape.log()[2..], ["a@4 lost 6", "a@10 late\n", "commit"]);
    assert_eq!((bench.metrics.counts().bytes_lost, bench.metrics.counts().losses), (6, 1));
}

#[tokio::test]
async fn a_gap_that_closes_on_reading_again_is_no_loss() {
    let mut bench = Bench::new();
    bench.session(give([data("a", 4, "two\n")])).await.unwrap();
    let ended = bench.session(give([data("a", 0, "one\n"), data("a", 4, "two\n")])).await.unwrap();
    assert_eq!(ended, Ended::Finished);
    assert_eq!(bench.tape.log(), ["a@0 one\n", "a@4 two\n", "commit"]);
}

#[tokio::test]
async fn a_second_producer_of_an_origin_is_held_and_named() {
    let mut bench = Bench::new();
    let other = |start, text: &str| Batch::data(origin("a"), Epoch(2), start, text.to_owned());
    let batches = [data("a", 0, "one\n"), other(0, "new\n"), data("a", 4, "two\n")];
    assert!(matches!(bench.session(give(batches)).await.unwrap(), Ended::Again(_)));
    assert_eq!(bench.tape.log(), ["a@0 one\n", "a@0 new\n", "commit"]);
    let reason = &bench.memory.held[&origin("a")];
    assert!(reason.contains("two producers claim it") && reason.contains("0000000000000002"), "{reason}");
}

#[tokio::test]
async fn the_budget_bounds_what_waits() {
    let budget_batches = HOP_BUDGET_BYTES / (1 << 20);
    let (sender, mut receiver) = mpsc::channel(CHANNEL_BATCHES);
    let megabyte = "x".repeat(1 << 20);
    let steps = (0..64).map(|number| Step::Give(data("a", number << 20, &megabyte))).collect();
    let metrics = Arc::<Metrics>::default();
    let source = Box::new(Script::new(steps));
    let read = tokio::spawn(read_all(
        source,
        Room::new(HOP_BUDGET_BYTES),
        CancellationToken::new(),
        sender,
        metrics.clone(),
    ));
    let first = receiver.recv().await.unwrap();
    // Nobody takes more: the reader fills the budget and then waits with one batch in hand.
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert!(metrics.counts().bytes_read <= ((budget_batches + 1) << 20) as u64);
    drop(first);
    while receiver.recv().await.is_some() {}
    read.await.unwrap().unwrap();
    assert_eq!(metrics.counts().bytes_read, 64 << 20);
}

#[tokio::test]
async fn a_sink_says_after_how_many_bytes_a_commit_is_due() {
    for (own, commits) in [(None, 2), (Some(u64::MAX), 1)] {
        let mut bench = Bench::new();
        bench.settings.commit_bytes = 4;
        bench.tape.0.lock().unwrap().commit_bytes = own;
        bench.session(give([data("a", 0, "one\n"), data("a", 4, "two\n")])).await.unwrap();
        let log = bench.tape.log();
        assert_eq!(log.iter().filter(|entry| *entry == "commit").count(), commits, "{log:?}");
    }
}

/// As one that sends everything with its commit: nothing else makes room.
#[tokio::test(start_paused = true)]
async fn a_sink_that_keeps_what_it_is_given_is_asked_to_commit_when_there_is_no_room_for_more() {
    let mut bench = Bench::new();
    bench.settings.commit_interval = Duration::from_secs(3600);
    bench.settings.commit_bytes = u64::MAX;
    bench.tape.0.lock().unwrap().kept = Some(Vec::new());
    let megabyte = "x".repeat(1 << 20);
    let steps: Vec<_> = (0..40).map(|number| Step::Give(data("a", number << 20, &megabyte))).collect();
    let began = Instant::now();
    bench.session(steps).await.unwrap();
    assert_eq!(bench.tape.committed("a"), Some(40 << 20));
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_sink_says_how_much_may_be_on_its_way() {
    let megabyte = "x".repeat(1 << 20);
    let steps: Vec<_> = (0..40).map(|number| Step::Give(data("a", number << 20, &megabyte))).collect();
    for (own, most) in [(None, HOP_BUDGET_BYTES), (Some(3 << 20), 3 << 20), (Some(16 << 20), 16 << 20)] {
        let mut bench = Bench::new();
        let (tape, metrics) = (bench.tape.clone(), bench.metrics.clone());
        tape.0.lock().unwrap().budget_bytes = own;
        let source = Box::new(Script::new(steps.clone()));
        let session = pump(source, Box::new(Stuck(tape)), Checkpoint::default(), bench.parts());
        let stuck = tokio::time::timeout(Duration::from_secs(1), session).await;
        assert!(stuck.is_err(), "it takes nothing");
        let read = metrics.counts().bytes_read as usize;
        // One more is read, and waits for its share.
        assert!(read <= most + (1 << 20) && read > most - (1 << 20), "{read} of {most}");
    }
}

/// A sink whose writes never end.
struct Stuck(Tape);

#[async_trait]
impl Sink for Stuck {
    async fn restore(&mut self) -> Result<Option<Checkpoint>> {
        self.0.restore().await
    }

    async fn write(&mut self, _: Batch) -> Result<Written> {
        std::future::pending().await
    }

    async fn commit(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        self.0.commit(checkpoint).await
    }

    fn budget_bytes(&self, usually: usize) -> usize {
        self.0.budget_bytes(usually)
    }
}
