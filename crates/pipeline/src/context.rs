//! What a plugin is told when it opens: [`Context`].

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::Progress;

/// The `[pipeline]` table with its defaults filled in, and what the command line adds to it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The pipeline's name: one running pipeline per name and state directory.
    pub name: String,
    /// The host whose logs a source reads.
    pub host: String,
    /// The directory under which each pipeline keeps a directory of its own.
    pub state_dir: PathBuf,
    /// A commit begins at most this long after a write, or else when the one before it ends.
    pub commit_interval: Duration,
    /// A commit begins when so many bytes were written since the last one began; where that one has not ended, up
    /// to 32 times as many are written meanwhile.
    pub commit_bytes: u64,
    /// At most this many bytes in a batch.
    pub max_batch_bytes: usize,
    /// How long a stopped pipeline may take to ship and commit what it has read.
    pub drain_timeout: Duration,
    /// `--once`: ship what is there now, commit, exit.
    pub once: bool,
}

/// What the running pipeline gives to the parts it opens. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Context {
    /// The pipeline's settings.
    pub settings: Arc<Settings>,
    /// A directory for this pipeline alone: it exists, and is locked against every other process.
    pub state_dir: PathBuf,
    /// With `--once`: fires when nothing more will be sent *into* this part's input. A receiver takes its
    /// end then and not earlier; a source that stands first finds it fired already. `None` without `--once`.
    pub once: Option<CancellationToken>,
    /// Changes when the operator asks to reopen output files (SIGHUP). The pump then commits, even when
    /// nothing was written, so a sink need only compare the number at each commit.
    pub hangups: watch::Receiver<u64>,
    /// What the ends of a hop tell each other: the same handle for both, in all sessions.
    pub progress: Progress,
}

/// An error that opening again cannot mend: it ends the pipeline. At start it is an error of
/// configuration (exit code 2), later a failure (exit code 1).
///
/// ```
/// # use fshipper_pipeline::{anyhow, Fatal};
/// fn open_ledger() -> anyhow::Result<()> {
///     Err(Fatal::new("the ledger was written by a newer version of fshipper"))
/// }
/// assert!(open_ledger().unwrap_err().is::<Fatal>());
/// ```
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Fatal(String);

impl Fatal {
    /// Wraps a message that names the object, the place and the remedy.
    #[allow(clippy::new_ret_no_self, reason = "it is only ever returned as an error")]
    pub fn new(message: impl Into<String>) -> anyhow::Error {
        anyhow::Error::new(Self(message.into()))
    }
}
