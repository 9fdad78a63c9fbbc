//! Fuzz targets: what comes off the wire, and what goes there. Each panics when a promise does not hold.

use async_nats::HeaderMap;
use async_nats::header::HeaderValue;
use bytes::Bytes;
use fshipper_pipeline::testing::fuzz::Input;
use fshipper_pipeline::{Batch, Content, Epoch, Escaped, Origin};

use super::config::Compression;
use super::floor::notice::{Notice, Request};
use super::subject::Subjects;
use super::wire::{self, Decoded, Encoding};

/// Small, so that a target sees what becomes of too much.
const MAX_DATA_BYTES: usize = 64 << 10;

/// A message that anybody published: a subject, a header, a payload. What is accepted is consistent in itself,
/// no longer than allowed, and the same after another journey.
pub fn message(data: &[u8]) {
    let mut input = Input::new(data);
    let table = table(&mut input);
    let subjects = &table.subjects;
    let (subject, value, form) = (input.text(), input.text(), input.byte() % 4);
    let (value, payload) = match form {
        0 => (value, Bytes::copy_from_slice(input.rest())),
        // As a sender that lies would do it: the checksum is right, and whatever the header says besides is not.
        1 => {
            let payload = input.rest();
            let crc32c = crc32c::crc32c(&[payload, b"\n"].concat());
            (format!("{value} crc={crc32c:08x}"), Bytes::copy_from_slice(payload))
        }
        2 => {
            let payload = input.rest();
            (format!("{value} verbatim crc={:08x}", crc32c::crc32c(payload)), Bytes::copy_from_slice(payload))
        }
        // A short frame of very many bytes.
        _ => {
            let repeat = input.below(4 * MAX_DATA_BYTES);
            let bytes = vec![input.byte(); repeat];
            let frame = zstd::bulk::compress(&bytes, 1).expect("zeros can be compressed");
            (format!("{value} zstd crc={:08x}", crc32c::crc32c(&bytes)), frame.into())
        }
    };
    let mut headers = HeaderMap::new();
    if let Ok(value) = value.parse::<HeaderValue>() {
        headers.insert("Fs-Batch", value);
    }
    let described = wire::headers_only(subjects, &subject, Some(&headers));
    let decoded = wire::decode(subjects, &subject, Some(&headers), payload.clone(), MAX_DATA_BYTES);
    match decoded {
        Err(refused) => {
            assert!(wire::is_ours(Some(&headers)), "another publisher's message was refused: {refused}");
        }
        Ok(Decoded::Foreign { bytes, .. }) => {
            assert!(!wire::is_ours(Some(&headers)) && bytes == [&payload[..], b"\n"].concat());
        }
        Ok(Decoded::Ours { origin, epoch, start, content, place }) => {
            let described = described.expect("a header that was accepted").expect("a header of ours");
            assert_eq!((&described.origin, described.epoch, described.start), (&origin, epoch, start));
            let span = match &content {
                Content::Data(bytes) => bytes.len() as u64,
                Content::Loss { missing, .. } => *missing,
            };
            assert_eq!(start.checked_add(span), Some(described.end), "it ends where its header says");
            if let Content::Data(bytes) = &content {
                assert!(!bytes.is_empty() && bytes.len() <= MAX_DATA_BYTES.max(payload.len() + 1));
            }
            is_published_where_it_came_from(&table, &subject, &origin);
            let mut batch = Batch::loss(origin, epoch, start, 0, "");
            (batch.content, batch.place) = (content, place);
            travels(subjects, &batch, Compression::None);
        }
    }
}

/// A batch of ours: it arrives as it was sent, whole, in lines and in parts.
pub fn batch(data: &[u8]) {
    let mut input = Input::new(data);
    let subjects = &table(&mut input).subjects;
    let compression = if input.flag() { Compression::Zstd } else { Compression::None };
    let origin = Origin::new(input.bytes(), input.bytes());
    let (epoch, start, place) = (Epoch(input.number()), input.number(), input.bytes());
    let max_bytes = 1 + input.below(300);
    let mut batch = if input.flag() {
        let missing = input.number();
        Batch::loss(origin, epoch, start, missing.min(u64::MAX - start), input.text())
    } else {
        let bytes = input.rest();
        if bytes.is_empty() {
            return;
        }
        Batch::data(origin, epoch, start.min(u64::MAX - bytes.len() as u64), bytes.to_vec())
    };
    batch.place = Bytes::copy_from_slice(place);
    travels(subjects, &batch, compression);
    let lines: Vec<_> = wire::lines(batch.clone()).collect();
    let parts: Vec<_> = wire::split(batch.clone(), max_bytes).collect();
    for pieces in [&lines, &parts] {
        let mut next = batch.start;
        for piece in pieces {
            assert_eq!(piece.start, next, "pieces follow each other");
            next = piece.end();
            travels(subjects, piece, compression);
        }
        assert_eq!(next, batch.end(), "nothing is left over");
        let bytes: Vec<u8> = pieces.iter().flat_map(|piece| piece.bytes()).copied().collect();
        assert_eq!(bytes, batch.bytes());
    }
    for line in &lines {
        let ends = line.bytes().iter().filter(|byte| **byte == b'\n').count();
        assert!(ends <= 1 && (ends == 0 || line.bytes().ends_with(b"\n")), "a line is one line");
    }
    assert!(parts.iter().all(|part| part.bytes().len() <= max_bytes));
}

