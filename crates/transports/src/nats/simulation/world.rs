//! One run of one plan: [`run`].

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Result, bail};
use async_nats::message::OutboundMessage;
use async_trait::async_trait;
use fshipper_pipeline::config::Pipeline;
use fshipper_pipeline::{
    Checkpoint, Context, Control, Ends, Origin, Parts, Settings, Sink, Source, Transport,
};
use serde::Deserialize as _;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::super::client::Client;
use super::super::config::Nats;
use super::super::connect::Connection;
use super::super::events::Events;
use super::super::subject::Subjects;
use super::super::{jetstream, receiver, sender};
use super::disk::{Disk, epoch_of};
use super::logs::{Logs, WatchedSender, lines, origin};
use super::network::Network;
use super::plan::{Fault, FaultKind, Plan, QUIET_AFTER};
use super::truth::{SharedTruth, Truth, lock};

/// What came of a run.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// What must not happen, and did.
    pub(super) violations: Vec<String>,
    /// Everything that happened, in order.
    pub(super) trace: Vec<String>,
    /// How often things happened.
    pub(super) counts: BTreeMap<String, u64>,
}

/// A transport to the model.
struct Simulated {
    nats: Nats,
    name: String,
    network: Network,
    truth: SharedTruth,
}

struct World {
    plan: Plan,
    table: Value,
    subjects: Subjects,
    network: Network,
    truth: SharedTruth,
    grow: super::watch::Sender<u64>,
    disks: Vec<Disk>,
    state_dir: std::path::PathBuf,
    producers: Vec<Option<JoinHandle<()>>>,
    consumers: Vec<Option<JoinHandle<()>>>,
    twins: Vec<JoinHandle<()>>,
    /// What is to be done later: when, in order.
    later: BTreeMap<(u64, u64), Later>,
    next_order: u64,
}

/// The end of a fault, or a step of the writers of logs.
enum Later {
    Fault(FaultKind),
    Grow(usize),
    Calm(fn(&World)),
    CutAgain(String),
    StartProducer(usize),
    StartConsumer(usize),
    StopTwins,
    StartServer,
}

const STREAM: &str = "LOGS";

/// How long everything may take once nothing goes wrong any more, in virtual milliseconds: a few of the longest
/// pauses.
const MOST_MILLIS: u64 = QUIET_AFTER + 600_000;

/// How long the end result must stay as it is, in virtual milliseconds.
const SETTLED_MILLIS: u64 = 3_000;

/// Runs a plan from its beginning to where everything has arrived and nothing moves any more.
pub(super) fn run(plan: &Plan, state_dir: &Path) -> Outcome {
    fastrand::seed(plan.seed);
    PANICS.with(|panics| panics.lock().expect("it only panics elsewhere").clear());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime without threads needs nothing");
    let local = tokio::task::LocalSet::new();
    let truth = local.block_on(&runtime, async {
        let mut world = World::new(plan.clone(), state_dir);
        let truth = world.truth.clone();
        let network = tokio::spawn(world.network.clone().run());
        world.live().await;
        network.abort();
        truth
    });
    drop((local, runtime));
    let mut truth = lock(&truth);
    for panic in PANICS.with(|panics| std::mem::take(&mut *panics.lock().expect("it only panics elsewhere"))) {
        truth.violate(panic);
    }
    Outcome {
        violations: std::mem::take(&mut truth.violations),
        trace: std::mem::take(&mut truth.trace),
        counts: std::mem::take(&mut truth.counts),
    }
}

thread_local! {
    static PANICS: Mutex<Vec<String>> = const { Mutex::new(Vec::new()) };
}

/// Makes a panic in any task of a run a violation of it: a task's owner takes it for an error like any other.
pub(super) fn catch_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if tokio::runtime::Handle::try_current().is_ok() {
                PANICS.with(|panics| panics.lock().expect("it only panics elsewhere").push(panic.to_string()));
            }
            before(panic);
        }));
    });
}

