//! `fshipper check`.

use std::process::ExitCode;

use fshipper_pipeline::config::Pipeline;

use crate::arguments::Check;
use crate::{FAILED, complain, load, print};

pub(crate) fn check(arguments: &Check) -> ExitCode {
    let pipelines = match load(&arguments.files, arguments.state_dir.as_ref(), false) {
        Ok(pipelines) => pipelines,
        Err(code) => return code,
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(FAILED, format!("cannot start the runtime: {error}")),
    };
    let mut code = ExitCode::SUCCESS;
    for pipeline in &pipelines {
        let printed = print(&format!("{}\n", pipeline.describe()));
        if printed != ExitCode::SUCCESS {
            return printed;
        }
        if !arguments.connect {
            continue;
        }
        let connected = runtime.block_on(connect(pipeline));
        if connected != ExitCode::SUCCESS {
            code = connected;
        }
    }
    code
}

/// Asks the transport to connect and to verify what it needs.
async fn connect(pipeline: &Pipeline) -> ExitCode {
    let Some((transport, ends)) = &pipeline.parts.transport else { return ExitCode::SUCCESS };
    match transport.probe(*ends, pipeline.settings.clone()).await {
        Ok(found) => print(&found.iter().map(|line| format!("  ok: {line}\n")).collect::<String>()),
        Err(error) => complain(FAILED, format!("pipeline `{}`: {error:#}", pipeline.settings.name)),
    }
}
