//! What the machine allows: [`Publish`] and [`Receive`], the least that moves a file's blocks through a stream
//! in order, once, and durably.

use std::fs::File;
use std::io::{Read, Write as _};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use async_nats::HeaderMap;
use async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE;
use async_nats::jetstream::{
    self,
    consumer::{AckPolicy, pull},
    stream,
};
use bytes::Bytes;
use clap::Args;
use futures::StreamExt as _;

#[derive(Args, Debug)]
pub(crate) struct Publish {
    #[arg(long)]
    server: String,
    /// The file to publish
    path: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct Receive {
    #[arg(long)]
    server: String,
    /// The file to write
    path: PathBuf,
    /// How many bytes to wait for
    #[arg(long)]
    bytes: u64,
}

const STREAM: &str = "BARE";
const SUBJECT: &str = "bare.log";

/// fshipper's defaults, so that both move the same blocks and make them durable as often.
const BLOCK_BYTES: usize = 1_000_000;
const COMMIT_BYTES: usize = 8 << 20;
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);

/// What the server may send ahead.
const PULL_BYTES: usize = 8 << 20;

/// Blocks that wait to be written, so that an fsync does not stop the network at once.
const BLOCKS_WAITING: usize = 4;

impl Publish {
    /// One block is under way at a time: the next one names the sequence that this one got.
    pub(crate) async fn run(self) -> Result<()> {
        let context = connect(&self.server).await?;
        let mut file =
            File::open(&self.path).with_context(|| format!("cannot open `{}`", self.path.display()))?;
        let (mut sequence, mut rest) = (0, Vec::new());
        let mut next = read_block(&mut file, &mut rest)?;
        while let Some(block) = next {
            let mut headers = HeaderMap::new();
            headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, sequence.to_string());
            let stored = context.publish_with_headers(SUBJECT, headers, block).await?;
            next = read_block(&mut file, &mut rest)?;
            sequence = stored.await.context("a block was not stored")?.sequence;
        }
        Ok(())
    }
}

impl Receive {
    pub(crate) async fn run(self) -> Result<()> {
        let context = connect(&self.server).await?;
        let stream = context.get_stream(STREAM).await?;
        let config = pull::Config { ack_policy: AckPolicy::None, ..pull::Config::default() };
        let consumer = stream.create_consumer(config).await?;
        let mut messages = consumer.stream().max_bytes_per_batch(PULL_BYTES).messages().await?;
        let file =
            File::create(&self.path).with_context(|| format!("cannot create `{}`", self.path.display()))?;
        let (blocks, waiting) = sync_channel(BLOCKS_WAITING);
        let writer = std::thread::spawn(move || write(file, &waiting));
        let mut missing = self.bytes;
        while missing > 0 {
            let message = messages.next().await.context("the consumer has ended")??;
            missing = missing.saturating_sub(message.payload.len() as u64);
            let sent = tokio::task::block_in_place(|| blocks.send(message.payload.clone()));
            sent.context("the writer has ended")?;
        }
        drop(blocks);
        let written = tokio::task::block_in_place(|| writer.join());
        ensure!(written.is_ok(), "the writer panicked");
        written.unwrap_or(Ok(()))
    }
}

async fn connect(server: &str) -> Result<jetstream::Context> {
    let client = async_nats::connect(server).await.with_context(|| format!("cannot reach `{server}`"))?;
    let context = jetstream::new(client);
    let config =
        stream::Config { name: STREAM.into(), subjects: vec![SUBJECT.into()], ..stream::Config::default() };
    context.get_or_create_stream(config).await?;
    Ok(context)
}

/// The next block of whole lines; what follows its last line end stays in `rest`.
fn read_block(file: &mut impl Read, rest: &mut Vec<u8>) -> Result<Option<Bytes>> {
    let mut block = Vec::with_capacity(BLOCK_BYTES);
    block.append(rest);
    let room = BLOCK_BYTES - block.len();
    file.take(room as u64).read_to_end(&mut block)?;
    if let Some(end) = memchr::memrchr(b'\n', &block) {
        rest.extend_from_slice(&block[end + 1..]);
        block.truncate(end + 1);
    }
    Ok(Some(block).filter(|block| !block.is_empty()).map(Bytes::from))
}

fn write(mut file: File, blocks: &Receiver<Bytes>) -> Result<()> {
    let (mut waiting, mut synced) = (0, Instant::now());
    for block in blocks {
        file.write_all(&block)?;
        waiting += block.len();
        if waiting >= COMMIT_BYTES || synced.elapsed() >= COMMIT_INTERVAL {
            file.sync_data()?;
            (waiting, synced) = (0, Instant::now());
        }
    }
    file.sync_data().context("cannot sync")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_whole_lines_and_together_the_file() {
        let line = [&[b'x'; 299_999][..], b"\n"].concat();
        let text = line.repeat(7);
        let (mut file, mut rest, mut blocks) = (&text[..], Vec::new(), Vec::new());
        while let Some(block) = read_block(&mut file, &mut rest).unwrap() {
            blocks.push(block);
        }
        assert_eq!(blocks.iter().map(Bytes::len).collect::<Vec<_>>(), [900_000, 900_000, 300_000]);
        assert_eq!(blocks.concat(), text);
    }
}
