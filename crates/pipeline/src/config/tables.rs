//! The tables of plugins: from a `type` to a plugin, from a table to its configuration.

use std::collections::BTreeSet;

use serde_json::Value as Schema;
use toml::de::{DeTable, DeValue};

use super::document::{Step, Value, find, innermost_key, kind, remove};
use super::error::Finding;
use super::explain::{Cause, TableError, TableView, explain, explain_misplaced_list};
use super::nearest::{nearest, quoted};
use super::schema::{Names, misplaced_list};
use crate::{Kind, Plugin};

/// Nobody reads a longer report to its end, and each mistake costs another pass over its table.
const MAX_FINDINGS: usize = 50;

/// What is needed to read any table of a file.
pub(super) struct Tables<'v, 'a> {
    /// The whole file, with the environment filled in.
    pub(super) root: &'v DeTable<'a>,
    pub(super) names: &'v Names,
    /// Where strings start that name environment variables.
    pub(super) changed: &'v BTreeSet<usize>,
    /// The paths of strings whose variables could not be filled in.
    pub(super) broken: &'v [Vec<Step>],
}

/// A table of a plugin, found and checked against its configuration type.
pub(super) struct PluginTable<'a> {
    pub(super) plugin: &'static Plugin,
    /// The path from the root.
    pub(super) base: Vec<Step>,
    pub(super) called: String,
    pub(super) schema: Schema,
    /// The table without `type`.
    pub(super) value: Value<'a>,
}

impl<'v, 'a> Tables<'v, 'a> {
    /// The tables of one kind and their paths: none, one, or for sources several.
    pub(super) fn of_kind(&self, kind: Kind, findings: &mut Vec<Finding>) -> Vec<(Vec<Step>, &'v Value<'a>)> {
        let name = kind.table();
        let base = vec![Step::Key(name.to_owned())];
        let Some(value) = find(self.root, &base).value else { return Vec::new() };
        let array = match value.get_ref() {
            DeValue::Table(_) => return vec![(base, value)],
            DeValue::Array(array) => array,
            _ => {
                findings.push(self.not_a_table(&base, &format!("`{name}`"), name));
                return Vec::new();
            }
        };
        if kind != Kind::Source {
            findings.push(
                Finding::at(value.span(), format!("`{name}` cannot be a list"))
                    .help(format!("a pipeline has one {name}: write `[{name}]`")),
            );
            return Vec::new();
        }
        if array.is_empty() {
            findings.push(Finding::at(value.span(), "`source` is an empty list").help("write `[[source]]`"));
        }
        let mut tables = Vec::new();
        for (index, value) in array.iter().enumerate() {
            let base = vec![Step::Key(name.to_owned()), Step::Index(index)];
            match value.get_ref() {
                DeValue::Table(_) => tables.push((base, value)),
                _ => findings.push(self.not_a_table(&base, &format!("`source[{index}]`"), "[source]")),
            }
        }
        tables
    }

    fn not_a_table(&self, base: &[Step], called: &str, header: &str) -> Finding {
        let found = find(self.root, base);
        let kind = found.value.map_or("a value", |value| kind(value.get_ref()));
        Finding::at_or_file(found.last_value, format!("{called} cannot be {kind}"))
            .help(format!("expected a table: `[{header}]` on a line of its own, its keys below"))
    }

    /// Finds the plugin that a table names and checks the table against it; `None` when something is wrong.
    pub(super) fn plugin_table(
        &self,
        kind: Kind,
        base: Vec<Step>,
        value: &Value<'a>,
        plugins: &[&'static Plugin],
        findings: &mut Vec<Finding>,
    ) -> Option<PluginTable<'a>> {
        let DeValue::Table(mut table) = value.get_ref().clone() else { return None };
        let Some(type_value) = table.remove("type") else {
            findings.push(missing_type(kind, value, plugins));
            return None;
        };
        // What it should read is not known: what is wrong with it has been said.
        if self.broken.contains(&[&base[..], &[Step::Key("type".to_owned())]].concat()) {
            return None;
        }
        let plugin = match find_plugin(kind, &type_value, plugins) {
            Ok(plugin) => plugin,
            Err(finding) => {
                findings.push(finding);
                return None;
            }
        };
        let table = PluginTable {
            plugin,
            called: format!("the `{}` {}", plugin.name(), kind.table()),
            schema: plugin.schema().to_value(),
            value: Value::new(value.span(), DeValue::Table(table)),
            base,
        };
        let check = |value| (plugin.check)(value);
        let view = self.view(&table.base, &table.called, &table.schema);
        self.read(&view, table.value.clone(), check, findings).map(|()| table)
    }

