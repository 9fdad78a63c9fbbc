//! Text that nobody vouches for, as one component of a path: [`component`].
//!
//! A host name or a file name comes off the wire. Whatever bytes it holds, what it becomes here
//!
//! - is one component: not empty, no slash, no NUL, neither `.` nor `..`, at most the given length;
//! - tells one value from every other, byte for byte: neither case nor Unicode normalisation is touched;
//! - is safe in a terminal, in `rm *` and in `cat *`: no control characters, no leading `.`, `-` or space;
//! - never holds a `~`, and never begins with `.fshipper`: those are this sink's own;
//! - is the value itself for ordinary names: `web1.example.net`, `10.0.0.1`, `app.log`, `error_log`, `größe`.
//!
//! | in the value | becomes |
//! | --- | --- |
//! | `%` `~` `\` `/`, control characters, marks that reorder or break a line, bytes that are no UTF-8 | `%XX` for each byte |
//! | a first `.`, `-` or space; a last `.` or space | `%XX` |
//! | the last dot of a [guarded](component) value that ends as if this sink had numbered, stamped or compressed it | `%2E` |
//! | nothing at all | `%empty` |
//! | more than fits | as much as fits, `%-`, 16 hexadecimal digits of the value's hash |
//!
//! A `%` is followed by two upper case hexadecimal digits, or by `-` or `empty`, which never mix: what is
//! not shortened can be read back. The hash is no secret and no proof: whoever makes two long values
//! collide on purpose gets two origins that render to one path, which the sink tells apart as it does others.

use std::fmt::Write;

/// What an empty value becomes.
const EMPTY: &str = "%empty";

/// What stands between the beginning of a shortened value and its hash.
const SHORTENED: &str = "%-";

/// Digits of a 64-bit hash.
const HASH_DIGITS: usize = 16;

/// The least room in which a value keeps something of its own next to its hash.
pub(super) const MIN_COMPONENT_BYTES: usize = 2 * (SHORTENED.len() + HASH_DIGITS);

/// `value` as one component of a path of at most `limit` bytes, at least [`MIN_COMPONENT_BYTES`].
///
/// `guarded`: the component ends where the value does, or as good as, so that `app.log.1` could be taken
/// for the first part of a rotated `app.log`: its last dot is escaped. Addresses keep theirs: what could be
/// numbered into `10.0.0.1` is `10.0.0`, and that is escaped.
pub(super) fn component(value: &[u8], limit: usize, guarded: bool) -> String {
    if value.is_empty() {
        return EMPTY.to_owned();
    }
    let mut encoded = String::with_capacity(value.len());
    // How much can be kept when all does not fit: it ends with a whole character or a whole escape.
    let mut kept = 0;
    for (index, unit) in units(value) {
        let end = index + unit.bytes.len();
        let outermost = index == 0 && matches!(unit.bytes, b"." | b"-" | b" ")
            || end == value.len() && matches!(unit.bytes, b"." | b" ");
        match unit.plain {
            Some(character) if !outermost => encoded.push(character),
            _ => escape(&mut encoded, unit.bytes),
        }
        if encoded.len() + SHORTENED.len() + HASH_DIGITS <= limit {
            kept = encoded.len();
        }
    }
    let guarded = if guarded && !is_address(value) { without_own_ending(&encoded) } else { None };
    if guarded.as_ref().unwrap_or(&encoded).len() > limit {
        return shortened(&encoded[..kept], value);
    }
    guarded.unwrap_or(encoded)
}

/// The beginning of a value, already encoded, and the hash of all of it.
pub(super) fn shortened(beginning: &str, value: &[u8]) -> String {
    format!("{beginning}{SHORTENED}{:016x}", fnv1a_64(value))
}

/// The 64-bit FNV-1a hash.
pub(super) fn fnv1a_64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// The 32-bit FNV-1a hash.
pub(super) fn fnv1a_32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, &byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// A character, or a byte that is part of none.
struct Unit<'a> {
    bytes: &'a [u8],
    /// The character, when it may stand for itself.
    plain: Option<char>,
}

