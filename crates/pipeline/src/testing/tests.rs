//! The suite itself: what keeps the contract passes, and each promise that is broken is named.

use std::collections::{BTreeMap, HashMap};
use std::panic::AssertUnwindSafe;
use std::sync::Mutex;

use anyhow::Result;
use async_trait::async_trait;
use futures::FutureExt as _;

use super::*;
use crate::plugin::Committing;
use crate::{Batch, Content, Epoch, History, Sink, Source, Written};

/// What a sink does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    None,
    ClaimsWhatCameSince,
    DropsWhatCameSince,
    WaitsForTheCommit,
    ClaimsBeforeItStores,
    CursorFirst,
    NeverEndsACommit,
    KeepsLeases,
    SaysTooLateWhatItHolds,
    HoldsALoss,
    WritesALoss,
    ForgetsEarlierEpochs,
    ForgetsTheCursor,
    EscapesNames,
}

/// What outlives a sink.
#[derive(Default)]
struct Disk {
    logs: HashMap<Origin, Vec<u8>>,
    all: Vec<u8>,
    committed: Checkpoint,
}

/// A sink in memory, of which nothing counts before it is committed.
struct Memory {
    disk: Arc<Mutex<Disk>>,
    keeps_positions: bool,
    flaw: Flaw,
    queue: Arc<Mutex<Vec<Batch>>>,
    is_committing: Arc<watch::Sender<bool>>,
}

impl Memory {
    fn open(disk: &Arc<Mutex<Disk>>, keeps_positions: bool, flaw: Flaw) -> Box<dyn Sink> {
        let (disk, queue) = (disk.clone(), Arc::default());
        Box::new(Self {
            disk,
            keeps_positions,
            flaw,
            queue,
            is_committing: Arc::new(watch::channel(false).0),
        })
    }
}

#[async_trait]
impl Sink for Memory {
    async fn restore(&mut self) -> Result<Option<Checkpoint>> {
        Ok(self.keeps_positions.then(|| self.disk.lock().unwrap().committed.clone()))
    }

    async fn write(&mut self, mut batch: Batch) -> Result<Written> {
        if self.flaw == Flaw::WaitsForTheCommit {
            self.is_committing.subscribe().wait_for(|is_committing| !is_committing).await?;
        }
        if matches!(batch.content, Content::Loss { .. }) && self.flaw == Flaw::HoldsALoss {
            return Ok(Written::Held("no bytes".to_owned()));
        }
        if matches!(batch.content, Content::Loss { .. }) && self.flaw == Flaw::WritesALoss {
            batch.content = Content::Data("lost\n".into());
        }
        if self.flaw == Flaw::KeepsLeases {
            // For ever.
            std::mem::forget(batch.lease.clone());
        }
        self.queue.lock().unwrap().push(batch);
        Ok(Written::Accepted)
    }

    async fn commit(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        self.begin_commit(checkpoint).await?.await.map(drop)
    }

    async fn begin_commit(&mut self, checkpoint: &Checkpoint) -> Result<Committing> {
        let mut claimed = checkpoint.clone();
        let (disk, queue, flaw) = (self.disk.clone(), self.queue.clone(), self.flaw);
        let is_committing = self.is_committing.clone();
        is_committing.send_replace(true);
        let count = queue.lock().unwrap().len();
        match flaw {
            Flaw::ClaimsBeforeItStores => disk.lock().unwrap().committed = claimed.clone(),
            Flaw::CursorFirst => {
                let cursors = claimed.clone_cursors();
                disk.lock().unwrap().committed.set_cursors(&cursors);
            }
            Flaw::NeverEndsACommit => return Ok(Box::pin(std::future::pending())),
            _ => {}
        }
        Ok(Box::pin(async move {
            let (mut disk, mut queue) = (disk.lock().unwrap(), queue.lock().unwrap());
            let stored: Vec<Batch> = match flaw {
                Flaw::ClaimsWhatCameSince => queue.drain(..).collect(),
                _ => queue.drain(..count).collect(),
            };
            for batch in stored {
                if flaw == Flaw::ClaimsWhatCameSince {
                    claimed.advance(&batch);
                }
                let name = match flaw {
                    Flaw::EscapesNames => Origin::new(batch.origin.host(), batch.origin.to_string()),
                    _ => batch.origin.clone(),
                };
                disk.logs.entry(name).or_default().extend_from_slice(batch.bytes());
                disk.all.extend_from_slice(batch.bytes());
            }
            if flaw == Flaw::DropsWhatCameSince {
                queue.clear();
            }
            if flaw == Flaw::ForgetsEarlierEpochs {
                let known: Vec<_> =
                    claimed.origins().map(|(origin, history)| (origin.clone(), history.clone())).collect();
                for (origin, history) in known {
                    claimed.set_history(&origin, Some(History::new(history.current)));
                }
            }
            if flaw == Flaw::ForgetsTheCursor {
                claimed.set_cursors(&BTreeMap::new());
            }
            claimed.clear_changes();
            disk.committed = claimed;
            is_committing.send_replace(false);
            Ok(Vec::new())
        }))
    }

