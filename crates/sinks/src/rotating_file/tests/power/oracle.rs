//! Whether all is well: what was promised is there, once, and nothing else is.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use fshipper_pipeline::Checkpoint;

use super::super::bench::Session;
use super::world::World;
use crate::rotating_file::disk::simulated::{Recorder, Tree};
use crate::rotating_file::ledger::{FOLDER, FileRecord, Stage, State};

/// What is compared: the files by path, compressed ones unpacked, and the notes of losses.
pub(super) type Output = BTreeMap<String, Vec<u8>>;

impl World {
    /// A sink that was just opened knows what was promised, and the disk holds what it knows.
    pub(super) fn check(&self, session: &Session, recorder: &Recorder, promised: Option<&Checkpoint>) {
        let found = &session.checkpoint;
        if let Some(promised) = promised {
            for (origin, history) in promised.origins() {
                let (end, promised) = (found.position(origin), &history.current);
                let end = end.map(|end| (end.epoch, end.offset));
                assert!(
                    end >= Some((promised.epoch, promised.offset)),
                    "{origin} is at {end:?}, not {promised:?}"
                );
            }
            let cursor = |checkpoint: &Checkpoint| Some(checkpoint.cursor("test")?.to_vec());
            let number = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().parse::<u64>().unwrap();
            assert!(cursor(found).map(number) >= cursor(promised).map(number), "the cursor went back");
        }
        let state = session.writer.ledger.state();
        let (_, _, model) = recorder.finish();
        let tree = model.tree();
        self.check_files(state, &tree);
        for (family, content) in self.streams(state) {
            let stream =
                self.streams.get(&family).unwrap_or_else(|| panic!("`{family}` was never written to"));
            let is_part = content.is_empty() || stream.windows(content.len()).any(|part| part == content);
            assert!(is_part, "`{family}` holds {:?}", String::from_utf8_lossy(&content));
        }
    }

    /// The files are those of the ledger, and those that were never ours.
    fn check_files(&self, state: &State, tree: &Tree) {
        let mut ledgers = 0;
        let mut plain = BTreeSet::new();
        let known: BTreeMap<String, &FileRecord> =
            state.files.iter().map(|(_, record)| (record.path.to_string(), record)).collect();
        assert_eq!(known.len(), state.files.iter().count(), "two records of one file");
        assert!(state.intents.is_empty(), "{:?}", state.intents);
        for (path, (inode, content)) in &tree.files {
            if let Some(record) = known.get(path) {
                assert_eq!((record.identity, record.length), (*inode, content.len() as u64), "`{path}`");
            } else if let Some(name) = path.strip_prefix(FOLDER) {
                ledgers += usize::from(name.starts_with("/ledger.0"));
                assert!(name == "/lock" || name.starts_with("/ledger.0"), "`{path}` was left behind");
            } else {
                let before = self.scenario.before.iter().find(|(before, _)| before == path);
                let before = before.unwrap_or_else(|| panic!("`{path}` is nobody's"));
                assert_eq!(content, before.1.as_bytes(), "`{path}` was changed");
            }
            let name = path.strip_suffix(".gz").unwrap_or(path);
            assert!(plain.insert(name), "`{name}` is there plain and compressed");
        }
        assert_eq!(ledgers, 1);
        for path in known.keys() {
            assert!(tree.files.contains_key(path), "`{path}` is missing");
        }
    }

    /// What the files of each output hold, in order.
    pub(super) fn streams(&self, state: &State) -> BTreeMap<String, Vec<u8>> {
        let mut streams: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for (_, record) in state.files.iter() {
            let content = std::fs::read(self.root.join(record.path.to_string())).unwrap();
            let plain = if record.stage == Stage::Compressed { unpacked(&content) } else { content };
            streams.entry(record.family.to_string()).or_default().extend(plain);
        }
        streams
    }
}

pub(super) fn output(tree: &Tree) -> Output {
    let ours = |path: &str| path.starts_with(FOLDER) && !path.ends_with("losses.log");
    let files = tree.files.iter().filter(|(path, _)| !ours(path));
    files
        .map(|(path, (_, content))| match path.strip_suffix(".gz") {
            Some(plain) => (plain.to_owned(), unpacked(content)),
            None => (path.clone(), content.clone()),
        })
        .collect()
}

pub(super) fn unpacked(content: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(content).read_to_end(&mut plain).unwrap();
    plain
}

pub(super) fn shown(output: &Output) -> BTreeMap<&String, String> {
    output.iter().map(|(path, content)| (path, String::from_utf8_lossy(content).into_owned())).collect()
}

pub(super) fn histories(checkpoint: &Checkpoint) -> BTreeMap<String, String> {
    let origins = checkpoint.origins().map(|(origin, history)| (origin.to_string(), format!("{history:?}")));
    let cursors = checkpoint.cursors().map(|(name, at)| (name.to_string(), format!("{at:?}")));
    origins.chain(cursors).collect()
}
