//! What is true of two sides: [`compare`].
//!
//! Blocks first, and nothing else while they are the same. From the first line that differs on, lines are
//! told apart by their hashes: those that correspond are [aligned](super::alignment), those that are left
//! over are [sorted](super::residue) into lost, duplicated, reordered and torn ones.

use fshipper_pipeline::anyhow::Result;

use super::alignment::{Which, align};
use super::anchors;
use super::blocks::{self, End};
use super::limits::Limits;
use super::lines::{Lines, Place};
use super::residue::{Amount, Kinds, Residue};
use super::side::{Bytes, Side, Spot};

/// What a comparison found.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// Of the source, of the central side: as far as they were compared.
    pub(super) totals: [Amount; 2],
    /// What stands before the place where the comparison began.
    pub(super) skipped: [Amount; 2],
    /// Where they first differ.
    pub(super) difference: Option<[Spot; 2]>,
    /// What is the same before that.
    pub(super) identical: Amount,
    pub(super) kinds: Kinds,
    pub(super) behind: Option<Behind>,
    /// Lines with which the source begins and the central side does not, if that holds no others instead.
    pub(super) missing_beginning: u64,
    /// In a shared file: the first line of the source that does not stand where it should.
    pub(super) out_of_place: Option<Spot>,
    /// In a shared file: how many lines are not of this source.
    pub(super) others: u64,
}

/// The end of the source that the central side has not got yet.
#[derive(Debug)]
pub(super) struct Behind {
    pub(super) amount: Amount,
    /// Whether it begins within a line.
    pub(super) is_within_line: bool,
    /// Whether the source ends without a line end.
    pub(super) is_unfinished: bool,
    pub(super) next: Spot,
}

/// Compares from these places on.
pub(super) fn compare(
    source: &Side,
    central: &mut Side,
    starts: [Place; 2],
    limits: Limits,
) -> Result<Findings> {
    let common =
        blocks::compare(source.bytes_from(starts[0].byte)?, central.growing_bytes_from(starts[1].byte)?)?;
    let mut findings = Findings {
        skipped: starts.map(|start| Amount { lines: start.line, bytes: start.byte }),
        identical: Amount { lines: common.lines, bytes: common.bytes },
        ..Findings::default()
    };
    let ends = starts.map(|start| start.byte + common.bytes);
    findings.totals = [findings.identical; 2];
    let column = common.bytes - common.line_start;
    if column > 0 && common.end != End::Differs {
        findings.totals.iter_mut().for_each(|total| total.lines += 1);
    }
    if common.end == End::Both {
        return Ok(findings);
    }
    if common.end == End::Behind {
        let (amount, is_unfinished) = source.bytes_from(ends[0])?.count_rest()?;
        findings.totals[0].lines = common.lines + amount.lines;
        findings.totals[0].bytes += amount.bytes;
        let next = source.spot(starts[0].byte + common.line_start, column)?;
        findings.behind = Some(Behind { amount, is_within_line: column > 0, is_unfinished, next });
        return Ok(findings);
    }

    // From the beginning of the line that differs, line by line.
    central.extend_to(ends[1])?;
    let from =
        starts.map(|start| Place { line: start.line + common.lines, byte: start.byte + common.line_start });
    findings.difference = Some([source.spot(from[0].byte, column)?, central.spot(from[1].byte, column)?]);
    sort_out(source, central, from, limits, &mut findings)?;
    Ok(findings)
}

