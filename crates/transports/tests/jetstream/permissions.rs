//! The least that each end needs, as the documentation gives it, and how a lack of it reads.

use fshipper_pipeline::{Batch, Checkpoint, Ends, Origin, Transport, Written};
use fshipper_testing::{NatsOptions, NatsServer};
use serde_json::json;

use crate::support::{
    Central, EPOCH, commit, context, log, make_stream, messages, read, sender, settings, table, text, write,
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

/// A server with an operator without a name, and the user `limited`.
fn server_for(publish: &str) -> NatsServer {
    let config_extra = format!(
        "authorization {{ users: [\n\
         {{ user: operator, password: operator }},\n\
         {{ user: limited, password: limited, permissions: {{ publish: {publish}, subscribe: \"_INBOX.>\" }} }}\n\
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
