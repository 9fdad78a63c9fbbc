//! The command line, as types.

use std::net::{IpAddr, SocketAddr};
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
    /// Compare a log with what was shipped of it: identical, or where and how it differs
    ///
    /// Lines that were lost, duplicated, reordered or torn are counted, each kind with its first place: the
    /// line counted from 1, the byte from 0. Gzip files are read too. Files are put in the order of their
    /// log, whatever order they are named in. A pattern in quotes is resolved here.
    ///
    /// Exit codes: 0 identical, 1 different or behind, 2 could not compare.
    #[command(
        override_usage = "fshipper verify [OPTIONS] <SOURCE>... --central <FILE>...",
        after_long_help = VERIFY_EXAMPLES
    )]
    Verify(Verify),
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
    /// Answer HTTP here: /healthz says whether all is well, /metrics counts for Prometheus
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = health_address)]
    pub(crate) health: Option<SocketAddr>,
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

#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// The log where it was written: one file, or all rotated files of it
    #[arg(required = true, value_name = "SOURCE")]
    pub(crate) source: Vec<PathBuf>,
    /// What arrived of it: the files that the sink wrote
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    pub(crate) central: Vec<PathBuf>,
    /// Exit with 0 also when the end of the source has not arrived yet
    #[arg(long)]
    pub(crate) allow_behind: bool,
    /// Begin with the first line of one side; the other one may begin earlier
    ///
    /// `central`: retention deleted the oldest central files. `source`: the oldest source files are gone.
    #[arg(long, value_enum, value_name = "SIDE")]
    pub(crate) from: Option<From>,
    /// Other logs write to the central files too: look for the source's lines among theirs, in order
    #[arg(long)]
    pub(crate) shared: bool,
    /// With --shared: the source's lines may stand there more often, because other logs have equal ones
    #[arg(long, requires = "shared")]
    pub(crate) allow_repeated: bool,
    /// Take files in the order in which they are named
    #[arg(long)]
    pub(crate) as_given: bool,
}

/// A side of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum From {
    Central,
    Source,
}

const VERIFY_EXAMPLES: &str = "\
Examples:
  fshipper verify /var/log/app.log* --central /srv/logs/web1/app.log.*
  fshipper verify --allow-behind --from central '/var/log/app.log*' --central '/srv/logs/web1/app.log.*'
  fshipper verify --shared /var/log/app.log --central /srv/logs/all.log*";

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// An address of this host. A name may have several, and which of them would be meant is anybody's guess.
fn health_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| match text.parse::<IpAddr>() {
        Ok(address) => format!("it names no port: write `{}`", SocketAddr::new(address, HEALTH_PORT_EXAMPLE)),
        Err(_) => {
            let port = text.rsplit(':').next().and_then(|port| port.parse().ok()).unwrap_or(HEALTH_PORT_EXAMPLE);
            format!(
                "it has to be an IP address and a port: `127.0.0.1:{port}` for this host alone, `0.0.0.0:{port}` for everybody"
            )
        }
    })
}

/// The port in messages about an address that has none.
const HEALTH_PORT_EXAMPLE: u16 = 9600;

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_health_address_is_an_ip_address_and_a_port_and_the_message_says_so() {
        let parse = |address| {
            let parsed = Arguments::try_parse_from(["fshipper", "run", "a.toml", "--health", address]);
            parsed.map(drop).map_err(|error| error.to_string())
        };
        for right in ["127.0.0.1:9600", "0.0.0.0:0", "[::1]:9600"] {
            parse(right).unwrap();
        }
        for (wrong, remedy) in [
            ("localhost:9601", "`127.0.0.1:9601` for this host alone, `0.0.0.0:9601` for everybody"),
            (":9601", "`127.0.0.1:9601`"),
            ("web1", "an IP address and a port: `127.0.0.1:9600`"),
            ("10.0.0.1", "no port: write `10.0.0.1:9600`"),
            ("::1", "no port: write `[::1]:9600`"),
        ] {
            let message = parse(wrong).unwrap_err();
            assert!(message.contains(remedy), "{wrong}: {message}");
        }
    }
}
