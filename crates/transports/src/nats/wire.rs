//! Batches as NATS messages and back, version 1. The format has a page of its own, `docs/wire-format.md`;
//! what that page says and what this file does change together.
//!
//! - [`encode`] makes a [`Message`] of a batch, [`Decoder`] makes a [`Decoded`] of a message;
//! - [`headers_only`] reads the position alone, from a message whose payload was left on the server;
//! - [`lines`] and [`split`] cut a batch into the batches that become one message each.
//!
//! Everything is in one header, so the bytes on the wire are a function of the batch (a header map has no
//! order of its own). Whatever a header claims is checked against the payload before anybody uses it.

use std::{fmt, io};

use async_nats::HeaderMap;
use async_nats::header::HeaderName;
use bytes::Bytes;
use fshipper_pipeline::{Batch, Content, Epoch, Origin};
use zstd::bulk::Compressor;
use zstd::zstd_safe::{CParameter, Strategy};

use super::config::Compression;
use super::subject::Subjects;

mod decoder;
mod header;

pub(crate) use decoder::Decoder;
use header::{Common, Form, REACHED_BYTES, hexadecimal, parse_header};

/// How batches are encoded.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Encoding {
    /// What is done to the payload.
    pub(crate) compression: Compression,
    /// Whether the host travels in the header: only where subjects do not
    /// [carry](Subjects::carry_host) it.
    pub(crate) host: bool,
}

/// A batch, ready to be published.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    /// One header.
    pub(crate) headers: HeaderMap,
    /// Never longer than the batch's bytes.
    pub(crate) payload: Bytes,
}

/// A received message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decoded {
    /// It is one of ours and consistent in itself.
    Ours {
        /// Whose bytes they are.
        origin: Origin,
        /// The history in which `start` counts.
        epoch: Epoch,
        /// The offset of the first byte.
        start: u64,
        /// The bytes, or what is missing.
        content: Content,
        /// The source's place.
        place: Bytes,
    },
    /// Any other publisher's: one line, or several.
    Foreign {
        /// The host that its subject names, or `unknown`.
        host: Vec<u8>,
        /// The payload with one newline added.
        bytes: Bytes,
    },
}

/// What the header of one of our messages says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Described {
    /// Whose bytes they are: the host is the subject's.
    pub(crate) origin: Origin,
    /// The history in which `start` and `end` count.
    pub(crate) epoch: Epoch,
    /// The offset of the first byte.
    pub(crate) start: u64,
    /// The offset after the last byte, not below `start`.
    pub(crate) end: u64,
    /// The source's place.
    pub(crate) place: Bytes,
    /// Where the log ended before its producer went back, while that is beyond `end`.
    pub(crate) reached: Option<u64>,
    crc32c: u32,
    form: Form,
}

/// Why a message was not accepted: its header lies, or is of a version that this program does not know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused(String);

/// The one header.
static HEADER: HeaderName = HeaderName::from_static(HEADER_NAME);

const HEADER_NAME: &str = "Fs-Batch";

/// What a reader unpacks of one message, or the server's `max_payload` where that is more: our senders put no
/// more into a message than would fit uncompressed.
pub(crate) const MAX_DATA_BYTES: usize = 8 << 20;

/// What a header block costs around names and values: the status line, `: ` and the ends of lines.
const HEADER_BLOCK_BYTES: usize = "NATS/1.0\r\n: \r\n\r\n".len();

/// What the parameters below do not say; by itself it shrinks the benchmark's log by 5.8, at 530 MB/s per core.
const ZSTD_LEVEL: i32 = 1;

/// By 6.15, at 150 MB/s. Lines repeat one another in long matches, so short ones (of less than 6 bytes) are not
/// looked for, nor are many candidates; but before each match the next byte is tried for a better one. Of the levels
/// 6 gets as far, at 120 MB/s; 2 to 5 shrink less than 1 does.
const ZSTD_PARAMETERS: [CParameter; 6] = [
    CParameter::Strategy(Strategy::ZSTD_lazy),
    CParameter::MinMatch(6),
    CParameter::SearchLog(2),
    CParameter::WindowLog(17),
    CParameter::HashLog(13),
    CParameter::ChainLog(12),
];

impl Described {
    /// The CRC of its data; none of the record of a loss.
    pub(crate) fn data_crc32c(&self) -> Option<u32> {
        (!matches!(self.form, Form::Loss(_))).then_some(self.crc32c)
    }
}

