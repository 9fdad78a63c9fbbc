//! Batches of core NATS between the thread that receives and the pump, bounded in bytes: [`Intake`].

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fshipper_pipeline::{Batch, Content};
use tokio::sync::Notify;

/// A queue between a thread that may wait and a task that may not.
///
/// NATS cannot be asked to wait, but a client that reads nothing from its socket makes the server keep what comes
/// (64 MB, by default) and then slow down whoever sends it. A server gives up on a client that reads nothing for
/// long, so what has not found room by then is dropped, and all that follows until there is room again.
#[derive(Debug, Default)]
pub(super) struct Intake {
    queue: Mutex<Queue>,
    arrival: Notify,
    room: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    batches: VecDeque<Batch>,
    /// What those that are no losses cost.
    bytes: usize,
    losses: usize,
    /// There was no room for longer than anybody waits.
    overflows: bool,
    is_closed: bool,
}

/// What the pump has not got round to, besides what it holds itself. More can wait at the server.
const MAX_BYTES: usize = 1 << 20;

/// What a queued batch costs besides its bytes.
const BATCH_BYTES: usize = 512;

/// Losses that wait here, one for each run of messages of one log. There are more only when hundreds of logs flood
/// in at once.
const MAX_LOSSES: usize = 1024;

/// Longer than a disk that is written back stalls, and well below the 10 s after which a server cuts a client off.
const PATIENCE: Duration = Duration::from_secs(4);

