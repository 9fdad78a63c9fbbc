//! What came of a run, and of many: [`Outcome`], [`Series`].

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::path::PathBuf;

use serde::Serialize;

use crate::fault::Fault;
use crate::scenario::Scenario;

/// What came of one seed.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// What went wrong; nothing when every byte arrived once and in order, and nobody complained of a loss.
    pub failures: Vec<String>,
    /// How often each kind of fault was done.
    pub faults: BTreeMap<&'static str, u64>,
    /// How often each kind was drawn and could not be done here.
    pub skipped: BTreeMap<&'static str, u64>,
    /// How many logs there were.
    pub logs: u64,
    /// What was written to them.
    pub bytes: u64,
    /// What was written to them.
    pub lines: u64,
    /// How often they were rotated.
    pub rotations: u64,
    /// How often a producer or consumer was started.
    pub starts: u64,
    /// How many files the consumers wrote.
    pub output_files: u64,
    /// What consumers received and left out, because they had it. Those that were killed could not tell.
    pub duplicate_bytes: u64,
    /// How many warnings all processes logged.
    pub warnings: u64,
    /// How many errors all processes logged.
    pub errors: u64,
    /// The most memory that a producer held.
    pub peak_producer_kib: u64,
    /// The most memory that a consumer held.
    pub peak_consumer_kib: u64,
    /// How long it took.
    pub seconds: f64,
    /// Where everything is left; only of a run that failed.
    pub directory: Option<PathBuf>,
}

/// What came of many seeds.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Series {
    /// One after the other.
    pub outcomes: Vec<Outcome>,
}

impl Outcome {
    pub(crate) fn of(scenario: &Scenario) -> Self {
        let logs = scenario.producers.iter().map(|producer| producer.logs.len() as u64).sum();
        Self { seed: scenario.seed, logs, ..Self::default() }
    }

    /// Whether nothing went wrong.
    pub fn passed(&self) -> bool {
        self.failures.is_empty()
    }

    fn fault_count(&self) -> u64 {
        self.faults.values().sum()
    }
}

/// One line, and one more for each failure.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.passed() { "identical" } else { "FAILED" };
        write!(
            f,
            "seed {}: {verdict}, {} faults, {} logs, {} rotations, {} lines, {}, {} cut off as duplicates, \
             peak {} / {} MiB, {:.1} s",
            self.seed,
            self.fault_count(),
            self.logs,
            self.rotations,
            self.lines,
            megabytes(self.bytes),
            megabytes(self.duplicate_bytes),
            mebibytes(self.peak_producer_kib),
            mebibytes(self.peak_consumer_kib),
            self.seconds,
        )?;
        self.failures.iter().try_for_each(|failure| write!(f, "\n  {failure}"))?;
        match &self.directory {
            Some(directory) => write!(f, "\n  everything is left in {}", directory.display()),
            None => Ok(()),
        }
    }
}

impl Series {
    /// Whether nothing went wrong in any of them.
    pub fn passed(&self) -> bool {
        self.outcomes.iter().all(Outcome::passed)
    }

    /// Two tables in Markdown: the totals, and the faults by kind.
    pub fn markdown(&self) -> String {
        let sum = |value: fn(&Outcome) -> u64| self.outcomes.iter().map(value).sum::<u64>();
        let most = |value: fn(&Outcome) -> u64| self.outcomes.iter().map(value).max().unwrap_or(0);
        let failed = self.outcomes.iter().filter(|outcome| !outcome.passed()).count();
        let seconds = self.outcomes.iter().map(|outcome| outcome.seconds).sum::<f64>();
        let rows = [
            ("seeds", self.outcomes.len().to_string()),
            ("of them not byte-identical", failed.to_string()),
            ("faults", sum(Outcome::fault_count).to_string()),
            ("starts of producers and consumers", sum(|outcome| outcome.starts).to_string()),
            ("logs", sum(|outcome| outcome.logs).to_string()),
            ("rotations of logs", sum(|outcome| outcome.rotations).to_string()),
            ("lines", sum(|outcome| outcome.lines).to_string()),
            ("bytes", megabytes(sum(|outcome| outcome.bytes))),
            ("output files", sum(|outcome| outcome.output_files).to_string()),
            (
                "received twice and cut off, as far as counted",
                megabytes(sum(|outcome| outcome.duplicate_bytes)),
            ),
            (
                "peak memory, producer",
                format!("{} MiB", mebibytes(most(|outcome| outcome.peak_producer_kib))),
            ),
            (
                "peak memory, consumer",
                format!("{} MiB", mebibytes(most(|outcome| outcome.peak_consumer_kib))),
            ),
            ("time", format!("{:.0} min", seconds / 60.0)),
        ];
        let mut text = "| | |\n| --- | ---: |\n".to_owned();
        for (name, value) in rows {
            // A string takes everything.
            let _ = writeln!(text, "| {name} | {value} |");
        }
        text += "\n| fault | done | not possible there |\n| --- | ---: | ---: |\n";
        let total = |kind: &str, of: fn(&Outcome) -> &BTreeMap<&'static str, u64>| {
            self.outcomes.iter().filter_map(|outcome| of(outcome).get(kind)).sum::<u64>()
        };
        for kind in Fault::KINDS {
            let (done, skipped) =
                (total(kind, |outcome| &outcome.faults), total(kind, |outcome| &outcome.skipped));
            if done + skipped > 0 {
                let _ = writeln!(text, "| {kind} | {done} | {skipped} |");
            }
        }
        text
    }
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

fn mebibytes(kib: u64) -> String {
    format!("{:.1}", kib as f64 / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_adds_up_and_fails_with_one_of_its_seeds() {
        let kinds = Fault::KINDS;
        let good = Outcome {
            seed: 1,
            faults: BTreeMap::from([(kinds[0], 2), ("connections cut", 1)]),
            lines: 100,
            bytes: 1_500_000,
            peak_producer_kib: 2048,
            ..Outcome::default()
        };
        let bad = Outcome {
            failures: vec!["web1/app.log: 1 lost".to_owned()],
            skipped: BTreeMap::from([("clock jump", 3)]),
            ..good.clone()
        };
        let mut series = Series { outcomes: vec![good] };
        assert!(series.passed());
        series.outcomes.push(bad);
        assert!(!series.passed());
        let text = series.markdown();
        for row in [
            "| seeds | 2 |",
            "| of them not byte-identical | 1 |",
            "| faults | 6 |",
            "| bytes | 3.0 MB |",
            "| peak memory, producer | 2.0 MiB |",
            "| SIGKILL of a producer | 4 | 0 |",
            "| clock jump | 0 | 3 |",
        ] {
            assert!(text.lines().any(|line| line == row), "{row} is not in\n{text}");
        }
        assert!(!text.contains(kinds[1]));
        let line = series.outcomes[1].to_string();
        assert!(
            line.starts_with("seed 1: FAILED, 3 faults") && line.ends_with("\n  web1/app.log: 1 lost"),
            "{line}"
        );
    }
}
