//! From the text of a pipeline file to a [`Pipeline`]: [`read`].

use std::path::Path;
use std::sync::Arc;

use schemars::schema_for;
use toml::de::{DeTable, DeValue};

use super::document::{Step, Value};
use super::error::{ConfigError, Finding};
use super::explain::{explain, explain_invalid};
use super::interpolate::fill;
use super::nearest::nearest;
use super::redact::Redactor;
use super::schema::Names;
use super::settings::PipelineTable;
use super::tables::{PluginTable, Tables};
use super::{Options, Pipeline};
use crate::plugin::{OpenSource, Parse, Parts};
use crate::{Ends, Invalid, Kind, Plugin, Settings};

/// The tables of a pipeline file.
const TABLES: [&str; 4] = ["pipeline", "source", "transport", "sink"];

/// Reads and checks; see [`super::load_str`].
pub(super) fn read(file: &Path, text: &str, options: &Options) -> Result<Pipeline, ConfigError> {
    let plugins = Plugin::all()
        .map_err(|message| Redactor::nothing().report(file, vec![Finding::about_binary(message)]))?;
    let names = names(&plugins);
    let (root, errors) = DeTable::parse_recoverable(text);
    let mut root = root.into_inner();
    if let Some(error) = errors.first() {
        // Later ones may only follow from the first.
        return Err(Redactor::broken(text, &root, &names).report(file, vec![no_toml(error, text)]));
    }
    let mut filled = fill(&mut root, text, &options.environment, &names);
    let mut redactor = Redactor::parsed(text, &root, &names);
    redactor.hide(std::mem::take(&mut filled.secrets));

    let mut findings = std::mem::take(&mut filled.findings);
    let tables = Tables { root: &root, names: &names, changed: &filled.changed, broken: &filled.broken };
    let reader = Reader { tables, plugins, findings: &mut findings };
    let read = reader.pipeline(file, options);
    match read {
        Some((settings, parts, flow)) if findings.is_empty() => {
            let flow = redactor.redact(&flow);
            Ok(Pipeline { file: file.to_owned(), settings, parts, flow })
        }
        _ => Err(redactor.report(file, findings)),
    }
}

/// The error for a file whose bytes from `start` on are no text; `text` has replacements in their place.
pub(super) fn not_text(file: &Path, text: &str, start: usize) -> ConfigError {
    let names = names(&Plugin::all().unwrap_or_default());
    let root = DeTable::parse_recoverable(text).0.into_inner();
    let finding = Finding::at(start..start + 1, "not valid UTF-8")
        .help("TOML is always UTF-8: save the file in this encoding");
    Redactor::broken(text, &root, &names).report(file, vec![finding])
}

