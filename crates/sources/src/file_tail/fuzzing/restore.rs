//! The fuzz target of places.

use std::collections::{HashMap, VecDeque};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use fshipper_pipeline::testing::fuzz::Input;
use fshipper_pipeline::{Admission, Bytes, Checkpoint, Content, Epoch, History, Origin, Position};

use crate::file_tail::identity::{FileId, Fingerprint, Marker};
use crate::file_tail::lines::Lines;
use crate::file_tail::log::Now;
use crate::file_tail::patterns::Patterns;
use crate::file_tail::place::Place;
use crate::file_tail::tail::{Next, Options, TICK, TableOptions, Tail};
use crate::file_tail::watch::{Hints, Watch};

const HOST: &str = "host";
const NAMES: [&str; 4] = ["a.log", "a.log.1", "a.log.2", "b.log"];
const MAX_BATCH_BYTES: usize = 64;

/// So small that inputs come to its end, and so large that files have a fingerprint worth the name.
const REPEATED: usize = 3;

/// Far more rounds than the few files of an input can take.
const MAX_ROUNDS: usize = 10_000;

/// Nobody sees anything but who looks.
struct Blind;

impl Watch for Blind {
    fn watch(&mut self, _: usize, _: &std::sync::Arc<Path>, _: FileId) {}
    fn forget(&mut self, _: usize) {}
    fn take(&mut self) -> Hints {
        Hints::default()
    }
}

/// A few real files, a state log or none, and a checkpoint that claims anything of them: reading ends, each log goes
/// on exactly where the checkpoint stands, and nothing is read that no file holds.
///
/// # Panics
///
/// This is not so.
pub fn restore(folder: &Path, data: &[u8]) {
    let (logs, state) = (folder.join("logs"), folder.join("state"));
    for folder in [&logs, &state] {
        if folder.try_exists().expect("the folder can be looked at") {
            fs::remove_dir_all(folder).expect("what the last run left can be removed");
        }
        fs::create_dir_all(folder).expect("a folder can be made");
    }
    let mut input = Input::new(data);
    let mut contents = Vec::new();
    for name in NAMES {
        let content = input.bytes().repeat(1 + input.below(REPEATED));
        if input.flag() {
            fs::write(logs.join(name), &content).expect("a file can be written");
        }
        contents.push(content);
    }
    // A first run leaves a state log, of other positions.
    if input.flag() {
        read(&logs, &state, &mut Checkpoint::default());
    }
    let origin = |name: &str| Origin::new(HOST, logs.join(name).to_str().expect("a plain name"));
    let mut checkpoint = Checkpoint::default();
    for name in ["a.log", "b.log", "gone.log"] {
        if input.flag() {
            let earlier =
                (0..input.below(3)).map(|_| (Epoch(input.below(3) as u64), input.number())).collect();
            let (offset, place) = place(&mut input, &contents);
            let current = Position { epoch: Epoch(input.below(3) as u64), offset, place };
            checkpoint.set_history(&origin(name), Some(History { current, earlier }));
        }
    }
    let bytes = read(&logs, &state, &mut checkpoint);
    let there: usize = contents.iter().map(Vec::len).sum();
    assert!(bytes <= 2 * there, "{bytes} bytes were read of files of {there}");
}

/// Reads to the end, and returns how many bytes came. `checkpoint` goes along.
fn read(logs: &Path, state: &Path, checkpoint: &mut Checkpoint) -> usize {
    let include = [logs.join("*.log*").to_str().expect("a plain name").to_owned()];
    let table = TableOptions {
        start_at_end: false,
        max_line_bytes: MAX_BATCH_BYTES,
        rotate_wait: Duration::from_secs(5),
        ignore_older: None,
        lines: Lines::default(),
    };
    let options = Options {
        host: HOST.to_owned(),
        max_batch_bytes: MAX_BATCH_BYTES,
        patterns: Patterns::new([(&include[..], &[][..])]).expect("a sound pattern"),
        tables: vec![table],
    };
    let mut now = Now { instant: Instant::now(), system: SystemTime::now() };
    let mut tail = Tail::open(options, state, checkpoint, Box::new(Blind), now).expect("it opens");
    let (mut batches, mut bytes) = (VecDeque::new(), 0);
    let mut began: HashMap<Origin, Epoch> = HashMap::new();
    for _ in 0..MAX_ROUNDS {
        now.instant += TICK;
        now.system += TICK;
        let next = tail.fill(now, true, &mut batches).expect("files can be read");
        for mut batch in batches.drain(..) {
            match checkpoint.admit(&batch) {
                Admission::Pass => {}
                Admission::Cut(count) => batch.cut_front(count),
                Admission::Duplicate => continue,
                wrong => panic!("{wrong:?} at {} of {}", batch.start, batch.origin),
            }
            let epoch = *began.entry(batch.origin.clone()).or_insert(batch.epoch);
            assert_eq!(epoch, batch.epoch, "one epoch follows another");
            if let Content::Data(data) = &batch.content {
                assert!(!data.is_empty() && data.len() <= MAX_BATCH_BYTES);
                bytes += data.len();
            }
            checkpoint.advance(&batch);
        }
        if next == Next::End {
            return bytes;
        }
    }
    panic!("the end never comes");
}

/// An offset and what claims to be its place: anything, or one that fits a file more or less.
fn place(input: &mut Input<'_>, contents: &[Vec<u8>]) -> (u64, Bytes) {
    if input.flag() {
        return (input.number(), input.bytes().to_vec().into());
    }
    let content = &contents[input.below(contents.len())];
    let at = input.below(content.len() + 1);
    let skip = if input.flag() { input.number() } else { 0 };
    let base = input.number();
    let end = base.saturating_add(at as u64).saturating_sub(skip).max(base);
    let place = Place {
        base,
        skip,
        end: if input.flag() { input.number().max(base) } else { end },
        fingerprint: Fingerprint::of(&content[..input.below(content.len() + 1)]),
        marker: input.flag().then(|| Marker::of(&content[..at])),
        over: input.flag(),
        lost: None,
    };
    (if input.flag() { input.number() } else { place.end }, place.encode())
}
