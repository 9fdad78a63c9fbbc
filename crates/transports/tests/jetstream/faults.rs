//! What goes wrong in between: servers that die, networks that break, streams that fill up or vanish.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use fshipper_pipeline::{Checkpoint, Source, testing};
use fshipper_testing::{DEADLINE, Direction, NatsServer, Proxy, wait_until};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{
    Central, EPOCH, commit, context, everything, lines, log, make_stream, messages, operator, pieces, plain,
    publish, receiver, sender, sender_in, table, text, write,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_in_mid_run_costs_nothing() {
    let mut server = NatsServer::jetstream();
    let nats = plain(&server);
    let bytes = lines(30 << 20);
    let (mut sender, _) = sender(&nats).await;
    let receiver = receiver(&nats, Checkpoint::default()).await;
    let reading = tokio::spawn(read_all(receiver, bytes.len()));
    let pieces = pieces(&bytes, 100_000);
    for (number, (start, piece)) in pieces.iter().enumerate() {
        write(&mut *sender, &log("/log"), *start, *piece).await;
        if number % (pieces.len() / 3) == 20 {
            server.kill();
            server.restart();
        }
    }
    commit(&mut *sender).await;
    let central = tokio::time::timeout(DEADLINE, reading).await.unwrap().unwrap();
    assert!(central.file(&log("/log")) == bytes);
    assert_eq!(central.losses, Vec::<String>::new());
    assert!(everything(&nats).await.file(&log("/log")) == bytes, "the stream itself is contiguous");
}

/// Reads one log in a task of its own.
async fn read_all(mut receiver: Box<dyn Source>, length: usize) -> Central {
    let mut central = Central::default();
    central.read_to(&mut *receiver, &log("/log"), length).await;
    central
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_connections_cost_nothing() {
    let server = NatsServer::jetstream();
    let proxy = Proxy::start(server.address()).await;
    let nats = table(&proxy.url(), json!({}));
    let bytes = lines(20 << 20);
    let (mut sender, _) = sender(&nats).await;
    let receiver = receiver(&nats, Checkpoint::default()).await;
    let reading = tokio::spawn(read_all(receiver, bytes.len()));
    for (number, (start, piece)) in pieces(&bytes, 50_000).into_iter().enumerate() {
        write(&mut *sender, &log("/log"), start, piece).await;
        if number % 40 == 30 {
            proxy.cut();
        }
    }
    commit(&mut *sender).await;
    let central = tokio::time::timeout(DEADLINE, reading).await.unwrap().unwrap();
    assert!(central.file(&log("/log")) == bytes);
    assert!(everything(&plain(&server)).await.file(&log("/log")) == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledgements_lost_on_the_way_store_nothing_twice() {
    let server = NatsServer::jetstream();
    let proxy = Proxy::start(server.address()).await;
    let nats = table(&proxy.url(), json!({}));
    let (mut sender, _) = sender(&nats).await;
    write(&mut *sender, &log("/log"), 0, "one\n").await;
    commit(&mut *sender).await;
    proxy.stall(Direction::ToClient);
    write(&mut *sender, &log("/log"), 4, "two\n").await;
    while messages(&server).await < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    proxy.cut();
    proxy.resume();
    write(&mut *sender, &log("/log"), 8, "three\n").await;
    commit(&mut *sender).await;
    assert_eq!(everything(&plain(&server)).await.file(&log("/log")), b"one\ntwo\nthree\n");
    assert_eq!(messages(&server).await, 3);
}

#[tokio::test]
async fn a_full_stream_makes_the_sender_wait_until_there_is_room() {
    let server = NatsServer::jetstream();
    let stream = json!({ "name": "LOGS", "create": true, "max_bytes": 100_000 });
    let nats = table(&server.url(), json!({ "stream": stream }));
    let bytes = lines(300_000);
    let (mut sender, _) = sender(&nats).await;
    for (start, piece) in pieces(&bytes, 20_000) {
        write(&mut *sender, &log("/log"), start, piece).await;
    }
    let checkpoint = Checkpoint::default();
    let waiting = tokio::time::timeout(Duration::from_millis(300), sender.commit(&checkpoint)).await;
    assert!(waiting.is_err(), "nothing is dropped");

    let stored = everything(&nats).await.file(&log("/log")).len();
    assert!(stored > 0 && stored < bytes.len());
    let operator = operator(&server).await;
    let mut config = operator.get_stream("LOGS").await.unwrap().cached_info().config.clone();
    config.max_bytes = 10_000_000;
    operator.update_stream(config).await.unwrap();
    commit(&mut *sender).await;
    assert!(everything(&nats).await.file(&log("/log")) == bytes);
}

#[tokio::test]
async fn a_full_stream_that_is_purged_takes_the_rest() {
    let server = NatsServer::jetstream();
    let stream = json!({ "name": "LOGS", "create": true, "max_bytes": 50_000 });
    let nats = table(&server.url(), json!({ "stream": stream }));
    let bytes = lines(60_000);
    let mut receiver = receiver(&nats, Checkpoint::default()).await;
    let (mut sender, _) = sender(&nats).await;
    let (origin, mut central) = (log("/log"), Central::default());
    for (start, piece) in pieces(&bytes, 20_000) {
        write(&mut *sender, &origin, start, piece).await;
    }
    let checkpoint = Checkpoint::default();
    assert!(tokio::time::timeout(Duration::from_millis(300), sender.commit(&checkpoint)).await.is_err());
    let stored = everything(&nats).await.file(&origin).len();
    central.read_to(&mut *receiver, &origin, stored).await;
    operator(&server).await.get_stream("LOGS").await.unwrap().purge().await.unwrap();
    tokio::join!(commit(&mut *sender), central.read_to(&mut *receiver, &origin, bytes.len()));
    assert!(central.file(&origin) == bytes);
}

#[tokio::test]
async fn a_stream_that_was_replaced_fails_the_sender_and_the_next_one_starts_again() {
    let server = NatsServer::jetstream();
    let nats = plain(&server);
    let (mut first, _) = sender(&nats).await;
    write(&mut *first, &log("/log"), 0, "one\n").await;
    commit(&mut *first).await;
    let operator = operator(&server).await;
    operator.delete_stream("LOGS").await.unwrap();
    drop(nats_receiver_creates_it(&nats).await);

    write(&mut *first, &log("/log"), 4, "two\n").await;
    let error = text(first.commit(&Checkpoint::default()).await);
    assert!(error.contains("less of `web1.example.net:/log` than it acknowledged"), "{error}");
    let (mut second, restored) = sender(&nats).await;
    assert!(restored.position(&log("/log")).is_none());
    write(&mut *second, &log("/log"), 0, "one\ntwo\n").await;
    commit(&mut *second).await;
    assert_eq!(everything(&nats).await.file(&log("/log")), b"one\ntwo\n");
}

async fn nats_receiver_creates_it(nats: &fshipper_transports::Nats) -> Box<dyn Source> {
    receiver(nats, Checkpoint::default()).await
}

#[tokio::test]
async fn a_stream_that_vanished_fails_the_sender_and_the_next_one_creates_it() {
    let server = NatsServer::jetstream();
    let nats = plain(&server);
    let (mut first, _) = sender(&nats).await;
    operator(&server).await.delete_stream("LOGS").await.unwrap();
    write(&mut *first, &log("/log"), 0, "one\n").await;
    let error = text(first.commit(&Checkpoint::default()).await);
    assert!(error.contains("`LOGS`") && error.contains("nobody serves it"), "{error}");
    assert!(first.commit(&Checkpoint::default()).await.is_err());
    publish(&nats, &log("/log"), "one\n").await;
    assert_eq!(everything(&nats).await.file(&log("/log")), b"one\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_went_back_in_time_is_read_again_and_continued() {
    let mut server = NatsServer::jetstream();
    let nats = plain(&server);
    publish(&nats, &log("/log"), "one\n").await;
    server.stop();
    let backup = tempfile::tempdir().unwrap();
    copy(&server.store_dir(), backup.path());
    server.restart();

    let context = context(false);
    let (mut first, _) = sender_in(&nats, context.clone()).await;
    write(&mut *first, &log("/log"), 4, "two\n").await;
    commit(&mut *first).await;
    let mut central = everything(&nats).await;
    let mut open = receiver(&nats, central.checkpoint.clone()).await;

    // A power cut before the server's fsync: it has forgotten what it acknowledged.
    server.stop();
    std::fs::remove_dir_all(server.store_dir()).unwrap();
    copy(backup.path(), &server.store_dir());
    server.restart();

    // Nothing is written: it looks by itself, and sooner than it does without a break.
    let another_session = tokio::time::timeout(DEADLINE / 2, testing::reopening(&context));
    another_session.await.expect("another session is wanted");
    drop(first);
    let (mut second, restored) = sender(&nats).await;
    assert_eq!(
        restored.position(&log("/log")).map(|position| (position.epoch, position.offset)),
        Some((EPOCH, 4))
    );
    write(&mut *second, &log("/log"), 4, "two\nthree\n").await;
    commit(&mut *second).await;
    central.read_to(&mut *open, &log("/log"), 14).await;
    assert_eq!(central.file(&log("/log")), b"one\ntwo\nthree\n");
}

pub(crate) fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_server_goes_on_where_it_was() {
    let mut server = NatsServer::jetstream();
    let nats = plain(&server);
    let (mut sender, _) = sender(&nats).await;
    let mut open = receiver(&nats, Checkpoint::default()).await;
    let mut central = Central::default();
    write(&mut *sender, &log("/log"), 0, "one\n").await;
    commit(&mut *sender).await;
    server.pause();
    // SIGSTOP takes hold a moment after it was sent.
    let stat = format!("/proc/{}/stat", server.pid().unwrap());
    wait_until(DEADLINE, "the server has stopped", || {
        std::fs::read_to_string(&stat).unwrap().contains(") T ")
    });
    write(&mut *sender, &log("/log"), 4, "two\n").await;
    let checkpoint = Checkpoint::default();
    assert!(tokio::time::timeout(Duration::from_millis(200), sender.commit(&checkpoint)).await.is_err());
    server.resume();
    commit(&mut *sender).await;
    central.read_to(&mut *open, &log("/log"), 8).await;
    assert_eq!(central.file(&log("/log")), b"one\ntwo\n");
}

#[tokio::test]
async fn a_consumer_that_was_deleted_is_made_again() {
    let server = NatsServer::jetstream();
    let nats = plain(&server);
    let mut open = receiver(&nats, Checkpoint::default()).await;
    publish(&nats, &log("/log"), "one\n").await;
    let mut central = Central::default();
    central.read_to(&mut *open, &log("/log"), 4).await;
    let stream = operator(&server).await.get_stream("LOGS").await.unwrap();
    let mut names = stream.consumer_names();
    while let Some(name) = futures::StreamExt::next(&mut names).await {
        stream.delete_consumer(&name.unwrap()).await.unwrap();
    }
    let (mut sender, _) = sender(&nats).await;
    write(&mut *sender, &log("/log"), 4, "two\n").await;
    commit(&mut *sender).await;
    central.read_to(&mut *open, &log("/log"), 8).await;
    assert_eq!((central.file(&log("/log")), central.batches), (&b"one\ntwo\n"[..], 2));
}

#[tokio::test]
async fn a_stream_that_gives_sequences_again_has_lost_what_had_them() {
    let server = NatsServer::jetstream();
    let nats = plain(&server);
    let (mut sender, _) = sender(&nats).await;
    for (start, line) in [(0, "one\n"), (4, "two\n")] {
        write(&mut *sender, &log("/idle"), start, line).await;
        commit(&mut *sender).await;
    }
    // No connection breaks, and the log that goes on is a new one.
    operator(&server).await.delete_stream("LOGS").await.unwrap();
    make_stream(&server, |_| {}).await;
    write(&mut *sender, &log("/busy"), 0, "one\n").await;
    let error = text(sender.commit(&Checkpoint::default()).await);
    assert!(error.contains("has lost messages that it had acknowledged"), "{error}");
}

/// More bytes than that are cut off unless the server answers in between: on a slow line a client gives its
/// connection up when a message takes longer than the answers to its pings.
const NARROW_BYTES: usize = 150_000;

/// A way to `server` over such a line.
async fn narrow_line(server: SocketAddr) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(server).await.unwrap();
            tokio::spawn(pass_narrowly(client, server));
        }
    });
    format!("nats://{address}")
}

async fn pass_narrowly(mut client: TcpStream, mut server: TcpStream) -> io::Result<()> {
    let (mut up, mut down) = (vec![0; 16 << 10], vec![0; 16 << 10]);
    let mut unanswered = 0;
    loop {
        tokio::select! {
            count = client.read(&mut up) => {
                let count = count?;
                unanswered += count;
                if count == 0 || unanswered > NARROW_BYTES {
                    return Ok(());
                }
                server.write_all(&up[..count]).await?;
            }
            count = server.read(&mut down) => {
                let count = count?;
                unanswered = 0;
                if count == 0 {
                    return Ok(());
                }
                client.write_all(&down[..count]).await?;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_too_slow_for_a_great_message_gets_smaller_ones() {
    let server = NatsServer::jetstream();
    let nats = table(&narrow_line(server.address()).await, json!({}));
    let bytes = lines(900_000);
    let (mut sender, _) = sender(&nats).await;
    write(&mut *sender, &log("/log"), 0, bytes.clone()).await;
    commit(&mut *sender).await;
    assert!(everything(&plain(&server)).await.file(&log("/log")) == bytes);
}
