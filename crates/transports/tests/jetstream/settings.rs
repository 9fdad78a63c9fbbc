//! The stream: what is created, what is refused, and how that reads.

use async_nats::jetstream::stream::{Config, DiscardPolicy, PersistenceMode, RetentionPolicy, StorageType};
use fshipper_pipeline::{Ends, Transport};
use fshipper_testing::{NatsOptions, NatsServer};
use serde_json::json;

use crate::support::{
    commit, context, everything, log, make_stream, messages, operator, plain, publish, sender, settings,
    table, text, write,
};

/// What a sender says of the stream that `change` makes.
async fn refusal(change: impl FnOnce(&mut Config)) -> String {
    let server = NatsServer::jetstream();
    make_stream(&server, change).await;
    text(plain(&server).open_sender(context(false)).await)
}

#[tokio::test]
async fn a_missing_stream_is_created_as_asked() {
    let server = NatsServer::jetstream();
    let stream = json!({
        "name": "LOGS", "create": true, "storage": "memory", "max_age": "1h", "max_bytes": "1MiB",
    });
    let nats = table(&server.url(), json!({ "stream": stream, "framing": "line" }));
    drop(nats.open_sender(context(false)).await.unwrap());
    let stream = operator(&server).await.get_stream("LOGS").await.unwrap();
    let config = &stream.cached_info().config;
    assert_eq!(config.subjects, ["shipper", "shipper.>"]);
    assert_eq!(config.retention, RetentionPolicy::Limits);
    assert_eq!(config.discard, DiscardPolicy::New);
    assert_eq!(config.storage, StorageType::Memory);
    assert_eq!((config.max_age.as_secs(), config.max_bytes), (3600, 1 << 20));
    assert!(config.allow_direct && config.allow_atomic_publish && config.allow_batch_publish);
}

#[tokio::test]
async fn a_consumer_creates_it_as_well() {
    let server = NatsServer::jetstream();
    drop(plain(&server).open_receiver(Default::default(), context(false)).await.unwrap());
    publish(&plain(&server), &log("/log"), "one\n").await;
    assert_eq!(everything(&plain(&server)).await.file(&log("/log")), b"one\n");
}

#[tokio::test]
async fn a_missing_stream_is_an_error_that_says_how_to_get_one() {
    let server = NatsServer::jetstream();
    let nats = table(&server.url(), json!({ "stream": { "name": "LOGS" } }));
    let error = text(nats.open_sender(context(false)).await);
    assert!(error.contains("no stream `LOGS`") && error.contains("`create = true`"), "{error}");
    let error = text(nats.open_receiver(Default::default(), context(false)).await);
    assert!(error.contains("no stream `LOGS`"), "{error}");
}

#[tokio::test]
async fn a_server_without_jetstream_is_an_error_that_says_so() {
    let server = NatsServer::core();
    let error = text(plain(&server).open_sender(context(false)).await);
    assert!(error.contains("JetStream is not enabled") && error.contains("`-js`"), "{error}");
}

#[tokio::test]
async fn an_account_without_jetstream_is_an_error_that_says_so() {
    let accounts = "accounts { A: { users: [ { user: a, password: a } ] } }".to_owned();
    let server =
        NatsServer::start(NatsOptions { jetstream: true, config_extra: accounts, ..NatsOptions::default() });
    let nats = table(&server.url(), json!({ "user": "a", "password": "a" }));
    let error = text(nats.open_sender(context(false)).await);
    assert!(error.contains("JetStream not enabled for account"), "{error}");
}

#[tokio::test]
async fn more_bytes_than_the_account_has_is_an_error_that_names_both() {
    let accounts = "accounts { A: { jetstream: { max_file: 1MB }, users: [ { user: a, password: a } ] } }";
    let options =
        NatsOptions { jetstream: true, config_extra: accounts.to_owned(), ..NatsOptions::default() };
    let server = NatsServer::start(options);
    let stream = json!({ "name": "LOGS", "create": true, "max_bytes": "10GB" });
    let nats = table(&server.url(), json!({ "stream": stream, "user": "a", "password": "a" }));
    let error = text(nats.open_sender(context(false)).await);
    assert!(error.contains("10000000000 bytes") && error.contains("1048576 bytes"), "{error}");
}

#[tokio::test]
async fn more_bytes_than_the_server_has_is_an_error_that_names_the_setting() {
    let options = NatsOptions {
        jetstream: true,
        jetstream_extra: "max_file_store: 1MB".to_owned(),
        ..NatsOptions::default()
    };
    let server = NatsServer::start(options);
    let stream = json!({ "name": "LOGS", "create": true, "max_bytes": "10GB" });
    let nats = table(&server.url(), json!({ "stream": stream }));
    let error = text(nats.open_sender(context(false)).await);
    assert!(error.contains("10000000000 bytes") && error.contains("`max_file_store`"), "{error}");
}

#[tokio::test]
async fn more_replicas_than_servers_is_the_servers_own_error() {
    let server = NatsServer::jetstream();
    let stream = json!({ "name": "LOGS", "create": true, "replicas": 3 });
    let error = text(table(&server.url(), json!({ "stream": stream })).open_sender(context(false)).await);
    assert!(error.contains("cannot create the stream `LOGS`") && error.contains("replicas > 1"), "{error}");
}

