//! One log and how far it has been read: [`Log`].

use std::cell::OnceCell;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use fshipper_pipeline::{Batch, Complaint, Epoch, Origin, Position};

use super::contents::Peeks;
use super::identity::{FileId, Fingerprint, Marker, Stat};
use super::place::Place;
use super::reading::Reading;
use super::rotation::{Held, LazyRotation};
use super::state::{Generation, Loss, StateLog};

/// Finished generations beyond this many are forgotten, the oldest first. Files older than the one that is
/// being read are never taken for new ones, so this matters only after a rotation in which that one vanished.
const MAX_GENERATIONS: usize = 128;

/// What is not durable at the far end may have to be sent again from its files, as long as they are there: so
/// those generations are remembered beyond that, up to this many.
const MOST_GENERATIONS: usize = 4096;

/// The time, read once for everything that happens together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    pub(crate) instant: Instant,
    pub(crate) system: SystemTime,
}

/// A log: the files that were, are and will be at one path, as one endless string of bytes.
///
/// ```text
///   generation 0      generation 1        generation 2 = current
/// ├─────────────────┼───────────────────┼──────────────●┄┄┄┄┄┄┄
/// 0                 base                base           offset
/// ```
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) origin: Origin,
    pub(crate) path: Arc<Path>,
    /// Which `[[source]]` table owns it.
    pub(crate) table: usize,
    pub(crate) epoch: Epoch,
    /// Oldest first. Empty until the first file holds a byte.
    pub(crate) generations: Vec<Generation>,
    /// Which of them is being read.
    pub(crate) current: usize,
    /// The next byte.
    pub(crate) offset: u64,
    /// Where it had come before the receiving side wanted it again from further down.
    pub(crate) reached: u64,
    /// An offset of the current generation at or before which the content is known, and the marker there.
    pub(crate) mark: Option<(u64, Marker)>,
    pub(crate) stage: Stage,
    /// What is around that: most logs have nothing of it.
    pub(crate) rotation: LazyRotation,
    /// What was found in its compressed files; most logs have none.
    pub(crate) peeks: OnceCell<Arc<Peeks>>,
    /// What stood at its own path at the last look.
    pub(crate) last_look: Option<Look>,
    /// Whether its earlier generations are unknown: the state log was lost.
    pub(crate) is_rebuilt: bool,
    pub(crate) is_ready: bool,
    /// Whether a time is set at which an event is taken for complete.
    pub(crate) awaits_release: bool,
    /// Up to where the present epoch is durable at the far end, as far as it has told.
    pub(crate) floor: Option<u64>,
    /// Up to where it is durable at the other end of its hop, as far as that has told.
    pub(crate) committed: u64,
    pub(crate) complaint: Complaint,
}

/// What `stat` said of a file, as a hash: it tells whether that has changed since, and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Look(NonZeroU64);

/// What is being done with a log.
#[derive(Debug)]
pub(crate) enum Stage {
    /// The current generation's file must be found.
    Locate,
    /// It is being read.
    Reading(Reading),
    /// It is finished, or there is none yet: the next one is awaited.
    Over,
}

impl Look {
    pub(crate) fn of(stat: &Stat) -> Self {
        let mut hasher = DefaultHasher::new();
        (stat.id, stat.size, stat.modified).hash(&mut hasher);
        Self(NonZeroU64::new(hasher.finish()).unwrap_or(NonZeroU64::MIN))
    }
}

impl Log {
    /// A log of which nothing was read yet.
    pub(crate) fn new(origin: Origin, path: Arc<Path>, table: usize) -> Self {
        Self {
            origin,
            path,
            table,
            epoch: Epoch::random(),
            generations: Vec::new(),
            current: 0,
            offset: 0,
            reached: 0,
            mark: None,
            stage: Stage::Over,
            rotation: LazyRotation::default(),
            peeks: OnceCell::new(),
            last_look: None,
            is_rebuilt: false,
            is_ready: false,
            awaits_release: false,
            floor: None,
            committed: 0,
            complaint: Complaint::default(),
        }
    }

    /// Takes note of how far it is durable at the other end of its hop.
    pub(crate) fn set_committed(&mut self, committed: &Position) {
        self.committed = committed.offset;
        if let Some(rotation) = self.rotation.if_any().filter(|rotation| !rotation.uncommitted.is_empty())
            && let Some(last) = Place::decode(&committed.place).and_then(|place| place.lost)
        {
            drop_committed(&mut rotation.uncommitted, last);
        }
    }

