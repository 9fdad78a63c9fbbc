//! `fshipper plugins`.

use std::fmt::Write;
use std::process::ExitCode;

use fshipper_pipeline::Plugin;

use crate::{MISUSED, complain, print};

pub(crate) fn list() -> ExitCode {
    let plugins = match Plugin::all() {
        Ok(plugins) => plugins,
        Err(message) => return complain(MISUSED, message),
    };
    let mut text = String::new();
    for plugin in plugins {
        let (kind, name, summary) = (plugin.kind().table(), plugin.name(), plugin.summary());
        let written = writeln!(text, "{kind:<10} {name:<14} {summary} ({})", plugin.crate_name());
        debug_assert!(written.is_ok(), "a string takes everything");
    }
    print(&text)
}
