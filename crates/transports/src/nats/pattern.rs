//! Patterns of subjects: [`covers`].

/// Whether the pattern `wide` matches everything that the pattern `narrow` matches.
pub(super) fn covers(wide: &str, narrow: &str) -> bool {
    let mut narrow = narrow.split('.');
    for token in wide.split('.') {
        match (token, narrow.next()) {
            (">", Some(_)) => return true,
            ("*", Some(other)) if other != ">" => {}
            (token, Some(other)) if token == other => {}
            _ => return false,
        }
    }
    narrow.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_covers_what_matches_less() {
        for (wide, narrow) in [
            ("s", "s"),
            (">", "s"),
            (">", "s.>"),
            ("s.>", "s.>"),
            ("*", "s"),
            ("*.>", "s.>"),
            ("s.*.b", "s.a.b"),
        ] {
            assert!(covers(wide, narrow), "{wide} {narrow}");
        }
        for (wide, narrow) in [("s", "s.>"), ("s.>", "s"), ("s.*", "s.>"), ("t", "s"), ("s.a.>", "s.>")] {
            assert!(!covers(wide, narrow), "{wide} {narrow}");
        }
    }
}
