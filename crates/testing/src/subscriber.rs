//! A plain NATS client, as other people write one: [`Subscriber`].

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_nats::{Client, Message};
use bytes::Bytes;
use futures::StreamExt as _;
use tokio::task::JoinHandle;

/// Collects what is published to a subject, until it is dropped.
#[derive(Debug)]
pub struct Subscriber {
    client: Client,
    messages: Arc<Mutex<Vec<Message>>>,
    task: JoinHandle<()>,
}

impl Subscriber {
    /// Connects and subscribes; when this returns the server knows of it.
    ///
    /// # Panics
    ///
    /// When the server cannot be reached.
    pub async fn start(url: &str, subject: &str) -> Self {
        let client =
            async_nats::connect(url).await.unwrap_or_else(|error| panic!("cannot reach {url}: {error}"));
        let mut subscription = client.subscribe(subject.to_owned()).await.expect("the client takes it");
        // A flush waits only for the socket; a server that has answered a request has read all before it.
        let inbox = client.new_inbox();
        let mut echo = client.subscribe(inbox.clone()).await.expect("the client takes it");
        client.publish(inbox, Bytes::new()).await.expect("the client takes it");
        tokio::time::timeout(crate::DEADLINE, echo.next()).await.expect("the server answers");
        let messages = Arc::new(Mutex::new(Vec::new()));
        let collected = messages.clone();
        let task = tokio::spawn(async move {
            while let Some(message) = subscription.next().await {
                collected.lock().unwrap_or_else(PoisonError::into_inner).push(message);
            }
        });
        Self { client, messages, task }
    }

    /// Its connection, to publish with.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Everything received so far.
    pub fn messages(&self) -> Vec<Message> {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The payloads so far, each followed by a newline: what `nats sub --raw` prints.
    pub fn printed(&self) -> Vec<u8> {
        let messages = self.messages();
        messages.iter().flat_map(|message| message.payload.iter().copied().chain([b'\n'])).collect()
    }

    /// Waits until `count` lines have come.
    ///
    /// # Panics
    ///
    /// When `deadline` passes first, with how many came.
    pub async fn wait_for_lines(&self, count: usize, deadline: Duration) {
        let start = Instant::now();
        loop {
            let lines = memchr::memchr_iter(b'\n', &self.printed()).count();
            if lines >= count {
                return;
            }
            assert!(start.elapsed() < deadline, "{lines} of {count} lines came within {deadline:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NatsServer;

    #[tokio::test]
    async fn collects_payloads_as_lines() {
        let server = NatsServer::core();
        assert_eq!(server.subscribers("logs.>"), 0);
        let subscriber = Subscriber::start(&server.url(), "logs.>").await;
        assert_eq!(server.subscribers("logs.>"), 1);
        let client = subscriber.client();
        client.publish("logs.a", "one\ntwo".into()).await.unwrap();
        client.publish("other", "not this".into()).await.unwrap();
        client.publish("logs.b", "three".into()).await.unwrap();
        subscriber.wait_for_lines(3, crate::DEADLINE).await;
        assert_eq!(subscriber.printed(), b"one\ntwo\nthree\n");
    }
}
