//! A log with a backlog, which goes in fast batches, and what ends them early.

use std::time::Duration;

use async_nats::jetstream::stream::Config;
use fshipper_pipeline::{Context, Sink};
use fshipper_testing::{NatsCluster, NatsServer, Proxy};
use fshipper_transports::Nats;
use serde_json::json;

use crate::support::{
    Central, commit, context, everything, lines, log, make_stream, messages, operator, pieces, sender_in,
    settings, table, write,
};

/// Each line a message.
fn by_line(url: &str) -> Nats {
    table(url, json!({ "framing": "line" }))
}

/// A sender whose batches are small, so that a few of them are a backlog.
async fn sender(nats: &Nats) -> Box<dyn Sink> {
    sender_in(nats, Context { settings: settings(20_000), ..context(false) }).await.0
}

/// Writes all of a log but its first piece, which is committed: a log goes in fast batches once the stream has
/// something of it.
async fn begin<'a>(sender: &mut dyn Sink, bytes: &'a [u8]) -> Vec<(u64, &'a [u8])> {
    let mut pieces = pieces(bytes, 20_000);
    let (start, first) = pieces.remove(0);
    write(sender, &log("/log"), start, first).await;
    commit(sender).await;
    pieces
}

async fn write_all(sender: &mut dyn Sink, pieces: &[(u64, &[u8])]) {
    for (start, piece) in pieces {
        write(sender, &log("/log"), *start, *piece).await;
    }
}

fn assert_whole(central: &Central, bytes: &[u8]) {
    assert!(central.file(&log("/log")) == bytes, "{} of {}", central.file(&log("/log")).len(), bytes.len());
    assert_eq!(central.losses, Vec::<String>::new());
}

fn lines_in(bytes: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', bytes).count() as u64
}

