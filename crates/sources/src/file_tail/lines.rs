//! Where a batch may be cut: behind a line, or before an event of several lines: [`Lines`].
//!
//! Bytes travel as they are: an encoding only says which of them end a line, and a pattern which lines belong
//! together. All positions are those of the file, so that two-byte characters are met at their first byte
//! wherever a block begins.

use std::borrow::Cow;
use std::time::Duration;

use regex::bytes::Regex;
use schemars::JsonSchema;
use serde::Deserialize;

/// How the characters of a file are encoded, as far as it matters where lines end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum Encoding {
    /// A line ends with the byte 0A: UTF-8, and any other encoding that extends ASCII.
    #[default]
    #[serde(rename = "utf-8")]
    Utf8,
    /// A line ends with 0A 00.
    #[serde(rename = "utf-16le")]
    Utf16Le,
    /// A line ends with 00 0A.
    #[serde(rename = "utf-16be")]
    Utf16Be,
}

/// How a file is divided.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lines {
    pub(crate) encoding: Encoding,
    pub(crate) events: Option<Events>,
}

/// Which lines belong together.
#[derive(Clone, Debug)]
pub(crate) struct Events {
    pub(crate) pattern: Regex,
    /// Whether a line that matches begins an event; else it continues the one before.
    pub(crate) match_begins: bool,
    /// An event that has not grown for so long is taken for complete.
    pub(crate) timeout: Duration,
}

impl Encoding {
    /// How many bytes the smallest character has.
    pub(crate) fn width(self) -> usize {
        match self {
            Self::Utf8 => 1,
            Self::Utf16Le | Self::Utf16Be => 2,
        }
    }

    /// How much of `length` bytes from `position` on are whole characters.
    pub(crate) fn whole(self, position: u64, length: usize) -> usize {
        let end = position + length as u64;
        length.saturating_sub((end % self.width() as u64) as usize)
    }

    /// Behind the last line end in `data`, which stands at `position` of the file.
    pub(crate) fn last_end(self, data: &[u8], position: u64) -> Option<usize> {
        match self {
            Self::Utf8 => memchr::memrchr(b'\n', data).map(|newline| newline + 1),
            Self::Utf16Le | Self::Utf16Be => {
                memchr::memrchr_iter(b'\n', data).find_map(|at| self.end_at(data, position, at))
            }
        }
    }

    /// Behind the line end of which the byte at `at`, an 0A, is a part.
    fn end_at(self, data: &[u8], position: u64, at: usize) -> Option<usize> {
        let is_even = (position + at as u64).is_multiple_of(2);
        match self {
            Self::Utf8 => Some(at + 1),
            Self::Utf16Le => (is_even && data.get(at + 1) == Some(&0)).then_some(at + 2),
            Self::Utf16Be => (!is_even && at > 0 && data[at - 1] == 0).then_some(at + 1),
        }
    }

    /// A line without its end, as a pattern sees it.
    fn text(self, line: &[u8]) -> Cow<'_, [u8]> {
        let decode = |unit: fn([u8; 2]) -> u16| {
            let units = line.chunks_exact(2).map(|pair| unit([pair[0], pair[1]]));
            let text: String =
                char::decode_utf16(units).map(|found| found.unwrap_or(char::REPLACEMENT_CHARACTER)).collect();
            let text = text.trim_start_matches('\u{feff}').trim_end_matches('\n').trim_end_matches('\r');
            Cow::Owned(text.as_bytes().to_vec())
        };
        match self {
            Self::Utf8 => {
                let line = line.strip_suffix(b"\n").unwrap_or(line);
                Cow::Borrowed(line.strip_suffix(b"\r").unwrap_or(line))
            }
            Self::Utf16Le => decode(u16::from_le_bytes),
            Self::Utf16Be => decode(u16::from_be_bytes),
        }
    }
}

