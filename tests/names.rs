//! Names and headers that somebody made up to do harm, off the wire and from disk.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use async_nats::{Client, HeaderMap};
use fshipper_testing::{DEADLINE, NatsServer, wait_until};

use crate::support::{HOST, Pipeline, Scene};

/// What nobody should be called; as a host and as a path each is a log of its own.
fn hostile_names() -> Vec<Vec<u8>> {
    let names: [&[u8]; 41] = [
        b"../../etc/passwd",
        b"../../../../../../../../tmp/fshipper-was-here",
        b"..",
        b".",
        b"/absolute",
        b"a/b",
        b"a//b",
        b"a\\b",
        b"C:x",
        b"CON",
        b"\0",
        b"a\0b",
        b"a\nb",
        b"a\r\nb",
        b"\x1b[31mred\x1b[0m",
        b"\x1b]0;title\x07",
        b"\x7f",
        b"\xff\xfe",
        b"a.b",
        b"a_b",
        b"a%2eb",
        b"a%2Eb",
        b"a%2Fb",
        b"Host",
        b"host",
        "\u{e9}".as_bytes(),
        "e\u{301}".as_bytes(),
        "\u{430}pp.log".as_bytes(),
        b"app.log",
        b" leading",
        b"trailing ",
        b"trailing.",
        b".hidden",
        b"-rf",
        b"app.log.1",
        b"app.log.20261123T000000",
        b"app.log.gz",
        b".fshipper",
        b"losses.log",
        b"a~12345678",
        b"%empty",
    ];
    let long = |last: u8| [vec![b'a'; 5_000], vec![last]].concat();
    names.into_iter().map(<[u8]>::to_vec).chain([long(b'b'), long(b'c')]).collect()
}

/// What the wire format's page says of values.
fn escaped(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, &byte| {
        match byte {
            b'%' | b' ' => write!(text, "%{byte:02X}").unwrap(),
            byte if byte.is_ascii_graphic() => text.push(char::from(byte)),
            byte => write!(text, "%{byte:02X}").unwrap(),
        }
        text
    })
}

fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, &byte| (0..8).fold(crc ^ u32::from(byte), |crc, _| step(crc)))
}

/// The header of a batch that is one line.
fn header(host: &[u8], path: &[u8], line: &str) -> String {
    let bytes = format!("{line}\n");
    let (end, crc) = (bytes.len(), crc32c(bytes.as_bytes()));
    let (host, path) = (escaped(host), escaped(path));
    format!("v=1 epoch=0000000000000001 start=0 end={end} crc={crc:08x} host={host} path={path}")
}

async fn publish(client: &Client, subject: &str, header: &str, payload: impl Into<Vec<u8>>) {
    let mut headers = HeaderMap::new();
    headers.insert("Fs-Batch", header);
    let payload = payload.into().into();
    client.publish_with_headers(subject.to_owned(), headers, payload).await.unwrap();
}

/// A server with a stream, made by a consumer that writes to `path`.
async fn consumer(scene: &Scene, path: &str) -> (NatsServer, Client) {
    let server = NatsServer::jetstream();
    Pipeline::new().jetstream(&server.url()).rotating_file(path).write(scene, "consumer.toml");
    scene.run(&["--once", "consumer.toml"]).finish().expect_code(0);
    let client = async_nats::connect(server.url()).await.unwrap();
    (server, client)
}

/// Everything below the scene that is neither below `out` nor one of its own.
fn strangers(scene: &Scene) -> Vec<String> {
    let ours = ["out/", "consumer.toml", "stdout-", "stderr-", "logs/", "expected/"];
    let files = scene.files_below("").into_iter();
    files.filter(|file| !ours.iter().any(|prefix| file.starts_with(prefix))).collect()
}

#[track_caller]
fn assert_printable(said: &str) {
    let odd = said.chars().find(|character| character.is_control() && *character != '\n');
    assert_eq!(odd, None, "the log holds a control character: {said:?}");
}

