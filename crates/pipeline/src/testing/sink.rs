//! What a sink promises, tried out: [`check_sink`], [`check_shared_sink`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

use super::PATIENCE;
use crate::plugin::Committing;
use crate::{
    Admission, Batch, BudgetLease, Checkpoint, Content, Cursor, Epoch, History, Origin, Sink, Written,
};

/// More batches than are ever written before a commit.
const LEASES: usize = 1000;

/// Puts a sink through its contract. `open` opens it on the same output each time; `read_back` gives all
/// bytes that the output holds for an origin. A sink that keeps no positions is held to what remains.
///
/// It is for sinks of which nothing counts before it is committed. The sender of a stream that stores each message
/// for itself restores more, and is right.
///
/// # Panics
///
/// When a promise of [`Sink`] does not hold.
pub async fn check_sink(
    open: impl AsyncFn() -> Result<Box<dyn Sink>>,
    read_back: impl Fn(&Origin) -> Vec<u8>,
) {
    check(open, &Output::OfEach(&read_back)).await;
}

/// The same for a sink that writes all origins into one output, line after line as they come: `read_back` gives all
/// bytes that it holds.
///
/// # Panics
///
/// When a promise of [`Sink`] does not hold.
pub async fn check_shared_sink(
    open: impl AsyncFn() -> Result<Box<dyn Sink>>,
    read_back: impl Fn() -> Vec<u8>,
) {
    check(open, &Output::OfAll(&read_back)).await;
}

enum Output<'a> {
    OfEach(&'a dyn Fn(&Origin) -> Vec<u8>),
    OfAll(&'a dyn Fn() -> Vec<u8>),
}

async fn check(open: impl AsyncFn() -> Result<Box<dyn Sink>>, output: &Output<'_>) {
    let plain = Origin::new("host", "/var/log/plain.log");
    let odd = Origin::new(b"h\xf6st", b"/tmp/..\n\x1b[31m\xff.log");
    let (sink, restored) = open_and_restore(&open).await;
    let keeps_positions = restored.is_some();
    assert!(restored.is_none_or(|all| all.is_empty()), "a sink that was never written to holds nothing");
    let mut bench = Bench {
        open,
        output,
        sink: Some(sink),
        keeps_positions,
        checkpoint: Checkpoint::default(),
        written: Vec::new(),
        leases: Arc::new(Semaphore::new(LEASES)),
    };

    // A commit holds what was written before it, and survives everything.
    bench.write(&plain, Epoch(1), b"one\ntwo\n").await;
    bench.write(&odd, Epoch(2), b"nul \0 cr \r\n\xff\xfe\n\n\n").await;
    bench.write(&plain, Epoch(1), b"three\n").await;
    bench.set_cursor(1);
    bench.commit().await;
    bench.commit().await;
    bench.reopen().await;

    if keeps_positions {
        // What was written after it does not count, and is written again without a trace.
        let uncommitted = bench.next(&plain, Epoch(1), b"four\nfi");
        bench.hand_over(&uncommitted).await;
        bench.reopen().await;
    }
    bench.write(&plain, Epoch(1), b"four\nfive\n").await;

    // The parts of a line that is too long for one batch.
    bench.write(&plain, Epoch(1), b"a long li").await;
    bench.write(&plain, Epoch(1), b"ne\n").await;
    bench.commit_at_once().await;

    // The pump writes on while a commit is under way, and polls it only between two writes.
    bench.write(&odd, Epoch(2), b"before the commit\n").await;
    bench.set_cursor(2);
    let commit = bench.begin_commit().await;
    let claimed = bench.checkpoint.clone();
    let since = [bench.next(&odd, Epoch(2), b"since\n"), bench.next(&plain, Epoch(1), b"since\n")];
    for batch in &since {
        bench.hand_over(batch).await;
    }
    bench.end_commit(commit).await;
    if keeps_positions {
        // What came since the commit was begun is no part of it.
        bench.checkpoint = claimed;
        bench.reopen().await;
    }
    for batch in since {
        bench.settle(batch, keeps_positions).await;
    }
    bench.commit().await;

    if keeps_positions {
        bench.abandon_a_commit(&[&plain, &odd]).await;
    }

    // A new epoch starts at 0; the one before is remembered.
    bench.write(&plain, Epoch(3), b"again\n").await;
    bench.commit().await;
    bench.reopen().await;
    bench.write(&plain, Epoch(3), b"and again\n").await;

    // A loss moves the position and leaves no bytes, one of unknown amount neither. A commit may hold nothing but a
    // cursor.
    for missing in [1000, 0] {
        bench.lose(&odd, missing).await;
        bench.commit().await;
        bench.write(&odd, Epoch(2), b"after the loss\n").await;
    }
    bench.commit().await;
    bench.set_cursor(9);
    bench.commit().await;
    bench.reopen().await;

    // Many origins, one commit.
    for number in 0..300 {
        let origin = Origin::new(format!("host{number}"), "/var/log/many.log");
        bench.write(&origin, Epoch(9), format!("from {number}\n").as_bytes()).await;
    }
    bench.commit().await;
    bench.reopen().await;
}

async fn open_and_restore(
    open: &impl AsyncFn() -> Result<Box<dyn Sink>>,
) -> (Box<dyn Sink>, Option<Checkpoint>) {
    let mut sink = open().await.expect("the sink opens");
    let restored = sink.restore().await.expect("the sink restores");
    (sink, restored)
}

/// The pump's place.
struct Bench<'a, O> {
    open: O,
    output: &'a Output<'a>,
    /// Absent only while it is opened again.
    sink: Option<Box<dyn Sink>>,
    keeps_positions: bool,
    /// What the sink should hold once it is committed.
    checkpoint: Checkpoint,
    /// What the output should hold by then.
    written: Vec<Batch>,
    leases: Arc<Semaphore>,
}

