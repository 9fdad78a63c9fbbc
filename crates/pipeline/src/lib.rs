//! The framework of fshipper: sources, transports and sinks, and the pump between them.
//!
//! One idea carries everything: **a position travels with the data, and whoever stores the data stores
//! the position with it.** A [`Batch`] says which bytes of which [`Origin`] it holds; a [`Sink`] makes
//! bytes durable together with the [`Checkpoint`] that describes them; after a crash, a reconnect or an
//! error the source is opened again at what the sink restores. There is no other recovery path.
//!
//! The main types, bottom up:
//!
//! - [`Origin`], [`Epoch`], [`Batch`]: a run of consecutive bytes of one logical log;
//! - [`Checkpoint`]: what a sink durably holds, and [`Checkpoint::admit`], the rule that turns
//!   at-least-once delivery into exactly once;
//! - [`Source`], [`Sink`]: the two running things; [`SourceConfig`], [`SinkConfig`], [`Transport`]:
//!   their TOML tables, which open them; [`Plugin`]: the line that registers one;
//! - [`config::load`]: a pipeline file, checked; [`run`]: pipelines, run until they are stopped.
//!
//! The framework knows no file, no NATS and no command line. Left out on purpose: connect, close,
//! pause, acknowledgement and lifecycle hooks. `open` is the only recovery, drop is stop.

mod backoff;
mod batch;
mod checkpoint;
mod complaint;
pub mod config;
mod context;
mod journal;
mod keeper;
mod merge;
mod metrics;
mod monitor;
mod named_file;
mod origin;
mod plugin;
mod progress;
mod pump;
mod runner;
mod state_dir;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use backoff::Backoff;
pub use batch::{Batch, BudgetLease, Content, Cursor};
pub use checkpoint::{Admission, Checkpoint, CompactMap, History, Position};
pub use complaint::Complaint;
pub use context::{Context, Fatal, Settings};
pub use journal::Journal;
pub use metrics::{Counts, Metrics};
pub use monitor::{HopStatus, Monitor};
pub use named_file::{open_named_file, read_named_file};
pub use origin::{Epoch, Escaped, Origin};
pub use plugin::{
    Committing, Ends, Invalid, Kind, OpenSink, OpenSource, Parts, Plugin, Sink, SinkConfig, Source,
    SourceConfig, Transport, Written,
};
pub use progress::{Backlog, BacklogUnit, Follower, Gap, News, Progress};
pub use runner::{Control, RunError, run, run_monitored};

/// What plugins need of other crates, so that a plugin crate names few dependencies of its own.
pub use anyhow;
pub use async_trait::async_trait;
pub use bytes::Bytes;
pub use inventory;
