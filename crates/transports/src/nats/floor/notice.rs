//! What a consumer tells of one origin: [`Notice`]. The format stands in `docs/wire-format.md`; what that page says
//! and what this file does change together.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use fshipper_pipeline::{Epoch, Escaped, Origin};

use crate::nats::escape::{escape, unescape};
use crate::nats::subject::Subjects;

/// One origin's line in the commit floor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::nats) struct Notice {
    /// Whose bytes.
    pub(in crate::nats) origin: Origin,
    /// The history in which the offsets count.
    pub(in crate::nats) epoch: Epoch,
    /// Everything below is durable.
    pub(in crate::nats) end: u64,
    /// What is wanted besides.
    pub(in crate::nats) request: Option<Request>,
    /// Who says so: the same words from one run of a pipeline to the next.
    pub(in crate::nats) consumer: Arc<str>,
    /// When, in RFC 3339; for people.
    pub(in crate::nats) time: String,
    /// The source's place at `end`.
    pub(in crate::nats) place: Bytes,
}

/// Send the bytes again, everything from [`Notice::end`] on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::nats) struct Request {
    /// The first byte that is known to follow those that are missing.
    pub(in crate::nats) to: u64,
    /// Up to this sequence the stream was read in vain.
    pub(in crate::nats) read: u64,
}

/// Longer than any notice: a path of 4 KiB, all of it escaped, and as much for everything else.
const MAX_BYTES: usize = 32 << 10;

/// The text that is the payload.
impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { origin, epoch, end, request, consumer, time, place } = self;
        match request {
            None => write!(f, "v=1 epoch={epoch} end={end}")?,
            Some(Request { to, read }) => write!(f, "v=1 epoch={epoch} from={end} to={to} read={read}")?,
        }
        let escaped = |bytes: &[u8]| escape(bytes, '%', is_plain);
        let (consumer, path) = (escaped(consumer.as_bytes()), escaped(origin.path()));
        write!(f, " consumer={consumer} time={time} path={path}")?;
        if !place.is_empty() {
            write!(f, " place={}", escaped(place))?;
        }
        Ok(())
    }
}

impl Notice {
    /// Reads what [`Display`](fmt::Display) wrote. Keys may come in any order, and unknown ones are passed over:
    /// whatever changes the meaning raises the version.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub(in crate::nats) fn parse(subjects: &Subjects, subject: &str, payload: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(payload).ok().filter(|text| text.len() <= MAX_BYTES);
        let text = text.ok_or("it is no text, or too long")?;
        let field = |key: &str| {
            let mut values = text.split(' ').filter_map(|field| field.strip_prefix(key)?.strip_prefix('='));
            let value = values.next();
            if values.next().is_some() { Err(format!("it has `{key}` twice")) } else { Ok(value) }
        };
        let needed = |key: &str| field(key)?.ok_or_else(|| format!("it has no `{key}`"));
        let number = |key: &str| decimal(needed(key)?).ok_or_else(|| format!("its `{key}` is no number"));
        let bytes = |key: &str, value: Option<&str>| {
            unescape(value.unwrap_or_default(), b'%').ok_or_else(|| format!("its `{key}` is damaged"))
        };
        let version = needed("v")?;
        if version != "1" {
            return Err(format!(
                "it has the version `{}`, and this program knows 1",
                Escaped(version.as_bytes())
            ));
        }
        let path = bytes("path", Some(needed("path")?))?;
        let origin = subjects.origin_of(subject, &path, None)?;
        let epoch = hexadecimal(needed("epoch")?).ok_or("its `epoch` is no number of 16 digits")?;
        let (end, request) = match field("from")? {
            None => (number("end")?, None),
            Some(_) => {
                let (from, to, read) = (number("from")?, number("to")?, number("read")?);
                if to < from {
                    return Err(format!("it asks for the bytes from {from} to {to}"));
                }
                (from, Some(Request { to, read }))
            }
        };
        let consumer = Escaped(&bytes("consumer", field("consumer")?)?).to_string().into();
        let time = Escaped(field("time")?.unwrap_or_default().as_bytes()).to_string();
        let place = bytes("place", field("place")?)?.into();
        Ok(Self { origin, epoch: Epoch(epoch), end, request, consumer, time, place })
    }
}

fn decimal(text: &str) -> Option<u64> {
    text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
}

fn hexadecimal(text: &str) -> Option<u64> {
    let valid = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    u64::from_str_radix(text, 16).ok().filter(|_| valid)
}

/// Printable ASCII except the space, which separates fields, and the marker itself.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_graphic() && byte != b'%'
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn subjects() -> Subjects {
        Subjects::new("shipper-floor", None, true)
    }

    fn notice() -> Notice {
        Notice {
            origin: Origin::new("web1", "/var/log/app.log"),
            epoch: Epoch(0x0123_4567_89ab_cdef),
            end: 108,
            request: None,
            consumer: "central/consumer".into(),
            time: "2026-11-23T04:05:30.130Z".to_owned(),
            place: "g=1".into(),
        }
    }

    fn parse(text: &str) -> Result<Notice, String> {
        Notice::parse(&subjects(), "shipper-floor.web1.app=2Elog-5e1ffe1aabd36f6a", text.as_bytes())
    }

    #[test]
    fn version_1_is_pinned() {
        let page = include_str!("../../../../../docs/wire-format.md");
        let request = Notice { request: Some(Request { to: 200, read: 4711 }), ..notice() };
        for (notice, text) in [
            (
                notice(),
                "v=1 epoch=0123456789abcdef end=108 consumer=central/consumer time=2026-11-23T04:05:30.130Z \
                 path=/var/log/app.log place=g=1",
            ),
            (
                request,
                "v=1 epoch=0123456789abcdef from=108 to=200 read=4711 consumer=central/consumer \
                 time=2026-11-23T04:05:30.130Z path=/var/log/app.log place=g=1",
            ),
        ] {
            assert_eq!(notice.to_string(), text);
            assert_eq!(parse(text), Ok(notice));
            assert!(page.contains(text), "the page shows {text}");
        }
        assert_eq!(subjects().publish(&notice().origin), "shipper-floor.web1.app=2Elog-5e1ffe1aabd36f6a");
    }

    #[test]
    fn what_is_not_consistent_is_refused() {
        let good = notice().to_string();
        for (wrong, reason) in [
            (good.replace("v=1", "v=2"), "version `2`"),
            (good.replace("v=1 ", ""), "no `v`"),
            (good.replace("end=108", "end=+1"), "`end` is no number"),
            (good.replace("end=108", "end=1 end=2"), "`end` twice"),
            (good.replace("epoch=0", "epoch="), "`epoch`"),
            (good.replace("end=108", "from=9 to=8 read=1"), "from 9 to 8"),
            (good.replace("end=108", "from=9"), "no `to`"),
            (good.replace("app.log", "other.log"), "not the one of"),
            (good.replace("app.log", "%G"), "`path` is damaged"),
            ("x".repeat(MAX_BYTES + 1), "too long"),
        ] {
            let error = parse(&wrong).unwrap_err();
            assert!(error.contains(reason), "{wrong}: {error}");
        }
    }

    proptest! {
        #[test]
        fn every_notice_survives(host: Vec<u8>, path: Vec<u8>, place: Vec<u8>, end: u64, asks: bool) {
            let request = asks.then_some(Request { to: end, read: end });
            let notice =
                Notice { origin: Origin::new(host, path), place: place.into(), end, request, ..notice() };
            let subject = subjects().publish(&notice.origin);
            prop_assert_eq!(Notice::parse(&subjects(), &subject, notice.to_string().as_bytes()), Ok(notice));
        }
    }
}
