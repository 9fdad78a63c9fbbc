//! The producer's side: [`Listener`].
//!
//! It reads the last notice of every log of its host when a session starts, and hears new ones as they are
//! published. What it knows lasts over all sessions of the hop.
//!
//! | the data stream | the last notice | the producer |
//! | --- | --- | --- |
//! | has the log | anything but a request that is news | continues at the stream's end |
//! | has the log, of the same epoch | a request for bytes below its end | goes back: continues at the first byte that is missing |
//! | has nothing of it | anything | continues where the consumer has it |

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use async_nats::Message;
use fshipper_pipeline::{Complaint, Epoch, Escaped, Origin, Position, Progress};
use futures::StreamExt as _;
use tokio::task::JoinSet;

use super::notice::{Notice, Request};
use super::{FloorPlan, Problem, Warnings};
use crate::nats::api::Api;
use crate::nats::client::Subscriber;
use crate::nats::pull::{Consumer, Deliver, Selection, Until};
use crate::nats::restore::{Restored, Tail};

/// Hears how far consumers have the logs of one host.
pub(in crate::nats) struct Listener {
    api: Api,
    plan: FloorPlan,
    filter: String,
    heard: Arc<Heard>,
    progress: Progress,
    /// What is published from now on, where that may be heard.
    subscription: Option<Subscription>,
    /// Hears it once the session has started; it ends with this struct.
    live: JoinSet<()>,
}

/// What a process has heard.
#[derive(Debug, Default)]
struct Heard {
    state: Mutex<State>,
    warnings: Warnings,
}

#[derive(Debug, Default)]
struct State {
    notices: HashMap<Origin, Notice>,
    /// Where a request was dealt with last, all of them in the data stream that was created then.
    dealt_with: HashMap<Origin, Dealt>,
    created: String,
    /// Who told of a log before whoever told of it last.
    earlier_consumers: HashMap<Origin, Arc<str>>,
    /// Where this session started with each log.
    epochs: HashMap<Origin, Epoch>,
    alternating: Complaint,
}

/// What was done about a request.
#[derive(Clone, Copy, Debug)]
struct Dealt {
    epoch: Epoch,
    /// Everything from here on was, or is being, sent once more.
    from: u64,
    /// After this sequence.
    read: u64,
    /// The last message of the log at that time.
    tail: u64,
}

/// What to do about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    GoBack,
    /// It asks for another history, or for what is not there yet.
    Nothing,
    /// The bytes are in the stream, or on their way, after what the consumer has read.
    Given,
}

/// How long a session waits for the floors before it goes on without: delivery does not need them.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long until a session that started without the floors looks for them again: as often as a consumer asks for
/// what it misses.
const OPEN_AGAIN: Duration = Duration::from_secs(30);

impl Listener {
    /// Reads the notices of the logs of `host`, and hears those that follow. Whatever goes wrong is reported, and
    /// costs nothing but what the floor is good for.
    pub(in crate::nats) async fn open(api: &Api, plan: FloorPlan, host: &[u8], progress: &Progress) -> Self {
        api.requests().connection().tolerate(plan.tolerated());
        let heard: Arc<Heard> = progress.memory();
        let filter = plan.subjects.restore_filter(host);
        let opened = open(api, &plan, &filter, &heard, progress).await;
        let opened = opened.map_err(|problem| heard.report(&plan, problem)).ok();
        let subscription = opened.map(|(subscription, _)| subscription);
        let (api, progress, live) = (api.clone(), progress.clone(), JoinSet::new());
        Self { api, plan, filter, heard, progress, subscription, live }
    }

    /// Applies what was heard to what the stream holds, which was created then: the session starts there. From then
    /// on a request that it does not answer ends it.
    pub(in crate::nats) fn apply(&mut self, restored: &mut Restored, created: &str) {
        self.apply_notices(restored, created);
        let Self { api, plan, filter, heard, progress, .. } = self;
        let (api, plan, filter) = (api.clone(), plan.clone(), filter.clone());
        let (heard, progress) = (heard.clone(), progress.clone());
        let subscription = self.subscription.take();
        self.live.spawn(async move {
            let subscription = match subscription {
                Some(subscription) => subscription,
                None => open_later(&api, &plan, &filter, &heard, &progress).await,
            };
            hear(api, plan, filter, subscription, heard, progress).await;
        });
    }

