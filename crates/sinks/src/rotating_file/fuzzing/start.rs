//! The fuzz target of a whole start.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use fshipper_pipeline::testing::fuzz::Input;
use fshipper_pipeline::{Batch, Cursor, Epoch, Fatal, History, Origin, Position, Written};
use serde::Deserialize;
use serde::de::value::{Error, MapDeserializer};

use crate::rotating_file::RotatingFile;
use crate::rotating_file::commit::Claims;
use crate::rotating_file::config::Plan;
use crate::rotating_file::disk::identity_at;
use crate::rotating_file::ledger::fuzzing::forged;
use crate::rotating_file::ledger::{Entry, FOLDER, FileRecord, Intent, OriginRecord, Stage, Tail};
use crate::rotating_file::lock::Owner;
use crate::rotating_file::names::FilePath;
use crate::rotating_file::writer::Writer;

/// What the ledger may name. Some of them are there.
const NAMES: [&str; 8] = [
    "web1/app.log",
    "web1/app.log.1",
    "web1/app.log.20261123",
    "web1/app.log.gz",
    "web1/app.log~01234567",
    "web2/app.log",
    ".fshipper/losses.log",
    ".fshipper/lock",
];

/// What it never names.
const BYSTANDER: &str = "web1/notes.txt";

const TEMPLATES: [&str; 3] = ["{host}/{file}", "{host}/{file}.%Y%m%d", "web1/app.log"];

/// The line that is written after the start.
const LINE: &[u8] = b"a line that nobody else writes\n";

/// An output with a few real files and a ledger that holds anything: the sink starts or refuses; it only ever
/// takes off what follows the committed end of a file, or removes whole files of its own; the next start finds
/// nothing left to do; and what is written then is there.
///
/// # Panics
///
/// This is not so.
pub fn sink_start(folder: &Path, data: &[u8]) {
    let output = folder.join("output");
    if output.try_exists().expect("the folder can be looked at") {
        fs::remove_dir_all(&output).expect("what the last run left can be removed");
    }
    let mut input = Input::new(data);
    let template = TEMPLATES[input.below(TEMPLATES.len())];
    for name in ["web1", "web2", FOLDER] {
        fs::create_dir_all(output.join(name)).expect("a folder can be made");
    }
    let mut identities = Vec::new();
    for name in NAMES {
        let path = output.join(name);
        if input.flag() {
            fs::write(&path, input.bytes()).expect("a file can be written");
        }
        identities.push(identity_at(&path).unwrap_or(7));
    }
    fs::write(output.join(BYSTANDER), "notes").expect("a file can be written");
    let ledger = if input.flag() {
        input.rest().to_vec()
    } else {
        let count = input.below(24);
        forged((0..count).map(|_| entry(&mut input, &identities)))
    };
    fs::write(output.join(FOLDER).join("ledger.00000001"), ledger).expect("a file can be written");

    let plan = plan(&output.join(template));
    let before = files(&output);
    let writer = match open(&plan) {
        Ok(writer) => writer,
        Err(error) => {
            assert!(!error.is::<Fatal>() || files(&output) == before, "refused, and changed: {error:#}");
            assert_eq!(files(&output).get(&output.join(BYSTANDER)), before.get(&output.join(BYSTANDER)));
            return;
        }
    };
    let found = checkpoint(&writer);
    let after = files(&output);
    for (_, record) in writer.ledger.state().files.iter() {
        let path = output.join(Path::new(&record.path.to_string()));
        let is_it = identity_at(&path) == Some(record.identity);
        if let (true, Some(before), Some(after)) = (is_it, before.get(&path), after.get(&path)) {
            let committed = record.length.min(before.len() as u64);
            assert!(after.len() as u64 >= committed, "committed bytes of {path:?} are gone");
        }
    }
    drop(writer);
    for (path, content) in &after {
        let was = before.get(path).is_some_and(|before| before.starts_with(content));
        assert!(was, "{path:?} holds other bytes than before");
    }
    assert_eq!(after.get(&output.join(BYSTANDER)), before.get(&output.join(BYSTANDER)));

    let mut writer = open(&plan).expect("what has started starts again");
    assert_eq!(checkpoint(&writer), found);
    assert!(files(&output) == after, "the second start found something to do");

    let origin = Origin::new("web1", "/var/log/app.log");
    let mut pumped = writer.checkpoint();
    let (epoch, start) = match pumped.position(&origin) {
        Some(position) => (position.epoch, position.offset),
        None => (Epoch(1), 0),
    };
    if start > u64::MAX / 2 {
        return;
    }
    let batch = Batch::data(origin.clone(), epoch, start, LINE);
    let Ok(Written::Accepted) = writer.accept(&batch, true) else { return };
    pumped.advance(&batch);
    if !writer.commit(Claims::of(&pumped), false).is_ok_and(|held| held.is_empty()) {
        return;
    }
    drop(writer);
    let writer = open(&plan).expect("what was committed can be opened");
    assert_eq!(writer.checkpoint().position(&origin).map(|position| position.offset), Some(batch.end()));
    let count = |content: &Vec<u8>| content.windows(LINE.len()).filter(|part| *part == LINE).count();
    let counted = |files: &BTreeMap<PathBuf, Vec<u8>>| files.values().map(count).sum::<usize>();
    assert_eq!(counted(&files(&output)), counted(&after) + 1, "the line is there once");
}

