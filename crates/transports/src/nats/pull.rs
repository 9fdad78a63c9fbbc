//! Reading from a stream: an ephemeral pull consumer without acknowledgements, [`Consumer`].
//!
//! Requests for more overlap, so that the server always has one to serve; what they allow it to send is
//! bounded in bytes and in messages, and so is what waits here. Every request has a reply subject of its own,
//! and the server ends each one there with a status that says what is left of it.
//!
//! A consumer never recovers by itself. Whatever is not a message, a heartbeat or the regular end of a
//! request is an [error](Consumer::next), and its owner makes another consumer where it left off: a broker
//! may have gone back in time, and only the owner knows where it is.

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail, ensure};
use async_nats::{Message, StatusCode};
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _};
use serde::{Deserialize, Serialize};

use super::api::Api;
use super::client::{Client, Subscriber};
use super::events::Link;
use super::overdue::Overdue;
use super::silence::{Heard, SILENCE, silence};
use super::stream::Stream;
use super::watch;
use super::window::Window;

/// A running consumer. The server forgets it some time after the last request.
pub(super) struct Consumer {
    client: Client,
    link: watch::Receiver<Link>,
    subscriber: Subscriber,
    inbox: String,
    next_subject: String,
    window: Window,
    /// The server's number of the next delivery: a hole means that a message was dropped on the way.
    next_delivery: u64,
    /// How far the consumer reads.
    until: Until,
    /// How many messages there were when it was made.
    pending: u64,
    /// Whether anything came since the last request that does not wait.
    came: bool,
    ended: bool,
    /// What the server said last instead of sending a message.
    quiet: Option<Quiet>,
    /// Where reading means to read everything: what is there and does not come.
    overdue: Option<Overdue>,
    /// What [`Consumer::next_waiting`] met; the next [`Consumer::next`] says so.
    failure: Option<anyhow::Error>,
    /// Resolves when the server forbids what this consumer needs.
    denied: BoxFuture<'static, String>,
}

/// What a consumer reads.
#[derive(Clone, Debug)]
pub(super) struct Selection {
    /// Which messages.
    pub(super) deliver: Deliver,
    /// Of which subjects; all when there is none.
    pub(super) filters: Vec<String>,
    /// Without payloads.
    pub(super) headers_only: bool,
}

/// With which messages a consumer starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deliver {
    /// All from this sequence on.
    From(u64),
    /// The last one of each subject.
    LastPerSubject,
    /// The last one of all.
    Last,
}

/// How far a consumer reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    /// For ever.
    Forever,
    /// To the last message that is there, and no further than this sequence.
    End(u64),
    /// As many as there were when the consumer was made, so that it ends even while others publish.
    Pending,
    /// One message, if it is there.
    First,
}

/// Why the server sends no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Quiet {
    /// It waits for one.
    Heartbeat,
    /// There is none, to a request that does not wait.
    Nothing,
}

/// A message of the stream.
#[derive(Debug)]
pub(super) struct Delivered {
    /// Its place in the stream.
    pub(super) sequence: u64,
    /// When it was stored, in nanoseconds since 1970.
    pub(super) time: i64,
    /// How many more of the consumer's messages there are behind it.
    pub(super) pending: u64,
    /// Subject, headers, payload.
    pub(super) message: Message,
}

/// The reply subject of a delivery, `$JS.ACK…`, holds what the consumer knows of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Metadata {
    sequence: u64,
    delivery: u64,
    time: i64,
    pending: u64,
}

#[derive(Serialize)]
struct CreateRequest<'a> {
    stream_name: &'a str,
    config: ConsumerConfig<'a>,
    action: &'static str,
}

#[derive(Serialize)]
struct ConsumerConfig<'a> {
    name: &'a str,
    deliver_policy: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    opt_start_seq: Option<u64>,
    ack_policy: &'static str,
    replay_policy: &'static str,
    inactive_threshold: u64,
    mem_storage: bool,
    num_replicas: u32,
    headers_only: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    filter_subject: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    filter_subjects: Option<&'a [String]>,
}

