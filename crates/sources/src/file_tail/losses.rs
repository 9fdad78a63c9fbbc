//! What can never be read, and how that is noticed: it is recorded as a loss, in band, before anything that
//! is read later.
//!
//! A loss that stands between two generations moves the offset by its length, when that is known. One that
//! belongs into a generation which is finished already cannot: it is recorded with an unknown length.
//!
//! A loss counts as accounted for in the state log before it is committed. After a crash one of known length shows
//! by the offset: it is noticed again. One of unknown length is remembered until it is committed, and then given
//! again: rather twice than never.

use std::io;
use std::time::{Duration, Instant};

use super::candidates::{Candidate, position_of_current};
use super::contents::Reach;
use super::identity::{Fingerprint, Stat, nanoseconds};
use super::likeness::{holds, is_known};
use super::log::{Log, Now};
use super::rotation::{Behind, Held};
use super::siblings;
use super::state::Generation;
use super::tail::Tail;
use super::waiting::UNSURE;

/// A writer that goes on and on in a finished file is reported so often.
const LATE_PAUSE: Duration = Duration::from_secs(60);

/// A renamed file may be in a directory whose turn comes within this time: before, it is not given up.
const SEARCH: Duration = Duration::from_secs(2);

impl Tail {
    /// The current generation's file is none of `files`: what was not read of it is lost. Whether that is certain;
    /// else it is looked for again.
    ///
    /// # Errors
    ///
    /// As with [`Tail::pass_over_older`].
    pub(super) fn miss(&mut self, index: usize, files: &[Candidate], now: Now) -> io::Result<bool> {
        let live = files.iter().find(|file| file.is_live).map(|file| file.stat);
        let log = &mut self.logs[index];
        let Some(generation) = log.generation().cloned() else { return Ok(true) };
        let known_end = log.next_base().or(generation.end.map(|end| end.0)).or(log.rotation.seen_end);
        let missing = known_end.map(|end| end.saturating_sub(log.offset));
        let is_cut = live.is_some_and(|live| live.id.same(&generation.id));
        let since = *log.rotation.make().missing_since.get_or_insert(now.instant);
        let is_certain = match is_cut {
            _ if missing == Some(0) => true,
            // Before a file is truncated its copy appears, which a listing from before may not show. A directory
            // that cannot be listed shows none.
            true => {
                self.is_last_tick()
                    || now.instant.saturating_duration_since(since) >= UNSURE
                    || self.is_listed(index, since + Duration::from_nanos(1))
            }
            false => self.is_searched(index, since, now),
        };
        if !is_certain {
            return Ok(false);
        }
        let was_rebuilt = self.logs[index].is_rebuilt;
        if was_rebuilt {
            self.pass_over_older(index, files, None, now)?;
        }
        let log = &mut self.logs[index];
        // Nobody here has ever seen what was read, nor wants it again: the log at this path is another one.
        if was_rebuilt && missing.is_none() && live.is_some() && log.reached <= log.offset {
            tracing::warn!(
                "the state directory knows nothing of `{}`, and the file that was read last, in epoch {}, is \
                 nowhere: going on in a new epoch; should two hosts go by this name, give one of them another",
                log.origin,
                log.epoch,
            );
            log.begin_epoch(&mut self.state);
            self.unsettled.insert(index);
            self.make_ready(index);
            return Ok(true);
        }
        let rotation = log.rotation.make();
        rotation.missing_since = None;
        // The inode may hold something newer by now.
        rotation.last_read = None;
        if missing != Some(0) {
            let reason = match (is_cut, has_compressed(log)) {
                (true, _) => "the file was truncated or overwritten before it was read to its end",
                (false, true) => "the file was compressed before it was read to its end",
                (false, false) => "the file was deleted before it was read to its end",
            };
            log.lose(&mut self.state, missing.unwrap_or(0), reason.to_owned());
            self.make_ready(index);
        }
        self.finish(index);
        Ok(true)
    }

