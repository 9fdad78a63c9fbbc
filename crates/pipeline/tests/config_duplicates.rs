//! Two plugins of one name: refused by whatever file is loaded first.

use async_trait::async_trait;
use fshipper_pipeline::anyhow::{Result, bail};
use fshipper_pipeline::config::{Environment, Options, load_str};
use fshipper_pipeline::{Context, Plugin, Sink, SinkConfig, inventory};
use schemars::JsonSchema;
use serde::Deserialize;

inventory::submit!(Plugin::sink::<Screen>("screen", "the terminal"));
inventory::submit!(Plugin::sink::<Screen>("screen", "the terminal again"));

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Screen {}

#[async_trait]
impl SinkConfig for Screen {
    async fn open(&self, _context: Context) -> Result<Box<dyn Sink>> {
        bail!("not in this test")
    }
}

#[test]
fn two_plugins_of_one_name_are_refused() {
    let options =
        Options { state_dir: None, once: false, environment: Environment::from([("HOME", "/root")]) };
    let error = load_str("web.toml", "", &options).unwrap_err();
    insta::assert_snapshot!(error.to_string(), @"the crates `config_duplicates` and `config_duplicates` both register a sink named `screen`: leave one of them out of the binary");
}
