//! Random edits: what is counted is what was done.

use std::collections::HashMap;
use std::fs;
use std::ops::Range;

use proptest::prelude::*;
use tempfile::TempDir;

use super::comparison::{self, Findings};
use super::limits::Limits;
use super::lines::Place;
use super::residue::Amount;
use super::shared;
use super::side::Side;

/// So small that everything that is bounded comes to its bounds.
const TIGHT: Limits = Limits { samples: 8, window_lines: 4, different_lines: 1_000, counted_lines: 7 };

/// Two sides, each cut into files at these shares of its bytes.
fn sides(texts: [&str; 2], cuts: &[f64]) -> (TempDir, [Side; 2]) {
    let directory = tempfile::tempdir().unwrap();
    let side = |index: usize| {
        let bytes = texts[index].as_bytes();
        let mut ends: Vec<usize> = cuts.iter().map(|cut| (bytes.len() as f64 * cut) as usize).collect();
        ends.extend([0, bytes.len()]);
        ends.sort_unstable();
        let files = ends.windows(2).enumerate().map(|(number, ends)| {
            let path = directory.path().join(format!("{index}-{number}"));
            fs::write(&path, &bytes[ends[0]..ends[1]]).unwrap();
            path
        });
        Side::open(files.collect()).unwrap()
    };
    let sides = [side(0), side(1)];
    (directory, sides)
}

fn compare(source: &str, central: &str, cuts: &[f64], limits: Limits) -> Findings {
    let (_directory, [source, mut central]) = sides([source, central], cuts);
    comparison::compare(&source, &mut central, [Place::default(); 2], limits).unwrap()
}

/// Lost, duplicated, reordered, torn lines.
fn counts(findings: &Findings) -> [u64; 4] {
    let kinds = &findings.kinds;
    assert_eq!(kinds.unsorted, [Amount::default(); 2]);
    [kinds.lost, kinds.duplicated, kinds.reordered, kinds.torn].map(|kind| kind.amount.lines)
}

fn joined(lines: &[String]) -> String {
    lines.iter().flat_map(|line| [line, "\n"]).collect()
}

fn numbered(lines: Range<usize>) -> Vec<String> {
    lines.map(|number| format!("line number {number}")).collect()
}

#[derive(Clone, Copy, Debug)]
enum Edit {
    Keep,
    Lose,
    Double,
    Tear,
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let edit = prop_oneof![
        12 => Just(Edit::Keep), 1 => Just(Edit::Lose), 1 => Just(Edit::Double), 1 => Just(Edit::Tear),
    ];
    prop::collection::vec(edit, 0..300)
}

fn apply(edits: &[Edit]) -> (Vec<String>, Vec<String>, [u64; 4]) {
    let source = numbered(0..edits.len() + 1);
    let (mut central, mut expected) = (Vec::new(), [0; 4]);
    for (edit, line) in edits.iter().zip(&source) {
        let copies = match edit {
            Edit::Keep => vec![line.clone()],
            Edit::Lose => vec![],
            Edit::Double => vec![line.clone(); 2],
            Edit::Tear => vec![format!("torn {line}")],
        };
        central.extend(copies);
        match edit {
            Edit::Keep => {}
            Edit::Lose => expected[0] += 1,
            Edit::Double => expected[1] += 1,
            Edit::Tear => expected = [expected[0] + 1, expected[1], expected[2], expected[3] + 1],
        }
    }
    // The last one arrives, so that nothing before is taken for not there yet.
    central.extend(source.last().cloned());
    (source, central, expected)
}

fn occurrences(lines: &[String]) -> HashMap<&str, u64> {
    let mut counts = HashMap::new();
    lines.iter().for_each(|line| *counts.entry(line.as_str()).or_default() += 1);
    counts
}

/// The length of the longest common subsequence, the slow and certain way.
fn common(one: &[String], other: &[String]) -> usize {
    let mut row = vec![0; other.len() + 1];
    for line in one {
        let mut diagonal = 0;
        for (index, theirs) in other.iter().enumerate() {
            let above = row[index + 1];
            row[index + 1] = if line == theirs { diagonal + 1 } else { above.max(row[index]) };
            diagonal = above;
        }
    }
    row[other.len()]
}

fn cuts() -> impl Strategy<Value = Vec<f64>> {
    prop::collection::vec(0.0..1.0, 0..4)
}

fn limits() -> impl Strategy<Value = Limits> {
    prop::sample::select(vec![Limits::default(), Limits { samples: 0, ..Limits::default() }, TIGHT])
}

