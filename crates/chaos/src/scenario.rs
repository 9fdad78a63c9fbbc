//! Who takes part in a run, and how it is configured: [`Scenario`].

use std::fmt;
use std::time::Duration;

use fastrand::Rng;

/// The least a log needs to be worth following.
const LEAST_BYTES_PER_SECOND: u64 = 2_000;

/// All logs of a seed together: sources, expected bytes, the broker's store and the output are on one disk.
const MOST_BYTES: u64 = 120_000_000;

/// Names that are no beginnings of each other, so that every output file says whose it is.
const LOG_NAMES: [&str; 6] =
    ["app.log", "nginx-access.log", "syslog", "db.main.log", "Worker_2.log", "kern.log"];

const HOSTS: [&str; 5] = ["web1.example.net", "web2.example.net", "db7", "cache-3.eu.example.org", "Edge_9"];

/// A set-up, drawn from a seed.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What it was drawn from.
    pub seed: u64,
    /// How long logs are written and things go wrong.
    pub span: Duration,
    /// At least one.
    pub producers: Vec<Producer>,
    /// One or two; two share the partitions.
    pub consumers: usize,
    /// How many partitions there are; `None`: none.
    pub partitions: Option<u32>,
    /// Whether every message holds one line.
    pub line_framing: bool,
    /// Whether messages are compressed.
    pub zstd: bool,
    /// What consumers write.
    pub output: Output,
    /// Of every pipeline.
    pub max_batch_bytes: u64,
    /// Longer lines travel in parts.
    pub max_line_bytes: u64,
    /// Of every pipeline.
    pub commit_interval: Duration,
    /// Whether logs are rotated by copying and truncating instead of renaming.
    pub copy_and_truncate: bool,
    /// Who may lose its memory. Only one of them: what both forget nobody can know.
    pub forgetful: Forgetful,
    /// Whether the output stands on a disk of its own that can be filled.
    pub small_disk: bool,
    /// Whether clocks jump.
    pub clocks: bool,
    /// At most so much is written to all logs together.
    pub bytes: u64,
}

/// A host with programs that log.
#[derive(Clone, Debug)]
pub struct Producer {
    /// Its name.
    pub host: String,
    /// At least one.
    pub logs: Vec<Log>,
    /// Whether rotated files match the globs too.
    pub rotated_match: bool,
}

/// One log.
#[derive(Clone, Debug)]
pub struct Log {
    /// Its file's name.
    pub name: &'static str,
    /// On average, as far as the bytes of the scenario reach.
    pub bytes_per_second: u64,
    /// What its rotated files are called.
    pub naming: Naming,
}

/// What rotated files are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// `.1` is the youngest.
    Numbered,
    /// `-20261123-000001`, counting up.
    Dated,
}

/// What a consumer writes.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    /// Whether the path holds a date, to the minute.
    pub dated: bool,
    /// Whether it holds the whole path of the source instead of its name.
    pub whole_path: bool,
    /// When a file is followed by the next one.
    pub max_bytes: Option<u64>,
    /// Whether rotated files are compressed.
    pub gzip: bool,
}

/// Who may lose its memory in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forgetful {
    /// Nobody.
    Nobody,
    /// The broker.
    Broker,
    /// The producers.
    Producers,
}

impl Scenario {
    /// The scenario of a seed.
    pub fn draw(seed: u64, span: Duration) -> Self {
        let mut random = Rng::with_seed(seed);
        let random = &mut random;
        let consumers = if random.u8(..3) == 0 { 2 } else { 1 };
        let partitions = match consumers {
            2 => Some(random.u32(2..=8)),
            _ => (random.u8(..4) == 0).then(|| random.u32(1..=5)),
        };
        let line_framing = random.u8(..3) == 0;
        let zstd = !line_framing && random.bool();
        let max_batch_bytes = pick(random, &[1_000_000, 1_000_000, 64_000, 16_384]);
        let max_line_bytes = if random.bool() { max_batch_bytes } else { 4_096 };
        let output = Output {
            dated: random.bool(),
            whole_path: random.u8(..4) == 0,
            max_bytes: random.bool().then(|| pick(random, &[48 << 10, 256 << 10, 1 << 20])),
            gzip: random.u8(..3) == 0,
        };
        let mut hosts = HOSTS;
        random.shuffle(&mut hosts);
        let producers = pick(random, &[1, 1, 2, 3]);
        let rate = pick(random, &[100_000, 400_000, 1_500_000]) / if line_framing { 4 } else { 1 };
        let bytes = (rate * span.as_secs()).min(MOST_BYTES);
        let producers =
            hosts[..producers].iter().map(|host| Producer::draw(host, rate / producers as u64, random));
        Self {
            seed,
            span,
            producers: producers.collect(),
            consumers,
            partitions,
            line_framing,
            zstd,
            output,
            max_batch_bytes,
            max_line_bytes,
            commit_interval: Duration::from_millis(pick(random, &[1_000, 200, 50])),
            copy_and_truncate: random.u8(..5) == 0,
            forgetful: pick(random, &[Forgetful::Nobody, Forgetful::Broker, Forgetful::Producers]),
            small_disk: random.u8(..3) == 0,
            clocks: random.u8(..4) == 0,
            bytes,
        }
    }

