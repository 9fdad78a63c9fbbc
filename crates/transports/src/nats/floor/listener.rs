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

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use fshipper_pipeline::Progress;
use futures::StreamExt as _;
use tokio::task::JoinSet;

use super::heard::Heard;
use super::{FloorPlan, Problem};
use crate::nats::api::Api;
use crate::nats::client::Subscriber;
use crate::nats::pull::{Consumer, Deliver, Selection, Until};
use crate::nats::restore::Restored;
use crate::nats::stream::Stream;

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

    /// What it hears.
    pub(in crate::nats) fn heard(&self) -> Arc<Heard> {
        self.heard.clone()
    }

    /// Applies what was heard to what the `stream` holds, as it is now: the session starts there. From then on a
    /// request that it does not answer ends it.
    pub(in crate::nats) fn apply(&mut self, restored: &mut Restored, stream: &Stream) {
        self.heard.apply(restored, stream);
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
}

impl Heard {
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

    fn report(&self, plan: &FloorPlan, problem: Problem) {
        match problem {
            Problem::Unavailable(reason) => self.warnings.going_without(plan, &reason),
            Problem::Broken(error) => {
                self.warnings.going_without(plan, &format!("{error:#}; trying again"));
            }
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
