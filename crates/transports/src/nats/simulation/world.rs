//! One run of one plan: [`run`].

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fshipper_pipeline::Origin;
use serde::Deserialize as _;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::super::config::Nats;
use super::super::pattern::covers;
use super::super::subject::Subjects;
use super::broker::Broker;
use super::disk::{Disk, epoch_of};
use super::logs::{lines, origin};
use super::network::Network;
use super::plan::{Fault, FaultKind, PATIENT_SECONDS, Plan, QUIET_AFTER};
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

/// Everything that there is.
pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) table: Value,
    pub(super) subjects: Subjects,
    pub(super) network: Network,
    pub(super) truth: SharedTruth,
    pub(super) grow: super::watch::Sender<u64>,
    pub(super) disks: Vec<Disk>,
    /// Where processes lock their directories; removed with the world.
    pub(super) state_dir: tempfile::TempDir,
    /// How many processes were started.
    pub(super) lives: Cell<u64>,
    pub(super) producers: Vec<Option<JoinHandle<()>>>,
    pub(super) consumers: Vec<Option<JoinHandle<()>>>,
    pub(super) twins: Vec<JoinHandle<()>>,
    /// What is to be done later: when, in order.
    later: BTreeMap<(u64, u64), Later>,
    next_order: u64,
}

/// The end of a fault, or a step of the writers of logs.
pub(super) enum Later {
    Fault(FaultKind),
    Grow(usize),
    Calm(fn(&World)),
    Mend(fn(&mut Broker, bool)),
    CutAgain(String),
    StartProducer(usize),
    StartConsumer(usize),
    StopTwins,
    StartServer,
}

/// The stream of all runs.
pub(super) const STREAM: &str = "LOGS";

/// Its commit floor.
pub(super) const FLOOR: &str = "LOGS_floor";

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
    for panic in PANICS.with(|panics| std::mem::take(&mut *panics.lock().expect("it only panics elsewhere")))
    {
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
                PANICS
                    .with(|panics| panics.lock().expect("it only panics elsewhere").push(panic.to_string()));
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
            "stream": { "name": STREAM, "create": true, "floor": plan.floor,
                "gap_wait": format!("{}s", plan.gap_wait_seconds) },
        });
        if let Some(partitions) = plan.partitions {
            table["partitions"] = json!(partitions);
        }
        let subjects = Nats::deserialize(&table).expect("a table").subjects();
        let mut random = fastrand::Rng::with_seed(plan.seed ^ 0xb17e);
        let mut books = Truth::new(STREAM, plan.floor, subjects.clone());
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
            let filters =
                subjects.receive(Some(partitions.as_slice()).filter(|partitions| !partitions.is_empty()));
            let mine = origins.iter().filter(|origin| {
                let subject = subjects.publish(origin);
                filters.iter().any(|filter| covers(filter, &subject))
            });
            let asks = plan.tells[number] && plan.gap_wait_seconds == PATIENT_SECONDS;
            lock(&truth).add_sink(&name, asks, mine.cloned());
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
            state_dir: tempfile::tempdir_in(state_dir).expect("a directory can be created"),
            lives: Cell::new(0),
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
        if !self.plan.ends_idle {
            self.grow_to(usize::MAX);
        }
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
                        violations
                            .push(format!("{name} calls the byte {offset} of {origin} lost, and it is not"));
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
        *truth.counts.entry("bytes recorded as lost".to_owned()).or_default() += lost as u64;
        for violation in violations {
            truth.violate(violation);
        }
    }

    fn is_complete(&self) -> bool {
        let truth = lock(&self.truth);
        let logs = truth.sinks.values().flatten();
        let mut missing =
            logs.filter(|(origin, delivered)| delivered.committed != truth.logs[origin].bytes.len());
        let foreign = || {
            truth.went_back
                || truth.deleted
                || self.disks.iter().all(|disk| foreign_differences(&truth, disk).is_empty())
        };
        missing.next().is_none() && foreign()
    }

    fn missing(&self) -> String {
        let truth = lock(&self.truth);
        let mut missing = String::new();
        for (name, origins) in &truth.sinks {
            for (origin, delivered) in origins {
                let length = truth.logs[origin].bytes.len();
                if delivered.committed != length {
                    missing
                        .push_str(&format!("{name} has {} of {length} of {origin}; ", delivered.committed));
                }
            }
        }
        missing
    }

    pub(super) fn schedule(&mut self, at: u64, later: Later) {
        self.next_order += 1;
        self.later.insert((at, self.next_order), later);
    }

    async fn act(&mut self, now: u64, later: Later) {
        match later {
            Later::Fault(kind) => {
                self.record(&kind);
                self.fail(now, kind).await;
            }
            Later::Grow(step) => self.grow_to(step),
            Later::Calm(calm) => calm(self),
            Later::Mend(set) => self.network.change(|broker| set(broker, false)),
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

    fn record(&self, kind: &FaultKind) {
        let mut truth = lock(&self.truth);
        truth.count(kind.name());
        truth.note(&format!("{kind:?}"));
    }

    /// The writers of logs come to step `step`; the very last line is written at the end, or with the last step.
    fn grow_to(&self, step: usize) {
        let mut truth = lock(&self.truth);
        for log in truth.logs.values_mut() {
            let length = log.bytes.len();
            let before_last =
                log.bytes[..length - 1].iter().rposition(|&byte| byte == b'\n').map_or(0, |end| end + 1);
            log.written = match step {
                usize::MAX => length,
                step if self.plan.ends_idle && step == self.plan.steps => length,
                step => log.written.max(before_last * step / self.plan.steps),
            };
        }
        drop(truth);
        self.grow.send_modify(|number| *number += 1);
    }
}

/// Ends a process as SIGKILL does: at whatever it waits for.
pub(super) async fn kill(task: JoinHandle<()>) {
    task.abort();
    // Cancelled, which is what was asked for.
    let _ = task.await;
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
