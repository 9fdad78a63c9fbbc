//! The consumer's side: [`Teller`].
//!
//! It runs beside the receiver and never in its way: it takes the latest word for each origin when the server has
//! taken the last ones, so a slow server means fewer notices, not a queue. What it did not get to tell, the next
//! session tells.

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use async_nats::HeaderMap;
use async_nats::header::NATS_EXPECTED_STREAM;
use async_nats::message::OutboundMessage;
use fshipper_pipeline::{Backoff, Checkpoint, Complaint, Follower, News, Origin, Progress, Settings};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::notice::{Notice, Request};
use super::purge::Purger;
use super::{Acknowledgement, FloorPlan, Problem, Warnings};
use crate::nats::api::Api;
use crate::nats::foreign::is_foreign;
use crate::nats::pattern::covers;
use crate::nats::pull::{Consumer, Deliver, Selection, Until};
use crate::nats::requests::Failure;
use crate::nats::session::Place;
use crate::nats::stream::Stream;

/// Tells the floor of what one receiver reads.
pub(in crate::nats) struct Teller {
    api: Api,
    plan: FloorPlan,
    /// What this consumer tells.
    filters: Vec<String>,
    consumer: Arc<str>,
    /// The name of the receiver's cursor.
    transport: Arc<str>,
    gap_wait: Duration,
    progress: Progress,
    follower: Follower<News>,
    /// Where the session started; needed until the floor is known to say as much.
    from: Option<Checkpoint>,
    told: Arc<Told>,
    /// The stream may have been replaced.
    look_again: Arc<Notify>,
    purger: Option<Purger>,
}

/// What a teller is for.
pub(in crate::nats) struct Task {
    /// Where it tells.
    pub(in crate::nats) plan: FloorPlan,
    /// The partitions that are read.
    pub(in crate::nats) read_partitions: Option<Vec<u32>>,
    /// The name of the receiver's cursor.
    pub(in crate::nats) transport: Arc<str>,
    /// How long missing bytes are waited for.
    pub(in crate::nats) gap_wait: Duration,
    /// Where the session starts.
    pub(in crate::nats) from: Checkpoint,
    /// Fires when the receiver found reason to look at its stream again.
    pub(in crate::nats) look_again: Arc<Notify>,
    /// What deletes what is durable, where that is wanted.
    pub(in crate::nats) purger: Option<Purger>,
}

/// What a process remembers of its telling.
#[derive(Debug, Default)]
struct Told {
    /// When the stream was created that holds everything that was told.
    created: Mutex<Option<String>>,
    warnings: Warnings,
}

/// How many notices are under way at once.
const PORTION: usize = 64;

/// A portion takes at least so long, which makes it 10,000 notices per second at most: when one commit touches a
/// hundred thousand origins, others want to use the server too.
const PORTION_TAKES: Duration = Duration::from_micros(6400);

/// How long until a floor that is not available is looked for again.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// The pauses after a failure.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MOST: Duration = Duration::from_secs(10);

/// What fails so often in a row is no restart of a server.
const REPORTED_FAILURES: u32 = 5;

impl Teller {
    pub(in crate::nats) fn new(api: Api, task: Task, settings: &Settings, progress: &Progress) -> Self {
        let Task { plan, read_partitions, transport, gap_wait, from, look_again, purger } = task;
        api.requests().connection().tolerate(plan.tolerated());
        // Said before anything is read: until it turns out otherwise, missing bytes can be asked for.
        progress.set_asking(Some(gap_wait));
        Self {
            api,
            filters: plan.filters(read_partitions.as_deref()),
            plan,
            consumer: format!("{}/{}", settings.host, settings.name).into(),
            transport,
            gap_wait,
            progress: progress.clone(),
            follower: progress.follow_news(),
            from: Some(from),
            told: progress.memory(),
            look_again,
            purger,
        }
    }

