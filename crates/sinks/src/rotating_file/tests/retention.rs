//! What becomes of files that are old, or gone.

use std::fs;
use std::sync::Arc;

use super::bench::{Bench, Session, day, origin, owner};
use crate::rotating_file::confined::Root;
use crate::rotating_file::disk::Disk;
use crate::rotating_file::disk::simulated::{Model, Operation, Recorder, Tree, Trouble};
use crate::rotating_file::ledger::FOLDER;
use crate::rotating_file::writer::Writer;

/// A sink whose changes of the disk are recorded.
fn recorded(bench: &Bench) -> (Arc<Recorder>, Session) {
    let plan = bench.plan();
    let fixed = plan.template.fixed().to_owned();
    let recorder = Arc::new(Recorder::new(&fixed, Model::of(&Tree::default()), Trouble::None));
    let root = Root::open_or_create(&fixed, 0o750).unwrap();
    let disk = Arc::new(Disk::recorded(root, plan.mode, recorder.clone()));
    let writer = Writer::open_on(disk.clone(), plan, owner("test"), Arc::default()).unwrap();
    let checkpoint = writer.checkpoint();
    (recorder, Session { writer, disk, checkpoint, begun: None })
}

#[test]
fn many_old_files_go_a_few_at_a_time_and_their_folder_is_synced_once_each_time() {
    let bench = Bench::new("{host}/{file}.%Y%m%d", "rotate = { max_bytes = 2 }\nkeep = { files = 1 }");
    let (recorder, mut session) = recorded(&bench);
    let log = origin("h", "/f");
    for _ in 0..101 {
        session.write(&log, "x\n", day(0));
    }
    session.commit();
    session.writer.delete_old().unwrap();
    assert_eq!(bench.names().len(), 37, "some of them");
    assert!(session.writer.retention.has_more(), "it goes on as soon as nothing more waits");
    session.write(&log, "x\n", day(0));
    session.commit();
    session.maintain().unwrap();
    assert_eq!(bench.names().len(), 1);
    let (_, operations, _) = recorder.finish();
    let count = |is: fn(&Operation) -> bool| operations.iter().filter(|operation| is(operation)).count();
    assert_eq!(
        count(|operation| matches!(operation, Operation::Remove(path) if path.starts_with("h/"))),
        101
    );
    assert_eq!(
        count(|operation| matches!(operation, Operation::SyncFolderOf(path) if path.starts_with("h/"))),
        2
    );
}

#[test]
fn a_file_that_cannot_be_deleted_is_left_alone_until_the_next_look() {
    let bench = Bench::new("{host}/{file}.%Y%m%d", "keep = { files = 1 }");
    let (log, mut session) = (origin("h", "/f"), bench.open());
    session.write(&log, "one\n", day(0));
    session.write(&log, "two\n", day(1));
    session.commit();
    // A folder in the way cannot be entered as one.
    fs::rename(bench.path("h"), bench.path("away")).unwrap();
    fs::write(bench.path("h"), "").unwrap();
    for _ in 0..2 {
        session.writer.retention.note_rotation();
        assert!(!session.writer.delete_old().unwrap());
    }
    fs::remove_file(bench.path("h")).unwrap();
    fs::rename(bench.path("away"), bench.path("h")).unwrap();
    session.writer.retention.note_rotation();
    assert!(!session.writer.delete_old().unwrap(), "it is not tried again with each rotation");
    session.writer.retention.look();
    assert!(session.writer.delete_old().unwrap());
    assert_eq!(bench.names(), ["h/f.20261102"]);
}

#[test]
fn rotated_files_that_others_delete_are_forgotten() {
    let bench = Bench::new("{host}/{file}.%Y%m%d", "rotate = { max_bytes = 2 }");
    let (log, mut session) = (origin("h", "/f"), bench.open());
    let known = |session: &Session| session.writer.ledger.state().files.iter().count();
    let mut ledger_bytes = Vec::new();
    for round in 0..4 {
        for _ in 0..300 {
            session.write(&log, "x\n", day(0));
        }
        session.commit();
        for name in bench.names() {
            let active = session.writer.outputs.active_files().next().unwrap().0;
            let active = session.writer.ledger.state().files.get(active).unwrap().path.to_string();
            if name != active {
                fs::remove_file(bench.path(&name)).unwrap();
            }
        }
        assert!(known(&session) >= 300);
        // As after an hour, or at a start.
        match round {
            0 => session.writer.retention.look(),
            _ => {
                drop(session);
                session = bench.open();
            }
        }
        session.maintain().unwrap();
        assert_eq!(known(&session), 1, "round {round}");
        drop(session);
        session = bench.open();
        let own = fs::read_dir(bench.path(FOLDER)).unwrap().map(|entry| entry.unwrap());
        let ledger = own.filter(|entry| entry.file_name().to_string_lossy().starts_with("ledger."));
        ledger_bytes.extend(ledger.map(|entry| entry.metadata().unwrap().len()));
    }
    assert!(ledger_bytes.iter().all(|length| *length == ledger_bytes[0]), "{ledger_bytes:?}");
}

#[test]
fn nothing_is_deleted_in_an_output_that_was_moved_away() {
    let bench = Bench::new("out/{host}/{file}.%Y%m%d", "keep = { files = 1 }");
    let (log, mut session) = (origin("h", "/f"), bench.open());
    session.write(&log, "one\n", day(0));
    session.write(&log, "two\n", day(1));
    session.commit();
    fs::rename(bench.path("out"), bench.path("kept")).unwrap();
    assert!(session.maintain().unwrap_err().to_string().contains("moved away"));
    assert_eq!(bench.names(), ["kept/h/f.20261101", "kept/h/f.20261102"]);
}
