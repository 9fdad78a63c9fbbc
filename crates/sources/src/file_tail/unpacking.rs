//! Reading one batch of a compressed file: [`Tail::read_packed`].
//!
//! Offsets count decompressed bytes, and a position is reached by decoding everything before it. So the
//! decoder is kept until the file is finished, and only a few are at work at any time; other compressed files
//! wait for one. A file that is still being written is read as far as it goes.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fshipper_pipeline::Batch;

use super::candidates::is_absence;
use super::gunzip::{Flow, Gunzip};
use super::identity::{self, MARKER_BYTES, Marker, Stat};
use super::log::{Now, Stage};
use super::tail::Tail;
use super::text::{TextEnd, text_in};
use super::turn::Cut;

/// A compressed file that has not changed for so long is complete, or will never be.
pub(crate) const COMPLETE_AFTER: Duration = Duration::from_secs(5);

/// A decoder takes about 100 KiB, and up to a batch of what it has decoded.
const MAX_DECODERS: usize = 4;

/// On the way to a position, the others get their turn whenever so much was decoded.
const SKIP_BYTES: usize = 4 << 20;

/// A compressed file on its way.
pub(crate) struct Unpacking {
    gunzip: Gunzip,
    /// How much of the content was taken or passed over.
    position: u64,
    /// The last bytes before that.
    lead: Vec<u8>,
    /// What was decoded behind it.
    waiting: Vec<u8>,
    /// Whether the position that was asked for has been reached.
    has_arrived: bool,
    /// One of [`MAX_DECODERS`].
    _slot: Arc<()>,
}

impl std::fmt::Debug for Unpacking {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Unpacking").field("position", &self.position).finish_non_exhaustive()
    }
}

impl Unpacking {
    /// Moves the front of what was decoded behind the position.
    fn take(&mut self, length: usize) -> Vec<u8> {
        let rest = self.waiting.split_off(length);
        let taken = std::mem::replace(&mut self.waiting, rest);
        self.position += length as u64;
        self.lead.extend_from_slice(&taken[length.saturating_sub(MARKER_BYTES)..]);
        self.lead.drain(..self.lead.len().saturating_sub(MARKER_BYTES));
        taken
    }
}

impl Tail {
    pub(super) fn read_packed(&mut self, index: usize, now: Now) -> io::Result<Option<Batch>> {
        if !self.unpack(index)? {
            return Ok(None);
        }
        let log = &mut self.logs[index];
        let table = &self.options.tables[log.table];
        let position = log.position();
        // A generation that another one follows ends where that one begins.
        let known_end = log.next_base().map(|next| next.saturating_sub(log.offset));
        let Stage::Reading(reading) = &mut log.stage else { return Ok(None) };
        let Some(unpacking) = &mut reading.unpacking else { return Ok(None) };
        let stat = Stat::of_file(unpacking.gunzip.file())?;
        if stat.size != reading.size {
            (reading.size, reading.grown) = (stat.size, now.instant);
        }
        let is_quiet = now.instant.saturating_duration_since(reading.grown) >= COMPLETE_AFTER;

        let mut flow = Flow::Full;
        let mut skipped = 0;
        while unpacking.position < position && flow == Flow::Full && skipped < SKIP_BYTES {
            let step = (position - unpacking.position).min(SKIP_BYTES as u64) as usize;
            flow = unpacking.gunzip.decode(&mut unpacking.waiting, step.min(64 << 10))?;
            skipped += unpacking.take(unpacking.waiting.len()).len();
        }
        self.effort += skipped;
        if unpacking.position < position && flow == Flow::Full {
            self.make_ready(index);
            return Ok(None);
        }
        if !unpacking.has_arrived && unpacking.position == position {
            let mark = log.mark.filter(|mark| mark.0 == log.offset);
            if mark.is_some_and(|(_, marker)| !marker.matches(&unpacking.lead)) {
                // Written anew since it was found.
                log.rotation.make().replaced = Some(reading.id);
                log.stop_reading(Stage::Locate);
                self.unsettled.insert(index);
                return Ok(None);
            }
            unpacking.has_arrived = true;
        }
        let wanted = known_end.map_or(usize::MAX, |end| end as usize).min(self.options.max_batch_bytes);
        if flow == Flow::Full {
            let missing = wanted.saturating_sub(unpacking.waiting.len());
            flow = unpacking.gunzip.decode(&mut unpacking.waiting, missing)?;
        }
        let width = table.lines.encoding.width();
        let length = unpacking.waiting.len();
        let mut text = length;
        let mut is_rest_zero = false;
        if known_end.is_none() && unpacking.waiting.last() == Some(&0) {
            // Whether these are the zeros that end the file shows when it is whole.
            if is_quiet || self.is_ending {
                if !reading.text.is_found() {
                    reading.text = TextEnd::of_packed(unpacking.gunzip.file(), width)?;
                }
                text = reading.text.end().saturating_sub(position).min(length as u64) as usize;
                is_rest_zero = text < length;
            } else {
                let end = text_in(&unpacking.waiting, position, width).unwrap_or(position);
                text = ((end - position) as usize).min(length);
            }
        }
        let is_last = match &flow {
            _ if is_rest_zero => true,
            Flow::Full => known_end == Some(length as u64),
            Flow::Damaged(_) => true,
            Flow::Over => is_quiet || self.is_ending,
            Flow::Starved => is_quiet,
        };
        let cut = match is_last {
            true => Cut::Nowhere,
            false if table.lines.events.is_some() => Cut::BeforeLastEvent(1),
            false => Cut::BehindLastLine,
        };
        let taken = table.lines.take(&unpacking.waiting[..text], position, cut, table.max_line_bytes);
        if taken == 0 {
            match is_last {
                true => self.end_packed(index, &flow),
                false => drop(self.waiting.insert(index)),
            }
            return Ok(None);
        }
        let lead = unpacking.lead.clone();
        let bytes = unpacking.take(taken);
        let marker = match bytes.len() < MARKER_BYTES {
            true => Marker::of(&[&lead[..], &bytes].concat()),
            false => Marker::of(&bytes),
        };
        let start = log.offset;
        log.offset += taken as u64;
        log.mark = Some((log.offset, marker));
        let mut batch = Batch::data(log.origin.clone(), log.epoch, start, Bytes::from(bytes));
        if let Some(place) = log.place(false) {
            batch.place = place.encode();
        }
        log.complaint.settle();
        Ok(Some(batch))
    }

