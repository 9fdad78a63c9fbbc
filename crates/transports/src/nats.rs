//! NATS: [`Nats`].
//!
//! | over | sender | receiver | promise |
//! | --- | --- | --- | --- |
//! | core NATS | [`core_sender`] | [`core_receiver`], [`listener`], [`intake`] | at most once; every missing byte is counted |
//! | a JetStream stream | [`jetstream`], [`sender`], [`floor`] | [`receiver`], [`floor`] | exactly once |
//!
//! Shared by both: the table ([`config`]) and what it means once the environment and local files are in
//! ([`endpoint`], [`login`], [`cli_context`]); the connection ([`connect`]) and what it reports on the side
//! ([`events`]); where messages go ([`subject`], [`partition`]) and what is in them ([`wire`]).

use std::sync::Arc;

use anyhow::Result;
use async_trait::async_trait;
use fshipper_pipeline::config::Environment;
use fshipper_pipeline::{
    Checkpoint, Context, Ends, Invalid, Plugin, Settings, Sink, Source, Transport, inventory,
};

mod api;
mod cli_context;
mod client;
mod config;
mod connect;
mod continuity;
mod core_receiver;
mod core_sender;
mod endpoint;
mod escape;
mod events;
mod fast_batch;
mod floor;
mod foreign;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod home;
mod ingest;
mod intake;
mod jetstream;
mod listener;
mod load;
mod login;
mod outcome;
mod overdue;
mod partition;
mod pattern;
mod places;
mod probe;
mod publisher;
mod pull;
mod receiver;
mod refusals;
mod requests;
mod restore;
mod run;
mod sender;
mod session;
mod shipper;
mod silence;
#[cfg(test)]
mod simulation;
mod stream;
mod subject;
mod verdict;
mod window;
mod wire;

pub use config::Nats;

#[cfg(test)]
use simulation::watch;
#[cfg(not(test))]
use tokio::sync::watch;

use config::Framing;
use connect::{Queues, connect};
use core_receiver::CoreReceiver;
use core_sender::CoreSender;
use endpoint::Endpoint;

inventory::submit!(Plugin::transport::<Nats>("nats", "carries lines over NATS, with or without JetStream"));

/// A probe also reads the positions of a host, as a sender does.
const PROBE_QUEUES: Queues = sender::QUEUES;

#[async_trait]
impl Transport for Nats {
    fn validate(&self, settings: &Settings, ends: Ends) -> Result<(), Invalid> {
        self.check(settings, ends)?;
        Endpoint::resolve(self, &Environment::process()).map(drop)
    }

    fn describe(&self) -> String {
        let servers = Endpoint::resolve(self, &Environment::process())
            .map_or_else(|_| "servers unknown".to_owned(), |endpoint| endpoint.shown());
        let mut text = format!("{servers}, subject {}", self.subject);
        if let Some(partitions) = self.partitions {
            text.push_str(&format!(", {partitions} partitions"));
        }
        if let Some(stream) = &self.stream {
            text.push_str(&format!(", stream {}", stream.name));
        }
        if self.framing == Framing::Line {
            text.push_str(", a message per line");
        }
        text
    }

    async fn open_sender(&self, context: Context) -> Result<Box<dyn Sink>> {
        match &self.stream {
            Some(stream) => jetstream::open_sender(self, stream, context).await,
            None => Ok(Box::new(CoreSender::open(self, &context).await?)),
        }
    }

    async fn open_receiver(&self, from: Checkpoint, context: Context) -> Result<Box<dyn Source>> {
        match &self.stream {
            Some(stream) => jetstream::open_receiver(self, stream, from, context).await,
            None => Ok(Box::new(CoreReceiver::open(self, from, &context).await?)),
        }
    }

    async fn probe(&self, ends: Ends, settings: Arc<Settings>) -> Result<Vec<String>> {
        let connection = connect(self, &settings, PROBE_QUEUES).await?;
        let server = connection.client.server_info();
        let mut found = vec![
            format!("connected to nats-server {}, `{}`", server.version, server.server_name),
            format!("messages of at most {} bytes", server.max_payload),
        ];
        if let Some(stream) = &self.stream {
            found.extend(jetstream::probe(self, stream, connection, ends, &settings).await?);
            return Ok(found);
        }
        if ends.sends() {
            let took = CoreSender::probe(self, connection.clone()).await?;
            found.push(format!("a message to ourselves came back in {took:.1?}"));
        }
        if ends.receives() {
            let filters = CoreReceiver::probe(self, connection).await?;
            found.push(format!("subscribed to {}", filters.join(", ")));
        }
        Ok(found)
    }
}
