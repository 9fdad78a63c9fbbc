//! Files that wait for their turn while the one before them is finished, and whether all of them are known.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::candidates::{self, Candidate};
use super::identity::{self, FileId, Fingerprint, Stat, nanoseconds};
use super::log::{Log, Now};
use super::rotation::{Cut, Held};
use super::siblings;
use super::state::Generation;
use super::tail::Tail;
use super::text::head_of_text;

/// A log that is rotated faster than its directory can be listed goes on after this long all the same, and so
/// does one whose directory cannot be listed.
pub(super) const UNSURE: Duration = Duration::from_secs(5);

impl Tail {
    /// Whether `files`, found just now, are all the files of a log. They may be renamed at any moment, also
    /// between two looks of one search, and one that was missed would pass for older than what is read next.
    /// So a file begins only when a listing, and the look that came after it, show every file at the same
    /// name, and nothing has appeared since; else the directory is listed again.
    /// `is_first_look` says that the log was never looked at before.
    pub(super) fn agrees(
        &mut self,
        index: usize,
        files: &[Candidate],
        is_first_look: bool,
        now: Now,
    ) -> bool {
        let log = &self.logs[index];
        let live = files.iter().find(|file| file.is_live).map(|file| file.stat.id);
        let shows = |path: &Path, file: &Candidate| self.discovery.shows(path, Some(file.stat.id));
        let is_found =
            |path: &PathBuf| self.discovery.shows(path, None) || files.iter().any(|file| shows(path, file));
        let mut members = log.rotation.members.iter().filter(|path| !siblings::is_unreadable(path));
        // Before a file is truncated its copy appears; before one that was found just now nothing can have been.
        let agrees = self.discovery.shows(&log.path, live)
            && (is_first_look || self.discovery.is_current(&log.path))
            && self.discovery.is_still(&log.path)
            && files.iter().all(|file| file.is_held() || shows(&file.path, file))
            && members.all(is_found);
        let is_last_tick = self.is_last_tick();
        let strange = files.iter().filter(|file| !file.is_held() && !shows(&file.path, file));
        let strange: Vec<_> = strange.map(|file| file.path.clone()).collect();
        let log = &mut self.logs[index];
        if agrees {
            log.rotation.clear(|rotation| rotation.unsure_since = None);
            return true;
        }
        let since = *log.rotation.make().unsure_since.get_or_insert(now.instant);
        if now.instant.saturating_duration_since(since) >= UNSURE || is_last_tick {
            // That is said of what is decided now: the next time both have to agree again.
            log.rotation.clear(|rotation| rotation.unsure_since = None);
            return true;
        }
        self.discovery.look_again(&log.path);
        strange.iter().for_each(|path| self.discovery.look_again(path));
        self.waiting.insert(index);
        self.hurry();
        false
    }

    /// A file that is no longer at its place is looked at again and again until it is finished. What comes
    /// after it is opened before somebody deletes it.
    pub(super) fn await_end(&mut self, index: usize, mut files: Vec<Candidate>, now: Now) -> io::Result<()> {
        self.waiting.insert(index);
        self.make_ready(index);
        if !self.logs[index].is_at_last() {
            return Ok(());
        }
        self.leave_others(index, &mut files);
        self.note_copies(index, &files)?;
        let log = &mut self.logs[index];
        look_at_held(log, &files)?;
        let owners = &self.owners;
        let is_own = |id: FileId| owners.of(id) == Some(index);
        let waiting = candidates::successors(log, files, now, None, &is_own)?;
        for next in &waiting {
            let place = match log.rotation.held.iter().position(|held| held.id == next.stat.id) {
                Some(place) => place,
                None => {
                    // Noted even if it cannot be opened: should it be deleted, that is a loss.
                    log.rotation.make().held.push(Held::new(next));
                    log.rotation.held.len() - 1
                }
            };
            let held = &mut log.rotation.make().held[place];
            held.path = next.path.clone();
            // How far a compressed one goes is not known before it is read: opened it is when its turn comes.
            if held.file.is_none()
                && !next.is_packed()
                && self.open_files.held < self.open_files.most_held
                && let Some(opened) = next.open()?
            {
                held.file = Some(opened.file.into());
                self.open_files.held += 1;
            }
        }
        // One that was missed at first stands where it belongs; what is nowhere any more came before.
        if let Some(rotation) = log.rotation.if_any() {
            rotation.held.sort_by_key(|held| waiting.iter().position(|next| next.stat.id == held.id));
        }
        Ok(())
    }

    /// Files that wait and cannot be read any more, although they are held open, are looked for at their paths.
    pub(super) fn let_go_of_stale(&mut self, index: usize) {
        let Some(rotation) = self.logs[index].rotation.if_any() else { return };
        for held in &mut rotation.held {
            let is_stale =
                |file: &Arc<File>| Stat::of_file(file).is_err_and(|error| identity::is_stale(&error));
            if held.file.take_if(|file| is_stale(file)).is_some() {
                self.open_files.held -= 1;
            }
        }
    }

