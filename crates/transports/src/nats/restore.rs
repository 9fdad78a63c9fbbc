//! What a stream holds of the logs of one host: [`restore`], [`last_of`].
//!
//! The last message of an origin says how far the stream has it, so a producer keeps no positions of its own.
//! Bytes are not fetched: headers say it all.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use anyhow::Result;
use async_nats::HeaderMap;
use bytes::Bytes;
use fshipper_pipeline::{Checkpoint, Epoch, Escaped, Origin, Position};

use super::api::{Api, ApiError};
use super::pull::{Consumer, Deliver, Selection, Until};
use super::stream::Stream;
use super::subject::Subjects;
use super::wire::{self, Described};

/// What a sender starts with.
#[derive(Debug, Default)]
pub(super) struct Restored {
    /// Where every log of the host ends.
    pub(super) checkpoint: Checkpoint,
    /// The same as publishing needs it.
    pub(super) tails: HashMap<Origin, Tail>,
    /// Where those ended before that are being sent again from further down.
    pub(super) reached: HashMap<Origin, (Epoch, u64)>,
}

/// The end of an origin in the stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tail {
    /// The sequence of the last message of the subject that the origin is published to; 0 when there is none.
    /// The next publish names it, and is refused when another message came in between.
    pub(super) sequence: u64,
    /// How far the stream has the origin, if it has anything of it.
    pub(super) end: Option<(Epoch, u64)>,
}

/// The last of a subject's messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Last {
    /// Its sequence, whoever published it.
    pub(super) sequence: u64,
    /// The last of *our* messages, if there is one.
    pub(super) ours: Option<Ours>,
}

/// One of our messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ours {
    /// Its sequence.
    pub(super) sequence: u64,
    /// What it says of itself.
    pub(super) described: Described,
}

/// One origin while messages come in; it has two subjects after the number of partitions was changed.
#[derive(Debug)]
struct Found {
    described: Described,
    sequence: u64,
    tail_sequence: u64,
}

/// Asks the stream for the end of every log of `host`.
///
/// # Errors
///
/// The server refused or did not answer.
pub(super) async fn restore(
    api: &Api,
    stream: &Stream,
    subjects: &Subjects,
    host: &[u8],
) -> Result<Restored> {
    let selection = Selection {
        deliver: Deliver::LastPerSubject,
        filters: vec![subjects.restore_filter(host)],
        headers_only: true,
    };
    let mut found = HashMap::new();
    let mut covered = Vec::new();
    let mut consumer = Consumer::create(api, stream, &selection, Until::Pending).await?;
    while let Some(delivered) = consumer.next().await? {
        let subject = delivered.message.subject.as_str();
        match described(subjects, subject, delivered.message.headers.as_ref()) {
            Some(described) => add(&mut found, subjects, subject, delivered.sequence, described),
            None => covered.push((subject.to_owned(), delivered.sequence)),
        }
    }
    // Another publisher's message covers ours on a subject of ours: the position is further down.
    for (subject, sequence) in covered {
        if let Some(ours) = last_of_ours(api, stream, subjects, &subject).await? {
            add(&mut found, subjects, &subject, sequence, ours.described);
        }
    }
    Ok(restored(found))
}

/// The last message of `subject`, if the stream has any.
///
/// # Errors
///
/// The server refused or did not answer: [`LastError::Api`] when it concerns the very question.
pub(super) async fn last_of(
    api: &Api,
    stream: &Stream,
    subjects: &Subjects,
    subject: &str,
) -> Result<Option<Last>, LastError> {
    let Some(stored) = api.last_message(&stream.name, subject).await.map_err(LastError::Api)? else {
        return Ok(None);
    };
    let sequence = stored.sequence;
    let ours = match described(subjects, subject, Some(&stored.headers)) {
        Some(described) => Some(Ours { sequence, described }),
        None => last_of_ours(api, stream, subjects, subject).await.map_err(LastError::Scan)?,
    };
    Ok(Some(Last { sequence, ours }))
}

