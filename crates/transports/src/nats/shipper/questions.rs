//! What the stream has of a log, when nobody knows: [`Shipper::ask`].

use std::sync::atomic::Ordering;

use anyhow::{Error, anyhow};
use async_nats::Subject;
use fshipper_pipeline::Backoff;

use super::{RETRY_FIRST, RETRY_MOST, Shipper};
use crate::nats::api::ApiError;
use crate::nats::outcome::Stop;
use crate::nats::requests::Failure;
use crate::nats::restore::{Last, LastError, last_headers_of, last_of};

/// How often the stream is asked in vain for the end of an origin before the connection is given up.
const MAX_QUESTIONS: u32 = 8;

impl Shipper {
    /// The last message of a subject, asked for a few times while the answer is older than `sequence`: a replica may
    /// lag, and a stream may have gone back.
    pub(super) async fn ask_again(&self, subject: &Subject, sequence: u64) -> Result<Option<Last>, Stop> {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MOST);
        let mut last = self.ask(subject, 0).await?;
        for _ in 1..MAX_QUESTIONS {
            if self.stream.replicas <= 1 || last.as_ref().map_or(0, |last| last.sequence) >= sequence {
                break;
            }
            tokio::time::sleep(backoff.pause()).await;
            last = self.ask(subject, 0).await?;
        }
        Ok(last)
    }

    /// The last message of a subject, with its payload until that has once not come in time: then its headers alone,
    /// which takes the server a consumer each. The answer is at least as new as `last_sequence`: a replica may lag.
    pub(in crate::nats) async fn ask(
        &self,
        subject: &Subject,
        last_sequence: u64,
    ) -> Result<Option<Last>, Stop> {
        self.question(subject, last_sequence, false).await
    }

    /// Its headers alone in any case.
    pub(in crate::nats) async fn ask_for_headers(&self, subject: &Subject) -> Result<Option<Last>, Stop> {
        self.question(subject, 0, true).await
    }

    async fn question(
        &self,
        subject: &Subject,
        last_sequence: u64,
        headers_only: bool,
    ) -> Result<Option<Last>, Stop> {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MOST);
        let mut questions = 0;
        loop {
            let last = match headers_only || self.without_payload.load(Ordering::Relaxed) {
                false => last_of(&self.api, &self.stream, &self.subjects, subject).await,
                true => last_headers_of(&self.api, &self.stream, &self.subjects, subject).await,
            };
            // The client gives up a connection over which nothing whole comes, so that may be why it broke.
            let did_not_come = |error: &LastError| {
                let LastError::Api(ApiError::Failure { failure, .. }) = error else { return false };
                matches!(failure, Failure::TimedOut | Failure::Reconnected)
            };
            if last.as_ref().is_err_and(did_not_come) {
                self.without_payload.store(true, Ordering::Relaxed);
            }
            let problem = match last {
                Ok(last) if last.as_ref().map_or(0, |last| last.sequence) >= last_sequence => {
                    return Ok(last);
                }
                Ok(_) => anyhow!("the replica that answers does not have it yet"),
                // It breaks no sooner than there is a connection again, so this is not a tight loop.
                Err(LastError::Api(ApiError::Failure { failure: Failure::Reconnected, .. })) => continue,
                Err(LastError::Api(ApiError::Failure { failure: Failure::Denied(violation), .. })) => {
                    return Err(Stop::Held(violation));
                }
                Err(LastError::Api(error)) if !error.passes() => {
                    return Err(Stop::Failed(error.explain(&self.api.requests().server())));
                }
                Err(error) => Error::new(error),
            };
            questions += 1;
            if questions == MAX_QUESTIONS {
                let cannot = format!(
                    "cannot ask the stream `{}` for its last message of `{subject}`",
                    self.stream.name
                );
                return Err(Stop::Failed(problem.context(cannot)));
            }
            tokio::time::sleep(backoff.pause()).await;
        }
    }
}
