//! Plugins whose tables have a bit of everything. They open nothing that runs.

use async_trait::async_trait;
use fshipper_pipeline::anyhow::{Result, bail};
use fshipper_pipeline::config::{Environment, OneOrMany, Options, Period, Secret, Size};
use fshipper_pipeline::{
    Checkpoint, Context, Ends, Invalid, Plugin, Settings, Sink, SinkConfig, Source, SourceConfig, Transport,
    inventory,
};
use schemars::JsonSchema;
use serde::Deserialize;

inventory::submit!(Plugin::source::<Tail>("tail", "files"));
inventory::submit!(Plugin::source::<Clock>("clock", "ticks"));
inventory::submit!(Plugin::transport::<Broker>("broker", "a message broker"));
inventory::submit!(Plugin::sink::<Files>("files", "files"));
inventory::submit!(Plugin::sink::<Screen>("screen", "the terminal"));

/// Options with a small environment of their own.
pub(crate) fn options() -> Options {
    let environment = Environment::from([
        ("HOSTNAME", "web1"),
        ("STATE_DIRECTORY", "/var/lib/fshipper"),
        ("WAIT", "10 parsecs"),
        ("SUBJECT", "shipper"),
        ("BROKER_PASSWORD", "hunter2"),
        ("BROKER_URL", "nats://admin:hunter2@broker:4222"),
    ]);
    Options { state_dir: None, once: false, environment }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Tail {
    /// The files to read: a glob or a list of globs.
    include: OneOrMany,
    /// Where to start in files that exist when the pipeline first starts.
    start_at: Option<StartAt>,
    /// How long a renamed file is still read.
    rotate_wait: Option<Period>,
    /// The longest line that stays whole.
    max_line_bytes: Option<Size>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum StartAt {
    Beginning,
    End,
}

#[async_trait]
impl SourceConfig for Tail {
    fn validate(&self, settings: &Settings) -> Result<(), Invalid> {
        for (index, glob) in self.include.as_slice().iter().enumerate() {
            if !glob.starts_with('/') {
                let key = match self.include {
                    OneOrMany::One(_) => "include".to_owned(),
                    OneOrMany::Many(_) => format!("include[{index}]"),
                };
                return Err(
                    Invalid::new(key, format!("`{glob}` is no absolute path")).help("start it with `/`")
                );
            }
        }
        if self.rotate_wait.is_none() && matches!(self.start_at, Some(StartAt::End)) {
            return Err(Invalid::new("rotate_wait", "it is needed with `start_at = \"end\"`"));
        }
        match self.max_line_bytes {
            Some(Size(bytes)) if bytes > settings.max_batch_bytes as u64 => {
                Err(Invalid::new("max_line_bytes", "it is more than `max_batch_bytes` of `[pipeline]`"))
            }
            _ => Ok(()),
        }
    }

    fn describe(&self) -> String {
        self.include.as_slice().join(", ")
    }

    async fn open(&self, _from: Checkpoint, _context: Context) -> Result<Box<dyn Source>> {
        bail!("not in these tests")
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Clock {}

#[async_trait]
impl SourceConfig for Clock {
    async fn open(&self, _from: Checkpoint, _context: Context) -> Result<Box<dyn Source>> {
        bail!("not in these tests")
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Broker {
    /// Where the broker listens.
    #[serde(default)]
    servers: OneOrMany,
    /// The subject to publish to and to read from.
    subject: String,
    /// How many shards the hosts are spread over.
    partitions: Option<u8>,
    /// What is in a message.
    framing: Option<Framing>,
    /// The password that belongs to `user`.
    password: Option<Secret>,
    /// What the login server gave out.
    login: Option<Secret>,
    /// The certificates.
    tls: Option<Tls>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Framing {
    Batch,
    Line,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Tls {
    /// The certificate authority to trust, a PEM file.
    ca: String,
    /// The client's certificate, a PEM file.
    cert: Option<String>,
}

#[async_trait]
impl Transport for Broker {
    fn validate(&self, _settings: &Settings, ends: Ends) -> Result<(), Invalid> {
        if self.framing.as_ref().is_some_and(|framing| matches!(framing, Framing::Line)) && ends.receives() {
            return Err(Invalid::new("framing", "`line` is for senders alone"));
        }
        if self.login.is_some() && self.password.is_some() {
            return Err(Invalid::new("login", "it excludes `password`"));
        }
        if let Some(password) = self.password.as_ref().filter(|password| password.reveal().len() < 4) {
            // A careless plugin: what it says is nobody's business.
            return Err(Invalid::new("password", format!("`{}` is too short", password.reveal())));
        }
        match &self.tls {
            Some(tls) if tls.cert.is_some() && !tls.ca.ends_with(".pem") => {
                Err(Invalid::new("tls.ca", format!("`{}` is no PEM file", tls.ca)))
            }
            _ => Ok(()),
        }
    }

    fn describe(&self) -> String {
        let shards = self.partitions.map(|count| format!(", {count} partitions")).unwrap_or_default();
        format!("{}, subject {}{shards}", self.servers.as_slice().join(","), self.subject)
    }

    async fn open_sender(&self, _context: Context) -> Result<Box<dyn Sink>> {
        bail!("not in these tests")
    }

    async fn open_receiver(&self, _from: Checkpoint, _context: Context) -> Result<Box<dyn Source>> {
        bail!("not in these tests")
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Files {
    path: String,
    keep: Option<Keep>,
}

/// What to keep.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Keep {
    age: Option<Period>,
    files: Option<u32>,
}

#[async_trait]
impl SinkConfig for Files {
    fn validate(&self, _settings: &Settings) -> Result<(), Invalid> {
        let keep = self.keep.as_ref();
        match keep {
            Some(keep) if keep.age.is_none() && keep.files.is_none() => {
                Err(Invalid::new("keep", "it says nothing").help("set `age` or `files`"))
            }
            _ => Ok(()),
        }
    }

    fn describe(&self) -> String {
        self.path.clone()
    }

    async fn open(&self, _context: Context) -> Result<Box<dyn Sink>> {
        bail!("not in these tests")
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Screen {}

#[async_trait]
impl SinkConfig for Screen {
    fn validate(&self, settings: &Settings) -> Result<(), Invalid> {
        if settings.once {
            Err(Invalid::new("", "it never ends, so `--once` makes no sense"))
        } else {
            Ok(())
        }
    }

    async fn open(&self, _context: Context) -> Result<Box<dyn Sink>> {
        bail!("not in these tests")
    }
}
