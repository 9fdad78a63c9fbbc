//! What is printed: [`Report`].

use std::fmt::{self, Display};
use std::path::Path;

use super::comparison::{Behind, Findings};
use super::limits::Limits;
use super::losses::Losses;
use super::residue::{Amount, Kind};
use super::side::{Side, Spot, shown};

/// More files than this are not listed, but their first and last.
const LISTED_FILES: usize = 4;

/// The findings, and what belongs to them.
pub(super) struct Report<'r> {
    pub(super) findings: &'r Findings,
    pub(super) source: &'r Side,
    pub(super) central: &'r Side,
    /// Where the first line of each kind stands: lost, duplicated, reordered, torn.
    pub(super) firsts: [Option<Spot>; 4],
    pub(super) losses: &'r [Losses],
    pub(super) is_shared: bool,
}

/// What it comes to, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Each byte, once, in order.
    Identical,
    /// The same, as far as the central side goes.
    Behind,
    Different,
}

impl Findings {
    pub(super) fn verdict(&self) -> Verdict {
        match &self.behind {
            _ if !self.kinds.is_nothing() => Verdict::Different,
            Some(_) => Verdict::Behind,
            None => Verdict::Identical,
        }
    }
}

impl Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { findings, source, central, losses, is_shared, .. } = self;
        self.write_verdict(f)?;
        let [skipped, their_skipped] = findings.skipped;
        if skipped.lines > 0 {
            writeln!(
                f,
                "not compared: the first {skipped} of the source, from before the central side begins"
            )?;
        }
        if their_skipped.lines > 0 {
            writeln!(
                f,
                "not compared: the first {their_skipped} of the central side, from before the source begins"
            )?;
        }
        for (path, zeros) in source.reserved() {
            let zeros = plural(zeros, "NUL byte", "NUL bytes");
            writeln!(f, "not compared: {zeros} at the end of {}, which are not shipped", shown(path))?;
        }
        self.write_difference(f)?;
        self.write_kinds(f)?;
        if let Some(behind) = &findings.behind {
            if findings.verdict() == Verdict::Different {
                writeln!(f, "\nbehind by {behind}")?;
            }
            writeln!(f, "  next: {}", behind.next)?;
        }
        writeln!(f, "\nsource:  {} in {}", findings.totals[0], listed(source.paths()))?;
        write!(f, "central: {} in {}", findings.totals[1], listed(central.paths()))?;
        if *is_shared {
            write!(f, "; {} of other logs", lines(findings.others - findings.kinds_of_this_log()))?;
        }
        writeln!(f)?;
        for Losses { path, count, last } in *losses {
            writeln!(
                f,
                "\nrecorded beside the output, {} in {}:",
                plural(*count, "loss", "losses"),
                shown(path)
            )?;
            if *count > last.len() as u64 {
                writeln!(f, "  …")?;
            }
            for line in last {
                writeln!(f, "  {line}")?;
            }
        }
        Ok(())
    }
}

impl Findings {
    /// Lines of a shared file that are not in their place and all the same of this log.
    fn kinds_of_this_log(&self) -> u64 {
        self.kinds.duplicated.amount.lines + self.kinds.reordered.amount.lines
    }
}

