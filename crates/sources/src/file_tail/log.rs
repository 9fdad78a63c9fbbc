//! One log and how far it has been read: [`Log`].

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use fshipper_pipeline::{Batch, Complaint, Epoch, Origin, Position};

use super::contents::Peeks;
use super::identity::{FileId, Fingerprint, Marker};
use super::place::Place;
use super::reading::Reading;
use super::state::{Generation, Known};

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
    /// Paths besides its own that may hold files of this log: rotated siblings, files followed by a rename.
    pub(crate) members: BTreeSet<PathBuf>,
    /// Files among them that need not be looked into again: they hold nothing new.
    pub(crate) passed: BTreeSet<FileId>,
    /// Files among them that were compared with the one being read, and their sizes then.
    pub(crate) compared: BTreeMap<FileId, u64>,
    /// What was found in its compressed files; most logs have none.
    pub(crate) peeks: OnceCell<Arc<Peeks>>,
    /// Files that come after the current one, oldest first, held open so that deleting them loses nothing.
    pub(crate) held: Vec<Held>,
    /// The file that was finished last, until what comes next was looked for.
    pub(crate) finished: Option<File>,
    /// The file that was finished last, should somebody still write into it.
    pub(crate) behind: Option<Box<Behind>>,
    /// Losses, before anything that is read later.
    pub(crate) outbox: VecDeque<Batch>,
    /// The file that was read last; it differs from the generation's when a copy had to do.
    pub(crate) last_read: Option<FileId>,
    /// A file that held the current generation and was cut or overwritten: it is not looked into again.
    pub(crate) replaced: Option<FileId>,
    /// Where the current generation ended when its file was last seen.
    pub(crate) seen_end: Option<u64>,
    /// Since when the current generation's file is looked for in vain.
    pub(crate) missing_since: Option<Instant>,
    /// Since when a look at its files and the listing of their directory do not agree.
    pub(crate) unsure_since: Option<Instant>,
    /// Since when a file that waits is known to have been cut.
    pub(crate) cut_since: Option<Instant>,
    /// When the file that was finished last was last written to.
    pub(crate) read_modified: Option<SystemTime>,
    /// What its own path looked like at the last look.
    pub(crate) last_look: Option<(FileId, u64, SystemTime)>,
    /// Whether its earlier generations are unknown: the state log was lost.
    pub(crate) is_rebuilt: bool,
    pub(crate) is_ready: bool,
    /// Whether a time is set at which an event is taken for complete.
    pub(crate) awaits_release: bool,
    /// Up to where the present epoch is durable at the far end, as far as it has told.
    pub(crate) floor: Option<u64>,
    /// Up to where it is durable at the other end of its hop, as far as that has told.
    pub(crate) committed: Option<u64>,
    /// Whether a compressed file that may hold something unread was reported.
    pub(crate) has_warned: bool,
    pub(crate) complaint: Complaint,
}

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

/// A file that waits for its turn.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) id: FileId,
    pub(crate) path: Arc<Path>,
    /// Its size at the last look.
    pub(crate) size: u64,
    /// When it was changed last; `None` when it was not looked into.
    pub(crate) modified: Option<SystemTime>,
    /// `None` when too many are open.
    pub(crate) file: Option<Arc<File>>,
    /// Since when one that is not open is nowhere.
    pub(crate) gone_since: Option<Instant>,
    /// Its beginning at the last look.
    pub(crate) fingerprint: Fingerprint,
    /// What it held each time before it was truncated or written anew while it waited.
    pub(crate) cuts: Vec<Cut>,
}

/// Bytes that a waiting file held, and does not hold any more.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    pub(crate) size: u64,
    pub(crate) fingerprint: Fingerprint,
}

