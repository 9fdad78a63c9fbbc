//! Where each log stands at a start: what the receiving side holds, what the state log remembers, and what
//! counts as read although nobody read it.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use fshipper_pipeline::{Checkpoint, History};

use super::candidates::{self, Candidate};
use super::identity::{self, Fingerprint, MARKER_BYTES, Marker, nanoseconds};
use super::likeness::is_known;
use super::lines::Encoding;
use super::log::{Log, Now, Stage};
use super::state::Generation;
use super::tail::{Options, Tail};
use super::text::{TextEnd, head_of_text};

/// A last line longer than this is not looked for: it is not shipped whole anyway.
const LONGEST_LINE: u64 = 1 << 20;

impl Tail {
    /// The state log and the receiving side name different epochs for one log: whoever's file is there wins.
    pub(super) fn resolve(&mut self, index: usize, history: &History, now: Now) {
        let log = &self.logs[index];
        let mut rival = Log::new(log.origin.clone(), log.path.clone(), log.table);
        rival.rotation.make().members = log.rotation.members.clone();
        rival.reached = history.reached().unwrap_or(0);
        rival.committed = history.current.offset;
        rival.resume(None, Some(&history.current));
        let gathered = candidates::gather(&rival, &self.options.patterns, now, false);
        let located = gathered.and_then(|files| candidates::locate(&rival, &files));
        // An epoch that the receiving side has left behind is one that it would refuse. Who has the files of that one
        // has to be refused: the one that followed is that of another host which goes by the same name.
        let is_behind = history.earlier.iter().any(|(epoch, _)| *epoch == log.epoch);
        let is_stale = is_behind && !self.has_files(index, now);
        let is_found = matches!(located, Ok(Some(_)));
        tracing::warn!(
            "the state directory says that `{}` is in epoch {}, the receiving side says {}: going on with {}",
            log.origin,
            log.epoch,
            rival.epoch,
            if is_found || is_stale { rival.epoch } else { log.epoch },
        );
        if is_found || is_stale {
            for generation in &rival.generations {
                self.state.stage_generation(&rival.path, rival.epoch, generation);
            }
            let owed = self.logs[index].rotation.uncommitted.clone();
            for loss in owed {
                self.state.stage_loss(&rival.path, rival.epoch, &loss);
                rival.owe(&loss);
                let is_over = matches!(rival.stage, Stage::Over);
                rival.send_loss(0, loss.reason, is_over);
            }
            rival.lose_unknown(&mut self.state);
            self.logs[index] = rival;
        }
    }

    /// Whether a file that a log consists of is there, as far as anybody can look.
    fn has_files(&self, index: usize, now: Now) -> bool {
        let log = &self.logs[index];
        let gathered = candidates::gather(log, &self.options.patterns, now, false);
        gathered.is_ok_and(|files| files.iter().any(|file| is_known(log, &files, file).unwrap_or(false)))
    }

    /// `start_at = "end"`: what is there when the pipeline first starts counts as read.
    pub(super) fn pass_over_at_first_start(&mut self, now: Now) {
        for index in 0..self.logs.len() {
            let log = &mut self.logs[index];
            if !self.options.tables[log.table].start_at_end {
                continue;
            }
            // A file that cannot be looked at now is read from its beginning when it can be.
            let Ok(files) = candidates::gather(log, &self.options.patterns, now, true) else { continue };
            for candidate in files.iter().filter(|candidate| candidate.is_selected && candidate.stat.size > 0)
            {
                let encoding = self.options.tables[log.table].lines.encoding;
                let Ok(Some((generation, marker))) = passed_over(candidate, encoding, now) else { continue };
                self.state.stage_generation(&log.path, log.epoch, &generation);
                log.generations.push(generation);
                log.current = log.generations.len() - 1;
                log.mark = Some((log.offset, marker));
                log.stage = if candidate.is_live { Stage::Locate } else { Stage::Over };
            }
            self.register(index);
        }
    }

