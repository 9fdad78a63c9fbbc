//! Random histories of one log, with an exact oracle: everything that was ever written, in the order in which
//! its files were begun.

use std::time::Duration;

use proptest::prelude::*;

use regex::bytes::Regex;

use super::bench::{Bench, ROTATE_WAIT};
use crate::file_tail::lines::Events;

#[derive(Clone, Debug)]
enum Step {
    /// Whole lines.
    Append(usize),
    /// A line, and some that continue it.
    AppendEvent(usize),
    /// A line without its end.
    Begin,
    /// `a.log.1` becomes `a.log.2` and so on, `a.log` becomes `a.log.1`.
    Rename,
    /// The same, but `a.log` is copied and then cut.
    CopyAndTruncate,
    /// The writer of the file renamed last writes on into it.
    AppendLate,
    /// `a.log` is cut once all of it was read.
    Truncate,
    /// `a.log` is deleted once all of it was read.
    Delete,
    /// `a.log` is deleted once all of it was read, and another one begun at once, perhaps with its inode.
    Recreate,
    /// A file that holds the same and one line more takes the place of `a.log`.
    Replace,
    /// A rotated file is compressed.
    Compress(usize),
    /// The oldest rotated file is deleted once it was read.
    Retire,
    /// The next read of `a.log` fails.
    Break,
    /// One look, and at most a few batches.
    Fill,
    Pump,
    Wait,
    Commit,
    Crash,
    CrashWithoutState,
    /// The hop fails, and starts again in the same process.
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..6_usize).prop_map(Step::Append),
        2 => (1..6_usize).prop_map(Step::AppendEvent),
        2 => Just(Step::Begin),
        3 => Just(Step::Rename),
        2 => Just(Step::CopyAndTruncate),
        2 => Just(Step::AppendLate),
        1 => Just(Step::Truncate),
        1 => Just(Step::Delete),
        1 => Just(Step::Recreate),
        1 => Just(Step::Replace),
        3 => (0..3_usize).prop_map(Step::Compress),
        1 => Just(Step::Retire),
        1 => Just(Step::Break),
        2 => Just(Step::Fill),
        5 => Just(Step::Pump),
        2 => Just(Step::Wait),
        3 => Just(Step::Commit),
        3 => Just(Step::Crash),
        1 => Just(Step::CrashWithoutState),
        2 => Just(Step::Reopen),
    ]
}

/// The log as its writer knows it.
struct Writer {
    bench: Bench,
    /// What was written into each file, in the order in which they were begun.
    files: Vec<String>,
    /// `a.log.1`, `a.log.2`, …: which of the files each one is, and whether it is compressed.
    rotated: Vec<(usize, bool)>,
    lines: usize,
    /// When `a.log` was last written to.
    written: Duration,
    /// When the file renamed last was last written to; its writer may still hold it.
    late: Option<Duration>,
    clock: Duration,
    /// Whether some files can no longer be found: without the state they would be missed.
    has_deleted: bool,
}

impl Writer {
    fn new(include: &str, has_events: bool) -> Self {
        let mut bench = Bench::new(&[include]);
        if has_events {
            let pattern = Regex::new(r"^\s").unwrap();
            let events = Events { pattern, match_begins: false, timeout: Duration::from_secs(1) };
            bench.tables[0].options.lines.events = Some(events);
        }
        bench.append("a.log", "");
        let files = vec![String::new()];
        let (rotated, lines, clock) = (Vec::new(), 0, Duration::ZERO);
        Self { bench, files, rotated, lines, written: clock, late: None, clock, has_deleted: false }
    }

    fn line(&mut self) -> String {
        self.lines += 1;
        format!("{:06} is the number of this line\n", self.lines)
    }

    fn live(&mut self) -> &mut String {
        self.files.last_mut().unwrap()
    }

    fn append(&mut self, text: &str) {
        self.bench.append("a.log", text);
        self.written = self.clock;
        self.live().push_str(text);
    }

