//! From an error of a table's deserialisation to words that help: [`explain`].
//!
//! serde gives its errors as text only. The forms it makes itself are fixed parts of its interface in all
//! but name; what is none of them is shown as it is. Values are never taken from that text but from the
//! file, so that a secret cannot come along.

use std::collections::BTreeSet;

use serde_json::Value as Schema;
use serde_path_to_error::Segment;
use toml::de::DeTable;

use super::document::{Step, dotted, find, innermost_key, kind, parse_path, scalar};
use super::error::Finding;
use super::nearest::{nearest, suggestion};
use super::schema::{Names, description};
use super::settings::is_setting;
use crate::Invalid;

/// An error of a table's deserialisation.
pub(crate) type TableError = serde_path_to_error::Error<toml::de::Error>;

/// Longer values are cut in messages: the snippet shows them anyway.
const MAX_SHOWN_CHARACTERS: usize = 80;

/// A table of the file and what is known about it.
pub(super) struct TableView<'v, 'a> {
    /// The whole file, with the environment filled in.
    pub(super) root: &'v DeTable<'a>,
    /// The path from the root to the table.
    pub(super) base: &'v [Step],
    /// What to call it: "`[pipeline]`", "the `stdin` source".
    pub(super) called: &'v str,
    pub(super) schema: &'v Schema,
    pub(super) names: &'v Names,
    /// Where strings start that name environment variables.
    pub(super) changed: &'v BTreeSet<usize>,
}

/// An error, told apart.
pub(super) struct Explained {
    /// What to tell.
    pub(super) finding: Finding,
    /// The path, from the table, of what is wrong.
    pub(super) path: Vec<Step>,
    pub(super) cause: Cause,
}

/// What kind of mistake an error is, as far as that matters to what follows from it.
pub(super) enum Cause {
    /// There is no such key; this one may be meant.
    UnknownKey { meant: Option<Vec<Step>> },
    /// A key is not there that must be.
    MissingKey,
    /// A value is wrong.
    Value,
}

/// Says what is wrong, where, and what to do about it.
pub(super) fn explain(error: &TableError, view: &TableView<'_, '_>) -> Explained {
    let message = error.inner().message().trim();
    let mut path = steps(error.path());
    if let Some((key, expected)) = unquote(message, "unknown field `") {
        if path.last() != Some(&Step::Key(key.to_owned())) {
            path.push(Step::Key(key.to_owned()));
        }
        return unknown_key(path, key, &names_in(expected), view);
    }
    if let Some((key, _)) = unquote(message, "missing field `") {
        path.push(Step::Key(key.to_owned()));
        return missing_key(path, key, view);
    }
    Explained { finding: wrong_value(message, &path, view), path, cause: Cause::Value }
}

/// Points at the value that a table's own check refuses.
pub(super) fn explain_invalid(invalid: Invalid, view: &TableView<'_, '_>) -> Finding {
    let path = parse_path(&invalid.key);
    let message = match path.is_empty() {
        true => format!("{}: {}", view.called, invalid.message),
        false => format!("invalid `{}`: {}", dotted(&path), invalid.message),
    };
    let mut finding = view.point_at_value(&path, message);
    finding.help = invalid.help;
    finding
}

fn unknown_key(path: Vec<Step>, key: &str, accepted: &[&str], view: &TableView<'_, '_>) -> Explained {
    let container = &path[..path.len() - 1];
    let message = match container.is_empty() {
        true => format!("unknown key `{key}` in {}", view.called),
        false => format!("unknown key `{key}` in `{}` of {}", dotted(container), view.called),
    };
    let meant = nearest(key, accepted.iter().copied()).map(|meant| {
        let mut path = container.to_vec();
        path.push(Step::Key(meant.to_owned()));
        path
    });
    let help = match &meant {
        None if is_setting(key) => format!("`{key}` belongs in `[pipeline]`"),
        _ => suggestion(key, accepted),
    };
    let key_span = find(view.root, &view.absolute(&path)).key;
    let finding = Finding::at_or_file(key_span, message).help(help);
    Explained { finding, path, cause: Cause::UnknownKey { meant } }
}

fn missing_key(path: Vec<Step>, key: &str, view: &TableView<'_, '_>) -> Explained {
    let container = &path[..path.len() - 1];
    let message = match container.is_empty() {
        true => format!("missing key `{key}` in {}", view.called),
        false => format!("missing key `{key}` in `{}` of {}", dotted(container), view.called),
    };
    let found = find(view.root, &view.absolute(container));
    let mut finding = Finding::at_or_file(found.last_value, message);
    finding.help = Some(match description(view.schema, &path) {
        Some(description) => format!("add `{key}`: {description}"),
        None => format!("add `{key}`"),
    });
    Explained { finding, path, cause: Cause::MissingKey }
}