/// Rows of a few different lines.
fn repetitive() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "c", "dd", ""]).prop_map(str::to_owned), 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn single_edits_are_counted_as_what_they_are(edits in edits(), cuts in cuts()) {
        let (source, central, expected) = apply(&edits);
        let findings = compare(&joined(&source), &joined(&central), &cuts, Limits::default());
        prop_assert_eq!(counts(&findings), expected);
        prop_assert!(findings.behind.is_none());
        prop_assert_eq!(findings.totals.map(|all| all.lines), [&source, &central].map(|lines| lines.len() as u64));
        prop_assert_eq!(findings.totals[1].bytes, joined(&central).len() as u64);
        prop_assert_eq!(findings.difference.is_some(), expected != [0; 4]);
    }

    #[test]
    fn tight_limits_only_cost_passes(edits in edits(), cuts in cuts()) {
        let (source, central, expected) = apply(&edits);
        let [lost, duplicated, _, torn] = counts(&compare(&joined(&source), &joined(&central), &cuts, TIGHT));
        prop_assert_eq!([lost, duplicated, torn], [expected[0], expected[1], expected[3]]);
    }

    #[test]
    fn a_moved_block_is_reordered(
        before in 0..50_usize, block in 1..50_usize, over in 1..50_usize, behind in 1..50_usize,
    ) {
        let part = |from: usize, count: usize| numbered(from..from + count);
        let (first, moved) = (part(0, before), part(before, block));
        let (passed, rest) = (part(before + block, over), part(before + block + over, behind));
        let source = [first.clone(), moved.clone(), passed.clone(), rest.clone()].concat();
        let central = [first, passed, moved, rest].concat();
        let findings = compare(&joined(&source), &joined(&central), &[], Limits::default());
        prop_assert_eq!(counts(&findings), [0, 0, block.min(over) as u64, 0]);
    }

    #[test]
    fn a_block_sent_again_is_duplicated(length in 2..100_usize, again in 1..50_usize, later in 0..50_usize) {
        let source = numbered(0..length + later + 1);
        let again = again.min(length);
        let (arrived, rest) = source.split_at(length + later);
        let central = [arrived, &source[length - again..length], rest].concat();
        let findings = compare(&joined(&source), &joined(&central), &[], Limits::default());
        prop_assert_eq!(counts(&findings), [0, again as u64, 0, 0]);
    }

    #[test]
    fn any_two_sides_are_told_apart_by_their_lines(
        mut source in repetitive(), mut central in repetitive(), limits in limits(), cuts in cuts(),
    ) {
        source.push("end".to_owned());
        central.push("end".to_owned());
        let findings = compare(&joined(&source), &joined(&central), &cuts, limits);
        let (written, arrived) = (occurrences(&source), occurrences(&central));
        let of = |counts: &HashMap<&str, u64>, line: &str| counts.get(line).copied().unwrap_or(0);
        let lost: u64 = written.iter().map(|(line, count)| count.saturating_sub(of(&arrived, line))).sum();
        let surplus = |is_known: bool| -> u64 {
            let lines = arrived.iter().filter(|(line, _)| written.contains_key(*line) == is_known);
            lines.map(|(line, count)| count.saturating_sub(of(&written, line))).sum()
        };
        let [found_lost, duplicated, reordered, torn] = counts(&findings);
        prop_assert_eq!([found_lost, duplicated, torn], [lost, surplus(true), surplus(false)]);
        let least = (source.len() - common(&source, &central)) as u64 - lost;
        prop_assert!(reordered >= least, "{} < {}", reordered, least);
        // Anchors are a shortcut, which may leave more out of order than need be.
        prop_assert!(limits.samples > 0 || reordered == least, "{} > {}", reordered, least);
    }

    #[test]
    fn what_has_not_arrived_yet_is_no_loss(edits in edits(), waiting in 1..50_usize, cut in 0..30_usize) {
        let (mut source, central, expected) = apply(&edits);
        let number = source.len();
        source.extend(numbered(number..number + waiting));
        let cut = cut.min(source[number].len());
        let arrived = joined(&central) + &source[number][..cut];
        let findings = compare(&joined(&source), &arrived, &[], Limits::default());
        prop_assert_eq!(counts(&findings), expected);
        let behind = findings.behind.unwrap();
        let bytes = joined(&source[number..]).len() - cut;
        prop_assert_eq!((behind.amount.lines, behind.amount.bytes), (waiting as u64, bytes as u64));
        prop_assert_eq!(behind.is_within_line, cut > 0);
    }

    #[test]
    fn in_a_shared_file_a_log_is_found_among_others(edits in edits(), others in 0..4_usize, tight: bool) {
        let edits: Vec<Edit> = edits.into_iter().filter(|edit| !matches!(edit, Edit::Tear)).collect();
        let (source, central, expected) = apply(&edits);
        let central_lines = central.len();
        let foreign = (0..others).map(|number| format!("of another log {number}")).collect::<Vec<_>>();
        let among_others = |line: &String| [&foreign[..], std::slice::from_ref(line)].concat();
        let mixed: Vec<String> = central.iter().flat_map(among_others).collect();
        let (_directory, [source, central]) = sides([&joined(&source), &joined(&mixed)], &[]);
        let counted_lines = if tight { TIGHT.counted_lines } else { Limits::default().counted_lines };
        let limits = Limits { counted_lines, ..Limits::default() };
        let findings = shared::compare(&source, &central, false, limits).unwrap();
        prop_assert!(findings.behind.is_none());
        prop_assert_eq!(counts(&findings), [expected[0], expected[1], 0, 0]);
        prop_assert_eq!(findings.others, (mixed.len() - central_lines) as u64 + expected[1]);
    }
}

#[test]
fn lines_beyond_the_limit_are_counted_and_not_told_apart() {
    let (source, central) = (numbered(0..100), numbered(200..300));
    let end = numbered(900..901);
    let limits = Limits { different_lines: 30, ..Limits::default() };
    let texts = [[source, end.clone()].concat(), [central, end].concat()].map(|lines| joined(&lines));
    let kinds = compare(&texts[0], &texts[1], &[], limits).kinds;
    let [of_source, of_central] = kinds.unsorted.map(|amount| amount.lines);
    assert_eq!(kinds.lost.amount.lines + of_source, 100);
    assert_eq!(kinds.torn.amount.lines + of_central, 100);
    assert_eq!(kinds.lost.amount.lines + kinds.torn.amount.lines, 30);
}
