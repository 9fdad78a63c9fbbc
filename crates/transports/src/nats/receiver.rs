//! The receiving end with a stream: [`Receiver`].
//!
//! It numbers nothing that numbers itself: our messages say which bytes they are. Messages of other publishers
//! are told apart by their sequence, and get positions here, one origin for each subject.
//!
//! A message of ours that is damaged is left out, counted and logged. Its bytes are then missing before the
//! next message of its origin, and the pump deals with that as with any other gap.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use async_trait::async_trait;
use fshipper_pipeline::{
    Backlog, BacklogUnit, Backoff, Batch, Checkpoint, Context, Cursor, Escaped, Origin, Settings, Source,
};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::api::Api;
use super::connect::Queues;
use super::floor::FloorPlan;
use super::floor::purge::{Marks, Purger};
use super::floor::teller::{Task, Teller};
use super::foreign::{Foreign, ForeignMessage};
use super::pattern::covers;
use super::pull::{Delivered, Until};
use super::refusals::Refusals;
use super::run::{Places, Run};
use super::session::{Base, Place, Reached, Session};
use super::stream::{End, Plan, Stream};
use super::subject::Subjects;
use super::window::WINDOW_MESSAGES;
use super::wire::{self, Decoded, Decoder};

/// Reads from a stream.
pub(super) struct Receiver {
    api: Api,
    plan: Plan,
    subjects: Subjects,
    decoder: Decoder,
    filters: Vec<String>,
    settings: Arc<Settings>,
    /// The name of its cursor.
    transport: Arc<str>,
    place: Option<Place>,
    session: Option<Session>,
    /// When the last session was opened.
    opened: Instant,
    /// Sessions lost, or not opened, since the last message.
    failures: u32,
    backoff: Backoff,
    foreign: Foreign,
    /// What was made of the last messages.
    parts: VecDeque<Batch>,
    /// With `--once`: fires when the end may be taken.
    once: Option<CancellationToken>,
    ending: Ending,
    refused: Refusals,
    /// How many messages are still to be read.
    backlog: Backlog,
    /// Tells how far the sink is, where that is wanted; it ends with this struct.
    teller: JoinSet<()>,
    /// Wakes the teller: the stream may be another one.
    look_again: Arc<Notify>,
    /// Which messages hold which bytes, where they are deleted once they are durable.
    marks: Option<Arc<Marks>>,
}

/// What a table says of the commit floor.
#[derive(Debug)]
pub(super) struct FloorTable {
    /// Where it is told.
    pub(super) plan: FloorPlan,
    /// The partitions that are read.
    pub(super) read_partitions: Option<Vec<u32>>,
    /// How long missing bytes are waited for.
    pub(super) gap_wait: Duration,
    /// Whether what is durable is deleted.
    pub(super) purge: bool,
}

/// Where reading ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// Nowhere yet.
    Open,
    /// At the last message that the stream holds when it is looked at next.
    Due,
    /// At this sequence.
    At(u64),
}

/// Queues of the client for this end: what the window allows, and the statuses between.
pub(super) const QUEUES: Queues = Queues { outgoing: 64, incoming: WINDOW_MESSAGES + 64 };

/// How many sessions may fail, one after the other, before the hop is opened again: a server that restarts takes
/// a moment until its streams are there.
const MAX_FAILURES: u32 = 6;
const REOPEN_FIRST: Duration = Duration::from_millis(100);
const REOPEN_MOST: Duration = Duration::from_secs(2);

/// A session that lasts so long was a good one, even when there was nothing to read.
const SESSION_COUNTS_AFTER: Duration = Duration::from_secs(30);

