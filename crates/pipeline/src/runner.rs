//! Pipelines, run until they are stopped: [`run`].
//!
//! A pipeline is one hop or two. A hop runs in sessions: open the sink, ask it where it ends, open the source
//! there, pump. Whatever fails, the next session starts the same way; there is no other recovery.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use futures::future::{join_all, try_join};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::complaint::Complaint;
use crate::config::Pipeline;
use crate::keeper::keep;
use crate::metrics::{Counts, Metrics};
use crate::plugin::{OpenSink, OpenSource, Parts};
use crate::pump::{Ended, Memory, Pump, Trouble, pump};
use crate::state_dir::StateDir;
use crate::{Backoff, Checkpoint, Context, Fatal, Monitor, Settings, Sink, Source, Transport};

/// The pauses between the sessions of a hop that fails.
const REOPEN_FIRST: Duration = Duration::from_millis(100);
const REOPEN_MOST: Duration = Duration::from_secs(30);

/// What the hops are called: by what becomes of what they read.
const SENT: &str = "sent";
const WRITTEN: &str = "written";

/// Why the run did not end well.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Nothing was started, for a reason that the configuration or the local files show: exit code 2.
    #[error("pipeline `{pipeline}`: {error:#}")]
    Start {
        /// The pipeline's name.
        pipeline: String,
        /// The reason.
        error: anyhow::Error,
    },
    /// A pipeline failed while it ran, in a way that opening again cannot mend: exit code 1.
    #[error("pipeline `{pipeline}`: {error:#}")]
    Failed {
        /// The pipeline's name.
        pipeline: String,
        /// The reason.
        error: anyhow::Error,
    },
}

/// What the caller decides while pipelines run.
#[derive(Clone, Debug)]
pub struct Control {
    /// Stop reading, ship and commit what was read, return.
    pub stop: CancellationToken,
    /// Reopen output files: send a new number.
    pub hangups: watch::Receiver<u64>,
}

/// Runs pipelines side by side until all of them ended or were stopped. One that fails for good does not
/// stop the others, unless it fails at its very start: then nothing runs.
///
/// # Errors
///
/// The first failure that opening again could not mend, one for each pipeline that had one.
pub async fn run(pipelines: Vec<Pipeline>, control: Control) -> Result<(), Vec<RunError>> {
    run_monitored(pipelines, control, &Monitor::default()).await
}

