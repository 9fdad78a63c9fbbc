//! A model of a server with JetStream, as far as the ends use it: [`Broker`].
//!
//! It has no clock, no network and no chance of its own: what goes in decides what comes out, and
//! `conformance` compares that with a real server. Left out: replicas, permissions, acknowledgements, other
//! retention than limits, push consumers.

use std::collections::BTreeMap;

use async_nats::header::{
    NATS_BATCH_COMMIT, NATS_BATCH_ID, NATS_BATCH_SEQUENCE, NATS_EXPECTED_LAST_SEQUENCE,
    NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_EXPECTED_STREAM,
};
use async_nats::message::OutboundMessage;
use serde_json::{Value, json};

use super::super::pattern::covers;
use super::consumer::Consumer;
use super::fast::{self, FastBatches};
use super::messages::{Outgoing, Refused, answer_of, error_of, no_responders};

mod stream;

pub(super) use stream::{Stored, Stream};

/// The streams of one server, and who reads them.
#[derive(Debug, Default)]
pub(super) struct Broker {
    streams: BTreeMap<String, Stream>,
    /// Now, in nanoseconds since 1970.
    now: i64,
    /// The last time that was given to anything: no two things have the same.
    last_time: i64,
    /// What happened to messages since the last [`Broker::take_changes`].
    changes: Vec<Change>,
    /// Every publish is refused for want of room.
    pub(super) full: bool,
    /// JetStream is not there: nobody answers, as while a server starts.
    pub(super) absent: bool,
    /// JetStream answers that it cannot, for now.
    pub(super) unavailable: bool,
    /// Consumers say and send nothing.
    pub(super) stalled: bool,
}

/// What happened to a message.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Stored {
        stream: String,
        sequence: u64,
        message: Stored,
        before: Option<Stored>,
    },
    Removed {
        stream: String,
        message: Stored,
        why: Removal,
    },
    /// The stream is gone, and one made anew gives its sequences again, whether or not it still held anything.
    Deleted {
        stream: String,
    },
}

/// Why a message is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Removal {
    /// The broker forgot what it had acknowledged, or all of the stream.
    WentBack,
    /// Somebody or some limit deleted it.
    Deleted,
    /// A consumer that has it on its disk deleted it.
    Purged,
}

/// How many messages an atomic batch may hold.
const MAX_BATCH_MESSAGES: usize = 1000;

impl Broker {
    /// Sets the clock.
    pub(super) fn at(&mut self, now: i64) -> &mut Self {
        self.now = now;
        self
    }

    /// What happened to messages since the last call.
    pub(super) fn take_changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    /// A stream by its name.
    pub(super) fn stream(&self, name: &str) -> Option<&Stream> {
        self.streams.get(name)
    }

    /// Takes a message that a client sent; what the server sends to whom in answer. `listens` says whether
    /// anybody is subscribed to a subject.
    pub(super) fn take(&mut self, message: OutboundMessage, listens: &dyn Fn(&str) -> bool) -> Vec<Outgoing> {
        let mut out = Vec::new();
        let subject = message.subject.to_string();
        let reply = message.reply.as_ref().map(ToString::to_string);
        if let Some(operation) = subject.strip_prefix("$JS.API.") {
            if self.absent || !self.call(operation, &message, listens, &mut out) {
                out.extend(reply.map(|reply| no_responders(&reply, &subject)));
            }
            return out;
        }
        let taker =
            self.streams.values().find(|stream| stream.takes(&subject)).map(|stream| stream.name.clone());
        match taker.filter(|_| !self.absent) {
            Some(name) => {
                if fast::is_fast(&message) {
                    let reply = reply.unwrap_or_default();
                    let answers = self.publish_fast(&name, message);
                    out.extend(answers.iter().map(|answer| answer_of(&reply, Some(answer))));
                } else {
                    let answer = self.publish(&name, message);
                    out.extend(reply.map(|reply| answer_of(&reply, answer.as_ref())));
                }
                self.serve(&name, listens, &mut out);
            }
            None if listens(&subject) => {}
            None => out.extend(reply.map(|reply| no_responders(&reply, &subject))),
        }
        out
    }

    /// The next moment at which something happens by itself.
    pub(super) fn next_deadline(&self) -> Option<i64> {
        let consumers = self.streams.values().flat_map(|stream| stream.consumers.values());
        consumers.filter_map(Consumer::next_deadline).min()
    }

    /// Does what is due: requests end, heartbeats go out.
    pub(super) fn tick(&mut self) -> Vec<Outgoing> {
        let mut out = Vec::new();
        let (now, stalled) = (self.now, self.stalled);
        for stream in self.streams.values_mut() {
            for consumer in stream.consumers.values_mut() {
                let first = out.len();
                consumer.tick(now, &mut out);
                if stalled {
                    out.truncate(first);
                }
            }
        }
        out
    }

