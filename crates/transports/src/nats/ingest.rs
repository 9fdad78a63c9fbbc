//! How a log with a backlog gets into the stream: [`Shipper::ingest`].
//!
//! [`Shipper::ship`] has one publish of a log under way at a time, and pays a round trip for each. This has many,
//! as messages of one [fast batch](super::fast_batch): as fenced, contiguous and ordered as those, and settled by
//! the same question when it is in doubt what the stream has. It pays while nobody else publishes to the stream,
//! and ends whenever somebody does; then the log goes on one message after the other for a while.

use std::collections::VecDeque;
use std::pin::pin;
use std::time::Duration;

use async_nats::Subject;
use fshipper_pipeline::{Batch, Origin};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::api::codes;
use super::config::{Compression, Framing};
use super::fast_batch::{FastBatch, Heard};
use super::load::Load;
use super::outcome::Stop;
use super::requests::REPLY_TIMEOUT;
use super::restore::Tail;
use super::shipper::{NO_ANSWER, Shipper};
use super::verdict::{Extent, Verdict, after, judge, offset_of};
use super::wire;

/// What came of it.
pub(super) struct Ingested {
    /// Where the log ends in the stream now.
    pub(super) result: Result<Tail, Stop>,
    /// What is still to be published, in order.
    pub(super) rest: VecDeque<Batch>,
    /// How the next one goes about it.
    pub(super) pace: Pace,
}

/// How much of a log is worth having under way at once.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    /// In bytes.
    window: usize,
    /// How many in a row have ended early.
    disturbed: u32,
    /// How many publishes are to go one by one before it is tried again.
    skip: u32,
}

/// The batches of one log on their way into the stream.
struct Ingest<'a> {
    shipper: &'a Shipper,
    load: &'a Load,
    origin: Origin,
    batch: FastBatch,
    /// What the batch follows.
    base: Tail,
    /// The highest sequence that was known before it.
    highest: u64,
    /// What the stream is known to have. The sequence is a guess until the batch has ended.
    tail: Tail,
    /// How many messages that is.
    stored: u64,
    /// What was begun to be sent and is not known to be stored, in order.
    sent: VecDeque<Batch>,
    /// Where each message of that ends.
    ends: VecDeque<u64>,
    /// The messages of the last batch in `sent` that are still to be encoded.
    parts: Box<dyn Iterator<Item = Batch> + Send>,
    /// Those that go next, in order, with where each ends.
    encoded: VecDeque<(u64, Encoded)>,
    /// What comes after.
    waiting: VecDeque<Batch>,
    pace: Pace,
}

/// A message, or whoever makes it.
enum Encoded {
    Done(wire::Message),
    Running(JoinHandle<wire::Message>),
}

/// Whether it goes on.
enum Turn {
    On,
    /// The batch is over, and the tail is what the stream has.
    Over,
    /// Nobody knows what the stream has, for this reason.
    Doubt(String),
}

/// The least that is under way; the most is [what a hop may hold](Load::max_bytes).
const MIN_WINDOW_BYTES: usize = 256 << 10;

/// The same in messages, each of which may be refused with an answer of its own: below what a subscription holds.
const MAX_WINDOW_MESSAGES: usize = 2000;

/// After how many messages the server acknowledges: each block, and lines by the dozen.
const BLOCKS_PER_ACKNOWLEDGEMENT: usize = 1;
const LINES_PER_ACKNOWLEDGEMENT: usize = 50;

/// With nothing to send for so long, and two round trips, the batch is ended: whoever else publishes would do it.
const IDLE: Duration = Duration::from_millis(250);

/// How many messages are compressed at once, each on a thread of its own: that is the slowest step by far.
const COMPRESSED_AHEAD: usize = 4;

/// Less is compressed sooner than a thread takes it up.
const MIN_THREAD_BYTES: usize = 16 << 10;

const CONNECTION_BROKE: &str = "the connection broke";

/// How many publishes go one by one at most before the next attempt: 2 to the power of this.
const MAX_SKIP_EXPONENT: u32 = 8;

impl Default for Pace {
    fn default() -> Self {
        Self { window: 4 * MIN_WINDOW_BYTES, disturbed: 0, skip: 0 }
    }
}

impl Pace {
    /// Whether it is time for another attempt; asked once for each publish.
    pub(super) fn is_ready(&mut self) -> bool {
        self.skip = self.skip.saturating_sub(1);
        self.skip == 0
    }

