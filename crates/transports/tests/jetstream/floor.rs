//! The commit floor, each end alone.

use std::time::{Duration, Instant};

use async_nats::jetstream;
use fshipper_pipeline::{
    Batch, Bytes, Checkpoint, Context, Gap, History, Origin, Position, Progress, Transport, testing,
};
use fshipper_testing::{DEADLINE, NatsServer};
use fshipper_transports::Nats;
use serde_json::json;

use crate::support::{
    EPOCH, commit, context, everything, log, make_stream, messages, operator, plain, publish, sender,
    sender_in, table, write,
};

pub(crate) fn position(offset: u64) -> Position {
    Position { epoch: EPOCH, offset, place: Bytes::from_static(b"here") }
}

pub(crate) async fn make_floor_stream(server: &NatsServer) {
    let config = jetstream::stream::Config {
        name: "LOGS_floor".to_owned(),
        subjects: vec!["shipper-floor.>".to_owned()],
        max_messages_per_subject: 1,
        allow_direct: true,
        ..Default::default()
    };
    operator(server).await.create_stream(config).await.unwrap();
}

/// Where the floor of a log stands.
fn subject(origin: &Origin) -> String {
    let name = String::from_utf8(origin.file().to_vec()).unwrap().replace(' ', "=20");
    let hash = origin.path().iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("shipper-floor.web1.example.net.{name}-{hash:016x}")
}

/// The last notice of a log.
async fn notice(server: &NatsServer, origin: &Origin) -> Option<String> {
    let stream = operator(server).await.get_stream("LOGS_floor").await.ok()?;
    let message = stream.get_last_raw_message_by_subject(&subject(origin)).await.ok()?;
    Some(String::from_utf8(message.payload.to_vec()).unwrap())
}

pub(crate) async fn eventually(what: &str, condition: impl AsyncFn() -> bool) {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < DEADLINE, "{what}: not within {DEADLINE:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) async fn wait_for(server: &NatsServer, origin: &Origin, end: u64) {
    let expected = format!(" end={end} ");
    eventually("the floor is told", async || {
        notice(server, origin).await.is_some_and(|notice| notice.contains(&expected))
    })
    .await;
}

async fn put(server: &NatsServer, origin: &Origin, text: String) {
    let path = String::from_utf8(origin.path().to_vec()).unwrap().replace(' ', "%20");
    let text = format!("v=1 epoch={EPOCH} {text} path={path} place=here");
    operator(server).await.publish(subject(origin), text.into()).await.unwrap().await.unwrap();
}

pub(crate) async fn tell(server: &NatsServer, origin: &Origin, end: u64) {
    put(server, origin, format!("end={end} consumer=central/c time=now")).await;
}

async fn request(server: &NatsServer, origin: &Origin, from: u64, to: u64, read: u64) {
    put(server, origin, format!("from={from} to={to} read={read} consumer=central/c time=now")).await;
}

/// Waits until the hop is to be opened again.
async fn reopening(context: &Context) {
    tokio::time::timeout(DEADLINE, testing::reopening(context)).await.expect("another session is wanted");
}

