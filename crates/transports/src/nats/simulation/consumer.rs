//! The model's pull consumers: [`Consumer`].

use std::collections::{BTreeMap, VecDeque};

use async_nats::{HeaderMap, Message, StatusCode};
use serde_json::Value;

use super::super::pattern::covers;
use super::broker::Stored;
use super::messages::{Outgoing, data, status};

/// An ephemeral pull consumer without acknowledgements.
#[derive(Debug)]
pub(super) struct Consumer {
    name: String,
    filters: Vec<String>,
    headers_only: bool,
    /// The sequence at which it looks for its next message.
    next: u64,
    /// With "last per subject": what it delivers first.
    chosen: VecDeque<u64>,
    delivered: u64,
    requests: VecDeque<Request>,
    inactive_threshold: i64,
    last_request: i64,
}

/// A request for messages.
#[derive(Debug)]
struct Request {
    reply: String,
    messages_left: u64,
    /// 0: without bound.
    bytes_left: usize,
    expires: Option<i64>,
    heartbeat: i64,
    next_heartbeat: Option<i64>,
    no_wait: bool,
}

impl Consumer {
    /// As the configuration in a request to create one says.
    pub(super) fn new(name: &str, config: &Value, messages: &BTreeMap<u64, Stored>, now: i64) -> Self {
        let several = config["filter_subjects"].as_array().into_iter().flatten();
        let filters =
            several.chain(config.get("filter_subject")).filter_map(Value::as_str).map(str::to_owned);
        let mut consumer = Self {
            name: name.to_owned(),
            filters: filters.collect(),
            headers_only: config["headers_only"] == true,
            next: config["opt_start_seq"].as_u64().unwrap_or(1),
            chosen: VecDeque::new(),
            delivered: 0,
            requests: VecDeque::new(),
            inactive_threshold: config["inactive_threshold"].as_i64().unwrap_or(5_000_000_000),
            last_request: now,
        };
        if config["deliver_policy"] == "last" {
            let mut wanted = messages.iter().rev().filter(|(_, message)| consumer.wants(message));
            consumer.next = wanted.next().map_or(1, |(sequence, _)| *sequence);
        }
        if config["deliver_policy"] == "last_per_subject" {
            let mut last = BTreeMap::new();
            for (sequence, message) in messages.iter().filter(|(_, message)| consumer.wants(message)) {
                last.insert(message.subject.as_str(), *sequence);
            }
            let mut chosen: Vec<u64> = last.into_values().collect();
            chosen.sort_unstable();
            consumer.chosen = chosen.into();
            consumer.next = messages.last_key_value().map_or(1, |(sequence, _)| sequence + 1);
        }
        consumer
    }

    /// How many messages wait for it.
    pub(super) fn pending(&self, messages: &BTreeMap<u64, Stored>) -> usize {
        let chosen = self.chosen.iter().filter(|sequence| messages.contains_key(sequence)).count();
        let later = messages.range(self.next..).filter(|(_, message)| self.wants(message)).count();
        chosen + later
    }

    /// Takes a request; what is answered at once.
    pub(super) fn request(
        &mut self,
        reply: &str,
        body: &[u8],
        messages: &BTreeMap<u64, Stored>,
        now: i64,
    ) -> Option<Outgoing> {
        let body: Value = serde_json::from_slice(body).expect("our own request is JSON");
        let positive = |value: i64| Some(value).filter(|&value| value > 0);
        let no_wait = body["no_wait"] == true;
        let heartbeat = body["idle_heartbeat"].as_i64().unwrap_or(0);
        self.last_request = now;
        if no_wait && self.pending(messages) == 0 {
            return Some(status(reply, StatusCode::NOT_FOUND, "No Messages", &[]));
        }
        self.requests.push_back(Request {
            reply: reply.to_owned(),
            messages_left: body["batch"].as_u64().unwrap_or(1).max(1),
            bytes_left: body["max_bytes"].as_u64().unwrap_or(0) as usize,
            expires: positive(body["expires"].as_i64().unwrap_or(0)).map(|after| now + after),
            heartbeat,
            next_heartbeat: positive(heartbeat).map(|after| now + after),
            no_wait,
        });
        None
    }

