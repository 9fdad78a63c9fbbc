//! The way between clients and the model: [`Network`].
//!
//! A connection is two pipes, one each way: what goes in comes out later and in order. When it breaks, the
//! server may still read some of what was sent, even seconds later and after what a newer connection brought;
//! the client hears nothing more. Apart from that single messages are lost, held up or doubled, as on the way
//! through a cluster.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::message::OutboundMessage;
use async_nats::{Event, Message};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::super::events::Events;
use super::super::pattern::covers;
use super::broker::Broker;
use super::messages::{Outgoing, data};
use super::truth::Truth;

mod client;
mod due;
mod weather;

pub(crate) use client::Client;
use due::{Due, What};
use weather::Weather;

/// One server and everybody's way to it. Clones are one and the same.
#[derive(Clone)]
pub(super) struct Network(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// Something is due earlier than it was.
    changed: Notify,
}

struct State {
    started: Instant,
    random: fastrand::Rng,
    broker: Broker,
    truth: Option<Arc<Mutex<Truth>>>,
    queue: BinaryHeap<Reverse<Due>>,
    next_order: u64,
    clients: BTreeMap<u64, ClientState>,
    next_client: u64,
    next_connection: u64,
    max_payload: usize,
    weather: Weather,
    server_is_up: bool,
}

struct ClientState {
    name: String,
    events: Events,
    subscriptions: Vec<(String, mpsc::Sender<Message>)>,
    /// The present connection.
    connection: Option<u64>,
    connects: u64,
    /// What is sent while there is none.
    waiting: Vec<OutboundMessage>,
    /// Nothing passes, and nobody notices.
    silent: bool,
    /// When the last message of each pipe comes out.
    last_up: u64,
    last_down: u64,
}

/// What the survivors of a broken connection may still be late by, in milliseconds.
const LATEST_ARRIVAL: u64 = 4_000;

/// What the subjects of the commit floor begin with in every run.
const NOTICES: &str = "s-floor.";

/// 2026, more or less: the virtual clock of the server starts there.
const EPOCH_NANOS: i64 = 1_795_000_000_000_000_000;

impl Network {
    /// A network with an empty server.
    pub(super) fn new(seed: u64, max_payload: usize, truth: Option<Arc<Mutex<Truth>>>) -> Self {
        let state = State {
            started: Instant::now(),
            random: fastrand::Rng::with_seed(seed),
            broker: Broker::default(),
            truth,
            queue: BinaryHeap::new(),
            next_order: 0,
            clients: BTreeMap::new(),
            next_client: 0,
            next_connection: 0,
            max_payload,
            weather: Weather::default(),
            server_is_up: true,
        };
        Self(Arc::new(Shared { state: Mutex::new(state), changed: Notify::new() }))
    }

    /// Connects a process; `None` while the server is down.
    pub(super) fn connect(
        &self,
        name: &str,
        events: &Events,
        outgoing: usize,
        incoming: usize,
    ) -> Option<Client> {
        let mut state = self.lock();
        if !state.server_is_up {
            return None;
        }
        let number = state.next_client;
        state.next_client += 1;
        let connection = state.open_connection();
        let client = ClientState {
            name: name.to_owned(),
            events: events.clone(),
            subscriptions: Vec::new(),
            connection: Some(connection),
            connects: 1,
            waiting: Vec::new(),
            silent: false,
            last_up: 0,
            last_down: 0,
        };
        state.clients.insert(number, client);
        drop(state);
        Some(Client::new(self.clone(), number, outgoing, incoming))
    }

