//! Opening the source: [`Tail::open`].

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use fshipper_pipeline::{Checkpoint, Complaint};

use super::discovery::Discovery;
use super::log::Now;
use super::open_files::OpenFiles;
use super::owners::Owners;
use super::paths::LogsByPath;
use super::restoring::positions;
use super::state::StateLog;
use super::tail::{Options, TICK, Tail};
use super::watch::Watch;

impl Tail {
    /// Opens the state log in `state_dir`, finds all files, and positions each log where `from` ends.
    ///
    /// # Errors
    ///
    /// The state log cannot be read or written.
    pub(crate) fn open(
        options: Options,
        state_dir: &Path,
        from: &Checkpoint,
        watch: Box<dyn Watch>,
        now: Now,
    ) -> Result<Self> {
        let (state, mut remembered) = StateLog::open(state_dir)?;
        let positions = positions(from, &options);
        let is_first_start = !remembered.complete && positions.is_empty();
        let discovery = Discovery::new(&options.patterns);
        let mut tail = Self {
            options,
            logs: Vec::new(),
            state,
            discovery,
            dormant: HashMap::new(),
            by_path: LogsByPath::default(),
            by_member: HashMap::new(),
            owners: Owners::default(),
            inodes: HashSet::new(),
            free: Vec::new(),
            sweep_above: 0,
            ready: VecDeque::new(),
            unsettled: BTreeSet::new(),
            waiting: BTreeSet::new(),
            releases: BTreeSet::new(),
            open_files: OpenFiles::new(),
            decoders: Arc::new(()),
            effort: 0,
            next_tick: now.instant,
            last_tick: now.instant,
            must_tick: false,
            next_look: 0,
            last_ticks: 0,
            is_ending: false,
            watch,
            state_complaint: Complaint::default(),
            survivors: None,
            told: None,
        };

        let paths: BTreeSet<PathBuf> = remembered.logs.keys().chain(positions.keys()).cloned().collect();
        let mut rivals = Vec::new();
        // A log that a sound state log does not hold was forgotten: it was read to its end, and gone.
        let is_sound = remembered.complete && !remembered.is_damaged;
        for path in paths {
            // What no pattern selects any more is not read on.
            let Some(table) = tail.options.patterns.owner_of_log(&path) else { continue };
            let known = remembered.logs.remove(&path);
            let history = positions.get(&path);
            let position = history.map(|history| &history.current);
            let reached = history.and_then(|history| history.reached());
            if let (None, Some(position), None, true) = (&known, position, reached, is_sound) {
                let origin = tail.options.origin(&path);
                tail.dormant.insert(origin, position.clone());
                continue;
            }
            let index = tail.add_log(&path, table);
            tail.logs[index].reached = reached.unwrap_or(0);
            tail.logs[index].committed = position.map_or(0, |position| position.offset);
            match (&known, history) {
                (Some(known), Some(history)) if known.epoch != history.current.epoch => {
                    rivals.push((index, (*history).clone()));
                    tail.logs[index].resume(Some(known.clone()), None);
                }
                _ => tail.logs[index].resume(known, position),
            }
            tail.logs[index].lose_unknown(&mut tail.state);
            tail.register(index);
        }
        tail.discover(now);
        for (index, history) in rivals {
            tail.resolve(index, &history, now);
        }
        if is_first_start {
            tail.pass_over_at_first_start(now);
        }
        if !remembered.complete {
            tail.state.stage_complete();
        }
        tail.forget_finished(now);
        match tail.flush() {
            // Files that are known go on, even while the disk is full.
            Err(error) if remembered.complete => tail.complain_about_state(&error),
            flushed => flushed.context("cannot write the state of `file_tail`")?,
        }
        tail.next_tick = now.instant + TICK;
        Ok(tail)
    }

    /// The tables of which no file was found.
    pub(crate) fn tables_without_files(&self) -> Vec<usize> {
        let has_files = |table: &usize| self.logs.iter().any(|log| log.table == *table);
        (0..self.options.tables.len()).filter(|table| !has_files(table)).collect()
    }
}
