//! The processes of a run: real pipelines, over the model.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use async_trait::async_trait;
use fshipper_pipeline::config::Pipeline;
use fshipper_pipeline::{Checkpoint, Context, Control, Ends, Parts, Settings, Sink, Source, Transport};
use serde::Deserialize as _;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::super::client::Client;
use super::super::config::Nats;
use super::super::connect::{Connection, Queues};
use super::super::events::Events;
use super::super::{jetstream, receiver, sender};
use super::logs::{Logs, WatchedSender, origin};
use super::network::Network;
use super::truth::{SharedTruth, lock};
use super::world::World;

/// A transport to the model.
struct Simulated {
    nats: Nats,
    name: String,
    network: Network,
    truth: SharedTruth,
}

impl World {
    /// Starts the producer of a host.
    pub(super) fn start_producer(&mut self, host: usize) {
        self.producers[host] = Some(self.producer(host, &format!("producer{host}")));
    }

    /// Starts a producer of a host under a name.
    pub(super) fn producer(&self, host: usize, name: &str) -> JoinHandle<()> {
        let origins = (0..self.plan.hosts[host]).map(|log| origin(host, log)).collect();
        let logs = Logs { truth: self.truth.clone(), origins, grown: self.grow.subscribe() };
        let transport: Arc<dyn Transport> = Arc::new(self.transport(name));
        let parts =
            Parts { sources: vec![Box::new(logs)], transport: Some((transport, Ends::Sender)), sink: None };
        self.start(name, &format!("host{host}.example"), self.plan.max_batch_bytes, parts)
    }

    /// Starts a consumer.
    pub(super) fn start_consumer(&mut self, consumer: usize) {
        let name = format!("consumer{consumer}");
        let mut transport = self.transport(&name);
        let stream = transport.nats.stream.as_mut().expect("the table has a stream");
        (stream.floor, stream.purge) = (self.plan.tells[consumer], self.plan.purge);
        let partitions = &self.plan.consumers[consumer];
        transport.nats.read_partitions = Some(partitions.clone()).filter(|partitions| !partitions.is_empty());
        let parts = Parts {
            sources: Vec::new(),
            transport: Some((Arc::new(transport), Ends::Receiver)),
            sink: Some(Box::new(self.disks[consumer].clone())),
        };
        self.consumers[consumer] = Some(self.start(&name, "central", self.plan.read_batch_bytes, parts));
    }

    fn transport(&self, name: &str) -> Simulated {
        let (nats, name) = (Nats::deserialize(&self.table).expect("a table"), name.to_owned());
        Simulated { nats, name, network: self.network.clone(), truth: self.truth.clone() }
    }

    /// One for each life of a process: its positions are in the stream and on the disk, and the lock on the one
    /// before may still be held for a moment by what another test just started.
    fn next_state_dir(&self) -> PathBuf {
        let life = self.lives.replace(self.lives.get() + 1);
        self.state_dir.path().join(life.to_string())
    }

    fn start(&self, name: &str, host: &str, max_batch_bytes: usize, parts: Parts) -> JoinHandle<()> {
        let settings = Settings {
            name: name.to_owned(),
            host: host.to_owned(),
            state_dir: self.next_state_dir(),
            commit_interval: Duration::from_millis(self.plan.commit_millis),
            commit_bytes: self.plan.commit_bytes,
            max_batch_bytes,
            drain_timeout: Duration::from_secs(30),
            once: false,
        };
        let pipeline = Pipeline {
            file: "simulated.toml".into(),
            settings: Arc::new(settings),
            parts,
            flow: "simulated".to_owned(),
        };
        let control = Control { stop: CancellationToken::new(), hangups: watch::channel(0).1 };
        let (truth, name) = (self.truth.clone(), name.to_owned());
        lock(&truth).note(&format!("{name} starts"));
        tokio::task::spawn_local(async move {
            let ended = fshipper_pipeline::run(vec![pipeline], control).await;
            lock(&truth).violate(format!("{name} ended: {ended:?}"));
        })
    }
}

#[async_trait]
impl Transport for Simulated {
    async fn open_sender(&self, context: Context) -> Result<Box<dyn Sink>> {
        let connection = self.connect(sender::QUEUES)?;
        let stream = self.nats.stream.as_ref().expect("the table has a stream");
        let inner = jetstream::sender_over(&self.nats, stream, connection, context).await?;
        let truth = self.truth.clone();
        Ok(Box::new(WatchedSender {
            inner,
            truth,
            accepted: Vec::new(),
            committed: false,
            held: BTreeMap::new(),
        }))
    }

    async fn open_receiver(&self, from: Checkpoint, context: Context) -> Result<Box<dyn Source>> {
        let connection = self.connect(receiver::QUEUES)?;
        let stream = self.nats.stream.as_ref().expect("the table has a stream");
        jetstream::receiver_over(&self.nats, stream, connection, from, context).await
    }
}

impl Simulated {
    fn connect(&self, queues: Queues) -> Result<Connection> {
        lock(&self.truth).note(&format!("{} connects", self.name));
        let events = Events::new("nats://simulated".to_owned());
        let Some(client) = self.network.connect(&self.name, &events, queues.outgoing, queues.incoming) else {
            bail!("cannot connect to nats://simulated");
        };
        Ok(Connection::simulated(Client::Simulated(client), events))
    }
}
