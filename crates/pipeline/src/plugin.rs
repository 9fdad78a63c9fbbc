//! The contracts a plugin fulfils, and how it is registered.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use async_trait::async_trait;
use futures::future::BoxFuture;

use crate::{Batch, Checkpoint, Context, Origin, Settings};

mod registry;
mod unknown_keys;

pub(crate) use registry::Parse;
pub use registry::{OpenSink, OpenSource, Parts, Plugin};

/// Reads: a stage's input.
///
/// The reader task of a hop owns it and calls nothing but [`Source::read`], one call at a time. A call is
/// never cancelled while the source lives, so an implementation need not be cancel-safe; dropping the
/// source is the only way it is stopped, and by then everything that counts has been committed.
#[async_trait]
pub trait Source: Send {
    /// Waits for the next batch; `None` is the end of the input (only ever with `--once`, or when the input
    /// itself ends, as stdin does).
    ///
    /// Batches of one origin follow each other without a gap, starting at the position this source was
    /// opened with, or earlier: what the sink already has is cut off. A batch is at most
    /// [`Settings::max_batch_bytes`](crate::Settings) long and never waits to become longer.
    ///
    /// # Errors
    ///
    /// An error ends the session: what was read before is written and committed, then the source is opened
    /// again, with a growing pause, at what the sink restores. An origin that cannot be read now is no
    /// error: leave it out, report it once, and try it again later.
    async fn read(&mut self) -> Result<Option<Batch>>;

    /// Whether a later source can read again what this one read. `false` (stdin) means that a failure
    /// before the commit loses bytes: the run then ends with exit code 1 and their count.
    fn can_go_back(&self) -> bool {
        true
    }

    /// Asks a source that cannot go back for what it has taken from its input already: from now on it reads no
    /// more, gives that, and ends. `false`, the default, says that there is nothing besides what it gave.
    ///
    /// The run is about to stop. A read may have been given up before, here alone: nothing may be lost thereby.
    fn drain(&mut self) -> bool {
        false
    }
}

/// Writes: a stage's output.
///
/// The writer task of a hop owns it and makes one call at a time, none of them cancelled unless the process
/// gives up draining.
#[async_trait]
pub trait Sink: Send {
    /// What this sink durably holds; `None` when it keeps no positions. Called once, before anything else.
    ///
    /// Whoever returns `None` is wrapped by a decorator that keeps the checkpoint in a file of the state
    /// directory: delivery is then at least once.
    async fn restore(&mut self) -> Result<Option<Checkpoint>>;

    /// Takes a batch: handed to the kernel or the server when this returns, or queued for it; not yet
    /// durable. Batches of one origin arrive in order and without a gap. Waiting here is the backpressure.
    /// A sink that queues keeps the batch's [`lease`](Batch::lease) as long as its bytes.
    ///
    /// # Errors
    ///
    /// An error fails the whole hop: everything after the last commit is read again. What concerns one
    /// origin alone is [`Written::Held`] instead: the others go on, and this one is tried again later.
    async fn write(&mut self, batch: Batch) -> Result<Written>;

    /// Makes everything written so far durable, and the checkpoint that describes it: data first. Due
    /// `commit_interval` after a write or when [`commit_bytes`](Sink::commit_bytes) are written, whichever comes
    /// first, at the end, and after a hangup; one that is due while another is under way begins when that one ends.
    /// Costs what [changed](Checkpoint::changed_origins), not what exists.
    ///
    /// # Errors
    ///
    /// Nothing of it counts then; the hop is opened again from what the sink restores.
    async fn commit(&mut self, checkpoint: &Checkpoint) -> Result<()>;

    /// Begins what [`Sink::commit`] does, and returns what waits for its end: the pump goes on writing meanwhile,
    /// and begins the next commit when this one is over. For sinks whose commits take long. The commit covers what
    /// was written before it was begun, and must not claim anything that was written since.
    ///
    /// # Errors
    ///
    /// Those of [`Sink::commit`], now or at the end.
    async fn begin_commit(&mut self, checkpoint: &Checkpoint) -> Result<Committing> {
        self.commit(checkpoint).await?;
        let held = self.held();
        Ok(Box::pin(async move { Ok(held) }))
    }