    /// Which consumer reads what a host sends.
    pub fn consumer_of(&self, host: &str) -> usize {
        match self.partitions {
            Some(partitions) if self.consumers > 1 => {
                (fnv1a32(host.as_bytes()) % partitions) as usize % self.consumers
            }
            _ => 0,
        }
    }

    /// The partitions that a consumer reads; `None`: all.
    pub fn partitions_of(&self, consumer: usize) -> Option<Vec<u32>> {
        let partitions = self.partitions.filter(|_| self.consumers > 1)?;
        Some((0..partitions).filter(|partition| *partition as usize % self.consumers == consumer).collect())
    }
}

impl Producer {
    fn draw(host: &str, bytes_per_second: u64, random: &mut Rng) -> Self {
        let mut names = LOG_NAMES;
        random.shuffle(&mut names);
        let count = random.usize(1..=4);
        let logs = names[..count].iter().map(|name| Log {
            name,
            bytes_per_second: (bytes_per_second / count as u64).max(LEAST_BYTES_PER_SECOND),
            naming: if random.bool() { Naming::Numbered } else { Naming::Dated },
        });
        let logs = logs.collect();
        Self { host: host.to_owned(), logs, rotated_match: random.bool() }
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}, {} s, at most {} bytes", self.seed, self.span.as_secs(), self.bytes)?;
        for (number, producer) in self.producers.iter().enumerate() {
            let logs = producer.logs.iter().map(|log| format!("{} ({:?})", log.name, log.naming));
            let logs = logs.collect::<Vec<_>>().join(", ");
            let matched = if producer.rotated_match { "match" } else { "do not match" };
            writeln!(f, "producer {number}: host {}, {logs}; rotated files {matched}", producer.host)?;
        }
        let framing = if self.line_framing { "line" } else { "batch" };
        let compression = if self.zstd { "zstd" } else { "none" };
        let rotation = if self.copy_and_truncate { "copy and truncate" } else { "rename" };
        writeln!(
            f,
            "consumers: {}, partitions: {:?}, framing: {framing}, compression: {compression}",
            self.consumers, self.partitions
        )?;
        writeln!(
            f,
            "max_batch_bytes: {}, max_line_bytes: {}, commit_interval: {:?}",
            self.max_batch_bytes, self.max_line_bytes, self.commit_interval
        )?;
        writeln!(f, "logs are rotated by: {rotation}; output: {:?}", self.output)?;
        write!(
            f,
            "forgetful: {:?}, disk that fills: {}, clocks that jump: {}",
            self.forgetful, self.small_disk, self.clocks
        )
    }
}

pub(crate) fn pick<T: Copy>(random: &mut Rng, from: &[T]) -> T {
    from[random.usize(..from.len())]
}

/// As producers choose their partition.
fn fnv1a32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, &byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_scenario_again_and_another_one_another() {
        let draw = |seed| Scenario::draw(seed, Duration::from_secs(60)).to_string();
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn every_partition_has_one_reader() {
        for seed in 0..200 {
            let scenario = Scenario::draw(seed, Duration::from_secs(60));
            assert!(scenario.bytes <= MOST_BYTES);
            let Some(partitions) = scenario.partitions.filter(|_| scenario.consumers > 1) else { continue };
            let mut read = (0..scenario.consumers).flat_map(|number| scenario.partitions_of(number).unwrap());
            let mut read = read.by_ref().collect::<Vec<_>>();
            read.sort_unstable();
            assert_eq!(read, (0..partitions).collect::<Vec<_>>());
        }
    }

    #[test]
    fn hosts_are_hashed_as_producers_hash_them() {
        // The published test vectors of FNV-1a.
        assert_eq!(fnv1a32(b""), 0x811c_9dc5);
        assert_eq!(fnv1a32(b"foobar"), 0xbf9c_f968);
    }

    #[test]
    fn no_name_of_a_log_begins_another() {
        for (index, one) in LOG_NAMES.iter().enumerate() {
            let begins =
                LOG_NAMES.iter().enumerate().any(|(other, name)| other != index && name.starts_with(one));
            assert!(!begins, "{one}");
        }
    }
}