impl Intake {
    /// Adds a batch of data, once there is room: this blocks the thread. `false` when there was none, and it is dropped.
    pub(super) fn push(&self, batch: Batch) -> bool {
        let mut queue = self.queue();
        if !queue.has_room(&batch) && !queue.overflows {
            let no_room = |queue: &mut Queue| !queue.has_room(&batch);
            let waited = self.room.wait_timeout_while(queue, PATIENCE, no_room);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        queue.overflows = !queue.has_room(&batch);
        if !queue.overflows {
            queue.add(batch);
            self.arrival.notify_one();
        }
        !queue.overflows
    }

    /// Adds the record of what was dropped. `false` when there are too many.
    pub(super) fn push_loss(&self, loss: Batch) -> bool {
        let is_noted = self.queue().add_loss(loss);
        self.arrival.notify_one();
        is_noted
    }

    /// Waits for what comes next.
    pub(super) async fn next(&self) -> Batch {
        loop {
            // Asked for before looking: a batch that comes in between must not be slept through.
            let arrival = self.arrival.notified();
            if let Some(batch) = self.queue().pop() {
                self.room.notify_one();
                return batch;
            }
            arrival.await;
        }
    }

    /// Nobody takes anything any more: whoever waits for room goes on.
    pub(super) fn close(&self) {
        self.queue().is_closed = true;
        self.room.notify_one();
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn has_room(&self, batch: &Batch) -> bool {
        self.bytes == 0 || self.bytes + cost(batch) <= MAX_BYTES || self.is_closed
    }

    fn add(&mut self, batch: Batch) {
        self.bytes += cost(&batch);
        self.batches.push_back(batch);
    }

    fn add_loss(&mut self, loss: Batch) -> bool {
        if let Some(last) = self.batches.back_mut()
            && (&last.origin, last.epoch, last.end()) == (&loss.origin, loss.epoch, loss.start)
            && let Content::Loss { missing, reason } = &mut last.content
            && let Content::Loss { missing: more, reason: same } = &loss.content
            && reason == same
        {
            *missing += more;
            return true;
        }
        let has_room = self.losses < MAX_LOSSES;
        if has_room {
            self.losses += 1;
            self.batches.push_back(loss);
        }
        has_room
    }

    fn pop(&mut self) -> Option<Batch> {
        let batch = self.batches.pop_front()?;
        match &batch.content {
            Content::Data(_) => self.bytes -= cost(&batch),
            Content::Loss { .. } => self.losses -= 1,
        }
        Some(batch)
    }
}

fn cost(batch: &Batch) -> usize {
    batch.bytes().len() + BATCH_BYTES
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use fshipper_pipeline::{Epoch, Origin};

    use super::*;

    const PART: usize = MAX_BYTES / 4;

    fn data(number: usize) -> Batch {
        Batch::data(Origin::new("h", "/l"), Epoch(1), (number * PART) as u64, vec![b'x'; PART])
    }

    fn loss(path: &str, start: u64, missing: u64, reason: &str) -> Batch {
        Batch::loss(Origin::new("h", path), Epoch(1), start, missing, reason)
    }

    fn drained(queue: &mut Queue) -> Vec<(String, u64, u64)> {
        let batches = std::iter::from_fn(|| queue.pop());
        batches.map(|batch| (batch.origin.to_string(), batch.start, batch.span())).collect()
    }

    #[test]
    fn whoever_fills_it_waits_for_whoever_empties_it() {
        let intake = Arc::new(Intake::default());
        let filling = intake.clone();
        let filler = thread::spawn(move || (0..20).all(|number| filling.push(data(number))));
        for number in 0..20 {
            // Full, so that whoever fills it is about to wait.
            while intake.queue().batches.len() < 3 && !filler.is_finished() {
                thread::yield_now();
            }
            thread::yield_now();
            let batch = intake.queue().pop();
            intake.room.notify_one();
            assert_eq!(batch.map(|batch| batch.start), Some((number * PART) as u64), "something was dropped");
            assert!(intake.queue().bytes <= MAX_BYTES);
        }
        assert!(filler.join().unwrap());
    }

    #[test]
    fn what_overflows_is_refused_at_once_until_there_is_room() {
        let intake = Intake::default();
        assert!((0..3).all(|number| intake.push(data(number))));
        // As when somebody waited in vain.
        intake.queue().overflows = true;
        assert!(!intake.push(data(3)) && !intake.push(data(3)));
        intake.queue().pop();
        assert!(intake.push(data(3)));
        assert!(!intake.queue().overflows, "the next one waits again");
    }

    #[test]
    fn nobody_waits_for_one_who_is_gone() {
        let intake = Arc::new(Intake::default());
        let filling = intake.clone();
        let filler = thread::spawn(move || (0..20).all(|number| filling.push(data(number))));
        intake.close();
        assert!(filler.join().unwrap());
    }

    #[test]
    fn losses_that_continue_each_other_are_one() {
        let mut queue = Queue::default();
        assert!(queue.add_loss(loss("/a", 0, 5, "slow")));
        assert!(queue.add_loss(loss("/a", 5, 5, "slow")));
        assert!(queue.add_loss(loss("/a", 10, 5, "cut off")));
        assert!(queue.add_loss(loss("/b", 15, 5, "cut off")));
        queue.add(data(0));
        let (a, b) = ("h:/a".to_owned(), "h:/b".to_owned());
        let expected = [(a.clone(), 0, 10), (a, 10, 5), (b, 15, 5), ("h:/l".to_owned(), 0, PART as u64)];
        assert_eq!(drained(&mut queue), expected);
        assert_eq!((queue.bytes, queue.losses), (0, 0));
    }

    #[test]
    fn losses_are_bounded() {
        let mut queue = Queue::default();
        let noted =
            (0..2 * MAX_LOSSES).filter(|number| queue.add_loss(loss(&number.to_string(), 0, 1, "slow")));
        assert_eq!(noted.count(), MAX_LOSSES);
    }

    #[test]
    fn a_batch_larger_than_the_queue_passes_when_nothing_waits() {
        let intake = Intake::default();
        let large = Batch::data(Origin::new("h", "/l"), Epoch(1), 0, vec![b'x'; 2 * MAX_BYTES]);
        assert!(intake.push(large));
    }
}