impl World {
    fn new(plan: Plan, state_dir: &Path) -> Self {
        let mut table = json!({
            "servers": "nats://simulated",
            "subject": "s",
            "framing": if plan.line_framing { "line" } else { "batch" },
            "compression": if plan.compressed { "zstd" } else { "none" },
            "stream": { "name": STREAM, "create": true },
        });
        if let Some(partitions) = plan.partitions {
            table["partitions"] = json!(partitions);
        }
        let subjects = Nats::deserialize(&table).expect("a table").subjects();
        let mut random = fastrand::Rng::with_seed(plan.seed ^ 0xb17e);
        let mut books = Truth::new(STREAM, subjects.clone());
        let mut origins = Vec::new();
        for (host, logs) in plan.hosts.iter().enumerate() {
            for log in 0..*logs {
                let bytes = lines(&mut random, plan.log_bytes);
                books.add_log(origin(host, log), epoch_of(log, host), bytes);
                origins.push(origin(host, log));
            }
        }
        let truth: SharedTruth = Arc::new(Mutex::new(books));
        let network = Network::new(plan.seed ^ 0x7e7, plan.max_payload, Some(truth.clone()));
        network.weather(|weather| weather.latency = plan.latency);
        let disks = plan.consumers.iter().enumerate().map(|(number, partitions)| {
            let name = format!("consumer{number}");
            let filters = subjects.receive(Some(partitions.as_slice()).filter(|partitions| !partitions.is_empty()));
            let mine = origins.iter().filter(|origin| {
                let subject = subjects.publish(origin);
                filters.iter().any(|filter| super::super::pattern::covers(filter, &subject))
            });
            lock(&truth).add_sink(&name, mine.cloned());
            Disk::new(&name, filters.clone(), truth.clone(), network.clone())
        });
        let disks: Vec<_> = disks.collect();
        let slow = [0, 5, 100][random.usize(..3)];
        disks.iter().for_each(|disk| disk.set_slow(slow));
        Self {
            producers: plan.hosts.iter().map(|_| None).collect(),
            consumers: plan.consumers.iter().map(|_| None).collect(),
            plan,
            table,
            subjects,
            network,
            truth,
            grow: super::watch::Sender::new(0),
            disks,
            state_dir: state_dir.to_owned(),
            twins: Vec::new(),
            later: BTreeMap::new(),
            next_order: 0,
        }
    }

    async fn live(&mut self) {
        let start = tokio::time::Instant::now();
        for fault in self.plan.faults.clone() {
            let Fault { at, kind } = fault;
            self.schedule(at, Later::Fault(kind));
        }
        let steps = self.plan.steps;
        for step in 1..=steps {
            self.schedule((QUIET_AFTER - 1) * (step - 1) as u64 / steps as u64, Later::Grow(step));
        }
        for host in 0..self.producers.len() {
            self.start_producer(host);
        }
        for consumer in 0..self.consumers.len() {
            self.start_consumer(consumer);
        }
        while let Some(((at, _), later)) = self.later.pop_first() {
            tokio::time::sleep_until(start + Duration::from_millis(at)).await;
            self.act(at, later).await;
        }
        // A producer with nothing to send asks nothing: the last line of each log makes it ask.
        self.grow_to(usize::MAX);
        self.arrive(start).await;
        self.end().await;
    }

