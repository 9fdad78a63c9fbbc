//! Origins that cannot go on because bytes are missing: [`Waits`], [`KnownGaps`].
//!
//! | a gap is seen | then |
//! | --- | --- |
//! | for the first time | everything is read again from the committed cursor |
//! | again, and the producer can be asked | the origin waits, alone; the producer goes back and sends everything from the first missing byte on once more |
//! | again, and nobody can be asked, or waiting came to nothing | the loss is recorded, and the origin goes on |
//!
//! While an origin waits its batches are dropped, the others go on, and the cursor stays below the first batch
//! that was dropped until the origin has passed the last of them: whatever happens meanwhile, a session that
//! starts at the cursor finds everything again.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Result;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Writer, sleep_until};
use crate::progress::Gap;
use crate::{Admission, Batch, Complaint, Content, Epoch, Origin};

/// What a hop remembers of gaps from one session to the next.
#[derive(Debug, Default)]
pub(super) struct KnownGaps {
    gaps: HashMap<Origin, Known>,
    complaint: Complaint,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    /// Where the origin ended, and where its next batch began.
    span: (u64, u64),
    /// Since when its producer is asked, or since it last sent something.
    asked_since: Option<Instant>,
    /// Whether waiting came to nothing.
    is_given_up: bool,
}

/// The origins that wait in this session.
pub(super) struct Waits {
    /// How long one waits; `None` when nobody can be asked.
    asking: watch::Receiver<Option<Duration>>,
    waits: HashMap<Origin, Wait>,
    look_at: Option<Instant>,
}

struct Wait {
    epoch: Epoch,
    /// Where the first batch that was dropped began.
    to: u64,
    /// Where the last one ended.
    passed_at: u64,
    /// When its producer was asked last; `None` before what is below the gap is committed.
    asked_at: Option<Instant>,
}

/// What is done about a gap.
enum Step {
    ReadAgain,
    Wait,
    Lose,
}

/// How often a producer is asked again. Its first answer takes a round trip and the opening of a session; asked
/// more often it would be disturbed while it answers others.
const ASK_AGAIN: Duration = Duration::from_secs(30);

impl KnownGaps {
    pub(super) fn is_empty(&self) -> bool {
        self.gaps.is_empty()
    }
}

impl Waits {
    pub(super) fn new(asking: watch::Receiver<Option<Duration>>) -> Self {
        Self { asking, waits: HashMap::new(), look_at: None }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waits.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.waits.len()
    }

    /// Waits until something is to be done about those that wait.
    pub(super) fn due(&self) -> impl Future<Output = ()> + use<> {
        let (look_at, mut asking, is_idle) = (self.look_at, self.asking.clone(), self.waits.is_empty());
        async move {
            if is_idle {
                return std::future::pending().await;
            }
            tokio::select! {
                biased;
                () = sleep_until(look_at) => {}
                Ok(()) = asking.changed() => {}
            }
        }
    }

    /// What is still missing at the end of the input, if anything is.
    pub(super) fn unanswered(&self) -> Option<String> {
        let (origin, wait) = self.waits.iter().next()?;
        let others = others(self.waits.len());
        Some(format!(
            "bytes before offset {} of `{origin}`{others} are missing from the transport, and their producer was asked \
             to send them again: run once more when it did",
            wait.to
        ))
    }

    fn look_within(&mut self, limit: Duration) {
        let look_at = Instant::now() + limit.min(ASK_AGAIN);
        self.look_at = Some(self.look_at.map_or(look_at, |earlier| earlier.min(look_at)));
    }
}