    /// After how many bytes a commit is due where the pipeline file says `configured`. More only where every
    /// batch becomes durable by itself and soon, so that a commit is nothing but waiting for the last ones.
    fn commit_bytes(&self, configured: u64) -> u64 {
        configured
    }

    /// How many bytes may be read and not yet written, where a hop `usually` has room for so many. Asked once, after
    /// [`Sink::restore`]. More only where more has to be under way at once, as over a line that is long, and never
    /// so much that the process would need more than twice the memory.
    fn budget_bytes(&self, usually: usize) -> usize {
        usually
    }

    /// Origins whose accepted batches turned out to be impossible to store, each with the reason, and each
    /// told once: for sinks that hear of it only after [`Sink::write`] returned. The pump asks after each
    /// commit, which then claims nothing new for them; they are held as by [`Written::Held`]. A sink with a
    /// [`Sink::begin_commit`] of its own says so there.
    fn held(&mut self) -> Vec<(Origin, String)> {
        Vec::new()
    }
}

/// A commit that was begun. It resolves when everything of it is durable, with what [`Sink::held`] has to say of the
/// batches it covers.
pub type Committing = BoxFuture<'static, Result<Vec<(Origin, String)>>>;

/// What became of a written batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Written {
    /// Taken.
    Accepted,
    /// This origin cannot go on now, for this reason. Its batches are dropped, not buffered, until the
    /// session starts again at the position before the first of them. Where the source cannot go back, the same
    /// batch is offered again to the same sink, with growing pauses, until it is taken: look again each time.
    Held(String),
}

/// Which ends of a transport a pipeline uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// A producer: it sends.
    Sender,
    /// A consumer: it receives.
    Receiver,
    /// One process does both.
    Both,
}

impl Ends {
    /// Whether the pipeline sends.
    pub fn sends(self) -> bool {
        self != Self::Receiver
    }

    /// Whether the pipeline receives.
    pub fn receives(self) -> bool {
        self != Self::Sender
    }
}

/// A value of a plugin's table that has the right type and still makes no sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    /// The key it stands under, dotted: `tls.ca`, `include`, `include[1]`. Empty: the table itself.
    pub key: String,
    /// What is wrong: lower case, no final period, the value in backticks.
    pub message: String,
    /// What to do about it.
    pub help: Option<String>,
}

impl Invalid {
    /// A problem with the value under `key`.
    pub fn new(key: impl Into<String>, message: impl Into<String>) -> Self {
        Self { key: key.into(), message: message.into(), help: None }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// A `[source]` table: the plugin's configuration, which opens the running source.
///
/// Implemented by a struct that derives `Deserialize` (with `deny_unknown_fields`) and `JsonSchema`; the
/// doc comments of its fields are what users read.
#[async_trait]
pub trait SourceConfig: Sized + Send + Sync + 'static {
    /// Checks what types cannot; touches nothing outside the process.
    fn validate(&self, settings: &Settings) -> Result<(), Invalid> {
        let _ = settings;
        Ok(())
    }

    /// What it reads, in a few words without secrets, for `fshipper check`.
    fn describe(&self) -> String {
        String::new()
    }

    /// What of the process this source needs for itself alone, such as `standard input`: two that claim the same are
    /// refused before anything starts.
    fn claims(&self) -> Option<&'static str> {
        None
    }

