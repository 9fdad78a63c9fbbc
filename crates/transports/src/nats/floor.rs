//! The commit floor: how far consumers have every log on their own disks.
//!
//! After each commit a consumer publishes where the origins that it touched are durable, one small message each,
//! to a stream of its own that keeps the last one per origin: a [`notice`]. When bytes are missing from the data
//! stream, the notice is a request instead.
//!
//! | | does | with it |
//! | --- | --- | --- |
//! | a consumer | tells: [`teller`] | a broker that lost messages costs nothing while the source has the bytes; what is durable can be [purged](purge) |
//! | a producer | listens: [`listener`] | it goes on there when the data stream has forgotten everything, goes back when bytes are missing, and knows what is not on any disk but its own |
//!
//! Nothing rests on it. Where its stream is missing or forbidden, both ends say so once and go on without; a
//! notice that is lost, late or told twice costs what is sent again, and cut off, and the time until it is told
//! anew.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use fshipper_pipeline::Ends;
use serde::{Deserialize, Serialize};

use super::api::{Api, ApiError, codes};
use super::pattern::covers;
use super::pull::{Deliver, Selection};
use super::requests::Failure;
use super::stream::{Stream, list};
use super::subject::Subjects;

pub(super) mod heard;
pub(super) mod listener;
pub(super) mod notice;
pub(super) mod purge;
pub(super) mod teller;

/// Where notices are.
#[derive(Clone, Debug)]
pub(super) struct FloorPlan {
    /// The data stream.
    data_stream: String,
    /// The stream that keeps them.
    name: String,
    /// Whether it is created when it is missing.
    create: bool,
    /// How many servers keep a created one.
    replicas: usize,
    /// The subjects they are published to: those of the data, below another first token.
    subjects: Subjects,
}

/// Why there is no commit floor.
#[derive(Debug)]
enum Problem {
    /// Until somebody does something about it: the reason with the remedy.
    Unavailable(String),
    /// For the moment.
    Broken(anyhow::Error),
}

/// The reasons that were reported by this process.
#[derive(Debug, Default)]
struct Warnings(Mutex<BTreeSet<String>>);

#[derive(Serialize)]
struct NewStream<'a> {
    name: &'a str,
    subjects: [&'a str; 1],
    retention: &'static str,
    discard: &'static str,
    storage: &'static str,
    num_replicas: usize,
    max_msgs_per_subject: i64,
    allow_direct: bool,
}

/// What is appended to the names of the data's stream and subject.
const STREAM_SUFFIX: &str = "_floor";
const SUBJECT_SUFFIX: &str = "-floor";

/// Different reasons that are remembered; with more, old ones are told again.
const MAX_WARNINGS: usize = 64;

impl FloorPlan {
    /// For the data of `stream` below `subject`.
    pub(super) fn new(
        stream: &str,
        create: bool,
        replicas: usize,
        subject: &str,
        partitions: Option<u32>,
    ) -> Self {
        Self {
            data_stream: stream.to_owned(),
            name: format!("{stream}{STREAM_SUFFIX}"),
            create,
            replicas,
            subjects: Subjects::new(&format!("{subject}{SUBJECT_SUFFIX}"), partitions, true),
        }
    }

    /// Everything that is published here.
    fn all_subjects(&self) -> String {
        self.subjects.below()
    }

    /// What a consumer of these partitions publishes.
    fn filters(&self, read_partitions: Option<&[u32]>) -> Vec<String> {
        let mut filters = self.subjects.receive(read_partitions);
        filters.retain(|filter| filter.ends_with(".>"));
        filters
    }

    /// Finds the stream, or creates it where the plan says so.
    async fn open(&self, api: &Api) -> Result<Stream, Problem> {
        let name = &self.name;
        let stream = match Stream::look_at(api, name).await {
            Err(error) if error.err_code() == codes::STREAM_NOT_FOUND && self.create => {
                self.create(api).await.map_err(|error| self.problem(error, "create"))?
            }
            Err(error) if error.err_code() == codes::STREAM_NOT_FOUND => {
                return Err(Problem::Unavailable(format!(
                    "there is no stream `{name}`: create it with `nats stream add {name} --subjects '{}' \
                     --max-msgs-per-subject 1 --discard old --allow-direct --defaults`, set `create = true` in \
                     `stream`, or set `floor = false` there",
                    self.all_subjects()
                )));
            }
            found => found.map_err(|error| self.problem(error, "look at"))?,
        };
        let wanted = self.all_subjects();
        if stream.subjects.iter().any(|subject| covers(subject, &wanted)) {
            return Ok(stream);
        }
        let has = list(&stream.subjects);
        Err(Problem::Unavailable(format!(
            "the stream `{name}` takes {has} and not `{wanted}`: add it with `nats stream edit`"
        )))
    }

