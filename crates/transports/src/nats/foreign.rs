//! Positions for messages that carry none: [`Foreign`].
//!
//! Lines of other publishers get offsets in the order of the stream, one origin for each subject. The sequence
//! of the last message that was stored stands in the place of the position; whatever is not beyond it is known.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::fmt;
use std::time::SystemTime;

use bytes::Bytes;
use fshipper_pipeline::{Batch, Checkpoint, Content, Epoch, Origin};

use super::wire;

/// How far the messages of other publishers have been numbered.
#[derive(Debug, Default)]
pub(super) struct Foreign {
    ends: HashMap<Origin, End>,
}

/// A message without a position.
#[derive(Debug)]
pub(super) struct ForeignMessage {
    pub(super) origin: Origin,
    /// The history of its stream.
    pub(super) epoch: Epoch,
    pub(super) sequence: u64,
    /// When it was stored, in nanoseconds since 1970.
    pub(super) stored: i64,
    /// The same, for its batches.
    pub(super) time: SystemTime,
    pub(super) bytes: Bytes,
}

/// Where an origin stands after a whole message.
#[derive(Clone, Copy, Debug)]
struct End {
    epoch: Epoch,
    offset: u64,
    last: Last,
}

/// A message that is stored whole; the default when there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Last {
    /// Its place in the stream.
    pub(super) sequence: u64,
    /// When the stream stored it, in nanoseconds since 1970: another message in its place has another time.
    pub(super) time: i64,
}

/// What stands in a position: the last message that is stored whole, and how many bytes of the next one are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    last: Last,
    partly: u64,
}

/// Whether a position with this place is one of those that are given here.
pub(super) fn is_foreign(place: &[u8]) -> bool {
    Mark::parse(place).is_some()
}

impl Foreign {
    /// Where the sink stands.
    pub(super) fn restore(from: &Checkpoint) -> Self {
        let ends = from.origins().filter_map(|(origin, history)| {
            let position = &history.current;
            let mark = Mark::parse(&position.place)?;
            let offset = position.offset.checked_sub(mark.partly)?;
            Some((origin.clone(), End { epoch: position.epoch, offset, last: mark.last }))
        });
        Self { ends: ends.collect() }
    }

    /// The newest message of each epoch in which any were numbered, the latest first.
    pub(super) fn newest(&self) -> Vec<(Epoch, Last)> {
        let mut newest: HashMap<Epoch, Last> = HashMap::new();
        for End { epoch, last, .. } in self.ends.values() {
            let of_epoch = newest.entry(*epoch).or_default();
            if last.sequence > of_epoch.sequence {
                *of_epoch = *last;
            }
        }
        let mut newest: Vec<_> = newest.into_iter().filter(|(_, last)| last.sequence > 0).collect();
        newest.sort_unstable_by_key(|(_, last)| Reverse(last.time));
        newest
    }

    /// The message with its position, in parts of at most `max_bytes`; nothing when it is known.
    pub(super) fn number(
        &mut self,
        message: ForeignMessage,
        max_bytes: usize,
    ) -> impl Iterator<Item = Batch> + use<> {
        let ForeignMessage { origin, epoch, sequence, stored, time, bytes } = message;
        let start = End { epoch, offset: 0, last: Last::default() };
        let end = self.ends.entry(origin.clone()).or_insert(start);
        if end.epoch != epoch {
            *end = start;
        }
        let End { offset, last, .. } = *end;
        let this = Last { sequence, time: stored };
        let is_new = sequence > last.sequence;
        if is_new {
            (end.offset, end.last) = (offset + bytes.len() as u64, this);
        }
        let whole = end.offset;
        let content = Content::Data(bytes);
        let batch = Batch { time, content, ..Batch::data(origin, epoch, offset, Bytes::new()) };
        let parts = is_new.then(|| wire::split(batch, max_bytes)).into_iter().flatten();
        parts.map(move |part| {
            let mark = match part.end() {
                end if end == whole => Mark { last: this, partly: 0 },
                end => Mark { last, partly: end - offset },
            };
            Batch { place: mark.to_string().into(), ..part }
        })
    }
}

