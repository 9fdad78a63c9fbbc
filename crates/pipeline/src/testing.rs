//! A conformance suite that any source or sink can be put through (feature `testing`).
//!
//! ```
//! use std::collections::HashMap;
//! use std::sync::{Arc, Mutex};
//!
//! use fshipper_pipeline::{Batch, Checkpoint, Origin, Sink, Written, anyhow, async_trait, testing};
//!
//! /// Keeps all bytes, and no positions.
//! #[derive(Clone, Default)]
//! struct Collect(Arc<Mutex<HashMap<Origin, Vec<u8>>>>);
//!
//! #[async_trait]
//! impl Sink for Collect {
//!     async fn restore(&mut self) -> anyhow::Result<Option<Checkpoint>> {
//!         Ok(None)
//!     }
//!     async fn write(&mut self, batch: Batch) -> anyhow::Result<Written> {
//!         let mut logs = self.0.lock().unwrap();
//!         logs.entry(batch.origin.clone()).or_default().extend_from_slice(batch.bytes());
//!         Ok(Written::Accepted)
//!     }
//!     async fn commit(&mut self, _: &Checkpoint) -> anyhow::Result<()> {
//!         Ok(())
//!     }
//! }
//!
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! let sink = Collect::default();
//! let open = async || Ok(Box::new(sink.clone()) as Box<dyn Sink>);
//! let read_back = |origin: &Origin| sink.0.lock().unwrap().get(origin).cloned().unwrap_or_default();
//! testing::check_sink(open, read_back).await;
//! # });
//! ```
//!
//! Each function panics with a sentence that says which promise of [`Source`] or [`Sink`] does not hold.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    Admission, Batch, Checkpoint, Context, Cursor, Epoch, Gap, Origin, Position, Progress, Settings, Sink,
    Source, Written,
};

pub mod fuzz;

/// A source that gives nothing for this long, though it has something, hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// A context for tests: the pipeline `test` on the host `host`, its state in `state_dir`, with `--once`.
pub fn context(state_dir: &Path) -> Context {
    let nothing_more_comes = CancellationToken::new();
    nothing_more_comes.cancel();
    let settings = Settings {
        name: "test".to_owned(),
        host: "host".to_owned(),
        state_dir: state_dir.to_owned(),
        commit_interval: Duration::from_secs(1),
        commit_bytes: 8 << 20,
        max_batch_bytes: 1_000_000,
        drain_timeout: Duration::from_secs(30),
        once: true,
    };
    Context {
        settings: Arc::new(settings),
        state_dir: state_dir.to_owned(),
        once: Some(nothing_more_comes),
        hangups: watch::channel(0).1,
        progress: Progress::default(),
    }
}

/// Tells the receiver of `context` that `origin` is durable up to `position`, as the pump does after a commit.
pub fn commit(context: &Context, origin: &Origin, position: Position) {
    let mut checkpoint = Checkpoint::default();
    checkpoint.set_position(origin, position);
    commit_all(context, &mut checkpoint);
}

/// Tells the receiver of `context` that everything in `checkpoint` that changed is durable.
pub fn commit_all(context: &Context, checkpoint: &mut Checkpoint) {
    context.progress.commit(&checkpoint.take_changes());
}

/// Tells the receiver of `context` that `origin` waits for bytes, as the pump does when it finds a gap.
pub fn miss(context: &Context, origin: &Origin, gap: Gap) {
    context.progress.miss(origin, gap);
}

/// Whether anybody wants another session of the hop of `context`; asking forgets it.
pub async fn reopening(context: &Context) {
    context.progress.reopening().await;
}

/// Puts a source through its contract: it must give exactly `expected` (origin → all its bytes) and end, and
/// continue exactly when it is opened again at any position it could have been committed at.
///
/// `open` opens the source with `--once` at a checkpoint; it is called many times, with the same input.
///
/// # Panics
///
/// When a promise of [`Source`] does not hold.
pub async fn check_source(
    open: impl AsyncFn(Checkpoint) -> Result<Box<dyn Source>>,
    expected: &BTreeMap<Origin, Vec<u8>>,
    max_batch_bytes: usize,
) {
    let batches = read_to_end(open(Checkpoint::default()).await.expect("the source opens")).await;
    let mut ends: HashMap<&Origin, (Epoch, u64)> = HashMap::new();
    for batch in &batches {
        let length = batch.bytes().len();
        assert!(length <= max_batch_bytes, "a batch of {length} bytes is longer than {max_batch_bytes}");
        assert!(length > 0, "a batch without bytes, and without a loss in this input");
        let (epoch, end) = ends.entry(&batch.origin).or_insert((batch.epoch, 0));
        assert_eq!((batch.epoch, batch.start), (*epoch, *end), "batches of one origin follow each other");
        *end = batch.end();
    }
    assert_eq!(&contents(&batches), expected, "the source gives exactly what is there");

    // After each batch, and in the middle of each: the positions a receiver can stand at.
    let mut checkpoint = Checkpoint::default();
    for batch in &batches {
        let middle = batch.start + batch.span() / 2;
        for offset in [middle, batch.end()] {
            let position = Position { epoch: batch.epoch, offset, place: batch.place.clone() };
            checkpoint.set_position(&batch.origin, position);
            let source = open(checkpoint.clone()).await.expect("the source opens again");
            check_continuation(&checkpoint, read_to_end(source).await, expected);
        }
    }
}

