use std::fs;
use std::path::Path;

use fshipper_pipeline::{Cursor, Epoch, History, Origin, Position};

use super::*;
use crate::rotating_file::confined::Root;

fn disk(folder: &Path) -> Arc<Disk> {
    let disk = Disk::new(Root::open_or_create(folder, 0o700).unwrap(), 0o600);
    disk.create_folders(&own("x")).unwrap();
    Arc::new(disk)
}

fn open(folder: &Path) -> Result<Ledger> {
    Ledger::open(disk(folder), LedgerSize::default(), |_| Ok(false))
}

fn origin(number: usize) -> Entry {
    let origin = Origin::new(format!("host{number}"), "/var/log/app.log");
    Entry::Origin(OriginRecord { origin, suffix: "".into() })
}

fn moved(id: OriginId, offset: u64) -> Entry {
    Entry::Position(id, Position { epoch: Epoch(5), offset, place: "place".into() })
}

fn file(path: &str, length: u64) -> FileRecord {
    let path = FilePath::from_bytes(path.as_bytes()).unwrap();
    FileRecord {
        family: path.clone(),
        path,
        identity: 7,
        length,
        tail: Tail::Whole,
        period: (i64::MIN, i64::MAX),
        number: 0,
        stage: Stage::Active,
    }
}

fn end_of(ledger: &Ledger, number: usize) -> Option<u64> {
    let origin = Origin::new(format!("host{number}"), "/var/log/app.log");
    ledger.state().checkpoint().position(&origin).map(|position| position.offset)
}

fn only_ledger(folder: &Path) -> std::path::PathBuf {
    let names: Vec<_> =
        fs::read_dir(folder.join(FOLDER)).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(names.len(), 1, "{names:?}");
    names[0].clone()
}

/// How many bytes of a ledger are in use: the rest are zeros.
fn used(content: &[u8]) -> usize {
    content.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}

#[test]
fn every_kind_of_entry_survives_a_start() {
    let folder = tempfile::tempdir().unwrap();
    let cursor = Cursor { transport: "nats:LOGS".into(), position: "17".into() };
    let (broken, unfinished) = (Tail::Broken, Tail::Unfinished(1));
    let history = History {
        current: Position { epoch: Epoch(2), offset: 9, place: "here".into() },
        earlier: vec![(Epoch(1), 100)],
    };
    let mut entries = vec![
        Entry::Cursor(cursor),
        origin(0),
        origin(1),
        Entry::Suffix(1, "~01234567".into()),
        moved(0, 40),
        Entry::History(1, Some(history)),
        Entry::File(0, file("a", 1)),
        Entry::File(1, FileRecord { tail: broken, stage: Stage::Rotated, ..file("b", 2) }),
        Entry::File(2, FileRecord { stage: Stage::Compressed, number: 3, ..file("c.gz", 2) }),
        Entry::Length(0, 80, unfinished),
        Entry::Intent(1, Intent::Rotate { to: file("b.1", 0).path, period_end: -1, stamp: 9 }),
        Entry::Intent(2, Intent::Delete),
        Entry::Intent(3, Intent::Create(file("d", 0))),
        Entry::Intent(4, Intent::Adopt(file("e", 5))),
        Entry::Intent(5, Intent::Compress { to: file("f.gz", 0).path, identity: 1, length: 2 }),
        Entry::Intent(0, Intent::Restore { length: 7, tail: unfinished }),
        Entry::Intent(6, Intent::Delete),
        Entry::Withdraw(6),
        Entry::Stamp(file("a", 1).path, -7),
        Entry::File(7, file("gone", 1)),
        Entry::Forget(7),
    ];
    let mut ledger = open(folder.path()).unwrap();
    ledger.append(&mut entries).unwrap();
    let before: Vec<Entry> = ledger.state().snapshot().collect();
    drop(ledger);

    let ledger = open(folder.path()).unwrap();
    assert_eq!(ledger.state().snapshot().collect::<Vec<_>>(), before);
    assert_eq!(ledger.state().intents.len(), 6);
    assert_eq!(ledger.state().next_file_id(), 6);
    assert_eq!(end_of(&ledger, 0), Some(40));
}

