//! The `[transport]` table with `type = "nats"`: [`Nats`].

use std::path::PathBuf;
use std::time::Duration;

use fshipper_pipeline::config::{OneOrMany, Period, Secret, Size};
use fshipper_pipeline::{Ends, Invalid, Origin, Settings};
use schemars::JsonSchema;
use serde::Deserialize;

use super::subject::Subjects;

/// Publishes to NATS, or receives from it: at most once over core NATS, or exactly once with a `stream`.
///
/// A field that the table leaves out is taken from the environment: `NATS_URL` for `servers`, `NATS_CREDS`
/// for `creds`, `NATS_CERTIFICATE`, `NATS_KEY` and `NATS_CA` for `tls`; then from the `context`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Nats {
    /// One server or several, in strings that may be comma separated: `nats://`, `tls://`, `ws://` or
    /// `wss://`, or a bare host. Default: `nats://127.0.0.1:4222`.
    pub(super) servers: Option<OneOrMany>,
    /// The subject that lines are published to or below.
    pub(super) subject: String,
    /// Spread the hosts over so many partitions, each a subject of its own. Default: none.
    pub(super) partitions: Option<u32>,
    /// The partitions that a consumer reads. Default: all.
    pub(super) read_partitions: Option<Vec<u32>>,
    /// `"batch"`: as many lines as are waiting in one message; `"line"`: exactly one line per message.
    /// Default: `"batch"`.
    #[serde(default)]
    pub(super) framing: Framing,
    /// `"none"` or `"zstd"`. Default: `"none"`.
    #[serde(default)]
    pub(super) compression: Compression,
    /// A credentials file; it is read again for every connection.
    pub(super) creds: Option<PathBuf>,
    /// A user name; needs `password`.
    pub(super) user: Option<String>,
    /// The password of `user`.
    pub(super) password: Option<Secret>,
    /// A token.
    pub(super) token: Option<Secret>,
    /// An nkey: the seed of a user, or the path of a file that holds it.
    pub(super) nkey: Option<Secret>,
    /// Certificates; with this table the connection must be encrypted.
    pub(super) tls: Option<Tls>,
    /// A context of the `nats` command line tool, by name: it fills in what is left out here.
    pub(super) context: Option<String>,
    /// The JetStream stream that stores the lines. Default: none, which means core NATS.
    pub(super) stream: Option<StreamTable>,
}

/// How lines become messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Framing {
    /// As many lines as are waiting.
    #[default]
    Batch,
    /// One line, for other people's consumers.
    Line,
}

/// What is done to payloads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Compression {
    /// Nothing: any subscriber sees plain lines.
    #[default]
    None,
    /// Each batch is one zstd frame.
    Zstd,
}

/// Certificates, in PEM files that are read again for every connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tls {
    /// The authorities that the server's certificate may come from. Default: the system's.
    pub(crate) ca: Option<PathBuf>,
    /// The certificate that this client shows; needs `key`.
    pub(crate) cert: Option<PathBuf>,
    /// The private key of `cert`.
    pub(crate) key: Option<PathBuf>,
}

/// The stream.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StreamTable {
    /// Its name.
    pub(crate) name: String,
    /// Whether to create it when it is missing. The keys below only say how.
    #[serde(default)]
    pub(crate) create: bool,
    /// `"file"` or `"memory"`. Default: `"file"`.
    #[serde(default)]
    pub(crate) storage: Storage,
    /// How many servers of a cluster hold a copy. Default: 1.
    #[serde(default = "one")]
    pub(crate) replicas: usize,
    /// How long messages are kept. Default: for ever.
    pub(crate) max_age: Option<Period>,
    /// How much is kept at most; a full stream makes producers wait. Default: no limit.
    pub(crate) max_bytes: Option<Size>,
    /// Whether consumers tell producers how far they have every log on their disks, in a stream of its own named
    /// `{name}_floor`. Then bytes are lost only if the broker and the source both lose them. Set it to `false` in
    /// a consumer that only reads along.
    #[serde(default = "yes")]
    pub(crate) floor: bool,
    /// How long a consumer waits for a producer to send bytes again that the stream has lost, before it records
    /// their loss and goes on. Meanwhile only that log waits. Default: 1d.
    #[serde(default = "one_day")]
    pub(crate) gap_wait: Period,
    /// Whether a consumer deletes from the stream what it has on its disk; the last message of each log stays.
    /// Not where anybody else reads the stream.
    #[serde(default)]
    pub(crate) purge: bool,
}

