//! What a sink durably holds, and the rule that makes delivery exact: [`Checkpoint`].

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;

use crate::{Batch, Cursor, Epoch, Origin};

mod compact_map;

pub use compact_map::CompactMap;

/// How far one sink has come: origins → (epoch, end), transports → cursor.
///
/// A position is *the next byte*, end-exclusive. Whoever stores bytes stores the checkpoint that describes
/// them with them, and hands it back on restore; the source continues exactly there. Since content is a
/// function of (origin, epoch, offset), a byte sent twice is the same byte, and [`Checkpoint::admit`] can
/// cut it off.
///
/// It also remembers what changed since the last [`Checkpoint::clear_changes`], so that a commit costs what
/// changed and not what exists.
///
/// ```
/// use fshipper_pipeline::{Admission, Batch, Checkpoint, Epoch, Origin};
///
/// let (origin, epoch) = (Origin::new("web1", "/var/log/app.log"), Epoch(7));
/// let mut checkpoint = Checkpoint::default();
/// let first = Batch::data(origin.clone(), epoch, 0, "one\n");
/// assert_eq!(checkpoint.admit(&first), Admission::Pass);
/// checkpoint.advance(&first);
///
/// let both = Batch::data(origin.clone(), epoch, 0, "one\ntwo\n");
/// assert_eq!(checkpoint.admit(&both), Admission::Cut(4));
/// assert_eq!(checkpoint.admit(&first), Admission::Duplicate);
/// let later = Batch::data(origin, epoch, 100, "x\n");
/// assert_eq!(checkpoint.admit(&later), Admission::Gap { expected: 4 });
/// ```
#[derive(Clone, Debug, Default)]
pub struct Checkpoint {
    /// Behind pointers, so that a copy, and a sink that keeps the same histories, cost little.
    origins: CompactMap<Origin, Arc<History>>,
    cursors: Cursors,
    changed_origins: HashSet<Origin>,
    changed_cursors: bool,
}

/// What changed from one commit to the next, as it was when the second one was begun.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) origins: Vec<(Origin, Arc<History>)>,
    /// All of them.
    pub(crate) cursors: Cursors,
}

pub(crate) type Cursors = BTreeMap<Arc<str>, Bytes>;

/// After a commit of more origins than this the memory for their list is given back.
const KEPT_CAPACITY: usize = 4096;

/// So many earlier epochs are remembered of one origin, the newest. A log begins one when it is lost and made anew,
/// a pipe each time somebody reads it; without a limit whoever may publish fills memory with them.
const MAX_EARLIER: usize = 1000;

/// The epochs of one origin and how far each came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    /// Where the origin stands.
    pub current: Position,
    /// The epochs before, oldest first, each with its end: a stream that is read again from its first
    /// message still holds them, and they must not be taken for new ones. The present epoch among them is one
    /// that [goes back](History::reached). The newest thousand: one that was forgotten would be a new one.
    pub earlier: Vec<(Epoch, u64)>,
}

impl History {
    /// Of an origin that has no epochs before.
    pub fn new(current: Position) -> Self {
        Self { current, earlier: Vec::new() }
    }

    /// Moves the origin; an epoch other than the present one is a new history after it, and the oldest one may have
    /// to go for it.
    pub fn go_to(&mut self, position: Position) {
        if self.current.epoch != position.epoch {
            self.earlier.retain(|(epoch, _)| *epoch != position.epoch);
            self.earlier.push((self.current.epoch, self.current.offset));
            let excess = self.earlier.len().saturating_sub(MAX_EARLIER);
            self.earlier.drain(..excess);
        }
        self.current = position;
    }

    /// Where the origin ended before in its present epoch, if a sender wants it again from further down. A source
    /// that finds the bytes gone records the loss of all of them up to there: somebody may have some, and no other
    /// bytes may take their offsets.
    pub fn reached(&self) -> Option<u64> {
        let now = &self.current;
        let reached = self.earlier.iter().find(|(epoch, end)| *epoch == now.epoch && *end > now.offset);
        reached.map(|(_, end)| *end)
    }
}

/// Where an origin stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The history in which `offset` counts.
    pub epoch: Epoch,
    /// The next byte.
    pub offset: u64,
    /// [`Batch::place`] of the last batch, for the source.
    pub place: Bytes,
}

/// What [`Checkpoint::admit`] says of a batch.
///
/// | the batch is | answer |
/// | --- | --- |
/// | next (`start` = end) | `Pass` |
/// | already there (`end` ≤ end) | `Duplicate` |
/// | partly there (`start` < end < `end`) | `Cut(end - start)` |
/// | beyond (`start` > end) | `Gap` |
/// | of an epoch never seen | as if that epoch's end were 0 |
/// | of an earlier epoch, already there | `Duplicate` |
/// | of an earlier epoch, not there | `Stale`: two producers claim one origin |
///
/// The record of a loss of unknown amount spans no byte: it passes where it continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It continues what is there.
    Pass,
    /// Everything in it is there: drop it.
    Duplicate,
    /// The first so many bytes are there: cut them off.
    Cut(u64),
    /// Bytes are missing before it.
    Gap {
        /// Where the origin ends.
        expected: u64,
    },
    /// It belongs to a history that another one has followed.
    Stale {
        /// The epoch that holds the origin now.
        current: Epoch,
    },
}

