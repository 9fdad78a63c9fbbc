//! What signals mean to a running shipper.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::logging::Logs;
use crate::supervisor::Supervisor;

/// What signals set going.
pub(crate) struct Reactions {
    /// Cancelled by the first SIGTERM or SIGINT; the second exits at once.
    pub(crate) stop: CancellationToken,
    /// Raised by each SIGHUP.
    pub(crate) hangup: watch::Sender<u64>,
    /// Told of a stop before it begins.
    pub(crate) supervisor: Supervisor,
    /// Finished before an exit at once.
    pub(crate) logs: Logs,
}

/// Handles SIGTERM, SIGINT and SIGHUP for as long as the process lives. A stop takes at most `drain_timeout`.
pub(crate) fn handle(reactions: Reactions, drain_timeout: Duration) -> io::Result<()> {
    let Reactions { stop, hangup: hangups, supervisor, logs } = reactions;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        loop {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
                _ = hangup.recv() => {
                    tracing::info!("SIGHUP: reopening output files");
                    hangups.send_modify(|number| *number += 1);
                    continue;
                }
            };
            if stop.is_cancelled() {
                tracing::warn!("{name} again: leaving at once; what is not committed stays in the source");
                logs.finish();
                std::process::exit(crate::FAILED.into());
            }
            tracing::info!(
                "{name}: shipping what was read, then leaving; after {drain_timeout:?}, `drain_timeout`, in any case"
            );
            supervisor.say_stopping().await;
            stop.cancel();
        }
    });
    Ok(())
}
