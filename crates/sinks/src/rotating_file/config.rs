//! The `[sink]` table of type `rotating_file`: [`RotatingFile`].

use std::borrow::Cow;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use fshipper_pipeline::config::{Period, Size};
use fshipper_pipeline::{Context, Fatal, Invalid, Origin, Settings, Sink, SinkConfig, async_trait};
use jiff::tz::TimeZone;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};

use super::files::{MAX_SINGLE_SYNCS, max_open_files};
use super::ledger::LedgerSize;
use super::path::Template;
use super::period::{Calendar, Every};
use super::writer::FULL_FIRST;

/// So many logs an output has unless configured: more than any that is known, and as many inodes as a file system
/// has to spare. Without a limit whoever may publish can use up all of them, and stop everybody.
const MAX_LOGS: u64 = 200_000;

/// Files that rotate by time and size, each byte in them once.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RotatingFile {
    /// Where lines go: a path with `{host}`, `{file}`, `{path}` and strftime fields such as `%Y%m%d`. The
    /// folders before the first of them are created when they are missing, and hold the ledger in
    /// `.fshipper/`. Without any placeholder all logs share one file.
    path: String,
    /// When a file ends and the next begins. Default: with a `%` in the path every period of its finest
    /// field, else never.
    #[serde(default)]
    rotate: Rotate,
    /// When files that were rotated are deleted. Default: never.
    #[serde(default)]
    keep: Keep,
    /// What becomes of files that were rotated. Default: `"none"`.
    #[serde(default)]
    compress: Compress,
    /// Whose midnight begins a day, and whose time stands in names. Default: `"local"`.
    #[serde(default)]
    timezone: Timezone,
    /// The permissions of new files, octal; new folders get the matching x bits. Default: `"0640"`.
    #[serde(default)]
    mode: Mode,
    /// Added to a path without the fields of a date: `"-%Y%m%d%H%M"` makes `/tmp/log` into
    /// `/tmp/log-202611230000`, the start of its period. A path with such fields needs none and stays as it is.
    date_suffix: Option<String>,
    /// How many logs the output may have, all hosts together; each costs a file and some memory. Those that come
    /// later wait, with an error. Default: 200000.
    max_logs: Option<u64>,
}

/// When a file ends.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Rotate {
    /// With every such period, from midnight on: `"1d"`, `"6h"`, `"15m"`.
    every: Option<Period>,
    /// When the next line would make it longer than this; only a single longer line may. The lines of a
    /// `multiline` event may then stand in two files, the one behind the other.
    max_bytes: Option<Size>,
}

/// Which rotated files stay. A file goes as soon as one of these says so, the oldest first, and never one that
/// is still written to.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Keep {
    /// So long after the end of its period.
    pub(super) age: Option<Period>,
    /// So many files of each log, the one that is written to among them.
    pub(super) files: Option<u64>,
    /// So many bytes in all files of this sink together.
    pub(super) bytes: Option<Size>,
}

/// What becomes of files that were rotated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Compress {
    /// They stay as they are.
    #[default]
    None,
    /// They become `.gz` files.
    Gzip,
}

/// Whose clock counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
pub(super) enum Timezone {
    /// The system's time zone, or that of the variable `TZ`.
    #[default]
    #[serde(rename = "local")]
    Local,
    /// Coordinated universal time.
    #[serde(rename = "UTC")]
    Utc,
}

/// The permissions of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mode(u32);

/// The table, understood.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) template: Template,
    pub(super) calendar: Calendar,
    /// For the names of files that are renamed when they are rotated.
    pub(super) zone: TimeZone,
    pub(super) max_bytes: Option<u64>,
    pub(super) max_logs: u64,
    pub(super) keep: Keep,
    pub(super) compress: Compress,
    pub(super) mode: u32,
    pub(super) limits: Limits,
}

/// What no key sets, and what tests make small, so that a few lines get to the other side of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) ledger: LedgerSize,
    /// At most so many files are open.
    pub(super) open_files: usize,
    /// Above this many dirty files the whole file system is synced.
    pub(super) single_syncs: usize,
    /// The first pause while the disk is full.
    pub(super) full_pause: Duration,
}

