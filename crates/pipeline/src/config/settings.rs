//! The `[pipeline]` table and its defaults.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Environment, Options, Period, Size};
use crate::{Invalid, Settings};

/// Longer, and no file system takes it as the name of a directory.
const MAX_NAME_BYTES: usize = 255;
/// What DNS allows, with room for the dot at its end.
const MAX_HOST_BYTES: usize = 254;

const COMMIT_INTERVAL: Duration = Duration::from_secs(1);
/// A hop that commits more rarely than this loses more time after a crash than it can ever save.
const MAX_COMMIT_INTERVAL: Period = Period(Duration::from_secs(3600));
const COMMIT_BYTES: u64 = 8 << 20;
const MAX_COMMIT_BYTES: u64 = 1 << 30;
/// Leaves room for headers under the default message limit of NATS, 1 MiB.
const MAX_BATCH_BYTES: u64 = 1_000_000;
/// Smaller, and the headers of a message outweigh its lines.
const LEAST_MAX_BATCH_BYTES: u64 = 1 << 10;
/// What a hop may hold at all: a larger batch would not fit its budget.
const MOST_MAX_BATCH_BYTES: u64 = crate::pump::HOP_BUDGET_BYTES as u64;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_DRAIN_TIMEOUT: Period = Period(Duration::from_secs(24 * 3600));

/// The `[pipeline]` table as it is written.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct PipelineTable {
    /// The pipeline's name, by default the file's without `.toml`. One running pipeline per name and state directory.
    name: Option<String>,
    /// The host whose logs are read, by default `$HOSTNAME`, else the system's host name.
    host: Option<String>,
    /// Where each pipeline keeps a directory of its own, by default `$STATE_DIRECTORY`, else
    /// `$XDG_STATE_HOME/fshipper`, else `~/.local/state/fshipper`.
    state_dir: Option<String>,
    /// At most this long between a write and its commit, by default 1s.
    commit_interval: Option<Period>,
    /// After this many bytes a commit begins, by default 8MiB. Up to 32 times as many are written while one runs.
    commit_bytes: Option<Size>,
    /// At most this many bytes travel together, by default 1MB.
    max_batch_bytes: Option<Size>,
    /// How long a stopped pipeline may take to ship and commit what it has read, by default 30s.
    drain_timeout: Option<Period>,
}

impl PipelineTable {
    /// Fills in the defaults.
    ///
    /// # Errors
    ///
    /// Every value that makes no sense.
    pub(super) fn settings(self, file: &Path, options: &Options) -> Result<Settings, Vec<Invalid>> {
        let mut invalid = Vec::new();
        let mut keep = |problem: Invalid| invalid.push(problem);
        let name = name(self.name, file).map_err(&mut keep).unwrap_or_default();
        let host = host(self.host, &options.environment).map_err(&mut keep).unwrap_or_default();
        let state_dir = match &options.state_dir {
            Some(state_dir) => state_dir.clone(),
            None => state_dir(self.state_dir, &options.environment).map_err(&mut keep).unwrap_or_default(),
        };
        let shortest = Period(Duration::from_millis(1));
        let intervals = shortest..=MAX_COMMIT_INTERVAL;
        let commit_interval = self.commit_interval.unwrap_or(Period(COMMIT_INTERVAL));
        if !intervals.contains(&commit_interval) {
            keep(outside("commit_interval", "1ms", "1h"));
        }
        let commit_bytes = self.commit_bytes.unwrap_or(Size(COMMIT_BYTES)).0;
        if !(1..=MAX_COMMIT_BYTES).contains(&commit_bytes) {
            keep(outside("commit_bytes", "1B", "1GiB"));
        }
        let max_batch_bytes = self.max_batch_bytes.unwrap_or(Size(MAX_BATCH_BYTES)).0;
        if !(LEAST_MAX_BATCH_BYTES..=MOST_MAX_BATCH_BYTES).contains(&max_batch_bytes) {
            keep(outside("max_batch_bytes", "1KiB", "8MiB"));
        }
        let drain_timeout = self.drain_timeout.unwrap_or(Period(DRAIN_TIMEOUT));
        if drain_timeout > MAX_DRAIN_TIMEOUT {
            keep(outside("drain_timeout", "0s", "1d"));
        }
        if !invalid.is_empty() {
            return Err(invalid);
        }
        Ok(Settings {
            name,
            host,
            state_dir,
            commit_interval: commit_interval.0,
            commit_bytes,
            // It is at most 8 MiB, which fits on every platform.
            max_batch_bytes: usize::try_from(max_batch_bytes).unwrap_or(usize::MAX),
            drain_timeout: drain_timeout.0,
            once: options.once,
        })
    }
}

