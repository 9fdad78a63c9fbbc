//! What the schemas of plugin tables say: which keys exist, which are secret, what they mean.

use std::collections::BTreeSet;

use serde_json::Value;
use toml::de::DeValue;

use super::document::{Step, Value as TomlValue};
use super::nearest::nearest;

/// A schema may refer to itself: deeper than any table that a person writes.
const MAX_DEPTH: usize = 16;

/// A key that contains one of these holds a secret, whatever its schema says.
const SECRET_WORDS: [&str; 7] = ["password", "passwd", "passphrase", "secret", "token", "nkey", "seed"];

/// A key that no schema knows and that contains one of these probably holds a secret, too.
const SUSPICIOUS_WORDS: [&str; 7] = ["pass", "pwd", "credential", "auth", "apikey", "api_key", "private_key"];

/// Names up to this length are near too many others.
const MAX_SHORT_BYTES: usize = 4;

/// The names of all keys of all tables that this binary knows.
#[derive(Debug, Default)]
pub(super) struct Names {
    known: BTreeSet<String>,
    secret: BTreeSet<String>,
}

impl Names {
    /// Adds the keys of one table's schema.
    pub(super) fn add(&mut self, schema: &Value) {
        self.add_part(schema, schema);
    }

    fn add_part(&mut self, part: &Value, schema: &Value) {
        match part {
            Value::Object(object) => {
                if let Some(Value::Object(properties)) = object.get("properties") {
                    for (name, property) in properties {
                        self.known.insert(name.clone());
                        if is_write_only(property, schema, 0) {
                            self.secret.insert(name.clone());
                        }
                    }
                }
                object.values().for_each(|part| self.add_part(part, schema));
            }
            Value::Array(parts) => parts.iter().for_each(|part| self.add_part(part, schema)),
            _ => {}
        }
    }

    /// Whether what stands under this key must not be shown. A key that nobody knows may be a misspelt
    /// secret one.
    pub(super) fn is_secret(&self, key: &str) -> bool {
        let lower = key.to_lowercase().replace('-', "_");
        let contains = |words: &[&str]| words.iter().any(|word| lower.contains(word));
        if self.secret.contains(key) || contains(&SECRET_WORDS) {
            return true;
        }
        let secret_names = self.secret.iter().map(String::as_str).chain(SECRET_WORDS);
        let near = nearest(key, secret_names);
        // With a letter more or less, too many words are near a short one: `speed` is no `seed`.
        let is_near = near.is_some_and(|near| near.len() > MAX_SHORT_BYTES || near.len() == key.len());
        !self.known.contains(key) && (contains(&SUSPICIOUS_WORDS) || is_near)
    }
}

/// Whether a value of this schema is write-only: itself, one of its alternatives, or what it holds without
/// a name of its own.
fn is_write_only(part: &Value, schema: &Value, depth: usize) -> bool {
    if depth > MAX_DEPTH {
        return false;
    }
    if part.get("writeOnly") == Some(&Value::Bool(true)) {
        return true;
    }
    let mut parts = alternatives(part, schema);
    parts.extend(["items", "additionalProperties"].iter().filter_map(|key| part.get(key)));
    parts.into_iter().any(|part| is_write_only(part, schema, depth + 1))
}

/// The path of a list where the schema knows only a table. serde takes it for the table's values in the
/// order of its fields.
pub(super) fn misplaced_list(schema: &Value, value: &TomlValue<'_>) -> Option<Vec<Step>> {
    misplaced_list_in(schema, schema, value.get_ref()).map(|mut path| {
        path.reverse();
        path
    })
}

/// The same, the path from its end to its start.
fn misplaced_list_in(part: &Value, schema: &Value, value: &DeValue<'_>) -> Option<Vec<Step>> {
    let (step, path) = match value {
        DeValue::Array(_) if allows("object", part, schema, 0) && !allows("array", part, schema, 0) => {
            return Some(Vec::new());
        }
        DeValue::Array(values) => values.iter().enumerate().find_map(|(index, value)| {
            let step = Step::Index(index);
            let part = descend(part, schema, std::slice::from_ref(&step), 0)?;
            Some((step, misplaced_list_in(part, schema, value.get_ref())?))
        })?,
        DeValue::Table(table) => table.iter().find_map(|(key, value)| {
            let step = Step::Key(key.get_ref().to_string());
            let part = descend(part, schema, std::slice::from_ref(&step), 0)?;
            Some((step, misplaced_list_in(part, schema, value.get_ref())?))
        })?,
        _ => return None,
    };
    Some([path, vec![step]].concat())
}

