//! What the stream's last message of an origin says of a batch whose fate is unknown: [`judge`].

use std::ops::Range;

use anyhow::{Result, bail};
use fshipper_pipeline::{Batch, Epoch, Origin};

use super::restore::{Last, Ours, Tail};
use super::wire::Described;

/// What the stream's last message of an origin means for a batch.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It has the whole batch.
    Stored(Tail),
    /// It has some of the batch, or nothing: go on after this.
    Continue(Tail),
    /// It has less than it acknowledged.
    WentBack,
    /// It has another history.
    Rival(String),
}

/// Which bytes of a log were sent, as one or several messages.
#[derive(Clone, Debug)]
pub(super) struct Extent<'a> {
    pub(super) origin: &'a Origin,
    pub(super) epoch: Epoch,
    pub(super) start: u64,
    pub(super) end: u64,
    /// The bytes themselves, each part with where it starts, in order and without a hole; of a loss there are none.
    pub(super) parts: Vec<(u64, &'a [u8])>,
}

impl<'a> From<&'a Batch> for Extent<'a> {
    fn from(batch: &'a Batch) -> Self {
        let Batch { origin, epoch, start, .. } = batch;
        Self { origin, epoch: *epoch, start: *start, end: batch.end(), parts: vec![(*start, batch.bytes())] }
    }
}

impl Extent<'_> {
    /// Whether a message holds bytes that are here as well, and are others.
    fn contradicts(&self, message: &Described) -> bool {
        let Described { start, end, .. } = *message;
        let is_within = self.start <= start && end <= self.end;
        match message.data_crc32c().filter(|_| is_within).zip(self.crc32c(start..end)) {
            Some((theirs, ours)) => theirs != ours,
            None => false,
        }
    }

    /// The CRC of a part of what was sent; `None` where it is no data.
    fn crc32c(&self, span: Range<u64>) -> Option<u32> {
        let (mut crc32c, mut reached) = (0, span.start);
        for (start, bytes) in &self.parts {
            let end = span.end.min(start + bytes.len() as u64);
            if *start <= reached && reached < end {
                crc32c =
                    crc32c::crc32c_append(crc32c, &bytes[(reached - start) as usize..(end - start) as usize]);
                reached = end;
            }
        }
        (reached == span.end).then_some(crc32c)
    }
}

impl From<Last> for Tail {
    fn from(Last { sequence, ours }: Last) -> Self {
        Self { sequence, end: ours.map(|ours| (ours.described.epoch, ours.described.end)) }
    }
}

/// Compares what was `sent` after `tail` with the last message that the stream has.
///
/// | the last message | verdict |
/// | --- | --- |
/// | is the one we sent after | `Continue`: nothing came |
/// | is somebody else's, and none of ours came before it | `Continue` after it |
/// | ends within it, same epoch | `Continue` there: an older copy of us was cut elsewhere |
/// | ends at or after its end | `Stored`: the acknowledgement was lost, or somebody is ahead |
/// | ends before it, is older than the one we sent after, or is gone | `WentBack` |
/// | is of another epoch, or lies within it and holds other bytes | `Rival` |
pub(super) fn judge<'a>(tail: &Tail, sent: impl Into<Extent<'a>>, last: Option<&Last>) -> Verdict {
    let sent = sent.into();
    let Extent { origin, epoch, start, end: sent_end, .. } = sent;
    let Some(last) = last else {
        return if tail.sequence == 0 { Verdict::Continue(tail.clone()) } else { Verdict::WentBack };
    };
    if last.sequence == tail.sequence {
        return Verdict::Continue(tail.clone());
    }
    if last.sequence < tail.sequence {
        return Verdict::WentBack;
    }
    let Some(Ours { sequence, described }) = &last.ours else {
        // Others published there, and we never did, or nothing of ours was left there.
        return match tail {
            Tail { end, sequence } if end.is_none() || *sequence == 0 => {
                Verdict::Continue(Tail { sequence: last.sequence, end: *end })
            }
            _ => Verdict::WentBack,
        };
    };
    let end = described.end;
    if *sequence <= tail.sequence {
        // It was there before, and somebody else's message covers it: the position stands. It is below the end of
        // that message when everything from there on is being sent again.
        let stands = tail.end == Some((described.epoch, end)) || described.epoch == epoch && start <= end;
        return match stands {
            true => Verdict::Continue(Tail { sequence: last.sequence, end: tail.end }),
            false => Verdict::WentBack,
        };
    }
    if described.epoch != epoch {
        return Verdict::Rival(format!(
            "two producers publish `{origin}`: the stream holds the epoch {} up to {end}, and this is the epoch \
             {epoch}; stop one of them, or give them different names: `host` in `[pipeline]`, or `name` of a source `stdin`",
            described.epoch
        ));
    }
    let new = Tail { sequence: last.sequence, end: Some((described.epoch, end)) };
    if end < start {
        Verdict::WentBack
    } else if sent.contradicts(described) {
        Verdict::Rival(format!(
            "two producers publish `{origin}`: the stream holds other bytes from {} to {end} than this one has \
             there; stop one of them, or give them different names: `host` in `[pipeline]`, or `name` of a source `stdin`",
            described.start
        ))
    } else if end < sent_end {
        Verdict::Continue(new)
    } else if start == sent_end && tail.end == new.end && described.start < end {
        // The record of a loss of unknown amount ends where it starts: only one that spans nothing is it.
        Verdict::Continue(new)
    } else {
        Verdict::Stored(new)
    }
}

