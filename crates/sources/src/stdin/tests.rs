use std::collections::VecDeque;

use bytes::Bytes;
use fshipper_pipeline::{Content, History, Position};

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

fn open(input: &Arc<Mutex<Input>>, from: &Checkpoint) -> Lines {
    try_open(input, from).unwrap()
}

fn try_open(input: &Arc<Mutex<Input>>, from: &Checkpoint) -> Result<Lines> {
    Lines::new(input.clone().try_lock_owned().unwrap(), origin(), from)
}

fn origin() -> Origin {
    Origin::new("h", "stdin")
}

/// One that holds another process's epoch up to `offset`, where it was as far as `reached` before.
fn after_another(offset: u64, reached: Option<u64>) -> Checkpoint {
    let current = Position { epoch: Epoch(7), offset, place: Bytes::new() };
    let earlier = reached.map(|reached| (Epoch(7), reached)).into_iter().collect();
    let mut from = Checkpoint::default();
    from.set_history(&origin(), Some(History { current, earlier }));
    from
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
async fn the_sessions_of_a_process_go_on_in_its_epoch() {
    let input = start(pieces(&[b"one\n", b"two\n"]), |_| (), 100, Progress::default());
    let mut lines = open(&input, &Checkpoint::default());
    let first = lines.read().await.unwrap().unwrap();
    assert_eq!((first.start, first.bytes()), (0, &b"one\n"[..]));
    assert!(!lines.can_go_back());
    drop(lines);
    let mut lines = open(&input, &at(&first));
    let second = lines.read().await.unwrap().unwrap();
    assert_eq!((second.epoch, second.start, second.bytes()), (first.epoch, 4, &b"two\n"[..]));
    assert!(lines.read().await.unwrap().is_none());
}

#[tokio::test]
async fn each_process_begins_an_epoch_of_its_own() {
    let input = start(pieces(&[b"new\n"]), |_| (), 100, Progress::default());
    let batch = open(&input, &after_another(4, None)).read().await.unwrap().unwrap();
    assert_ne!(batch.epoch, Epoch(7));
    assert_eq!((batch.start, batch.bytes()), (0, &b"new\n"[..]));
}

#[tokio::test]
async fn bytes_of_an_earlier_process_that_somebody_misses_are_lost_in_its_epoch() {
    let input = start(pieces(&[b"new\n"]), |_| (), 100, Progress::default());
    let mut lines = open(&input, &after_another(4, Some(100)));
    let loss = lines.read().await.unwrap().unwrap();
    assert!(matches!(loss.content, Content::Loss { missing: 96, .. }), "{loss:?}");
    assert_eq!((loss.epoch, loss.start), (Epoch(7), 4));
    let batch = lines.read().await.unwrap().unwrap();
    assert_eq!((batch.start, batch.epoch == Epoch(7)), (0, false));
}

#[tokio::test]
async fn another_process_that_begins_the_log_anew_ends_this_one() {
    let input = start(pieces(&[b"one\n", b"two\n"]), |_| (), 100, Progress::default());
    let first = open(&input, &after_another(4, None)).read().await.unwrap().unwrap();
    // What was there before, or nothing, is there again: the receiving side went back.
    for from in [after_another(4, None), Checkpoint::default()] {
        assert_eq!(next_loss(&mut open(&input, &from)).await, (0, 4));
    }
    let mut from = at(&first);
    from.set_position(&origin(), Position { epoch: Epoch(9), offset: 3, place: Bytes::new() });
    let Err(error) = try_open(&input, &from) else { panic!("there are two of them") };
    assert!(error.is::<Fatal>() && error.to_string().contains("`name` of its own"), "{error}");
}

#[test]
fn a_log_has_the_name_that_is_given() {
    let folder = tempfile::tempdir().unwrap();
    let settings = fshipper_pipeline::testing::context(folder.path()).settings;
    let stdin = |name: Option<&str>| Stdin { name: name.map(str::to_owned) };
    assert_eq!((stdin(None).name(), stdin(Some("cron")).name()), ("stdin", "cron"));
    assert!(stdin(Some("cron")).validate(&settings).is_ok());
    for wrong in ["", "..", "a/b", "a\nb", &"x".repeat(256)] {
        assert!(stdin(Some(wrong)).validate(&settings).is_err(), "{wrong:?}");
    }
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

/// When it had taken its last bytes it saw the stop before anybody asked for them.
#[tokio::test]
async fn a_stop_gives_a_line_without_end_that_the_thread_left_behind() {
    let (progress, released) = (Progress::default(), Arc::new(AtomicBool::new(false)));
    let is_released = released.clone();
    let wait = move |input: &Pieces| {
        while input.0.is_empty() && !is_released.load(Ordering::Relaxed) {
            thread::yield_now();
        }
    };
    let input = start(pieces(&[b"no line end"]), wait, 100, progress.clone());
    let mut lines = open(&input, &Checkpoint::default());
    while progress.in_hand().load(Ordering::Relaxed) < 11 {
        thread::yield_now();
    }
    assert!(lines.drain());
    released.store(true, Ordering::Relaxed);
    while !lines.input.blocks.is_closed() {
        thread::yield_now();
    }
    assert_eq!(next(&mut lines).await, (0, "no line end".to_owned()));
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