    /// So many `bytes` that were under way have arrived: more may be, up to `max_bytes`.
    fn rise(&mut self, bytes: usize, max_bytes: usize) {
        self.window = self.window.saturating_add(bytes).min(max_bytes);
    }

    /// A batch ended when it was asked to.
    fn calm(&mut self) {
        self.disturbed = 0;
    }

    /// Somebody else published, or something failed.
    fn fall(&mut self) {
        self.window = (self.window / 2).max(MIN_WINDOW_BYTES);
        self.disturbed += 1;
        self.skip = 1 << self.disturbed.min(MAX_SKIP_EXPONENT);
    }
}

impl Shipper {
    /// Publishes what is `waiting` after `tail`, and what comes over `feed` until that ends, with many messages
    /// under way at once.
    pub(super) async fn ingest(
        &self,
        tail: Tail,
        waiting: VecDeque<Batch>,
        mut feed: mpsc::Receiver<Batch>,
        load: &Load,
        pace: Pace,
    ) -> Ingested {
        let Some(first) = waiting.front() else {
            return Ingested { result: Ok(tail), rest: waiting, pace };
        };
        let origin = first.origin.clone();
        let subject = Subject::from(self.subjects.publish(&origin));
        let flow = match self.framing {
            Framing::Batch => BLOCKS_PER_ACKNOWLEDGEMENT,
            Framing::Line => LINES_PER_ACKNOWLEDGEMENT,
        };
        if let Err(lost @ Stop::Failed(_)) = self.is_whole().await {
            return Ingested { result: Err(lost), rest: waiting, pace };
        }
        let client = &self.api.requests().connection().client;
        let batch = FastBatch::new(client, &self.stream.name, subject, tail.sequence, flow).await;
        let batch = match batch {
            Ok(batch) => batch,
            Err(error) => return Ingested { result: Err(Stop::Failed(error)), rest: waiting, pace },
        };
        let mut ingest = Ingest {
            shipper: self,
            load,
            origin,
            batch,
            base: tail.clone(),
            highest: self.continuity.highest(),
            tail,
            stored: 0,
            sent: VecDeque::new(),
            ends: VecDeque::new(),
            parts: Box::new(std::iter::empty()),
            encoded: VecDeque::new(),
            waiting,
            pace,
        };
        let result = ingest.run(&mut feed).await;
        let Ingest { tail, mut sent, mut waiting, pace, .. } = ingest;
        // The sender is dropped together with this, so nothing more can come.
        feed.close();
        while let Ok(batch) = feed.try_recv() {
            waiting.push_back(batch);
        }
        sent.append(&mut waiting);
        Ingested { result: result.map(|()| tail), rest: sent, pace }
    }

    fn messages_of(&self, batch: Batch) -> Option<Box<dyn Iterator<Item = Batch> + Send>> {
        let room = self.fitting(self.room(&batch)?);
        let parts = wire::split(batch, room);
        Some(match self.framing {
            Framing::Batch => Box::new(parts),
            Framing::Line => Box::new(parts.flat_map(wire::lines)),
        })
    }
}