impl Mark {
    /// Reads what [`Display`](fmt::Display) wrote.
    fn parse(place: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(place).ok()?.strip_prefix("seq=")?;
        let (last, partly) = text.split_once('+').unwrap_or((text, "0"));
        let (sequence, time) = last.split_once('@')?;
        let last = Last { sequence: sequence.parse().ok()?, time: time.parse().ok()? };
        Some(Self { last, partly: partly.parse().ok()? })
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { last: Last { sequence, time }, partly } = self;
        match partly {
            0 => write!(f, "seq={sequence}@{time}"),
            partly => write!(f, "seq={sequence}@{time}+{partly}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: Epoch = Epoch(7);

    fn message(epoch: Epoch, sequence: u64, text: &'static str) -> ForeignMessage {
        let origin = Origin::new("web2", "shipper.web2.app");
        let stored = 100 * sequence as i64;
        ForeignMessage { origin, epoch, sequence, stored, time: SystemTime::now(), bytes: text.into() }
    }

    fn numbered(foreign: &mut Foreign, message: ForeignMessage) -> Vec<(u64, String, String)> {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let parts = foreign.number(message, 5);
        parts.map(|part| (part.start, text(part.bytes()), text(&part.place))).collect()
    }

    fn part(start: u64, text: &str, place: &str) -> (u64, String, String) {
        (start, text.to_owned(), place.to_owned())
    }

    #[test]
    fn messages_follow_each_other_and_known_ones_are_left_out() {
        let mut foreign = Foreign::default();
        assert_eq!(numbered(&mut foreign, message(EPOCH, 3, "one\n")), [part(0, "one\n", "seq=3@300")]);
        assert_eq!(numbered(&mut foreign, message(EPOCH, 3, "one\n")), []);
        assert_eq!(numbered(&mut foreign, message(EPOCH, 9, "two\n")), [part(4, "two\n", "seq=9@900")]);
    }

    #[test]
    fn another_history_of_the_stream_starts_again() {
        let mut foreign = Foreign::default();
        numbered(&mut foreign, message(EPOCH, 3, "one\n"));
        assert_eq!(numbered(&mut foreign, message(Epoch(8), 1, "new\n")), [part(0, "new\n", "seq=1@100")]);
    }

    #[test]
    fn a_message_stored_in_part_is_finished_after_a_restart() {
        let mut foreign = Foreign::default();
        numbered(&mut foreign, message(EPOCH, 3, "one\n"));
        let parts: Vec<_> = foreign.number(message(EPOCH, 5, "two\nthree\n"), 5).collect();
        let places: Vec<_> =
            parts.iter().map(|part| String::from_utf8(part.place.to_vec()).unwrap()).collect();
        assert_eq!(places, ["seq=3@300+4", "seq=3@300+9", "seq=5@500"]);

        let mut checkpoint = Checkpoint::default();
        checkpoint.advance(&parts[0]);
        let mut restored = Foreign::restore(&checkpoint);
        assert_eq!(numbered(&mut restored, message(EPOCH, 3, "one\n")), []);
        let again: Vec<_> = restored.number(message(EPOCH, 5, "two\nthree\n"), 5).collect();
        assert_eq!((again[0].start, again[0].bytes()), (4, &b"two\n"[..]), "the ledger cuts off what it has");
        assert_eq!(again.len(), 3);
    }

    #[test]
    fn knows_the_newest_message_of_each_history() {
        let (mut foreign, mut checkpoint) = (Foreign::default(), Checkpoint::default());
        for (subject, epoch, sequence) in
            [("a", EPOCH, 3), ("b", EPOCH, 9), ("c", EPOCH, 7), ("d", Epoch(8), 11)]
        {
            let origin = Origin::new("web2", subject);
            foreign.number(ForeignMessage { origin, ..message(epoch, sequence, "one\n") }, 100).for_each(
                |part| {
                    checkpoint.advance(&part);
                },
            );
        }
        for foreign in [foreign, Foreign::restore(&checkpoint)] {
            let expected =
                [(Epoch(8), Last { sequence: 11, time: 1100 }), (EPOCH, Last { sequence: 9, time: 900 })];
            assert_eq!(foreign.newest(), expected);
        }
    }

    #[test]
    fn positions_of_our_own_messages_are_not_taken_for_foreign_ones() {
        let mut checkpoint = Checkpoint::default();
        let ours = Batch::data(Origin::new("web2", "shipper.web2.app"), EPOCH, 0, "x\n");
        checkpoint.advance(&Batch { place: "generation=1".into(), ..ours });
        assert_eq!(Foreign::restore(&checkpoint).ends.len(), 0);
    }
}
