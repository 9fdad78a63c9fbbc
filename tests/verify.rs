//! `fshipper verify`: what it says of each kind of difference, which files it takes, and how much memory.

use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, Write as _};
use std::process::Command;
use std::thread;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use fshipper_testing::{DEADLINE, Finished};

use crate::support::{Pipeline, Scene, assert_identical};
use crate::surroundings::in_shell;

/// More than the limits that are documented, and far less than the files that are compared.
const MAX_MEMORY_KIB: u64 = 160 << 10;

const WRITTEN: &str = "one\ntwo\nthree\nfour\nfive\nsix\nseven\neight\n";

fn verify(scene: &Scene, arguments: &[&str]) -> Finished {
    scene.fshipper().argument("verify").arguments(arguments).finish()
}

/// What is printed, with the exit code.
fn shown(finished: &Finished) -> String {
    let code = finished.status.code().unwrap();
    format!("{}{}exit code {code}\n", String::from_utf8_lossy(&finished.stdout), finished.stderr)
}

/// What it is, source, central side, options.
type Case<'c> = (&'c str, &'c [u8], &'c [u8], &'c [&'c str]);

/// Compares each, and shows everything that is printed.
fn page(cases: &[Case<'_>]) -> String {
    let mut page = String::new();
    for (name, source, central, options) in cases {
        let scene = Scene::new();
        scene.write("app.log", source);
        scene.write("out/app.log", central);
        let arguments = [&["app.log", "--central", "out/app.log"], *options].concat();
        page += &format!("——— {name}: {}\n{}\n", options.join(" "), shown(&verify(&scene, &arguments)));
    }
    page
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn says_where_and_how_they_differ() {
    let written = WRITTEN.as_bytes();
    let long = [vec![b'x'; 500], b"\x1b[31m\xff\n".to_vec(), b"end\n".to_vec()].concat();
    let other = [vec![b'x'; 500], b"y\n".to_vec(), b"end\n".to_vec()].concat();
    let page = page(&[
        ("identical", written, written, &[]),
        ("both empty", b"", b"", &[]),
        ("lost", written, b"one\ntwo\nfour\nfive\nseven\neight\n", &[]),
        ("duplicated", written, b"one\ntwo\nthree\none\ntwo\nthree\nfour\nfive\nsix\nseven\neight\n", &[]),
        ("duplicated at the end", written, b"one\ntwo\nthree\nfour\nfive\nsix\nseven\neight\neight\n", &[]),
        ("reordered", written, b"one\nthree\nfour\ntwo\nfive\nsix\nseven\neight\n", &[]),
        ("torn", written, b"one\ntwo\nthfour\nfive\nsix\nseven\neight\n", &[]),
        ("torn at the end", written, b"one\ntwo\nthree\nfour\nfive\nsix\nsev\n", &[]),
        ("a last line without its end", written, &written[..written.len() - 1], &[]),
        (
            "zeros, as after a power cut",
            written,
            b"one\ntwo\nthree\nfour\n\0\0\0\0\0six\nseven\neight\n",
            &[],
        ),
        ("all of it", written, b"one\nthree\ntwo\nfour\nfour\nfi\nseven\n", &[]),
        ("nothing in common", written, b"a\nb\nc\n", &[]),
        ("far behind the beginning of a line, with odd bytes", &long, &other, &[]),
    ]);
    insta::assert_snapshot!(page);
}

#[test]
fn says_how_far_the_central_side_is_behind() {
    let written = WRITTEN.as_bytes();
    let page = page(&[
        ("behind", written, b"one\ntwo\nthree\n", &[]),
        ("behind", written, b"one\ntwo\nthree\n", &["--allow-behind"]),
        ("nothing has arrived", written, b"", &[]),
        ("within a line", written, b"one\ntwo\nthr", &["--allow-behind"]),
        ("within the last line", written, &written[..written.len() - 3], &[]),
        ("an unfinished line", b"one\ntwo\nthr", b"one\ntwo\n", &[]),
        ("behind, and lost", written, b"one\nthree\nfour\n", &["--allow-behind"]),
        ("behind, and one came too early", written, b"eight\none\ntwo\nthree\n", &[]),
        ("behind within a line, and lost", written, b"one\nthree\nfour\nfi", &[]),
    ]);
    insta::assert_snapshot!(page);
}

#[test]
fn begins_where_retention_left_the_beginning() {
    let written = WRITTEN.as_bytes();
    let late = b"four\nfive\nsix\nseven\neight\n";
    let page = page(&[
        ("deleted there", written, late, &[]),
        ("deleted there", written, late, &["--from", "central"]),
        ("deleted here", late, written, &["--from", "source"]),
        ("deleted there, and lost", written, b"four\nsix\nseven\neight\n", &["--from", "central"]),
        (
            "after a line that stands there more often",
            b"tick\none\ntick\ntwo\nthree\n",
            b"tick\ntwo\nthree\n",
            &["--from", "central"],
        ),
        ("nowhere", written, b"0\nfour\nsix\nseven\neight\n", &["--from", "central"]),
        (
            "deleted in a shared file",
            written,
            b"x\nfour\nfive\ny\nsix\nseven\neight\n",
            &["--shared", "--from", "central"],
        ),
    ]);
    insta::assert_snapshot!(page);
}

#[test]
fn finds_a_log_among_others() {
    let written = WRITTEN.as_bytes();
    let page = page(&[
        ("whole", written, b"a\none\ntwo\nb\nthree\nfour\nfive\nsix\nseven\na\neight\nc\n", &["--shared"]),
        ("lost", written, b"a\none\ntwo\nb\nthree\nfive\nsix\nseven\na\neight\nc\n", &["--shared"]),
        (
            "reordered",
            written,
            b"a\none\nthree\ntwo\nb\nfour\nfive\nsix\nseven\na\neight\nc\n",
            &["--shared"],
        ),
        (
            "repeated",
            written,
            b"one\ntwo\na\none\ntwo\nthree\nfour\nfive\nsix\nseven\neight\n",
            &["--shared"],
        ),
        (
            "repeated",
            written,
            b"one\na\none\ntwo\nthree\nfour\nfive\nsix\nseven\neight\n",
            &["--shared", "--allow-repeated"],
        ),
        ("behind", written, b"a\none\nb\ntwo\nc\n", &["--shared"]),
        ("behind, and one came too early", written, b"eight\na\none\ntwo\nthree\n", &["--shared"]),
    ]);
    insta::assert_snapshot!(page);
}

#[test]
fn files_are_compared_in_the_order_of_their_log() {
    let scene = Scene::new();
    let lines: Vec<String> = (0..1_200).map(|number| format!("line {number}\n")).collect();
    let part = |from: usize, to: usize| lines[from * 100..to * 100].concat().into_bytes();
    scene.write("logs/app.log", part(11, 12));
    for number in 1..=10 {
        scene.write(&format!("logs/app.log.{number}"), part(11 - number, 12 - number));
    }
    scene.write("logs/app.log.11.gz", [gzip(&part(0, 1)[..300]), gzip(&part(0, 1)[300..])].concat());
    scene.write("out/app.log.20261122.gz", gzip(&part(0, 3)));
    // The plain file is complete while it is being compressed.
    scene.write("out/app.log.20261123", part(3, 4));
    scene.write("out/app.log.20261123.gz", b"\x1f\x8b half");
    for number in 1..=7 {
        scene.write(&format!("out/app.log.20261123.{}", number + 3), part(3 + number, 4 + number));
    }
    scene.write("out/app.log.20261124", part(11, 12));
    scene.write("out/.fshipper/ledger", "none of the output");
    let identical = "identical: 1,200 lines, 10,890 bytes\n";

    for central in ["out/app.log.*", "o?t/*", "out/app.log.{20261122,20261123,20261124}*", "**/app.log.2026*"]
    {
        let finished = verify(&scene, &["logs/*", "--central", central]).expect_code(0);
        assert!(shown(&finished).starts_with(identical), "{central}: {}", shown(&finished));
    }
    // As a shell gives them.
    let names = |folder: &str| {
        let names = scene.files_below(folder).into_iter().map(move |name| format!("{folder}/{name}"));
        names.collect::<Vec<_>>()
    };
    let command = scene.fshipper().argument("verify").arguments(names("logs")).argument("--central");
    let finished = command.arguments(names("out")).finish().expect_code(0);
    assert!(shown(&finished).starts_with(identical), "{}", shown(&finished));

    let finished = verify(&scene, &["logs/app.log.9", "logs/app.log.10", "--as-given", "--central", "out/*"]);
    assert!(shown(&finished.expect_code(1)).starts_with("different: "), "the given order is not kept");
    let finished = verify(&scene, &["logs/*", "--central", "out/app.log.20261122.gz"]).expect_code(1);
    assert!(shown(&finished).starts_with("behind by 8,300 bytes (900 lines)"), "{}", shown(&finished));
}

#[test]
fn what_cannot_be_compared_exits_2() {
    let scene = Scene::new();
    for name in ["a.log", "b.log", "out/a.log.20261123", "out/a.log.20261123~0123abcd", "a.log.1.zst"] {
        scene.write(name, "one\n");
    }
    scene.write("cut.gz", &gzip(&[7; 1_000])[..20]);
    fs::hard_link(scene.path("a.log"), scene.path("out/link")).unwrap();
    let mut page = String::new();
    for arguments in [
        &["a.log"][..],
        &["--central", "a.log"],
        &["absent.log", "--central", "a.log"],
        &["a.log", "--central", "out/absent*"],
        &["a.log", "--central", "out/[a"],
        &["a.log", "--central", "out"],
        &["a.log", "b.log", "--central", "out/a.log.20261123"],
        &["a.log", "--central", "out/a*"],
        &["a.log", "--central", "a.log"],
        &["a.log", "--central", "out/link"],
        &["a.log", "--central", "b.log", "out/link", "a.log"],
        &["a.log.1.zst", "--central", "b.log"],
        &["/dev/null", "--central", "b.log"],
        &["b.log", "--central", "cut.gz"],
        &["a.log", "--central", "b.log", "--allow-repeated"],
        &["a.log", "--central", "b.log", "--from", "both"],
    ] {
        let finished = verify(&scene, arguments).expect_code(2);
        assert!(finished.stdout.is_empty(), "{arguments:?}");
        page += &format!("——— {}\n{}", arguments.join(" "), finished.stderr);
    }
    insta::assert_snapshot!(page);
}

#[test]
fn proves_what_a_pipeline_shipped() {
    let scene = Scene::new();
    let path = "path = 'out/{host}/{file}.%Y%m%d'\nrotate = { max_bytes = '40KB' }\ncompress = 'gzip'";
    Pipeline::new().tail("app.log*").table("sink", "rotating_file", path).write(&scene, "local.toml");
    let mut log = scene.log("app.log", 1);
    for _ in 0..4 {
        log.write_lines(1_000);
        scene.run(&["--once", "local.toml"]).finish().expect_code(0);
        log.rotate_numbered();
    }
    log.write_lines(10);
    let arguments = ["logs/app.log*", "--central", "out/web1.example.net/app.log*"];
    let finished = verify(&scene, &arguments).expect_code(1);
    assert!(shown(&finished).contains("(10 lines): not lost but not there yet"), "{}", shown(&finished));
    scene.run(&["--once", "local.toml"]).finish().expect_code(0);
    let finished = verify(&scene, &arguments).expect_code(0);
    assert!(shown(&finished).starts_with("identical: 4,010 lines"), "{}", shown(&finished));
    assert!(scene.files_below("out").len() > 4, "nothing was rotated");
}

#[test]
fn a_log_that_grows_while_it_is_compared_is_behind_at_most() {
    let scene = Scene::new();
    Pipeline::new().tail("app.log").rotating_file("out/{file}").write(&scene, "local.toml");
    let mut log = scene.log("app.log", 2);
    log.write_lines(20_000);
    let run = scene.run(&["local.toml"]).start();
    scene.assert_arrives(log.expected(), "out/app.log");
    for _ in 0..10 {
        let verifying = scene.fshipper().arguments([
            "verify",
            "--allow-behind",
            "logs/app.log",
            "--central",
            "out/app.log",
        ]);
        let verifying = verifying.start();
        log.write_lines(2_000);
        verifying.wait(DEADLINE).expect_code(0);
    }
    scene.assert_arrives(log.expected(), "out/app.log");
    run.stop(DEADLINE).expect_code(0);
    assert_identical(log.expected(), &scene.path("out/app.log"));
}

#[test]
fn recorded_losses_are_shown() {
    let scene = Scene::new();
    scene.write("app.log", "one\ntwo\n");
    scene.write("out/web1/app.log", "one\ntwo\n");
    let note = |number| {
        format!(
            "2026-11-23T00:00:0{number}Z web1:/var/log/app.log epoch 00 offset {number}: lost 7 bytes: \x1b\n"
        )
    };
    scene.write("out/.fshipper/losses.log", (1..=5).map(note).collect::<String>());
    let finished = verify(&scene, &["app.log", "--central", "out/web1/app.log"]).expect_code(0);
    let shown = shown(&finished).replace(scene.path("").to_str().unwrap(), "/scene/");
    insta::assert_snapshot!(shown);
}

#[test]
fn what_is_no_file_in_the_place_of_the_recorded_losses_is_refused_at_once() {
    let scene = Scene::new();
    scene.write("app.log", "one\n");
    scene.write("out/app.log", "one\n");
    fs::create_dir(scene.path("out/.fshipper")).unwrap();
    // Opening it would wait for somebody who writes.
    assert!(Command::new("mkfifo").arg(scene.path("out/.fshipper/losses.log")).status().unwrap().success());
    let said = verify(&scene, &["app.log", "--central", "out/app.log"]).expect_code(2).stderr;
    assert!(said.contains("/out/.fshipper/losses.log`: it is a FIFO, not a regular file"), "{said}");
}

#[test]
fn room_that_was_reserved_is_no_line() {
    let page = page(&[
        ("at the end of a live file", b"one\ntwo\n\0\0\0\0", b"one\ntwo\n", &[]),
        ("behind a line that is being written", b"one\ntw\0\0\0\0", b"one\n", &[]),
        ("nothing but room", b"\0\0\0\0", b"", &[]),
        ("in the middle they are bytes", b"one\n\0\0two\n", b"one\n\0\0two\n", &[]),
        ("a character of UTF-16", b"o\0\n\0", b"o\0\n\0", &[]),
        ("and room behind it", b"o\0\n\0\0\0\0\0", b"o\0\n\0", &[]),
    ]);
    insta::assert_snapshot!(page);
    // A rotated file that was never cut to its text, and longer than what is read at once.
    let scene = Scene::new();
    scene.write("app.log.1", [b"one\n".to_vec(), vec![0; 600_000]].concat());
    scene.write("app.log", "two\n");
    scene.write("out.log", "one\ntwo\n");
    verify(&scene, &["app.log*", "--central", "out.log"]).expect_code(0);
}

#[test]
fn more_files_than_a_shell_lets_open_are_compared() {
    let scene = Scene::new();
    let mut whole = String::new();
    for number in 0..100 {
        scene.write(&format!("app.log.{number:03}"), format!("{number}\n"));
        whole += &format!("{number}\n");
    }
    scene.write("out.log", whole);
    let arguments = ["verify", "--as-given", "app.log.*", "--central", "out.log"];
    in_shell(&scene, "ulimit -Sn 64; exec \"$0\" \"$@\"", &arguments).finish().expect_code(0);
    let few = in_shell(&scene, "ulimit -n 64; exec \"$0\" \"$@\"", &arguments).finish().expect_code(2);
    assert!(few.stderr.contains("so raise `ulimit -n`"), "{}", few.stderr);
}

#[test]
fn memory_is_bounded_however_much_differs() {
    let scene = Scene::new();
    // Nothing in common but one line in a thousand, which is out of order on top of that.
    let write = |name: &str, side: u64| {
        let mut file = BufWriter::new(File::create(scene.path(name)).unwrap());
        for number in 0..1_500_000_u64 {
            if number % 1_000 == 0 {
                writeln!(file, "common {}", (number / 1_000 * side) % 1_500).unwrap();
            } else {
                writeln!(file, "{side} {number}").unwrap();
            }
        }
        file.flush().unwrap();
    };
    write("one.log", 1);
    write("other.log", 7);
    let mut run = scene.fshipper().arguments(["verify", "one.log", "--central", "other.log"]).start();
    let mut peak = 0;
    while run.is_running() {
        peak = peak.max(run.peak_memory_kib().unwrap_or(0));
        thread::sleep(Duration::from_millis(1));
    }
    let finished = run.wait(DEADLINE).expect_code(1);
    let shown = shown(&finished);
    assert!(shown.contains("More than 900,000 different lines differ."), "{shown}");
    assert!(peak > 0 && peak < MAX_MEMORY_KIB, "{peak} KiB");
}

#[test]
fn a_line_longer_than_any_buffer_is_one_line() {
    let scene = Scene::new();
    let line = |byte: u8, end: &[u8]| [&vec![byte; 3_000_000][..], end, b"\n"].concat();
    let (first, second) = (line(b'x', b"1"), line(b'x', b"2"));
    scene.write("app.log", [&first[..], &second[..], b"end\n"].concat());
    scene.write("out.log", [&second[..], b"end\n"].concat());
    let mut more = OpenOptions::new().append(true).open(scene.path("app.log")).unwrap();
    more.write_all(b"more\n").unwrap();
    let finished = verify(&scene, &["app.log", "--central", "out.log"]).expect_code(1);
    let shown = shown(&finished);
    assert!(shown.starts_with("different: 1 line lost, 0 duplicated, 0 reordered, 0 torn\n"), "{shown}");
    assert!(shown.contains("app.log, line 1, byte 3000000: …`"), "{shown}");
    assert!(shown.contains("behind by 5 bytes (1 line)"), "{shown}");
}
