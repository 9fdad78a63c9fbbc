//! Which subjects a pipeline publishes to and reads: [`Subjects`].
//!
//! A host keeps its dots as separators of tokens; everything else outside `[A-Za-z0-9_-]` becomes `=XX`,
//! and an empty token (`a..b`, a leading or trailing dot, an empty name) is written as a lone `=`. So every
//! byte string is a valid run of tokens, and two hosts never share one.

use std::borrow::Cow;

use fshipper_pipeline::{Escaped, Origin};

use super::escape::{escape, unescape};
use super::partition::{fnv1a64, partition};

/// The subjects of one `[transport]` table.
///
/// | | publishes to | receives |
/// | --- | --- | --- |
/// | core | `s` | `s` |
/// | core, partitions | `s.p{n}.{host}` | `s.p{i}.>` |
/// | stream | `s.{host}.{name}` | `s`, `s.>` |
/// | stream, partitions | `s.p{n}.{host}.{name}` | `s.p{i}.>` |
#[derive(Clone, Debug)]
pub(crate) struct Subjects {
    subject: String,
    partitions: Option<u32>,
    stream: bool,
}

/// The host of a message that does not say where it is from.
pub(crate) const UNKNOWN_HOST: &[u8] = b"unknown";

/// How much of a base name stands in a subject. The hash of the path after it tells names apart; this is
/// for people.
const MAX_NAME_BYTES: usize = 64;

impl Subjects {
    /// The subjects below `subject`, spread over so many `partitions`, of a stream or of core NATS.
    pub(crate) fn new(subject: &str, partitions: Option<u32>, stream: bool) -> Self {
        Self { subject: subject.to_owned(), partitions, stream }
    }

    /// Where the bytes of `origin` are published. In a stream every origin has a subject of its own.
    pub(crate) fn publish(&self, origin: &Origin) -> String {
        let mut subject = self.subject.clone();
        if let Some(partitions) = self.partitions {
            subject.push_str(&format!(".p{}", partition(origin.host(), partitions)));
        }
        if self.carry_host() {
            subject.push('.');
            subject.push_str(&escape_host(origin.host()));
        }
        if self.stream {
            subject.push('.');
            subject.push_str(&name_token(origin));
        }
        subject
    }

    /// What a consumer subscribes to or filters by: everything, or the given partitions only.
    pub(crate) fn receive(&self, read_partitions: Option<&[u32]>) -> Vec<String> {
        match self.partitions {
            None if self.stream => self.stream_subjects(),
            None => vec![self.subject.clone()],
            Some(partitions) => {
                let numbers: Cow<'_, [u32]> = match read_partitions {
                    Some(numbers) => numbers.into(),
                    None => (0..partitions).collect(),
                };
                numbers.iter().map(|number| format!("{}.p{number}.>", self.subject)).collect()
            }
        }
    }

    /// Matches the subjects of all origins of `host`, in whatever partition, and of no other host: what a
    /// sender asks the stream for its positions with, and what its permissions can be narrowed to.
    pub(crate) fn restore_filter(&self, host: &[u8]) -> String {
        let partition = if self.partitions.is_some() { ".*" } else { "" };
        format!("{}{partition}.{}.*", self.subject, escape_host(host))
    }

    /// What a stream must take.
    pub(crate) fn stream_subjects(&self) -> Vec<String> {
        vec![self.subject.clone(), self.below()]
    }

    /// The configured subject.
    pub(crate) fn root(&self) -> &str {
        &self.subject
    }

    /// Everything below the configured subject.
    pub(crate) fn below(&self) -> String {
        format!("{}.>", self.subject)
    }

    /// Whether published subjects name the host; where they do not, a header does.
    pub(crate) fn carry_host(&self) -> bool {
        self.stream || self.partitions.is_some()
    }

    /// The raw host that a received `subject` names, [`UNKNOWN_HOST`] when it names none. In a stream the
    /// last token is the name of the log, not part of the host, unless it is the only one.
    pub(crate) fn host_of(&self, subject: &str) -> Vec<u8> {
        self.host_and_name(subject).map_or_else(|| UNKNOWN_HOST.to_vec(), |(host, _)| unescape_host(host))
    }

    /// The origin of a message of ours: the host is the subject's, or, where the subject names none,
    /// `header_host`.
    ///
    /// # Errors
    ///
    /// The subject is not the one where such an origin is published: whoever may publish there could
    /// otherwise claim to be somebody else.
    pub(super) fn origin_of(
        &self,
        subject: &str,
        path: &[u8],
        header_host: Option<&[u8]>,
    ) -> Result<Origin, String> {
        let Some((host_tokens, name)) = self.host_and_name(subject) else {
            return Ok(Origin::new(header_host.unwrap_or(UNKNOWN_HOST), path));
        };
        let origin = Origin::new(unescape_host(host_tokens), path);
        if header_host.is_some_and(|host| host != origin.host()) {
            let header = Escaped(header_host.unwrap_or_default());
            return Err(format!("its header says that it is from the host `{header}`, its subject does not"));
        }
        if escape_host(origin.host()) != host_tokens {
            return Err(format!("`{}` in its subject is no host as fshipper writes it", shown(host_tokens)));
        }
        if self.stream && name != Some(name_token(&origin).as_str()) {
            let path = Escaped(path);
            return Err(format!(
                "its subject is not the one of `{path}`: it was not published for this stream"
            ));
        }
        Ok(origin)
    }

    /// The tokens of a received subject that hold the host, and the one after them that holds the name.
    fn host_and_name<'a>(&self, subject: &'a str) -> Option<(&'a str, Option<&'a str>)> {
        let mut rest = subject.strip_prefix(self.subject.as_str())?.strip_prefix('.')?;
        if self.partitions.is_some() {
            rest = rest.split_once('.')?.1;
        }
        match rest.rsplit_once('.') {
            Some((host, name)) if self.stream => Some((host, Some(name))),
            _ => Some((rest, None)),
        }
    }
}

