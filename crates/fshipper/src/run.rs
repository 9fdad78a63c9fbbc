//! `fshipper run`.

use std::process::ExitCode;

use fshipper_pipeline::config::Pipeline;
use fshipper_pipeline::{Control, Monitor, RunError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::arguments::{LogFormat, Run};
use crate::logging::Logs;
use crate::signals::Reactions;
use crate::supervisor::Supervisor;
use crate::{FAILED, MISUSED, complain, health, load, logging, signals};

/// Files and directories are read and synced on threads of their own; more than these would only queue at
/// the disk.
const BLOCKING_THREADS: usize = 32;

pub(crate) fn run(arguments: &Run) -> ExitCode {
    let pipelines = match load(&arguments.files, arguments.state_dir.as_ref(), arguments.once) {
        Ok(pipelines) => pipelines,
        Err(code) => return code,
    };
    let logs = logging::start(arguments);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build();
    let result = match runtime {
        Ok(runtime) => {
            let monitor = Monitor::default();
            if let Some(address) = arguments.health
                && let Err(error) = runtime.block_on(health::serve(address, monitor.clone()))
            {
                return fail(arguments, &logs, MISUSED, &[format!("{error:#}")]);
            }
            let result = runtime.block_on(run_pipelines(pipelines, &monitor, logs.clone()));
            // A blocked read of stdin must not keep the process alive.
            runtime.shutdown_background();
            result
        }
        Err(error) => {
            let error = format!("cannot start the runtime: {error}");
            return fail(arguments, &logs, FAILED, &[error]);
        }
    };
    match result {
        Ok(()) => {
            logs.finish();
            ExitCode::SUCCESS
        }
        Err(errors) => {
            let misused = errors.iter().all(|error| matches!(error, RunError::Start { .. }));
            let untold = errors.iter().filter(|error| !error.is_logged()).map(RunError::to_string);
            let untold = untold.collect::<Vec<_>>();
            fail(arguments, &logs, if misused { MISUSED } else { FAILED }, &untold)
        }
    }
}

/// Says what explains the exit code, after everything else.
fn fail(arguments: &Run, logs: &Logs, code: u8, errors: &[String]) -> ExitCode {
    match arguments.log_format {
        // Whoever reads the log takes each line for JSON.
        LogFormat::Json => {
            errors.iter().for_each(|error| tracing::error!("{error}"));
            logs.finish();
        }
        LogFormat::Text => {
            logs.finish();
            for error in errors {
                complain(code, error);
            }
        }
    }
    ExitCode::from(code)
}

async fn run_pipelines(pipelines: Vec<Pipeline>, monitor: &Monitor, logs: Logs) -> Result<(), Vec<RunError>> {
    let drain_timeout = pipelines.iter().map(|pipeline| pipeline.settings.drain_timeout).max();
    let stop = CancellationToken::new();
    let (hangup, hangups) = watch::channel(0);
    let supervisor = Supervisor::of_this_process();
    let reactions = Reactions { stop: stop.clone(), hangup, supervisor: supervisor.clone(), logs };
    if let Err(error) = signals::handle(reactions, drain_timeout.unwrap_or_default()) {
        tracing::warn!("cannot handle signals: {error}; a stop is then a kill, which loses nothing");
    }
    // Whoever has heard of a stop hears of no start any more.
    tokio::spawn(
        stop.clone().run_until_cancelled_owned(supervisor.say_started(monitor.clone(), pipelines.len())),
    );
    fshipper_pipeline::run_monitored(pipelines, Control { stop, hangups }, monitor).await
}
