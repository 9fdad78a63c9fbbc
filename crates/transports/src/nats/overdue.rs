//! Messages that are in the stream and do not come: [`Overdue`].
//!
//! A server that cannot read a part of its store says so in its own log alone. A consumer that has come to that
//! part is told that there is nothing more, with regular heartbeats, and even the server's count of what is
//! pending may be wrong. What the stream says of its last message is not.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::future::BoxFuture;
use tokio::time::Instant;

use super::api::Api;
use super::pull::{Consumer, Deliver};
use super::stream::Stream;

/// Looks after messages that a consumer waits for.
#[derive(Debug)]
pub(super) struct Overdue {
    api: Api,
    stream: String,
    /// The subjects that the consumer delivers: patterns.
    filters: Vec<String>,
    /// The sequence of the last message that came, or of the one before the first that may.
    came: u64,
    /// Nothing up to here is overdue.
    examined: u64,
    next_look: Instant,
    /// How often a message was overdue since the last one came.
    findings: u32,
    /// How often the server said that there is no more since the last one came.
    questions: u32,
    /// How many servers keep the stream.
    replicas: usize,
}

/// After so long without a message the stream is looked at. Sooner than a session counts as a good one, so that a
/// server that stays like this is an error before long.
const FIRST_LOOK: Duration = Duration::from_secs(20);

/// As long as nothing comes and nothing is overdue.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// What is found may be under way: then it has come by the next look. There is one only at a heartbeat, of which each
/// comes five seconds after the last: at the next one it must be time.
const LOOK_AGAIN: Duration = Duration::from_secs(4);

/// How often, and after which pauses, a server is asked again that says that there is no more: the consumer may be
/// on a replica that lags.
const QUESTIONS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(100);

impl Overdue {
    /// For a consumer of these `filters`, of the whole stream when there is none, that starts at the sequence
    /// `first`.
    pub(super) fn new(api: &Api, stream: &Stream, filters: &[String], first: u64) -> Self {
        let filters = if filters.is_empty() { &stream.subjects } else { filters };
        Self {
            api: api.clone(),
            stream: stream.name.clone(),
            filters: filters.to_vec(),
            came: first.saturating_sub(1),
            examined: 0,
            next_look: Instant::now() + FIRST_LOOK,
            findings: 0,
            questions: 0,
            replicas: stream.replicas,
        }
    }

    /// The message with this sequence came.
    pub(super) fn came(&mut self, sequence: u64) {
        (self.came, self.findings, self.questions) = (sequence, 0, 0);
        self.next_look = Instant::now() + FIRST_LOOK;
    }

    /// The server says that it waits for the next message. Now and then that is doubted.
    ///
    /// # Errors
    ///
    /// A message that is there does not come.
    pub(super) async fn at_heartbeat(&mut self) -> Result<()> {
        let now = Instant::now();
        if now < self.next_look {
            return Ok(());
        }
        let pause = match self.look().await {
            Ok(None) => LOOK_EVERY,
            Ok(Some(sequence)) => {
                ensure!(self.findings < 2, self.complaint(sequence));
                LOOK_AGAIN
            }
            // Nobody waits for the answer, which may stand behind a large message on a slow line.
            Err(error) => {
                tracing::debug!("{error:#}");
                LOOK_EVERY
            }
        };
        // From before it: it may have taken a while.
        self.next_look = now + pause;
        Ok(())
    }

    /// The server says that there is no more. Whether that is so; if not, it is asked again, a moment later.
    ///
    /// # Errors
    ///
    /// A message that is there does not come, or the server does not say.
    pub(super) async fn is_nothing(&mut self) -> Result<bool> {
        let found = self.look().await?;
        self.questions += 1;
        match found {
            Some(sequence) => ensure!(self.questions < QUESTIONS, self.complaint(sequence)),
            // What the leader knows of is for others, or a replica that lags has said that there is nothing.
            None if self.replicas > 1 && self.examined > self.came && self.questions < QUESTIONS => {
                self.examined = 0;
            }
            None => return Ok(true),
        }
        tokio::time::sleep(PAUSE).await;
        Ok(false)
    }

