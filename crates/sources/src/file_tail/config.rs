//! The `[source]` table of `file_tail`: [`FileTail`].

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, anyhow};
use async_trait::async_trait;
use fshipper_pipeline::config::{OneOrMany, Period, Size};
use fshipper_pipeline::{BacklogUnit, Checkpoint, Context, Invalid, Settings, Source, SourceConfig};
use regex::bytes::Regex;
use schemars::JsonSchema;
use serde::Deserialize;

use super::lines::{Encoding, Events, Lines};
use super::log::Now;
use super::patterns::{self, Patterns};
use super::source::TailSource;
use super::survivors::Survivors;
use super::tail::{Options, TableOptions, Tail};
use super::watch::LinemuxWatch;

/// How long a renamed or deleted file is still read after its last growth, unless configured.
const ROTATE_WAIT: Duration = Duration::from_secs(5);

/// How long the lines of an event may come apart, unless configured: as much as anybody wants to wait for the
/// last one.
const EVENT_TIMEOUT: Duration = Duration::from_secs(1);

/// Reads log files as they grow, through every rotation.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileTail {
    /// Which files: a glob or a list of globs. `*` and `?` stop at a slash, `**` stands for any number of
    /// directories. A relative one starts in the current directory. Symbolic links to files are followed,
    /// those to directories except below `**`.
    pub include: OneOrMany,
    /// Which of them not. A glob without a slash is matched against the file's name alone.
    #[serde(default)]
    pub exclude: OneOrMany,
    /// Where to start in files that exist when the pipeline first starts: `beginning` or `end`. A file that
    /// appears later is always read from its beginning. Default: `beginning`.
    #[serde(default)]
    pub start_at: StartAt,
    /// Longer lines travel in parts; their bytes arrive unchanged. Default and at most `max_batch_bytes`.
    pub max_line_bytes: Option<Size>,
    /// How long a renamed or deleted file is still read after its last growth. Default: 5s.
    pub rotate_wait: Option<Period>,
    /// Files that were last written longer ago are not started; those that were are read on. Default: none.
    pub ignore_older: Option<Period>,
    /// How lines end: `utf-8`, the default, stands for any encoding that extends ASCII; or `utf-16le`,
    /// `utf-16be`. Bytes arrive unchanged.
    #[serde(default)]
    pub encoding: Encoding,
    /// Which lines belong together, such as those of a stack trace. They then travel in one batch, and a batch
    /// never is divided between two periods of the output. Default: each line stands alone.
    pub multiline: Option<Multiline>,
}

/// Which lines belong together: exactly one of `start` and `continues`, each a regular expression that is
/// matched against the line without its end.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Multiline {
    /// A line that matches begins an event; all others continue the one before.
    pub start: Option<String>,
    /// A line that matches continues the event before; all others begin one.
    pub continues: Option<String>,
    /// An event is complete when the next one begins, or after it has not grown for so long. Default: 1s.
    pub timeout: Option<Period>,
}

/// Where to start in files that exist when the pipeline first starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum StartAt {
    /// At their first byte.
    #[default]
    Beginning,
    /// At the line that is being written.
    End,
}

#[async_trait]
impl SourceConfig for FileTail {
    fn validate(&self, settings: &Settings) -> Result<(), Invalid> {
        if self.include.as_slice().is_empty() {
            let help = "name the files to read, such as \"/var/log/*.log\"";
            return Err(Invalid::new("include", "no file is included").help(help));
        }
        check_patterns("include", &self.include)?;
        check_patterns("exclude", &self.exclude)?;
        if self.ignore_older.is_some_and(|Period(limit)| limit.is_zero()) {
            let message = "`0` leaves no file to read";
            return Err(Invalid::new("ignore_older", message).help("leave it out to read all of them"));
        }
        if let Some(multiline) = &self.multiline {
            multiline.events()?;
        }
        if self.encoding.width() > 1 && self.max_line_bytes == Some(Size(1)) {
            return Err(Invalid::new("max_line_bytes", "`1` leaves no room for a character of two bytes"));
        }
        match self.max_line_bytes {
            Some(Size(0)) => Err(Invalid::new("max_line_bytes", "`0` leaves no room for a line")),
            Some(Size(bytes)) if bytes > settings.max_batch_bytes as u64 => {
                let limit = settings.max_batch_bytes;
                let message = format!("`{bytes}` is more than `max_batch_bytes`, which is {limit}");
                Err(Invalid::new("max_line_bytes", message)
                    .help("longer lines arrive whole all the same: they travel in parts"))
            }
            _ => Ok(()),
        }
    }

