//! What a seed means: [`Plan`], a small world and what goes wrong in it.

use std::fmt;

/// A world and its faults.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) seed: u64,
    /// How many logs each host has.
    pub(super) hosts: Vec<usize>,
    pub(super) log_bytes: usize,
    pub(super) partitions: Option<u32>,
    /// What each consumer reads; all when empty.
    pub(super) consumers: Vec<Vec<u32>>,
    /// Whether there is a commit floor; which consumers tell it, how long they wait for an answer, and whether
    /// they delete what they have.
    pub(super) floor: bool,
    pub(super) tells: Vec<bool>,
    pub(super) gap_wait_seconds: u64,
    pub(super) purge: bool,
    pub(super) line_framing: bool,
    pub(super) compressed: bool,
    pub(super) max_payload: usize,
    pub(super) max_batch_bytes: usize,
    /// The same at the consumers: a message may be longer than their batches.
    pub(super) read_batch_bytes: usize,
    pub(super) commit_bytes: u64,
    pub(super) commit_millis: u64,
    pub(super) latency: u64,
    /// In how many steps a log is written, within [`QUIET_AFTER`].
    pub(super) steps: usize,
    /// Whether the last of them writes all there is, so that in the end no producer has anything to send.
    pub(super) ends_idle: bool,
    pub(super) faults: Vec<Fault>,
}

/// One thing that goes wrong.
#[derive(Clone, Debug)]
pub(super) struct Fault {
    /// When, in milliseconds.
    pub(super) at: u64,
    pub(super) kind: FaultKind,
}

/// What goes wrong.
#[derive(Clone, Debug)]
pub(super) enum FaultKind {
    AnswersLost { count: u32 },
    AnswersHeld { count: u32, millis: u64 },
    PublishesRepeated { count: u32, millis: u64 },
    Noise { lost_up: u32, lost_down: u32, doubled: u32, millis: u64 },
    Cut { who: String },
    Silence { who: String, millis: u64 },
    ServerKilled { down: u64 },
    PowerCut { down: u64, lost: usize, notices_lost: usize },
    JetStreamAbsent { millis: u64 },
    JetStreamUnavailable { millis: u64 },
    StreamFull { millis: u64 },
    StreamDeleted,
    OldestDeleted { count: usize },
    MessageDeleted { nth: usize },
    Purged,
    ConsumersDeleted { silently: bool },
    ConsumersStalled { millis: u64 },
    ProducerKilled { host: usize, down: u64, yields: usize },
    ConsumerKilled { consumer: usize, down: u64, yields: usize },
    TwinProducer { host: usize, millis: u64 },
    DiskFull { consumer: usize, millis: u64 },
    OriginHeld { consumer: usize, host: usize, log: usize, late: bool, millis: u64 },
    SourceLost { host: usize, log: usize, permille: usize },
    Foreign { count: usize, covering: Option<(usize, usize)> },
    NoticesLost { count: u32 },
    NoticesHeld { count: u32, millis: u64 },
    FloorDeleted,
    WipedWhileDown { producers: bool, consumers: bool, floor: bool, down: u64 },
}

/// From here on nothing goes wrong any more, and every log has all, or [all but its last line](Plan::ends_idle).
pub(super) const QUIET_AFTER: u64 = 30_000;

/// Longer than any run: who waits so long for an answer gets one.
pub(super) const PATIENT_SECONDS: u64 = 3600;

/// The most faults of one seed.
const MAX_FAULTS: usize = 9;

