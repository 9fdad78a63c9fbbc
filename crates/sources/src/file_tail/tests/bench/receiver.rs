//! What becomes of the receiving side.

use fshipper_pipeline::Bytes;

use super::{Bench, Received};

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

    /// It was deleted while nothing ran, and knows nothing any more.
    pub(in super::super) fn forget_everything(&mut self) {
        self.committed = Received::default();
        self.crash();
    }
}
