//! Which file a line goes to.

use std::time::Duration;

use fshipper_pipeline::Origin;

use super::bench::{Bench, day, origin};

#[test]
fn each_period_has_a_file_and_a_late_line_does_not_go_back() {
    let bench = Bench::new("{host}/{file}.%Y%m%d", "");
    let log = origin("web1", "/var/log/app.log");
    let mut session = bench.open();
    session.write(&log, "first\n", day(0));
    session.write(&log, "second\n", day(1));
    session.write(&log, "late\n", day(0));
    session.commit();
    assert_eq!(bench.names(), ["web1/app.log.20261101", "web1/app.log.20261102"]);
    drop(session);
    let mut session = bench.open();
    session.write(&log, "later still\n", day(0));
    session.commit();
    assert_eq!(bench.read("web1/app.log.20261101"), "first\n");
    assert_eq!(bench.read("web1/app.log.20261102"), "second\nlate\nlater still\n");
}

#[test]
fn a_date_suffix_names_the_start_of_the_period() {
    let bench = Bench::new("logfile", "date_suffix = \"-%Y%m%d%H%M\"\nrotate = { every = \"1d\" }");
    let mut session = bench.open();
    session.write(&origin("h", "/x"), "line\n", day(22));
    session.commit();
    assert_eq!(bench.names(), ["logfile-202611230000"]);
}

#[test]
fn full_files_are_followed_by_numbered_ones_also_after_a_start() {
    let bench = Bench::new("{host}/{file}.%Y%m%d", "rotate = { max_bytes = 20 }");
    let log = origin("web1", "/app.log");
    for number in 0..7 {
        let mut session = bench.open();
        session.write(&log, &format!("line {number}\nnext {number}\n"), day(0));
        session.commit();
    }
    let files = bench.files();
    assert_eq!(files.len(), 7);
    let names = (0..7).map(|number| match number {
        0 => "web1/app.log.20261101".to_owned(),
        number => format!("web1/app.log.20261101.{number}"),
    });
    let content: String = names.map(|name| files[&name].clone()).collect();
    let expected: String = (0..7).map(|number| format!("line {number}\nnext {number}\n")).collect();
    assert_eq!(content, expected);
}

#[test]
fn a_batch_is_split_at_line_ends_and_no_file_exceeds_its_limit() {
    let bench = Bench::new("{host}/{file}.%Y%m%d", "rotate = { max_bytes = 100 }");
    let (log, mut session) = (origin("h", "/f"), bench.open());
    let text: String = (0..200).map(|number| format!("a line with the number {number}\n")).collect();
    session.write(&log, &text, day(0));
    session.write(&log, &format!("{}\n", "long".repeat(100)), day(0));
    session.write(&log, "short\n", day(0));
    session.commit();
    let files = bench.files();
    assert!(files.values().all(|content| content.ends_with('\n')));
    let long: Vec<&String> = files.values().filter(|content| content.len() > 100).collect();
    assert_eq!(long.len(), 1, "only the line that is longer than a file may be");
    assert_eq!(long[0].lines().count(), 1);
    assert_eq!(files.values().map(String::len).sum::<usize>(), text.len() + 401 + 6);
}

/// The size of a file counts lines and nothing else, so that it does not depend on how they travelled.
#[test]
fn an_event_of_several_lines_stands_in_one_period_and_may_stand_in_two_full_files() {
    let bench = Bench::new("{host}/{file}.%Y%m%d", "rotate = { max_bytes = 20 }");
    let (log, mut session) = (origin("h", "/f"), bench.open());
    session.write(&log, "2026 one\n", day(0));
    // As `multiline` sends it: in one batch.
    session.write(&log, "2026 two\n  at a\n  at b\n", day(1));
    session.commit();
    assert_eq!(bench.names(), ["h/f.20261101", "h/f.20261102", "h/f.20261102.1"]);
    assert_eq!(bench.read("h/f.20261102"), "2026 two\n  at a\n");
    assert_eq!(bench.read("h/f.20261102.1"), "  at b\n");
}