    /// Sends what waits for anybody.
    pub(super) fn serve_all(&mut self, listens: &dyn Fn(&str) -> bool) -> Vec<Outgoing> {
        let mut out = Vec::new();
        let names: Vec<_> = self.streams.keys().cloned().collect();
        for name in names {
            self.serve(&name, listens, &mut out);
        }
        out
    }

    /// The process dies: what was only in memory is gone.
    pub(super) fn crash(&mut self) {
        for stream in self.streams.values_mut() {
            stream.consumers.clear();
            stream.batches.clear();
            stream.fast_batches.clear();
        }
    }

    /// The stream loses its last `count` messages, as by a power cut before they were on disk; their sequences
    /// will be given again.
    pub(super) fn roll_back(&mut self, name: &str, count: usize) {
        let Some(stream) = self.streams.get_mut(name) else { return };
        if stream.messages.is_empty() {
            return;
        }
        for _ in 0..count {
            let Some((_, message)) = stream.messages.pop_last() else { break };
            let gone = Change::Removed { stream: name.to_owned(), message, why: Removal::WentBack };
            self.changes.push(gone);
            stream.last_sequence = stream.messages.last_key_value().map_or(0, |(sequence, _)| *sequence);
        }
        if stream.messages.is_empty() {
            // Nothing of it was on disk yet.
            (stream.first_sequence, stream.last_sequence) = (0, 0);
        }
    }

    /// The stream is gone.
    pub(super) fn delete_stream(&mut self, name: &str) -> Vec<Outgoing> {
        let Some(stream) = self.streams.remove(name) else { return Vec::new() };
        self.changes.extend(stream.messages.into_values().map(|message| Change::Removed {
            stream: name.to_owned(),
            message,
            why: Removal::WentBack,
        }));
        self.changes.push(Change::Deleted { stream: name.to_owned() });
        stream.consumers.into_values().flat_map(Consumer::end).collect()
    }

    /// One message is deleted, by a limit or by somebody.
    pub(super) fn delete_message(&mut self, name: &str, sequence: u64) {
        let Some(stream) = self.streams.get_mut(name) else { return };
        self.changes.extend(stream.remove(sequence, Removal::Deleted));
    }

    /// Deletes messages of some subjects below a sequence, as a client asks for it; how many they were.
    fn purge(&mut self, name: &str, body: &[u8]) -> Option<usize> {
        let request: Value = serde_json::from_slice(body).expect("our own request is JSON");
        let stream = self.streams.get_mut(name)?;
        let below = request["seq"].as_u64().unwrap_or(u64::MAX);
        let filter = request["filter"].as_str();
        let purged = stream.messages.range(..below);
        let purged =
            purged.filter(|(_, message)| filter.is_none_or(|filter| covers(filter, &message.subject)));
        let purged: Vec<u64> = purged.map(|(sequence, _)| *sequence).collect();
        for sequence in &purged {
            self.changes.extend(stream.remove(*sequence, Removal::Purged));
        }
        Some(purged.len())
    }

    /// Deletes all consumers of a stream.
    pub(super) fn delete_consumers(&mut self, name: &str) -> Vec<Outgoing> {
        let Some(stream) = self.streams.get_mut(name) else { return Vec::new() };
        std::mem::take(&mut stream.consumers).into_values().flat_map(Consumer::end).collect()
    }

    /// Deletes one consumer.
    pub(super) fn delete_consumer(&mut self, name: &str, consumer: &str) -> Vec<Outgoing> {
        let stream = self.streams.get_mut(name);
        stream.and_then(|stream| stream.consumers.remove(consumer)).map(Consumer::end).unwrap_or_default()
    }

    fn serve(&mut self, name: &str, listens: &dyn Fn(&str) -> bool, out: &mut Vec<Outgoing>) {
        if self.stalled || self.absent {
            return;
        }
        let Some(stream) = self.streams.get_mut(name) else { return };
        let Stream { name, messages, consumers, .. } = stream;
        for consumer in consumers.values_mut() {
            consumer.serve(name, messages, self.now, listens, out);
        }
    }

    /// A time that nothing else has.
    fn stamp(&mut self) -> i64 {
        self.last_time = self.now.max(self.last_time + 1);
        self.last_time
    }

