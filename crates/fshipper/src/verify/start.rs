//! Where a comparison begins when one side has lost its beginning: [`find`].

use std::collections::VecDeque;

use fshipper_pipeline::anyhow::Result;

use super::lines::{Lines, Place};

/// So many lines are looked for together: one alone may stand in a log many times.
const LINES: usize = 64;

/// Where the first lines of `begun` stand in `whole`; when they are nowhere together, where the first alone
/// does; `None` when it does not either.
pub(super) fn find(mut begun: Lines<'_>, mut whole: Lines<'_>) -> Result<Option<Place>> {
    let wanted = begun.look_ahead(LINES)?.to_vec();
    let Some(first) = wanted.first() else { return Ok(Some(Place::default())) };
    let mut alone = None;
    let mut seen = VecDeque::with_capacity(wanted.len());
    while let Some((place, line)) = whole.pop()? {
        if line == *first && alone.is_none() {
            alone = Some(place);
        }
        if seen.len() == wanted.len() {
            seen.pop_front();
        }
        seen.push_back((place, line));
        if seen.len() == wanted.len()
            && seen[0].1 == *first
            && seen.iter().zip(&wanted).all(|((_, line), wanted)| line == wanted)
        {
            return Ok(Some(seen[0].0));
        }
    }
    Ok(alone)
}
