//! What becomes of the receiving side.

use std::collections::VecDeque;

use fshipper_pipeline::{Admission, Batch, Bytes, Position};

use super::{Bench, Received, TICK};

impl Bench {
    /// As if only so many bytes of a log had been committed, somewhere within its last batch.
    pub(in super::super) fn rewind(&mut self, name: &str, offset: u64) {
        let origin = self.origin(name);
        let mut position = self.received.checkpoint.position(&origin).unwrap().clone();
        position.offset = offset;
        self.received.checkpoint.set_position(&origin, position);
        self.received.bytes.get_mut(&origin).unwrap().truncate(offset as usize);
    }

    /// As if the receiving side had lost what is behind `offset`, and wanted it again.
    pub(in super::super) fn go_back(&mut self, name: &str, offset: u64) {
        let origin = self.origin(name);
        let mut history = self.received.checkpoint.history(&origin).unwrap().clone();
        history.earlier.push((history.current.epoch, history.current.offset));
        self.rewind(name, offset);
        history.current.offset = offset;
        self.received.checkpoint.set_history(&origin, Some(history));
    }

    /// As if it had never heard where in its file a log stands.
    pub(in super::super) fn forget_place(&mut self, name: &str) {
        let origin = self.origin(name);
        let mut position = self.received.checkpoint.position(&origin).unwrap().clone();
        position.place = Bytes::new();
        self.received.checkpoint.set_position(&origin, position);
    }

    /// Takes batches up to the first loss of unknown length; what was read behind it gets lost on its way.
    pub(in super::super) fn read_up_to_a_loss(&mut self) {
        self.open();
        for _ in 0..100 {
            self.wait(TICK);
            let (now, mut batches) = (self.now(), VecDeque::new());
            self.tail.as_mut().unwrap().fill(now, false, &mut batches).unwrap();
            for batch in batches {
                self.receive(batch);
                if self.unknown_losses() > 0 {
                    return;
                }
            }
        }
        panic!("nothing is lost");
    }

    /// Where it stands with a log.
    pub(in super::super) fn position(&self, name: &str) -> Position {
        self.received.checkpoint.position(&self.origin(name)).unwrap().clone()
    }

    /// What it would do with a batch.
    pub(in super::super) fn admit(&self, batch: &Batch) -> Admission {
        self.received.checkpoint.admit(batch)
    }

    /// It was deleted while nothing ran, and knows nothing any more.
    pub(in super::super) fn forget_everything(&mut self) {
        self.committed = Received::default();
        self.crash();
    }
}
