//! Lines that stand on one side and not in the same place on the other: [`Residue`].

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use fshipper_pipeline::anyhow::Result;

use super::limits::Limits;
use super::lines::{Line, Lines};

/// Lines, and the bytes in them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Amount {
    pub(super) lines: u64,
    pub(super) bytes: u64,
}

/// Lines of one kind, and where the first of them begins, as a byte of all of its side.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Kind {
    pub(super) amount: Amount,
    pub(super) first: Option<u64>,
}

/// What became of lines that are not where they should be.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Kinds {
    /// In the source, and not enough of them on the central side.
    pub(super) lost: Kind,
    /// On the central side more often than in the source.
    pub(super) duplicated: Kind,
    /// On both sides, and out of order on the central one.
    pub(super) reordered: Kind,
    /// On the central side, and nowhere in the source.
    pub(super) torn: Kind,
    /// Not told apart, for want of room: of the source, of the central side.
    pub(super) unsorted: [Amount; 2],
}

/// Unmatched lines of both sides, by their hashes.
#[derive(Debug)]
pub(super) struct Residue {
    /// So many different lines are told apart at most.
    limit: usize,
    entries: HashMap<u64, Unmatched>,
    unsorted: [Amount; 2],
}

#[derive(Clone, Copy, Debug)]
struct Unmatched {
    bytes: u64,
    source: u32,
    central: u32,
    first_source: u64,
    first_central: u64,
    is_in_source: bool,
}

impl Amount {
    pub(super) fn add(&mut self, line: Line) {
        self.add_many(1, line.bytes);
    }

    pub(super) fn add_many(&mut self, lines: u64, bytes_each: u64) {
        self.lines += lines;
        self.bytes += lines * bytes_each;
    }
}

impl Kind {
    pub(super) fn add(&mut self, lines: u64, bytes_each: u64, first: u64) {
        if lines > 0 {
            self.amount.add_many(lines, bytes_each);
            self.first = Some(self.first.map_or(first, |earlier| earlier.min(first)));
        }
    }
}

impl Kinds {
    pub(super) fn is_nothing(&self) -> bool {
        let Self { lost, duplicated, reordered, torn, unsorted } = self;
        let none = |amount: &Amount| *amount == Amount::default();
        [lost, duplicated, reordered, torn].iter().all(|kind| none(&kind.amount)) && unsorted.iter().all(none)
    }
}

impl Residue {
    pub(super) fn new(limits: Limits) -> Self {
        Self { limit: limits.different_lines, entries: HashMap::new(), unsorted: Default::default() }
    }

    /// A line of the source that the central side does not hold where it should.
    pub(super) fn add_source(&mut self, byte: u64, line: Line) {
        if let Some(entry) = self.entry(line, 0) {
            if entry.source == 0 {
                entry.first_source = byte;
            }
            entry.source = entry.source.saturating_add(1);
        }
    }

    /// A line of the central side that the source does not hold where it should.
    pub(super) fn add_central(&mut self, byte: u64, line: Line) {
        if let Some(entry) = self.entry(line, 1) {
            if entry.central == 0 {
                entry.first_central = byte;
            }
            entry.central = entry.central.saturating_add(1);
        }
    }

    /// Takes back the last line of the central side.
    pub(super) fn remove_central(&mut self, line: Line) {
        match self.entries.get_mut(&line.hash) {
            Some(entry) => entry.central -= 1,
            None => {
                self.unsorted[1].lines -= 1;
                self.unsorted[1].bytes -= line.bytes;
            }
        }
    }

    /// Whether the central side holds as many of this line, elsewhere, as it lacks where they should be.
    pub(super) fn is_elsewhere(&self, line: Line) -> bool {
        self.entries.get(&line.hash).is_some_and(|entry| entry.source <= entry.central)
    }

    /// Whether the central side holds this line where it should not.
    pub(super) fn is_on_both_sides(&self, line: Line) -> bool {
        self.entries.get(&line.hash).is_some_and(|entry| entry.source > 0 && entry.central > 0)
    }

    /// Takes back a line of the source.
    pub(super) fn remove_source(&mut self, line: Line) {
        match self.entries.get_mut(&line.hash) {
            Some(entry) => entry.source -= 1,
            None => {
                self.unsorted[0].lines -= 1;
                self.unsorted[0].bytes -= line.bytes;
            }
        }
    }

    fn entry(&mut self, line: Line, side: usize) -> Option<&mut Unmatched> {
        let is_full = self.entries.len() >= self.limit;
        match self.entries.entry(line.hash) {
            Entry::Occupied(entry) => Some(entry.into_mut()),
            Entry::Vacant(_) if is_full => {
                self.unsorted[side].add(line);
                None
            }
            Entry::Vacant(free) => Some(free.insert(Unmatched {
                bytes: line.bytes,
                source: 0,
                central: 0,
                first_source: u64::MAX,
                first_central: u64::MAX,
                is_in_source: false,
            })),
        }
    }

    /// Finds out which lines of the central side are anywhere in the source at all.
    pub(super) fn look_up_in(&mut self, mut source: Lines<'_>) -> Result<()> {
        let mut unknown = 0_u64;
        for entry in self.entries.values_mut() {
            entry.is_in_source = entry.source > 0;
            unknown += u64::from(entry.central > 0 && !entry.is_in_source);
        }
        while unknown > 0
            && let Some((_, line)) = source.pop()?
        {
            if let Some(entry) = self.entries.get_mut(&line.hash)
                && entry.central > 0
                && !entry.is_in_source
            {
                entry.is_in_source = true;
                unknown -= 1;
            }
        }
        Ok(())
    }

    /// Whether a `line` of the central side is nowhere in the source, or may be: one that was only counted.
    pub(super) fn is_torn(&self, line: Line) -> bool {
        self.entries.get(&line.hash).is_none_or(|entry| entry.central > 0 && !entry.is_in_source)
    }

    /// What became of all of them.
    pub(super) fn kinds(&self) -> Kinds {
        let mut kinds = Kinds { unsorted: self.unsorted, ..Kinds::default() };
        for entry in self.entries.values() {
            let Unmatched { bytes, source, central, first_source, first_central, is_in_source } = *entry;
            let (moved, missing, surplus) =
                (source.min(central), source.saturating_sub(central), central.saturating_sub(source));
            kinds.reordered.add(moved.into(), bytes, first_central);
            kinds.lost.add(missing.into(), bytes, first_source);
            let kind = if is_in_source { &mut kinds.duplicated } else { &mut kinds.torn };
            kind.add(surplus.into(), bytes, first_central);
        }
        kinds
    }
}