    /// The sequence of a message that is there and has not come.
    fn look(&mut self) -> BoxFuture<'_, Result<Option<u64>>> {
        // A consumer asks one, which asks another: boxed, for one asks for what the other does not.
        Box::pin(self.look_now())
    }

    async fn look_now(&mut self) -> Result<Option<u64>> {
        let stream = Stream::look_at(&self.api, &self.stream).await;
        let stream = stream
            .map_err(|error| error.explain(&self.api.requests().server()))
            .with_context(|| self.cannot_look())?;
        if stream.last_sequence <= self.came.max(self.examined) {
            self.findings = 0;
            return Ok(None);
        }
        for filter in &self.filters {
            let filters = vec![filter.clone()];
            let stored = Consumer::first_headers(&self.api, &stream, Deliver::Last, filters).await;
            let stored = stored.with_context(|| self.cannot_look())?;
            if let Some(stored) = stored.filter(|stored| stored.sequence > self.came) {
                self.findings += 1;
                return Ok(Some(stored.sequence));
            }
        }
        (self.examined, self.findings) = (stream.last_sequence, 0);
        Ok(None)
    }

    fn complaint(&self, sequence: u64) -> String {
        let Self { api, stream, came, .. } = self;
        format!(
            "{} delivers nothing after the message {came}, and the stream `{stream}` holds the message {sequence}: \
             see what the server's own log says of its store",
            api.requests().server()
        )
    }

    fn cannot_look(&self) -> String {
        format!("cannot look for the last message of the stream `{}`", self.stream)
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use fshipper_pipeline::Settings;
    use fshipper_testing::NatsServer;

    use super::*;
    use crate::nats::connect::connect;
    use crate::nats::receiver::QUEUES;
    use crate::nats::requests::Requests;

    async fn api(server: &NatsServer) -> Api {
        let nats = serde_json::json!({ "servers": server.url(), "subject": "shipper" });
        let settings = Settings {
            name: "test".to_owned(),
            host: "web1".to_owned(),
            state_dir: PathBuf::new(),
            commit_interval: Duration::from_secs(1),
            commit_bytes: 1,
            max_batch_bytes: 1,
            drain_timeout: Duration::from_secs(1),
            once: false,
        };
        let connection = connect(&serde_json::from_value(nats).unwrap(), &settings, QUEUES).await.unwrap();
        Api::new(Requests::new(connection).await.unwrap())
    }

    /// A heartbeat at which the stream is looked at.
    async fn look(overdue: &mut Overdue) -> Result<()> {
        overdue.next_look = Instant::now();
        overdue.at_heartbeat().await
    }

    async fn make_stream(api: &Api) -> Stream {
        let config = serde_json::json!({
            "name": "LOGS", "subjects": ["shipper.>", "other"], "storage": "memory", "allow_direct": true,
        });
        Stream::create_as(api, "LOGS", &config).await.unwrap()
    }

    #[tokio::test]
    async fn a_message_that_does_not_come_is_missed_at_the_second_look() {
        let server = NatsServer::jetstream();
        let api = api(&server).await;
        let stream = make_stream(&api).await;
        let client = async_nats::connect(server.url()).await.unwrap();
        let publish = async |subject: &'static str| {
            client.request(subject, "line".into()).await.unwrap();
        };
        let mut overdue = Overdue::new(&api, &stream, &["shipper.>".to_owned()], 1);
        look(&mut overdue).await.unwrap();
        publish("other").await;
        for _ in 0..3 {
            look(&mut overdue).await.unwrap();
        }
        assert_eq!(overdue.examined, 1, "messages that are not for it are not looked at twice");

        publish("shipper.a").await;
        look(&mut overdue).await.unwrap();
        overdue.came(2);
        look(&mut overdue).await.unwrap();
        publish("shipper.a").await;
        look(&mut overdue).await.unwrap();
        overdue.at_heartbeat().await.expect("it is not looked at with each heartbeat");
        let error = look(&mut overdue).await.unwrap_err().to_string();
        assert!(
            error.contains("nothing after the message 2") && error.contains("holds the message 3"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_replica_that_says_there_is_nothing_is_asked_again() {
        let server = NatsServer::jetstream();
        let api = api(&server).await;
        let alone = make_stream(&api).await;
        let replicated = Stream { replicas: 3, ..alone.clone() };
        let client = async_nats::connect(server.url()).await.unwrap();
        let overdue = |stream: &Stream| Overdue::new(&api, stream, &["shipper.>".to_owned()], 1);
        assert!(overdue(&replicated).is_nothing().await.unwrap(), "the leader knows of nothing either");

        client.request("other", "line".into()).await.unwrap();
        assert!(overdue(&alone).is_nothing().await.unwrap());
        let mut overdue = overdue(&replicated);
        for _ in 1..QUESTIONS {
            assert!(!overdue.is_nothing().await.unwrap());
        }
        assert!(overdue.is_nothing().await.unwrap(), "the message is for others");
        overdue.came(1);
        client.request("shipper.a", "line".into()).await.unwrap();
        assert!(!overdue.is_nothing().await.unwrap(), "it is asked anew");
    }
}
