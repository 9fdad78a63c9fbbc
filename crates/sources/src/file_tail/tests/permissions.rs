//! What the file system does not let anybody see, for a while.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime};

use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

use super::bench::{Bench, lines};

/// What lets root go where permissions let nobody.
const ANYWHERE: CapabilitySet = CapabilitySet::DAC_OVERRIDE.union(CapabilitySet::DAC_READ_SEARCH);

/// Runs `body` on a thread that permissions bind, although it may be root's.
fn bound_by_permissions(body: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let bound = scope.spawn(|| {
            may_go_anywhere(false);
            body();
        });
        bound.join().unwrap();
    });
}

/// Sets whether permissions bind this thread, and says whether it may be so.
fn may_go_anywhere(wanted: bool) -> bool {
    let mut sets = capabilities(None).unwrap();
    sets.effective.set(ANYWHERE, wanted);
    let is_possible = sets.permitted.contains(ANYWHERE) || !wanted;
    if is_possible {
        set_capabilities(None, sets).unwrap();
    }
    is_possible
}

fn set_mode(bench: &Bench, name: &str, mode: u32) {
    fs::set_permissions(bench.path(name), Permissions::from_mode(mode)).unwrap();
}

#[test]
fn an_unreadable_file_is_read_once_it_is_readable() {
    bound_by_permissions(|| {
        let mut bench = Bench::new(&["*.log"]);
        bench.append("a.log", "one\n");
        bench.append("b.log", "two\n");
        set_mode(&bench, "a.log", 0o000);
        bench.pump();
        bench.check("b.log", "two\n");
        bench.check("a.log", "");
        set_mode(&bench, "a.log", 0o600);
        bench.pump();
        bench.check("a.log", "one\n");
    });
}

/// Who may enter a directory and not list it reads on what is known; whether a copy appeared, nobody can see.
#[test]
fn a_truncated_log_in_a_directory_that_may_not_be_listed_is_read_after_a_while() {
    bound_by_permissions(|| {
        let mut bench = Bench::new(&["*/*.log"]);
        fs::create_dir(bench.path("closed")).unwrap();
        bench.append("closed/a.log", lines("a", 0..10));
        bench.pump();
        bench.restart();
        bench.write("closed/a.log", lines("b", 0..3));
        set_mode(&bench, "closed", 0o311);
        (0..3).for_each(|_| bench.settle());
        bench.check("closed/a.log", lines("a", 0..10) + &lines("b", 0..3));
        assert_eq!(bench.unknown_losses(), 1);
        set_mode(&bench, "closed", 0o755);
    });
}

/// Who may list a directory and not enter it sees names, and cannot look at what they stand for.
#[test]
fn files_in_a_directory_that_may_only_be_listed_are_read_once_it_may_be_entered() {
    bound_by_permissions(|| {
        let mut bench = Bench::new(&["*/*.log"]);
        fs::create_dir(bench.path("closed")).unwrap();
        bench.append("closed/a.log", lines("a", 0..3));
        set_mode(&bench, "closed", 0o644);
        bench.pump();
        assert_eq!(bench.origins(), 0);
        set_mode(&bench, "closed", 0o755);
        bench.pump();
        bench.check("closed/a.log", lines("a", 0..3));
    });
}

/// As network file systems have them: errors that go by themselves, and leave no trace in the directory. Only
/// root can make one.
#[test]
fn a_file_that_could_not_be_looked_at_for_a_moment_is_read_although_its_directory_does_not_change() {
    bound_by_permissions(|| {
        let mut bench = Bench::new(&["*/*.log"]);
        fs::create_dir(bench.path("closed")).unwrap();
        bench.append("closed/a.log", lines("a", 0..3));
        set_mode(&bench, "closed", 0o644);
        // One that changed just now is listed again in any case.
        let long_ago = SystemTime::now() - Duration::from_secs(60);
        File::open(bench.path("closed")).unwrap().set_modified(long_ago).unwrap();
        bench.pump();
        assert_eq!(bench.origins(), 0);
        if may_go_anywhere(true) {
            bench.pump();
            bench.check("closed/a.log", lines("a", 0..3));
        }
        set_mode(&bench, "closed", 0o755);
    });
}