    /// Waits until everything has arrived.
    async fn arrive(&self, start: tokio::time::Instant) {
        while !self.is_complete() {
            if start.elapsed() > Duration::from_millis(MOST_MILLIS) {
                let missing = self.missing();
                return lock(&self.truth).violate(format!("not everything arrives: {missing}"));
            }
            if !lock(&self.truth).violations.is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        lock(&self.truth).note("everything has arrived");
        tokio::time::sleep(Duration::from_millis(SETTLED_MILLIS)).await;
    }

    /// Compares what each sink has with what it must have.
    async fn end(&mut self) {
        let tasks = self.producers.iter_mut().chain(&mut self.consumers).filter_map(Option::take);
        for task in tasks.chain(std::mem::take(&mut self.twins)) {
            if task.is_finished() {
                lock(&self.truth).violate("a pipeline ended by itself".to_owned());
            }
            task.abort();
            // Cancelled, which is what was asked for.
            let _ = task.await;
        }
        let mut truth = lock(&self.truth);
        let mut violations = Vec::new();
        for disk in &self.disks {
            let name = disk.name();
            for (origin, delivered) in &truth.sinks[name] {
                let log = &truth.logs[origin];
                let bytes = disk.bytes(origin);
                if bytes.len() != log.bytes.len() {
                    let (has, of) = (bytes.len(), log.bytes.len());
                    violations.push(format!("{name} has {has} bytes of {origin}, which has {of}"));
                }
                for (offset, byte) in bytes.iter().enumerate() {
                    let lost = delivered.lost[offset];
                    if !lost && *byte != log.bytes[offset] {
                        violations.push(format!("{name} has the wrong byte of {origin} at {offset}"));
                        break;
                    }
                    if lost && !delivered.may_lack[offset] {
                        violations.push(format!("{name} calls the byte {offset} of {origin} lost, and it is not"));
                        break;
                    }
                }
            }
            if !truth.went_back && !truth.deleted {
                violations.extend(foreign_differences(&truth, disk));
            }
        }
        let losses = truth.sinks.values().flat_map(BTreeMap::values).flat_map(|delivered| &delivered.lost);
        let lost = losses.filter(|&&lost| lost).count();
        *truth.counts.entry("bytes lost by both sides".to_owned()).or_default() += lost as u64;
        for violation in violations {
            truth.violate(violation);
        }
    }

    fn is_complete(&self) -> bool {
        let truth = lock(&self.truth);
        let logs = truth.sinks.values().flatten();
        let mut missing = logs.filter(|(origin, delivered)| delivered.committed != truth.logs[origin].bytes.len());
        let foreign = || truth.went_back || truth.deleted || self.disks.iter().all(|disk| foreign_differences(&truth, disk).is_empty());
        missing.next().is_none() && foreign()
    }

    fn missing(&self) -> String {
        let truth = lock(&self.truth);
        let mut missing = String::new();
        for (name, origins) in &truth.sinks {
            for (origin, delivered) in origins {
                let length = truth.logs[origin].bytes.len();
                if delivered.committed != length {
                    missing.push_str(&format!("{name} has {} of {length} of {origin}; ", delivered.committed));
                }
            }
        }
        missing
    }

    fn schedule(&mut self, at: u64, later: Later) {
        self.next_order += 1;
        self.later.insert((at, self.next_order), later);
    }

    async fn act(&mut self, now: u64, later: Later) {
        match later {
            Later::Fault(kind) => {
                let mut truth = lock(&self.truth);
                truth.count(kind.name());
                truth.note(&format!("{kind:?}"));
                drop(truth);
                self.fail(now, kind).await;
            }
            Later::Grow(step) => self.grow_to(step),
            Later::Calm(calm) => calm(self),
            Later::CutAgain(who) => self.network.cut(&who),
            Later::StartProducer(host) => self.start_producer(host),
            Later::StartConsumer(consumer) => self.start_consumer(consumer),
            Later::StopTwins => {
                for twin in std::mem::take(&mut self.twins) {
                    kill(twin).await;
                }
            }
            Later::StartServer => self.network.start_server(),
        }
    }

    async fn fail(&mut self, now: u64, kind: FaultKind) {
        let network = self.network.clone();
        let latest = QUIET_AFTER;
        let after = |millis: u64| (now + millis).min(latest);
        match kind {
            FaultKind::AnswersLost { count } => network.weather(|weather| weather.lose_answers += count),
            FaultKind::AnswersHeld { count, millis } => network.weather(|weather| {
                (weather.hold_answers, weather.hold_millis) = (count, millis);
            }),
            FaultKind::PublishesRepeated { count, millis } => network.weather(|weather| {
                (weather.repeat_publishes, weather.repeat_millis) = (count, millis);
            }),
            FaultKind::Noise { lost_up, lost_down, doubled, millis } => {
                network.weather(|weather| {
                    (weather.lost_up, weather.lost_down, weather.doubled) = (lost_up, lost_down, doubled);
                });
                self.schedule(after(millis), Later::Calm(|world| world.network.weather(|weather| {
                    (weather.lost_up, weather.lost_down, weather.doubled) = (0, 0, 0);
                })));
            }
            FaultKind::Cut { who } => network.cut(&who),
            FaultKind::Silence { who, millis } => {
                network.silence(&who);
                self.schedule(after(millis), Later::CutAgain(who));
            }
            FaultKind::ServerKilled { down } => {
                network.stop_server();
                self.schedule(after(down), Later::StartServer);
            }
            FaultKind::PowerCut { down, lost } => {
                network.stop_server();
                network.operate(|broker| ((), { broker.roll_back(STREAM, lost); Vec::new() }));
                self.schedule(after(down), Later::StartServer);
            }
            FaultKind::JetStreamAbsent { millis } => {
                network.operate(|broker| { broker.absent = true; ((), Vec::new()) });
                self.schedule(after(millis), Later::Calm(|world| {
                    world.network.operate(|broker| { broker.absent = false; ((), Vec::new()) });
                }));
            }
            FaultKind::JetStreamUnavailable { millis } => {
                network.operate(|broker| { broker.unavailable = true; ((), Vec::new()) });
                self.schedule(after(millis), Later::Calm(|world| {
                    world.network.operate(|broker| { broker.unavailable = false; ((), Vec::new()) });
                }));
            }
            FaultKind::StreamFull { millis } => {
                network.operate(|broker| { broker.full = true; ((), Vec::new()) });
                self.schedule(after(millis), Later::Calm(|world| {
                    world.network.operate(|broker| { broker.full = false; ((), Vec::new()) });
                }));
            }
            FaultKind::StreamDeleted => network.operate(|broker| ((), broker.delete_stream(STREAM))),
            FaultKind::OldestDeleted { count } => self.delete_messages(0, count),
            FaultKind::MessageDeleted { nth } => self.delete_messages(nth, 1),
            FaultKind::Purged => self.delete_messages(0, usize::MAX),
            // A server says nothing of a request that came just before.
            FaultKind::ConsumersDeleted { silently } => network.operate(|broker| {
                let said = broker.delete_consumers(STREAM);
                ((), if silently { Vec::new() } else { said })
            }),
            FaultKind::ConsumersStalled { millis } => {
                network.operate(|broker| { broker.stalled = true; ((), Vec::new()) });
                self.schedule(after(millis), Later::Calm(|world| {
                    world.network.operate(|broker| { broker.stalled = false; ((), Vec::new()) });
                }));
            }
            FaultKind::ProducerKilled { host, down, yields } => {
                yield_times(yields).await;
                if let Some(task) = self.producers[host].take() {
                    kill(task).await;
                    self.schedule(after(down), Later::StartProducer(host));
                }
            }
            FaultKind::ConsumerKilled { consumer, down, yields } => {
                yield_times(yields).await;
                if let Some(task) = self.consumers[consumer].take() {
                    kill(task).await;
                    self.schedule(after(down), Later::StartConsumer(consumer));
                }
            }
            FaultKind::TwinProducer { host, millis } => {
                let number = self.twins.len();
                let name = format!("producer{host}-twin{number}");
                let twin = self.producer(host, &name);
                self.twins.push(twin);
                self.schedule(after(millis), Later::StopTwins);
            }
            FaultKind::DiskFull { consumer, millis } => {
                self.disks[consumer].set_full(true);
                self.schedule(after(millis), Later::Calm(|world| {
                    world.disks.iter().for_each(|disk| disk.set_full(false));
                }));
            }
            FaultKind::OriginHeld { consumer, host, log, late, millis } => {
                self.disks[consumer].hold(&origin(host, log), late);
                self.schedule(after(millis), Later::Calm(|world| world.disks.iter().for_each(Disk::release)));
            }
            FaultKind::SourceLost { host, log, permille } => {
                let origin = origin(host, log);
                network.look(|broker| {
                    let mut truth = lock(&self.truth);
                    let log = &truth.logs[&origin];
                    let oldest = (log.written * permille / 1000).max(log.oldest);
                    truth.forget(&origin, oldest, broker);
                });
            }
            FaultKind::Foreign { count, covering } => {
                let subject = match covering {
                    Some((host, log)) => self.subjects.publish(&origin(host, log)),
                    None if self.plan.partitions.is_some() => "s.p0.others".to_owned(),
                    None => "s.others".to_owned(),
                };
                for number in 0..count {
                    let payload = format!("line {number} of another at {now}").into();
                    let subject = subject.clone().into();
                    network.publish(OutboundMessage { subject, reply: None, headers: None, payload });
                }
            }
        }
    }

    fn delete_messages(&self, skip: usize, count: usize) {
        self.network.operate(|broker| {
            let sequences = broker.stream(STREAM).map(|stream| stream.messages.keys().copied().collect());
            let sequences: Vec<u64> = sequences.unwrap_or_default();
            for sequence in sequences.into_iter().skip(skip).take(count) {
                broker.delete_message(STREAM, sequence);
            }
            ((), Vec::new())
        });
    }

    /// The writers of logs come to step `step`; the very last line is written at the end.
    fn grow_to(&self, step: usize) {
        let mut truth = lock(&self.truth);
        for log in truth.logs.values_mut() {
            let length = log.bytes.len();
            let before_last = log.bytes[..length - 1].iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
            log.written = match step {
                usize::MAX => length,
                step => log.written.max(before_last * step / self.plan.steps),
            };
        }
        drop(truth);
        self.grow.send_modify(|number| *number += 1);
    }

    fn start_producer(&mut self, host: usize) {
        self.producers[host] = Some(self.producer(host, &format!("producer{host}")));
    }

    fn producer(&self, host: usize, name: &str) -> JoinHandle<()> {
        let origins = (0..self.plan.hosts[host]).map(|log| origin(host, log)).collect();
        let logs = Logs { truth: self.truth.clone(), origins, grown: self.grow.subscribe() };
        let transport: Arc<dyn Transport> = Arc::new(self.transport(name));
        let parts = Parts {
            sources: vec![Box::new(logs)],
            transport: Some((transport, Ends::Sender)),
            sink: None,
        };
        self.start(name, &format!("host{host}.example"), parts)
    }

    fn start_consumer(&mut self, consumer: usize) {
        let name = format!("consumer{consumer}");
        let mut transport = self.transport(&name);
        let partitions = &self.plan.consumers[consumer];
        transport.nats.read_partitions = Some(partitions.clone()).filter(|partitions| !partitions.is_empty());
        let parts = Parts {
            sources: Vec::new(),
            transport: Some((Arc::new(transport), Ends::Receiver)),
            sink: Some(Box::new(self.disks[consumer].clone())),
        };
        self.consumers[consumer] = Some(self.start(&name, "central", parts));
    }

    fn transport(&self, name: &str) -> Simulated {
        let (nats, name) = (Nats::deserialize(&self.table).expect("a table"), name.to_owned());
        Simulated { nats, name, network: self.network.clone(), truth: self.truth.clone() }
    }

    fn start(&self, name: &str, host: &str, parts: Parts) -> JoinHandle<()> {
        let settings = Settings {
            name: name.to_owned(),
            host: host.to_owned(),
            state_dir: self.state_dir.clone(),
            commit_interval: Duration::from_millis(self.plan.commit_millis),
            commit_bytes: self.plan.commit_bytes,
            max_batch_bytes: self.plan.max_batch_bytes,
            drain_timeout: Duration::from_secs(30),
            once: false,
        };
        let pipeline = Pipeline {
            file: "simulated.toml".into(),
            settings: Arc::new(settings),
            parts,
            flow: "simulated".to_owned(),
        };
        let control = Control { stop: CancellationToken::new(), hangups: watch::channel(0).1 };
        let (truth, name) = (self.truth.clone(), name.to_owned());
        lock(&truth).note(&format!("{name} starts"));
        tokio::task::spawn_local(async move {
            let ended = fshipper_pipeline::run(vec![pipeline], control).await;
            lock(&truth).violate(format!("{name} ended: {ended:?}"));
        })
    }
}

#[async_trait]
impl Transport for Simulated {
    async fn open_sender(&self, context: Context) -> Result<Box<dyn Sink>> {
        let connection = self.connect(sender::QUEUES)?;
        let stream = self.nats.stream.as_ref().expect("the table has a stream");
        let inner = jetstream::sender_over(&self.nats, stream, connection, context).await?;
        let truth = self.truth.clone();
        Ok(Box::new(WatchedSender {
            inner,
            truth,
            accepted: Vec::new(),
            committed: false,
            held: BTreeMap::new(),
        }))
    }

