//! The sending end over core NATS: [`CoreSender`].
//!
//! Core NATS acknowledges nothing. A commit is a message to an inbox of our own that came back on the same
//! connection: the server handles a connection's messages in order, so it has handed on everything before it.
//! When the connection breaks, nobody knows what of the rest arrived: the hop fails and starts again at its
//! last commit. Our receivers cut off what they have by its position; a plain subscriber may see up to one
//! commit's worth twice.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use async_nats::Subject;
use async_trait::async_trait;
use bytes::Bytes;
use fshipper_pipeline::{Batch, Checkpoint, Context, Sink, Written};
use futures::StreamExt as _;

use super::client::{Client, Subscriber};
use super::config::{Framing, Nats};
use super::connect::{Connection, Queues, Standing, connect};
use super::home::Home;
use super::subject::Subjects;
use super::wire::{self, Encoding};

/// Publishes batches.
pub(super) struct CoreSender {
    home: Home,
    connection: Connection,
    subjects: Subjects,
    encoding: Encoding,
    framing: Framing,
    inbox: String,
    echoes: Subscriber,
    /// The last message to the inbox.
    echo: u64,
    /// What the server refused before is of no interest.
    denial_mark: u64,
    /// The subject that is published to, and the inbox: few, for one host has one.
    used: Vec<String>,
    /// Whether one of them has not been part of a commit yet.
    unproven: bool,
    /// The connection over which everything went that is not committed; `None` when all is.
    over: Option<Standing>,
    unflushed_bytes: usize,
}

/// Small messages, so that a slow subscriber's queue, which is counted in messages, stays small as well.
const MAX_MESSAGE_BYTES: usize = 64 << 10;

/// What may wait in the client, which has no bound in bytes of its own.
const MAX_UNFLUSHED_BYTES: usize = 512 << 10;

/// Enough lines for [`MAX_UNFLUSHED_BYTES`] to be the limit that counts.
const QUEUES: Queues = Queues { outgoing: 1024, incoming: 16 };

/// A commit's worth of data over a slow line takes its time, but a connection that is alive and brings nothing
/// back for so long is stuck.
const ECHO_TIMEOUT: Duration = Duration::from_secs(60);

/// The server objects to a forbidden subject before it sends the echo back, but the client reports that apart
/// from the echo, by another task. A commit of a subject that was never committed before gives it this time.
pub(super) const OBJECTION_TIME: Duration = Duration::from_millis(100);

impl CoreSender {
    /// Connects.
    pub(super) async fn open(nats: &Nats, context: &Context) -> Result<Self> {
        let home = Home::start()?;
        let connection = home.settle(Box::pin(connect(nats, &context.settings, QUEUES))).await?;
        Self::over(nats, connection, home).await
    }

    /// How long a message to ourselves takes, which is all that can be tried without sending anything to others.
    pub(super) async fn probe(nats: &Nats, connection: Connection) -> Result<Duration> {
        let mut sender = Self::over(nats, connection, Home::start()?).await?;
        let start = Instant::now();
        sender.round_trip().await?;
        Ok(start.elapsed())
    }

    async fn over(nats: &Nats, connection: Connection, home: Home) -> Result<Self> {
        let denial_mark = connection.denial_mark();
        let inbox = connection.client.new_inbox();
        let echoes = connection.client.subscribe(inbox.clone()).await;
        let echoes = echoes.with_context(|| format!("cannot subscribe to the inbox `{inbox}`"))?;
        let subjects = nats.subjects();
        let encoding = Encoding { compression: nats.compression, host: !subjects.carry_host() };
        Ok(Self {
            home,
            connection,
            subjects,
            encoding,
            framing: nats.framing,
            used: vec![inbox.clone()],
            unproven: true,
            inbox,
            echoes,
            echo: 0,
            denial_mark,
            over: None,
            unflushed_bytes: 0,
        })
    }

    /// Before something is sent: with nothing under way it does not matter what became of the connection before.
    async fn begin(&mut self) {
        if self.over.is_none() {
            self.over = Some(self.connection.standing().await);
        }
    }

    fn has_broken(&self) -> bool {
        self.over.is_some_and(|over| self.connection.has_broken(over))
    }

    /// Fails after a break with something under way; waits for the next connection first, so that what still waits
    /// in the client goes out before the next session sends it again, and not in the middle of that.
    async fn check_connection(&self) -> Result<()> {
        if self.has_broken() {
            self.connection.connected().await;
            bail!("the connection to NATS broke: what was sent since the last commit is sent again");
        }
        Ok(())
    }

