//! A central side that holds other logs too: [`compare`].
//!
//! The lines of the source must stand there in their order, with anything between them. What was lost or
//! sent twice is counted by how often each line stands on either side, in as many passes as memory asks for.

use std::collections::HashMap;

use fshipper_pipeline::anyhow::Result;

use super::alignment::{Alignment, Which, align};
use super::anchors;
use super::comparison::{Behind, Findings};
use super::limits::Limits;
use super::lines::{Lines, Place};
use super::residue::{Amount, Kinds};
use super::side::Side;

/// How often a line stands on each side.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    bytes: u64,
    /// In the source, as far as anything of it has arrived.
    source: u32,
    /// In the rest of the source.
    waiting: u32,
    central: u32,
    first_source: u64,
    last_central: u64,
}

/// Compares a log with files in which others may stand too. `starts_later`: the beginning may be gone there.
pub(super) fn compare(source: &Side, central: &Side, starts_later: bool, limits: Limits) -> Result<Findings> {
    let mut out_of_place = None;
    let alignment = match in_order(whole(source)?, whole(central)?)? {
        Some(alignment) => alignment,
        None => {
            let anchors = anchors::find(whole(source)?, whole(central)?, limits)?;
            let mut note = |which, place: Place, _| {
                if which == Which::Source {
                    out_of_place.get_or_insert(place);
                }
            };
            align([whole(source)?, whole(central)?], &anchors, limits, &mut note)?
        }
    };
    let [from, until] = match (starts_later, alignment.first) {
        (true, Some([first, _])) => [first, alignment.last[0]],
        _ => [Place::default(), alignment.last[0]],
    };
    let mut findings = Findings {
        totals: alignment.ends.map(|end| Amount { lines: end.line, bytes: end.byte }),
        skipped: [Amount { lines: from.line, bytes: from.byte }, Amount::default()],
        others: alignment.ends[1].line - alignment.matched.lines,
        ..Findings::default()
    };
    findings.totals[0].lines -= from.line;
    findings.totals[0].bytes -= from.byte;
    if let Some([first, _]) = alignment.first
        && !starts_later
    {
        findings.missing_beginning = first.line;
    }

    let parts = findings.totals[0].lines / limits.counted_lines + 1;
    let mut waiting = Amount::default();
    for part in 0..parts {
        let counts = count(source, central, [from, until], |hash| hash % parts == part)?;
        for count in counts.into_values() {
            count.sort(&mut findings.kinds, &mut waiting);
        }
    }
    // What has arrived, and neither in its place nor too seldom, is out of order.
    let Kinds { lost, reordered, .. } = &mut findings.kinds;
    let arrived = Amount { lines: until.line - from.line, bytes: until.byte - from.byte };
    reordered.amount.lines += arrived.lines - alignment.matched.lines - lost.amount.lines;
    reordered.amount.bytes += arrived.bytes - alignment.matched.bytes - lost.amount.bytes;
    if let Some(place) = out_of_place.filter(|place| (from..until).contains(place)) {
        findings.out_of_place = Some(source.spot(place.byte, 0)?);
    }
    if waiting.lines > 0 {
        let (_, is_unfinished) = source.bytes_from(until.byte)?.count_rest()?;
        let next = source.spot(until.byte, 0)?;
        findings.behind = Some(Behind { amount: waiting, is_within_line: false, is_unfinished, next });
    }
    Ok(findings)
}

fn whole(side: &Side) -> Result<Lines<'_>> {
    Lines::new(side, Place::default())
}

/// Looks for each line of the source behind the one before; `None` when one is not there.
fn in_order(mut source: Lines<'_>, mut central: Lines<'_>) -> Result<Option<Alignment>> {
    let (mut matched, mut first, mut last) = (Amount::default(), None, [Place::default(); 2]);
    while let Some((place, line)) = central.pop()? {
        if source.peek()? == Some(line)
            && let Some((expected, _)) = source.pop()?
        {
            matched.add(line);
            first.get_or_insert([expected, place]);
            last = [expected.after(line), place.after(line)];
        }
    }
    let ends = [source.place(), central.place()];
    Ok(source.peek()?.is_none().then_some(Alignment { matched, first, last, is_coarse: false, ends }))
}

/// How often lines of the source stand on either side: those whose hash is `wanted`. Of the source
/// counts what comes `from` there on; `until` here something has arrived.
fn count(
    source: &Side,
    central: &Side,
    [from, until]: [Place; 2],
    wanted: impl Fn(u64) -> bool,
) -> Result<HashMap<u64, Count>> {
    let mut counts: HashMap<u64, Count> = HashMap::new();
    let mut lines = Lines::new(source, from)?;
    while let Some((place, line)) = lines.pop()? {
        if !wanted(line.hash) {
            continue;
        }
        let count = counts.entry(line.hash).or_insert_with(|| Count {
            bytes: line.bytes,
            first_source: place.byte,
            ..Count::default()
        });
        let number = if place < until { &mut count.source } else { &mut count.waiting };
        *number = number.saturating_add(1);
    }
    let mut lines = whole(central)?;
    while let Some((place, line)) = lines.pop()? {
        if let Some(count) = counts.get_mut(&line.hash) {
            count.central = count.central.saturating_add(1);
            count.last_central = place.byte;
        }
    }
    Ok(counts)
}

impl Count {
    fn sort(self, kinds: &mut Kinds, waiting: &mut Amount) {
        let surplus = self.central.saturating_sub(self.source);
        let elsewhere = self.waiting.min(surplus);
        kinds.lost.add(self.source.saturating_sub(self.central).into(), self.bytes, self.first_source);
        kinds.reordered.amount.add_many(elsewhere.into(), self.bytes);
        kinds.duplicated.add((surplus - elsewhere).into(), self.bytes, self.last_central);
        waiting.add_many((self.waiting - elsewhere).into(), self.bytes);
    }
}
