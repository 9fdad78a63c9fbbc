//! Programs that log: [`Author`].

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{fs, io};

use anyhow::{Context as _, Result, anyhow};
use fastrand::Rng;
use fshipper_testing::LogWriter;

use crate::scenario::{self, Naming, Scenario, pick};

/// The pause between two rounds of writing, in milliseconds.
const ROUND: std::ops::Range<u64> = 2..15;

/// How long a mood lasts, in milliseconds.
const MOOD: std::ops::Range<u64> = 100..2_500;

/// The pause between two rotations of one log, in milliseconds.
const BETWEEN_ROTATIONS: std::ops::Range<u64> = 300..9_000;

/// How long a renamed file is still written to, or no new one exists, in milliseconds: less than
/// `rotate_wait`.
const LATE: std::ops::Range<u64> = 10..400;

/// Rotated files stay, so their number is bounded.
const MOST_ROTATIONS: u64 = 60;

/// Between a tick's length and what it writes.
const MOST_BYTES_A_ROUND: f64 = 2_000_000.0;

/// Writes and rotates all logs of one host, on a thread of its own.
#[derive(Debug)]
pub(crate) struct Author {
    over: Arc<AtomicBool>,
    commands: SyncSender<Rotate>,
    thread: Option<JoinHandle<Vec<Written>>>,
}

/// A log when its writing is over.
#[derive(Debug)]
pub(crate) struct Written {
    /// Every byte that was written.
    pub(crate) expected: PathBuf,
    pub(crate) bytes: u64,
    pub(crate) lines: u64,
    pub(crate) rotations: u64,
}

/// Rotate every log so many times, and tell.
struct Rotate {
    times: u32,
    done: SyncSender<()>,
}

struct Log {
    writer: LogWriter,
    plan: scenario::Log,
    copy_and_truncate: bool,
    longest_line: usize,
    budget: u64,
    /// Set by whoever sees its first bytes in the output: fshipper promises nothing about a file that is
    /// rotated before it was ever seen.
    arrived: Arc<AtomicBool>,
    random: Rng,
    mood: Mood,
    mood_ends: Instant,
    /// Bytes that the pace allows and that are not written yet.
    credit: f64,
    rotations: u64,
    next_rotation: Instant,
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum Mood {
    Quiet,
    Steady,
    Burst,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Normal,
    /// Renamed; the old file is still written to.
    Late(Instant),
    /// Renamed; nothing is written before the new file exists.
    Absent(Instant),
}

impl Author {
    /// Starts to write the logs of a producer into `logs`, and what must arrive into `expected`. `arrived`
    /// has a flag for each log.
    pub(crate) fn start(
        scenario: &Scenario,
        producer: usize,
        logs: &Path,
        expected: &Path,
        arrived: &[Arc<AtomicBool>],
    ) -> Result<Self> {
        let mut random = Rng::with_seed(scenario.seed.wrapping_mul(31).wrapping_add(producer as u64));
        let plans = &scenario.producers[producer].logs;
        let all_logs: usize = scenario.producers.iter().map(|producer| producer.logs.len()).sum();
        let logs = plans.iter().zip(arrived).map(|(plan, arrived)| {
            let writer = LogWriter::create(logs.join(plan.name), expected.join(plan.name), random.u64(..));
            let longest = (3 * scenario.max_line_bytes).min(400_000) as usize;
            Log::new(writer, plan.clone(), arrived.clone(), random.fork())
                .limited(longest, scenario.bytes / all_logs as u64)
                .truncated(scenario.copy_and_truncate)
        });
        let logs = logs.collect::<Vec<_>>();
        let over = Arc::new(AtomicBool::new(false));
        let (commands, orders) = sync_channel(1);
        let is_over = over.clone();
        let thread = thread::Builder::new()
            .name(format!("author-{producer}"))
            .spawn(move || write(logs, random, &is_over, &orders))
            .context("cannot start a thread that writes logs")?;
        Ok(Self { over, commands, thread: Some(thread) })
    }