    fn apply_notices(&self, restored: &mut Restored, created: &str) {
        let mut state = self.heard.lock();
        let state = &mut *state;
        state.forget_what_is_gone(&restored.tails, created);
        for notice in state.notices.values() {
            let Notice { origin, epoch, end, request, place, .. } = notice;
            let position = Position { epoch: *epoch, offset: *end, place: place.clone() };
            let Some(tail) = restored.tails.get(origin) else {
                tracing::info!(
                    "the stream `{}` has nothing of `{origin}`: going on at {end}, where `{}` has it",
                    self.plan.data_stream,
                    notice.consumer
                );
                restored.checkpoint.set_position(origin, position);
                let tail = Tail { sequence: 0, end: Some((*epoch, *end)) };
                restored.tails.insert(origin.clone(), tail);
                if let Some(request) = request {
                    let dealt = Dealt { epoch: *epoch, from: *end, read: request.read, tail: 0 };
                    state.dealt_with.insert(origin.clone(), dealt);
                }
                continue;
            };
            let Some(request) = request else { continue };
            let dealt = state.dealt_with.get(origin);
            match answer(notice, *request, tail, restored.reached.contains_key(origin), dealt) {
                Answer::Nothing => {}
                Answer::Given => {
                    let dealt = Dealt { epoch: *epoch, from: *end, read: request.read, tail: 0 };
                    state.dealt_with.entry(origin.clone()).or_insert(dealt);
                }
                Answer::GoBack => {
                    tracing::warn!(
                        "`{}` misses the bytes {end} to {} of `{origin}`: sending everything from there on again",
                        notice.consumer,
                        request.to
                    );
                    let read = request.read.max(tail.sequence);
                    let dealt = Dealt { epoch: *epoch, from: *end, read, tail: tail.sequence };
                    state.dealt_with.insert(origin.clone(), dealt);
                    if let Some((epoch, end)) = tail.end {
                        let reached = restored.reached.entry(origin.clone()).or_insert((epoch, end));
                        reached.1 = reached.1.max(end);
                    }
                    let tail = Tail { sequence: tail.sequence, end: Some((*epoch, *end)) };
                    restored.checkpoint.set_position(origin, position);
                    restored.tails.insert(origin.clone(), tail);
                }
            }
        }
        let epochs = restored.checkpoint.origins();
        state.epochs = epochs.map(|(origin, history)| (origin.clone(), history.current.epoch)).collect();
        restored.checkpoint.clear_changes();
    }
}

/// What to do about a request, when the stream ends with `tail`.
fn answer(
    notice: &Notice,
    request: Request,
    tail: &Tail,
    is_being_sent_again: bool,
    dealt: Option<&Dealt>,
) -> Answer {
    if !tail.end.is_some_and(|(epoch, end)| epoch == notice.epoch && notice.end < end) {
        return Answer::Nothing;
    }
    // An earlier life of this producer went back, and was interrupted: it goes on where it was.
    let is_going_back = is_being_sent_again && tail.sequence > request.read;
    let went_back = dealt.is_some_and(|dealt| dealt.covers(notice, request) && tail.sequence > dealt.tail);
    if is_going_back || went_back { Answer::Given } else { Answer::GoBack }
}

impl Dealt {
    /// Whether what is asked for was sent after what the consumer has read.
    fn covers(&self, notice: &Notice, request: Request) -> bool {
        self.epoch == notice.epoch && self.from <= notice.end && self.read >= request.read
    }
}

impl Heard {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that holds the lock can panic between two changes.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the last notice of each log; whether one asks for something that the present session does not give.
    async fn read(
        &self,
        api: &Api,
        plan: &FloorPlan,
        filter: &str,
        progress: &Progress,
    ) -> Result<bool, Problem> {
        let stream = plan.open(api).await?;
        let selection = Selection {
            deliver: Deliver::LastPerSubject,
            filters: vec![filter.to_owned()],
            headers_only: false,
        };
        let mut consumer = Consumer::create(api, &stream, &selection, Until::Pending)
            .await
            .map_err(|error| plan.unreadable(error))?;
        let mut has_news = false;
        while let Some(delivered) = consumer.next().await.map_err(|error| plan.unreadable(error))? {
            has_news |= self.take(plan, &delivered.message, progress);
        }
        Ok(has_news)
    }

