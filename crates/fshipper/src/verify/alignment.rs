//! Which lines correspond: [`Alignment`].
//!
//! Both sides are read once, side by side. Lines that are equal correspond; where they are not, the next
//! anchor says how far the gap reaches on each side, and the longest common row of the two pieces what
//! corresponds within it. Memory is bounded whatever the gap: a piece that is too long is not loaded but
//! read along, and only its lines that the other, short one holds too are remembered.

use std::collections::HashSet;

use fshipper_pipeline::anyhow::Result;

use super::anchors::Anchor;
use super::limits::Limits;
use super::lines::{Line, Lines, Place};
use super::matching;
use super::residue::Amount;

/// A line that stands on one side only, or not where it should: which side, where, and what.
pub(super) type OnUnmatched<'a> = dyn FnMut(Which, Place, Line) + 'a;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    Source,
    Central,
}

/// What is known after both sides were read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Alignment {
    pub(super) matched: Amount,
    /// The first lines that correspond: where they begin.
    pub(super) first: Option<[Place; 2]>,
    /// Behind the last lines that correspond.
    pub(super) last: [Place; 2],
    /// Whether a gap was longer on both sides than what can be looked at together: then lines may have been
    /// left unmatched that correspond.
    pub(super) is_coarse: bool,
    /// The ends of both sides.
    pub(super) ends: [Place; 2],
}

/// Walks both sides to their ends.
pub(super) fn align(
    sides: [Lines<'_>; 2],
    anchors: &[Anchor],
    limits: Limits,
    unmatched: &mut OnUnmatched<'_>,
) -> Result<Alignment> {
    let last = [sides[0].place(), sides[1].place()];
    let alignment = Alignment { matched: Amount::default(), first: None, last, is_coarse: false, ends: last };
    let mut walk = Walk { sides, alignment, window_lines: limits.window_lines, unmatched };
    let mut anchors = anchors.iter().peekable();
    loop {
        walk.pass_equal_lines()?;
        let at = walk.sides.each_ref().map(|lines| lines.place().line);
        while anchors.next_if(|anchor| anchor.source < at[0] || anchor.central < at[1]).is_some() {}
        let ends = anchors.peek().map_or([u64::MAX; 2], |anchor| [anchor.source, anchor.central]);
        if walk.sides[0].peek()?.is_none() && walk.sides[1].peek()?.is_none() {
            break;
        }
        while !walk.close_gap(ends)? {}
    }
    walk.alignment.ends = walk.sides.each_ref().map(Lines::place);
    Ok(walk.alignment)
}

struct Walk<'s, 'a> {
    sides: [Lines<'s>; 2],
    alignment: Alignment,
    window_lines: usize,
    unmatched: &'a mut OnUnmatched<'a>,
}

impl Walk<'_, '_> {
    fn pass_equal_lines(&mut self) -> Result<()> {
        while let Some(line) = self.sides[0].peek()?
            && self.sides[1].peek()? == Some(line)
        {
            self.note_match(self.sides.each_ref().map(Lines::place), line);
            for lines in &mut self.sides {
                lines.pop()?;
            }
        }
        Ok(())
    }

    fn note_match(&mut self, places: [Place; 2], line: Line) {
        self.alignment.matched.add(line);
        self.alignment.first.get_or_insert(places);
        self.alignment.last = places.map(|place| place.after(line));
    }

    /// Settles lines before `ends`, at least one; whether those were all.
    fn close_gap(&mut self, ends: [u64; 2]) -> Result<bool> {
        let mut counts = [0; 2];
        let mut are_whole = [false; 2];
        for side in 0..2 {
            let left = ends[side] - self.sides[side].place().line;
            counts[side] = self.sides[side].look_ahead(left.min(self.window_lines as u64) as usize)?.len();
            are_whole[side] = counts[side] < self.window_lines || counts[side] as u64 == left;
        }
        match are_whole {
            [true, true] => {}
            [true, false] => return self.read_along(0, counts[0], ends[1]),
            [false, true] => return self.read_along(1, counts[1], ends[0]),
            [false, false] => {
                self.alignment.is_coarse = true;
                let [source, central] = &mut self.sides;
                let (one, other) =
                    (source.look_ahead(self.window_lines)?, central.look_ahead(self.window_lines)?);
                // What follows the last pair may correspond to what was not looked at yet.
                if let Some((one, other)) = matching::pairs(one, other).last() {
                    counts = [one + 1, other + 1];
                }
            }
        }
        let pieces = [self.take(0, counts[0])?, self.take(1, counts[1])?];
        self.settle(&pieces);
        Ok(are_whole == [true, true])
    }

    /// Settles the next `count` lines of the side `short`, and those of the other one before `end`.
    fn read_along(&mut self, short: usize, count: usize, end: u64) -> Result<bool> {
        let long = 1 - short;
        let mut pieces = [Vec::new(), Vec::new()];
        pieces[short] = self.take(short, count)?;
        let known: HashSet<u64> = pieces[short].iter().map(|(_, line)| line.hash).collect();
        let mut is_done = false;
        while pieces[long].len() < self.window_lines {
            let next = if self.sides[long].place().line < end { self.sides[long].pop()? } else { None };
            let Some((place, line)) = next else {
                is_done = true;
                break;
            };
            if known.contains(&line.hash) {
                pieces[long].push((place, line));
            } else {
                (self.unmatched)(WHICH[long], place, line);
            }
        }
        self.settle(&pieces);
        self.alignment.is_coarse |= !is_done;
        Ok(is_done)
    }

    fn take(&mut self, side: usize, count: usize) -> Result<Vec<(Place, Line)>> {
        (0..count).map_while(|_| self.sides[side].pop().transpose()).collect()
    }

    /// Pairs what two pieces have in common; all else of them is unmatched.
    fn settle(&mut self, pieces: &[Vec<(Place, Line)>; 2]) {
        let [one, other] =
            pieces.each_ref().map(|piece| piece.iter().map(|(_, line)| *line).collect::<Vec<_>>());
        let mut starts = [0; 2];
        for (source, central) in matching::pairs(&one, &other) {
            self.leave(pieces, starts, [source, central]);
            self.note_match([pieces[0][source].0, pieces[1][central].0], one[source]);
            starts = [source + 1, central + 1];
        }
        self.leave(pieces, starts, [one.len(), other.len()]);
    }

    fn leave(&mut self, pieces: &[Vec<(Place, Line)>; 2], starts: [usize; 2], ends: [usize; 2]) {
        for side in 0..2 {
            for (place, line) in &pieces[side][starts[side]..ends[side]] {
                (self.unmatched)(WHICH[side], *place, *line);
            }
        }
    }
}

const WHICH: [Which; 2] = [Which::Source, Which::Central];
