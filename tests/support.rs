//! What the end-to-end tests share: a [`Scene`].

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, thread};

use fastrand::Rng;
use fshipper_testing::{DEADLINE, Fshipper, LogWriter, compare};
use tempfile::TempDir;

/// How much of each process's log a failed test shows.
const SHOWN_LOG_BYTES: usize = 4096;

/// The host that every test ships from.
pub(crate) const HOST: &str = "web1.example.net";

/// A directory of a test's own: the binary's home and working directory, with logs, pipeline files, state and
/// output in it.
pub(crate) struct Scene {
    directory: TempDir,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("fshipper-").tempdir();
        Self { directory: directory.expect("a temporary directory can be created") }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes a file, and the directories it stands in.
    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("below the scene")).expect("a directory can be created");
        fs::write(&path, bytes).expect("a file can be written");
        path
    }

    /// A log below `logs/`, with the bytes that must arrive beside it.
    pub(crate) fn log(&self, name: &str, seed: u64) -> LogWriter {
        for directory in ["logs", "expected"] {
            fs::create_dir_all(self.path(directory)).expect("a directory can be created");
        }
        LogWriter::create(self.path("logs").join(name), self.path("expected").join(name), seed)
    }

    /// The binary, with nothing of the surrounding environment.
    pub(crate) fn fshipper(&self) -> Fshipper {
        Fshipper::new(env!("CARGO_BIN_EXE_fshipper"), self.directory.path()).variable("HOSTNAME", HOST)
    }

    /// `fshipper run` with arguments.
    pub(crate) fn run(&self, arguments: &[&str]) -> Fshipper {
        self.fshipper().argument("run").arguments(arguments)
    }

    /// Waits until `output` is as long as `expected`, then compares the two. What takes longer than the
    /// deadline is compared all the same, to see how far it came.
    #[track_caller]
    pub(crate) fn assert_arrives(&self, expected: &Path, output: &str) {
        let (output, bytes) = (self.path(output), length(expected));
        let start = Instant::now();
        while length(&output) < bytes && start.elapsed() < DEADLINE {
            thread::sleep(Duration::from_millis(10));
        }
        assert_identical(expected, &output);
    }

    /// Regular files below a directory, hidden ones left out, as sorted names relative to it.
    pub(crate) fn files_below(&self, name: &str) -> Vec<String> {
        let root = self.path(name);
        let mut found = Vec::new();
        let mut directories = vec![root.clone()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(&directory).expect("a directory can be read") {
                let path = entry.expect("an entry can be read").path();
                let relative =
                    path.strip_prefix(&root).expect("below the root").to_string_lossy().into_owned();
                if relative.split('/').any(|part| part.starts_with('.')) {
                    continue;
                }
                if path.is_dir() { directories.push(path) } else { found.push(relative) }
            }
        }
        found.sort();
        found
    }
}

/// A failed test shows what its processes said, and leaves everything for a closer look.
impl Drop for Scene {
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        self.directory.disable_cleanup(true);
        println!("what is left of this test: {}", self.directory.path().display());
        let entries = fs::read_dir(self.directory.path()).into_iter().flatten().flatten();
        let logs = entries.map(|entry| entry.path()).filter(|path| is_log(path));
        let mut logs = logs.map(|path| (fs::read(&path).unwrap_or_default(), path)).collect::<Vec<_>>();
        logs.retain(|(bytes, _)| !bytes.is_empty());
        logs.sort_by(|one, other| one.1.cmp(&other.1));
        for (bytes, path) in logs {
            println!("== {}", path.display());
            println!("{}", String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(SHOWN_LOG_BYTES)..]));
        }
    }
}

fn is_log(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("stderr-"))
}

/// A file's length; 0 while it is not there.
pub(crate) fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

#[track_caller]
pub(crate) fn assert_identical(expected: &Path, actual: &Path) {
    let verdict = compare(expected, [actual]);
    assert!(verdict.is_identical(), "{actual:?} is not {expected:?}: {verdict}");
}

/// The text of a pipeline file, put together from tables.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pipeline(String);

impl Pipeline {
    /// Commits often, so that a short test meets many.
    pub(crate) fn new() -> Self {
        Self::with("commit_interval = '100ms'")
    }

    /// With these keys in its `[pipeline]` table.
    pub(crate) fn with(keys: &str) -> Self {
        Self(format!("[pipeline]\n{keys}\n"))
    }

    /// Follows `logs/` with a glob.
    pub(crate) fn tail(self, include: &str) -> Self {
        self.table("source", "file_tail", &format!("include = 'logs/{include}'\nrotate_wait = '1s'"))
    }

    /// Writes to a path.
    pub(crate) fn rotating_file(self, path: &str) -> Self {
        self.table("sink", "rotating_file", &format!("path = '{path}'"))
    }

    pub(crate) fn nats(self, url: &str, more: &str) -> Self {
        self.table("transport", "nats", &format!("servers = '{url}'\nsubject = 'shipper'\n{more}"))
    }

    /// A stream that whoever comes first creates.
    pub(crate) fn jetstream(self, url: &str) -> Self {
        self.nats(url, "stream = { name = 'LOGS', create = true }")
    }

    pub(crate) fn table(mut self, kind: &str, plugin: &str, keys: &str) -> Self {
        writeln!(self.0, "\n[{kind}]\ntype = '{plugin}'\n{keys}").expect("a string takes everything");
        self
    }

    pub(crate) fn write(&self, scene: &Scene, name: &str) {
        scene.write(name, &self.0);
    }
}

/// Random numbers that a failure can be replayed with.
pub(crate) fn seeded() -> (u64, Rng) {
    let seed =
        std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    println!("replay with SEED={seed}");
    (seed, Rng::with_seed(seed))
}
