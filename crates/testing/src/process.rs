//! The built binary as a child process: [`Fshipper`] starts it, [`Running`] is it.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::Signal;

use crate::child::Owned;
use crate::wait::DEADLINE;

/// What of the surrounding environment the child sees: everything else could change what it does. The last
/// one lets coverage tools see the child.
const INHERITED_VARIABLES: [&str; 3] = ["PATH", "TZDIR", "LLVM_PROFILE_FILE"];

/// Numbers what started processes print, in the order of their starts.
static STARTED: AtomicUsize = AtomicUsize::new(0);

/// How to start a binary: arguments, variables, and a directory that is its home, its working directory and
/// holds what it prints, as `stdout-NNNN` and `stderr-NNNN`, numbered in the order of all starts.
#[derive(Clone, Debug)]
pub struct Fshipper {
    binary: PathBuf,
    directory: PathBuf,
    arguments: Vec<OsString>,
    variables: Vec<(OsString, OsString)>,
    stdin: Option<PathBuf>,
    stdout: Option<PathBuf>,
}

/// A started binary, killed by its own id when dropped.
#[derive(Debug)]
pub struct Running {
    process: Owned,
    stdout: PathBuf,
    stderr: PathBuf,
}

/// What is left of a binary that has ended.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to standard output; nothing when that was a device.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Fshipper {
    /// `binary`, run in `directory`, which must exist.
    pub fn new(binary: impl Into<PathBuf>, directory: impl Into<PathBuf>) -> Self {
        let (binary, directory) = (binary.into(), directory.into());
        Self { binary, directory, arguments: Vec::new(), variables: Vec::new(), stdin: None, stdout: None }
    }

    /// Adds an argument.
    #[must_use]
    pub fn argument(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn arguments<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn variable(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.variables.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Reads standard input from this file; without it there is none.
    #[must_use]
    pub fn stdin(mut self, path: impl Into<PathBuf>) -> Self {
        self.stdin = Some(path.into());
        self
    }

    /// Writes standard output to this file, which must exist, such as a device; without it to one of its own.
    #[must_use]
    pub fn stdout(mut self, path: impl Into<PathBuf>) -> Self {
        self.stdout = Some(path.into());
        self
    }

    /// Starts it.
    #[track_caller]
    pub fn start(&self) -> Running {
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let stdout = self.stdout.clone();
        let stdout = stdout.unwrap_or_else(|| self.directory.join(format!("stdout-{number:04}")));
        let stderr = self.directory.join(format!("stderr-{number:04}"));
        let mut command = Command::new(&self.binary);
        command.args(&self.arguments).current_dir(&self.directory).env_clear();
        let inherited = INHERITED_VARIABLES.iter().filter_map(|name| Some((name, std::env::var_os(name)?)));
        command.envs(inherited).env("HOME", &self.directory).env("NO_COLOR", "1");
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.stdin(self.stdin.as_deref().map_or_else(Stdio::null, |path| Stdio::from(open(path))));
        command.stdout(create(&stdout)).stderr(create(&stderr));
        let process = Owned::spawn(&mut command);
        let process = process.unwrap_or_else(|error| panic!("cannot run {:?}: {error}", self.binary));
        Running { process, stdout, stderr }
    }

    /// Starts it and waits for its end.
    #[track_caller]
    pub fn finish(&self) -> Finished {
        self.start().wait(DEADLINE)
    }
}

impl Running {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// What it has written to standard error so far.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&read(&self.stderr)).into_owned()
    }

    /// What it has written to standard output so far.
    pub fn stdout(&self) -> Vec<u8> {
        read(&self.stdout)
    }

    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> bool {
        self.process.exit_status().is_none()
    }

    /// The most memory it ever held, in KiB; `None` once it has ended.
    pub fn peak_memory_kib(&self) -> Option<u64> {
        self.process.status_kib("VmHWM")
    }

    /// SIGTERM: it should drain and end.
    pub fn terminate(&mut self) {
        self.process.signal(Signal::TERM);
    }

    /// SIGINT, as Ctrl-C sends it.
    pub fn interrupt(&mut self) {
        self.process.signal(Signal::INT);
    }

    /// SIGHUP: it should reopen its output files.
    pub fn hang_up(&mut self) {
        self.process.signal(Signal::HUP);
    }

    /// SIGSTOP.
    pub fn pause(&mut self) {
        self.process.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn resume(&mut self) {
        self.process.signal(Signal::CONT);
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(mut self) {
        self.process.kill();
    }

    /// Waits for its end.
    ///
    /// # Panics
    ///
    /// When `deadline` passes first, with what it logged.
    #[track_caller]
    pub fn wait(mut self, deadline: Duration) -> Finished {
        let Some(status) = self.process.wait(deadline) else {
            panic!("pid {} still runs after {deadline:?}; it says:\n{}", self.pid(), self.stderr());
        };
        let stdout = if self.stdout.is_file() { self.stdout() } else { Vec::new() };
        Finished { status, stdout, stderr: self.stderr() }
    }

    /// SIGTERM, then waits for its end as [`Running::wait`] does.
    #[track_caller]
    pub fn stop(mut self, deadline: Duration) -> Finished {
        self.terminate();
        self.wait(deadline)
    }
}

impl Finished {
    /// Itself, when the exit code is `code`.
    ///
    /// # Panics
    ///
    /// Otherwise, with what it logged.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(
            self.status.code(),
            Some(code),
            "it ended with {}; it says:\n{}",
            self.status,
            self.stderr
        );
        self
    }
}

fn open(path: &Path) -> File {
    File::open(path).unwrap_or_else(|error| panic!("cannot open {path:?}: {error}"))
}

fn create(path: &Path) -> File {
    File::create(path).unwrap_or_else(|error| panic!("cannot create {path:?}: {error}"))
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("cannot read {path:?}: {error}"))
}
