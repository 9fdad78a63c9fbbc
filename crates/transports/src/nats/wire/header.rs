//! The text of the one header: [`Common::header_value`] writes it, [`parse_header`] reads it.

use std::ops::Range;

use fshipper_pipeline::{Batch, Epoch, Escaped};

use super::Described;
use crate::nats::escape::{escape, unescape};
use crate::nats::subject::Subjects;

/// What was done to the data to make the payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// They end with a newline, which was taken off.
    Lines,
    /// Nothing: they end within a line.
    Verbatim,
    /// One zstd frame of them.
    Zstd,
    /// There are none.
    Loss(String),
}

/// `u64::MAX` in decimal.
const MAX_DECIMAL_BYTES: usize = 20;

/// What positions, CRC and form take at most, except in the record of a loss.
pub(super) const POSITION_BYTES: usize =
    "18446744073709551615 end=18446744073709551615 crc=00000000 verbatim".len();

/// What the field `reached` takes at most.
pub(super) const REACHED_BYTES: usize = " reached=18446744073709551615".len();

/// What the headers of all parts of one batch share.
pub(super) struct Common {
    /// Up to the value of `start`.
    pub(super) front: String,
    /// All after `crc` and the form.
    pub(super) rest: String,
}

impl Common {
    pub(super) fn of(batch: &Batch, with_host: bool) -> Self {
        let mut rest = String::new();
        let mut add = |key: &str, bytes: &[u8]| {
            rest.push_str(key);
            rest.push_str(&escape(bytes, '%', is_plain));
        };
        if with_host {
            add(" host=", batch.origin.host());
        }
        add(" path=", batch.origin.path());
        if !batch.place.is_empty() {
            add(" place=", &batch.place);
        }
        Self { front: format!("v=1 epoch={} start=", batch.epoch), rest }
    }

    pub(super) fn header_value(&self, span: Range<u64>, crc32c: u32, form: &Form) -> String {
        let mut value = String::with_capacity(self.front.len() + POSITION_BYTES + self.rest.len());
        value.push_str(&self.front);
        push_decimal(&mut value, span.start);
        value.push_str(" end=");
        push_decimal(&mut value, span.end);
        value.push_str(" crc=");
        push_hexadecimal(&mut value, crc32c);
        match form {
            Form::Lines => {}
            Form::Verbatim => value.push_str(" verbatim"),
            Form::Zstd => value.push_str(" zstd"),
            Form::Loss(reason) => {
                value.push_str(" loss=");
                value.push_str(&escape(reason.as_bytes(), '%', is_plain));
            }
        }
        value.push_str(&self.rest);
        value
    }
}

/// What the standard library's formatting costs is felt where every line has a header.
fn push_decimal(text: &mut String, number: u64) {
    let mut digits = [0; MAX_DECIMAL_BYTES];
    let (mut rest, mut first) = (number, digits.len());
    loop {
        first -= 1;
        digits[first] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    text.extend(digits[first..].iter().copied().map(char::from));
}

fn push_hexadecimal(text: &mut String, number: u32) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits: [u8; 8] = std::array::from_fn(|index| DIGITS[(number >> (28 - 4 * index)) as usize & 15]);
    text.extend(digits.map(char::from));
}

/// Reads what [`Common::header_value`] wrote. Keys may come in any order, and unknown ones are passed over: whatever
/// changes the meaning of a message raises the version.
pub(super) fn parse_header(subjects: &Subjects, subject: &str, value: &str) -> Result<Described, String> {
    let mut fields = Fields::default();
    for field in value.split(' ') {
        let (key, text) = field.split_once('=').unwrap_or((field, ""));
        fields.set(key, text)?;
    }
    let version = fields.version.ok_or("its header names no version")?;
    if version != "1" {
        let version = Escaped(version.as_bytes());
        return Err(format!("its header has the version `{version}`, and this program knows 1: update it"));
    }
    let path = bytes_of("path", fields.path.ok_or_else(|| missing("path"))?)?;
    let host = fields.host.map(|host| bytes_of("host", host)).transpose()?;
    let origin = subjects.origin_of(subject, &path, host.as_deref())?;
    let epoch = Epoch(hexadecimal("epoch", 16, fields.epoch)?);
    let start = decimal("start", fields.start)?;
    let end = decimal("end", fields.end)?;
    let crc32c = hexadecimal("crc", 8, fields.crc)? as u32;
    let place = bytes_of("place", fields.place.unwrap_or_default())?.into();
    let reached = fields.reached.map(|reached| decimal("reached", Some(reached))).transpose()?;
    if end < start {
        return Err(format!("its header says that it ends at {end}, before its start at {start}"));
    }
    let (reached, form) = (reached.filter(|&reached| reached > end), fields.form.unwrap_or(Form::Lines));
    Ok(Described { origin, epoch, start, end, place, reached, crc32c, form })
}

/// The fields of a header as they stand there.
#[derive(Default)]
struct Fields<'a> {
    version: Option<&'a str>,
    epoch: Option<&'a str>,
    start: Option<&'a str>,
    end: Option<&'a str>,
    crc: Option<&'a str>,
    host: Option<&'a str>,
    path: Option<&'a str>,
    place: Option<&'a str>,
    reached: Option<&'a str>,
    form: Option<Form>,
}

impl<'a> Fields<'a> {
    fn set(&mut self, key: &str, text: &'a str) -> Result<(), String> {
        let twice = match key {
            "v" => self.version.replace(text).is_some(),
            "epoch" => self.epoch.replace(text).is_some(),
            "start" => self.start.replace(text).is_some(),
            "end" => self.end.replace(text).is_some(),
            "crc" => self.crc.replace(text).is_some(),
            "host" => self.host.replace(text).is_some(),
            "path" => self.path.replace(text).is_some(),
            "place" => self.place.replace(text).is_some(),
            "reached" => self.reached.replace(text).is_some(),
            "verbatim" => self.form.replace(Form::Verbatim).is_some(),
            "zstd" => self.form.replace(Form::Zstd).is_some(),
            "loss" => {
                let reason = bytes_of("loss", text)?;
                self.form.replace(Form::Loss(Escaped(&reason).to_string())).is_some()
            }
            _ => false,
        };
        if twice { Err(format!("its header contradicts itself: `{key}` is one too many")) } else { Ok(()) }
    }
}

fn missing(key: &str) -> String {
    format!("its header has no `{key}`")
}

fn malformed(key: &str, text: &str) -> String {
    format!("its header is damaged: `{key}={}`", Escaped(text.as_bytes()))
}

fn bytes_of(key: &str, text: &str) -> Result<Vec<u8>, String> {
    unescape(text, b'%').ok_or_else(|| malformed(key, text))
}

fn decimal(key: &str, text: Option<&str>) -> Result<u64, String> {
    let text = text.ok_or_else(|| missing(key))?;
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits).ok_or_else(|| malformed(key, text))
}

pub(super) fn hexadecimal(key: &str, digits: usize, text: Option<&str>) -> Result<u64, String> {
    let text = text.ok_or_else(|| missing(key))?;
    let valid = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    u64::from_str_radix(text, 16).ok().filter(|_| valid).ok_or_else(|| malformed(key, text))
}

/// Printable ASCII except the space, which separates fields, and the marker itself.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_graphic() && byte != b'%'
}