#[tokio::test]
async fn streams_that_delivery_cannot_rest_on_are_refused() {
    let error = refusal(|config| config.retention = RetentionPolicy::WorkQueue).await;
    assert!(error.contains("retention is `workqueue`"), "{error}");
    let error = refusal(|config| config.retention = RetentionPolicy::Interest).await;
    assert!(error.contains("retention is `interest`"), "{error}");
    let error = refusal(|config| config.no_ack = true).await;
    assert!(error.contains("`no_ack`"), "{error}");
    let error = refusal(|config| config.allow_direct = false).await;
    assert!(error.contains("--allow-direct"), "{error}");
    let error = refusal(|config| config.persist_mode = Some(PersistenceMode::Async)).await;
    assert!(error.contains("`persist_mode` is `async`"), "{error}");
    let error = refusal(|config| config.subjects = vec!["shipper.>".to_owned()]).await;
    assert!(error.contains("takes `shipper.>` and not `shipper`"), "{error}");
}

#[tokio::test]
async fn a_sealed_stream_can_be_read_and_not_written() {
    let server = NatsServer::jetstream();
    let nats = plain(&server);
    publish(&nats, &log("/log"), "one\n").await;
    let operator = operator(&server).await;
    let mut config = operator.get_stream("LOGS").await.unwrap().cached_info().config.clone();
    config.sealed = true;
    operator.update_stream(config).await.unwrap();
    let error = text(nats.open_sender(context(false)).await);
    assert!(error.contains("sealed"), "{error}");
    assert_eq!(everything(&nats).await.file(&log("/log")), b"one\n");
}

#[tokio::test]
async fn streams_that_may_lose_messages_by_design_are_used() {
    for change in [
        |config: &mut Config| config.discard = DiscardPolicy::Old,
        |config: &mut Config| config.max_messages_per_subject = 10,
        |config: &mut Config| config.subjects = vec![">".to_owned()],
        |config: &mut Config| config.storage = StorageType::Memory,
    ] {
        let server = NatsServer::jetstream();
        make_stream(&server, |config| {
            change(config);
            // A stream that takes every subject must not answer requests.
            config.subjects.retain(|subject| subject != ">");
            if config.subjects.is_empty() {
                config.subjects = vec!["*".to_owned(), "shipper.>".to_owned()];
            }
        })
        .await;
        publish(&plain(&server), &log("/log"), "one\n").await;
        assert_eq!(everything(&plain(&server)).await.file(&log("/log")), b"one\n");
    }
}

#[tokio::test]
async fn a_check_says_what_is_there() {
    let server = NatsServer::jetstream();
    let nats = plain(&server);
    let probe = async || nats.probe(Ends::Both, settings(1_000_000)).await.unwrap().join("\n");
    let before = probe().await;
    assert!(before.contains("stream `LOGS` does not exist and will be created"), "{before}");
    assert!(before.contains("stream `LOGS_floor` does not exist and will be created"), "{before}");
    publish(&nats, &log("/log"), "one\n").await;
    let after = probe().await;
    assert!(after.contains("messages: 1") && after.contains("logs of this host in it: 1"), "{after}");
    assert!(after.contains("may publish to `shipper.web1.example.net.*`"), "{after}");
    assert!(after.contains("messages that match `shipper`, `shipper.>`: 1"), "{after}");
    assert!(after.contains("commit floor: stream `LOGS_floor` knows 0 logs of this host"), "{after}");
    assert_eq!(messages(&server).await, 1, "nothing is stored");

    let stream = json!({ "name": "LOGS", "floor": false });
    let without = table(&server.url(), json!({ "stream": stream }));
    let without = without.probe(Ends::Both, settings(1_000_000)).await.unwrap().join("\n");
    assert!(without.contains("no commit floor: `floor = false`"), "{without}");
    operator(&server).await.delete_stream("LOGS_floor").await.unwrap();
    let stream = json!({ "name": "LOGS" });
    let missing = table(&server.url(), json!({ "stream": stream }));
    let missing = missing.probe(Ends::Both, settings(1_000_000)).await.unwrap().join("\n");
    assert!(
        missing.contains("no commit floor: there is no stream `LOGS_floor`: create it with"),
        "{missing}"
    );
}

#[tokio::test]
async fn a_log_that_has_all_the_messages_it_may_have_is_held_alone() {
    let server = NatsServer::jetstream();
    make_stream(&server, |config| {
        (config.max_messages_per_subject, config.discard_new_per_subject) = (2, true);
    })
    .await;
    let nats = plain(&server);
    let (mut sender, _) = sender(&nats).await;
    for (start, line) in [(0, "one\n"), (4, "two\n"), (8, "six\n")] {
        write(&mut *sender, &log("/full"), start, line).await;
        commit(&mut *sender).await;
    }
    let held = sender.held();
    let [(origin, reason)] = &held[..] else { panic!("{held:?}") };
    assert!(*origin == log("/full") && reason.contains("`discard_new_per_subject`"), "{held:?}");
    write(&mut *sender, &log("/other"), 0, "one\n").await;
    commit(&mut *sender).await;
    let central = everything(&nats).await;
    assert_eq!(
        (central.file(&log("/full")), central.file(&log("/other"))),
        (&b"one\ntwo\n"[..], &b"one\n"[..])
    );
}

#[tokio::test]
async fn a_server_that_takes_small_atomic_batches_gets_them() {
    let jetstream_extra = "limits { batch { max_msgs: 10 } }".to_owned();
    let server =
        NatsServer::start(NatsOptions { jetstream: true, jetstream_extra, ..NatsOptions::default() });
    let nats = table(&server.url(), json!({ "framing": "line" }));
    let bytes = "a line\n".repeat(1000).into_bytes();
    publish(&nats, &log("/log"), bytes.clone()).await;
    assert!(everything(&nats).await.file(&log("/log")) == bytes);
    let first = operator(&server).await.get_stream("LOGS").await.unwrap().get_raw_message(1).await.unwrap();
    let last = first.headers.get("Nats-Batch-Commit");
    assert!(last.is_none() && first.headers.get("Nats-Batch-Id").is_some(), "{:?}", first.headers);
}
