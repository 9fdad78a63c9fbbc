//! What a source and a pump do: [`Scenario`].

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use fshipper_pipeline::{Batch, Epoch, Origin};

use super::super::bench::{data, origin};
use crate::rotating_file::config::Limits;
use crate::rotating_file::ledger::LedgerSize;

/// A table of the sink, what stands in its folder before, and what it is given, in order.
pub(super) struct Scenario {
    pub(super) name: &'static str,
    pub(super) path: &'static str,
    pub(super) keys: &'static str,
    /// Files that were there before the sink.
    pub(super) before: &'static [(&'static str, &'static str)],
    pub(super) limits: Limits,
    /// Commits end some steps after they were begun, at the latest when the sink needs the ledger.
    pub(super) beside: bool,
    pub(super) steps: Vec<Step>,
}

pub(super) enum Step {
    Write(Batch),
    Commit,
    /// Old files are deleted and compressed.
    Maintain,
}

/// So small that it is written anew every few commits.
const LEDGER: LedgerSize = LedgerSize { min_bytes: 500, room: 2 };

/// At noon, so many days after 2020-01-01: long ago, so that an age of a day has passed.
fn day(days: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_577_836_800 + 43_200 + days * 86_400)
}

impl Scenario {
    /// A file a day, one of them there before, and one that is nobody's.
    pub(super) fn dated() -> Self {
        let before = &[
            ("web1/app.log.20200101", "before us, unfinished"),
            ("web1/notes", "nobody's\n"),
            ("web9/app.log.20200101", "nobody's either"),
        ];
        Self { before, steps: lines(2), ..Self::new("dated", "{host}/{file}.%Y%m%d", "") }
    }

    /// Several files a day, compressed when they are full.
    pub(super) fn numbered() -> Self {
        let keys = "rotate = { max_bytes = 80 }\ncompress = \"gzip\"";
        Self { steps: lines(2), ..Self::new("numbered", "{host}/{file}.%Y%m%d", keys) }
    }

    /// Files that are renamed, by time and by size.
    pub(super) fn plain() -> Self {
        let keys = "rotate = { every = \"1d\", max_bytes = 100 }";
        let before = &[("web1/app.log", "before us, unfinished"), ("web1/app.log.1", "nobody's\n")];
        Self { before, steps: lines(2), ..Self::new("plain", "{host}/{file}", keys) }
    }

    /// Files that are renamed, compressed and soon deleted.
    pub(super) fn kept() -> Self {
        let keys = "rotate = { max_bytes = 80 }\nkeep = { files = 2 }\ncompress = \"gzip\"";
        Self { steps: lines(2), ..Self::new("kept", "{host}/{file}", keys) }
    }

    /// Files that are deleted as soon as they are finished, with their folders.
    pub(super) fn aged() -> Self {
        let keys = "keep = { age = \"1d\" }";
        Self { steps: lines(2), ..Self::new("aged", "%Y%m%d/{host}/{file}", keys) }
    }

    /// One file for all logs.
    pub(super) fn shared() -> Self {
        let keys = "rotate = { every = \"1d\" }";
        let before = &[("all.log", "before us, unfinished")];
        Self { before, steps: lines(3), ..Self::new("shared", "all.log", keys) }
    }

    /// More files than may be open, and than are synced one by one.
    pub(super) fn many() -> Self {
        let scenario = Self::new("many", "{host}/{file}", "rotate = { every = \"1d\" }");
        let limits = Limits { open_files: 2, single_syncs: 3, ..scenario.limits };
        let mut script = Script::default();
        let logs: Vec<Origin> = (0..6).map(|number| origin(&format!("web{number}"), "/app.log")).collect();
        for round in 0..4 {
            // Few files, then all of them, then few again.
            for log in &logs[..if round == 2 { 6 } else { 4 - round }] {
                script.write(log, &format!("round {round} of {log}\n"), round as u64 / 3);
            }
            script.steps.push(Step::Commit);
        }
        Self { limits, steps: script.steps, ..scenario }
    }

    /// The same, with commits that run beside the writing.
    pub(super) fn beside(self) -> Self {
        Self { beside: true, ..self }
    }

    fn new(name: &'static str, path: &'static str, keys: &'static str) -> Self {
        let limits = Limits { ledger: LEDGER, full_pause: Duration::from_micros(1), ..Limits::default() };
        Self { name, path, keys, before: &[], limits, beside: false, steps: Vec::new() }
    }
}

#[derive(Default)]
struct Script {
    ends: HashMap<Origin, u64>,
    steps: Vec<Step>,
}

impl Script {
    fn write(&mut self, log: &Origin, text: &str, days: u64) {
        let end = self.ends.entry(log.clone()).or_default();
        self.steps.push(Step::Write(data(log, *end, text, day(days))));
        *end += text.len() as u64;
    }
}

/// Lines of several logs over a few days, two of which render to the same path, some lines unfinished for a
/// while; in the end a loss, and a new epoch.
fn lines(days: u64) -> Vec<Step> {
    let logs = [origin("web1", "/a/app.log"), origin("web1", "/b/app.log"), origin("web2", "/a/app.log")];
    let mut script = Script::default();
    for days in 0..days {
        for round in 0..2 {
            for (number, log) in logs.iter().enumerate() {
                script.write(log, &format!("day {days} round {round} log {number}\n"), days);
            }
            script.write(&logs[0], &format!("two lines, {days} {round}\nand the beginning"), days);
            script.write(&logs[1], &format!("between {days} {round}\n"), days);
            script.write(&logs[0], &format!(" of a third {days} {round}\n"), days + u64::from(round == 1));
            if round == 0 {
                script.steps.push(Step::Commit);
            }
        }
        script.steps.extend([Step::Commit, Step::Maintain]);
    }
    let log = &logs[2];
    script.write(log, "never finished", days);
    let end = script.ends[log];
    let mut loss = Batch::loss(log.clone(), Epoch(1), end, 100, "a test");
    loss.time = day(days);
    script.steps.push(Step::Write(loss));
    let mut later = data(log, end + 100, "after the loss, unfinished", day(days));
    script.steps.push(Step::Write(later.clone()));
    (later.epoch, later.start) = (Epoch(2), 0);
    script.steps.extend([Step::Write(later), Step::Commit, Step::Maintain]);
    script.steps
}
