//! Messages that are left out, reported at a bounded rate whatever they are: [`Refusals`].

use std::collections::HashMap;

use fshipper_pipeline::{Complaint, Escaped};

use super::wire::Refused;

/// What was said of messages that were not accepted. Whoever may publish could otherwise fill the log.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    /// By what is wrong, apart from all that differs from message to message.
    kinds: HashMap<String, Complaint>,
    /// Of all further kinds together.
    others: Complaint,
}

/// More than there are: a header may still make its own.
const MAX_KINDS: usize = 16;

impl Refusals {
    /// Reports that a message of `stream` is left out, unless the same was said of another one a moment ago.
    pub(super) fn report(&mut self, stream: &str, sequence: u64, subject: &str, refused: &Refused) {
        let subject = Escaped(subject.as_bytes());
        let said = format!("{sequence}, on `{subject}`: {refused}");
        tracing::debug!("left out of the stream `{stream}`: {said}");
        let message = format!("a message of the stream `{stream}` is left out");
        let complaint = self.complaint(kind(&refused.to_string()));
        complaint.report(&message, |message| tracing::error!("{message}: {said}"));
    }

    fn complaint(&mut self, kind: String) -> &mut Complaint {
        if self.kinds.len() == MAX_KINDS && !self.kinds.contains_key(&kind) {
            return &mut self.others;
        }
        self.kinds.entry(kind).or_default()
    }
}

/// A reason without names and numbers.
fn kind(reason: &str) -> String {
    let unquoted = reason.split('`').step_by(2);
    let words = unquoted.flat_map(str::split_whitespace);
    words.filter(|word| !word.bytes().any(|byte| byte.is_ascii_digit())).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_make_no_other_kind() {
        let claims = |claimed, held| format!("it claims {claimed} bytes and holds {held}");
        assert_eq!(kind(&claims(7, 12)), kind(&claims(4711, 0)));
        assert_eq!(kind("its header is damaged: `crc=1`"), kind("its header is damaged: `end=x y`"));
        assert_ne!(kind("its header is damaged: `crc=1`"), kind("its header has no `crc`"));
    }

    #[test]
    fn whoever_makes_kinds_of_their_own_has_one_in_the_end() {
        let mut refusals = Refusals::default();
        let reported = |refusals: &mut Refusals, reason: &str| {
            let mut lines = 0;
            refusals.complaint(kind(reason)).report("left out", |_| lines += 1);
            lines
        };
        assert_eq!(reported(&mut refusals, "it claims 7 bytes and holds 1"), 1);
        let words = |index: usize| "x".repeat(index + 1);
        let lines: usize = (0..1000).map(|index| reported(&mut refusals, &words(index))).sum();
        assert_eq!(lines, MAX_KINDS, "all but the first kind, and one for the others");
        assert_eq!(reported(&mut refusals, "it claims 8 bytes and holds 2"), 0);
    }
}
