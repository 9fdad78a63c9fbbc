//! A stream for other shippers: [`Stream`].

use anyhow::Result;
use async_nats::jetstream::{self, consumer::pull, stream};
use clap::Args;

/// Other shippers expect a stream and a durable consumer to be there.
#[derive(Args, Debug)]
pub(crate) struct Stream {
    #[arg(long)]
    server: String,
    #[arg(long)]
    name: String,
    #[arg(long)]
    subject: String,
    #[arg(long)]
    consumer: String,
}

impl Stream {
    pub(crate) async fn run(self) -> Result<()> {
        let context = jetstream::new(async_nats::connect(&self.server).await?);
        let config =
            stream::Config { name: self.name, subjects: vec![self.subject], ..stream::Config::default() };
        let stream = context.create_stream(config).await?;
        let durable = pull::Config { durable_name: Some(self.consumer), ..pull::Config::default() };
        stream.create_consumer(durable).await?;
        Ok(())
    }
}
