//! Hints that a file changed: [`Watch`], and [`LinemuxWatch`], which takes them from the kernel.
//!
//! A hint says no more than "look again". Everything is right without any, only later: the engine looks at
//! each file in turns anyway, so a hint that is missed, late or wrong does no harm.
//!
//! linemux is used for its events alone, and each of its habits has an answer here. Its queue has no bound:
//! a thread drains it constantly into a set of files. It cannot take a watch back, and keeps a dead one when
//! a file is replaced: whenever a file that was watched became another, or many are watched for nobody, all
//! watches are made anew before long. Once nothing is watched it reports the end of its events for ever: then
//! it is not asked. The directories are not watched: a watch on a file and one on its directory report each
//! write twice, in turns, which keeps the kernel from merging the reports of a busy writer. One watcher serves
//! one source.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use linemux::MuxedEvents;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::identity::FileId;

/// Watches are made anew at most so often ...
const RENEW_AFTER: Duration = Duration::from_secs(1);

/// ... and not before this many times as long has passed as it took the last time.
const RENEW_PAUSE: u32 = 100;

/// So many watches of files that nobody asks about are kept, and as many as there are others.
const MAX_DEAD_WATCHES: usize = 64;

/// Tells the engine where to look.
pub(crate) trait Watch: Send {
    /// Asks for hints about the log number `index`, whose file at `path` has the identity `id`.
    fn watch(&mut self, index: usize, path: &Arc<Path>, id: FileId);

    /// Asks for no more of them.
    fn forget(&mut self, index: usize);

    /// The hints since the last call.
    fn take(&mut self) -> Hints;
}

/// Where to look.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Hints {
    /// Logs, by number.
    pub(crate) files: HashSet<usize>,
    /// Something was created, renamed or removed.
    pub(crate) directories: bool,
    /// Hints were lost.
    pub(crate) everything: bool,
}

/// Hints from the kernel, by way of linemux.
pub(crate) struct LinemuxWatch {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// There are hints.
    hinted: Arc<Notify>,
    /// There are requests.
    asked: Notify,
}

#[derive(Default)]
struct State {
    hints: Hints,
    wanted: Wanted,
    /// Logs of which another file is wanted, or none any more.
    requests: HashSet<usize>,
    is_closed: bool,
}

/// The files that shall be watched, by the numbers of their logs.
#[derive(Default)]
struct Wanted {
    files: Vec<Option<(Arc<Path>, FileId)>>,
    /// How many there are.
    count: usize,
}

impl LinemuxWatch {
    /// Starts the thread that watches. Where that fails there are no hints.
    pub(crate) fn start() -> Self {
        let shared = Arc::new(Shared::default());
        let of_thread = shared.clone();
        let started = thread::Builder::new().name("file_tail watch".to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
            match runtime {
                Ok(runtime) => runtime.block_on(Watcher::new(of_thread).run()),
                Err(error) => tracing::warn!("cannot watch files: {error}; they are polled"),
            }
        });
        if let Err(error) = started {
            tracing::warn!("cannot watch files: {error}; they are polled");
        }
        Self { shared }
    }

    /// Is notified when there are hints.
    pub(crate) fn hinted(&self) -> Arc<Notify> {
        self.shared.hinted.clone()
    }
}

impl Watch for LinemuxWatch {
    fn watch(&mut self, index: usize, path: &Arc<Path>, id: FileId) {
        self.shared.request(index, Some((path.clone(), id)));
    }

    fn forget(&mut self, index: usize) {
        self.shared.request(index, None);
    }

    fn take(&mut self) -> Hints {
        std::mem::take(&mut self.shared.lock().hints)
    }
}

impl Drop for LinemuxWatch {
    fn drop(&mut self) {
        self.shared.lock().is_closed = true;
        self.shared.asked.notify_one();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under this lock can be left half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn request(&self, index: usize, file: Option<(Arc<Path>, FileId)>) {
        let mut state = self.lock();
        if state.wanted.set(index, file) {
            state.requests.insert(index);
            self.asked.notify_one();
        }
    }

    fn hint(&self, change: impl FnOnce(&mut Hints)) {
        let mut state = self.lock();
        let had_some = state.hints != Hints::default();
        change(&mut state.hints);
        if !had_some {
            self.hinted.notify_one();
        }
    }
}

impl Wanted {
    /// Whether that is news.
    fn set(&mut self, index: usize, file: Option<(Arc<Path>, FileId)>) -> bool {
        if self.files.len() <= index {
            self.files.resize(index + 1, None);
        }
        let is_news = self.files[index] != file;
        self.count += usize::from(file.is_some());
        self.count -= usize::from(self.files[index].is_some());
        self.files[index] = file;
        is_news
    }

