//! One stream and its messages: [`Stream`].

use std::collections::BTreeMap;

use async_nats::message::OutboundMessage;
use async_nats::{HeaderMap, StatusCode};
use bytes::Bytes;
use serde_json::{Value, json};

use super::{Change, Removal};
use crate::nats::pattern::covers;
use crate::nats::simulation::consumer::Consumer;
use crate::nats::simulation::fast::FastBatches;
use crate::nats::simulation::messages::{Outgoing, data, rfc3339, status};

/// One stream.
#[derive(Debug)]
pub(in crate::nats::simulation) struct Stream {
    pub(in crate::nats::simulation) name: String,
    pub(in crate::nats::simulation) config: Value,
    pub(in crate::nats::simulation) subjects: Vec<String>,
    pub(in crate::nats::simulation) created: i64,
    pub(in crate::nats::simulation) messages: BTreeMap<u64, Stored>,
    pub(in crate::nats::simulation) first_sequence: u64,
    pub(in crate::nats::simulation) last_sequence: u64,
    pub(in crate::nats::simulation) consumers: BTreeMap<String, Consumer>,
    /// Atomic batches that were begun.
    pub(in crate::nats::simulation) batches: BTreeMap<String, Vec<OutboundMessage>>,
    pub(in crate::nats::simulation) fast_batches: FastBatches,
}

/// A message of a stream.
#[derive(Clone, Debug)]
pub(in crate::nats::simulation) struct Stored {
    pub(in crate::nats::simulation) subject: String,
    pub(in crate::nats::simulation) headers: Option<HeaderMap>,
    pub(in crate::nats::simulation) payload: Bytes,
    pub(in crate::nats::simulation) time: i64,
}

impl Stream {
    /// Whether it stores messages of this subject.
    pub(super) fn takes(&self, subject: &str) -> bool {
        self.subjects.iter().any(|pattern| covers(pattern, subject))
    }

    /// Removes a message, if it is there.
    pub(super) fn remove(&mut self, sequence: u64, why: Removal) -> Option<Change> {
        let message = self.messages.remove(&sequence)?;
        let first = self.messages.first_key_value();
        self.first_sequence = first.map_or(self.last_sequence + 1, |(sequence, _)| *sequence);
        Some(Change::Removed { stream: self.name.clone(), message, why })
    }

    /// Lets go of what is more than `max_msgs_per_subject` allows.
    pub(super) fn limit_subject(&mut self, subject: &str) {
        let Some(most) = self.config["max_msgs_per_subject"].as_u64().filter(|&most| most > 0) else {
            return;
        };
        let of_subject = self.messages.iter().filter(|(_, message)| message.subject == subject);
        let all: Vec<u64> = of_subject.map(|(sequence, _)| *sequence).collect();
        for sequence in &all[..all.len().saturating_sub(most as usize)] {
            self.messages.remove(sequence);
        }
        self.first_sequence = self.messages.first_key_value().map_or(0, |(sequence, _)| *sequence);
    }

    /// The last message of a subject.
    pub(in crate::nats::simulation) fn last_of(&self, subject: &str) -> Option<(u64, &Stored)> {
        let mut latest = self.messages.iter().rev();
        latest.find(|(_, message)| message.subject == subject).map(|(sequence, message)| (*sequence, message))
    }

    pub(super) fn info(&self) -> Value {
        json!({
            "config": self.config,
            "created": rfc3339(self.created),
            "state": {
                "messages": self.messages.len(),
                "first_seq": self.first_sequence,
                "last_seq": self.last_sequence,
                "consumer_count": self.consumers.len(),
            },
        })
    }

    pub(super) fn direct_get(&self, reply: &str, subject: Option<&str>, body: &[u8]) -> Outgoing {
        let found = match subject {
            Some(subject) => self.last_of(subject),
            None => {
                let body: Value = serde_json::from_slice(body).expect("our own request is JSON");
                let sequence = body["seq"].as_u64().unwrap_or_default();
                self.messages.get(&sequence).map(|message| (sequence, message))
            }
        };
        let Some((sequence, message)) = found else {
            return status(reply, StatusCode::NOT_FOUND, "Message Not Found", &[]);
        };
        let mut headers = message.headers.clone().unwrap_or_default();
        headers.insert("Nats-Stream", self.name.as_str());
        headers.insert("Nats-Subject", message.subject.as_str());
        headers.insert("Nats-Sequence", sequence.to_string());
        headers.insert("Nats-Time-Stamp", rfc3339(message.time));
        let message = data(reply, Some(headers), message.payload.clone(), None);
        Outgoing { to: reply.to_owned(), message }
    }
}
