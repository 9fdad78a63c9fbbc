//! Positions for a sink that keeps none: [`keep`].
//!
//! The checkpoint lives in a [`Journal`] of the pipeline's state directory and is written after the sink
//! committed, so a crash between the two repeats bytes and never skips any: at least once.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::journal::Journal;
use crate::plugin::Committing;
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
    let file = Arc::new(Mutex::new(Some(CheckpointFile { compacted_bytes: journal.bytes(), journal })));
    Ok((Box::new(Kept { sink, file, held: Vec::new() }), checkpoint))
}

struct Kept {
    sink: Box<dyn Sink>,
    /// Absent while a commit has it, and after one failed.
    file: Arc<Mutex<Option<CheckpointFile>>>,
    held: Vec<(Origin, String)>,
}

struct CheckpointFile {
    journal: Journal,
    /// Its length after it was last rewritten, or opened.
    compacted_bytes: u64,
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
        self.held = self.begin_commit(checkpoint).await?.await?;
        Ok(())
    }

    /// The record says what is written now; it is stored when the sink has stored that.
    async fn begin_commit(&mut self, checkpoint: &Checkpoint) -> Result<Committing> {
        let commit = self.sink.begin_commit(checkpoint).await?;
        if !checkpoint.changed() {
            return Ok(commit);
        }
        let slot = self.file.clone();
        let file = lock(&slot).take().context("an earlier commit failed, or nobody waited for its end")?;
        let grown = file.has_grown();
        let mut record = if grown { Record::all(checkpoint) } else { Record::changes(checkpoint) };
        Ok(Box::pin(async move {
            let held = commit.await?;
            // What the sink could not store after all must not be claimed, nor a cursor beyond it: what the file
            // says of it already stays.
            let rewrite = grown && held.is_empty();
            if !held.is_empty() {
                record.leave_out(&held);
            }
            let file = tokio::task::spawn_blocking(move || file.store(&record, rewrite)).await??;
            *lock(&slot) = Some(file);
            Ok(held)
        }))
    }

    fn commit_bytes(&self, configured: u64) -> u64 {
        self.sink.commit_bytes(configured)
    }

    fn budget_bytes(&self, usually: usize) -> usize {
        self.sink.budget_bytes(usually)
    }

    fn held(&mut self) -> Vec<(Origin, String)> {
        std::mem::take(&mut self.held)
    }
}

/// Nothing that holds the lock can panic.
fn lock(slot: &Mutex<Option<CheckpointFile>>) -> MutexGuard<'_, Option<CheckpointFile>> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

impl CheckpointFile {
    fn has_grown(&self) -> bool {
        self.journal.bytes() > COMPACT_BYTES.max(self.compacted_bytes * COMPACT_FACTOR)
    }

    /// Makes a record durable: behind the others, or in the place of all of them.
    fn store(mut self, record: &Record, rewrite: bool) -> Result<Self> {
        let payload = serde_json::to_vec(record)?;
        if rewrite {
            self.journal.compact(&[payload])?;
            self.compacted_bytes = self.journal.bytes();
        } else {
            self.journal.append(&payload)?;
        }
        Ok(self)
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use futures::FutureExt as _;
    use tokio::sync::oneshot;

    use super::*;
    use crate::testing;

    /// A sink with opinions of its own about commits.
    #[derive(Default)]
    struct Choosy {
        /// When the next commit ends, and what it refuses.
        ending: Option<oneshot::Receiver<Vec<(Origin, String)>>>,
    }

    #[async_trait]
    impl Sink for Choosy {
        async fn restore(&mut self) -> Result<Option<Checkpoint>> {
            Ok(None)
        }

        async fn write(&mut self, _: Batch) -> Result<Written> {
            Ok(Written::Accepted)
        }

        async fn commit(&mut self, _: &Checkpoint) -> Result<()> {
            unreachable!("its commits are begun")
        }

        async fn begin_commit(&mut self, _: &Checkpoint) -> Result<Committing> {
            let ending = self.ending.take();
            Ok(Box::pin(async move {
                match ending {
                    Some(ending) => Ok(ending.await?),
                    None => Ok(Vec::new()),
                }
            }))
        }

        fn commit_bytes(&self, configured: u64) -> u64 {
            configured * 3
        }

        fn budget_bytes(&self, usually: usize) -> usize {
            usually * 2
        }
    }

    async fn open(folder: &Path, sink: Choosy) -> (Box<dyn Sink>, Checkpoint) {
        keep(Box::new(sink), &testing::context(folder), "sink").await.unwrap()
    }

    fn write(checkpoint: &mut Checkpoint, path: &str, text: &'static str) {
        let origin = Origin::new("h", path);
        let start = checkpoint.position(&origin).map_or(0, |position| position.offset);
        checkpoint.advance(&Batch::data(origin, Epoch(1), start, text));
    }

    fn offset(checkpoint: &Checkpoint, path: &str) -> Option<u64> {
        checkpoint.position(&Origin::new("h", path)).map(|position| position.offset)
    }

    fn set_cursor(checkpoint: &mut Checkpoint, position: &'static str) {
        checkpoint.set_cursor(&Cursor { transport: "test".into(), position: position.into() });
    }

    #[tokio::test]
    async fn the_sink_says_when_a_commit_is_due() {
        let folder = tempfile::tempdir().unwrap();
        let (kept, _) = open(folder.path(), Choosy::default()).await;
        assert_eq!(kept.commit_bytes(100), 300);
    }

    #[tokio::test]
    async fn the_sink_says_how_much_may_be_under_way() {
        let folder = tempfile::tempdir().unwrap();
        let (kept, _) = open(folder.path(), Choosy::default()).await;
        assert_eq!(kept.budget_bytes(100), 200);
    }

    #[tokio::test]
    async fn nothing_is_claimed_that_the_sink_refuses_at_the_end_of_a_commit() {
        let folder = tempfile::tempdir().unwrap();
        let (end, ending) = oneshot::channel();
        let (mut kept, mut checkpoint) = open(folder.path(), Choosy { ending: Some(ending) }).await;
        write(&mut checkpoint, "good", "one\n");
        write(&mut checkpoint, "bad", "two\n");
        set_cursor(&mut checkpoint, "behind both");
        let refused = vec![(Origin::new("h", "bad"), "refused".to_owned())];
        end.send(refused.clone()).unwrap();
        let held = kept.begin_commit(&checkpoint).await.unwrap().await.unwrap();
        assert_eq!(held, refused, "the pump hears of it");
        drop(kept);
        let (_, kept) = open(folder.path(), Choosy::default()).await;
        assert_eq!((offset(&kept, "good"), offset(&kept, "bad"), kept.cursor("test")), (Some(4), None, None));
    }

    #[tokio::test]
    async fn nothing_is_claimed_of_a_commit_that_fails_at_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let (end, ending) = oneshot::channel();
        let (mut kept, mut checkpoint) = open(folder.path(), Choosy { ending: Some(ending) }).await;
        write(&mut checkpoint, "log", "one\n");
        let commit = kept.begin_commit(&checkpoint).await.unwrap();
        drop(end);
        assert!(commit.await.is_err());
        assert!(kept.begin_commit(&checkpoint).await.is_err(), "the hop has to be opened again");
        let (_, found) = open(folder.path(), Choosy::default()).await;
        assert_eq!(offset(&found, "log"), None);
    }

