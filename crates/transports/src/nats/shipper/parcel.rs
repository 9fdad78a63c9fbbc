//! What one publish carries: [`Parcel`].

use std::sync::atomic::Ordering;

use async_nats::header::{
    NATS_BATCH_COMMIT, NATS_BATCH_COMMIT_FINAL, NATS_BATCH_ID, NATS_BATCH_SEQUENCE,
    NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_EXPECTED_STREAM,
};
use async_nats::message::OutboundMessage;
use async_nats::{HeaderMap, Subject};
use fshipper_pipeline::{Batch, Content};

use super::Shipper;
use crate::nats::config::Framing;
use crate::nats::outcome::Stop;
use crate::nats::places::Places;
use crate::nats::wire;

/// What one publish carries: one message, or an atomic batch of several.
pub(super) struct Parcel {
    /// The bytes of all its messages.
    pub(super) batch: Batch,
    messages: Vec<Batch>,
}

impl Parcel {
    /// How many messages it is.
    pub(super) fn count(&self) -> usize {
        self.messages.len()
    }
}

impl Shipper {
    /// What the next publish carries.
    pub(super) fn parcel(&self, batch: &Batch) -> Result<Parcel, Stop> {
        let Some(room) = self.room(batch) else {
            let header = wire::header_bytes(batch, self.encoding);
            return Err(Stop::Held(format!(
                "its header alone is {header} bytes long, and the server takes no message of more than {} \
                 bytes: raise `max_payload` of the server or `max_msg_size` of the stream",
                self.stream.max_message_bytes.unwrap_or_else(|| self.max_payload())
            )));
        };
        let (room, atomic_messages) = (self.fitting(room), self.atomic_messages());
        let messages: Vec<_> = match self.framing {
            Framing::Batch => {
                let most = if self.is_far_away() { atomic_messages } else { 1 };
                let most_bytes = room.max(self.shared_bytes.load(Ordering::Relaxed)) as u64;
                // The first one always goes, also when it records a great loss.
                let fits = |message: &Batch| {
                    message.start == batch.start || message.end() - batch.start <= most_bytes
                };
                wire::split(batch.clone(), room).take(most).take_while(fits).collect()
            }
            Framing::Line => {
                let lines = wire::lines(first_of(wire::split(batch.clone(), room)));
                lines.take(atomic_messages).collect()
            }
        };
        let mut all = batch.clone();
        if let Content::Data(bytes) = &mut all.content {
            bytes.truncate(messages.iter().map(|message| message.bytes().len()).sum());
        }
        Ok(Parcel { batch: all, messages })
    }

    /// The messages of a parcel that follows the one with `sequence`.
    pub(super) fn messages<'a>(
        &'a self,
        subject: &'a Subject,
        parcel: &'a Parcel,
        places: &'a Places,
        sequence: u64,
    ) -> impl Iterator<Item = OutboundMessage> + Send + 'a {
        let count = parcel.messages.len();
        let batch_id = (count > 1).then(|| {
            let number = self.next_batch.fetch_add(1, Ordering::Relaxed);
            format!("{:016x}-{number:x}", self.batch_prefix)
        });
        parcel.messages.iter().cloned().zip(1..).map(move |(mut batch, number)| {
            batch.place = places.at(batch.end());
            let wire::Message { mut headers, payload } = self.encode(&batch);
            if number == 1 {
                headers.insert(NATS_EXPECTED_STREAM, self.stream.name.as_str());
                headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, sequence.to_string());
            }
            if let Some(id) = &batch_id {
                add_batch_headers(&mut headers, id, number, count);
            }
            OutboundMessage { subject: subject.clone(), reply: None, headers: Some(headers), payload }
        })
    }
}

fn first_of(mut parts: impl Iterator<Item = Batch>) -> Batch {
    parts.next().expect("a batch has at least one part")
}

fn add_batch_headers(headers: &mut HeaderMap, id: &str, number: usize, messages: usize) {
    headers.insert(NATS_BATCH_ID, id);
    headers.insert(NATS_BATCH_SEQUENCE, number.to_string());
    if number == messages {
        headers.insert(NATS_BATCH_COMMIT, NATS_BATCH_COMMIT_FINAL);
    }
}