/// The token that stands for one log of a host: its base name for people, the hash of its path to tell it
/// apart from others of that name.
fn name_token(origin: &Origin) -> String {
    let file = origin.file();
    let shown = &file[..file.len().min(MAX_NAME_BYTES)];
    format!("{}-{:016x}", escape(shown, '=', is_plain), fnv1a64(origin.path()))
}

fn escape_host(host: &[u8]) -> String {
    let token = |token: &[u8]| if token.is_empty() { "=".to_owned() } else { escape(token, '=', is_plain) };
    host.split(|&byte| byte == b'.').map(token).collect::<Vec<_>>().join(".")
}

/// Undoes [`escape_host`]. What it never wrote, such as a subject of another publisher, is taken as it is.
fn unescape_host(tokens: &str) -> Vec<u8> {
    let token = |token: &str| match token {
        "=" => Vec::new(),
        _ => unescape(token, b'=').unwrap_or_else(|| token.as_bytes().to_vec()),
    };
    tokens.split('.').map(token).collect::<Vec<_>>().join(&b'.')
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-'
}

fn shown(text: &str) -> Escaped<'_> {
    Escaped(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn publish(partitions: Option<u32>, stream: bool, host: &str, path: &str) -> String {
        Subjects::new("shipper", partitions, stream).publish(&Origin::new(host, path))
    }

    #[test]
    fn subjects_are_those_of_the_contract() {
        let (host, path) = ("web1.example.net", "/var/log/app.log");
        assert_eq!(publish(None, false, host, path), "shipper");
        assert_eq!(publish(Some(8), false, host, path), "shipper.p1.web1.example.net");
        let name = "app=2Elog-5e1ffe1aabd36f6a";
        assert_eq!(publish(None, true, host, path), format!("shipper.web1.example.net.{name}"));
        assert_eq!(publish(Some(8), true, host, path), format!("shipper.p1.web1.example.net.{name}"));
    }

    #[test]
    fn receives_what_is_published_and_only_the_partitions_asked_for() {
        let receive = |partitions, stream, read: Option<&[u32]>| {
            Subjects::new("shipper", partitions, stream).receive(read).join(" ")
        };
        assert_eq!(receive(None, false, None), "shipper");
        assert_eq!(receive(None, true, None), "shipper shipper.>");
        assert_eq!(receive(Some(2), false, None), "shipper.p0.> shipper.p1.>");
        assert_eq!(receive(Some(8), true, Some(&[3, 5])), "shipper.p3.> shipper.p5.>");
    }

    #[test]
    fn a_restore_asks_for_one_host_alone() {
        assert_eq!(Subjects::new("shipper", None, true).restore_filter(b"a.b"), "shipper.a.b.*");
        assert_eq!(Subjects::new("shipper", Some(4), true).restore_filter(b"a.b"), "shipper.*.a.b.*");
    }

    #[test]
    fn hosts_of_other_publishers_are_read_from_the_subject() {
        let host = |partitions, stream, subject| {
            let host = Subjects::new("shipper", partitions, stream).host_of(subject);
            String::from_utf8(host).unwrap()
        };
        assert_eq!(host(None, false, "shipper"), "unknown");
        assert_eq!(host(Some(8), false, "shipper.p3.web1.example.net"), "web1.example.net");
        assert_eq!(host(None, true, "shipper"), "unknown");
        assert_eq!(host(None, true, "shipper.web1"), "web1");
        assert_eq!(host(None, true, "shipper.web1.example.net.app"), "web1.example.net");
        assert_eq!(host(Some(8), true, "shipper.p3.web1.app"), "web1");
        assert_eq!(host(None, true, "shipper.we=b=20.app"), "we=b=20");
    }

    #[test]
    fn odd_hosts_become_valid_tokens() {
        for (host, tokens) in [
            ("", "="),
            (".", "=.="),
            ("a..b", "a.=.b"),
            (".a.", "=.a.="),
            ("*", "=2A"),
            (">", "=3E"),
            ("a b", "a=20b"),
            ("=", "=3D"),
            ("$JS", "=24JS"),
        ] {
            assert_eq!(escape_host(host.as_bytes()), tokens);
        }
    }

    #[test]
    fn refuses_a_message_on_a_subject_that_is_not_its_own() {
        let subjects = Subjects::new("shipper", None, true);
        let own = subjects.publish(&Origin::new("web1", "/var/log/app.log"));
        let refusal = |subject, path, host| subjects.origin_of(subject, path, host).unwrap_err();

        assert!(subjects.origin_of(&own, b"/var/log/app.log", Some(b"web1")).is_ok());
        assert!(refusal(&own, b"/var/log/app.log", Some(b"web2")).contains("`web2`"));
        assert!(refusal(&own, b"/etc/passwd", None).contains("/etc/passwd"));
        assert!(refusal("shipper.web1", b"/var/log/app.log", None).contains("not the one of"));
        let lower_case = own.replace("web1", "web=2e");
        assert!(refusal(&lower_case, b"/var/log/app.log", None).contains("no host"));
    }

    #[test]
    fn a_subject_without_a_host_leaves_it_to_the_header() {
        let subjects = Subjects::new("shipper", None, false);
        assert_eq!(subjects.origin_of("shipper", b"/l", Some(b"web1")), Ok(Origin::new("web1", "/l")));
        assert_eq!(subjects.origin_of("shipper", b"/l", None), Ok(Origin::new("unknown", "/l")));
    }

    proptest! {
        #[test]
        fn every_origin_survives_its_subject(host: Vec<u8>, path: Vec<u8>, partitions: Option<u16>) {
            let partitions = partitions.map(|count| u32::from(count) + 1);
            let origin = Origin::new(&host, &path);
            for stream in [false, true] {
                let subjects = Subjects::new("a.b", partitions, stream);
                let subject = subjects.publish(&origin);
                prop_assert!(async_nats::Subject::from(subject.as_str()).is_valid(), "{}", subject);
                if subjects.carry_host() {
                    prop_assert_eq!(subjects.host_of(&subject), host.clone());
                    prop_assert_eq!(subjects.origin_of(&subject, &path, None), Ok(origin.clone()));
                }
            }
        }

        #[test]
        fn two_hosts_never_share_tokens(one in "[a=.]{0,6}", other in "[a=.]{0,6}") {
            let same = escape_host(one.as_bytes()) == escape_host(other.as_bytes());
            prop_assert_eq!(same, one == other);
        }
    }
}
