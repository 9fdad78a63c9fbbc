//! The receiving end: where it goes on, and what it makes of messages.

use std::time::Duration;

use async_nats::HeaderMap;
use fshipper_pipeline::{Batch, Checkpoint, Origin, Transport};
use fshipper_testing::NatsServer;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::support::{
    Central, commit, context, everything, lines, log, make_stream, operator, plain, publish, read, receiver,
    sender, table, write,
};

#[tokio::test]
async fn goes_on_after_its_cursor() {
    let server = NatsServer::jetstream();
    let nats = plain(&server);
    let (mut sender, _) = sender(&nats).await;
    write(&mut *sender, &log("/log"), 0, "one\n").await;
    commit(&mut *sender).await;
    let mut central = everything(&nats).await;

    write(&mut *sender, &log("/log"), 4, "two\n").await;
    commit(&mut *sender).await;
    let mut receiver = receiver(&nats, central.checkpoint.clone()).await;
    let batch = read(&mut *receiver).await.unwrap();
    assert_eq!(batch.start, 4, "nothing is read twice");
    assert_eq!(batch.cursor.as_ref().unwrap().transport.as_ref(), "nats:LOGS:shipper");
    central.take(batch);
    assert_eq!(central.file(&log("/log")), b"one\ntwo\n");
}

#[tokio::test]
async fn a_message_arrives_while_it_is_waited_for() {
    let server = NatsServer::jetstream();
    let nats = plain(&server);
    let mut receiver = receiver(&nats, Checkpoint::default()).await;
    let origin = log("/log");
    let (batch, ()) = tokio::join!(read(&mut *receiver), publish(&nats, &origin, "one\n"));
    let batch = batch.unwrap();
    assert_eq!((batch.origin.clone(), batch.bytes()), (log("/log"), &b"one\n"[..]));
    let age = batch.time.elapsed().unwrap_or_default();
    assert!(age < Duration::from_secs(60), "the time is when it was stored");
}

#[tokio::test]
async fn once_ends_at_what_was_there() {
    let server = NatsServer::jetstream();
    let nats = plain(&server);
    let open = async |from| nats.open_receiver(from, context(true)).await.unwrap();
    assert!(read(&mut *open(Checkpoint::default()).await).await.is_none(), "the stream is empty");

    publish(&nats, &log("/log"), lines(3 << 20)).await;
    let central = everything(&nats).await;
    assert!(central.file(&log("/log")).len() >= 3 << 20);
    assert!(read(&mut *open(central.checkpoint).await).await.is_none(), "nothing is left");
}

#[tokio::test]
async fn once_takes_its_end_when_it_is_told() {
    let server = NatsServer::jetstream();
    let nats = plain(&server);
    let token = CancellationToken::new();
    let waiting = fshipper_pipeline::Context { once: Some(token.clone()), ..context(false) };
    let mut receiver = nats.open_receiver(Checkpoint::default(), waiting).await.unwrap();
    publish(&nats, &log("/log"), "one\n").await;
    assert_eq!(read(&mut *receiver).await.unwrap().bytes(), b"one\n");
    publish(&nats, &log("/other"), "two\n").await;
    token.cancel();
    assert_eq!(read(&mut *receiver).await.unwrap().bytes(), b"two\n");
    assert!(read(&mut *receiver).await.is_none());
}

#[tokio::test]
async fn once_ends_when_nothing_matches() {
    let server = NatsServer::jetstream();
    make_stream(&server, |config| config.subjects.push("other.>".to_owned())).await;
    let operator = operator(&server).await;
    for _ in 0..10 {
        operator.publish("other.subject", "x".into()).await.unwrap().await.unwrap();
    }
    assert_eq!(everything(&plain(&server)).await.batches, 0);
}

