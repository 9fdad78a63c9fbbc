//! The async face of the sink: [`RunningFiles`], and the thread behind it.
//!
//! The thread owns the [`Writer`], and goes on writing while a commit is on its way to the disk. Batches go to it through a bounded queue, so that the pump does not wait
//! for the disk; what waits there keeps its share of the hop's byte budget. The thread takes what there is
//! and writes it out as soon as nothing more waits: small batches become large writes under load, and are in
//! their file within a fraction of a millisecond otherwise.

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use fshipper_pipeline::{Batch, Checkpoint, Committing, Context, Origin, Sink, Written, async_trait};
use futures::future::{FutureExt as _, Shared};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio::task::spawn_blocking;

use super::commit::Claims;
use super::config::Plan;
use super::lock::Owner;
use super::stop::Stop;
use super::writer::Writer;

/// The running sink.
struct RunningFiles {
    jobs: SyncSender<Job>,
    /// One permit for each place in the queue, so that sending never blocks.
    places: Arc<Semaphore>,
    /// What the ledger held when the sink was opened.
    restored: Option<Checkpoint>,
    /// The origins whose first batch of this session was taken. A first batch is answered: then most of what
    /// can be wrong with an origin's folder is known before anything of it is taken.
    seen: HashSet<Origin>,
    held: Vec<(Origin, String)>,
    hangups: watch::Receiver<u64>,
    stop: Arc<Stop>,
    failure: Failure,
    /// Closed when the thread has ended.
    ended: Receiver<Infallible>,
}

enum Job {
    Write {
        batch: Batch,
        answer: Option<oneshot::Sender<Written>>,
        place: OwnedSemaphorePermit,
    },
    Commit {
        claims: Claims,
        hangup: bool,
        bell: Bell,
        answer: CommitAnswer,
    },
    /// What was on its way to the disk is there, or never will be.
    Synced,
}

type CommitAnswer = oneshot::Sender<Vec<(Origin, String)>>;

/// Wakes the thread when it is dropped.
struct Bell(SyncSender<Job>);

impl Drop for Bell {
    fn drop(&mut self) {
        // There is a place for it; a thread that has ended needs no waking.
        let _ = self.0.try_send(Job::Synced);
    }
}

/// Why the thread ended, for whoever asks first.
type Failure = Shared<oneshot::Receiver<Arc<Mutex<Option<anyhow::Error>>>>>;

/// So many batches wait at most; the hop's budget bounds their bytes.
const QUEUE_LENGTH: usize = 256;

/// How often old files are looked for when nothing rotates.
const LOOK_FOR_OLD_FILES_EVERY: Duration = Duration::from_secs(3600);

/// How often to look whether a file is compressed.
const LOOK_FOR_COMPRESSED_EVERY: Duration = Duration::from_millis(100);

/// How long dropping the sink waits for the thread to finish what it is at: long enough for a compressed file to
/// take the place of the plain one, and no reason for a disk that hangs to keep the process.
const FAREWELL: Duration = Duration::from_secs(1);

/// Opens the sink.
pub(super) async fn open(plan: Plan, context: Context) -> Result<Box<dyn Sink>> {
    let settings = &context.settings;
    let (pipeline, host) = (settings.name.clone(), settings.host.clone());
    let owner = Owner { pipeline, host, lock: context.progress.memory() };
    let stop = Arc::new(Stop::default());
    let writer_stop = stop.clone();
    let writer = spawn_blocking(move || Writer::open(plan, owner, writer_stop)).await??;
    let restored = Some(writer.checkpoint());
    // Besides the batches, one commit can wait, and the end of one.
    let (jobs, queue) = sync_channel(QUEUE_LENGTH + 2);
    let (failed, failure) = oneshot::channel();
    let (alive, ended) = sync_channel(0);
    let thread_stop = stop.clone();
    thread::Builder::new()
        .name("rotating_file".to_owned())
        .spawn(move || {
            // Dropped last: whoever waits for the end may open the output at once.
            let _alive = alive;
            let mut writer = writer;
            if let Err(error) = run(&mut writer, &queue, &thread_stop) {
                // A deleted folder shows itself in whatever is done next to it: say what it means.
                let error = match writer.ledger.check_is_in_place() {
                    Ok(()) => error,
                    Err(gone) => error.context(gone),
                };
                // Whoever dropped the sink does not ask.
                let _ = failed.send(Arc::new(Mutex::new(Some(error))));
            }
        })
        .context("cannot start a thread")?;
    Ok(Box::new(RunningFiles {
        jobs,
        places: Arc::new(Semaphore::new(QUEUE_LENGTH)),
        restored,
        seen: HashSet::new(),
        held: Vec::new(),
        hangups: context.hangups,
        stop,
        failure: failure.shared(),
        ended,
    }))
}

#[async_trait]
impl Sink for RunningFiles {
    async fn restore(&mut self) -> Result<Option<Checkpoint>> {
        self.restored.take().map(Some).context("a sink is restored once")
    }