/// A file that was finished and still stands at a path.
#[derive(Debug)]
pub(crate) struct Behind {
    pub(crate) id: FileId,
    pub(crate) path: Arc<Path>,
    /// How much of it is accounted for.
    pub(crate) size: u64,
    /// When more of it may be reported again.
    pub(crate) not_before: Option<Instant>,
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
            members: BTreeSet::new(),
            passed: BTreeSet::new(),
            compared: BTreeMap::new(),
            peeks: OnceCell::new(),
            held: Vec::new(),
            finished: None,
            behind: None,
            outbox: VecDeque::new(),
            last_read: None,
            replaced: None,
            seen_end: None,
            missing_since: None,
            unsure_since: None,
            cut_since: None,
            read_modified: None,
            last_look: None,
            is_rebuilt: false,
            is_ready: false,
            awaits_release: false,
            floor: None,
            committed: None,
            has_warned: false,
            complaint: Complaint::default(),
        }
    }

    /// Continues where the receiving side ends: `position` is its word, `known` what the state log holds of
    /// the same epoch.
    pub(crate) fn resume(&mut self, known: Option<Known>, position: Option<&Position>) {
        self.is_rebuilt = known.is_none();
        if let Some(known) = known {
            self.epoch = known.epoch;
            self.generations = known.generations;
        }
        // One of a later file says nothing of this offset.
        let place = position.and_then(|position| {
            Place::decode(&position.place).filter(|place| place.base <= position.offset)
        });
        if let Some(position) = position {
            self.epoch = position.epoch;
            self.offset = position.offset;
        }
        if let Some(place) = place {
            self.adopt(&place);
        }
        self.generations.sort_by_key(|generation| generation.base);
        let begun = self.generations.iter().rposition(|generation| generation.base <= self.offset);
        self.current = begun.unwrap_or(0);
        let is_over =
            |generation: &Generation| matches!(generation.end, Some((end, _)) if end == self.offset);
        let is_last = self.current + 1 == self.generations.len();
        self.stage = match self.generations.get(self.current) {
            Some(generation) if !(is_last && is_over(generation)) => Stage::Locate,
            _ => Stage::Over,
        };
        if let (Some(place), Some(generation)) = (place, self.generations.get(self.current))
            && place.base == generation.base
            && place.skip == generation.skip
        {
            self.mark = place.marker.map(|marker| (place.end, marker));
        }
        self.prune();
    }

    /// Adds the generation that a place describes, or what is newer in it, to those of the state log.
    fn adopt(&mut self, place: &Place) {
        let same =
            |generation: &&mut Generation| generation.base == place.base && generation.skip == place.skip;
        // Of several that begin there all but the last are empty.
        match self.generations.iter_mut().rev().find(same) {
            Some(generation) => {
                if generation.fingerprint.length < place.fingerprint.length {
                    generation.fingerprint = place.fingerprint;
                }
                if place.over && place.end == self.offset {
                    generation.end = Some((place.end, place.marker));
                }
            }
            None => {
                let id = FileId { device: 0, inode: 0, born: 0 };
                let end = (place.over && place.end == self.offset).then_some((place.end, place.marker));
                let Place { base, skip, fingerprint, .. } = *place;
                let generation =
                    Generation { base, skip, fingerprint, id, began: 0, late: 0, copied: None, end };
                self.generations.push(generation);
            }
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
        })
    }

    /// Records that `missing` bytes can never be read, 0 when nobody knows how many, and moves past them.
    pub(crate) fn lose(&mut self, missing: u64, reason: String) {
        // Somebody has bytes up to there: what comes next must not take their offsets.
        let known = self.reached.saturating_sub(self.offset);
        let missing = if missing == 0 { known } else { missing };
        let amount = if missing == 0 { "an unknown number of".to_owned() } else { missing.to_string() };
        tracing::debug!("lost {amount} bytes of `{}` at offset {}: {reason}", self.origin, self.offset);
        let mut batch = Batch::loss(self.origin.clone(), self.epoch, self.offset, missing, reason);
        self.offset += missing;
        self.mark = None;
        if let Some(place) = self.place(true) {
            batch.place = place.encode();
        }
        self.outbox.push_back(batch);
    }

    /// Records that bytes which belong somewhere before the present offset can never be read. What is being
    /// read goes on.
    pub(crate) fn lose_earlier(&mut self, reason: String) {
        tracing::debug!("lost bytes of `{}` before offset {}: {reason}", self.origin, self.offset);
        let mut batch = Batch::loss(self.origin.clone(), self.epoch, self.offset, 0, reason);
        if let Some(place) = self.place(false) {
            batch.place = place.encode();
        }
        self.outbox.push_back(batch);
    }

    /// Adds a generation that is never read, and of which nothing more comes.
    pub(crate) fn pass_by(&mut self, generation: Generation) {
        self.generations.push(generation);
        self.current = self.generations.len() - 1;
        self.mark = None;
        self.seen_end = None;
        self.prune();
    }

    /// How many of the files that wait are open.
    pub(crate) fn open_held(&self) -> usize {
        self.held.iter().filter(|held| held.file.is_some()).count()
    }

    /// Adds the next generation and makes it the current one.
    pub(crate) fn begin(&mut self, generation: Generation, reading: Reading) {
        // Most logs have one for long, and there may be thousands of logs.
        self.generations.reserve_exact(1);
        self.generations.push(generation);
        self.current = self.generations.len() - 1;
        self.mark = None;
        self.seen_end = None;
        self.missing_since = None;
        self.last_read = Some(reading.id);
        self.replaced = None;
        self.compared.clear();
        self.held.retain(|held| held.id != reading.id);
        self.stage = Stage::Reading(reading);
        self.prune();
    }

    fn prune(&mut self) {
        let surplus = |most| self.generations.len().saturating_sub(most).min(self.current);
        let is_done = |generation: &Generation| self.floor.is_none_or(|floor| generation.base <= floor);
        // The last of them is where the far end would go on.
        let done = self.generations.partition_point(is_done).saturating_sub(1);
        let surplus = surplus(MAX_GENERATIONS).min(done).max(surplus(MOST_GENERATIONS));
        self.generations.drain(..surplus);
        self.current -= surplus;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