fn check_continuation(from: &Checkpoint, batches: Vec<Batch>, expected: &BTreeMap<Origin, Vec<u8>>) {
    let mut checkpoint = from.clone();
    for mut batch in batches {
        match checkpoint.admit(&batch) {
            Admission::Pass => {}
            Admission::Cut(count) => batch.cut_front(count),
            Admission::Duplicate => continue,
            wrong => panic!("opened again, `{}` goes on at {} with {wrong:?}", batch.origin, batch.start),
        }
        let (start, end) = (batch.start as usize, batch.end() as usize);
        let bytes = &expected[&batch.origin];
        assert_eq!(batch.bytes(), &bytes[start..end], "content is a function of the offset");
        checkpoint.advance(&batch);
    }
    for (origin, bytes) in expected {
        let end = checkpoint.position(origin).map_or(0, |position| position.offset);
        assert_eq!(end, bytes.len() as u64, "opened again, `{origin}` is read to its end");
    }
}

async fn read_to_end(mut source: Box<dyn Source>) -> Vec<Batch> {
    let mut batches = Vec::new();
    loop {
        let read = tokio::time::timeout(PATIENCE, source.read()).await.expect("the source hangs");
        match read.expect("the source reads") {
            Some(batch) => batches.push(batch),
            None => return batches,
        }
    }
}

fn contents(batches: &[Batch]) -> BTreeMap<Origin, Vec<u8>> {
    let mut contents = BTreeMap::<Origin, Vec<u8>>::new();
    for batch in batches {
        contents.entry(batch.origin.clone()).or_default().extend(batch.bytes());
    }
    contents
}

/// Puts a sink through its contract. `open` opens it on the same output each time; `read_back` gives all
/// bytes that the output holds for an origin. A sink that keeps no positions is held to what remains.
///
/// # Panics
///
/// When a promise of [`Sink`] does not hold.
pub async fn check_sink(
    open: impl AsyncFn() -> Result<Box<dyn Sink>>,
    read_back: impl Fn(&Origin) -> Vec<u8>,
) {
    let plain = Origin::new("host", "/var/log/plain.log");
    let odd = Origin::new(b"h\xf6st", b"/tmp/..\n\x1b[31m\xff.log");
    let mut bench = Bench { checkpoint: Checkpoint::default(), expected: BTreeMap::new() };

    let (mut sink, restored) = bench.open(&open).await;
    let Some(restored) = restored else {
        bench.write(&mut sink, &plain, Epoch(1), b"one\ntwo\n").await;
        bench.commit(&mut sink).await;
        bench.commit(&mut sink).await;
        drop(sink);
        assert!(bench.open(&open).await.1.is_none(), "a sink keeps positions or it does not");
        bench.check(&read_back);
        return;
    };
    assert!(restored.is_empty(), "a sink that was never written to holds nothing");

    // A commit holds what was written before it, and survives everything.
    bench.write(&mut sink, &plain, Epoch(1), b"one\ntwo\n").await;
    bench.write(&mut sink, &odd, Epoch(2), b"nul \0 cr \r\n\xff\xfe\n\n\n").await;
    bench.write(&mut sink, &plain, Epoch(1), b"three\n").await;
    bench.cursor(1);
    bench.commit(&mut sink).await;
    bench.commit(&mut sink).await;
    drop(sink);
    bench.check(&read_back);

    // What was written after it does not count, and is written again without a trace.
    let mut sink = bench.reopen(&open).await;
    let committed = bench.checkpoint.clone();
    let uncommitted = Batch::data(plain.clone(), Epoch(1), bench.end(&plain), "four\nfi");
    assert_eq!(sink.write(uncommitted).await.expect("the sink writes"), Written::Accepted);
    drop(sink);
    let mut sink = bench.reopen(&open).await;
    assert_same(&bench.checkpoint, &committed);
    bench.write(&mut sink, &plain, Epoch(1), b"four\nfive\n").await;
    bench.commit(&mut sink).await;

    // A new epoch starts at 0; the one before is remembered.
    bench.write(&mut sink, &plain, Epoch(3), b"again\n").await;
    bench.commit(&mut sink).await;
    drop(sink);
    let mut sink = bench.reopen(&open).await;
    let history = bench.checkpoint.history(&plain).expect("the origin is known");
    assert_eq!(history.earlier.first().map(|(epoch, _)| *epoch), Some(Epoch(1)), "earlier epochs are kept");

    // A loss moves the position and leaves no bytes. A commit may hold nothing but a cursor.
    let loss = Batch::loss(odd.clone(), Epoch(2), bench.end(&odd), 1000, "a test");
    assert_eq!(sink.write(loss.clone()).await.expect("the sink notes a loss"), Written::Accepted);
    bench.checkpoint.advance(&loss);
    bench.commit(&mut sink).await;
    bench.cursor(2);
    bench.commit(&mut sink).await;
    bench.write(&mut sink, &odd, Epoch(2), b"after the loss\n").await;
    bench.commit(&mut sink).await;

    // Many origins, one commit.
    for number in 0..300 {
        let origin = Origin::new(format!("host{number}"), "/var/log/many.log");
        bench.write(&mut sink, &origin, Epoch(9), format!("from {number}\n").as_bytes()).await;
    }
    bench.commit(&mut sink).await;
    drop(sink);
    drop(bench.reopen(&open).await);
    bench.check(&read_back);
}