/// Whether a value of this type may stand here; when the schema does not say, it may.
fn allows(name: &str, part: &Value, schema: &Value, depth: usize) -> bool {
    if depth > MAX_DEPTH {
        return true;
    }
    match part.get("type") {
        Some(Value::String(only)) => only == name,
        Some(Value::Array(names)) => names.iter().any(|one| one == name),
        _ => {
            let alternatives = alternatives(part, schema);
            alternatives.is_empty()
                || alternatives.into_iter().any(|alternative| allows(name, alternative, schema, depth + 1))
        }
    }
}

/// What the doc comment of the field at `path` says first; `None` when it says nothing.
pub(super) fn description(schema: &Value, path: &[Step]) -> Option<String> {
    let part = descend(schema, schema, path, 0)?;
    let text = part.get("description")?.as_str()?;
    let paragraph = text.split("\n\n").next()?.split_whitespace().collect::<Vec<_>>().join(" ");
    (!paragraph.is_empty()).then_some(paragraph)
}

fn descend<'s>(part: &'s Value, schema: &'s Value, path: &[Step], depth: usize) -> Option<&'s Value> {
    let Some((step, rest)) = path.split_first() else { return Some(part) };
    if depth > MAX_DEPTH {
        return None;
    }
    let next = match step {
        Step::Key(name) => part.get("properties").and_then(|properties| properties.get(name)),
        Step::Index(_) => part.get("items"),
    };
    match next {
        Some(next) => descend(next, schema, rest, depth + 1),
        None => alternatives(part, schema)
            .into_iter()
            .find_map(|alternative| descend(alternative, schema, path, depth + 1)),
    }
}

/// What else describes the same value.
fn alternatives<'s>(part: &'s Value, schema: &'s Value) -> Vec<&'s Value> {
    let mut parts = Vec::new();
    if let Some(pointer) = part.get("$ref").and_then(Value::as_str).and_then(|at| at.strip_prefix('#')) {
        parts.extend(schema.pointer(pointer));
    }
    for combination in ["anyOf", "oneOf", "allOf"] {
        parts.extend(part.get(combination).and_then(Value::as_array).into_iter().flatten());
    }
    parts
}

#[cfg(test)]
mod tests {
    use schemars::{JsonSchema, schema_for};

    use super::*;
    use crate::config::document::parse_path;
    use crate::config::{OneOrMany, Secret};

    /// A table.
    #[derive(JsonSchema)]
    #[allow(dead_code, reason = "only its schema is of interest")]
    struct Table {
        /// The files to read:
        /// globs.
        ///
        /// More about them.
        include: OneOrMany,
        /// The file with the login.
        creds: Option<String>,
        login: Option<Secret>,
        headers: std::collections::BTreeMap<String, Secret>,
        tls: Option<Tls>,
        parent: Option<Box<Table>>,
    }

    #[derive(JsonSchema)]
    #[allow(dead_code, reason = "only its schema is of interest")]
    struct Tls {
        /// Whom to trust.
        ca: String,
        pin: Secret,
    }

    fn names() -> Names {
        let mut names = Names::default();
        names.add(schema_for!(Table).as_value());
        names
    }

    #[test]
    fn secret_types_make_secret_keys() {
        for key in ["login", "headers", "pin", "password", "auth_token", "NKEY", "user-seed"] {
            assert!(names().is_secret(key), "{key}");
        }
        for key in ["include", "creds", "tls", "ca", "parent", "subject", "key", "speed"] {
            assert!(!names().is_secret(key), "{key}");
        }
    }

    #[test]
    fn a_misspelt_secret_key_is_secret() {
        for key in ["passwrod", "tokne", "logn", "pwd", "credentials", "auth"] {
            assert!(names().is_secret(key), "{key}");
        }
    }

    #[test]
    fn doc_comments_are_found_through_options_and_references() {
        let schema = schema_for!(Table);
        let said = |path| description(schema.as_value(), &parse_path(path));
        assert_eq!(said("include").as_deref(), Some("The files to read: globs."));
        assert_eq!(said("tls.ca").as_deref(), Some("Whom to trust."));
        assert_eq!(said("parent.parent.tls.ca").as_deref(), Some("Whom to trust."));
        assert_eq!(said("login"), None);
        assert_eq!(said("nothing.at.all"), None);
    }
}
