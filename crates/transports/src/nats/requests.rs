//! Requests over one inbox: [`Requests`].
//!
//! The client has requests of its own; they keep an entry for every reply that never comes, for ever, and
//! end with nothing but their timeout. These forget what they no longer wait for, and end at once when the
//! connection breaks or the server forbids the subject: both look like a timeout otherwise.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use async_nats::message::OutboundMessage;
use async_nats::{Message, PublishErrorKind, StatusCode};
use fshipper_pipeline::Escaped;
use futures::StreamExt as _;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::client::Subscriber;
use super::connect::Connection;

/// Sends requests and waits for their replies.
#[derive(Debug)]
pub(super) struct Requests {
    connection: Connection,
    inbox: String,
    next_number: AtomicU64,
    /// How long the fastest reply took since the connection was made, in microseconds; the most before there
    /// was any.
    fastest_reply: AtomicU64,
    waiting: Arc<Waiting>,
    /// Ends with this struct.
    _reader: JoinSet<()>,
}

/// Why there is no reply. Except for [`Failure::TooLarge`], what became of the request is unknown.
#[derive(Debug)]
pub(super) enum Failure {
    /// The server forbids it, in its own words.
    Denied(String),
    /// Nobody serves the subject: there is no such stream or consumer, or no JetStream at all.
    NoResponders,
    /// No reply came in time.
    TimedOut,
    /// The connection broke while the request was under way.
    Reconnected,
    /// The message is larger than the server accepts; it was not sent.
    TooLarge,
    /// The client has ended.
    Closed(String),
}

/// Where replies go.
#[derive(Debug, Default)]
struct Waiting(Mutex<Inbox>);

#[derive(Debug, Default)]
struct Inbox {
    /// Who waits for the reply to each request.
    senders: HashMap<u64, oneshot::Sender<Message>>,
    /// What the server said when it forbade the inbox; then no reply comes, ever.
    denied: Option<String>,
}

/// A reply that is waited for; forgotten on drop.
struct Expected<'a> {
    waiting: &'a Waiting,
    number: u64,
}

/// Longer than a loaded server takes for anything it does at all. A reply that comes later is not lost
/// knowledge: whoever publishes asks what became of it.
pub(super) const REPLY_TIMEOUT: Duration = Duration::from_secs(10);

impl Requests {
    /// Subscribes to an inbox of its own.
    pub(super) async fn new(connection: Connection) -> Result<Self> {
        let inbox = connection.client.new_inbox();
        let denied = connection.denied(&format!("{inbox}.*"));
        let subscriber = connection.client.subscribe(format!("{inbox}.*")).await;
        let subscriber = subscriber.with_context(|| format!("cannot subscribe to the inbox `{inbox}.*`"))?;
        let waiting = Arc::new(Waiting::default());
        let mut reader = JoinSet::new();
        reader.spawn(hand_out(subscriber, denied, waiting.clone()));
        Ok(Self {
            connection,
            inbox,
            next_number: AtomicU64::new(0),
            fastest_reply: AtomicU64::new(u64::MAX),
            waiting,
            _reader: reader,
        })
    }

    /// The connection they go over.
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// What the replies come from, for messages.
    pub(super) fn server(&self) -> String {
        let info = self.connection.client.server_info();
        format!("the server `{}` {}", Escaped(info.server_name.as_bytes()), Escaped(info.version.as_bytes()))
    }

    /// How long a round trip takes at least; `None` before there was one.
    pub(super) fn round_trip(&self) -> Option<Duration> {
        Some(self.fastest_reply.load(Ordering::Relaxed))
            .filter(|&micros| micros != u64::MAX)
            .map(Duration::from_micros)
    }

    /// Sends one message and waits for the reply.
    pub(super) async fn send(&self, message: OutboundMessage) -> Result<Message, Failure> {
        let subject = message.subject.clone();
        self.send_all(&subject, std::iter::once(message)).await
    }

