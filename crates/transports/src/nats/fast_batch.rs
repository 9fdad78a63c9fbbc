//! One batch of the server's fast ingest: [`FastBatch`].
//!
//! Its messages are stored as they come, and acknowledged a few at a time, so many are under way at once. The
//! server takes a message only right after the one before it: after a gap, or a message that it refuses, it stores
//! nothing more of the batch, and says how many it has. What it is told travels in the reply subject:
//! `{inbox}.{flow}.fail.{number}.{operation}.$FI`, where the inbox's last token is the name of the batch.
//!
//! Each message is also published with compare-and-set: the first expects what its subject ends with, each other one
//! the sequence that its predecessor has if nobody else published in between, and that the stream ends there. That
//! guess is never too high, so a message of ours that arrives late, after others of its subject, is refused like any
//! other. Where the guess is too low the batch ends, and the server says where. (To ask the stream's end is a fifth
//! cheaper for the server than to ask the subject's, and refuses more: nothing at all may have come in between.)

use anyhow::{Context as _, Result};
use async_nats::header::{
    NATS_EXPECTED_LAST_SEQUENCE, NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_EXPECTED_STREAM,
};
use async_nats::message::OutboundMessage;
use async_nats::{Message, PublishError, Subject};
use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _};
use serde::Deserialize;

use super::api::Refusal;
use super::client::{Client, Subscriber};
use super::wire;

/// A batch that was begun, or is about to be.
#[derive(Debug)]
pub(super) struct FastBatch {
    client: Client,
    stream: String,
    subject: Subject,
    /// Where the server answers, with the settings of the batch.
    replies_to: String,
    replies: Subscriber,
    /// The sequence that its first message follows.
    base: u64,
    /// How many messages were sent.
    pub(super) sent: u64,
}

/// What the server says of a batch.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// It has the first so many messages, and takes more.
    Stored(u64),
    /// It has the first `count` messages, the last of them with this sequence, and takes no more.
    Over { count: u64, sequence: u64 },
    /// It refuses a message, or does not know the batch (any more).
    Refused(Refusal),
    /// Nobody serves the subject, or the answer makes no sense.
    Nothing,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Flow {
    Ack {
        seq: u64,
    },
    /// What follows says how much is stored.
    Gap {},
    Err {},
}

#[derive(Deserialize)]
struct Answer {
    error: Option<Refusal>,
    #[serde(default)]
    seq: u64,
    count: Option<u64>,
}

const START: u8 = 0;
const APPEND: u8 = 1;
/// Ends the batch and stores nothing.
const END: u8 = 3;

/// No stream has this name. A server that knows batches does not look at the header where it stores nothing; one
/// that does not know them refuses the message instead of storing it.
const NO_STREAM: &str = "-";

impl FastBatch {
    /// Listens for answers; `flow` is after how many messages the server acknowledges at the latest.
    pub(super) async fn new(
        client: &Client,
        stream: &str,
        subject: Subject,
        base: u64,
        flow: usize,
    ) -> Result<Self> {
        let inbox = client.new_inbox();
        let replies = client.subscribe(format!("{inbox}.>")).await;
        let replies = replies.with_context(|| format!("cannot subscribe to the inbox `{inbox}.>`"))?;
        Ok(Self {
            client: client.clone(),
            stream: stream.to_owned(),
            subject,
            replies_to: format!("{inbox}.{flow}.fail"),
            replies,
            base,
            sent: 0,
        })
    }

    /// The sequence that the message with this number has, if nobody else published since the batch began.
    pub(super) fn sequence_of(&self, number: u64) -> u64 {
        self.base + number
    }

    /// Sends the next message.
    pub(super) async fn send(&mut self, message: wire::Message) -> Result<(), PublishError> {
        let wire::Message { mut headers, payload } = message;
        let expected = self.sequence_of(self.sent).to_string();
        let operation = if self.sent == 0 {
            headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, expected);
            headers.insert(NATS_EXPECTED_STREAM, self.stream.as_str());
            START
        } else {
            headers.insert(NATS_EXPECTED_LAST_SEQUENCE, expected);
            APPEND
        };
        self.sent += 1;
        self.publish(operation, self.sent, headers, payload).await
    }

    /// Says that there are no more; the answer is [`Heard::Over`].
    pub(super) async fn end(&self) -> Result<(), PublishError> {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert(NATS_EXPECTED_STREAM, NO_STREAM);
        self.publish(END, self.sent + 1, headers, Bytes::new()).await
    }

    /// What the server says next.
    pub(super) async fn heard(&mut self) -> Heard {
        self.replies.next().await.map_or(Heard::Nothing, |message| Heard::from(&message))
    }

    /// What the server has said already.
    pub(super) fn heard_so_far(&mut self) -> Option<Heard> {
        self.heard().now_or_never()
    }

    async fn publish(
        &self,
        operation: u8,
        number: u64,
        headers: async_nats::HeaderMap,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        let reply = Subject::from(format!("{}.{number}.{operation}.$FI", self.replies_to));
        let (subject, reply, headers) = (self.subject.clone(), Some(reply), Some(headers));
        self.client.publish_message(OutboundMessage { subject, reply, headers, payload }).await
    }
}

impl From<&Message> for Heard {
    fn from(message: &Message) -> Self {
        if let Ok(flow) = serde_json::from_slice(&message.payload) {
            return match flow {
                Flow::Ack { seq } => Self::Stored(seq),
                // Nothing new of what is stored before the answer that ends the batch.
                Flow::Gap {} | Flow::Err {} => Self::Stored(0),
            };
        }
        match serde_json::from_slice(&message.payload) {
            Ok(Answer { error: Some(refusal), .. }) => Self::Refused(refusal),
            Ok(Answer { count: Some(count), seq, .. }) => Self::Over { count, sequence: seq },
            Ok(_) | Err(_) => Self::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(payload: &'static str) -> Heard {
        Heard::from(&Message {
            subject: "inbox".into(),
            reply: None,
            payload: payload.into(),
            headers: None,
            status: None,
            description: None,
            length: 0,
        })
    }

    #[test]
    fn what_the_server_says_is_understood() {
        assert_eq!(heard(r#"{"type":"ack","seq":3,"msgs":10}"#), Heard::Stored(3));
        assert_eq!(heard(r#"{"type":"gap","last_seq":3,"seq":4}"#), Heard::Stored(0));
        let refused = r#"{"type":"err","seq":4,"error":{"code":400,"err_code":10071,"description":"no"}}"#;
        assert_eq!(heard(refused), Heard::Stored(0));
        let over = r#"{"stream":"L","seq":9,"batch":"a2","count":3}"#;
        assert_eq!(heard(over), Heard::Over { count: 3, sequence: 9 });
        let unknown =
            r#"{"error":{"code":400,"err_code":10208,"description":"unknown"},"stream":"L","seq":0}"#;
        assert!(matches!(heard(unknown), Heard::Refused(Refusal { err_code: 10208, .. })));
        for nothing in ["", "x", "{}", r#"{"stream":"L","seq":9}"#] {
            assert_eq!(heard(nothing), Heard::Nothing, "{nothing}");
        }
    }
}