#[derive(Deserialize)]
struct Created {
    num_pending: u64,
}

/// How long the server keeps a consumer without requests: longer than it takes to ask again, short enough that
/// those left behind by restarts do not pile up.
const INACTIVE_THRESHOLD: Duration = Duration::from_secs(60);

impl Consumer {
    /// Makes a consumer. Nothing is sent before the first [`Consumer::next`].
    ///
    /// # Errors
    ///
    /// The server refused or did not answer.
    pub(super) async fn create(
        api: &Api,
        stream: &Stream,
        selection: &Selection,
        until: Until,
    ) -> Result<Self> {
        let connection = api.requests().connection();
        // Before the consumer exists: a reconnect from here on ends it.
        let link = connection.connected().await;
        let client = connection.client.clone();
        let inbox = client.new_inbox();
        let inbox_denied = connection.denied(&format!("{inbox}.*"));
        let subscriber = client.subscribe(format!("{inbox}.*")).await?;
        let (name, pending) = selection.create(api, stream).await?;
        let next_subject = format!("$JS.API.CONSUMER.MSG.NEXT.{}.{name}", stream.name);
        let next_denied = connection.denied(&next_subject);
        Ok(Self {
            next_subject,
            window: Window::new(client.max_payload(), until),
            client,
            link,
            subscriber,
            inbox,
            next_delivery: 1,
            until,
            pending,
            came: false,
            ended: until == Until::Pending && pending == 0,
            quiet: None,
            overdue: match (selection.deliver, until) {
                (Deliver::From(first), Until::Forever | Until::End(_)) => {
                    Some(Overdue::new(api, stream, &selection.filters, first))
                }
                _ => None,
            },
            failure: None,
            denied: Box::pin(async {
                tokio::select! {
                    denied = next_denied => denied,
                    denied = inbox_denied => denied,
                }
            }),
        })
    }

    /// How many messages there were when it was made.
    pub(super) fn pending(&self) -> u64 {
        self.pending
    }

    /// The headers of the first message that a consumer of `filters` delivers, of all subjects when there is none.
    /// Without the payload, which a slow line may never bring in time.
    ///
    /// # Errors
    ///
    /// The server refused or did not answer.
    pub(super) async fn first_headers(
        api: &Api,
        stream: &Stream,
        deliver: Deliver,
        filters: Vec<String>,
    ) -> Result<Option<Delivered>> {
        let selection = Selection { deliver, filters, headers_only: true };
        Self::create(api, stream, &selection, Until::First).await?.next().await
    }