impl Checkpoint {
    /// What a sink restores; nothing of it counts as changed.
    pub fn restored(
        origins: impl IntoIterator<Item = (Origin, Arc<History>)>,
        cursors: impl IntoIterator<Item = Cursor>,
    ) -> Self {
        let cursors = cursors.into_iter().map(|cursor| (cursor.transport, cursor.position));
        Self {
            origins: origins.into_iter().collect(),
            cursors: cursors.collect(),
            changed_origins: HashSet::new(),
            changed_cursors: false,
        }
    }

    /// Where `origin` stands, if anything of it is known.
    pub fn position(&self, origin: &Origin) -> Option<&Position> {
        self.origins.get(origin).map(|history| &history.current)
    }

    /// The epochs of `origin`, if anything of it is known.
    pub fn history(&self, origin: &Origin) -> Option<&History> {
        self.origins.get(origin).map(Arc::as_ref)
    }

    /// All origins, in no order.
    pub fn origins(&self) -> impl Iterator<Item = (&Origin, &History)> {
        self.origins.iter().map(|(origin, history)| (origin, &**history))
    }

    /// How many origins are known.
    pub fn len(&self) -> usize {
        self.origins.len()
    }

    /// Whether nothing is known: no origin and no cursor.
    pub fn is_empty(&self) -> bool {
        self.origins.is_empty() && self.cursors.is_empty()
    }

    /// Where the receiver of `transport` resumes.
    pub fn cursor(&self, transport: &str) -> Option<&Bytes> {
        self.cursors.get(transport)
    }

    /// All cursors: transport and position.
    pub fn cursors(&self) -> impl Iterator<Item = (&Arc<str>, &Bytes)> {
        self.cursors.iter()
    }

    /// Compares a batch with what is there: see [`Admission`].
    pub fn admit(&self, batch: &Batch) -> Admission {
        let end = match self.origins.get(&batch.origin) {
            None => 0,
            Some(history) if history.current.epoch == batch.epoch => history.current.offset,
            Some(history) => match history.earlier.iter().find(|(epoch, _)| *epoch == batch.epoch) {
                Some((_, end)) if batch.end() <= *end => return Admission::Duplicate,
                Some(_) => return Admission::Stale { current: history.current.epoch },
                None => 0,
            },
        };
        if batch.start > end {
            Admission::Gap { expected: end }
        } else if batch.start == end {
            Admission::Pass
        } else if batch.end() <= end {
            Admission::Duplicate
        } else {
            Admission::Cut(end - batch.start)
        }
    }

    /// Moves the origin to the end of `batch`, which passed [`Checkpoint::admit`] and was written.
    pub fn advance(&mut self, batch: &Batch) {
        let position = Position { epoch: batch.epoch, offset: batch.end(), place: batch.place.clone() };
        self.set_position(&batch.origin, position);
    }

    /// Sets where `origin` stands; an epoch other than the present one is a new history after it.
    pub fn set_position(&mut self, origin: &Origin, position: Position) {
        match self.origins.get_mut(origin) {
            Some(history) => Arc::make_mut(history).go_to(position),
            None => {
                self.origins.insert(origin.clone(), Arc::new(History::new(position)));
            }
        }
        if !self.changed_origins.contains(origin) {
            self.changed_origins.insert(origin.clone());
        }
    }

    /// Sets all that is known of `origin`, as a sink does when it restores, or forgets it.
    pub fn set_history(&mut self, origin: &Origin, history: Option<History>) {
        match history {
            Some(history) => {
                self.origins.insert(origin.clone(), Arc::new(history));
            }
            None => {
                self.origins.remove(origin);
            }
        }
        self.changed_origins.insert(origin.clone());
    }

    /// Moves a transport's cursor.
    pub fn set_cursor(&mut self, cursor: &Cursor) {
        self.cursors.insert(cursor.transport.clone(), cursor.position.clone());
        self.changed_cursors = true;
    }

    /// What changed since the last time; from now on nothing has.
    pub(crate) fn take_changes(&mut self) -> Changes {
        let origins = self.changed_histories();
        let origins = origins.map(|(origin, history)| (origin.clone(), history.clone())).collect();
        let cursors = self.clone_cursors();
        self.clear_changes();
        Changes { origins, cursors }
    }

    pub(crate) fn clone_cursors(&self) -> Cursors {
        self.cursors.clone()
    }

    pub(crate) fn set_cursors(&mut self, cursors: &Cursors) {
        if self.cursors != *cursors {
            self.cursors = cursors.clone();
            self.changed_cursors = true;
        }
    }

    /// The origins that changed since the last [`Checkpoint::clear_changes`], in no order.
    pub fn changed_origins(&self) -> impl Iterator<Item = (&Origin, &History)> {
        self.changed_histories().map(|(origin, history)| (origin, &**history))
    }

