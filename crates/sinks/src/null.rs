//! The sink that takes everything and keeps nothing, to measure what comes before it: [`Null`].

use fshipper_pipeline::anyhow::Result;
use fshipper_pipeline::{Batch, Checkpoint, Context, Sink, SinkConfig, Written, async_trait};
use schemars::JsonSchema;
use serde::Deserialize;

/// Takes everything and keeps nothing. It has no settings.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Null {}

struct Nowhere;

#[async_trait]
impl SinkConfig for Null {
    fn describe(&self) -> String {
        "nowhere".to_owned()
    }

    async fn open(&self, _: Context) -> Result<Box<dyn Sink>> {
        Ok(Box::new(Nowhere))
    }
}

#[async_trait]
impl Sink for Nowhere {
    async fn restore(&mut self) -> Result<Option<Checkpoint>> {
        Ok(None)
    }

    async fn write(&mut self, _: Batch) -> Result<Written> {
        Ok(Written::Accepted)
    }

    async fn commit(&mut self, _: &Checkpoint) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use fshipper_pipeline::{Epoch, Origin};

    use super::*;

    #[tokio::test]
    async fn takes_everything_and_keeps_no_position() {
        let mut sink = Nowhere;
        let batch = Batch::data(Origin::new("h", "/a"), Epoch(1), 0, "a\n");
        assert_eq!(sink.write(batch).await.unwrap(), Written::Accepted);
        sink.commit(&Checkpoint::default()).await.unwrap();
        assert!(sink.restore().await.unwrap().is_none());
    }
}
