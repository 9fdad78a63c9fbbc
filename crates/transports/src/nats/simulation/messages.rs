//! What the model of the server sends: [`Outgoing`].

use async_nats::header::HeaderName;
use async_nats::{HeaderMap, Message, StatusCode};
use bytes::Bytes;
use serde_json::{Value, json};

/// What the server sends, and to which subscription: a consumer's delivery keeps the subject that the message
/// was published to.
#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    pub(super) to: String,
    pub(super) message: Message,
}

/// A refusal: code, number, words.
pub(super) type Refused = (u16, u32, String);

/// A message without a status.
pub(super) fn data(
    subject: &str,
    headers: Option<HeaderMap>,
    payload: impl Into<Bytes>,
    reply: Option<String>,
) -> Message {
    let payload = payload.into();
    let header_bytes = headers.as_ref().map_or(0, header_bytes);
    let length = subject.len() + reply.as_ref().map_or(0, String::len) + header_bytes + payload.len();
    let (subject, reply) = (subject.into(), reply.map(Into::into));
    Message { subject, reply, payload, headers, status: None, description: None, length }
}

/// A message that is nothing but a status.
pub(super) fn status(
    subject: &str,
    status: StatusCode,
    description: &str,
    more: &[(&str, String)],
) -> Outgoing {
    let mut headers = HeaderMap::new();
    for (name, value) in more {
        headers.insert(*name, value.as_str());
    }
    let headers = (!more.is_empty()).then_some(headers);
    let mut message = data(subject, headers, Bytes::new(), None);
    message.status = Some(status);
    message.description = Some(description.to_owned()).filter(|text| !text.is_empty());
    Outgoing { to: subject.to_owned(), message }
}

/// What a header block takes on the wire.
pub(super) fn header_bytes(headers: &HeaderMap) -> usize {
    let fields = headers.iter().flat_map(|(name, values)| {
        values.iter().map(|value| {
            <HeaderName as AsRef<str>>::as_ref(name).len() + value.as_str().len() + ": \r\n".len()
        })
    });
    "NATS/1.0\r\n\r\n".len() + fields.sum::<usize>()
}

/// Nobody serves a subject.
pub(super) fn no_responders(reply: &str, subject: &str) -> Outgoing {
    status(reply, StatusCode::NO_RESPONDERS, "", &[("Nats-Subject", subject.to_owned())])
}

/// An answer in JSON, or an empty one.
pub(super) fn answer_of(reply: &str, answer: Option<&Value>) -> Outgoing {
    let payload = answer.map(|answer| answer.to_string().into_bytes()).unwrap_or_default();
    let message = data(reply, None, payload, None);
    Outgoing { to: reply.to_owned(), message }
}

/// A refusal in JSON.
pub(super) fn error_of((code, err_code, description): &Refused) -> Value {
    json!({ "code": code, "err_code": err_code, "description": description })
}

/// A time as the API writes it.
pub(super) fn rfc3339(nanoseconds: i64) -> String {
    let time = jiff::Timestamp::from_nanosecond(i128::from(nanoseconds)).expect("a time of this age");
    time.to_string()
}
