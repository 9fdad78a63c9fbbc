//! What a log is read from, and what comes next: [`Tail::settle`].
//!
//! A log is settled again whenever something about its files changed. Nothing here reads what is shipped.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;

use anyhow::{Context as _, Result};

use super::candidates::{self, Candidate, Located};
use super::identity::{self, FileId, Fingerprint, nanoseconds};
use super::log::{Look, Now, Stage};
use super::reading::{Reading, Whereabouts};
use super::state::Generation;
use super::tail::Tail;
use super::text::head_of_text;
use super::waiting::look_at_held;

/// At most so many generations begin together: until they are recorded they take memory, and so does the record.
const BEGIN_AT_ONCE: usize = 2048;

/// A generation about to begin.
struct Begin {
    index: usize,
    generation: Generation,
    reading: Reading,
}

impl Tail {
    /// Settles what is unsettled. Generations that begin are recorded together, before any is read.
    pub(super) fn settle_all(&mut self, now: Now) -> Result<()> {
        let mut unsettled = std::mem::take(&mut self.unsettled);
        while !unsettled.is_empty() {
            let begins = self.settle_some(&mut unsettled, now);
            if let Err(error) = self.begin(begins) {
                self.unsettled.append(&mut unsettled);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Settles these logs, until enough of them have a generation to begin.
    fn settle_some(&mut self, unsettled: &mut BTreeSet<usize>, now: Now) -> Vec<Begin> {
        let mut begins = Vec::new();
        while begins.len() < BEGIN_AT_ONCE
            && let Some(index) = unsettled.pop_first()
        {
            match self.settle(index, now) {
                Ok(Some(mut begin)) => {
                    // Thousands may begin together; what stands at its place can be opened again.
                    if begins.len() >= self.open_files.most && begin.reading.whereabouts == Whereabouts::Home
                    {
                        begin.reading.file = None;
                    }
                    begins.push(begin);
                }
                Ok(None) => {}
                Err(error) => self.complain(index, &error),
            }
        }
        begins
    }

    /// Records generations, and begins to read them.
    fn begin(&mut self, begins: Vec<Begin>) -> Result<()> {
        if begins.is_empty() {
            return Ok(());
        }
        let staged = self.state.staged();
        for begin in &begins {
            let log = &self.logs[begin.index];
            self.state.stage_generation(&log.path, log.epoch, &begin.generation);
        }
        if let Err(error) = self.flush() {
            self.state.unstage(staged);
            if self.is_ending {
                return Err(error).context("cannot begin new files");
            }
            self.complain_about_state(&error);
            self.waiting.extend(begins.iter().map(|begin| begin.index));
            return Ok(());
        }
        self.state_complaint.settle();
        for begin in begins {
            let Begin { index, generation, reading } = begin;
            tracing::debug!("`{}` goes on in `{}`", self.logs[index].origin, reading.path.display());
            self.own(generation.id, index);
            self.open_files.held -= self.logs[index].open_held();
            self.logs[index].begin(generation, reading);
            self.open_files.held += self.logs[index].open_held();
            if self.logs[index].generations.len() > 1 {
                // The one before it is watched for late writers from now on.
                self.waiting.insert(index);
            }
            self.used(index);
            self.watch_home(index);
            self.make_ready(index);
        }
        Ok(())
    }

    /// Finds out what a log is read from; a generation to begin, if it is time for one.
    fn settle(&mut self, index: usize, now: Now) -> io::Result<Option<Begin>> {
        let log = &self.logs[index];
        let is_first_look = log.generations.is_empty() && log.last_look.is_none();
        loop {
            self.let_go_of_stale(index);
            let is_last = self.is_last_tick();
            let log = &mut self.logs[index];
            let files = candidates::gather(log, &self.options.patterns, now, is_last)?;
            let live = files.iter().find(|file| file.is_live).map(|file| file.stat);
            log.last_look = live.as_ref().map(Look::of);
            self.report_late(index, &files, now)?;
            if !self.logs[index].rotation.outbox.is_empty() {
                self.make_ready(index);
            }
            let log = &mut self.logs[index];
            let is_at_last = log.is_at_last();
            match &mut log.stage {
                Stage::Locate => {
                    let located = candidates::locate(log, &files)?;
                    match located {
                        Some(located) => {
                            if log.is_rebuilt {
                                self.pass_over_older(index, &files, Some(&located.path), now)?;
                            }
                            self.start_reading(index, located, now);
                        }
                        None => {
                            if !self.miss(index, &files, now)? {
                                return Ok(None);
                            }
                        }
                    }
                }
                Stage::Reading(reading) => {
                    let found = files.iter().rev().find(|file| file.stat.id == reading.id);
                    let was_home = reading.whereabouts == Whereabouts::Home;
                    let is_copy = reading.is_packed || reading.whereabouts == Whereabouts::Copy;
                    reading.whereabouts = match found {
                        // One that waits to be opened, or opened again, may vanish.
                        None if is_copy && reading.is_closed() => Whereabouts::Gone,
                        _ if is_copy => Whereabouts::Copy,
                        Some(file) if file.is_live => Whereabouts::Home,
                        Some(_) => Whereabouts::Moved,
                        None => Whereabouts::Gone,
                    };
                    if let Some(file) = found {
                        reading.path = file.path.clone();
                    }
                    if was_home && reading.whereabouts != Whereabouts::Home {
                        // Its writer may have been silent for long, and still get the word only now.
                        reading.grown = now.instant;
                    }
                    let is_gone = reading.whereabouts == Whereabouts::Gone;
                    if !is_gone {
                        log.rotation.clear(|rotation| rotation.gone_since = None);
                    }
                    let gone_since =
                        is_gone.then(|| *log.rotation.make().gone_since.get_or_insert(now.instant));
                    let (whereabouts, is_closed) = (reading.whereabouts, reading.is_closed());
                    let is_failing = reading.is_failing;
                    let is_given_up =
                        is_closed && gone_since.is_some_and(|since| self.is_searched(index, since, now));
                    let log = &mut self.logs[index];
                    match whereabouts {
                        Whereabouts::Home => {
                            self.open_files.held -= log.open_held();
                            log.rotation.clear(|rotation| rotation.held.clear());
                            return Ok(None);
                        }
                        _ if is_given_up => {
                            log.note_end();
                            log.rotation.make().missing_since = gone_since;
                            log.stop_reading(Stage::Locate);
                        }
                        // Replaced by a file that continues it, as editors and rsync do.
                        Whereabouts::Gone if is_failing || (is_at_last && live.is_some()) => {
                            match candidates::locate(log, &files)? {
                                Some(located) if is_failing || located.whereabouts == Whereabouts::Home => {
                                    self.start_reading(index, located, now);
                                }
                                _ => {
                                    self.await_end(index, files, now)?;
                                    return Ok(None);
                                }
                            }
                        }
                        _ => {
                            self.await_end(index, files, now)?;
                            return Ok(None);
                        }
                    }
                }
                Stage::Over if !is_at_last => {
                    log.current += 1;
                    log.mark = None;
                    log.rotation.clear(|rotation| {
                        rotation.seen_end = None;
                        rotation.finished = None;
                    });
                    log.stage = Stage::Locate;
                }
                Stage::Over => return self.settle_next(index, files, is_first_look, now),
            }
        }
    }

    /// What comes after the last generation.
    fn settle_next(
        &mut self,
        index: usize,
        mut files: Vec<Candidate>,
        is_first_look: bool,
        now: Now,
    ) -> io::Result<Option<Begin>> {
        if !self.agrees(index, &files, is_first_look, now) {
            return Ok(None);
        }
        self.leave_others(index, &mut files);
        self.note_copies(index, &files)?;
        let log = &mut self.logs[index];
        log.rotation.clear(|rotation| rotation.finished = None);
        // The last one may have come back.
        let last = log.generation().map(|generation| generation.id);
        if files.iter().any(|file| file.is_live && last.is_some_and(|last| last.same(&file.stat.id))) {
            let located = candidates::locate(log, &files)?;
            if let Some(located) = located.filter(|located| located.whereabouts == Whereabouts::Home) {
                self.start_reading(index, located, now);
                return Ok(None);
            }
        }
        if !self.lose_vanished(index, &files, now)? {
            return Ok(None);
        }
        self.lose_unselected(index, &files, now)?;
        let log = &mut self.logs[index];
        let ignore_older = self.options.tables[log.table].ignore_older;
        let owners = &self.owners;
        let is_own = |id: FileId| owners.of(id) == Some(index);
        look_at_held(log, &files)?;
        let next = candidates::successors(log, files, now, ignore_older, &is_own)?.into_iter().next();
        self.lose_cut(index, next.as_ref(), now)?;
        let Some(next) = next else { return Ok(None) };
        let Some(opened) = next.open()? else {
            self.waiting.insert(index);
            return Ok(None);
        };
        let (head, stat) = (opened.head()?, opened.stat);
        if head.is_empty() {
            if next.is_packed() {
                self.pass_by_unreadable(index, &next, now);
            }
            return Ok(None);
        }
        if next.is_live && self.leave_copy(index, stat.id, now) {
            return Ok(None);
        }
        let log = &self.logs[index];
        let is_cut_in_place = last.is_some_and(|last| last.same(&stat.id));
        let width = self.options.tables[log.table].lines.encoding.width();
        let skip = if is_cut_in_place && head[0] == 0 { hole_before_text(&opened.file, width)? } else { 0 };
        let fingerprint = Fingerprint::of(&head_of_text(&opened)?);
        let began = nanoseconds(now.system);
        let (base, id) = (log.offset, stat.id);
        let generation = Generation { base, skip, fingerprint, id, began, late: 0, copied: None, end: None };
        let reading = match next.is_live {
            true => Reading::new(next.path, opened.file, &stat, Whereabouts::Home, now),
            false if next.is_packed() => Reading::packed(next.path, &stat, now),
            false => Reading::new(next.path, opened.file, &stat, Whereabouts::Moved, now),
        };
        Ok(Some(Begin { index, generation, reading }))
    }

    fn start_reading(&mut self, index: usize, located: Located, now: Now) {
        let Located { opened, path, whereabouts } = located;
        let stat = opened.stat;
        let log = &mut self.logs[index];
        let (current, is_last) = (log.current, log.is_at_last());
        let generation = &mut log.generations[current];
        let is_continued = is_last && generation.end.is_some();
        if whereabouts != Whereabouts::Copy && (generation.id != stat.id || is_continued) {
            generation.id = stat.id;
            if is_last {
                generation.end = None;
            }
            self.state.stage_generation(&log.path, log.epoch, &log.generations[current]);
        }
        if let Some(rotation) = log.rotation.if_any() {
            rotation.last_read = None;
            rotation.gone_since = None;
            rotation.missing_since = None;
        }
        log.stage = Stage::Reading(match opened.packed {
            Some(_) => Reading::packed(path, &stat, now),
            None => Reading::new(path, opened.file, &stat, whereabouts, now),
        });
        self.let_go(index, |kept| kept.id != stat.id);
        self.own(stat.id, index);
        self.used(index);
        self.watch_home(index);
        self.make_ready(index);
    }

    /// Nothing more comes of the current generation.
    pub(super) fn finish(&mut self, index: usize) {
        let log = &mut self.logs[index];
        let (current, is_last) = (log.current, log.is_at_last());
        let mut zeros = 0;
        if let Stage::Reading(reading) = &mut log.stage {
            log.rotation.make().read_modified = Some(reading.modified);
            reading.tell_zeros();
            zeros = reading.text.zeros();
        }
        let end = (log.offset, log.mark.filter(|mark| mark.0 == log.offset).map(|mark| mark.1));
        let mut place = None;
        let finished = match log.stop_reading(Stage::Over) {
            Stage::Reading(reading) if !reading.is_packed => {
                place = Some((reading.id, reading.path.clone(), reading.whereabouts));
                match reading.whereabouts {
                    // Closed only while nothing came after it. What cannot be opened now has no copy to be told from.
                    Whereabouts::Moved if reading.file.is_none() => reading.open().ok().flatten(),
                    Whereabouts::Moved | Whereabouts::Gone => reading.file,
                    Whereabouts::Home | Whereabouts::Copy => None,
                }
            }
            _ => None,
        };
        if let (Some((id, path, whereabouts)), Some(file)) = (place, &finished)
            && (whereabouts == Whereabouts::Gone || identity::is_deleted(file))
        {
            self.keep(index, id, path, file);
        }
        let log = &mut self.logs[index];
        log.rotation.make().finished = finished;
        self.watch.forget(index);
        if let Some(generation) = log.generations.get_mut(current)
            && is_last
            && generation.end != Some(end)
        {
            generation.end = Some(end);
            generation.late = generation.late.max(zeros);
            self.state.stage_generation(&log.path, log.epoch, &log.generations[current]);
        }
        self.unsettled.insert(index);
    }

    fn watch_home(&mut self, index: usize) {
        let log = &self.logs[index];
        if let Stage::Reading(reading) = &log.stage
            && reading.whereabouts == Whereabouts::Home
        {
            self.watch.watch(index, &log.path, reading.id);
        }
    }
}

/// A writer that does not append goes on at its old position after its file was truncated: before it the
/// file has a hole. The position of the first character that was written, of at least `width` bytes; 0 when there
/// is no hole.
fn hole_before_text(file: &File, width: usize) -> io::Result<u64> {
    use rustix::fs::{SeekFrom, seek};
    const BLOCK: usize = 64 << 10;
    let data = match seek(file, SeekFrom::Data(0)) {
        Ok(0) | Err(_) => return Ok(0),
        Ok(data) => data,
    };
    // A hole ends at a block of the file system, the text begins somewhere in it.
    let block = identity::read_at(file, data, BLOCK)?;
    let zeros = block.iter().take_while(|byte| **byte == 0).count();
    // Half of the first character may be zero.
    Ok(data + (zeros - zeros % width) as u64)
}