#[test]
fn the_parts_of_a_long_line_stay_together() {
    let bench = Bench::new("{host}/{file}.%Y%m%d", "rotate = { max_bytes = 10 }");
    let (log, mut session) = (origin("h", "/f"), bench.open());
    session.write(&log, "a line in", day(0));
    session.commit();
    session.write(&log, " several", day(0));
    session.write(&log, " parts\nand another\n", day(1));
    session.commit();
    assert_eq!(bench.read("h/f.20261101"), "a line in several parts\n");
    assert_eq!(bench.read("h/f.20261102"), "and another\n");
}

#[test]
fn a_plain_path_keeps_its_name_and_the_old_file_gets_a_time() {
    let bench = Bench::new("{host}/{file}", "rotate = { every = \"1d\" }");
    let (log, mut session) = (origin("h", "/f"), bench.open());
    for days in 0..3 {
        session.write(&log, &format!("day {days}\n"), day(days));
    }
    session.commit();
    assert_eq!(bench.names(), ["h/f", "h/f.20261102T120000", "h/f.20261103T120000"]);
    assert_eq!(bench.read("h/f"), "day 2\n");
    assert_eq!(bench.read("h/f.20261102T120000"), "day 0\n");
}

#[test]
fn many_rotations_in_one_second_have_names_that_sort() {
    let bench = Bench::new("{host}/{file}", "rotate = { max_bytes = 8 }");
    let (log, mut session) = (origin("h", "/f"), bench.open());
    for number in 100..130 {
        session.write(&log, &format!("line {number}\n"), day(0) + Duration::from_millis(number));
    }
    session.commit();
    let files = bench.files();
    let (active, rotated) = (files["h/f"].clone(), files.into_iter().skip(1));
    let content: String = rotated.map(|(_, content)| content).chain([active]).collect();
    let expected: String = (100..130).map(|number| format!("line {number}\n")).collect();
    assert_eq!(content, expected);
}

#[test]
fn two_logs_on_one_path_are_kept_apart_for_ever() {
    let bench = Bench::new("{host}/{file}", "");
    let (first, second) = (origin("h", "/a/app.log"), origin("h", "/b/app.log"));
    let mut session = bench.open();
    session.write(&first, "from a\n", day(0));
    session.write(&second, "from b\n", day(0));
    session.commit();
    drop(session);
    let mut session = bench.open();
    session.write(&second, "more from b\n", day(0));
    session.write(&first, "more from a\n", day(0));
    session.commit();
    let names = bench.names();
    assert!(names.len() == 2 && names[1].starts_with("h/app.log~"), "{names:?}");
    assert_eq!(bench.read("h/app.log"), "from a\nmore from a\n");
    assert_eq!(bench.read(&names[1]), "from b\nmore from b\n");
}

#[test]
fn whatever_a_log_is_called_it_stays_inside_and_apart() {
    let names = [
        "",
        ".",
        "..",
        "../../escape",
        "/etc/passwd",
        ".fshipper",
        ".fshipper/ledger",
        "a\nb",
        "a%0Ab",
        "\x1b[31m",
    ];
    let bench = Bench::new("base/{host}/{file}", "");
    let mut session = bench.open();
    let long = ["x".repeat(5000), "x".repeat(5001)];
    let all: Vec<&str> = names.into_iter().chain(long.iter().map(String::as_str)).collect();
    for host in &all {
        session.write(&Origin::new(host, "/f"), &format!("{}\n", host.escape_debug()), day(0));
    }
    session.write(&Origin::new(b"\xff\0", b"/\xfe\0"), "bytes\n", day(0));
    session.commit();
    let files = bench.files();
    assert_eq!(files.len(), all.len() + 1, "{:?}", files.keys());
    assert!(files.keys().all(|name| name.starts_with("base/")), "{:?}", files.keys());
}

#[test]
fn another_template_begins_new_files_and_gives_up_the_old_ones() {
    let bench = Bench::new("{host}/{file}", "");
    let log = origin("h", "/f");
    let mut session = bench.open();
    session.write(&log, "one\n", day(0));
    session.commit();
    drop(session);
    let bench = bench.with("{host}/{file}.%Y%m%d", "compress = \"gzip\"");
    let mut session = bench.open();
    session.write(&log, "two\n", day(0));
    session.commit();
    session.maintain().unwrap();
    assert_eq!(bench.names(), ["h/f.20261101", "h/f.gz"]);
}