/// Tells what became of the lines from `from` on.
fn sort_out(
    source: &Side,
    central: &Side,
    from: [Place; 2],
    limits: Limits,
    findings: &mut Findings,
) -> Result<()> {
    let anchors = anchors::find(Lines::new(source, from[0])?, Lines::new(central, from[1])?, limits)?;

    let mut residue = Residue::new(limits);
    let mut last_central = None;
    let mut add = |which, place: Place, line| match which {
        Which::Source => residue.add_source(place.byte, line),
        Which::Central => {
            residue.add_central(place.byte, line);
            last_central = Some((place, line));
        }
    };
    let sides = [Lines::new(source, from[0])?, Lines::new(central, from[1])?];
    let alignment = align(sides, &anchors, limits, &mut add)?;
    drop(anchors);
    for (total, (end, skipped)) in findings.totals.iter_mut().zip(alignment.ends.iter().zip(findings.skipped))
    {
        *total = Amount { lines: end.line - skipped.lines, bytes: end.byte - skipped.bytes };
    }
    if findings.identical.lines == 0
        && let Some(first) = alignment.first
        && first[1] == from[1]
    {
        findings.missing_beginning = first[0].line - from[0].line;
    }

    // A line that the central side has not got the end of yet.
    let mut arrived = 0;
    if let Some((place, line)) = last_central
        && place == alignment.last[1]
        && !line.is_whole
        && is_beginning(source.bytes_from(alignment.last[0].byte)?, central.bytes_from(place.byte)?)?
    {
        residue.remove_central(line);
        arrived = line.bytes;
    }
    residue.look_up_in(Lines::new(source, Place::default())?)?;
    let [rest, their_rest] =
        [Lines::new(source, alignment.last[0])?, Lines::new(central, alignment.last[1])?];
    // Nothing of the source is there, and nothing waits to be shipped to where something else is.
    let is_another_log = alignment.matched.lines == 0 && findings.identical.lines == 0 && arrived == 0;
    let not_before = if is_another_log {
        u64::MAX
    } else if alignment.is_coarse {
        last_elsewhere(Lines::new(source, alignment.last[0])?, &residue)?
    } else {
        0
    };
    let mut behind = take_back(rest, their_rest, not_before, &mut residue)?;
    findings.kinds = residue.kinds();
    if behind.amount.lines > 0 {
        let is_first = behind.place == alignment.last[0];
        let column = if is_first { arrived } else { 0 };
        behind.amount.bytes -= column;
        let next = source.spot(behind.place.byte, column)?;
        let (amount, is_unfinished) = (behind.amount, behind.is_unfinished);
        findings.behind = Some(Behind { amount, is_within_line: column > 0, is_unfinished, next });
    }
    Ok(())
}

/// Whether the source goes on like the rest of the central side.
fn is_beginning(source: Bytes<'_>, central: Bytes<'_>) -> Result<bool> {
    Ok(blocks::compare(source, central)?.end == End::Behind)
}

/// Lines at the end of the source that wait to be shipped.
#[derive(Default)]
struct Waiting {
    amount: Amount,
    /// Where the first of them begins.
    place: Place,
    is_unfinished: bool,
}

/// The line behind the last one of the source that stands on the central side, wherever that may be.
fn last_elsewhere(mut source: Lines<'_>, residue: &Residue) -> Result<u64> {
    let mut last = 0;
    while let Some((place, line)) = source.pop()? {
        if residue.is_on_both_sides(line) {
            last = place.line + 1;
        }
    }
    Ok(last)
}

/// Takes lines out of the residue that are only not there yet: behind the last ones that correspond, and from
/// the line `not_before` on, nothing stands for them on the central side. A torn line there stands for one of
/// the source, which is lost.
fn take_back(
    mut source: Lines<'_>,
    mut central: Lines<'_>,
    not_before: u64,
    residue: &mut Residue,
) -> Result<Waiting> {
    let mut torn = 0_u64;
    while let Some((_, line)) = central.pop()? {
        torn += u64::from(residue.is_torn(line));
    }
    let mut waiting = Waiting::default();
    while let Some((place, line)) = source.pop()? {
        if place.line < not_before || residue.is_elsewhere(line) {
            continue;
        }
        if torn > 0 {
            torn -= 1;
            continue;
        }
        residue.remove_source(line);
        if waiting.amount.lines == 0 {
            waiting.place = place;
        }
        waiting.amount.add(line);
        waiting.is_unfinished = !line.is_whole;
    }
    Ok(waiting)
}
