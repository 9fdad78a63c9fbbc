//! One connection to NATS: [`connect`], [`Connection`].
//!
//! Opening tries every server once and then fails: the runner tries again, with growing pauses, for ever. A
//! connection that was lost later comes back by itself, the same way.

use std::time::Duration;

use anyhow::{Result, anyhow};
use async_nats::{AuthError, ConnectOptions};
use fshipper_pipeline::Settings;
use fshipper_pipeline::config::Environment;

use super::client::Client;
use super::config::Nats;
use super::endpoint::Endpoint;
use super::events::{Events, Link, cannot_connect};
use super::watch;

/// A connection and what became of it so far. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    /// The client.
    pub(crate) client: Client,
    events: Events,
    /// Tells the client's callbacks that somebody still cares.
    _interest: watch::Receiver<Link>,
}

/// A connection, as one of all that a client made one after the other.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Standing {
    connects: u64,
    breaks: u64,
}

/// How much the client itself may hold, in messages; it has no bound in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Queues {
    /// What waits to be sent, before a call waits for room.
    pub(crate) outgoing: usize,
    /// What a subscription holds before the client drops messages.
    pub(crate) incoming: usize,
}

/// After three intervals without a sign of life, 15 seconds, the client gives a connection up.
const PING_INTERVAL: Duration = Duration::from_secs(5);

/// For one server: TCP, TLS and login.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What one read takes in of small messages; for large ones the client lets it grow. It reads as long as there
/// is something, up to 128 times before others run, and every small message costs several times its bytes.
const READ_BYTES: u16 = 16 << 10;

/// The longest pause between two attempts to connect again.
const RECONNECT_MOST: Duration = Duration::from_secs(8);

/// The first pause. Not zero: a server that accepts and then closes would be asked in a tight loop.
const RECONNECT_FIRST: Duration = Duration::from_millis(50);

/// Connects to the servers of `nats`, once.
///
/// # Errors
///
/// No server is reached, or none accepts the login: it names the servers and, where it is known, the remedy.
pub(crate) async fn connect(nats: &Nats, settings: &Settings, queues: Queues) -> Result<Connection> {
    connect_and_ping(nats, settings, queues, PING_INTERVAL).await
}

/// As [`connect`]; the client gives the connection up after three of these intervals without a sign of life.
///
/// # Errors
///
/// See [`connect`].
pub(super) async fn connect_and_ping(
    nats: &Nats,
    settings: &Settings,
    queues: Queues,
    ping_interval: Duration,
) -> Result<Connection> {
    let endpoint = Endpoint::resolve(nats, &Environment::process()).map_err(|invalid| {
        let help = invalid.help.map(|help| format!(" ({help})")).unwrap_or_default();
        anyhow!("`{}`: {}{help}", invalid.key, invalid.message)
    })?;
    let events = Events::new(endpoint.shown());
    let interest = events.link();
    let options = options(&endpoint, &events, settings, queues).ping_interval(ping_interval);
    match options.connect(endpoint.servers.as_slice()).await {
        Ok(client) => Ok(Connection { client: Client::Server(client), events, _interest: interest }),
        Err(error) => Err(anyhow!("{}", cannot_connect(&endpoint.shown(), &error.to_string()))),
    }
}

impl Connection {
    /// One that reports to `events`.
    #[cfg(test)]
    pub(super) fn simulated(client: Client, events: Events) -> Self {
        let interest = events.link();
        Self { client, events, _interest: interest }
    }

    /// Waits until there is a connection. The answer changes as soon as it breaks, whether or not there is
    /// another one by then.
    pub(crate) async fn connected(&self) -> watch::Receiver<Link> {
        let mut link = self.events.link();
        // Fails only without a sender, and `self.events` holds it.
        let _ = link.wait_for(|link| link.up).await;
        link
    }

    /// Waits until there is a connection, for [`Connection::has_broken`].
    pub(crate) async fn standing(&self) -> Standing {
        drop(self.connected().await);
        let connects = self.client.connects();
        // Before each connection but the first one broke, and the events may have yet to tell of the last.
        Standing { connects, breaks: self.events.breaks().max(connects.saturating_sub(1)) }
    }

