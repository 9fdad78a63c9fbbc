//! What travels with each batch so that the source finds its place again: [`Place`].
//!
//! ```text
//! v1 base=1200 skip=0 end=1500 fp=1024:0123456789abcdef mark=64:0123456789abcdef over lost=0123456789abcdef
//! ```
//!
//! It is opaque to everybody else. With it a source that has lost its state directory still knows the file.

use fshipper_pipeline::Bytes;

use super::identity::{Fingerprint, Marker};

/// Where a batch ended, in terms of the file it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The offset of the first byte that was read of the file.
    pub(crate) base: u64,
    /// How many bytes at the file's beginning do not belong to the origin.
    pub(crate) skip: u64,
    /// The offset that the marker belongs to.
    pub(crate) end: u64,
    /// The file's first bytes.
    pub(crate) fingerprint: Fingerprint,
    /// The bytes before `end`; `None` when they are gone.
    pub(crate) marker: Option<Marker>,
    /// Nothing more comes of this file.
    pub(crate) over: bool,
    /// The last loss of unknown length that was recorded before `end`, or by this batch.
    pub(crate) lost: Option<u64>,
}

impl Place {
    /// As printable ASCII, at most about 160 bytes.
    pub(crate) fn encode(&self) -> Bytes {
        let Self { base, skip, end, fingerprint, .. } = self;
        let mut text = format!(
            "v1 base={base} skip={skip} end={end} fp={}:{:016x}",
            fingerprint.length, fingerprint.hash
        );
        if let Some(marker) = self.marker {
            text += &format!(" mark={}:{:016x}", marker.length, marker.hash);
        }
        if self.over {
            text += " over";
        }
        if let Some(lost) = self.lost {
            text += &format!(" lost={lost:016x}");
        }
        // It is kept for as long as the log is, and there may be thousands of logs.
        Bytes::from(text.into_boxed_str().into_boxed_bytes())
    }

    /// Reads what [`Place::encode`] wrote; `None` for anything else. Words it does not know are passed over,
    /// so that a later version can add some.
    pub(crate) fn decode(text: &[u8]) -> Option<Self> {
        let mut words = std::str::from_utf8(text).ok()?.split(' ');
        if words.next() != Some("v1") {
            return None;
        }
        let (mut base, mut skip, mut end, mut fingerprint) = (None, None, None, None);
        let (mut marker, mut over, mut lost) = (None, false, None);
        for word in words {
            match word.split_once('=') {
                Some(("base", value)) => base = Some(value.parse().ok()?),
                Some(("skip", value)) => skip = Some(value.parse().ok()?),
                Some(("end", value)) => end = Some(value.parse().ok()?),
                Some(("fp", value)) => fingerprint = Some(decode_fingerprint(value)?),
                Some(("mark", value)) => marker = Some(decode_marker(value)?),
                Some(("lost", value)) => lost = Some(u64::from_str_radix(value, 16).ok()?),
                None if word == "over" => over = true,
                _ => {}
            }
        }
        let (base, end) = (base?, end?);
        let (skip, fingerprint) = (skip?, fingerprint?);
        (base <= end).then_some(Self { base, skip, end, fingerprint, marker, over, lost })
    }
}

/// `length:hash`, the hash in hexadecimal.
pub(crate) fn decode_fingerprint(text: &str) -> Option<Fingerprint> {
    let (length, hash) = text.split_once(':')?;
    Some(Fingerprint { length: length.parse().ok()?, hash: u64::from_str_radix(hash, 16).ok()? })
}

/// `length:hash`, the hash in hexadecimal.
pub(crate) fn decode_marker(text: &str) -> Option<Marker> {
    let (length, hash) = text.split_once(':')?;
    Some(Marker { length: length.parse().ok()?, hash: u64::from_str_radix(hash, 16).ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_the_round_trip() {
        let mut place = Place {
            base: 1200,
            skip: 3,
            end: u64::MAX,
            fingerprint: Fingerprint::of(b"head"),
            marker: Some(Marker::of(b"tail")),
            over: false,
            lost: Some(u64::MAX),
        };
        assert_eq!(Place::decode(&place.encode()), Some(place));
        place.over = true;
        let text = place.encode();
        assert_eq!(Place::decode(&text), Some(place));
        (place.marker, place.lost) = (None, None);
        assert_eq!(Place::decode(&place.encode()), Some(place));
        assert!(text.len() < 200 && text.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' '));
    }

    #[test]
    fn anything_else_is_no_place() {
        for text in [
            "",
            "v2 base=0 skip=0 end=0 fp=0:0",
            "v1 base=0 skip=0",
            "v1 base=9 skip=0 end=1 fp=0:0",
            "\u{7f}",
        ] {
            assert_eq!(Place::decode(text.as_bytes()), None, "{text:?}");
        }
        assert!(Place::decode(b"v1 base=0 skip=0 end=5 fp=1:ff zone=7 later").is_some());
    }
}
