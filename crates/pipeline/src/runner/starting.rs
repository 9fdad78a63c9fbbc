//! Getting hold of a pipeline's state directory: [`Starting`].

use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::{Context as _, Error, Result};

use super::Run;
use super::hop::{REOPEN_FIRST, REOPEN_MOST, is_final};
use crate::state_dir::StateDir;
use crate::{Backoff, Complaint, Settings};

/// A pipeline that is about to run.
pub(super) enum Starting {
    /// It holds its state directory.
    Held(StateDir),
    /// Something is wrong with the disk, which may pass: to be tried again.
    Waiting(Error),
}

impl Starting {
    /// Tries once.
    ///
    /// # Errors
    ///
    /// What waiting cannot mend: another process holds it, or it is none that may be used.
    pub(super) fn new(settings: &Settings) -> Result<Self> {
        match StateDir::lock(&settings.state_dir, &settings.name) {
            Ok(held) => Ok(Self::Held(held)),
            Err(error) if is_final(&error) => Err(error),
            Err(error) => Ok(Self::Waiting(error)),
        }
    }

    /// Tries until it is held; `None` when the run is stopped before.
    pub(super) async fn held(self, run: &Run) -> Result<Option<StateDir>> {
        let mut error = match self {
            Self::Held(held) => return Ok(Some(held)),
            Self::Waiting(error) => error,
        };
        let settings = &run.context.settings;
        let mut backoff = Backoff::new(REOPEN_FIRST, REOPEN_MOST);
        let mut complaint = Complaint::default();
        loop {
            complaint.report(&format!("{error:#}"), |text| {
                tracing::warn!(pipeline = settings.name, "{text}; trying again");
            });
            tokio::select! {
                () = run.control.stop.cancelled() => return Ok(None),
                () = tokio::time::sleep(backoff.pause()) => {}
            }
            error = match lock(settings.clone()).await {
                Ok(held) => {
                    tracing::info!(pipeline = settings.name, "the state directory can be used: going on");
                    return Ok(Some(held));
                }
                Err(error) => error,
            };
            if is_final(&error) {
                // What comes after another error is none of configuration, and others run by now.
                run.started.store(true, Ordering::Relaxed);
                return Err(error);
            }
        }
    }
}

/// A disk that hangs must not hang the other pipelines.
async fn lock(settings: Arc<Settings>) -> Result<StateDir> {
    let lock = move || StateDir::lock(&settings.state_dir, &settings.name);
    tokio::task::spawn_blocking(lock).await.context("cannot look at the state directory")?
}