/// The same without its payload, which a slow line may never bring in time, and with more work for the server.
pub(super) async fn last_headers_of(
    api: &Api,
    stream: &Stream,
    subjects: &Subjects,
    subject: &str,
) -> Result<Option<Last>, LastError> {
    let filters = vec![subject.to_owned()];
    let selection = Selection { deliver: Deliver::LastPerSubject, filters, headers_only: true };
    let newest = async {
        let mut consumer = Consumer::create(api, stream, &selection, Until::Pending).await?;
        let mut newest = None;
        while let Some(delivered) = consumer.next().await? {
            newest = Some(delivered);
        }
        let Some(delivered) = newest else { return Ok(None) };
        let sequence = delivered.sequence;
        let ours = match described(subjects, subject, delivered.message.headers.as_ref()) {
            Some(described) => Some(Ours { sequence, described }),
            None => last_of_ours(api, stream, subjects, subject).await?,
        };
        Ok(Some(Last { sequence, ours }))
    };
    newest.await.map_err(LastError::Scan)
}

/// Why the last message of a subject is not known.
#[derive(Debug)]
pub(super) enum LastError {
    /// The direct get failed.
    Api(ApiError),
    /// Reading through the subject failed.
    Scan(anyhow::Error),
}

impl std::fmt::Display for LastError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Api(error) => error.fmt(f),
            Self::Scan(error) => write!(f, "{error:#}"),
        }
    }
}

impl std::error::Error for LastError {}

/// Reads all headers of one subject for the last that is ours. Slow, and only needed where other publishers
/// use a subject that they should leave alone.
async fn last_of_ours(
    api: &Api,
    stream: &Stream,
    subjects: &Subjects,
    subject: &str,
) -> Result<Option<Ours>> {
    tracing::warn!("another publisher uses `{subject}`, the subject of one log: looking for its position");
    let selection =
        Selection { deliver: Deliver::From(1), filters: vec![subject.to_owned()], headers_only: true };
    let mut consumer = Consumer::create(api, stream, &selection, Until::Pending).await?;
    let mut last = None;
    while let Some(delivered) = consumer.next().await? {
        let described = described(subjects, subject, delivered.message.headers.as_ref());
        last = described.map(|described| Ours { sequence: delivered.sequence, described }).or(last);
    }
    Ok(last)
}

/// What a message says of itself; `None` when it is another publisher's, or damaged.
fn described(subjects: &Subjects, subject: &str, headers: Option<&HeaderMap>) -> Option<Described> {
    match wire::headers_only(subjects, subject, headers) {
        Ok(described) => described,
        Err(refused) => {
            let subject = Escaped(subject.as_bytes());
            tracing::warn!("the last message on `{subject}` says nothing of its position: {refused}");
            None
        }
    }
}

fn add(
    found: &mut HashMap<Origin, Found>,
    subjects: &Subjects,
    subject: &str,
    sequence: u64,
    described: Described,
) {
    let publishes_there = subjects.publish(&described.origin) == subject;
    let tail_sequence = if publishes_there { sequence } else { 0 };
    match found.entry(described.origin.clone()) {
        Entry::Vacant(entry) => {
            entry.insert(Found { described, sequence, tail_sequence });
        }
        Entry::Occupied(mut entry) => {
            let known = entry.get_mut();
            known.tail_sequence = known.tail_sequence.max(tail_sequence);
            let later = match known.described.epoch == described.epoch {
                true => described.end > known.described.end,
                false => sequence > known.sequence,
            };
            if later {
                (known.described, known.sequence) = (described, sequence);
            }
        }
    }
}

fn restored(found: HashMap<Origin, Found>) -> Restored {
    let mut restored = Restored::default();
    for (origin, Found { described, tail_sequence, .. }) in found {
        let Described { epoch, end, place, reached, .. } = described;
        if let Some(reached) = reached {
            restored.reached.insert(origin.clone(), (epoch, reached));
        }
        restored.checkpoint.set_position(&origin, Position { epoch, offset: end, place: place_of(place) });
        restored.tails.insert(origin, Tail { sequence: tail_sequence, end: Some((epoch, end)) });
    }
    restored.checkpoint.clear_changes();
    restored
}

/// The place, apart from the message it was read from: a checkpoint lives long.
fn place_of(place: Bytes) -> Bytes {
    Bytes::copy_from_slice(&place)
}