fn plan(path: &Path) -> Plan {
    let path = path.to_str().expect("the folder has a plain name").to_owned();
    let table = [("path", path), ("timezone", "UTC".to_owned())].into_iter();
    let config = RotatingFile::deserialize(MapDeserializer::<_, Error>::new(table));
    config.expect("the table is sound").plan().expect("the table makes sense")
}

fn open(plan: &Plan) -> Result<Writer> {
    let owner = Owner { pipeline: "fuzz".to_owned(), host: "here".to_owned(), lock: Arc::default() };
    Writer::open(plan.clone(), owner, Arc::default())
}

fn checkpoint(writer: &Writer) -> (Vec<(Origin, History)>, Vec<Vec<u8>>) {
    let checkpoint = writer.checkpoint();
    let origins = checkpoint.origins().map(|(origin, history)| (origin.clone(), history.clone()));
    let mut origins: Vec<_> = origins.collect();
    origins.sort_by(|one, other| one.0.cmp(&other.0));
    (origins, checkpoint.cursors().map(|(_, position)| position.to_vec()).collect())
}

/// The files and what they hold, but for the ledger and the lock.
fn files(output: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![output.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder can be listed") {
            let path = entry.expect("a folder can be listed").path();
            let is_own = folder.ends_with(FOLDER) && !path.ends_with("losses.log");
            if path.is_dir() {
                folders.push(path);
            } else if !is_own {
                let content = fs::read(&path).expect("a file can be read");
                files.insert(path, content);
            }
        }
    }
    files
}

fn entry(input: &mut Input<'_>, identities: &[u64]) -> Entry {
    let id = input.below(6) as u32;
    match input.byte() % 12 {
        0 => Entry::Cursor(Cursor { transport: "nats".into(), position: input.bytes().to_vec().into() }),
        1 => {
            let host = [&b"web1"[..], b"web2", input.bytes()][input.below(3)];
            let path = [&b"/var/log/app.log"[..], b"/b/app.log", input.bytes()][input.below(3)];
            Entry::Origin(OriginRecord { origin: Origin::new(host, path), suffix: suffix(input) })
        }
        2 => Entry::Suffix(id, suffix(input)),
        3 => Entry::Position(id, position(input)),
        4 => {
            let earlier = (0..input.below(3)).map(|_| (Epoch(input.number()), input.number())).collect();
            let history = History { current: position(input), earlier };
            Entry::History(id, input.flag().then_some(history))
        }
        5 | 6 => Entry::File(id, record(input, identities)),
        7 => Entry::Length(id, input.number(), tail(input)),
        8 => Entry::Forget(id),
        9 | 10 => {
            let (to, identity) = name(input, identities);
            let intent = match input.below(5) {
                0 => Intent::Create(record(input, identities)),
                1 => Intent::Adopt(record(input, identities)),
                2 => {
                    let period_end = input.number() as i64;
                    Intent::Rotate { to, period_end, stamp: period_end }
                }
                3 => Intent::Compress { to, identity, length: input.number() },
                _ => Intent::Delete,
            };
            Entry::Intent(id, intent)
        }
        _ => Entry::Withdraw(id),
    }
}

fn suffix(input: &mut Input<'_>) -> Box<str> {
    ["", "~01234567"][input.below(2)].into()
}

fn position(input: &mut Input<'_>) -> Position {
    Position { epoch: Epoch(input.number()), offset: input.number(), place: input.bytes().to_vec().into() }
}

fn tail(input: &mut Input<'_>) -> Tail {
    [Tail::Whole, Tail::Broken, Tail::Unfinished(input.number() as u32)][input.below(3)]
}

/// A file, and mostly the identity that it has.
fn name(input: &mut Input<'_>, identities: &[u64]) -> (FilePath, u64) {
    let number = input.below(NAMES.len());
    let identity = if input.byte() < 200 { identities[number] } else { input.number() };
    (FilePath::from_bytes(NAMES[number].as_bytes()).expect("a proper name"), identity)
}

fn record(input: &mut Input<'_>, identities: &[u64]) -> FileRecord {
    let (path, identity) = name(input, identities);
    FileRecord {
        path,
        family: name(input, identities).0,
        identity,
        length: input.number(),
        tail: tail(input),
        period: (input.number() as i64, input.number() as i64),
        number: input.number() as u32,
        stage: [Stage::Active, Stage::Rotated, Stage::Compressed][input.below(3)],
    }
}
