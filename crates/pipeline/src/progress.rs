//! What the two ends of a hop tell each other besides batches: [`Progress`].
//!
//! ```text
//!              batches ──►                                      batches ──►
//! file_tail ─────────────── sender  ═══ transport ═══  receiver ─────────────── sink
//!           ◄── floors                                          ◄── news (commits, gaps)
//! ```
//!
//! Batches say where bytes belong, and what is told here says what became of them. The pump tells a receiver
//! what is durable and what is missing; a sender tells its source what is durable at the far end of its
//! transport. Nobody needs any of it: whoever does not follow costs nothing, and delivery is right without.
//!
//! Only the latest word for each origin counts, so what waits is bounded by the number of origins, however slow
//! the follower is.

use std::any::{Any, TypeId};
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, watch};

use crate::checkpoint::Changes;
use crate::{Batch, Checkpoint, Cursor, Epoch, Origin, Position};

mod backlog;
mod unrepeatable;

use backlog::Backlogs;
pub use backlog::{Backlog, BacklogUnit};
use unrepeatable::Unrepeatable;

/// The handle that both ends of one hop and its pump share. It lasts as long as the hop, over all its sessions.
/// Cloning is cheap.
#[derive(Clone, Debug, Default)]
pub struct Progress(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    news: Board<News>,
    floors: Board<Position>,
    /// How long a gap waits for an answer, while somebody can be asked.
    asking: watch::Sender<Option<Duration>>,
    far_end: Mutex<FarEnd>,
    reopen: Notify,
    unrepeatable: Unrepeatable,
    backlogs: Backlogs,
    memories: Mutex<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>,
}

/// What became of an origin, for the receiver that its bytes came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// It is durable up to here.
    Committed(Position),
    /// It cannot go on: bytes are missing.
    Missing(Box<Gap>),
}

/// Bytes that a hop waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The history in which the offsets count.
    pub epoch: Epoch,
    /// The first byte that is missing; everything below is durable.
    pub from: u64,
    /// The first byte that is known to follow.
    pub to: u64,
    /// The source's place at `from`, as far as it is known.
    pub place: Bytes,
    /// Up to where the transport was read in vain.
    pub read: Option<Cursor>,
}

/// Waits for news, or for floors: the latest word for each origin, in the order in which the first of them came.
///
/// What it took and has not dealt with when it is dropped is left for the next one.
#[derive(Debug)]
pub struct Follower<T: Clone> {
    progress: Progress,
    board: fn(&Shared) -> &Board<T>,
    in_hand: Vec<(Origin, T)>,
}

/// The latest word for each origin.
#[derive(Debug)]
struct Board<T> {
    followers: AtomicUsize,
    waiting: Mutex<Waiting<T>>,
    changed: Notify,
    /// Nothing waits, and nobody has anything in hand.
    settled: Notify,
}

#[derive(Debug)]
struct Waiting<T> {
    latest: HashMap<Origin, T>,
    order: VecDeque<Origin>,
    /// How much the follower took and has not dealt with yet.
    in_hand: usize,
    /// Where the checkpoint that the latest commit came with has the transports.
    cursors: crate::checkpoint::Cursors,
}

/// How far origins are durable here, and beyond the transport.
#[derive(Debug, Default)]
struct FarEnd {
    is_followed: bool,
    here: HashMap<Origin, (Epoch, u64)>,
    there: HashMap<Origin, (Epoch, u64)>,
}

impl Progress {
    /// What became of the origins that this hop writes, from now on: for a receiver.
    pub fn follow_news(&self) -> Follower<News> {
        Follower::new(self, |shared| &shared.news)
    }

    /// How far the origins of this hop are durable beyond the transport, from now on: for a source.
    pub fn follow_floors(&self) -> Follower<Position> {
        Follower::new(self, |shared| &shared.floors)
    }

    /// Says whether missing bytes can be asked for, and how long to wait for them before their loss is recorded.
    /// A receiver says so before it gives the first batch, and again when it turns out otherwise.
    pub fn set_asking(&self, wait: Option<Duration>) {
        self.0.asking.send_if_modified(|asking| std::mem::replace(asking, wait) != wait);
    }

    /// Says that floors will be told here, so that what lies between is counted.
    pub fn follow_far_end(&self) {
        self.far_end().is_followed = true;
    }

