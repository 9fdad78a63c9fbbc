//! Reading one batch of one log: [`Tail::turn`].
//!
//! A block is read together with the few bytes before it: they must be those that were there when the
//! position was reached, or the file is another one by now. It is cut behind its last line end, or before its
//! last event, and what follows is read again later: nothing is kept for a file that waits, however long its
//! line. Of what waits each byte is searched for a line end once, and each line compared with a pattern once.

use std::fs::File;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use fshipper_pipeline::Batch;

use super::identity::{Fingerprint, MARKER_BYTES, Marker, Stat, read_at, read_head};
use super::lines::{Encoding, Lines};
use super::log::{Log, Now, Stage};
use super::reading::{Reading, Whereabouts};
use super::tail::Tail;
use super::text::SEARCH_BYTES;

/// A line that grows is looked through in pieces of this size for its end.
const SCAN_BYTES: u64 = 64 << 10;

/// What a look at the file of a log says.
enum View {
    /// Read so much.
    Read { length: usize, cut: Cut },
    /// Nothing to read now.
    Nothing,
    /// Where its text ends is not known yet.
    Searching,
    /// The file does not hold any more what was read of it.
    Replaced,
}

/// How much to take of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// All of it.
    Nowhere,
    /// Whole lines.
    BehindLastLine,
    /// Whole events. Of lines that begin before this byte of the block it is known that they begin none.
    BeforeLastEvent(usize),
}

impl Tail {
    /// The next batch of a log, if it has one now.
    pub(super) fn turn(&mut self, index: usize, now: Now) -> Option<Batch> {
        let log = &mut self.logs[index];
        if let Some(batch) = log.rotation.if_any().and_then(|rotation| rotation.outbox.pop_front()) {
            return Some(batch);
        }
        match self.read(index, now) {
            Ok(batch) => batch,
            Err(error) => {
                // Some errors stay with the open file (a stale handle, for one): it is opened again, if it can be.
                if let Stage::Reading(reading) = &mut self.logs[index].stage {
                    reading.open_anew(&error);
                }
                self.complain(index, &error);
                None
            }
        }
    }

    fn read(&mut self, index: usize, now: Now) -> io::Result<Option<Batch>> {
        if matches!(&self.logs[index].stage, Stage::Reading(reading) if reading.is_packed) {
            return self.read_packed(index, now);
        }
        if self.logs[index].is_at_rest() {
            self.reach_end(index, now);
            return Ok(None);
        }
        if !self.open_again(index)? {
            return Ok(None);
        }
        self.used(index);
        let view = self.view(index, now)?;
        match view {
            View::Read { length, cut } => self.read_block(index, length, cut, now),
            View::Nothing => {
                self.reach_end(index, now);
                Ok(None)
            }
            View::Searching => {
                self.effort += SEARCH_BYTES as usize;
                self.make_ready(index);
                Ok(None)
            }
            View::Replaced => {
                self.replace(index, now);
                Ok(None)
            }
        }
    }

