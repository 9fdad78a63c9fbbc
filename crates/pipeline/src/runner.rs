//! Pipelines, run until they are stopped: [`run`].
//!
//! A pipeline is one hop or two. A hop runs in sessions: open the sink, ask it where it ends, open the source
//! there, pump. Whatever fails, the next session starts the same way; there is no other recovery.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, anyhow};
use async_trait::async_trait;
use futures::future::{join, join_all, try_join};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::Pipeline;
use crate::keeper::keep;
use crate::metrics::{Counts, Metrics};
use crate::plugin::{OpenSink, OpenSource, Parts};
use crate::pump::{Ended, Memory, Pump, pump};
use crate::{Batch, Checkpoint, Context, Fatal, Monitor, Progress, Settings, Sink, Source, Transport};

mod hop;
mod starting;
mod unrepeatable;

use hop::Hop;
use starting::Starting;
use unrepeatable::{Noted, UntilStopped, not_delivered};

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
        /// Whether the log has said so.
        is_logged: bool,
    },
    /// A pipeline failed while it ran, in a way that opening again cannot mend: exit code 1.
    #[error("pipeline `{pipeline}`: {error:#}")]
    Failed {
        /// The pipeline's name.
        pipeline: String,
        /// The reason.
        error: anyhow::Error,
        /// Whether the log has said so.
        is_logged: bool,
    },
}

impl RunError {
    /// Whether the log has said so, when it happened: where several pipelines run, the others go on for long.
    pub fn is_logged(&self) -> bool {
        let (Self::Start { is_logged, .. } | Self::Failed { is_logged, .. }) = self;
        *is_logged
    }
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
    let is_logged = pipelines.len() > 1;
    let mut starting = Vec::with_capacity(pipelines.len());
    for pipeline in pipelines {
        let name = pipeline.settings.name.clone();
        match Starting::new(&pipeline.settings) {
            Ok(state) => {
                tracing::info!(pipeline = name, "started: {}", pipeline.flow());
                starting.push((pipeline, state));
            }
            Err(error) => return Err(vec![RunError::Start { pipeline: name, error, is_logged: false }]),
        }
    }
    let runs = starting.into_iter().map(|(pipeline, state)| {
        let control = control.clone();
        async move {
            let name = pipeline.settings.name.clone();
            let run = Run::new(pipeline.settings, pipeline.parts, control.clone());
            run.show(monitor);
            let error = run.with(state).await.err()?;
            if is_logged {
                tracing::error!(pipeline = name, "ended for good: {error:#}");
            }
            Some(match run.started.load(Ordering::Relaxed) {
                true => RunError::Failed { pipeline: name, error, is_logged },
                false => {
                    control.stop.cancel();
                    RunError::Start { pipeline: name, error, is_logged }
                }
            })
        }
    });
    let errors: Vec<RunError> = join_all(runs).await.into_iter().flatten().collect();
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
    produced: Arc<Metrics>,
    consumed: Arc<Metrics>,
}

