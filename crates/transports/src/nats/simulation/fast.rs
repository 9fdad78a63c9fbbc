//! Fast batches, as the model of the server takes them: [`FastBatches`].

use std::collections::BTreeMap;

use async_nats::message::OutboundMessage;
use serde_json::{Value, json};

use super::messages::{Refused, error_of};

/// The fast batches of one stream that were begun and have not ended.
#[derive(Debug, Default)]
pub(super) struct FastBatches(BTreeMap<String, Open>);

#[derive(Debug, Default)]
struct Open {
    /// How many messages it has.
    stored: u64,
    /// Its last message's place in the stream.
    last_sequence: u64,
    /// What was acknowledged.
    acknowledged: u64,
}

/// What a message's reply subject says.
struct Told {
    batch: String,
    flow: u64,
    number: u64,
    operation: u8,
}

const START: u8 = 0;
const COMMIT: u8 = 2;
const END: u8 = 3;

/// Whether a message belongs to a fast batch.
pub(super) fn is_fast(message: &OutboundMessage) -> bool {
    message.reply.as_ref().is_some_and(|reply| reply.ends_with(".$FI"))
}

impl FastBatches {
    /// Takes a message of a batch into the stream with this name, as far as `store` does; what is answered.
    pub(super) fn take(
        &mut self,
        stream: &str,
        message: OutboundMessage,
        store: impl FnOnce(OutboundMessage) -> Result<u64, Refused>,
    ) -> Vec<Value> {
        let refuse =
            |refused: Refused| vec![json!({ "error": error_of(&refused), "stream": stream, "seq": 0 })];
        let Some(Told { batch: id, flow, number, operation }) = told(&message) else {
            return refuse((400, 10206, "batch publish pattern is invalid".to_owned()));
        };
        let begins = operation == START || (operation == COMMIT && number == 1);
        let mut answers = Vec::new();
        if begins && !self.0.contains_key(&id) {
            self.0.insert(id.clone(), Open::default());
            if operation == START {
                answers.push(json!({ "type": "ack", "seq": 0, "msgs": flow }));
            }
        } else if number == 1 && !begins {
            return refuse((400, 10206, "batch publish pattern is invalid".to_owned()));
        }
        let Some(open) = self.0.get_mut(&id) else {
            return refuse((400, 10208, "batch publish ID unknown".to_owned()));
        };
        let over = |open: &Open| json!({ "stream": stream, "seq": open.last_sequence, "batch": &id, "count": open.stored });
        if number != open.stored + 1 {
            answers.push(json!({ "type": "gap", "last_seq": open.stored + 1, "seq": number }));
            answers.push(over(open));
            self.0.remove(&id);
            return answers;
        }
        if operation == END {
            answers.push(over(open));
            self.0.remove(&id);
            return answers;
        }
        match store(message) {
            Ok(sequence) => (open.stored, open.last_sequence) = (number, sequence),
            Err(refused) if open.stored == 0 => {
                self.0.remove(&id);
                answers.extend(refuse(refused));
                return answers;
            }
            Err(refused) => {
                answers.push(json!({ "type": "err", "seq": number, "error": error_of(&refused) }));
                answers.push(over(open));
                self.0.remove(&id);
                return answers;
            }
        }
        if operation == COMMIT {
            answers.push(over(open));
            self.0.remove(&id);
        } else if open.stored - open.acknowledged >= flow {
            open.acknowledged = open.stored;
            answers.push(json!({ "type": "ack", "seq": open.stored, "msgs": flow }));
        }
        answers
    }

    /// The server forgets them all.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

/// `{…}.{batch}.{flow}.fail.{number}.{operation}.$FI`
fn told(message: &OutboundMessage) -> Option<Told> {
    let mut tokens = message.reply.as_ref()?.rsplit('.').skip(1);
    let operation = tokens.next()?.parse().ok().filter(|&operation| operation <= END)?;
    let number = tokens.next()?.parse().ok()?;
    tokens.next().filter(|&gap| gap == "fail")?;
    let flow = tokens.next()?.parse().ok()?;
    Some(Told { batch: tokens.next()?.to_owned(), flow, number, operation })
}
