//! The client as the ends use it: [`Client`], [`Subscriber`].
//!
//! Outside of tests both are async-nats' own and nothing else. In tests there is a second kind, whose server is
//! a model in the same process: see `simulation`. Everything above this file runs unchanged over either.

use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use async_nats::client::traits::Publisher as _;
use async_nats::message::OutboundMessage;
use async_nats::{HeaderMap, Message, PublishError, ServerInfo, Subject, SubscribeError, client::FlushError};
use bytes::Bytes;
use futures::Stream;

#[cfg(test)]
use super::simulation;

/// A connection's client. Clones share it.
#[derive(Clone, Debug)]
pub(crate) enum Client {
    /// To a server.
    Server(async_nats::Client),
    /// To a model of one.
    #[cfg(test)]
    Simulated(simulation::Client),
}

/// What came over a connection, and over those before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Received {
    /// Every byte.
    pub(crate) bytes: u64,
    /// Whole messages, to whatever subscription.
    pub(crate) messages: u64,
}

/// The messages of one subscription, which ends when this is dropped.
#[derive(Debug)]
pub(crate) enum Subscriber {
    /// From a server.
    Server(async_nats::Subscriber),
    /// From a model of one.
    #[cfg(test)]
    Simulated(tokio::sync::mpsc::Receiver<Message>),
}

impl Client {
    /// A subject that nobody else uses.
    pub(crate) fn new_inbox(&self) -> String {
        match self {
            Self::Server(client) => client.new_inbox(),
            #[cfg(test)]
            Self::Simulated(client) => client.new_inbox(),
        }
    }

    /// The most that the server takes in one message, headers included.
    pub(crate) fn max_payload(&self) -> usize {
        match self {
            Self::Server(client) => client.max_payload(),
            #[cfg(test)]
            Self::Simulated(client) => client.max_payload(),
        }
    }

    /// What the server said of itself.
    pub(crate) fn server_info(&self) -> ServerInfo {
        match self {
            Self::Server(client) => client.server_info(),
            #[cfg(test)]
            Self::Simulated(client) => client.server_info(),
        }
    }

    /// Whether the server is at least of this version: major, minor, patch.
    pub(crate) fn is_server_compatible(&self, (major, minor, patch): (i64, i64, i64)) -> bool {
        match self {
            Self::Server(client) => client.is_server_compatible(major, minor, patch),
            #[cfg(test)]
            Self::Simulated(_) => true,
        }
    }

    /// How often there was a connection, the first one included.
    pub(crate) fn connects(&self) -> u64 {
        match self {
            Self::Server(client) => client.statistics().connects.load(Ordering::Relaxed),
            #[cfg(test)]
            Self::Simulated(client) => client.connects(),
        }
    }

    /// What came so far. A model sends messages whole, and is not asked.
    pub(crate) fn received(&self) -> Received {
        match self {
            Self::Server(client) => {
                let statistics = client.statistics();
                Received {
                    bytes: statistics.in_bytes.load(Ordering::Relaxed),
                    messages: statistics.in_messages.load(Ordering::Relaxed),
                }
            }
            #[cfg(test)]
            Self::Simulated(_) => Received::default(),
        }
    }

    /// Gives the connection up; another one is made in its place. A model knows by itself when one is dead.
    pub(crate) async fn reconnect(&self) {
        match self {
            // Fails only when the client has ended, which everybody is told.
            Self::Server(client) => drop(client.force_reconnect().await),
            #[cfg(test)]
            Self::Simulated(_) => {}
        }
    }

    /// See [`async_nats::Client::subscribe`].
    pub(crate) async fn subscribe(&self, subject: String) -> Result<Subscriber, SubscribeError> {
        match self {
            Self::Server(client) => client.subscribe(subject).await.map(Subscriber::Server),
            #[cfg(test)]
            Self::Simulated(client) => Ok(Subscriber::Simulated(client.subscribe(subject))),
        }
    }

    /// Queues a message: see [`async_nats::Client::publish`].
    pub(crate) async fn publish_message(&self, message: OutboundMessage) -> Result<(), PublishError> {
        match self {
            Self::Server(client) => client.publish_message(message).await,
            #[cfg(test)]
            Self::Simulated(client) => client.publish(message).await,
        }
    }

    /// Queues a message without headers.
    pub(crate) async fn publish(&self, subject: String, payload: Bytes) -> Result<(), PublishError> {
        let message = OutboundMessage { subject: subject.into(), reply: None, headers: None, payload };
        self.publish_message(message).await
    }

    /// Queues a message with headers.
    pub(crate) async fn publish_with_headers(
        &self,
        subject: Subject,
        headers: HeaderMap,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        self.publish_message(OutboundMessage { subject, reply: None, headers: Some(headers), payload }).await
    }

    /// Queues a message that asks for an answer at `reply`.
    pub(crate) async fn publish_with_reply(
        &self,
        subject: String,
        reply: String,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        let (subject, reply) = (subject.into(), Some(reply.into()));
        self.publish_message(OutboundMessage { subject, reply, headers: None, payload }).await
    }

    /// Waits until everything queued was handed to the socket.
    pub(crate) async fn flush(&self) -> Result<(), FlushError> {
        match self {
            Self::Server(client) => client.flush().await,
            #[cfg(test)]
            Self::Simulated(_) => Ok(()),
        }
    }
}

impl Stream for Subscriber {
    type Item = Message;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Message>> {
        match self.get_mut() {
            Self::Server(subscriber) => Pin::new(subscriber).poll_next(context),
            #[cfg(test)]
            Self::Simulated(receiver) => receiver.poll_recv(context),
        }
    }
}
