//! Lines that would go in a circle: [`Feedback`].

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::Pipeline;
use crate::{Escaped, Origin};

/// A log that a pipeline writes and reads again, alone or by way of others: it would grow until the disk is full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feedback {
    /// The file of the pipeline that reads the log the second time, as it read it the first time.
    pub reader: PathBuf,
    /// The pattern by which it does.
    pub pattern: String,
    /// A log such as it reads the first time.
    pub log: PathBuf,
    /// The file of the pipeline that writes.
    pub writer: PathBuf,
    /// Where, as its sink describes it.
    pub sink: String,
    /// Where it would write that log.
    pub written: PathBuf,
}

impl Feedback {
    /// The first circle among pipelines of one host that run together.
    ///
    /// Examples of the logs that each source reads are followed through sinks and transports, by their names
    /// alone: what they show would happen. What depends on the names of other hosts' logs shows later: a sink
    /// knows its own files.
    pub fn find(pipelines: &[Pipeline]) -> Option<Self> {
        pipelines.iter().enumerate().find_map(|(start, pipeline)| {
            let logs = pipeline.parts.sources.iter().flat_map(|source| source.examples());
            logs.into_iter().find_map(|log| {
                let mut passed = vec![false; pipelines.len()];
                Self::follow(pipelines, start, start, &log, &mut passed)
            })
        })
    }

    /// Follows a log that the pipeline `at` reads, until the pipeline `start` reads it again.
    fn follow(
        pipelines: &[Pipeline],
        start: usize,
        at: usize,
        log: &Path,
        passed: &mut [bool],
    ) -> Option<Self> {
        let sender = &pipelines[at];
        let origin = Origin::new(&sender.settings.host, log.as_os_str().as_bytes());
        for writer in pipelines.iter().filter(|receiver| carries(sender, receiver)) {
            let Some(sink) = &writer.parts.sink else { continue };
            let Some(written) = sink.writes(&origin) else { continue };
            for (next, reader) in pipelines.iter().enumerate() {
                let Some(pattern) = reader.parts.sources.iter().find_map(|source| source.reads(&written))
                else {
                    continue;
                };
                if next == start {
                    return Some(Self {
                        reader: reader.file.clone(),
                        pattern,
                        log: log.to_owned(),
                        writer: writer.file.clone(),
                        sink: sink.describe(),
                        written,
                    });
                }
                if !std::mem::replace(&mut passed[next], true) {
                    let found = Self::follow(pipelines, start, next, &written, passed);
                    if found.is_some() {
                        return found;
                    }
                }
            }
        }
        None
    }
}

/// Whether the sink of `receiver` gets what the sources of `sender` read.
fn carries(sender: &Pipeline, receiver: &Pipeline) -> bool {
    if std::ptr::eq(sender, receiver) {
        return true;
    }
    match (&sender.parts.transport, &receiver.parts.transport) {
        (Some((sent, sending)), Some((received, receiving))) => {
            let channel = sent.describe();
            // One without a description exists within a pipeline alone.
            sending.sends() && receiving.receives() && !channel.is_empty() && channel == received.describe()
        }
        _ => false,
    }
}

/// What would happen, and what to do about it.
impl fmt::Display for Feedback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |path: &Path| Escaped(path.as_os_str().as_bytes()).to_string();
        write!(
            f,
            "lines would go in a circle: `{}` writes what comes of a log such as `{}` to `{}`, below the `path` of its sink, `{}`, and `{}` reads that again: it matches `{}`\n  \
             help: leave the output out with `exclude` in `[source]`, or write to another folder",
            self.writer.display(),
            shown(&self.log),
            shown(&self.written),
            self.sink,
            self.reader.display(),
            self.pattern,
        )
    }
}