impl Run {
    fn new(settings: Arc<Settings>, parts: Parts, control: Control) -> Self {
        let once = settings.once.then(|| {
            let nothing_more_comes = CancellationToken::new();
            nothing_more_comes.cancel();
            nothing_more_comes
        });
        let (produced, consumed) = (Arc::<Metrics>::default(), Arc::<Metrics>::default());
        let context = Context {
            state_dir: settings.state_dir.join(&settings.name),
            settings,
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
            produced,
            consumed,
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

    /// Runs while the state directory is held, and before that for as long as it takes to get hold of it.
    async fn with(&self, state: Starting) -> Result<()> {
        let Some(_held) = state.held(self).await? else { return Ok(()) };
        self.until_stopped().await
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
        result?;
        // It may have been stopped while nothing was open to take them.
        match self.unrepeatable_bytes() {
            0 => Ok(()),
            lost => Err(anyhow!("{}", not_delivered(lost))),
        }
    }

    fn give_up_draining(&self, settings: &Settings) -> Result<()> {
        let timeout = settings.drain_timeout;
        let lost = self.unrepeatable_bytes();
        if lost > 0 {
            return Err(anyhow!("{} within `drain_timeout`, {timeout:?}", not_delivered(lost)));
        }
        let (mut in_source, mut in_transport) = (self.produced.in_flight(), self.consumed.in_flight());
        if self.parts.transport.as_ref().is_none_or(|(transport, _)| transport.linked()) {
            (in_source, in_transport) = (in_source + in_transport, 0);
        }
        let left = match (in_source, in_transport) {
            (_, 0) => format!("{in_source} bytes stay in the source"),
            (0, _) => format!("{in_transport} bytes stay in the transport"),
            _ => format!("{in_source} bytes stay in the source, {in_transport} in the transport,"),
        };
        tracing::warn!(
            pipeline = settings.name,
            "not all that was read could be delivered within `drain_timeout`, {timeout:?}: {left} and are shipped at the next start"
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
                let once = self.context.settings.once;
                let produce = async {
                    let produced = self.producer(transport.as_ref()).await;
                    if produced.is_ok() || once {
                        self.sent.cancel();
                    }
                    produced
                };
                let consume =
                    self.consumer(transport.as_ref(), sink.as_ref(), self.receiving_context(&self.sent));
                if !once {
                    return try_join(produce, consume).await.map(drop);
                }
                // What was sent before the failure is written all the same.
                let (produced, consumed) = join(produce, consume).await;
                produced.and(consumed)
            }
            (Some((transport, _)), None) => self.producer(transport.as_ref()).await,
            (Some((transport, _)), Some(sink)) => {
                self.consumer(transport.as_ref(), sink.as_ref(), self.writing_context()).await
            }
            (None, Some(sink)) => {
                let mut hop = Hop::new(self, WRITTEN, &self.consumed);
                hop.sessions(async |memory: &mut Memory| {
                    let (sink, from) = self.open_sink(sink.as_ref()).await?;
                    let progress = &self.consumed.progress;
                    let source = self.open_sources(from.clone(), &self.writing_context(), progress).await?;
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
            let source = self.open_sources(from.clone(), &self.context, &self.produced.progress).await?;
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
        hop.linked = Some(&self.produced);
        hop.sessions(async |memory: &mut Memory| {
            let sent_all = CancellationToken::new();
            let (sink, from) = self.open_sink(sink).await?;
            let receiver = transport.open_receiver(from.clone(), self.receiving_context(&sent_all)).await?;
            let (sender, sent) = self.open_sender(transport).await?;
            // Nothing counts before the sink has it.
            let source = self.open_sources(sent.clone(), &self.context, &self.consumed.progress).await?;
            let can_go_back = source.can_go_back();
            let receiver: Box<dyn Source> = Box::new(LinkedReceiver { receiver, can_go_back });
            let mut sending_memory = Memory::default();
            let stop_sending = self.stop_reading(can_go_back).child_token();
            let sending = self.pump_parts(stop_sending.clone(), &self.produced, &mut sending_memory);
            let sending = pump(source, sender, sent, sending);
            let writing = self.pump_parts(CancellationToken::new(), &self.consumed, memory);
            let writing = pump(receiver, sink, from, writing);
            tokio::pin!(sending, writing);
            let ended = tokio::select! {
                written = &mut writing => match written {
                    // The channel closes when the sending side ends, however it ends: ask it.
                    Ok(Ended::Finished) => sending.await,
                    written => {
                        stop_sending.cancel();
                        // It fails for want of the other end. What it has read by then is counted.
                        let _ = sending.await;
                        written
                    }
                },
                sent = &mut sending => {
                    sent_all.cancel();
                    // What was handed over counts, whatever ended the sending.
                    match (writing.await, sent) {
                        (Ok(Ended::Finished), sent) => sent,
                        (Ok(_), Err(error)) => Err(error),
                        (written, _) => written,
                    }
                }
            };
            if can_go_back { ended } else { self.count_lost(ended, &self.consumed.progress) }
        })
        .await
    }

    /// For the hop that ends in the sink; the context itself is that of the hop that ends in the transport.
    fn writing_context(&self) -> Context {
        Context { progress: self.consumed.progress.clone(), ..self.context.clone() }
    }

    /// The same where the other hop is in this process too, and says when everything is sent.
    fn receiving_context(&self, sent: &CancellationToken) -> Context {
        let once = self.context.settings.once.then(|| sent.clone());
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

    /// Opens all sources as one. What cannot be read again counts once the hop of `progress` has committed it.
    async fn open_sources(
        &self,
        from: Checkpoint,
        context: &Context,
        progress: &Progress,
    ) -> Result<Box<dyn Source>> {
        let mut sources = Vec::with_capacity(self.parts.sources.len());
        for source in &self.parts.sources {
            let source: &dyn OpenSource = source.as_ref();
            let source =
                source.open(from.clone(), context.clone()).await.context("cannot open the source")?;
            sources.push(match source.can_go_back() {
                true => source,
                false => Box::new(Noted { source, progress: progress.clone() }),
            });
        }
        let source = crate::merge::merge(sources);
        Ok(match source.can_go_back() {
            true => source,
            false => Box::new(UntilStopped::new(source, self.control.stop.clone())),
        })
    }

    /// What ends the reading. A source that cannot go back ends by itself, when it has given what it took.
    fn stop_reading(&self, can_go_back: bool) -> CancellationToken {
        if can_go_back { self.control.stop.clone() } else { CancellationToken::new() }
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
        let stop = self.stop_reading(can_go_back);
        let ended = pump(source, sink, from, self.pump_parts(stop, metrics, memory)).await;
        if can_go_back { ended } else { self.count_lost(ended, &metrics.progress) }
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

/// The receiving end of a transport that stores nothing: what its source cannot give again, it cannot either.
struct LinkedReceiver {
    receiver: Box<dyn Source>,
    can_go_back: bool,
}

#[async_trait]
impl Source for LinkedReceiver {
    async fn read(&mut self) -> Result<Option<Batch>> {
        self.receiver.read().await
    }

    fn can_go_back(&self) -> bool {
        self.can_go_back
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
