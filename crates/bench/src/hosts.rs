//! Many hosts at once: [`Hosts`].

use anyhow::{Context as _, Result};
use async_nats::HeaderMap;
use async_nats::jetstream::{self, stream};
use bytes::Bytes;
use clap::Args;

use crate::corpus::Lines;

/// Every host has one log. In each round every host publishes once, in the format of `docs/wire-format.md`.
#[derive(Args, Debug)]
pub(crate) struct Hosts {
    #[arg(long)]
    server: String,
    /// The stream to make, for `shipper.>`
    #[arg(long)]
    stream: String,
    /// How many hosts
    #[arg(long)]
    hosts: u64,
    /// How many messages, spread evenly over the hosts
    #[arg(long)]
    messages: u64,
    /// How many lines each message has
    #[arg(long)]
    lines: u64,
}

const PATH: &str = "/var/log/app.log";

/// Acknowledgements that are waited for together.
const WINDOW: usize = 1000;

impl Hosts {
    pub(crate) async fn run(self) -> Result<()> {
        let client = async_nats::connect(&self.server).await?;
        let context = jetstream::new(client);
        let subjects = vec!["shipper".into(), "shipper.>".into()];
        context
            .get_or_create_stream(stream::Config {
                name: self.stream.clone(),
                subjects,
                // fshipper asks for last messages that way.
                allow_direct: true,
                ..Default::default()
            })
            .await?;
        let mut text = Vec::new();
        Lines::new().write(&mut text, self.lines, 0)?;
        let (crc, length) = (crc32c::crc32c(&text), text.len() as u64);
        // The last line's end stays away.
        text.pop();
        let text = Bytes::from(text);
        let name = format!("app=2Elog-{:016x}", fnv1a(PATH.as_bytes()));
        let mut stored = Vec::with_capacity(WINDOW);
        for message in 0..self.messages {
            let (host, round) = (message % self.hosts, message / self.hosts);
            let (start, end) = (round * length, (round + 1) * length);
            let mut headers = HeaderMap::new();
            let batch =
                format!("v=1 epoch={:016x} start={start} end={end} crc={crc:08x} path={PATH}", host + 1);
            headers.insert("Fs-Batch", batch);
            let subject = format!("shipper.host{host:06}.{name}");
            stored.push(context.publish_with_headers(subject, headers, text.clone()).await?);
            if stored.len() == WINDOW {
                wait_for(&mut stored).await?;
            }
        }
        wait_for(&mut stored).await
    }
}

async fn wait_for(stored: &mut Vec<jetstream::context::PublishAckFuture>) -> Result<()> {
    for one in stored.drain(..) {
        one.await.context("a message was not stored")?;
    }
    Ok(())
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_s_token_is_that_of_the_wire_format_page() {
        assert_eq!(format!("{:016x}", fnv1a(PATH.as_bytes())), "5e1ffe1aabd36f6a");
    }
}