impl Plan {
    /// The plan of a seed.
    pub(super) fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed ^ 0x5e_ed0f_91a4);
        let hosts: Vec<usize> = (0..random.usize(1..=3)).map(|_| random.usize(1..=3)).collect();
        let partitions = random.bool().then(|| random.u32(1..=4));
        let consumers = match partitions {
            Some(partitions) if partitions > 1 && random.bool() => {
                let cut = random.u32(1..partitions);
                vec![(0..cut).collect(), (cut..partitions).collect()]
            }
            _ if random.u32(..4) == 0 => vec![Vec::new(), Vec::new()],
            _ => vec![Vec::new()],
        };
        let line_framing = random.u32(..3) == 0;
        let (floor, reads_twice) = (random.u32(..5) > 0, consumers.len() > 1 && consumers[0].is_empty());
        let gap_wait_seconds = if random.u32(..8) == 0 { [0, 2][random.usize(..2)] } else { PATIENT_SECONDS };
        let purge = floor && !reads_twice && random.u32(..3) == 0;
        let mut plan = Self {
            seed,
            floor,
            // The one that only reads along is configured so.
            tells: (0..consumers.len()).map(|consumer| floor && (consumer == 0 || !reads_twice)).collect(),
            gap_wait_seconds,
            purge,
            log_bytes: [60, 600, 3000][random.usize(..3)] + random.usize(..500),
            line_framing,
            compressed: !line_framing && random.u32(..6) == 0,
            max_payload: if random.u32(..3) == 0 { random.usize(620..1200) } else { 1 << 20 },
            max_batch_bytes: [40, 300, 2000, 100_000][random.usize(..4)],
            read_batch_bytes: 0,
            commit_bytes: if random.bool() { random.u64(50..2000) } else { 8 << 20 },
            commit_millis: [20, 300, 1500][random.usize(..3)],
            latency: [1, 5, 40, 200][random.usize(..4)],
            steps: random.usize(1..=8),
            ends_idle: false,
            hosts,
            partitions,
            consumers,
            faults: Vec::new(),
        };
        let count = random.usize(..=MAX_FAULTS);
        let mut faults: Vec<Fault> = (0..count).map(|_| plan.fault(&mut random)).collect();
        faults.sort_by_key(|fault| fault.at);
        plan.faults = faults;
        plan.read_batch_bytes = [30, 200, plan.max_batch_bytes][random.usize(..3)];
        // Enough messages for anything to go wrong between them, few enough to be quick.
        let messages = if plan.line_framing { 12 } else { 30 };
        plan.log_bytes =
            plan.log_bytes.min(plan.max_batch_bytes.min(plan.max_payload - 500) * messages).max(100);
        // What only a consumer lacks of which no producer hears is missed with the next message.
        let is_heard_of = plan.tells.iter().all(|&tells| tells == floor);
        let is_missed_later = plan.faults.iter().any(|fault| fault.kind.is_missed_later());
        plan.ends_idle = random.bool() && is_heard_of && !is_missed_later;
        plan
    }

    fn fault(&self, random: &mut fastrand::Rng) -> Fault {
        let at = random.u64(..QUIET_AFTER - 2_000);
        let host = random.usize(..self.hosts.len());
        let log = random.usize(..self.hosts[host]);
        let consumer = random.usize(..self.consumers.len());
        let count = random.u32(1..=4);
        let millis = [30, 400, 3_000, 14_000][random.usize(..4)] + random.u64(..300);
        let who = match random.u32(..3) {
            0 => String::new(),
            1 => format!("producer{host}"),
            _ => format!("consumer{consumer}"),
        };
        let (down, yields) = (random.u64(..3_000), random.usize(..40));
        let kind = match random.u32(..if self.floor { 35 } else { 29 }) {
            0 | 1 => FaultKind::AnswersLost { count },
            2 => FaultKind::AnswersHeld { count, millis },
            3 | 4 => FaultKind::PublishesRepeated { count, millis },
            5 | 6 => {
                let mut permille = || [0, 20, 200][random.usize(..3)];
                FaultKind::Noise { lost_up: permille(), lost_down: permille(), doubled: permille(), millis }
            }
            7 | 8 => FaultKind::Cut { who },
            9 => FaultKind::Silence { who, millis },
            10 => FaultKind::ServerKilled { down },
            11 | 12 => {
                let notices_lost = if random.bool() { 0 } else { random.usize(..6) };
                FaultKind::PowerCut { down, lost: random.usize(1..=12), notices_lost }
            }
            13 => FaultKind::JetStreamAbsent { millis },
            14 => FaultKind::JetStreamUnavailable { millis },
            15 => FaultKind::StreamFull { millis },
            16 => FaultKind::StreamDeleted,
            17 => FaultKind::OldestDeleted { count: count as usize },
            18 => FaultKind::MessageDeleted { nth: random.usize(..20) },
            19 => FaultKind::Purged,
            20 => FaultKind::ConsumersDeleted { silently: random.bool() },
            21 => FaultKind::ConsumersStalled { millis },
            22 | 23 => FaultKind::ProducerKilled { host, down, yields },
            24 => FaultKind::ConsumerKilled { consumer, down, yields },
            25 => FaultKind::TwinProducer { host, millis },
            26 => match random.bool() {
                true => FaultKind::DiskFull { consumer, millis },
                false => FaultKind::OriginHeld { consumer, host, log, late: random.bool(), millis },
            },
            27 => FaultKind::SourceLost { host, log, permille: random.usize(..=1000) },
            28 => {
                let covering = random.bool().then_some((host, log));
                FaultKind::Foreign { count: count as usize, covering }
            }
            29 => FaultKind::NoticesLost { count },
            30 | 31 => FaultKind::NoticesHeld { count, millis },
            32 => FaultKind::FloorDeleted,
            _ => {
                let (producers, consumers) = [(true, false), (false, true), (true, true)][random.usize(..3)];
                FaultKind::WipedWhileDown { producers, consumers, floor: random.u32(..4) == 0, down }
            }
        };
        Fault { at, kind }
    }
}