    /// The generation that is being read.
    pub(crate) fn generation(&self) -> Option<&Generation> {
        self.generations.get(self.current)
    }

    /// Whether no later generation is known.
    pub(crate) fn is_at_last(&self) -> bool {
        self.current + 1 >= self.generations.len()
    }

    /// Where the next generation begins, if one is known.
    pub(crate) fn next_base(&self) -> Option<u64> {
        self.generations.get(self.current + 1).map(|next| next.base)
    }

    /// Where in the file of `generation` the byte at `offset` stands.
    pub(crate) fn file_position(generation: &Generation, offset: u64) -> u64 {
        generation.skip + offset.saturating_sub(generation.base)
    }

    /// Where in its file the next byte stands.
    pub(crate) fn position(&self) -> u64 {
        self.generation().map_or(0, |generation| Self::file_position(generation, self.offset))
    }

    /// The place to go with a batch that ends at the present offset.
    pub(crate) fn place(&self, over: bool) -> Option<Place> {
        let generation = self.generation()?;
        let marker = self.mark.filter(|mark| mark.0 == self.offset).map(|mark| mark.1);
        Some(Place {
            base: generation.base,
            skip: generation.skip,
            end: self.offset,
            fingerprint: generation.fingerprint,
            marker,
            over,
            lost: self.rotation.last_loss,
        })
    }

    /// Records that `missing` bytes can never be read, 0 when nobody knows how many, and moves past them.
    pub(crate) fn lose(&mut self, state: &mut StateLog, missing: u64, reason: String) {
        // Somebody has bytes up to there: what comes next must not take their offsets.
        let known = self.reached.saturating_sub(self.offset);
        let missing = if missing == 0 { known } else { missing };
        let amount = if missing == 0 { "an unknown number of".to_owned() } else { missing.to_string() };
        tracing::debug!("lost {amount} bytes of `{}` at offset {}: {reason}", self.origin, self.offset);
        self.mark = None;
        self.record_loss(state, missing, reason, true);
    }

    /// Records, once it has resumed, what nothing is known of any more, and moves past it. Somebody may have it:
    /// what comes next must not take its offsets.
    pub(crate) fn lose_unknown(&mut self, state: &mut StateLog) {
        let is_said = !self.rotation.outbox.is_empty();
        if self.generations.is_empty() && self.offset > 0 && !is_said {
            self.lose(state, 0, "nothing is known of the file that was read before".to_owned());
        }
        let Some(first) = self.generations.first() else { return };
        if let Some(missing @ 1..) = first.base.checked_sub(self.offset) {
            let reason = "nothing is known any more of the files that held this".to_owned();
            tracing::debug!("lost {missing} bytes of `{}` at offset {}: {reason}", self.origin, self.offset);
            self.record_loss(state, missing, reason, false);
        }
    }

    /// Records that bytes which belong somewhere before the present offset can never be read. What is being
    /// read goes on.
    pub(crate) fn lose_earlier(&mut self, state: &mut StateLog, reason: String) {
        tracing::debug!("lost bytes of `{}` before offset {}: {reason}", self.origin, self.offset);
        self.record_loss(state, 0, reason, false);
    }

    /// Records a loss. One of unknown length moves no offset: until it is committed it is remembered by itself.
    fn record_loss(&mut self, state: &mut StateLog, missing: u64, reason: String, is_over: bool) {
        let reason: Arc<str> = reason.into();
        if missing == 0 {
            let loss = Loss::new(reason.clone());
            state.stage_loss(&self.path, self.epoch, &loss);
            self.owe(&loss);
        }
        self.send_loss(missing, reason, is_over);
    }

    /// Remembers a loss until it is committed.
    pub(super) fn owe(&mut self, loss: &Loss) {
        let rotation = self.rotation.make();
        rotation.last_loss = Some(loss.id);
        rotation.uncommitted.push(loss.clone());
    }

    /// Hands a loss over, and moves past it. `is_over` says whether nothing more comes of the current generation.
    pub(super) fn send_loss(&mut self, missing: u64, reason: Arc<str>, is_over: bool) {
        let mut batch = Batch::loss(self.origin.clone(), self.epoch, self.offset, missing, reason);
        self.offset += missing;
        // Where no file is known, the loss alone stands there.
        let alone = Place {
            base: self.offset,
            skip: 0,
            end: self.offset,
            fingerprint: Fingerprint::of(b""),
            marker: None,
            over: true,
            lost: self.rotation.last_loss,
        };
        batch.place = self.place(is_over).unwrap_or(alone).encode();
        self.rotation.make().outbox.push_back(batch);
    }

