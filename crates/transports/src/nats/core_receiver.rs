//! The receiving end over core NATS: [`CoreReceiver`].
//!
//! Nothing is asked for and nothing comes twice: a message that is missed is gone. What is missing of our own
//! senders' logs shows in the offsets and becomes a loss, in its place; of other publishers only what was
//! dropped here is known.

use std::collections::VecDeque;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use async_nats::Message;
use async_trait::async_trait;
use bytes::BytesMut;
use fshipper_pipeline::{Admission, Batch, Checkpoint, Complaint, Content, Context, Epoch, Origin, Source};
use tokio::task::JoinSet;

use super::config::Nats;
use super::connect::{Connection, Queues, connect};
use super::core_sender::{OBJECTION_TIME, refused};
use super::intake::{Arrived, Intake};
use super::subject::Subjects;
use super::wire::{self, Decoded};

/// Turns messages into batches.
pub(super) struct CoreReceiver {
    connection: Connection,
    subjects: Subjects,
    filters: Vec<String>,
    denial_mark: u64,
    intake: Arc<Intake>,
    /// Where each origin stands: every batch continues there.
    known: Checkpoint,
    max_batch_bytes: usize,
    ready: VecDeque<Batch>,
    refusals: Complaint,
    /// Moves messages from the client into the intake; ends with this struct.
    tasks: JoinSet<()>,
}

/// The client's own queue is emptied at once into one that is bounded in bytes. It only has to hold what the
/// client takes in before it lets other tasks run: 128 reads of 16 KiB, 2 MiB, which are so many messages of
/// 128 bytes.
const QUEUES: Queues = Queues { outgoing: 64, incoming: 16_384 };

/// Small messages that wait are joined up to this: beyond, a batch costs little in comparison.
const MAX_JOINED_BYTES: usize = 64 << 10;

impl CoreReceiver {
    /// Connects and subscribes.
    pub(super) async fn open(nats: &Nats, mut from: Checkpoint, context: &Context) -> Result<Self> {
        let connection = connect(nats, &context.settings, QUEUES).await?;
        let subjects = nats.subjects();
        let filters = subjects.receive(nats.read_partitions.as_deref());
        let denial_mark = connection.denial_mark();
        let intake = Arc::new(Intake::default());
        let mut tasks = JoinSet::new();
        for filter in &filters {
            let subscriber = connection.client.subscribe(filter.clone()).await;
            let subscriber = subscriber.with_context(|| format!("cannot subscribe to `{filter}`"))?;
            tasks.spawn(intake.clone().take_from(filter.clone(), subscriber));
        }
        // What is sent before the server has the subscriptions is missed, so they go out now.
        connection.client.flush().await.context("cannot subscribe")?;
        from.clear_changes();
        Ok(Self {
            connection,
            subjects,
            filters,
            denial_mark,
            intake,
            known: from,
            max_batch_bytes: context.settings.max_batch_bytes,
            ready: VecDeque::new(),
            refusals: Complaint::default(),
            tasks,
        })
    }

    /// What the server lets us subscribe to: all that a receiver needs.
    pub(super) async fn probe(nats: &Nats, connection: Connection) -> Result<Vec<String>> {
        let filters = nats.subjects().receive(nats.read_partitions.as_deref());
        let denied = connection.denied_since(connection.denial_mark(), filters.clone());
        let mut subscribers = Vec::with_capacity(filters.len());
        for filter in &filters {
            subscribers.push(connection.client.subscribe(filter.clone()).await?);
        }
        connection.client.flush().await.context("cannot subscribe")?;
        match tokio::time::timeout(OBJECTION_TIME, denied).await {
            Ok(denied) => Err(refused(&denied)),
            Err(_) => Ok(filters),
        }
    }

    /// Waits for a message, and takes what else is waiting as long as it is little.
    async fn receive(&mut self) -> Result<()> {
        let denied = self.connection.denied_since(self.denial_mark, self.filters.clone());
        let first = tokio::select! {
            arrived = self.intake.next() => arrived,
            denied = denied => return Err(refused(&denied)),
            Some(_) = self.tasks.join_next() => bail!("the connection to NATS has ended"),
        };
        let mut run = Run::default();
        let mut next = Some(first);
        while let Some(arrived) = next {
            for batch in self.batches(arrived) {
                if let Some(finished) = run.add(batch) {
                    self.ready.extend(wire::split(finished, self.max_batch_bytes));
                }
            }
            next = if run.length() < MAX_JOINED_BYTES { self.intake.next_waiting() } else { None };
        }
        self.ready
            .extend(run.finish().into_iter().flat_map(|batch| wire::split(batch, self.max_batch_bytes)));
        Ok(())
    }

    /// The batches of one arrival, each where its origin stands.
    fn batches(&mut self, arrived: Arrived) -> Vec<Batch> {
        match arrived {
            Arrived::Message(message) => self.decode(message),
            Arrived::Dropped { subject, bytes } => {
                // Of our own senders the offsets tell, in the right place.
                let (origin, epoch, start) = self.foreign(self.subjects.host_of(&subject), &subject);
                let loss = Batch::loss(origin, epoch, start, bytes, "it arrived faster than it was taken");
                self.known.advance(&loss);
                vec![loss]
            }
        }
    }