    /// Sends what was asked for and is there.
    pub(super) fn serve(
        &mut self,
        stream: &str,
        messages: &BTreeMap<u64, Stored>,
        now: i64,
        listens: &dyn Fn(&str) -> bool,
        out: &mut Vec<Outgoing>,
    ) {
        self.requests.retain(|request| listens(&request.reply));
        let mut pending = if self.requests.is_empty() { 0 } else { self.pending(messages) };
        while !self.requests.is_empty() && pending > 0 {
            let Some((sequence, message)) = self.find(messages) else { break };
            let message = self.envelope(stream, sequence, message, pending - 1);
            while let Some(mut request) = self.requests.pop_front() {
                // The server counts the bytes under the subject of the message, the client gets the same.
                if request.bytes_left > 0 && message.length > request.bytes_left {
                    out.push(request.ended(StatusCode::REQUEST_TERMINATED, "Message Size Exceeds MaxBytes"));
                    continue;
                }
                let bounded = request.bytes_left > 0;
                request.bytes_left = request.bytes_left.saturating_sub(message.length);
                request.messages_left -= 1;
                request.next_heartbeat = Some(now + request.heartbeat).filter(|_| request.heartbeat > 0);
                self.delivered += 1;
                pending -= 1;
                self.advance(sequence);
                out.push(Outgoing { to: request.reply.clone(), message: message.clone() });
                // One whose bytes come out even ends without a word.
                let came_out_even = bounded && request.bytes_left == 0;
                if !came_out_even && request.messages_left > 0 {
                    self.requests.push_back(request);
                } else if !came_out_even && bounded {
                    out.push(request.ended(StatusCode::REQUEST_TERMINATED, "Batch Completed"));
                }
                break;
            }
        }
        if pending == 0 {
            for request in self.requests.iter().filter(|request| request.no_wait) {
                out.push(status(&request.reply, StatusCode::NOT_FOUND, "No Messages", &[]));
            }
            self.requests.retain(|request| !request.no_wait);
        }
    }

    /// The next moment at which something is due.
    pub(super) fn next_deadline(&self) -> Option<i64> {
        let deadlines = self.requests.iter().flat_map(|request| [request.expires, request.next_heartbeat]);
        deadlines.flatten().min()
    }

    /// Ends requests whose time is over, and shows that it is alive.
    pub(super) fn tick(&mut self, now: i64, out: &mut Vec<Outgoing>) {
        self.requests.retain_mut(|request| {
            if request.expires.is_some_and(|expires| expires <= now) {
                out.push(request.ended(StatusCode::TIMEOUT, "Request Timeout"));
                return false;
            }
            if request.next_heartbeat.is_some_and(|next| next <= now) {
                request.next_heartbeat = Some(now + request.heartbeat);
                out.push(status(&request.reply, StatusCode::IDLE_HEARTBEAT, "Idle Heartbeat", &[]));
            }
            true
        });
    }

    /// What the server says when it deletes this.
    pub(super) fn end(self) -> Vec<Outgoing> {
        let requests = self.requests.iter();
        let gone = |request: &Request| {
            status(&request.reply, StatusCode::REQUEST_TERMINATED, "Consumer Deleted", &[])
        };
        requests.map(gone).collect()
    }

    /// How many requests wait.
    pub(super) fn waiting(&self) -> usize {
        self.requests.len()
    }

    /// Whether nobody has asked for so long that the server has forgotten it.
    pub(super) fn has_expired(&self, now: i64) -> bool {
        self.requests.is_empty() && now - self.last_request > self.inactive_threshold
    }

    fn wants(&self, message: &Stored) -> bool {
        self.filters.is_empty() || self.filters.iter().any(|filter| covers(filter, &message.subject))
    }

    fn find<'a>(&mut self, messages: &'a BTreeMap<u64, Stored>) -> Option<(u64, &'a Stored)> {
        while let Some(sequence) = self.chosen.front() {
            if let Some(message) = messages.get(sequence) {
                return Some((*sequence, message));
            }
            self.chosen.pop_front();
        }
        let found = messages.range(self.next..).find(|(_, message)| self.wants(message));
        found.map(|(sequence, message)| (*sequence, message))
    }

    fn advance(&mut self, sequence: u64) {
        match self.chosen.front() {
            Some(front) if *front == sequence => {
                self.chosen.pop_front();
            }
            _ => self.next = sequence + 1,
        }
    }

    fn envelope(&self, stream: &str, sequence: u64, message: &Stored, pending: usize) -> Message {
        let delivery = self.delivered + 1;
        let time = message.time;
        let ack = format!("$JS.ACK.{stream}.{}.1.{sequence}.{delivery}.{time}.{pending}", self.name);
        let mut headers = message.headers.clone();
        let mut payload = message.payload.clone();
        if self.headers_only {
            headers.get_or_insert_with(HeaderMap::new).insert("Nats-Msg-Size", payload.len().to_string());
            payload.clear();
        }
        data(&message.subject, headers, payload, Some(ack))
    }
}

impl Request {
    fn ended(&self, code: StatusCode, description: &str) -> Outgoing {
        let left = [
            ("Nats-Pending-Messages", self.messages_left.to_string()),
            ("Nats-Pending-Bytes", self.bytes_left.to_string()),
        ];
        status(&self.reply, code, description, &left)
    }
}