fn wrong_value(message: &str, path: &[Step], view: &TableView<'_, '_>) -> Finding {
    let name = match path.is_empty() {
        true => view.called.to_owned(),
        false => format!("`{}`", dotted(path)),
    };
    let value = find(view.root, &view.absolute(path)).value;
    let value_kind = value.map_or("a value", |value| kind(value.get_ref()));
    let shown = value.and_then(|value| scalar(value.get_ref())).map(shortened);
    let described = view.meaning(path);
    let with_meaning = |expected: String| match &described {
        Some(meaning) => format!("{expected}; {meaning}"),
        None => expected,
    };
    // What is expected stands last, behind any value that the words may quote.
    let expected = message.rsplit_once(", expected ").map(|(_, expected)| expectation(expected));
    // Every enumeration is written as a string in TOML, unless it carries more.
    let expected = if message == "wanted string or table" { Some("a string".to_owned()) } else { expected };
    let is_of_wrong_type = message.starts_with("invalid type") || message == "wanted string or table";
    if let (Some(expected), true) = (&expected, is_of_wrong_type) {
        let finding = view.point_at_value(path, format!("{name} cannot be {value_kind}"));
        return finding.help(with_meaning(format!("expected {expected}")));
    }
    if view.is_secret(path) {
        // The other words may quote the value, or a part of it.
        let finding = view.point_at_value(path, format!("the value of {name} is not accepted"));
        return finding.help(with_meaning("it is a secret, and not shown".to_owned()));
    }
    if let Some((_, expected)) = unquote(message, "unknown variant `") {
        let shown = shown.unwrap_or_else(|| value_kind.to_owned());
        let finding = view.point_at_value(path, format!("`{shown}` is not accepted for {name}"));
        return finding.help(suggestion(&shown, &names_in(expected)));
    }
    let is_invalid = message.starts_with("invalid value") || message.starts_with("invalid length");
    if let (Some(expected), Some(shown), true) = (&expected, &shown, is_invalid) {
        let finding = view.point_at_value(path, format!("{name} cannot be `{shown}`"));
        return finding.help(with_meaning(format!("expected {expected}")));
    }
    // Words of a plugin's own, or of our value types: "what is wrong; what to do".
    match message.rsplit_once("; ") {
        Some((problem, remedy)) => {
            view.point_at_value(path, format!("invalid {name}: {problem}")).help(remedy)
        }
        None => {
            let mut finding = view.point_at_value(path, format!("invalid {name}: {message}"));
            finding.help = described;
            finding
        }
    }
}

/// Points at a list where a table is wanted.
pub(super) fn explain_misplaced_list(path: &[Step], view: &TableView<'_, '_>) -> Finding {
    wrong_value("invalid type: sequence, expected a map", path, view)
}

impl TableView<'_, '_> {
    /// What the documentation says about the key that a path leads to.
    fn meaning(&self, path: &[Step]) -> Option<String> {
        let key = innermost_key(path);
        let description = description(self.schema, key).filter(|_| !key.is_empty())?;
        Some(format!("`{}`: {description}", dotted(key)))
    }

    fn is_secret(&self, path: &[Step]) -> bool {
        path.iter().any(|step| matches!(step, Step::Key(key) if self.names.is_secret(key)))
    }

    fn absolute(&self, path: &[Step]) -> Vec<Step> {
        [self.base, path].concat()
    }

    /// A finding at a value; at the closest thing around it, when the file does not have it.
    fn point_at_value(&self, path: &[Step], message: String) -> Finding {
        let found = find(self.root, &self.absolute(path));
        let Some(value) = found.value else {
            let finding = Finding::at_or_file(found.last_value, message);
            return if path.is_empty() { finding } else { finding.label("not set here") };
        };
        let finding = Finding::at(value.span(), message);
        match scalar(value.get_ref()) {
            // The file shows the variable, not what it holds.
            Some(shown) if self.changed.contains(&value.span().start) => {
                let shown = if self.is_secret(path) { "***".to_owned() } else { shortened(shown) };
                finding.label(format!("with the environment filled in: `{shown}`"))
            }
            _ => finding,
        }
    }
}

fn steps(path: &serde_path_to_error::Path) -> Vec<Step> {
    let step = |segment: &Segment| match segment {
        Segment::Map { key } => Some(Step::Key(key.clone())),
        Segment::Enum { variant } => Some(Step::Key(variant.clone())),
        Segment::Seq { index } => Some(Step::Index(*index)),
        Segment::Unknown => None,
    };
    path.iter().map_while(step).collect()
}

/// What stands between `start` and the next backtick, and what follows.
fn unquote<'m>(message: &'m str, start: &str) -> Option<(&'m str, &'m str)> {
    message.strip_prefix(start)?.split_once('`')
}

/// The names in ``, expected one of `a`, `b` ``: all that stands between backticks.
fn names_in(expected: &str) -> Vec<&str> {
    expected.split('`').skip(1).step_by(2).collect()
}

/// Rust's names for what is expected, in the words of TOML.
fn expectation(expected: &str) -> String {
    let words = match expected {
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" => "a whole number from 0 to 4294967295",
        "u64" | "usize" => "a whole number, 0 or more",
        "f32" | "f64" => "a number",
        "a sequence" => "a list",
        "a map" => "a table",
        _ if expected.starts_with("struct ") => "a table",
        _ if expected.starts_with("a nonzero ") => "a whole number above 0",
        _ => expected,
    };
    words.to_owned()
}

fn shortened(text: String) -> String {
    match text.char_indices().nth(MAX_SHOWN_CHARACTERS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}
