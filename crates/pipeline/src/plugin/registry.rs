//! How plugins are found: one line each, collected at link time.

use std::any::type_name;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use anyhow::Result;
use async_trait::async_trait;
use schemars::{JsonSchema, Schema, schema_for};
use serde::de::DeserializeOwned;
use toml::de::ValueDeserializer;

use super::unknown_keys::careless_type;
use crate::config::{TableError, Value};
use crate::{
    Checkpoint, Context, Ends, Invalid, Kind, Origin, Settings, Sink, SinkConfig, Source, SourceConfig,
    Transport,
};

/// A plugin linked into this binary. Register one with
///
/// ```
/// use fshipper_pipeline::{Context, Plugin, Sink, SinkConfig, anyhow, async_trait, inventory};
///
/// inventory::submit!(Plugin::sink::<Nowhere>("nowhere", "cannot be opened, for demonstrations"));
///
/// #[derive(serde::Deserialize, schemars::JsonSchema)]
/// #[serde(deny_unknown_fields)]
/// struct Nowhere {}
///
/// #[async_trait]
/// impl SinkConfig for Nowhere {
///     async fn open(&self, _: Context) -> anyhow::Result<Box<dyn Sink>> {
///         anyhow::bail!("there is nowhere to write to")
///     }
/// }
/// # assert!(Plugin::all().unwrap().iter().any(|plugin| plugin.name() == "nowhere"));
/// ```
///
/// Every table refuses keys that it does not know: where `deny_unknown_fields` is missing, [`Plugin::all`] fails.
///
/// A crate that nobody names is not linked, and its plugin is silently missing: the binary says
/// `use my_plugin as _;`.
pub struct Plugin {
    pub(crate) name: &'static str,
    pub(crate) summary: &'static str,
    pub(crate) type_name: fn() -> &'static str,
    pub(crate) schema: fn() -> Schema,
    pub(crate) check: Check,
    pub(crate) parse: Parse,
}

inventory::collect!(Plugin);

