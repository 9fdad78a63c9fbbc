//! Core NATS through a real server: what arrives, what is counted as lost, and what is said when it fails.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::Duration;

use fshipper_pipeline::{
    Batch, Bytes, Checkpoint, Content, Ends, Epoch, Origin, Position, Sink, Source, Transport, Written,
    testing,
};
use fshipper_testing::{DEADLINE, NatsOptions, NatsServer, Proxy, Subscriber, wait_until};
use fshipper_transports::Nats;
use nkeys::KeyPair;

const EPOCH: Epoch = Epoch(7);

fn nats(url: &str, more: &str) -> Nats {
    let table = format!(r#"{{ "servers": "{url}", "subject": "shipper" {more} }}"#);
    serde_json::from_str(&table).expect("the table is valid")
}

fn context() -> fshipper_pipeline::Context {
    testing::context("/nowhere".as_ref())
}

async fn sender(nats: &Nats) -> Box<dyn Sink> {
    nats.open_sender(context()).await.expect("the sender opens")
}

/// A receiver that the server knows of.
async fn receiver(nats: &Nats, server: &NatsServer, filter: &str, from: Checkpoint) -> Box<dyn Source> {
    let before = server.subscribers(filter);
    let receiver = nats.open_receiver(from, context()).await.expect("the receiver opens");
    wait_until(DEADLINE, "the server knows the subscription", || server.subscribers(filter) > before);
    receiver
}

fn origin() -> Origin {
    Origin::new("web1.example.net", "/var/log/app.log")
}

fn batch(start: u64, bytes: impl Into<Bytes>) -> Batch {
    Batch::data(origin(), EPOCH, start, bytes)
}

async fn write(sender: &mut Box<dyn Sink>, batch: Batch) {
    assert_eq!(sender.write(batch).await.expect("the connection holds"), Written::Accepted);
}

async fn read(receiver: &mut Box<dyn Source>) -> Batch {
    let batch = tokio::time::timeout(DEADLINE, receiver.read()).await;
    batch.expect("a batch comes").expect("the connection holds").expect("core NATS has no end")
}

/// Reads up to the offset `end`: the bytes, and each loss as its start and length.
async fn read_to(receiver: &mut Box<dyn Source>, end: u64) -> (Vec<u8>, Vec<(u64, u64)>) {
    let (mut bytes, mut losses) = (Vec::new(), Vec::new());
    loop {
        let batch = read(receiver).await;
        assert_eq!((&batch.origin, batch.epoch), (&origin(), EPOCH));
        match &batch.content {
            Content::Data(data) => bytes.extend_from_slice(data),
            Content::Loss { missing, .. } => losses.push((batch.start, *missing)),
        }
        if batch.end() >= end {
            return (bytes, losses);
        }
    }
}

/// Lines of every length, with bytes of every kind, and one line longer than a message.
fn log() -> Vec<u8> {
    let mut log = Vec::new();
    for number in 0..5_000_usize {
        log.extend((0..number % 200).map(|column| [number as u8, column as u8, 0xff, 0][column % 4] | 0x80));
        log.extend(b"\r\n");
    }
    log.extend(vec![b'x'; 300_000]);
    log.extend(b"\n\n\nno end");
    log
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_byte_arrives_in_every_framing() {
    let log = log();
    for (more, filter) in [
        ("", "shipper"),
        (r#", "framing": "line""#, "shipper"),
        (r#", "compression": "zstd""#, "shipper"),
        (r#", "partitions": 8"#, "shipper.p1.>"),
    ] {
        let server = NatsServer::core();
        let nats = nats(&server.url(), more);
        let mut receiver = receiver(&nats, &server, filter, Checkpoint::default()).await;
        let mut sender = sender(&nats).await;
        assert!(sender.restore().await.unwrap().is_none());
        let (mut bytes, mut losses) = (Vec::new(), Vec::new());
        for piece in log.chunks(100_000) {
            write(&mut sender, batch(bytes.len() as u64, piece.to_vec())).await;
            sender.commit(&Checkpoint::default()).await.unwrap();
            // Never more under way than the receiving end takes in whatever the machine is busy with.
            let arrived = read_to(&mut receiver, (bytes.len() + piece.len()) as u64).await;
            bytes.extend(arrived.0);
            losses.extend(arrived.1);
        }
        assert!(losses.is_empty(), "{more}: {losses:?}");
        assert!(bytes == log, "{more}: {} of {} bytes", bytes.len(), log.len());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bytes_on_the_wire_are_those_of_the_wire_format_page() {
    let server = NatsServer::core();
    let mut subscriber = TcpStream::connect(server.address()).unwrap();
    subscriber.set_read_timeout(Some(DEADLINE)).unwrap();
    subscriber.write_all(b"CONNECT {\"verbose\":false,\"headers\":true}\r\nSUB > 1\r\n").unwrap();
    wait_until(DEADLINE, "the server knows the subscription", || server.subscribers(">") == 1);

    let mut sender = sender(&nats(&server.url(), r#", "partitions": 8"#)).await;
    write(&mut sender, Batch { place: "g=1".into(), ..batch(100, "one\ntwo\n") }).await;
    sender.commit(&Checkpoint::default()).await.unwrap();

    let mut lines = BufReader::new(subscriber).lines().map(Result::unwrap);
    let message: Vec<_> = lines.by_ref().skip_while(|line| !line.starts_with("HMSG")).take(6).collect();
    assert_eq!(
        message,
        [
            "HMSG shipper.p1.web1.example.net 1 103 110",
            "NATS/1.0",
            "Fs-Batch: v=1 epoch=0000000000000007 start=100 end=108 crc=fcac93a4 path=/var/log/app.log",
            "",
            "one",
            "two",
        ]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_subscriber_sees_plain_lines() {
    let server = NatsServer::core();
    let subscriber = Subscriber::start(&server.url(), "shipper").await;
    let mut whole = sender(&nats(&server.url(), "")).await;
    write(&mut whole, batch(0, "one\ntwo\n")).await;
    let mut by_line = sender(&nats(&server.url(), r#", "framing": "line""#)).await;
    write(&mut by_line, batch(8, "three\n\nfour\n")).await;
    whole.commit(&Checkpoint::default()).await.unwrap();
    by_line.commit(&Checkpoint::default()).await.unwrap();

    subscriber.wait_for_lines(5, DEADLINE).await;
    let payloads: Vec<_> = subscriber.messages().into_iter().map(|message| message.payload).collect();
    let mut sorted = payloads.clone();
    sorted.sort();
    assert_eq!(sorted, ["", "four", "one\ntwo", "three"], "{payloads:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_missing_is_recorded_in_its_place() {
    let server = NatsServer::core();
    let nats = nats(&server.url(), "");
    let mut sender = sender(&nats).await;
    let mut late = receiver(&nats, &server, "shipper", Checkpoint::default()).await;
    write(&mut sender, batch(100, "one\n")).await;
    write(&mut sender, batch(204, "two\n")).await;
    write(&mut sender, batch(200, "???\ntwo\nthree\n")).await;
    assert_eq!(read_to(&mut late, 214).await, (b"one\ntwo\nthree\n".to_vec(), vec![(0, 100), (104, 100)]));

    let mut from = Checkpoint::default();
    let position = Position { epoch: EPOCH, offset: 214, place: Bytes::new() };
    from.set_position(&origin(), position);
    let mut resumed = receiver(&nats, &server, "shipper", from).await;
    write(&mut sender, batch(204, "two\nthree\nfour\n")).await;
    assert_eq!(read_to(&mut resumed, 219).await, (b"four\n".to_vec(), vec![]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_of_other_publishers_are_numbered_on() {
    let server = NatsServer::core();
    let nats = nats(&server.url(), "");
    let known = Origin::new("unknown", "shipper");
    let mut from = Checkpoint::default();
    from.set_position(&known, Position { epoch: EPOCH, offset: 10, place: Bytes::new() });
    let mut receiver = receiver(&nats, &server, "shipper", from).await;

    let client = async_nats::connect(server.url()).await.unwrap();
    for line in ["one", "", "two\nthree"] {
        client.publish("shipper", line.into()).await.unwrap();
    }
    let mut bytes = Vec::new();
    while bytes.len() < 15 {
        let batch = read(&mut receiver).await;
        assert_eq!((&batch.origin, batch.epoch), (&known, EPOCH));
        assert_eq!(batch.start, 10 + bytes.len() as u64);
        bytes.extend_from_slice(batch.bytes());
    }
    assert_eq!(bytes, b"one\n\ntwo\nthree\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_does_not_read_counts_what_the_server_dropped() {
    // Less than what is sent: the server cuts off who does not read. By default it would keep all of it.
    let options = NatsOptions { config_extra: "max_pending: 1MB".to_owned(), ..NatsOptions::default() };
    let server = NatsServer::start(options);
    let nats = nats(&server.url(), "");
    let mut receiver = receiver(&nats, &server, "shipper", Checkpoint::default()).await;
    let mut sender = sender(&nats).await;
    let line = [vec![b'x'; 63_999], vec![b'\n']].concat();
    let mut start = 0;
    for _ in 0..300 {
        write(&mut sender, batch(start, line.clone())).await;
        start += line.len() as u64;
    }
    sender.commit(&Checkpoint::default()).await.unwrap();
    // The server has handed everything on; whoever is dropped is dropped by now or very soon.
    let (mut taken, mut lost) = (0, 0);
    loop {
        write(&mut sender, batch(start, "last\n")).await;
        start += 5;
        while let Ok(next) = tokio::time::timeout(Duration::from_millis(100), receiver.read()).await {
            let batch = next.unwrap().unwrap();
            assert_eq!(batch.start, taken + lost);
            match batch.content {
                Content::Data(bytes) => taken += bytes.len() as u64,
                Content::Loss { missing, .. } => lost += missing,
            }
        }
        if taken + lost == start {
            break;
        }
    }
    assert!(lost > 0 && taken > 0, "{taken} taken, {lost} lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_break_fails_the_sender_and_is_a_loss_for_the_receiver() {
    let server = NatsServer::core();
    let proxy = Proxy::start(server.address()).await;
    let direct = nats(&server.url(), "");
    let proxied = nats(&proxy.url(), "");
    let mut watching = receiver(&direct, &server, "shipper", Checkpoint::default()).await;
    let mut cut_off = receiver(&proxied, &server, "shipper", Checkpoint::default()).await;

    let mut first = sender(&proxied).await;
    write(&mut first, batch(0, "one\n")).await;
    first.commit(&Checkpoint::default()).await.unwrap();
    assert_eq!(read_to(&mut watching, 4).await.0, b"one\n");
    // Not committed: whether it arrived, the sender does not know.
    write(&mut first, batch(4, "more\n")).await;
    assert_eq!(read_to(&mut watching, 9).await.0, b"more\n");
    assert_eq!(read_to(&mut cut_off, 9).await.0, b"one\nmore\n");

    proxy.refuse();
    wait_until(DEADLINE, "the receiver is cut off", || server.subscribers("shipper") == 1);
    let mut second = sender(&direct).await;
    write(&mut second, batch(9, "two\n")).await;
    second.commit(&Checkpoint::default()).await.unwrap();
    assert_eq!(read_to(&mut watching, 13).await.0, b"two\n");

    proxy.resume();
    let error = first.commit(&Checkpoint::default()).await.unwrap_err();
    assert!(error.to_string().contains("broke"), "{error:#}");
    wait_until(DEADLINE, "the receiver is back", || server.subscribers("shipper") == 2);
    write(&mut second, batch(13, "three\n")).await;
    assert_eq!(read_to(&mut cut_off, 19).await, (b"three\n".to_vec(), vec![(9, 4)]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_max_payload_makes_small_messages() {
    let options = NatsOptions { config_extra: "max_payload: 1KB".to_owned(), ..NatsOptions::default() };
    let server = NatsServer::start(options);
    let nats = nats(&server.url(), "");
    let mut receiver = receiver(&nats, &server, "shipper", Checkpoint::default()).await;
    let mut sender = sender(&nats).await;
    let log: Vec<u8> = (0..2000).flat_map(|number| format!("line {number}\n").into_bytes()).collect();
    write(&mut sender, batch(0, log.clone())).await;
    assert_eq!(read_to(&mut receiver, log.len() as u64).await, (log, vec![]));

    let origin = Origin::new("web1", "/long".repeat(300));
    let held = sender.write(Batch::data(origin, EPOCH, 0, "one\n")).await.unwrap();
    assert!(matches!(&held, Written::Held(reason) if reason.contains("1024")), "{held:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forbidden_subjects_are_named() {
    let users = r#"authorization: { users: [
        { user: "mute", password: "p", permissions: { publish: "_INBOX.>", subscribe: "_INBOX.>" } }
    ] }"#;
    let server = NatsServer::start(NatsOptions { config_extra: users.to_owned(), ..NatsOptions::default() });
    let nats = nats(&server.url(), r#", "user": "mute", "password": "p""#);

    let mut sender = sender(&nats).await;
    write(&mut sender, batch(0, "one\n")).await;
    let error = sender.commit(&Checkpoint::default()).await.unwrap_err();
    assert!(error.to_string().contains("Publish to \"shipper\""), "{error:#}");

    let mut receiver = nats.open_receiver(Checkpoint::default(), context()).await.unwrap();
    let error = tokio::time::timeout(DEADLINE, receiver.read()).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("Subscription to \"shipper\""), "{error:#}");
    let error = nats.probe(Ends::Receiver, context().settings).await.unwrap_err();
    assert!(error.to_string().contains("Subscription to \"shipper\""), "{error:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seed_replaced_on_disk_counts_from_the_next_connection_on() {
    let [first, second] = [KeyPair::new_user(), KeyPair::new_user()];
    let users = |key: &KeyPair| format!("authorization: {{ users: [{{ nkey: {} }}] }}", key.public_key());
    let mut server = NatsServer::start(NatsOptions { config_extra: users(&first), ..NatsOptions::default() });
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("web1.nk");
    std::fs::write(&file, first.seed().unwrap()).unwrap();

    let from_text = nats(&server.url(), &format!(r#", "nkey": "{}""#, first.seed().unwrap()));
    sender(&from_text).await.commit(&Checkpoint::default()).await.unwrap();
    let from_file = nats(&server.url(), &format!(r#", "nkey": "{}""#, file.display()));
    let mut receiver = receiver(&from_file, &server, "shipper", Checkpoint::default()).await;

    std::fs::write(&file, second.seed().unwrap()).unwrap();
    server.set_config_extra(users(&second));
    server.restart();
    wait_until(DEADLINE, "the receiver is back", || server.subscribers("shipper") == 1);
    let mut sender = sender(&from_file).await;
    write(&mut sender, batch(0, "one\n")).await;
    assert_eq!(read_to(&mut receiver, 4).await.0, b"one\n");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_connection_says_what_to_do_and_shows_no_secret() {
    let token = "authorization: { token: \"right\" }".to_owned();
    let server = NatsServer::start(NatsOptions { config_extra: token, ..NatsOptions::default() });
    let error = async |more: &str| {
        let error = nats(&server.url(), more).open_sender(context()).await.err().unwrap();
        format!("{error:#}")
    };
    let wrong = error(r#", "token": "hunter2""#).await;
    assert!(wrong.contains(&server.url()) && wrong.contains("check `creds`"), "{wrong}");
    assert!(!wrong.contains("hunter2"), "{wrong}");

    let plaintext = error(r#", "token": "right", "tls": { "ca": "Cargo.toml" }"#).await;
    assert!(plaintext.contains("cannot connect"), "{plaintext}");

    let nobody = nats("nats://127.0.0.1:1", "").open_sender(context()).await.err().unwrap();
    assert!(nobody.to_string().contains("nats://127.0.0.1:1"), "{nobody:#}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_says_what_it_found() {
    let server = NatsServer::core();
    let found = nats(&server.url(), "").probe(Ends::Both, context().settings).await.unwrap();
    assert!(found[0].starts_with("connected to nats-server 2."), "{found:?}");
    assert_eq!(found[1], "messages of at most 1048576 bytes");
    assert!(found[2].starts_with("a message to ourselves came back in "), "{found:?}");
    assert_eq!(found[3], "subscribed to shipper");
}