impl Writer<'_> {
    /// Bytes are missing before `batch`.
    pub(super) async fn meet_gap(&mut self, batch: Batch, expected: u64) -> Result<()> {
        if let Some(wait) = self.waits.waits.get_mut(&batch.origin) {
            wait.passed_at = wait.passed_at.max(batch.end());
            return Ok(());
        }
        let span = (expected, batch.start);
        match self.next_step(&batch.origin, span) {
            Step::ReadAgain => {
                let known = Known { span, asked_since: None, is_given_up: false };
                self.memory.gaps.gaps.insert(batch.origin.clone(), known);
                let reason = format!("bytes {expected} to {} are missing: reading again", batch.start);
                self.hold(&batch.origin, reason, false);
                Ok(())
            }
            Step::Wait => {
                self.wait_before(&batch, expected);
                Ok(())
            }
            Step::Lose => self.lose_before(batch, expected).await,
        }
    }

    fn next_step(&self, origin: &Origin, span: (u64, u64)) -> Step {
        if !self.can_go_back {
            return Step::Lose;
        }
        let limit = *self.waits.asking.borrow();
        match (self.memory.gaps.gaps.get(origin), limit) {
            (Some(Known { is_given_up: true, .. }), _) => Step::Lose,
            (Some(Known { asked_since: Some(_), .. }), Some(_)) => Step::Wait,
            // What is missing may have become more meanwhile: a retention goes on deleting.
            (Some(known), limit) if known.span.0 == span.0 && known.span.1 <= span.1 => match limit {
                Some(limit) if !limit.is_zero() => Step::Wait,
                _ => Step::Lose,
            },
            _ => Step::ReadAgain,
        }
    }

    fn wait_before(&mut self, batch: &Batch, expected: u64) {
        let (origin, epoch, to) = (&batch.origin, batch.epoch, batch.start);
        tracing::warn!(%origin, "bytes {expected} to {to} are missing from the transport: asking for them again");
        let wait = Wait { epoch, to, passed_at: batch.end(), asked_at: None };
        self.waits.waits.insert(origin.clone(), wait);
        let known = Known { span: (expected, to), asked_since: Some(Instant::now()), is_given_up: false };
        let remembered = self.memory.gaps.gaps.entry(origin.clone()).or_insert(known);
        remembered.asked_since = remembered.asked_since.or(known.asked_since);
        self.count_held();
        let limit = *self.waits.asking.borrow();
        self.waits.look_within(limit.unwrap_or_default());
        // Nobody is asked for bytes above what is not durable.
        if !self.dirty && self.under_way.is_none() {
            self.ask_for_the_unasked();
        }
    }

    async fn lose_before(&mut self, batch: Batch, expected: u64) -> Result<()> {
        let reason =
            "the bytes before the next message are gone: discarded by the transport's retention, or deleted";
        let mut loss =
            Batch::loss(batch.origin.clone(), batch.epoch, expected, batch.start - expected, reason);
        (loss.time, loss.place) = (batch.time, batch.place.clone());
        self.write(loss).await?;
        if self.held.contains_key(&batch.origin) {
            return Ok(());
        }
        self.write(batch).await
    }

    /// Asks for what is missing of those that were not asked for yet: everything below is durable now.
    pub(super) fn ask_for_the_unasked(&mut self) {
        let unasked = self.waits.waits.iter().filter(|(_, wait)| wait.asked_at.is_none());
        let unasked: Vec<_> = unasked.map(|(origin, _)| origin.clone()).collect();
        for origin in unasked {
            self.ask(&origin);
        }
    }

    fn ask(&mut self, origin: &Origin) {
        let Some(wait) = self.waits.waits.get_mut(origin) else { return };
        wait.asked_at = Some(Instant::now());
        let (epoch, to) = (wait.epoch, wait.to);
        let position = self.durable_position(origin).filter(|position| position.epoch == epoch);
        let gap = Gap {
            epoch,
            from: position.map_or(0, |position| position.offset),
            to,
            place: position.map(|position| position.place.clone()).unwrap_or_default(),
            read: self.last_read.clone(),
        };
        self.metrics.progress.miss(origin, gap);
    }

    /// Something of `origin` was written.
    pub(super) fn note_arrival(&mut self, origin: &Origin) {
        let Some(wait) = self.waits.waits.get_mut(origin) else {
            self.memory.gaps.gaps.remove(origin);
            return;
        };
        let end = self.checkpoint.position(origin).map_or(0, |position| position.offset);
        if end < wait.passed_at {
            // It is being sent again; the waiting starts anew.
            let now = Instant::now();
            wait.asked_at = Some(now);
            if let Some(known) = self.memory.gaps.gaps.get_mut(origin) {
                known.asked_since = Some(now);
            }
            return;
        }
        self.waits.waits.remove(origin);
        self.memory.gaps.gaps.remove(origin);
        self.count_held();
        tracing::info!(%origin, "the missing bytes came: it goes on");
    }

    /// Writes a batch, which may be what its origin waits for.
    pub(super) async fn write_answer(&mut self, mut batch: Batch) -> Result<()> {
        let to = self.waits.waits.get(&batch.origin).map(|wait| wait.to);
        let (Some(to), Content::Loss { missing, .. }) = (to, &mut batch.content) else {
            return self.write(batch).await;
        };
        // What is said to be missing is in the transport: it was only dropped.
        let is_there = *missing > 0 && batch.start >= to;
        // The producer has nothing more, but what follows the gap is in the transport and was only dropped.
        *missing = (*missing).min(to.saturating_sub(batch.start));
        let (origin, end) = (batch.origin.clone(), batch.end());
        if !is_there {
            self.write(batch).await?;
        }
        if end >= to && self.waits.waits.remove(&origin).is_some() {
            self.hold(&origin, "the missing bytes are lost: reading again what follows".to_owned(), false);
        }
        Ok(())
    }

    /// Whether `batch` begins another history of an origin that waits for bytes of the one before: whoever
    /// follows it never sends them.
    pub(super) fn is_superseded(&self, batch: &Batch) -> bool {
        if self.waits.is_empty() || self.held.contains_key(&batch.origin) {
            return false;
        }
        let waits = self.waits.waits.get(&batch.origin);
        waits.is_some_and(|wait| wait.epoch != batch.epoch)
            && !matches!(self.checkpoint.admit(batch), Admission::Duplicate | Admission::Stale { .. })
    }

    /// Ends the waiting of `origin`: everything is read again, and what is missing then is recorded.
    pub(super) fn read_again(&mut self, origin: &Origin, why: &str) {
        let Some(wait) = self.waits.waits.remove(origin) else { return };
        if let Some(known) = self.memory.gaps.gaps.get_mut(origin) {
            known.is_given_up = true;
        }
        let reason = format!("bytes before {} are missing, and {why}: reading again", wait.to);
        self.hold(origin, reason, false);
    }

    /// Asks again, reports, and gives up waiting, for those whose time has come.
    pub(super) fn go_on_waiting(&mut self) {
        let (now, limit) = (Instant::now(), *self.waits.asking.borrow_and_update());
        self.waits.look_at = None;
        let mut unanswered = Vec::new();
        let origins: Vec<_> = self.waits.waits.keys().cloned().collect();
        for origin in origins {
            let Some(limit) = limit else {
                self.read_again(&origin, "nobody can be asked for them any more");
                continue;
            };
            let known = self.memory.gaps.gaps.get(&origin);
            let since = known.and_then(|known| known.asked_since).unwrap_or(now);
            let Some(wait) = self.waits.waits.get(&origin) else { continue };
            let end = self.checkpoint.position(&origin).map_or(0, |position| position.offset);
            let is_due = wait.asked_at.is_some_and(|asked_at| now >= asked_at + ASK_AGAIN);
            if is_due && end >= wait.to {
                // What was missing came; what follows it is in the transport and was only dropped.
                self.waits.waits.remove(&origin);
                self.hold(&origin, "the missing bytes came: reading again what follows".to_owned(), false);
            } else if now >= since + limit {
                self.read_again(&origin, &format!("they did not come within {limit:?}"));
            } else if is_due {
                self.ask(&origin);
                unanswered.push((origin, end, wait_end(since, limit, now)));
            }
        }
        self.report_unanswered(unanswered);
        if let Some(limit) = limit.filter(|_| !self.waits.is_empty()) {
            self.waits.look_within(limit.min(ASK_AGAIN));
        }
        self.count_held();
    }

    fn report_unanswered(&mut self, mut unanswered: Vec<(Origin, u64, Duration)>) {
        unanswered.sort();
        let Some((origin, from, left)) = unanswered.first() else { return };
        let host = crate::Escaped(origin.host());
        // Without the time that is left: the message is the same until it changes.
        let message = format!(
            "`{origin}`{} waits at offset {from}: the transport lost the bytes that follow, and the producer on `{host}` \
             does not send them again; see that it runs and may read the floor, or shorten `gap_wait` to record \
             their loss",
            others(unanswered.len())
        );
        self.memory.gaps.complaint.report(&message, |message| {
            tracing::error!("{message} (which happens in {} seconds)", left.as_secs());
        });
    }
}

fn wait_end(since: Instant, limit: Duration, now: Instant) -> Duration {
    (since + limit).saturating_duration_since(now)
}

/// How many there are besides the one that is named.
fn others(count: usize) -> String {
    match count {
        0 | 1 => String::new(),
        2 => " and of one other log".to_owned(),
        count => format!(" and of {} other logs", count - 1),
    }
}
