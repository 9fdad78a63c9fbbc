//! How batches of one origin get into the stream: [`Shipper::ship`].
//!
//! Each publish says which message is the last of its subject; the server refuses it when that is not so. One
//! publish of an origin is under way at a time. So the stream itself holds every origin contiguous, in order
//! and once, whatever is lost, late or sent twice, and whoever else publishes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::anyhow;
use async_nats::Subject;
use fshipper_pipeline::{Backoff, Batch, Complaint, Epoch, Origin};
use serde::Deserialize;
use tokio::time::Instant;

use super::api::{Api, Refusal};
use super::config::Framing;
use super::continuity::Continuity;
use super::floor::heard::Heard;
use super::outcome::{self, Outcome, Stop};
use super::places::Places;
use super::requests::Failure;
use super::restore::Tail;
use super::stream::Stream;
use super::subject::Subjects;
use super::verdict::{Verdict, after, beyond, judge, offset_of};
use super::wire::{self, Encoding};

mod parcel;
mod questions;
mod sizes;

use parcel::Parcel;

/// What all origins of one sender share.
#[derive(Debug)]
pub(super) struct Shipper {
    pub(super) api: Api,
    pub(super) stream: Stream,
    pub(super) subjects: Subjects,
    pub(super) framing: Framing,
    pub(super) encoding: Encoding,
    /// The most that one message carries, whatever the server would take.
    max_batch_bytes: usize,
    /// How many messages one publish may have, as an atomic batch; it may turn out that the server takes fewer.
    atomic_messages: AtomicUsize,
    /// Whether the stream takes fast batches; it may turn out that it does not.
    fast: AtomicBool,
    /// How many bytes one message carries at most: fewer where the line is too slow for more.
    message_bytes: AtomicUsize,
    /// How many bytes of one log may share a round trip.
    shared_bytes: AtomicUsize,
    /// Whether an answer with a payload has not come in time.
    without_payload: AtomicBool,
    next_batch: AtomicU64,
    batch_prefix: u64,
    /// The stream does not take anything now.
    full: Mutex<Complaint>,
    /// Somebody else publishes our logs.
    rival: Mutex<Complaint>,
    pub(super) continuity: Continuity,
    /// Where those ended before that are sent again from further down.
    reached: OnceLock<HashMap<Origin, (Epoch, u64)>>,
    /// Who hears of what is stored: see [`Shipper::tell_of_stored`].
    pub(super) heard: OnceLock<Arc<Heard>>,
}

#[derive(Deserialize)]
struct Acknowledgement {
    error: Option<Refusal>,
    #[serde(default)]
    stream: String,
    #[serde(default)]
    seq: u64,
}

/// The most messages that the server takes in one atomic batch.
const ATOMIC_BATCH_MESSAGES: usize = 1000;

/// What a server that gives no answer may suffer from.
pub(super) const NO_ANSWER: &str = "the server does not answer; is its disk full, or is it overloaded?";

/// The pauses between attempts while the stream does not take anything.
pub(super) const RETRY_FIRST: Duration = Duration::from_millis(100);
pub(super) const RETRY_MOST: Duration = Duration::from_secs(5);

/// How often load alone may keep an origin waiting before it is worth a report.
const MAX_QUIET_REFUSALS: u32 = 6;

/// How many publishes of one origin may come to nothing, one after the other, without a reason to wait: more
/// is no accident.
const MAX_VAIN_ATTEMPTS: u32 = 8;

impl Shipper {
    /// For a sender to `stream`.
    pub(super) fn new(
        api: Api,
        stream: Stream,
        subjects: Subjects,
        framing: Framing,
        encoding: Encoding,
        max_batch_bytes: usize,
    ) -> Self {
        Self {
            continuity: Continuity::new(api.requests().connection().client.connects()),
            atomic_messages: AtomicUsize::new(if stream.atomic { ATOMIC_BATCH_MESSAGES } else { 1 }),
            // With replicas the server takes a message only when the one before it has reached them.
            fast: AtomicBool::new(stream.fast && stream.replicas <= 1),
            message_bytes: AtomicUsize::new(max_batch_bytes),
            api,
            stream,
            subjects,
            framing,
            encoding,
            max_batch_bytes,
            shared_bytes: AtomicUsize::new(0),
            without_payload: AtomicBool::new(false),
            next_batch: AtomicU64::new(0),
            batch_prefix: fastrand::u64(..),
            full: Mutex::default(),
            rival: Mutex::default(),
            reached: OnceLock::new(),
            heard: OnceLock::new(),
        }
    }

    /// Says which logs are sent again, and where they ended before; once, before anything is published.
    pub(super) fn set_reached(&self, reached: HashMap<Origin, (Epoch, u64)>) {
        // It is set where a sender restores, which happens once.
        let _ = self.reached.set(reached);
    }

    /// Tells `heard` of each message that is stored: it may be what somebody asked for. Once, like that.
    pub(super) fn tell_of_stored(&self, heard: Arc<Heard>) {
        // It is set where a sender restores, which happens once.
        let _ = self.heard.set(heard);
    }