    /// Takes one notice; whether it asks for something that the present session does not give.
    fn take(&self, plan: &FloorPlan, message: &Message, progress: &Progress) -> bool {
        let notice = match Notice::parse(&plan.subjects, &message.subject, &message.payload) {
            Ok(notice) => notice,
            Err(reason) => {
                let subject = Escaped(message.subject.as_bytes());
                self.warnings.once(&format!("a notice on `{subject}` is left out: {reason}"));
                return false;
            }
        };
        let floor = Position { epoch: notice.epoch, offset: notice.end, place: notice.place.clone() };
        progress.set_floor(&notice.origin, floor);
        let mut state = self.lock();
        state.note_consumer(&notice);
        let is_news = notice.request.is_some_and(|request| {
            let dealt = state.dealt_with.get(&notice.origin);
            let epoch = state.epochs.get(&notice.origin);
            epoch.is_none_or(|epoch| *epoch == notice.epoch)
                && !dealt.is_some_and(|dealt| dealt.covers(&notice, request))
        });
        state.notices.insert(notice.origin.clone(), notice);
        is_news
    }

    fn report(&self, plan: &FloorPlan, problem: Problem) {
        match problem {
            Problem::Unavailable(reason) => self.warnings.going_without(plan, &reason),
            Problem::Broken(error) => {
                self.warnings.going_without(plan, &format!("{error:#}; trying again"));
            }
        }
    }
}

impl State {
    /// What was sent again to a stream that is another one by now, or went back, was sent in vain.
    fn forget_what_is_gone(&mut self, tails: &HashMap<Origin, Tail>, created: &str) {
        if self.created != created {
            self.dealt_with.clear();
            created.clone_into(&mut self.created);
        }
        self.dealt_with
            .retain(|origin, dealt| tails.get(origin).is_some_and(|tail| tail.sequence >= dealt.tail));
    }

    /// Two consumers that tell of the same log in turn are one too many.
    fn note_consumer(&mut self, notice: &Notice) {
        let Some(known) = self.notices.get(&notice.origin).filter(|known| known.consumer != notice.consumer)
        else {
            return;
        };
        let last = known.consumer.clone();
        let before = self.earlier_consumers.insert(notice.origin.clone(), last.clone());
        if before.as_deref() == Some(&*notice.consumer) {
            let message = format!(
                "`{last}` and `{}` both tell how far they have `{}`: set `floor = false` in `stream` for the one that \
                 does not count",
                notice.consumer, notice.origin
            );
            self.alternating.report(&message, |message| tracing::warn!("{message}"));
        }
    }
}

/// Begins to hear what is published, and reads the last notices; whether one asks for something that the present
/// session does not give.
async fn open(
    api: &Api,
    plan: &FloorPlan,
    filter: &str,
    heard: &Heard,
    progress: &Progress,
) -> Result<(Subscription, bool), Problem> {
    let opening = async {
        // Before the last ones are read: nothing falls in between.
        let subscription = subscribe(api, filter).await.map_err(Problem::Broken)?;
        let has_news = heard.read(api, plan, filter, progress).await?;
        Ok((subscription, has_news))
    };
    let opened = tokio::time::timeout(PATIENCE, opening).await;
    let opened = opened.unwrap_or_else(|_| Err(Problem::Broken(anyhow!("there is no answer"))))?;
    progress.follow_far_end();
    Ok(opened)
}

/// The same for a session that started without: it may last for months, and a producer that hears nothing
/// answers nobody.
async fn open_later(
    api: &Api,
    plan: &FloorPlan,
    filter: &str,
    heard: &Heard,
    progress: &Progress,
) -> Subscription {
    loop {
        tokio::time::sleep(OPEN_AGAIN).await;
        match open(api, plan, filter, heard, progress).await {
            Ok((subscription, has_news)) => {
                if has_news {
                    progress.reopen();
                }
                return subscription;
            }
            Err(problem) => heard.report(plan, problem),
        }
    }
}

/// Hears notices as they are published. After a break, what was missed is read.
async fn hear(
    api: Api,
    plan: FloorPlan,
    filter: String,
    mut subscription: Subscription,
    heard: Arc<Heard>,
    progress: Progress,
) {
    let mut link = api.requests().connection().reconnects();
    loop {
        tokio::select! {
            biased;
            message = subscription.messages.next() => match message {
                Some(message) if heard.take(&plan, &message, &progress) => progress.reopen(),
                Some(_) => {}
                None => return,
            },
            violation = &mut subscription.denied => {
                heard.report(&plan, plan.forbidden(violation));
                return;
            }
            changed = link.changed() => {
                if changed.is_err() {
                    return;
                }
                if !link.borrow_and_update().up {
                    continue;
                }
                let read = heard.read(&api, &plan, &filter, &progress);
                match tokio::time::timeout(PATIENCE, read).await {
                    Ok(Ok(true)) => progress.reopen(),
                    Ok(Ok(false)) => {}
                    Ok(Err(problem)) => tracing::debug!("cannot read the commit floor after a break: {problem:?}"),
                    Err(_) => tracing::debug!("cannot read the commit floor after a break: there is no answer"),
                }
            }
        }
    }
}

