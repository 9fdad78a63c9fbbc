//! `${NAME}` in strings: [`fill`].

use std::collections::BTreeSet;

use toml::de::{DeTable, DeValue};

use super::document::{Step, Value};
use super::environment::Environment;
use super::error::Finding;
use super::schema::Names;

/// What filling in the environment brought to light.
#[derive(Default)]
pub(super) struct Filled {
    /// What could not be filled in.
    pub(super) findings: Vec<Finding>,
    /// The paths of the strings that these are about.
    pub(super) broken: Vec<Vec<Step>>,
    /// Where strings start that read differently now.
    pub(super) changed: BTreeSet<usize>,
    /// The values of variables with the name of a secret.
    pub(super) secrets: Vec<String>,
}

/// What is wrong with one `${…}`.
struct Trouble {
    /// How it starts in the string, up to the end of the name.
    start: String,
    message: String,
    help: String,
}

/// A string with its variables filled in.
#[derive(Default)]
struct Expansion {
    text: String,
    /// Name and value of each variable.
    variables: Vec<(String, String)>,
    troubles: Vec<Trouble>,
}

/// Fills the environment into every string of the tree. `text` is what the tree was parsed from.
pub(super) fn fill(root: &mut DeTable<'_>, text: &str, environment: &Environment, names: &Names) -> Filled {
    let mut filler = Filler { text, environment, names, path: Vec::new(), filled: Filled::default() };
    filler.table(root);
    filler.filled
}

struct Filler<'t> {
    text: &'t str,
    environment: &'t Environment,
    names: &'t Names,
    path: Vec<Step>,
    filled: Filled,
}

impl Filler<'_> {
    fn table(&mut self, table: &mut DeTable<'_>) {
        for (key, value) in table.iter_mut() {
            self.path.push(Step::Key(key.get_ref().to_string()));
            self.value(value);
            self.path.pop();
        }
    }

    fn value(&mut self, value: &mut Value<'_>) {
        let span = value.span();
        match value.get_mut() {
            DeValue::Table(table) => self.table(table),
            DeValue::Array(values) => {
                for (index, value) in values.iter_mut().enumerate() {
                    self.path.push(Step::Index(index));
                    self.value(value);
                    self.path.pop();
                }
            }
            DeValue::String(string) if string.contains('$') => {
                let expansion = expand(string, self.environment);
                if !expansion.troubles.is_empty() {
                    self.filled.broken.push(self.path.clone());
                    self.report(span, expansion.troubles);
                    return;
                }
                if !expansion.variables.is_empty() {
                    self.filled.changed.insert(span.start);
                }
                let secret = expansion.variables.into_iter().filter(|(name, _)| self.names.is_secret(name));
                self.filled.secrets.extend(secret.map(|(_, value)| value));
                *string = expansion.text.into();
            }
            _ => {}
        }
    }

    /// Points at each `${…}` itself, not at the whole string; only an escaped one cannot be found.
    fn report(&mut self, span: std::ops::Range<usize>, troubles: Vec<Trouble>) {
        let mut from = span.start;
        for trouble in troubles {
            let found = self.text[from..span.end].find(&trouble.start);
            let place = found.map_or(span.clone(), |at| from + at..from + at + trouble.start.len());
            from = if found.is_some() { place.end } else { from };
            let closed = self.text[place.end..span.end].starts_with('}');
            let place = if found.is_some() && closed { place.start..place.end + 1 } else { place };
            self.filled.findings.push(Finding::at(place, trouble.message).help(trouble.help));
        }
    }
}

/// See the rules in the documentation of [`super`].
fn expand(string: &str, environment: &Environment) -> Expansion {
    let mut expansion = Expansion::default();
    let mut rest = string;
    while let Some(dollar) = rest.find('$') {
        expansion.text.push_str(&rest[..dollar]);
        let after = &rest[dollar + 1..];
        if let Some(after) = after.strip_prefix('$') {
            expansion.text.push('$');
            rest = after;
            continue;
        }
        let Some(inner) = after.strip_prefix('{') else {
            expansion.text.push('$');
            rest = after;
            continue;
        };
        let Some(end) = inner.find('}') else {
            expansion.troubles.push(Trouble {
                start: "${".to_owned(),
                message: "`${` without its `}`".to_owned(),
                help: "close it, or write `$$` for a dollar sign".to_owned(),
            });
            return expansion;
        };
        match variable(&inner[..end], environment) {
            Ok((name, value)) => {
                expansion.text.push_str(&value);
                expansion.variables.push((name.to_owned(), value));
            }
            Err(trouble) => expansion.troubles.push(trouble),
        }
        rest = &inner[end + 1..];
    }
    expansion.text.push_str(rest);
    expansion
}

