//! A process's end of the simulated network: [`Client`].

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_nats::message::OutboundMessage;
use async_nats::{Message, PublishError, PublishErrorKind, ServerInfo};
use tokio::sync::mpsc;

use super::super::messages::header_bytes;
use super::Network;

/// A process's client of the simulated server.
#[derive(Clone)]
pub(crate) struct Client(Arc<Handle>);

struct Handle {
    network: Network,
    number: u64,
    outgoing: usize,
    incoming: usize,
    next_inbox: AtomicU64,
}

impl Client {
    /// The client with this number, which holds at most so many messages in each queue.
    pub(super) fn new(network: Network, number: u64, outgoing: usize, incoming: usize) -> Self {
        let next_inbox = AtomicU64::new(0);
        Self(Arc::new(Handle { network, number, outgoing, incoming, next_inbox }))
    }

    /// See [`super::super::super::client::Client::new_inbox`].
    pub(crate) fn new_inbox(&self) -> String {
        let number = self.0.next_inbox.fetch_add(1, Ordering::Relaxed);
        format!("_INBOX.{}-{number}", self.0.number)
    }

    /// See [`super::super::super::client::Client::max_payload`].
    pub(crate) fn max_payload(&self) -> usize {
        self.0.network.lock().max_payload
    }

    /// See [`super::super::super::client::Client::server_info`].
    pub(crate) fn server_info(&self) -> ServerInfo {
        ServerInfo {
            server_name: "model".to_owned(),
            version: "2.15.1".to_owned(),
            max_payload: self.max_payload(),
            ..ServerInfo::default()
        }
    }

    /// See [`super::super::super::client::Client::connects`].
    pub(crate) fn connects(&self) -> u64 {
        self.0.network.lock().clients.get(&self.0.number).map_or(0, |client| client.connects)
    }

    /// See [`super::super::super::client::Client::subscribe`].
    pub(crate) fn subscribe(&self, subject: String) -> mpsc::Receiver<Message> {
        let (sender, receiver) = mpsc::channel(self.0.incoming);
        let mut state = self.0.network.lock();
        let client = state.clients.get_mut(&self.0.number).expect("it is there as long as its handle");
        client.subscriptions.push((subject, sender));
        receiver
    }

    /// See [`super::super::super::client::Client::publish_message`].
    pub(crate) async fn publish(&self, message: OutboundMessage) -> Result<(), PublishError> {
        let header_bytes = message.headers.as_ref().map_or(0, header_bytes);
        if header_bytes + message.payload.len() > self.max_payload() {
            return Err(PublishError::new(PublishErrorKind::MaxPayloadExceeded));
        }
        loop {
            let mut link = {
                let mut state = self.0.network.lock();
                let client = state.clients.get(&self.0.number).expect("it is there as long as its handle");
                if client.connection.is_some() || client.waiting.len() < self.0.outgoing {
                    state.publish(self.0.number, message);
                    break;
                }
                client.events.link()
            };
            // The queue is full and there is no connection. This only fails without a sender, and there is one.
            let _ = link.changed().await;
        }
        self.0.network.0.changed.notify_one();
        // A real client's queue is a channel: it may let others run.
        tokio::task::consume_budget().await;
        Ok(())
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let mut state = self.network.lock();
        let gone = state.clients.remove(&self.number);
        if let Some(connection) = gone.and_then(|client| client.connection) {
            state.outlive(connection);
        }
        drop(state);
        self.network.0.changed.notify_one();
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Client").field(&self.0.number).finish()
    }
}