impl Receiver {
    /// Starts reading at the cursor in `from`.
    ///
    /// # Errors
    ///
    /// See [`Stream::open`] and [`Session::open`].
    pub(super) async fn open(
        api: Api,
        plan: Plan,
        floor: Option<FloorTable>,
        subjects: Subjects,
        filters: Vec<String>,
        from: Checkpoint,
        context: &Context,
    ) -> Result<Self> {
        let transport: Arc<str> = format!("nats:{}:{}", plan.name, subjects.root()).into();
        let place = from.cursor(&transport).and_then(|position| {
            let place = Place::parse(position);
            if place.is_none() {
                tracing::warn!("the cursor `{}` of `{transport}` makes no sense", Escaped(position));
            }
            place
        });
        let mut receiver = Self {
            api,
            plan,
            decoder: Decoder::new(subjects.clone()),
            subjects,
            filters,
            settings: context.settings.clone(),
            transport,
            place,
            session: None,
            opened: Instant::now(),
            failures: 0,
            backoff: Backoff::new(REOPEN_FIRST, REOPEN_MOST),
            foreign: Foreign::restore(&from),
            parts: VecDeque::new(),
            once: context.once.clone(),
            ending: Ending::Open,
            refused: Refusals::default(),
            backlog: context.progress.tell_backlog(BacklogUnit::Messages),
            teller: JoinSet::new(),
            look_again: Arc::default(),
            marks: None,
        };
        if receiver.once.as_ref().is_some_and(CancellationToken::is_cancelled) {
            receiver.ending = Ending::Due;
        }
        receiver.open_session().await?;
        match floor {
            Some(floor) => receiver.start_telling(floor, from, context),
            None => context.progress.set_asking(None),
        }
        Ok(receiver)
    }

    fn start_telling(&mut self, floor: FloorTable, from: Checkpoint, context: &Context) {
        let FloorTable { plan, read_partitions, gap_wait, purge } = floor;
        if purge {
            self.marks = Some(Arc::default());
        }
        let purger = |marks| Purger::new(&self.plan.name, self.subjects.clone(), marks);
        let task = Task {
            plan,
            read_partitions,
            transport: self.transport.clone(),
            gap_wait,
            from,
            look_again: self.look_again.clone(),
            purger: self.marks.clone().map(purger),
        };
        let teller = Teller::new(self.api.clone(), task, &context.settings, &context.progress);
        self.teller.spawn(teller.run());
    }

    async fn open_session(&mut self) -> Result<()> {
        let stream = Stream::open(&self.api, &self.plan, &self.subjects, End::Receiver).await?;
        if self.ending == Ending::Due {
            self.ending = Ending::At(stream.last_sequence);
        }
        let until = match self.ending {
            Ending::At(end) => Until::End(end),
            _ => Until::Forever,
        };
        let reached = Reached { place: self.place.as_ref(), foreign: &self.foreign };
        let session = Session::open(&self.api, &stream, &self.filters, reached, until).await?;
        if let Some(marks) = self.marks.as_ref().filter(|_| !session.continues) {
            marks.forget();
        }
        self.backlog.set(session.consumer.pending());
        (self.session, self.opened) = (Some(session), Instant::now());
        Ok(())
    }

    /// A session could not be opened, or was lost. Waits a moment, for the next one may fare better.
    ///
    /// # Errors
    ///
    /// There were too many of these, one after the other.
    async fn pause_after(&mut self, error: anyhow::Error) -> Result<()> {
        let was_open = self.session.take().is_some();
        if was_open && self.opened.elapsed() > SESSION_COUNTS_AFTER {
            self.reset_failures();
        }
        self.failures += 1;
        if self.failures == MAX_FAILURES {
            return Err(error);
        }
        tracing::warn!("reading again from the stream `{}`: {error:#}", self.plan.name);
        tokio::time::sleep(self.backoff.pause()).await;
        Ok(())
    }

    fn reset_failures(&mut self) {
        self.failures = 0;
        self.backoff.reset();
    }