    /// Waits for the next message; `None` at the end. Whoever drops the future drops the consumer as well: a
    /// request could be counted and never be sent.
    ///
    /// # Errors
    ///
    /// This consumer is of no use any more.
    pub(super) async fn next(&mut self) -> Result<Option<Delivered>> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        while !self.ended {
            match (self.quiet.take(), &mut self.overdue) {
                (Some(Quiet::Heartbeat), Some(overdue)) => overdue.at_heartbeat().await?,
                (Some(Quiet::Nothing), Some(overdue)) => self.ended = overdue.is_nothing().await?,
                _ => {}
            }
            if self.ended {
                break;
            }
            self.request_more().await?;
            let message = tokio::select! {
                biased;
                message = self.subscriber.next() => message,
                _ = self.link.changed() => bail!("the connection broke"),
                denied = &mut self.denied => bail!(denied),
                heard = silence(|| self.client.received()) => {
                    if heard == Heard::Nothing {
                        self.client.reconnect().await;
                    }
                    bail!("the server sent no heartbeat for {} seconds", SILENCE.as_secs());
                }
            };
            if let Some(delivered) = self.take(message)? {
                return Ok(Some(delivered));
            }
        }
        Ok(None)
    }

    /// The next message, if it has come already. Asks for nothing: whoever wants more than a few of these calls
    /// [`Consumer::next`] between them.
    pub(super) fn next_waiting(&mut self) -> Option<Delivered> {
        while !self.ended && self.failure.is_none() {
            let message = self.subscriber.next().now_or_never()?;
            match self.take(message) {
                Ok(None) => {}
                Ok(delivered) => return delivered,
                Err(error) => self.failure = Some(error),
            }
        }
        None
    }

    /// What a message brings; none when it is a status, or beyond the end.
    fn take(&mut self, message: Option<Message>) -> Result<Option<Delivered>> {
        let message = message.context("the connection has ended")?;
        if message.status.is_some() {
            self.end_request(&message)?;
            return Ok(None);
        }
        let delivered = self.accept(message)?;
        match self.until {
            Until::Forever => {}
            Until::End(last) => self.ended = delivered.sequence >= last,
            // Deliveries are numbered from 1.
            Until::Pending => self.ended = self.next_delivery > self.pending,
            Until::First => self.ended = true,
        }
        let is_beyond = matches!(self.until, Until::End(last) if delivered.sequence > last);
        Ok(Some(delivered).filter(|_| !is_beyond))
    }

    /// Asks for as much as the window has room for.
    async fn request_more(&mut self) -> Result<()> {
        while let Some((number, request)) = self.window.next_request() {
            let reply = format!("{}.{number}", self.inbox);
            let payload = serde_json::to_vec(&request)?.into();
            let publish = self.client.publish_with_reply(self.next_subject.clone(), reply, payload);
            tokio::select! {
                biased;
                published = publish => published?,
                _ = self.link.changed() => bail!("the connection broke"),
            }
        }
        Ok(())
    }

    fn accept(&mut self, message: Message) -> Result<Delivered> {
        let metadata = message.reply.as_deref().and_then(Metadata::parse);
        let metadata = metadata.context("a message came that no consumer sent")?;
        ensure!(
            metadata.delivery == self.next_delivery,
            "{} deliveries are missing before the message {}",
            metadata.delivery.saturating_sub(self.next_delivery),
            metadata.sequence
        );
        self.next_delivery += 1;
        (self.came, self.quiet) = (true, None);
        if let Some(overdue) = &mut self.overdue {
            overdue.came(metadata.sequence);
        }
        self.window.spend(message.length);
        let Metadata { sequence, time, pending, .. } = metadata;
        Ok(Delivered { sequence, time, pending, message })
    }

    /// Takes a status: a heartbeat, or the end of a request.
    fn end_request(&mut self, message: &Message) -> Result<()> {
        let description = message.description.as_deref().unwrap_or_default();
        let is_too_small = description.starts_with("Message Size Exceeds");
        let regular = match message.status {
            Some(StatusCode::IDLE_HEARTBEAT) => {
                self.quiet = Some(Quiet::Heartbeat);
                return Ok(());
            }
            Some(StatusCode::NOT_FOUND) => {
                // The server says so at the end, and also when a message vanished while it looked for the next
                // one: it is the end when nothing came at all, and nothing is overdue.
                self.ended = matches!(self.until, Until::Pending | Until::First) && !self.came;
                self.quiet = Some(Quiet::Nothing).filter(|_| !self.came);
                self.came = false;
                true
            }
            Some(StatusCode::TIMEOUT) => true,
            Some(StatusCode::REQUEST_TERMINATED) => {
                is_too_small || description.starts_with("Batch Completed")
            }
            _ => false,
        };
        let status = message.status.unwrap_or(StatusCode::OK);
        ensure!(regular, "the consumer has ended: the server says `{status} {description}`");
        let number = message.subject.rsplit('.').next().and_then(|token| token.parse().ok());
        let bytes_left = self.window.end(number, message.headers.as_ref());
        if is_too_small && let Some(bytes) = self.window.make_room(bytes_left)? {
            tracing::info!(
                "a message is larger than the server's `max_payload` ({}): asking for up to {bytes} bytes",
                self.client.max_payload()
            );
        }
        Ok(())
    }
}

