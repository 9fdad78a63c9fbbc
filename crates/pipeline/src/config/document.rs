//! A parsed file as a tree of values that know where they stand.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A value and the bytes of the file it stands in.
pub(crate) type Value<'a> = Spanned<DeValue<'a>>;

/// One step down the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

/// The end of a walk along a path: as far as the file goes.
pub(super) struct Found<'d, 'a> {
    /// The value at the end of the whole path; `None` when the file has none.
    pub(super) value: Option<&'d Value<'a>>,
    /// Where the last key that exists stands; `None` when not even the first does.
    pub(super) key: Option<Range<usize>>,
    /// Where the last value that exists stands: for `[table]`, its header.
    pub(super) last_value: Option<Range<usize>>,
}

/// Follows `path` from the root.
pub(super) fn find<'d, 'a>(root: &'d DeTable<'a>, path: &[Step]) -> Found<'d, 'a> {
    let mut found = Found { value: None, key: None, last_value: None };
    let Some((Step::Key(first), rest)) = path.split_first() else { return found };
    let Some((key, value)) = root.get_key_value(first.as_str()) else { return found };
    found.key = Some(key.span());
    let mut current = value;
    for step in rest {
        found.last_value = Some(current.span());
        current = match (step, current.get_ref()) {
            (Step::Key(name), DeValue::Table(table)) => match table.get_key_value(name.as_str()) {
                Some((key, value)) => {
                    found.key = Some(key.span());
                    value
                }
                None => return found,
            },
            (Step::Index(index), DeValue::Array(array)) => match array.get(*index) {
                Some(value) => value,
                None => return found,
            },
            _ => return found,
        };
    }
    found.last_value = Some(current.span());
    found.value = Some(current);
    found
}

/// Removes the innermost key of `path` from `table`; whether there was one.
pub(super) fn remove(table: &mut Value<'_>, path: &[Step]) -> bool {
    let Some(last_key) = path.iter().rposition(|step| matches!(step, Step::Key(_))) else { return false };
    let mut current = table.get_mut();
    for step in &path[..last_key] {
        let next = match (step, current) {
            (Step::Key(name), DeValue::Table(table)) => table.get_mut(name.as_str()),
            (Step::Index(index), DeValue::Array(array)) => array.get_mut(*index),
            _ => None,
        };
        let Some(next) = next else { return false };
        current = next.get_mut();
    }
    match (&path[last_key], current) {
        (Step::Key(name), DeValue::Table(table)) => table.remove(name.as_str()).is_some(),
        _ => false,
    }
}

/// `tls.ca` of `tls.ca[1]`.
pub(super) fn innermost_key(path: &[Step]) -> &[Step] {
    let length = path.iter().rposition(|step| matches!(step, Step::Key(_))).map_or(0, |last| last + 1);
    &path[..length]
}

/// Reads `tls.ca`, `include[1]`; what is no number in brackets belongs to the key.
pub(super) fn parse_path(dotted: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    for part in dotted.split('.').filter(|part| !part.is_empty()) {
        let mut indices = Vec::new();
        let mut name = part;
        while let Some((rest, index)) = name.strip_suffix(']').and_then(|inner| inner.rsplit_once('[')) {
            let Ok(index) = index.parse() else { break };
            indices.push(Step::Index(index));
            name = rest;
        }
        if !name.is_empty() {
            steps.push(Step::Key(name.to_owned()));
        }
        steps.extend(indices.into_iter().rev());
    }
    steps
}

/// Writes `tls.ca`, `include[1]`.
pub(super) fn dotted(path: &[Step]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Key(name) if text.is_empty() => text.push_str(name),
            Step::Key(name) => text.extend([".", name]),
            Step::Index(index) => text.push_str(&format!("[{index}]")),
        }
    }
    text
}

/// What a value is, for people.
pub(super) fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a floating-point number",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// A scalar as a message shows it; `None` for lists and tables.
pub(super) fn scalar(value: &DeValue<'_>) -> Option<String> {
    Some(match value {
        DeValue::String(text) => text.clone().into_owned(),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        DeValue::Array(_) | DeValue::Table(_) => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Step {
        Step::Key(name.to_owned())
    }

    #[test]
    fn paths_read_and_write() {
        for path in ["tls.ca", "include[1]", "stream", "matrix[0][12].cell"] {
            assert_eq!(dotted(&parse_path(path)), path);
        }
        assert_eq!(parse_path("tls.ca"), [key("tls"), key("ca")]);
        assert_eq!(parse_path("m[0][12]"), [key("m"), Step::Index(0), Step::Index(12)]);
        assert_eq!(parse_path("odd[x]"), [key("odd[x]")]);
        assert_eq!(parse_path(""), []);
    }

    #[test]
    fn a_path_is_followed_as_far_as_it_goes() {
        let text = "[sink]\nkeep = { files = 3 }\n";
        let root = DeTable::parse(text).unwrap().into_inner();
        let whole = find(&root, &parse_path("sink.keep.files"));
        assert_eq!(whole.value.map(|value| &text[value.span()]), Some("3"));
        let part = find(&root, &parse_path("sink.keep.age"));
        assert!(part.value.is_none());
        assert_eq!(part.key.map(|span| &text[span]), Some("keep"));
        assert_eq!(part.last_value.map(|span| &text[span]), Some("{ files = 3 }"));
        let none = find(&root, &parse_path("source"));
        assert!(none.value.is_none() && none.key.is_none() && none.last_value.is_none());
    }

    #[test]
    fn removes_the_innermost_key() {
        let text = "sink = { keep = [{ age = 1, files = 2 }], path = ['a', 'b'] }";
        let mut root = DeTable::parse(text).unwrap().into_inner();
        let sink = root.get_mut("sink").unwrap();
        assert!(remove(sink, &parse_path("keep[0].age")));
        assert!(!remove(sink, &parse_path("keep[0].age")));
        assert!(remove(sink, &parse_path("path[1]")));
        assert!(find(&root, &parse_path("sink.path")).value.is_none());
        assert!(find(&root, &parse_path("sink.keep[0].files")).value.is_some());
    }
}
