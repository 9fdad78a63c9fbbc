//! What the model and a server are asked: [`script`].

use serde_json::{Value, json};

/// What is done next.
pub(super) enum Step {
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
pub(super) enum Operation {
    /// Waits until a consumer has taken its request: a server that deletes it before says nothing at all.
    Notice(&'static str),
    DeleteConsumer(&'static str),
    DeleteMessage(u64),
    Purge,
    DeleteStream,
    /// From here on there is no room for another message.
    Fill,
}

pub(super) const STREAM: &str = "LOGS";

/// A stream that keeps the last message of each subject.
const FLOOR: &str = "LOGS_floor";

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

/// One message of a fast batch: 0 begins it, 1 goes on, 2 commits it, 3 ends it without a message. The first expects
/// the end of its subject, the others that of the stream.
fn fast(batch: &str, number: usize, operation: u8, expected: Option<u64>, answers: usize) -> Step {
    let end = if number == 1 { "Nats-Expected-Last-Subject-Sequence" } else { "Nats-Expected-Last-Sequence" };
    let expected = expected.map(|sequence| (end, sequence.to_string()));
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

pub(super) fn stream(more: Value) -> Value {
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
pub(super) fn script() -> Vec<Step> {
    let info = || api(&format!("STREAM.INFO.{STREAM}"), Value::Null);
    let create = |more| api(&format!("STREAM.CREATE.{STREAM}"), stream(more));
    let get = |subject: &str| api(&format!("DIRECT.GET.{STREAM}.{subject}"), Value::Null);
    let get_at = |sequence: u64| api(&format!("DIRECT.GET.{STREAM}"), json!({ "seq": sequence }));
    let all = || json!({ "batch": 100, "max_bytes": 100_000, "no_wait": true });
    let one =
        || json!({ "batch": 1, "max_bytes": 100_000, "expires": 0, "idle_heartbeat": 0, "no_wait": true });
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
        // One message, if it is there.
        consumer("first", json!({ "opt_start_seq": 3, "headers_only": true })),
        next("first", one(), 2),
        consumer("beyond", json!({ "opt_start_seq": 6, "headers_only": true })),
        next("beyond", one(), 1),
        consumer(
            "very-last",
            json!({ "deliver_policy": "last", "opt_start_seq": null, "headers_only": true }),
        ),
        next("very-last", one(), 2),
        consumer(
            "last-of-some",
            json!({
                "deliver_policy": "last", "opt_start_seq": null, "headers_only": true, "filter_subject": "s.h.b",
            }),
        ),
        next("last-of-some", one(), 2),
        consumer(
            "last-of-none",
            json!({
                "deliver_policy": "last", "opt_start_seq": null, "headers_only": true,
                "filter_subject": "s.h.none",
            }),
        ),
        next("last-of-none", one(), 1),
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
        fast("z3", 3, 1, Some(5), 2),
        fast("z3", 4, 1, Some(6), 1),
        info(),
        // Before it began.
        fast("ze", 1, 0, Some(5), 2),
        fast("ze", 2, 1, Some(6), 2),
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
