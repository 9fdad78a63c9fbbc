//! What became of a publish: [`Outcome`].

use anyhow::{Error, anyhow};

use super::api::{Refusal, codes};
use super::requests::Failure;

/// What became of a publish.
#[derive(Debug)]
pub(super) enum Outcome {
    /// It is stored, and this is the sequence of its last message.
    Stored(u64),
    /// Nobody knows, for this reason. The last message has at least this sequence, as far as the server said so.
    Doubtful { reason: String, last_sequence: Option<u64> },
    /// Nothing was stored; later it may be, and this is why not now. An operator is needed unless it is only a
    /// matter of load.
    Later { reason: String, needs_operator: bool },
    /// Nothing was stored, and the next attempt will be a smaller message.
    TooLarge,
    /// Nothing was stored, and the next attempt will be a single line.
    NotAtomic,
    /// Nothing was stored, and the next attempt will be fewer messages.
    BatchTooLarge,
}

/// Why an origin cannot go on.
#[derive(Debug)]
pub(super) enum Stop {
    /// It alone, for this reason.
    Held(String),
    /// The whole sender.
    Failed(Error),
}

/// What the server says, among other reasons under the same number, when `discard_new_per_subject` is set.
const SUBJECT_IS_FULL: &str = "maximum messages per subject exceeded";

/// What it means that a publish was not answered.
pub(super) fn of_failure(failure: Failure) -> Result<Outcome, Stop> {
    match failure {
        Failure::Denied(violation) => Err(Stop::Held(violation)),
        // Nobody took it, but the stream may have lost its subject or its leader: the question tells.
        Failure::NoResponders | Failure::TimedOut | Failure::Reconnected => {
            Ok(Outcome::Doubtful { reason: failure.to_string(), last_sequence: None })
        }
        // The limit changed with a reconnect while the parcel was made.
        Failure::TooLarge => Ok(Outcome::TooLarge),
        Failure::Closed(_) => Err(Stop::Failed(anyhow!("cannot publish: {failure}"))),
    }
}

/// What an error that JetStream replied to a publish means.
pub(super) fn of_refusal(refusal: &Refusal, stream: &str, subject: &str) -> Result<Outcome, Stop> {
    let Refusal { code, err_code, description } = refusal;
    match *err_code {
        codes::WRONG_LAST_SEQUENCE | codes::WRONG_LAST_SEQUENCE_CONSTANT => {
            let last_sequence = description.rsplit(' ').next().and_then(|number| number.parse().ok());
            Ok(Outcome::Doubtful { reason: description.clone(), last_sequence })
        }
        // The other logs have room.
        codes::STORE_FAILED if description.contains(SUBJECT_IS_FULL) => Err(Stop::Held(format!(
            "the stream `{stream}` is full for this log, and keeps its oldest messages: {description}; set \
             `discard_new_per_subject` to false, raise `max_msgs_per_subject`, or purge it"
        ))),
        codes::STORE_FAILED => Ok(later(
            true,
            format!(
                "it is full or cannot write: {description}; raise `max_bytes`, set `max_age`, purge it or free \
                 the server's disk"
            ),
        )),
        // The batch was not begun, or was given up: which of the two the server does not say here.
        codes::ATOMIC_PUBLISH_TOO_MANY | codes::ATOMIC_PUBLISH_INCOMPLETE => {
            Ok(later(false, format!("too many atomic batches are open: {description}")))
        }
        codes::ATOMIC_PUBLISH_DISABLED => Ok(Outcome::NotAtomic),
        codes::ATOMIC_PUBLISH_TOO_LARGE => Ok(Outcome::BatchTooLarge),
        codes::INSUFFICIENT_RESOURCES
        | codes::STORAGE_RESOURCES_EXCEEDED
        | codes::MEMORY_RESOURCES_EXCEEDED => Ok(later(
            true,
            format!(
                "the server or the account has no room: {description}; raise its limit or delete what is not \
                 needed"
            ),
        )),
        _ if matches!(code, 429 | 503) => Ok(later(false, refusal.to_string())),
        codes::HEADER_EXCEEDS_MAXIMUM => Err(Stop::Held(refusal.to_string())),
        // A new session knows the stream's present `max_msg_size`.
        codes::MESSAGE_EXCEEDS_MAXIMUM => {
            Err(Stop::Failed(anyhow!("the stream `{stream}` takes smaller messages now: {refusal}")))
        }
        _ => Err(Stop::Failed(anyhow!("the stream `{stream}` refuses a message on `{subject}`: {refusal}"))),
    }
}

fn later(needs_operator: bool, reason: String) -> Outcome {
    Outcome::Later { reason, needs_operator }
}