    fn held(&mut self) -> Vec<(Origin, String)> {
        let held =
            (self.flaw == Flaw::SaysTooLateWhatItHolds).then(|| (Origin::new("h", "p"), "full".to_owned()));
        held.into_iter().collect()
    }
}

/// What the check says of a sink; empty when nothing is wrong.
async fn verdict(keeps_positions: bool, is_shared: bool, flaw: Flaw) -> String {
    let disk = Arc::new(Mutex::new(Disk::default()));
    let open = async || Ok(Memory::open(&disk, keeps_positions, flaw));
    let read_back = |origin: &Origin| disk.lock().unwrap().logs.get(origin).cloned().unwrap_or_default();
    let read_all = || disk.lock().unwrap().all.clone();
    if is_shared {
        said(check_shared_sink(open, read_all)).await
    } else {
        said(check_sink(open, read_back)).await
    }
}

async fn said(check: impl Future<Output = ()>) -> String {
    let Err(panic) = AssertUnwindSafe(check).catch_unwind().await else { return String::new() };
    match panic.downcast::<String>() {
        Ok(message) => *message,
        Err(panic) => (*panic.downcast::<&str>().unwrap()).to_owned(),
    }
}

#[tokio::test]
async fn sinks_that_keep_the_contract_pass() {
    for keeps_positions in [true, false] {
        for is_shared in [true, false] {
            assert_eq!(verdict(keeps_positions, is_shared, Flaw::None).await, "");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_sink_does_wrong_is_named() {
    const BOTH: &[bool] = &[true, false];
    const WITH_POSITIONS: &[bool] = &[true];
    const WITHOUT_POSITIONS: &[bool] = &[false];
    for (flaw, kinds, rule) in [
        (
            Flaw::ClaimsWhatCameSince,
            WITH_POSITIONS,
            "what was written since the commit was begun does not count",
        ),
        (Flaw::DropsWhatCameSince, WITHOUT_POSITIONS, "after a commit"),
        (Flaw::WaitsForTheCommit, BOTH, "a write waits for a commit"),
        (Flaw::ClaimsBeforeItStores, WITH_POSITIONS, "after a commit"),
        (Flaw::CursorFirst, WITH_POSITIONS, "the cursor counts with everything before it"),
        (Flaw::NeverEndsACommit, BOTH, "a commit never ends"),
        (Flaw::KeepsLeases, BOTH, "the hop would stop for want of room"),
        (Flaw::SaysTooLateWhatItHolds, BOTH, "said when the commit ends"),
        (Flaw::HoldsALoss, BOTH, "the sink takes the record of a loss"),
        (Flaw::WritesALoss, BOTH, "lost\\n"),
        (Flaw::ForgetsEarlierEpochs, WITH_POSITIONS, "earlier epochs"),
        (Flaw::ForgetsTheCursor, WITH_POSITIONS, "a restored cursor"),
        (Flaw::EscapesNames, BOTH, "after a commit"),
    ] {
        for keeps_positions in kinds {
            let verdict = verdict(*keeps_positions, false, flaw).await;
            assert!(verdict.contains(rule), "{flaw:?}, with positions: {keeps_positions}: {verdict:?}");
        }
    }
}

#[tokio::test]
async fn an_output_of_all_origins_is_checked_too() {
    assert!(verdict(false, true, Flaw::WritesALoss).await.contains("the output holds"));
}

/// What a source does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SourceFlaw {
    None,
    GoesOnWhereItWasBefore,
    TakesOthersForItsOwn,
    ForgetsTheEpoch,
    PlacesAreNotPrintable,
    HoldsLeases,
    LosesInSilence,
    LosesTooLittle,
    PutsOthersInTheirPlace,
}

const LOG: &str = "/var/log/a.log";
const TEXT: &[u8] = b"one\ntwo\nthree\n";

/// A source of one log, which it has, or which is gone.
struct Lines {
    batches: std::vec::IntoIter<Batch>,
}

impl Lines {
    fn open(from: &Checkpoint, is_gone: bool, flaw: SourceFlaw) -> Box<dyn Source> {
        let origin = Origin::new("host", LOG);
        let history = from.history(&origin);
        let (epoch, mut start) = history.map_or((Epoch(7), 0), |it| (it.current.epoch, it.current.offset));
        let reached = history.and_then(History::reached);
        let mut batches = Vec::new();
        if flaw == SourceFlaw::GoesOnWhereItWasBefore {
            start = reached.unwrap_or(start);
        }
        let epoch = if flaw == SourceFlaw::ForgetsTheEpoch { Epoch(epoch.0 + 1) } else { epoch };
        if flaw == SourceFlaw::TakesOthersForItsOwn {
            for (other, history) in from.origins().filter(|(other, _)| **other != origin) {
                let Position { epoch, offset, .. } = history.current;
                batches.push(Batch::data(other.clone(), epoch, offset, "theirs\n"));
            }
        }
        if is_gone {
            let missing = reached.unwrap_or(start) - start;
            match flaw {
                SourceFlaw::LosesInSilence => {}
                SourceFlaw::LosesTooLittle => {
                    batches.push(Batch::loss(origin, epoch, start, missing - 1, "gone"))
                }
                SourceFlaw::PutsOthersInTheirPlace => {
                    batches.push(Batch::loss(origin.clone(), epoch, start, 0, "gone"));
                    batches.push(Batch::data(origin, epoch, start, "another file\n"));
                }
                _ => batches.push(Batch::loss(origin, epoch, start, missing, "gone")),
            }
        } else {
            for line in TEXT[start as usize..].split_inclusive(|byte| *byte == b'\n') {
                batches.push(Batch::data(origin.clone(), epoch, start, line.to_vec()));
                start += line.len() as u64;
            }
        }
        for batch in &mut batches {
            if flaw == SourceFlaw::PlacesAreNotPrintable {
                batch.place = "\n".into();
            }
            if flaw == SourceFlaw::HoldsLeases {
                let permit = Arc::new(tokio::sync::Semaphore::new(1)).try_acquire_owned().unwrap();
                batch.lease = Some(crate::BudgetLease::new(permit));
            }
        }
        Box::new(Self { batches: batches.into_iter() })
    }
}

#[async_trait]
impl Source for Lines {
    async fn read(&mut self) -> Result<Option<Batch>> {
        Ok(self.batches.next())
    }
}

async fn source_verdict(flaw: SourceFlaw) -> String {
    let expected = BTreeMap::from([(Origin::new("host", LOG), TEXT.to_vec())]);
    said(check_source(async |from| Ok(Lines::open(&from, false, flaw)), &expected, 100)).await
}

async fn verdict_after_a_loss(flaw: SourceFlaw, earlier: Vec<(Epoch, u64)>) -> String {
    let current = Position { epoch: Epoch(7), offset: 4, place: "".into() };
    let mut from = Checkpoint::default();
    from.set_history(&Origin::new("host", LOG), Some(History { current, earlier }));
    said(check_source_after_loss(async |from| Ok(Lines::open(&from, true, flaw)), &from)).await
}

#[tokio::test]
async fn what_a_source_does_wrong_is_named() {
    assert_eq!(source_verdict(SourceFlaw::None).await, "");
    for (flaw, rule) in [
        (SourceFlaw::GoesOnWhereItWasBefore, "opened again"),
        (SourceFlaw::TakesOthersForItsOwn, "another one's"),
        (SourceFlaw::ForgetsTheEpoch, "opened again"),
        (SourceFlaw::PlacesAreNotPrintable, "a place is printable ASCII"),
        (SourceFlaw::HoldsLeases, "only the pump gives a batch a lease"),
    ] {
        let verdict = source_verdict(flaw).await;
        assert!(verdict.contains(rule), "{flaw:?}: {verdict:?}");
    }
}

#[tokio::test]
async fn what_a_source_does_wrong_after_a_loss_is_named() {
    let reached = vec![(Epoch(7), 14)];
    assert_eq!(verdict_after_a_loss(SourceFlaw::None, Vec::new()).await, "");
    assert_eq!(verdict_after_a_loss(SourceFlaw::None, reached.clone()).await, "");
    for (flaw, rule) in [
        (SourceFlaw::LosesInSilence, "is recorded"),
        (SourceFlaw::LosesTooLittle, "is recorded up to 13 instead of 14"),
        (SourceFlaw::PutsOthersInTheirPlace, "other bytes at 4"),
    ] {
        let verdict = verdict_after_a_loss(flaw, reached.clone()).await;
        assert!(verdict.contains(rule), "{flaw:?}: {verdict:?}");
    }
}