impl Ingest<'_> {
    /// Publishes until there is nothing more, or it cannot go on like this.
    async fn run(&mut self, feed: &mut mpsc::Receiver<Batch>) -> Result<(), Stop> {
        let connection = self.shipper.api.requests().connection();
        let mut link = connection.connected().await;
        let mut denied = pin!(connection.denied(&self.shipper.subjects.publish(&self.origin)));
        let idle = IDLE + 2 * self.shipper.api.requests().round_trip().unwrap_or_default();
        let (mut fed, mut ending, mut quiet_since) = (true, false, Instant::now());
        let mut said = None;
        let (reason, is_answered) = loop {
            if let Some(heard) = said.take().or_else(|| self.batch.heard_so_far()) {
                quiet_since = Instant::now();
                match self.hear(heard) {
                    Turn::On => continue,
                    Turn::Over => return self.end(ending),
                    Turn::Doubt(reason) => break (reason, true),
                }
            }
            let is_idle = quiet_since.elapsed() >= idle;
            if !ending && self.has_room() {
                self.encode_ahead();
                if !self.encoded.is_empty() {
                    quiet_since = Instant::now();
                    tokio::select! {
                        biased;
                        sent = self.send_next() => match sent {
                            Ok(()) => continue,
                            Err(error) => break (format!("{error:#}"), false),
                        },
                        _ = link.changed() => break (CONNECTION_BROKE.to_owned(), false),
                    }
                }
                // Nothing more can come, or what comes does not belong to this batch.
                if !fed || !self.waiting.is_empty() || is_idle {
                    if self.batch.sent == 0 {
                        return Ok(());
                    }
                    (ending, quiet_since) = (true, Instant::now());
                    if let Err(error) = self.batch.end().await {
                        break (error.to_string(), false);
                    }
                }
            }
            let patience = if ending || !self.has_room() { REPLY_TIMEOUT } else { idle };
            tokio::select! {
                biased;
                heard = self.batch.heard() => said = Some(heard),
                _ = link.changed() => break (CONNECTION_BROKE.to_owned(), false),
                violation = &mut denied => break (violation, false),
                next = feed.recv(), if fed && self.waiting.is_empty() => {
                    fed = next.is_some();
                    self.waiting.extend(next);
                }
                () = tokio::time::sleep_until(quiet_since + patience) => {
                    if patience == REPLY_TIMEOUT {
                        self.shipper.complain_of(NO_ANSWER);
                        break (NO_ANSWER.to_owned(), false);
                    }
                }
            }
        };
        self.pace.fall();
        let known = offset_of(&self.tail);
        let under_way = self.ends.back().map_or(0, |end| end.saturating_sub(known));
        self.settle(&reason).await?;
        if !is_answered && offset_of(&self.tail) == known {
            self.shipper.shrink(usize::try_from(under_way).unwrap_or(usize::MAX));
        }
        Ok(())
    }

    /// The batch is over, which was asked for or not; the tail is what the stream has.
    fn end(&mut self, asked: bool) -> Result<(), Stop> {
        if self.stored > 0 && self.tail.sequence <= self.highest {
            return Err(self.shipper.has_lost());
        }
        if asked && self.ends.is_empty() {
            self.pace.calm();
        } else {
            self.pace.fall();
        }
        Ok(())
    }

    /// Whether another message may be under way. One always may.
    fn has_room(&self) -> bool {
        let bytes = self.ends.back().map_or(0, |end| end.saturating_sub(offset_of(&self.tail)));
        self.ends.is_empty() || (self.ends.len() < MAX_WINDOW_MESSAGES && bytes < self.pace.window as u64)
    }

    /// Sees to it that there is a next message, if there is any; more than one where that takes a while.
    fn encode_ahead(&mut self) {
        let compresses = self.shipper.encoding.compression == Compression::Zstd;
        let ahead = if compresses { COMPRESSED_AHEAD } else { 1 };
        while self.encoded.len() < ahead {
            let Some(part) = self.next_part() else { return };
            let (end, encoding, reached) = (part.end(), self.shipper.encoding, self.shipper.reached(&part));
            let takes_a_while = compresses && part.bytes().len() >= MIN_THREAD_BYTES;
            let encode = move || wire::encode_again(&part, encoding, reached);
            let encoded = match takes_a_while {
                true => Encoded::Running(tokio::task::spawn_blocking(encode)),
                false => Encoded::Done(encode()),
            };
            self.encoded.push_back((end, encoded));
        }
    }

    /// What becomes the next message; nothing when what waits does not continue what was taken.
    fn next_part(&mut self) -> Option<Batch> {
        loop {
            if let Some(part) = self.parts.next() {
                return Some(part);
            }
            let end = self.sent.back().map(|batch| (batch.epoch, batch.end())).or(self.tail.end);
            let batch = self.waiting.front()?;
            // Whatever else it is, it does not share a batch.
            if end != Some((batch.epoch, batch.start)) || batch.bytes().is_empty() {
                return None;
            }
            self.parts = self.shipper.messages_of(batch.clone())?;
            self.sent.extend(self.waiting.pop_front());
        }
    }

    async fn send_next(&mut self) -> anyhow::Result<()> {
        let Some((end, encoded)) = self.encoded.pop_front() else { return Ok(()) };
        let message = match encoded {
            Encoded::Done(message) => message,
            Encoded::Running(task) => task.await?,
        };
        self.ends.push_back(end);
        Ok(self.batch.send(message).await?)
    }

    fn hear(&mut self, heard: Heard) -> Turn {
        match heard {
            Heard::Stored(count) => {
                self.note(count);
                Turn::On
            }
            Heard::Over { count, sequence } => {
                if count < self.stored || count > self.batch.sent {
                    return Turn::Doubt(format!("{count} messages are stored, says the server"));
                }
                self.note(count);
                if count > 0 {
                    self.tail.sequence = sequence;
                }
                self.shipper.note(&self.origin, &self.tail);
                Turn::Over
            }
            Heard::Refused(refusal) => {
                if refusal.err_code == codes::FAST_PUBLISH_DISABLED {
                    self.shipper.give_up_fast_batches();
                }
                Turn::Doubt(refusal.to_string())
            }
            Heard::Nothing => Turn::Doubt("nobody serves it".to_owned()),
        }
    }

    /// The first `count` messages are stored.
    fn note(&mut self, count: u64) {
        let Some(more) =
            count.checked_sub(self.stored).filter(|&more| more > 0 && more <= self.ends.len() as u64)
        else {
            return;
        };
        let (mut before, mut end) = (None, self.tail.end);
        for reached in self.ends.drain(..more as usize) {
            before = end;
            end = end.map(|(epoch, _)| (epoch, reached));
        }
        let bytes = offset_of(&Tail { sequence: 0, end }) - offset_of(&self.tail);
        self.stored = count;
        self.tail = Tail { sequence: self.batch.sequence_of(count), end };
        // That the server took the message after it proves the guess at its sequence.
        if count > 1 {
            let proven = Tail { sequence: self.batch.sequence_of(count - 1), end: before };
            self.shipper.note(&self.origin, &proven);
        }
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        self.pace.rise(bytes, self.load.max_bytes());
        self.let_go();
    }

    /// Forgets what the stream has.
    fn let_go(&mut self) {
        let end = offset_of(&self.tail);
        while let Some(batch) = self.sent.pop_front() {
            let bytes = batch.bytes().len();
            match after(batch, end) {
                None => self.load.take(1, bytes),
                Some(rest) => {
                    self.load.take(0, bytes - rest.bytes().len());
                    self.sent.push_front(rest);
                    break;
                }
            }
        }
    }

    /// Asks the stream what it has of what was sent.
    async fn settle(&mut self, reason: &str) -> Result<(), Stop> {
        let subject = Subject::from(self.shipper.subjects.publish(&self.origin));
        tracing::debug!("asking what became of messages to `{subject}`: {reason}");
        let Some((epoch, start)) = self.tail.end else { return Ok(()) };
        let end = self.ends.back().copied().unwrap_or(start);
        let parts = self.sent.iter().map(|batch| (batch.start, batch.bytes())).collect();
        let sent = Extent { origin: &self.origin, epoch, start, end, parts };
        let last = self.shipper.ask(&subject, 0).await?;
        // What has the sequence of the last acknowledged message by now may be something else: only the one that the
        // batch follows is certain.
        match judge(&self.base, sent, last.as_ref()) {
            Verdict::Stored(tail) | Verdict::Continue(tail) if offset_of(&tail) >= start => self.tail = tail,
            Verdict::Stored(_) | Verdict::Continue(_) => {
                return Err(self.shipper.stop(Verdict::WentBack, &self.origin));
            }
            verdict => return Err(self.shipper.stop(verdict, &self.origin)),
        }
        if offset_of(&self.tail) > end {
            self.shipper.complain_of_rival(&self.origin);
        }
        self.shipper.note(&self.origin, &self.tail);
        self.let_go();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many publishes go one by one before the next attempt.
    fn pause(pace: &mut Pace) -> usize {
        std::iter::from_fn(|| (!pace.is_ready()).then_some(())).count()
    }

    #[test]
    fn who_is_disturbed_again_and_again_tries_it_ever_less_often() {
        let mut pace = Pace::default();
        assert_eq!(pause(&mut pace), 0);
        let mut pauses = Vec::new();
        for _ in 0..12 {
            // Some of it always arrives.
            pace.rise(1000, usize::MAX);
            pace.fall();
            pauses.push(pause(&mut pace));
        }
        assert_eq!(pauses, [1, 3, 7, 15, 31, 63, 127, 255, 255, 255, 255, 255]);
        pace.calm();
        pace.fall();
        assert_eq!(pause(&mut pace), 1);
    }
}
