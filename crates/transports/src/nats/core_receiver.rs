//! The receiving end over core NATS: [`CoreReceiver`].
//!
//! Nothing is asked for and nothing comes twice: a message that is missed is gone. What is missing of our own
//! senders' logs shows in the offsets and becomes a loss, in its place; of other publishers only what was
//! dropped here is known.

use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result, bail};
use async_trait::async_trait;
use fshipper_pipeline::{Batch, Checkpoint, Context, Source};
use tokio::task::JoinSet;

use super::config::Nats;
use super::connect::{Connection, Queues, connect};
use super::core_sender::{OBJECTION_TIME, refused};
use super::home::Home;
use super::intake::Intake;
use super::listener::Listener;

/// Takes the batches that a [`Listener`] makes of messages.
pub(super) struct CoreReceiver {
    connection: Connection,
    filters: Vec<String>,
    denial_mark: u64,
    intake: Arc<Intake>,
    /// What fills the intake, one task for each filter.
    listening: JoinSet<()>,
    _home: Home,
}

/// The client's own queue is emptied at once into one that is bounded in bytes. It only has to hold what the
/// client takes in before it lets other tasks run: 128 reads of 16 KiB, 2 MiB, which are so many messages of
/// 32 bytes, subject and all.
const QUEUES: Queues = Queues { outgoing: 64, incoming: 65_536 };

impl CoreReceiver {
    /// Connects and subscribes.
    pub(super) async fn open(nats: &Nats, mut from: Checkpoint, context: &Context) -> Result<Self> {
        let home = Home::start()?;
        let connection = home.settle(Box::pin(connect(nats, &context.settings, QUEUES))).await?;
        let filters = nats.subjects().receive(nats.read_partitions.as_deref());
        let denial_mark = connection.denial_mark();
        let intake = Arc::new(Intake::default());
        from.clear_changes();
        let client = connection.client.clone();
        let max_batch_bytes = context.settings.max_batch_bytes;
        let listener = Listener::new(client, nats.subjects(), from, max_batch_bytes, intake.clone());
        let listener = Arc::new(Mutex::new(listener));
        let mut listening = JoinSet::new();
        for filter in &filters {
            let subscriber = connection.client.subscribe(filter.clone()).await;
            let subscriber = subscriber.with_context(|| format!("cannot subscribe to `{filter}`"))?;
            let task = Listener::listen(listener.clone(), filter.clone(), subscriber);
            listening.spawn_on(task, home.runtime());
        }
        // What is sent before the server has the subscriptions is missed, so they go out now.
        connection.client.flush().await.context("cannot subscribe")?;
        Ok(Self { connection, filters, denial_mark, intake, listening, _home: home })
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

    async fn receive(&mut self) -> Result<Batch> {
        let denied = self.connection.denied_since(self.denial_mark, self.filters.clone());
        tokio::select! {
            biased;
            batch = self.intake.next() => Ok(batch),
            denied = denied => Err(refused(&denied)),
            Some(_) = self.listening.join_next() => bail!("the connection to NATS has ended"),
        }
    }
}

impl Drop for CoreReceiver {
    fn drop(&mut self) {
        self.intake.close();
    }
}

#[async_trait]
impl Source for CoreReceiver {
    async fn read(&mut self) -> Result<Option<Batch>> {
        self.receive().await.map(Some)
    }
}