    /// Answers an API call; `false` when nobody serves that subject.
    fn call(
        &mut self,
        operation: &str,
        message: &OutboundMessage,
        listens: &dyn Fn(&str) -> bool,
        out: &mut Vec<Outgoing>,
    ) -> bool {
        let reply = message.reply.as_ref().map(ToString::to_string).unwrap_or_default();
        if let Some(rest) = operation.strip_prefix("CONSUMER.MSG.NEXT.") {
            let Some((name, consumer)) = rest.split_once('.') else { return false };
            let now = self.now;
            let Some(stream) = self.streams.get_mut(name) else { return false };
            let Some(found) = stream.consumers.get_mut(consumer) else { return false };
            if found.has_expired(now) {
                stream.consumers.remove(consumer);
                return false;
            }
            out.extend(found.request(&reply, &message.payload, &stream.messages, now));
            let name = name.to_owned();
            self.serve(&name, listens, out);
            return true;
        }
        if let Some(rest) = operation.strip_prefix("DIRECT.GET.") {
            let (name, subject) =
                rest.split_once('.').map_or((rest, None), |(name, subject)| (name, Some(subject)));
            let Some(stream) = self.streams.get(name) else { return false };
            out.push(stream.direct_get(&reply, subject, &message.payload));
            return true;
        }
        let answer = match self.unavailable {
            true => Err((503, 10008, "JetStream system temporarily unavailable".to_owned())),
            false => self.answer(operation, &message.payload),
        };
        let answer = answer.unwrap_or_else(|refused| json!({ "error": error_of(&refused) }));
        out.push(answer_of(&reply, Some(&answer)));
        true
    }

    fn answer(&mut self, operation: &str, body: &[u8]) -> Result<Value, Refused> {
        let not_found = || (404, 10059, "stream not found".to_owned());
        if operation == "INFO" {
            return Ok(json!({ "limits": { "max_memory": -1, "max_storage": -1 } }));
        }
        if let Some(name) = operation.strip_prefix("STREAM.INFO.") {
            return self.streams.get(name).map(Stream::info).ok_or_else(not_found);
        }
        if let Some(name) = operation.strip_prefix("STREAM.CREATE.") {
            return self.create_stream(name, body);
        }
        if let Some(name) = operation.strip_prefix("STREAM.PURGE.") {
            let purged = self.purge(name, body).ok_or_else(not_found)?;
            return Ok(json!({ "success": true, "purged": purged }));
        }
        if let Some(rest) = operation.strip_prefix("CONSUMER.CREATE.") {
            let (stream, _) = rest.split_once('.').unwrap_or((rest, ""));
            let request: Value = serde_json::from_slice(body).expect("our own request is JSON");
            let now = self.now;
            let stream = self.streams.get_mut(stream).ok_or_else(not_found)?;
            let name = request["config"]["name"].as_str().unwrap_or_default().to_owned();
            let filtered =
                ["filter_subject", "filter_subjects"].iter().any(|key| !request["config"][key].is_null());
            if request["config"]["deliver_policy"] == "last_per_subject" && !filtered {
                let policy = "consumer delivery policy is deliver last per subject";
                return Err((400, 10094, format!("{policy}, but optional filter subject is not set")));
            }
            let consumer = Consumer::new(&name, &request["config"], &stream.messages, now);
            let pending = consumer.pending(&stream.messages);
            stream.consumers.insert(name.clone(), consumer);
            return Ok(json!({ "stream_name": stream.name, "name": name, "num_pending": pending }));
        }
        panic!("the model does not know the operation `{operation}`")
    }

    fn create_stream(&mut self, name: &str, body: &[u8]) -> Result<Value, Refused> {
        let config: Value = serde_json::from_slice(body).expect("our own request is JSON");
        if let Some(stream) = self.streams.get(name) {
            return match stream.config == config {
                true => Ok(stream.info()),
                false => {
                    Err((400, 10058, "stream name already in use with a different configuration".to_owned()))
                }
            };
        }
        let subjects = config["subjects"].as_array().into_iter().flatten();
        let subjects = subjects.map(|subject| subject.as_str().expect("a subject is a string").to_owned());
        let stream = Stream {
            name: name.to_owned(),
            subjects: subjects.collect(),
            config,
            created: self.stamp(),
            messages: BTreeMap::new(),
            first_sequence: 0,
            last_sequence: 0,
            consumers: BTreeMap::new(),
            batches: BTreeMap::new(),
            fast_batches: FastBatches::default(),
        };
        let info = stream.info();
        self.streams.insert(name.to_owned(), stream);
        Ok(info)
    }