#[test]
fn a_record_cut_short_at_any_byte_is_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let mut ledger = open(folder.path()).unwrap();
    ledger.append(&mut vec![origin(0), moved(0, 10)]).unwrap();
    let first = ledger.end;
    ledger.append(&mut vec![moved(0, 20)]).unwrap();
    let second = ledger.end;
    drop(ledger);
    let whole = fs::read(only_ledger(folder.path())).unwrap();

    for cut in first..second {
        let mut zeros_behind = whole.clone();
        zeros_behind[cut..].fill(0);
        for torn in [zeros_behind, whole[..cut].to_vec()] {
            fs::write(only_ledger(folder.path()), torn).unwrap();
            let mut ledger = open(folder.path()).unwrap();
            // Only a checksum that ends in a zero byte makes a cut invisible.
            let left_out = end_of(&ledger, 0) == Some(10);
            assert!(left_out || whole[cut..second].iter().all(|byte| *byte == 0), "cut at {cut}");
            ledger.append(&mut vec![moved(0, 30)]).unwrap();
            assert_eq!(end_of(&open(folder.path()).unwrap(), 0), Some(30), "cut at {cut}");
        }
    }
}

#[test]
fn damage_before_the_last_record_is_refused_and_nothing_is_touched() {
    let folder = tempfile::tempdir().unwrap();
    let mut ledger = open(folder.path()).unwrap();
    ledger.append(&mut vec![origin(0), moved(0, 10)]).unwrap();
    let last = ledger.end;
    ledger.append(&mut vec![moved(0, 20)]).unwrap();
    drop(ledger);
    let path = only_ledger(folder.path());
    let whole = fs::read(&path).unwrap();
    for at in (0..last).filter(|at| !(16..20).contains(at)) {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        fs::write(&path, &damaged).unwrap();
        let error = open(folder.path()).unwrap_err();
        assert!(error.is::<Fatal>() && error.to_string().contains("damaged"), "byte {at}: {error}");
        assert_eq!(fs::read(only_ledger(folder.path())).unwrap(), damaged, "byte {at}");
    }
}

#[test]
fn a_record_that_is_missing_between_two_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut ledger = open(folder.path()).unwrap();
    let mut ends = Vec::new();
    for mut entries in [vec![origin(0), moved(0, 10)], vec![moved(0, 20)], vec![moved(0, 30)]] {
        ledger.append(&mut entries).unwrap();
        ends.push(ledger.end);
    }
    drop(ledger);
    let path = only_ledger(folder.path());
    let mut content = fs::read(&path).unwrap();
    content.drain(ends[0]..ends[1]);
    fs::write(&path, content).unwrap();
    assert!(open(folder.path()).unwrap_err().is::<Fatal>());
}

#[test]
fn a_snapshot_that_has_lost_its_end_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut ledger = open(folder.path()).unwrap();
    ledger.append(&mut vec![origin(0), moved(0, 10)]).unwrap();
    drop(ledger);
    // It begins with a snapshot now, and nothing follows.
    drop(open(folder.path()).unwrap());
    let path = only_ledger(folder.path());
    let mut content = fs::read(&path).unwrap();
    let last = used(&content) - 1;
    content[last] ^= 1;
    fs::write(&path, &content).unwrap();
    assert!(open(folder.path()).unwrap_err().is::<Fatal>());
}

#[test]
fn a_newer_format_is_refused_by_its_number() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()).unwrap());
    let path = only_ledger(folder.path());
    let mut content = fs::read(&path).unwrap();
    content[16] = 2;
    fs::write(&path, &content).unwrap();
    let error = open(folder.path()).unwrap_err();
    assert!(error.is::<Fatal>() && error.to_string().contains("has format 2"), "{error}");
}

