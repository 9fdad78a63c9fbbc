//! Folders that others move away or hide while they are in use, and folders on other file systems.

use std::fs;
use std::path::Path;

use super::bench::{Bench, data, day, origin};
use super::room::Mount;
use crate::rotating_file::commit::Claims;
use crate::rotating_file::config::Limits;
use crate::rotating_file::files::Files;
use crate::rotating_file::syncing::Job;

/// Moves a folder away, and makes a new one in its place.
fn replace(folder: &Path) {
    fs::rename(folder, folder.with_extension("old")).unwrap();
    fs::create_dir(folder).unwrap();
}

#[test]
fn what_goes_to_a_folder_that_was_moved_away_does_not_count_and_is_written_to_the_new_one() {
    // The whole output, or the folder of a host; with files that are open and without; and the folder is not missed
    // by a successor.
    for (moved, is_closed, successor) in [
        ("out", false, true),
        ("out", true, true),
        ("out", false, false),
        ("out/h", false, true),
        ("out/h", false, false),
    ] {
        let bench = Bench::new("out/{host}/{file}", "");
        let (log, mut session) = (origin("h", "/f"), bench.open());
        session.write(&log, "one\n", day(0));
        session.commit();
        match successor {
            true => replace(&bench.path(moved)),
            false => fs::rename(bench.path(moved), bench.path(moved).with_extension("old")).unwrap(),
        }
        session.write(&log, "two\n", day(0));
        session.writer.flush().unwrap();
        if is_closed {
            session.writer.files.close_all();
        }
        let error = session.try_commit().unwrap_err().to_string();
        assert!(
            error.contains(bench.path(moved).to_str().unwrap()) && error.contains("moved away"),
            "{error}"
        );
        drop(session);

        // Of the host's folder the ledger knows what was committed; of another output it knows nothing.
        let mut session = bench.open();
        let text = if moved == "out" { "one\ntwo\n" } else { "two\n" };
        assert_eq!(session.end(&log), if moved == "out" { 0 } else { 4 });
        session.write(&log, text, day(0));
        session.commit();
        assert_eq!(bench.read("out/h/f"), text);
    }
}

#[test]
fn what_is_mounted_over_the_output_while_it_runs_is_noticed_by_the_commit() {
    for hidden in ["out", "out/h"] {
        let bench = Bench::new("out/{host}/{file}", "");
        let (log, mut session) = (origin("h", "/f"), bench.open());
        session.write(&log, "one\n", day(0));
        session.commit();
        let Some(mount) = Mount::over(&bench.path(hidden)) else { return };
        session.write(&log, "two\n", day(0));
        let error = session.try_commit().unwrap_err().to_string();
        assert!(error.contains("mounted over it"), "{error}");
        drop(session);
        let mut session = bench.open();
        let text = if hidden == "out" { "one\ntwo\n" } else { "two\n" };
        session.write(&log, text, day(0));
        session.commit();
        assert_eq!(bench.read("out/h/f"), text);
        drop(session);
        drop(mount);
        assert!(bench.read("out/h/f").starts_with("one\n"));
    }
}

#[test]
fn an_output_that_was_moved_away_is_noticed_at_a_hangup_with_nothing_to_commit() {
    let bench = Bench::new("out/{host}/{file}", "");
    let (log, mut session) = (origin("h", "/f"), bench.open());
    session.write(&log, "one\n", day(0));
    session.commit();
    replace(&bench.path("out"));
    let error = session.writer.commit(Claims::of(&session.checkpoint), true).unwrap_err().to_string();
    assert!(error.contains("moved away"), "{error}");
}

#[test]
fn a_file_that_others_move_into_another_folder_is_finished_and_counts() {
    let bench = Bench::new("{host}/{file}", "");
    let (log, mut session) = (origin("h", "/f"), bench.open());
    session.write(&log, "one\n", day(0));
    session.commit();
    fs::create_dir(bench.path("olddir")).unwrap();
    fs::rename(bench.path("h/f"), bench.path("olddir/f.1")).unwrap();
    session.write(&log, "two\n", day(0));
    session.commit();
    session.write(&log, "three\n", day(0));
    session.commit();
    assert_eq!((bench.read("olddir/f.1").as_str(), bench.read("h/f").as_str()), ("one\ntwo\n", "three\n"));
}

#[test]
fn a_folder_that_was_deleted_with_its_files_is_made_again_without_a_failure() {
    let bench = Bench::new("{host}/{file}", "");
    let (log, mut session) = (origin("h", "/f"), bench.open());
    session.write(&log, "one\n", day(0));
    session.commit();
    fs::remove_dir_all(bench.path("h")).unwrap();
    session.write(&log, "two\n", day(0));
    session.commit();
    session.write(&log, "three\n", day(0));
    session.commit();
    assert_eq!(bench.read("h/f"), "three\n");
}

#[test]
fn files_on_another_file_system_are_synced_one_by_one_however_many_there_are() {
    let bench = Bench::new("{host}/{file}", "");
    fs::create_dir(bench.path("far")).unwrap();
    let Some(_mount) = Mount::over(&bench.path("far")) else { return };
    let mut session = bench.open();
    session.writer.files =
        Files::new(session.disk.clone(), &Limits { single_syncs: 0, ..bench.plan().limits });
    for host in ["near", "far"] {
        session.write(&origin(host, "/f"), "one\n", day(0));
    }
    session.writer.flush().unwrap();
    let unsynced = session.writer.files.take_unsynced(|_| false);
    let files: Vec<String> = unsynced.files.iter().map(|(path, _)| path.to_string()).collect();
    let folders: Vec<String> = unsynced.folders_of.iter().map(ToString::to_string).collect();
    assert!(unsynced.everything && unsynced.closed.is_empty());
    assert_eq!((files, folders), (vec!["far/f".to_owned()], vec!["far/f".to_owned()]));

    // Also those whose handle had to go for others.
    session.feed(data(&origin("far", "/f"), 4, "two\n", day(0))).unwrap();
    session.writer.flush().unwrap();
    session.writer.files.close_all();
    let unsynced = session.writer.files.take_unsynced(|_| false);
    assert!(unsynced.files.is_empty() && !unsynced.everything);
    assert_eq!(unsynced.closed[0].0.to_string(), "far/f");
    let job = Job { disk: session.disk.clone(), unsynced, frame: None };
    job.run().unwrap();
    fs::remove_file(bench.path("far/f")).unwrap();
    assert!(job.run().unwrap_err().to_string().contains("far/f"), "what cannot be synced does not count");
}