    /// Waits for the next message; `None` at the end.
    async fn next_message(&mut self) -> Result<Option<(Base, Delivered)>> {
        loop {
            let Some(session) = &mut self.session else {
                match self.open_session().await {
                    Ok(()) => self.look_again.notify_one(),
                    Err(error) => self.pause_after(error).await?,
                }
                continue;
            };
            let next = match &self.once {
                Some(once) if self.ending == Ending::Open => {
                    tokio::select! {
                        biased;
                        () = once.cancelled() => {
                            // Another consumer goes on here, one that ends.
                            (self.session, self.ending) = (None, Ending::Due);
                            continue;
                        }
                        next = session.consumer.next() => next,
                    }
                }
                _ => session.consumer.next().await,
            };
            match next {
                Ok(Some(delivered)) => {
                    let base = session.base.clone();
                    self.reset_failures();
                    return Ok(Some((base, delivered)));
                }
                Ok(None) => return Ok(None),
                Err(error) => self.pause_after(error).await?,
            }
        }
    }

    /// Takes a message, and the short ones that wait behind it and continue it.
    fn take(&mut self, base: &Base, first: Delivered) {
        let mut pending = first.pending;
        let (mut run, mut next) = (Run::new(Places::Same, self.settings.max_batch_bytes), Some(first));
        while let Some(delivered) = next {
            pending = delivered.pending;
            for batch in self.batches(base, delivered) {
                self.parts.extend(run.add(batch));
            }
            let session = self.session.as_mut().filter(|_| self.parts.is_empty() && !run.is_long());
            next = session.and_then(|session| session.consumer.next_waiting());
        }
        self.backlog.set(pending);
        self.parts.extend(run.finish());
        let cursor = self
            .place
            .as_ref()
            .map(|place| Cursor { transport: self.transport.clone(), position: place.to_string().into() });
        // Only all parts of all these messages together move the cursor.
        if let Some(last) = self.parts.back_mut() {
            last.cursor = cursor;
        }
    }

    /// Makes batches of a message; none when it is known, or damaged.
    fn batches(&mut self, base: &Base, delivered: Delivered) -> Vec<Batch> {
        let (sequence, time) = (delivered.sequence, delivered.stored_at());
        let message = delivered.message;
        let subject = message.subject;
        // A stream may hold more than was asked for, from before its subjects were changed.
        if !self.filters.iter().any(|filter| covers(filter, &subject)) {
            return Vec::new();
        }
        self.place = Some(Place { base: base.clone(), sequence, time: delivered.time });
        let max_data_bytes = wire::MAX_DATA_BYTES.max(self.api.requests().connection().client.max_payload());
        let headers = message.headers.as_ref();
        let decoded = self.decoder.decode(&subject, headers, message.payload, max_data_bytes);
        match decoded {
            Ok(Decoded::Ours { origin, epoch, start, content, place }) => {
                let batch = Batch { origin, epoch, start, content, time, place, cursor: None, lease: None };
                if let Some(marks) = &self.marks {
                    marks.note(&batch.origin, epoch, batch.end(), sequence);
                }
                wire::split(batch, self.settings.max_batch_bytes).collect()
            }
            Ok(Decoded::Foreign { host, bytes }) => {
                let origin = Origin::new(host, subject.as_bytes());
                let (epoch, stored) = (base.foreign_epoch, delivered.time);
                let message = ForeignMessage { origin, epoch, sequence, stored, time, bytes };
                self.foreign.number(message, self.settings.max_batch_bytes).collect()
            }
            Err(refused) => {
                self.refused.report(&self.plan.name, sequence, &subject, &refused);
                Vec::new()
            }
        }
    }
}

#[async_trait]
impl Source for Receiver {
    async fn read(&mut self) -> Result<Option<Batch>> {
        loop {
            if let Some(batch) = self.parts.pop_front() {
                return Ok(Some(batch));
            }
            let next = self.next_message().await;
            let next = next.with_context(|| format!("cannot read from the stream `{}`", self.plan.name))?;
            let Some((base, delivered)) = next else { return Ok(None) };
            self.take(&base, delivered);
        }
    }
}