#[tokio::test]
async fn other_publishers_lines_arrive_once_across_every_start() {
    let server = NatsServer::jetstream();
    let nats = plain(&server);
    drop(receiver(&nats, Checkpoint::default()).await);
    let operator = operator(&server).await;
    let send = async |subject: &'static str, payload: &'static str| {
        operator.publish(subject, payload.into()).await.unwrap().await.unwrap();
    };
    send("shipper", "from nowhere").await;
    send("shipper.web2.app", "two\nlines").await;
    send("shipper.web2.app", "").await;
    let (unknown, named) = (Origin::new("unknown", "shipper"), Origin::new("web2", "shipper.web2.app"));
    let mut central = everything(&nats).await;
    assert_eq!(central.file(&unknown), b"from nowhere\n");
    assert_eq!(central.file(&named), b"two\nlines\n\n");

    send("shipper.web2.app", "more").await;
    // A sink that was cut back to before its last commit, but for one log.
    let mut behind = Checkpoint::default();
    behind.set_history(&named, central.checkpoint.history(&named).cloned());
    for from in [central.checkpoint.clone(), behind] {
        let mut receiver = receiver(&nats, from.clone()).await;
        let batch = loop {
            let batch = read(&mut *receiver).await.unwrap();
            if batch.origin == named {
                break batch;
            }
        };
        assert_eq!((batch.start, batch.bytes()), (11, &b"more\n"[..]));
        if from.cursors().count() > 0 {
            central.take(batch);
        }
    }
    assert_eq!(central.file(&named), b"two\nlines\n\nmore\n");
}

#[tokio::test]
async fn a_long_message_of_another_publisher_survives_a_restart_in_its_middle() {
    let server = NatsServer::jetstream();
    let nats = plain(&server);
    drop(receiver(&nats, Checkpoint::default()).await);
    let payload = lines(1_000_100);
    let operator = operator(&server).await;
    for text in [payload.clone(), b"short".to_vec()] {
        operator.publish("shipper", text.into()).await.unwrap().await.unwrap();
    }
    let origin = Origin::new("unknown", "shipper");
    let mut central = Central::default();
    central.take(read(&mut *receiver(&nats, Checkpoint::default()).await).await.unwrap());
    assert!(central.file(&origin).len() < payload.len(), "a part is stored");

    let mut again = receiver(&nats, central.checkpoint.clone()).await;
    let expected = [&payload[..], b"\nshort\n"].concat();
    central.read_to(&mut *again, &origin, expected.len()).await;
    assert!(central.file(&origin) == expected);
}

#[tokio::test]
async fn a_replaced_stream_is_read_from_its_first_message() {
    let server = NatsServer::jetstream();
    let nats = plain(&server);
    publish(&nats, &log("/log"), "one\n").await;
    let operator = operator(&server).await;
    operator.publish("shipper.web2.app", "old".into()).await.unwrap().await.unwrap();
    let mut central = everything(&nats).await;
    let mut open = receiver(&nats, central.checkpoint.clone()).await;

    operator.delete_stream("LOGS").await.unwrap();
    // The same bytes again, as a producer sends them that finds nothing, and more; fewer messages than before.
    publish(&nats, &log("/log"), "one\ntwo\n").await;
    central.read_to(&mut *open, &log("/log"), 8).await;
    assert_eq!(central.file(&log("/log")), b"one\ntwo\n");

    operator.publish("shipper.web2.app", "new".into()).await.unwrap().await.unwrap();
    let foreign = Origin::new("web2", "shipper.web2.app");
    central.read_to(&mut *open, &foreign, 8).await;
    assert_eq!(central.file(&foreign), b"old\nnew\n");
    assert_eq!(central.losses, Vec::<String>::new());
}

#[tokio::test]
async fn a_cursor_whose_message_is_gone_starts_at_the_first_and_repeats_nothing() {
    let server = NatsServer::jetstream();
    let nats = plain(&server);
    let operator = operator(&server).await;
    publish(&nats, &log("/log"), "one\n").await;
    operator.publish("shipper.web2.app", "old".into()).await.unwrap().await.unwrap();
    let mut central = everything(&nats).await;
    operator.get_stream("LOGS").await.unwrap().delete_message(2).await.unwrap();
    operator.publish("shipper.web2.app", "new".into()).await.unwrap().await.unwrap();

    let foreign = Origin::new("web2", "shipper.web2.app");
    let mut receiver = receiver(&nats, central.checkpoint.clone()).await;
    central.read_to(&mut *receiver, &foreign, 8).await;
    assert_eq!(central.file(&foreign), b"old\nnew\n");
    assert_eq!(central.file(&log("/log")), b"one\n");
}

#[tokio::test]
async fn what_retention_took_shows_as_a_gap() {
    let server = NatsServer::jetstream();
    let nats = plain(&server);
    let (mut sender, _) = sender(&nats).await;
    for start in [0, 4, 8] {
        write(&mut *sender, &log("/log"), start, "abc\n").await;
        commit(&mut *sender).await;
    }
    operator(&server).await.get_stream("LOGS").await.unwrap().purge().sequence(3).await.unwrap();
    let central = everything(&nats).await;
    assert_eq!(central.file(&log("/log")), b"abc\n");
    assert_eq!(central.losses, ["gap 0..8"]);
}

