//! What runs, for whoever looks from outside: [`Monitor`].

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::{Counts, Metrics, Settings};

/// The hops of the pipelines that run with it. Cloning is cheap, and looking costs the hops nothing.
#[derive(Clone, Debug, Default)]
pub struct Monitor(Arc<Mutex<Vec<Watched>>>);

#[derive(Debug)]
struct Watched {
    settings: Arc<Settings>,
    hop: &'static str,
    metrics: Arc<Metrics>,
}

/// A hop at one moment.
#[derive(Clone, Debug)]
pub struct HopStatus {
    /// The pipeline's name.
    pub pipeline: String,
    /// What the hop does: `sent` or `written`.
    pub hop: &'static str,
    /// Both its ends are open. A hop that failed is closed until it is opened again.
    pub is_open: bool,
    /// It has nothing more to do: its input ended, or it was stopped.
    pub is_finished: bool,
    /// At most this long between a write and its commit, when all is well.
    pub commit_interval: Duration,
    /// What it has done since the process started.
    pub counts: Counts,
}

impl Monitor {
    /// All hops, in the order of the pipelines.
    pub fn hops(&self) -> Vec<HopStatus> {
        let watched = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let status = |watched: &Watched| HopStatus {
            pipeline: watched.settings.name.clone(),
            hop: watched.hop,
            is_open: watched.metrics.is_open(),
            is_finished: watched.metrics.is_finished(),
            commit_interval: watched.settings.commit_interval,
            counts: watched.metrics.counts(),
        };
        watched.iter().map(status).collect()
    }

    pub(crate) fn watch(&self, settings: &Arc<Settings>, hop: &'static str, metrics: &Arc<Metrics>) {
        // A list that only grows cannot be half right.
        let mut watched = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        watched.push(Watched { settings: settings.clone(), hop, metrics: metrics.clone() });
    }
}