impl FaultKind {
    /// Whether messages are deleted one by one, as limits and operators do it, or get lost on the way to a consumer.
    fn is_missed_later(&self) -> bool {
        match self {
            Self::OldestDeleted { .. } | Self::MessageDeleted { .. } | Self::Purged => true,
            Self::Noise { lost_down, .. } => *lost_down > 0,
            _ => false,
        }
    }

    /// Its name, for counting.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::AnswersLost { .. } => "acknowledgements lost",
            Self::AnswersHeld { .. } => "answers held up",
            Self::PublishesRepeated { .. } => "old copies of publishes arrive late",
            Self::Noise { .. } => "messages lost and doubled at random",
            Self::Cut { .. } => "connections cut",
            Self::Silence { .. } => "connections silent, then cut",
            Self::ServerKilled { .. } => "server killed",
            Self::PowerCut { .. } => "server lost acknowledged messages",
            Self::JetStreamAbsent { .. } => "no responders",
            Self::JetStreamUnavailable { .. } => "JetStream unavailable",
            Self::StreamFull { .. } => "stream full",
            Self::StreamDeleted => "stream deleted",
            Self::OldestDeleted { .. } => "oldest messages discarded",
            Self::MessageDeleted { .. } => "one message deleted",
            Self::Purged => "stream purged",
            Self::ConsumersDeleted { .. } => "consumers deleted",
            Self::ConsumersStalled { .. } => "heartbeats missed",
            Self::ProducerKilled { .. } => "producer killed",
            Self::ConsumerKilled { .. } => "consumer killed",
            Self::TwinProducer { .. } => "two producers of one host",
            Self::DiskFull { .. } => "disk full",
            Self::OriginHeld { .. } => "one origin cannot be written",
            Self::SourceLost { .. } => "source lost its oldest bytes",
            Self::Foreign { .. } => "messages of others",
            Self::NoticesLost { .. } => "notices of the floor lost",
            Self::NoticesHeld { .. } => "notices of the floor late and stale",
            Self::FloorDeleted => "floor deleted",
            Self::WipedWhileDown { floor: false, .. } => {
                "stream deleted while its readers or writers are down"
            }
            Self::WipedWhileDown { floor: true, .. } => "stream and floor deleted while somebody is down",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>7} {:?}", self.at, self.kind)
    }
}