struct Subscription {
    messages: Subscriber,
    /// Resolves when it is forbidden.
    denied: futures::future::BoxFuture<'static, String>,
}

async fn subscribe(api: &Api, filter: &str) -> Result<Subscription> {
    let connection = api.requests().connection();
    let denied = connection.denied(filter);
    let messages = connection.client.subscribe(filter.to_owned()).await;
    let messages = messages.with_context(|| format!("cannot subscribe to `{filter}`"))?;
    Ok(Subscription { messages, denied: Box::pin(denied) })
}

#[cfg(test)]
mod tests {
    use fshipper_pipeline::Bytes;

    use super::*;

    const EPOCH: Epoch = Epoch(1);

    /// The bytes 100 to 200 are missing, and the stream was read up to the sequence 7.
    const REQUEST: Request = Request { to: 200, read: 7 };

    fn notice(epoch: Epoch) -> Notice {
        Notice {
            origin: Origin::new("h", "/l"),
            epoch,
            end: 100,
            request: Some(REQUEST),
            consumer: "c".into(),
            time: String::new(),
            place: Bytes::new(),
        }
    }

    fn tail(sequence: u64, end: u64) -> Tail {
        Tail { sequence, end: Some((EPOCH, end)) }
    }

    #[test]
    fn a_request_is_answered_once() {
        let answer = |tail, again, dealt| answer(&notice(EPOCH), REQUEST, &tail, again, dealt);
        assert_eq!(answer(tail(9, 500), false, None), Answer::GoBack);
        let dealt = Dealt { epoch: EPOCH, from: 100, read: 9, tail: 9 };
        assert_eq!(answer(tail(12, 300), true, Some(&dealt)), Answer::Given);
        assert_eq!(answer(tail(20, 700), false, Some(&dealt)), Answer::Given);
        assert_eq!(answer(tail(9, 500), false, Some(&dealt)), Answer::GoBack, "nothing was sent since");
        let further_up = Dealt { from: 150, ..dealt };
        assert_eq!(answer(tail(20, 700), false, Some(&further_up)), Answer::GoBack);
        let before_it_was_read = Dealt { read: 6, ..dealt };
        assert_eq!(answer(tail(20, 700), false, Some(&before_it_was_read)), Answer::GoBack);
    }

    #[test]
    fn what_was_sent_again_to_another_stream_is_no_answer() {
        let origin = Origin::new("h", "/l");
        let mut state = State::default();
        let mut covers = |created, tail: Tail, dealt: Option<Dealt>| {
            state.dealt_with.extend(dealt.map(|dealt| (origin.clone(), dealt)));
            state.forget_what_is_gone(&HashMap::from([(origin.clone(), tail)]), created);
            state.dealt_with.get(&origin).is_some_and(|dealt| dealt.covers(&notice(EPOCH), REQUEST))
        };
        let dealt = Dealt { epoch: EPOCH, from: 100, read: 9, tail: 9 };
        covers("today", tail(1, 100), None);
        assert!(covers("today", tail(9, 100), Some(dealt)));
        assert!(covers("today", tail(12, 300), None));
        assert!(!covers("tomorrow", tail(12, 300), None), "it is another stream");
        assert!(!covers("tomorrow", tail(8, 300), Some(dealt)), "it went back");
    }

    #[test]
    fn a_producer_that_was_restarted_goes_on_going_back() {
        let answer = |tail, again| answer(&notice(EPOCH), REQUEST, &tail, again, None);
        assert_eq!(answer(tail(8, 150), true), Answer::Given);
        assert_eq!(answer(tail(7, 150), true), Answer::GoBack, "the consumer has read that in vain");
    }

    #[test]
    fn what_concerns_another_history_or_is_not_there_yet_is_passed_over() {
        assert_eq!(answer(&notice(Epoch(2)), REQUEST, &tail(9, 500), false, None), Answer::Nothing);
        assert_eq!(answer(&notice(EPOCH), REQUEST, &tail(9, 100), false, None), Answer::Nothing);
        assert_eq!(answer(&notice(EPOCH), REQUEST, &Tail::default(), false, None), Answer::Nothing);
    }
}
