//! Positions for a sink that keeps none: [`keep`].
//!
//! The checkpoint lives in a [`Journal`] of the pipeline's state directory and is written after the sink
//! committed, so a crash between the two repeats bytes and never skips any: at least once.

use std::collections::HashSet;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::journal::Journal;
use crate::{Batch, Checkpoint, Context, Cursor, Epoch, Fatal, History, Origin, Position, Sink, Written};

const VERSION: u32 = 1;

/// The journal is rewritten when it is this many times as long as what it has to say ...
const COMPACT_FACTOR: u64 = 4;
/// ... and at least this long, so that a small one is left alone.
const COMPACT_BYTES: u64 = 1 << 20;

/// Wraps a sink whose `restore` is `None`; its checkpoint is then kept in `context.state_dir`, in the file
/// `{name}.checkpoint`.
///
/// # Errors
///
/// Those of [`Journal::open`].
pub(crate) async fn keep(
    sink: Box<dyn Sink>,
    context: &Context,
    name: &str,
) -> Result<(Box<dyn Sink>, Checkpoint)> {
    let path = context.state_dir.join(format!("{name}.checkpoint"));
    let open = move || -> Result<(Journal, Checkpoint)> {
        let (journal, records) = Journal::open(&path, VERSION)?;
        let mut checkpoint = Checkpoint::default();
        for record in records {
            let record: Record = serde_json::from_slice(&record).map_err(|error| {
                Fatal::new(format!("`{}` holds a record that makes no sense: {error}", path.display()))
            })?;
            record.apply(&mut checkpoint);
        }
        checkpoint.clear_changes();
        Ok((journal, checkpoint))
    };
    let (journal, checkpoint) = tokio::task::spawn_blocking(open).await??;
    let compacted_bytes = journal.bytes();
    Ok((Box::new(Kept { sink, journal: Some(journal), compacted_bytes, held: Vec::new() }), checkpoint))
}

struct Kept {
    sink: Box<dyn Sink>,
    /// Absent only while a blocking task has it, and after such a task failed.
    journal: Option<Journal>,
    compacted_bytes: u64,
    held: Vec<(Origin, String)>,
}

#[async_trait]
impl Sink for Kept {
    async fn restore(&mut self) -> Result<Option<Checkpoint>> {
        Ok(None)
    }

    async fn write(&mut self, batch: Batch) -> Result<Written> {
        self.sink.write(batch).await
    }

    async fn commit(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        self.sink.commit(checkpoint).await?;
        self.held = self.sink.held();
        if !checkpoint.changed() {
            return Ok(());
        }
        let mut journal = self.journal.take().context("the checkpoint's file failed before")?;
        let all_stored = self.held.is_empty();
        let grown = all_stored && journal.bytes() > COMPACT_BYTES.max(self.compacted_bytes * COMPACT_FACTOR);
        let mut record = if grown { Record::all(checkpoint) } else { Record::changes(checkpoint) };
        if !all_stored {
            // What the sink could not store after all must not be claimed, nor a cursor beyond it.
            record.leave_out(&self.held);
        }
        let payload = serde_json::to_vec(&record)?;
        let write = move || -> Result<Journal> {
            if grown {
                journal.compact(&[payload])?
            } else {
                journal.append(&payload)?
            }
            Ok(journal)
        };
        let journal = tokio::task::spawn_blocking(write).await??;
        if grown {
            self.compacted_bytes = journal.bytes();
        }
        self.journal = Some(journal);
        Ok(())
    }

    fn held(&mut self) -> Vec<(Origin, String)> {
        std::mem::take(&mut self.held)
    }
}

/// One line of the journal: what changed in one commit.
#[derive(Serialize, Deserialize)]
struct Record {
    origins: Vec<OriginRecord>,
    cursors: Vec<(String, String)>,
}

/// Names are byte strings, written as hexadecimal digits.
#[derive(Serialize, Deserialize)]
struct OriginRecord {
    host: String,
    path: String,
    epoch: u64,
    offset: u64,
    place: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    earlier: Vec<(u64, u64)>,
}

impl Record {
    fn changes(checkpoint: &Checkpoint) -> Self {
        Self::of(checkpoint, checkpoint.changed_origins())
    }

    fn all(checkpoint: &Checkpoint) -> Self {
        Self::of(checkpoint, checkpoint.origins())
    }

    fn leave_out(&mut self, held: &[(Origin, String)]) {
        let held: HashSet<_> =
            held.iter().map(|(origin, _)| (hex(origin.host()), hex(origin.path()))).collect();
        self.origins.retain(|record| !held.contains(&(record.host.clone(), record.path.clone())));
        self.cursors.clear();
    }

    fn of<'a>(checkpoint: &Checkpoint, origins: impl Iterator<Item = (&'a Origin, &'a History)>) -> Self {
        let origins = origins.map(|(origin, history)| OriginRecord {
            host: hex(origin.host()),
            path: hex(origin.path()),
            epoch: history.current.epoch.0,
            offset: history.current.offset,
            place: hex(&history.current.place),
            earlier: history.earlier.iter().map(|(epoch, end)| (epoch.0, *end)).collect(),
        });
        let cursors =
            checkpoint.cursors().map(|(transport, position)| (transport.to_string(), hex(position)));
        Self { origins: origins.collect(), cursors: cursors.collect() }
    }

    fn apply(self, checkpoint: &mut Checkpoint) {
        for record in self.origins {
            let origin = Origin::new(unhex(&record.host), unhex(&record.path));
            let place = Bytes::from(unhex(&record.place));
            let current = Position { epoch: Epoch(record.epoch), offset: record.offset, place };
            let earlier = record.earlier.into_iter().map(|(epoch, end)| (Epoch(epoch), end)).collect();
            checkpoint.set_history(&origin, Some(History { current, earlier }));
        }
        for (transport, position) in self.cursors {
            let position = Bytes::from(unhex(&position));
            checkpoint.set_cursor(&Cursor { transport: Arc::from(transport), position });
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes of what [`hex`] wrote; the record's checksum vouches for the digits.
fn unhex(digits: &str) -> Vec<u8> {
    let value = |digit: u8| (digit as char).to_digit(16).unwrap_or(0) as u8;
    digits
        .as_bytes()
        .chunks(2)
        .map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | value(*digit)))
        .collect()
}