    /// Compares the file with what it was, and decides how much to read.
    fn view(&mut self, index: usize, now: Now) -> io::Result<View> {
        let max_batch_bytes = self.options.max_batch_bytes as u64;
        let is_ending = self.is_ending;
        let log = &mut self.logs[index];
        let table = &self.options.tables[log.table];
        let (lines, max_line_bytes) = (&table.lines, table.max_line_bytes as u64);
        let encoding = lines.encoding;
        let position = log.position();
        // A generation that another one follows ends where that one begins.
        let known_end = log.next_base().map(|next| next - log.offset + position);
        let Stage::Reading(reading) = &mut log.stage else { return Ok(View::Nothing) };
        let Some(file) = &reading.file else { return Ok(View::Nothing) };

        let stat = Stat::of_file(file)?;
        let text_end = reading.text.end();
        if stat.size < position || stat.size < text_end {
            // What it held at the last look was still what it had been.
            reading.sound_end = text_end;
            return Ok(View::Replaced);
        }
        let is_touched = stat.modified != reading.modified;
        reading.size = stat.size;
        reading.modified = stat.modified;
        if known_end.is_some() {
            reading.text.take_all(stat.size);
        } else if reading.text.find(file, position, stat.size, encoding.width(), is_touched)?.is_none() {
            return Ok(View::Searching);
        }
        let size = reading.text.end();
        if size > text_end {
            reading.grown = now.instant;
        }
        if is_ending {
            // Half a character at the end is one that is being written.
            let is_home = reading.whereabouts == Whereabouts::Home;
            let whole = size - size % encoding.width() as u64;
            reading.stop_at.get_or_insert(if is_home { whole } else { size });
        }
        let end = [known_end, reading.stop_at].into_iter().flatten().fold(size, u64::min);
        let waiting = end.saturating_sub(position);
        if waiting == 0 {
            // Nothing new, and yet it was written to: the same length with another content?
            let is_replaced = is_touched && !is_what_was_read(log)?;
            return Ok(if is_replaced { View::Replaced } else { View::Nothing });
        }
        let length = waiting.min(max_batch_bytes);
        let is_rest = length == waiting;
        // Text may have become zeros.
        reading.scanned = reading.scanned.min(end);
        reading.judged = reading.judged.min(end);
        let may_finish = may_finish(reading, table.rotate_wait, is_ending, now);
        let everything = is_rest && (known_end == Some(end) || may_finish);
        if everything {
            return Ok(View::Read { length: length as usize, cut: Cut::Nowhere });
        }
        let still = now.instant.saturating_duration_since(reading.grown);
        let is_released = lines.timeout().is_none_or(|timeout| still >= timeout);
        let judged = reading.judged.max(position);
        let has_whole_lines = judged > position;
        if reading.scanned > position && waiting < max_line_bytes && !(is_released && has_whole_lines) {
            // A line that grew: read it once it is whole.
            reading.scanned = scan(file, reading.scanned, end, encoding)?;
            if end - reading.scanned < encoding.width() as u64 {
                return Ok(View::Nothing);
            }
            if !is_released {
                let fresh = read_at(file, judged, (end - judged) as usize)?;
                let lowest = usize::from(!has_whole_lines);
                let event = lines.last_event(&fresh, judged, lowest);
                reading.judged = judged + encoding.last_end(&fresh, judged).unwrap_or(0) as u64;
                reading.scanned = judged + encoding.whole(judged, fresh.len()) as u64;
                let Some(event) = event else { return Ok(View::Nothing) };
                let length = (judged - position) as usize + event;
                return Ok(View::Read { length, cut: Cut::Nowhere });
            }
        }
        let unjudged = (judged - position).max(1) as usize;
        let cut = if is_released { Cut::BehindLastLine } else { Cut::BeforeLastEvent(unjudged) };
        Ok(View::Read { length: length as usize, cut })
    }

    fn read_block(&mut self, index: usize, length: usize, cut: Cut, now: Now) -> io::Result<Option<Batch>> {
        let log = &mut self.logs[index];
        let table = &self.options.tables[log.table];
        let position = log.position();
        let (Stage::Reading(reading), Some(generation)) = (&mut log.stage, log.generations.get(log.current))
        else {
            return Ok(None);
        };
        let Some(file) = &reading.file else { return Ok(None) };
        let lead = position.min(MARKER_BYTES as u64) as usize;
        let block = read_at(file, position - lead as u64, lead + length)?;
        let mark = log.mark.filter(|mark| mark.0 == log.offset);
        let is_mark_there = mark.is_none_or(|(_, marker)| marker.matches(&block[..lead.min(block.len())]));
        let fingerprint = &generation.fingerprint;
        let covers_head = position == lead as u64 && block.len() >= usize::from(fingerprint.length);
        let is_head_there = match mark {
            _ if covers_head => fingerprint.matches(&block),
            Some(_) => true,
            // Nothing else tells it from a file that was written anew.
            None => fingerprint.matches(&read_head(file)?),
        };
        if block.len() < lead || !is_mark_there || !is_head_there {
            self.replace(index, now);
            return Ok(None);
        }
        reading.sound_end = reading.text.end();
        let data = &block[lead..];
        // Shorter than it was a moment ago: then this is not all of it.
        let cut = if data.len() < length && cut == Cut::Nowhere { Cut::BehindLastLine } else { cut };
        let taken = table.lines.take(data, position, cut, table.max_line_bytes);
        if let Cut::BeforeLastEvent(_) = cut {
            reading.judged = position + table.lines.encoding.last_end(data, position).unwrap_or(0) as u64;
        }
        if taken == 0 {
            reading.scanned = position + table.lines.encoding.whole(position, data.len()) as u64;
            self.reach_end(index, now);
            return Ok(None);
        }
        if generation.fingerprint.is_outgrown(reading.text.end()) && !self.grow_fingerprint(index)? {
            self.replace(index, now);
            return Ok(None);
        }
        let log = &mut self.logs[index];
        let start = log.offset;
        log.offset += taken as u64;
        log.mark = Some((log.offset, Marker::of(&block[..lead + taken])));
        let bytes = Bytes::from(block).slice(lead..lead + taken);
        let mut batch = Batch::data(log.origin.clone(), log.epoch, start, bytes);
        if let Some(place) = log.place(false) {
            batch.place = place.encode();
        }
        if log.complaint.settle() {
            tracing::info!("reading `{}` again", log.origin);
        }
        Ok(Some(batch))
    }