/// What of `batch` lies beyond the tail; the pump has admitted it, and this is the same check once more.
pub(super) fn beyond(tail: &Tail, batch: Batch) -> Result<Option<Batch>> {
    match tail.end {
        Some((epoch, end)) if epoch == batch.epoch => {
            if batch.start > end {
                let Batch { origin, start, .. } = batch;
                bail!(
                    "a batch of `{origin}` starts at {start}, and the stream ends at {end}: bytes are missing"
                );
            }
            Ok(if batch.start == end { Some(batch) } else { after(batch, end) })
        }
        _ => Ok(Some(batch)),
    }
}

/// What of `batch` lies after the offset `end`.
pub(super) fn after(mut batch: Batch, end: u64) -> Option<Batch> {
    if batch.end() <= end {
        return None;
    }
    let known = end.saturating_sub(batch.start);
    batch.cut_front(known);
    Some(batch)
}

/// How far the stream has the origin; 0 when it has nothing of it.
pub(super) fn offset_of(tail: &Tail) -> u64 {
    tail.end.map_or(0, |(_, end)| end)
}

#[cfg(test)]
mod tests {
    use super::super::subject::Subjects;
    use super::super::wire::{self, Encoding};
    use super::*;

    const EPOCH: Epoch = Epoch(7);

    fn batch(start: u64, text: &'static str) -> Batch {
        Batch::data(Origin::new("h", "/l"), EPOCH, start, text)
    }

    fn last(sequence: u64, batch: &Batch) -> Option<Last> {
        let subjects = Subjects::new("s", None, true);
        let message = wire::encode(batch, Encoding::default());
        let described =
            wire::headers_only(&subjects, &subjects.publish(&batch.origin), Some(&message.headers));
        let ours = described.unwrap().map(|described| Ours { sequence, described });
        Some(Last { sequence, ours })
    }

    fn tail(sequence: u64, end: u64) -> Tail {
        Tail { sequence, end: Some((EPOCH, end)) }
    }

    #[test]
    fn a_lost_acknowledgement_is_a_stored_batch() {
        let sent = batch(4, "two\n");
        assert_eq!(judge(&tail(1, 4), &sent, last(2, &sent).as_ref()), Verdict::Stored(tail(2, 8)));
        assert_eq!(
            judge(&Tail::default(), &batch(0, "one\n"), last(9, &batch(0, "one\n")).as_ref()),
            Verdict::Stored(tail(9, 4))
        );
    }

    #[test]
    fn what_was_not_stored_is_sent_again() {
        let known = batch(0, "one\n");
        assert_eq!(
            judge(&tail(1, 4), &batch(4, "two\n"), last(1, &known).as_ref()),
            Verdict::Continue(tail(1, 4))
        );
        assert_eq!(judge(&Tail::default(), &known, None), Verdict::Continue(Tail::default()));
    }

    #[test]
    fn an_older_copy_cut_elsewhere_is_continued_where_it_ends() {
        let (sent, copy) = (batch(4, "two\nthree\n"), batch(4, "two\n"));
        assert_eq!(judge(&tail(1, 4), &sent, last(2, &copy).as_ref()), Verdict::Continue(tail(2, 8)));
        assert_eq!(beyond(&tail(2, 8), sent).unwrap().unwrap().bytes(), b"three\n");
    }

    #[test]
    fn another_instance_ahead_of_us_makes_the_batch_a_duplicate() {
        let ahead = batch(8, "three\n");
        assert_eq!(
            judge(&tail(1, 4), &batch(4, "two\n"), last(3, &ahead).as_ref()),
            Verdict::Stored(tail(3, 14))
        );
        assert!(beyond(&tail(3, 14), batch(4, "two\n")).unwrap().is_none());
    }

    #[test]
    fn a_stream_that_has_less_than_it_acknowledged_went_back() {
        let sent = batch(4, "two\n");
        assert_eq!(judge(&tail(5, 4), &sent, None), Verdict::WentBack);
        assert_eq!(judge(&tail(5, 4), &sent, last(2, &batch(0, "o\n")).as_ref()), Verdict::WentBack);
        let foreign = Some(Last { sequence: 9, ours: None });
        assert_eq!(judge(&tail(5, 4), &sent, foreign.as_ref()), Verdict::WentBack);
    }