fn names(plugins: &[&'static Plugin]) -> Names {
    let mut names = Names::default();
    names.add(schema_for!(PipelineTable).as_value());
    plugins.iter().for_each(|plugin| names.add(plugin.schema().as_value()));
    names
}

fn no_toml(error: &toml::de::Error, text: &str) -> Finding {
    // An error without a place is one at the end.
    let span = error.span().unwrap_or(text.len()..text.len());
    let offending = text.get(span.clone()).unwrap_or_default();
    match error.message() {
        message if message.starts_with("string values must be quoted") && offending.is_empty() => {
            Finding::at(span, "invalid TOML: a key without a value")
        }
        message if message.contains("escape") => Finding::at(span, format!("invalid TOML: {message}"))
            .help("between double quotes a backslash starts an escape: write two, or use single quotes"),
        "duplicate key" if offending == "source" => Finding::at(span, "invalid TOML: a second `source`")
            .help("write `[[source]]` above each of several"),
        "duplicate key" => Finding::at(span, "invalid TOML: duplicate key")
            .help("its table has it already: keep one of them"),
        message => {
            // TOML's name for one kind of quotes is no help to whoever left all of them out.
            let message = message.strip_suffix(", expected literal string").unwrap_or(message);
            Finding::at(span, format!("invalid TOML: {message}"))
        }
    }
}

struct Reader<'v, 'a> {
    tables: Tables<'v, 'a>,
    plugins: Vec<&'static Plugin>,
    findings: &'v mut Vec<Finding>,
}

impl<'a> Reader<'_, 'a> {
    /// `None`, or any finding, means that the file is refused.
    fn pipeline(mut self, file: &Path, options: &Options) -> Option<(Arc<Settings>, Parts, String)> {
        self.unknown_tables();
        let settings = self.settings(file, options);
        let sources = self.plugin_tables(Kind::Source);
        let transport = self.plugin_tables(Kind::Transport).map(|mut tables| tables.pop());
        let sink = self.plugin_tables(Kind::Sink).map(|mut tables| tables.pop());
        self.combination();

        let (settings, sources, transport, sink) = (settings?, sources?, transport?, sink?);
        let (sources, read_from): (Vec<_>, Vec<_>) = self.sources(sources, &settings)?.into_iter().unzip();
        let ends = match (sources.is_empty(), sink.is_none()) {
            (false, false) => Ends::Both,
            (false, true) => Ends::Sender,
            (true, _) => Ends::Receiver,
        };
        let mut flow = Vec::from_iter((!read_from.is_empty()).then(|| read_from.join(" + ")));
        let transport = match transport {
            Some(table) => {
                let Parse::Transport(parse) = table.plugin.parse else { return None };
                let transport = self.parse(&table, parse)?;
                self.accept(&table, transport.validate(&settings, ends));
                flow.push(stage(&table, transport.describe()));
                Some((Arc::from(transport), ends))
            }
            None => None,
        };
        let sink = match sink {
            Some(table) => {
                let Parse::Sink(parse) = table.plugin.parse else { return None };
                let sink = self.parse(&table, parse)?;
                self.accept(&table, sink.validate(&settings));
                flow.push(stage(&table, sink.describe()));
                Some(sink)
            }
            None => None,
        };
        Some((Arc::new(settings), Parts { sources, transport, sink }, flow.join(" → ")))
    }

    /// Which tables are there decides what the pipeline is.
    fn combination(&mut self) {
        let span = |kind: Kind| self.tables.root.get(kind.table()).map(Value::span);
        let (message, span, help) = match (span(Kind::Source), span(Kind::Transport), span(Kind::Sink)) {
            (Some(span), None, None) => (
                "nothing takes what `[source]` reads",
                Some(span),
                "add `[transport]` to publish it, or `[sink]` to write it",
            ),
            (None, Some(span), None) => (
                "`[transport]` alone moves nothing",
                Some(span),
                "add `[source]` to send what it reads, or `[sink]` to write what is received",
            ),
            (None, None, Some(span)) => (
                "nothing comes to `[sink]`",
                Some(span),
                "add `[source]` to write what it reads, or `[transport]` to write what is received",
            ),
            (None, None, None) => (
                "describes no pipeline",
                None,
                "a pipeline has two or all of `[source]`, `[transport]` and `[sink]`",
            ),
            _ => return,
        };
        // What is missing may be there under a misspelt name, and that is reported already.
        let has_unknown_table = self.tables.root.keys().any(|key| !TABLES.contains(&&**key.get_ref()));
        if !has_unknown_table {
            self.findings.push(Finding::at_or_file(span, message).help(help));
        }
    }

    fn unknown_tables(&mut self) {
        for (key, value) in self.tables.root {
            let name = &**key.get_ref();
            if TABLES.contains(&name) {
                continue;
            }
            let is_table = match value.get_ref() {
                DeValue::Table(_) => true,
                DeValue::Array(values) => {
                    !values.is_empty() && values.iter().all(|value| value.get_ref().is_table())
                }
                _ => false,
            };
            let finding = match (nearest(name, TABLES), is_table) {
                (Some(near), _) => Finding::at(key.span(), format!("unknown table `{name}`"))
                    .help(format!("did you mean `[{near}]`?")),
                (None, true) => Finding::at(key.span(), format!("unknown table `{name}`"))
                    .help("the tables of a pipeline file: `[pipeline]`, `[source]`, `[transport]`, `[sink]`"),
                (None, false) => Finding::at(key.span(), format!("the key `{name}` stands in no table")).help(
                    "move it below the table it belongs to: `[pipeline]`, `[source]`, `[transport]` or `[sink]`",
                ),
            };
            self.findings.push(finding);
        }
    }

    fn settings(&mut self, file: &Path, options: &Options) -> Option<Settings> {
        let base = [Step::Key("pipeline".to_owned())];
        let schema = schema_for!(PipelineTable).to_value();
        let view = self.tables.view(&base, "`[pipeline]`", &schema);
        let table = match self.tables.root.get("pipeline") {
            Some(value) => {
                let parse = |value| {
                    serde_path_to_error::deserialize::<_, PipelineTable>(toml::de::ValueDeserializer::from(
                        value,
                    ))
                };
                self.tables.read(&view, value.clone(), parse, self.findings)?
            }
            None => PipelineTable::default(),
        };
        let result = table.settings(file, options);
        let problems = result.map_err(|problems| {
            problems.into_iter().map(|problem| explain_invalid(problem, &view)).collect::<Vec<_>>()
        });
        problems.map_err(|problems| self.findings.extend(problems)).ok()
    }

    /// The tables of one kind, each checked; `None` when something is wrong with one of them.
    fn plugin_tables(&mut self, kind: Kind) -> Option<Vec<PluginTable<'a>>> {
        let known = self.findings.len();
        let mut tables = Vec::new();
        for (base, value) in self.tables.of_kind(kind, self.findings) {
            let table = self.tables.plugin_table(kind, base, value, &self.plugins, self.findings);
            tables.push(table);
        }
        let all: Option<Vec<_>> = tables.into_iter().collect();
        all.filter(|_| self.findings.len() == known)
    }

    /// Groups the tables by type, in the order of the file, each group with what it reads. Opens nothing.
    fn sources(
        &mut self,
        tables: Vec<PluginTable<'a>>,
        settings: &Settings,
    ) -> Option<Vec<(Box<dyn OpenSource>, String)>> {
        let mut groups: Vec<Vec<PluginTable<'a>>> = Vec::new();
        for table in tables {
            match groups.iter_mut().find(|group| group[0].plugin.name() == table.plugin.name()) {
                Some(group) => group.push(table),
                None => groups.push(vec![table]),
            }
        }
        let (mut sources, mut claimed) = (Vec::new(), Vec::new());
        for group in groups {
            let Parse::Source(parse) = group[0].plugin.parse else { return None };
            let source = match parse(group.iter().map(|table| table.value.clone()).collect()) {
                Ok(source) => source,
                Err(error) => {
                    let table = &group[error.table];
                    let view = self.tables.view(&table.base, &table.called, &table.schema);
                    self.findings.push(explain(&error.error, &view).finding);
                    return None;
                }
            };
            if let Err((index, invalid)) = source.validate(settings) {
                self.accept(&group[index], Err(invalid));
            }
            for (index, claim) in source.claims() {
                if claimed.contains(&claim) {
                    let problem =
                        format!("only one source of a process can have {claim}, and one above has it");
                    let invalid = Invalid::new("", problem)
                        .help("leave one of them out, or run it in a process of its own");
                    self.accept(&group[index], Err(invalid));
                }
                claimed.push(claim);
            }
            let shown = stage(&group[0], source.describe());
            sources.push((source, shown));
        }
        Some(sources)
    }

    fn parse<T>(
        &mut self,
        table: &PluginTable<'a>,
        parse: impl Fn(Value<'a>) -> Result<T, super::explain::TableError>,
    ) -> Option<T> {
        let view = self.tables.view(&table.base, &table.called, &table.schema);
        self.tables.read(&view, table.value.clone(), parse, self.findings)
    }

    fn accept(&mut self, table: &PluginTable<'a>, validated: Result<(), Invalid>) {
        if let Err(invalid) = validated {
            let view = self.tables.view(&table.base, &table.called, &table.schema);
            self.findings.push(explain_invalid(invalid, &view));
        }
    }
}

/// `file_tail (/var/log/*.log)`
fn stage(table: &PluginTable<'_>, description: String) -> String {
    match description.is_empty() {
        true => table.plugin.name().to_owned(),
        false => format!("{} ({description})", table.plugin.name()),
    }
}