    /// What `fshipper check --connect` says of it: it is no error when there is none, and nothing is created.
    pub(super) async fn probe(&self, api: &Api, ends: Ends, host: &[u8]) -> String {
        let name = &self.name;
        let missing = Stream::look_at(api, name).await;
        if self.create && missing.is_err_and(|error| error.err_code() == codes::STREAM_NOT_FOUND) {
            let subject = self.all_subjects();
            return format!(
                "commit floor: stream `{name}` does not exist and will be created with `{subject}`"
            );
        }
        match self.look(api, ends, host).await {
            Ok(found) => format!("commit floor: stream `{name}`{found}"),
            Err(Problem::Unavailable(reason)) => format!("no commit floor: {reason}"),
            Err(Problem::Broken(error)) => format!("no commit floor now: {error:#}"),
        }
    }

    /// Only a producer reads notices, and may.
    async fn look(&self, api: &Api, ends: Ends, host: &[u8]) -> Result<String, Problem> {
        let stream = self.open(api).await?;
        if !ends.sends() {
            return Ok(String::new());
        }
        let filters = vec![self.subjects.restore_filter(host)];
        let selection = Selection { deliver: Deliver::LastPerSubject, filters, headers_only: true };
        let notices = selection.count(api, &stream).await.map_err(|error| self.unreadable(error))?;
        Ok(format!(" knows {notices} logs of this host"))
    }

    async fn create(&self, api: &Api) -> Result<Stream, ApiError> {
        let Self { name, replicas, .. } = self;
        let subject = self.all_subjects();
        let config = NewStream {
            name,
            subjects: [&subject],
            retention: "limits",
            discard: "old",
            storage: "file",
            num_replicas: *replicas,
            max_msgs_per_subject: 1,
            allow_direct: true,
        };
        let stream = Stream::create_as(api, name, &config).await?;
        tracing::info!("created the stream `{name}` with `{subject}`, for the commit floor");
        Ok(stream)
    }

    fn problem(&self, error: ApiError, action: &str) -> Problem {
        let name = &self.name;
        let lasts = match &error {
            ApiError::Failure { failure, .. } => matches!(failure, Failure::Denied(_)),
            ApiError::Refused(_) => !error.passes() && error.err_code() != codes::STREAM_NAME_IN_USE,
            ApiError::Malformed { .. } => true,
        };
        if lasts {
            return self.forbidden(format!("cannot {action} the stream `{name}`: {error}"));
        }
        Problem::Broken(anyhow::Error::new(error).context(format!("cannot {action} the stream `{name}`")))
    }

    /// What a consumer of the notices failed with.
    fn unreadable(&self, error: anyhow::Error) -> Problem {
        let text = format!("{error:#}");
        match text.to_ascii_lowercase().contains("permissions violation") {
            true => self.forbidden(text),
            false => Problem::Broken(error),
        }
    }

    fn forbidden(&self, violation: String) -> Problem {
        Problem::Unavailable(format!(
            "{violation}; give this user the permissions that `docs/nats-permissions.md` lists, or set \
             `floor = false` in `stream`"
        ))
    }

    /// What may be forbidden without an error: whoever asks says what it means.
    fn tolerated(&self) -> Vec<String> {
        let (name, subjects) = (&self.name, self.all_subjects());
        let api = ["STREAM.INFO", "STREAM.CREATE", "CONSUMER.CREATE", "CONSUMER.MSG.NEXT"];
        let mut tolerated = vec![subjects, format!("$JS.API.STREAM.PURGE.{}", self.data_stream)];
        for operation in api {
            tolerated.extend(["", ".>"].map(|end| format!("$JS.API.{operation}.{name}{end}")));
        }
        tolerated
    }
}

impl Warnings {
    /// Says once that there is no commit floor.
    fn going_without(&self, plan: &FloorPlan, reason: &str) {
        self.once(&format!(
            "going on without the commit floor of the stream `{}`: {reason}",
            plan.data_stream
        ));
    }

    fn once(&self, message: &str) {
        let mut reported = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if reported.len() == MAX_WARNINGS {
            reported.clear();
        }
        if reported.insert(message.to_owned()) {
            tracing::warn!("{message}");
        }
    }
}

/// The acknowledgement of a notice.
#[derive(Deserialize)]
struct Acknowledgement {
    error: Option<super::api::Refusal>,
    #[serde(default)]
    stream: String,
}
