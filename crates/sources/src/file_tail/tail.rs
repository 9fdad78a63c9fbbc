//! The engine of the source: [`Tail`], synchronous, told the time, and complete without a runtime.
//!
//! ```text
//! hints ─► look ─┐
//! tick ─► discovery ─► route ─► settle ─► state log ─► turn ─► batches
//! ```
//!
//! *Looking* compares a file with what it was; *routing* gives each path that appeared to a log; *settling*
//! finds out which file a log is read from, and what comes next; a *turn* reads one batch of one log. Ready
//! logs take turns, so that a busy one does not starve the others.
//!
//! Invariant: no byte of a generation is read before the state log holds it durably.
//! Invariant: while nothing changes, no file is opened and no directory listed.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use fshipper_pipeline::{Batch, Complaint, Origin, Position};

use super::candidates;
use super::discovery::Discovery;
use super::identity::Stat;
use super::lines::Lines;
use super::log::{Log, Look, Now, Stage};
use super::open_files::OpenFiles;
use super::owners::Owners;
use super::paths::LogsByPath;
use super::patterns::Patterns;
use super::reading::Whereabouts;
use super::state::{Known, StateLog};
use super::survivors::Survivors;
use super::unread::Told;
use super::watch::Watch;

/// Directories are looked at so often; waiting files too.
pub(crate) const TICK: Duration = Duration::from_millis(250);

/// At most so often when something happens in a directory: others may be busy there.
const HINTED_TICK: Duration = Duration::from_millis(20);

/// Files that gave no hint are looked at in turns, this many at a tick: 10,000 idle ones every five seconds.
const LOOKS_PER_TICK: usize = 500;

/// At most so many batches are handed over at once: what waits to be taken ages and takes memory.
const MAX_BATCHES: usize = 256;

/// Files of a log that are never found at rest are reported after this long: other waits are shorter.
const INTERRUPTED: Duration = Duration::from_secs(10);

/// At the end, files that cannot be read at once are tried this often again.
const LAST_TICKS: u32 = 3;

/// What the engine is to read, and how.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) host: String,
    pub(crate) max_batch_bytes: usize,
    pub(crate) patterns: Patterns,
    /// One for each table, in the order of the patterns.
    pub(crate) tables: Vec<TableOptions>,
}

/// The options of one `[[source]]` table.
#[derive(Clone, Debug)]
pub(crate) struct TableOptions {
    pub(crate) start_at_end: bool,
    pub(crate) max_line_bytes: usize,
    pub(crate) rotate_wait: Duration,
    pub(crate) ignore_older: Option<Duration>,
    pub(crate) lines: Lines,
}

/// What to do after [`Tail::fill`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Take the batches and call it again.
    More,
    /// Nothing to read: call it again on a hint, or at this time.
    Wait(Instant),
    /// The end of every file was reached, and no more is asked for.
    End,
}

/// All logs of one source.
pub(crate) struct Tail {
    pub(super) options: Options,
    pub(super) logs: Vec<Log>,
    pub(super) state: StateLog,
    pub(super) discovery: Discovery,
    /// Logs that were finished, are gone, and may come back: where they stand.
    pub(super) dormant: HashMap<Origin, Position>,
    /// The log at each path.
    pub(super) by_path: LogsByPath,
    /// The log that each member path belongs to.
    pub(super) by_member: HashMap<PathBuf, usize>,
    /// The log that each file belongs to.
    pub(super) owners: Owners,
    /// The inodes among them: a renamed file is looked for by its inode.
    pub(super) inodes: HashSet<u64>,
    /// The places among the logs that are free.
    pub(super) free: Vec<usize>,
    /// When to look again for what is gone for good: with so many files and logs.
    pub(super) sweep_above: usize,
    pub(super) ready: VecDeque<usize>,
    pub(super) unsettled: BTreeSet<usize>,
    /// Logs to settle again at the next tick.
    pub(super) waiting: BTreeSet<usize>,
    /// When the last events of logs are taken for complete.
    pub(super) releases: BTreeSet<(Instant, usize)>,
    pub(super) open_files: OpenFiles,
    /// Held by each decoder at work.
    pub(super) decoders: Arc<()>,
    /// How much was decoded only to reach a position.
    pub(super) effort: usize,
    pub(super) next_tick: Instant,
    pub(super) last_tick: Instant,
    /// A tick is due at once.
    pub(super) must_tick: bool,
    pub(super) next_look: usize,
    /// Ticks since the end was reached, for files that could not be read at once.
    pub(super) last_ticks: u32,
    pub(super) is_ending: bool,
    pub(super) watch: Box<dyn Watch>,
    pub(super) state_complaint: Complaint,
    /// Where open files are left for the next session.
    pub(super) survivors: Option<Arc<Survivors>>,
    /// Who is told how much is still to be read.
    pub(super) told: Option<Told>,
}

impl Options {
    /// The log that this host keeps at `path`.
    pub(super) fn origin(&self, path: &Path) -> Origin {
        Origin::new(&self.host, path.as_os_str().as_bytes())
    }
}

