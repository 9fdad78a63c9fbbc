//! A conformance suite that any source or sink can be put through (feature `testing`).
//!
//! ```
//! use std::collections::HashMap;
//! use std::sync::{Arc, Mutex};
//!
//! use fshipper_pipeline::{Batch, Checkpoint, Origin, Sink, Written, anyhow, async_trait, testing};
//!
//! /// Keeps all bytes, and no positions.
//! #[derive(Clone, Default)]
//! struct Collect(Arc<Mutex<HashMap<Origin, Vec<u8>>>>);
//!
//! #[async_trait]
//! impl Sink for Collect {
//!     async fn restore(&mut self) -> anyhow::Result<Option<Checkpoint>> {
//!         Ok(None)
//!     }
//!     async fn write(&mut self, batch: Batch) -> anyhow::Result<Written> {
//!         let mut logs = self.0.lock().unwrap();
//!         logs.entry(batch.origin.clone()).or_default().extend_from_slice(batch.bytes());
//!         Ok(Written::Accepted)
//!     }
//!     async fn commit(&mut self, _: &Checkpoint) -> anyhow::Result<()> {
//!         Ok(())
//!     }
//! }
//!
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! let sink = Collect::default();
//! let open = async || Ok(Box::new(sink.clone()) as Box<dyn Sink>);
//! let read_back = |origin: &Origin| sink.0.lock().unwrap().get(origin).cloned().unwrap_or_default();
//! testing::check_sink(open, read_back).await;
//! # });
//! ```
//!
//! - [`check_sink`], [`check_shared_sink`]: a sink, as the pump uses it, written to while it commits;
//! - [`check_source`], [`check_source_after_loss`]: a source, opened wherever a receiver can stand.
//!
//! Each panics with a sentence that says which promise of [`Source`](crate::Source) or [`Sink`](crate::Sink) does
//! not hold. What only the plugin's own tests can bring about is left to them: an origin that cannot be stored, a
//! disk that is full, a crash of the machine.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{Checkpoint, Context, Gap, Origin, Position, Progress, Settings};

pub mod fuzz;
mod sink;
mod source;

pub use sink::{check_shared_sink, check_sink};
pub use source::{check_source, check_source_after_loss};

/// What takes this long hangs.
const PATIENCE: Duration = Duration::from_secs(30);

/// A context for tests: the pipeline `test` on the host `host`, its state in `state_dir`, with `--once`.
pub fn context(state_dir: &Path) -> Context {
    let nothing_more_comes = CancellationToken::new();
    nothing_more_comes.cancel();
    let settings = Settings {
        name: "test".to_owned(),
        host: "host".to_owned(),
        state_dir: state_dir.to_owned(),
        commit_interval: Duration::from_secs(1),
        commit_bytes: 8 << 20,
        max_batch_bytes: 1_000_000,
        drain_timeout: Duration::from_secs(30),
        once: true,
    };
    Context {
        settings: Arc::new(settings),
        state_dir: state_dir.to_owned(),
        once: Some(nothing_more_comes),
        hangups: watch::channel(0).1,
        progress: Progress::default(),
    }
}

/// Tells the receiver of `context` that `origin` is durable up to `position`, as the pump does after a commit.
pub fn commit(context: &Context, origin: &Origin, position: Position) {
    let mut checkpoint = Checkpoint::default();
    checkpoint.set_position(origin, position);
    commit_all(context, &mut checkpoint);
}

/// Tells the receiver of `context` that everything in `checkpoint` that changed is durable.
pub fn commit_all(context: &Context, checkpoint: &mut Checkpoint) {
    context.progress.commit(&checkpoint.take_changes());
}

/// Tells the receiver of `context` that `origin` waits for bytes, as the pump does when it finds a gap.
pub fn miss(context: &Context, origin: &Origin, gap: Gap) {
    context.progress.miss(origin, gap);
}

/// Whether anybody wants another session of the hop of `context`; asking forgets it.
pub async fn reopening(context: &Context) {
    context.progress.reopening().await;
}

#[cfg(test)]
mod tests;
