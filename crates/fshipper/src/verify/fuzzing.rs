//! The fuzz target of the comparison.

use std::fs;
use std::path::Path;

use fshipper_pipeline::testing::fuzz::Input;

use super::limits::Limits;
use super::lines::Place;
use super::report::Verdict;
use super::side::Side;
use super::{comparison, shared};
use crate::arguments::{From, Verify};

/// So small that everything that is bounded comes to its bounds.
const TIGHT: Limits = Limits { samples: 4, window_lines: 3, different_lines: 5, counted_lines: 3 };

/// More lines than that make an input slow, and no more likely to find anything.
const MAX_LINES: usize = 64;

/// A source and a central side that hold anything, or lines of which some were lost, doubled, moved or torn: they are
/// said to be identical if they are, behind only if one begins the other, and with other logs between the lines
/// nothing is found out of place that is not.
///
/// # Panics
///
/// This is not so.
pub(crate) fn verify(folder: &Path, data: &[u8]) {
    let mut input = Input::new(data);
    let limits = if input.flag() { TIGHT } else { Limits::default() };
    let (allow_behind, shared) = (input.flag(), input.flag());
    let from = [None, Some(From::Source), Some(From::Central)][input.below(3)];
    let cuts = [input.number(), input.number()];
    let texts = if input.flag() {
        let source = input.bytes().to_vec();
        [source, input.rest().to_vec()]
    } else {
        edited(&mut input)
    };
    let paths = [0, 1].map(|side| {
        let text = &texts[side];
        let cut = (cuts[side] % (text.len() as u64 + 1)) as usize;
        [(0, &text[..cut]), (1, &text[cut..])].map(|(number, part)| {
            let path = folder.join(format!("{side}-{number}"));
            fs::write(&path, part).expect("a file can be written");
            path
        })
    });
    let [source, central] = &texts;
    let open = |side: usize| Side::open(paths[side].to_vec()).expect("the files are there");

    let whole = [Place::default(); 2];
    let findings = comparison::compare(&open(0), &mut open(1), whole, limits).expect("files can be read");
    let verdict = findings.verdict();
    assert_eq!(verdict == Verdict::Identical, source == central, "{findings:?}");
    assert!(verdict != Verdict::Behind || source.starts_with(central), "{findings:?}");

    let arguments = Verify {
        source: paths[0].to_vec(),
        central: paths[1].to_vec(),
        allow_behind,
        from,
        shared: false,
        allow_repeated: false,
        as_given: true,
    };
    let (is_whole, report) = super::compare(&arguments).expect("files can be compared");
    assert!(!report.is_empty());
    if from.is_none() {
        let expected = source == central || allow_behind && verdict == Verdict::Behind;
        assert_eq!(is_whole, expected, "{report}");
    }
    if source == central {
        assert!(is_whole, "{report}");
    }

    if shared {
        let central_first = from == Some(From::Central);
        let findings = shared::compare(&open(0), &open(1), central_first, limits).expect("files can be read");
        if source == central {
            assert!(findings.verdict() == Verdict::Identical, "{findings:?}");
        }
        let arguments = Verify { shared: true, ..arguments };
        super::compare(&arguments).expect("files can be compared");
    }
}

/// A source of lines, and what became of them.
fn edited(input: &mut Input<'_>) -> [Vec<u8>; 2] {
    let (mut source, mut central) = (Vec::new(), Vec::new());
    let mut waiting = Vec::new();
    for _ in 0..input.below(MAX_LINES) {
        let line = [&[b'a' + input.byte() % 6], input.bytes().get(..3).unwrap_or_default(), b"\n"].concat();
        source.extend_from_slice(&line);
        match input.byte() {
            0..40 => {}
            40..80 => central.extend(line.repeat(2)),
            80..100 => waiting = line,
            100..120 => central.extend_from_slice(&line[1..]),
            120..140 => central.extend(std::mem::take(&mut waiting)),
            _ => central.extend_from_slice(&line),
        }
    }
    if input.flag() {
        source.extend_from_slice(input.bytes());
    }
    if input.flag() {
        central = source.clone();
        central.truncate(central.len() - input.below(central.len() + 1));
    }
    [source, central]
}