impl<O: AsyncFn() -> Result<Box<dyn Sink>>> Bench<'_, O> {
    fn sink(&mut self) -> &mut Box<dyn Sink> {
        self.sink.as_mut().expect("the sink is open")
    }

    /// A session's end, the next one's start, and a look at the output between the two. Everything is committed.
    async fn reopen(&mut self) {
        let restored = self.restart().await;
        if let Some(restored) = restored {
            assert_same(&restored, &self.checkpoint);
        }
    }

    async fn restart(&mut self) -> Option<Checkpoint> {
        self.sink = None;
        let (sink, restored) = open_and_restore(&self.open).await;
        assert_eq!(restored.is_some(), self.keeps_positions, "a sink keeps positions or it does not");
        self.sink = Some(sink);
        restored
    }

    /// A batch of what comes next in `origin`.
    fn next(&self, origin: &Origin, epoch: Epoch, bytes: &[u8]) -> Batch {
        let known = self.checkpoint.position(origin).filter(|position| position.epoch == epoch);
        let start = known.map_or(0, |position| position.offset);
        let mut batch = Batch::data(origin.clone(), epoch, start, bytes.to_vec());
        batch.place = Bytes::from(format!("place {start}"));
        batch
    }

    async fn write(&mut self, origin: &Origin, epoch: Epoch, bytes: &[u8]) {
        let batch = self.next(origin, epoch, bytes);
        self.settle(batch, true).await;
    }

    async fn lose(&mut self, origin: &Origin, missing: u64) {
        let end = self.checkpoint.position(origin).expect("it was written");
        let batch = Batch::loss(origin.clone(), end.epoch, end.offset, missing, "a test");
        self.settle(batch, true).await;
    }

    /// From now on the batch counts; it is written first, unless it was before.
    async fn settle(&mut self, batch: Batch, write: bool) {
        if write {
            self.hand_over(&batch).await;
        }
        self.checkpoint.advance(&batch);
        self.written.push(batch);
    }

    async fn hand_over(&mut self, batch: &Batch) {
        let lease = self.leases.clone().try_acquire_owned().expect("there are leases enough");
        let batch = Batch { lease: Some(BudgetLease::new(lease)), ..batch.clone() };
        let what =
            if matches!(batch.content, Content::Loss { .. }) { "the record of a loss" } else { "a batch" };
        let written = timeout(PATIENCE, self.sink().write(batch)).await;
        let written = written.expect("a write waits for a commit: nobody polls the commit meanwhile");
        let written = written.expect("the sink writes");
        assert_eq!(written, Written::Accepted, "the sink takes {what} that continues");
    }

    async fn begin_commit(&mut self) -> Committing {
        let checkpoint = self.checkpoint.clone();
        let commit = timeout(PATIENCE, self.sink().begin_commit(&checkpoint)).await;
        let commit = commit.expect("a commit never begins").expect("the sink begins to commit");
        self.checkpoint.clear_changes();
        commit
    }

    async fn end_commit(&mut self, commit: Committing) {
        let held = timeout(PATIENCE, commit).await.expect("a commit never ends").expect("the sink commits");
        assert!(held.is_empty(), "nothing is held that could be stored: {held:?}");
        let held = self.sink().held();
        assert!(held.is_empty(), "what is held is said when the commit ends, where the pump asks: {held:?}");
    }

    async fn commit(&mut self) {
        let commit = self.begin_commit().await;
        self.end_commit(commit).await;
        self.check_leases().await;
        self.check_output();
    }

    /// Without [`Sink::begin_commit`], as a decorator may.
    async fn commit_at_once(&mut self) {
        let checkpoint = self.checkpoint.clone();
        self.sink().commit(&checkpoint).await.expect("the sink commits");
        let held = self.sink().held();
        assert!(held.is_empty(), "nothing is held that could be stored: {held:?}");
        self.checkpoint.clear_changes();
        self.check_output();
    }

    /// The process dies right after a commit was begun: of each origin it counts or it does not, and the cursor only
    /// with all of them.
    async fn abandon_a_commit(&mut self, origins: &[&Origin]) {
        let before = self.checkpoint.clone();
        let mut batches = Vec::new();
        for origin in origins {
            let epoch = before.position(origin).expect("it was written").epoch;
            let batch = self.next(origin, epoch, b"perhaps\n");
            self.hand_over(&batch).await;
            self.checkpoint.advance(&batch);
            batches.push(batch);
        }
        self.set_cursor(3);
        drop(self.begin_commit().await);
        let after = std::mem::replace(&mut self.checkpoint, before);
        let restored = self.restart().await.expect("the sink keeps positions");
        for (origin, found) in histories(&restored) {
            let either = [&self.checkpoint, &after].map(|one| one.history(&origin));
            assert!(
                either.contains(&Some(&found)),
                "of a commit that was cut short `{origin}` counts or not"
            );
        }
        let counts = |batch: &Batch| restored.admit(batch) == Admission::Duplicate;
        // In the order in which the output has them.
        batches.sort_by_key(|batch| !counts(batch));
        assert!(
            batches.iter().all(counts) || restored.cursors().eq(self.checkpoint.cursors()),
            "of a commit that was cut short the cursor counts with everything before it"
        );
        for batch in batches {
            let counts = counts(&batch);
            self.settle(batch, !counts).await;
        }
        self.set_cursor(3);
        self.commit().await;
        self.reopen().await;
    }

    fn set_cursor(&mut self, sequence: u64) {
        let position = Bytes::from(format!("sequence {sequence}"));
        self.checkpoint.set_cursor(&Cursor { transport: "test".into(), position });
    }

    /// All batches are committed, so nobody needs their bytes any more.
    async fn check_leases(&self) {
        let deadline = Instant::now() + PATIENCE;
        while self.leases.available_permits() < LEASES {
            let kept = LEASES - self.leases.available_permits();
            assert!(
                Instant::now() < deadline,
                "the leases of {kept} batches that are committed are kept: the hop would stop for want of room"
            );
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// Everything that was written is committed.
    fn check_output(&self) {
        match self.output {
            Output::OfAll(read_back) => {
                let expected: Vec<u8> = self.written.iter().flat_map(Batch::bytes).copied().collect();
                compare("the output", &read_back(), &expected);
            }
            Output::OfEach(read_back) => {
                let mut expected = BTreeMap::<&Origin, Vec<u8>>::new();
                for batch in &self.written {
                    expected.entry(&batch.origin).or_default().extend(batch.bytes());
                }
                for (origin, bytes) in expected {
                    compare(&format!("`{origin}`"), &read_back(origin), &bytes);
                }
            }
        }
    }
}

fn compare(what: &str, found: &[u8], expected: &[u8]) {
    assert!(
        found == expected,
        "after a commit {what} holds \"{}\" instead of \"{}\"",
        found.escape_ascii(),
        expected.escape_ascii()
    );
}

fn histories(checkpoint: &Checkpoint) -> BTreeMap<Origin, History> {
    checkpoint.origins().map(|(origin, history)| (origin.clone(), history.clone())).collect()
}

fn assert_same(restored: &Checkpoint, committed: &Checkpoint) {
    let (found, expected) = (histories(restored), histories(committed));
    for (origin, history) in &expected {
        let Some(found) = found.get(origin) else { panic!("`{origin}` was committed and is not restored") };
        assert_eq!(
            found.current, history.current,
            "`{origin}` is restored where it was committed: what was written since the commit was begun does not count"
        );
        assert_eq!(found.earlier, history.earlier, "the earlier epochs of `{origin}` are restored with it");
    }
    let unknown = found.keys().find(|origin| !expected.contains_key(origin));
    assert!(unknown.is_none(), "{unknown:?} is restored and was never committed");
    assert!(restored.cursors().eq(committed.cursors()), "a restored cursor is the committed one");
}
