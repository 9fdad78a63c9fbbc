//! The fuzz target of the ledger.

use std::fs;
use std::path::Path;

use fshipper_pipeline::testing::fuzz::Input;
use fshipper_pipeline::{Cursor, Fatal};

use super::*;
use crate::rotating_file::confined::Root;

/// A ledger that is anything at all, one whose records are anything, or one that was damaged: it opens with
/// what some of its first records say, or is refused for good, and what is known after a start is the same
/// after the next.
///
/// # Panics
///
/// This is not so.
pub fn ledger(folder: &Path, data: &[u8]) {
    let own_folder = folder.join(FOLDER);
    if own_folder.try_exists().expect("the folder can be looked at") {
        fs::remove_dir_all(&own_folder).expect("what the last run left can be removed");
    }
    fs::create_dir_all(&own_folder).expect("a folder can be made");
    let path = own_folder.join(format!("{NAME}00000001"));
    let mut input = Input::new(data);
    if input.flag() {
        fs::write(&path, input.rest()).expect("a file can be written");
        starts(folder);
        return;
    }
    let damage = input.byte() % 3;
    let (at, mask) = (input.number() as usize, input.byte().max(1));
    let complete_up_to = input.number();
    let count = input.below(8);
    let mut content = header(complete_up_to);
    // What is known after each record, as long as they make sense, and whether a start may rest on it.
    let mut known = vec![(content.len(), Vec::new(), true)];
    let mut state = Some(State::default());
    for sequence in 1..=count as u64 {
        let payload = input.bytes();
        codec::put_frame(&mut content, sequence, payload);
        state = state.and_then(|state| applied(state, payload));
        if let Some(state) = &state {
            known.push((content.len(), state.snapshot().collect(), state.contradiction().is_none()));
        }
    }
    match damage {
        0 => {}
        1 => content.truncate(at % (content.len() + 1)),
        _ => {
            let at = at % content.len();
            content[at] ^= mask;
        }
    }
    fs::write(&path, &content).expect("a file can be written");
    let Some(found) = starts(folder) else {
        let length = content.len();
        let whole = known.iter().filter(|(end, ..)| *end <= length).count();
        let last = known.get(whole.wrapping_sub(1));
        let is_sound = damage < 2 && last.is_some_and(|(end, _, agrees)| *end == length && *agrees);
        assert!(!is_sound || complete_up_to >= whole as u64, "a sound ledger is refused");
        return;
    };
    assert!(known.iter().any(|(_, entries, _)| *entries == found), "{found:?} was never so");
}

/// A ledger of one record, whose checksum is right.
pub(in crate::rotating_file) fn forged(entries: impl IntoIterator<Item = Entry>) -> Vec<u8> {
    let (mut content, mut payload) = (header(0), Vec::new());
    entries.into_iter().for_each(|entry| entry.encode(&mut payload));
    codec::put_frame(&mut content, 1, &payload);
    content
}

/// The state after a record; `None` when it makes no sense. Whatever is read of it can be written again.
fn applied(mut state: State, payload: &[u8]) -> Option<State> {
    let mut reader = codec::Reader::new(payload);
    while !reader.is_empty() {
        let entry = Entry::decode(&mut reader).ok()?;
        let mut bytes = Vec::new();
        entry.encode(&mut bytes);
        let mut again = codec::Reader::new(&bytes);
        assert_eq!(Entry::decode(&mut again).ok().as_ref(), Some(&entry));
        assert!(again.is_empty());
        state.apply(entry).ok()?;
    }
    Some(state)
}

/// What a start finds, and two more after it; `None` when the ledger is refused.
fn starts(folder: &Path) -> Option<Vec<Entry>> {
    let open = || {
        let root = Root::open_or_create(folder, 0o700).expect("the folder is there");
        Ledger::open(Arc::new(Disk::new(root, 0o600)), LedgerSize { min_bytes: 0, room: 2 }, |_| Ok(false))
    };
    let ledger = match open() {
        Ok(ledger) => ledger,
        Err(error) => {
            assert!(error.is::<Fatal>(), "{error:#}");
            return None;
        }
    };
    let found: Vec<Entry> = ledger.state().snapshot().collect();
    ledger.state().next_file_id();
    drop(ledger);
    let mut ledger = open().expect("a ledger that was just written opens");
    assert!(ledger.state().snapshot().eq(found.iter().cloned()));
    let cursor = Cursor { transport: "fuzzing".into(), position: "here".into() };
    let cursor = Entry::Cursor(cursor);
    ledger.append(&mut vec![cursor.clone()]).expect("a record can be appended");
    drop(ledger);
    let ledger = open().expect("a ledger that was just written opens");
    assert!(ledger.state().snapshot().any(|entry| entry == cursor));
    Some(found)
}

#[cfg(test)]
mod tests {
    use fshipper_pipeline::testing::fuzz::replay;

    #[test]
    fn the_corpus_of_ledgers_holds() {
        let folder = tempfile::tempdir().unwrap();
        replay("ledger", |data| super::ledger(folder.path(), data));
    }
}