    fn describe(&self) -> String {
        let include = self.include.as_slice().join(", ");
        match self.exclude.as_slice() {
            [] => include,
            exclude => format!("{include} without {}", exclude.join(", ")),
        }
    }

    fn examples(&self) -> Vec<PathBuf> {
        let examples = self.include.as_slice().iter().filter_map(|pattern| patterns::example(pattern));
        examples.filter(|path| self.reads(path).is_some()).collect()
    }

    fn reads(&self, path: &Path) -> Option<String> {
        let (include, exclude) = (self.include.as_slice(), self.exclude.as_slice());
        let selects = |pattern: &&String| {
            let alone = Patterns::new([(std::slice::from_ref(*pattern), exclude)]);
            alone.is_ok_and(|pattern| pattern.owner(path).is_some())
        };
        include.iter().find(selects).cloned()
    }

    async fn open(&self, from: Checkpoint, context: Context) -> Result<Box<dyn Source>> {
        Self::open_all(std::slice::from_ref(self), from, context).await
    }

    /// All tables make one source with one state log.
    async fn open_all(tables: &[Self], from: Checkpoint, context: Context) -> Result<Box<dyn Source>> {
        let options = options(tables, &context.settings)?;
        let watch = LinemuxWatch::start();
        let hinted = watch.hinted();
        let state_dir = context.state_dir.clone();
        let survivors = context.progress.memory::<Survivors>();
        let backlog = context.progress.tell_backlog(BacklogUnit::Bytes);
        let opened = tokio::task::spawn_blocking(move || {
            let now = Now { instant: Instant::now(), system: SystemTime::now() };
            let mut tail = Tail::open(options, &state_dir, &from, Box::new(watch), now)?;
            tail.take_over(survivors);
            tail.tell_to(backlog);
            anyhow::Ok(tail)
        });
        let tail = opened.await.context("the file reader stopped")??;
        for table in tail.tables_without_files() {
            tracing::warn!("no file matches {} yet: looking for it", tables[table].describe());
        }
        Ok(Box::new(TailSource::new(tail, hinted, context.once, &context.progress)))
    }
}

impl Multiline {
    fn events(&self) -> Result<Events, Invalid> {
        let (key, pattern, match_begins) = match (&self.start, &self.continues) {
            (Some(start), None) => ("multiline.start", start, true),
            (None, Some(continues)) => ("multiline.continues", continues, false),
            (Some(_), Some(_)) => {
                let message = "`start` and `continues` exclude each other";
                return Err(Invalid::new("multiline", message));
            }
            (None, None) => {
                let help =
                    "say which lines begin an event, such as start = '^[0-9]{4}-', or which continue one";
                return Err(Invalid::new("multiline", "`start` or `continues` is missing").help(help));
            }
        };
        if pattern.is_empty() {
            return Err(Invalid::new(key, "an empty pattern matches every line"));
        }
        let pattern = Regex::new(pattern).map_err(|error| {
            // The message of a syntax error spans lines, the reason stands in the last one.
            let text = error.to_string();
            let reason = text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            Invalid::new(key, format!("`{pattern}` is no regular expression: {reason}"))
                .help("write it in single quotes, so that a backslash is one")
        })?;
        let timeout = self.timeout.map_or(EVENT_TIMEOUT, |Period(timeout)| timeout);
        if timeout.is_zero() {
            let message = "`0` leaves no time for a second line";
            return Err(Invalid::new("multiline.timeout", message));
        }
        Ok(Events { pattern, match_begins, timeout })
    }
}

fn check_patterns(key: &str, patterns: &OneOrMany) -> Result<(), Invalid> {
    for (index, pattern) in patterns.as_slice().iter().enumerate() {
        let key = match patterns {
            OneOrMany::One(_) => key.to_owned(),
            OneOrMany::Many(_) => format!("{key}[{index}]"),
        };
        patterns::check(pattern).map_err(|message| Invalid::new(key, message))?;
    }
    Ok(())
}