/// The name and the value of `NAME` or `NAME:-default`.
fn variable<'s>(inner: &'s str, environment: &Environment) -> Result<(&'s str, String), Trouble> {
    let name_bytes = inner.bytes().take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_').count();
    let (name, rest) = inner.split_at(name_bytes);
    let trouble = |message: String, help: String| Trouble { start: format!("${{{name}"), message, help };
    if name.is_empty() || name.starts_with(|first: char| first.is_ascii_digit()) {
        return Err(trouble(
            "`${` without the name of a variable".to_owned(),
            "names hold letters, digits and `_`, and start with no digit; write `$$` for a dollar sign"
                .to_owned(),
        ));
    }
    let default = match rest.strip_prefix(":-") {
        Some(default) => Some(default),
        None if rest.is_empty() => None,
        None => {
            return Err(trouble(
                format!("`${{{name}` is followed by neither `}}` nor `:-`"),
                format!("accepted: `${{{name}}}`, `${{{name}:-default}}`"),
            ));
        }
    };
    if default.is_some_and(|default| default.contains("${")) {
        return Err(trouble(
            format!("the default of `{name}` names another variable"),
            "a default is taken as it stands: it cannot hold `${`".to_owned(),
        ));
    }
    let value = environment.variable(name).map(std::ffi::OsString::into_string).transpose();
    let value = value.map_err(|_| {
        trouble(
            format!("the environment variable `{name}` is not valid UTF-8"),
            "strings in TOML are UTF-8: set another value".to_owned(),
        )
    })?;
    let value = match (value, default) {
        (Some(value), None) => value,
        (Some(value), Some(_)) if !value.is_empty() => value,
        (_, Some(default)) => default.replace("$$", "$"),
        (None, None) => {
            return Err(trouble(
                format!("the environment variable `{name}` is not set"),
                format!("set it, or give a default: `${{{name}:-default}}`"),
            ));
        }
    };
    Ok((name, value))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn expanded(text: &str) -> Result<String, Vec<String>> {
        let environment = Environment::from([("HOST", "web1"), ("EMPTY", ""), ("NESTED", "${HOST}")]);
        let expansion = expand(text, &environment);
        match expansion.troubles {
            troubles if troubles.is_empty() => Ok(expansion.text),
            troubles => Err(troubles.into_iter().map(|trouble| trouble.message).collect()),
        }
    }

    #[test]
    fn variables_are_filled_in() {
        for (text, expected) in [
            ("${HOST}", "web1"),
            ("a-${HOST}-${HOST}", "a-web1-web1"),
            ("${HOST:-other}", "web1"),
            ("${MISSING:-other}", "other"),
            ("${MISSING:-}", ""),
            ("${EMPTY}", ""),
            ("${EMPTY:-other}", "other"),
            ("${MISSING:-a:-b $$ $c}", "a:-b $ $c"),
            ("${NESTED}", "${HOST}"),
            ("$$", "$"),
            ("$${HOST}", "${HOST}"),
            ("$$$", "$$"),
            ("$HOST costs 5$", "$HOST costs 5$"),
        ] {
            assert_eq!(expanded(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_filled_in_is_said() {
        for text in ["${MISSING}", "${", "${HOST", "${}", "${1}", "${HOST?}", "${HOST-x}", "${X:-${HOST}}"] {
            assert!(expanded(text).is_err(), "{text}");
        }
        assert_eq!(expanded("${A} ${B}").unwrap_err().len(), 2);
    }

    proptest! {
        #[test]
        fn text_without_a_dollar_sign_stays(text in "[^$]*") {
            prop_assert_eq!(expanded(&text), Ok(text));
        }

        #[test]
        fn doubled_dollar_signs_give_the_text_back(text in ".*") {
            prop_assert_eq!(expanded(&text.replace('$', "$$")), Ok(text));
        }
    }
}
