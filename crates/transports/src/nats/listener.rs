//! What arrives over core NATS, on its way into the intake: [`Listener`].

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use async_nats::Message;
use fshipper_pipeline::{Admission, Batch, Checkpoint, Complaint, Content, Epoch, Origin};
use futures::{FutureExt as _, StreamExt as _};
use tokio::task::unconstrained;

use super::client::{Client, Subscriber};
use super::intake::Intake;
use super::run::{Places, Run};
use super::subject::Subjects;
use super::wire::{self, Decoded, Decoder};

/// Makes batches of messages, each where its origin stands, and long ones of short ones that continue each other.
pub(super) struct Listener {
    client: Client,
    decoder: Decoder,
    /// Where each origin stands: every batch in the intake continues there.
    known: Checkpoint,
    max_batch_bytes: usize,
    run: Run,
    intake: Arc<Intake>,
    refusals: Complaint,
    drops: Complaint,
}

/// What one look at a subscription needs again and again.
struct Round<'a> {
    filter: &'a str,
    time: SystemTime,
    max_data_bytes: usize,
}

impl Listener {
    /// Every origin stands where `known` says.
    pub(super) fn new(
        client: Client,
        subjects: Subjects,
        known: Checkpoint,
        max_batch_bytes: usize,
        intake: Arc<Intake>,
    ) -> Self {
        Self {
            client,
            decoder: Decoder::new(subjects),
            known,
            max_batch_bytes,
            run: Run::new(Places::Last, max_batch_bytes),
            intake,
            refusals: Complaint::default(),
            drops: Complaint::default(),
        }
    }

    /// Takes messages until the subscription to `filter` ends.
    pub(super) async fn listen(listener: Arc<Mutex<Self>>, filter: String, mut subscriber: Subscriber) {
        while let Some(first) = subscriber.next().await {
            let mut listener = listener.lock().unwrap_or_else(PoisonError::into_inner);
            let max_data_bytes = wire::MAX_DATA_BYTES.max(listener.client.max_payload());
            let round = Round { filter: &filter, time: SystemTime::now(), max_data_bytes };
            listener.take(first, &round);
            // The client shares this thread: it adds nothing meanwhile, so that this comes to an end.
            while let Some(Some(message)) = unconstrained(subscriber.next()).now_or_never() {
                listener.take(message, &round);
            }
            listener.hand_over(&round);
        }
    }

    fn take(&mut self, message: Message, round: &Round<'_>) {
        let Some(batch) = self.decode(message, round) else { return };
        for part in wire::split(batch, self.max_batch_bytes) {
            let finished = self.run.add(part);
            self.deliver(finished, round);
            if self.run.is_long() {
                self.hand_over(round);
            }
        }
    }

    fn hand_over(&mut self, round: &Round<'_>) {
        let finished = self.run.finish();
        self.deliver(finished, round);
    }

    fn decode(&mut self, message: Message, round: &Round<'_>) -> Option<Batch> {
        let Message { subject, payload, headers, .. } = message;
        let (origin, epoch, start, content, place) =
            match self.decoder.decode(&subject, headers.as_ref(), payload, round.max_data_bytes) {
                Ok(Decoded::Ours { origin, epoch, start, content, place }) => {
                    (origin, epoch, start, content, place)
                }
                Ok(Decoded::Foreign { host, bytes }) => {
                    let origin = Origin::new(host, subject.as_bytes());
                    let (epoch, start) = self.end_of(&origin);
                    (origin, epoch, start, Content::Data(bytes), Default::default())
                }
                Err(refused) => {
                    let report = format!("a message on `{subject}` is refused: {refused}");
                    self.refusals.report(&report, |text| tracing::error!("{text}"));
                    return None;
                }
            };
        let time = round.time;
        Some(Batch { origin, epoch, start, content, time, place, cursor: None, lease: None })
    }

    /// Where the next message of another publisher belongs.
    fn end_of(&self, origin: &Origin) -> (Epoch, u64) {
        if let Some((epoch, end)) = self.run.end_of(origin) {
            return (epoch, end);
        }
        match self.known.position(origin) {
            Some(position) => (position.epoch, position.offset),
            None => (Epoch::random(), 0),
        }
    }

    /// Puts a batch where it belongs: without what is there, and after a record of what is missing.
    fn deliver(&mut self, batch: Option<Batch>, round: &Round<'_>) {
        let Some(mut batch) = batch else { return };
        match self.known.admit(&batch) {
            Admission::Pass => {}
            Admission::Duplicate => return,
            Admission::Cut(count) => batch.cut_front(count),
            Admission::Gap { expected } => {
                let reason = match self.known.position(&batch.origin) {
                    None => "it was sent before this consumer listened",
                    Some(_) => "core NATS did not deliver it",
                };
                let missing = batch.start - expected;
                self.lose(Batch::loss(batch.origin.clone(), batch.epoch, expected, missing, reason));
            }
            // Whoever writes knows what to say of two producers that claim one origin.
            Admission::Stale { .. } => {
                self.pass(batch);
                return;
            }
        }
        let (origin, epoch, start, span) = (batch.origin.clone(), batch.epoch, batch.start, batch.span());
        let written = batch.clone();
        if self.pass(batch) {
            self.known.advance(&written);
            return;
        }
        let filter = round.filter;
        self.drops.report(
            &format!(
                "messages of `{filter}` arrive from NATS faster than they are written: some are dropped"
            ),
            |text| tracing::error!("{text}"),
        );
        self.lose(Batch::loss(origin, epoch, start, span, "it arrived faster than it was taken"));
    }

    fn pass(&self, batch: Batch) -> bool {
        match batch.content {
            Content::Data(_) => self.intake.push(batch),
            Content::Loss { .. } => self.intake.push_loss(batch),
        }
    }

    /// Records a loss. Where there are too many of them, the offsets of our own senders tell later.
    fn lose(&mut self, loss: Batch) {
        if self.intake.push_loss(loss.clone()) {
            self.known.advance(&loss);
        }
    }
}
