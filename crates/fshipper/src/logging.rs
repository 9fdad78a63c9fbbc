//! Log lines on stderr.

use std::io::IsTerminal;
use std::sync::{Arc, Mutex, PoisonError};

use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

use crate::arguments::{LogFormat, Run};

/// More lines than this wait for nobody: when stderr is a pipe that no one reads, later ones are dropped
/// and shipping goes on.
const WAITING_LINES: usize = 4096;

/// The thread that writes log lines.
#[derive(Clone)]
pub(crate) struct Logs(Arc<Mutex<Option<WorkerGuard>>>);

impl Logs {
    /// Writes out what still waits, for as long as about a second; later lines are dropped.
    pub(crate) fn finish(&self) {
        drop(self.0.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

/// Starts logging.
pub(crate) fn start(run: &Run) -> Logs {
    let level = match (run.verbose, run.quiet) {
        (0, 0) => "info",
        (1, _) => "debug",
        (2.., _) => "trace",
        (_, 1) => "warn",
        (_, 2..) => "error",
    };
    // Libraries report through the plugins that use them: at a bounded rate, and once.
    const LIBRARIES: &str = "async_nats=off,linemux=warn,notify=warn,rustls=warn,mio=warn";
    let filter = if run.verbose > 1 { level.to_owned() } else { format!("{level},{LIBRARIES}") };
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(WAITING_LINES)
        .finish(std::io::stderr());
    let builder = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter))
        .with_target(false)
        // A stderr that is closed must not turn into a panic about itself.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .with_writer(writer);
    match run.log_format {
        LogFormat::Text => builder.init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Logs(Arc::new(Mutex::new(Some(guard))))
}