/// Makes a message of a batch.
pub(crate) fn encode(batch: &Batch, encoding: Encoding) -> Message {
    encode_again(batch, encoding, None)
}

/// Makes a message of a batch of a log that `reached` this end before, when it is sent again from further down.
pub(crate) fn encode_again(batch: &Batch, encoding: Encoding, reached: Option<u64>) -> Message {
    let (form, payload) = match &batch.content {
        Content::Data(bytes) => encode_data(bytes, encoding.compression),
        Content::Loss { reason, .. } => (Form::Loss(reason.to_string()), Bytes::new()),
    };
    let crc32c = crc32c::crc32c(batch.bytes());
    let mut value = Common::of(batch, encoding.host).header_value(batch.start..batch.end(), crc32c, &form);
    if let Some(reached) = reached.filter(|&reached| reached > batch.end()) {
        value.push_str(&format!(" reached={reached}"));
    }
    Message::new(value, payload)
}

/// Makes messages of `batch` as [`encode`] would of each of its [lines], or of the [parts](split) of at most
/// `max_bytes` of a longer one, uncompressed; what their headers share is written once.
pub(crate) fn encode_lines(
    batch: Batch,
    max_bytes: usize,
    encoding: Encoding,
) -> impl Iterator<Item = Message> {
    let common = Common::of(&batch, encoding.host);
    lines(batch).flat_map(move |line| split(line, max_bytes)).map(move |part| {
        let Content::Data(bytes) = &part.content else { return encode(&part, encoding) };
        let (form, payload) = encode_data(bytes, Compression::None);
        let value = common.header_value(part.start..part.end(), crc32c::crc32c(bytes), &form);
        Message::new(value, payload)
    })
}

/// How many bytes the header of `batch`, or of any [part](split) of it, takes at most. They count against
/// the server's `max_payload`.
pub(crate) fn header_bytes(batch: &Batch, encoding: Encoding) -> usize {
    let form = match &batch.content {
        Content::Data(_) => Form::Verbatim,
        Content::Loss { reason, .. } => Form::Loss(reason.to_string()),
    };
    let value = Common::of(batch, encoding.host).header_value(u64::MAX..u64::MAX, 0, &form);
    HEADER_BLOCK_BYTES + HEADER_NAME.len() + value.len() + REACHED_BYTES
}

/// Decodes a message by itself: see [`Decoder::decode`].
///
/// # Errors
///
/// As [`Decoder::decode`]'s.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn decode(
    subjects: &Subjects,
    subject: &str,
    headers: Option<&HeaderMap>,
    payload: Bytes,
    max_data_bytes: usize,
) -> Result<Decoded, Refused> {
    Decoder::new(subjects.clone()).decode(subject, headers, payload, max_data_bytes)
}

/// The value of our header, if it is there.
fn our_header(headers: Option<&HeaderMap>) -> Result<Option<&str>, Refused> {
    // There are few of them: comparing costs less than hashing.
    let all = headers.into_iter().flat_map(HeaderMap::iter);
    let mut values = all.filter(|(name, _)| **name == HEADER).flat_map(|(_, values)| values);
    let value = values.next();
    if values.next().is_some() {
        return Err(Refused(format!("it has two headers `{HEADER_NAME}`")));
    }
    Ok(value.map(|value| value.as_str()))
}

/// What the header of a message says, without the payload; `None` when it is another publisher's.
///
/// # Errors
///
/// As [`Decoder::decode`]'s, as far as the payload is not needed.
pub(crate) fn headers_only(
    subjects: &Subjects,
    subject: &str,
    headers: Option<&HeaderMap>,
) -> Result<Option<Described>, Refused> {
    let Some(value) = our_header(headers)? else { return Ok(None) };
    parse_header(subjects, subject, value).map(Some).map_err(Refused)
}

/// Whether a message is one of ours, right or wrong.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn is_ours(headers: Option<&HeaderMap>) -> bool {
    headers.is_some_and(|headers| headers.get(HEADER.clone()).is_some())
}

/// One batch for each line, for `framing = "line"`; a last part without an end is one as well. A loss stays
/// as it is.
pub(crate) fn lines(batch: Batch) -> impl Iterator<Item = Batch> {
    parts(batch, |bytes| memchr::memchr(b'\n', bytes).map_or(bytes.len(), |newline| newline + 1))
}