/// Whether `[pipeline]` has such a key.
pub(super) fn is_setting(key: &str) -> bool {
    schemars::schema_for!(PipelineTable)
        .as_value()
        .pointer("/properties")
        .is_some_and(|keys| keys.get(key).is_some())
}

fn outside(key: &str, least: &str, most: &str) -> Invalid {
    Invalid::new(key, format!("it must lie between {least} and {most}"))
}

fn name(written: Option<String>, file: &Path) -> Result<String, Invalid> {
    let (name, advice) = match written {
        Some(name) => (name, "the pipeline keeps its state in a directory of this name"),
        None => {
            let advice =
                "without `name` in `[pipeline]` the file's name without `.toml` is taken: set `name`";
            let file_name = file.file_name().and_then(|name| name.to_str()).ok_or_else(|| {
                Invalid::new("name", "the pipeline has none, and its file has none to give").help(advice)
            })?;
            (file_name.strip_suffix(".toml").unwrap_or(file_name).to_owned(), advice)
        }
    };
    let problem = match name.as_str() {
        "" => "it is empty".to_owned(),
        "." | ".." => format!("`{name}` cannot name a directory"),
        _ if name.contains('/') => format!("`{name}` contains a slash"),
        _ if name.contains(char::is_control) => "it contains a control character".to_owned(),
        _ if name.len() > MAX_NAME_BYTES => format!("it is longer than {MAX_NAME_BYTES} bytes"),
        _ => return Ok(name),
    };
    Err(Invalid::new("name", problem).help(advice))
}

fn host(written: Option<String>, environment: &Environment) -> Result<String, Invalid> {
    let advice = "set `host` in `[pipeline]`";
    let (host, origin) = match written {
        Some(host) => (OsString::from(host), "it"),
        None => match environment.filled("HOSTNAME") {
            Some(host) => (host, "`$HOSTNAME`"),
            None => {
                let system = rustix::system::uname();
                // A name that is no UTF-8 is refused below, as one from the environment is.
                let bytes = system.nodename().to_bytes().to_vec();
                (std::os::unix::ffi::OsStringExt::from_vec(bytes), "the system's host name")
            }
        },
    };
    let problem = match host.into_string() {
        Err(_) => format!("{origin} is not valid UTF-8"),
        Ok(host) if host.is_empty() => format!("{origin} is empty"),
        Ok(host) if host.contains(char::is_control) => format!("{origin} contains a control character"),
        Ok(host) if host.len() > MAX_HOST_BYTES => format!("{origin} is longer than {MAX_HOST_BYTES} bytes"),
        Ok(host) => return Ok(host),
    };
    Err(Invalid::new("host", problem).help(advice))
}

