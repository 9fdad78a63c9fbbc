//! Raw bytes as printable ASCII, and back.

/// Writes each byte that `keep` does not allow as `marker` and two upper-case hexadecimal digits.
///
/// Injective as long as `keep` does not allow the marker itself.
pub(super) fn escape(bytes: &[u8], marker: char, keep: impl Fn(u8) -> bool) -> String {
    const DIGITS: [char; 16] =
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];
    let mut text = String::with_capacity(bytes.len());
    for &byte in bytes {
        if keep(byte) {
            text.push(char::from(byte));
        } else {
            text.push(marker);
            text.push(DIGITS[usize::from(byte >> 4)]);
            text.push(DIGITS[usize::from(byte & 15)]);
        }
    }
    text
}

/// Undoes [`escape`]; `None` when a marker is not followed by two upper-case hexadecimal digits.
pub(super) fn unescape(text: &str, marker: u8) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        if byte != marker {
            bytes.push(byte);
            rest = after;
            continue;
        }
        let (&[high, low], after) = after.split_first_chunk()?;
        bytes.push(digit(high)? << 4 | digit(low)?);
        rest = after;
    }
    Some(bytes)
}

fn digit(character: u8) -> Option<u8> {
    match character {
        b'0'..=b'9' => Some(character - b'0'),
        b'A'..=b'F' => Some(character - b'A' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn refuses_what_it_does_not_write() {
        for wrong in ["=", "=4", "=4g", "=2e", "a==2E"] {
            assert_eq!(unescape(wrong, b'='), None, "{wrong}");
        }
        assert_eq!(unescape("a=2Eb", b'='), Some(b"a.b".to_vec()));
    }

    proptest! {
        #[test]
        fn every_byte_string_survives(bytes: Vec<u8>) {
            let text = escape(&bytes, '%', |byte| byte.is_ascii_alphanumeric());
            prop_assert!(text.is_ascii());
            prop_assert_eq!(unescape(&text, b'%'), Some(bytes));
        }
    }
}