    /// Writes to every log and rotates it, so many times, before this returns.
    pub(crate) fn rotate(&self, times: u32) -> Result<()> {
        const PATIENCE: Duration = Duration::from_secs(60);
        let (done, is_done) = sync_channel(1);
        self.commands
            .send(Rotate { times, done })
            .map_err(|_| anyhow!("the thread that writes logs is gone"))?;
        is_done.recv_timeout(PATIENCE).context("the thread that writes logs does not rotate them")
    }

    /// Ends every line and all writing.
    pub(crate) fn finish(&mut self) -> Result<Vec<Written>> {
        self.over.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("the writing is over already")?;
        thread.join().map_err(|_| anyhow!("the thread that writes logs panicked"))
    }
}

/// Nobody writes on after a run that failed.
impl Drop for Author {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Its panic was printed, and the run has failed already.
            let _ = thread.join();
        }
    }
}

fn write(mut logs: Vec<Log>, mut random: Rng, over: &AtomicBool, orders: &Receiver<Rotate>) -> Vec<Written> {
    let mut last = Instant::now();
    while !over.load(Ordering::Relaxed) {
        if let Ok(Rotate { times, done }) = orders.try_recv() {
            logs.iter_mut().for_each(|log| log.rotate_at_once(times));
            // Nobody waits any more when the run has failed.
            let _ = done.send(());
        }
        let now = Instant::now();
        logs.iter_mut().for_each(|log| log.turn(now, now - last));
        last = now;
        thread::sleep(Duration::from_millis(random.u64(ROUND)));
    }
    logs.into_iter().map(Log::finish).collect()
}

impl Log {
    fn new(writer: LogWriter, plan: scenario::Log, arrived: Arc<AtomicBool>, mut random: Rng) -> Self {
        let now = Instant::now();
        let next_rotation = now + milliseconds(&mut random, BETWEEN_ROTATIONS);
        Self {
            writer,
            plan,
            copy_and_truncate: false,
            longest_line: 0,
            budget: 0,
            arrived,
            random,
            mood: Mood::Steady,
            mood_ends: now,
            credit: 0.0,
            rotations: 0,
            next_rotation,
            state: State::Normal,
        }
    }

    fn limited(mut self, longest_line: usize, budget: u64) -> Self {
        self.longest_line = longest_line.max(LogWriter::SHORTEST_LINE_BYTES);
        self.budget = budget;
        self
    }

    fn truncated(mut self, copy_and_truncate: bool) -> Self {
        self.copy_and_truncate = copy_and_truncate;
        self
    }

    fn turn(&mut self, now: Instant, passed: Duration) {
        if now >= self.mood_ends {
            self.mood =
                pick(&mut self.random, &[Mood::Quiet, Mood::Steady, Mood::Steady, Mood::Steady, Mood::Burst]);
            self.mood_ends = now + milliseconds(&mut self.random, MOOD);
        }
        let pace = match self.mood {
            Mood::Quiet => 0.0,
            Mood::Steady => 1.0,
            Mood::Burst => 3.0,
        };
        self.credit += pace * self.plan.bytes_per_second as f64 * passed.as_secs_f64();
        match self.state {
            State::Normal => {
                self.write();
                if now >= self.next_rotation {
                    self.next_rotation = now + milliseconds(&mut self.random, BETWEEN_ROTATIONS);
                    self.rotate(now);
                }
            }
            State::Late(until) => {
                self.write();
                self.reopen_at(now, until);
            }
            State::Absent(until) => self.reopen_at(now, until),
        }
    }

