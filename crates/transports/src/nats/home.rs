//! A thread of its own for one connection: [`Home`].
//!
//! On the threads that all pipelines share, a client and whoever feeds or empties it wake each other on another
//! core again and again; where every line is a message that costs more than the message. Here they take turns.
//! And while this thread waits, the client reads nothing from its socket: the only way to make a server wait.

use std::future::Future;
use std::thread;

use anyhow::{Context as _, Result};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio_util::context::TokioContext;
use tokio_util::task::AbortOnDropHandle;

/// The thread ends when this is dropped, and everything that runs on it.
#[derive(Debug)]
pub(super) struct Home {
    runtime: Handle,
    _end: oneshot::Sender<()>,
}

impl Home {
    /// Starts the thread.
    ///
    /// # Errors
    ///
    /// The system has none to give.
    pub(super) fn start() -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build().context("cannot start a runtime")?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel::<()>();
        let work = move || {
            // Nothing is ever sent: the other end is dropped, and that is no failure.
            let _ = runtime.block_on(ended);
        };
        thread::Builder::new().name("nats".to_owned()).spawn(work).context("cannot start a thread")?;
        Ok(Self { runtime: handle, _end: end })
    }

    /// Makes what `opening` spawns live on the thread. It runs here itself.
    pub(super) async fn settle<T>(&self, opening: impl Future<Output = T>) -> T {
        TokioContext::new(opening, self.runtime.clone()).await
    }

    /// The thread, for what is to run on it.
    pub(super) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Starts `work` on the thread; dropping the handle ends it.
    pub(super) fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> AbortOnDropHandle<T> {
        AbortOnDropHandle::new(self.runtime.spawn(work))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_spawned_while_it_settles_lives_on_the_thread_and_ends_with_it() {
        let home = Home::start().unwrap();
        let here = thread::current().id();
        let (spawned, own) = home
            .settle(async {
                let spawned = tokio::spawn(async { thread::current().id() });
                (spawned.await.unwrap(), thread::current().id())
            })
            .await;
        let worked = home.spawn(async { thread::current().id() }).await.unwrap();
        assert_eq!((spawned, own), (worked, here));
        assert_ne!(worked, here);

        let (alive, ended) = oneshot::channel::<()>();
        let endless = home.spawn(async move {
            let _alive = alive;
            std::future::pending::<()>().await;
        });
        drop(home);
        assert!(ended.await.is_err());
        assert!(endless.await.is_err());
    }
}