impl Lines {
    /// Where the last event in `data`, which stands at `position` of the file, begins; only whole lines are
    /// looked at, the last ones first, and only those that begin at `lowest` or later.
    pub(crate) fn last_event(&self, data: &[u8], position: u64, lowest: usize) -> Option<usize> {
        let events = self.events.as_ref()?;
        let mut end = self.encoding.last_end(data, position)?;
        loop {
            let before = &data[..end.saturating_sub(self.encoding.width())];
            let begin = self.encoding.last_end(before, position).unwrap_or(0);
            if begin < lowest || end == 0 {
                return None;
            }
            if events.begin_with(&self.encoding.text(&data[begin..end])) {
                return Some(begin);
            }
            if begin == 0 {
                return None;
            }
            end = begin;
        }
    }

    /// How long an event may stay as it is before it counts as complete.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        self.events.as_ref().map(|events| events.timeout)
    }
}

impl Events {
    fn begin_with(&self, line: &[u8]) -> bool {
        #[cfg(test)]
        COMPARISONS.with(|count| count.set(count.get() + 1));
        self.pattern.is_match(line) == self.match_begins
    }
}

#[cfg(test)]
thread_local! {
    /// How many lines this thread has compared with a pattern.
    pub(crate) static COMPARISONS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utf16(text: &str, encoding: Encoding) -> Vec<u8> {
        let bytes = |unit: u16| match encoding {
            Encoding::Utf16Be => unit.to_be_bytes(),
            _ => unit.to_le_bytes(),
        };
        text.encode_utf16().flat_map(bytes).collect()
    }

    fn lines(pattern: &str, match_begins: bool, encoding: Encoding) -> Lines {
        let pattern = Regex::new(pattern).unwrap();
        Lines { encoding, events: Some(Events { pattern, match_begins, timeout: Duration::from_secs(1) }) }
    }

    #[test]
    fn a_line_of_two_byte_characters_ends_on_an_even_position_only() {
        use Encoding::{Utf16Be, Utf16Le};
        // U+0A00 and U+000A next to characters whose bytes look like halves of a line end.
        for encoding in [Utf16Le, Utf16Be] {
            let data = utf16("a\u{0a00}\u{0a0a}\u{000d}\nb\u{0a00}", encoding);
            assert_eq!(encoding.last_end(&data, 0), Some(10), "{encoding:?}");
            assert_eq!(encoding.last_end(&data, 1000), Some(10), "{encoding:?}");
            assert_eq!(encoding.last_end(&data[1..], 1), Some(9), "{encoding:?}");
            assert_eq!(encoding.last_end(&data[..9], 0), None, "half of it: {encoding:?}");
            assert_eq!(encoding.last_end(&utf16("\u{0a00}\u{0a0a}\u{0100}\u{0a01}", encoding), 0), None);
        }
        assert_eq!((Utf16Le.whole(0, 7), Utf16Le.whole(1, 7), Utf16Le.whole(3, 2)), (6, 7, 1));
        assert_eq!(Encoding::Utf8.whole(1, 7), 7);
    }

    #[test]
    fn the_last_event_begins_at_its_first_line() {
        let text = "2026 one\n  at a\n  at b\n2027 two\r\n  at c\n  at d";
        for encoding in [Encoding::Utf8, Encoding::Utf16Le, Encoding::Utf16Be] {
            let data =
                if encoding == Encoding::Utf8 { text.as_bytes().to_vec() } else { utf16(text, encoding) };
            let at = |text_position: usize| text_position * encoding.width();
            for rule in [lines(r"^\d{4} ", true, encoding), lines(r"^\s", false, encoding)] {
                assert_eq!(rule.last_event(&data, 0, 1), Some(at(23)), "{encoding:?}");
                assert_eq!(rule.last_event(&data, 0, at(23)), Some(at(23)));
                assert_eq!(rule.last_event(&data, 0, at(24)), None, "judged before");
                assert_eq!(rule.last_event(&data[..at(20)], 0, 0), Some(0));
                assert_eq!(rule.last_event(&data[..at(20)], 0, 1), None);
            }
        }
        let rule = lines("two$", true, Encoding::Utf8);
        assert_eq!(rule.last_event(text.as_bytes(), 0, 0), Some(23), "a line end is no part of a line");
        assert_eq!(rule.last_event(b"", 0, 0), None);
        assert_eq!(rule.last_event(b"two", 0, 0), None, "it may go on");
        assert_eq!(rule.last_event(b"\n\n\n", 0, 0), None);
    }
}
