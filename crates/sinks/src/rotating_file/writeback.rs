//! Early beginnings of what a sync would have to wait for: [`Writeback`].
//!
//! On a thread of its own: while the disk is busy, as beside a sync, the kernel makes whoever hands it more wait.

use std::fs::File;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread;

use rustix::fs::{Advice, fadvise};

/// Lets the kernel begin to write out what has just been written. A hint: it promises nothing.
#[derive(Debug, Default)]
pub(super) struct Writeback(Option<SyncSender<Hint>>);

/// A file, the offset of what was written, and its length.
type Hint = (Arc<File>, u64, u64);

/// So many hints wait at most: a disk that is behind has enough to do.
const MOST_HINTS: usize = 16;

impl Writeback {
    /// `length` bytes at `offset` of `file` may go to the disk.
    pub(super) fn begin(&mut self, file: &Arc<File>, offset: u64, length: u64) {
        let hints = self.0.get_or_insert_with(start);
        match hints.try_send((file.clone(), offset, length)) {
            Ok(()) | Err(TrySendError::Full(_)) => {}
            // There was no room for a thread; perhaps there is the next time.
            Err(TrySendError::Disconnected(_)) => self.0 = None,
        }
    }
}

fn start() -> SyncSender<Hint> {
    let (sender, hints) = sync_channel(MOST_HINTS);
    // Without the thread everything works, only slower.
    let _ = thread::Builder::new().name("writeback".to_owned()).spawn(move || take(&hints));
    sender
}

fn take(hints: &Receiver<Hint>) {
    while let Ok((file, offset, length)) = hints.recv() {
        // On Linux this starts the writing of dirty pages and drops clean ones, of which there are none.
        // A file system that refuses a hint has not lost anything.
        let _ = fadvise(&*file, offset, NonZeroU64::new(length), Advice::DontNeed);
    }
}
