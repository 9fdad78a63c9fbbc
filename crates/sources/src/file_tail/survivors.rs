//! Open files that outlive a session: [`Survivors`].
//!
//! A hop that reopens reads again what was not committed. Of a file that was deleted meanwhile nothing is left but
//! the handle on it: so that is handed from one session to the next, within a process, and kept until all of the
//! file is committed.

use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::identity::FileId;
use super::log::{Log, Stage};
use super::reading::Whereabouts;
use super::rotation::Held;
use super::tail::Tail;

/// What the session before left open.
#[derive(Debug, Default)]
pub(crate) struct Survivors(Mutex<Vec<(Arc<Path>, Survivor)>>);

#[derive(Debug)]
enum Survivor {
    Begun(Kept),
    Waiting(Held),
}

/// A file that is at no path, or may soon be, and of which not all is committed.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) id: FileId,
    pub(crate) path: Arc<Path>,
    pub(crate) file: Arc<File>,
    /// The offset behind its last byte.
    pub(crate) end: u64,
}

impl Survivors {
    fn lock(&self) -> MutexGuard<'_, Vec<(Arc<Path>, Survivor)>> {
        // Nothing under this lock can be left half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tail {
    /// Takes over what the session before left open, and leaves there what this one has open at its end. Nothing
    /// was settled yet.
    pub(crate) fn take_over(&mut self, survivors: Arc<Survivors>) {
        for (path, survivor) in std::mem::take(&mut *survivors.lock()) {
            let Some(index) = self.log_at(&path) else { continue };
            let log = &mut self.logs[index];
            let is_known = |id: FileId| log.generations.iter().any(|known| known.id.same(&id));
            match survivor {
                Survivor::Begun(kept) if is_known(kept.id) && kept.end > log.offset => {
                    log.rotation.make().kept.push(kept);
                }
                Survivor::Waiting(held) if !is_known(held.id) => log.rotation.make().held.push(held),
                // It is known what became of it.
                Survivor::Begun(_) | Survivor::Waiting(_) => continue,
            }
            self.open_files.held += 1;
            self.unsettled.insert(index);
        }
        self.survivors = Some(survivors);
    }

    /// Keeps the file that was finished last open, if it is at no path and not all of it is committed.
    pub(super) fn keep(&mut self, index: usize, id: FileId, path: Arc<Path>, file: &File) {
        let log = &mut self.logs[index];
        let end = log.offset;
        if end <= log.committed
            || self.survivors.is_none()
            || self.open_files.held >= self.open_files.most_held
        {
            return;
        }
        // Without a free descriptor it is read again only if the session goes on.
        if let Ok(file) = file.try_clone() {
            log.rotation.make().kept.push(Kept { id, path, file: file.into(), end });
            self.open_files.held += 1;
        }
    }

    /// Lets go of files that are kept no longer: of those that `is_kept` does not want.
    pub(super) fn let_go(&mut self, index: usize, is_kept: impl Fn(&Kept) -> bool) {
        if let Some(rotation) = self.logs[index].rotation.if_any() {
            let before = rotation.kept.len();
            rotation.kept.retain(is_kept);
            self.open_files.held -= before - rotation.kept.len();
        }
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        let Some(survivors) = &self.survivors else { return };
        let mut left = survivors.lock();
        for log in &mut self.logs {
            if let Some(kept) = log.leave_current() {
                left.push((log.path.clone(), Survivor::Begun(kept)));
            }
            let Some(rotation) = log.rotation.if_any() else { continue };
            let kept = rotation.kept.drain(..).map(Survivor::Begun);
            let held = rotation.held.drain(..).filter(|held| held.file.is_some()).map(Survivor::Waiting);
            left.extend(kept.chain(held).map(|survivor| (log.path.clone(), survivor)));
        }
        left.truncate(self.open_files.most_held);
    }
}

impl Log {
    /// The file that is looked for, where it is at no path and a session before left it open.
    pub(super) fn kept(&self) -> Option<(FileId, &Arc<File>, &Arc<Path>)> {
        let wanted = self.generation().filter(|_| matches!(self.stage, Stage::Locate))?.id;
        let kept = self.rotation.kept.iter().find(|kept| kept.id.same(&wanted))?;
        Some((kept.id, &kept.file, &kept.path))
    }

    /// Gives away the file that is being read, if it is not at its place and not all of it is committed.
    fn leave_current(&mut self) -> Option<Kept> {
        let (position, offset, committed) = (self.position(), self.offset, self.committed);
        let Stage::Reading(reading) = &mut self.stage else { return None };
        if !matches!(reading.whereabouts, Whereabouts::Moved | Whereabouts::Gone) {
            return None;
        }
        let unread = reading.text.end().max(reading.sound_end).saturating_sub(position);
        let end = offset + unread;
        let file = reading.file.take_if(|_| end > committed)?;
        Some(Kept { id: reading.id, path: reading.path.clone(), file: file.into(), end })
    }
}
