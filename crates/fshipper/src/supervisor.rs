//! What systemd, or another service manager that speaks `sd_notify`, is told: [`Supervisor`].
//!
//! A message is a datagram to the socket that `$NOTIFY_SOCKET` names: `READY=1` and `STOPPING=1`. With
//! `Type=notify`, a start that is refused, with exit code 2, is then a start that failed.
//!
//! Left out on purpose: a watchdog, because whatever a restart could mend is tried again anyway.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use fshipper_pipeline::Monitor;
use fshipper_pipeline::anyhow::{Context as _, Result};
use tokio::time::{Instant, sleep, timeout};

/// How often it is looked whether everything is open; a start is reported so much later at most.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// After so long it counts as started all the same: what is not open yet is tried again until it is, such as a
/// broker that is away. A service manager that waited for it would give up some time and kill the process.
const STARTED_AFTER: Duration = Duration::from_secs(5);

/// A service manager that does not read for so long is not waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// Whoever started this process and wants to hear of it; perhaps nobody.
#[derive(Clone, Debug)]
pub(crate) struct Supervisor {
    socket: Option<OsString>,
}

impl Supervisor {
    pub(crate) fn of_this_process() -> Self {
        Self { socket: std::env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) }
    }

    /// Says that the process has started, once all hops of its `pipelines` pipelines have been open, or some
    /// seconds have passed in which nothing was refused for good.
    pub(crate) async fn say_started(self, monitor: Monitor, pipelines: usize) {
        if self.socket.is_none() {
            return;
        }
        let latest = Instant::now() + STARTED_AFTER;
        while Instant::now() < latest && !have_been_open(&monitor, pipelines) {
            sleep(LOOK_EVERY).await;
        }
        self.say("READY=1").await;
    }

    /// Says that the process is about to end.
    pub(crate) async fn say_stopping(&self) {
        self.say("STOPPING=1").await;
    }

    async fn say(&self, message: &str) {
        let Some(socket) = &self.socket else { return };
        if let Err(error) = send(socket, message).await {
            tracing::warn!("cannot tell the service manager `{message}`: {error:#}");
        }
    }
}

/// Each pipeline has a hop at least; those of one that is not running yet are not there.
fn have_been_open(monitor: &Monitor, pipelines: usize) -> bool {
    let hops = monitor.hops();
    hops.len() >= pipelines && hops.iter().all(|hop| hop.counts.sessions > 0)
}

async fn send(name: &OsStr, message: &str) -> Result<()> {
    let address = match name.as_bytes() {
        // A name without a file.
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        path => SocketAddr::from_pathname(OsStr::from_bytes(path)),
    };
    let connected = || -> io::Result<tokio::net::UnixDatagram> {
        let socket = UnixDatagram::unbound()?;
        socket.connect_addr(&address?)?;
        socket.set_nonblocking(true)?;
        tokio::net::UnixDatagram::from_std(socket)
    };
    let name = name.display();
    let socket = connected().with_context(|| format!("cannot reach `$NOTIFY_SOCKET`, `{name}`"))?;
    let sent = timeout(PATIENCE, socket.send(message.as_bytes())).await;
    sent.with_context(|| format!("nobody reads `{name}`"))?
        .with_context(|| format!("cannot write to `{name}`"))?;
    Ok(())
}