    fn write(&mut self) {
        /// About what a line of [`LogWriter`] has.
        const LINE_BYTES: f64 = 178.0;
        self.credit = self.credit.min(MOST_BYTES_A_ROUND);
        let lines = (self.credit / LINE_BYTES) as u64;
        if lines == 0 || self.writer.bytes() >= self.budget {
            return;
        }
        let before = self.writer.bytes();
        match self.random.u8(..60) {
            0 => self.writer.write_half_line(),
            1 => {
                let bytes = self.random.usize(LogWriter::SHORTEST_LINE_BYTES..=self.longest_line);
                self.writer.write_line_of(bytes);
            }
            2 => {
                let bytes = self.random.usize(LogWriter::SHORTEST_LINE_BYTES..=2_000.min(self.longest_line));
                self.writer.write_binary_line(bytes);
            }
            // An empty line, or the end of half of one.
            3 => {
                self.writer.write_lines(0);
                self.writer.write_bytes(b"\n");
            }
            _ => self.writer.write_lines(lines),
        }
        self.credit -= (self.writer.bytes() - before) as f64;
    }

    fn rotate(&mut self, now: Instant) {
        if !self.may_rotate() {
            return;
        }
        match self.random.u8(..6) {
            _ if self.copy_and_truncate => self.rotate_now(),
            0 => {
                self.rename();
                self.state = State::Late(now + milliseconds(&mut self.random, LATE));
            }
            1 => {
                self.rename();
                self.state = State::Absent(now + milliseconds(&mut self.random, LATE));
            }
            // Twice within one look.
            2 => {
                self.rotate_now();
                self.writer.write_lines(self.random.u64(1..20));
                self.rotate_now();
            }
            _ => self.rotate_now(),
        }
    }

    fn rotate_at_once(&mut self, times: u32) {
        if times == 0 || !self.may_rotate() {
            return;
        }
        if !matches!(self.state, State::Normal) {
            let now = Instant::now();
            self.reopen_at(now, now);
        }
        for _ in 0..times {
            self.writer.write_lines(self.random.u64(1..200));
            self.rotate_now();
        }
    }

    fn may_rotate(&self) -> bool {
        self.arrived.load(Ordering::Relaxed) && self.rotations < MOST_ROTATIONS
    }

    /// One whole rotation.
    fn rotate_now(&mut self) {
        if !self.copy_and_truncate {
            self.rename();
            self.writer.reopen();
            return;
        }
        let to = self.rotated_path();
        self.writer.copy_and_truncate_to(&to);
        self.rotations += 1;
    }

    fn rename(&mut self) {
        let to = self.rotated_path();
        self.writer.rename_to(&to);
        self.rotations += 1;
    }

    /// A free name for the file that is rotated next.
    fn rotated_path(&self) -> PathBuf {
        let path = self.writer.path().display();
        match self.plan.naming {
            Naming::Dated => PathBuf::from(format!("{path}-20261123-{:06}", self.rotations + 1)),
            Naming::Numbered => {
                let numbered = |number: u64| PathBuf::from(format!("{path}.{number}"));
                for number in (1..=self.rotations).rev() {
                    let shifted = fs::rename(numbered(number), numbered(number + 1));
                    shifted.unwrap_or_else(|error| panic!("cannot shift `{path}.{number}`: {error}"));
                }
                numbered(1)
            }
        }
    }

    fn reopen_at(&mut self, now: Instant, at: Instant) {
        if now >= at {
            self.writer.reopen();
            self.state = State::Normal;
        }
    }

    /// Ends an unfinished line, which would rightly be waited for.
    fn finish(mut self) -> Written {
        self.reopen_if_absent();
        self.writer.write_lines(1);
        Written {
            expected: self.writer.expected().to_owned(),
            bytes: self.writer.bytes(),
            lines: self.writer.lines(),
            rotations: self.rotations,
        }
    }

    fn reopen_if_absent(&mut self) {
        match fs::metadata(self.writer.path()) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.writer.reopen(),
            Err(error) => panic!("cannot look at {:?}: {error}", self.writer.path()),
        }
    }
}

fn milliseconds(random: &mut Rng, range: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(random.u64(range))
}
