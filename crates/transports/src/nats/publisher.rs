//! The task that publishes: [`Publisher`].
//!
//! It takes batches as they come and keeps a queue for each origin. An origin has one publish under way, many
//! origins have one each; what waits behind a publish goes out together as the next one, so batches grow with
//! the round trip and nobody waits for them to grow. One origin that alone has much to publish is
//! [ingested](Shipper::ingest) instead: it takes what comes as it comes.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use bytes::BytesMut;
use fshipper_pipeline::{Batch, BudgetLease, Content, Origin, Progress};
use futures::StreamExt as _;
use futures::future::{BoxFuture, OptionFuture};
use futures::stream::FuturesUnordered;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::ingest::{Ingested, Pace};
use super::load::{Load, MAX_BATCHES};
use super::outcome::Stop;
use super::places::Places;
use super::restore::Tail;
use super::shipper::Shipper;

/// What the sender hands over.
#[derive(Debug)]
pub(super) enum Order {
    /// Publish this.
    Publish(Batch),
    /// Say when everything before this is stored, or held.
    Flush(oneshot::Sender<()>),
}

/// Publishes what it is handed.
pub(super) struct Publisher {
    shipper: Arc<Shipper>,
    max_under_way: usize,
    orders: mpsc::Receiver<Order>,
    held: Arc<Held>,
    lanes: HashMap<Origin, Lane>,
    /// Origins with something waiting and nothing under way, in the order in which they became so.
    ready: VecDeque<Origin>,
    under_way: FuturesUnordered<BoxFuture<'static, Landing>>,
    load: Arc<Load>,
    flush: Option<oneshot::Sender<()>>,
    progress: Progress,
    /// Whether another session was asked for.
    reopens: bool,
}

/// One origin.
#[derive(Debug, Default)]
struct Lane {
    /// Its end in the stream; unknown before it was asked for, and while something is under way.
    tail: Option<Tail>,
    waiting: VecDeque<Batch>,
    busy: bool,
    /// Where batches go while it is ingested.
    feed: Option<mpsc::Sender<Batch>>,
    pace: Pace,
}

/// The origins that cannot go on, and why. The publisher adds to it, the sender reads it.
#[derive(Debug, Default)]
pub(super) struct Held(Mutex<HashMap<Origin, Hold>>);

#[derive(Debug)]
struct Hold {
    reason: String,
    told: bool,
}

/// The end of a publish.
struct Landing {
    origin: Origin,
    result: Result<Tail, Stop>,
    /// What was not published after all.
    rest: VecDeque<Batch>,
    /// How the next attempt at ingesting goes about it, if this was one.
    pace: Option<Pace>,
}

/// How many origins publish at once with atomic batches, of which a stream allows 50 to all its producers together.
pub(super) const MAX_ATOMIC_UNDER_WAY: usize = 16;

/// How often the stream is asked without a reason how far it goes: that is a request to the server, and a log that is
/// idle waits so long when a stream went back and no connection broke.
const LOOK_EVERY: Duration = Duration::from_secs(60);

impl Publisher {
    /// For the origins whose `tails` are known. At most `max_under_way` publish at once. Asks `progress` for another
    /// session when the stream has lost what nobody is about to publish.
    pub(super) fn new(
        shipper: Arc<Shipper>,
        tails: HashMap<Origin, Tail>,
        max_under_way: usize,
        orders: mpsc::Receiver<Order>,
        held: Arc<Held>,
        progress: Progress,
    ) -> Self {
        for (origin, tail) in &tails {
            shipper.note_restored(origin, tail);
        }
        let known = |tail| Lane { tail: Some(tail), ..Lane::default() };
        let load_bytes = shipper.load_bytes();
        Self {
            shipper,
            max_under_way,
            orders,
            held,
            lanes: tails.into_iter().map(|(origin, tail)| (origin, known(tail))).collect(),
            ready: VecDeque::new(),
            under_way: FuturesUnordered::new(),
            load: Arc::new(Load::new(load_bytes)),
            flush: None,
            progress,
            reopens: false,
        }
    }

    /// Publishes until the sender is gone.
    ///
    /// # Errors
    ///
    /// The stream cannot be published to as it was found.
    pub(super) async fn run(mut self) -> Result<()> {
        let mut link = self.shipper.api.requests().connection().reconnects();
        // The connection may have broken since the shipper was made.
        let mut check = OptionFuture::from(Some(self.check()));
        let (mut is_checking, mut look_at) = (true, Instant::now() + LOOK_EVERY);
        loop {
            self.launch();
            if self.under_way.is_empty()
                && let Some(flush) = self.flush.take()
            {
                // The sender is gone when it does not wait.
                let _ = flush.send(());
            }
            let has_room = self.load.has_room();
            tokio::select! {
                biased;
                Some(landing) = self.under_way.next() => self.land(landing)?,
                // A log that is idle has no other way to notice that the broker went back.
                Some(checked) = &mut check => {
                    (check, is_checking) = (OptionFuture::default(), false);
                    if let Err(Stop::Failed(error)) = checked {
                        self.reopen(&error);
                    }
                }
                Ok(()) = link.changed() => (check, is_checking) = (Some(self.check()).into(), true),
                () = tokio::time::sleep_until(look_at), if !is_checking && !self.reopens => {
                    look_at = Instant::now() + LOOK_EVERY;
                    let shipper = self.shipper.clone();
                    let reaches: BoxFuture<'static, _> = Box::pin(async move { shipper.reaches_newest().await });
                    (check, is_checking) = (Some(reaches).into(), true);
                }
                order = self.orders.recv(), if has_room => match order {
                    Some(Order::Publish(batch)) => self.enqueue(batch),
                    Some(Order::Flush(flush)) => {
                        self.flush = Some(flush);
                        self.lanes.values_mut().for_each(|lane| lane.feed = None);
                    }
                    None => return Ok(()),
                },
                () = self.load.less(), if !has_room => {}
            }
        }
    }

