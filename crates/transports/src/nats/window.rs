//! How much a consumer may ask for at once: [`Window`].

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::{Result, ensure};
use async_nats::HeaderMap;
use serde::Serialize;
use tokio::time::Instant;

use super::pull::Until;

/// What the server may still send: the requests that have not ended.
///
/// The server serves waiting requests in turn, so which one a message belongs to is not known; only the sum
/// of their bytes is, and it is exact, because server and client count a message alike. A request whose
/// bytes come out even ends without a status: it adds nothing to the sum and is forgotten when it must have
/// expired.
#[derive(Debug)]
pub(super) struct Window {
    /// What one request allows, usually: it fits any message that the server takes.
    usual_bytes: usize,
    /// The same now: more where the stream holds larger messages, as long as they come. See [`Window::make_room`].
    request_bytes: usize,
    /// The most that it ever was.
    most_bytes: usize,
    request_messages: usize,
    /// Those not known to have ended: number and when they were sent.
    open: VecDeque<(u64, Instant)>,
    next_number: u64,
    /// The sum of what they still allow.
    bytes: usize,
    until: Until,
}

/// What the server reads of a request.
#[derive(Serialize)]
pub(super) struct PullRequest {
    batch: usize,
    max_bytes: usize,
    expires: u64,
    idle_heartbeat: u64,
    no_wait: bool,
}

/// What may be under way or waiting here at once: enough to fill a pipe of 40 MB/s over 100 ms, little enough
/// for a process that stays below 32 MiB.
const WINDOW_BYTES: usize = 4 << 20;

/// The same in messages: each costs about 2 KiB around its payload, however short that is.
/// A subscription holds this many and the few statuses between them.
pub(super) const WINDOW_MESSAGES: usize = 2048;

/// What subject and reply subject add to headers and payload, for the server's count of `max_bytes`: a subject
/// alone may take the 4 KiB of a server's `max_control_line`.
const MESSAGE_OVERHEAD_BYTES: usize = 8 << 10;

/// The least that one request asks for, so that small messages do not take a request each.
const MIN_REQUEST_BYTES: usize = 1 << 20;

/// Of a request that allows so much no message is too large: servers take no `max_payload` above it.
const MAX_REQUEST_BYTES: usize = 64 << 20;

/// How many requests may be open, if the window has room for their bytes.
const OVERLAPPING_REQUESTS: usize = 4;

/// After this long a request ends, and another takes its place.
const REQUEST_EXPIRES: Duration = Duration::from_secs(30);

/// A request that has not ended by then ended without a status.
const REQUEST_FORGOTTEN: Duration = Duration::from_secs(35);

/// How often the server says that it is there while it has nothing to send.
const HEARTBEAT: Duration = Duration::from_secs(5);

impl Window {
    /// For messages of at most `max_payload` bytes.
    pub(super) fn new(max_payload: usize, until: Until) -> Self {
        let request_bytes = MIN_REQUEST_BYTES.max(max_payload) + MESSAGE_OVERHEAD_BYTES;
        // The server refuses a request that does not wait while others are open: a single large one then.
        let (request_bytes, request_messages) = match until {
            Until::Forever => (request_bytes, WINDOW_MESSAGES / OVERLAPPING_REQUESTS),
            Until::End(_) | Until::Pending => (request_bytes.max(WINDOW_BYTES), WINDOW_MESSAGES),
            Until::First => (request_bytes, 1),
        };
        Self {
            usual_bytes: request_bytes,
            request_bytes,
            most_bytes: request_bytes,
            request_messages,
            open: VecDeque::new(),
            next_number: 0,
            bytes: 0,
            until,
        }
    }

    /// The next request with its number, if there is room for it.
    pub(super) fn next_request(&mut self) -> Option<(u64, PullRequest)> {
        while self.open.front().is_some_and(|(_, sent)| sent.elapsed() > REQUEST_FORGOTTEN) {
            self.open.pop_front();
        }
        let waits = self.until == Until::Forever;
        let most = if waits { OVERLAPPING_REQUESTS } else { 1 };
        let fits = self.bytes + self.request_bytes <= WINDOW_BYTES;
        if !self.open.is_empty() && (self.open.len() >= most || !fits) {
            return None;
        }
        self.next_number += 1;
        self.open.push_back((self.next_number, Instant::now()));
        self.bytes += self.request_bytes;
        let nanoseconds = |duration: Duration| if waits { duration.as_nanos() as u64 } else { 0 };
        let request = PullRequest {
            // What is so large by itself does not wait here in numbers.
            batch: if self.request_bytes > self.usual_bytes { 1 } else { self.request_messages },
            max_bytes: self.request_bytes,
            expires: nanoseconds(REQUEST_EXPIRES),
            idle_heartbeat: nanoseconds(HEARTBEAT),
            no_wait: !waits,
        };
        Some((self.next_number, request))
    }

    /// A message of `bytes` came.
    pub(super) fn spend(&mut self, bytes: usize) {
        if bytes <= self.usual_bytes {
            self.request_bytes = self.usual_bytes;
        }
        self.bytes = self.bytes.saturating_sub(bytes);
        if self.bytes == 0 {
            self.open.clear();
        }
    }

