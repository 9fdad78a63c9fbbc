//! The command line, as types.

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

/// Ships logs: exactly once, in order, over NATS or without it.
#[derive(Debug, Parser)]
#[command(name = "fshipper", version, max_term_width = 100)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run one or more pipelines in one process until stopped
    ///
    /// SIGTERM and SIGINT stop reading, ship and commit what was read, and exit 0; a second one exits at
    /// once. SIGHUP reopens output files. Exit codes: 0 finished or drained, 1 failed while running, 2 wrong
    /// usage or configuration.
    Run(Run),
    /// Parse, resolve and validate; print what would run; touch nothing
    Check(Check),
    /// List the sources, transports and sinks linked into this binary
    Plugins,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Pipeline files
    #[arg(required = true, value_name = "PIPELINE.toml")]
    pub(crate) files: Vec<PathBuf>,
    /// Ship what is there now, commit, exit
    #[arg(long)]
    pub(crate) once: bool,
    /// Where pipelines keep their state, instead of what their files say
    #[arg(long, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// How log lines look on stderr
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
    /// Log more; twice: everything
    #[arg(short, long, action = ArgAction::Count, conflicts_with = "quiet")]
    pub(crate) verbose: u8,
    /// Log warnings and errors only; twice: errors only
    #[arg(short, long, action = ArgAction::Count)]
    pub(crate) quiet: u8,
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// Pipeline files
    #[arg(required = true, value_name = "PIPELINE.toml")]
    pub(crate) files: Vec<PathBuf>,
    /// Also connect, and verify stream, subject and permissions
    #[arg(long)]
    pub(crate) connect: bool,
    /// Where pipelines keep their state, instead of what their files say
    #[arg(long, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }
}