impl Tail {
    /// Appends what is there to read, about `max_batch_bytes` of it. `is_ending` asks for the end: what is
    /// there now is read, unfinished last lines too, and then [`Next::End`] comes.
    ///
    /// # Errors
    ///
    /// Only while ending: a file cannot be begun because the state log cannot be written.
    pub(crate) fn fill(&mut self, now: Now, is_ending: bool, batches: &mut VecDeque<Batch>) -> Result<Next> {
        self.take_hints();
        if is_ending && !self.is_ending {
            self.is_ending = true;
            self.discovery.look_everywhere();
            self.must_tick = true;
            for index in 0..self.logs.len() {
                self.look(index);
                // What is held back is not.
                self.make_ready(index);
                // What came late is said once more, and not at every line: a writer that goes on and on must not
                // keep the end from coming.
                let behind = self.logs[index].rotation.if_any().and_then(|rotation| rotation.behind.as_mut());
                if let Some(behind) = behind {
                    behind.not_before = None;
                }
            }
        }
        if self.must_tick || now.instant >= self.next_tick {
            self.tick(now);
        }
        while let Some(&(due, index)) = self.releases.first()
            && due <= now.instant
        {
            self.releases.pop_first();
            self.logs[index].awaits_release = false;
            self.make_ready(index);
        }
        let mut bytes = 0;
        loop {
            self.settle_all(now)?;
            let Some(index) = self.ready.pop_front() else {
                if self.is_ending && !self.waiting.is_empty() && self.last_ticks < LAST_TICKS {
                    self.last_ticks += 1;
                    self.tick(now);
                    continue;
                }
                break;
            };
            self.logs[index].is_ready = false;
            if let Some(batch) = self.turn(index, now) {
                // Others may have waited for this one.
                self.last_ticks = 0;
                bytes += batch.bytes().len();
                batches.push_back(batch);
                self.make_ready(index);
            }
            bytes += std::mem::take(&mut self.effort);
            if bytes >= self.options.max_batch_bytes || batches.len() >= MAX_BATCHES {
                break;
            }
        }
        if !batches.is_empty() || !self.ready.is_empty() {
            return Ok(Next::More);
        }
        let release = self.releases.first().map_or(self.next_tick, |(due, _)| *due);
        Ok(if self.is_ending { Next::End } else { Next::Wait(self.next_tick.min(release)) })
    }

    /// Whether nobody has read for so long that files may have been rotated and deleted meanwhile.
    pub(crate) fn is_overdue(&self, now: Now) -> bool {
        now.instant >= self.next_tick + TICK
    }

    /// Looks at the files without reading them: what waits for its turn is held open.
    pub(crate) fn keep_up(&mut self, now: Now) {
        self.take_hints();
        self.tick(now);
        if let Err(error) = self.settle_all(now) {
            self.complain_about_state(&error);
        }
    }

    /// Takes note of how far a log is durable at the far end.
    pub(crate) fn set_floor(&mut self, origin: &Origin, floor: &Position) {
        let path = Path::new(OsStr::from_bytes(origin.path()));
        if let Some(index) = self.log_at(path)
            && self.logs[index].origin == *origin
            && self.logs[index].epoch == floor.epoch
        {
            self.logs[index].floor = Some(floor.offset);
        }
    }

    /// Takes note of how far a log is durable at the other end of its hop.
    pub(crate) fn set_committed(&mut self, origin: &Origin, committed: &Position) {
        let path = Path::new(OsStr::from_bytes(origin.path()));
        if let Some(index) = self.log_at(path)
            && self.logs[index].origin == *origin
            && self.logs[index].epoch == committed.epoch
        {
            self.logs[index].set_committed(committed);
            self.let_go(index, |kept| kept.end > committed.offset);
        }
    }

    /// The log at a path.
    pub(super) fn log_at(&self, path: &Path) -> Option<usize> {
        self.by_path.get(&self.logs, path)
    }

    /// Looks at everything whose turn it is.
    fn tick(&mut self, now: Now) {
        self.must_tick = false;
        for _ in 0..self.logs.len().min(LOOKS_PER_TICK) {
            self.next_look = (self.next_look + 1) % self.logs.len();
            self.look(self.next_look);
        }
        // A file that a look did not find is searched for before its log is settled.
        self.discover(now);
        for index in std::mem::take(&mut self.waiting) {
            self.unsettled.insert(index);
            self.make_ready(index);
        }
        self.sweep();
        // Grown fingerprints and ends of files: no hurry, the positions in the batches say the same.
        if let Err(error) = self.flush() {
            self.complain_about_state(&error);
        }
        self.tell_unread(now.instant);
        self.last_tick = now.instant;
        self.next_tick = now.instant + TICK;
    }

    pub(super) fn discover(&mut self, now: Now) {
        let inodes = &self.inodes;
        let is_wanted = |inode: u64| inodes.contains(&inode);
        let changes = self.discovery.tick(&self.options.patterns, now.instant, &is_wanted);
        self.route(changes, now);
    }

