//! How long a line takes: [`Latency`].

use std::collections::{HashMap, VecDeque};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write as _;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;

use crate::corpus::Lines;

/// The files are `slow-00000.log` and so on; the central ones have the same names.
#[derive(Args, Debug)]
pub(crate) struct Latency {
    /// Where files grow
    #[arg(long)]
    sources: PathBuf,
    /// Where they arrive
    #[arg(long)]
    outputs: PathBuf,
    /// How many files take turns
    #[arg(long, default_value_t = 1)]
    files: usize,
    /// Lines a second, in all files together
    #[arg(long, default_value_t = 1000)]
    rate: u32,
    #[arg(long)]
    seconds: u64,
    /// Let a file `busy.log` grow too, so that so many bytes of it are always waiting
    #[arg(long)]
    busy_bytes: Option<u64>,
}

/// One file as the appender knows it.
struct Source {
    file: File,
    written: u64,
}

/// What is on its way: the appender adds to it, the observer takes away.
#[derive(Default)]
struct UnderWay {
    /// Of each file: where each line ends, and when it was appended.
    lines: HashMap<PathBuf, VecDeque<(u64, Instant)>>,
    /// Seconds that lines took.
    took: Vec<f64>,
}

type Shared = Arc<std::sync::Mutex<UnderWay>>;

const DEADLINE: Duration = Duration::from_secs(60);

/// How often a full busy file is looked at again, and the stop flag.
const PAUSE: Duration = Duration::from_millis(5);

/// What is appended to the busy file at once.
const BUSY_LINES: u64 = 5_000;

const BUSY: &str = "busy.log";

impl Latency {
    /// Appends lines at the rate asked for, prints how many there were and the quantiles of what they took.
    ///
    /// A line's clock starts before the `write` that appends it, and stops when the kernel has told of a
    /// change of the central file and the file is found to be long enough.
    pub(crate) fn run(self) -> Result<()> {
        let mut sources = (0..self.files).map(|number| self.source(number)).collect::<Result<Vec<_>>>()?;
        let mut lines = Vec::new();
        Lines::new().write(&mut lines, 10_000, 0)?;
        let texts: Vec<&[u8]> = lines.split_inclusive(|byte| *byte == b'\n').collect();
        // Every log is known and every central file is there before the first line counts.
        for source in &mut sources {
            source.append(texts[0])?;
        }
        wait_until(|| Ok((0..self.files).all(|number| length(&self.output(number)) > 0)))
            .context("the first lines did not arrive")?;

        let shared = Shared::default();
        let stop = Arc::new(AtomicBool::new(false));
        let watch = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        inotify::add_watch(&watch, &self.outputs, WatchFlags::MODIFY)?;
        let observer = {
            let (shared, outputs, stop) = (shared.clone(), self.outputs.clone(), stop.clone());
            thread::spawn(move || observe(watch, &outputs, &shared, &stop))
        };
        let busy = self.busy_bytes.map(|bytes| {
            let (source, output) = (self.sources.join(BUSY), self.outputs.join(BUSY));
            let stop = stop.clone();
            thread::spawn(move || keep_busy(&source, &output, bytes, &stop))
        });
        if busy.is_some() {
            let output = self.outputs.join(BUSY);
            wait_until(|| Ok(length(&output) > 0)).context("the busy file did not arrive")?;
        }
        let (began, before) = (Instant::now(), length(&self.outputs.join(BUSY)));
        let count = self.append(&mut sources, &texts, &shared)?;
        let busy_rate = (length(&self.outputs.join(BUSY)) - before) as f64 / began.elapsed().as_secs_f64();
        let arrived = wait_until(|| Ok(lock(&shared)?.took.len() as u64 == count));
        stop.store(true, Ordering::Relaxed);
        if let Some(busy) = busy {
            join(busy)?;
        }
        join(observer)?;
        arrived.context("not every line arrived")?;
        let mut took = std::mem::take(&mut lock(&shared)?.took);
        took.sort_by(f64::total_cmp);
        let quantile = |share: f64| took[((took.len() - 1) as f64 * share).round() as usize];
        crate::print(&serde_json::json!({
            "lines": count, "p50": quantile(0.5), "p99": quantile(0.99), "max": quantile(1.0),
            "busy_bytes_per_second": busy_rate,
        }))
    }