    #[test]
    fn another_publishers_message_on_top_leaves_the_position_where_it_was() {
        let known = last(1, &batch(0, "one\n")).unwrap();
        let covered = Some(Last { sequence: 3, ..known });
        assert_eq!(judge(&tail(1, 4), &batch(4, "two\n"), covered.as_ref()), Verdict::Continue(tail(3, 4)));
        let foreign = Some(Last { sequence: 3, ours: None });
        let expected = Tail { sequence: 3, end: None };
        assert_eq!(
            judge(&Tail::default(), &batch(0, "one\n"), foreign.as_ref()),
            Verdict::Continue(expected)
        );
        // The stream has nothing of it, and where it goes on is known from elsewhere: the commit floor.
        assert_eq!(judge(&tail(0, 4), &batch(4, "two\n"), foreign.as_ref()), Verdict::Continue(tail(3, 4)));
    }

    #[test]
    fn what_was_there_before_everything_is_sent_again_is_no_answer_to_it() {
        let reached = last(5, &batch(0, "one\ntwo\nthree\n")).unwrap();
        let covered = Last { sequence: 6, ..reached.clone() };
        assert_eq!(judge(&tail(5, 4), &batch(4, "two\n"), Some(&covered)), Verdict::Continue(tail(6, 4)));
        // A replica that lags, or a stream that went back.
        let older = last(4, &batch(0, "one\ntwo\n"));
        assert_eq!(judge(&tail(5, 4), &batch(4, "two\n"), older.as_ref()), Verdict::WentBack);
        let lost = Some(Last { sequence: 6, ..last(4, &batch(0, "o\n")).unwrap() });
        assert_eq!(judge(&tail(5, 4), &batch(4, "two\n"), lost.as_ref()), Verdict::WentBack);
    }

    #[test]
    fn other_bytes_in_the_place_of_ours_are_another_producers() {
        let is_rival = |sent: &Batch, theirs: &Batch| {
            matches!(judge(&tail(1, 4), sent, last(2, theirs).as_ref()), Verdict::Rival(_))
        };
        let sent = batch(4, "two\nthree\n");
        assert!(is_rival(&sent, &batch(4, "xxx\n")) && !is_rival(&sent, &batch(4, "two\n")));
        assert!(is_rival(&sent, &batch(8, "xxxxx\n")) && !is_rival(&sent, &batch(8, "three\n")));
        assert!(is_rival(&batch(4, "two\n"), &batch(4, "xxx\n")));
        // What is not here cannot be compared, and a loss has no bytes.
        assert!(!is_rival(&sent, &batch(8, "xxxxx\nfour\n")) && !is_rival(&sent, &batch(2, "xxxx\n")));
        let loss = Batch::loss(Origin::new("h", "/l"), EPOCH, 4, 4, "gone");
        assert!(!is_rival(&sent, &loss) && !is_rival(&loss, &batch(4, "two\n")));
    }

    #[test]
    fn bytes_that_were_sent_in_parts_are_compared_across_them() {
        let origin = Origin::new("h", "/l");
        let parts = vec![(4, &b"two\n"[..]), (8, &b"three\n"[..]), (14, &b"four\n"[..])];
        let sent = Extent { origin: &origin, epoch: EPOCH, start: 4, end: 14, parts };
        let verdict = |theirs: &Batch| judge(&tail(1, 4), sent.clone(), last(2, theirs).as_ref());
        assert_eq!(verdict(&batch(6, "o\nthree\n")), Verdict::Stored(tail(2, 14)));
        assert_eq!(verdict(&batch(6, "o\nth")), Verdict::Continue(tail(2, 10)));
        assert!(matches!(verdict(&batch(6, "o\nxx")), Verdict::Rival(_)));
        assert_eq!(verdict(&batch(14, "xxxx\n")), Verdict::Stored(tail(2, 19)), "it was not sent yet");
    }

    #[test]
    fn another_epoch_is_another_producer_unless_it_is_the_one_we_follow() {
        let theirs = Batch::data(Origin::new("h", "/l"), Epoch(8), 0, "one\n");
        let Verdict::Rival(reason) = judge(&tail(1, 4), &batch(4, "two\n"), last(2, &theirs).as_ref()) else {
            panic!("it is a rival")
        };
        assert!(reason.contains("0000000000000007") && reason.contains("0000000000000008"), "{reason}");

        let followed = Tail { sequence: 2, end: Some((Epoch(8), 4)) };
        let first = batch(0, "new\n");
        assert_eq!(judge(&followed, &first, last(2, &theirs).as_ref()), Verdict::Continue(followed.clone()));
    }

    #[test]
    fn the_record_of_a_loss_of_nothing_is_told_from_what_came_before_it() {
        let loss = Batch::loss(Origin::new("h", "/l"), EPOCH, 4, 0, "overwritten");
        let known = batch(0, "one\n");
        assert_eq!(judge(&tail(1, 4), &loss, last(1, &known).as_ref()), Verdict::Continue(tail(1, 4)));
        assert_eq!(judge(&tail(1, 4), &loss, last(2, &loss).as_ref()), Verdict::Stored(tail(2, 4)));
        assert_eq!(after(loss, 4).map(|batch| batch.start), None);
    }

    #[test]
    fn bytes_missing_before_a_batch_are_never_published_past() {
        assert!(beyond(&tail(1, 4), batch(5, "x\n")).is_err());
    }
}
