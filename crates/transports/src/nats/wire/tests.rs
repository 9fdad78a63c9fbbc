use proptest::prelude::*;

use super::*;

const MAX_DATA_BYTES: usize = 1 << 20;

fn stream() -> Subjects {
    Subjects::new("shipper", None, true)
}

fn batch(bytes: impl Into<Bytes>) -> Batch {
    let origin = Origin::new("web1", "/var/log/app.log");
    Batch { place: "g=1".into(), ..Batch::data(origin, Epoch(0x0123_4567_89ab_cdef), 100, bytes) }
}

fn value(message: &Message) -> &str {
    message.headers.get("Fs-Batch").unwrap().as_str()
}

/// What arrives when `message` is published where `batch` belongs.
fn received(batch: &Batch, message: Message) -> Result<Decoded, Refused> {
    let subjects = stream();
    let subject = subjects.publish(&batch.origin);
    decode(&subjects, &subject, Some(&message.headers), message.payload, MAX_DATA_BYTES)
}

fn ours(batch: &Batch) -> Decoded {
    Decoded::Ours {
        origin: batch.origin.clone(),
        epoch: batch.epoch,
        start: batch.start,
        content: batch.content.clone(),
        place: batch.place.clone(),
    }
}

/// Refuses the message whose header is that of "one\ntwo\n" with `from` replaced by `to`.
fn refusal(from: &str, to: &str) -> String {
    let batch = batch("one\ntwo\n");
    let mut message = encode(&batch, Encoding::default());
    let forged = value(&message).replace(from, to);
    assert_ne!(forged, value(&message), "`{from}` is not in the header");
    message.headers.insert("Fs-Batch", forged);
    received(&batch, message).unwrap_err().to_string()
}

#[test]
fn version_1_is_pinned() {
    let plain = Encoding::default();
    let zstd = Encoding { compression: Compression::Zstd, host: true };

    let lines = encode(&batch("one\ntwo\n"), plain);
    assert_eq!(lines.payload, "one\ntwo");
    assert_eq!(lines.headers.len(), 1);
    assert_eq!(
        value(&lines),
        "v=1 epoch=0123456789abcdef start=100 end=108 crc=fcac93a4 path=/var/log/app.log place=g=1"
    );

    let part = encode(&batch("part"), plain);
    assert_eq!(part.payload, "part");
    assert_eq!(
        value(&part),
        "v=1 epoch=0123456789abcdef start=100 end=104 crc=70fe7f5e verbatim path=/var/log/app.log place=g=1"
    );

    let compressed = encode(&batch("a".repeat(1000)), zstd);
    assert_eq!(compressed.payload[..4], [0x28, 0xb5, 0x2f, 0xfd]);
    assert_eq!(
        value(&compressed),
        "v=1 epoch=0123456789abcdef start=100 end=1100 crc=9f19ef6a zstd host=web1 path=/var/log/app.log place=g=1"
    );

    let origin = Origin::new(b"h", b"/100% \xff\n");
    let loss = encode(&Batch::loss(origin, Epoch(7), 5, 20, "cut off"), plain);
    assert!(loss.payload.is_empty());
    assert_eq!(
        value(&loss),
        "v=1 epoch=0000000000000007 start=5 end=25 crc=00000000 loss=cut%20off path=/100%25%20%FF%0A"
    );
}

#[test]
fn what_was_encoded_is_decoded() {
    for bytes in ["\n", "\n\n", "one\n", "one\ntwo", "\r\n", "x", "\0\n"] {
        for compression in [Compression::None, Compression::Zstd] {
            let batch = batch(bytes);
            let message = encode(&batch, Encoding { compression, host: false });
            assert_eq!(received(&batch, message), Ok(ours(&batch)), "{bytes:?}");
        }
    }
    let loss = Batch::loss(Origin::new("h", "/l"), Epoch(1), 5, 0, "overwritten");
    assert_eq!(received(&loss, encode(&loss, Encoding::default())), Ok(ours(&loss)));
}