    /// For sources that read files: paths of files such as this one reads, there or not. They show before the
    /// start whether lines would go in a circle. Touches nothing.
    fn examples(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    /// For sources that read files: by which of its patterns this one reads the file at `path`, if it does.
    /// Touches nothing.
    fn reads(&self, path: &Path) -> Option<String> {
        let _ = path;
        None
    }

    /// Opens the source at `from`. Called at every start of a session; the process may have died before.
    ///
    /// Where an origin [was further](crate::History::reached) than where it is to go on, somebody misses bytes. A
    /// source that cannot give them again gives the [loss](crate::Batch::loss) of everything up to there and goes on
    /// behind it: other bytes at their offsets would be taken for them.
    ///
    /// # Errors
    ///
    /// Retried with a growing pause, unless the error is a [`Fatal`](crate::Fatal).
    async fn open(&self, from: Checkpoint, context: Context) -> Result<Box<dyn Source>>;

    /// Opens several tables of this type as one source. Override it when they share something, such as the
    /// rule that the first table to match a file owns it.
    async fn open_all(tables: &[Self], from: Checkpoint, context: Context) -> Result<Box<dyn Source>> {
        let mut sources = Vec::with_capacity(tables.len());
        for table in tables {
            sources.push(table.open(from.clone(), context.clone()).await?);
        }
        Ok(crate::merge::merge(sources))
    }
}

/// A `[sink]` table: the plugin's configuration, which opens the running sink. See [`SourceConfig`].
#[async_trait]
pub trait SinkConfig: Sized + Send + Sync + 'static {
    /// Checks what types cannot; touches nothing outside the process.
    fn validate(&self, settings: &Settings) -> Result<(), Invalid> {
        let _ = settings;
        Ok(())
    }

    /// What it writes to, in a few words without secrets, for `fshipper check`.
    fn describe(&self) -> String {
        String::new()
    }

    /// For sinks that write files: where a line of `origin` would go now. Touches nothing.
    fn writes(&self, origin: &Origin) -> Option<PathBuf> {
        let _ = origin;
        None
    }

    /// Opens the sink. Called at every start of a session; the process may have died before.
    ///
    /// # Errors
    ///
    /// Retried with a growing pause, unless the error is a [`Fatal`](crate::Fatal).
    async fn open(&self, context: Context) -> Result<Box<dyn Sink>>;
}

/// A `[transport]` table: a matching pair that shares one configuration, a *sender* (a sink) and a
/// *receiver* (a source). See [`SourceConfig`].
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// Checks what types cannot; touches nothing outside the process.
    fn validate(&self, settings: &Settings, ends: Ends) -> Result<(), Invalid> {
        let _ = (settings, ends);
        Ok(())
    }

    /// What it connects to, in a few words without secrets, for `fshipper check`.
    fn describe(&self) -> String {
        String::new()
    }

    /// Opens the sending end.
    ///
    /// # Errors
    ///
    /// Retried with a growing pause, unless the error is a [`Fatal`](crate::Fatal).
    async fn open_sender(&self, context: Context) -> Result<Box<dyn Sink>>;

    /// Opens the receiving end at `from`.
    ///
    /// # Errors
    ///
    /// Retried with a growing pause, unless the error is a [`Fatal`](crate::Fatal).
    async fn open_receiver(&self, from: Checkpoint, context: Context) -> Result<Box<dyn Source>>;

    /// Whether the two ends live and die together, so that a failure of one opens both again. The receiver
    /// is opened before the sender.
    fn linked(&self) -> bool {
        false
    }

    /// Connects and verifies what can be verified without sending anything, for `check --connect`: a line
    /// for each thing found in order.
    ///
    /// # Errors
    ///
    /// What is missing or forbidden, with the remedy.
    async fn probe(&self, ends: Ends, settings: Arc<Settings>) -> Result<Vec<String>> {
        let _ = (ends, settings);
        Ok(Vec::new())
    }
}

/// What a plugin is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Reads lines.
    Source,
    /// Carries them elsewhere.
    Transport,
    /// Writes them.
    Sink,
}

impl Kind {
    /// The name of its table in a pipeline file.
    pub fn table(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Transport => "transport",
            Self::Sink => "sink",
        }
    }
}
