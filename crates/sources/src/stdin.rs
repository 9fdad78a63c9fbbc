//! The source `stdin`: what is piped into the process, as the log `stdin` of its host.

use std::io::{self, Read};
use std::sync::{Arc, OnceLock};
use std::thread;

use anyhow::{Context as _, Result, bail};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use fshipper_pipeline::{Batch, Checkpoint, Context, Epoch, Origin, Settings, Source, SourceConfig};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::{Mutex, OwnedMutexGuard, mpsc};

/// How much is asked of the system at once: a pipe holds no more.
const READ_BYTES: usize = 64 << 10;

/// Reads standard input to its end. It cannot be read again: what a failure loses is counted, and ends the
/// run. With `--once` too the end is the end of the input.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Stdin {}

/// Blocks of whole lines, or what went wrong; closed at the end of the input.
type Blocks = mpsc::Receiver<io::Result<Bytes>>;

/// One thread reads for the whole life of the process: it may wait in `read`, where nothing can wake it, and
/// must neither keep the process from ending nor take lines from whoever opens the source again. It keeps the
/// process' exit waiting for nothing, since nobody joins it.
static BLOCKS: OnceLock<Arc<Mutex<Blocks>>> = OnceLock::new();

struct Lines {
    blocks: OwnedMutexGuard<Blocks>,
    origin: Origin,
    epoch: Epoch,
    offset: u64,
}

#[async_trait]
impl SourceConfig for Stdin {
    fn describe(&self) -> String {
        "standard input".to_owned()
    }

    async fn open(&self, from: Checkpoint, context: Context) -> Result<Box<dyn Source>> {
        let max_bytes = context.settings.max_batch_bytes;
        let blocks = BLOCKS.get_or_init(|| Arc::new(Mutex::new(start(io::stdin(), max_bytes))));
        let Ok(blocks) = blocks.clone().try_lock_owned() else {
            bail!("standard input is being read already: only one pipeline of a process can have it");
        };
        Ok(Box::new(Lines::new(blocks, &from, &context.settings)))
    }
}

impl Lines {
    fn new(blocks: OwnedMutexGuard<Blocks>, from: &Checkpoint, settings: &Settings) -> Self {
        let origin = Origin::new(&settings.host, "stdin");
        let position = from.position(&origin).map(|position| (position.epoch, position.offset));
        let (epoch, offset) = position.unwrap_or_else(|| (Epoch::random(), 0));
        Self { blocks, origin, epoch, offset }
    }
}

#[async_trait]
impl Source for Lines {
    async fn read(&mut self) -> Result<Option<Batch>> {
        let Some(block) = self.blocks.recv().await else { return Ok(None) };
        let bytes = block.context("cannot read standard input")?;
        let start = self.offset;
        self.offset += bytes.len() as u64;
        Ok(Some(Batch::data(self.origin.clone(), self.epoch, start, bytes)))
    }

    fn can_go_back(&self) -> bool {
        false
    }
}

/// Starts the thread. One block waits besides the one that is being read: the pipe is the buffer.
fn start(input: impl Read + Send + 'static, max_bytes: usize) -> Blocks {
    let (sender, receiver) = mpsc::channel(1);
    let of_thread = sender.clone();
    let reader = move || {
        // A closed channel means that nobody will ever ask again.
        let send = |block| of_thread.blocking_send(block).is_ok();
        if let Err(error) = cut_blocks(input, max_bytes.max(1), &mut |block| send(Ok(block))) {
            send(Err(error));
        }
    };
    if let Err(error) = thread::Builder::new().name("stdin".to_owned()).spawn(reader) {
        // The channel is new and has room for one.
        if sender.try_send(Err(error)).is_err() {
            tracing::error!("cannot start to read standard input");
        }
    }
    receiver
}

/// Reads to the end of `input` and gives blocks that end with a line, as long as `give` takes them. Only the
/// last block, and a block of a line longer than `max_bytes`, end elsewhere.
fn cut_blocks(mut input: impl Read, max_bytes: usize, give: &mut dyn FnMut(Bytes) -> bool) -> io::Result<()> {
    let mut buffer = BytesMut::new();
    loop {
        let filled = buffer.len();
        let room = READ_BYTES.min(max_bytes - filled);
        buffer.resize(filled + room, 0);
        let count = match input.read(&mut buffer[filled..]) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                buffer.truncate(filled);
                continue;
            }
            Err(error) => {
                buffer.truncate(filled);
                // What came before the error was read.
                if !buffer.is_empty() {
                    give(buffer.freeze());
                }
                return Err(error);
            }
        };
        buffer.truncate(filled + count);
        let taken = match memchr::memrchr(b'\n', &buffer[filled..]) {
            _ if count == 0 => buffer.len(),
            Some(newline) => filled + newline + 1,
            None if buffer.len() == max_bytes => max_bytes,
            None => 0,
        };
        if taken > 0 && !give(buffer.split_to(taken).freeze()) {
            return Ok(());
        }
        if count == 0 {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives its pieces one by one, as a pipe does.
    struct Pieces(Vec<&'static [u8]>);

    impl Read for Pieces {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let Some(first) = self.0.first_mut() else { return Ok(0) };
            let count = first.len().min(buffer.len());
            buffer[..count].copy_from_slice(&first[..count]);
            *first = &first[count..];
            if first.is_empty() {
                self.0.remove(0);
            }
            Ok(count)
        }
    }

    fn blocks(pieces: &[&'static [u8]], max_bytes: usize) -> Vec<Vec<u8>> {
        let mut blocks = Vec::new();
        let mut give = |block: Bytes| {
            blocks.push(block.to_vec());
            true
        };
        cut_blocks(Pieces(pieces.to_vec()), max_bytes, &mut give).unwrap();
        blocks
    }

    #[test]
    fn gives_what_is_there_up_to_the_last_line_end() {
        assert_eq!(
            blocks(&[b"one\ntwo\nth", b"ree\n", b"four"], 100),
            [&b"one\ntwo\n"[..], b"three\n", b"four"]
        );
        assert_eq!(blocks(&[b"\0\xff\r\n"], 100), [b"\0\xff\r\n"]);
        assert!(blocks(&[], 100).is_empty());
    }

    #[test]
    fn a_line_longer_than_a_batch_comes_in_parts() {
        assert_eq!(blocks(&[b"123456789\nab\n"], 4), [&b"1234"[..], b"5678", b"9\n", b"ab\n"]);
    }

    #[tokio::test]
    async fn continues_at_the_restored_end() {
        let folder = tempfile::tempdir().unwrap();
        let settings = fshipper_pipeline::testing::context(folder.path()).settings;
        let lines = |pieces: &[&'static [u8]], from: &Checkpoint| {
            let blocks = Arc::new(Mutex::new(start(Pieces(pieces.to_vec()), 100)));
            Lines::new(blocks.try_lock_owned().unwrap(), from, &settings)
        };
        let mut first = lines(&[b"one\n"], &Checkpoint::default());
        let batch = first.read().await.unwrap().unwrap();
        assert_eq!((batch.start, batch.bytes()), (0, &b"one\n"[..]));
        assert!(first.read().await.unwrap().is_none());
        assert!(!first.can_go_back());

        let mut checkpoint = Checkpoint::default();
        checkpoint.advance(&batch);
        let next = lines(&[b"two\n"], &checkpoint).read().await.unwrap().unwrap();
        assert_eq!((next.epoch, next.start), (batch.epoch, 4));
    }
}
