//! The sending end: what it restores, and that the stream holds every log once and in order.

use std::time::Duration;

use bytes::Bytes;
use fshipper_pipeline::{Batch, Checkpoint, Content, Epoch, Origin, Sink, Transport, Written};
use fshipper_testing::{NatsOptions, NatsServer, Proxy};
use serde_json::json;

use crate::support::{
    Central, EPOCH, commit, context, everything, lines, log, make_stream, messages, operator, pieces, plain,
    publish, read, receiver, sender, sender_in, settings, table, text, write,
};

#[tokio::test]
async fn bytes_come_out_as_they_went_in() {
    let server = NatsServer::jetstream();
    let nats = plain(&server);
    let texts: [&[u8]; 5] = [b"one\ntwo\n", b"\n", b"no end", b"\xff\x00\r\n", b"x"];
    for (number, bytes) in texts.iter().enumerate() {
        publish(&nats, &log(&format!("/var/log/{number}")), *bytes).await;
    }
    let central = everything(&nats).await;
    for (number, bytes) in texts.iter().enumerate() {
        assert_eq!(central.file(&log(&format!("/var/log/{number}"))), *bytes);
    }
}

#[tokio::test]
async fn a_new_sender_restores_where_every_log_ends() {
    let server = NatsServer::jetstream();
    let nats = plain(&server);
    let (mut first, nothing) = sender(&nats).await;
    assert!(nothing.is_empty());
    for number in 0..300 {
        let mut batch = Batch::data(log(&format!("/log/{number}")), EPOCH, 0, format!("line {number}\n"));
        batch.place = Bytes::from(format!("place {number}"));
        assert_eq!(first.write(batch).await.unwrap(), Written::Accepted);
    }
    write(&mut *first, &Origin::new("other", "/log"), 0, "not ours\n").await;
    commit(&mut *first).await;
    drop(first);

    let (mut second, restored) = sender(&nats).await;
    assert_eq!(restored.len(), 300);
    assert!(!restored.changed());
    let position = restored.position(&log("/log/42")).unwrap();
    assert_eq!((position.epoch, position.offset, &position.place[..]), (EPOCH, 8, &b"place 42"[..]));

    write(&mut *second, &log("/log/42"), 8, "more\n").await;
    commit(&mut *second).await;
    assert_eq!(everything(&nats).await.file(&log("/log/42")), b"line 42\nmore\n");
}

#[tokio::test]
async fn a_deep_backlog_arrives_byte_for_byte() {
    let server = NatsServer::jetstream();
    let nats = plain(&server);
    let bytes = lines(20 << 20);
    let (mut sender, _) = sender(&nats).await;
    let mut receiver = receiver(&nats, Checkpoint::default()).await;
    let mut central = Central::default();
    let send = async {
        for (start, piece) in pieces(&bytes, 300_000) {
            write(&mut *sender, &log("/log"), start, piece).await;
        }
        commit(&mut *sender).await;
    };
    let (origin, length) = (log("/log"), bytes.len());
    tokio::join!(send, central.read_to(&mut *receiver, &origin, length));
    assert!(central.file(&log("/log")) == bytes);
}

#[tokio::test]
async fn many_logs_share_one_sender() {
    let server = NatsServer::jetstream();
    let nats = plain(&server);
    let (mut sender, _) = sender(&nats).await;
    for round in 0..20 {
        for number in 0..100 {
            write(&mut *sender, &log(&format!("/log/{number}")), round * 10, format!("{round:09}\n")).await;
        }
    }
    commit(&mut *sender).await;
    let central = everything(&nats).await;
    let expected: String = (0..20).map(|round| format!("{round:09}\n")).collect();
    for number in 0..100 {
        assert_eq!(central.file(&log(&format!("/log/{number}"))), expected.as_bytes());
    }
    assert!(messages(&server).await < 2000, "what waits behind a publish goes out together");
}

#[tokio::test]
async fn a_copy_of_what_the_stream_has_is_not_stored_again() {
    let server = NatsServer::jetstream();
    let nats = plain(&server);
    let (mut late, _) = sender(&nats).await;
    publish(&nats, &log("/log"), "one\n").await;

    // What a lost acknowledgement looks like: the stream has it, and the sender does not know.
    write(&mut *late, &log("/log"), 0, "one\n").await;
    commit(&mut *late).await;
    assert_eq!(messages(&server).await, 1);
    write(&mut *late, &log("/log"), 4, "two\n").await;
    commit(&mut *late).await;
    assert_eq!(everything(&nats).await.file(&log("/log")), b"one\ntwo\n");
}

