//! The sending end with a stream: [`Sender`].
//!
//! Its checkpoint is the stream itself, so a commit is nothing but waiting for the acknowledgements.

use std::sync::Arc;

use anyhow::{Context as _, Result, bail, ensure};
use async_trait::async_trait;
use fshipper_pipeline::{Batch, Checkpoint, Context, History, Origin, Progress, Settings, Sink, Written};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::api::Api;
use super::config::Framing;
use super::connect::Queues;
use super::floor::FloorPlan;
use super::floor::listener::Listener;
use super::load::NEAR_BYTES;
use super::publisher::{Held, MAX_ATOMIC_UNDER_WAY, Order, Publisher};
use super::restore::restore;
use super::shipper::Shipper;
use super::stream::{End, Plan, Stream};
use super::subject::Subjects;
use super::window::WINDOW_MESSAGES;
use super::wire::Encoding;

/// Publishes to a stream.
pub(super) struct Sender {
    shipper: Arc<Shipper>,
    settings: Arc<Settings>,
    progress: Progress,
    floor: Option<FloorPlan>,
    /// Hears how far consumers are; it ends with this struct.
    listener: Option<Listener>,
    orders: mpsc::Sender<Order>,
    held: Arc<Held>,
    /// What the publisher needs once positions are known.
    unstarted: Option<mpsc::Receiver<Order>>,
    /// The running publisher; it ends with this struct.
    publisher: JoinSet<Result<()>>,
}

/// Queues of the client for this end: a position is 1 message, an acknowledgement another.
pub(super) const QUEUES: Queues = Queues { outgoing: 256, incoming: WINDOW_MESSAGES + 64 };

/// How many batches may wait between the pump and the publisher, which has queues of its own.
const ORDERS: usize = 16;

/// How many origins publish at once: enough to hide the round trip behind each other.
const MAX_UNDER_WAY: usize = 64;

impl Sender {
    /// Verifies the stream, or creates it.
    ///
    /// # Errors
    ///
    /// See [`Stream::open`].
    pub(super) async fn open(
        api: Api,
        plan: &Plan,
        floor: Option<FloorPlan>,
        subjects: Subjects,
        framing: Framing,
        encoding: Encoding,
        context: Context,
    ) -> Result<Self> {
        let stream = Stream::open(&api, plan, &subjects, End::Sender).await?;
        let (orders, unstarted) = mpsc::channel(ORDERS);
        Ok(Self {
            shipper: Arc::new(Shipper::new(
                api,
                stream,
                subjects,
                framing,
                encoding,
                context.settings.max_batch_bytes,
            )),
            settings: context.settings,
            progress: context.progress,
            floor,
            listener: None,
            orders,
            held: Arc::default(),
            unstarted: Some(unstarted),
            publisher: JoinSet::new(),
        })
    }

    async fn order(&mut self, order: Order) -> Result<()> {
        ensure!(self.unstarted.is_none(), "a sender restores before it writes");
        if self.orders.send(order).await.is_ok() {
            return Ok(());
        }
        Err(self.failure().await)
    }

    /// Why the publisher has ended.
    async fn failure(&mut self) -> anyhow::Error {
        match self.publisher.join_next().await {
            Some(Ok(Err(error))) => error,
            Some(Err(error)) => anyhow::Error::new(error).context("publishing has failed"),
            Some(Ok(Ok(()))) | None => anyhow::anyhow!("publishing has ended"),
        }
    }
}

#[async_trait]
impl Sink for Sender {
    async fn restore(&mut self) -> Result<Option<Checkpoint>> {
        let Shipper { api, stream, subjects, framing, .. } = &*self.shipper;
        let host = self.settings.host.as_bytes();
        if let Some(plan) = self.floor.take() {
            self.listener = Some(Listener::open(api, plan, host, &self.progress).await);
        }
        let restored = restore(api, stream, subjects, host).await;
        let mut restored = restored.with_context(|| {
            format!("cannot read the positions of this host from the stream `{}`", stream.name)
        })?;
        if let Some(listener) = &mut self.listener {
            listener.apply(&mut restored, &stream.refreshed(api).await?);
            self.shipper.tell_of_stored(listener.heard());
        }
        for (origin, reached) in &restored.reached {
            let current = restored.checkpoint.position(origin).cloned();
            let history = current.map(|current| History { current, earlier: vec![*reached] });
            restored.checkpoint.set_history(origin, history);
        }
        self.shipper.set_reached(std::mem::take(&mut restored.reached));
        let Some(orders) = self.unstarted.take() else {
            bail!("a sender restores once");
        };
        let publisher = Publisher::new(
            self.shipper.clone(),
            restored.tails,
            if *framing == Framing::Line { MAX_ATOMIC_UNDER_WAY } else { MAX_UNDER_WAY },
            orders,
            self.held.clone(),
            self.progress.clone(),
        );
        self.publisher.spawn(publisher.run());
        Ok(Some(restored.checkpoint))
    }

    async fn write(&mut self, batch: Batch) -> Result<Written> {
        if let Some(reason) = self.held.reason(&batch.origin) {
            return Ok(Written::Held(reason));
        }
        self.order(Order::Publish(batch)).await?;
        Ok(Written::Accepted)
    }

    async fn commit(&mut self, _: &Checkpoint) -> Result<()> {
        let (flush, flushed) = oneshot::channel();
        self.order(Order::Flush(flush)).await?;
        match flushed.await {
            Ok(()) => Ok(()),
            Err(_) => Err(self.failure().await),
        }
    }

    fn commit_bytes(&self, configured: u64) -> u64 {
        // What is under way is bounded by less; waiting for all of it would only let the line run dry.
        if configured >= NEAR_BYTES as u64 { u64::MAX } else { configured }
    }

    fn budget_bytes(&self, usually: usize) -> usize {
        usually.max(self.shipper.load_bytes())
    }

    fn held(&mut self) -> Vec<(Origin, String)> {
        self.held.take_news()
    }
}