/// Publishes a line for every name, as the host of one log and the path of another, and looks for it.
async fn check_hostile_names(path: &str) {
    let scene = Scene::new();
    let (_server, client) = consumer(&scene, path).await;
    let mut expected = BTreeSet::new();
    for (number, name) in hostile_names().iter().enumerate() {
        for (host, path) in [(&name[..], &b"/f"[..]), (b"h", name)] {
            let line = format!("line {number} of {}", if host == b"h" { "a path" } else { "a host" });
            publish(&client, "shipper", &header(host, path, &line), line.clone()).await;
            expected.insert(line);
        }
    }
    client.flush().await.unwrap();
    let said = scene.run(&["--once", "-v", "consumer.toml"]).finish().expect_code(0).stderr;
    let mut found = BTreeSet::new();
    for file in scene.files_below("out") {
        let text = fs::read_to_string(scene.path("out").join(&file)).unwrap();
        assert_eq!(text.lines().count(), 1, "`{file}` holds lines of several logs: {text:?}");
        assert_printable(&file);
        found.extend(text.lines().map(str::to_owned));
    }
    assert_eq!(found, expected);
    assert_eq!(strangers(&scene), [""; 0]);
    assert_printable(&said);
    assert!(!Path::new("/tmp/fshipper-was-here").try_exists().unwrap() && !said.contains("panicked"));
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_names_become_one_file_each_and_stay_below_the_output() {
    check_hostile_names("out/{host}/{file}").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_names_become_folders_below_the_output() {
    check_hostile_names("out/{host}/{path}.%Y%m%d").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn subjects_of_other_publishers_are_names_too() {
    let scene = Scene::new();
    let (_server, client) = consumer(&scene, "out/{host}/{path}").await;
    let subjects = [
        "shipper.=2E=2E=2F=2E=2E=2Fetc=2Fpasswd.app",
        "shipper.=2E=2E.=2E=2E.app",
        "shipper.=.app",
        "shipper.=00.app",
        "shipper./etc/passwd.app",
        "shipper.\u{1b}[31m.app",
        "shipper.\u{7f}.app",
        "shipper.=ZZ.app",
        "shipper.web1",
        "shipper",
        &format!("shipper.{}.app", "a".repeat(3_000)),
    ];
    for subject in subjects {
        client.publish(subject.to_owned(), "a line".into()).await.unwrap();
    }
    client.flush().await.unwrap();
    let said = scene.run(&["--once", "-v", "consumer.toml"]).finish().expect_code(0).stderr;
    let files = scene.files_below("out");
    assert_eq!(files.len(), subjects.len(), "{files:?}");
    for file in files {
        assert_eq!(fs::read_to_string(scene.path("out").join(&file)).unwrap(), "a line\n", "{file}");
        assert_printable(&file);
    }
    assert_eq!(strangers(&scene), [""; 0]);
    assert_printable(&said);
}

/// A zstd frame of a few kilobytes that unpacks to `count` times 128 KiB of one byte.
fn bomb(count: usize) -> Vec<u8> {
    const BLOCK_BYTES: u32 = 128 << 10;
    // The magic number; no flags, so no size; a window of 1 MiB.
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x50];
    for number in 1..=count {
        let is_last = u32::from(number == count);
        // Of type 1: one byte, repeated.
        frame.extend_from_slice(&(is_last | 1 << 1 | BLOCK_BYTES << 3).to_le_bytes()[..3]);
        frame.push(b'x');
    }
    frame
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_lie_are_left_out_and_named_and_the_others_arrive() {
    const GIGABYTE: usize = 8 << 10;
    let scene = Scene::new();
    let (_server, client) = consumer(&scene, "out/{host}").await;
    let honest = header(b"liar", b"/f", "one");
    let lies: [(&str, String, Vec<u8>, &str); 10] = [
        ("shipper", honest.replace("end=4", "end=5"), b"one".to_vec(), "claims 5 bytes and holds 4"),
        ("shipper", honest.replace("start=0", "start=9"), b"one".to_vec(), "before its start at 9"),
        (
            "shipper",
            honest.replace("end=4", "end=18446744073709551615"),
            b"one".to_vec(),
            "bytes and holds 4",
        ),
        (
            "shipper",
            honest.replace("end=4", "zstd end=18446744073709551615"),
            b"one".to_vec(),
            "holds at most",
        ),
        ("shipper", honest.replace("crc=", "crc=0"), b"one".to_vec(), "damaged"),
        ("shipper", honest.replace("v=1", "v=2"), b"one".to_vec(), "version `2`"),
        ("shipper", honest.clone(), b"two".to_vec(), "CRC"),
        ("shipper", honest.replace(" host", " zstd host"), bomb(GIGABYTE), "no zstd frame of 4 bytes"),
        ("shipper", honest.replace("end=4", "zstd end=8388608"), bomb(GIGABYTE), "no zstd frame of"),
        ("shipper.web1.app", honest.clone(), b"one".to_vec(), "host"),
    ];
    let consuming = scene.run(&["consumer.toml"]).start();
    let good = |number: usize| format!("good {number}");
    for (number, (subject, header, payload, _)) in lies.iter().enumerate() {
        client.publish("shipper.good.app".to_owned(), good(number).into()).await.unwrap();
        publish(&client, subject, header, payload.clone()).await;
    }
    publish(&client, "shipper", &honest, "one").await;
    let expected: String = (0..lies.len()).map(|number| good(number) + "\n").collect();
    let read = |file: &str| fs::read_to_string(scene.path("out").join(file)).unwrap_or_default();
    wait_until(DEADLINE, "the others have arrived", || read("good") == expected && read("liar") == "one\n");
    let peak = consuming.peak_memory_kib().unwrap();
    let said = consuming.stop(DEADLINE).expect_code(0).stderr;
    for (_, header, _, reason) in &lies {
        let is_named =
            |line: &str| line.contains("ERROR") && line.contains("left out") && line.contains(reason);
        assert!(said.lines().any(is_named), "{header}: nothing of `{reason}` in:\n{said}");
    }
    assert_eq!(scene.files_below("out"), ["good", "liar"]);
    assert!(peak < 256 << 10, "a gigabyte was unpacked: {peak} KiB");
}

#[test]
fn odd_names_of_local_files_arrive_and_are_escaped_in_the_log() {
    let (scene, server) = (Scene::new(), NatsServer::jetstream());
    Pipeline::new().tail("*").jetstream(&server.url()).write(&scene, "producer.toml");
    Pipeline::new()
        .jetstream(&server.url())
        .rotating_file("out/{host}/{file}")
        .write(&scene, "consumer.toml");
    fs::create_dir(scene.path("logs")).unwrap();
    let longest = [b'x'; 255];
    let names: [&[u8]; 7] =
        [b"new\nline", b"\x1b[31mred", b"\xff\xfe.log", b"-rf", b"sp ace", b"a%2Fb", &longest];
    for name in names {
        fs::write(scene.path("logs").join(OsStr::from_bytes(name)), [name, b"\n"].concat()).unwrap();
    }
    let mut said = String::new();
    for file in ["producer.toml", "consumer.toml"] {
        said += &scene.run(&["--once", "-v", file]).finish().expect_code(0).stderr;
    }
    assert_printable(&said);
    let files = scene.files_below("out");
    assert_eq!(files.len(), names.len(), "{files:?}");
    let mut arrived: Vec<Vec<u8>> =
        files.iter().map(|file| fs::read(scene.path("out").join(file)).unwrap()).collect();
    let mut written: Vec<Vec<u8>> = names.iter().map(|name| [name, &b"\n"[..]].concat()).collect();
    arrived.sort();
    written.sort();
    assert!(arrived == written, "{files:?}");
    assert!(files.iter().all(|file| file.starts_with(HOST)), "{files:?}");
}
