//! What `fshipper check --connect` finds out about a stream: [`probe`].

use anyhow::{Result, bail};
use async_nats::HeaderMap;
use async_nats::header::{NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_EXPECTED_STREAM};
use async_nats::message::OutboundMessage;
use fshipper_pipeline::{Ends, Origin};

use super::api::{Api, codes};
use super::floor::FloorPlan;
use super::pull::{Deliver, Selection};
use super::restore::{last_of, restore};
use super::stream::{self, End, Plan, Stream, list};
use super::subject::Subjects;

/// A sequence that no stream reaches: a message that is to follow it is refused, always.
const NEVER_REACHED: u64 = 1 << 53;

/// Verifies what the ends need, and says what it found. Nothing is stored.
///
/// # Errors
///
/// What is missing or forbidden, with the remedy.
pub(super) async fn probe(
    api: &Api,
    plan: &Plan,
    floor: Option<&FloorPlan>,
    subjects: &Subjects,
    filters: &[String],
    ends: Ends,
    host: &[u8],
) -> Result<Vec<String>> {
    let mut found = probe_data(api, plan, subjects, filters, ends, host).await?;
    found.push(match floor {
        Some(floor) => floor.probe(api, ends, host).await,
        None => "no commit floor: `floor = false`".to_owned(),
    });
    Ok(found)
}

/// The stream of the data.
async fn probe_data(
    api: &Api,
    plan: &Plan,
    subjects: &Subjects,
    filters: &[String],
    ends: Ends,
    host: &[u8],
) -> Result<Vec<String>> {
    let name = &plan.name;
    let missing =
        stream::info(api, name).await.is_err_and(|error| error.err_code() == codes::STREAM_NOT_FOUND);
    if missing && plan.create {
        let subjects = list(&subjects.stream_subjects());
        return Ok(vec![format!("stream `{name}` does not exist and will be created with {subjects}")]);
    }
    let end = if ends.sends() { End::Sender } else { End::Receiver };
    let stream = Stream::open(api, plan, subjects, end).await?;
    let (takes, messages, replicas) = (list(&stream.subjects), stream.messages, stream.replicas);
    let mut found =
        vec![format!("stream `{name}` takes {takes}; messages: {messages}, replicas: {replicas}")];
    if ends.sends() {
        let restored = restore(api, &stream, subjects, host).await?;
        found.push(format!("logs of this host in it: {}", restored.checkpoint.len()));
        let subject = subjects.publish(&Origin::new(host, "fshipper-check"));
        last_of(api, &stream, subjects, &subject).await?;
        may_publish(api, &stream, &subject).await?;
        found.push(format!("may publish to `{}`", subjects.restore_filter(host)));
    }
    if ends.receives() {
        let filters_of_stream = stream.filters(filters);
        let selection =
            Selection { deliver: Deliver::From(1), filters: filters_of_stream, headers_only: true };
        let matching = selection.count(api, &stream).await?;
        found.push(format!("messages that match {}: {matching}", list(filters)));
    }
    Ok(found)
}

/// Publishes a message that the stream must refuse: whether it is asked at all is the question.
async fn may_publish(api: &Api, stream: &Stream, subject: &str) -> Result<()> {
    let mut headers = HeaderMap::new();
    headers.insert(NATS_EXPECTED_STREAM, stream.name.as_str());
    headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NEVER_REACHED.to_string());
    let (payload, reply) = (Default::default(), None);
    let message = OutboundMessage { subject: subject.into(), reply, headers: Some(headers), payload };
    match api.requests().send(message).await {
        Ok(_) => Ok(()),
        Err(failure) => bail!("cannot publish to `{subject}`: {failure}"),
    }
}
