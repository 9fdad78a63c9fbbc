//! The stream: created or verified, and known again: [`Stream`].
//!
//! Delivery rests on the stream's own word for what it holds. A setting that takes that away is refused;
//! one that can lose messages by design is accepted with a warning that says what it means.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use serde::{Deserialize, Serialize};

use super::api::{Api, ApiError, codes};
use super::config::Storage;
use super::pattern::covers;
use super::subject::Subjects;

/// What the TOML says of the stream.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// Its name.
    pub(super) name: String,
    /// Whether it is created when it is missing.
    pub(super) create: bool,
    /// Where a created one keeps messages.
    pub(super) storage: Storage,
    /// How many servers keep a created one.
    pub(super) replicas: usize,
    /// How long a created one keeps messages; for ever when absent.
    pub(super) max_age: Option<Duration>,
    /// How much a created one keeps; without bound when absent.
    pub(super) max_bytes: Option<u64>,
    /// Whether nothing goes fast without atomic batches: `framing = "line"`. A created stream always takes them.
    pub(super) atomic: bool,
}

/// A stream that exists and fits.
#[derive(Clone, Debug)]
pub(super) struct Stream {
    /// Its name.
    pub(super) name: String,
    /// When it was created, as the server writes it. Name and creation time together are its identity.
    pub(super) created: String,
    /// The subjects it takes.
    pub(super) subjects: Vec<String>,
    /// Whether it takes atomic batches.
    pub(super) atomic: bool,
    /// Whether it takes fast batches.
    pub(super) fast: bool,
    /// The most one message may hold, headers included; only `max_payload` counts when absent.
    pub(super) max_message_bytes: Option<usize>,
    /// How many servers keep it.
    pub(super) replicas: usize,
    /// The sequence of its first message; the one after the last when it holds none.
    pub(super) first_sequence: u64,
    /// The highest sequence it ever gave.
    pub(super) last_sequence: u64,
    /// How many messages it holds.
    pub(super) messages: u64,
}

/// What a server says of a stream: only what is used.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Info {
    config: Config,
    created: String,
    state: State,
}

/// A stream's settings, as the API reads and writes them. What is absent is the server's default.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
struct Config {
    name: String,
    subjects: Vec<String>,
    retention: String,
    discard: String,
    storage: String,
    num_replicas: usize,
    /// Nanoseconds; 0 is for ever.
    max_age: u64,
    max_bytes: i64,
    max_msgs: i64,
    max_msgs_per_subject: i64,
    max_msg_size: i64,
    allow_direct: bool,
    #[serde(skip_serializing_if = "is_false")]
    allow_atomic: bool,
    #[serde(skip_serializing_if = "is_false")]
    allow_batched: bool,
    #[serde(skip_serializing_if = "is_false")]
    no_ack: bool,
    #[serde(skip_serializing_if = "is_false")]
    sealed: bool,
    #[serde(skip_serializing)]
    persist_mode: Option<String>,
    #[serde(skip_serializing)]
    mirror: Option<serde::de::IgnoredAny>,
    #[serde(skip_serializing)]
    subject_transform: Option<serde::de::IgnoredAny>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct State {
    messages: u64,
    first_seq: u64,
    last_seq: u64,
}

#[derive(Deserialize)]
struct Account {
    limits: Limits,
}

#[derive(Deserialize)]
struct Limits {
    max_memory: i64,
    max_storage: i64,
}

/// Which end of the transport uses the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It publishes.
    Sender,
    /// It reads.
    Receiver,
}

/// The first version of the server with fast batches; an older one may refuse a setting that it does not know.
const FAST_BATCHES_SINCE: (i64, i64, i64) = (2, 14, 0);

impl Stream {
    /// Finds the stream, or creates it where the plan says so, and verifies that delivery can rest on it.
    ///
    /// # Errors
    ///
    /// What is missing, forbidden or wrong, with the remedy. All of it is a server's word and may change:
    /// none of it is final.
    pub(super) async fn open(api: &Api, plan: &Plan, subjects: &Subjects, end: End) -> Result<Self> {
        let name = &plan.name;
        let info = match info(api, name).await {
            Err(error) if error.err_code() == codes::STREAM_NOT_FOUND && plan.create => {
                create(api, plan, subjects).await?
            }
            Err(error) if error.err_code() == codes::STREAM_NOT_FOUND => bail!(
                "there is no stream `{name}`: create it with the subjects {}, or set `create = true` in \
                 `stream`",
                list(&subjects.stream_subjects())
            ),
            found => found.map_err(|error| unreachable_stream(error, name, api))?,
        };
        verify(&info.config, plan, subjects, end).with_context(|| format!("stream `{name}` does not fit"))?;
        Ok(Self::from(info))
    }