/// Whether a table fits the plugin's configuration type.
pub(crate) type Check = fn(Value<'_>) -> Result<(), TableError>;

/// Reads all tables of one type.
pub(crate) type ParseSources = fn(Vec<Value<'_>>) -> Result<Box<dyn OpenSource>, ParseError>;

/// Function pointers, so that a plugin is a constant.
pub(crate) enum Parse {
    Source(ParseSources),
    Transport(fn(Value<'_>) -> Result<Box<dyn Transport>, TableError>),
    Sink(fn(Value<'_>) -> Result<Box<dyn OpenSink>, TableError>),
}

/// A table that could not be read: which one of several, and why, with the path of the offending key.
pub(crate) struct ParseError {
    pub(crate) table: usize,
    pub(crate) error: TableError,
}

impl Plugin {
    /// A source: its configuration type, its name in TOML (`type = "name"`), and what it is in a few words.
    pub const fn source<C>(name: &'static str, summary: &'static str) -> Self
    where
        C: SourceConfig + DeserializeOwned + JsonSchema,
    {
        let parse = Parse::Source(|tables| {
            let tables = tables.into_iter().enumerate().map(|(index, table)| {
                read_table::<C>(table).map_err(|error| ParseError { table: index, error })
            });
            Ok(Box::new(Tables(tables.collect::<Result<Vec<C>, _>>()?)))
        });
        Self::new::<C>(name, summary, parse)
    }

    /// A transport: see [`Plugin::source`].
    pub const fn transport<C>(name: &'static str, summary: &'static str) -> Self
    where
        C: Transport + DeserializeOwned + JsonSchema,
    {
        let parse = Parse::Transport(|table| Ok(Box::new(read_table::<C>(table)?)));
        Self::new::<C>(name, summary, parse)
    }

    /// A sink: see [`Plugin::source`].
    pub const fn sink<C>(name: &'static str, summary: &'static str) -> Self
    where
        C: SinkConfig + DeserializeOwned + JsonSchema,
    {
        let parse = Parse::Sink(|table| Ok(Box::new(Table(read_table::<C>(table)?))));
        Self::new::<C>(name, summary, parse)
    }

    const fn new<C: DeserializeOwned + JsonSchema>(
        name: &'static str,
        summary: &'static str,
        parse: Parse,
    ) -> Self {
        let check = |table: Value<'_>| read_table::<C>(table).map(drop);
        Self { name, summary, type_name: type_name::<C>, schema: || schema_for!(C), check, parse }
    }

    /// Its name in TOML.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// What it is, in a few words.
    pub fn summary(&self) -> &'static str {
        self.summary
    }

    /// What it is: source, transport or sink.
    pub fn kind(&self) -> Kind {
        match self.parse {
            Parse::Source(_) => Kind::Source,
            Parse::Transport(_) => Kind::Transport,
            Parse::Sink(_) => Kind::Sink,
        }
    }

    /// The crate that registers it.
    pub fn crate_name(&self) -> &'static str {
        (self.type_name)().split("::").next().unwrap_or_default()
    }

    /// The JSON schema of its table, without `type`.
    pub fn schema(&self) -> Schema {
        (self.schema)()
    }

    /// All plugins linked into this binary, by kind and name.
    ///
    /// # Errors
    ///
    /// Two plugins of one kind and name, or one with a table that would ignore a misspelt key: the message names
    /// the crates and the remedy.
    pub fn all() -> Result<Vec<&'static Plugin>, String> {
        static ALL: OnceLock<Result<Vec<&'static Plugin>, String>> = OnceLock::new();
        ALL.get_or_init(Self::find_all).clone()
    }

    fn find_all() -> Result<Vec<&'static Plugin>, String> {
        let mut plugins: Vec<&Plugin> = inventory::iter::<Plugin>.into_iter().collect();
        plugins.sort_by_key(|plugin| (plugin.kind(), plugin.name, plugin.crate_name()));
        for pair in plugins.windows(2) {
            if pair[0].kind() == pair[1].kind() && pair[0].name == pair[1].name {
                return Err(format!(
                    "the crates `{}` and `{}` both register a {} named `{}`: leave one of them out of the binary",
                    pair[0].crate_name(),
                    pair[1].crate_name(),
                    pair[0].kind().table(),
                    pair[0].name,
                ));
            }
        }
        plugins.iter().try_for_each(|plugin| plugin.expect_unknown_keys_refused())?;
        Ok(plugins)
    }

    fn expect_unknown_keys_refused(&self) -> Result<(), String> {
        match careless_type(self.schema().as_value(), (self.type_name)()) {
            None => Ok(()),
            Some(careless) => Err(format!(
                "the {} `{}` of the crate `{}` would ignore a misspelt key: add `#[serde(deny_unknown_fields)]` to `{careless}`",
                self.kind().table(),
                self.name,
                self.crate_name(),
            )),
        }
    }
}

fn read_table<C: DeserializeOwned>(table: Value<'_>) -> Result<C, TableError> {
    serde_path_to_error::deserialize(ValueDeserializer::from(table))
}

/// One or several `[[source]]` tables of one type, ready to open as one source.
#[async_trait]
pub trait OpenSource: Send + Sync {
    /// Checks each table; the number says which one is wrong.
    fn validate(&self, settings: &Settings) -> Result<(), (usize, Invalid)>;
    /// What it reads, in a few words.
    fn describe(&self) -> String;
    /// What each table claims, with its number; see [`SourceConfig::claims`].
    fn claims(&self) -> Vec<(usize, &'static str)> {
        Vec::new()
    }
    /// See [`SourceConfig::examples`].
    fn examples(&self) -> Vec<PathBuf> {
        Vec::new()
    }
    /// See [`SourceConfig::reads`].
    fn reads(&self, path: &Path) -> Option<String> {
        let _ = path;
        None
    }
    /// Opens all tables as one source.
    async fn open(&self, from: Checkpoint, context: Context) -> Result<Box<dyn Source>>;
}

/// A `[sink]` table, ready to open.
#[async_trait]
pub trait OpenSink: Send + Sync {
    /// Checks the table.
    fn validate(&self, settings: &Settings) -> Result<(), Invalid>;
    /// What it writes to, in a few words.
    fn describe(&self) -> String;
    /// See [`SinkConfig::writes`].
    fn writes(&self, origin: &Origin) -> Option<PathBuf> {
        let _ = origin;
        None
    }
    /// Opens the sink.
    async fn open(&self, context: Context) -> Result<Box<dyn Sink>>;
}

struct Tables<C>(Vec<C>);

#[async_trait]
impl<C: SourceConfig> OpenSource for Tables<C> {
    fn validate(&self, settings: &Settings) -> Result<(), (usize, Invalid)> {
        self.0
            .iter()
            .enumerate()
            .try_for_each(|(index, table)| table.validate(settings).map_err(|e| (index, e)))
    }

    fn describe(&self) -> String {
        self.0.iter().map(C::describe).filter(|text| !text.is_empty()).collect::<Vec<_>>().join(", ")
    }

    fn claims(&self) -> Vec<(usize, &'static str)> {
        let claims = self.0.iter().enumerate().map(|(index, table)| Some((index, table.claims()?)));
        claims.flatten().collect()
    }

    fn examples(&self) -> Vec<PathBuf> {
        self.0.iter().flat_map(C::examples).collect()
    }

    fn reads(&self, path: &Path) -> Option<String> {
        self.0.iter().find_map(|table| table.reads(path))
    }

    async fn open(&self, from: Checkpoint, context: Context) -> Result<Box<dyn Source>> {
        C::open_all(&self.0, from, context).await
    }
}

struct Table<C>(C);

#[async_trait]
impl<C: SinkConfig> OpenSink for Table<C> {
    fn validate(&self, settings: &Settings) -> Result<(), Invalid> {
        self.0.validate(settings)
    }

    fn describe(&self) -> String {
        self.0.describe()
    }

    fn writes(&self, origin: &Origin) -> Option<PathBuf> {
        self.0.writes(origin)
    }

    async fn open(&self, context: Context) -> Result<Box<dyn Sink>> {
        self.0.open(context).await
    }
}

/// The parts of one pipeline, parsed and checked, ready to open.
pub struct Parts {
    /// The sources, grouped by type, in the order of the file.
    pub sources: Vec<Box<dyn OpenSource>>,
    /// The transport and the ends that are used.
    pub transport: Option<(Arc<dyn Transport>, Ends)>,
    /// The sink.
    pub sink: Option<Box<dyn OpenSink>>,
}