/// Where a stream keeps its messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Storage {
    /// On disk.
    #[default]
    File,
    /// Nowhere: a restart of the server loses them.
    Memory,
}

/// A consumer filters by one subject for each partition, and a server goes through all filters for every
/// message.
const MAX_PARTITIONS: u32 = 1024;

/// Copies that JetStream allows.
const MAX_REPLICAS: usize = 5;

/// The server closes a connection that sends a longer control line than 4 KiB; a subject stands in it, and a
/// subject of a consumer's request holds ours again.
const MAX_SUBJECT_BYTES: usize = 1024;

/// Long enough for a host to come back from whatever happened to it overnight, since a loss is for ever and
/// waiting costs little; not for ever, since some never come back.
const GAP_WAIT: Duration = Duration::from_secs(24 * 60 * 60);

fn one() -> usize {
    1
}

fn yes() -> bool {
    true
}

fn one_day() -> Period {
    Period(GAP_WAIT)
}

impl Nats {
    /// The subjects of this table.
    pub(super) fn subjects(&self) -> Subjects {
        Subjects::new(&self.subject, self.partitions, self.stream.is_some())
    }

    /// Checks what the table says by itself, before the environment and local files come in.
    pub(super) fn check(&self, settings: &Settings, ends: Ends) -> Result<(), Invalid> {
        self.check_subject()?;
        self.check_partitions()?;
        self.check_length(settings)?;
        self.check_login()?;
        if self.framing == Framing::Line && self.compression == Compression::Zstd {
            let message = "`compression = \"zstd\"` does not go with `framing = \"line\"`";
            return Err(Invalid::new("compression", message)
                .help("other people's consumers read plain lines: leave one of the two out"));
        }
        match &self.stream {
            Some(stream) => stream.check(),
            None if settings.once && ends.receives() => {
                Err(Invalid::new("", "`--once` cannot receive from core NATS, which has no end").help(
                    "leave out `--once`, or let a stream keep the lines: `stream = { name = \"LOGS\" }`",
                ))
            }
            None => Ok(()),
        }
    }

    fn check_subject(&self) -> Result<(), Invalid> {
        let subject = &self.subject;
        let invalid = |message: String, help: &str| Err(Invalid::new("subject", message).help(help));
        if subject.split('.').any(str::is_empty) {
            return invalid(
                format!("`{subject}` has an empty token"),
                "write tokens of letters, digits, `-` and `_`, separated by single dots, such as `logs.web`",
            );
        }
        if subject.contains(['*', '>']) {
            return invalid(
                format!("`{subject}` has a wildcard"),
                "name one subject: a consumer reads all that is published below it by itself",
            );
        }
        if subject.contains(|character: char| character.is_whitespace() || character.is_control()) {
            return invalid(
                format!("`{}` has a space or a control character", subject.escape_debug()),
                "write tokens of letters, digits, `-` and `_`, separated by single dots, such as `logs.web`",
            );
        }
        if subject.starts_with('$') || subject.split('.').next() == Some("_INBOX") {
            return invalid(
                format!("`{subject}` belongs to NATS itself"),
                "choose a subject that does not begin with `$` or `_INBOX`",
            );
        }
        Ok(())
    }