#[test]
fn zstd_shrinks_a_log_more_than_its_own_fastest_level() {
    // Lines that repeat one another, with numbers that do not.
    let mut state = 1_u64;
    let mut text = String::new();
    for number in 0..2000_u64 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (status, bytes, request) =
            ([200, 204, 404, 500][(state >> 62) as usize], state >> 50, state >> 32);
        text += &format!(
            "2026-11-23T10:00:{:02}Z web{} api: seq={number:012} level=info GET /v1/orders/{} status={status} \
             bytes={bytes} request={request:08x} agent=\"Safari\"\n",
            number / 40,
            state >> 60,
            state >> 54
        );
    }
    let batch = batch(text);
    let message = encode(&batch, Encoding { compression: Compression::Zstd, host: false });
    let fastest = zstd::bulk::compress(batch.bytes(), 1).unwrap().len();
    assert!(message.payload.len() * 100 < fastest * 99, "{} against {fastest}", message.payload.len());
    assert_eq!(received(&batch, message), Ok(ours(&batch)));
}

#[test]
fn data_that_zstd_cannot_shrink_travel_as_they_are() {
    let message = encode(&batch("x\n"), Encoding { compression: Compression::Zstd, host: false });
    assert_eq!(message.payload, "x");
}

#[test]
fn only_what_a_frame_unpacks_to_is_bounded() {
    for text in ["x".repeat(MAX_DATA_BYTES + 1), "x".repeat(MAX_DATA_BYTES) + "\n"] {
        let batch = batch(text);
        assert_eq!(received(&batch, encode(&batch, Encoding::default())), Ok(ours(&batch)));
        let frame = encode(&batch, Encoding { compression: Compression::Zstd, host: false });
        assert!(frame.payload.len() < 1000, "a small message may unpack to very much");
        let refused = received(&batch, frame).unwrap_err();
        assert!(refused.to_string().contains("at most 1048576"), "{refused}");
    }
}

#[test]
fn a_message_of_another_publisher_is_lines_of_the_host_in_its_subject() {
    let foreign = |subject: &str, payload: &'static str| {
        decode(&stream(), subject, None, payload.into(), MAX_DATA_BYTES).unwrap()
    };
    let lines = |host: &str, bytes: &'static str| Decoded::Foreign { host: host.into(), bytes: bytes.into() };
    assert_eq!(foreign("shipper", "hello"), lines("unknown", "hello\n"));
    assert_eq!(foreign("shipper.web1.app", "a\nb"), lines("web1", "a\nb\n"));
    assert_eq!(foreign("shipper.web1.app", ""), lines("web1", "\n"));
}

#[test]
fn a_header_that_lies_is_refused_with_the_reason() {
    for (from, to, reason) in [
        ("v=1", "v=2", "version `2`"),
        ("v=1 ", "", "no version"),
        ("end=108", "end=107", "claims 7 bytes and holds 8"),
        ("end=108", "end=99", "before its start"),
        ("end=108", "end=18446744073709551615", "claims 18446744073709551515 bytes and holds 8"),
        ("end=108 crc=", "end=18446744073709551615 zstd crc=", "at most 1048576"),
        ("end=108", "end=+108", "damaged: `end=+108`"),
        ("end=108", "end=108 end=108", "`end` is one too many"),
        ("end=108", "", "no `end`"),
        ("crc=fcac93a4", "crc=00000000", "not 00000000"),
        ("crc=fcac93a4", "crc=+cac93a4", "damaged"),
        ("crc=", "zstd crc=", "no zstd frame"),
        ("crc=", "verbatim crc=", "claims 8 bytes and holds 7"),
        ("crc=", "zstd verbatim crc=", "contradicts itself"),
        ("crc=", "loss=x crc=", "records a loss and has a payload"),
        ("path=/var", "path=/v%zz", "damaged"),
        ("path=/var", "path=/etc", "not the one of"),
        ("path=", "host=web2 path=", "`web2`"),
        ("epoch=0123456789abcdef", "epoch=1", "damaged"),
    ] {
        let refusal = refusal(from, to);
        assert!(refusal.contains(reason), "{from} → {to}: {refusal}");
    }
}

#[test]
fn unknown_fields_of_version_1_are_passed_over() {
    let batch = batch("one\n");
    let mut message = encode(&batch, Encoding::default());
    let extended = format!("{} colour=blue", value(&message));
    message.headers.insert("Fs-Batch", extended);
    assert_eq!(received(&batch, message), Ok(ours(&batch)));
}