/// How many messages went in fast batches: those expect that the stream ends with their predecessor.
async fn fast_messages(server: &NatsServer) -> u64 {
    let stream = operator(server).await.get_stream("LOGS").await.unwrap();
    let state = &stream.cached_info().state;
    let mut fast = 0;
    for sequence in (state.first_sequence..=state.last_sequence).step_by(50) {
        let message = stream.get_raw_message(sequence).await.unwrap();
        let expected = message.headers.get("Nats-Expected-Last-Sequence");
        fast += u64::from(expected.is_some_and(|expected| expected.as_str() == (sequence - 1).to_string()));
    }
    fast * 50
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_of_lines_goes_in_fast_batches_and_each_line_once() {
    let server = NatsServer::jetstream();
    let nats = by_line(&server.url());
    let bytes = lines(1_000_000);
    let mut sender = sender(&nats).await;
    assert_eq!(sender.budget_bytes(8 << 20), 8 << 20, "this way is short");
    let rest = begin(&mut *sender, &bytes).await;
    write_all(&mut *sender, &rest).await;
    commit(&mut *sender).await;
    assert_whole(&everything(&nats).await, &bytes);
    let count = messages(&server).await;
    assert_eq!(count, lines_in(&bytes), "nothing twice");
    let fast = fast_messages(&server).await;
    assert!(fast > count / 2, "{fast} of {count}");
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_over_a_long_way_go_in_fast_batches() {
    let server = NatsServer::jetstream();
    let proxy = Proxy::start(server.address()).await;
    proxy.slow(100_000_000, Duration::from_millis(20));
    let nats = table(&proxy.url(), json!({}));
    let bytes = lines(4_000_000);
    let mut sender = sender(&nats).await;
    assert_eq!(sender.budget_bytes(8 << 20), 14 << 20, "more is on a long way");
    let rest = begin(&mut *sender, &bytes).await;
    write_all(&mut *sender, &rest).await;
    commit(&mut *sender).await;
    assert_whole(&everything(&table(&server.url(), json!({}))).await, &bytes);
    assert!(fast_messages(&server).await > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_backlog_goes_in_fast_batches_and_comes_out_as_it_went_in() {
    let server = NatsServer::jetstream();
    let nats = table(&server.url(), json!({ "compression": "zstd" }));
    let bytes = lines(4_000_000);
    let mut sender = sender(&nats).await;
    let rest = begin(&mut *sender, &bytes).await;
    write_all(&mut *sender, &rest).await;
    commit(&mut *sender).await;
    assert_whole(&everything(&nats).await, &bytes);
    assert!(fast_messages(&server).await > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn others_that_publish_in_between_end_a_fast_batch_and_nothing_more() {
    let server = NatsServer::jetstream();
    let nats = by_line(&server.url());
    let bytes = lines(1_000_000);
    let mut sender = sender(&nats).await;
    let rest = begin(&mut *sender, &bytes).await;
    let operator = operator(&server).await;
    let disturb = async {
        for number in 0..200 {
            operator.publish("shipper.other.log", format!("{number}").into()).await.unwrap().await.unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let ship = async {
        write_all(&mut *sender, &rest).await;
        commit(&mut *sender).await;
    };
    tokio::join!(disturb, ship);
    assert_whole(&everything(&nats).await, &bytes);
    let lines = lines_in(&bytes);
    assert_eq!(messages(&server).await, lines + 200, "nothing twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_instance_of_the_producer_publishes_nothing_twice_and_leaves_nothing_out() {
    let server = NatsServer::jetstream();
    let nats = by_line(&server.url());
    let bytes = lines(1_000_000);
    let (mut one, mut other) = (sender(&nats).await, sender(&nats).await);
    let rest = begin(&mut *one, &bytes).await;
    let (first, second) = rest.split_at(rest.len() / 2);
    for part in [first, second] {
        tokio::join!(write_all(&mut *one, part), async {
            write(&mut *other, &log("/log"), 0, &bytes[..rest[0].0 as usize]).await;
            write_all(&mut *other, part).await;
        });
        commit(&mut *one).await;
        commit(&mut *other).await;
    }
    let central = everything(&nats).await;
    assert_whole(&central, &bytes);
    let lines = lines_in(&bytes);
    assert_eq!(messages(&server).await, lines, "the stream itself has each line once");
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_connections_in_the_middle_of_fast_batches_cost_nothing() {
    let server = NatsServer::jetstream();
    let proxy = Proxy::start(server.address()).await;
    let nats = by_line(&proxy.url());
    let bytes = lines(2_000_000);
    let mut sender = sender(&nats).await;
    let rest = begin(&mut *sender, &bytes).await;
    for (number, piece) in rest.iter().enumerate() {
        write_all(&mut *sender, &[*piece]).await;
        if number % 30 == 20 {
            proxy.cut();
        }
    }
    commit(&mut *sender).await;
    assert_whole(&everything(&by_line(&server.url())).await, &bytes);
    let lines = lines_in(&bytes);
    assert_eq!(messages(&server).await, lines, "nothing twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_in_the_middle_of_a_fast_batch_costs_nothing() {
    let mut server = NatsServer::jetstream();
    let nats = by_line(&server.url());
    let bytes = lines(2_000_000);
    let mut sender = sender(&nats).await;
    let rest = begin(&mut *sender, &bytes).await;
    for (number, piece) in rest.iter().enumerate() {
        write_all(&mut *sender, &[*piece]).await;
        if number % 40 == 30 {
            server.kill();
            server.restart();
        }
    }
    commit(&mut *sender).await;
    assert_whole(&everything(&nats).await, &bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_stops_taking_fast_batches_is_published_to_all_the_same() {
    let server = NatsServer::jetstream();
    let nats = by_line(&server.url());
    let bytes = lines(1_000_000);
    let mut sender = sender(&nats).await;
    let rest = begin(&mut *sender, &bytes).await;
    let (first, second) = rest.split_at(rest.len() / 2);
    write_all(&mut *sender, first).await;
    let operator = operator(&server).await;
    let config = operator.get_stream("LOGS").await.unwrap().cached_info().config.clone();
    operator.update_stream(Config { allow_batch_publish: false, ..config }).await.unwrap();
    write_all(&mut *sender, second).await;
    commit(&mut *sender).await;
    assert_whole(&everything(&nats).await, &bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_fills_up_in_the_middle_of_a_fast_batch_is_waited_for() {
    let server = NatsServer::jetstream();
    let allow = |config: &mut Config| {
        (config.allow_atomic_publish, config.allow_batch_publish, config.max_bytes) = (true, true, 1_000_000);
    };
    make_stream(&server, allow).await;
    let nats = by_line(&server.url());
    let bytes = lines(1_000_000);
    let mut sender = sender(&nats).await;
    let rest = begin(&mut *sender, &bytes).await;
    write_all(&mut *sender, &rest).await;
    let checkpoint = fshipper_pipeline::Checkpoint::default();
    let waiting = tokio::time::timeout(Duration::from_secs(1), sender.commit(&checkpoint)).await;
    assert!(waiting.is_err(), "nothing is dropped");
    let operator = operator(&server).await;
    let config = operator.get_stream("LOGS").await.unwrap().cached_info().config.clone();
    operator.update_stream(Config { max_bytes: 100_000_000, ..config }).await.unwrap();
    commit(&mut *sender).await;
    assert_whole(&everything(&nats).await, &bytes);
}

/// A message of a fast batch has no header that says so, and one of an atomic batch has.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_with_replicas_gets_atomic_batches() {
    let cluster = NatsCluster::start(3);
    let stream = json!({ "name": "LOGS", "create": true, "replicas": 3 });
    let nats = table(&cluster.urls(), json!({ "framing": "line", "stream": stream }));
    let bytes = lines(400_000);
    let mut sender = sender(&nats).await;
    let pieces = begin(&mut *sender, &bytes).await;
    write_all(&mut *sender, &pieces).await;
    commit(&mut *sender).await;
    assert!(everything(&nats).await.file(&log("/log")) == bytes);

    let urls = cluster.urls();
    let client = async_nats::connect(urls.split(',').collect::<Vec<_>>()).await.unwrap();
    let stream = async_nats::jetstream::new(client).get_stream("LOGS").await.unwrap();
    let mut alone = Vec::new();
    for sequence in 1..=stream.cached_info().state.messages {
        let message = stream.get_raw_message(sequence).await.unwrap();
        if message.headers.get("Nats-Batch-Id").is_none() {
            alone.push(sequence);
        }
    }
    // A piece ends within a line, whose part goes by itself. A fast batch would be cut off after its first message.
    assert!(alone.windows(2).all(|pair| pair[1] > pair[0] + 1), "{alone:?}");
}