#[test]
fn a_full_ledger_goes_on_in_a_new_file_and_stays_small() {
    let folder = tempfile::tempdir().unwrap();
    let mut ledger = open(folder.path()).unwrap();
    let mut entries: Vec<Entry> = (0..100).map(origin).collect();
    ledger.append(&mut entries).unwrap();
    let first = ledger.number;
    for round in 1..=200 {
        let mut entries: Vec<Entry> = (0..100).map(|id| moved(id, round)).collect();
        ledger.append(&mut entries).unwrap();
    }
    assert!(ledger.number > first, "it went on in a new file");
    drop(ledger);
    assert_eq!(fs::metadata(only_ledger(folder.path())).unwrap().len(), MIN_BYTES as u64);
    let ledger = open(folder.path()).unwrap();
    assert!((0..100).all(|number| end_of(&ledger, number) == Some(200)));
}

#[test]
fn a_record_larger_than_the_file_fits() {
    let folder = tempfile::tempdir().unwrap();
    let mut ledger = open(folder.path()).unwrap();
    let mut entries: Vec<Entry> = (0..20_000).flat_map(|id| [origin(id), moved(id as u32, 1)]).collect();
    ledger.append(&mut entries).unwrap();
    ledger.append(&mut vec![moved(3, 2)]).unwrap();
    drop(ledger);
    let ledger = open(folder.path()).unwrap();
    assert_eq!((end_of(&ledger, 3), end_of(&ledger, 19_999)), (Some(2), Some(1)));
}

/// Kills the ledger before each change of the disk in turn: what counts is there afterwards, each time.
#[test]
fn killed_at_any_step_it_knows_what_was_appended_before() {
    for step in 0.. {
        let folder = tempfile::tempdir().unwrap();
        let mut ledger = open(folder.path()).unwrap();
        ledger.append(&mut vec![origin(0), moved(0, 10)]).unwrap();
        drop(ledger);

        let disk_to_kill = disk(folder.path());
        disk_to_kill.fuse.set(step);
        let run = || -> Result<()> {
            let mut ledger = Ledger::open(disk_to_kill.clone(), LedgerSize::default(), |_| Ok(false))?;
            ledger.append(&mut vec![moved(0, 11)])?;
            ledger.renew(0)?;
            ledger.append(&mut vec![moved(0, 12)])
        };
        let finished = run().is_ok();
        let ledger = open(folder.path()).unwrap();
        let end = end_of(&ledger, 0).unwrap();
        only_ledger(folder.path());
        if finished {
            assert_eq!(end, 12);
            return;
        }
        assert!((10..=12).contains(&end), "step {step}: {end}");
    }
}

#[test]
fn what_leaves_no_next_number_is_damage() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()).unwrap());
    let path = only_ledger(folder.path());
    for (sequence, entry) in [
        (u64::MAX, Entry::Withdraw(0)),
        (1, Entry::File(FileId::MAX, file("a", 1))),
        (1, Entry::Intent(FileId::MAX, Intent::Delete)),
    ] {
        fs::write(&path, forged(sequence, std::slice::from_ref(&entry))).unwrap();
        assert!(open(folder.path()).unwrap_err().is::<Fatal>(), "{entry:?}");
    }
    fs::remove_file(&path).unwrap();
    fs::write(path.with_file_name(format!("{NAME}{}", u64::MAX)), "somebody's").unwrap();
    assert!(open(folder.path()).is_ok());
}

/// A ledger of one record, with a checksum that is right.
fn forged(sequence: u64, entries: &[Entry]) -> Vec<u8> {
    let (mut content, mut payload) = (header(0), Vec::new());
    entries.iter().for_each(|entry| entry.encode(&mut payload));
    codec::put_frame(&mut content, sequence, &payload);
    content
}