    /// Whether the log has a decoder; it may have to wait for one.
    fn unpack(&mut self, index: usize) -> io::Result<bool> {
        let log = &mut self.logs[index];
        let Stage::Reading(reading) = &mut log.stage else { return Ok(false) };
        if reading.unpacking.is_some() {
            return Ok(true);
        }
        self.waiting.insert(index);
        if Arc::strong_count(&self.decoders) > MAX_DECODERS {
            return Ok(false);
        }
        let file = match identity::open(&reading.path) {
            Err(error) if is_absence(&error) => None,
            opened => Some(opened?),
        };
        let Some(file) = file else {
            self.discovery.look_again(&log.path);
            return Ok(false);
        };
        if Stat::of_file(&file)?.id != reading.id {
            self.discovery.look_again(&log.path);
            return Ok(false);
        }
        reading.unpacking = Some(Box::new(Unpacking {
            gunzip: Gunzip::new(file),
            position: 0,
            lead: Vec::new(),
            waiting: Vec::new(),
            has_arrived: false,
            _slot: self.decoders.clone(),
        }));
        Ok(true)
    }

    /// Nothing more comes of a compressed file. What it should have held and does not is lost.
    fn end_packed(&mut self, index: usize, flow: &Flow) {
        let log = &mut self.logs[index];
        let Stage::Reading(reading) = &log.stage else { return };
        let path = reading.path.display();
        let reason = match flow {
            Flow::Damaged(reason) => Some(format!("`{path}` is damaged: {reason}")),
            Flow::Starved => Some(format!("`{path}` ends before its content does")),
            Flow::Full | Flow::Over => None,
        };
        let known_end = log.next_base().or(log.generation().and_then(|known| known.end).map(|end| end.0));
        let missing = known_end.or(log.rotation.seen_end).map_or(0, |end| end.saturating_sub(log.offset));
        let is_complete = known_end.is_some() && missing == 0;
        match reason {
            Some(reason) if !is_complete => log.lose(&mut self.state, missing, reason),
            None if missing > 0 => {
                let reason = format!("`{path}` lacks the end of what was compressed");
                log.lose(&mut self.state, missing, reason);
            }
            _ => {}
        }
        self.make_ready(index);
        self.finish(index);
    }
}