impl Report<'_> {
    fn write_verdict(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let findings = self.findings;
        match findings.verdict() {
            Verdict::Identical if self.is_shared => writeln!(f, "whole and in order: {}", findings.totals[0]),
            Verdict::Identical => writeln!(f, "identical: {}", findings.totals[0]),
            Verdict::Behind => match &findings.behind {
                Some(behind) => writeln!(f, "behind by {behind}"),
                None => Ok(()),
            },
            Verdict::Different => {
                let kinds = &findings.kinds;
                let [duplicated, reordered, torn] =
                    [kinds.duplicated, kinds.reordered, kinds.torn].map(|kind| number(kind.amount.lines));
                let lost = lines(kinds.lost.amount.lines);
                write!(
                    f,
                    "different: {lost} lost, {duplicated} duplicated, {reordered} reordered, {torn} torn"
                )?;
                if kinds.unsorted.iter().any(|amount| amount.lines > 0) {
                    f.write_str(", and more")?;
                }
                writeln!(f)
            }
        }
    }

    fn write_difference(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let findings = self.findings;
        if let Some([source, central]) = &findings.difference {
            writeln!(f, "\nfirst difference, after {} that are identical:", findings.identical)?;
            writeln!(f, "  source:  {source}")?;
            writeln!(f, "  central: {central}")?;
        }
        if let Some(spot) = &findings.out_of_place {
            writeln!(f, "\nfirst line that is not where it should be:\n  source:  {spot}")?;
        }
        let is_missing = findings.kinds.lost.amount.lines >= findings.missing_beginning
            && findings.kinds.reordered.amount.lines == 0;
        if findings.missing_beginning > 0 && is_missing {
            let missing = lines(findings.missing_beginning);
            writeln!(
                f,
                "\nThe first {missing} of the source are not there. If retention deleted them from the central"
            )?;
            writeln!(f, "side, pass `--from central`.")?;
        }
        Ok(())
    }

    fn write_kinds(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = &self.findings.kinds;
        if kinds.is_nothing() {
            return Ok(());
        }
        writeln!(f)?;
        let rows = [
            (&kinds.lost, "lost:", "not on the central side"),
            (&kinds.duplicated, "duplicated:", "there more often than in the source"),
            (&kinds.reordered, "reordered:", "there, but out of order"),
            (&kinds.torn, "torn:", "there, but in the source no such line"),
        ];
        for ((Kind { amount, .. }, name, meaning), first) in rows.into_iter().zip(&self.firsts) {
            if amount.lines == 0 {
                continue;
            }
            writeln!(f, "{name:<11} {amount}, {meaning}")?;
            if let Some(first) = first {
                writeln!(f, "{:11} first: {first}", "")?;
            }
        }
        if self.is_shared && kinds.duplicated.amount.lines > 0 {
            writeln!(f, "Another log in the same files may have equal lines: then pass `--allow-repeated`.")?;
        }
        let [source, central] = kinds.unsorted;
        if source.lines + central.lines > 0 {
            let limit = number(Limits::default().different_lines as u64);
            writeln!(f, "More than {limit} different lines differ. Beyond them, these were only counted:")?;
            writeln!(f, "  {source} of the source, lost or reordered")?;
            writeln!(f, "  {central} of the central side, duplicated, reordered or torn")?;
        }
        Ok(())
    }
}

/// `3 lines, 120 bytes`.
impl Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", lines(self.lines), plural(self.bytes, "byte", "bytes"))
    }
}

impl Display for Behind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { amount, is_within_line, is_unfinished, .. } = self;
        let bytes = plural(amount.bytes, "byte", "bytes");
        match (amount.lines, is_within_line, is_unfinished) {
            (1, false, true) => {
                write!(f, "{bytes}: an unfinished line, which is shipped when it gets its end")
            }
            (1, true, _) => write!(f, "{bytes}: the rest of a line, not lost but not there yet"),
            (count, ..) => write!(f, "{bytes} ({}): not lost but not there yet", lines(count)),
        }
    }
}

fn listed<'p>(paths: impl ExactSizeIterator<Item = &'p Path>) -> String {
    let names: Vec<String> = paths.map(shown).collect();
    match &names[..] {
        [name] => name.clone(),
        names if names.len() <= LISTED_FILES => format!("{} files: {}", names.len(), names.join(", ")),
        [first, .., last] => format!("{} files: {first} … {last}", names.len()),
        [] => "no file".to_owned(),
    }
}

fn lines(count: u64) -> String {
    plural(count, "line", "lines")
}

fn plural(count: u64, one: &str, many: &str) -> String {
    format!("{} {}", number(count), if count == 1 { one } else { many })
}

/// `1,234,567`.
fn number(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        let numbers = [0, 12, 123, 1_234, 12_345, 123_456, 1_234_567].map(number);
        assert_eq!(numbers, ["0", "12", "123", "1,234", "12,345", "123,456", "1,234,567"]);
    }
}