fn state_dir(written: Option<String>, environment: &Environment) -> Result<PathBuf, Invalid> {
    if let Some(written) = written {
        return match written.as_str() {
            "" => {
                Err(Invalid::new("state_dir", "it is empty").help("name a directory, or leave the key out"))
            }
            "~" => Err(tilde("${HOME}")),
            _ => match written.strip_prefix("~/") {
                Some(rest) => Err(tilde(&format!("${{HOME}}/{rest}"))),
                None => Ok(PathBuf::from(written)),
            },
        };
    }
    if let Some(directories) = environment.filled("STATE_DIRECTORY") {
        // systemd gives all directories of a service, separated by colons; the first is the main one.
        let bytes = directories.as_encoded_bytes();
        let first = bytes.split(|byte| *byte == b':').next().unwrap_or_default();
        if !first.is_empty() {
            return Ok(PathBuf::from(<OsString as std::os::unix::ffi::OsStringExt>::from_vec(
                first.to_vec(),
            )));
        }
    }
    // The XDG specification says that a relative path is to be ignored.
    let xdg = environment.filled("XDG_STATE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || environment.filled("HOME").map(|home| PathBuf::from(home).join(".local/state"));
    match xdg.or_else(home) {
        Some(parent) => Ok(parent.join("fshipper")),
        None => Err(Invalid::new(
            "state_dir",
            "it has no default, because none of `$STATE_DIRECTORY`, `$XDG_STATE_HOME` and `$HOME` is set",
        )
        .help("set `state_dir` in `[pipeline]`, or pass `--state-dir DIR`")),
    }
}

fn tilde(instead: &str) -> Invalid {
    Invalid::new("state_dir", "`~` is not expanded here").help(format!("write `{instead}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings_of(table: PipelineTable, variables: [(&str, &str); 3]) -> Settings {
        let options = Options { state_dir: None, once: false, environment: Environment::from(variables) };
        table.settings(Path::new("dir/web.toml"), &options).unwrap()
    }

    #[test]
    fn defaults_are_those_of_the_documentation() {
        let settings =
            settings_of(PipelineTable::default(), [("HOSTNAME", "web1"), ("HOME", "/root"), ("X", "")]);
        assert_eq!(settings.name, "web");
        assert_eq!(settings.host, "web1");
        assert_eq!(settings.state_dir, Path::new("/root/.local/state/fshipper"));
        assert_eq!(settings.commit_interval, Duration::from_secs(1));
        assert_eq!(settings.commit_bytes, 8 * 1024 * 1024);
        assert_eq!(settings.max_batch_bytes, 1_000_000);
        assert_eq!(settings.drain_timeout, Duration::from_secs(30));
        assert!(!settings.once);
    }

    #[test]
    fn the_state_directory_comes_from_the_first_that_names_one() {
        let chosen = |variables| settings_of(PipelineTable::default(), variables).state_dir;
        assert_eq!(
            chosen([
                ("STATE_DIRECTORY", "/var/lib/a:/var/lib/b"),
                ("XDG_STATE_HOME", "/x"),
                ("HOME", "/root")
            ]),
            Path::new("/var/lib/a"),
        );
        assert_eq!(
            chosen([("STATE_DIRECTORY", ""), ("XDG_STATE_HOME", "/x"), ("HOME", "/root")]),
            Path::new("/x/fshipper"),
        );
        assert_eq!(
            chosen([("STATE_DIRECTORY", ""), ("XDG_STATE_HOME", "relative"), ("HOME", "/root")]),
            Path::new("/root/.local/state/fshipper"),
        );
        let written = PipelineTable { state_dir: Some("/w".into()), ..PipelineTable::default() };
        let settings = settings_of(written, [("STATE_DIRECTORY", "/s"), ("X", ""), ("HOME", "/root")]);
        assert_eq!(settings.state_dir, Path::new("/w"));
    }

    #[test]
    fn the_command_line_names_the_state_directory_before_all_others() {
        let table = PipelineTable { state_dir: Some("/w".into()), ..PipelineTable::default() };
        let environment = Environment::from([("HOME", "/root")]);
        let options = Options { state_dir: Some("/c".into()), once: true, environment };
        let settings = table.settings(Path::new("a.toml"), &options).unwrap();
        assert_eq!(settings.state_dir, Path::new("/c"));
        assert!(settings.once);
    }

    #[test]
    fn without_a_host_name_in_the_environment_the_system_gives_one() {
        let settings =
            settings_of(PipelineTable::default(), [("HOSTNAME", ""), ("HOME", "/root"), ("X", "")]);
        assert_eq!(settings.host.as_bytes(), rustix::system::uname().nodename().to_bytes());
    }
}
