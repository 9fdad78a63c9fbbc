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
use fshipper_pipeline::{Admission, Batch, Checkpoint, Complaint, Content, Context, Epoch, Origin, Source};
use tokio::task::JoinSet;

use super::config::Nats;
use super::connect::{Connection, Queues, connect};
use super::core_sender::{OBJECTION_TIME, refused};
use super::intake::{Arrived, Intake};
use super::run::{Places, Run};
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
        let mut run = Run::new(Places::Last, self.max_batch_bytes);
        let mut next = Some(first);
        while let Some(arrived) = next {
            for batch in self.batches(arrived) {
                for part in wire::split(batch, self.max_batch_bytes) {
                    self.ready.extend(run.add(part));
                }
            }
            next = if run.is_long() { None } else { self.intake.next_waiting() };
        }
        self.ready.extend(run.finish());
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