    /// One round trip to the server and back.
    async fn round_trip(&mut self) -> Result<()> {
        self.begin().await;
        self.echo += 1;
        let expected = Bytes::from(self.echo.to_string());
        let mut link = self.connection.reconnects();
        let denied = self.connection.denied_since(self.denial_mark, self.used.clone());
        let published = self.connection.client.publish(self.inbox.clone(), expected.clone()).await;
        published.context("cannot publish to our own inbox")?;
        let (over, connection) = (self.over, self.connection.clone());
        let breaks = async {
            // News of a break before come late.
            while !over.is_some_and(|over| connection.has_broken(over)) {
                // Fails only without a sender, and the connection has it.
                let _ = link.changed().await;
            }
        };
        let came_back = async {
            while let Some(message) = self.echoes.next().await {
                if message.payload == expected {
                    return Ok(());
                }
            }
            bail!("the connection to NATS has ended")
        };
        tokio::select! {
            biased;
            denied = denied => Err(refused(&denied)),
            came_back = tokio::time::timeout(ECHO_TIMEOUT, came_back) => {
                let seconds = ECHO_TIMEOUT.as_secs();
                came_back.with_context(|| format!("a message to ourselves did not come back within {seconds} s"))?
            }
            // `check_connection` says so.
            () = breaks => Ok(()),
        }
    }
}

/// What is published at home, beside the client.
struct Publishing {
    client: Client,
    subject: Subject,
    encoding: Encoding,
    framing: Framing,
    header_bytes: usize,
    /// For a payload.
    room: usize,
    unflushed_bytes: usize,
}

impl Publishing {
    /// Publishes a batch; what was not flushed then.
    async fn run(mut self, batch: Batch) -> Result<usize> {
        match self.framing {
            Framing::Batch => {
                for part in wire::split(batch, self.room) {
                    self.publish(wire::encode(&part, self.encoding)).await?;
                }
            }
            Framing::Line => {
                for message in wire::encode_lines(batch, self.room, self.encoding) {
                    self.publish(message).await?;
                }
            }
        }
        Ok(self.unflushed_bytes)
    }

    async fn publish(&mut self, message: wire::Message) -> Result<()> {
        self.unflushed_bytes += message.payload.len() + self.header_bytes;
        let Self { client, subject, .. } = self;
        let published = client.publish_with_headers(subject.clone(), message.headers, message.payload).await;
        published.with_context(|| format!("cannot publish to `{subject}`"))?;
        if self.unflushed_bytes >= MAX_UNFLUSHED_BYTES {
            client.flush().await.context("cannot flush")?;
            self.unflushed_bytes = 0;
        }
        Ok(())
    }
}

/// How both ends over core NATS fail for want of a permission.
pub(super) fn refused(denied: &str) -> anyhow::Error {
    anyhow!("the NATS server refuses: {denied}; give this user the permission")
}

#[async_trait]
impl Sink for CoreSender {
    async fn restore(&mut self) -> Result<Option<Checkpoint>> {
        Ok(None)
    }

    async fn write(&mut self, mut batch: Batch) -> Result<Written> {
        // Nobody on the other side can be asked for it, and it would be half of a line's header.
        batch.place = Bytes::new();
        let subject = self.subjects.publish(&batch.origin);
        let header_bytes = wire::header_bytes(&batch, self.encoding);
        let max_payload = self.connection.client.max_payload();
        let room = max_payload.saturating_sub(header_bytes).min(MAX_MESSAGE_BYTES);
        if room == 0 {
            return Ok(Written::Held(format!(
                "its header alone takes {header_bytes} bytes, and the server accepts {max_payload} in a message"
            )));
        }
        if !self.used.contains(&subject) {
            self.used.push(subject.clone());
            self.unproven = true;
        }
        self.begin().await;
        self.check_connection().await?;
        let publishing = Publishing {
            client: self.connection.client.clone(),
            subject: subject.into(),
            encoding: self.encoding,
            framing: self.framing,
            header_bytes,
            room,
            unflushed_bytes: self.unflushed_bytes,
        };
        let published = self.home.spawn(publishing.run(batch)).await;
        self.unflushed_bytes = published.context("publishing ended in a panic")??;
        self.check_connection().await?;
        Ok(Written::Accepted)
    }

    async fn commit(&mut self, _: &Checkpoint) -> Result<()> {
        self.begin().await;
        self.check_connection().await?;
        self.round_trip().await?;
        self.check_connection().await?;
        if self.unproven {
            let denied = self.connection.denied_since(self.denial_mark, self.used.clone());
            if let Ok(denied) = tokio::time::timeout(OBJECTION_TIME, denied).await {
                return Err(refused(&denied));
            }
            self.unproven = false;
        }
        self.unflushed_bytes = 0;
        self.over = None;
        Ok(())
    }
}