/// The units of `value`, each with where it begins.
fn units(value: &[u8]) -> impl Iterator<Item = (usize, Unit<'_>)> {
    let mut start = 0;
    let units = value.utf8_chunks().flat_map(|chunk| {
        let text = chunk.valid();
        let characters = text.char_indices().map(move |(index, character)| {
            let bytes = &text.as_bytes()[index..index + character.len_utf8()];
            Unit { bytes, plain: (!must_be_escaped(character)).then_some(character) }
        });
        characters.chain(chunk.invalid().chunks(1).map(|bytes| Unit { bytes, plain: None }))
    });
    units.map(move |unit| {
        let index = start;
        start += unit.bytes.len();
        (index, unit)
    })
}

/// What would break a path, an escape or the reader of a directory listing.
fn must_be_escaped(character: char) -> bool {
    character.is_control()
        || matches!(character, '%' | '~' | '\\' | '/')
        || matches!(character, '\u{feff}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(character, '\u{2066}'..='\u{2069}')
}

fn escape(encoded: &mut String, bytes: &[u8]) {
    for byte in bytes {
        write!(encoded, "%{byte:02X}").expect("a string takes everything");
    }
}

/// The same with its last dot escaped, if it ends like `.1`, `.20261123T000000` or `.gz`.
fn without_own_ending(encoded: &str) -> Option<String> {
    let (before, ending) = encoded.rsplit_once('.')?;
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    // The time may go on in what follows the value.
    let stamped = || {
        let parts = ending.split_once('T');
        parts.is_some_and(|(date, time)| !date.is_empty() && digits(date) && digits(time))
    };
    (ending == "gz" || digits(ending) || stamped()).then(|| format!("{before}%2E{ending}"))
}

/// Whether `value` is an IPv4 address, as hosts without a name are called.
fn is_address(value: &[u8]) -> bool {
    str::from_utf8(value).is_ok_and(|text| text.parse::<std::net::Ipv4Addr>().is_ok())
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    fn check(cases: &[(&[u8], &str)]) {
        for (value, expected) in cases {
            assert_eq!(component(value, 200, true), *expected, "{}", value.escape_ascii());
        }
    }

    #[test]
    fn ordinary_names_stay_as_they_are() {
        let names = [
            "web1.example.net",
            "app.log",
            "nginx-access_log",
            "10.0.0.1",
            "fe80::1",
            "größe.log",
            "a b",
            "x+y@z",
        ];
        for name in names {
            check(&[(name.as_bytes(), name)]);
        }
    }

    #[test]
    fn nothing_leaves_its_folder() {
        check(&[
            (b"", "%empty"),
            (b".", "%2E"),
            (b"..", "%2E%2E"),
            (b"../../etc/passwd", "%2E.%2F..%2Fetc%2Fpasswd"),
            (b"/abs", "%2Fabs"),
            (b"a\0b", "a%00b"),
            (b".fshipper", "%2Efshipper"),
        ]);
    }

    #[test]
    fn escapes_what_terminals_and_shells_obey() {
        check(&[
            (b"a\nb", "a%0Ab"),
            (b"\x1b[31m", "%1B[31m"),
            (b"\x7f", "%7F"),
            (b"a\\b", "a%5Cb"),
            ("\u{85}\u{202e}gpj.exe".as_bytes(), "%C2%85%E2%80%AEgpj.exe"),
            (b"-rf", "%2Drf"),
            (b" a ", "%20a%20"),
            (b"a.", "a%2E"),
            (b"~root", "%7Eroot"),
            (b"\xffa\xc3", "%FFa%C3"),
        ]);
    }

    #[test]
    fn similar_values_stay_apart() {
        check(&[
            (b"a.b", "a.b"),
            (b"a_b", "a_b"),
            (b"a%2eb", "a%252eb"),
            (b"a%2Eb", "a%252Eb"),
            (b"A.b", "A.b"),
        ]);
        // Composed and decomposed.
        assert_ne!(component("é".as_bytes(), 200, false), component("e\u{301}".as_bytes(), 200, false));
    }

    #[test]
    fn only_guarded_values_lose_an_ending_of_ours() {
        check(&[
            (b"app.log.1", "app.log%2E1"),
            (b"app.log.gz", "app.log%2Egz"),
            (b"app.20261123T000000", "app%2E20261123T000000"),
            (b"10.0.0", "10.0%2E0"),
            (b"v1.2-rc", "v1.2-rc"),
            (b"unit.T", "unit.T"),
        ]);
        assert_eq!(component(b"app.log.1", 200, false), "app.log.1");
    }

    #[test]
    fn long_values_are_shortened_and_stay_apart() {
        let (one, other) = ([b'a'; 5_000], [b'a'; 5_001]);
        let (one, other) = (component(&one, 200, true), component(&other, 200, true));
        assert_ne!(one, other);
        assert_eq!((one.len(), other.len()), (200, 200));
        assert!(one.starts_with("aaaa") && one[182..].starts_with("%-"), "{one}");
        assert_eq!(component(&[b'a'; 200], 200, true), "a".repeat(200));
        // Only the escape makes it too long.
        assert!(component(&[&[b'1'; 100], &b"."[..], &[b'1'; 98]].concat(), 200, true).contains("1%-"));
        assert_eq!(component("ü".repeat(300).as_bytes(), 201, true).len(), 200);
    }

    #[test]
    fn hashes_are_fnv_1a() {
        assert_eq!((fnv1a_32(b""), fnv1a_32(b"foobar")), (0x811c_9dc5, 0xbf9c_f968));
        assert_eq!((fnv1a_64(b""), fnv1a_64(b"foobar")), (0xcbf2_9ce4_8422_2325, 0x8594_4171_f739_67e8));
    }

    /// The value that was encoded; `None` when it was shortened.
    fn decode(encoded: &str) -> Option<Vec<u8>> {
        if encoded == EMPTY {
            return Some(Vec::new());
        }
        let mut parts = encoded.split('%');
        let mut value = parts.next()?.as_bytes().to_vec();
        for part in parts {
            value.push(u8::from_str_radix(part.get(..2)?, 16).ok()?);
            value.extend_from_slice(&part.as_bytes()[2..]);
        }
        Some(value)
    }

    /// Bytes that mean something to the encoding, so that they meet more often than by chance.
    fn telling_bytes() -> impl Strategy<Value = Vec<u8>> {
        let fragments: Vec<&[u8]> = vec![
            b".",
            b"..",
            b"/",
            b"%",
            b"%2E",
            b"%-",
            b"%empty",
            b"~",
            b"-",
            b" ",
            b"gz",
            b"1",
            b"T",
            b"10.0.0.1",
            b"\0",
            b"\xc3",
            b"\xbc",
            b"\xe2\x80\xae",
            b"\x7f",
            b"a",
            b".fshipper",
            "ü".as_bytes(),
        ];
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..260),
            prop::collection::vec(prop::sample::select(fragments), 0..60).prop_map(|parts| parts.concat()),
        ]
    }

    proptest! {
        #[test]
        fn every_value_is_one_confined_component(
            value in telling_bytes(), limit in MIN_COMPONENT_BYTES..=200, guarded: bool,
        ) {
            let encoded = component(&value, limit, guarded);
            prop_assert!(!encoded.is_empty() && encoded.len() <= limit, "{encoded}");
            prop_assert!(!encoded.contains(['/', '\0', '~', '\n']) && !encoded.chars().any(char::is_control));
            prop_assert!(!encoded.starts_with(['.', '-', ' ']) && !encoded.ends_with(['.', ' ']), "{encoded}");
        }

        #[test]
        fn what_is_not_shortened_can_be_read_back(value in telling_bytes(), guarded: bool) {
            let encoded = component(&value, usize::MAX, guarded);
            prop_assert_eq!(decode(&encoded), Some(value), "{}", encoded);
        }

        #[test]
        fn no_two_values_are_encoded_alike(
            values in prop::collection::vec(telling_bytes(), 50), limit in MIN_COMPONENT_BYTES..=60, guarded: bool,
        ) {
            let mut seen = HashMap::new();
            for value in values {
                let encoded = component(&value, limit, guarded);
                let other = seen.insert(encoded.clone(), value.clone());
                prop_assert!(other.is_none_or(|other| other == value), "{encoded}");
            }
        }
    }
}