#[test]
fn messages_of_several_logs_in_turn_are_each_its_own() {
    let (mut decoder, mut starts) = (Decoder::new(Subjects::new("s", None, false)), [0; 3]);
    let logs = [("web1", "/a", 1), ("web1", "/b", 1), ("web2", "/a", 2)];
    // Two of each in a row: the second is decoded in the short way.
    for number in [0, 0, 1, 1, 2, 2, 0, 1, 2, 2, 0] {
        let (host, path, epoch) = logs[number];
        let line = format!("line {number} at {}\n", starts[number]);
        let batch = Batch::data(Origin::new(host, path), Epoch(epoch), starts[number], line);
        let message = encode(&batch, Encoding { host: true, ..Encoding::default() });
        starts[number] = batch.end();
        let decoded = decoder.decode("s", Some(&message.headers), message.payload, MAX_DATA_BYTES);
        assert_eq!(decoded, Ok(ours(&batch)));
    }
}

#[test]
fn a_decoder_that_knows_a_log_refuses_what_a_new_one_does() {
    let (batch, subjects) = (batch("one\ntwo\n"), stream());
    let subject = subjects.publish(&batch.origin);
    let message = encode(&batch, Encoding::default());
    for (from, to) in [
        ("v=1", "v=2"),
        ("epoch=0", "epoch=x"),
        ("end=108", "end=107"),
        ("end=108", "end=99"),
        ("end=108", "end=+108"),
        ("start=100", "start="),
        ("start=100", "start=18446744073709551616"),
        ("crc=fcac93a4", "crc=00000000"),
        ("crc=fcac93a4", "crc=+cac93a4"),
        (" path=/var", " verbatim path=/var"),
        (" path=/var", " end=108 path=/var"),
        ("path=/var", "path=/etc"),
    ] {
        let forged = value(&message).replacen(from, to, 1);
        assert_ne!(forged, value(&message), "`{from}` is not in the header");
        let mut headers = HeaderMap::new();
        headers.insert("Fs-Batch", forged);
        let payload = message.payload.clone();
        let mut decoder = Decoder::new(subjects.clone());
        let known = decoder.decode(&subject, Some(&message.headers), payload.clone(), MAX_DATA_BYTES);
        assert_eq!(known, Ok(ours(&batch)));
        let refused = decoder.decode(&subject, Some(&headers), payload.clone(), MAX_DATA_BYTES).unwrap_err();
        let anew = decode(&subjects, &subject, Some(&headers), payload, MAX_DATA_BYTES).unwrap_err();
        assert_eq!(refused, anew, "{from} → {to}");
    }
    let elsewhere = decode(&subjects, "shipper.web2.x", Some(&message.headers), Bytes::new(), MAX_DATA_BYTES);
    let mut decoder = Decoder::new(subjects);
    decoder.decode(&subject, Some(&message.headers), message.payload, MAX_DATA_BYTES).unwrap();
    let refused = decoder.decode("shipper.web2.x", Some(&message.headers), Bytes::new(), MAX_DATA_BYTES);
    assert_eq!((refused.is_err(), &refused), (true, &elsewhere), "the subject counts");
}

#[test]
fn two_headers_are_refused() {
    let batch = batch("one\n");
    let mut message = encode(&batch, Encoding::default());
    let second = value(&message).to_owned();
    message.headers.append("Fs-Batch", second.as_str());
    assert!(received(&batch, message).is_err());
}

#[test]
fn a_frame_that_unpacks_to_more_than_it_claims_is_refused() {
    let batch = batch("a".repeat(8));
    let mut message = encode(&batch, Encoding::default());
    message.headers.insert("Fs-Batch", value(&message).replace("verbatim", "zstd"));
    message.payload = zstd::bulk::compress(&vec![b'a'; 10 << 20], 1).unwrap().into();
    assert!(received(&batch, message).unwrap_err().to_string().contains("no zstd frame of 8 bytes"));
}

#[test]
fn the_position_is_read_without_the_payload() {
    let (batch, subjects) = (batch("one\ntwo\n"), stream());
    let message = encode(&batch, Encoding::default());
    let subject = subjects.publish(&batch.origin);
    let described = headers_only(&subjects, &subject, Some(&message.headers)).unwrap().unwrap();
    assert_eq!((described.origin, described.epoch), (batch.origin.clone(), batch.epoch));
    assert_eq!((described.start, described.end, described.place), (100, 108, batch.place));
    assert_eq!(headers_only(&subjects, "shipper", Some(&HeaderMap::new())), Ok(None));
}

#[test]
fn lines_keep_their_offsets_and_empty_ones_survive() {
    let parts: Vec<_> = lines(batch("a\n\nbc\nd")).map(|part| (part.start, part.content)).collect();
    let data = |bytes: &'static str| Content::Data(bytes.into());
    assert_eq!(parts, [(100, data("a\n")), (102, data("\n")), (103, data("bc\n")), (106, data("d"))]);
}