    /// Asks for the stream `name`, whatever it is.
    pub(super) async fn look_at(api: &Api, name: &str) -> Result<Self, ApiError> {
        info(api, name).await.map(Self::from)
    }

    /// Creates the stream `name` with settings of its own.
    pub(super) async fn create_as(
        api: &Api,
        name: &str,
        config: &(impl Serialize + Sync),
    ) -> Result<Self, ApiError> {
        let info: Info = api.call(&format!("STREAM.CREATE.{name}"), Some(config)).await?;
        Ok(info.into())
    }

    /// Asks again; what it says of this very stream, or of another one of that name.
    pub(super) async fn refreshed(&self, api: &Api) -> Result<Self> {
        let info = info(api, &self.name).await;
        info.map(Self::from).map_err(|error| unreachable_stream(error, &self.name, api))
    }

    /// Whether both are the same stream, as far as name and creation time tell.
    pub(super) fn is_same_as(&self, other: &Self) -> bool {
        self.name == other.name && self.created == other.created
    }
}

impl From<Info> for Stream {
    fn from(Info { config, created, state }: Info) -> Self {
        Self {
            name: config.name,
            created,
            subjects: config.subjects,
            atomic: config.allow_atomic,
            fast: config.allow_batched,
            max_message_bytes: usize::try_from(config.max_msg_size).ok().filter(|&bytes| bytes > 0),
            replicas: config.num_replicas,
            first_sequence: state.first_seq,
            last_sequence: state.last_seq,
            messages: state.messages,
        }
    }
}

impl Stream {
    /// `filters`, or none when they let everything pass that the stream takes: an unfiltered consumer is
    /// cheaper for the server.
    pub(super) fn filters(&self, filters: &[String]) -> Vec<String> {
        let all = self.subjects.iter().all(|subject| filters.contains(subject));
        if all && !self.subjects.is_empty() { Vec::new() } else { filters.to_vec() }
    }
}

/// Asks for a stream by name.
pub(super) async fn info(api: &Api, name: &str) -> Result<Info, ApiError> {
    api.call(&format!("STREAM.INFO.{name}"), None::<&()>).await
}

fn unreachable_stream(error: ApiError, name: &str, api: &Api) -> anyhow::Error {
    error.explain(&api.requests().server()).context(format!("cannot look at the stream `{name}`"))
}

