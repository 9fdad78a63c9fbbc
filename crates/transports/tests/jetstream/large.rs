//! Messages that take long, or more than a request for messages allows, or never come.

use std::time::Duration;

use fshipper_pipeline::{Checkpoint, Context, Origin, Transport};
use fshipper_testing::{DEADLINE, NatsOptions, NatsServer, Proxy};
use serde_json::json;

use crate::support::{
    Central, commit, context, everything, lines, log, operator, plain, publish, receiver, sender_in,
    settings, table, write,
};

#[tokio::test]
async fn messages_from_before_max_payload_was_lowered_are_read() {
    let large = "max_payload: 16MB\nwrite_deadline: \"60s\"";
    let options = NatsOptions { jetstream: true, config_extra: large.into(), ..NatsOptions::default() };
    let mut server = NatsServer::start(options);
    let nats = plain(&server);
    let bytes = lines(10 << 20);
    let large = Context { settings: settings(12 << 20), ..context(false) };
    let (mut sender, _) = sender_in(&nats, large).await;
    write(&mut *sender, &log("/log"), 0, &bytes[..]).await;
    commit(&mut *sender).await;
    drop(sender);
    let others = [lines(6 << 20), b"short".to_vec(), lines(2 << 20)];
    let operator = operator(&server).await;
    for payload in &others {
        operator.publish("shipper.web2.app", payload.clone().into()).await.unwrap().await.unwrap();
    }
    drop(operator);
    server.set_config_extra("max_payload: 100KB");
    server.restart();

    let others = [others.join(&b'\n'), b"\n".to_vec()].concat();
    let other = Origin::new("web2", "shipper.web2.app");
    let mut central = Central::default();
    let mut receiver = receiver(&nats, Checkpoint::default()).await;
    central.read_to(&mut *receiver, &log("/log"), bytes.len()).await;
    central.read_to(&mut *receiver, &other, others.len()).await;
    for central in [central, everything(&nats).await] {
        assert!(central.file(&log("/log")) == bytes && central.file(&other) == others);
        assert_eq!(central.losses, Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_takes_long_over_a_slow_line_arrives() {
    let server = NatsServer::jetstream();
    let proxy = Proxy::start(server.address()).await;
    let bytes = lines(800_000);
    publish(&plain(&server), &log("/log"), &bytes[..]).await;
    let nats = table(&proxy.url(), json!({}));
    proxy.slow(40_000, Duration::ZERO);
    let mut receiver = receiver(&nats, Checkpoint::default()).await;
    let mut central = Central::default();
    central.read_to(&mut *receiver, &log("/log"), bytes.len()).await;
    assert!(central.file(&log("/log")) == bytes);
}

/// What the receiver makes of a server that cannot read the middle of its store.
#[tokio::test]
async fn messages_that_the_server_cannot_read_are_no_end() {
    let mut server = NatsServer::jetstream();
    let nats = plain(&server);
    drop(receiver(&nats, Checkpoint::default()).await);
    let operator = operator(&server).await;
    for _ in 0..20 {
        operator.publish("shipper.web2.app", lines(1_000_000).into()).await.unwrap().await.unwrap();
    }
    drop(operator);
    server.stop();
    server.restart();
    remove_block(&server, "2.blk");

    let mut receiver = nats.open_receiver(Checkpoint::default(), context(true)).await.unwrap();
    let mut batches = 0;
    let error = loop {
        match tokio::time::timeout(DEADLINE, receiver.read()).await.expect("it ends in time") {
            Ok(Some(_)) => batches += 1,
            Ok(None) => panic!("it ends in order after {batches} batches"),
            Err(error) => break format!("{error:#}"),
        }
    };
    assert!(batches > 0, "what can be read is read");
    assert!(
        error.contains("delivers nothing after the message 8, and the stream `LOGS` holds the message 20"),
        "{error}"
    );
}

/// Removes a block of messages below the server that runs.
fn remove_block(server: &NatsServer, name: &str) {
    let mut directories = vec![server.store_dir()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => directories.push(path),
                false if path.ends_with(format!("LOGS/msgs/{name}")) => {
                    return std::fs::remove_file(path).unwrap();
                }
                false => {}
            }
        }
    }
    panic!("there is no block {name}");
}