    /// Tells until it is dropped.
    pub(in crate::nats) async fn run(mut self) {
        let (mut backoff, mut failures, mut trouble) =
            (Backoff::new(RETRY_FIRST, RETRY_MOST), 0, Complaint::default());
        loop {
            let Err(problem) = self.tell(&mut backoff, &mut failures).await;
            self.follower.give_back();
            let pause = match problem {
                Problem::Unavailable(reason) => {
                    self.progress.set_asking(None);
                    self.told.warnings.going_without(&self.plan, &reason);
                    LOOK_AGAIN
                }
                Problem::Broken(error) => {
                    failures += 1;
                    let name = &self.plan.name;
                    if failures < REPORTED_FAILURES {
                        tracing::debug!("cannot tell the commit floor to `{name}`: {error:#}");
                    } else {
                        let message =
                            format!("cannot tell the commit floor to `{name}` now: {error:#}; trying again");
                        trouble.report(&message, |message| tracing::warn!("{message}"));
                    }
                    backoff.pause()
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    async fn tell(&mut self, backoff: &mut Backoff, failures: &mut u32) -> Result<Infallible, Problem> {
        loop {
            let stream = self.plan.open(&self.api).await?;
            self.catch_up(&stream).await?;
            self.progress.set_asking(Some(self.gap_wait));
            backoff.reset();
            *failures = 0;
            self.tell_until_asked_to_look_again().await?;
        }
    }

    async fn tell_until_asked_to_look_again(&mut self) -> Result<(), Problem> {
        let look_again = self.look_again.clone();
        loop {
            let started = Instant::now();
            let purge_at = self.purger.as_ref().and_then(Purger::due);
            let mut news = tokio::select! {
                biased;
                () = look_again.notified() => return Ok(()),
                () = sleep_until(purge_at) => Vec::new(),
                news = self.follower.changed(PORTION) => news,
            };
            // Commits come without an order; a run that was seen must be able to be run again.
            news.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
            self.publish_all(&news).await?;
            self.purge(&news).await;
            if news.len() == PORTION {
                tokio::time::sleep_until(started + PORTION_TAKES).await;
            }
        }
    }

    /// Compares what the stream says with where the session started, once for every stream that is found.
    async fn catch_up(&mut self, stream: &Stream) -> Result<(), Problem> {
        let told = self.told.clone();
        if *told.lock() == Some(stream.created.clone()) {
            self.from = None;
            return Ok(());
        }
        let Some(from) = &self.from else {
            // It is another one, and where everything is durable is the sink's to say: the next session asks it.
            *told.lock() = None;
            self.progress.reopen();
            return std::future::pending().await;
        };
        let mut untold: HashSet<Origin> = from
            .origins()
            .filter(|(_, history)| !is_foreign(&history.current.place))
            .filter(|(origin, _)| self.is_ours(&self.plan.subjects.publish(origin)))
            .map(|(origin, _)| origin.clone())
            .collect();
        if !untold.is_empty() {
            self.leave_out_what_is_told(stream, from, &mut untold)
                .await
                .map_err(|error| self.plan.unreadable(error))?;
        }
        tracing::debug!("the commit floor lacks {} of this consumer's logs", untold.len());
        let words = untold.into_iter().filter_map(|origin| {
            let word = News::Committed(from.position(&origin)?.clone());
            Some((origin, word))
        });
        self.follower.add(words);
        self.from = None;
        *told.lock() = Some(stream.created.clone());
        Ok(())
    }

    async fn leave_out_what_is_told(
        &self,
        stream: &Stream,
        from: &Checkpoint,
        untold: &mut HashSet<Origin>,
    ) -> anyhow::Result<()> {
        // The server wants filters for the last of each subject, even where they let everything pass.
        let filters = self.filters.clone();
        let selection = Selection { deliver: Deliver::LastPerSubject, filters, headers_only: false };
        let mut consumer = Consumer::create(&self.api, stream, &selection, Until::Pending).await?;
        while let Some(delivered) = consumer.next().await? {
            let message = delivered.message;
            let Ok(notice) = Notice::parse(&self.plan.subjects, &message.subject, &message.payload) else {
                continue;
            };
            let is_told = from.position(&notice.origin).is_some_and(|position| {
                (notice.epoch, notice.end, &notice.consumer)
                    == (position.epoch, position.offset, &self.consumer)
            });
            // What is asked for is asked for again, when it is still missing.
            if is_told && notice.request.is_none() {
                untold.remove(&notice.origin);
            }
        }
        Ok(())
    }

    fn is_ours(&self, subject: &str) -> bool {
        self.filters.iter().any(|filter| covers(filter, subject))
    }

    async fn publish_all(&self, news: &[(Origin, News)]) -> Result<(), Problem> {
        let time = jiff::Timestamp::now().round(jiff::Unit::Millisecond);
        let time = time.unwrap_or_else(|_| jiff::Timestamp::now()).to_string();
        let publishes = news.iter().filter_map(|(origin, word)| {
            let subject = self.plan.subjects.publish(origin);
            let notice = self.notice(origin, word, &time).filter(|_| self.is_ours(&subject))?;
            Some(self.publish(subject, notice))
        });
        let mut under_way: FuturesUnordered<_> = publishes.collect();
        while let Some(published) = under_way.next().await {
            published?;
        }
        Ok(())
    }

    /// What there is to tell; nothing of a log that another publisher's messages were numbered for.
    fn notice(&self, origin: &Origin, word: &News, time: &str) -> Option<Notice> {
        let (epoch, end, place, request) = match word {
            News::Committed(position) => (position.epoch, position.offset, &position.place, None),
            News::Missing(gap) => {
                let read = gap.read.as_ref().filter(|cursor| cursor.transport == self.transport);
                let read = read.and_then(|cursor| Place::parse(&cursor.position));
                let read = read.map_or(0, |place| place.sequence);
                (gap.epoch, gap.from, &gap.place, Some(Request { to: gap.to, read }))
            }
        };
        (!is_foreign(place)).then(|| Notice {
            origin: origin.clone(),
            epoch,
            end,
            request,
            consumer: self.consumer.clone(),
            time: time.to_owned(),
            place: place.clone(),
        })
    }

    async fn publish(&self, subject: String, notice: Notice) -> Result<(), Problem> {
        let mut headers = HeaderMap::new();
        headers.insert(NATS_EXPECTED_STREAM, self.plan.name.as_str());
        let message = OutboundMessage {
            subject: subject.as_str().into(),
            reply: None,
            headers: Some(headers),
            payload: notice.to_string().into(),
        };
        let reply = self.api.requests().send(message).await.map_err(|failure| match failure {
            Failure::Denied(violation) => self.plan.forbidden(violation),
            failure => Problem::Broken(anyhow!("no acknowledgement on `{subject}`: {failure}")),
        })?;
        self.check(&subject, &reply.payload).map_err(Problem::Broken)
    }

    fn check(&self, subject: &str, reply: &[u8]) -> anyhow::Result<()> {
        let acknowledgement: Acknowledgement = serde_json::from_slice(reply)
            .with_context(|| format!("the acknowledgement on `{subject}` makes no sense"))?;
        match acknowledgement.error {
            Some(refusal) => bail!("`{subject}`: {refusal}"),
            None if acknowledgement.stream == self.plan.name => Ok(()),
            None => bail!("`{subject}` is taken by the stream `{}`", acknowledgement.stream),
        }
    }

    /// Deletes what is durable, when it is time to.
    async fn purge(&mut self, news: &[(Origin, News)]) {
        let Some(purger) = &mut self.purger else { return };
        for (origin, word) in news {
            if let News::Committed(position) = word {
                purger.note_commit(origin, position);
            }
        }
        if !purger.takes_its_turn() {
            return;
        }
        // There is none as long as an origin waits that was not read to its end before.
        let place = self.follower.cursor(&self.transport).and_then(|position| Place::parse(&position));
        if let Some(place) = place
            && let Err(reason) = purger.purge(&self.api, &place).await
        {
            self.told.warnings.once(&format!(
                "cannot purge what is durable from the stream `{}`: {reason}",
                self.plan.data_stream
            ));
        }
    }
}

impl Told {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        // Nothing that holds the lock can panic between two changes.
        self.created.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