impl Selection {
    /// How many messages there are of it.
    ///
    /// # Errors
    ///
    /// The server refused or did not answer.
    pub(super) async fn count(&self, api: &Api, stream: &Stream) -> Result<u64> {
        Ok(self.create(api, stream).await?.1)
    }

    /// Makes the consumer; its name, and how many messages it will deliver of those that are there.
    async fn create(&self, api: &Api, stream: &Stream) -> Result<(String, u64)> {
        let name = format!("fshipper-{:016x}", fastrand::u64(..));
        let (deliver_policy, opt_start_seq) = match self.deliver {
            Deliver::From(sequence) => ("by_start_sequence", Some(sequence.max(1))),
            Deliver::LastPerSubject => ("last_per_subject", None),
            Deliver::Last => ("last", None),
        };
        let single_filter = match self.filters.as_slice() {
            [filter] => Some(filter.as_str()),
            _ => None,
        };
        let config = ConsumerConfig {
            name: &name,
            deliver_policy,
            opt_start_seq,
            ack_policy: "none",
            replay_policy: "instant",
            inactive_threshold: INACTIVE_THRESHOLD.as_nanos() as u64,
            mem_storage: true,
            num_replicas: 1,
            headers_only: self.headers_only,
            filter_subject: single_filter,
            filter_subjects: Some(self.filters.as_slice()).filter(|filters| filters.len() > 1),
        };
        let request = CreateRequest { stream_name: &stream.name, config, action: "create" };
        // A single filter is part of the subject, so that permissions can be held to it.
        let operation = match single_filter {
            Some(filter) => format!("CONSUMER.CREATE.{}.{name}.{filter}", stream.name),
            None => format!("CONSUMER.CREATE.{}.{name}", stream.name),
        };
        let created: Created = api.call(&operation, Some(&request)).await.map_err(|error| {
            let explained = error.explain(&api.requests().server());
            explained.context(format!("cannot make a consumer of the stream `{}`", stream.name))
        })?;
        Ok((name, created.num_pending))
    }
}

impl Delivered {
    /// When it was stored.
    pub(super) fn stored_at(&self) -> SystemTime {
        let nanoseconds = Duration::from_nanos(self.time.unsigned_abs());
        match self.time {
            0.. => SystemTime::UNIX_EPOCH + nanoseconds,
            _ => SystemTime::UNIX_EPOCH - nanoseconds,
        }
    }
}

impl Metadata {
    /// Reads `$JS.ACK.[{domain}.{account}.]{stream}.{consumer}.{count}.{sequence}.{delivery}.{time}.{pending}`.
    /// Newer servers put the bracketed tokens, and may add one at the end.
    fn parse(reply: &str) -> Option<Self> {
        let tokens: Vec<_> = reply.strip_prefix("$JS.ACK.")?.split('.').collect();
        let numbers = match tokens.len() {
            7 => &tokens[3..],
            9.. => &tokens[5..],
            _ => return None,
        };
        let number = |index: usize| numbers[index].parse().ok();
        let time = numbers[2].parse().ok()?;
        Some(Self { sequence: number(0)?, delivery: number(1)?, time, pending: number(3)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_a_delivery_says_of_its_message() {
        let time = 1_700_000_000_000_000_001;
        let expected = Some(Metadata { sequence: 10, delivery: 3, time, pending: 7 });
        let old = "$JS.ACK.LOGS.c.1.10.3.1700000000000000001.7";
        let new = "$JS.ACK.hub.ACCHASH.LOGS.c.1.10.3.1700000000000000001.7";
        assert_eq!(Metadata::parse(old), expected);
        assert_eq!(Metadata::parse(new), expected);
        assert_eq!(Metadata::parse(&format!("{new}.random")), expected);
        for wrong in ["", "$JS.ACK.LOGS.c.1", "_INBOX.x.1", "$JS.ACK.LOGS.c.1.x.3.1.7"] {
            assert_eq!(Metadata::parse(wrong), None, "{wrong}");
        }
    }
}