impl RotatingFile {
    /// Understands the table.
    ///
    /// # Errors
    ///
    /// The first key that makes no sense, and why.
    pub(super) fn plan(&self) -> Result<Plan, Invalid> {
        let template = self.template()?;
        let every = self.every(&template)?;
        let max_bytes = self.rotate.max_bytes.map(|size| size.0);
        if max_bytes == Some(0) {
            return Err(Invalid::new("rotate.max_bytes", "a file of `0` bytes holds no line"));
        }
        let max_logs = self.max_logs.unwrap_or(MAX_LOGS);
        if max_logs == 0 {
            return Err(Invalid::new("max_logs", "`0` leaves no log to write"));
        }
        self.keep.check()?;
        let zone = match self.timezone {
            Timezone::Local => TimeZone::system(),
            Timezone::Utc => TimeZone::UTC,
        };
        Ok(Plan {
            template,
            calendar: Calendar::new(zone.clone(), every),
            zone,
            max_bytes,
            max_logs,
            keep: self.keep.clone(),
            compress: self.compress,
            mode: self.mode.0,
            limits: Limits::default(),
        })
    }

    fn template(&self) -> Result<Template, Invalid> {
        let plain = Template::parse(&self.path, None).map_err(|message| Invalid::new("path", message))?;
        match &self.date_suffix {
            Some(suffix) if plain.finest().is_none() => Template::parse(&self.path, Some(suffix))
                .map_err(|message| Invalid::new("date_suffix", message)),
            // One table serves both kinds of paths, as where the path is a variable of the environment.
            _ => Ok(plain),
        }
    }

    fn every(&self, template: &Template) -> Result<Option<Every>, Invalid> {
        let finest = template.finest();
        let Some(every) = self.rotate.every else { return Ok(finest.map(Every::of)) };
        let invalid = |message| Invalid::new("rotate.every", message);
        let every = Every::parse(every.0).map_err(invalid)?;
        if finest.is_some_and(|finest| every.is_finer_than(finest)) {
            let message = "the names in `path` cannot tell such short periods apart".to_owned();
            return Err(
                invalid(message).help("add a finer field to the path, such as %H, or leave `every` out")
            );
        }
        Ok(Some(every))
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            ledger: LedgerSize::default(),
            open_files: max_open_files(),
            single_syncs: MAX_SINGLE_SYNCS,
            full_pause: FULL_FIRST,
        }
    }
}

impl Keep {
    /// Whether nothing is ever deleted.
    pub(super) fn is_everything(&self) -> bool {
        self.age.is_none() && self.files.is_none() && self.bytes.is_none()
    }

    fn check(&self) -> Result<(), Invalid> {
        let zero = |key: &str| {
            Invalid::new(format!("keep.{key}"), "`0` keeps nothing").help("leave it out to keep everything")
        };
        if self.age.is_some_and(|age| age.0 == Duration::ZERO) {
            return Err(zero("age"));
        }
        if self.files == Some(0) {
            return Err(zero("files"));
        }
        if self.bytes.is_some_and(|bytes| bytes.0 == 0) {
            return Err(zero("bytes"));
        }
        Ok(())
    }
}

#[async_trait]
impl SinkConfig for RotatingFile {
    fn validate(&self, _: &Settings) -> Result<(), Invalid> {
        self.plan().map(drop)
    }

    fn describe(&self) -> String {
        let dated = Template::parse(&self.path, None).is_ok_and(|template| template.finest().is_some());
        let suffix = self.date_suffix.as_deref().filter(|_| !dated).unwrap_or_default();
        let compressed = if self.compress == Compress::Gzip { ", rotated files with gzip" } else { "" };
        format!("{}{suffix}{compressed}", self.path)
    }

    fn writes(&self, origin: &Origin) -> Option<PathBuf> {
        let plan = self.plan().ok()?;
        let path = plan.template.render(origin, &plan.calendar.period_of(SystemTime::now()));
        Some(plan.template.fixed().join(path.components().iter().collect::<PathBuf>()))
    }

    async fn open(&self, context: Context) -> Result<Box<dyn Sink>> {
        let plan = self.plan().map_err(|invalid| {
            Fatal::new(format!("the key `{}` of the sink makes no sense: {}", invalid.key, invalid.message))
        })?;
        super::sink::open(plan, context).await
    }
}

impl Default for Mode {
    fn default() -> Self {
        Self(0o640)
    }
}

impl<'de> Deserialize<'de> for Mode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let octal = !text.is_empty() && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
        let mode = u32::from_str_radix(&text, 8).ok().filter(|mode| octal && *mode <= 0o777);
        let wrong =
            || format!("`{text}` is no mode: write up to three octal digits after a 0, such as \"0640\"");
        let mode = mode.ok_or_else(|| de::Error::custom(wrong()))?;
        if mode & 0o600 != 0o600 {
            let message =
                format!("`{text}` takes the files away from their owner, who has to read and write them");
            return Err(de::Error::custom(message));
        }
        Ok(Self(mode))
    }
}