async fn create(api: &Api, plan: &Plan, subjects: &Subjects) -> Result<Info> {
    let config = Config {
        name: plan.name.clone(),
        subjects: subjects.stream_subjects(),
        retention: "limits".to_owned(),
        discard: "new".to_owned(),
        storage: storage_name(plan.storage).to_owned(),
        num_replicas: plan.replicas,
        max_age: plan.max_age.map_or(0, |age| u64::try_from(age.as_nanos()).unwrap_or(u64::MAX)),
        max_bytes: plan.max_bytes.map_or(-1, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
        max_msgs: -1,
        max_msgs_per_subject: -1,
        max_msg_size: -1,
        allow_direct: true,
        allow_atomic: true,
        allow_batched: api.requests().connection().client.is_server_compatible(FAST_BATCHES_SINCE),
        ..Config::default()
    };
    match api.call(&format!("STREAM.CREATE.{}", plan.name), Some(&config)).await {
        Ok(info) => {
            tracing::info!("created the stream `{}` with {}", plan.name, list(&config.subjects));
            Ok(info)
        }
        // Somebody else created it in the same moment; whether it fits is verified like any other.
        Err(error) if error.err_code() == codes::STREAM_NAME_IN_USE => {
            info(api, &plan.name).await.map_err(|error| unreachable_stream(error, &plan.name, api))
        }
        Err(error) => Err(not_created(error, plan, api).await),
    }
}

/// Why the stream could not be created. What the server has is asked for where it is what is lacking.
async fn not_created(error: ApiError, plan: &Plan, api: &Api) -> anyhow::Error {
    let cannot = format!("cannot create the stream `{}`", plan.name);
    let lacking = matches!(
        error.err_code(),
        codes::STORAGE_RESOURCES_EXCEEDED | codes::MEMORY_RESOURCES_EXCEEDED | codes::INSUFFICIENT_RESOURCES
    );
    let Some(max_bytes) = plan.max_bytes.filter(|_| lacking) else {
        return error.explain(&api.requests().server()).context(cannot);
    };
    let account = api.call::<Account>("INFO", None::<&()>).await;
    let (limit, setting) = match (&account, plan.storage) {
        (Ok(account), Storage::File) => (account.limits.max_storage, "max_file_store"),
        (Ok(account), Storage::Memory) => (account.limits.max_memory, "max_memory_store"),
        (Err(_), Storage::File) => (-1, "max_file_store"),
        (Err(_), Storage::Memory) => (-1, "max_memory_store"),
    };
    let has = match limit {
        0.. => format!("this account has {limit} bytes"),
        _ => format!("the server has less free: see `{setting}` in its `jetstream` configuration"),
    };
    anyhow!("{error}").context(format!("{cannot}: `max_bytes` asks for {max_bytes} bytes, and {has}"))
}

/// Compares what the stream is with what delivery needs.
fn verify(config: &Config, plan: &Plan, subjects: &Subjects, end: End) -> Result<()> {
    if config.retention != "limits" {
        bail!(
            "its retention is `{}`, which deletes a message once somebody has it, and every position with \
             it: use a stream with `limits` retention",
            config.retention
        );
    }
    if !config.allow_direct {
        let name = &config.name;
        bail!("it does not allow direct gets: run `nats stream edit {name} --allow-direct`");
    }
    if end == End::Sender {
        verify_for_sender(config, plan)?;
    }
    let wanted = subjects.stream_subjects();
    let missing: Vec<_> =
        wanted.iter().filter(|wanted| !covered(wanted, &config.subjects)).cloned().collect();
    if !missing.is_empty() {
        let (has, missing) = (list(&config.subjects), list(&missing));
        bail!("it takes {has} and not {missing}: add them with `nats stream edit`");
    }
    if config.subject_transform.is_some() {
        bail!("it transforms subjects, which then no longer say whose bytes a message holds");
    }
    warn_of_differences(config, plan);
    Ok(())
}

fn verify_for_sender(config: &Config, plan: &Plan) -> Result<()> {
    if config.sealed {
        bail!("it is sealed: nothing can be published to it any more");
    }
    if config.no_ack {
        bail!("it acknowledges nothing (`no_ack`), so nobody knows what it holds: recreate it without");
    }
    if config.mirror.is_some() {
        bail!("it mirrors another stream: publish to that one");
    }
    if config.persist_mode.as_deref() == Some("async") {
        bail!(
            "its `persist_mode` is `async`, which loses acknowledged messages when the server is killed: \
             recreate it without"
        );
    }
    if plan.atomic && !config.allow_atomic {
        tracing::warn!(
            "stream `{}` does not allow atomic batches, so lines are published one by one, at a tenth of the \
             speed: set its `allow_atomic` (the server must be 2.12 or newer), or use `framing = \"batch\"`",
            config.name
        );
    }
    if config.discard != "new" {
        tracing::warn!(
            "stream `{}` discards its oldest messages when it is full (`discard` is `{}`): what nobody has \
             read by then is lost; run `nats stream edit {} --discard=new`",
            config.name,
            config.discard,
            config.name
        );
    }
    if config.max_msgs_per_subject > 0 {
        tracing::warn!(
            "stream `{}` keeps only {} messages per subject, which is per log: what nobody has read by then \
             is lost",
            config.name,
            config.max_msgs_per_subject
        );
    }
    Ok(())
}

/// A stream that exists is never changed; who asked for it to be created hears how it differs.
fn warn_of_differences(config: &Config, plan: &Plan) {
    if !plan.create {
        return;
    }
    let max_age = plan.max_age.map_or(0, |age| u64::try_from(age.as_nanos()).unwrap_or(u64::MAX));
    let max_bytes = plan.max_bytes.and_then(|bytes| i64::try_from(bytes).ok());
    let mut differences = Vec::new();
    if config.storage != storage_name(plan.storage) {
        differences.push(format!("storage is `{}`", config.storage));
    }
    if config.num_replicas != plan.replicas {
        differences.push(format!("replicas are {}", config.num_replicas));
    }
    if config.max_age != max_age {
        differences.push(format!("max_age is {} s", Duration::from_nanos(config.max_age).as_secs()));
    }
    if max_bytes != Some(config.max_bytes).filter(|&bytes| bytes > 0) {
        differences.push(format!("max_bytes is {}", config.max_bytes));
    }
    if !differences.is_empty() {
        tracing::warn!(
            "stream `{}` exists and differs from `stream` in the pipeline file, which only counts when it is \
             created: {}",
            config.name,
            differences.join(", ")
        );
    }
}

/// Whether one of `subjects` matches everything that `wanted` matches.
fn covered(wanted: &str, subjects: &[String]) -> bool {
    subjects.iter().any(|subject| covers(subject, wanted))
}

fn storage_name(storage: Storage) -> &'static str {
    match storage {
        Storage::File => "file",
        Storage::Memory => "memory",
    }
}

/// Subjects in backticks, for messages.
pub(super) fn list(subjects: &[String]) -> String {
    let quoted: Vec<_> = subjects.iter().map(|subject| format!("`{subject}`")).collect();
    quoted.join(", ")
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_false(value: &bool) -> bool {
    !value
}
