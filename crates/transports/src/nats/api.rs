//! The few calls of the JetStream API that are needed: [`Api`].
//!
//! Replies are read into structures that name only what is used, so a newer server's additions do no harm.

use std::fmt;
use std::sync::Arc;

use anyhow::anyhow;
use async_nats::header::{NATS_SEQUENCE, NATS_TIME_STAMP};
use async_nats::message::OutboundMessage;
use async_nats::{HeaderMap, Message, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::requests::{Failure, Requests};

/// JetStream of one account, over one connection. Cloning is cheap.
#[derive(Clone, Debug)]
pub(super) struct Api {
    requests: Arc<Requests>,
}

/// Why a call failed.
#[derive(Debug)]
pub(super) enum ApiError {
    /// There was no reply.
    Failure {
        /// What was asked.
        subject: String,
        /// Why there was none.
        failure: Failure,
    },
    /// The server refused.
    Refused(Refusal),
    /// The reply makes no sense.
    Malformed {
        /// What was asked.
        subject: String,
        /// What is wrong with the reply.
        reason: String,
    },
}

/// An error that JetStream replied.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Refusal {
    /// Much like an HTTP status.
    pub(super) code: u16,
    /// What exactly; the constants of [`codes`].
    #[serde(default)]
    pub(super) err_code: u32,
    /// In words.
    #[serde(default)]
    pub(super) description: String,
}

/// The numbers of JetStream's errors, as in the server's `errors.json`.
pub(super) mod codes {
    pub(in crate::nats) const INSUFFICIENT_RESOURCES: u32 = 10023;
    pub(in crate::nats) const NOT_ENABLED_FOR_ACCOUNT: u32 = 10039;
    pub(in crate::nats) const STORAGE_RESOURCES_EXCEEDED: u32 = 10047;
    pub(in crate::nats) const MEMORY_RESOURCES_EXCEEDED: u32 = 10028;
    pub(in crate::nats) const MESSAGE_EXCEEDS_MAXIMUM: u32 = 10054;
    pub(in crate::nats) const STREAM_NAME_IN_USE: u32 = 10058;
    pub(in crate::nats) const STREAM_NOT_FOUND: u32 = 10059;
    pub(in crate::nats) const WRONG_LAST_SEQUENCE: u32 = 10071;
    pub(in crate::nats) const NOT_ENABLED: u32 = 10076;
    pub(in crate::nats) const STORE_FAILED: u32 = 10077;
    pub(in crate::nats) const HEADER_EXCEEDS_MAXIMUM: u32 = 10097;
    pub(in crate::nats) const WRONG_LAST_SEQUENCE_CONSTANT: u32 = 10164;
    pub(in crate::nats) const ATOMIC_PUBLISH_DISABLED: u32 = 10174;
    pub(in crate::nats) const ATOMIC_PUBLISH_INCOMPLETE: u32 = 10176;
    pub(in crate::nats) const ATOMIC_PUBLISH_TOO_LARGE: u32 = 10199;
    pub(in crate::nats) const FAST_PUBLISH_DISABLED: u32 = 10205;
    pub(in crate::nats) const ATOMIC_PUBLISH_TOO_MANY: u32 = 10210;
}

/// A message of the stream, as a direct get returns it.
#[derive(Debug)]
pub(super) struct Stored {
    /// Its place in the stream.
    pub(super) sequence: u64,
    /// When it was stored, in nanoseconds since 1970.
    pub(super) time: i64,
    /// Its headers, with some of the server's.
    pub(super) headers: HeaderMap,
}

#[derive(Deserialize)]
struct Outcome {
    error: Option<Refusal>,
}

impl Api {
    /// Uses these requests.
    pub(super) fn new(requests: Requests) -> Self {
        Self { requests: Arc::new(requests) }
    }

    /// What the calls go over.
    pub(super) fn requests(&self) -> &Requests {
        &self.requests
    }

    /// Calls `$JS.API.{operation}`.
    pub(super) async fn call<T: DeserializeOwned>(
        &self,
        operation: &str,
        body: Option<&(impl Serialize + Sync)>,
    ) -> Result<T, ApiError> {
        let subject = format!("$JS.API.{operation}");
        let malformed = |reason: String| ApiError::Malformed { subject: subject.clone(), reason };
        let payload = match body {
            Some(body) => serde_json::to_vec(body).map_err(|error| malformed(error.to_string()))?,
            None => Vec::new(),
        };
        let reply = self.request(&subject, payload).await?;
        let outcome: Outcome =
            serde_json::from_slice(&reply.payload).map_err(|error| malformed(error.to_string()))?;
        if let Some(refusal) = outcome.error {
            return Err(ApiError::Refused(refusal));
        }
        serde_json::from_slice(&reply.payload).map_err(|error| malformed(error.to_string()))
    }

