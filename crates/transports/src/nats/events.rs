//! What the client reports on the side, where no call returns it: [`Events`].
//!
//! A lost connection, a forbidden subject, a dropped message: NATS says none of it in answer to anything. Here
//! it becomes log messages, and state that whoever waits for an answer can watch.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use async_nats::{Event, Server, ServerError};
use fshipper_pipeline::{Complaint, Escaped};

use super::watch;

use super::pattern::covers;

/// Receives the events of one connection. Clones are one and the same.
#[derive(Clone, Debug)]
pub(super) struct Events(Arc<Shared>);

/// Whether there is a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link {
    /// Whether it stands now.
    pub(super) up: bool,
    /// How often it broke so far.
    pub(super) breaks: u64,
}

/// The subjects that the server refused lately, and how many there were.
#[derive(Clone, Debug, Default)]
pub(super) struct Denials {
    count: u64,
    recent: VecDeque<Denial>,
}

/// A request that the user has no permission for.
#[derive(Clone, Debug)]
struct Denial {
    number: u64,
    subject: String,
    /// In the server's own words.
    message: String,
}

#[derive(Debug)]
struct Shared {
    /// For messages.
    servers: String,
    link: watch::Sender<Link>,
    denials: watch::Sender<Denials>,
    complaints: Mutex<HashMap<String, Complaint>>,
    /// Subjects that may be forbidden: whoever uses them says what it means.
    tolerated: Mutex<Vec<String>>,
}

/// As many refusals as can be of interest to requests under way.
const MAX_RECENT_DENIALS: usize = 64;

/// Kinds of trouble whose repetitions are told apart; with more all of them count as new again.
const MAX_COMPLAINTS: usize = 64;

/// What stands in the errors of async-nats and rustls, and what it means to an operator.
const REMEDIES: [(&str, &str); 8] = [
    (
        "authorization violation",
        "the server does not accept this login: check `creds`, `user` and `password`, `token`, `nkey`, or the URL",
    ),
    ("failed signing nonce", "check the files that `creds` or `nkey` name"),
    ("UnknownIssuer", UNTRUSTED),
    // An authority of the right name and with another key.
    ("BadSignature", UNTRUSTED),
    ("certificate expired", "its certificate is out of date: have it renewed"),
    ("not valid for name", "its certificate is for another name: use the one it is for in `servers`"),
    ("InvalidContentType", "the server does not speak TLS on this port"),
    ("CertificateRequired", "the server wants a client certificate: set `tls.cert` and `tls.key`"),
];

const UNTRUSTED: &str = "its certificate is not from a trusted authority: set `tls.ca` to the right one";

impl Events {
    /// For a connection to `servers` that is about to be made.
    pub(super) fn new(servers: String) -> Self {
        let link = watch::Sender::new(Link { up: true, breaks: 0 });
        let (denials, complaints, tolerated) = (watch::Sender::default(), Mutex::default(), Mutex::default());
        Self(Arc::new(Shared { servers, link, denials, complaints, tolerated }))
    }

    /// Whether there is a connection, from now on.
    pub(super) fn link(&self) -> watch::Receiver<Link> {
        self.0.link.subscribe()
    }

    /// How often the connection broke so far.
    pub(super) fn breaks(&self) -> u64 {
        self.0.link.borrow().breaks
    }

    /// What the server refuses, from now on.
    pub(super) fn denials(&self) -> watch::Receiver<Denials> {
        self.0.denials.subscribe()
    }

    /// That the server refuses these subjects, which are patterns, is no trouble by itself.
    pub(super) fn tolerate(&self, subjects: Vec<String>) {
        self.0.tolerated.lock().unwrap_or_else(PoisonError::into_inner).extend(subjects);
    }