impl JsonSchema for Mode {
    fn schema_name() -> Cow<'static, str> {
        "Mode".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^0?[0-7]{1,3}$", "default": "0640" })
    }
}

#[cfg(test)]
mod tests {
    use super::super::period::Field;
    use super::*;

    fn plan(toml: &str) -> Result<Plan, (String, String)> {
        let config: RotatingFile =
            toml::from_str(toml).map_err(|error| (String::new(), error.to_string()))?;
        config.plan().map_err(|invalid| (invalid.key, invalid.message))
    }

    #[test]
    fn takes_the_tables_of_the_manual() {
        for toml in [
            r#"path = "/var/log/all.log""#,
            r#"
                path     = "/var/log/remote/{host}/{file}.%Y%m%d"
                rotate   = { every = "1d", max_bytes = "1GiB" }
                keep     = { age = "7d", files = 100, bytes = "100GiB" }
                compress = "gzip"
                timezone = "local"
                mode     = "0640"
            "#,
            r#"
                path        = "/tmp/logfile"
                date_suffix = "-%Y%m%d%H%M"
                rotate      = { every = "1d" }
            "#,
            r#"
                path        = "/tmp/%Y%m%d.log"
                date_suffix = "-%Y%m%d%H%M"
                rotate      = { every = "1d" }
            "#,
            r#"
                path   = "/var/log/{host}"
                rotate = { every = "15m" }
                mode   = "600"
            "#,
        ] {
            plan(toml).unwrap();
        }
    }

    #[test]
    fn a_date_suffix_is_added_to_a_path_without_a_date() {
        for (path, described) in [
            ("/tmp/logfile", "/tmp/logfile-%Y%m%d"),
            ("/tmp/100%%", "/tmp/100%%-%Y%m%d"),
            ("/tmp/%Y%m%d.log", "/tmp/%Y%m%d.log"),
        ] {
            let toml = format!("path = \"{path}\"\ndate_suffix = \"-%Y%m%d\"");
            let config: RotatingFile = toml::from_str(&toml).unwrap();
            let template = config.template().unwrap();
            assert_eq!(template.finest(), Some(Field::Day), "{path}");
            assert_eq!(config.describe(), described);
        }
    }

    #[test]
    fn says_which_key_makes_no_sense() {
        for (toml, key, message) in [
            (
                r#"path = "/a/%Y%m%d", rotate = { every = "1h" }"#,
                "rotate.every",
                "cannot tell such short periods",
            ),
            (r#"path = "/a", rotate = { every = "7h" }"#, "rotate.every", "midnight"),
            (r#"path = "/a", rotate = { max_bytes = 0 }"#, "rotate.max_bytes", "`0` bytes"),
            (r#"path = "/a", date_suffix = "-x""#, "date_suffix", "fields of a date"),
            (r#"path = "/a/{hots}""#, "path", "host"),
            (r#"path = "/a", keep = { files = 0 }"#, "keep.files", "keeps nothing"),
            (r#"path = "/a", keep = { age = "0s" }"#, "keep.age", "keeps nothing"),
            (r#"path = "/a", keep = { bytes = 0 }"#, "keep.bytes", "keeps nothing"),
            (r#"path = "/a", max_logs = 0"#, "max_logs", "no log to write"),
            (r#"path = "/a", mode = "0888""#, "", "`0888` is no mode"),
            (r#"path = "/a", mode = "0440""#, "", "owner"),
            (r#"path = "/a", mode = "+640""#, "", "is no mode"),
            (r#"path = "/a", compress = "zstd""#, "", "unknown variant `zstd`"),
            (r#"path = "/a", timezone = "CET""#, "", "unknown variant `CET`"),
            (r#"path = "/a", keep = { days = 3 }"#, "", "unknown field `days`"),
            (r#"compress = "gzip""#, "", "missing field `path`"),
        ] {
            // One line a key, as in a file.
            let toml =
                toml.replace(", rotate", "\nrotate").replace(", date", "\ndate").replace(", keep", "\nkeep");
            let toml = toml
                .replace(", m", "\nm")
                .replace(", compress", "\ncompress")
                .replace(", timezone", "\ntimezone");
            let (found, text) = plan(&toml).unwrap_err();
            assert_eq!(found, key, "{toml}: {text}");
            assert!(text.contains(message), "{toml}: {text}");
        }
    }
}