    /// Adds a generation that is never read, and of which nothing more comes.
    pub(crate) fn pass_by(&mut self, generation: Generation) {
        self.generations.push(generation);
        self.current = self.generations.len() - 1;
        self.mark = None;
        self.rotation.clear(|rotation| rotation.seen_end = None);
        self.prune();
    }

    /// How many of the files that wait are open.
    pub(crate) fn open_held(&self) -> usize {
        self.rotation.held.iter().filter(|held| held.file.is_some()).count()
    }

    /// The file that is being read, or was read last; it differs from the generation's when a copy had to do.
    pub(crate) fn last_read(&self) -> Option<FileId> {
        let is_read = || match &self.stage {
            Stage::Reading(reading) => Some(reading.id),
            Stage::Locate | Stage::Over => None,
        };
        self.rotation.last_read.or_else(is_read)
    }

    /// Reads no more of the file that is being read, if any is. What was done is returned.
    pub(crate) fn stop_reading(&mut self, next: Stage) -> Stage {
        if let Some(last) = self.last_read() {
            self.rotation.make().last_read = Some(last);
        }
        std::mem::replace(&mut self.stage, next)
    }

    /// The file that waits for its turn first.
    pub(crate) fn first_held(&mut self) -> Option<&mut Held> {
        self.rotation.if_any()?.held.first_mut()
    }

    /// Adds the next generation and makes it the current one.
    pub(crate) fn begin(&mut self, generation: Generation, reading: Reading) {
        // Most logs have one for long, and there may be thousands of logs.
        self.generations.reserve_exact(1);
        self.generations.push(generation);
        self.current = self.generations.len() - 1;
        self.mark = None;
        if let Some(rotation) = self.rotation.if_any() {
            rotation.last_read = None;
            rotation.seen_end = None;
            rotation.gone_since = None;
            rotation.missing_since = None;
            rotation.replaced = None;
            rotation.compared.clear();
            rotation.held.retain(|held| held.id != reading.id);
        }
        self.stage = Stage::Reading(reading);
        self.prune();
    }

    pub(super) fn prune(&mut self) {
        let surplus = |most| self.generations.len().saturating_sub(most).min(self.current);
        let is_done = |generation: &Generation| self.floor.is_none_or(|floor| generation.base <= floor);
        // The last of them is where the far end would go on.
        let done = self.generations.partition_point(is_done).saturating_sub(1);
        let surplus = surplus(MAX_GENERATIONS).min(done).max(surplus(MOST_GENERATIONS));
        self.generations.drain(..surplus);
        self.current -= surplus;
    }
}

/// Takes away the losses up to the one that is the last of those that are committed. An earlier one, which is not
/// remembered any more, says nothing of these.
pub(super) fn drop_committed(losses: &mut Vec<Loss>, last: u64) {
    if let Some(number) = losses.iter().position(|loss| loss.id == last) {
        losses.drain(..=number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file_tail::identity::Fingerprint;

    fn remembered(count: u64, floor: Option<u64>) -> Vec<u64> {
        let mut log = Log::new(Origin::new("host", "/log"), Path::new("/log").into(), 0);
        log.floor = floor;
        for number in 0..count {
            let id = FileId { device: 1, inode: number, born: 0 };
            let (base, end) = (number * 10, Some((number * 10 + 10, None)));
            let fingerprint = Fingerprint::of(b"");
            log.pass_by(Generation { base, skip: 0, fingerprint, id, began: 0, late: 0, copied: None, end });
        }
        assert_eq!(log.current + 1, log.generations.len());
        log.generations.iter().map(|generation| generation.base).collect()
    }

    /// There may be ten thousand of them, and most are idle.
    #[test]
    fn a_log_and_its_generation_take_less_than_half_a_kilobyte() {
        assert!(size_of::<Log>() + size_of::<Generation>() <= 480);
    }

    #[test]
    fn only_so_many_generations_are_remembered() {
        assert_eq!(remembered(100, None).len(), 100);
        assert_eq!(remembered(200, None)[0], 720);
    }

    #[test]
    fn what_is_not_durable_at_the_far_end_is_remembered_beyond_that() {
        assert_eq!(remembered(200, Some(95))[0], 90);
        assert_eq!(remembered(200, Some(100_000))[0], 720);
        assert_eq!(remembered(5000, Some(95)).len(), MOST_GENERATIONS);
    }
}