    async fn write(&mut self, batch: Batch) -> Result<Written> {
        let place = self.places.clone().acquire_owned().await?;
        if self.seen.contains(&batch.origin) {
            return match self.jobs.send(Job::Write { batch, answer: None, place }) {
                Ok(()) => Ok(Written::Accepted),
                Err(_) => Err(reason(self.failure.clone()).await),
            };
        }
        let (answer, written) = oneshot::channel();
        let origin = batch.origin.clone();
        // A thread that has ended drops the answer too.
        let _ = self.jobs.send(Job::Write { batch, answer: Some(answer), place });
        let Ok(written) = written.await else { return Err(reason(self.failure.clone()).await) };
        if written == Written::Accepted {
            self.seen.insert(origin);
        }
        Ok(written)
    }

    async fn commit(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        self.held = self.begin_commit(checkpoint).await?.await?;
        Ok(())
    }

    async fn begin_commit(&mut self, checkpoint: &Checkpoint) -> Result<Committing> {
        let hangup = self.hangups.has_changed().unwrap_or(false);
        if hangup {
            self.hangups.mark_unchanged();
        }
        let (answer, committed) = oneshot::channel();
        let bell = Bell(self.jobs.clone());
        // A thread that has ended drops the answer too.
        let _ = self.jobs.send(Job::Commit { claims: Claims::of(checkpoint), hangup, bell, answer });
        let failure = self.failure.clone();
        Ok(Box::pin(async move {
            match committed.await {
                Ok(held) => Ok(held),
                Err(_) => Err(reason(failure).await),
            }
        }))
    }

    fn held(&mut self) -> Vec<(Origin, String)> {
        let held = std::mem::take(&mut self.held);
        for (origin, _) in &held {
            self.seen.remove(origin);
        }
        held
    }
}

/// Why the thread ended. Called when it did, or is about to.
async fn reason(failure: Failure) -> anyhow::Error {
    let ended = || anyhow!("the thread of the sink has ended");
    let Ok(error) = failure.await else { return ended() };
    // Nothing that holds the lock can panic.
    error.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_else(ended)
}

impl Drop for RunningFiles {
    /// What waits does not count: everything that does is committed.
    fn drop(&mut self) {
        self.stop.set();
        // The thread ends when nobody can give it work any more.
        self.jobs = sync_channel(0).0;
        // Nothing is ever sent: this waits for the end, or long enough.
        let _ = self.ended.recv_timeout(FAREWELL);
    }
}

/// The thread.
fn run(writer: &mut Writer, queue: &Receiver<Job>, stop: &Stop) -> Result<()> {
    let mut look_at = Instant::now();
    // The shares of the byte budget of what the writer holds in memory.
    let mut leases = Vec::new();
    let mut committing = None;
    loop {
        let job = match queue.try_recv() {
            Ok(job) => Some(job),
            Err(TryRecvError::Disconnected) => return Ok(()),
            Err(TryRecvError::Empty) => {
                let idle = if writer.retention.has_more() && !writer.is_syncing() {
                    Duration::ZERO
                } else if writer.is_compressing() {
                    LOOK_FOR_COMPRESSED_EVERY
                } else {
                    look_at.saturating_duration_since(Instant::now())
                };
                match queue.recv_timeout(writer.write_out_in().unwrap_or(idle)) {
                    Ok(job) => Some(job),
                    Err(RecvTimeoutError::Timeout) => None,
                    Err(RecvTimeoutError::Disconnected) => return Ok(()),
                }
            }
        };
        if stop.is_set() {
            return Ok(());
        }
        let mut look_now = match job {
            Some(Job::Write { batch, answer, place }) => {
                drop(place);
                let written = writer.accept(&batch, answer.is_some())?;
                leases.extend(batch.lease);
                if let Some(answer) = answer {
                    // Whoever gave up draining does not ask.
                    let _ = answer.send(written);
                }
                false
            }
            Some(Job::Commit { claims, hangup, bell, answer }) => {
                committing = Some(answer);
                writer.begin_commit(claims, hangup, bell)?;
                false
            }
            Some(Job::Synced) => false,
            None if writer.write_out_in().is_some() => {
                writer.flush()?;
                false
            }
            None => true,
        };
        if writer.write_out_in().is_none() {
            leases.clear();
        }
        if let Some(held) = writer.take_committed()? {
            // Whoever gave up draining does not ask.
            let _ = committing.take().map(|answer: CommitAnswer| answer.send(held));
            look_now = true;
        }
        // What it would do has to wait for a record that is on its way.
        if look_now && !writer.is_syncing() {
            writer.maintain(&mut look_at)?;
        }
    }
}

impl Writer {
    /// Deletes and compresses old files, as far as it is time.
    fn maintain(&mut self, look_at: &mut Instant) -> Result<()> {
        let now = Instant::now();
        if now >= *look_at {
            *look_at = now + LOOK_FOR_OLD_FILES_EVERY;
            self.retention.look();
        }
        self.tidy()
    }
}