    /// Files that waited for their turn without being held open, and are nowhere now, are lost. Whether what
    /// comes next may begin; else one of them may only have been renamed.
    pub(super) fn lose_vanished(&mut self, index: usize, files: &[Candidate], now: Now) -> io::Result<bool> {
        while let Some(first) = self.logs[index].first_held() {
            if first.file.is_some() || files.iter().any(|file| file.stat.id == first.id) {
                first.gone_since = None;
                break;
            }
            if was_compressed(first, files)? {
                self.logs[index].rotation.make().held.remove(0);
                continue;
            }
            let first = &mut self.logs[index].rotation.make().held[0];
            let since = *first.gone_since.get_or_insert(now.instant);
            if !self.is_searched(index, since, now) {
                return Ok(false);
            }
            let log = &mut self.logs[index];
            let mut gone = log.rotation.make().held.remove(0);
            if siblings::is_gzip(&gone.path) {
                // Nobody knows how much it held.
                gone.size = 0;
            }
            let base = log.offset;
            let generation = Generation {
                base,
                skip: 0,
                fingerprint: Fingerprint::of(b""),
                id: gone.id,
                began: nanoseconds(now.system),
                late: 0,
                copied: None,
                end: Some((base + gone.size, None)),
            };
            self.state.stage_generation(&log.path, log.epoch, &generation);
            log.pass_by(generation);
            let what = if has_compressed(log) { "compressed or deleted" } else { "deleted" };
            let reason = format!("`{}` was {what} while it waited to be read", gone.path.display());
            log.lose(&mut self.state, gone.size, reason);
        }
        if !self.logs[index].rotation.outbox.is_empty() {
            self.make_ready(index);
        }
        Ok(true)
    }

    /// A compressed file that holds nothing, or nothing that can be read.
    pub(super) fn pass_by_unreadable(&mut self, index: usize, file: &Candidate, now: Now) {
        let log = &mut self.logs[index];
        let (base, id) = (log.offset, file.stat.id);
        let fingerprint = Fingerprint::of(b"");
        let began = nanoseconds(now.system);
        let generation = Generation {
            base,
            skip: 0,
            fingerprint,
            id,
            began,
            late: 0,
            copied: None,
            end: Some((base, None)),
        };
        self.state.stage_generation(&log.path, log.epoch, &generation);
        log.pass_by(generation);
        let rotation = log.rotation.make();
        rotation.passed.insert(id);
        rotation.held.retain(|held| held.id != id);
        let reason = format!("`{}` is damaged: nothing of it can be read", file.path.display());
        log.lose(&mut self.state, 0, reason);
        self.own(id, index);
        self.make_ready(index);
        self.unsettled.insert(index);
    }

    /// Whether a file of a log that is nowhere since some time was looked for long enough, in a directory that
    /// could be listed. If not, it is looked for again.
    pub(super) fn is_searched(&mut self, index: usize, since: Instant, now: Now) -> bool {
        let is_late = self.is_ending || now.instant.saturating_duration_since(since) >= SEARCH;
        // Too early, no listing is late enough.
        self.is_listed(index, if is_late { since } else { now.instant + SEARCH })
    }

    /// Whether the directory of a log was listed at that time or later. If not, it is listed again.
    fn is_listed(&mut self, index: usize, since: Instant) -> bool {
        let path = &self.logs[index].path;
        if self.discovery.is_known_since(path, since) {
            return true;
        }
        self.discovery.look_again(path);
        self.waiting.insert(index);
        false
    }

    /// Siblings that no pattern selects, and that came after what was read last, are never read unless a known
    /// file shows their place: each is a loss, reported once.
    pub(super) fn lose_unselected(&mut self, index: usize, files: &[Candidate], now: Now) -> io::Result<()> {
        let log = &self.logs[index];
        if position_of_current(log, files)?.is_some() {
            return Ok(());
        }
        self.warn_of_compressed(index, now);
        let log = &self.logs[index];
        let Some(last) = log.generation().cloned() else { return Ok(()) };
        let is_own = |file: &Candidate| self.owners.of(file.stat.id) == Some(index);
        let has_place = |file: &&Candidate| !file.is_live && !is_own(file);
        let mut lost = Vec::new();
        for file in files.iter().take_while(has_place) {
            let id = file.stat.id;
            let is_older = nanoseconds(file.stat.modified) <= last.began
                || (id.born != 0 && last.id.born != 0 && id.born <= last.id.born);
            let may_be_new = !file.is_packed()
                && !file.is_selected
                && file.suffix.is_some()
                && file.stat.size > 0
                && !is_older;
            if may_be_new && !is_known(log, files, file)? {
                lost.push(file);
            }
        }
        for file in lost {
            let Some(opened) = file.open()? else { continue };
            let stat = opened.stat;
            let fingerprint = Fingerprint::of(&opened.head()?);
            let log = &mut self.logs[index];
            let generation = Generation {
                base: log.offset,
                skip: stat.size,
                fingerprint,
                id: stat.id,
                began: nanoseconds(now.system),
                late: 0,
                copied: None,
                end: Some((log.offset, None)),
            };
            self.state.stage_generation(&log.path, log.epoch, &generation);
            log.pass_by(generation);
            let reason = format!(
                "`{}` holds {} bytes that came after what was read, and no pattern selects it",
                file.path.display(),
                stat.size,
            );
            log.lose(&mut self.state, 0, reason);
            self.own(stat.id, index);
            self.make_ready(index);
        }
        Ok(())
    }

