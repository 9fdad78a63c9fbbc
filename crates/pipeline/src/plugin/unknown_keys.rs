//! Whether a misspelt key of a plugin's table would pass unnoticed: [`careless_type`].
//!
//! serde ignores a key that it does not know unless it is told not to, and the schema says whether it was.

use serde_json::{Map, Value};

/// What stands under these holds one schema for each name.
const NAMED: [&str; 2] = ["properties", "patternProperties"];
/// What stands under these is a schema, or a list of them.
const NESTED: [&str; 4] = ["items", "prefixItems", "additionalProperties", "unevaluatedProperties"];
/// What stands under these are schemas of the same value.
const ALTERNATIVES: [&str; 3] = ["anyOf", "oneOf", "allOf"];

/// The type that ignores keys that it does not know: the table's own, called `root`, or one that it holds.
pub(super) fn careless_type(schema: &Value, root: &str) -> Option<String> {
    let definitions = schema.get("$defs").and_then(Value::as_object).into_iter().flatten();
    let mut types =
        std::iter::once((root, schema)).chain(definitions.map(|(name, part)| (name.as_str(), part)));
    types.find(|(_, part)| is_careless(part, false)).map(|(name, _)| name.to_owned())
}

/// `others_refused`: a schema of the same value refuses the keys that none of them knows.
fn is_careless(part: &Value, others_refused: bool) -> bool {
    let Value::Object(object) = part else { return false };
    let has = |key: &str| object.contains_key(key);
    let is_table = object.get("type").is_some_and(|name| name == "object");
    if is_table && !others_refused && !has("additionalProperties") && !has("unevaluatedProperties") {
        return true;
    }
    let named = NAMED.iter().filter_map(|key| object.get(*key)?.as_object()).flatten();
    named.map(|(_, part)| part).chain(listed(object, &NESTED)).any(|part| is_careless(part, false))
        || listed(object, &ALTERNATIVES)
            .any(|part| is_careless(part, others_refused || has("unevaluatedProperties")))
}

/// The schemas under these keys: one, or a list of them.
fn listed<'s>(object: &'s Map<String, Value>, keys: &[&str]) -> impl Iterator<Item = &'s Value> {
    keys.iter().filter_map(|key| object.get(*key)).flat_map(|value| match value {
        Value::Array(parts) => parts.as_slice(),
        part => std::slice::from_ref(part),
    })
}

#[cfg(test)]
#[allow(dead_code, reason = "only the schemas are of interest")]
mod tests {
    use std::collections::BTreeMap;

    use schemars::{JsonSchema, schema_for};
    use serde::Deserialize;

    use super::*;
    use crate::config::{OneOrMany, Period, Secret, Size};

    fn found<T: JsonSchema>() -> Option<String> {
        careless_type(schema_for!(T).as_value(), "the table")
    }

    #[derive(Deserialize, JsonSchema)]
    struct Careless {
        key: u32,
    }

    #[derive(Deserialize, JsonSchema)]
    struct CarelessAndEmpty {}

    #[derive(Deserialize, JsonSchema)]
    #[schemars(inline)]
    struct CarelessInside {
        key: u32,
    }

    #[derive(Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Careful {
        key: u32,
        list: OneOrMany,
        period: Option<Period>,
        size: Size,
        secret: Secret,
        names: BTreeMap<String, String>,
        nested: Option<Box<Careful>>,
        choice: Choice,
        tagged: Vec<Tagged>,
        #[serde(flatten)]
        flat: Inner,
        #[serde(flatten)]
        flat_choice: FlatChoice,
    }

    #[derive(Deserialize, JsonSchema)]
    #[serde(rename_all = "snake_case", deny_unknown_fields)]
    enum Choice {
        Nothing,
        Something { much: u32 },
        Tuple(u32, u32),
    }

    #[derive(Deserialize, JsonSchema)]
    #[serde(tag = "kind", deny_unknown_fields)]
    enum Tagged {
        Unit,
        Struct { much: u32 },
        Newtype(Inner),
    }

    #[derive(Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        much: u32,
    }

    #[derive(Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    enum FlatChoice {
        This(Inner),
        That(Inner),
    }

    #[derive(Deserialize, JsonSchema)]
    enum CarelessChoice {
        Something { much: u32 },
    }

    #[derive(Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Holding<T> {
        held: T,
    }

    #[test]
    fn a_table_that_ignores_keys_is_found() {
        assert_eq!(found::<Careless>().as_deref(), Some("the table"));
        assert_eq!(found::<CarelessAndEmpty>().as_deref(), Some("the table"));
    }

    #[test]
    fn so_is_a_table_within_it_by_its_name() {
        assert_eq!(found::<Holding<Careless>>().as_deref(), Some("Careless"));
        assert_eq!(found::<Holding<Vec<Option<CarelessAndEmpty>>>>().as_deref(), Some("CarelessAndEmpty"));
        assert_eq!(found::<Holding<BTreeMap<String, Careless>>>().as_deref(), Some("Careless"));
        // Without a definition of its own it is part of the table that holds it.
        assert_eq!(found::<Holding<Vec<CarelessInside>>>().as_deref(), Some("the table"));
        assert_eq!(found::<Holding<CarelessChoice>>().as_deref(), Some("CarelessChoice"));
    }

    #[test]
    fn tables_that_refuse_them_and_maps_pass() {
        assert_eq!(found::<Careful>(), None);
        assert_eq!(found::<Holding<BTreeMap<String, serde_json::Value>>>(), None);
    }
}
