//! Messages of core NATS between the client and the pump, bounded in bytes: [`Intake`].

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_nats::{Message, Subject};
use fshipper_pipeline::Complaint;
use futures::StreamExt as _;
use tokio::sync::Notify;

use super::client::Subscriber;
use super::wire;

/// A queue that takes messages as fast as they come. When it is full it drops them and notes how much: NATS
/// cannot be asked to wait, and a client that does not read is cut off.
#[derive(Debug, Default)]
pub(super) struct Intake {
    queue: Mutex<Queue>,
    arrival: Notify,
}

/// What the queue gives.
#[derive(Debug)]
pub(super) enum Arrived {
    /// A message.
    Message(Message),
    /// Messages of another publisher that were dropped here.
    Dropped {
        /// Their subject.
        subject: Subject,
        /// How many bytes they would have become.
        bytes: u64,
    },
}

#[derive(Debug, Default)]
struct Queue {
    arrivals: VecDeque<Arrived>,
    /// What the messages in it cost.
    bytes: usize,
    /// How many of the arrivals are no messages.
    notes: usize,
}

/// About six milliseconds of a fast publisher: what the pump needs to get round to it.
const MAX_BYTES: usize = 4 << 20;

/// Notes of dropped messages, one for each run of messages on one subject. There are more only when hundreds of
/// subjects flood in at once; the log then says that something was dropped, but not where.
const MAX_NOTES: usize = 1024;

/// What a queued message costs besides its bytes: its structs and its headers' map.
const MESSAGE_BYTES: usize = 512;

impl Intake {
    /// Moves messages into the queue until the subscription to `filter` ends.
    pub(super) async fn take_from(self: Arc<Self>, filter: String, mut subscriber: Subscriber) {
        let complaint =
            format!("messages of `{filter}` arrive from NATS faster than they are written: some are dropped");
        let mut drops = Complaint::default();
        while let Some(message) = subscriber.next().await {
            let taken = self.queue().push(message);
            if !taken {
                drops.report(&complaint, |text| tracing::error!("{text}"));
            }
            self.arrival.notify_one();
        }
    }

    /// Waits for what comes next.
    pub(super) async fn next(&self) -> Arrived {
        loop {
            // Asked for before looking: a message that comes in between must not be slept through.
            let arrival = self.arrival.notified();
            if let Some(arrived) = self.next_waiting() {
                return arrived;
            }
            arrival.await;
        }
    }

    /// What comes next, if it is there.
    pub(super) fn next_waiting(&self) -> Option<Arrived> {
        self.queue().pop()
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// `false` when there is no room and the message is dropped.
    fn push(&mut self, message: Message) -> bool {
        let cost = cost(&message);
        if self.bytes + cost <= MAX_BYTES || self.arrivals.is_empty() {
            self.bytes += cost;
            self.arrivals.push_back(Arrived::Message(message));
            return true;
        }
        // What is missing of our own senders' logs shows in the offsets, and in the right place.
        if wire::is_ours(message.headers.as_ref()) {
            return false;
        }
        let length = message.payload.len() as u64 + 1;
        match self.arrivals.back_mut() {
            Some(Arrived::Dropped { subject, bytes }) if *subject == message.subject => *bytes += length,
            _ if self.notes < MAX_NOTES => {
                self.notes += 1;
                self.arrivals.push_back(Arrived::Dropped { subject: message.subject, bytes: length });
            }
            _ => {}
        }
        false
    }

    fn pop(&mut self) -> Option<Arrived> {
        let arrived = self.arrivals.pop_front()?;
        match &arrived {
            Arrived::Message(message) => self.bytes -= cost(message),
            Arrived::Dropped { .. } => self.notes -= 1,
        }
        Some(arrived)
    }
}

fn cost(message: &Message) -> usize {
    message.length + MESSAGE_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(subject: &str, bytes: usize) -> Message {
        let payload = vec![b'x'; bytes].into();
        let subject = Subject::from(subject);
        Message {
            subject,
            reply: None,
            payload,
            headers: None,
            status: None,
            description: None,
            length: bytes,
        }
    }

    #[test]
    fn what_does_not_fit_is_dropped_and_noted_where_it_belongs() {
        let mut queue = Queue::default();
        for number in 0..6 {
            assert_eq!(queue.push(message("a", MAX_BYTES / 4)), number < 3);
        }
        assert!(!queue.push(message("b", MAX_BYTES / 4)));
        let dropped = MAX_BYTES as u64 / 4 + 1;

        let mut arrivals = Vec::new();
        while let Some(arrived) = queue.pop() {
            arrivals.push(match arrived {
                Arrived::Message(message) => (message.subject.to_string(), None),
                Arrived::Dropped { subject, bytes } => (subject.to_string(), Some(bytes)),
            });
        }
        let (a, b) = ("a".to_owned(), "b".to_owned());
        let taken = (a.clone(), None);
        assert_eq!(
            arrivals,
            [taken.clone(), taken.clone(), taken, (a, Some(3 * dropped)), (b, Some(dropped))]
        );
        assert_eq!((queue.bytes, queue.notes), (0, 0));
    }

    #[test]
    fn a_message_larger_than_the_queue_passes_when_nothing_waits() {
        let mut queue = Queue::default();
        assert!(queue.push(message("a", 2 * MAX_BYTES)));
        assert!(matches!(queue.pop(), Some(Arrived::Message(_))));
    }
}