    fn check(&self) -> BoxFuture<'static, Result<bool, Stop>> {
        let shipper = self.shipper.clone();
        Box::pin(async move { shipper.is_whole().await })
    }

    /// The session goes on as far as it can, and another one begins where the stream ends.
    fn reopen(&mut self, error: &anyhow::Error) {
        if !self.reopens {
            self.reopens = true;
            tracing::warn!("{error:#}");
            self.progress.reopen();
        }
    }

    fn enqueue(&mut self, batch: Batch) {
        if self.held.reason(&batch.origin).is_some() {
            return;
        }
        let lane = self.lanes.entry(batch.origin.clone()).or_default();
        self.load.add(batch.bytes().len());
        let batch = match &lane.feed {
            Some(feed) => match feed.try_send(batch) {
                Ok(()) => return,
                Err(TrySendError::Full(batch) | TrySendError::Closed(batch)) => {
                    // What comes after waits behind it.
                    lane.feed = None;
                    batch
                }
            },
            None => batch,
        };
        if lane.waiting.is_empty() && !lane.busy {
            self.ready.push_back(batch.origin.clone());
        }
        lane.waiting.push_back(batch);
    }

    /// Starts as many publishes as may be under way.
    fn launch(&mut self) {
        while self.under_way.len() < self.max_under_way
            && let Some(origin) = self.ready.pop_front()
        {
            let Some(lane) = self.lanes.get_mut(&origin) else { continue };
            let Some(first) = lane.waiting.front() else { continue };
            if self.under_way.is_empty()
                && let Some(tail) =
                    lane.tail.take_if(|tail| self.shipper.is_worth_ingesting(tail, &lane.waiting))
            {
                if lane.pace.is_ready() {
                    let flushes = self.flush.is_some();
                    self.under_way.push(lane.ingest(tail, origin, &self.shipper, &self.load, flushes));
                    continue;
                }
                lane.tail = Some(tail);
            }
            let is_crowded = self.under_way.len() >= MAX_ATOMIC_UNDER_WAY;
            let appetite = self.shipper.appetite(first, is_crowded);
            let Joined { batch, places, leases } = join(&mut lane.waiting, appetite);
            if lane.waiting.is_empty() {
                // Thousands of idle logs would each keep the room.
                lane.waiting = VecDeque::new();
            }
            lane.busy = true;
            let (shipper, load, tail) = (self.shipper.clone(), self.load.clone(), lane.tail.take());
            load.take(places.len(), 0);
            self.under_way.push(Box::pin(async move {
                let bytes = batch.bytes().len();
                let result = shipper.ship(tail, batch, &places).await;
                drop(leases);
                load.take(0, bytes);
                Landing { origin, result, rest: VecDeque::new(), pace: None }
            }));
        }
    }

    fn land(&mut self, Landing { origin, result, mut rest, pace }: Landing) -> Result<()> {
        let Some(lane) = self.lanes.get_mut(&origin) else { return Ok(()) };
        lane.busy = false;
        lane.feed = None;
        lane.pace = pace.unwrap_or_else(|| lane.pace.clone());
        if !rest.is_empty() {
            rest.append(&mut lane.waiting);
            lane.waiting = rest;
        }
        match result {
            Ok(tail) => {
                lane.tail = Some(tail);
                if !lane.waiting.is_empty() {
                    self.ready.push_back(origin);
                }
                Ok(())
            }
            Err(Stop::Held(reason)) => {
                for batch in lane.waiting.drain(..) {
                    self.load.take(1, batch.bytes().len());
                }
                self.held.add(origin, reason);
                Ok(())
            }
            Err(Stop::Failed(error)) => Err(error),
        }
    }
}

impl Lane {
    /// Publishes all that waits and all that comes meanwhile; when it is to be flushed, only what waits.
    fn ingest(
        &mut self,
        tail: Tail,
        origin: Origin,
        shipper: &Arc<Shipper>,
        load: &Arc<Load>,
        flushes: bool,
    ) -> BoxFuture<'static, Landing> {
        let (feed, fed) = mpsc::channel(MAX_BATCHES);
        self.busy = true;
        self.feed = (!flushes).then_some(feed);
        let (waiting, pace) = (std::mem::take(&mut self.waiting), self.pace.clone());
        let (shipper, load) = (shipper.clone(), load.clone());
        Box::pin(async move {
            let Ingested { result, rest, pace } = shipper.ingest(tail, waiting, fed, &load, pace).await;
            Landing { origin, result, rest, pace: Some(pace) }
        })
    }
}

