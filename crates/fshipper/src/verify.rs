//! `fshipper verify`: whether what was shipped is what was written, and if not, where and how it differs.
//!
//! - `selection`, `natural`: which files a side consists of, and their order;
//! - `side`: reading them, gzip too, as one row of bytes;
//! - `comparison`: the two ways to compare. `blocks`, the fast one: as long as bytes are the same, nothing
//!   else is looked at. From the first difference on, `lines`: `anchors` find what corresponds however far
//!   apart it is, `alignment` and `matching` what corresponds in between, `residue` sorts the rest;
//! - `limits`: what bounds its memory;
//! - `start`: where to begin when one side lost its beginning;
//! - `shared`: files that hold other logs too;
//! - `losses`: what the sink recorded as lost; `report`: what is printed.
//!
//! Memory is bounded whatever the sizes: samples, windows and the residue have limits. Only the last shows in
//! the results, and it is said when it does. Everything is read several times once a difference was found;
//! files are kept open, so that a rotation meanwhile does not matter.
//!
//! Left out on purpose: reading from pipes, which cannot be read twice; other compressions than gzip, which
//! is the only one that the sink writes.

mod alignment;
mod anchors;
mod blocks;
mod comparison;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod limits;
mod lines;
mod losses;
mod matching;
mod natural;
mod report;
mod residue;
mod selection;
mod shared;
mod side;
mod start;
#[cfg(test)]
mod tests;

use std::process::ExitCode;

use fshipper_pipeline::anyhow::{Result, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::arguments::{From, Verify};
use crate::{FAILED, MISUSED, complain, print};
use comparison::Findings;
use limits::Limits;
use lines::{Lines, Place};
use report::{Report, Verdict};
use residue::Kind;
use side::{Side, Spot, shown};

pub(crate) fn verify(arguments: &Verify) -> ExitCode {
    match compare(arguments) {
        Ok((is_whole, report)) => {
            let printed = print(&report);
            // Nobody may take a verdict that was not printed for a good one.
            if is_whole { printed } else { ExitCode::from(FAILED) }
        }
        Err(error) => complain(MISUSED, format!("{error:#}")),
    }
}

/// Whether all is well, and what to print.
fn compare(arguments: &Verify) -> Result<(bool, String)> {
    raise_file_limit();
    // The central side first: what it holds now was in the source before.
    let mut central = Side::open(selection::central(&arguments.central, arguments.as_given)?)?;
    let source = Side::open_written(selection::source(&arguments.source, arguments.as_given)?)?;
    if let Some(path) = source.common_file(&central) {
        bail!("`{}` is on both sides", shown(path));
    }
    let losses = losses::recorded(central.paths())?;

    let limits = Limits::default();
    let mut findings = if arguments.shared {
        shared::compare(&source, &central, arguments.from == Some(From::Central), limits)?
    } else {
        let starts = match arguments.from {
            None => Some([Place::default(); 2]),
            Some(From::Central) => find_start(&central, &source)?.map(|start| [start, Place::default()]),
            Some(From::Source) => find_start(&source, &central)?.map(|start| [Place::default(), start]),
        };
        let Some(starts) = starts else {
            return Ok((false, nowhere(arguments.from)));
        };
        comparison::compare(&source, &mut central, starts, limits)?
    };
    if arguments.allow_repeated {
        findings.kinds.duplicated = Kind::default();
    }
    let is_whole = match findings.verdict() {
        Verdict::Identical => true,
        Verdict::Behind => arguments.allow_behind,
        Verdict::Different => false,
    };
    let firsts = firsts(&source, &central, &findings)?;
    let is_shared = arguments.shared;
    let report = Report {
        findings: &findings,
        source: &source,
        central: &central,
        firsts,
        losses: &losses,
        is_shared,
    };
    Ok((is_whole, report.to_string()))
}

/// Each file of both sides is kept open: as many as the system allows, not as few as a shell begins with.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    // Where it cannot be raised, opening says which file is one too many.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

fn find_start(begun: &Side, whole: &Side) -> Result<Option<Place>> {
    start::find(Lines::new(begun, Place::default())?, Lines::new(whole, Place::default())?)
}

fn nowhere(from: Option<From>) -> String {
    let [begun, whole] = match from {
        Some(From::Source) => ["source", "central side"],
        _ => ["central side", "source"],
    };
    format!("different: the first line of the {begun} is nowhere in the {whole}\n")
}

/// Where the first line of each kind stands.
fn firsts(source: &Side, central: &Side, findings: &Findings) -> Result<[Option<Spot>; 4]> {
    let kinds = &findings.kinds;
    let spot = |side: &Side, kind: &Kind| kind.first.map(|byte| side.spot(byte, 0)).transpose();
    Ok([
        spot(source, &kinds.lost)?,
        spot(central, &kinds.duplicated)?,
        spot(central, &kinds.reordered)?,
        spot(central, &kinds.torn)?,
    ])
}
