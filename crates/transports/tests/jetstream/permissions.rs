//! The least that each end needs, as the documentation gives it, and how a lack of it reads.

use fshipper_pipeline::{Batch, Checkpoint, Context, Ends, Origin, Progress, Transport, Written, testing};
use fshipper_testing::{DEADLINE, NatsOptions, NatsServer};
use serde_json::json;

use crate::floor::{self, make_floor_stream};
use crate::support::{
    Central, EPOCH, commit, context, log, make_stream, messages, read, sender, sender_in, settings, table,
    text, write,
};

/// What a producer on `web1.example.net` may do, and nothing else.
const PRODUCER_PUBLISH: &str = r#"[
    "shipper.web1.example.net.*",
    "$JS.API.STREAM.INFO.LOGS",
    "$JS.API.CONSUMER.CREATE.LOGS.*.shipper.web1.example.net.*",
    "$JS.API.CONSUMER.MSG.NEXT.LOGS.*",
    "$JS.API.DIRECT.GET.LOGS.shipper.web1.example.net.*"
]"#;

/// What a consumer may do, and nothing else.
const CONSUMER_PUBLISH: &str = r#"[
    "$JS.API.STREAM.INFO.LOGS",
    "$JS.API.CONSUMER.CREATE.LOGS.>",
    "$JS.API.CONSUMER.MSG.NEXT.LOGS.*",
    "$JS.API.DIRECT.GET.LOGS"
]"#;

/// What a producer needs besides for the commit floor.
const PRODUCER_FLOOR: &str = r#",
    "$JS.API.STREAM.INFO.LOGS_floor",
    "$JS.API.CONSUMER.CREATE.LOGS_floor.*.shipper-floor.web1.example.net.*",
    "$JS.API.CONSUMER.MSG.NEXT.LOGS_floor.*"
]"#;

/// And what it may hear.
const PRODUCER_SUBSCRIBE: &str = r#"["_INBOX.>", "shipper-floor.web1.example.net.*"]"#;

/// What a consumer needs besides for the commit floor.
const CONSUMER_FLOOR: &str = r#",
    "shipper-floor.>",
    "$JS.API.STREAM.INFO.LOGS_floor",
    "$JS.API.CONSUMER.CREATE.LOGS_floor.>",
    "$JS.API.CONSUMER.MSG.NEXT.LOGS_floor.*"
]"#;

/// What it needs to delete what is durable.
const PURGE: &str = r#", "$JS.API.STREAM.PURGE.LOGS" ]"#;

/// The set with more.
fn with(publish: &str, more: &str) -> String {
    format!("{}{more}", publish.trim_end().trim_end_matches(']').trim_end())
}

/// A server with an operator without a name, and the user `limited`.
fn server_for(publish: &str) -> NatsServer {
    server_with(publish, "\"_INBOX.>\"")
}

fn server_with(publish: &str, subscribe: &str) -> NatsServer {
    let config_extra = format!(
        "authorization {{ users: [\n\
         {{ user: operator, password: operator }},\n\
         {{ user: limited, password: limited, permissions: {{ publish: {publish}, subscribe: {subscribe} }} }}\n\
         ] }}\nno_auth_user: operator"
    );
    NatsServer::start(NatsOptions { jetstream: true, config_extra, ..NatsOptions::default() })
}

fn limited(server: &NatsServer) -> fshipper_transports::Nats {
    table(&server.url(), json!({ "stream": { "name": "LOGS" }, "user": "limited", "password": "limited" }))
}

#[tokio::test]
async fn a_producer_needs_no_more_than_its_own_subjects() {
    let server = server_for(PRODUCER_PUBLISH);
    make_stream(&server, |_| {}).await;
    let nats = limited(&server);
    for start in [0, 4] {
        let (mut sender, restored) = sender(&nats).await;
        assert_eq!(restored.position(&log("/log")).map_or(0, |position| position.offset), start);
        write(&mut *sender, &log("/log"), start, "one\n").await;
        commit(&mut *sender).await;
    }
    // What it asks when an acknowledgement is lost.
    let (mut late, _) = sender(&nats).await;
    let (mut other, _) = sender(&nats).await;
    for sender in [&mut other, &mut late] {
        write(&mut **sender, &log("/log"), 8, "two\n").await;
        commit(&mut **sender).await;
    }
    assert_eq!(messages(&server).await, 3);
}

