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
    fastest: Mutex<Option<Fastest>>,
    waiting: Arc<Waiting>,
    /// Ends with this struct.
    _reader: JoinSet<()>,
}

/// How long the fastest reply took over one connection: the next server may be nearer, or farther away.
#[derive(Clone, Copy, Debug)]
struct Fastest {
    /// Over which connection, counted from 1.
    connects: u64,
    reply: Duration,
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
            fastest: Mutex::default(),
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

    /// How long a round trip takes at least over the present connection; `None` before there was one.
    pub(super) fn round_trip(&self) -> Option<Duration> {
        let fastest = *self.fastest.lock().unwrap_or_else(PoisonError::into_inner);
        fastest
            .filter(|fastest| fastest.connects == self.connection.client.connects())
            .map(|fastest| fastest.reply)
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
            let (connects, sent) = (self.connection.client.connects(), Instant::now());
            let reply = receiver.await.map_err(|_| match self.waiting.lock().denied.clone() {
                Some(denied) => Failure::Denied(denied),
                None => Failure::Closed("the inbox is gone".to_owned()),
            })?;
            self.note_round_trip(connects, sent.elapsed());
            Ok(reply)
        };
        let message = tokio::select! {
            biased;
            reply = tokio::time::timeout(REPLY_TIMEOUT, exchange) => reply.unwrap_or(Err(Failure::TimedOut))?,
            _ = link.changed() => return Err(Failure::Reconnected),
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

    fn note_round_trip(&self, connects: u64, reply: Duration) {
        let mut fastest = self.fastest.lock().unwrap_or_else(PoisonError::into_inner);
        if fastest.is_none_or(|fastest| fastest.connects != connects || reply < fastest.reply) {
            *fastest = Some(Fastest { connects, reply });
        }
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

#[cfg(test)]
mod tests {
    use fshipper_testing::{DEADLINE, NatsOptions, NatsServer};

    use super::super::client::Client;
    use super::super::events::Events;
    use super::*;

    /// A message that nobody serves: the server answers that.
    async fn ask(requests: &Requests) -> Result<Message, Failure> {
        let (subject, payload) = ("nobody".into(), Vec::new().into());
        requests.send(OutboundMessage { subject, reply: None, headers: None, payload }).await
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_round_trip_of_an_earlier_connection_says_nothing_of_this_one() {
        let mut server = NatsServer::start(NatsOptions::default());
        let client = async_nats::connect(server.url()).await.unwrap();
        let connection =
            Connection::simulated(Client::Server(client.clone()), Events::new("nats://test".to_owned()));
        let requests = Requests::new(connection).await.unwrap();
        assert_eq!(requests.round_trip(), None);
        assert!(matches!(ask(&requests).await, Err(Failure::NoResponders)));
        assert!(requests.round_trip().is_some());

        server.restart();
        let connected_again = async {
            while requests.connection().client.connects() == 1 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(DEADLINE, connected_again).await.unwrap();
        assert_eq!(requests.round_trip(), None);
        assert!(matches!(ask(&requests).await, Err(Failure::NoResponders)));
        assert!(requests.round_trip().is_some());
    }
}