/// The same as [`run`], and `monitor` shows how they are.
///
/// # Errors
///
/// Those of [`run`].
pub async fn run_monitored(
    pipelines: Vec<Pipeline>,
    control: Control,
    monitor: &Monitor,
) -> Result<(), Vec<RunError>> {
    let mut locked = Vec::with_capacity(pipelines.len());
    for pipeline in pipelines {
        let settings = &pipeline.settings;
        match StateDir::lock(&settings.state_dir, &settings.name) {
            Ok(state_dir) => {
                tracing::info!(pipeline = settings.name, "started: {}", pipeline.flow());
                locked.push((pipeline, state_dir));
            }
            Err(error) => return Err(vec![RunError::Start { pipeline: settings.name.clone(), error }]),
        }
    }
    let runs = locked.into_iter().map(|(pipeline, state_dir)| {
        let control = control.clone();
        async move {
            let name = pipeline.settings.name.clone();
            let run = Run::new(pipeline.settings, pipeline.parts, state_dir, control.clone());
            run.show(monitor);
            let result =
                run.until_stopped().await.map_err(|error| match run.started.load(Ordering::Relaxed) {
                    true => RunError::Failed { pipeline: name, error },
                    false => RunError::Start { pipeline: name, error },
                });
            if matches!(result, Err(RunError::Start { .. })) {
                control.stop.cancel();
            }
            result
        }
    });
    let errors: Vec<RunError> = join_all(runs).await.into_iter().filter_map(Result::err).collect();
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// One pipeline while it runs.
struct Run {
    parts: Parts,
    context: Context,
    control: Control,
    /// Fires when the producing side of a pipeline with both ends has finished.
    sent: CancellationToken,
    /// Whether everything was opened once: from then on an error is no longer one of configuration.
    started: AtomicBool,
    /// Whether the first source could read again what it gave.
    can_go_back: AtomicBool,
    produced: Arc<Metrics>,
    consumed: Arc<Metrics>,
    _state_dir: StateDir,
}

impl Run {
    fn new(settings: Arc<Settings>, parts: Parts, state_dir: StateDir, control: Control) -> Self {
        let once = settings.once.then(|| {
            let nothing_more_comes = CancellationToken::new();
            nothing_more_comes.cancel();
            nothing_more_comes
        });
        let (produced, consumed) = (Arc::<Metrics>::default(), Arc::<Metrics>::default());
        let context = Context {
            settings,
            state_dir: state_dir.path().to_owned(),
            once,
            hangups: control.hangups.clone(),
            progress: produced.progress.clone(),
        };
        Self {
            parts,
            context,
            control,
            sent: CancellationToken::new(),
            started: AtomicBool::new(false),
            can_go_back: AtomicBool::new(true),
            produced,
            consumed,
            _state_dir: state_dir,
        }
    }

    /// Shows the hops that there are.
    fn show(&self, monitor: &Monitor) {
        let settings = &self.context.settings;
        if self.parts.transport.is_some() && !self.parts.sources.is_empty() {
            monitor.watch(settings, SENT, &self.produced);
        }
        if self.parts.sink.is_some() {
            monitor.watch(settings, WRITTEN, &self.consumed);
        }
    }

    async fn until_stopped(&self) -> Result<()> {
        let stop = &self.control.stop;
        let mut hops = std::pin::pin!(self.hops());
        let drained = tokio::select! {
            result = &mut hops => Some(result),
            () = stop.cancelled() => None,
        };
        let settings = &self.context.settings;
        let result = match drained {
            Some(result) => result,
            None => match tokio::time::timeout(settings.drain_timeout, hops).await {
                Ok(result) => result,
                Err(_) => self.give_up_draining(settings),
            },
        };
        for (hop, counts) in [(SENT, self.produced.counts()), (WRITTEN, self.consumed.counts())] {
            report(settings, hop, &counts);
        }
        result
    }

    fn give_up_draining(&self, settings: &Settings) -> Result<()> {
        let left = [&self.produced, &self.consumed].map(|metrics| {
            let counts = metrics.counts();
            counts.bytes_read.saturating_sub(counts.bytes_committed + counts.bytes_duplicate)
        });
        let left: u64 = left.iter().sum();
        if !self.can_go_back.load(Ordering::Relaxed) && left > 0 {
            return Err(anyhow!(
                "{left} bytes that cannot be read again were not delivered within `drain_timeout`, {:?}",
                settings.drain_timeout
            ));
        }
        tracing::warn!(
            pipeline = settings.name,
            "not all that was read could be delivered within `drain_timeout`, {:?}: {left} bytes stay in the source and are shipped at the next start",
            settings.drain_timeout
        );
        Ok(())
    }

    async fn hops(&self) -> Result<()> {
        let Parts { sources, transport, sink } = &self.parts;
        match (transport, sink) {
            (Some((transport, _)), Some(sink)) if !sources.is_empty() => {
                if transport.linked() {
                    return self.linked_hops(transport.as_ref(), sink.as_ref()).await;
                }
                let produce = async {
                    self.producer(transport.as_ref()).await?;
                    self.sent.cancel();
                    Ok(())
                };
                let context = self.receiving_context();
                try_join(produce, self.consumer(transport.as_ref(), sink.as_ref(), context)).await.map(drop)
            }
            (Some((transport, _)), None) => self.producer(transport.as_ref()).await,
            (Some((transport, _)), Some(sink)) => {
                self.consumer(transport.as_ref(), sink.as_ref(), self.writing_context()).await
            }
            (None, Some(sink)) => {
                let mut hop = Hop::new(self, WRITTEN, &self.consumed);
                hop.sessions(async |memory: &mut Memory| {
                    let (sink, from) = self.open_sink(sink.as_ref()).await?;
                    let source = self.open_sources(from.clone(), &self.writing_context()).await?;
                    self.pump(source, sink, from, &self.consumed, memory).await
                })
                .await
            }
            (None, None) => Err(Fatal::new("a pipeline needs a `[sink]` or a `[transport]`")),
        }
    }

    async fn producer(&self, transport: &dyn Transport) -> Result<()> {
        let mut hop = Hop::new(self, SENT, &self.produced);
        hop.sessions(async |memory: &mut Memory| {
            let (sender, from) = self.open_sender(transport).await?;
            let source = self.open_sources(from.clone(), &self.context).await?;
            self.pump(source, sender, from, &self.produced, memory).await
        })
        .await
    }

    async fn consumer(&self, transport: &dyn Transport, sink: &dyn OpenSink, context: Context) -> Result<()> {
        let mut hop = Hop::new(self, WRITTEN, &self.consumed);
        let context = &context;
        hop.sessions(async |memory: &mut Memory| {
            let (sink, from) = self.open_sink(sink).await?;
            let receiver = transport.open_receiver(from.clone(), context.clone()).await?;
            self.pump(receiver, sink, from, &self.consumed, memory).await
        })
        .await
    }

    /// Two hops whose transport exists in this process alone: they open, fail and end together.
    async fn linked_hops(&self, transport: &dyn Transport, sink: &dyn OpenSink) -> Result<()> {
        let mut hop = Hop::new(self, WRITTEN, &self.consumed);
        let context = &self.receiving_context();
        hop.sessions(async |memory: &mut Memory| {
            let (sink, from) = self.open_sink(sink).await?;
            let receiver = transport.open_receiver(from.clone(), context.clone()).await?;
            let (sender, sent) = self.open_sender(transport).await?;
            let source = self.open_sources(sent.clone(), &self.context).await?;
            let mut producer_memory = Memory::default();
            let produce = self.pump(source, sender, sent, &self.produced, &mut producer_memory);
            let consume =
                pump(receiver, sink, from, self.pump_parts(CancellationToken::new(), &self.consumed, memory));
            tokio::pin!(produce, consume);
            tokio::select! {
                // The channel closes when the producing side ends, however it ends: ask it.
                ended = &mut consume => match ended? {
                    Ended::Finished => produce.await,
                    again => Ok(again),
                },
                ended = &mut produce => {
                    ended?;
                    consume.await
                }
            }
        })
        .await
    }

    /// For the hop that ends in the sink; the context itself is that of the hop that ends in the transport.
    fn writing_context(&self) -> Context {
        Context { progress: self.consumed.progress.clone(), ..self.context.clone() }
    }

    /// The same where the other hop is in this process too.
    fn receiving_context(&self) -> Context {
        let once = self.context.settings.once.then(|| self.sent.clone());
        Context { once, ..self.writing_context() }
    }

    async fn open_sink(&self, sink: &dyn OpenSink) -> Result<(Box<dyn Sink>, Checkpoint)> {
        let sink = sink.open(self.writing_context()).await.context("cannot open the sink")?;
        self.restore(sink, "sink").await
    }

    async fn open_sender(&self, transport: &dyn Transport) -> Result<(Box<dyn Sink>, Checkpoint)> {
        let sender =
            transport.open_sender(self.context.clone()).await.context("cannot open the transport")?;
        self.restore(sender, "sender").await
    }

    async fn restore(&self, mut sink: Box<dyn Sink>, name: &str) -> Result<(Box<dyn Sink>, Checkpoint)> {
        match sink.restore().await.context("cannot restore the positions")? {
            Some(mut checkpoint) => {
                checkpoint.clear_changes();
                Ok((sink, checkpoint))
            }
            None => keep(sink, &self.context, name).await,
        }
    }

    async fn open_sources(&self, from: Checkpoint, context: &Context) -> Result<Box<dyn Source>> {
        let mut sources = Vec::with_capacity(self.parts.sources.len());
        for source in &self.parts.sources {
            let source: &dyn OpenSource = source.as_ref();
            sources.push(source.open(from.clone(), context.clone()).await.context("cannot open the source")?);
        }
        Ok(crate::merge::merge(sources))
    }

    async fn pump(
        &self,
        source: Box<dyn Source>,
        sink: Box<dyn Sink>,
        from: Checkpoint,
        metrics: &Arc<Metrics>,
        memory: &mut Memory,
    ) -> Result<Ended> {
        let can_go_back = source.can_go_back();
        self.can_go_back.fetch_and(can_go_back, Ordering::Relaxed);
        let stop = self.control.stop.clone();
        let ended = pump(source, sink, from, self.pump_parts(stop, metrics, memory)).await;
        if can_go_back {
            return ended;
        }
        ended.map_err(|error| {
            let counts = metrics.counts();
            let lost = counts.bytes_read.saturating_sub(counts.bytes_committed + counts.bytes_duplicate);
            Fatal::new(format!("{error:#}; {lost} bytes that cannot be read again were not delivered"))
        })
    }

    fn pump_parts<'a>(
        &'a self,
        stop: CancellationToken,
        metrics: &Arc<Metrics>,
        memory: &'a mut Memory,
    ) -> Pump<'a> {
        self.started.store(true, Ordering::Relaxed);
        let (settings, hangups) = (&*self.context.settings, self.control.hangups.clone());
        Pump { settings, stop, hangups, metrics: metrics.clone(), memory }
    }
}