    /// Moves messages for ever.
    pub(super) async fn run(self) {
        loop {
            let next = {
                let mut state = self.lock();
                state.advance();
                state.next_due().map(|at| state.started + Duration::from_millis(at))
            };
            let due = async {
                match next {
                    Some(next) => tokio::time::sleep_until(next).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.0.changed.notified() => {}
                () = due => {}
            }
        }
    }

    /// Changes the weather.
    pub(super) fn weather(&self, change: impl FnOnce(&mut Weather)) {
        change(&mut self.lock().weather);
    }

    /// Does something to the server; what it sends goes out.
    pub(super) fn operate(&self, act: impl FnOnce(&mut Broker) -> Vec<Outgoing>) {
        let mut state = self.lock();
        let now = state.wall_clock();
        let outgoing = act(state.broker.at(now));
        state.observe();
        state.send(outgoing);
        state.serve_all();
        drop(state);
        self.0.changed.notify_one();
    }

    /// Does something to the server of which it says nothing.
    pub(super) fn change(&self, act: impl FnOnce(&mut Broker)) {
        self.operate(|broker| {
            act(broker);
            Vec::new()
        });
    }

    /// Publishes as somebody else, without anybody's connection.
    pub(super) fn publish(&self, message: OutboundMessage) {
        let mut state = self.lock();
        state.arrive(message);
        drop(state);
        self.0.changed.notify_one();
    }

    /// Breaks the connections of those whose name starts so.
    pub(super) fn cut(&self, prefix: &str) {
        let mut state = self.lock();
        for client in state.named(prefix) {
            state.break_connection(client);
        }
        drop(state);
        self.0.changed.notify_one();
    }

    /// Lets nothing pass from and to those whose name starts so; [`Network::cut`] ends it.
    pub(super) fn silence(&self, prefix: &str) {
        let mut state = self.lock();
        for client in state.named(prefix) {
            state.clients.get_mut(&client).expect("it is there").silent = true;
        }
    }

    /// The server's process dies; `down` until [`Network::start_server`].
    pub(super) fn stop_server(&self) {
        let mut state = self.lock();
        state.server_is_up = false;
        state.broker.crash();
        // What was on the way to it is gone with it.
        state.queue.retain(|Reverse(due)| !matches!(due.what, What::ToServer { .. }));
        for client in state.named("") {
            state.break_connection(client);
        }
        drop(state);
        self.0.changed.notify_one();
    }

    /// It is there again.
    pub(super) fn start_server(&self) {
        self.lock().server_is_up = true;
    }

    /// Looks at the server.
    pub(super) fn look<T>(&self, look: impl FnOnce(&Broker) -> T) -> T {
        look(&self.lock().broker)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn now(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).expect("a short life")
    }

    fn wall_clock(&self) -> i64 {
        EPOCH_NANOS + i64::try_from(self.started.elapsed().as_nanos()).expect("a short life")
    }

    fn next_due(&self) -> Option<u64> {
        let queued = self.queue.peek().map(|Reverse(due)| due.at);
        let deadline = self
            .broker
            .next_deadline()
            .map(|at| (at - EPOCH_NANOS).max(0).cast_unsigned().div_ceil(1_000_000));
        [queued, deadline].into_iter().flatten().min()
    }

    /// Does all that is due.
    fn advance(&mut self) {
        let now = self.now();
        while self.queue.peek().is_some_and(|Reverse(due)| due.at <= now) {
            let Some(Reverse(due)) = self.queue.pop() else { break };
            match due.what {
                What::ToServer { connection: _, message } => self.arrive(message),
                What::ToClient { client, connection, outgoing } => self.deliver(client, connection, outgoing),
                What::Connect { client } => self.reconnect(client),
            }
        }
        let wall_clock = self.wall_clock();
        let outgoing = self.broker.at(wall_clock).tick();
        self.send(outgoing);
    }

    /// A message reaches the server.
    fn arrive(&mut self, message: OutboundMessage) {
        if !self.server_is_up {
            return;
        }
        let now = self.wall_clock();
        let Self { broker, clients, .. } = self;
        let listens = |subject: &str| clients.values().any(|client| client.listens(subject));
        let subject = message.subject.clone();
        let fan_out = (!subject.starts_with("$JS.") && listens(&subject)).then(|| message.clone());
        let mut outgoing = broker.at(now).take(message, &listens);
        if let Some(OutboundMessage { subject, headers, payload, reply }) = fan_out {
            let reply = reply.map(|reply| reply.to_string());
            let message = data(&subject, headers, payload, reply);
            outgoing.push(Outgoing { to: subject.to_string(), message });
        }
        self.observe();
        self.send(outgoing);
    }

    fn serve_all(&mut self) {
        let now = self.wall_clock();
        let Self { broker, clients, .. } = self;
        let listens = |subject: &str| clients.values().any(|client| client.listens(subject));
        let outgoing = broker.at(now).serve_all(&listens);
        self.send(outgoing);
    }

    /// Tells what happened in the stream to whoever keeps the books.
    fn observe(&mut self) {
        let changes = self.broker.take_changes();
        let Some(truth) = self.truth.clone().filter(|_| !changes.is_empty()) else { return };
        truth.lock().unwrap_or_else(PoisonError::into_inner).observe(&changes, &self.broker);
    }

    /// Puts what the server sends into the pipes of those who listen.
    fn send(&mut self, outgoing: Vec<Outgoing>) {
        for outgoing in outgoing {
            let listeners: Vec<_> = (self.clients.iter())
                .filter(|(_, client)| client.listens(&outgoing.to))
                .filter_map(|(number, client)| Some((*number, client.connection?)))
                .collect();
            for (client, connection) in listeners {
                self.send_to(client, connection, outgoing.clone());
            }
        }
    }

    fn send_to(&mut self, client: u64, connection: u64, outgoing: Outgoing) {
        let now = self.now();
        let is_answer = outgoing.message.status.is_none() && outgoing.message.payload.starts_with(b"{");
        let weather = &mut self.weather;
        if outgoing.message.length > weather.longest {
            return self.note("too long for the line", &outgoing.to);
        }
        if is_answer && weather.lose_answers > 0 {
            weather.lose_answers -= 1;
            return self.note("answer lost", &outgoing.to);
        }
        if is_answer && weather.hold_answers > 0 {
            weather.hold_answers -= 1;
            let at = now + weather.hold_millis;
            self.note("answer held", &outgoing.to);
            return self.push(at, What::ToClient { client, connection, outgoing });
        }
        if self.random.u32(..1000) < self.weather.lost_down {
            return self.note("lost on the way down", &outgoing.to);
        }
        let copies = if self.random.u32(..1000) < self.weather.doubled { 2 } else { 1 };
        for _ in 0..copies {
            let delay = self.random.u64(..=self.weather.latency);
            let state = self.clients.get_mut(&client).expect("it listens");
            let at = (now + delay).max(state.last_down);
            state.last_down = at;
            self.push(at, What::ToClient { client, connection, outgoing: outgoing.clone() });
        }
    }

    fn deliver(&mut self, client: u64, connection: u64, outgoing: Outgoing) {
        let Some(state) = self.clients.get_mut(&client) else { return };
        if state.connection != Some(connection) || state.silent {
            return;
        }
        let mut dropped = false;
        state.subscriptions.retain(|(pattern, sender)| {
            if covers(pattern, &outgoing.to) {
                // A full subscription drops: that is what the client does.
                dropped |= matches!(
                    sender.try_send(outgoing.message.clone()),
                    Err(mpsc::error::TrySendError::Full(_))
                );
            }
            !sender.is_closed()
        });
        if dropped {
            self.note("dropped by a full subscription", &outgoing.to);
        }
    }

    /// A client sends.
    fn publish(&mut self, client: u64, message: OutboundMessage) {
        let Some(state) = self.clients.get_mut(&client) else { return };
        let Some(connection) = state.connection else {
            state.waiting.push(message);
            return;
        };
        if state.silent {
            return;
        }
        let now = self.now();
        let is_publish = !message.subject.starts_with("$JS.");
        if self.random.u32(..1000) < self.weather.lost_up {
            return self.note("lost on the way up", &message.subject);
        }
        let is_notice = message.subject.starts_with(NOTICES);
        if is_notice && self.weather.lose_notices > 0 {
            self.weather.lose_notices -= 1;
            return self.note("notice lost", &message.subject);
        }
        if is_notice && self.weather.hold_notices > 0 {
            self.weather.hold_notices -= 1;
            let at = now + self.weather.hold_notices_millis;
            self.note("notice held", &message.subject);
            return self.push(at, What::ToServer { connection, message });
        }
        if is_publish && self.weather.repeat_publishes > 0 {
            self.weather.repeat_publishes -= 1;
            let at = now + self.weather.repeat_millis;
            self.push(at, What::ToServer { connection, message: message.clone() });
        }
        let copies = if self.random.u32(..1000) < self.weather.doubled { 2 } else { 1 };
        for _ in 0..copies {
            let delay = self.random.u64(..=self.weather.latency);
            let state = self.clients.get_mut(&client).expect("it sends");
            let at = (now + delay).max(state.last_up);
            state.last_up = at;
            self.push(at, What::ToServer { connection, message: message.clone() });
        }
    }

    /// The connection of a client breaks, and it notices.
    fn break_connection(&mut self, client: u64) {
        let Some(state) = self.clients.get_mut(&client) else { return };
        state.silent = false;
        let Some(connection) = state.connection.take() else { return };
        state.events.take(Event::Disconnected);
        self.outlive(connection);
        self.connect_soon(client);
    }

    /// What was on the way to the server over a connection that is gone: some of it is read, late.
    fn outlive(&mut self, connection: u64) {
        let mut sent: Vec<Due> = Vec::new();
        let mut rest = BinaryHeap::new();
        for Reverse(due) in std::mem::take(&mut self.queue) {
            match due.what {
                // Whoever purges has looked at the stream just before; seconds later it may be another one, and
                // the server knows no purge with a condition.
                What::ToServer { connection: over, ref message }
                    if over == connection && message.subject.starts_with("$JS.API.STREAM.PURGE.") => {}
                What::ToServer { connection: over, .. } if over == connection => sent.push(due),
                _ => rest.push(Reverse(due)),
            }
        }
        self.queue = rest;
        sent.sort_unstable();
        let survive = self.random.usize(..=sent.len());
        let mut at = self.now() + if self.random.bool() { 0 } else { self.random.u64(..LATEST_ARRIVAL) };
        for due in sent.into_iter().take(survive) {
            at = at.max(due.at);
            self.push(at, due.what);
        }
    }

    fn connect_soon(&mut self, client: u64) {
        let pause = self.random.u64(25..1500);
        let at = self.now() + pause;
        self.push(at, What::Connect { client });
    }

    fn reconnect(&mut self, client: u64) {
        if !self.clients.contains_key(&client) {
            return;
        }
        if !self.server_is_up {
            return self.connect_soon(client);
        }
        let connection = self.open_connection();
        let state = self.clients.get_mut(&client).expect("it is there");
        state.connection = Some(connection);
        state.connects += 1;
        (state.last_up, state.last_down) = (0, 0);
        state.events.take(Event::Connected);
        for message in std::mem::take(&mut state.waiting) {
            self.publish(client, message);
        }
    }

    fn open_connection(&mut self) -> u64 {
        self.next_connection += 1;
        self.next_connection
    }

    fn named(&self, prefix: &str) -> Vec<u64> {
        let named = self.clients.iter().filter(|(_, client)| client.name.starts_with(prefix));
        named.map(|(number, _)| *number).collect()
    }

    fn push(&mut self, at: u64, what: What) {
        self.next_order += 1;
        self.queue.push(Reverse(Due { at, order: self.next_order, what }));
    }

    fn note(&self, what: &str, subject: &str) {
        let Some(truth) = &self.truth else { return };
        truth.lock().unwrap_or_else(PoisonError::into_inner).note(&format!("{what}: {subject}"));
    }
}

impl ClientState {
    fn listens(&self, subject: &str) -> bool {
        let open = self.subscriptions.iter().filter(|(_, sender)| !sender.is_closed());
        self.connection.is_some() && open.into_iter().any(|(pattern, _)| covers(pattern, subject))
    }
}