pub(super) fn options(tables: &[FileTail], settings: &Arc<Settings>) -> Result<Options> {
    let lists = tables.iter().map(|table| (table.include.as_slice(), table.exclude.as_slice()));
    let options = tables.iter().map(|table| {
        let events = table.multiline.as_ref().map(Multiline::events).transpose();
        let events = events.map_err(|invalid| anyhow!("`{}`: {}", invalid.key, invalid.message))?;
        let limit = settings.max_batch_bytes;
        let max_line_bytes = table.max_line_bytes.map_or(limit, |Size(bytes)| limit.min(bytes as usize));
        Ok(TableOptions {
            start_at_end: table.start_at == StartAt::End,
            max_line_bytes: max_line_bytes.max(table.encoding.width()),
            rotate_wait: table.rotate_wait.map_or(ROTATE_WAIT, |Period(wait)| wait),
            ignore_older: table.ignore_older.map(|Period(limit)| limit),
            lines: Lines { encoding: table.encoding, events },
        })
    });
    Ok(Options {
        host: settings.host.clone(),
        max_batch_bytes: settings.max_batch_bytes,
        tables: options.collect::<Result<_>>()?,
        patterns: Patterns::new(lists).context("cannot use the patterns of `file_tail`")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(include: &[&str], exclude: &[&str], max_line_bytes: Option<u64>) -> FileTail {
        let many = |list: &[&str]| OneOrMany::Many(list.iter().map(|text| text.to_string()).collect());
        FileTail {
            include: many(include),
            exclude: many(exclude),
            start_at: StartAt::Beginning,
            max_line_bytes: max_line_bytes.map(Size),
            rotate_wait: None,
            ignore_older: None,
            encoding: Encoding::Utf8,
            multiline: None,
        }
    }

    fn validate(table: &FileTail) -> Result<(), String> {
        let folder = tempfile::tempdir().unwrap();
        let settings = fshipper_pipeline::testing::context(folder.path()).settings;
        table.validate(&settings).map_err(|invalid| format!("{}: {}", invalid.key, invalid.message))
    }

    fn check(include: &[&str], exclude: &[&str], max_line_bytes: Option<u64>) -> Result<(), String> {
        validate(&table(include, exclude, max_line_bytes))
    }

    #[test]
    fn names_what_makes_no_sense() {
        assert_eq!(check(&["/var/log/**/*.log", "relative/*.log"], &["*.gz"], Some(1_000_000)), Ok(()));
        assert_eq!(check(&[], &[], None).unwrap_err(), "include: no file is included");
        let bad = check(&["/a", "/b/[x"], &[], None).unwrap_err();
        assert!(bad.starts_with("include[1]: `/b/[x` is no pattern: "), "{bad}");
        assert!(check(&["/a"], &["{a"], None).unwrap_err().starts_with("exclude[0]: "));
        let long = check(&["/a"], &[], Some(1_000_001)).unwrap_err();
        assert_eq!(long, "max_line_bytes: `1000001` is more than `max_batch_bytes`, which is 1000000");
        assert!(check(&["/a"], &[], Some(0)).is_err());
    }

    #[test]
    fn ignoring_every_file_makes_no_sense() {
        let table = FileTail { ignore_older: Some(Period(Duration::ZERO)), ..table(&["/a"], &[], None) };
        assert_eq!(validate(&table).unwrap_err(), "ignore_older: `0` leaves no file to read");
    }

    #[test]
    fn a_bad_multiline_is_named() {
        let check = |start: Option<&str>, continues: Option<&str>, timeout: u64| {
            let text = |text: &str| text.to_owned();
            let multiline = Multiline {
                start: start.map(text),
                continues: continues.map(text),
                timeout: Some(Period(Duration::from_millis(timeout))),
            };
            validate(&FileTail { multiline: Some(multiline), ..table(&["/a"], &[], None) })
        };
        assert_eq!(check(Some(r"^\d{4}-"), None, 1000), Ok(()));
        assert_eq!(check(None, Some(r"^\s"), 1), Ok(()));
        let both = "multiline: `start` and `continues` exclude each other";
        assert_eq!(check(Some("a"), Some("b"), 1).unwrap_err(), both);
        assert_eq!(check(None, None, 1).unwrap_err(), "multiline: `start` or `continues` is missing");
        let open = "multiline.start: `^(a` is no regular expression: unclosed group";
        assert_eq!(check(Some("^(a"), None, 1).unwrap_err(), open);
        assert!(check(None, Some(""), 1).unwrap_err().starts_with("multiline.continues: "));
        assert!(check(None, Some("a"), 0).unwrap_err().starts_with("multiline.timeout: "));
    }

    #[test]
    fn the_table_reads_as_it_is_documented() {
        let text = r#"
            include   = "/a"
            encoding  = "utf-16le"
            multiline = { start = '^\d{4}-', timeout = "2s" }
        "#;
        let table: FileTail = toml::from_str(text).unwrap();
        assert_eq!(table.encoding, Encoding::Utf16Le);
        let events = table.multiline.unwrap().events().unwrap();
        assert!(events.match_begins && events.timeout == Duration::from_secs(2));
        let narrow = FileTail { encoding: Encoding::Utf16Be, ..self::table(&["/a"], &[], Some(1)) };
        assert!(validate(&narrow).unwrap_err().starts_with("max_line_bytes: "));
    }
}