    async fn open_receiver(&self, from: Checkpoint, context: Context) -> Result<Box<dyn Source>> {
        let connection = self.connect(receiver::QUEUES)?;
        let stream = self.nats.stream.as_ref().expect("the table has a stream");
        jetstream::receiver_over(&self.nats, stream, connection, from, context).await
    }
}

impl Simulated {
    fn connect(&self, queues: super::super::connect::Queues) -> Result<Connection> {
        lock(&self.truth).note(&format!("{} connects", self.name));
        let events = Events::new("nats://simulated".to_owned());
        let Some(client) = self.network.connect(&self.name, &events, queues.outgoing, queues.incoming) else {
            bail!("cannot connect to nats://simulated");
        };
        Ok(Connection::simulated(Client::Simulated(client), events))
    }
}

/// Ends a process as SIGKILL does: at whatever it waits for.
async fn kill(task: JoinHandle<()>) {
    task.abort();
    // Cancelled, which is what was asked for.
    let _ = task.await;
}

async fn yield_times(times: usize) {
    for _ in 0..times {
        tokio::task::yield_now().await;
    }
}

/// What a sink has of the messages of others differs from what was stored.
fn foreign_differences(truth: &Truth, disk: &Disk) -> Vec<String> {
    let mut expected: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
    for (subject, payload) in &truth.foreign {
        if disk.reads(subject) {
            let bytes = expected.entry(subject).or_default();
            bytes.extend_from_slice(payload);
            bytes.push(b'\n');
        }
    }
    let mut differences = Vec::new();
    for (subject, bytes) in expected {
        let of_subject = |origin: &Origin| origin.path() == subject.as_bytes();
        let has = disk.origins().into_iter().find(of_subject).map(|origin| disk.bytes(&origin));
        if has.as_ref() != Some(&bytes) {
            let has = has.map(|has| String::from_utf8_lossy(&has).into_owned());
            differences.push(format!(
                "{} has {has:?} of the messages of others on {subject}, which are {:?}",
                disk.name(),
                String::from_utf8_lossy(&bytes)
            ));
        }
    }
    differences
}