    /// Sends messages to one subject in order, the last as a request, and waits for its reply. Waits for a
    /// connection first: what is queued while there is none would go out long after anybody cares.
    pub(super) async fn send_all(
        &self,
        subject: &str,
        messages: impl Iterator<Item = OutboundMessage> + Send,
    ) -> Result<Message, Failure> {
        let mut link = self.connection.connected().await;
        let denied = self.connection.denied(subject);
        let (sender, receiver) = oneshot::channel();
        let expected = self.expect(sender);
        let reply = format!("{}.{}", self.inbox, expected.number);
        let exchange = async {
            self.publish_all(messages, reply).await?;
            let sent = Instant::now();
            let reply = receiver.await.map_err(|_| match self.waiting.lock().denied.clone() {
                Some(denied) => Failure::Denied(denied),
                None => Failure::Closed("the inbox is gone".to_owned()),
            })?;
            let micros = u64::try_from(sent.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.fastest_reply.fetch_min(micros, Ordering::Relaxed);
            Ok(reply)
        };
        let message = tokio::select! {
            biased;
            reply = tokio::time::timeout(REPLY_TIMEOUT, exchange) => reply.unwrap_or(Err(Failure::TimedOut))?,
            _ = link.changed() => {
                // The next server may be nearer, or farther away.
                self.fastest_reply.store(u64::MAX, Ordering::Relaxed);
                return Err(Failure::Reconnected);
            }
            denied = denied => return Err(Failure::Denied(denied)),
        };
        if message.status == Some(StatusCode::NO_RESPONDERS) {
            return Err(Failure::NoResponders);
        }
        Ok(message)
    }
}

impl Requests {
    /// Publishes everything, the last with `reply`.
    async fn publish_all(
        &self,
        messages: impl Iterator<Item = OutboundMessage> + Send,
        reply: String,
    ) -> Result<(), Failure> {
        let mut messages = messages.peekable();
        while let Some(mut message) = messages.next() {
            if messages.peek().is_none() {
                message.reply = Some(reply.as_str().into());
            }
            self.connection.client.publish_message(message).await.map_err(|error| match error.kind() {
                PublishErrorKind::MaxPayloadExceeded => Failure::TooLarge,
                _ => Failure::Closed(error.to_string()),
            })?;
        }
        Ok(())
    }

    fn expect(&self, sender: oneshot::Sender<Message>) -> Expected<'_> {
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        let mut inbox = self.waiting.lock();
        // A sender that is dropped at once tells the receiver.
        if inbox.denied.is_none() {
            inbox.senders.insert(number, sender);
        }
        drop(inbox);
        Expected { waiting: &self.waiting, number }
    }
}

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, Inbox> {
        // Nothing that holds the lock can panic between two changes.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Expected<'_> {
    fn drop(&mut self) {
        self.waiting.lock().senders.remove(&self.number);
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(violation) => write!(f, "{violation}"),
            Self::NoResponders => f.write_str("nobody serves it"),
            Self::TimedOut => write!(f, "none within {} seconds", REPLY_TIMEOUT.as_secs()),
            Self::Reconnected => f.write_str("the connection broke"),
            Self::TooLarge => f.write_str("it is larger than the server's `max_payload`"),
            Self::Closed(reason) => write!(f, "the connection has ended: {reason}"),
        }
    }
}

/// Gives each reply to whoever waits for it; the last token of its subject is the number of the request.
async fn hand_out(
    mut subscriber: Subscriber,
    denied: impl Future<Output = String> + Send,
    waiting: Arc<Waiting>,
) {
    let mut denied = std::pin::pin!(denied);
    loop {
        let message = tokio::select! {
            biased;
            message = subscriber.next() => message,
            denied = &mut denied => {
                *waiting.lock() = Inbox { senders: HashMap::new(), denied: Some(denied) };
                return;
            }
        };
        let Some(message) = message else { return };
        let number = message.subject.rsplit('.').next().and_then(|token| token.parse().ok());
        let sender = number.and_then(|number: u64| waiting.lock().senders.remove(&number));
        if let Some(sender) = sender {
            // Whoever asked may have gone meanwhile.
            let _ = sender.send(message);
        }
    }
}