    /// A table with what is known about it.
    pub(super) fn view<'t>(
        &'t self,
        base: &'t [Step],
        called: &'t str,
        schema: &'t Schema,
    ) -> TableView<'t, 'a> {
        TableView { root: self.root, base, called, schema, names: self.names, changed: self.changed }
    }

    /// Deserialises a table; `None` when something is wrong with it. After each mistake the offending key
    /// is taken out and the rest is tried again, so that all mistakes are found at once.
    pub(super) fn read<T>(
        &self,
        view: &TableView<'_, 'a>,
        mut table: Value<'a>,
        parse: impl Fn(Value<'a>) -> Result<T, TableError>,
        findings: &mut Vec<Finding>,
    ) -> Option<T> {
        // Keys that were there and are no longer, or that a misspelt one stands for: they are not missing.
        let mut excused: Vec<Vec<Step>> = Vec::new();
        // Strings whose variables could not be filled in: that they are no fitting values is no news.
        let broken = || self.broken.iter().filter_map(|path| path.strip_prefix(view.base));
        let mut sound = broken().next().is_none();
        while let Some(path) = misplaced_list(view.schema, &table) {
            sound = false;
            findings.push(explain_misplaced_list(&path, view));
            if findings.len() >= MAX_FINDINGS || !remove(&mut table, &path) {
                return None;
            }
            excused.push(innermost_key(&path).to_vec());
        }
        loop {
            let error = match parse(table.clone()) {
                Ok(parsed) => return sound.then_some(parsed),
                Err(error) => error,
            };
            sound = false;
            let explained = explain(&error, view);
            match explained.cause {
                Cause::MissingKey if excused.contains(&explained.path) => {}
                Cause::Value
                    if broken()
                        .any(|path| innermost_key(path).starts_with(innermost_key(&explained.path))) => {}
                Cause::MissingKey | Cause::Value => findings.push(explained.finding),
                Cause::UnknownKey { meant } => {
                    findings.push(explained.finding);
                    excused.extend(meant);
                }
            }
            // Each round takes a key away; when there is none to take, nothing more can be found.
            if findings.len() >= MAX_FINDINGS || !remove(&mut table, &explained.path) {
                return None;
            }
            excused.push(innermost_key(&explained.path).to_vec());
        }
    }
}

fn missing_type(kind: Kind, table: &Value<'_>, plugins: &[&'static Plugin]) -> Finding {
    let name = kind.table();
    Finding::at(table.span(), format!("missing key `type` in `[{name}]`"))
        .help(format!("add `type`: {}", linked(kind, plugins)))
}

fn find_plugin(
    kind: Kind,
    type_value: &Value<'_>,
    plugins: &[&'static Plugin],
) -> Result<&'static Plugin, Finding> {
    let DeValue::String(name) = type_value.get_ref() else {
        let value_kind = super::document::kind(type_value.get_ref());
        return Err(Finding::at(type_value.span(), format!("`type` cannot be {value_kind}"))
            .help(format!("expected a string; {}", linked(kind, plugins))));
    };
    if let Some(plugin) = plugins.iter().find(|plugin| plugin.kind() == kind && plugin.name() == name) {
        return Ok(plugin);
    }
    if name.is_empty() {
        return Err(Finding::at(type_value.span(), "`type` is empty").help(linked(kind, plugins)));
    }
    let unknown = Finding::at(type_value.span(), format!("unknown {} `{name}`", kind.table()));
    if let Some(other) = plugins.iter().find(|plugin| plugin.name() == name) {
        let other = other.kind().table();
        return Err(unknown.help(format!("`{name}` is a {other}: its table is `[{other}]`")));
    }
    let of_kind = plugins.iter().filter(|plugin| plugin.kind() == kind).map(|plugin| plugin.name());
    Err(unknown.help(match nearest(name, of_kind) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!(
            "{}; the plugin of another crate takes part when the binary names it: `use its_crate as _;`",
            linked(kind, plugins)
        ),
    }))
}

/// ``this binary has the sources `file_tail`, `stdin` ``
fn linked(kind: Kind, plugins: &[&'static Plugin]) -> String {
    let names: Vec<&str> =
        plugins.iter().filter(|plugin| plugin.kind() == kind).map(|plugin| plugin.name()).collect();
    let kind = kind.table();
    match names.as_slice() {
        [] => format!("this binary has no {kind}"),
        [name] => format!("this binary has the {kind} `{name}`"),
        _ => format!("this binary has the {kind}s {}", quoted(&names)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binary_without_plugins_says_so() {
        assert_eq!(linked(Kind::Source, &[]), "this binary has no source");
    }
}
