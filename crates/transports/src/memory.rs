//! Both ends in one process: [`Memory`].

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result, ensure};
use async_trait::async_trait;
use fshipper_pipeline::{
    Batch, Checkpoint, Context, Ends, Invalid, Plugin, Settings, Sink, Source, Transport, Written, inventory,
};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Hands lines to the sink in the same process, without a broker.
///
/// It stores nothing and so claims nothing: what the sink durably holds is where the source continues. The
/// sender restores the checkpoint that its receiver was opened with, a commit of the sender means nothing, and
/// when one end fails both are opened again.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// The sending end of the receiver that was opened last, until a sender takes it.
    #[serde(skip)]
    waiting: Mutex<Option<MemorySender>>,
}

inventory::submit!(Plugin::transport::<Memory>("memory", "hands lines over within one process"));

/// Puts batches into the channel.
struct MemorySender {
    /// What the receiver was opened with.
    from: Checkpoint,
    batches: mpsc::Sender<(Batch, OwnedSemaphorePermit)>,
    room: Arc<Semaphore>,
}

/// Takes batches out of the channel. It ends when the sender was dropped.
struct MemoryReceiver {
    batches: mpsc::Receiver<(Batch, OwnedSemaphorePermit)>,
}

/// Enough to keep both hops busy; each has a budget of its own besides.
const MAX_WAITING_BYTES: u32 = 1 << 20;

/// Small batches are bounded in number: each costs a few hundred bytes besides its own.
const MAX_WAITING_BATCHES: usize = 256;

#[async_trait]
impl Transport for Memory {
    fn validate(&self, _: &Settings, ends: Ends) -> Result<(), Invalid> {
        match ends {
            Ends::Both => Ok(()),
            _ => Err(Invalid::new("", "`memory` connects a source and a sink of one pipeline")
                .help("give the file both a `[source]` and a `[sink]`, or use the transport `nats`")),
        }
    }

    async fn open_sender(&self, _: Context) -> Result<Box<dyn Sink>> {
        let sender = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
        let sender = sender.context("the receiving end of the transport `memory` is not open")?;
        Ok(Box::new(sender))
    }

    async fn open_receiver(&self, mut from: Checkpoint, _: Context) -> Result<Box<dyn Source>> {
        from.clear_changes();
        let (sender, batches) = mpsc::channel(MAX_WAITING_BATCHES);
        let room = Arc::new(Semaphore::new(MAX_WAITING_BYTES as usize));
        let sender = MemorySender { from, batches: sender, room };
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
        Ok(Box::new(MemoryReceiver { batches }))
    }

    fn linked(&self) -> bool {
        true
    }
}

#[async_trait]
impl Sink for MemorySender {
    async fn restore(&mut self) -> Result<Option<Checkpoint>> {
        Ok(Some(std::mem::take(&mut self.from)))
    }

    async fn write(&mut self, batch: Batch) -> Result<Written> {
        // A batch larger than all the room there is waits until nothing else is in it.
        let bytes = u32::try_from(batch.bytes().len()).unwrap_or(u32::MAX).min(MAX_WAITING_BYTES);
        let permit = self.room.clone().acquire_many_owned(bytes).await?;
        let sent = self.batches.send((batch, permit)).await;
        ensure!(sent.is_ok(), "the receiving end of the transport `memory` has failed");
        Ok(Written::Accepted)
    }

    async fn commit(&mut self, _: &Checkpoint) -> Result<()> {
        Ok(())
    }
}

#[async_trait]
impl Source for MemoryReceiver {
    async fn read(&mut self) -> Result<Option<Batch>> {
        let Some((batch, _permit)) = self.batches.recv().await else {
            return Ok(None);
        };
        // The lease is the sending hop's; the receiving one gives the batch its own.
        Ok(Some(Batch { lease: None, ..batch }))
    }
}

#[cfg(test)]
mod tests;
