//! Whether the stream still has what it acknowledged: [`Shipper::is_whole`].
//!
//! A broker that lost its latest writes gives their sequences to other messages. Of a log that is publishing, the
//! next refusal shows it; of one that is idle nothing does, and once others have published, the loss looks as if
//! retention had taken the message. So after every break of the connection (no broker loses anything without
//! one) the sender looks for the newest message that it knows to be stored: what is lost is always the end.

use std::sync::{Mutex, PoisonError};

use anyhow::anyhow;
use async_nats::Subject;
use fshipper_pipeline::{Backoff, Epoch, Origin};

use super::outcome::Stop;
use super::restore::{Last, Tail};
use super::shipper::{RETRY_FIRST, RETRY_MOST, Shipper};

/// What a sender remembers for that.
#[derive(Debug)]
pub(super) struct Continuity {
    newest: Mutex<Option<Newest>>,
    checked: tokio::sync::Mutex<Checked>,
}

/// Of all messages of this sender that the stream is known to have, the one with the highest sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Newest {
    origin: Origin,
    sequence: u64,
    end: Option<(Epoch, u64)>,
}

#[derive(Debug)]
struct Checked {
    /// Over which connection that was last asked, counted from 1.
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
        Self { newest: Mutex::default(), checked: Checked { connects, whole: true }.into() }
    }

    /// Takes note of a message that the stream has.
    pub(super) fn note(&self, origin: &Origin, tail: &Tail) {
        let mut newest = self.lock();
        if newest.as_ref().map_or(0, |newest| newest.sequence) < tail.sequence {
            *newest = Some(Newest { origin: origin.clone(), sequence: tail.sequence, end: tail.end });
        }
    }

    fn newest(&self) -> Option<Newest> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Newest>> {
        // Nothing that holds the lock can panic between two changes.
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Newest {
    /// Whether the last message of its subject shows that the stream still has it: it is that, or was stored
    /// right after it.
    fn is_shown_by(&self, last: &Last) -> bool {
        let follows = |(epoch, end)| {
            last.described.as_ref().is_some_and(|described| {
                last.sequence > self.sequence && described.epoch == epoch && described.start == end
            })
        };
        last.sequence == self.sequence || self.end.is_some_and(follows)
    }
}

impl Shipper {
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
            }
        }
    }

    async fn has_newest(&self) -> Result<bool, Stop> {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MOST);
        for _ in 0..MAX_LOOKS {
            let Some(newest) = self.continuity.newest() else { return Ok(true) };
            let subject = Subject::from(self.subjects.publish(&newest.origin));
            match self.ask(&subject, 0).await? {
                Some(last) if newest.is_shown_by(&last) => return Ok(true),
                Some(_) => tokio::time::sleep(backoff.pause()).await,
                // Retention may have taken it, or a power cut, and all that is there now came later.
                None => return Ok(false),
            }
        }
        Err(Stop::Failed(anyhow!(
            "the stream `{}` has lost messages that it had acknowledged; starting again at what it holds",
            self.stream.name
        )))
    }
}

#[cfg(test)]
mod tests {
    use fshipper_pipeline::Batch;

    use super::super::restore::Last;
    use super::super::subject::Subjects;
    use super::super::wire::{self, Encoding};
    use super::*;

    const EPOCH: Epoch = Epoch(7);

    fn last(sequence: u64, start: u64, text: &'static str) -> Last {
        let batch = Batch::data(Origin::new("h", "/l"), EPOCH, start, text);
        let subjects = Subjects::new("s", None, true);
        let headers = wire::encode(&batch, Encoding::default()).headers;
        let described = wire::headers_only(&subjects, &subjects.publish(&batch.origin), Some(&headers));
        Last { sequence, described: described.unwrap() }
    }

    #[test]
    fn the_newest_message_is_shown_by_itself_and_by_what_continues_it() {
        let newest = Newest { origin: Origin::new("h", "/l"), sequence: 5, end: Some((EPOCH, 4)) };
        assert!(newest.is_shown_by(&last(5, 0, "one\n")));
        assert!(newest.is_shown_by(&last(6, 4, "two\n")));
        assert!(!newest.is_shown_by(&last(3, 0, "one\n")), "it went back");
        assert!(!newest.is_shown_by(&last(9, 0, "one\n")), "it went back, and an old copy came late");
        assert!(!newest.is_shown_by(&last(3, 4, "two\n")), "what continues it has a lower sequence");
        let Last { sequence, .. } = last(9, 4, "two\n");
        assert!(!newest.is_shown_by(&Last { sequence, described: None }), "it is not ours");
    }

    #[test]
    fn only_a_higher_sequence_is_newer() {
        let continuity = Continuity::new(1);
        for (path, sequence) in [("/a", 4), ("/b", 9), ("/c", 7)] {
            continuity.note(&Origin::new("h", path), &Tail { sequence, end: None });
        }
        let newest = continuity.newest().map(|newest| (newest.origin, newest.sequence));
        assert_eq!(newest, Some((Origin::new("h", "/b"), 9)));
    }
}