/// A log of three messages.
async fn three_messages(nats: &Nats) {
    let (mut sender, _) = sender(nats).await;
    for (start, text) in [(0, "one\n"), (4, "two\n"), (8, "three\n")] {
        write(&mut *sender, &log("/log"), start, text).await;
        commit(&mut *sender).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_origins_of_one_commit_are_all_told() {
    let server = NatsServer::jetstream();
    let nats = plain(&server);
    let context = context(false);
    let receiver = nats.open_receiver(Checkpoint::default(), context.clone()).await.unwrap();
    let mut checkpoint = Checkpoint::default();
    for number in 0..3000 {
        checkpoint.set_position(&log(&format!("/{number}")), position(number));
    }
    testing::commit_all(&context, &mut checkpoint);
    wait_for(&server, &log("/2999"), 2999).await;
    eventually("all are told", async || {
        let stream = operator(&server).await.get_stream("LOGS_floor").await.unwrap();
        stream.cached_info().state.messages == 3000
    })
    .await;
    drop(receiver);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_says_what_is_missing_and_how_far_the_stream_was_read() {
    let server = NatsServer::jetstream();
    let nats = plain(&server);
    three_messages(&nats).await;
    let context = context(false);
    let mut receiver = nats.open_receiver(Checkpoint::default(), context.clone()).await.unwrap();
    let mut read = None;
    let mut end = 0;
    while end < 14 {
        let batch = crate::support::read(&mut *receiver).await.unwrap();
        (end, read) = (batch.end(), batch.cursor);
    }
    let gap = Gap { epoch: EPOCH, from: 4, to: 8, place: "here".into(), read };
    testing::miss(&context, &log("/log"), gap);
    eventually("it is asked for", async || {
        let notice = notice(&server, &log("/log")).await.unwrap_or_default();
        notice.contains(" from=4 to=8 read=3 ") && notice.ends_with(" path=/log place=here")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_tell_apart() {
    let server = NatsServer::jetstream();
    let nats = |read: u32| table(&server.url(), json!({ "partitions": 2, "read_partitions": [read] }));
    let mut from = Checkpoint::default();
    for number in 0..20 {
        from.set_position(&Origin::new(format!("host{number}"), "/log"), position(number));
    }
    let count = async || {
        let stream = operator(&server).await.get_stream("LOGS_floor").await;
        stream.map_or(0, |stream| stream.cached_info().state.messages)
    };
    let first = nats(0).open_receiver(from.clone(), context(false)).await.unwrap();
    eventually("some are told", async || count().await > 0).await;
    let second = nats(1).open_receiver(from, context(false)).await.unwrap();
    eventually("all are told", async || count().await == 20).await;
    drop((first, second));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_only_reads_along_tells_nothing() {
    let server = NatsServer::jetstream();
    make_stream(&server, |_| {}).await;
    make_floor_stream(&server).await;
    let nats = table(&server.url(), json!({ "stream": { "name": "LOGS", "floor": false } }));
    let context = context(false);
    let receiver = nats.open_receiver(Checkpoint::default(), context.clone()).await.unwrap();
    let mut follower = context.progress.follow_news();
    testing::commit(&context, &log("/log"), position(4));
    assert_eq!(follower.changed(1).await.len(), 1, "nobody else took it");
    drop(receiver);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_counts_where_it_has_a_log() {
    let server = NatsServer::jetstream();
    let nats = plain(&server);
    three_messages(&nats).await;
    drop(sender(&nats).await);
    tell(&server, &log("/log"), 4).await;
    tell(&server, &log("/other"), 7).await;
    let (_sender, restored) = sender(&nats).await;
    let at = |path| restored.position(&log(path)).map(|position| position.offset);
    assert_eq!((at("/log"), at("/other")), (Some(14), Some(7)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_makes_the_sender_go_back_once() {
    let server = NatsServer::jetstream();
    let nats = plain(&server);
    three_messages(&nats).await;
    let context = context(false);
    let (first, _) = sender_in(&nats, context.clone()).await;
    request(&server, &log("/log"), 4, 8, 3).await;
    reopening(&context).await;
    drop(first);

    let (mut second, restored) = sender_in(&nats, context.clone()).await;
    assert_eq!(restored.position(&log("/log")), Some(&position(4)));
    assert_eq!(restored.history(&log("/log")).and_then(History::reached), Some(14));
    write(&mut *second, &log("/log"), 4, "two\n").await;
    commit(&mut *second).await;
    drop(second);

    // Here and in another life of the producer it goes on where it was, and still knows how far it had been.
    for context in [context.clone(), Context { progress: Progress::default(), ..context.clone() }] {
        let (_sender, restored) = sender_in(&nats, context).await;
        assert_eq!(restored.position(&log("/log")).map(|position| position.offset), Some(8));
        assert_eq!(restored.history(&log("/log")).and_then(History::reached), Some(14));
    }
    let (mut third, _) = sender_in(&nats, context.clone()).await;
    write(&mut *third, &log("/log"), 8, "three\nfour\n").await;
    commit(&mut *third).await;
    drop(third);
    let (_sender, restored) = sender_in(&nats, context).await;
    assert_eq!(restored.position(&log("/log")).map(|position| position.offset), Some(19));
    assert_eq!(restored.history(&log("/log")).and_then(History::reached), None);
    assert_eq!(messages(&server).await, 5);
    assert_eq!(everything(&nats).await.file(&log("/log")), b"one\ntwo\nthree\nfour\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_nobody_can_answer_are_passed_over() {
    let server = NatsServer::jetstream();
    let nats = plain(&server);
    three_messages(&nats).await;
    drop(sender(&nats).await);
    request(&server, &log("/log"), 20, 30, 3).await;
    let (_sender, restored) = sender(&nats).await;
    assert_eq!(restored.position(&log("/log")).map(|position| position.offset), Some(14));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notice_that_makes_no_sense_is_passed_over() {
    let server = NatsServer::jetstream();
    let nats = plain(&server);
    publish(&nats, &log("/log"), "one\n").await;
    drop(sender(&nats).await);
    let client = operator(&server).await;
    let other = subject(&log("/other"));
    client.publish(other, "v=1 end=7".into()).await.unwrap().await.unwrap();
    tell(&server, &log("/third"), 3).await;
    let (mut sender, restored) = sender(&nats).await;
    assert!(restored.position(&log("/other")).is_none());
    assert_eq!(restored.position(&log("/third")), Some(&position(3)));
    sender.write(Batch::data(log("/log"), EPOCH, 4, "two\n")).await.unwrap();
    commit(&mut *sender).await;
}
