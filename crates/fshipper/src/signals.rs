//! What signals mean to a running shipper.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::logging::Logs;

/// Handles SIGTERM, SIGINT and SIGHUP for as long as the process lives: the first of the former two cancels
/// `stop`, and the pipelines leave within `drain_timeout`, the second exits at once; SIGHUP raises the number that `hangups` holds.
pub(crate) fn handle(
    stop: CancellationToken,
    hangups: watch::Sender<u64>,
    drain_timeout: Duration,
    logs: Logs,
) -> io::Result<()> {
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
            stop.cancel();
        }
    });
    Ok(())
}
