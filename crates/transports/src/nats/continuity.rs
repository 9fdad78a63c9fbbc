//! Whether the stream still has what it acknowledged: [`Shipper::is_whole`].
//!
//! A broker that lost its latest writes gives their sequences to other messages. Of a log that is publishing, the
//! next refusal shows it; of one that is idle nothing does, and once others have published, the loss looks as if
//! retention had taken the message. What is lost is always the end, so the sender looks for the newest message
//! that it knows to be stored after every break of the connection. A stream that is deleted, restored, or kept by
//! another server than the one connected to goes back without a break: so every minute it asks how far the stream
//! goes, and a message that is stored under a sequence which an earlier one had shows the same.

use std::sync::{Mutex, PoisonError};

use anyhow::anyhow;
use async_nats::Subject;
use fshipper_pipeline::{Backoff, Epoch, Origin};

use super::outcome::Stop;
use super::restore::{Last, Tail};
use super::shipper::{RETRY_FIRST, RETRY_MOST, Shipper};
use super::stream::Stream;

/// What a sender remembers for that.
#[derive(Debug)]
pub(super) struct Continuity {
    known: Mutex<Known>,
    checked: tokio::sync::Mutex<Checked>,
}

#[derive(Debug, Default)]
struct Known {
    /// What is looked for.
    newest: Option<Newest>,
    /// The same of what was stored over a connection after which nothing was looked for yet: that it is there says
    /// nothing of what was stored before the break.
    since_the_break: Option<Newest>,
    /// Over which connection that was last done, counted from 1.
    connects: u64,
}

/// Of all messages of this host that the stream is known to have, the one with the highest sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Newest {
    origin: Origin,
    sequence: u64,
    epoch: Epoch,
    end: u64,
}

#[derive(Debug)]
struct Checked {
    /// Over which connection that was last asked.
    connects: u64,
    /// Whether everything was found since the sender began.
    whole: bool,
}

/// How often the newest message is looked for: a replica may lag, and a publish of the same log that was under
/// way when the connection broke may have been stored and not been settled yet.
const MAX_LOOKS: u32 = 5;

impl Continuity {
    /// For a sender that knows nothing yet and begins over the connection with the number `connects`.
    pub(super) fn new(connects: u64) -> Self {
        let known = Known { connects, ..Known::default() };
        Self { known: known.into(), checked: Checked { connects, whole: true }.into() }
    }

    /// Takes note of a message that the stream has, said over the connection with the number `connects`.
    fn note(&self, connects: u64, origin: &Origin, tail: &Tail) {
        let Some((epoch, end)) = tail.end else { return };
        let mut known = self.lock();
        let newest = if connects == known.connects { &mut known.newest } else { &mut known.since_the_break };
        if newest.as_ref().map_or(0, |newest| newest.sequence) < tail.sequence {
            *newest = Some(Newest { origin: origin.clone(), sequence: tail.sequence, epoch, end });
        }
    }

    /// Everything that was known before was found over the connection with the number `connects`.
    fn settle(&self, connects: u64) {
        let mut known = self.lock();
        known.connects = connects;
        let since = known.since_the_break.take();
        let is_newer =
            |since: &Newest| known.newest.as_ref().is_none_or(|newest| newest.sequence < since.sequence);
        if since.as_ref().is_some_and(is_newer) {
            known.newest = since;
        }
    }

    /// The highest sequence that is known: whatever is stored from now on has a higher one.
    pub(super) fn highest(&self) -> u64 {
        let known = self.lock();
        let newest = [&known.newest, &known.since_the_break].into_iter().flatten();
        newest.map(|newest| newest.sequence).max().unwrap_or(0)
    }