    /// Of compressed siblings those are not read that no pattern selects, or that gzip did not make. One that
    /// may hold what nobody read is reported, once for each log.
    fn warn_of_compressed(&mut self, index: usize, now: Now) {
        let log = &self.logs[index];
        if log.rotation.has_warned {
            return;
        }
        let read_until = match (log.rotation.read_modified, log.generation()) {
            (Some(modified), Some(_)) => Some(nanoseconds(modified)),
            (None, Some(last)) => Some(last.began),
            (_, None) => None,
        };
        let ignore_older = self.options.tables[log.table].ignore_older;
        let may_be_unread = |stat: Stat, is_selected: bool| match read_until {
            Some(until) => nanoseconds(stat.modified) > until,
            None => {
                let age = now.system.duration_since(stat.modified).unwrap_or_default();
                is_selected && ignore_older.is_none_or(|limit| age <= limit)
            }
        };
        let mut compressed = log.rotation.members.iter().filter(|path| siblings::is_compressed(path));
        let unread = compressed.find(|path| {
            let is_selected = self.options.patterns.owner(path).is_some();
            let is_read = is_selected && siblings::is_gzip(path);
            !is_read && Stat::of_path(path).is_ok_and(|stat| may_be_unread(stat, is_selected))
        });
        if let Some(path) = unread {
            let (path, origin) = (path.display(), &log.origin);
            tracing::warn!(
                "`{path}` may hold lines of `{origin}` that were not read: compressed files are, \
                 when gzip made them and a pattern selects them"
            );
            self.logs[index].rotation.make().has_warned = true;
        }
    }

    /// What is appended to a finished file comes too late: that is recorded, and the file watched on.
    pub(super) fn report_late(&mut self, index: usize, files: &[Candidate], now: Now) -> io::Result<()> {
        let log = &mut self.logs[index];
        let behind = log.rotation.if_any().and_then(|rotation| rotation.behind.take());
        let not_before = behind.and_then(|behind| behind.not_before);
        let is_due = not_before.is_none_or(|not_before| now.instant >= not_before);
        let mut latest: Option<(usize, Behind)> = None;
        for file in files.iter().filter(|file| !file.is_live && !file.is_packed()) {
            let of_file = log.generations.iter().rposition(|known| known.id.same(&file.stat.id));
            let Some(number) = of_file.filter(|number| *number < log.current) else { continue };
            let generation = log.generations[number].clone();
            let (end, mark) = match generation.end {
                Some((end, marker)) => (end, marker.map(|marker| (end, marker))),
                None => (log.generations[number + 1].base, None),
            };
            let mut size = Log::file_position(&generation, end) + generation.late;
            let mut not_before = not_before;
            if file.stat.size > size
                && is_due
                && let Some(opened) = file.open()?
            {
                let stat = opened.stat;
                if holds(&opened, &generation, end, mark)? {
                    let late = stat.size.saturating_sub(size);
                    log.generations[number].late += late;
                    self.state.stage_generation(&log.path, log.epoch, &log.generations[number]);
                    let path = file.path.display();
                    let reason = format!(
                        "`{path}` grew by {late} bytes after the next file was begun; \
                         `rotate_wait` must cover its writer"
                    );
                    log.lose_earlier(&mut self.state, reason);
                    not_before = Some(now.instant + LATE_PAUSE);
                }
                size = stat.size;
            }
            if latest.as_ref().is_none_or(|(other, _)| *other < number) {
                let (id, path) = (file.stat.id, file.path.clone());
                latest = Some((number, Behind { id, path, size, not_before }));
            }
        }
        if let Some((_, behind)) = latest {
            log.rotation.make().behind = Some(behind);
        }
        Ok(())
    }
}

/// Whether a file that waited and is nowhere is what one of these was compressed from.
fn was_compressed(gone: &Held, files: &[Candidate]) -> io::Result<bool> {
    for file in files.iter().filter(|file| file.is_packed() && !siblings::is_gzip(&gone.path)) {
        let Some(opened) = file.open()? else { continue };
        if gone.fingerprint.matches(&opened.head()?)
            && opened.reach(gone.size)? == Reach::There
            && (gone.fingerprint.is_strong() || opened.reach(gone.size + 1)? == Reach::Shorter)
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a sibling is compressed: a file that is nowhere has probably become one.
fn has_compressed(log: &Log) -> bool {
    log.rotation.members.iter().any(|path| siblings::is_compressed(path))
}