    /// Takes one event of the client.
    pub(super) fn take(&self, event: Event) {
        let Shared { servers, link, .. } = &*self.0;
        match event {
            Event::Connected => {
                let back = link.send_if_modified(|link| !std::mem::replace(&mut link.up, true));
                if back {
                    self.forget_complaints();
                    tracing::info!("connected to NATS again at {servers}");
                }
            }
            Event::Disconnected => {
                link.send_modify(|link| *link = Link { up: false, breaks: link.breaks + 1 });
                if self.is_of_interest() {
                    tracing::warn!("the connection to NATS at {servers} is lost; connecting again");
                }
            }
            Event::LameDuckMode => {
                self.complain("lame duck", |text| tracing::warn!("{text}"), || {
                    format!("the NATS server of {servers} is shutting down; moving to another or waiting for it")
                });
            }
            Event::SlowConsumer(_) => {
                self.complain(
                    "slow consumer",
                    |text| tracing::error!("{text}"),
                    || "messages arrive from NATS faster than they are taken; some were dropped".to_owned(),
                );
            }
            Event::ServerError(ServerError::Other(message)) => self.server_error(&message),
            Event::ServerError(error) => self.server_error(&error.to_string()),
            // Of a failed attempt to connect only its kind is told here; `attempt` tells the reason.
            Event::ClientError(error) => tracing::debug!("{servers}: {error}"),
            Event::Draining | Event::Closed => tracing::debug!("{servers}: {event}"),
        }
    }

    /// Called before each attempt to connect again, with what became of the last one.
    pub(super) fn attempt(&self, pool: &[Server]) {
        if !self.is_of_interest() {
            return;
        }
        for server in pool {
            let Some(error) = &server.last_error else { continue };
            let address = server.addr.as_url_str();
            self.complain(
                address,
                |text| tracing::error!("{text}"),
                || format!("{}; trying again", cannot_connect(address, error)),
            );
        }
    }

    fn server_error(&self, message: &str) {
        let shown = Escaped(message.as_bytes());
        let Some(subject) = denied_subject(message) else {
            return self.complain(
                message,
                |text| tracing::error!("{text}"),
                || format!("the NATS server of {} reports: {shown}", self.0.servers),
            );
        };
        self.0.denials.send_modify(|denials| denials.add(subject, shown.to_string()));
        if self.tolerates(subject) {
            tracing::debug!("the NATS server refuses: {shown}");
            return;
        }
        self.complain(
            message,
            |text| tracing::error!("{text}"),
            || format!("the NATS server refuses: {shown}; give this user the permission"),
        );
    }

    fn tolerates(&self, subject: &str) -> bool {
        let tolerated = self.0.tolerated.lock().unwrap_or_else(PoisonError::into_inner);
        tolerated.iter().any(|pattern| covers(pattern, subject))
    }

    /// Logs a message of one kind at a bounded rate.
    fn complain(&self, kind: &str, log: impl FnOnce(&str), message: impl FnOnce() -> String) {
        let mut complaints = self.0.complaints.lock().unwrap_or_else(PoisonError::into_inner);
        if complaints.len() >= MAX_COMPLAINTS && !complaints.contains_key(kind) {
            complaints.clear();
        }
        complaints.entry(kind.to_owned()).or_default().report(&message(), log);
    }

    fn forget_complaints(&self) {
        self.0.complaints.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// A client whose owner is gone notices only when it is connected again, and until then nobody wants to
    /// hear of its attempts.
    fn is_of_interest(&self) -> bool {
        self.0.link.receiver_count() > 0
    }
}

impl Denials {
    /// How many there were: a mark for [`Denials::since`].
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// What the server said of one of `subjects` after the `mark`.
    pub(super) fn since(&self, mark: u64, subjects: &[String]) -> Option<&str> {
        let denial =
            self.recent.iter().find(|denial| denial.number >= mark && subjects.contains(&denial.subject));
        denial.map(|denial| denial.message.as_str())
    }