/// The sessions of one hop.
struct Hop<'a> {
    run: &'a Run,
    name: &'static str,
    metrics: &'a Metrics,
    memory: Memory,
}

impl<'a> Hop<'a> {
    fn new(run: &'a Run, name: &'static str, metrics: &'a Metrics) -> Self {
        Self { run, name, metrics, memory: Memory::default() }
    }

    /// Runs sessions until one finishes, reading is stopped, or one fails for good.
    async fn sessions<F>(&mut self, session: F) -> Result<()>
    where
        F: AsyncFn(&mut Memory) -> Result<Ended>,
    {
        let stop = &self.run.control.stop;
        let mut backoff = Backoff::new(REOPEN_FIRST, REOPEN_MOST);
        let mut complaint = Complaint::default();
        loop {
            let commits = self.metrics.counts().commits;
            let opened = self.metrics.counts().sessions;
            let result = {
                let mut attempt = std::pin::pin!(session(&mut self.memory));
                tokio::select! {
                    result = &mut attempt => result,
                    // What is still opening has read nothing; what runs drains by itself.
                    () = stop.cancelled() => match self.metrics.counts().sessions == opened {
                        true => return Ok(()),
                        false => attempt.await,
                    },
                }
            };
            self.metrics.end_session();
            let worked = self.metrics.counts().commits > commits;
            if worked {
                backoff.reset();
                complaint.settle();
            }
            let wait_until = match result {
                Ok(Ended::Finished) => return Ok(()),
                Ok(Ended::Again(at)) => at,
                Err(error) if error.chain().any(|cause| cause.is::<Fatal>()) => return Err(error),
                Err(error) => {
                    let pause = backoff.pause();
                    let (pipeline, hop) = (&self.run.context.settings.name, self.name);
                    complaint.report(&format!("{error:#}"), |text| {
                        // What worked until now most likely works again; what did not may need an operator.
                        match worked {
                            true => tracing::warn!(pipeline, hop, "{text}; opening again"),
                            false => tracing::error!(pipeline, hop, "{text}; trying again"),
                        }
                        let works_once_open = worked || self.metrics.counts().sessions == opened;
                        self.memory.trouble = Some(Trouble { hop, works_once_open });
                    });
                    Instant::now() + pause
                }
            };
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep_until(wait_until) => {}
            }
        }
    }
}

fn report(settings: &Settings, hop: &str, counts: &Counts) {
    if counts.sessions == 0 {
        return;
    }
    tracing::info!(
        pipeline = settings.name,
        bytes = counts.bytes_written,
        lines = counts.lines_written,
        batches = counts.batches_written,
        commits = counts.commits,
        duplicate_bytes = counts.bytes_duplicate,
        lost_bytes = counts.bytes_lost,
        sessions = counts.sessions,
        behind_bytes = counts.bytes_behind,
        "{hop}"
    );
}

#[cfg(test)]
mod tests;