    /// What the rotated file at this place is called after so many more rotations.
    fn name(&self, place: usize, rotations: usize) -> String {
        let suffix = if self.rotated[place].1 { ".gz" } else { "" };
        format!("a.log.{}{suffix}", place + 1 + rotations)
    }

    fn shift(&mut self) {
        for place in (0..self.rotated.len()).rev() {
            self.bench.rename(&self.name(place, 0), &self.name(place, 1));
        }
        self.rotated.insert(0, (self.files.len() - 1, false));
        self.files.push(String::new());
    }

    fn pump(&mut self) {
        self.bench.pump();
        self.clock += Duration::from_secs(1);
    }

    fn settle(&mut self) {
        for _ in 0..=self.rotated.len() + 1 {
            self.bench.settle();
            self.clock += ROTATE_WAIT + Duration::from_secs(2);
        }
    }

    /// Whether all of it has arrived.
    fn is_read(&self) -> bool {
        self.bench.content("a.log").len() == self.files.concat().len()
    }

    fn play(&mut self, step: &Step) {
        match step {
            Step::Append(count) => {
                let text: String = (0..*count).map(|_| self.line()).collect();
                self.append(&text);
            }
            Step::AppendEvent(count) => {
                let line = self.line();
                // Of other contents: one that ends as another one, and is as long, is the same where it was read.
                let more = format!("\tcontinues {line}").repeat(*count);
                self.append(&(line + &more));
            }
            Step::Begin => {
                let text = self.line().replace('\n', ", and ");
                self.append(&text);
            }
            Step::Rename if !self.live().is_empty() => {
                self.shift();
                self.bench.rename("a.log", "a.log.1");
                self.bench.append("a.log", "");
                self.late = Some(self.written);
                self.written = self.clock;
            }
            Step::CopyAndTruncate if !self.live().is_empty() => {
                self.shift();
                self.bench.copy_and_truncate("a.log", "a.log.1");
                self.late = None;
            }
            Step::AppendLate => {
                let is_open = self.late.is_some_and(|last| self.clock < last + Duration::from_secs(3));
                if let (true, Some(&(file, false))) = (is_open, self.rotated.first()) {
                    let line = self.line();
                    self.bench.append("a.log.1", &line);
                    self.files[file].push_str(&line);
                    self.late = Some(self.clock);
                }
            }
            Step::Truncate | Step::Delete | Step::Recreate if !self.live().is_empty() => {
                self.settle();
                if !self.is_read() {
                    return;
                }
                self.bench.commit();
                if let Step::Truncate = step {
                    self.bench.truncate("a.log");
                } else {
                    self.bench.remove("a.log");
                }
                if let Step::Delete = step {
                    self.settle();
                }
                self.files.push(String::new());
                self.late = None;
                self.has_deleted = true;
                if let Step::Recreate = step {
                    let text = self.line();
                    self.append(&text);
                }
            }
            Step::Replace if !self.live().is_empty() => {
                // What nobody has seen yet is no more than a file that was written elsewhere.
                self.settle();
                let text = self.live().clone() + &self.line();
                self.bench.write("new", &text);
                self.bench.rename("new", "a.log");
                *self.live() = text;
                self.settle();
            }
            Step::Compress(place) if self.rotated.get(*place).is_some_and(|rotated| !rotated.1) => {
                self.bench.gzip(&self.name(*place, 0));
                self.rotated[*place].1 = true;
            }
            Step::Break => self.bench.break_live("a.log"),
            Step::Fill => drop(self.bench.fill(false)),
            Step::Retire => {
                self.settle();
                if self.is_read() && !self.rotated.is_empty() {
                    self.bench.commit();
                    self.bench.remove(&self.name(self.rotated.len() - 1, 0));
                    self.rotated.pop();
                    self.has_deleted = true;
                }
            }
            Step::Pump => self.pump(),
            Step::Wait => {
                self.bench.wait(ROTATE_WAIT);
                self.clock += ROTATE_WAIT;
            }
            Step::Commit => self.bench.commit(),
            Step::Crash => self.bench.crash(),
            Step::Reopen => self.bench.reopen(),
            Step::CrashWithoutState => {
                self.bench.crash();
                if !self.has_deleted && self.bench.state_file().try_exists().unwrap() {
                    self.bench.lose_state();
                }
            }
            // There is nothing to do it with.
            _ => {}
        }
    }
}