impl Held {
    /// Why `origin` cannot go on, if it cannot.
    pub(super) fn reason(&self, origin: &Origin) -> Option<String> {
        self.lock().get(origin).map(|hold| hold.reason.clone())
    }

    /// Those that were not asked for yet.
    pub(super) fn take_news(&self) -> Vec<(Origin, String)> {
        let mut holds = self.lock();
        let untold = holds.iter_mut().filter(|(_, hold)| !hold.told);
        let told = untold.map(|(origin, hold)| {
            hold.told = true;
            (origin.clone(), hold.reason.clone())
        });
        told.collect()
    }

    fn add(&self, origin: Origin, reason: String) {
        self.lock().insert(origin, Hold { reason, told: false });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Origin, Hold>> {
        // Nothing that holds the lock can panic between two changes of the map.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Batches that continue each other, as one.
struct Joined {
    batch: Batch,
    /// Those of the batches.
    places: Places,
    /// Those of the batches that were copied.
    leases: Vec<BudgetLease>,
}

/// Takes the first waiting batch, and with it those that continue it while all are at most `max_bytes` long.
fn join(waiting: &mut VecDeque<Batch>, max_bytes: usize) -> Joined {
    let mut batch = waiting.pop_front().expect("a lane that is ready has a batch");
    let mut places = Places::of(&batch);
    let (mut end, mut length, mut count) = (batch.end(), batch.bytes().len(), 0);
    for next in waiting.iter() {
        let continues =
            next.epoch == batch.epoch && next.start == end && length + next.bytes().len() <= max_bytes;
        if !continues || next.bytes().is_empty() || batch.bytes().is_empty() {
            break;
        }
        (end, length, count) = (next.end(), length + next.bytes().len(), count + 1);
    }
    if count == 0 {
        return Joined { batch, places, leases: Vec::new() };
    }
    let mut bytes = BytesMut::with_capacity(length);
    bytes.extend_from_slice(batch.bytes());
    let mut leases = Vec::with_capacity(count);
    for mut next in waiting.drain(..count) {
        bytes.extend_from_slice(next.bytes());
        leases.extend(next.lease.take());
        places.add(&next);
        batch.time = next.time;
    }
    batch.content = Content::Data(bytes.freeze());
    batch.place = places.longest();
    Joined { batch, places, leases }
}

#[cfg(test)]
mod tests {
    use std::str;

    use bytes::Bytes;
    use fshipper_pipeline::Epoch;

    use super::*;

    fn batch(start: u64, text: &'static str) -> Batch {
        Batch { place: text.as_bytes().into(), ..Batch::data(Origin::new("h", "/l"), Epoch(1), start, text) }
    }

    fn joined(batches: &[Batch], max_bytes: usize) -> (String, usize) {
        let mut waiting: VecDeque<_> = batches.iter().cloned().collect();
        let Joined { batch, places, .. } = join(&mut waiting, max_bytes);
        assert_eq!(waiting.len() + places.len(), batches.len());
        (str::from_utf8(batch.bytes()).unwrap().to_owned(), places.len())
    }

    #[test]
    fn what_waits_behind_a_publish_goes_out_together() {
        let waiting = [batch(0, "one\n"), batch(4, "two\n"), batch(8, "three\n")];
        assert_eq!(joined(&waiting, 100), ("one\ntwo\nthree\n".to_owned(), 3));
        assert_eq!(joined(&waiting, 8), ("one\ntwo\n".to_owned(), 2));
        assert_eq!(joined(&waiting, 3), ("one\n".to_owned(), 1));
        let Joined { batch, places, .. } = join(&mut waiting.into_iter().collect(), 100);
        assert_eq!(
            (batch.end(), &batch.place[..]),
            (14, &b"three\n"[..]),
            "the header has room for the longest"
        );
        let expected =
            [(1, "one\n"), (4, "one\n"), (5, "two\n"), (8, "two\n"), (9, "three\n"), (14, "three\n")];
        assert_eq!(expected.map(|(end, _)| places.at(end)), expected.map(|(_, place)| Bytes::from(place)));
    }

    #[test]
    fn losses_gaps_and_epochs_are_not_joined() {
        let loss = Batch::loss(Origin::new("h", "/l"), Epoch(1), 4, 2, "gone");
        assert_eq!(joined(&[batch(0, "one\n"), loss.clone()], 100).1, 1);
        assert_eq!(joined(&[loss, batch(6, "two\n")], 100).1, 1);
        assert_eq!(joined(&[batch(0, "one\n"), batch(5, "two\n")], 100).1, 1);
        let other = Batch { epoch: Epoch(2), ..batch(4, "two\n") };
        assert_eq!(joined(&[batch(0, "one\n"), other], 100).1, 1);
    }
}
