//! The source `stdin`: what is piped into the process, as a log of its host.
//!
//! Each process begins an epoch of its own at offset 0, and its sessions go on in it: what a process reads continues
//! nothing that another one read, whatever the receiving side has of that. So two of one name never take each other's
//! bytes for their own; the one that is overtaken hears of it and ends. What an earlier process gave and somebody
//! misses is gone, and its loss is recorded in the epoch it belongs to.

use std::collections::VecDeque;
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
    Batch, Checkpoint, Context, Epoch, Fatal, Invalid, Origin, Progress, Settings, Source, SourceConfig,
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
pub struct Stdin {
    /// The log's name, where its path would stand. Pipelines that run on one host at the same time and send to one
    /// place need a name each. Default: `stdin`.
    #[serde(default)]
    name: Option<String>,
}

const DEFAULT_NAME: &str = "stdin";

/// Longer than any name that a person gives; it travels with every message.
const MAX_NAME_BYTES: usize = 255;

/// What one thread reads for the whole life of the process: it may wait for the input, where nothing can wake it,
/// and must neither keep the process from ending nor take lines from whoever opens the source again. It keeps the
/// process' exit waiting for nothing, since nobody joins it.
static INPUT: OnceLock<Arc<Mutex<Input>>> = OnceLock::new();

/// The reading side of what the thread takes from the input.
struct Input {
    /// Blocks of whole lines, or what went wrong; closed at the end of the input.
    blocks: mpsc::Receiver<io::Result<Bytes>>,
    hand: Arc<Hand>,
    /// That of this process: nobody else's bytes belong to it.
    epoch: Epoch,
    /// Where the last block ended that was given.
    given: u64,
    /// What the log was in before anything was given.
    before: Option<Epoch>,
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
    offset: u64,
    /// What somebody misses and was given once: epoch, start and end.
    lost: VecDeque<(Epoch, u64, u64)>,
    is_draining: bool,
}

#[async_trait]
impl SourceConfig for Stdin {
    fn validate(&self, _: &Settings) -> Result<(), Invalid> {
        let name = self.name();
        let problem = match name {
            "" => "it is empty".to_owned(),
            "." | ".." => format!("`{name}` cannot name a log"),
            _ if name.contains('/') => format!("`{name}` contains a slash"),
            _ if name.contains(char::is_control) => "it contains a control character".to_owned(),
            _ if name.len() > MAX_NAME_BYTES => format!("it is longer than {MAX_NAME_BYTES} bytes"),
            _ => return Ok(()),
        };
        Err(Invalid::new("name", problem).help("the log is called so, as a file is, such as `cron`"))
    }

    fn describe(&self) -> String {
        match &self.name {
            Some(name) => format!("standard input, as `{name}`"),
            None => "standard input".to_owned(),
        }
    }

    fn claims(&self) -> Option<&'static str> {
        Some("standard input")
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
        let origin = Origin::new(&context.settings.host, self.name());
        Ok(Box::new(Lines::new(input, origin, &from)?))
    }
}

impl Stdin {
    fn name(&self) -> &str {
        self.name.as_deref().unwrap_or(DEFAULT_NAME)
    }
}

impl Lines {
    /// # Errors
    ///
    /// Another process has begun the log anew since this one gave something.
    fn new(mut input: OwnedMutexGuard<Input>, origin: Origin, from: &Checkpoint) -> Result<Self> {
        let history = from.history(&origin);
        let current = history.map(|history| history.current.epoch);
        if input.given == 0 {
            input.before = current;
        }
        let (epoch, given) = (input.epoch, input.given);
        if current.is_some_and(|current| current != epoch && input.before != Some(current)) {
            let in_hand = input.hand.progress.in_hand().load(Ordering::Relaxed);
            return Err(Fatal::new(format!(
                "another process sends its standard input as `{origin}` too, and has begun it anew after this one: stop one of them, or give each a `name` of its own in `[source]`; {in_hand} bytes that were read are not delivered"
            )));
        }
        let mut lost = VecDeque::new();
        let mut miss = |epoch, start, end| {
            if start < end {
                lost.push_back((epoch, start, end));
            }
        };
        let mut offset = 0;
        if let Some(history) = history {
            let (position, reached) = (&history.current, history.reached().unwrap_or_default());
            match position.epoch == epoch {
                true => {
                    offset = position.offset;
                    miss(epoch, offset, reached.max(given));
                }
                false => {
                    miss(position.epoch, position.offset, reached);
                    miss(epoch, 0, given);
                }
            }
        } else {
            miss(epoch, 0, given);
        }
        Ok(Self { input, origin, offset, lost, is_draining: false })
    }

    /// The next block, or at the end of all that was taken `None`.
    async fn next_block(&mut self) -> Option<io::Result<Bytes>> {
        let Input { blocks, hand, .. } = &mut *self.input;
        if !self.is_draining {
            return blocks.recv().await;
        }
        // Whoever holds the rest has seen the end of the taking, and so has the thread when it takes the rest the next
        // time. It may have ended already, and left a rest behind.
        let mut rest = tokio::select! {
            biased;
            block = blocks.recv() => match block {
                Some(block) => return Some(block),
                None => hand.rest.lock().await,
            },
            rest = hand.rest.lock() => rest,
        };
        match blocks.try_recv() {
            Ok(block) => Some(block),
            Err(_) => (!rest.is_empty()).then(|| Ok(rest.split().freeze())),
        }
    }
}

#[async_trait]
impl Source for Lines {
    /// Loses nothing when it is given up.
    async fn read(&mut self) -> Result<Option<Batch>> {
        if let Some((epoch, start, end)) = self.lost.pop_front() {
            if epoch == self.input.epoch {
                self.offset = end;
            }
            let reason = "standard input cannot be read again";
            return Ok(Some(Batch::loss(self.origin.clone(), epoch, start, end - start, reason)));
        }
        let Some(block) = self.next_block().await else { return Ok(None) };
        // Another session would take the end of the blocks for that of the input.
        let bytes = block.map_err(|error| Fatal::new(format!("cannot read standard input: {error}")))?;
        let start = self.offset;
        self.offset += bytes.len() as u64;
        self.input.given = self.input.given.max(self.offset);
        self.input.hand.progress.in_hand().fetch_sub(bytes.len() as u64, Ordering::Relaxed);
        Ok(Some(Batch::data(self.origin.clone(), self.input.epoch, start, bytes)))
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
    Arc::new(Mutex::new(Input { blocks, hand, epoch: Epoch::random(), given: 0, before: None }))
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
