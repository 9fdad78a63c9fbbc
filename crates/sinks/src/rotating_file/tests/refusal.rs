//! Logs that are not taken.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use fshipper_pipeline::Written;

use super::bench::{Bench, Session, day, origin};

/// Why a log is not taken, and empty when it is.
fn refusal(session: &mut Session, host: &str, path: &Path) -> String {
    match session.write(&origin(host, path.to_str().unwrap()), "line\n", day(1)) {
        Written::Accepted => String::new(),
        Written::Held(reason) => reason,
    }
}

#[test]
fn what_this_sink_wrote_is_not_taken_again_and_other_logs_are() {
    let bench = Bench::new("{host}/{file}.%Y%m%d", "");
    let mut session = bench.open();
    session.write(&origin("web1", "/a.log"), "line\n", day(0));
    session.commit();
    session.write(&origin("web1", "/a.log"), "line\n", day(1));
    // One that the ledger knows, and one that only this session does.
    for own in ["web1/a.log.20261101", "web1/a.log.20261102", ".fshipper/ledger", "x/.fshipper/lock"] {
        let reason = refusal(&mut session, "here", &bench.path(own));
        assert!(reason.contains(own) && reason.contains("`exclude`"), "{own}: {reason}");
        assert_eq!(
            refusal(&mut session, "elsewhere", &bench.path(own)),
            "",
            "on another host it is another log"
        );
    }
    for other in ["web1/a.log", "web1/a.log.20261103", "app.log"] {
        assert_eq!(refusal(&mut session, "here", &bench.path(other)), "", "{other} is somebody else's");
    }
    assert_eq!(refusal(&mut session, "here", Path::new("/web1/a.log.20261101")), "");
}

#[test]
fn a_log_that_would_be_written_to_itself_is_not_taken() {
    let bench = Bench::new("{file}", "");
    fs::write(bench.path("app.log"), "line\n").unwrap();
    let mut session = bench.open();
    assert!(refusal(&mut session, "here", &bench.path("app.log")).contains("in a circle"));
    assert_eq!(bench.read("app.log"), "line\n");
}

#[test]
fn an_output_folder_is_known_by_its_real_name_too() {
    let bench = Bench::new("link/{file}.out", "");
    fs::create_dir(bench.path("real")).unwrap();
    symlink("real", bench.path("link")).unwrap();
    let mut session = bench.open();
    session.write(&origin("web1", "/a"), "line\n", day(0));
    for name in ["link", "real"] {
        let reason = refusal(&mut session, "here", &bench.path(name).join("a.out"));
        assert!(reason.contains("in a circle"), "{name}: {reason}");
    }
}

#[test]
fn more_logs_than_allowed_wait_until_more_are_allowed() {
    let bench = Bench::new("{host}/{file}", "max_logs = 2");
    let mut session = bench.open();
    let log = Path::new("/a.log");
    for host in ["one", "two", "one"] {
        assert_eq!(refusal(&mut session, host, log), "");
    }
    let reason = refusal(&mut session, "three", log);
    assert!(reason.contains("has 2 logs") && reason.contains("`max_logs`"), "{reason}");
    session.commit();
    drop(session);
    // The next session knows how many there are; which are there goes on.
    let mut session = bench.open();
    assert!(refusal(&mut session, "three", log).contains("has 2 logs"));
    assert_eq!(refusal(&mut session, "two", log), "");
    session.commit();
    drop(session);
    assert_eq!(bench.names(), ["one/a.log", "two/a.log"]);
    let bench = bench.with("{host}/{file}", "max_logs = 3");
    assert_eq!(refusal(&mut bench.open(), "three", log), "");
}