    fn path(&self, index: usize) -> Option<Arc<Path>> {
        self.files.get(index)?.as_ref().map(|(path, _)| path.clone())
    }
}

/// What runs in the thread.
struct Watcher {
    shared: Arc<Shared>,
    events: Option<MuxedEvents>,
    /// The log at each path that linemux was given, under the name that it reports.
    names: HashMap<Arc<Path>, usize>,
    /// The same for logs whose path leads to the name of another one.
    others: Vec<(PathBuf, usize)>,
    /// Watches may be dead: they are made anew at this time.
    renew_at: Option<Instant>,
    /// Not before this time.
    may_renew_at: Instant,
    has_warned: bool,
}

impl Watcher {
    fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            events: None,
            names: HashMap::new(),
            others: Vec::new(),
            renew_at: None,
            may_renew_at: Instant::now(),
            has_warned: false,
        }
    }

    async fn run(mut self) {
        loop {
            // An empty linemux reports the end of its events at once, each time it is asked.
            let is_empty = self.names.is_empty();
            let shared = self.shared.clone();
            let renew_at = self.renew_at.unwrap_or_else(Instant::now);
            tokio::select! {
                () = shared.asked.notified() => {
                    if self.answer().await {
                        return;
                    }
                }
                event = async {
                    match &mut self.events {
                        Some(events) => events.next_event().await,
                        None => std::future::pending().await,
                    }
                }, if !is_empty => match event {
                    // That a file was opened or closed says nothing about its content.
                    Ok(Some(event)) if event.kind.is_access() => {}
                    Ok(Some(event)) => self.note(&event.paths, event.need_rescan()),
                    // Nothing is watched any more: linemux gave up its last watch.
                    Ok(None) => self.renew().await,
                    Err(error) => {
                        tracing::debug!("an event was lost: {error}");
                        self.shared.hint(|hints| hints.everything = true);
                    }
                },
                () = tokio::time::sleep_until(renew_at), if self.renew_at.is_some() => self.renew().await,
            }
        }
    }

    /// Takes the requests; whether this is the end.
    async fn answer(&mut self) -> bool {
        let requests = {
            let mut state = self.shared.lock();
            if state.is_closed {
                return true;
            }
            std::mem::take(&mut state.requests)
        };
        for index in requests {
            let path = self.shared.lock().wanted.path(index);
            if let Some(path) = path {
                self.add(index, &path).await;
            }
        }
        let wanted = self.shared.lock().wanted.count;
        if self.names.len() > 2 * wanted + MAX_DEAD_WATCHES {
            self.renew_at = Some(self.may_renew_at.max(Instant::now() + RENEW_AFTER));
        }
        false
    }

    async fn add(&mut self, index: usize, path: &Arc<Path>) {
        if self.events.is_none() {
            match MuxedEvents::new() {
                Ok(events) => self.events = Some(events),
                Err(error) => return self.warn(&error),
            }
        }
        let Some(events) = &mut self.events else { return };
        match events.add_file(&**path).await {
            Ok(name) => {
                let known = self.names.get(name.as_path()).copied();
                // linemux takes a name that it knows for watched, whatever became of the file.
                if known.is_some() {
                    self.renew_at = Some(self.may_renew_at.max(Instant::now() + RENEW_AFTER));
                }
                if known.is_some_and(|known| known != index) {
                    let other = (name, index);
                    if !self.others.contains(&other) {
                        self.others.push(other);
                    }
                } else {
                    let name = if name == **path { path.clone() } else { name.into() };
                    self.names.insert(name, index);
                }
            }
            // Its directory vanished in the meantime: the engine will notice.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => self.warn(&error),
        }
    }

    /// Makes all watches anew.
    async fn renew(&mut self) {
        let started = Instant::now();
        self.renew_at = None;
        self.events = None;
        self.names.clear();
        self.others.clear();
        let count = self.shared.lock().wanted.files.len();
        for index in 0..count {
            let path = self.shared.lock().wanted.path(index);
            if let Some(path) = path {
                self.add(index, &path).await;
            }
        }
        // Two logs under one name make a doubtful watch each time; it is not made anew for ever.
        self.renew_at = None;
        self.may_renew_at = Instant::now() + RENEW_AFTER + started.elapsed() * RENEW_PAUSE;
        // Whatever happened before the new watches stood was not reported.
        self.shared.hint(|hints| hints.everything = true);
    }

    fn note(&mut self, paths: &[PathBuf], everything: bool) {
        let named = paths.iter().filter_map(|path| self.names.get(path.as_path()));
        let others = self.others.iter().filter(|(name, _)| paths.contains(name)).map(|(_, index)| index);
        let files: Vec<usize> = named.chain(others).copied().collect();
        // linemux watches the directory of a file that is gone, and reports without a path what happens there.
        let directories = paths.is_empty();
        if everything || directories || !files.is_empty() {
            self.shared.hint(|hints| {
                hints.files.extend(files);
                hints.directories |= directories;
                hints.everything |= everything;
            });
        }
    }

    fn warn(&mut self, error: &io::Error) {
        if !self.has_warned {
            self.has_warned = true;
            tracing::warn!(
                "cannot watch all files: {error}; the others are polled, which takes longer to notice a change; \
                 raise the sysctls fs.inotify.max_user_watches and fs.inotify.max_user_instances"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file_tail::identity::Stat;

    /// The kernel reports it without a path.
    #[test]
    fn an_overflow_of_its_queue_is_a_hint_about_everything() {
        let shared = Arc::new(Shared::default());
        let mut watcher = Watcher::new(shared.clone());
        watcher.note(&[], true);
        let mut watch = LinemuxWatch { shared };
        assert!(watch.take().everything);
        watcher.note(&[], false);
        assert_eq!(watch.take(), Hints { directories: true, ..Hints::default() });
    }

    #[tokio::test]
    async fn files_that_come_and_go_leave_few_watches() {
        let folder = tempfile::tempdir().unwrap();
        let mut watch = LinemuxWatch { shared: Arc::default() };
        let mut watcher = Watcher::new(watch.shared.clone());
        for index in 0..500 {
            let path: Arc<Path> = folder.path().join(index.to_string()).into();
            std::fs::write(&path, "text\n").unwrap();
            let id = Stat::of_path(&path).unwrap().id;
            watch.watch(index, &path, id);
            assert!(!watcher.answer().await);
            watch.forget(index);
            watcher.answer().await;
            if watcher.renew_at.is_some() {
                watcher.renew().await;
            }
            assert!(watcher.names.len() <= MAX_DEAD_WATCHES + 2, "{}", watcher.names.len());
        }
    }
}