/// Batches of at most `max_bytes`, each as long as possible, cut after a line, or within a line that is
/// longer. A loss stays as it is.
///
/// # Panics
///
/// When `max_bytes` is 0.
pub(crate) fn split(batch: Batch, max_bytes: usize) -> impl Iterator<Item = Batch> {
    assert!(max_bytes > 0, "a batch cannot be split into parts of no bytes");
    parts(batch, move |bytes| {
        if bytes.len() <= max_bytes {
            return bytes.len();
        }
        memchr::memrchr(b'\n', &bytes[..max_bytes]).map_or(max_bytes, |newline| newline + 1)
    })
}

/// Cuts a batch wherever `length_of_first` says of what is left of it.
fn parts(batch: Batch, length_of_first: impl Fn(&[u8]) -> usize) -> impl Iterator<Item = Batch> {
    let mut rest = Some(batch);
    std::iter::from_fn(move || {
        let mut batch = rest.take()?;
        let Content::Data(bytes) = &mut batch.content else {
            return Some(batch);
        };
        let length = length_of_first(bytes);
        let first = bytes.split_to(length);
        if !bytes.is_empty() {
            let start = batch.start + length as u64;
            rest = Some(Batch { start, ..batch.clone() });
        }
        batch.content = Content::Data(first);
        Some(batch)
    })
}

fn encode_data(bytes: &Bytes, compression: Compression) -> (Form, Bytes) {
    if compression == Compression::Zstd {
        match compress(bytes) {
            Ok(frame) if frame.len() < bytes.len() => return (Form::Zstd, frame.into()),
            // A frame longer than the data helps nobody.
            Ok(_) => {}
            // Nothing is lost by sending the data as they are.
            Err(error) => tracing::warn!("cannot compress a batch, so it is sent uncompressed: {error}"),
        }
    }
    match bytes.last() {
        Some(b'\n') => (Form::Lines, bytes.slice(..bytes.len() - 1)),
        _ => (Form::Verbatim, bytes.clone()),
    }
}

fn compress(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut compressor = Compressor::new(ZSTD_LEVEL)?;
    for parameter in ZSTD_PARAMETERS {
        compressor.set_parameter(parameter)?;
    }
    compressor.compress(bytes)
}

fn decode_content(described: &Described, payload: Bytes, max_data_bytes: usize) -> Result<Content, Refused> {
    let span = described.end - described.start;
    if let Form::Loss(reason) = &described.form {
        if !payload.is_empty() {
            return Err(Refused(format!("it records a loss and has a payload of {} bytes", payload.len())));
        }
        return Ok(Content::Loss { missing: span, reason: reason.as_str().into() });
    }
    let bytes = match described.form {
        Form::Lines => with_newline(&payload),
        Form::Zstd => decompress(&payload, span, max_data_bytes)?,
        Form::Verbatim | Form::Loss(_) => payload,
    };
    if bytes.is_empty() || bytes.len() as u64 != span {
        return Err(Refused(format!("it claims {span} bytes and holds {}", bytes.len())));
    }
    let crc32c = crc32c::crc32c(&bytes);
    if crc32c != described.crc32c {
        return Err(Refused(format!("its bytes have the CRC {crc32c:08x}, not {:08x}", described.crc32c)));
    }
    Ok(Content::Data(bytes))
}

/// Unpacks a frame of `span` bytes. Only these are bounded: what is not compressed is in memory already, however
/// large it is.
fn decompress(frame: &[u8], span: u64, max_data_bytes: usize) -> Result<Bytes, Refused> {
    let length = usize::try_from(span).ok().filter(|&length| length <= max_data_bytes);
    let Some(length) = length else {
        return Err(Refused(format!("it claims {span} bytes, and a frame holds at most {max_data_bytes}")));
    };
    let bytes = zstd::bulk::decompress(frame, length)
        .map_err(|error| Refused(format!("its payload is no zstd frame of {length} bytes: {error}")))?;
    Ok(bytes.into())
}

fn with_newline(payload: &[u8]) -> Bytes {
    let mut bytes = Vec::with_capacity(payload.len() + 1);
    bytes.extend_from_slice(payload);
    bytes.push(b'\n');
    bytes.into()
}

impl Message {
    fn new(header: String, payload: Bytes) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(HEADER.clone(), header);
        Self { headers, payload }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

#[cfg(test)]
mod tests;
