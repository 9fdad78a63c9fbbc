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

mod script;

use script::{Operation, STREAM, Step, script, stream};

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

/// How long an answer may take; none does.
const PATIENCE: Duration = Duration::from_secs(10);

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