    /// Stores a message, or takes it into an atomic batch; the answer, where there is one at once.
    fn publish(&mut self, name: &str, message: OutboundMessage) -> Option<Value> {
        let answer = match header(&message, NATS_BATCH_ID.as_ref()) {
            Some(id) => self.publish_in_batch(name, &id, message),
            None => self.store(name, vec![message], None).map(Some),
        };
        match answer {
            Ok(answer) => answer,
            Err(refused) => Some(json!({ "error": error_of(&refused), "stream": name, "seq": 0 })),
        }
    }

    /// Takes a message of a fast batch; the answers.
    fn publish_fast(&mut self, name: &str, message: OutboundMessage) -> Vec<Value> {
        let stream = self.streams.get_mut(name).expect("it takes the message");
        if stream.config["allow_batched"] != true {
            let refused = (400, 10205, "batch publish is disabled".to_owned());
            return vec![json!({ "error": error_of(&refused), "stream": name, "seq": 0 })];
        }
        let mut batches = std::mem::take(&mut stream.fast_batches);
        let answers = batches.take(name, message, |message| {
            self.store(name, vec![message], None)?;
            Ok(self.streams[name].last_sequence)
        });
        self.streams.get_mut(name).expect("it was there").fast_batches = batches;
        answers
    }

    fn publish_in_batch(
        &mut self,
        name: &str,
        id: &str,
        message: OutboundMessage,
    ) -> Result<Option<Value>, Refused> {
        let incomplete = || (400, 10176, "atomic publish batch is incomplete".to_owned());
        let stream = self.streams.get_mut(name).expect("it takes the message");
        if stream.config["allow_atomic"] != true {
            return Err((400, 10174, "atomic publish is disabled".to_owned()));
        }
        let number: usize =
            header(&message, NATS_BATCH_SEQUENCE.as_ref()).and_then(|text| text.parse().ok()).unwrap_or(0);
        let batch = match number {
            1 if !stream.batches.contains_key(id) => stream.batches.entry(id.to_owned()).or_default(),
            _ => stream.batches.get_mut(id).ok_or_else(incomplete)?,
        };
        if number != batch.len() + 1 || batch.len() == MAX_BATCH_MESSAGES {
            stream.batches.remove(id);
            return Err(incomplete());
        }
        let is_last = header(&message, NATS_BATCH_COMMIT.as_ref()).is_some();
        batch.push(message);
        if !is_last {
            return Ok(None);
        }
        let messages = stream.batches.remove(id).expect("it was there");
        self.store(name, messages, Some(id)).map(Some)
    }

    /// Stores all or nothing.
    fn store(
        &mut self,
        name: &str,
        messages: Vec<OutboundMessage>,
        batch: Option<&str>,
    ) -> Result<Value, Refused> {
        let full = self.full;
        let stream = self.streams.get_mut(name).expect("it takes the messages");
        for message in &messages {
            let expected = header(message, NATS_EXPECTED_STREAM.as_ref());
            if expected.is_some_and(|expected| expected != name) {
                return Err((400, 10060, "expected stream does not match".to_owned()));
            }
            let of_subject = stream.last_of(&message.subject).map_or(0, |(sequence, _)| sequence);
            let ends = [
                (NATS_EXPECTED_LAST_SEQUENCE, stream.last_sequence),
                (NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, of_subject),
            ];
            for (name, last) in ends {
                let expected = header(message, name.as_ref()).and_then(|text| text.parse::<u64>().ok());
                if expected.is_some_and(|expected| expected != last) {
                    return Err((400, 10071, format!("wrong last sequence: {last}")));
                }
            }
        }
        if full {
            return Err((503, 10077, "maximum bytes exceeded".to_owned()));
        }
        let count = messages.len();
        for message in messages {
            let time = self.stamp();
            let stream = self.streams.get_mut(name).expect("it takes the messages");
            let OutboundMessage { subject, headers, payload, .. } = message;
            let before = stream.last_of(&subject).map(|(_, message)| message.clone());
            let message = Stored { subject: subject.to_string(), headers, payload, time };
            stream.last_sequence += 1;
            if stream.messages.is_empty() {
                stream.first_sequence = stream.last_sequence;
            }
            let sequence = stream.last_sequence;
            stream.messages.insert(sequence, message.clone());
            stream.limit_subject(&message.subject);
            self.changes.push(Change::Stored { stream: name.to_owned(), sequence, message, before });
        }
        let sequence = self.streams[name].last_sequence;
        Ok(match batch {
            Some(id) => json!({ "stream": name, "seq": sequence, "batch": id, "count": count }),
            None => json!({ "stream": name, "seq": sequence }),
        })
    }
}

fn header(message: &OutboundMessage, name: &str) -> Option<String> {
    message.headers.as_ref()?.get(name).map(|value| value.as_str().to_owned())
}