    /// Whether the connection broke since then; true before the first message over another one. The events say so
    /// as well, but only once another task has handled them.
    pub(crate) fn has_broken(&self, since: Standing) -> bool {
        self.client.connects() > since.connects || self.events.breaks() > since.breaks
    }

    /// Changes as soon as the connection breaks, and again when it is back; what happened before does not
    /// count. Whatever was sent before a change may be lost, and no answer to it may come.
    pub(crate) fn reconnects(&self) -> watch::Receiver<Link> {
        self.events.link()
    }

    /// Waits until the server refuses a message to `subject`, or a subscription to it, for want of permission;
    /// says so in the server's words. It is no answer to the message, which is just never answered. What was
    /// refused after this call counts, not after the first poll: call it before sending.
    pub(crate) fn denied(&self, subject: &str) -> impl Future<Output = String> + Send + use<> {
        self.denied_since(self.denial_mark(), vec![subject.to_owned()])
    }

    /// That the server refuses these subjects, which are patterns, is no trouble by itself.
    pub(crate) fn tolerate(&self, subjects: Vec<String>) {
        self.events.tolerate(subjects);
    }

    /// Now, for [`Connection::denied_since`].
    pub(crate) fn denial_mark(&self) -> u64 {
        self.events.denials().borrow().count()
    }

    /// As [`Connection::denied`], of any of several subjects, counting from an earlier moment.
    pub(crate) fn denied_since(
        &self,
        mark: u64,
        subjects: Vec<String>,
    ) -> impl Future<Output = String> + Send + use<> {
        let events = self.events.clone();
        async move {
            let mut denials = events.denials();
            loop {
                if let Some(message) = denials.borrow_and_update().since(mark, &subjects) {
                    return message.to_owned();
                }
                // Fails only without a sender, and `events` holds it.
                let _ = denials.changed().await;
            }
        }
    }
}

fn options(endpoint: &Endpoint, events: &Events, settings: &Settings, queues: Queues) -> ConnectOptions {
    let login = endpoint.login.clone();
    let (on_event, on_attempt, on_delay) = (events.clone(), events.clone(), events.clone());
    let mut options = ConnectOptions::with_auth_callback(move |challenge| {
        let login = login.clone();
        async move { login.answer(&challenge).map_err(AuthError::new) }
    })
    .name(format!("fshipper {}", settings.name))
    .connection_timeout(CONNECT_TIMEOUT)
    .reconnect_delay_callback(move |attempt| match on_delay.breaks() {
        // The pauses between first attempts are the runner's.
        0 => Duration::ZERO,
        _ => reconnect_pause(attempt),
    })
    .client_capacity(queues.outgoing)
    .subscription_capacity(queues.incoming)
    .read_buffer_capacity(READ_BYTES)
    // Subjects are checked where they come from, and made of tokens that are valid by construction.
    .skip_subject_validation(true)
    .event_callback(move |event| {
        on_event.take(event);
        std::future::ready(())
    })
    // It chooses no server: it is where the client tells why an attempt failed.
    .reconnect_to_server_callback(move |pool, _| {
        on_attempt.attempt(&pool);
        std::future::ready(None)
    });
    let tls = &endpoint.tls;
    if let Some(ca) = &tls.ca {
        options = options.add_root_certificates(ca.clone());
    }
    if let (Some(cert), Some(key)) = (&tls.cert, &tls.key) {
        options = options.add_client_certificate(cert.clone(), key.clone());
    }
    if endpoint.tls_required {
        options = options.require_tls(true);
    }
    if endpoint.tls_first {
        options = options.tls_first();
    }
    if let Some(prefix) = &endpoint.inbox_prefix {
        options = options.custom_inbox_prefix(prefix);
    }
    options
}

/// The pause before an attempt, the first being 1: doubling, with jitter.
fn reconnect_pause(attempt: usize) -> Duration {
    let doublings = u32::try_from(attempt.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
    let whole = (RECONNECT_FIRST * 2_u32.pow(doublings)).min(RECONNECT_MOST);
    whole.mul_f64(0.5 + fastrand::f64() / 2.0)
}
