//! The producing side of a simulated host: [`LogSource`], [`WatchedSender`].

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use async_trait::async_trait;
use fshipper_pipeline::{
    Batch, Bytes, Checkpoint, Context, Invalid, OpenSource, Origin, Settings, Sink, Source, Written,
};

use super::truth::{SharedTruth, lock};
use super::watch;

/// Opens sources of the logs of one host.
pub(super) struct Logs {
    pub(super) truth: SharedTruth,
    pub(super) origins: Vec<Origin>,
    /// Changes when a log has grown.
    pub(super) grown: watch::Receiver<u64>,
}

/// Reads logs that are in memory, as `file_tail` reads files.
struct LogSource {
    truth: SharedTruth,
    positions: Vec<(Origin, usize)>,
    grown: watch::Receiver<u64>,
    turn: usize,
    max_batch_bytes: usize,
}

/// A sender that is looked after: what it claims to have committed, the stream must have stored.
pub(super) struct WatchedSender {
    pub(super) inner: Box<dyn Sink>,
    pub(super) truth: SharedTruth,
    /// What was accepted since the last commit.
    pub(super) accepted: Vec<(Origin, u64, u64)>,
    pub(super) committed: bool,
    pub(super) held: BTreeMap<Origin, String>,
}

#[async_trait]
impl OpenSource for Logs {
    fn validate(&self, _: &Settings) -> Result<(), (usize, Invalid)> {
        Ok(())
    }

    fn describe(&self) -> String {
        "logs in memory".to_owned()
    }

    async fn open(&self, from: Checkpoint, context: Context) -> Result<Box<dyn Source>> {
        let mut truth = lock(&self.truth);
        let mut positions = Vec::new();
        for origin in &self.origins {
            let log = &truth.logs[origin];
            let (epoch, written) = (log.epoch, log.written);
            let position = from.position(origin).filter(|position| position.epoch == epoch);
            let at = position.map_or(0, |position| position.offset as usize);
            // A consumer that has nothing of a log and misses its beginning knows no place.
            let position = position.filter(|position| position.offset > 0 || !position.place.is_empty());
            let place = position.map(|position| position.place.clone());
            let place_end = place.as_ref().and_then(|place| {
                std::str::from_utf8(place).ok()?.strip_prefix("at=")?.parse::<usize>().ok()
            });
            if at > written || place.is_some() && place_end.is_none_or(|end| end < at || end > written) {
                truth.violate(format!(
                    "the source of {origin} was opened at {at} with the place {place:?}, of {written} bytes"
                ));
            }
            positions.push((origin.clone(), at));
        }
        drop(truth);
        let (truth, grown) = (self.truth.clone(), self.grown.clone());
        let max_batch_bytes = context.settings.max_batch_bytes;
        Ok(Box::new(LogSource { truth, positions, grown, turn: 0, max_batch_bytes }))
    }
}

impl LogSource {
    /// The next batch of the log whose turn it is, if it has one.
    fn next_of(&mut self, index: usize) -> Option<Batch> {
        let (origin, at) = &mut self.positions[index];
        let truth = lock(&self.truth);
        let log = &truth.logs[origin];
        let start = *at;
        let (end, content) = if log.oldest > start {
            (log.oldest, None)
        } else {
            let limit = log.written.min(start + self.max_batch_bytes);
            let line = log.bytes[start..limit].iter().rposition(|&byte| byte == b'\n');
            let length = match line {
                Some(newline) => newline + 1,
                None if limit - start == self.max_batch_bytes => self.max_batch_bytes,
                None => return None,
            };
            (start + length, Some(Bytes::copy_from_slice(&log.bytes[start..start + length])))
        };
        let mut batch = match content {
            Some(bytes) => Batch::data(origin.clone(), log.epoch, start as u64, bytes),
            None => {
                let missing = (end - start) as u64;
                Batch::loss(origin.clone(), log.epoch, start as u64, missing, "the log was deleted too early")
            }
        };
        batch.place = format!("at={end}").into();
        *at = end;
        Some(batch)
    }
}

#[async_trait]
impl Source for LogSource {
    async fn read(&mut self) -> Result<Option<Batch>> {
        loop {
            if fastrand::u32(..4) == 0 {
                tokio::time::sleep(Duration::from_millis(fastrand::u64(..30))).await;
            }
            self.grown.borrow_and_update();
            for _ in 0..self.positions.len() {
                self.turn = (self.turn + 1) % self.positions.len();
                if let Some(batch) = self.next_of(self.turn) {
                    return Ok(Some(batch));
                }
            }
            // There is always somebody who could write.
            let _ = self.grown.changed().await;
        }
    }
}

#[async_trait]
impl Sink for WatchedSender {
    async fn restore(&mut self) -> Result<Option<Checkpoint>> {
        let restored = self.inner.restore().await?;
        let mut truth = lock(&self.truth);
        for (origin, history) in restored.iter().flat_map(Checkpoint::origins) {
            let end = history.current.offset;
            let known = truth.logs.get(origin).is_some_and(|log| end as usize <= log.written);
            if !known {
                truth.violate(format!("a sender restored {origin} at {end}, where it never was"));
            }
        }
        drop(truth);
        Ok(restored)
    }

    async fn write(&mut self, batch: Batch) -> Result<Written> {
        let (origin, start, end) = (batch.origin.clone(), batch.start, batch.end());
        let written = self.inner.write(batch).await?;
        if written == Written::Accepted {
            self.accepted.push((origin, start, end));
        }
        Ok(written)
    }

    async fn commit(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        self.inner.commit(checkpoint).await?;
        self.committed = true;
        Ok(())
    }

    fn commit_bytes(&self, configured: u64) -> u64 {
        self.inner.commit_bytes(configured)
    }

    fn budget_bytes(&self, usually: usize) -> usize {
        self.inner.budget_bytes(usually)
    }

    fn held(&mut self) -> Vec<(Origin, String)> {
        let news = self.inner.held();
        self.held.extend(news.iter().cloned());
        if std::mem::take(&mut self.committed) {
            let mut truth = lock(&self.truth);
            for (origin, start, end) in std::mem::take(&mut self.accepted) {
                if !self.held.contains_key(&origin) && !truth.logs[&origin].was_stored(start, end) {
                    truth.violate(format!(
                        "a sender committed {origin} {start}..{end}, which was never stored"
                    ));
                }
            }
        }
        news
    }
}

/// Lines of a log: letters, of many lengths, now and then a very long one.
pub(super) fn lines(random: &mut fastrand::Rng, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length);
    let most = [8, 40, 90][random.usize(..3)];
    let mut left = random.usize(..most);
    while bytes.len() + 1 < length {
        if left == 0 {
            bytes.push(b'\n');
            left = if random.u32(..60) == 0 { random.usize(..800) } else { random.usize(..most) };
        } else {
            bytes.push(random.alphanumeric() as u8);
            left -= 1;
        }
    }
    bytes.push(b'\n');
    bytes
}

/// An origin of a simulated host.
pub(super) fn origin(host: usize, log: usize) -> Origin {
    Origin::new(format!("host{host}.example"), format!("/var/log/{log}.log"))
}
