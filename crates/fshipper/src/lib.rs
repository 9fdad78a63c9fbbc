//! The command line of fshipper, as a library, so that a binary of your own is two lines:
//!
//! ```no_run
//! use std::process::ExitCode;
//! // use my_plugin as _;  // links the plugins that your crate registers
//!
//! fn main() -> ExitCode {
//!     fshipper::main()
//! }
//! ```
//!
//! A crate that nobody names is not linked, and its plugins are silently missing: `fshipper plugins` shows
//! what is there.

// The built-in plugins register themselves, once they are linked.
use fshipper_sinks as _;
use fshipper_sources as _;
use fshipper_transports as _;

mod allocator;
mod arguments;
mod check;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod health;
mod logging;
mod plugins;
mod run;
mod signals;
mod supervisor;
mod verify;

use std::fmt;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use fshipper_pipeline::Plugin;
use fshipper_pipeline::config::{self, Environment, Feedback, Options, Pipeline};

use arguments::{Arguments, Command};

/// The plugin in the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;

/// Failed while running.
const FAILED: u8 = 1;
/// Wrong usage or configuration.
const MISUSED: u8 = 2;

/// Reads the arguments, does what they say, and returns the exit code: 0 finished or drained, 1 failed while
/// running, 2 wrong usage or configuration.
pub fn main() -> ExitCode {
    allocator::use_one_arena();
    // clap prints its own errors, and exits with 2 after one.
    let arguments = Arguments::parse();
    if let Err(message) = Plugin::all() {
        return complain(MISUSED, &message);
    }
    match arguments.command {
        Command::Run(run) => run::run(&run),
        Command::Check(check) => check::check(&check),
        Command::Verify(arguments) => verify::verify(&arguments),
        Command::Plugins => plugins::list(),
    }
}

/// Reads pipeline files, all of them or none: every error is printed.
fn load(files: &[PathBuf], state_dir: Option<&PathBuf>, once: bool) -> Result<Vec<Pipeline>, ExitCode> {
    let mut pipelines: Vec<Pipeline> = Vec::with_capacity(files.len());
    let mut wrong = false;
    for file in files {
        let options = Options { state_dir: state_dir.cloned(), once, environment: Environment::process() };
        match config::load(file, &options) {
            Ok(pipeline) => pipelines.push(pipeline),
            Err(error) => {
                wrong = true;
                eprint(&error.render(colour_on_stderr()));
            }
        }
    }
    for (index, later) in pipelines.iter().enumerate() {
        let same = |earlier: &&Pipeline| {
            earlier.settings.name == later.settings.name
                && earlier.settings.state_dir == later.settings.state_dir
        };
        if let Some(earlier) = pipelines[..index].iter().find(same) {
            wrong = true;
            eprint(&format!(
                "error: `{}` and `{}` are both named `{}`: give one of them another `name` in `[pipeline]`\n",
                earlier.file.display(),
                later.file.display(),
                later.settings.name,
            ));
        }
    }
    for (index, later) in pipelines.iter().enumerate() {
        for claim in later.claims() {
            let earlier =
                pipelines[..index].iter().find(|earlier| earlier.claims().any(|other| other == claim));
            if let Some(earlier) = earlier {
                wrong = true;
                eprint(&format!(
                    "error: `{}` and `{}` both read {claim}, which only one source of a process can have: run one of them in a process of its own\n",
                    earlier.file.display(),
                    later.file.display(),
                ));
            }
        }
    }
    if let Some(feedback) = Feedback::find(&pipelines) {
        wrong = true;
        eprint(&format!("error: {feedback}\n"));
    }
    if wrong { Err(ExitCode::from(MISUSED)) } else { Ok(pipelines) }
}

fn complain(code: u8, message: impl fmt::Display) -> ExitCode {
    eprint(&format!("error: {message}\n"));
    ExitCode::from(code)
}

/// To stderr; one that is closed has no reader to miss the words.
fn eprint(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

fn colour_on_stderr() -> bool {
    std::io::IsTerminal::is_terminal(&std::io::stderr()) && std::env::var_os("NO_COLOR").is_none()
}

/// What a command was asked to print; a reader that went away (`| head`) is no failure.
fn print(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            complain(FAILED, format!("cannot write to stdout: {error}"))
        }
        _ => ExitCode::SUCCESS,
    }
}