#[test]
fn another_template_cuts_off_what_was_not_committed_under_the_old_one() {
    // Where the file is, and what another program has made of its name.
    for moved in [false, true] {
        let bench = Bench::new("{host}/{file}", "");
        let log = origin("h", "/f");
        let mut session = bench.open();
        session.write(&log, "one\n", day(0));
        session.commit();
        session.write(&log, "two\nand a ha", day(0));
        session.writer.flush().unwrap();
        drop(session);
        let mut old = "h/f";
        if moved {
            old = "h/f.1";
            std::fs::rename(bench.path("h/f"), bench.path(old)).unwrap();
        }
        let bench = bench.with("{host}/{file}.%Y%m%d", "keep = { age = \"1d\" }");
        let mut session = bench.open();
        session.write(&log, "two\nand a half\n", day(0));
        session.commit();
        assert_eq!(
            (bench.read(old).as_str(), bench.read("h/f.20261101").as_str()),
            ("one\n", "two\nand a half\n")
        );
        let end = session.writer.ledger.state().files.iter().map(|(_, record)| record.period.1).max();
        assert!(end < Some(i64::MAX / 2), "it has an age");
    }
}

/// The rotated files in the order of their names, and the active one.
fn in_order(bench: &Bench) -> String {
    let files = bench.files();
    let (active, rotated) = (files["h/f"].clone(), files.into_iter().skip(1));
    rotated.map(|(_, content)| content).chain([active]).collect()
}

#[test]
fn what_is_kept_is_what_came_last_and_its_names_sort_also_when_the_clock_goes_back() {
    // So many seconds later, and an hour earlier.
    for offset in [1, -3600_i64] {
        let bench = Bench::new("{host}/{file}", "rotate = { max_bytes = 8 }\nkeep = { files = 3 }");
        let (log, mut session) = (origin("h", "/f"), bench.open());
        let mut all = String::new();
        for number in 100..110 {
            let line = format!("line {number}\n");
            let seconds = if number < 105 { 3600 } else { 3600 + offset };
            session.write(&log, &line, day(0) + Duration::from_secs(seconds as u64));
            all += &line;
            if number == 105 || number == 109 {
                session.commit();
                session.maintain().unwrap();
            }
        }
        let kept = in_order(&bench);
        assert_eq!(bench.names().len(), 3);
        assert!(all.ends_with(&kept), "{offset}: {:?}", bench.files());
    }
}

#[test]
fn the_time_in_a_name_never_comes_again_also_when_no_file_has_it_any_more() {
    let bench = Bench::new("{host}/{file}", "rotate = { max_bytes = 8 }\nkeep = { files = 1 }");
    let (log, mut names) = (origin("h", "/f"), Vec::new());
    for number in 100..104 {
        let mut session = bench.open();
        session.write(&log, &format!("line {number}\n"), day(0));
        session.commit();
        names.extend(bench.names().into_iter().skip(1));
        session.maintain().unwrap();
        assert_eq!(bench.names(), ["h/f"]);
    }
    assert_eq!(names, ["h/f.20261101T120000", "h/f.20261101T120001", "h/f.20261101T120002"]);
}

#[test]
fn old_files_go_and_so_do_their_empty_folders() {
    let bench = Bench::new("{host}/%Y/%m/%d/{file}", "keep = { files = 2 }");
    let (log, mut session) = (origin("h", "/f"), bench.open());
    for days in 0..5 {
        session.write(&log, "line\n", day(days));
        session.commit();
        session.maintain().unwrap();
    }
    std::fs::write(bench.path("h/2026/11/04/foreign"), "").unwrap();
    session.write(&log, "line\n", day(5));
    session.commit();
    session.maintain().unwrap();
    assert_eq!(bench.names(), ["h/2026/11/04/foreign", "h/2026/11/05/f", "h/2026/11/06/f"]);
    assert!(!bench.path("h/2026/11/03").try_exists().unwrap());
}
