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
    for pipeline in &pipelines {
        print(&format!("{}\n", pipeline.describe()));
    }
    if arguments.connect { connect(&pipelines) } else { ExitCode::SUCCESS }
}

/// Asks each transport to connect and to verify what it needs.
fn connect(pipelines: &[Pipeline]) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain(FAILED, format!("cannot start the runtime: {error}")),
    };
    let mut code = ExitCode::SUCCESS;
    for pipeline in pipelines {
        let Some((transport, ends)) = &pipeline.parts.transport else { continue };
        match runtime.block_on(transport.probe(*ends, pipeline.settings.clone())) {
            Ok(found) => {
                for line in found {
                    print(&format!("  ok: {line}\n"));
                }
            }
            Err(error) => {
                code = complain(FAILED, format!("pipeline `{}`: {error:#}", pipeline.settings.name))
            }
        }
    }
    code
}
