//! What a plugin's author copies names what this workspace is built with.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> String {
    fs::read_to_string(repository().join(path)).unwrap()
}

fn example() -> Table {
    read("crates/example-plugin/Cargo.toml").parse().unwrap()
}

fn workspace() -> Table {
    read("Cargo.toml").parse::<Table>().unwrap()["workspace"].as_table().unwrap().clone()
}

const LISTS: [&str; 2] = ["dependencies", "dev-dependencies"];

fn version(dependency: &Value) -> Option<&str> {
    dependency.as_str().or_else(|| dependency.get("version")?.as_str())
}

#[test]
fn the_example_says_itself_what_the_workspace_says() {
    let (example, workspace) = (example(), workspace());
    for key in ["version", "edition", "rust-version", "license", "publish"] {
        assert_eq!(example["package"][key], workspace["package"][key], "{key}");
    }
    for (name, dependency) in LISTS.iter().flat_map(|list| example[*list].as_table().unwrap()) {
        match dependency.get("path") {
            Some(path) => {
                let manifest = format!("crates/example-plugin/{}/Cargo.toml", path.as_str().unwrap());
                let found: Table = read(&manifest).parse().unwrap();
                assert_eq!(found["package"]["name"].as_str(), Some(name.as_str()));
            }
            None => {
                let version = version(dependency).expect("a version, nothing inherited");
                assert_eq!(Some(version), self::version(&workspace["dependencies"][name]), "{name}");
            }
        }
    }
}

#[test]
fn the_readme_says_the_same_for_a_crate_outside_of_the_repository() {
    let (mut expected, workspace) = (example(), workspace());
    expected.retain(|name, _| LISTS.contains(&name));
    for list in LISTS {
        for (_, dependency) in expected[list].as_table_mut().unwrap().iter_mut() {
            let Some(table) = dependency.as_table_mut() else { continue };
            if table.remove("path").is_some() {
                table.insert("git".to_owned(), workspace["package"]["repository"].clone());
            }
        }
    }
    let readme = read("README.md");
    let (_, section) = readme.split_once("## A plugin in 30 lines").unwrap();
    let (_, block) = section.split_once("```toml\n").unwrap();
    let (block, _) = block.split_once("```").unwrap();
    assert_eq!(block.parse::<Table>().unwrap(), expected);
}
