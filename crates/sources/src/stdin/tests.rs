use std::collections::VecDeque;

use bytes::Bytes;
use fshipper_pipeline::{Content, Position};

use super::*;

/// Gives its pieces one by one, as a pipe does.
struct Pieces(VecDeque<&'static [u8]>);

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(first) = self.0.front_mut() else { return Ok(0) };
        let count = first.len().min(buffer.len());
        buffer[..count].copy_from_slice(&first[..count]);
        *first = &first[count..];
        if first.is_empty() {
            self.0.pop_front();
        }
        Ok(count)
    }
}

fn pieces(pieces: &[&'static [u8]]) -> Pieces {
    Pieces(pieces.iter().copied().collect())
}

/// A pipe that nobody closes: without a piece it waits for ever.
fn never_at_its_end(input: &Pieces) {
    while input.0.is_empty() {
        thread::park();
    }
}

fn blocks(input: &[&'static [u8]], max_bytes: usize) -> Vec<Vec<u8>> {
    let mut blocks = Vec::new();
    let mut give = |block: Bytes| {
        blocks.push(block.to_vec());
        true
    };
    let (rest, is_closed, progress) = (Mutex::default(), AtomicBool::new(false), Progress::default());
    Hand { rest, is_closed, progress }.take_blocks(pieces(input), |_| (), max_bytes, &mut give).unwrap();
    blocks
}

fn settings() -> Settings {
    let folder = tempfile::tempdir().unwrap();
    (*fshipper_pipeline::testing::context(folder.path()).settings).clone()
}

fn open(input: &Arc<Mutex<Input>>, from: &Checkpoint) -> Lines {
    Lines::new(input.clone().try_lock_owned().unwrap(), from, &settings())
}

/// What becomes of the checkpoint when everything up to there is durable.
fn at(batch: &Batch) -> Checkpoint {
    let mut checkpoint = Checkpoint::default();
    checkpoint.advance(batch);
    checkpoint
}

async fn next(lines: &mut Lines) -> (u64, String) {
    let batch = lines.read().await.unwrap().unwrap();
    (batch.start, String::from_utf8(batch.bytes().to_vec()).unwrap())
}

async fn next_loss(lines: &mut Lines) -> (u64, u64) {
    let batch = lines.read().await.unwrap().unwrap();
    let Content::Loss { missing, .. } = batch.content else { panic!("{batch:?} is no loss") };
    (batch.start, missing)
}

#[test]
fn gives_what_is_there_up_to_the_last_line_end() {
    assert_eq!(blocks(&[b"one\ntwo\nth", b"ree\n", b"four"], 100), [&b"one\ntwo\n"[..], b"three\n", b"four"]);
    assert_eq!(blocks(&[b"\0\xff\r\n"], 100), [b"\0\xff\r\n"]);
    assert!(blocks(&[], 100).is_empty());
}

#[test]
fn a_line_longer_than_a_batch_comes_in_parts() {
    assert_eq!(blocks(&[b"123456789\nab\n"], 4), [&b"1234"[..], b"5678", b"9\n", b"ab\n"]);
}

#[tokio::test]
async fn continues_at_the_restored_end() {
    let open = |input: &[&'static [u8]], from: &Checkpoint| {
        open(&start(pieces(input), |_| (), 100, Progress::default()), from)
    };
    let mut first = open(&[b"one\n"], &Checkpoint::default());
    let batch = first.read().await.unwrap().unwrap();
    assert_eq!((batch.start, batch.bytes()), (0, &b"one\n"[..]));
    assert!(first.read().await.unwrap().is_none());
    assert!(!first.can_go_back());

    let next = open(&[b"two\n"], &at(&batch)).read().await.unwrap().unwrap();
    assert_eq!((next.epoch, next.start), (batch.epoch, 4));
}

#[tokio::test]
async fn bytes_that_somebody_misses_are_lost_and_no_others_take_their_offsets() {
    let input = start(pieces(&[b"new\n"]), |_| (), 100, Progress::default());
    let origin = Origin::new(settings().host, "stdin");
    let current = Position { epoch: Epoch(7), offset: 4, place: Bytes::new() };
    let mut from = Checkpoint::default();
    from.set_history(&origin, Some(History { current, earlier: vec![(Epoch(7), 100)] }));
    let mut lines = open(&input, &from);
    assert_eq!(next_loss(&mut lines).await, (4, 96));
    assert_eq!(next(&mut lines).await, (100, "new\n".to_owned()));
    assert_eq!(lines.epoch, Epoch(7));
}

/// As when a broker went back in time, and nobody knows how far it was.
#[tokio::test]
async fn what_this_process_gave_is_known_even_if_nobody_else_remembers() {
    let input = start(pieces(&[b"one\n", b"two\n", b"three\n"]), |_| (), 100, Progress::default());
    let mut lines = open(&input, &Checkpoint::default());
    let first = lines.read().await.unwrap().unwrap();
    assert_eq!(next(&mut lines).await, (4, "two\n".to_owned()));
    drop(lines);
    let mut lines = open(&input, &at(&first));
    assert_eq!(next_loss(&mut lines).await, (4, 4));
    assert_eq!(next(&mut lines).await, (8, "three\n".to_owned()));
}

#[tokio::test]
async fn a_stop_gives_everything_that_was_taken_and_takes_no_more() {
    let progress = Progress::default();
    let all: [&[u8]; 4] = [b"one\n", b"two\n", b"three\n", b"no line end"];
    let input = start(pieces(&all), never_at_its_end, 100, progress.clone());
    let in_hand = || progress.in_hand().load(Ordering::Relaxed);
    let mut lines = open(&input, &Checkpoint::default());
    assert_eq!(next(&mut lines).await.1, "one\n");
    // Of the rest it may take one block, and another that waits for room.
    let mut given = "one\n".to_owned();
    assert!(lines.drain());
    while let Some(batch) = lines.read().await.unwrap() {
        given.push_str(std::str::from_utf8(batch.bytes()).unwrap());
    }
    assert!("one\ntwo\nthree\nno line end".starts_with(&given), "{given:?}");
    assert_eq!(in_hand(), 0);
}

#[tokio::test]
async fn a_stop_gives_a_line_that_has_no_end_yet() {
    let progress = Progress::default();
    let input = start(pieces(&[b"one\nno line ", b"end"]), never_at_its_end, 100, progress.clone());
    let mut lines = open(&input, &Checkpoint::default());
    assert_eq!(next(&mut lines).await.1, "one\n");
    while progress.in_hand().load(Ordering::Relaxed) < 11 {
        thread::yield_now();
    }
    assert!(lines.drain());
    assert_eq!(next(&mut lines).await, (4, "no line end".to_owned()));
    assert!(lines.read().await.unwrap().is_none());
    assert_eq!(progress.in_hand().load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn what_was_taken_for_a_source_that_was_dropped_waits_for_the_next_one() {
    let progress = Progress::default();
    let input = start(pieces(&[b"one\n", b"two\n", b"three\n"]), |_| (), 100, progress.clone());
    let mut lines = open(&input, &Checkpoint::default());
    let first = lines.read().await.unwrap().unwrap();
    drop(lines);
    let mut lines = open(&input, &at(&first));
    assert_eq!(next(&mut lines).await, (4, "two\n".to_owned()));
    assert_eq!(next(&mut lines).await, (8, "three\n".to_owned()));
    assert!(lines.read().await.unwrap().is_none());
}

/// An input that breaks.
struct Broken;

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::other("it is gone"))
    }
}

#[tokio::test]
async fn an_input_that_breaks_is_not_at_its_end() {
    let input = start(Broken, |_| (), 100, Progress::default());
    let error = open(&input, &Checkpoint::default()).read().await.unwrap_err();
    assert!(error.is::<Fatal>(), "opened again it would be at its end: {error}");
}
