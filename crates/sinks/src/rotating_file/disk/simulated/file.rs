//! The bytes of a file, durable and not: [`File`].

use std::collections::BTreeSet;
use std::sync::Arc;

use fastrand::Rng;

use super::model::Loss;

/// A file, with what was done to it since it was last durable.
#[derive(Clone, Debug)]
pub(super) struct File {
    /// Of its inode.
    pub(super) number: u64,
    /// What is durable for certain.
    base: Arc<Vec<u8>>,
    /// What was done since, in order.
    edits: Vec<Edit>,
}

#[derive(Clone, Debug)]
struct Edit {
    what: What,
    state: State,
}

#[derive(Clone, Debug)]
pub(super) enum What {
    /// At an offset.
    Write(u64, Arc<[u8]>),
    Truncate(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Pending,
    Durable,
    /// A sync of it failed: no later one makes it durable.
    Doubtful,
}

/// The block that a disk writes as a whole, and two that are smaller, for records that happen to stand at the
/// beginning of one.
const BLOCKS: [u64; 3] = [512, 64, 7];

impl File {
    /// A file of which everything is durable.
    pub(super) fn durable(number: u64, content: &[u8]) -> Self {
        Self { number, base: Arc::new(content.to_vec()), edits: Vec::new() }
    }

    pub(super) fn edit(&mut self, what: What) {
        self.edits.push(Edit { what, state: State::Pending });
    }

    pub(super) fn sync(&mut self) {
        for edit in self.edits.iter_mut().filter(|edit| edit.state == State::Pending) {
            edit.state = State::Durable;
        }
        // What is doubtful may come to stand below what is durable, never above it: the order stays.
        if !self.edits.is_empty() && self.edits.iter().all(|edit| edit.state == State::Durable) {
            self.base = Arc::new(self.content(|_| true));
            self.edits.clear();
        }
    }

    pub(super) fn fail_to_sync(&mut self) {
        for edit in self.edits.iter_mut().filter(|edit| edit.state == State::Pending) {
            edit.state = State::Doubtful;
        }
    }

    /// The durable content with those of the other edits that are `chosen`, each by its place among them.
    fn content(&self, chosen: impl Fn(usize) -> bool) -> Vec<u8> {
        let mut content = self.base.to_vec();
        let mut place = 0;
        for edit in &self.edits {
            if edit.state != State::Durable {
                place += 1;
                if !chosen(place - 1) {
                    continue;
                }
            }
            edit.what.apply(&mut content);
        }
        content
    }

    pub(super) fn after_power_cut(&self, loss: Loss, random: &mut Rng) -> Vec<u8> {
        let pending = self.edits.iter().filter(|edit| edit.state != State::Durable).count();
        match loss {
            Loss::Nothing | Loss::Names => self.content(|_| true),
            Loss::Everything | Loss::Bytes => self.content(|_| false),
            Loss::Contents => {
                let mut content = self.content(|_| false);
                content.resize(self.content(|_| true).len().max(content.len()), 0);
                content
            }
            Loss::Some(_) => match random.u8(0..6) {
                0 => self.content(|_| false),
                1 => self.content(|_| true),
                2 => {
                    let count = random.usize(..=pending);
                    self.content(|place| place < count)
                }
                _ => self.blocks(random),
            },
        }
    }

    /// Of each block, what it was after some of the writes to it.
    fn blocks(&self, random: &mut Rng) -> Vec<u8> {
        let block = BLOCKS[random.usize(..BLOCKS.len())];
        let mut content = self.base.to_vec();
        // Blocks whose later versions did not get to the disk.
        let mut stuck = BTreeSet::new();
        for edit in &self.edits {
            let is_durable = edit.state == State::Durable;
            match &edit.what {
                What::Truncate(_) if is_durable || random.bool() => edit.what.apply(&mut content),
                What::Truncate(_) => {}
                What::Write(offset, bytes) => {
                    let end = offset + bytes.len() as u64;
                    let mut at = *offset;
                    while at < end {
                        let number = at / block;
                        let next = ((number + 1) * block).min(end);
                        if !is_durable && !stuck.contains(&number) && random.u8(0..3) == 0 {
                            stuck.insert(number);
                        }
                        if is_durable || !stuck.contains(&number) {
                            let part = &bytes[(at - offset) as usize..(next - offset) as usize];
                            What::Write(at, part.into()).apply(&mut content);
                        }
                        at = next;
                    }
                }
            }
        }
        let (none, all) = (self.content(|_| false).len(), self.content(|_| true).len());
        match random.u8(0..4) {
            // The length is ahead of the bytes, or behind them.
            0 => content.resize(content.len().max(all), 0),
            1 => content.truncate(none),
            _ => {}
        }
        content
    }
}

impl What {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Truncate(length) => content.resize(*length as usize, 0),
            Self::Write(offset, bytes) => {
                let (start, end) = (*offset as usize, *offset as usize + bytes.len());
                if content.len() < end {
                    content.resize(end, 0);
                }
                content[start..end].copy_from_slice(bytes);
            }
        }
    }
}