    fn take_hints(&mut self) {
        let hints = self.watch.take();
        if hints.everything {
            (0..self.logs.len()).for_each(|index| self.look(index));
        }
        if hints.everything || hints.directories {
            self.hurry();
        }
        for index in hints.files {
            self.look(index);
        }
    }

    /// Makes the next tick come as soon as a hint would.
    pub(super) fn hurry(&mut self) {
        self.next_tick = self.next_tick.min(self.last_tick + HINTED_TICK);
    }

    /// Whether the end comes, and nothing is looked at again before it.
    pub(super) fn is_last_tick(&self) -> bool {
        self.is_ending && self.last_ticks >= LAST_TICKS
    }

    pub(super) fn make_ready(&mut self, index: usize) {
        let log = &mut self.logs[index];
        if !log.is_ready {
            log.is_ready = true;
            self.ready.push_back(index);
        }
    }

    /// Compares what is at a log's path with what was there.
    pub(super) fn look(&mut self, index: usize) {
        let log = &mut self.logs[index];
        let stat = match Stat::of_path(&log.path) {
            Ok(stat) => Some(stat),
            Err(error) if candidates::is_absence(&error) => None,
            Err(error) => {
                let path = log.path.display();
                log.complaint.report(&error.to_string(), |error| {
                    tracing::warn!("cannot look at `{path}`: {error}; it is tried again");
                });
                return;
            }
        };
        // A late writer leaves no trace in the directory.
        if let Some(behind) = &log.rotation.behind
            && behind.not_before.is_none_or(|not_before| self.last_tick >= not_before)
            && Stat::of_path(&behind.path).is_ok_and(|stat| stat.id == behind.id && stat.size > behind.size)
        {
            self.unsettled.insert(index);
        }
        let has_changed = |log: &Log| stat.as_ref().map(Look::of) != log.last_look;
        match &log.stage {
            Stage::Reading(reading) if reading.whereabouts == Whereabouts::Home => match stat {
                Some(stat) if stat.id == reading.id => {
                    // Text may take the place of zeros without a trace.
                    let has_zeros = reading.text.zeros() > 0;
                    if stat.size != reading.size || stat.modified != reading.modified || has_zeros {
                        self.make_ready(index);
                    }
                }
                _ => {
                    self.discovery.look_again(&log.path);
                    self.waiting.insert(index);
                    self.must_tick = true;
                }
            },
            Stage::Reading(_) => {
                if has_changed(log) {
                    self.unsettled.insert(index);
                }
                self.make_ready(index);
            }
            Stage::Locate | Stage::Over => {
                if has_changed(log) && stat.is_some() {
                    self.unsettled.insert(index);
                }
            }
        }
    }

    /// One log cannot go on now: the others do, and this one is tried again at the next tick.
    pub(super) fn complain(&mut self, index: usize, error: &io::Error) {
        use rustix::io::Errno;
        if let Some(Errno::MFILE | Errno::NFILE) = Errno::from_io_error(error) {
            self.close_least_used();
        }
        self.waiting.insert(index);
        let is_interrupted = error.kind() == io::ErrorKind::Interrupted;
        if is_interrupted && !self.is_lasting(index) {
            return;
        }
        let log = &mut self.logs[index];
        let origin = &log.origin;
        let error = match is_interrupted {
            true => "one of its files is still being compressed, or they are renamed all the time".to_owned(),
            false => error.to_string(),
        };
        log.complaint.report(&error, |error| {
            tracing::warn!("cannot read `{origin}`: {error}; it is tried again");
        });
    }

    /// Whether looks at the files of a log have been interrupted for long, or the last one was: that a file was
    /// renamed just now, or is being compressed, is no news.
    fn is_lasting(&mut self, index: usize) -> bool {
        let now = self.last_tick;
        let interrupted = &mut self.logs[index].rotation.make().interrupted;
        let since = match *interrupted {
            Some((since, last)) if now.saturating_duration_since(last) <= 4 * TICK => since,
            _ => now,
        };
        *interrupted = Some((since, now));
        now.saturating_duration_since(since) >= INTERRUPTED || self.is_last_tick()
    }

    pub(super) fn complain_about_state(&mut self, error: &anyhow::Error) {
        self.state_complaint.report(&format!("{error:#}"), |error| {
            tracing::warn!("cannot record new files: {error}; they wait, files that are known are read on");
        });
    }

    pub(super) fn flush(&mut self) -> Result<()> {
        let logs = &self.logs;
        self.state.flush(|each| {
            for log in logs {
                let (generations, losses) = (log.generations.clone(), log.rotation.uncommitted.clone());
                each(&log.path, &Known { epoch: log.epoch, generations, losses });
            }
        })
    }
}

#[cfg(test)]
impl Tail {
    /// What a write error does.
    pub(super) fn break_state(&mut self) {
        self.state.break_journal();
    }
}