    /// Takes a longer fingerprint of a file that has grown; whether it still begins as it did.
    fn grow_fingerprint(&mut self, index: usize) -> io::Result<bool> {
        let log = &mut self.logs[index];
        let Stage::Reading(reading) = &log.stage else { return Ok(true) };
        let Some(file) = &reading.file else { return Ok(true) };
        let mut head = read_head(file)?;
        let generation = &mut log.generations[log.current];
        if !generation.fingerprint.matches(&head) {
            return Ok(false);
        }
        head.truncate(reading.text.end() as usize);
        generation.fingerprint = Fingerprint::of(&head);
        self.state.stage_generation(&log.path, log.epoch, &log.generations[log.current]);
        Ok(true)
    }

    /// All of the file was read, or all but a line that has no end yet.
    fn reach_end(&mut self, index: usize, now: Now) {
        self.await_release(index);
        let log = &mut self.logs[index];
        let (position, next_base) = (log.position(), log.next_base());
        let Stage::Reading(reading) = &mut log.stage else { return };
        let rotate_wait = self.options.tables[log.table].rotate_wait;
        let may_finish = may_finish(reading, rotate_wait, self.is_ending, now);
        let text_end = reading.text.end();
        if self.is_ending && text_end <= position {
            reading.tell_zeros();
        }
        if let Some(next_base) = next_base {
            let is_there = log.offset >= next_base;
            let is_short = may_finish && text_end <= position;
            if is_there || is_short {
                if !is_there {
                    // Shorter than it was when the next generation began: it was cut since.
                    let missing = next_base - log.offset;
                    let reason = "the file was cut before it was read to its end".to_owned();
                    log.lose(&mut self.state, missing, reason);
                    self.make_ready(index);
                }
                self.finish(index);
                return;
            }
        }
        if reading.whereabouts == Whereabouts::Home {
            return;
        }
        self.waiting.insert(index);
        if !may_finish || text_end > position {
            return;
        }
        let is_finished = match reading.whereabouts {
            Whereabouts::Copy | Whereabouts::Gone => true,
            // As long as nothing follows, its writer may still be at it.
            Whereabouts::Moved | Whereabouts::Home => self.has_successor(index, now),
        };
        if is_finished {
            self.finish(index);
        }
    }

    /// Whole lines that may be continued are looked at again when that has become unlikely.
    fn await_release(&mut self, index: usize) {
        let log = &mut self.logs[index];
        let position = log.position();
        if let Stage::Reading(reading) = &log.stage
            && let Some(timeout) = self.options.tables[log.table].lines.timeout()
            && reading.judged > position
            && !log.awaits_release
        {
            log.awaits_release = true;
            self.releases.insert((reading.grown + timeout, index));
        }
    }

    /// The file was truncated or overwritten in place. What was not read of it may be in a copy.
    fn replace(&mut self, index: usize, now: Now) {
        let log = &mut self.logs[index];
        log.note_end();
        if let Stage::Reading(reading) = log.stop_reading(Stage::Locate) {
            log.rotation.make().replaced = Some(reading.id);
        }
        self.discovery.look_again(&log.path);
        self.discover(now);
        self.unsettled.insert(index);
    }
}

