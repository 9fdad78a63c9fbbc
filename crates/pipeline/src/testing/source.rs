//! What a source promises, tried out: [`check_source`], [`check_source_after_loss`].

use std::collections::{BTreeMap, HashMap};

use anyhow::Result;
use bytes::Bytes;

use super::PATIENCE;
use crate::{Admission, Batch, Checkpoint, Content, Cursor, Epoch, History, Origin, Position, Source};

/// What "a few hundred bytes" are at most.
const MAX_PLACE_BYTES: usize = 1000;

/// Puts a source through its contract: it must give exactly `expected` (origin → all its bytes) and end, and
/// continue exactly when it is opened again at any position it could have been committed at, also where the receiving
/// side had [more](History::reached) before.
///
/// `open` opens the source with `--once` at a checkpoint; it is called many times, with the same input. The checkpoint
/// holds positions of others too, as it does where several sources feed one sink.
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
    let mut checkpoint = strangers();
    for batch in &batches {
        let middle = batch.start + batch.span() / 2;
        for offset in [middle, batch.end()] {
            let position = Position { epoch: batch.epoch, offset, place: batch.place.clone() };
            checkpoint.set_position(&batch.origin, position.clone());
            check_continuation(&open, &checkpoint, expected).await;
            // A receiver that had all of it and lost some: the bytes are there, and given again from there.
            let mut shrunken = checkpoint.clone();
            let earlier =
                vec![(Epoch(!batch.epoch.0), 3), (batch.epoch, expected[&batch.origin].len() as u64)];
            shrunken.set_history(&batch.origin, Some(History { current: position, earlier }));
            check_continuation(&open, &shrunken, expected).await;
        }
    }
}

/// Puts a source through its contract where bytes are gone: opened at `from`, of whose origins nothing behind the
/// positions can be read any more, it must record that, up to where the receiving side [was](History::reached), and
/// give no other bytes in their place.
///
/// # Panics
///
/// When a promise of [`Source`] does not hold.
pub async fn check_source_after_loss(
    open: impl AsyncFn(Checkpoint) -> Result<Box<dyn Source>>,
    from: &Checkpoint,
) {
    let batches = read_to_end(open(from.clone()).await.expect("the source opens")).await;
    for (origin, history) in from.origins() {
        let Position { epoch, offset, .. } = history.current;
        let end = history.reached().unwrap_or(offset);
        let (mut reached, mut is_recorded) = (offset, false);
        for batch in batches.iter().filter(|batch| batch.origin == *origin && batch.epoch == epoch) {
            assert!(
                batch.start <= reached,
                "`{origin}` goes on at {}, behind a gap at {reached}",
                batch.start
            );
            is_recorded |= matches!(batch.content, Content::Loss { .. });
            assert!(
                batch.start >= end || batch.bytes().is_empty(),
                "`{origin}` has other bytes at {}, where the receiving side may have those that are gone, up to {end}",
                batch.start
            );
            reached = reached.max(batch.end());
        }
        assert!(is_recorded, "the loss of what came after {offset} in `{origin}` is recorded");
        assert!(reached >= end, "the loss in `{origin}` is recorded up to {reached} instead of {end}");
    }
}

/// What other sources of the same sink have come to.
fn strangers() -> Checkpoint {
    let mut checkpoint = Checkpoint::default();
    let origin = Origin::new("another host", "/var/log/stranger.log");
    checkpoint
        .set_position(&origin, Position { epoch: Epoch(5), offset: 1000, place: Bytes::from("theirs") });
    checkpoint.set_cursor(&Cursor { transport: "another".into(), position: Bytes::from("theirs") });
    checkpoint.clear_changes();
    checkpoint
}

async fn check_continuation(
    open: &impl AsyncFn(Checkpoint) -> Result<Box<dyn Source>>,
    from: &Checkpoint,
    expected: &BTreeMap<Origin, Vec<u8>>,
) {
    let batches = read_to_end(open(from.clone()).await.expect("the source opens again")).await;
    let mut checkpoint = from.clone();
    for mut batch in batches {
        let Some(bytes) = expected.get(&batch.origin) else {
            panic!("opened again, the source gives `{}`, which is another one's", batch.origin);
        };
        match checkpoint.admit(&batch) {
            Admission::Pass => {}
            Admission::Cut(count) => batch.cut_front(count),
            Admission::Duplicate => continue,
            wrong => panic!("opened again, `{}` goes on at {} with {wrong:?}", batch.origin, batch.start),
        }
        let (start, end) = (batch.start as usize, batch.end() as usize);
        assert!(
            bytes.get(start..end) == Some(batch.bytes()),
            "opened again, `{}` has other bytes at {start}: content is a function of the offset",
            batch.origin
        );
        checkpoint.advance(&batch);
    }
    for (origin, bytes) in expected {
        let end = checkpoint.position(origin).map_or(0, |position| position.offset);
        assert_eq!(end, bytes.len() as u64, "opened again, `{origin}` is read to its end");
    }
}

async fn read_to_end(mut source: Box<dyn Source>) -> Vec<Batch> {
    let mut batches: Vec<Batch> = Vec::new();
    loop {
        let read = tokio::time::timeout(PATIENCE, source.read()).await.expect("the source hangs");
        let Some(batch) = read.expect("the source reads") else { return batches };
        assert!(batch.lease.is_none(), "only the pump gives a batch a lease");
        let place = &batch.place;
        assert!(
            place.len() <= MAX_PLACE_BYTES && place.iter().all(|byte| matches!(byte, b' '..=b'~')),
            "a place is printable ASCII, a few hundred bytes at most: `{}`",
            place.escape_ascii()
        );
        batches.push(batch);
    }
}

fn contents(batches: &[Batch]) -> BTreeMap<Origin, Vec<u8>> {
    let mut contents = BTreeMap::<Origin, Vec<u8>>::new();
    for batch in batches {
        contents.entry(batch.origin.clone()).or_default().extend(batch.bytes());
    }
    contents
}