    fn source(&self, number: usize) -> Result<Source> {
        let path = self.sources.join(name(number));
        let file = File::create(&path).with_context(|| format!("cannot create `{}`", path.display()))?;
        Ok(Source { file, written: 0 })
    }

    fn output(&self, number: usize) -> PathBuf {
        self.outputs.join(name(number))
    }

    /// Appends for as long as asked for; how many lines.
    fn append(&self, sources: &mut [Source], texts: &[&[u8]], shared: &Shared) -> Result<u64> {
        let outputs: Vec<_> = (0..sources.len()).map(|number| self.output(number)).collect();
        let count = u64::from(self.rate) * self.seconds;
        let begin = Instant::now();
        for line in 0..count {
            let due = begin + Duration::from_secs(line) / self.rate;
            if let Some(wait) = due.checked_duration_since(Instant::now()) {
                thread::sleep(wait);
            }
            let (text, number) = (texts[line as usize % texts.len()], line as usize % sources.len());
            let source = &mut sources[number];
            let end = source.written + text.len() as u64;
            let queue = (end, Instant::now());
            lock(shared)?.lines.entry(outputs[number].clone()).or_default().push_back(queue);
            source.append(text)?;
        }
        Ok(count)
    }
}

impl Source {
    fn append(&mut self, text: &[u8]) -> Result<()> {
        self.file.write_all(text).context("cannot append")?;
        self.written += text.len() as u64;
        Ok(())
    }
}

/// Takes the lines that are visible from those that are under way, whenever a central file changes.
fn observe(watch: OwnedFd, outputs: &Path, shared: &Shared, stop: &AtomicBool) -> Result<()> {
    let mut buffer = [MaybeUninit::uninit(); 64 << 10];
    let mut events = inotify::Reader::new(&watch, &mut buffer);
    loop {
        let path = match events.next() {
            Ok(event) => {
                let Some(name) = event.file_name() else { bail!("more events came than the kernel keeps") };
                outputs.join(OsStr::from_bytes(name.to_bytes()))
            }
            Err(Errno::AGAIN) if stop.load(Ordering::Relaxed) => return Ok(()),
            Err(Errno::AGAIN) => {
                let mut waits = [rustix::event::PollFd::new(&watch, rustix::event::PollFlags::IN)];
                let pause = rustix::event::Timespec { tv_sec: 0, tv_nsec: PAUSE.subsec_nanos().into() };
                rustix::event::poll(&mut waits, Some(&pause))?;
                continue;
            }
            Err(error) => return Err(error).context("cannot read events"),
        };
        let (visible, now) = (length(&path), Instant::now());
        let mut under_way = lock(shared)?;
        let UnderWay { lines, took } = &mut *under_way;
        let Some(lines) = lines.get_mut(&path) else { continue };
        while let Some((_, appended)) = lines.front().filter(|(end, _)| *end <= visible) {
            took.push((now - *appended).as_secs_f64());
            lines.pop_front();
        }
    }
}

/// Keeps `ahead` bytes of the busy file waiting.
fn keep_busy(source: &Path, output: &Path, ahead: u64, stop: &AtomicBool) -> Result<()> {
    let mut written = 0;
    let mut file = File::create(source)?;
    let mut text = Vec::new();
    Lines::new().write(&mut text, BUSY_LINES, 0)?;
    while !stop.load(Ordering::Relaxed) {
        if written > length(output) + ahead {
            thread::sleep(PAUSE);
            continue;
        }
        file.write_all(&text)?;
        written += text.len() as u64;
    }
    Ok(())
}

fn name(number: usize) -> String {
    format!("slow-{number:05}.log")
}

/// How long a file is; nothing, when it is not there yet.
fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

fn wait_until(mut there: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + DEADLINE;
    while !there()? {
        ensure!(Instant::now() < deadline, "waited {DEADLINE:?} in vain");
        thread::sleep(PAUSE);
    }
    Ok(())
}

fn lock(shared: &Shared) -> Result<std::sync::MutexGuard<'_, UnderWay>> {
    shared.lock().ok().context("another thread panicked")
}

fn join(thread: thread::JoinHandle<Result<()>>) -> Result<()> {
    thread.join().ok().context("a thread panicked")?
}