    /// The request `number` ended; the headers of the status that said so hold how many bytes were left of it,
    /// which are returned.
    pub(super) fn end(&mut self, number: Option<u64>, headers: Option<&HeaderMap>) -> usize {
        let bytes_left = bytes_left(headers);
        self.close(number, bytes_left);
        bytes_left
    }

    /// A request ended because the next message takes more than the `bytes_left` of it. Where that was the whole
    /// request, those that follow allow twice as much; returns how much, when it was never so much before.
    ///
    /// The server may have taken larger messages than it does now, or another one did.
    ///
    /// # Errors
    ///
    /// The request was as large as any may be.
    pub(super) fn make_room(&mut self, bytes_left: usize) -> Result<Option<usize>> {
        // One of an earlier, smaller size says nothing of this one.
        if bytes_left < self.request_bytes {
            return Ok(None);
        }
        ensure!(
            self.request_bytes < MAX_REQUEST_BYTES,
            "the next message takes more than {} bytes",
            self.request_bytes
        );
        self.request_bytes *= 2;
        let is_news = self.request_bytes > self.most_bytes;
        self.most_bytes = self.most_bytes.max(self.request_bytes);
        Ok(is_news.then_some(self.request_bytes))
    }

    fn close(&mut self, number: Option<u64>, bytes_left: usize) {
        self.open.retain(|(open, _)| Some(*open) != number);
        self.bytes = self.bytes.saturating_sub(bytes_left);
        if self.open.is_empty() {
            self.bytes = 0;
        }
    }
}

/// What the status that ends a request says is left of it.
fn bytes_left(headers: Option<&HeaderMap>) -> usize {
    let value = headers.and_then(|headers| headers.get("Nats-Pending-Bytes"));
    value.and_then(|value| value.as_str().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_overlap_within_the_window_and_replace_what_was_spent() {
        let mut window = Window::new(1 << 20, Until::Forever);
        let sent: Vec<_> = std::iter::from_fn(|| window.next_request()).collect();
        assert_eq!(sent.len(), 3, "3 of 1 MiB and 8 KiB fit into 4 MiB");
        window.spend(window.request_bytes - 1);
        assert!(window.next_request().is_some(), "what was spent makes room before any request has ended");
        assert!(window.next_request().is_none());
        window.close(Some(1), 1);
        assert_eq!(window.bytes, 3 * window.request_bytes);
        assert!(window.bytes <= WINDOW_BYTES);
    }

    #[test]
    fn a_request_larger_than_the_window_is_sent_alone() {
        let mut window = Window::new(16 << 20, Until::Forever);
        assert_eq!(std::iter::from_fn(|| window.next_request()).count(), 1);
        window.close(Some(1), 5);
        assert!(window.next_request().is_some());
    }

    #[test]
    fn a_message_larger_than_a_whole_request_makes_the_next_ones_larger() {
        let mut window = Window::new(1 << 20, Until::Forever);
        let bytes = window.request_bytes;
        assert_eq!(std::iter::from_fn(|| window.next_request()).count(), 3);
        assert_eq!(window.make_room(bytes - 1).unwrap(), None, "it may fit into the next one");
        assert_eq!(window.make_room(bytes).unwrap(), Some(2 * bytes));
        assert_eq!(window.make_room(bytes).unwrap(), None, "the next one was sent before");
        for number in 1..=3 {
            window.close(Some(number), bytes);
        }
        assert_eq!(window.next_request().unwrap().1.max_bytes, 2 * bytes);
        while window.request_bytes < MAX_REQUEST_BYTES {
            assert!(window.make_room(window.request_bytes).unwrap().is_some());
        }
        assert!(window.make_room(window.request_bytes).is_err());
    }

    #[test]
    fn after_a_large_message_requests_are_as_they_were() {
        let mut window = Window::new(1 << 20, Until::Forever);
        let bytes = window.request_bytes;
        window.next_request();
        window.close(Some(1), bytes);
        assert_eq!(window.make_room(bytes).unwrap(), Some(2 * bytes));
        let (number, request) = window.next_request().unwrap();
        assert_eq!((request.batch, request.max_bytes), (1, 2 * bytes), "it waits here alone");
        window.spend(2 * bytes - 1);
        window.close(Some(number), 1);
        let (number, request) = window.next_request().unwrap();
        assert_eq!((request.batch, request.max_bytes), (1, 2 * bytes), "there may be another");
        window.spend(100);
        window.close(Some(number), 2 * bytes - 100);
        let (number, request) = window.next_request().unwrap();
        assert_eq!(request.max_bytes, bytes);
        assert!(request.batch > 1);
        window.close(Some(number), bytes);
        assert_eq!(window.make_room(bytes).unwrap(), None, "that it may be so much was said before");
        assert_eq!(window.next_request().unwrap().1.max_bytes, 2 * bytes);
    }

    #[test]
    fn requests_that_came_out_even_are_forgotten() {
        let mut window = Window::new(1 << 20, Until::End(u64::MAX));
        assert_eq!(std::iter::from_fn(|| window.next_request()).count(), 1);
        window.spend(WINDOW_BYTES);
        assert!(window.next_request().is_some());
    }
}