#[tokio::test]
async fn of_a_batch_that_the_stream_has_in_part_only_the_rest_is_stored() {
    let server = NatsServer::jetstream();
    let nats = plain(&server);
    publish(&nats, &log("/log"), "one\n").await;
    let (mut late, _) = sender(&nats).await;
    publish_after(&nats, 4, "two\n").await;
    write(&mut *late, &log("/log"), 4, "two\nthree\n").await;
    commit(&mut *late).await;
    assert_eq!(messages(&server).await, 3);
    assert_eq!(everything(&nats).await.file(&log("/log")), b"one\ntwo\nthree\n");
}

/// Publishes from another sender.
async fn publish_after(nats: &fshipper_transports::Nats, start: u64, bytes: &str) {
    let (mut other, _) = sender(nats).await;
    write(&mut *other, &log("/log"), start, bytes).await;
    commit(&mut *other).await;
}

#[tokio::test]
async fn two_senders_of_one_log_leave_it_contiguous() {
    let server = NatsServer::jetstream();
    let nats = plain(&server);
    let bytes = lines(2 << 20);
    let (mut one, _) = sender(&nats).await;
    let (mut two, _) = sender(&nats).await;
    let origin = log("/log");
    let ship = async |sender: &mut dyn Sink, length: usize| {
        for (start, piece) in pieces(&bytes, length) {
            write(sender, &origin, start, piece).await;
        }
        commit(sender).await;
    };
    tokio::join!(ship(&mut *one, 10_000), ship(&mut *two, 7_000));
    let central = everything(&nats).await;
    assert!(central.file(&origin) == bytes);
    assert_eq!(central.losses, Vec::<String>::new());
}

#[tokio::test]
async fn a_second_epoch_in_the_middle_is_refused_and_named() {
    let server = NatsServer::jetstream();
    let nats = plain(&server);
    publish(&nats, &log("/log"), "one\n").await;
    let (mut ours, _) = sender(&nats).await;
    let (mut theirs, _) = sender(&nats).await;
    let other = Batch::data(log("/log"), Epoch(0x9999), 0, "theirs\n");
    theirs.write(other).await.unwrap();
    commit(&mut *theirs).await;

    write(&mut *ours, &log("/log"), 4, "two\n").await;
    let error = text(ours.commit(&Checkpoint::default()).await);
    assert!(error.contains("0000000000001234") && error.contains("0000000000009999"), "{error}");
    assert_eq!(messages(&server).await, 2);
}

/// Neither knew of the log when it restored.
#[tokio::test]
async fn of_two_epochs_that_begin_one_log_the_second_is_refused_and_named() {
    let server = NatsServer::jetstream();
    let nats = plain(&server);
    let (mut ours, _) = sender(&nats).await;
    let (mut theirs, _) = sender(&nats).await;
    let other = Batch::data(log("/log"), Epoch(0x9999), 0, "one\n");
    theirs.write(other).await.unwrap();
    commit(&mut *theirs).await;

    write(&mut *ours, &log("/log"), 0, "one\n").await;
    let error = text(ours.commit(&Checkpoint::default()).await);
    assert!(error.contains("0000000000001234") && error.contains("0000000000009999"), "{error}");
    assert_eq!(messages(&server).await, 1);
}

/// What waits goes out together, over the boundaries of files, and comes apart again.
#[tokio::test]
async fn every_message_has_the_place_of_the_batch_in_which_it_ends() {
    for framing in ["line", "batch"] {
        let options = NatsOptions {
            jetstream: true,
            config_extra: "max_payload: 4KB".into(),
            ..NatsOptions::default()
        };
        let server = NatsServer::start(options);
        let nats = table(&server.url(), json!({ "framing": framing }));
        let (mut sender, _) = sender(&nats).await;
        let (mut start, mut ends) = (0, Vec::new());
        for number in 0..20 {
            let text = "a line of some length\n".repeat(1 + number * 37 % 300);
            let mut batch = Batch::data(log("/log"), EPOCH, start, text);
            batch.place = format!("place {number}").into();
            (start, _) = (batch.end(), ends.push((batch.end(), batch.place.clone())));
            assert_eq!(sender.write(batch).await.unwrap(), Written::Accepted);
        }
        commit(&mut *sender).await;
        let mut receiver = nats.open_receiver(Checkpoint::default(), context(true)).await.unwrap();
        while let Some(batch) = receiver.read().await.unwrap() {
            let (_, place) = ends.iter().find(|(end, _)| *end >= batch.end()).unwrap();
            assert_eq!(batch.place, place, "{framing}: {} to {}", batch.start, batch.end());
        }
    }
}