    fn check_partitions(&self) -> Result<(), Invalid> {
        let partitions = match (self.partitions, &self.read_partitions) {
            (Some(partitions), _) if !(1..=MAX_PARTITIONS).contains(&partitions) => {
                let message = format!("`{partitions}` partitions are not possible");
                let help = format!("from 1 to {MAX_PARTITIONS} are, or leave it out for none");
                return Err(Invalid::new("partitions", message).help(help));
            }
            (None, Some(_)) => {
                return Err(Invalid::new("read_partitions", "there are no partitions to choose from")
                    .help("say how many the producers use, such as `partitions = 8`, or leave this out"));
            }
            (Some(partitions), _) => partitions,
            (None, None) => return Ok(()),
        };
        let read = self.read_partitions.as_deref();
        if read.is_some_and(<[u32]>::is_empty) {
            return Err(Invalid::new("read_partitions", "an empty list reads nothing")
                .help("leave it out to read all partitions"));
        }
        let read = read.unwrap_or_default();
        for (index, number) in read.iter().enumerate() {
            let key = format!("read_partitions[{index}]");
            if *number >= partitions {
                return Err(Invalid::new(key, format!("there is no partition `{number}`")).help(format!(
                    "with `partitions = {partitions}` they are numbered from 0 to {}",
                    partitions - 1
                )));
            }
            if read[..index].contains(number) {
                return Err(
                    Invalid::new(key, format!("partition `{number}` is named twice")).help("name it once")
                );
            }
        }
        Ok(())
    }

    fn check_length(&self, settings: &Settings) -> Result<(), Invalid> {
        let length = self.subjects().publish(&Origin::new(&settings.host, "")).len();
        if length > MAX_SUBJECT_BYTES {
            let message =
                format!("with the host it becomes {length} bytes long, and {MAX_SUBJECT_BYTES} are allowed");
            return Err(Invalid::new("subject", message).help("shorten `subject`, or `host` in `[pipeline]`"));
        }
        Ok(())
    }

    fn check_login(&self) -> Result<(), Invalid> {
        match (&self.user, &self.password) {
            (Some(_), None) => {
                return Err(Invalid::new("user", "`user` stands without a `password`")
                    .help("add `password`, such as `password = \"${NATS_PASSWORD}\"`"));
            }
            (None, Some(_)) => {
                return Err(Invalid::new("password", "`password` stands without a `user`").help("add `user`"));
            }
            _ => {}
        }
        let ways = self.logins();
        match ways[..] {
            [first, second, ..] => {
                Err(Invalid::new(second, format!("`{first}` and `{second}` are two logins"))
                    .help("keep the one that the server asks for"))
            }
            _ => Ok(()),
        }
    }

    /// The keys of this table that log in.
    pub(super) fn logins(&self) -> Vec<&'static str> {
        let named = [
            ("creds", self.creds.is_some()),
            ("user", self.user.is_some()),
            ("token", self.token.is_some()),
            ("nkey", self.nkey.is_some()),
        ];
        named.into_iter().filter(|(_, given)| *given).map(|(key, _)| key).collect()
    }
}

impl StreamTable {
    fn check(&self) -> Result<(), Invalid> {
        let name = &self.name;
        let forbidden = |character: char| {
            character.is_whitespace() || character.is_control() || ".*>/\\".contains(character)
        };
        if name.is_empty() || name.contains(forbidden) {
            return Err(Invalid::new(
                "stream.name",
                format!("`{}` is no name of a stream", name.escape_debug()),
            )
            .help("use letters, digits, `-` and `_`, such as `LOGS`"));
        }
        if !(1..=MAX_REPLICAS).contains(&self.replicas) {
            let message = format!("`{}` replicas are not possible", self.replicas);
            return Err(Invalid::new("stream.replicas", message).help("from 1 to 5 are"));
        }
        if self.max_bytes.is_some_and(|size| size.0 == 0 || i64::try_from(size.0).is_err()) {
            return Err(Invalid::new("stream.max_bytes", "a stream cannot hold so many bytes")
                .help("leave it out for no limit, or write a size such as \"10GiB\""));
        }
        if self.max_age.is_some_and(|age| age.0.is_zero()) {
            return Err(Invalid::new("stream.max_age", "a stream cannot keep messages for no time")
                .help("leave it out to keep them for ever, or write a duration such as \"7d\""));
        }
        if self.purge && !self.floor {
            return Err(Invalid::new("stream.purge", "`purge` does not go with `floor = false`").help(
                "a consumer that only reads along must not delete anything: leave one of the two out",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