#[tokio::test]
async fn a_damaged_message_is_left_out_and_the_next_one_is_not() {
    let server = NatsServer::jetstream();
    let nats = plain(&server);
    let (mut sender, _) = sender(&nats).await;
    write(&mut *sender, &log("/log"), 0, "one\n").await;
    commit(&mut *sender).await;
    let operator = operator(&server).await;
    let stored = operator.get_stream("LOGS").await.unwrap().get_raw_message(1).await.unwrap();
    let mut headers = HeaderMap::new();
    headers.insert("Fs-Batch", stored.headers.get("Fs-Batch").unwrap().as_str());
    let forged = operator.publish_with_headers(stored.subject, headers, "two".into()).await.unwrap();
    forged.await.unwrap();
    write(&mut *sender, &log("/other"), 0, "other\n").await;
    commit(&mut *sender).await;

    let central = everything(&nats).await;
    assert_eq!(central.file(&log("/log")), b"one\n");
    assert_eq!(central.file(&log("/other")), b"other\n");
}

#[tokio::test]
async fn each_consumer_reads_its_partitions() {
    let server = NatsServer::jetstream();
    let producer = table(&server.url(), json!({ "partitions": 2 }));
    let (mut sender, _) = sender(&producer).await;
    let hosts: Vec<_> = (0..20).map(|number| Origin::new(format!("host{number}"), "/log")).collect();
    for origin in &hosts {
        write(&mut *sender, origin, 0, origin.host()).await;
    }
    commit(&mut *sender).await;

    let mut seen = 0;
    for partition in 0..2 {
        let consumer = table(&server.url(), json!({ "partitions": 2, "read_partitions": [partition] }));
        let central = everything(&consumer).await;
        let read = hosts.iter().filter(|origin| central.file(origin) == origin.host()).count();
        assert!(read > 0 && read < hosts.len());
        seen += read;
    }
    assert_eq!(seen, hosts.len());

    // Another choice of partitions starts at the first message: the cursor is of other messages.
    let half = table(&server.url(), json!({ "partitions": 2, "read_partitions": [0] }));
    let central = everything(&half).await;
    let mut all = receiver(&producer, central.checkpoint.clone()).await;
    let mut both = central;
    while hosts.iter().any(|origin| both.file(origin) != origin.host()) {
        both.take(read(&mut *all).await.unwrap());
    }
}

#[tokio::test]
async fn thousands_of_small_messages_arrive_in_order() {
    let server = NatsServer::jetstream();
    let nats = table(&server.url(), json!({ "framing": "line" }));
    let text: String = (0..20_000).map(|number| format!("{number}\n")).collect();
    let (mut sender, _) = sender(&nats).await;
    let mut receiver = receiver(&nats, Checkpoint::default()).await;
    write(&mut *sender, &log("/log"), 0, text.clone()).await;
    let (origin, mut central) = (log("/log"), Central::default());
    tokio::join!(commit(&mut *sender), central.read_to(&mut *receiver, &origin, text.len()));
    assert_eq!(central.file(&origin), text.as_bytes());
}

#[tokio::test]
async fn messages_of_all_sizes_fill_every_window() {
    let server = NatsServer::jetstream();
    let nats = plain(&server);
    let (mut sender, _) = sender(&nats).await;
    let (mut start, mut expected) = (0, Vec::new());
    for number in 0..400 {
        let length = fastrand::Rng::with_seed(number).usize(1..200_000);
        let batch =
            Batch::data(log("/log"), crate::support::EPOCH, start, vec![b'a' + (number % 26) as u8; length]);
        (start, expected) = (batch.end(), [expected, batch.bytes().to_vec()].concat());
        sender.write(batch).await.unwrap();
        if number % 3 == 0 {
            commit(&mut *sender).await;
        }
    }
    commit(&mut *sender).await;
    let mut central = Central::default();
    let mut receiver = receiver(&nats, Checkpoint::default()).await;
    central.read_to(&mut *receiver, &log("/log"), expected.len()).await;
    assert!(central.file(&log("/log")) == expected);
}