#[tokio::test]
async fn a_new_epoch_follows_the_old_one() {
    let server = NatsServer::jetstream();
    let nats = plain(&server);
    publish(&nats, &log("/log"), "one\n").await;
    let (mut sender, _) = sender(&nats).await;
    sender.write(Batch::data(log("/log"), Epoch(7), 0, "two\n")).await.unwrap();
    commit(&mut *sender).await;
    let central = everything(&nats).await;
    assert_eq!(central.file(&log("/log")), b"one\ntwo\n");
    assert_eq!(central.checkpoint.history(&log("/log")).unwrap().earlier, [(EPOCH, 4)]);
}

#[tokio::test]
async fn a_batch_beyond_the_end_of_the_stream_is_never_published() {
    let server = NatsServer::jetstream();
    let nats = plain(&server);
    publish(&nats, &log("/log"), "one\n").await;
    let (mut sender, _) = sender(&nats).await;
    write(&mut *sender, &log("/log"), 5, "two\n").await;
    let error = text(sender.commit(&Checkpoint::default()).await);
    assert!(error.contains("bytes are missing"), "{error}");
    assert_eq!(messages(&server).await, 1);
}

#[tokio::test]
async fn the_record_of_a_loss_travels_with_its_reason() {
    let server = NatsServer::jetstream();
    let nats = plain(&server);
    let (mut sender, _) = sender(&nats).await;
    write(&mut *sender, &log("/log"), 0, "one\n").await;
    for (missing, start) in [(10, 4), (0, 14)] {
        sender
            .write(Batch::loss(log("/log"), EPOCH, start, missing, "overwritten before it was read"))
            .await
            .unwrap();
    }
    write(&mut *sender, &log("/log"), 14, "two\n").await;
    commit(&mut *sender).await;
    let central = everything(&nats).await;
    assert_eq!(central.file(&log("/log")), b"one\ntwo\n");
    assert_eq!(central.losses, ["10 overwritten before it was read", "0 overwritten before it was read"]);
}

#[tokio::test]
async fn a_batch_larger_than_a_message_is_split_at_line_ends_or_within_a_line() {
    let options = NatsOptions {
        jetstream: true,
        config_extra: "max_payload: 64KB".to_owned(),
        ..NatsOptions::default()
    };
    let server = NatsServer::start(options);
    let nats = plain(&server);
    let bytes = [lines(300_000), vec![b'x'; 200_000], b"\nend\n".to_vec()].concat();
    publish(&nats, &log("/log"), bytes.clone()).await;
    let mut receiver = receiver(&nats, Checkpoint::default()).await;
    let first = read(&mut *receiver).await.unwrap();
    assert!(first.bytes().ends_with(b"\n") && first.bytes().len() > 60_000);
    assert!(everything(&nats).await.file(&log("/log")) == bytes);
}

#[tokio::test]
async fn the_limit_of_the_stream_counts_as_well() {
    let server = NatsServer::jetstream();
    make_stream(&server, |config| config.max_message_size = 10_000).await;
    let nats = plain(&server);
    let bytes = lines(100_000);
    publish(&nats, &log("/log"), bytes.clone()).await;
    assert!(everything(&nats).await.file(&log("/log")) == bytes);
}

#[tokio::test]
async fn a_limit_that_leaves_no_room_holds_the_log_alone() {
    let server = NatsServer::jetstream();
    make_stream(&server, |config| config.max_message_size = 600).await;
    let nats = plain(&server);
    let (mut sender, _) = sender(&nats).await;
    let long = log(&format!("/{}", "long/".repeat(100)));
    write(&mut *sender, &long, 0, "lost in its header\n").await;
    write(&mut *sender, &log("/log"), 0, "one\n").await;
    commit(&mut *sender).await;
    let held = sender.held();
    assert_eq!(held.len(), 1);
    assert!(held[0].0 == long && held[0].1.contains("max_msg_size"), "{held:?}");
    assert_eq!(sender.held(), []);

    let again = sender.write(Batch::data(long.clone(), EPOCH, 0, "again\n")).await.unwrap();
    assert!(matches!(again, Written::Held(_)));
    assert_eq!(everything(&nats).await.file(&log("/log")), b"one\n");
}

