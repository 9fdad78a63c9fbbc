//! A child process that dies with its owner: [`Owned`].

use std::io;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};
use std::{fs, thread};

use rustix::process::{Pid, Signal, kill_process};

/// A child process, killed by its own id when dropped.
#[derive(Debug)]
pub(crate) struct Owned {
    child: Child,
}

impl Owned {
    pub(crate) fn spawn(command: &mut Command) -> io::Result<Self> {
        command.spawn().map(|child| Self { child })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal, unless the child has already been waited for: its id may be somebody else's then.
    pub(crate) fn signal(&mut self, signal: Signal) {
        let gone = self.exit_status().is_some();
        if gone {
            return;
        }
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal)
            .unwrap_or_else(|error| panic!("cannot send {signal:?} to {pid:?}: {error}"));
    }

    pub(crate) fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child of ours can be waited for")
    }

    /// The status, or `None` when the child still runs after `deadline`.
    pub(crate) fn wait(&mut self, deadline: Duration) -> Option<ExitStatus> {
        const POLL_INTERVAL: Duration = Duration::from_millis(5);
        let start = Instant::now();
        loop {
            match self.exit_status() {
                None if start.elapsed() < deadline => thread::sleep(POLL_INTERVAL),
                status => return status,
            }
        }
    }

    pub(crate) fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.child.wait().expect("a child of ours can be waited for");
    }

    /// One value of `/proc/PID/status` in KiB, such as `VmHWM`; `None` once the process is gone.
    pub(crate) fn status_kib(&self, key: &str) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).ok()?;
        let line = status.lines().find(|line| line.split(':').next() == Some(key))?;
        line.split_ascii_whitespace().nth(1)?.parse().ok()
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // Both fail only when the child is already gone, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