    /// Publishes a batch after `tail`, where that is known, and waits until the stream has all of it; the new
    /// tail. What the stream has already is not published again.
    ///
    /// # Errors
    ///
    /// Why it cannot go on; the stream may have a part of the batch.
    pub(super) async fn ship(&self, tail: Option<Tail>, batch: Batch, places: &Places) -> Result<Tail, Stop> {
        let subject = Subject::from(self.subjects.publish(&batch.origin));
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MOST);
        let mut tail = match tail {
            Some(tail) => tail,
            // The restored stream held nothing of it: by now somebody else may have begun it, or an old
            // publish of ours, of which nobody knows any more, has arrived.
            None => {
                let last = self.ask(&subject, 0).await?;
                match judge(&Tail::default(), &batch, last.as_ref()) {
                    Verdict::Stored(tail) | Verdict::Continue(tail) => tail,
                    verdict => return Err(self.stop(verdict, &batch.origin)),
                }
            }
        };
        let mut rest = beyond(&tail, batch).map_err(Stop::Failed)?;
        let (mut vain_attempts, mut refusals, mut complained) = (0, 0, false);
        while let Some(batch) = rest {
            if vain_attempts == MAX_VAIN_ATTEMPTS {
                return Err(Stop::Failed(anyhow!(
                    "cannot publish to `{subject}`, {vain_attempts} times in a row"
                )));
            }
            if vain_attempts > 1 {
                tokio::time::sleep(backoff.pause()).await;
            }
            // What went back may have somebody else's message by now under the very sequence that is expected.
            if let Err(lost @ Stop::Failed(_)) = self.is_whole().await {
                return Err(lost);
            }
            let parcel = self.parcel(&batch)?;
            let (begin, highest) = (Instant::now(), self.continuity.highest());
            match self.publish(&subject, &parcel, places, tail.sequence).await? {
                // It gives sequences again that it gave to messages which it had acknowledged.
                Outcome::Stored(sequence) if sequence <= highest => return Err(self.has_lost()),
                Outcome::Stored(sequence) => {
                    self.learn(parcel.batch.bytes().len(), begin.elapsed());
                    tail = Tail { sequence, end: Some((batch.epoch, parcel.batch.end())) };
                    self.note(&batch.origin, &tail);
                    rest = after(batch, offset_of(&tail));
                    (backoff, vain_attempts, refusals) = (Backoff::new(RETRY_FIRST, RETRY_MOST), 0, 0);
                }
                Outcome::TooLarge => {
                    vain_attempts += 1;
                    rest = Some(batch);
                }
                Outcome::NotAtomic => {
                    self.give_up_atomic_batches();
                    vain_attempts += 1;
                    rest = Some(batch);
                }
                Outcome::BatchTooLarge => {
                    let fewer = parcel.count() / 2;
                    vain_attempts += u32::from(fewer == 0);
                    self.atomic_messages.fetch_min(fewer.max(1), Ordering::Relaxed);
                    rest = Some(batch);
                }
                Outcome::Later { reason, needs_operator } => {
                    // It may be that there are too many atomic batches: one message of a batch of lines goes all the
                    // same.
                    self.shared_bytes.store(0, Ordering::Relaxed);
                    refusals += 1;
                    if needs_operator || refusals >= MAX_QUIET_REFUSALS {
                        self.complain_of(&reason);
                        complained = true;
                    }
                    tokio::time::sleep(backoff.pause()).await;
                    rest = Some(batch);
                }
                Outcome::Doubtful { reason, last_sequence } => {
                    self.shared_bytes.store(0, Ordering::Relaxed);
                    tracing::debug!("asking what became of a message to `{subject}`: {reason}");
                    let start = batch.start;
                    (tail, rest) = self.settle(&subject, tail, batch, &parcel, last_sequence).await?;
                    let progress = rest.as_ref().is_none_or(|rest| rest.start > start);
                    vain_attempts = if progress { 0 } else { vain_attempts + 1 };
                    if !progress && last_sequence.is_none() {
                        self.shrink(parcel.batch.bytes().len());
                    }
                }
            }
        }
        if complained {
            self.settle_complaint();
        }
        Ok(tail)
    }

    async fn publish(
        &self,
        subject: &Subject,
        parcel: &Parcel,
        places: &Places,
        sequence: u64,
    ) -> Result<Outcome, Stop> {
        let messages = self.messages(subject, parcel, places, sequence);
        let reply = match self.api.requests().send_all(subject, messages).await {
            Ok(reply) => reply,
            Err(failure) => {
                if let Failure::TimedOut = failure {
                    self.complain_of(NO_ANSWER);
                }
                return outcome::of_failure(failure);
            }
        };
        let acknowledgement: Acknowledgement = serde_json::from_slice(&reply.payload).map_err(|error| {
            Stop::Failed(anyhow!("the acknowledgement on `{subject}` makes no sense: {error}"))
        })?;
        match acknowledgement.error {
            Some(refusal) => outcome::of_refusal(&refusal, &self.stream.name, subject),
            None if acknowledgement.stream == self.stream.name => Ok(Outcome::Stored(acknowledgement.seq)),
            None => Err(Stop::Failed(anyhow!(
                "`{subject}` is taken by the stream `{}`, not by `{}`",
                acknowledgement.stream,
                self.stream.name
            ))),
        }
    }

    /// One message with the whole batch.
    fn encode(&self, batch: &Batch) -> wire::Message {
        wire::encode_again(batch, self.encoding, self.reached(batch))
    }

    /// How far the log of a batch was published before, if it is sent again from further down.
    pub(super) fn reached(&self, batch: &Batch) -> Option<u64> {
        let reached = self.reached.get().and_then(|reached| reached.get(&batch.origin));
        reached.filter(|(epoch, _)| *epoch == batch.epoch).map(|(_, end)| *end)
    }

    /// Asks the stream what became of `parcel`, the first part of `batch`; the tail, and what is left.
    async fn settle(
        &self,
        subject: &Subject,
        tail: Tail,
        batch: Batch,
        parcel: &Parcel,
        last_sequence: Option<u64>,
    ) -> Result<(Tail, Option<Batch>), Stop> {
        let last = match last_sequence {
            Some(last_sequence) => self.ask(subject, last_sequence).await?,
            None => self.ask_again(subject, tail.sequence).await?,
        };
        let origin = batch.origin.clone();
        let tail = match judge(&tail, &parcel.batch, last.as_ref()) {
            Verdict::Stored(tail) => {
                let end = offset_of(&tail);
                if end > parcel.batch.end() {
                    self.complain_of_rival(&origin);
                }
                self.note(&origin, &tail);
                return Ok((tail, after(batch, end)));
            }
            Verdict::Continue(tail) => {
                if offset_of(&tail) > batch.start && tail.end.is_some_and(|(epoch, _)| epoch == batch.epoch) {
                    self.complain_of_rival(&origin);
                }
                tail
            }
            Verdict::WentBack if last.is_none() && self.was_taken_by_retention(&tail).await? => {
                Tail { sequence: 0, end: tail.end }
            }
            verdict => return Err(self.stop(verdict, &origin)),
        };
        let rest = beyond(&tail, batch).map_err(Stop::Failed)?;
        Ok((tail, rest))
    }

    /// What a verdict means after which the session cannot go on.
    pub(super) fn stop(&self, verdict: Verdict, origin: &Origin) -> Stop {
        Stop::Failed(match verdict {
            Verdict::Rival(reason) => anyhow!(reason),
            _ => anyhow!(
                "the stream `{}` holds less of `{origin}` than it acknowledged: it went back, or messages \
                 were deleted; starting again at what it holds",
                self.stream.name
            ),
        })
    }

    /// Whether an origin that the stream has nothing of any more is missing because the stream let go of its
    /// oldest messages, and no other reason.
    async fn was_taken_by_retention(&self, tail: &Tail) -> Result<bool, Stop> {
        if !self.is_whole().await? {
            return Ok(false);
        }
        let stream = self.stream.refreshed(&self.api).await.map_err(Stop::Failed)?;
        Ok(stream.is_same_as(&self.stream) && stream.first_sequence > tail.sequence)
    }

    /// The stream takes no fast batches any more: everything else works as well, and slower.
    pub(super) fn give_up_fast_batches(&self) {
        if self.fast.swap(false, Ordering::Relaxed) {
            let name = &self.stream.name;
            tracing::warn!("stream `{name}` does not allow fast batches any more (`allow_batched`)");
        }
    }

    fn give_up_atomic_batches(&self) {
        if self.atomic_messages.swap(1, Ordering::Relaxed) > 1 {
            let name = &self.stream.name;
            tracing::warn!("stream `{name}` does not allow atomic batches any more: messages go one by one");
        }
    }

    /// How often there was a connection, this one included.
    pub(super) fn connects(&self) -> u64 {
        self.api.requests().connection().client.connects()
    }

    fn max_payload(&self) -> usize {
        self.api.requests().connection().client.max_payload()
    }

    pub(super) fn complain_of(&self, reason: &str) {
        let mut full = self.full.lock().unwrap_or_else(PoisonError::into_inner);
        let message = format!("stream `{}` takes nothing now, trying again: {reason}", self.stream.name);
        full.report(&message, |message| tracing::error!("{message}"));
    }

    fn settle_complaint(&self) {
        self.full.lock().unwrap_or_else(PoisonError::into_inner).settle();
    }

    pub(super) fn complain_of_rival(&self, origin: &Origin) {
        let mut rival = self.rival.lock().unwrap_or_else(PoisonError::into_inner);
        tracing::debug!("somebody else publishes `{origin}` too");
        // One message for all logs: two producers of one host would otherwise be told of in turn, log by log.
        let message = "somebody else publishes what this producer does: if it is not this very producer that was \
                       restarted, stop one of them";
        rival.report(message, |message| tracing::warn!("{message}; the log is `{origin}`"));
    }
}
