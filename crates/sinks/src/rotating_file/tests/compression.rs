//! What compressing costs those who write.

use std::fs;
use std::sync::Arc;

use super::bench::{Bench, day, origin};
use crate::rotating_file::ledger::FOLDER;
use crate::rotating_file::stop::Stop;

#[test]
fn lines_are_written_and_committed_while_files_are_compressed_one_at_a_time() {
    let bench = Bench::new("{host}/{file}.%Y%m%d", "compress = \"gzip\"");
    let stop = Arc::new(Stop::default());
    let mut session = bench.open_with(u64::MAX, stop.clone()).unwrap();
    let logs = ["a", "b", "c"].map(|name| origin("h", name));
    for days in 0..2 {
        for log in &logs {
            session.write(log, "line\n", day(days));
        }
    }
    session.commit();
    // Before each chunk it is looked whether the sink was dropped: here that look does not end.
    let held = stop.hold();
    for _ in 0..3 {
        session.writer.compress().unwrap();
        session.write(&logs[0], "more\n", day(1));
        session.commit();
    }
    assert!(session.writer.is_compressing());
    assert_eq!(bench.read("h/a.20261102"), "line\nmore\nmore\nmore\n");
    let copies = fs::read_dir(bench.path(FOLDER))
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("compress."));
    assert!(copies.count() <= 1, "several at once");
    drop(held);
    session.maintain().unwrap();
    let compressed = bench.names().into_iter().filter(|name| name.ends_with(".20261101.gz"));
    assert_eq!(compressed.count(), 3, "{:?}", bench.names());
}