    /// Says how far `origin` is durable beyond the transport: a sender's word.
    pub fn set_floor(&self, origin: &Origin, floor: Position) {
        self.far_end().there.insert(origin.clone(), (floor.epoch, floor.offset));
        self.0.floors.tell(origin, floor);
    }

    /// How many bytes are durable at this hop's sink and not beyond the transport, as far as anybody knows;
    /// `None` when nobody can tell.
    pub fn lag(&self) -> Option<u64> {
        let far_end = self.far_end();
        far_end.is_followed.then(|| {
            let lags = far_end.here.iter().map(|(origin, &(epoch, end))| {
                let floor = far_end.there.get(origin).filter(|(there, _)| *there == epoch);
                end.saturating_sub(floor.map_or(0, |(_, floor)| *floor))
            });
            lags.sum()
        })
    }

    /// Ends the session once everything that was read is written and committed, and opens another one: a sender
    /// asks for it when its source has to go back.
    pub fn reopen(&self) {
        self.0.reopen.notify_one();
    }

    /// For a source that cannot go back: how many bytes it has taken from its input and not given yet. It keeps the
    /// number true for as long as the process lives. What is left of them when the run ends is lost, and counted.
    pub fn in_hand(&self) -> &AtomicU64 {
        &self.0.unrepeatable.in_hand
    }

    /// What a part of this hop keeps from one session to the next: one value of each type.
    pub fn memory<T: Any + Send + Sync + Default>(&self) -> Arc<T> {
        let mut memories = self.0.memories.lock().unwrap_or_else(PoisonError::into_inner);
        let memory = memories.entry(TypeId::of::<T>()).or_insert_with(|| Arc::new(T::default()));
        let Ok(memory) = memory.clone().downcast() else { unreachable!("a value stands under its own type") };
        memory
    }

    fn far_end(&self) -> MutexGuard<'_, FarEnd> {
        // Nothing that holds the lock can panic between two changes.
        self.0.far_end.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The pump's side.
impl Progress {
    /// A session starts at `checkpoint`.
    pub(crate) fn start(&self, checkpoint: &Checkpoint) {
        let mut far_end = self.far_end();
        if far_end.is_followed {
            let ends = checkpoint.origins().map(|(origin, history)| (origin.clone(), end_of(history)));
            far_end.here = ends.collect();
        }
    }

    /// A source that cannot go back gave `batch`, which counts once it is durable here.
    pub(crate) fn note_unrepeatable(&self, batch: &Batch) {
        self.0.unrepeatable.note(batch);
    }

    /// How many bytes sources that cannot go back gave that are not durable here.
    pub(crate) fn unrepeatable_bytes(&self) -> u64 {
        self.0.unrepeatable.given()
    }

    /// These changes are durable.
    pub(crate) fn commit(&self, changes: &Changes) {
        self.0.unrepeatable.commit(changes);
        let mut far_end = self.far_end();
        if far_end.is_followed {
            for (origin, history) in &changes.origins {
                far_end.here.insert(origin.clone(), end_of(history));
            }
        }
        drop(far_end);
        let board = &self.0.news;
        if board.followers.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut waiting = board.lock();
        waiting.cursors.clone_from(&changes.cursors);
        for (origin, history) in &changes.origins {
            waiting.add(origin, News::Committed(history.current.clone()));
        }
        drop(waiting);
        board.changed.notify_one();
    }

    /// `origin` cannot go on for want of these bytes.
    pub(crate) fn miss(&self, origin: &Origin, gap: Gap) {
        self.0.news.tell(origin, News::Missing(Box::new(gap)));
    }

    /// How long to wait for missing bytes; `None` when nobody can be asked.
    pub(crate) fn asking(&self) -> watch::Receiver<Option<Duration>> {
        self.0.asking.subscribe()
    }

    /// Waits until somebody wants another session.
    pub(crate) async fn reopening(&self) {
        self.0.reopen.notified().await;
    }

    /// Forgets that anybody wanted another session: one has just ended.
    pub(crate) fn forget_reopening(&self) {
        // A permit that is there is taken at the first poll, and a future that has to wait leaves nothing behind.
        let _ = futures::FutureExt::now_or_never(self.0.reopen.notified());
    }