    /// The same, for a sink that keeps them too: then both have one copy, until the origin moves on.
    pub fn changed_histories(&self) -> impl Iterator<Item = (&Origin, &Arc<History>)> {
        let changed = self.changed_origins.iter();
        changed.filter_map(|origin| self.origins.get(origin).map(|history| (origin, history)))
    }

    /// Whether a cursor changed since the last [`Checkpoint::clear_changes`].
    pub fn cursors_changed(&self) -> bool {
        self.changed_cursors
    }

    /// Whether anything changed since the last [`Checkpoint::clear_changes`].
    pub fn changed(&self) -> bool {
        self.changed_cursors || !self.changed_origins.is_empty()
    }

    /// Forgets what changed, as a sink does that has restored.
    pub fn clear_changes(&mut self) {
        self.changed_origins.clear();
        self.changed_origins.shrink_to(KEPT_CAPACITY);
        self.changed_cursors = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(epoch: u64, start: u64, text: &'static str) -> Batch {
        Batch::data(Origin::new("h", "/l"), Epoch(epoch), start, text)
    }

    fn at(positions: &[(u64, u64)]) -> Checkpoint {
        let mut checkpoint = Checkpoint::default();
        for &(epoch, offset) in positions {
            let position = Position { epoch: Epoch(epoch), offset, place: Bytes::new() };
            checkpoint.set_position(&Origin::new("h", "/l"), position);
        }
        checkpoint
    }

    #[test]
    fn admits_by_position_alone() {
        let known = at(&[(1, 10)]);
        assert_eq!(known.admit(&batch(1, 10, "abc\n")), Admission::Pass);
        assert_eq!(known.admit(&batch(1, 6, "abc\n")), Admission::Duplicate);
        assert_eq!(known.admit(&batch(1, 8, "abc\n")), Admission::Cut(2));
        assert_eq!(known.admit(&batch(1, 11, "abc\n")), Admission::Gap { expected: 10 });
    }

    #[test]
    fn a_new_epoch_starts_at_its_first_byte() {
        let known = at(&[(1, 10)]);
        assert_eq!(known.admit(&batch(2, 0, "abc\n")), Admission::Pass);
        assert_eq!(known.admit(&batch(2, 5, "abc\n")), Admission::Gap { expected: 0 });
        assert_eq!(at(&[]).admit(&batch(1, 5, "abc\n")), Admission::Gap { expected: 0 });
    }

    #[test]
    fn an_earlier_epoch_read_again_is_a_duplicate_and_never_new() {
        let known = at(&[(1, 10), (2, 4)]);
        assert_eq!(known.admit(&batch(1, 6, "abc\n")), Admission::Duplicate);
        assert_eq!(known.admit(&batch(1, 10, "abc\n")), Admission::Stale { current: Epoch(2) });
    }

    #[test]
    fn a_history_that_goes_back_says_how_far_it_was() {
        let current = Position { epoch: Epoch(2), offset: 4, place: Bytes::new() };
        let history = |earlier| History { current: current.clone(), earlier };
        assert_eq!(history(vec![(Epoch(1), 9)]).reached(), None);
        assert_eq!(history(vec![(Epoch(1), 9), (Epoch(2), 7)]).reached(), Some(7));
        let mut checkpoint = Checkpoint::default();
        let origin = Origin::new("h", "/l");
        checkpoint.set_history(&origin, Some(history(vec![(Epoch(2), 7)])));
        assert_eq!(checkpoint.admit(&batch(2, 4, "abc\n")), Admission::Pass);
        checkpoint.advance(&Batch::data(origin.clone(), Epoch(2), 4, "abc\n"));
        assert_eq!(checkpoint.history(&origin).and_then(History::reached), None, "it is there again");
    }

    #[test]
    fn of_many_epochs_the_newest_are_remembered() {
        let positions: Vec<_> = (0..=MAX_EARLIER as u64 + 5).map(|epoch| (epoch, 10)).collect();
        let known = at(&positions);
        let history = known.history(&Origin::new("h", "/l")).unwrap();
        assert_eq!(history.earlier.len(), MAX_EARLIER);
        assert_eq!(known.admit(&batch(5, 6, "abc\n")), Admission::Duplicate, "the oldest that is known");
        assert_eq!(known.admit(&batch(4, 0, "abc\n")), Admission::Pass);
        assert_eq!(history.current.epoch, Epoch(MAX_EARLIER as u64 + 5));
    }

    #[test]
    fn a_loss_of_unknown_amount_passes_where_it_continues() {
        let known = at(&[(1, 10)]);
        let loss = |start| Batch::loss(Origin::new("h", "/l"), Epoch(1), start, 0, "overwritten");
        assert_eq!(known.admit(&loss(10)), Admission::Pass);
        assert_eq!(known.admit(&loss(9)), Admission::Duplicate);
        assert_eq!(known.admit(&loss(11)), Admission::Gap { expected: 10 });
    }

    #[test]
    fn changes_are_what_a_commit_costs() {
        let mut checkpoint = at(&[(1, 10)]);
        checkpoint.clear_changes();
        assert!(!checkpoint.changed());
        checkpoint.advance(&batch(1, 10, "abc\n"));
        assert_eq!(checkpoint.changed_origins().count(), 1);
    }
}