    fn newest(&self) -> Option<Newest> {
        self.lock().newest.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        // Nothing that holds the lock can panic between two changes.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Newest {
    /// Whether the last message of its subject shows that the stream still has it: it is that, or one of ours that
    /// was stored after it and continues where it ends, or says that the log had come so far before.
    fn is_shown_by(&self, last: &Last) -> bool {
        let Some(ours) = &last.ours else { return false };
        let described = &ours.described;
        if described.epoch != self.epoch {
            return false;
        }
        // Somebody else's message may have been given its sequence since.
        let is_it =
            (last.sequence == self.sequence || ours.sequence == self.sequence) && described.end >= self.end;
        // Another pipeline of this host may have gone back with it.
        let goes_on = described.start >= self.end || described.reached.is_some_and(|end| end >= self.end);
        is_it || ours.sequence > self.sequence && goes_on
    }
}

impl Shipper {
    /// Takes note of where a log ended when the sender began, over whatever connection there is by now.
    pub(super) fn note_restored(&self, origin: &Origin, tail: &Tail) {
        let connects = self.continuity.lock().connects;
        self.continuity.note(connects, origin, tail);
    }

    /// Takes note of a message that the stream has.
    pub(super) fn note(&self, origin: &Origin, tail: &Tail) {
        self.continuity.note(self.connects(), origin, tail);
        if let Some(heard) = self.heard.get() {
            heard.stored(origin, tail);
        }
    }

    /// Whether the stream provably has everything that it ever acknowledged to this sender, but for what
    /// retention took. Asks it once over each connection.
    ///
    /// # Errors
    ///
    /// It provably has not, or does not answer.
    pub(super) async fn is_whole(&self) -> Result<bool, Stop> {
        let mut checked = self.continuity.checked.lock().await;
        loop {
            let connects = self.connects();
            if checked.connects == connects {
                return Ok(checked.whole);
            }
            let whole = self.has_newest().await?;
            if self.connects() == connects {
                *checked = Checked { connects, whole: checked.whole && whole };
                self.continuity.settle(connects);
            }
        }
    }

    /// Whether the stream has the newest message that it is known to have had. If not, retention took it.
    ///
    /// # Errors
    ///
    /// It was lost, or nobody answers.
    async fn has_newest(&self) -> Result<bool, Stop> {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MOST);
        for _ in 0..MAX_LOOKS {
            let Some(newest) = self.continuity.newest() else { return Ok(true) };
            let subject = Subject::from(self.subjects.publish(&newest.origin));
            // Over a line that has just broken: its payload may be what it broke of.
            let last = self.ask_for_headers(&subject).await?;
            if last.as_ref().is_some_and(|last| newest.is_shown_by(last)) {
                return Ok(true);
            }
            if last.is_none()
                && let Some(stream) = self.present_stream().await?
                && stream.is_same_as(&self.stream)
                && stream.first_sequence > newest.sequence
                && stream.last_sequence >= newest.sequence
            {
                // Or a power cut took it, and then retention all that came since.
                return Ok(false);
            }
            tokio::time::sleep(backoff.pause()).await;
        }
        Err(self.has_lost())
    }

    /// Asks the stream only for what it is and how far it goes, which costs next to nothing: it is still the one
    /// that was published to, and ends no earlier.
    ///
    /// # Errors
    ///
    /// It is not, or does not answer.
    pub(super) async fn reaches_newest(&self) -> Result<bool, Stop> {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MOST);
        for _ in 0..MAX_LOOKS {
            let Some(newest) = self.continuity.newest() else { return Ok(true) };
            match self.present_stream().await? {
                Some(stream)
                    if !stream.is_same_as(&self.stream) || stream.last_sequence < newest.sequence => {}
                // Who does not answer now is asked again.
                Some(_) | None => return Ok(true),
            }
            tokio::time::sleep(backoff.pause()).await;
        }
        Err(self.has_lost())
    }

    /// What the stream of that name is by now; `None` when the server does not say so for the moment.
    async fn present_stream(&self) -> Result<Option<Stream>, Stop> {
        match Stream::look_at(&self.api, &self.stream.name).await {
            Ok(stream) => Ok(Some(stream)),
            Err(error) if error.passes() => Ok(None),
            Err(error) => Err(Stop::Failed(error.explain(&self.api.requests().server()))),
        }
    }

    /// The stream provably lost something.
    pub(super) fn has_lost(&self) -> Stop {
        Stop::Failed(anyhow!(
            "the stream `{}` has lost messages that it had acknowledged; starting again at what it holds",
            self.stream.name
        ))
    }
}

#[cfg(test)]
mod tests {
    use fshipper_pipeline::Batch;