/// Subjects of two logs, and a subject of anybody's: each log has one of its own, from which its host is read
/// again, and a host's filter matches no other's.
pub fn subject(data: &[u8]) {
    let mut input = Input::new(data);
    let table = table(&mut input);
    let subjects = &table.subjects;
    let (one, other) = (Origin::new(input.bytes(), input.bytes()), Origin::new(input.bytes(), input.bytes()));
    let published = [&one, &other].map(|origin| {
        let subject = subjects.publish(origin);
        assert!(async_nats::Subject::from(subject.as_str()).is_valid(), "{subject}");
        if subjects.carry_host() {
            assert_eq!(subjects.host_of(&subject), origin.host());
            assert_eq!(subjects.origin_of(&subject, origin.path(), None).as_ref(), Ok(origin));
        }
        subject
    });
    if table.stream {
        assert_eq!(one == other, published[0] == published[1], "{published:?}");
        for (origin, subject) in [&one, &other].into_iter().zip(&published) {
            let matches = super::pattern::covers(&subjects.restore_filter(one.host()), subject);
            assert_eq!(matches, origin.host() == one.host(), "{subject}");
        }
    }
    let (anybodys, path) = (input.text(), input.rest());
    subjects.host_of(&anybodys);
    if let Ok(origin) = subjects.origin_of(&anybodys, path, None) {
        is_published_where_it_came_from(&table, &anybodys, &origin);
    }
}

/// What anybody may put into the commit floor, and what a consumer puts there: it is read as it was written.
pub fn notice(data: &[u8]) {
    let mut input = Input::new(data);
    let mut table = table(&mut input);
    if input.flag() {
        let subject = input.text();
        if let Ok(notice) = Notice::parse(&table.subjects, &subject, input.rest()) {
            is_published_where_it_came_from(&table, &subject, &notice.origin);
            assert!(notice.request.is_none_or(|request| notice.end <= request.to));
        }
        return;
    }
    // The floor has subjects as a stream has them.
    table = Table { subjects: Subjects::new("s", None, true), partitioned: false, stream: true };
    let end = input.number();
    let request =
        input.flag().then(|| Request { to: end.saturating_add(input.number()), read: input.number() });
    let notice = Notice {
        origin: Origin::new(input.bytes(), input.bytes()),
        epoch: Epoch(input.number()),
        end,
        request,
        // What is shown to people was made printable, and stays so.
        consumer: Escaped(input.bytes()).to_string().into(),
        time: "2026-11-23T04:05:30.130Z".to_owned(),
        place: Bytes::copy_from_slice(input.bytes()),
    };
    let (subject, text) = (table.subjects.publish(&notice.origin), notice.to_string());
    assert!(text.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' '), "{text}");
    assert_eq!(Notice::parse(&table.subjects, &subject, text.as_bytes()), Ok(notice));
}

/// The subjects of a `[transport]` table, and what it says.
struct Table {
    subjects: Subjects,
    partitioned: bool,
    stream: bool,
}

fn table(input: &mut Input<'_>) -> Table {
    let kind = input.byte();
    let (partitioned, stream) = (kind & 1 == 1, kind & 2 == 2);
    let partitions = partitioned.then_some(u32::from(kind >> 2) + 1);
    Table { subjects: Subjects::new("s", partitions, stream), partitioned, stream }
}

/// Whoever may publish to a subject that names a host speaks for that host alone, and in a stream for one of its
/// logs. Where a subject names none, the header is believed.
fn is_published_where_it_came_from(table: &Table, subject: &str, origin: &Origin) {
    // The partition of a message is its publisher's choice: how many there are may change.
    let named = |subject: &str| {
        let rest = subject.strip_prefix("s.")?;
        let below = if table.partitioned { rest.split_once('.')?.1 } else { rest };
        Some(below.to_owned())
    };
    let Some(found) = named(subject) else { return };
    if table.stream {
        assert_eq!(named(&table.subjects.publish(origin)), Some(found), "{origin}");
    } else if table.partitioned {
        assert_eq!(table.subjects.host_of(subject), origin.host());
    }
}

/// The batch arrives as it is, in no more room than was said beforehand.
fn travels(subjects: &Subjects, batch: &Batch, compression: Compression) {
    let encoding = Encoding { compression, host: !subjects.carry_host() };
    let message = wire::encode(batch, encoding);
    assert!(message.payload.len() <= batch.bytes().len());
    let value = message.headers.get("Fs-Batch").expect("it has a header").as_str();
    assert!(value.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' '), "{value}");
    assert!("NATS/1.0\r\nFs-Batch: \r\n\r\n".len() + value.len() <= wire::header_bytes(batch, encoding));
    let subject = subjects.publish(&batch.origin);
    let max_data_bytes = batch.bytes().len();
    let decoded = wire::decode(subjects, &subject, Some(&message.headers), message.payload, max_data_bytes);
    let Ok(Decoded::Ours { origin, epoch, start, content, place }) = decoded else {
        panic!("{batch:?} became {decoded:?}");
    };
    assert_eq!((&origin, epoch, start, &place), (&batch.origin, batch.epoch, batch.start, &batch.place));
    match (&content, &batch.content) {
        (Content::Data(found), Content::Data(sent)) => assert_eq!(found, sent),
        (Content::Loss { missing: found, .. }, Content::Loss { missing: sent, .. }) => {
            assert_eq!(found, sent);
        }
        other => panic!("one became the other: {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use fshipper_pipeline::testing::fuzz::replay;

    #[test]
    fn the_corpora_hold() {
        replay("message", super::message);
        replay("batch", super::batch);
        replay("subject", super::subject);
        replay("notice", super::notice);
    }
}
