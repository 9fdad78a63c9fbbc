//! A plugin whose author forgot that serde ignores unknown keys: refused by whatever file is loaded first.

use async_trait::async_trait;
use fshipper_pipeline::anyhow::{Result, bail};
use fshipper_pipeline::config::{Environment, Options, load_str};
use fshipper_pipeline::{Context, Plugin, Sink, SinkConfig, inventory};
use schemars::JsonSchema;
use serde::Deserialize;

inventory::submit!(Plugin::sink::<Screen>("screen", "the terminal"));

#[derive(Deserialize, JsonSchema)]
struct Screen {}

#[async_trait]
impl SinkConfig for Screen {
    async fn open(&self, _context: Context) -> Result<Box<dyn Sink>> {
        bail!("not in this test")
    }
}

#[test]
fn a_plugin_that_would_ignore_a_misspelt_key_is_refused() {
    let options =
        Options { state_dir: None, once: false, environment: Environment::from([("HOME", "/root")]) };
    let error = load_str("web.toml", "", &options).unwrap_err();
    insta::assert_snapshot!(error.to_string(), @"the sink `screen` of the crate `config_unknown_keys` would ignore a misspelt key: add `#[serde(deny_unknown_fields)]` to `config_unknown_keys::Screen`");
}