    /// What a file held that was truncated or written anew while it waited is lost, unless a copy of it was
    /// kept and is read: recorded when its turn comes, or when it stays empty. `next` is what begins now.
    ///
    /// # Errors
    ///
    /// A file cannot be read now; [`io::ErrorKind::Interrupted`] when the directory must be listed first.
    pub(super) fn lose_cut(&mut self, index: usize, next: Option<&Candidate>, now: Now) -> io::Result<()> {
        let log = &mut self.logs[index];
        if log.rotation.held.iter().all(|held| held.cuts.is_empty()) {
            log.rotation.clear(|rotation| rotation.cut_since = None);
            return Ok(());
        }
        // A copy may have appeared since the directory was listed.
        let since = *log.rotation.make().cut_since.get_or_insert(now.instant);
        let path = log.path.clone();
        if !self.is_last_tick() && !self.discovery.is_known_since(&path, since + Duration::from_nanos(1)) {
            self.discovery.look_again(&path);
            self.hurry();
            return Err(io::ErrorKind::Interrupted.into());
        }
        let log = &mut self.logs[index];
        log.rotation.clear(|rotation| rotation.cut_since = None);
        let head = match next.map(Candidate::open).transpose()?.flatten() {
            Some(opened) => opened.head()?,
            None => Vec::new(),
        };
        let mut lost = Vec::new();
        for held in &mut log.rotation.make().held {
            if let Some(copy) = next.filter(|next| next.stat.id != held.id) {
                let is_short = |cut: &Cut| !copy.is_packed() && copy.stat.size < cut.size;
                held.cuts.retain(|cut| is_short(cut) || !cut.fingerprint.matches(&head));
            } else if next.is_some() || held.size == 0 {
                lost.extend(held.cuts.drain(..).map(|cut| (held.id, held.path.clone(), cut)));
            }
        }
        for (id, path, Cut { size, fingerprint }) in lost {
            let log = &mut self.logs[index];
            let base = log.offset;
            let end = Some((base + size, None));
            let began = nanoseconds(now.system);
            let generation = Generation { base, skip: 0, fingerprint, id, began, late: 0, copied: None, end };
            self.state.stage_generation(&log.path, log.epoch, &generation);
            log.pass_by(generation);
            // What it holds now is no part of that.
            log.rotation.make().replaced = Some(id);
            let path = path.display();
            let reason = format!("`{path}` was truncated or overwritten while it waited to be read");
            log.lose(&mut self.state, size, reason);
            self.make_ready(index);
        }
        Ok(())
    }

    /// Whether something waits to be read, or to be recorded as lost, after the current file.
    pub(super) fn has_successor(&mut self, index: usize, now: Now) -> bool {
        match self.find_successor(index, now) {
            Ok(is_found) => is_found,
            Err(error) => {
                self.complain(index, &error);
                false
            }
        }
    }

    fn find_successor(&mut self, index: usize, now: Now) -> io::Result<bool> {
        let is_last = self.is_last_tick();
        let mut files = candidates::gather(&self.logs[index], &self.options.patterns, now, is_last)?;
        self.leave_others(index, &mut files);
        let log = &mut self.logs[index];
        look_at_held(log, &files)?;
        if log.rotation.held.iter().any(|held| !held.cuts.is_empty()) {
            return Ok(true);
        }
        let owners = &self.owners;
        let is_own = |id: FileId| owners.of(id) == Some(index);
        Ok(!candidates::successors(log, files, now, None, &is_own)?.is_empty())
    }
}

/// Compares the files that wait with what they were.
///
/// # Errors
///
/// One of them cannot be read now.
pub(super) fn look_at_held(log: &mut Log, files: &[Candidate]) -> io::Result<()> {
    let Some(rotation) = log.rotation.if_any() else { return Ok(()) };
    for held in &mut rotation.held {
        let Some(file) = files.iter().find(|file| file.stat.id == held.id) else { continue };
        let is_same = held.size == file.stat.size && held.modified == Some(file.stat.modified);
        if is_same || file.is_packed() {
            continue;
        }
        if let Some(opened) = file.open()? {
            held.look(&opened.stat, &head_of_text(&opened)?);
        }
    }
    Ok(())
}

impl Held {
    fn new(file: &Candidate) -> Self {
        Self {
            id: file.stat.id,
            path: file.path.clone(),
            size: file.stat.size,
            modified: None,
            file: None,
            gone_since: None,
            fingerprint: Fingerprint::of(b""),
            cuts: Vec::new(),
        }
    }

    /// Compares the file, which begins with `head` now, with what it was.
    fn look(&mut self, stat: &Stat, head: &[u8]) {
        if self.size > 0 && (stat.size < self.size || !self.fingerprint.matches(head)) {
            self.cuts.push(Cut { size: self.size, fingerprint: self.fingerprint });
        }
        self.size = stat.size;
        self.modified = Some(stat.modified);
        self.fingerprint = Fingerprint::of(head);
    }
}