    /// Without a state log nobody knows what was read of the files before the current one: since they came
    /// before it, all of it. They are recorded as passed over.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::Interrupted`] when one of them is being compressed: nothing is recorded before it is whole.
    pub(super) fn pass_over_older(
        &mut self,
        index: usize,
        files: &[Candidate],
        current: Option<&Path>,
        now: Now,
    ) -> io::Result<()> {
        let log = &mut self.logs[index];
        let older = files.iter().take_while(|file| !file.is_live && Some(&*file.path) != current);
        let mut generations = Vec::new();
        let encoding = self.options.tables[log.table].lines.encoding;
        for candidate in older {
            match passed_over(candidate, encoding, now) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
                Ok(Some((generation, _))) => generations.push(generation),
                _ => {}
            }
        }
        for generation in &generations {
            self.state.stage_generation(&log.path, log.epoch, generation);
        }
        log.current += generations.len();
        log.generations.splice(0..0, generations);
        log.is_rebuilt = false;
        Ok(())
    }

    /// Drops logs whose last file was read to its end and is gone, so that the state does not grow for ever.
    pub(super) fn forget_finished(&mut self, now: Now) {
        for log in &self.logs {
            let is_finished = matches!(log.stage, Stage::Over)
                && !log.generations.is_empty()
                && log.rotation.uncommitted.is_empty();
            // What cannot be looked at is there.
            let is_gone = || {
                candidates::gather(log, &self.options.patterns, now, false)
                    .is_ok_and(|files| files.is_empty())
            };
            if is_finished && is_gone() {
                self.state.stage_forget(&log.path);
            }
        }
    }
}

/// What the receiving side knows of this host's files.
pub(super) fn positions<'a>(from: &'a Checkpoint, options: &Options) -> HashMap<PathBuf, &'a History> {
    from.origins()
        .filter(|(origin, _)| origin.host() == options.host.as_bytes())
        .map(|(origin, history)| (PathBuf::from(OsStr::from_bytes(origin.path())), history))
        .filter(|(path, _)| path.is_absolute() && options.patterns.owner_of_log(path).is_some())
        .collect()
}

/// A file that counts as read up to its last line end, and what stands before that; `None` when it is not what
/// it was.
fn passed_over(
    candidate: &Candidate,
    encoding: Encoding,
    now: Now,
) -> io::Result<Option<(Generation, Marker)>> {
    let Some(opened) = candidate.open()? else { return Ok(None) };
    let stat = opened.stat;
    let skip = match candidate.is_live {
        true => last_line_start(&opened.file, text_end(&opened.file, stat.size, encoding)?, encoding)?,
        // How long a compressed one is takes long to find out: its beginning has to do.
        false if candidate.is_packed() => 0,
        // A sibling is finished: what it lacks in line ends is nobody's beginning.
        false => stat.size,
    };
    let fingerprint = Fingerprint::of(&head_of_text(&opened)?);
    let marker = Marker::of(&opened.before(skip, MARKER_BYTES)?);
    let end = (!candidate.is_live).then_some((0, None));
    let began = nanoseconds(now.system);
    let generation =
        Generation { base: 0, skip, fingerprint, id: stat.id, began, late: 0, copied: None, end };
    Ok(Some((generation, marker)))
}

/// Where the text of a file ends.
fn text_end(file: &File, size: u64, encoding: Encoding) -> io::Result<u64> {
    let mut text = TextEnd::new(size);
    loop {
        if let Some(end) = text.find(file, 0, size, encoding.width(), false)? {
            return Ok(end);
        }
    }
}

/// The position behind the last line end, so that the first line shipped is whole; the end when the last
/// line is longer than anybody would wait for.
fn last_line_start(file: &File, size: u64, encoding: Encoding) -> io::Result<u64> {
    let from = size.saturating_sub(LONGEST_LINE);
    let tail = identity::read_at(file, from, (size - from) as usize)?;
    Ok(match encoding.last_end(&tail, from) {
        Some(end) => from + end as u64,
        None if from == 0 => 0,
        None => encoding.whole(0, size as usize) as u64,
    })
}