    /// Waits until the follower has dealt with all news, but no longer than `patience`.
    pub(crate) async fn settle(&self, patience: Duration) {
        let board = &self.0.news;
        let settled = async {
            loop {
                let settled = board.settled.notified();
                if board.followers.load(Ordering::Relaxed) == 0 || board.is_settled() {
                    return;
                }
                settled.await;
            }
        };
        // What is not told now is told by the next session.
        let _ = tokio::time::timeout(patience, settled).await;
    }
}

impl<T: Clone> Follower<T> {
    fn new(progress: &Progress, board: fn(&Shared) -> &Board<T>) -> Self {
        board(&progress.0).followers.fetch_add(1, Ordering::Relaxed);
        Self { progress: progress.clone(), board, in_hand: Vec::new() }
    }

    /// Waits for something new, and gives it for at most so many origins; what it gave before is dealt with.
    pub async fn changed(&mut self, most: usize) -> Vec<(Origin, T)> {
        self.in_hand.clear();
        let board = (self.board)(&self.progress.0);
        board.set_in_hand(0);
        loop {
            let changed = board.changed.notified();
            let taken = board.lock().take(most);
            if !taken.is_empty() {
                self.in_hand.clone_from(&taken);
                return taken;
            }
            changed.await;
        }
    }

    /// Gives back what [`Follower::changed`] gave last, to be given again; what is newer counts.
    pub fn give_back(&mut self) {
        let board = (self.board)(&self.progress.0);
        board.put_back(self.in_hand.drain(..));
        board.set_in_hand(0);
    }

    /// Adds what nobody told yet, as far as nothing newer waits.
    pub fn add(&mut self, untold: impl IntoIterator<Item = (Origin, T)>) {
        (self.board)(&self.progress.0).put_back(untold.into_iter());
    }

    /// Where the latest commit has the cursor of `transport`.
    pub fn cursor(&self, transport: &str) -> Option<Bytes> {
        (self.board)(&self.progress.0).lock().cursors.get(transport).cloned()
    }
}

impl<T: Clone> Drop for Follower<T> {
    fn drop(&mut self) {
        self.give_back();
        let board = (self.board)(&self.progress.0);
        board.followers.fetch_sub(1, Ordering::Relaxed);
        board.settled.notify_waiters();
    }
}

impl<T> Board<T> {
    fn tell(&self, origin: &Origin, word: T) {
        if self.followers.load(Ordering::Relaxed) > 0 {
            self.lock().add(origin, word);
            self.changed.notify_one();
        }
    }

    fn put_back(&self, words: impl Iterator<Item = (Origin, T)>) {
        let mut waiting = self.lock();
        for (origin, word) in words {
            if !waiting.latest.contains_key(&origin) {
                waiting.add(&origin, word);
            }
        }
        drop(waiting);
        self.changed.notify_one();
    }

    fn set_in_hand(&self, in_hand: usize) {
        let mut waiting = self.lock();
        waiting.in_hand = in_hand;
        if waiting.latest.is_empty() && in_hand == 0 {
            self.settled.notify_waiters();
        }
    }

    fn is_settled(&self) -> bool {
        let waiting = self.lock();
        waiting.latest.is_empty() && waiting.in_hand == 0
    }

    fn lock(&self) -> MutexGuard<'_, Waiting<T>> {
        // Nothing that holds the lock can panic between two changes.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Default for Board<T> {
    fn default() -> Self {
        let waiting = Waiting {
            latest: HashMap::new(),
            order: VecDeque::new(),
            in_hand: 0,
            cursors: crate::checkpoint::Cursors::new(),
        };
        let (changed, settled) = (Notify::new(), Notify::new());
        Self { followers: AtomicUsize::new(0), waiting: Mutex::new(waiting), changed, settled }
    }
}

impl<T> Waiting<T> {
    fn add(&mut self, origin: &Origin, word: T) {
        match self.latest.get_mut(origin) {
            Some(known) => *known = word,
            None => {
                self.latest.insert(origin.clone(), word);
                self.order.push_back(origin.clone());
            }
        }
    }

    fn take(&mut self, most: usize) -> Vec<(Origin, T)> {
        let count = most.min(self.order.len());
        let taken = self.order.drain(..count).map(|origin| {
            let word = self.latest.remove(&origin).expect("what stands in order has a word");
            (origin, word)
        });
        let taken: Vec<_> = taken.collect();
        self.in_hand = taken.len();
        taken
    }
}

fn end_of(history: &crate::History) -> (Epoch, u64) {
    (history.current.epoch, history.current.offset)
}

#[cfg(test)]
mod tests;
