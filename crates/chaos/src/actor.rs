//! One `fshipper` process over all its lives: [`Actor`].

use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use fshipper_testing::{Finished, Fshipper, Running};

use crate::fault::Who;
use crate::pipelines::DRAIN_TIMEOUT;

/// How much longer than `drain_timeout` a stop may take on a loaded machine.
const STOP_PATIENCE: Duration = Duration::from_secs(20);

/// What the one of two that has to leave says: the state directory is locked, or the output is.
const REFUSALS: [&str; 2] = ["already runs the pipeline", "writes to this output already"];

/// Says that a process handles signals.
const STARTED: &str = "\"started: ";

/// A process to kill, pause, stop and start, and what is known of it.
#[derive(Debug)]
pub(crate) struct Actor {
    pub(crate) who: Who,
    launch: Fshipper,
    life: Life,
    /// The most memory that any of its lives held.
    pub(crate) peak_memory_kib: u64,
    pub(crate) starts: u64,
}

#[derive(Debug)]
enum Life {
    Down,
    Up(Running),
    /// Asked to stop, at this time.
    Stopping(Running, Instant),
}

/// What became of a process that was looked at.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Nothing new.
    Same,
    /// It was asked to stop, and has.
    Stopped,
    /// It left because another one does its work.
    Refused,
}

impl Actor {
    pub(crate) fn new(who: Who, launch: Fshipper) -> Self {
        Self { who, launch, life: Life::Down, peak_memory_kib: 0, starts: 0 }
    }

    /// Starts it, unless it runs.
    pub(crate) fn start(&mut self) {
        if matches!(self.life, Life::Down) {
            self.life = Life::Up(self.launch.start());
            self.starts += 1;
        }
    }

    pub(crate) fn is_down(&self) -> bool {
        matches!(self.life, Life::Down)
    }

    /// SIGKILL, whatever it is at.
    pub(crate) fn kill(&mut self) {
        self.measure();
        match std::mem::replace(&mut self.life, Life::Down) {
            Life::Down => {}
            Life::Up(running) | Life::Stopping(running, _) => running.kill(),
        }
    }

    /// SIGTERM; [`Actor::look`] says when it has ended.
    pub(crate) fn stop(&mut self) {
        self.measure();
        self.life = match std::mem::replace(&mut self.life, Life::Down) {
            Life::Up(mut running) => {
                running.terminate();
                Life::Stopping(running, Instant::now())
            }
            other => other,
        };
    }

    /// SIGSTOP.
    pub(crate) fn pause(&mut self) {
        if let Life::Up(running) = &mut self.life {
            running.pause();
        }
    }

    /// SIGCONT.
    pub(crate) fn resume(&mut self) {
        if let Life::Up(running) = &mut self.life {
            running.resume();
        }
    }

    /// SIGHUP, unless it could not understand it yet.
    pub(crate) fn hang_up(&mut self) {
        if let Life::Up(running) = &mut self.life
            && running.stderr().contains(STARTED)
        {
            running.hang_up();
        }
    }

    /// Reads how much memory it has held: the kernel forgets it with the process.
    pub(crate) fn measure(&mut self) {
        if let Life::Up(running) | Life::Stopping(running, _) = &self.life {
            self.peak_memory_kib = self.peak_memory_kib.max(running.peak_memory_kib().unwrap_or(0));
        }
    }

    /// Whether it ended.
    ///
    /// # Errors
    ///
    /// When it ended by itself, ended a stop with anything but 0, or does not end.
    pub(crate) fn look(&mut self) -> Result<Seen> {
        let who = self.who;
        match &mut self.life {
            Life::Down => return Ok(Seen::Same),
            Life::Up(running) => {
                if running.is_running() {
                    return Ok(Seen::Same);
                }
            }
            Life::Stopping(running, since) => {
                if running.is_running() {
                    if since.elapsed() > DRAIN_TIMEOUT + STOP_PATIENCE {
                        bail!("{who} was asked to stop and still runs after {:?}", since.elapsed());
                    }
                    return Ok(Seen::Same);
                }
            }
        }
        match std::mem::replace(&mut self.life, Life::Down) {
            Life::Down => Ok(Seen::Same),
            Life::Up(running) => {
                let Finished { status, stderr, .. } = running.wait(Duration::ZERO);
                if REFUSALS.iter().any(|refusal| stderr.contains(refusal)) {
                    return Ok(Seen::Refused);
                }
                bail!("{who} ended by itself, {status}: {}", last_line(&stderr));
            }
            Life::Stopping(running, _) => {
                let Finished { status, stderr, .. } = running.wait(Duration::ZERO);
                // Whoever is stopped before it handles signals is ended by the signal.
                let early = status.signal() == Some(15) && !stderr.contains(STARTED);
                if status.success() || early {
                    return Ok(Seen::Stopped);
                }
                bail!("{who} was asked to stop and ended with {status}: {}", last_line(&stderr));
            }
        }
    }

    /// A second instance of it, with a state directory of its own or the same.
    pub(crate) fn second(&self, state_dir: Option<&std::path::Path>) -> Self {
        let mut launch = self.launch.clone();
        if let Some(state_dir) = state_dir {
            launch = launch.argument("--state-dir").argument(state_dir);
        }
        Self::new(self.who, launch)
    }
}

fn last_line(text: &str) -> &str {
    text.trim_end().rsplit('\n').next().unwrap_or_default()
}
