//! Everything that takes part in one run: [`Stage`].

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, anyhow};
use fshipper_testing::{Fshipper, NatsOptions, NatsServer, Proxy};
use tokio::runtime::Runtime;

use crate::actor::Actor;
use crate::author::{Author, Written};
use crate::fault::Who;
use crate::outputs::OutputFiles;
use crate::pipelines;
use crate::run::Settings;
use crate::scenario::Scenario;
use crate::small_disk::SmallDisk;

/// What a disk that can be filled has beyond the bytes of the scenario: copies that are being compressed, and
/// the ledger.
const DISK_RESERVE_BYTES: u64 = 64 << 20;

/// The clock of a process that runs with libfaketime, relative to the real one.
const CLOCK_FILE: &str = "clock";

const NO_JUMP: &str = "+0";

/// The processes, the network between them, the logs, the disks. Whatever is dropped is stopped.
#[derive(Debug)]
pub(crate) struct Stage {
    // Dropped in this order: who writes, who ships, and then what they use.
    pub(crate) authors: Vec<Author>,
    pub(crate) actors: BTreeMap<Who, Actor>,
    pub(crate) proxies: BTreeMap<Who, Proxy>,
    /// One for each consumer, where there can be any.
    pub(crate) disks: Vec<SmallDisk>,
    pub(crate) broker: NatsServer,
    pub(crate) logs: Vec<LogOnStage>,
    /// Whether clocks can jump.
    pub(crate) has_clocks: bool,
    directory: PathBuf,
    /// The proxies run on it.
    _runtime: Runtime,
}

/// One log, and where it arrives.
#[derive(Debug)]
pub(crate) struct LogOnStage {
    /// `web1/app.log`, for people.
    pub(crate) name: String,
    pub(crate) producer: usize,
    pub(crate) output: OutputFiles,
    /// Whether anything has.
    pub(crate) arrived: Arc<AtomicBool>,
}

impl Stage {
    /// Prepares everything in `directory`; nothing runs yet except the broker. What this machine cannot do
    /// comes back as notes.
    pub(crate) fn set(
        scenario: &Scenario,
        settings: &Settings,
        directory: &Path,
    ) -> Result<(Self, Vec<String>)> {
        let mut notes = Vec::new();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.context("cannot start a runtime for the proxies")?;
        let broker = NatsServer::start(NatsOptions {
            jetstream: true,
            store_dir: Some(directory.join("broker")),
            ..NatsOptions::default()
        });
        let faketime = settings.faketime.as_deref().filter(|_| scenario.clocks);
        if scenario.clocks && faketime.is_none() {
            notes.push("no clock jumps: there is no libfaketime".to_owned());
        }
        let producers = (0..scenario.producers.len()).map(Who::Producer);
        let everybody = producers.chain((0..scenario.consumers).map(Who::Consumer)).collect::<Vec<_>>();
        let proxies = everybody.iter().map(|who| (*who, runtime.block_on(Proxy::start(broker.address()))));
        let mut stage = Self {
            authors: Vec::new(),
            actors: BTreeMap::new(),
            proxies: proxies.collect(),
            disks: Vec::new(),
            broker,
            logs: Vec::new(),
            has_clocks: faketime.is_some(),
            directory: directory.to_owned(),
            _runtime: runtime,
        };
        for who in everybody {
            stage.add(who, scenario, settings, faketime)?;
        }
        if scenario.small_disk {
            for number in 0..scenario.consumers {
                let bytes = 2 * scenario.bytes + DISK_RESERVE_BYTES;
                match SmallDisk::mount(&stage.output(number), bytes) {
                    Ok(disk) => stage.disks.push(disk),
                    Err(error) => notes.push(format!("no disk fills up: {error:#}")),
                }
            }
        }
        for (number, producer) in scenario.producers.iter().enumerate() {
            for log in &producer.logs {
                let source = stage.folder(Who::Producer(number)).join("logs").join(log.name);
                let host = stage.output(scenario.consumer_of(&producer.host)).join(&producer.host);
                let below =
                    if scenario.output.whole_path { source.strip_prefix("/")? } else { Path::new(log.name) };
                stage.logs.push(LogOnStage {
                    name: format!("{}/{}", producer.host, log.name),
                    producer: number,
                    output: OutputFiles::new(&host.join(below)),
                    arrived: Arc::default(),
                });
            }
        }
        Ok((stage, notes))
    }

    /// Begins to write logs.
    pub(crate) fn write_logs(&mut self, scenario: &Scenario) -> Result<()> {
        for number in 0..scenario.producers.len() {
            let folder = self.folder(Who::Producer(number));
            let arrived =
                self.logs.iter().filter(|log| log.producer == number).map(|log| log.arrived.clone());
            let arrived = arrived.collect::<Vec<_>>();
            let author =
                Author::start(scenario, number, &folder.join("logs"), &folder.join("expected"), &arrived)?;
            self.authors.push(author);
        }
        Ok(())
    }

    /// Ends all writing; the answer has one item for each of `logs`.
    pub(crate) fn end_logs(&mut self) -> Result<Vec<Written>> {
        let written = self.authors.iter_mut().map(Author::finish).collect::<Result<Vec<_>>>()?;
        Ok(written.into_iter().flatten().collect())
    }