#[test]
fn lines_encoded_together_are_what_each_would_be_alone() {
    let encoding = Encoding { host: true, ..Encoding::default() };
    let loss = Batch::loss(Origin::new("h", "/l"), Epoch(1), 5, 1000, "gone");
    for whole in [batch("a\n\nlonger than seven\nd"), batch("x\n"), loss] {
        let alone: Vec<_> = lines(whole.clone())
            .flat_map(|line| split(line, 7))
            .map(|part| encode(&part, encoding))
            .map(|message| (message.headers, message.payload))
            .collect();
        let together = encode_lines(whole, 7, encoding).map(|message| (message.headers, message.payload));
        assert_eq!(together.collect::<Vec<_>>(), alone);
    }
}

#[test]
fn a_loss_is_neither_split_nor_cut_into_lines() {
    let loss = Batch::loss(Origin::new("h", "/l"), Epoch(1), 5, 1000, "gone");
    assert_eq!(lines(loss.clone()).map(|part| part.span()).collect::<Vec<_>>(), [1000]);
    assert_eq!(split(loss, 10).map(|part| part.span()).collect::<Vec<_>>(), [1000]);
}

#[test]
fn splits_after_a_line_and_within_one_only_when_it_is_too_long() {
    let parts: Vec<_> = split(batch("aa\nbb\ncccccccc\n"), 6).map(|part| part.content).collect();
    let data = |bytes: &'static str| Content::Data(bytes.into());
    assert_eq!(parts, [data("aa\nbb\n"), data("cccccc"), data("cc\n")]);
}

proptest! {
    #[test]
    fn every_batch_survives(
        bytes in prop::collection::vec(any::<u8>(), 1..300),
        (host, path, place) in any::<(Vec<u8>, Vec<u8>, Vec<u8>)>(),
        start in 0..u64::MAX / 2,
        (zstd, max_bytes) in (any::<bool>(), 1..200usize),
    ) {
        let compression = if zstd { Compression::Zstd } else { Compression::None };
        let encoding = Encoding { compression, host: false };
        let whole = Batch::data(Origin::new(host, path), Epoch::random(), start, bytes.clone());
        let whole = Batch { place: place.into(), ..whole };
        let budget = header_bytes(&whole, encoding);
        let mut joined = Vec::new();
        for part in split(whole, max_bytes) {
            prop_assert_eq!(part.start, start + joined.len() as u64);
            prop_assert!(part.bytes().len() <= max_bytes);
            joined.extend_from_slice(part.bytes());
            let message = encode(&part, encoding);
            prop_assert!(message.payload.len() <= part.bytes().len());
            prop_assert!(HEADER_BLOCK_BYTES + "Fs-Batch".len() + value(&message).len() <= budget);
            prop_assert_eq!(received(&part, message), Ok(ours(&part)));
        }
        prop_assert_eq!(joined, bytes);
    }

    #[test]
    fn no_header_makes_it_panic(value in "[ -~]{0,80}", payload: Vec<u8>) {
        let mut headers = HeaderMap::new();
        headers.insert("Fs-Batch", format!("v=1 epoch=0000000000000001 crc=00000000 {value}"));
        let answer = decode(&stream(), "shipper", Some(&headers), payload.into(), MAX_DATA_BYTES);
        let foreign = matches!(answer, Ok(Decoded::Foreign { .. }));
        prop_assert!(!foreign);
    }
}

#[test]
fn how_far_a_log_was_published_before_stands_in_what_is_sent_again() {
    let (batch, subjects) =
        (Batch::data(Origin::new("h", "/l"), Epoch(1), 100, "one\ntwo\n"), Subjects::new("s", None, true));
    let subject = subjects.publish(&batch.origin);
    let reached = |reached| {
        let message = encode_again(&batch, Encoding::default(), reached);
        assert!(
            message.headers.get("Fs-Batch").unwrap().as_str().len()
                <= header_bytes(&batch, Encoding::default())
        );
        headers_only(&subjects, &subject, Some(&message.headers)).unwrap().unwrap().reached
    };
    assert_eq!(reached(Some(u64::MAX)), Some(u64::MAX));
    assert_eq!(reached(Some(108)), None, "it is there again");
    assert_eq!(reached(None), None);
}
