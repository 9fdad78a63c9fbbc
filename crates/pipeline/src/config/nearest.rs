//! The nearest known name to a misspelt one.

/// The candidate that `word` most likely stands for.
pub(super) fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let wanted = normal(word);
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&wanted, &normal(candidate)), candidate))
        .filter(|(distance, candidate)| *distance <= tolerance(candidate))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// What to do about a `word` that is none of `candidates`.
pub(super) fn suggestion(word: &str, candidates: &[&str]) -> String {
    match nearest(word, candidates.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None if candidates.is_empty() => "no key is accepted here".to_owned(),
        None => format!("accepted here: {}", quoted(candidates)),
    }
}

/// `` `a`, `b`, `c` ``
pub(super) fn quoted(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// One slip in a short name, one more for every three letters of a long one.
fn tolerance(candidate: &str) -> usize {
    (candidate.chars().count() / 3).max(1)
}

/// Case and the choice between `-` and `_` are the commonest slips, and count for nothing.
fn normal(word: &str) -> String {
    word.to_lowercase().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_name_that_was_meant() {
        let names = ["subject", "servers", "stream", "tls"];
        assert_eq!(nearest("sbject", names), Some("subject"));
        assert_eq!(nearest("Server", names), Some("servers"));
        assert_eq!(nearest("max-bytes", ["max_bytes"]), Some("max_bytes"));
        assert_eq!(nearest("colour", names), None);
        assert_eq!(nearest("xyz", names), None);
    }
}