fn check(include: &str, has_events: bool, steps: &[Step]) {
    let mut writer = Writer::new(include, has_events);
    if include == "a.log" {
        // A rotation before the first look is none of its business.
        writer.play(&Step::Append(1));
        writer.pump();
    }
    // What no pattern selects is only known as long as something leads there.
    let is_blind = |step: &&Step| {
        let is_cut_off = matches!(
            step,
            Step::Truncate | Step::Delete | Step::Recreate | Step::Retire | Step::CrashWithoutState
        );
        include == "a.log" && is_cut_off
    };
    for step in steps.iter().filter(|step| !is_blind(step)) {
        writer.play(step);
    }
    writer.settle();
    // What is held back of the last line comes with its end.
    writer.append("the end\n");
    writer.settle();
    assert_eq!(String::from_utf8(writer.bench.content("a.log")).unwrap(), writer.files.concat(), "{include}");
    // Whether a file that was cut or deleted had grown before that, nobody can know after a crash.
    assert!(writer.has_deleted || writer.bench.unknown_losses() == 0, "nothing was lost: {include}");
    assert!(writer.bench.names().len() <= 1, "{:?}", writer.bench.names());
}

#[derive(Clone, Debug)]
enum LinkStep {
    Append,
    /// The link leads to another file from now on.
    Swap,
    Pump,
    Commit,
    Crash,
}

fn link_step() -> impl Strategy<Value = LinkStep> {
    prop_oneof![
        4 => Just(LinkStep::Append),
        2 => Just(LinkStep::Swap),
        3 => Just(LinkStep::Pump),
        2 => Just(LinkStep::Commit),
        2 => Just(LinkStep::Crash),
    ]
}

fn check_link(steps: &[LinkStep]) {
    let mut bench = Bench::new(&["current"]);
    let (mut number, mut written, mut in_file) = (0, String::new(), 0);
    let mut swap = |bench: &Bench| {
        number += 1;
        let file = format!("file-{number}.txt");
        bench.append(&file, "");
        std::os::unix::fs::symlink(&file, bench.path("next")).unwrap();
        bench.rename("next", "current");
    };
    swap(&bench);
    for (step, kind) in steps.iter().enumerate() {
        match kind {
            LinkStep::Append => {
                let line = format!("{step:06} is the number of this line\n");
                bench.append("current", &line);
                written += &line;
                in_file += 1;
            }
            // One that was never seen through the link is not known.
            LinkStep::Swap if in_file > 0 => {
                bench.settle();
                bench.commit();
                swap(&bench);
                in_file = 0;
            }
            LinkStep::Swap => {}
            LinkStep::Pump => bench.pump(),
            LinkStep::Commit => bench.commit(),
            LinkStep::Crash => bench.crash(),
        }
    }
    for _ in 0..=steps.len() / 4 {
        bench.settle();
    }
    bench.check("current", written);
    assert_eq!(bench.unknown_losses(), 0);
}

proptest! {
    // A failing history is printed as it stands, shortened: that is all it takes to replay it.
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_byte_arrives_once_and_in_order_siblings_selected(
        has_events in any::<bool>(),
        steps in prop::collection::vec(step(), 1..40),
    ) {
        check("a.log*", has_events, &steps);
    }

    #[test]
    fn every_byte_arrives_once_and_in_order_siblings_unselected(
        has_events in any::<bool>(),
        steps in prop::collection::vec(step(), 1..40),
    ) {
        check("a.log", has_events, &steps);
    }

    #[test]
    fn every_byte_arrives_once_and_in_order_through_a_link_that_moves_on(
        steps in prop::collection::vec(link_step(), 1..40),
    ) {
        check_link(&steps);
    }
}