    /// Tells the authors of logs that have arrived.
    pub(crate) fn look_for_arrivals(&mut self) -> Result<()> {
        for log in self.logs.iter_mut().filter(|log| !log.arrived.load(Ordering::Relaxed)) {
            if log.output.extent()?.is_some_and(|extent| extent.bytes > 0) {
                log.arrived.store(true, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Whether all of the logs stands in their outputs, and nothing there is about to be renamed or compressed.
    pub(crate) fn has_arrived(&mut self, written: &[Written]) -> Result<bool> {
        for (log, written) in self.logs.iter_mut().zip(written) {
            let extent = log.output.extent()?;
            if extent.is_none_or(|extent| extent.bytes < written.bytes || !extent.settled) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Starts a process that is down.
    pub(crate) fn start(&mut self, who: Who) -> Result<()> {
        match who {
            Who::Broker if self.broker.pid().is_none() => self.broker.restart(),
            Who::Broker => {}
            who => self.actor(who)?.start(),
        }
        Ok(())
    }

    pub(crate) fn kill(&mut self, who: Who) -> Result<()> {
        match who {
            Who::Broker => self.broker.kill(),
            who => self.actor(who)?.kill(),
        }
        Ok(())
    }

    /// SIGSTOP when `pause`, else SIGCONT.
    pub(crate) fn pause(&mut self, who: Who, pause: bool) -> Result<()> {
        match (who, pause) {
            (Who::Broker, _) if self.broker.pid().is_none() => {}
            (Who::Broker, true) => self.broker.pause(),
            (Who::Broker, false) => self.broker.resume(),
            (who, true) => self.actor(who)?.pause(),
            (who, false) => self.actor(who)?.resume(),
        }
        Ok(())
    }

    pub(crate) fn actor(&mut self, who: Who) -> Result<&mut Actor> {
        self.actors.get_mut(&who).with_context(|| format!("{who} does not take part"))
    }

    pub(crate) fn proxy(&self, who: Who) -> Result<&Proxy> {
        self.proxies.get(&who).with_context(|| format!("{who} has no connection of its own"))
    }

    /// Sets the clock of a process, by so many seconds before or after the real one.
    pub(crate) fn set_clock(&self, who: Who, seconds: i64) -> Result<()> {
        replace(&self.folder(who).join(CLOCK_FILE), &format!("{seconds:+}"))
    }

    /// The folder of a process.
    pub(crate) fn folder(&self, who: Who) -> PathBuf {
        self.directory.join(who.to_string().replace(' ', "-"))
    }

    /// What the broker's store is in.
    pub(crate) fn broker_store(&self) -> PathBuf {
        self.broker.store_dir()
    }

    /// Where a consumer writes.
    pub(crate) fn output(&self, consumer: usize) -> PathBuf {
        self.folder(Who::Consumer(consumer)).join("out")
    }

    fn add(
        &mut self,
        who: Who,
        scenario: &Scenario,
        settings: &Settings,
        faketime: Option<&Path>,
    ) -> Result<()> {
        let folder = self.folder(who);
        let (text, folders) = match who {
            Who::Producer(number) => {
                let logs = folder.join("logs");
                let url = self.proxy(who)?.url();
                (
                    pipelines::producer(scenario, &scenario.producers[number], &logs, &url),
                    ["logs", "expected"],
                )
            }
            Who::Consumer(number) => {
                let url = self.proxy(who)?.url();
                (pipelines::consumer(scenario, number, &self.output(number), &url), ["out", "plain"])
            }
            Who::Broker => return Err(anyhow!("the broker is no pipeline")),
        };
        for name in folders {
            fs::create_dir_all(folder.join(name))
                .with_context(|| format!("cannot create folders in {folder:?}"))?;
        }
        replace(&folder.join("pipeline.toml"), &text)?;
        let mut launch = Fshipper::new(&settings.binary, &folder).arguments(["run", "--log-format", "json"]);
        if settings.debug_logs {
            launch = launch.argument("--verbose");
        }
        launch = launch.argument("pipeline.toml").variable("STATE_DIRECTORY", folder.join("state"));
        if let Some(library) = faketime {
            let clock = folder.join(CLOCK_FILE);
            replace(&clock, NO_JUMP)?;
            launch = launch.variable("LD_PRELOAD", library).variable("FAKETIME_TIMESTAMP_FILE", clock);
            // Looked at on every call, and only the wall clock: neither timers nor files.
            for name in
                ["FAKETIME_NO_CACHE", "FAKETIME_DONT_FAKE_MONOTONIC", "DONT_FAKE_MONOTONIC", "NO_FAKE_STAT"]
            {
                launch = launch.variable(name, "1");
            }
        }
        self.actors.insert(who, Actor::new(who, launch));
        Ok(())
    }
}

/// Writes a file so that nobody sees half of it.
fn replace(path: &Path, text: &str) -> Result<()> {
    let temporary = path.with_extension("new");
    let replaced = fs::write(&temporary, text).and_then(|()| fs::rename(&temporary, path));
    replaced.with_context(|| format!("cannot write {path:?}"))
}
