//! Pipeline files: TOML in, checked parts out, and errors that point at the place.
//!
//! [`load`] reads one file and answers with a [`Pipeline`], ready to run, or with a [`ConfigError`] that
//! holds everything wrong with the file: each problem with its line, a caret, and the remedy. Nothing
//! outside the process is touched but the file itself.
//!
//! Strings may name environment variables, filled in after the TOML was parsed: `${NAME}` (an error when it
//! is not set), `${NAME:-default}` (when it is not set or empty) and `$$` for a dollar sign. A `$` before
//! anything else stands for itself. Keys, numbers and comments are never looked at, a default cannot hold
//! another `${…}`, and what a variable holds is not looked at again.
//!
//! Secrets never leave: the values of keys that a schema marks `writeOnly` (every [`Secret`]) or whose name
//! says so (`password`, `token`, `nkey` …), the values of variables with such a name, and credentials in
//! URLs are starred out in every snippet and message, also in a file that is no TOML at all.
//!
//! The value types that plugin tables share are here too: [`Period`], [`Size`], [`Secret`], [`OneOrMany`].
//!
//! ```
//! use fshipper_pipeline::config::{self, Environment, Options};
//!
//! let environment = Environment::from([("HOME", "/root")]);
//! let options = Options { state_dir: None, once: false, environment };
//! let error = config::load_str("producer.toml", "[sorce]\ntype = \"stdin\"\n", &options).unwrap_err();
//! assert!(error.render(false).contains("did you mean `[source]`?"));
//! ```
//!
//! Left out on purpose: includes, templates, and a second format.

use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::Settings;
use crate::plugin::Parts;

mod document;
mod environment;
mod error;
mod explain;
mod feedback;
mod interpolate;
mod nearest;
mod reader;
mod redact;
mod schema;
mod settings;
mod tables;
mod values;

pub use environment::Environment;
pub use error::{ConfigError, Problem};
pub use feedback::Feedback;
pub use values::{OneOrMany, Period, Secret, Size};

pub(crate) use document::Value;
pub(crate) use explain::TableError;

use error::Finding;
use redact::Redactor;

/// Far above any pipeline file that a person wrote; whoever names a log by mistake should hear of it.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// What decides the meaning of a pipeline file besides the file.
#[derive(Clone, Debug)]
pub struct Options {
    /// `--state-dir`: goes before every other place that names a state directory.
    pub state_dir: Option<PathBuf>,
    /// `--once`: ship what is there now, commit, exit.
    pub once: bool,
    /// Where variables come from.
    pub environment: Environment,
}

/// A pipeline file, checked: everything in it is known, typed and valid.
pub struct Pipeline {
    /// The file, as it was named.
    pub file: PathBuf,
    /// The `[pipeline]` table with its defaults filled in.
    pub settings: Arc<Settings>,
    /// What opens: the sources, the transport, the sink.
    pub parts: Parts,
    /// What moves where, in one line without secrets: `file_tail (/var/log/*.log) → stdout`.
    pub flow: String,
}

/// Reads and checks a pipeline file.
///
/// # Errors
///
/// Everything wrong with it, in the order of its lines.
pub fn load(file: &Path, options: &Options) -> Result<Pipeline, ConfigError> {
    let unreadable = |reason: String, help: &str| {
        let finding = Finding::about_file(format!("cannot be read: {reason}"));
        Redactor::nothing().report(file, vec![finding.help(help)])
    };
    let bytes = crate::read_named_file(file, MAX_FILE_BYTES).map_err(|error| match error.kind() {
        ErrorKind::NotFound => {
            unreadable("there is no such file".into(), "the path counts from the current directory")
        }
        ErrorKind::IsADirectory => unreadable("it is a directory".into(), "name the files in it"),
        ErrorKind::FileTooLarge => unreadable("it is longer than 1 MiB".into(), "is it a pipeline file?"),
        ErrorKind::PermissionDenied => unreadable(
            "permission denied".into(),
            "the user that runs fshipper must be allowed to read the file and to enter its directories",
        ),
        _ => unreadable(error.to_string(), "name a regular file"),
    })?;
    match String::from_utf8(bytes) {
        Ok(text) => load_str(file, &text, options),
        Err(error) => {
            let start = error.utf8_error().valid_up_to();
            // What precedes the offending byte is unchanged by the replacement, and so is its position.
            let text = String::from_utf8_lossy(error.as_bytes());
            Err(reader::not_text(file, &text, start))
        }
    }
}

/// Reads and checks the text of a pipeline file; `file` only names it.
///
/// # Errors
///
/// Everything wrong with it, in the order of its lines.
pub fn load_str(file: impl AsRef<Path>, text: &str, options: &Options) -> Result<Pipeline, ConfigError> {
    // Some editors start a file with a byte order mark, which is no part of its first line.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    reader::read(file.as_ref(), text, options)
}

impl Pipeline {
    /// What moves from where to where: one line without secrets.
    pub(crate) fn flow(&self) -> &str {
        &self.flow
    }

    /// What of the process its sources need for themselves alone; see [`SourceConfig::claims`](crate::SourceConfig::claims).
    pub fn claims(&self) -> impl Iterator<Item = &'static str> {
        self.parts.sources.iter().flat_map(|source| source.claims()).map(|(_, claim)| claim)
    }

    /// What would run, for `fshipper check`: some lines without secrets, the last one without its end.
    pub fn describe(&self) -> String {
        let Settings { name, host, state_dir, .. } = &*self.settings;
        format!(
            "pipeline {name}, from {file}\n  host       {host}\n  state dir  {state_dir}\n  {flow}",
            file = self.file.display(),
            state_dir = state_dir.join(name).display(),
            flow = self.flow,
        )
    }
}

impl fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pipeline")
            .field("file", &self.file)
            .field("settings", &self.settings)
            .field("flow", &self.flow)
            .finish_non_exhaustive()
    }
}
