//! The order in which `rotating_file` wrote its files, by their names: [`compare`].
//!
//! | files | order |
//! | --- | --- |
//! | `app.log.20261122`, `app.log.20261123` | by date |
//! | `app.log.20261123`, `app.log.20261123.1`, `app.log.20261123.2` | the number counts up |
//! | `app.log.20261122T000000`, `app.log.20261123T000000`, `app.log` | by the time of rotation, the active one last |
//!
//! `.gz` at the end says nothing about the order.

use std::cmp::Ordering;

/// `.20261123T000000`.
const STAMP_BYTES: usize = 16;

/// `~1a2b3c4d`.
const COLLISION_BYTES: usize = 9;

/// Which of two paths was written first.
pub(super) fn compare(one: &[u8], other: &[u8]) -> Ordering {
    let [(base, stamp, rest), (other_base, other_stamp, other_rest)] = [one, other].map(split);
    let by_stamp = || match (stamp, other_stamp) {
        (Some(stamp), Some(other)) => by_numbers(stamp, other),
        (stamp, other) => stamp.is_none().cmp(&other.is_none()),
    };
    by_numbers(base, other_base).then_with(by_stamp).then_with(|| by_numbers(rest, other_rest))
}

/// What is appended to tell two logs apart whose files would have the same name.
pub(super) fn collision_suffix(path: &[u8]) -> Option<&[u8]> {
    let start = path.iter().rposition(|byte| *byte == b'~')?;
    let suffix = path.get(start..start + COLLISION_BYTES)?;
    let is_end = path.get(start + COLLISION_BYTES).is_none_or(|byte| *byte == b'.');
    (is_end && suffix[1..].iter().all(u8::is_ascii_hexdigit)).then_some(suffix)
}

/// The name of an active file, the time of a rotation, and what follows that.
fn split(path: &[u8]) -> (&[u8], Option<&[u8]>, &[u8]) {
    let path = path.strip_suffix(b".gz").unwrap_or(path);
    let is_stamp = |stamp: &[u8]| {
        let matches = |(index, byte): (usize, &u8)| match index {
            0 => *byte == b'.',
            9 => *byte == b'T',
            _ => byte.is_ascii_digit(),
        };
        stamp.iter().enumerate().all(matches)
    };
    match path.windows(STAMP_BYTES).rposition(is_stamp) {
        Some(start) if path.get(start + STAMP_BYTES).is_none_or(|byte| *byte == b'.') => {
            let (base, stamped) = path.split_at(start);
            let (stamp, rest) = stamped.split_at(STAMP_BYTES);
            (base, Some(stamp), rest)
        }
        _ => (path, None, b""),
    }
}

/// By bytes, but runs of digits by what they count; what only goes on comes later.
fn by_numbers(mut one: &[u8], mut other: &[u8]) -> Ordering {
    loop {
        let digits = |text: &[u8]| text.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (count, other_count) = (digits(one), digits(other));
        if count > 0 && other_count > 0 {
            let (number, other_number) = (&one[..count], &other[..other_count]);
            let significant = |digits: &[u8]| digits.iter().skip_while(|byte| **byte == b'0').count();
            let order = significant(number).cmp(&significant(other_number)).then_with(|| {
                let skip = |digits: &[u8]| digits.len() - significant(digits);
                number[skip(number)..].cmp(&other_number[skip(other_number)..])
            });
            if order != Ordering::Equal {
                return order;
            }
            (one, other) = (&one[count..], &other[other_count..]);
            continue;
        }
        match (one.split_first(), other.split_first()) {
            (Some((byte, rest)), Some((other_byte, other_rest))) if byte == other_byte => {
                (one, other) = (rest, other_rest);
            }
            (first, other_first) => return first.map(|first| first.0).cmp(&other_first.map(|first| first.0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_in_the_order_in_which_they_were_written() {
        for row in [
            &[
                "app.log.20261122",
                "app.log.20261123.gz",
                "app.log.20261123.1",
                "app.log.20261123.10",
                "app.log.20261124",
            ][..],
            &["app.log.20261122T000000.gz", "app.log.20261123T000000", "app.log"],
            &["out/2026/9/30/a", "out/2026/10/1/a"],
            &["log-202611230000", "log-202611230000.2", "log-202611240000"],
            &["h.2026102502", "h.2026102502+0100", "h.2026102503"],
            &["a~0123abcd", "a~0123abcd.1"],
        ] {
            let mut sorted = row.to_vec();
            sorted.reverse();
            sorted.sort_by(|one, other| compare(one.as_bytes(), other.as_bytes()));
            assert_eq!(sorted, row);
        }
    }

    #[test]
    fn two_logs_of_one_name_are_told_apart() {
        for (path, suffix) in [
            ("app.log", None),
            ("app.log~0123abcd", Some("~0123abcd")),
            ("app.log.20261123~0123abcd.1.gz", Some("~0123abcd")),
            ("app~", None),
            ("app~0123abcde", None),
        ] {
            assert_eq!(collision_suffix(path.as_bytes()), suffix.map(str::as_bytes), "{path}");
        }
    }
}
