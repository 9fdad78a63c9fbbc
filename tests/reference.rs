//! `docs/configuration.md` says what the plugins' own schemas say.

use std::fmt::Write as _;
use std::path::Path;

use fshipper as _;
use fshipper_pipeline::Plugin;
use serde_json::Value;

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");

/// What stands before the part that the schemas give.
const MARK: &str =
    "<!-- From here on the page is made from the plugins: UPDATE_DOCS=1 cargo test reference -->\n";

#[test]
fn the_reference_lists_every_key_of_every_plugin() {
    let page = std::fs::read_to_string(PAGE).unwrap();
    let (introduction, reference) = page.split_once(MARK).expect("the mark stands in the page");
    let expected: String = Plugin::all().unwrap().iter().map(|plugin| section(plugin)).collect();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(Path::new(PAGE), format!("{introduction}{MARK}{expected}")).unwrap();
        return;
    }
    assert!(
        reference == expected,
        "`docs/configuration.md` is out of date: UPDATE_DOCS=1 cargo test reference"
    );
}

fn section(plugin: &Plugin) -> String {
    let mut text = format!("\n## {} `{}`\n\n{}.\n", plugin.kind().table(), plugin.name(), plugin.summary());
    let schema = plugin.schema().to_value();
    let mut rows = String::new();
    add_rows(&schema, &schema, "", &mut rows);
    if rows.is_empty() {
        return text + "\nIt has no keys.\n";
    }
    write!(text, "\n| key | meaning |\n| --- | --- |\n{rows}").unwrap();
    text
}

/// A row for each key of `table`, keys of tables within it dotted.
fn add_rows(root: &Value, table: &Value, prefix: &str, rows: &mut String) {
    let Some(keys) = table["properties"].as_object() else { return };
    let is_required =
        |key: &str| table["required"].as_array().is_some_and(|all| all.iter().any(|one| one == key));
    for (key, value) in keys {
        let inner = resolve(root, value);
        let described = [value, inner].into_iter().find_map(|schema| schema["description"].as_str());
        let mut meaning =
            described.expect("each key has a doc comment").replace('\n', " ").replace('|', "\\|");
        if is_required(key) {
            meaning += " **Required.**";
        }
        let choices = choices(root, inner);
        if choices.first().is_some_and(|first| !meaning.contains(&first.replace('"', ""))) {
            write!(meaning, " One of {}.", choices.join(", ")).unwrap();
        }
        if let Some(default @ (Value::Bool(_) | Value::String(_))) = value.get("default")
            && !meaning.contains("Default")
        {
            write!(meaning, " Default: `{default}`.").unwrap();
        }
        writeln!(rows, "| `{prefix}{key}` | {meaning} |").unwrap();
        add_rows(root, inner, &format!("{prefix}{key}."), rows);
    }
}

/// The schema that a reference or an optional value stands for.
fn resolve<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    if let Some(path) = schema["$ref"].as_str().and_then(|path| path.strip_prefix('#')) {
        return resolve(root, root.pointer(path).expect("a reference leads somewhere"));
    }
    let is_some = |schema: &&Value| schema["type"] != "null";
    match schema["anyOf"].as_array().map(|schemas| schemas.iter().filter(is_some).collect::<Vec<_>>()) {
        Some(schemas) if schemas.len() == 1 => resolve(root, schemas[0]),
        _ => schema,
    }
}

/// The words that a key accepts, when there is a list of them.
fn choices(root: &Value, schema: &Value) -> Vec<String> {
    let words = |schema: &Value| -> Vec<String> {
        let listed = schema["enum"].as_array().cloned().unwrap_or_default();
        listed.iter().chain(schema.get("const")).map(|word| format!("`{word}`")).collect()
    };
    let alternatives = schema["oneOf"].as_array().into_iter().flatten();
    words(schema).into_iter().chain(alternatives.flat_map(|schema| words(resolve(root, schema)))).collect()
}