#[tokio::test]
async fn a_line_per_message_goes_in_atomic_batches() {
    let server = NatsServer::jetstream();
    let nats = table(&server.url(), json!({ "framing": "line" }));
    let text: String = (0..2500).map(|number| format!("line {number}\n")).collect();
    publish(&nats, &log("/log"), text.clone()).await;
    assert_eq!(messages(&server).await, 2500);
    let central = everything(&nats).await;
    assert_eq!(central.file(&log("/log")), text.as_bytes());
    assert!(central.batches < 2500, "what waits becomes one batch");

    let stream = operator(&server).await.get_stream("LOGS").await.unwrap();
    let last = stream.get_raw_message(1000).await.unwrap();
    assert_eq!((last.payload, &last.subject[..16]), (Bytes::from("line 999"), "shipper.web1.exa"));
    assert!(last.headers.get("Nats-Batch-Commit").is_some());
}

#[tokio::test]
async fn lines_go_one_by_one_into_a_stream_without_atomic_batches() {
    let server = NatsServer::jetstream();
    make_stream(&server, |_| {}).await;
    let nats = table(&server.url(), json!({ "framing": "line" }));
    publish(&nats, &log("/log"), "one\n\ntwo\nend").await;
    assert_eq!(messages(&server).await, 4);
    assert_eq!(everything(&nats).await.file(&log("/log")), b"one\n\ntwo\nend");
}

#[tokio::test]
async fn an_atomic_batch_that_is_there_already_is_not_stored_again() {
    let server = NatsServer::jetstream();
    let nats = table(&server.url(), json!({ "framing": "line" }));
    let (mut late, _) = sender(&nats).await;
    let text: String = (0..100).map(|number| format!("line {number}\n")).collect();
    publish(&nats, &log("/log"), &text.as_bytes()[..700]).await;
    write(&mut *late, &log("/log"), 0, text.clone()).await;
    commit(&mut *late).await;
    let central = everything(&nats).await;
    assert_eq!(central.file(&log("/log")), text.as_bytes());
    assert_eq!(central.losses, Vec::<String>::new());
}

#[tokio::test]
async fn more_atomic_batches_than_a_stream_allows_all_arrive() {
    let server = NatsServer::jetstream();
    let nats = table(&server.url(), json!({ "framing": "line" }));
    let mut senders = Vec::new();
    for _ in 0..5 {
        senders.push(sender(&nats).await.0);
    }
    let text: String = (0..300).map(|number| format!("line {number}\n")).collect();
    let ship = async |number: usize, sender: &mut dyn Sink| {
        for log_number in 0..16 {
            write(sender, &log(&format!("/{number}/{log_number}")), 0, text.clone()).await;
        }
        commit(sender).await;
    };
    let shipping = senders.iter_mut().enumerate().map(|(number, sender)| ship(number, &mut **sender));
    futures::future::join_all(shipping).await;
    let central = everything(&nats).await;
    for number in 0..5 {
        for log_number in 0..16 {
            assert_eq!(central.file(&log(&format!("/{number}/{log_number}"))), text.as_bytes());
        }
    }
}

#[tokio::test]
async fn compressed_batches_come_out_as_they_went_in() {
    let server = NatsServer::jetstream();
    let nats = table(&server.url(), json!({ "compression": "zstd" }));
    let bytes = lines(900_000);
    publish(&nats, &log("/log"), bytes.clone()).await;
    let stream = operator(&server).await.get_stream("LOGS").await.unwrap();
    assert!(stream.cached_info().state.bytes < 200_000);
    assert!(everything(&nats).await.file(&log("/log")) == bytes);
}