impl Log {
    /// Remembers how far the file of the current generation went when it was last seen.
    pub(super) fn note_end(&mut self) {
        if let Stage::Reading(reading) = &self.stage
            && !reading.is_packed
        {
            let unread = reading.sound_end.saturating_sub(self.position());
            self.rotation.make().seen_end = Some(self.offset + unread);
        }
    }
}

/// Whether a last line without an end is all that will come.
fn may_finish(reading: &Reading, rotate_wait: Duration, is_ending: bool, now: Now) -> bool {
    let is_still = now.instant.saturating_duration_since(reading.grown) >= rotate_wait;
    match reading.whereabouts {
        _ if is_ending => true,
        Whereabouts::Copy => true,
        Whereabouts::Moved | Whereabouts::Gone => is_still,
        Whereabouts::Home => false,
    }
}

/// Looks for the end of a line from `position` on to `end`, and returns how far none was found.
fn scan(file: &File, mut position: u64, end: u64, encoding: Encoding) -> io::Result<u64> {
    while end - position >= encoding.width() as u64 {
        let piece = read_at(file, position, (end - position).min(SCAN_BYTES) as usize)?;
        let whole = encoding.whole(position, piece.len());
        // There is less than a character when it was cut since.
        if whole == 0 || encoding.last_end(&piece, position).is_some() {
            break;
        }
        position += whole as u64;
    }
    Ok(position)
}

/// Whether the file begins as it did, and the bytes before the position are those that were read.
fn is_what_was_read(log: &Log) -> io::Result<bool> {
    let (Stage::Reading(reading), Some(generation)) = (&log.stage, log.generation()) else { return Ok(true) };
    let Some(file) = &reading.file else { return Ok(true) };
    if !generation.fingerprint.matches(&read_head(file)?) {
        return Ok(false);
    }
    let Some((offset, marker)) = log.mark.filter(|mark| mark.0 == log.offset) else { return Ok(true) };
    let behind = Log::file_position(generation, offset);
    let length = u64::from(marker.length).min(behind);
    Ok(marker.matches(&read_at(file, behind - length, length as usize)?))
}

impl Lines {
    /// How much of `data`, which stands at `position` of the file, to take: as `cut` says; a part when a line or
    /// an event is longer than `max_line_bytes`; else nothing.
    pub(super) fn take(&self, data: &[u8], position: u64, cut: Cut, max_line_bytes: usize) -> usize {
        let taken = match cut {
            Cut::Nowhere => Some(data.len()),
            Cut::BehindLastLine => self.encoding.last_end(data, position),
            Cut::BeforeLastEvent(unjudged) => self.last_event(data, position, unjudged),
        };
        match taken {
            Some(taken) => taken,
            None if data.len() >= max_line_bytes => {
                let part = &data[..max_line_bytes];
                let whole = || self.encoding.whole(position, part.len());
                self.encoding.last_end(part, position).unwrap_or_else(whole)
            }
            None => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// It was cut between two looks at it.
    #[test]
    fn half_a_character_where_more_should_be_ends_the_search_for_a_line_end() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"a\0b").unwrap();
        assert_eq!(scan(&file, 0, 100, Encoding::Utf16Le).unwrap(), 2);
        assert_eq!(scan(&file, 2, 100, Encoding::Utf16Le).unwrap(), 2);
        assert_eq!(scan(&file, 2, 100, Encoding::Utf8).unwrap(), 3);
    }

    fn cut(data: &[u8], everything: bool, max_line_bytes: usize) -> usize {
        let cut = if everything { Cut::Nowhere } else { Cut::BehindLastLine };
        Lines::default().take(data, 0, cut, max_line_bytes)
    }

    #[test]
    fn cuts_behind_the_last_line_end() {
        assert_eq!(cut(b"one\ntwo\nthr", false, 100), 8);
        assert_eq!(cut(b"\n", false, 100), 1);
        assert_eq!(cut(b"thr", false, 100), 0);
        assert_eq!(cut(b"thr", true, 100), 3);
        assert_eq!(cut(b"one\nthr", true, 100), 7);
    }

    #[test]
    fn cuts_a_part_when_a_line_is_too_long() {
        assert_eq!(cut(b"12345", false, 6), 0);
        assert_eq!(cut(b"123456", false, 6), 6);
        assert_eq!(cut(b"1234567", false, 6), 6);
        assert_eq!(cut(b"a\n1234567", false, 6), 2);
    }
}