    /// The last message of `subject`, if the stream holds one.
    pub(super) async fn last_message(&self, stream: &str, subject: &str) -> Result<Option<Stored>, ApiError> {
        self.direct_get(format!("$JS.API.DIRECT.GET.{stream}.{subject}"), Vec::new()).await
    }

    /// The message at `sequence`, if the stream holds it.
    pub(super) async fn message_at(&self, stream: &str, sequence: u64) -> Result<Option<Stored>, ApiError> {
        let body = format!("{{\"seq\":{sequence}}}");
        self.direct_get(format!("$JS.API.DIRECT.GET.{stream}"), body.into()).await
    }

    async fn direct_get(&self, subject: String, body: Vec<u8>) -> Result<Option<Stored>, ApiError> {
        let reply = self.request(&subject, body).await?;
        match reply.status {
            Some(StatusCode::NOT_FOUND) => return Ok(None),
            Some(status) if status != StatusCode::OK => {
                let description = reply.description.unwrap_or_default();
                return Err(ApiError::Refused(Refusal { code: status.as_u16(), err_code: 0, description }));
            }
            _ => {}
        }
        let headers = reply.headers.unwrap_or_default();
        let sequence = headers.get_last(NATS_SEQUENCE).and_then(|value| value.as_str().parse().ok());
        let time = headers.get_last(NATS_TIME_STAMP).and_then(|value| nanoseconds(value.as_str()));
        match sequence.zip(time) {
            Some((sequence, time)) => Ok(Some(Stored { sequence, time, headers })),
            None => Err(ApiError::Malformed { subject, reason: "it has no sequence or no time".to_owned() }),
        }
    }

    async fn request(&self, subject: &str, payload: Vec<u8>) -> Result<Message, ApiError> {
        let message =
            OutboundMessage { subject: subject.into(), reply: None, headers: None, payload: payload.into() };
        let failed = |failure| ApiError::Failure { subject: subject.to_owned(), failure };
        self.requests.send(message).await.map_err(failed)
    }
}

impl ApiError {
    /// JetStream's number of the error; 0 when it is none of JetStream's.
    pub(super) fn err_code(&self) -> u32 {
        match self {
            Self::Refused(refusal) => refusal.err_code,
            _ => 0,
        }
    }

    /// Whether asking again may help, without anybody doing anything.
    pub(super) fn passes(&self) -> bool {
        match self {
            Self::Failure { failure, .. } => !matches!(failure, Failure::Denied(_) | Failure::TooLarge),
            Self::Refused(refusal) => matches!(refusal.code, 429 | 503) && !refusal.jetstream_is_off(),
            Self::Malformed { .. } => false,
        }
    }

    /// The error with what to do about it, as far as that does not depend on what was asked.
    pub(super) fn explain(self, server: &str) -> anyhow::Error {
        let off = match &self {
            Self::Failure { failure: Failure::NoResponders, .. } => true,
            Self::Refused(refusal) => refusal.jetstream_is_off(),
            _ => false,
        };
        if off {
            return anyhow!(
                "{self}: JetStream is not enabled for this account on {server}, or just starting; start \
                 `nats-server` with `-js`, enable it for the account, or remove `stream` for core NATS"
            );
        }
        anyhow!("{self}")
    }
}

impl Refusal {
    fn jetstream_is_off(&self) -> bool {
        matches!(self.err_code, codes::NOT_ENABLED | codes::NOT_ENABLED_FOR_ACCOUNT)
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failure { subject, failure } => write!(f, "no reply on `{subject}`: {failure}"),
            Self::Refused(refusal) => refusal.fmt(f),
            Self::Malformed { subject, reason } => {
                write!(f, "the reply on `{subject}` makes no sense: {reason}")
            }
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server says `{}` ({}, {})", self.description, self.code, self.err_code)
    }
}

impl std::error::Error for ApiError {}

/// The nanoseconds since 1970 of a time as JetStream writes it, RFC 3339.
pub(super) fn nanoseconds(time: &str) -> Option<i64> {
    let time: jiff::Timestamp = time.parse().ok()?;
    i64::try_from(time.as_nanosecond()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_times_to_the_nanosecond() {
        assert_eq!(nanoseconds("1970-01-01T00:00:01.000000002Z"), Some(1_000_000_002));
        assert_eq!(nanoseconds("2026-11-23T04:05:30.13Z"), Some(1_795_406_730_130_000_000));
        assert_eq!(nanoseconds("yesterday"), None);
    }
}
