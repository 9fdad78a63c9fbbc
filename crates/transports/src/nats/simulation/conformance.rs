//! The model of the server answers as a real one does: one script of requests, sent to both.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::message::OutboundMessage;
use async_nats::{HeaderMap, Message};
use fshipper_testing::NatsServer;
use futures::StreamExt as _;
use serde_json::{Value, json};

use super::super::client::{Client, Subscriber};
use super::super::events::Events;
use super::network::Network;

/// What is done next.
enum Step {
    /// A message with a reply subject of its own, and how many answers there are to it.
    Ask {
        subject: String,
        headers: Vec<(&'static str, String)>,
        payload: Vec<u8>,
        answers: usize,
        /// What the reply subject says besides the step.
        told: String,
    },
    /// What an operator or a limit does.
    Operate(Operation),
    /// Everything that was asked before has been answered; so many messages more than was said come now.
    Wait { step: usize, answers: usize },
    /// From here on everything that is published on a subject is heard, whoever stores it.
    Listen(&'static str),
}

/// What the model is told directly, and a server through its API.
#[derive(Clone, Copy)]
enum Operation {
    /// Waits until a consumer has taken its request: a server that deletes it before says nothing at all.
    Notice(&'static str),
    DeleteConsumer(&'static str),
    DeleteMessage(u64),
    Purge,
    DeleteStream,
    /// From here on there is no room for another message.
    Fill,
}

/// Asks a server, or the model of one.
struct Asker {
    client: Client,
    inbox: String,
    subscriber: Subscriber,
    /// The step whose deliveries come now.
    current: usize,
    /// The answers to each step.
    answers: BTreeMap<usize, Vec<Value>>,
    /// Hears what is published.
    listener: Option<Subscriber>,
}

const STREAM: &str = "LOGS";

/// A stream that keeps the last message of each subject.
const FLOOR: &str = "LOGS_floor";

/// How long an answer may take; none does.
const PATIENCE: Duration = Duration::from_secs(10);

fn ask(subject: impl Into<String>, body: Value, answers: usize) -> Step {
    let payload = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    Step::Ask { subject: subject.into(), headers: Vec::new(), payload, answers, told: String::new() }
}

fn api(operation: &str, body: Value) -> Step {
    ask(format!("$JS.API.{operation}"), body, 1)
}

/// A publish, with the sequence that it expects to follow.
fn publish(subject: &str, expected: Option<u64>, payload: &str) -> Step {
    let expected = expected.map(|sequence| ("Nats-Expected-Last-Subject-Sequence", sequence.to_string()));
    let headers = expected.into_iter().collect();
    Step::Ask {
        subject: subject.to_owned(),
        headers,
        payload: payload.into(),
        answers: 1,
        told: String::new(),
    }
}

/// One message of an atomic batch.
fn part(
    subject: &str,
    batch: &str,
    number: usize,
    last: bool,
    expected: Option<u64>,
    answers: usize,
) -> Step {
    let mut headers = vec![("Nats-Batch-Id", batch.to_owned()), ("Nats-Batch-Sequence", number.to_string())];
    headers.extend(expected.map(|sequence| ("Nats-Expected-Last-Subject-Sequence", sequence.to_string())));
    headers.extend(last.then(|| ("Nats-Batch-Commit", "1".to_owned())));
    let payload = format!("{batch} {number}").into();
    Step::Ask { subject: subject.to_owned(), headers, payload, answers, told: String::new() }
}

/// One message of a fast batch: 0 begins it, 1 goes on, 2 commits it, 3 ends it without a message.
fn fast(batch: &str, number: usize, operation: u8, expected: Option<u64>, answers: usize) -> Step {
    let expected = expected.map(|sequence| ("Nats-Expected-Last-Subject-Sequence", sequence.to_string()));
    let ends = (operation == 3).then(|| ("Nats-Expected-Stream", "-".to_owned()));
    Step::Ask {
        subject: "s.h.f".to_owned(),
        headers: expected.into_iter().chain(ends).collect(),
        payload: if operation == 3 { Vec::new() } else { format!("{batch} {number}").into() },
        answers,
        told: format!(".{batch}.1.fail.{number}.{operation}.$FI"),
    }
}

fn consumer(name: &str, more: Value) -> Step {
    consumer_of(STREAM, name, more)
}

fn consumer_of(stream: &str, name: &str, more: Value) -> Step {
    let mut config = json!({
        "name": name, "ack_policy": "none", "replay_policy": "instant", "deliver_policy": "by_start_sequence",
        "opt_start_seq": 1, "mem_storage": true, "num_replicas": 1, "inactive_threshold": 60_000_000_000_u64,
    });
    let Value::Object(more) = more else { panic!("a table") };
    config.as_object_mut().expect("a table").extend(more);
    config.as_object_mut().expect("a table").retain(|_, value| !value.is_null());
    let operation = match config["filter_subject"].as_str() {
        Some(filter) => format!("CONSUMER.CREATE.{stream}.{name}.{filter}"),
        None => format!("CONSUMER.CREATE.{stream}.{name}"),
    };
    api(&operation, json!({ "stream_name": stream, "config": config, "action": "create" }))
}

fn next(consumer: &str, body: Value, answers: usize) -> Step {
    ask(format!("$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{consumer}"), body, answers)
}

fn stream(more: Value) -> Value {
    let mut config = json!({
        "name": STREAM, "subjects": ["s", "s.>"], "retention": "limits", "discard": "new", "storage": "file",
        "num_replicas": 1, "max_age": 0, "max_bytes": -1, "max_msgs": -1, "max_msgs_per_subject": -1,
        "max_msg_size": -1, "allow_direct": true, "allow_atomic": true, "allow_batched": true,
    });
    let Value::Object(more) = more else { panic!("a table") };
    config.as_object_mut().expect("a table").extend(more);
    config.as_object_mut().expect("a table").retain(|_, value| !value.is_null());
    config
}

const SECOND: u64 = 1_000_000_000;

/// Everything that the ends ask, and what may go wrong with it.
fn script() -> Vec<Step> {
    let info = || api(&format!("STREAM.INFO.{STREAM}"), Value::Null);
    let create = |more| api(&format!("STREAM.CREATE.{STREAM}"), stream(more));
    let get = |subject: &str| api(&format!("DIRECT.GET.{STREAM}.{subject}"), Value::Null);
    let get_at = |sequence: u64| api(&format!("DIRECT.GET.{STREAM}"), json!({ "seq": sequence }));
    let all = || json!({ "batch": 100, "max_bytes": 100_000, "no_wait": true });
    let wait = |batch: u64, max_bytes: u64, expires: u64| json!({ "batch": batch, "max_bytes": max_bytes, "expires": expires });
    let mut steps = vec![
        // Nothing is there.
        info(),
        publish("s.h.a", Some(0), "nobody stores this"),
        get("s.h.a"),
        get_at(1),
        consumer("early", json!({})),
        next("early", all(), 1),
        // A stream comes into being.
        create(json!({})),
        create(json!({})),
        create(json!({ "max_msgs": 5 })),
        info(),
        get("s.h.a"),
        consumer("empty", json!({})),
        next("empty", all(), 1),
        // Publishing.
        publish("s.h.a", Some(0), "one"),
        publish("s.h.a", Some(0), "refused"),
        publish("s.h.a", Some(1), "two"),
        publish("s.h.b", Some(0), "other"),
        publish("s", None, "from somebody else"),
        publish("s.h.a", Some(7), "refused"),
        publish("s.h.a", Some(2), "three"),
        info(),
        get("s.h.a"),
        get("s.h.none"),
        get_at(4),
        get_at(99),
        // Reading.
        consumer("all", json!({})),
        next("all", all(), 6),
        next("all", all(), 1),
        consumer("some", json!({ "filter_subject": "s.h.a", "opt_start_seq": 2 })),
        next("some", wait(1, 100_000, 5 * SECOND), 2),
        next("some", wait(5, 100_000, SECOND / 5), 2),
        consumer("several", json!({ "filter_subjects": ["s", "s.h.b"] })),
        next("several", wait(2, 0, 5 * SECOND), 2),
        consumer("late", json!({ "opt_start_seq": 50 })),
        next("late", all(), 1),
        consumer("small", json!({})),
        next("small", wait(5, 10, 5 * SECOND), 1),
        next("small", wait(5, 150, 5 * SECOND), 2),
        consumer(
            "last",
            json!({ "deliver_policy": "last_per_subject", "opt_start_seq": null, "headers_only": true }),
        ),
        consumer(
            "last-of",
            json!({
                "deliver_policy": "last_per_subject", "opt_start_seq": null, "headers_only": true,
                "filter_subject": "s.h.*",
            }),
        ),
        next("last-of", all(), 3),
        // Waiting.
        consumer("waits", json!({ "opt_start_seq": 6, "filter_subject": "s.h.w" })),
        next("waits", wait(1, 100_000, 20 * SECOND), 0),
        next("waits", all(), 1),
        publish("s.h.w", Some(0), "awaited"),
    ];
    let waiting = steps.len() - 3;
    steps.push(Step::Wait { step: waiting, answers: 2 });
    steps.extend([next(
        "waits",
        json!({ "batch": 1, "expires": SECOND * 3 / 5, "idle_heartbeat": SECOND / 4 }),
        0,
    )]);
    let beats = steps.len() - 1;
    steps.push(Step::Wait { step: beats, answers: 3 });
    // Somebody deletes things.
    steps.push(next("waits", wait(3, 100_000, 20 * SECOND), 0));
    let doomed = steps.len() - 1;
    steps.extend([
        Step::Operate(Operation::Notice("waits")),
        Step::Operate(Operation::DeleteConsumer("waits")),
        Step::Wait { step: doomed, answers: 1 },
        next("waits", all(), 1),
        Step::Operate(Operation::DeleteMessage(2)),
        get_at(2),
        info(),
        consumer("hole", json!({})),
        next("hole", all(), 6),
        Step::Operate(Operation::DeleteMessage(1)),
        info(),
        // Atomic batches.
        part("s.h.a", "x1", 1, false, Some(5), 0),
        part("s.h.a", "x1", 2, false, None, 0),
        part("s.h.a", "x1", 3, true, None, 1),
        part("s.h.a", "x2", 1, false, Some(5), 0),
        part("s.h.a", "x2", 2, true, None, 1),
        part("s.h.a", "x3", 2, true, None, 1),
        part("s.h.a", "x4", 1, false, Some(9), 0),
        part("s.h.a", "x4", 3, true, None, 1),
        part("s.h.a", "x5", 1, true, Some(9), 1),
        info(),
        get("s.h.a"),
        // Retention takes all there is.
        Step::Operate(Operation::Purge),
        info(),
        get("s.h.a"),
        publish("s.h.a", Some(10), "refused"),
        publish("s.h.a", Some(0), "after the purge"),
        info(),
    ]);
    steps.extend(floor_script());
    steps.extend([
        consumer("purged", json!({})),
        next("purged", all(), 4),
        next("purged", wait(3, 100_000, 20 * SECOND), 0),
    ]);
    let last = steps.len() - 1;
    steps.extend([
        Step::Operate(Operation::Notice("purged")),
        Step::Operate(Operation::Fill),
        publish("s.h.a", Some(16), "no room"),
        Step::Operate(Operation::DeleteStream),
        Step::Wait { step: last, answers: 1 },
        info(),
        publish("s.h.a", Some(0), "nobody stores this"),
        next("purged", all(), 1),
        create(json!({ "allow_atomic": null, "allow_batched": null })),
        part("s.h.a", "y1", 1, true, None, 1),
        fast("y2", 1, 0, Some(0), 1),
        fast("y2", 2, 1, None, 1),
        fast("y2", 3, 3, None, 1),
        info(),
        Step::Operate(Operation::DeleteStream),
        create(json!({})),
    ]);
    steps.extend(fast_script());
    steps
}

/// Fast batches, in a stream that is empty.
fn fast_script() -> Vec<Step> {
    let info = || api(&format!("STREAM.INFO.{STREAM}"), Value::Null);
    vec![
        fast("z0", 1, 3, None, 1),
        fast("z1", 1, 0, Some(0), 2),
        fast("z1", 2, 1, Some(1), 1),
        fast("z1", 3, 1, Some(2), 1),
        fast("z1", 4, 3, None, 1),
        fast("z1", 4, 3, None, 1),
        fast("z1", 4, 1, Some(3), 1),
        // Its first message does not follow what is there.
        fast("z2", 1, 0, Some(2), 2),
        fast("z2", 2, 1, Some(3), 1),
        // Somebody else publishes meanwhile, to another subject: the guess at the sequence is too low.
        fast("z3", 1, 0, Some(3), 2),
        fast("z3", 2, 1, Some(4), 1),
        publish("s.h.a", Some(0), "other"),
        fast("z3", 3, 1, Some(5), 1),
        fast("z3", 4, 1, Some(6), 2),
        fast("z3", 5, 1, Some(7), 1),
        info(),
        // To the same subject.
        fast("z4", 1, 0, Some(7), 2),
        publish("s.h.f", Some(8), "a rival's"),
        fast("z4", 2, 1, Some(8), 2),
        info(),
        // Messages are missing, come twice, or without their beginning.
        fast("z5", 1, 0, Some(9), 2),
        fast("z5", 3, 1, Some(11), 2),
        fast("z5", 2, 1, Some(10), 1),
        fast("z6", 1, 0, Some(10), 2),
        fast("z6", 2, 1, Some(11), 1),
        fast("z6", 2, 1, Some(11), 2),
        fast("z7", 1, 0, Some(12), 2),
        fast("z7", 1, 0, Some(12), 2),
        fast("z8", 1, 1, Some(13), 1),
        fast("z9", 1, 0, Some(13), 2),
        fast("z9", 3, 3, None, 2),
        info(),
        // Two at once, and one that is committed by its last message.
        fast("za", 1, 0, Some(14), 2),
        fast("zb", 1, 0, Some(15), 2),
        fast("zb", 2, 2, Some(16), 1),
        fast("za", 2, 1, Some(15), 2),
        fast("zc", 1, 2, Some(17), 1),
        info(),
        Step::Operate(Operation::Fill),
        fast("zd", 1, 0, Some(18), 2),
    ]
}

/// What is asked for the commit floor: a second stream, whoever hears it, and deleting what is durable. The last
/// message of the first stream has the sequence 11.
fn floor_script() -> Vec<Step> {
    let info = |stream: &str| api(&format!("STREAM.INFO.{stream}"), Value::Null);
    let config = json!({
        "name": FLOOR, "subjects": ["s-floor.>"], "retention": "limits", "discard": "old", "storage": "file",
        "num_replicas": 1, "max_msgs_per_subject": 1, "allow_direct": true,
    });
    let elsewhere = |name: &'static str| Step::Ask {
        subject: "s-floor.h.a".to_owned(),
        headers: vec![("Nats-Expected-Stream", name.to_owned())],
        payload: format!("expects {name}").into(),
        answers: 1,
        told: String::new(),
    };
    let last = || json!({ "deliver_policy": "last_per_subject", "opt_start_seq": null, "filter_subject": "s-floor.h.*" });
    let all = || json!({ "batch": 100, "max_bytes": 100_000, "no_wait": true });
    let read = |consumer: &str, answers| {
        ask(format!("$JS.API.CONSUMER.MSG.NEXT.{FLOOR}.{consumer}"), all(), answers)
    };
    let purge = |body| api(&format!("STREAM.PURGE.{STREAM}"), body);
    vec![
        Step::Listen("s-floor.h.*"),
        ask("s-floor.h.a", json!("nobody stores this, and somebody hears it"), 0),
        api(&format!("STREAM.CREATE.{FLOOR}"), config.clone()),
        api(&format!("STREAM.CREATE.{FLOOR}"), config),
        info(FLOOR),
        consumer_of(FLOOR, "none", last()),
        read("none", 1),
        publish("s-floor.h.a", None, "one"),
        publish("s-floor.h.a", None, "two"),
        info(FLOOR),
        publish("s-floor.h.b", None, "three"),
        publish("s-floor.other.b", None, "of another host"),
        publish("s-floor.h.a", None, "four"),
        elsewhere(FLOOR),
        elsewhere(STREAM),
        info(FLOOR),
        consumer_of(FLOOR, "last", last()),
        read("last", 3),
        publish("s-floor.h.b", None, "while it is read"),
        read("last", 2),
        // What is durable is deleted below the last message of a subject.
        publish("s.h.a", Some(11), "a 12"),
        publish("s.h.b", Some(0), "b 13"),
        publish("s.h.a", Some(12), "a 14"),
        publish("s.h.a", Some(14), "a 15"),
        purge(json!({ "filter": "s.h.a", "seq": 14 })),
        info(STREAM),
        api(&format!("DIRECT.GET.{STREAM}"), json!({ "seq": 12 })),
        api(&format!("DIRECT.GET.{STREAM}.s.h.a"), Value::Null),
        purge(json!({ "filter": "s.h.a", "seq": 14 })),
        purge(json!({ "filter": "s.h.none", "seq": 99 })),
        purge(json!({ "filter": "s.h.b", "seq": 99 })),
        info(STREAM),
        publish("s.h.b", Some(13), "refused"),
        publish("s.h.a", Some(15), "a 16"),
        api("STREAM.PURGE.NONE", json!({ "filter": "s.h.b", "seq": 99 })),
    ]
}

impl Asker {
    async fn new(client: Client) -> Self {
        let inbox = client.new_inbox();
        let subscriber = client.subscribe(format!("{inbox}.>")).await.unwrap();
        Self { client, inbox, subscriber, current: 0, answers: BTreeMap::new(), listener: None }
    }

    async fn run(&mut self, steps: &[Step], operate: impl AsyncFn(&Client, Operation)) {
        for (number, step) in steps.iter().enumerate() {
            match step {
                Step::Ask { subject, headers, payload, answers, told } => {
                    self.current = number;
                    let mut map = HeaderMap::new();
                    for (name, value) in headers {
                        map.insert(*name, value.as_str());
                    }
                    let headers = (!headers.is_empty()).then_some(map);
                    let reply = Some(format!("{}.{number}{told}", self.inbox).into());
                    let (subject, payload) = (subject.as_str().into(), payload.clone().into());
                    let message = OutboundMessage { subject, reply, headers, payload };
                    self.client.publish_message(message).await.unwrap();
                    self.wait_for(number, *answers).await;
                }
                Step::Operate(operation) => operate(&self.client, *operation).await,
                Step::Listen(subject) => {
                    self.listener = Some(self.client.subscribe((*subject).to_owned()).await.unwrap());
                }
                Step::Wait { step, answers } => {
                    self.current = *step;
                    self.wait_for(*step, *answers).await;
                }
            }
        }
        // What comes without being expected shows as an answer too many.
        while let Ok(Some(message)) =
            tokio::time::timeout(Duration::from_millis(300), self.subscriber.next()).await
        {
            self.sort(message);
        }
    }

    /// Everything that was heard: subject and payload.
    async fn heard(&mut self) -> Vec<(String, String)> {
        let listener = self.listener.as_mut().expect("the script listens");
        let mut heard = Vec::new();
        while let Ok(Some(message)) = tokio::time::timeout(Duration::from_millis(300), listener.next()).await
        {
            heard.push((message.subject.to_string(), String::from_utf8_lossy(&message.payload).into_owned()));
        }
        heard
    }

    async fn wait_for(&mut self, step: usize, answers: usize) {
        while self.answers.get(&step).map_or(0, Vec::len) < answers {
            let message = tokio::time::timeout(PATIENCE, self.subscriber.next()).await;
            let message = message.unwrap_or_else(|_| {
                panic!(
                    "step {step}: {answers} answers to come, so far {:#?}",
                    self.answers.range(step.saturating_sub(1)..)
                )
            });
            self.sort(message.expect("the client lives"));
        }
    }

    /// An answer belongs to the step in its subject. A delivery has the subject that the message was published
    /// to: it belongs to the request that waits.
    fn sort(&mut self, message: Message) {
        let step = message.subject.strip_prefix(self.inbox.as_str());
        let step = step.and_then(|told| told[1..].split('.').next());
        let step = step.map_or(self.current, |number| number.parse().unwrap());
        self.answers.entry(step).or_default().push(plain(&message));
    }
}

/// An answer without what is different each time: names that are made up, and times.
fn plain(message: &Message) -> Value {
    let mut headers = BTreeMap::new();
    for (name, values) in message.headers.iter().flat_map(HeaderMap::iter) {
        let name: &str = name.as_ref();
        if name != "Nats-Time-Stamp" {
            headers.insert(
                name.to_owned(),
                values.iter().map(|value| value.as_str().to_owned()).collect::<Vec<_>>(),
            );
        }
    }
    let mut body = match serde_json::from_slice::<Value>(&message.payload) {
        Ok(body @ Value::Object(_)) => body,
        _ => json!(String::from_utf8_lossy(&message.payload)),
    };
    if let Value::Object(fields) = &mut body {
        fields.remove("created");
    }
    let delivered = message.reply.as_deref().map(|reply| {
        let tokens: Vec<_> = reply.split('.').collect();
        let mut tokens: Vec<_> = tokens.iter().map(|token| json!(token)).collect();
        // The time of the message.
        if tokens.len() == 9 {
            tokens.remove(7);
        }
        json!({ "subject": message.subject.as_str(), "reply": tokens, "bytes": message.length })
    });
    json!({
        "status": message.status.map(|status| status.as_u16()),
        "description": message.description,
        "headers": headers,
        "body": body,
        "delivered": delivered,
    })
}

/// Whether everything that the model says is what the server says; the server may say more.
fn is_part_of(model: &Value, server: &Value) -> bool {
    match (model, server) {
        (Value::Object(model), Value::Object(server)) => {
            server.get("error").is_some() == model.get("error").is_some()
                && model.iter().all(|(key, value)| is_part_of(value, server.get(key).unwrap_or(&Value::Null)))
        }
        (Value::Array(model), Value::Array(server)) => {
            model.len() == server.len()
                && model.iter().zip(server).all(|(model, server)| is_part_of(model, server))
        }
        (model, server) => model == server,
    }
}

/// Tells a server to do it.
async fn operate_server(client: &Client, operation: Operation) {
    let request = |operation: String, body: Value| async move {
        let inbox = client.new_inbox();
        let mut subscriber = client.subscribe(inbox.clone()).await.unwrap();
        let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        client.publish_with_reply(format!("$JS.API.{operation}"), inbox, body.into()).await.unwrap();
        let answer = tokio::time::timeout(PATIENCE, subscriber.next()).await.unwrap().unwrap();
        let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
        assert!(answer.get("error").is_none(), "{operation}: {answer}");
        answer
    };
    match operation {
        Operation::Notice(name) => {
            let info = format!("CONSUMER.INFO.{STREAM}.{name}");
            while request(info.clone(), Value::Null).await["num_waiting"] == 0 {}
        }
        Operation::DeleteConsumer(name) => {
            request(format!("CONSUMER.DELETE.{STREAM}.{name}"), Value::Null).await;
        }
        Operation::DeleteMessage(sequence) => {
            request(format!("STREAM.MSG.DELETE.{STREAM}"), json!({ "seq": sequence })).await;
        }
        Operation::Purge => {
            request(format!("STREAM.PURGE.{STREAM}"), Value::Null).await;
        }
        Operation::DeleteStream => {
            request(format!("STREAM.DELETE.{STREAM}"), Value::Null).await;
        }
        Operation::Fill => {
            request(format!("STREAM.UPDATE.{STREAM}"), stream(json!({ "max_bytes": 100 }))).await;
        }
    }
}

async fn operate_model(network: &Network, operation: Operation) {
    if let Operation::Notice(name) = operation {
        let waiting =
            || network.look(|broker| broker.stream(STREAM).unwrap().consumers.get(name).unwrap().waiting());
        while waiting() == 0 {
            tokio::task::yield_now().await;
        }
    }
    network.operate(|broker| {
        match operation {
            Operation::Notice(_) => {}
            Operation::DeleteConsumer(name) => return broker.delete_consumer(STREAM, name),
            Operation::DeleteMessage(sequence) => broker.delete_message(STREAM, sequence),
            Operation::Purge => {
                let all: Vec<u64> = broker.stream(STREAM).unwrap().messages.keys().copied().collect();
                all.into_iter().for_each(|sequence| broker.delete_message(STREAM, sequence));
            }
            Operation::DeleteStream => {
                broker.full = false;
                return broker.delete_stream(STREAM);
            }
            Operation::Fill => broker.full = true,
        }
        Vec::new()
    });
}

#[tokio::test]
async fn the_model_answers_as_a_server_does() {
    let steps = script();
    let server = NatsServer::jetstream();
    let mut real = Asker::new(Client::Server(async_nats::connect(server.url()).await.unwrap())).await;
    real.run(&steps, operate_server).await;

    let network = Network::new(1, 1 << 20, None);
    network.weather(|weather| weather.latency = 0);
    let moving = tokio::spawn(network.clone().run());
    let events = Events::new("nats://simulated".to_owned());
    let client = network.connect("asker", &events, 256, 256).unwrap();
    let mut model = Asker::new(Client::Simulated(client)).await;
    model.run(&steps, async |_, operation| operate_model(&network, operation).await).await;
    let (real_heard, model_heard) = (real.heard().await, model.heard().await);
    moving.abort();
    assert!(real_heard.len() > 5, "{real_heard:?}");
    assert_eq!(model_heard, real_heard);

    let mut differences = Vec::new();
    for (number, step) in steps.iter().enumerate() {
        let (real, model) = (real.answers.get(&number), model.answers.get(&number));
        let same = is_part_of(&json!(model), &json!(real));
        if !same {
            let asked = match step {
                Step::Ask { subject, payload, .. } => {
                    format!("{subject} {}", String::from_utf8_lossy(payload))
                }
                _ => String::new(),
            };
            differences.push(format!(
                "step {number} {asked}\n  server {}\n  model  {}",
                json!(real),
                json!(model)
            ));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
