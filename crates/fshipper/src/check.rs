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
        print(&format!("{}\n", pipeline.describe()));
        if !arguments.connect {
            continue;
        }
        if let Err(failed) = runtime.block_on(connect(pipeline)) {
            code = failed;
        }
    }
    code
}

/// Asks the transport to connect and to verify what it needs.
async fn connect(pipeline: &Pipeline) -> Result<(), ExitCode> {
    let Some((transport, ends)) = &pipeline.parts.transport else { return Ok(()) };
    match transport.probe(*ends, pipeline.settings.clone()).await {
        Ok(found) => {
            for line in found {
                print(&format!("  ok: {line}\n"));
            }
            Ok(())
        }
        Err(error) => Err(complain(FAILED, format!("pipeline `{}`: {error:#}", pipeline.settings.name))),
    }
}