#[tokio::test]
async fn a_consumer_needs_no_right_to_write() {
    let server = server_for(CONSUMER_PUBLISH);
    make_stream(&server, |config| config.subjects.push("other".to_owned())).await;
    crate::support::publish(&table(&server.url(), json!({})), &log("/log"), "one\n").await;
    let nats = limited(&server);
    let mut central = Central::default();
    // Twice: the second time it looks at the message of its cursor.
    for _ in 0..2 {
        let mut receiver = nats.open_receiver(central.checkpoint.clone(), context(true)).await.unwrap();
        while let Some(batch) = read(&mut *receiver).await {
            central.take(batch);
        }
    }
    assert_eq!((central.file(&log("/log")), central.batches), (&b"one\n"[..], 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_may_tells_its_floor() {
    let server = server_for(&with(CONSUMER_PUBLISH, CONSUMER_FLOOR));
    make_stream(&server, |_| {}).await;
    make_floor_stream(&server).await;
    let context = context(false);
    let position = floor::position(4);
    let mut from = Checkpoint::default();
    from.set_position(&log("/told before"), position.clone());
    let nats = limited(&server);
    // Twice: the second time it compares.
    for end in [4, 8] {
        let context = Context { progress: Progress::default(), ..context.clone() };
        let receiver = nats.open_receiver(from.clone(), context.clone()).await.unwrap();
        testing::commit(&context, &log("/log"), floor::position(end));
        floor::wait_for(&server, &log("/log"), end).await;
        floor::wait_for(&server, &log("/told before"), 4).await;
        drop(receiver);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_that_may_hears_the_floor() {
    let server = server_with(&with(PRODUCER_PUBLISH, PRODUCER_FLOOR), PRODUCER_SUBSCRIBE);
    make_stream(&server, |_| {}).await;
    make_floor_stream(&server).await;
    floor::tell(&server, &log("/log"), 4).await;
    let context = context(false);
    let (mut sender, restored) = sender_in(&limited(&server), context.clone()).await;
    assert_eq!(restored.position(&log("/log")), Some(&floor::position(4)), "the stream has nothing of it");
    write(&mut *sender, &log("/log"), 4, "two\n").await;
    commit(&mut *sender).await;
    let mut floors = context.progress.follow_floors();
    floor::tell(&server, &log("/log"), 8).await;
    let heard = tokio::time::timeout(DEADLINE, floors.changed(1)).await.expect("it is heard in time");
    assert_eq!(heard, [(log("/log"), floor::position(8))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_may_purges_what_is_durable() {
    let server = server_for(&with(&with(CONSUMER_PUBLISH, CONSUMER_FLOOR), PURGE));
    make_stream(&server, |_| {}).await;
    make_floor_stream(&server).await;
    let operator = table(&server.url(), json!({}));
    let (mut sender, _) = sender(&operator).await;
    for (start, text) in [(0, "one\n"), (4, "two\n"), (8, "three\n")] {
        // Of places of their own, so that each is read as a batch of its own.
        let batch = Batch { place: text.into(), ..Batch::data(log("/log"), EPOCH, start, text) };
        assert_eq!(sender.write(batch).await.unwrap(), Written::Accepted);
        commit(&mut *sender).await;
    }
    let stream = json!({ "name": "LOGS", "purge": true });
    let nats = table(&server.url(), json!({ "stream": stream, "user": "limited", "password": "limited" }));
    let context = context(false);
    let mut receiver = nats.open_receiver(Checkpoint::default(), context.clone()).await.unwrap();
    let mut checkpoint = Checkpoint::default();
    // The third is not even read.
    for _ in 0..2 {
        let batch = read(&mut *receiver).await.unwrap();
        checkpoint.advance(&batch);
        if let Some(cursor) = &batch.cursor {
            checkpoint.set_cursor(cursor);
        }
    }
    testing::commit_all(&context, &mut checkpoint);
    floor::wait_for(&server, &log("/log"), 8).await;
    floor::eventually("what is durable is purged", async || messages(&server).await == 2).await;
}

#[tokio::test]
async fn a_log_that_may_not_be_published_is_held_and_named() {
    let server = server_for(PRODUCER_PUBLISH);
    make_stream(&server, |_| {}).await;
    let nats = limited(&server);
    let (mut sender, _) = sender(&nats).await;
    let foreign = Origin::new("web2", "/log");
    write(&mut *sender, &foreign, 0, "not mine\n").await;
    write(&mut *sender, &log("/log"), 0, "mine\n").await;
    commit(&mut *sender).await;
    let held = sender.held();
    assert_eq!(held.len(), 1);
    assert_eq!(held[0].0, foreign);
    assert!(held[0].1.contains("Permissions Violation") && held[0].1.contains("shipper.web2"), "{held:?}");
    let again = sender.write(Batch::data(foreign, EPOCH, 0, "again\n")).await.unwrap();
    assert!(matches!(again, Written::Held(_)));
    assert_eq!(messages(&server).await, 1);
}

#[tokio::test]
async fn a_forbidden_inbox_is_an_error_that_names_it() {
    let config_extra = "authorization { users: [\n\
         { user: operator, password: operator },\n\
         { user: limited, password: limited, permissions: { subscribe: \"_INBOX_own.>\" } }\n\
         ] }\nno_auth_user: operator";
    let options =
        NatsOptions { jetstream: true, config_extra: config_extra.to_owned(), ..NatsOptions::default() };
    let server = NatsServer::start(options);
    make_stream(&server, |_| {}).await;
    let error = text(limited(&server).open_sender(context(false)).await);
    assert!(error.contains("Permissions Violation for Subscription to \"_INBOX."), "{error}");
}

#[tokio::test]
async fn a_consumer_that_may_not_ask_for_messages_names_the_subject() {
    let server = server_for(&CONSUMER_PUBLISH.replace("MSG.NEXT", "MSG.OTHER"));
    make_stream(&server, |_| {}).await;
    let nats = limited(&server);
    let mut receiver = nats.open_receiver(Checkpoint::default(), context(false)).await.unwrap();
    let error = text(receiver.read().await);
    assert!(error.contains("Permissions Violation") && error.contains("CONSUMER.MSG.NEXT.LOGS"), "{error}");
}

#[tokio::test]
async fn a_check_finds_what_is_forbidden() {
    let server =
        server_for(&PRODUCER_PUBLISH.replace(
            "shipper.web1.example.net.*\",\n    \"$JS.API.STREAM",
            "nothing\",\n    \"$JS.API.STREAM",
        ));
    make_stream(&server, |_| {}).await;
    let error = text(limited(&server).probe(Ends::Sender, settings(1_000_000)).await);
    assert!(error.contains("cannot publish to `shipper.web1.example.net.fshipper-check-"), "{error}");
    let allowed = server_for(PRODUCER_PUBLISH);
    make_stream(&allowed, |_| {}).await;
    limited(&allowed).probe(Ends::Sender, settings(1_000_000)).await.unwrap();
}

#[tokio::test]
async fn a_forbidden_request_is_an_error_that_names_its_subject() {
    let server = server_for(r#"["nothing"]"#);
    make_stream(&server, |_| {}).await;
    let nats = limited(&server);
    let error = text(nats.open_sender(context(false)).await);
    assert!(error.contains("Permissions Violation") && error.contains("$JS.API.STREAM.INFO.LOGS"), "{error}");
    let error = text(nats.open_receiver(Checkpoint::default(), context(false)).await);
    assert!(error.contains("$JS.API.STREAM.INFO.LOGS"), "{error}");
}