    #[tokio::test]
    async fn a_commit_claims_what_was_written_before_it_once_the_sink_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let (end, ending) = oneshot::channel();
        let (mut kept, mut checkpoint) = open(folder.path(), Choosy { ending: Some(ending) }).await;
        write(&mut checkpoint, "log", "one\n");
        let mut commit = kept.begin_commit(&checkpoint).await.unwrap();
        checkpoint.clear_changes();
        write(&mut checkpoint, "log", "two\n");
        assert!((&mut commit).now_or_never().is_none(), "it ends before the sink's own");
        let (_, found) = open(folder.path(), Choosy::default()).await;
        assert_eq!(offset(&found, "log"), None, "nothing is claimed before the sink has it");
        end.send(Vec::new()).unwrap();
        commit.await.unwrap();
        let (_, found) = open(folder.path(), Choosy::default()).await;
        assert_eq!(offset(&found, "log"), Some(4));
        kept.begin_commit(&checkpoint).await.unwrap().await.unwrap();
        let (_, found) = open(folder.path(), Choosy::default()).await;
        assert_eq!(offset(&found, "log"), Some(8));
    }

    #[tokio::test]
    async fn a_file_that_is_rewritten_holds_every_log_and_what_was_refused_before() {
        let folder = tempfile::tempdir().unwrap();
        let (mut kept, mut checkpoint) = open(folder.path(), Choosy::default()).await;
        write(&mut checkpoint, "old", "one\n");
        kept.begin_commit(&checkpoint).await.unwrap().await.unwrap();
        checkpoint.clear_changes();
        // Longer than what is rewritten, in one record.
        for number in 0..20_000 {
            write(&mut checkpoint, &format!("/var/log/{number}"), "line\n");
        }
        kept.begin_commit(&checkpoint).await.unwrap().await.unwrap();
        checkpoint.clear_changes();
        drop(kept);

        let path = folder.path().join("sink.checkpoint");
        let length = || std::fs::metadata(&path).unwrap().len();
        let before = length();
        assert!(before > COMPACT_BYTES);
        let (end, ending) = oneshot::channel();
        let sink: Box<dyn Sink> = Box::new(Choosy { ending: Some(ending) });
        let (journal, _) = Journal::open(&path, VERSION).unwrap();
        let file = Arc::new(Mutex::new(Some(CheckpointFile { journal, compacted_bytes: 0 })));
        let mut kept = Kept { sink, file, held: Vec::new() };
        write(&mut checkpoint, "old", "two\n");
        end.send(vec![(Origin::new("h", "old"), "refused".to_owned())]).unwrap();
        kept.begin_commit(&checkpoint).await.unwrap().await.unwrap();
        let (_, found) = open(folder.path(), Choosy::default()).await;
        assert_eq!((offset(&found, "old"), found.len()), (Some(4), 20_001));

        kept.begin_commit(&checkpoint).await.unwrap().await.unwrap();
        assert!(length() < before + before / 2, "it was rewritten");
        let (_, found) = open(folder.path(), Choosy::default()).await;
        assert_eq!((offset(&found, "old"), found.len()), (Some(8), 20_001));
    }
}
