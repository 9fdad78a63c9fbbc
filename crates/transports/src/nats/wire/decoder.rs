//! Decoding one message after the other: [`Decoder`].

use async_nats::HeaderMap;
use bytes::Bytes;

use super::{
    Decoded, Described, Refused, decode_content, hexadecimal, our_header, parse_header, with_newline,
};
use crate::nats::subject::Subjects;

/// Decodes messages one after the other. Most say the same of their log as the one before: then only their
/// positions are read.
#[derive(Debug)]
pub(crate) struct Decoder {
    subjects: Subjects,
    last: Option<Last>,
}

/// The last message whose header had the order in which we write.
#[derive(Debug)]
struct Last {
    subject: String,
    /// What stands before the position in its header.
    front: String,
    /// What follows it; without `reached`, which depends on the position.
    rest: String,
    described: Described,
}

impl Decoder {
    /// For what is received on `subjects`.
    pub(crate) fn new(subjects: Subjects) -> Self {
        Self { subjects, last: None }
    }

    /// Makes of a message what was encoded, or lines of another publisher. `max_data_bytes` bounds what a
    /// compressed one may hold.
    ///
    /// # Errors
    ///
    /// The message has our header, and it is not consistent with the subject or the payload.
    pub(crate) fn decode(
        &mut self,
        subject: &str,
        headers: Option<&HeaderMap>,
        payload: Bytes,
        max_data_bytes: usize,
    ) -> Result<Decoded, Refused> {
        let Some(value) = our_header(headers)? else {
            let host = self.subjects.host_of(subject);
            return Ok(Decoded::Foreign { host, bytes: with_newline(&payload) });
        };
        let described = self.describe(subject, value).map_err(Refused)?;
        let content = decode_content(&described, payload, max_data_bytes)?;
        let Described { origin, epoch, start, place, .. } = described;
        Ok(Decoded::Ours { origin, epoch, start, content, place })
    }

    fn describe(&mut self, subject: &str, value: &str) -> Result<Described, String> {
        let Some((front, position, rest)) = Position::find(value) else {
            return parse_header(&self.subjects, subject, value);
        };
        if let Some(last) = &self.last
            && (last.front.as_str(), last.rest.as_str()) == (front, rest)
            && last.subject == subject
        {
            let Position { start, end, crc32c } = position;
            return Ok(Described { start, end, crc32c, ..last.described.clone() });
        }
        let described = parse_header(&self.subjects, subject, value)?;
        if !rest.contains(" reached=") {
            let (subject, front, rest) = (subject.to_owned(), front.to_owned(), rest.to_owned());
            self.last = Some(Last { subject, front, rest, described: described.clone() });
        }
        Ok(described)
    }
}

/// What differs from message to message of one log.
#[derive(Clone, Copy, Debug)]
struct Position {
    start: u64,
    end: u64,
    crc32c: u32,
}

impl Position {
    /// Reads the fields from `start` to `crc`, and gives what stands before and after them; none where another
    /// order, or a mistake, is for [`parse_header`] to judge.
    fn find(value: &str) -> Option<(&str, Self, &str)> {
        let (front, value) = value.split_at_checked("v=1 epoch=0123456789abcdef".len())?;
        let (start, value) = leading_decimal(value.strip_prefix(" start=")?)?;
        let (end, value) = leading_decimal(value.strip_prefix(" end=")?)?;
        let (crc32c, rest) = value.strip_prefix(" crc=")?.split_at_checked(8)?;
        let crc32c = hexadecimal("crc", 8, Some(crc32c)).ok()? as u32;
        let is_valid = start <= end && rest.starts_with(' ');
        is_valid.then_some((front, Self { start, end, crc32c }, rest))
    }
}

fn leading_decimal(text: &str) -> Option<(u64, &str)> {
    let length = text.bytes().take_while(u8::is_ascii_digit).count();
    let (digits, rest) = text.split_at(length);
    Some((digits.parse().ok()?, rest))
}
