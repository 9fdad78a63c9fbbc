//! The source `stdin`: what is piped into the process, as the log `stdin` of its host.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;

use anyhow::{Context as _, Result, bail};
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use fshipper_pipeline::{
    Batch, Checkpoint, Context, Epoch, Fatal, History, Origin, Progress, Settings, Source, SourceConfig,
};
use rustix::event::{PollFd, PollFlags, poll};
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

/// What one thread reads for the whole life of the process: it may wait for the input, where nothing can wake it,
/// and must neither keep the process from ending nor take lines from whoever opens the source again. It keeps the
/// process' exit waiting for nothing, since nobody joins it.
static INPUT: OnceLock<Arc<Mutex<Input>>> = OnceLock::new();

/// The reading side of what the thread takes from the input.
struct Input {
    /// Blocks of whole lines, or what went wrong; closed at the end of the input.
    blocks: mpsc::Receiver<io::Result<Bytes>>,
    hand: Arc<Hand>,
    /// Where the last block ended that was given.
    given: Option<(Epoch, u64)>,
}

/// What the thread has taken from the input.
struct Hand {
    /// What is no whole line yet. The thread holds it while it takes something, until that is here or a block.
    rest: Mutex<BytesMut>,
    /// Nothing more is to be taken.
    is_closed: AtomicBool,
    /// Counts all of it.
    progress: Progress,
}

struct Lines {
    input: OwnedMutexGuard<Input>,
    origin: Origin,
    epoch: Epoch,
    offset: u64,
    /// Up to where somebody misses bytes that were given once.
    lost_to: Option<u64>,
    is_draining: bool,
}

#[async_trait]
impl SourceConfig for Stdin {
    fn describe(&self) -> String {
        "standard input".to_owned()
    }

    async fn open(&self, from: Checkpoint, context: Context) -> Result<Box<dyn Source>> {
        let input = match INPUT.get() {
            Some(input) => input,
            None => {
                let input = io::stdin().as_fd().try_clone_to_owned().context("cannot open standard input")?;
                let (max_bytes, progress) = (context.settings.max_batch_bytes, context.progress.clone());
                INPUT.get_or_init(|| start(File::from(input), wait, max_bytes, progress))
            }
        };
        let Ok(input) = input.clone().try_lock_owned() else {
            bail!("standard input is being read already: only one pipeline of a process can have it");
        };
        Ok(Box::new(Lines::new(input, &from, &context.settings)))
    }
}

impl Lines {
    fn new(input: OwnedMutexGuard<Input>, from: &Checkpoint, settings: &Settings) -> Self {
        let origin = Origin::new(&settings.host, "stdin");
        let history = from.history(&origin);
        let position = history.map(|history| (history.current.epoch, history.current.offset));
        let (epoch, offset) = position.unwrap_or_else(|| (Epoch::random(), 0));
        let given = input.given.filter(|(given, _)| *given == epoch).map(|(_, end)| end);
        let reached = history.and_then(History::reached).max(given);
        let lost_to = reached.filter(|&reached| reached > offset);
        Self { input, origin, epoch, offset, lost_to, is_draining: false }
    }

    /// The next block, or at the end of all that was taken `None`.
    async fn next_block(&mut self) -> Option<io::Result<Bytes>> {
        let Input { blocks, hand, .. } = &mut *self.input;
        if !self.is_draining {
            return blocks.recv().await;
        }
        tokio::select! {
            biased;
            block = blocks.recv() => block,
            // From now on the thread takes nothing. It may have made a block before.
            mut rest = hand.rest.lock() => match blocks.try_recv() {
                Ok(block) => Some(block),
                Err(_) => (!rest.is_empty()).then(|| Ok(rest.split().freeze())),
            },
        }
    }
}

#[async_trait]
impl Source for Lines {
    /// Loses nothing when it is given up.
    async fn read(&mut self) -> Result<Option<Batch>> {
        let start = self.offset;
        if let Some(end) = self.lost_to.take() {
            self.offset = end;
            let reason = "standard input cannot be read again";
            return Ok(Some(Batch::loss(self.origin.clone(), self.epoch, start, end - start, reason)));
        }
        let Some(block) = self.next_block().await else { return Ok(None) };
        // Another session would take the end of the blocks for that of the input.
        let bytes = block.map_err(|error| Fatal::new(format!("cannot read standard input: {error}")))?;
        self.offset += bytes.len() as u64;
        self.input.given = Some((self.epoch, self.offset));
        self.input.hand.progress.in_hand().fetch_sub(bytes.len() as u64, Ordering::Relaxed);
        Ok(Some(Batch::data(self.origin.clone(), self.epoch, start, bytes)))
    }

    fn can_go_back(&self) -> bool {
        false
    }

    fn drain(&mut self) -> bool {
        self.input.hand.is_closed.store(true, Ordering::Relaxed);
        self.is_draining = true;
        true
    }
}

/// Starts the thread. One block waits besides the one that is being read: the pipe is the buffer.
fn start<I: Read + Send + 'static>(
    input: I,
    wait: impl Fn(&I) + Send + 'static,
    max_bytes: usize,
    progress: Progress,
) -> Arc<Mutex<Input>> {
    let (sender, blocks) = mpsc::channel(1);
    let (rest, is_closed) = (Mutex::default(), AtomicBool::new(false));
    let hand = Arc::new(Hand { rest, is_closed, progress });
    let (of_thread, hand_of_thread) = (sender.clone(), hand.clone());
    let reader = move || {
        // A closed channel means that nobody will ever ask again.
        let send = |block| of_thread.blocking_send(block).is_ok();
        if let Err(error) =
            hand_of_thread.take_blocks(input, wait, max_bytes.max(1), &mut |block| send(Ok(block)))
        {
            send(Err(error));
        }
    };
    if let Err(error) = thread::Builder::new().name("stdin".to_owned()).spawn(reader) {
        // The channel is new and has room for one.
        if sender.try_send(Err(error)).is_err() {
            tracing::error!("cannot start to read standard input");
        }
    }
    Arc::new(Mutex::new(Input { blocks, hand, given: None }))
}

/// Waits until there is something to read, or the end.
fn wait(input: &File) {
    // Whatever is wrong with the input, reading says so.
    while poll(&mut [PollFd::new(input, PollFlags::IN)], None) == Err(rustix::io::Errno::INTR) {}
}

impl Hand {
    /// Reads to the end of `input` and gives blocks that end with a line, as long as `give` takes them. Only the
    /// last block, and a block of a line longer than `max_bytes`, end elsewhere.
    fn take_blocks<I: Read>(
        &self,
        mut input: I,
        wait: impl Fn(&I),
        max_bytes: usize,
        give: &mut dyn FnMut(Bytes) -> bool,
    ) -> io::Result<()> {
        loop {
            wait(&input);
            let mut buffer = self.rest.blocking_lock();
            if self.is_closed.load(Ordering::Relaxed) {
                return Ok(());
            }
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
                        give(buffer.split().freeze());
                    }
                    return Err(error);
                }
            };
            buffer.truncate(filled + count);
            self.progress.in_hand().fetch_add(count as u64, Ordering::Relaxed);
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
}

#[cfg(test)]
mod tests;