#[tokio::test]
async fn a_change_of_the_number_of_partitions_loses_no_position() {
    let server = NatsServer::jetstream();
    let four = table(&server.url(), json!({ "partitions": 4 }));
    let eight = table(&server.url(), json!({ "partitions": 7 }));
    publish(&four, &log("/log"), "one\n").await;
    let (mut sender, restored) = sender(&eight).await;
    assert_eq!(restored.position(&log("/log")).unwrap().offset, 4);
    write(&mut *sender, &log("/log"), 4, "two\n").await;
    commit(&mut *sender).await;
    drop(sender);

    let (mut back, restored) = crate::support::sender(&four).await;
    assert_eq!(restored.position(&log("/log")).unwrap().offset, 8);
    write(&mut *back, &log("/log"), 8, "three\n").await;
    commit(&mut *back).await;
    // Seven partitions hold the subjects of four as well.
    assert_eq!(everything(&eight).await.file(&log("/log")), b"one\ntwo\nthree\n");
}

#[tokio::test]
async fn another_publishers_message_on_our_subject_hides_no_position() {
    let server = NatsServer::jetstream();
    let nats = plain(&server);
    publish(&nats, &log("/log"), "one\n").await;
    let operator = operator(&server).await;
    let stream = operator.get_stream("LOGS").await.unwrap();
    let subject = stream.get_raw_message(1).await.unwrap().subject;
    operator.publish(subject, "somebody else's".into()).await.unwrap().await.unwrap();

    let (mut sender, restored) = sender(&nats).await;
    assert_eq!(restored.position(&log("/log")).unwrap().offset, 4);
    write(&mut *sender, &log("/log"), 4, "two\n").await;
    commit(&mut *sender).await;
    assert_eq!(everything(&nats).await.file(&log("/log")), b"one\ntwo\n");
}

#[tokio::test]
async fn a_log_whose_messages_retention_took_goes_on_at_its_end() {
    let server = NatsServer::jetstream();
    let nats = plain(&server);
    let (mut sender, _) = sender(&nats).await;
    write(&mut *sender, &log("/log"), 0, "one\n").await;
    commit(&mut *sender).await;
    operator(&server).await.get_stream("LOGS").await.unwrap().purge().await.unwrap();
    write(&mut *sender, &log("/log"), 4, "two\n").await;
    commit(&mut *sender).await;
    let mut receiver = receiver(&nats, Checkpoint::default()).await;
    let batch = read(&mut *receiver).await.unwrap();
    assert_eq!((batch.start, batch.content), (4, Content::Data("two\n".into())));
}

#[tokio::test]
async fn nothing_is_longer_than_a_batch_may_be() {
    let server = NatsServer::jetstream();
    let nats = plain(&server);
    let mut context = context(false);
    context.settings = settings(1000);
    let (mut sender, _) = sender_in(&nats, context.clone()).await;
    for number in 0..100 {
        write(&mut *sender, &log("/log"), number * 100, vec![b'x'; 100]).await;
    }
    commit(&mut *sender).await;
    write(&mut *sender, &log("/log"), 10_000, vec![b'y'; 5_000]).await;
    commit(&mut *sender).await;

    let mut receiver = nats.open_receiver(Checkpoint::default(), context).await.unwrap();
    let mut central = Central::default();
    while central.file(&log("/log")).len() < 15_000 {
        let batch = read(&mut *receiver).await.unwrap();
        assert!(batch.bytes().len() <= 1000);
        central.take(batch);
    }
}

#[tokio::test]
async fn messages_to_a_server_far_away_share_round_trips() {
    let server = NatsServer::jetstream();
    // One that knows no fast batches.
    make_stream(&server, |config| config.allow_atomic_publish = true).await;
    let proxy = Proxy::start(server.address()).await;
    proxy.slow(u32::MAX, Duration::from_millis(5));
    let mut context = context(false);
    context.settings = settings(1000);
    let far = table(&proxy.url(), json!({}));
    let (mut sender, _) = sender_in(&far, context).await;
    let (line, mut text) = ("x".repeat(499) + "\n", String::new());
    for _ in 0..200 {
        write(&mut *sender, &log("/log"), text.len() as u64, line.clone()).await;
        text += &line;
    }
    commit(&mut *sender).await;
    assert!(messages(&server).await >= 100, "no message is longer than a batch may be");
    let last = operator(&server).await.get_stream("LOGS").await.unwrap();
    let last = last.get_last_raw_message_by_subject("shipper.>").await.unwrap();
    assert!(last.headers.get("Nats-Batch-Commit").is_some());
    assert_eq!(everything(&plain(&server)).await.file(&log("/log")), text.as_bytes());
}