#[test]
fn what_refers_to_nothing_is_damage() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()).unwrap());
    let path = only_ledger(folder.path());
    let unfinished = |author| FileRecord { tail: Tail::Unfinished(author), ..file("a", 1) };
    let history = History::new(Position { epoch: Epoch(1), offset: 1, place: "".into() });
    let wrong = [
        vec![origin(0), Entry::File(0, unfinished(1))],
        vec![origin(0), Entry::File(0, file("a", 1)), Entry::Length(0, 2, Tail::Unfinished(1))],
        vec![origin(0), Entry::Intent(0, Intent::Create(unfinished(1)))],
        vec![origin(0), Entry::Intent(0, Intent::Adopt(unfinished(u32::MAX - 2)))],
        // It comes too late: before, the number was nobody's.
        vec![Entry::File(0, unfinished(0)), origin(0)],
        vec![Entry::Length(0, 2, Tail::Whole)],
        vec![Entry::Suffix(0, "~".into())],
        vec![moved(0, 1)],
        vec![Entry::History(0, Some(history))],
        vec![origin(0), origin(0)],
    ];
    for entries in wrong {
        let content = forged(1, &entries);
        fs::write(&path, &content).unwrap();
        let error = open(folder.path()).unwrap_err();
        assert!(
            error.is::<Fatal>() && error.to_string().contains("is damaged at byte"),
            "{entries:?}: {error}"
        );
        assert_eq!(fs::read(&path).unwrap(), content, "{entries:?}");
    }
    fs::write(&path, forged(1, &[origin(0), Entry::File(0, unfinished(0))])).unwrap();
    assert_eq!(open(folder.path()).unwrap().state().files.get(0), Some(&unfinished(0)));
}

#[test]
fn what_takes_a_file_of_the_sinks_own_for_output_is_damage() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()).unwrap());
    let path = only_ledger(folder.path());
    for (name, is_sound) in [
        (".fshipper", false),
        (".fshipper/lock", false),
        (".fshipper/ledger.00000002", false),
        (".fshipper/losses.log", true),
        (".fshipper-more", true),
    ] {
        let (record, to) = (file(name, 1), file(name, 1).path);
        for entry in [
            Entry::File(0, record.clone()),
            Entry::Intent(0, Intent::Create(record.clone())),
            Entry::Intent(0, Intent::Adopt(record)),
            Entry::Intent(0, Intent::Rotate { to: to.clone(), period_end: 0, stamp: 0 }),
            Entry::Intent(0, Intent::Compress { to, identity: 1, length: 1 }),
        ] {
            fs::remove_dir_all(folder.path().join(FOLDER)).unwrap();
            fs::create_dir(folder.path().join(FOLDER)).unwrap();
            fs::write(&path, forged(1, std::slice::from_ref(&entry))).unwrap();
            assert_eq!(open(folder.path()).is_ok(), is_sound, "{entry:?}");
        }
    }
}

#[test]
fn two_committed_lengths_of_one_file_are_damage() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()).unwrap());
    let path = only_ledger(folder.path());
    let (short, long) = (file("a.log", 1), FileRecord { length: 99, ..file("a.log", 1) });
    let elsewhere = FileRecord { path: file("b.log", 1).path, ..long.clone() };
    let another = FileRecord { identity: long.identity + 1, ..long.clone() };
    for (second, is_sound) in [
        (Entry::File(1, long.clone()), false),
        (Entry::Intent(1, Intent::Adopt(long)), false),
        (Entry::Intent(0, Intent::Rotate { to: short.path.clone(), period_end: 0, stamp: 0 }), false),
        (Entry::Intent(0, Intent::Rotate { to: file("c.log", 1).path, period_end: 0, stamp: 0 }), true),
        (
            Entry::Intent(
                1,
                Intent::Compress { to: short.path.clone(), identity: short.identity, length: 1 },
            ),
            false,
        ),
        (Entry::File(1, elsewhere), true),
        (Entry::File(1, another), true),
    ] {
        fs::remove_dir_all(folder.path().join(FOLDER)).unwrap();
        fs::create_dir(folder.path().join(FOLDER)).unwrap();
        fs::write(&path, forged(1, &[Entry::File(0, short.clone()), second.clone()])).unwrap();
        match open(folder.path()) {
            Ok(_) => assert!(is_sound, "{second:?}"),
            Err(error) => assert!(!is_sound && error.is::<Fatal>(), "{second:?}: {error}"),
        }
    }
}