    use super::super::restore::{Last, Ours};
    use super::super::subject::Subjects;
    use super::super::wire::{self, Encoding};
    use super::*;

    const EPOCH: Epoch = Epoch(7);

    fn last(sequence: u64, start: u64, text: &'static str) -> Last {
        let batch = Batch::data(Origin::new("h", "/l"), EPOCH, start, text);
        let subjects = Subjects::new("s", None, true);
        let headers = wire::encode(&batch, Encoding::default()).headers;
        let described = wire::headers_only(&subjects, &subjects.publish(&batch.origin), Some(&headers));
        let ours = described.unwrap().map(|described| Ours { sequence, described });
        Last { sequence, ours }
    }

    fn tail(sequence: u64) -> Tail {
        Tail { sequence, end: Some((EPOCH, 4)) }
    }

    fn newest(continuity: &Continuity) -> Option<(Origin, u64)> {
        continuity.newest().map(|newest| (newest.origin, newest.sequence))
    }

    #[test]
    fn the_newest_message_is_shown_by_itself_and_by_what_continues_it() {
        let newest = Newest { origin: Origin::new("h", "/l"), sequence: 5, epoch: EPOCH, end: 4 };
        assert!(newest.is_shown_by(&last(5, 0, "one\n")));
        assert!(newest.is_shown_by(&last(6, 4, "two\n")));
        assert!(newest.is_shown_by(&last(7, 8, "three\n")), "another pipeline of this host goes on with it");
        assert!(!newest.is_shown_by(&last(3, 0, "one\n")), "it went back");
        assert!(!newest.is_shown_by(&last(9, 0, "one\n")), "it went back, and an old copy came late");
        let again = |sequence, reached| {
            let mut last = last(sequence, 0, "o\n");
            last.ours.as_mut().unwrap().described.reached = Some(reached);
            last
        };
        assert!(newest.is_shown_by(&again(9, 4)), "another pipeline of this host goes back with it");
        assert!(!newest.is_shown_by(&again(9, 3)), "that was before it");
        assert!(!newest.is_shown_by(&again(3, 4)), "it went back to a part of what was sent again");
        assert!(!newest.is_shown_by(&last(3, 4, "two\n")), "what continues it has a lower sequence");
        let covered = |ours: Last| Last { sequence: 9, ..ours };
        assert!(newest.is_shown_by(&covered(last(5, 0, "one\n"))), "somebody else's message covers it");
        let covered_at_first = Last { sequence: 5, ..last(3, 0, "one\n") };
        assert!(newest.is_shown_by(&covered_at_first), "it was restored below somebody else's");
        assert!(!newest.is_shown_by(&covered(last(3, 0, "one\n"))), "it went back, and was covered");
        let taken = Last { sequence: 5, ..last(3, 0, "o\n") };
        assert!(!newest.is_shown_by(&taken), "it went back, and its sequence is somebody else's");
        assert!(
            !newest.is_shown_by(&Last { sequence: 5, ours: None }),
            "so it is when nothing of ours is left"
        );
        assert!(!newest.is_shown_by(&Last { sequence: 9, ours: None }), "it is not ours");
    }

    #[test]
    fn only_a_higher_sequence_is_newer() {
        let continuity = Continuity::new(1);
        for (path, sequence) in [("/a", 4), ("/b", 9), ("/c", 7)] {
            continuity.note(1, &Origin::new("h", path), &tail(sequence));
        }
        assert_eq!(newest(&continuity), Some((Origin::new("h", "/b"), 9)));
    }

    #[test]
    fn what_is_stored_after_a_break_hides_nothing_that_was_stored_before() {
        let continuity = Continuity::new(1);
        let (idle, busy) = (Origin::new("h", "/idle"), Origin::new("h", "/busy"));
        continuity.note(1, &idle, &tail(9));
        continuity.note(2, &busy, &tail(12));
        assert_eq!(newest(&continuity), Some((idle, 9)));
        assert_eq!(continuity.highest(), 12);
        continuity.settle(2);
        assert_eq!(newest(&continuity), Some((busy.clone(), 12)));
        continuity.note(2, &busy, &tail(15));
        assert_eq!(newest(&continuity), Some((busy, 15)));
    }
}
