//! Where a log goes on at a start: [`Log::resume`], and where it begins anew: [`Log::begin_epoch`].

use fshipper_pipeline::{Epoch, Position};

use super::identity::FileId;
use super::log::{Log, Stage, drop_committed};
use super::place::Place;
use super::state::{Generation, Known, StateLog};

impl Log {
    /// Continues where the receiving side ends: `position` is its word, `known` what the state log holds of
    /// the same epoch.
    pub(super) fn resume(&mut self, known: Option<Known>, position: Option<&Position>) {
        let mut losses = Vec::new();
        if let Some(known) = known {
            self.epoch = known.epoch;
            self.generations = known.generations;
            losses = known.losses;
        }
        self.is_rebuilt = self.generations.is_empty();
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
        if let Some(last) = place.and_then(|place| place.lost) {
            drop_committed(&mut losses, last);
            self.rotation.make().last_loss = Some(last);
        }
        let is_over = matches!(self.stage, Stage::Over);
        for loss in losses {
            // Whether it was committed, nobody knows.
            self.owe(&loss);
            self.send_loss(0, loss.reason, is_over);
        }
    }

    /// Leaves the history of which the receiving side alone knows something, and begins another one: what is at its
    /// paths was passed over, or is new.
    pub(super) fn begin_epoch(&mut self, state: &mut StateLog) {
        self.epoch = Epoch::random();
        (self.offset, self.reached, self.committed, self.floor) = (0, 0, 0, None);
        self.generations.remove(self.current);
        self.current = self.generations.len().saturating_sub(1);
        for generation in &self.generations {
            state.stage_generation(&self.path, self.epoch, generation);
        }
        self.stop_reading(Stage::Over);
        self.rotation.clear(|rotation| rotation.missing_since = None);
        self.lose(
            state,
            0,
            "the file that was read before is nowhere, and nothing else is known of it".to_owned(),
        );
    }

    /// Adds the generation that a place describes, or what is newer in it, to those of the state log.
    fn adopt(&mut self, place: &Place) {
        let begins_there =
            |generation: &Generation| generation.base == place.base && generation.skip == place.skip;
        let is_it =
            |generation: &Generation| begins_there(generation) && generation.fingerprint == place.fingerprint;
        // Of several that begin there all but the last are empty: of those the place may mean any.
        let last = self.generations.iter().rposition(begins_there);
        let is_empty = place.end == place.base;
        let found = match is_empty {
            true => self.generations.iter().position(is_it).or(last.filter(|_| !place.over)),
            false => last,
        };
        let is_finished = place.over && place.end == self.offset;
        let Some(found) = found else {
            let id = FileId { device: 0, inode: 0, born: 0 };
            let end = is_finished.then_some((place.end, place.marker));
            let Place { base, skip, fingerprint, .. } = *place;
            let generation = Generation { base, skip, fingerprint, id, began: 0, late: 0, copied: None, end };
            self.generations.insert(last.unwrap_or(self.generations.len()), generation);
            return;
        };
        let generation = &mut self.generations[found];
        if !is_empty && generation.fingerprint.length < place.fingerprint.length {
            generation.fingerprint = place.fingerprint;
        }
        if is_finished && generation.fingerprint == place.fingerprint {
            generation.end = Some((place.end, place.marker));
        }
    }
}