    fn add(&mut self, subject: &str, message: String) {
        if self.recent.len() == MAX_RECENT_DENIALS {
            self.recent.pop_front();
        }
        self.recent.push_back(Denial { number: self.count, subject: subject.to_owned(), message });
        self.count += 1;
    }
}

/// A failed attempt in words, with what to do about it where that is known.
pub(super) fn cannot_connect(servers: &str, error: &str) -> String {
    let shown = without_repetitions(error);
    let shown = Escaped(shown.as_bytes());
    match REMEDIES.iter().find(|(sign, _)| error.contains(sign)) {
        Some((_, remedy)) => format!("cannot connect to {servers}: {shown} ({remedy})"),
        None => format!("cannot connect to {servers}: {shown}"),
    }
}

/// The client's errors name their kind and then their cause, which may be the same: `authorization violation: nats:
/// authorization violation`.
fn without_repetitions(error: &str) -> String {
    let mut parts = Vec::new();
    for part in error.split(": ").filter(|part| *part != "nats") {
        if !parts.contains(&part) {
            parts.push(part);
        }
    }
    parts.join(": ")
}

/// The subject of a message such as `Permissions Violation for Publish to "orders"`.
fn denied_subject(message: &str) -> Option<&str> {
    let violation =
        message.get(..21).is_some_and(|start| start.eq_ignore_ascii_case("permissions violation"));
    violation.then(|| message.split('"').nth(1)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denied(subject: &str) -> Event {
        let message = format!("Permissions Violation for Publish to \"{subject}\"");
        Event::ServerError(ServerError::Other(message))
    }

    #[test]
    fn a_denied_subject_is_told_to_who_asks_from_then_on() {
        let events = Events::new("nats://a".to_owned());
        let denials = events.denials();
        events.take(denied("one"));
        let mark = denials.borrow().count();
        events.take(denied("two"));

        let denials = denials.borrow();
        assert_eq!(
            denials.since(mark, &["two".to_owned()]),
            Some("Permissions Violation for Publish to \"two\"")
        );
        assert_eq!(denials.since(mark, &["one".to_owned()]), None);
        assert!(denials.since(0, &["one".to_owned()]).is_some());
    }

    #[test]
    fn a_tolerated_subject_is_no_trouble_and_still_told() {
        let events = Events::new("nats://a".to_owned());
        events.tolerate(vec!["floor.>".to_owned()]);
        events.take(denied("floor.a.b"));
        assert!(events.0.complaints.lock().unwrap().is_empty());
        assert!(events.denials().borrow().since(0, &["floor.a.b".to_owned()]).is_some());
        events.take(denied("data.a.b"));
        assert_eq!(events.0.complaints.lock().unwrap().len(), 1);
    }

    #[test]
    fn recent_denials_are_bounded() {
        let events = Events::new("nats://a".to_owned());
        for number in 0..1000 {
            events.take(denied(&number.to_string()));
        }
        let denials = events.denials();
        assert_eq!(denials.borrow().count(), 1000);
        assert_eq!(denials.borrow().recent.len(), MAX_RECENT_DENIALS);
        assert!(denials.borrow().since(0, &["999".to_owned()]).is_some());
    }

    #[test]
    fn what_an_error_says_twice_is_shown_once() {
        let shown = cannot_connect("a", "authorization violation: nats: authorization violation");
        assert_eq!(shown.matches("authorization violation").count(), 1, "{shown}");
        assert!(cannot_connect("a", "IO error: refused").ends_with(": IO error: refused"));
    }

    #[test]
    fn every_break_counts_once() {
        let events = Events::new("nats://a".to_owned());
        let link = events.link();
        events.take(Event::Connected);
        assert_eq!(*link.borrow(), Link { up: true, breaks: 0 });
        events.take(Event::Disconnected);
        assert_eq!(*link.borrow(), Link { up: false, breaks: 1 });
        events.take(Event::Connected);
        assert_eq!(*link.borrow(), Link { up: true, breaks: 1 });
    }
}