    fn decode(&mut self, message: Message) -> Vec<Batch> {
        let Message { subject, payload, headers, .. } = message;
        let max_data_bytes = wire::MAX_DATA_BYTES.max(self.connection.client.max_payload());
        match wire::decode(&self.subjects, &subject, headers.as_ref(), payload, max_data_bytes) {
            Ok(Decoded::Ours { origin, epoch, start, content, place }) => {
                let batch = match content {
                    Content::Data(bytes) => Batch::data(origin, epoch, start, bytes),
                    Content::Loss { missing, reason } => Batch::loss(origin, epoch, start, missing, reason),
                };
                self.place(Batch { place, ..batch })
            }
            Ok(Decoded::Foreign { host, bytes }) => {
                let (origin, epoch, start) = self.foreign(host, &subject);
                let batch = Batch::data(origin, epoch, start, bytes);
                self.known.advance(&batch);
                vec![batch]
            }
            Err(refused) => {
                let report = format!("a message on `{subject}` is refused: {refused}");
                self.refusals.report(&report, |text| tracing::error!("{text}"));
                Vec::new()
            }
        }
    }

    /// Puts a batch of ours where it belongs: without what is there, and after a record of what is missing.
    fn place(&mut self, mut batch: Batch) -> Vec<Batch> {
        let mut batches = Vec::with_capacity(2);
        match self.known.admit(&batch) {
            Admission::Pass => {}
            Admission::Duplicate => return batches,
            Admission::Cut(count) => batch.cut_front(count),
            Admission::Gap { expected } => {
                let reason = match self.known.position(&batch.origin) {
                    None => "it was sent before this consumer listened",
                    Some(_) => "core NATS did not deliver it",
                };
                let missing = batch.start - expected;
                batches.push(Batch::loss(batch.origin.clone(), batch.epoch, expected, missing, reason));
            }
            // Whoever writes knows what to say of two producers that claim one origin.
            Admission::Stale { .. } => return vec![batch],
        }
        self.known.advance(&batch);
        batches.push(batch);
        batches
    }

    /// The origin of another publisher's messages, and where it stands.
    fn foreign(&self, host: Vec<u8>, subject: &str) -> (Origin, Epoch, u64) {
        let origin = Origin::new(host, subject);
        let (epoch, start) = match self.known.position(&origin) {
            Some(position) => (position.epoch, position.offset),
            None => (Epoch::random(), 0),
        };
        (origin, epoch, start)
    }
}

#[async_trait]
impl Source for CoreReceiver {
    async fn read(&mut self) -> Result<Option<Batch>> {
        loop {
            if let Some(batch) = self.ready.pop_front() {
                return Ok(Some(batch));
            }
            self.receive().await?;
        }
    }
}

/// Batches that continue one another, on their way to become one.
#[derive(Default)]
struct Run {
    first: Option<Batch>,
    /// The bytes of more than one.
    joined: BytesMut,
}

impl Run {
    /// Adds a batch; when it does not continue what is there, that is given back and a new run begins.
    fn add(&mut self, batch: Batch) -> Option<Batch> {
        let Some(first) = &mut self.first else {
            self.first = Some(batch);
            return None;
        };
        let length = if self.joined.is_empty() { first.bytes().len() } else { self.joined.len() };
        let continues = batch.origin == first.origin
            && batch.epoch == first.epoch
            && batch.start == first.start + length as u64
            && matches!((&first.content, &batch.content), (Content::Data(_), Content::Data(_)));
        if !continues {
            let finished = self.finish();
            self.first = Some(batch);
            return finished;
        }
        if self.joined.is_empty() {
            self.joined.extend_from_slice(first.bytes());
        }
        self.joined.extend_from_slice(batch.bytes());
        first.place = batch.place;
        None
    }

    /// How many bytes the run holds.
    fn length(&self) -> usize {
        let first = self.first.as_ref().map_or(0, |first| first.bytes().len());
        first.max(self.joined.len())
    }

    /// The whole run as one batch.
    fn finish(&mut self) -> Option<Batch> {
        let mut batch = self.first.take()?;
        if !self.joined.is_empty() {
            batch.content = Content::Data(std::mem::take(&mut self.joined).freeze());
        }
        Some(batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(origin: &str, start: u64, text: &'static str) -> Batch {
        Batch::data(Origin::new("h", origin), Epoch(1), start, text)
    }

    #[test]
    fn only_what_continues_is_joined() {
        let mut run = Run::default();
        let mut finished = Vec::new();
        let loss = Batch::loss(Origin::new("h", "b"), Epoch(1), 2, 3, "gone");
        let batches =
            [data("a", 0, "1\n"), data("a", 2, "2\n"), data("b", 0, "3\n"), loss, data("b", 5, "4\n")];
        for batch in batches {
            finished.extend(run.add(batch));
        }
        finished.extend(run.finish());
        let shown: Vec<_> = finished.iter().map(|batch| (batch.start, batch.end(), batch.bytes())).collect();
        assert_eq!(shown, [(0, 4, b"1\n2\n".as_slice()), (0, 2, b"3\n"), (2, 5, b""), (5, 7, b"4\n")]);
        assert!(run.finish().is_none());
    }
}