/// What the sink should hold by now.
struct Bench {
    checkpoint: Checkpoint,
    expected: BTreeMap<Origin, Vec<u8>>,
}

impl Bench {
    async fn open(
        &self,
        open: &impl AsyncFn() -> Result<Box<dyn Sink>>,
    ) -> (Box<dyn Sink>, Option<Checkpoint>) {
        let mut sink = open().await.expect("the sink opens");
        let restored = sink.restore().await.expect("the sink restores");
        (sink, restored)
    }

    async fn reopen(&self, open: &impl AsyncFn() -> Result<Box<dyn Sink>>) -> Box<dyn Sink> {
        let (sink, restored) = self.open(open).await;
        assert_same(&restored.expect("a sink keeps positions or it does not"), &self.checkpoint);
        sink
    }

    async fn write(&mut self, sink: &mut Box<dyn Sink>, origin: &Origin, epoch: Epoch, bytes: &[u8]) {
        let known = self.checkpoint.position(origin).filter(|position| position.epoch == epoch);
        let start = known.map_or(0, |position| position.offset);
        let mut batch = Batch::data(origin.clone(), epoch, start, bytes.to_vec());
        batch.place = Bytes::from(format!("place {start}"));
        let written = sink.write(batch.clone()).await.expect("the sink writes");
        assert_eq!(written, Written::Accepted, "the sink takes a batch that continues");
        self.checkpoint.advance(&batch);
        self.expected.entry(origin.clone()).or_default().extend(bytes);
    }

    async fn commit(&mut self, sink: &mut Box<dyn Sink>) {
        sink.commit(&self.checkpoint).await.expect("the sink commits");
        assert!(sink.held().is_empty(), "nothing is held");
        self.checkpoint.clear_changes();
    }

    fn cursor(&mut self, sequence: u64) {
        let position = Bytes::from(format!("sequence {sequence}"));
        self.checkpoint.set_cursor(&Cursor { transport: "test".into(), position });
    }

    fn end(&self, origin: &Origin) -> u64 {
        self.checkpoint.position(origin).map_or(0, |position| position.offset)
    }

    fn check(&self, read_back: &impl Fn(&Origin) -> Vec<u8>) {
        for (origin, bytes) in &self.expected {
            let found = read_back(origin);
            assert!(
                found == *bytes,
                "`{origin}` holds {:?} instead of {:?}",
                found.escape_ascii().to_string(),
                bytes.escape_ascii().to_string()
            );
        }
    }
}

fn assert_same(found: &Checkpoint, expected: &Checkpoint) {
    let origins = |checkpoint: &Checkpoint| -> BTreeMap<Origin, crate::History> {
        checkpoint.origins().map(|(origin, history)| (origin.clone(), history.clone())).collect()
    };
    assert_eq!(origins(found), origins(expected), "a restored checkpoint is the committed one");
    assert!(found.cursors().eq(expected.cursors()), "a restored cursor is the committed one");
}
