//! Copy me: a source and a sink of your own.
//!
//! A plugin is a struct that reads its TOML table, a struct that runs, and one line that registers it. The
//! binary in `main.rs` links this crate beside the built-in plugins; `pipeline.toml` uses both of these.
//!
//! - [`Numbers`]: a source that continues where the receiving side ends;
//! - [`AppendFile`]: a sink that keeps no positions, so the framework keeps them for it.
//!
//! The tests put both through the framework's conformance suite: what they hold to, yours can be held to.

use std::path::PathBuf;

use fshipper_pipeline::anyhow::{Context as _, Result};
use fshipper_pipeline::config::Period;
use fshipper_pipeline::{Batch, Checkpoint, Context, Epoch, Origin, Plugin, async_trait, inventory};
use fshipper_pipeline::{Sink, SinkConfig, Source, SourceConfig, Written};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::fs::File;
use tokio::io::AsyncWriteExt as _;

inventory::submit!(Plugin::source::<Numbers>("numbers", "the numbers from 0 on, one a line"));
inventory::submit!(Plugin::sink::<AppendFile>("append_file", "appends all lines to one file"));

/// The numbers from 0 on, one a line of ten digits: what stands at an offset is known from the offset alone.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Numbers {
    /// How many there are.
    count: u64,
    /// How long to rest before each.
    rest: Period,
}

struct Counting {
    config: Numbers,
    origin: Origin,
    epoch: Epoch,
    next: u64,
}

#[async_trait]
impl SourceConfig for Numbers {
    /// Continues at the line that holds the next byte.
    async fn open(&self, from: Checkpoint, context: Context) -> Result<Box<dyn Source>> {
        let origin = Origin::new(&context.settings.host, "numbers");
        let (epoch, next) = match from.position(&origin) {
            Some(position) => (position.epoch, position.offset / 11),
            None => (Epoch::random(), 0),
        };
        Ok(Box::new(Counting { config: self.clone(), origin, epoch, next }))
    }
}

#[async_trait]
impl Source for Counting {
    async fn read(&mut self) -> Result<Option<Batch>> {
        if self.next >= self.config.count {
            return Ok(None);
        }
        tokio::time::sleep(self.config.rest.0).await;
        let (line, start) = (format!("{:010}\n", self.next), self.next * 11);
        self.next += 1;
        Ok(Some(Batch::data(self.origin.clone(), self.epoch, start, line)))
    }
}

/// Appends everything to one file: at least once, because the file does not say where it ends in the logs.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AppendFile {
    /// The file, made when it is not there.
    path: PathBuf,
}

struct Appending {
    file: File,
}

#[async_trait]
impl SinkConfig for AppendFile {
    async fn open(&self, _context: Context) -> Result<Box<dyn Sink>> {
        let file = File::options().append(true).create(true).open(&self.path).await;
        let file = file.with_context(|| format!("cannot open `{}`", self.path.display()))?;
        Ok(Box::new(Appending { file }))
    }
}

#[async_trait]
impl Sink for Appending {
    /// Keeps no positions: the framework keeps them in the pipeline's state directory.
    async fn restore(&mut self) -> Result<Option<Checkpoint>> {
        Ok(None)
    }

    /// The record of a loss has no bytes; the framework has reported and counted it.
    async fn write(&mut self, batch: Batch) -> Result<Written> {
        self.file.write_all(batch.bytes()).await?;
        Ok(Written::Accepted)
    }

    /// Flushes first: only that returns the error of a write that tokio finishes in the background.
    async fn commit(&mut self, _checkpoint: &Checkpoint) -> Result<()> {
        self.file.flush().await?;
        Ok(self.file.sync_data().await?)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use fshipper_pipeline::testing;

    use super::*;

    #[tokio::test]
    async fn numbers_keeps_the_contract_of_a_source() {
        let folder = tempfile::tempdir().expect("a folder");
        let context = testing::context(folder.path());
        let config = Numbers { count: 7, rest: Period(Duration::ZERO) };
        let text: String = (0..7).map(|number| format!("{number:010}\n")).collect();
        let expected = BTreeMap::from([(Origin::new("host", "numbers"), text.into_bytes())]);
        let open = async |from| config.open(from, context.clone()).await;
        testing::check_source(open, &expected, context.settings.max_batch_bytes).await;
    }

    #[tokio::test]
    async fn append_file_keeps_the_contract_of_a_sink() {
        let folder = tempfile::tempdir().expect("a folder");
        let context = testing::context(folder.path());
        let config = AppendFile { path: folder.path().join("lines.log") };
        let open = async || config.open(context.clone()).await;
        testing::check_shared_sink(open, || std::fs::read(&config.path).expect("the output")).await;
    }
}
