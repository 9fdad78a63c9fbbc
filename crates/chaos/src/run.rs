//! One run from its first byte to its verdict: [`run`], [`run_as`].

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::conductor::Conductor;
use crate::fault::Who;
use crate::judge::{Case, judge};
use crate::log_scan::LogScan;
use crate::outcome::Outcome;
use crate::outputs::files_below;
use crate::scenario::Scenario;
use crate::schedule::Schedule;
use crate::stage::Stage;

/// How long everybody runs once more when everything is there: some commits, and a producer's look at its logs.
const ENCORE: Duration = Duration::from_secs(4);

/// How a run is done.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The `fshipper` binary.
    pub binary: PathBuf,
    /// How long after the last fault everything may take to arrive.
    pub patience: Duration,
    /// Whether to print what happens while it happens.
    pub verbose: bool,
    /// Whether the processes log what they do in detail.
    pub debug_logs: bool,
    /// The library that makes clocks jump.
    pub faketime: Option<PathBuf>,
    /// Ends a run at once when it is set: everything that was started is stopped, and every disk unmounted.
    pub interrupted: Arc<AtomicBool>,
}

impl Settings {
    /// Settings as they come for a binary.
    pub fn new(binary: impl Into<PathBuf>) -> Self {
        const PATIENCE: Duration = Duration::from_secs(150);
        Self {
            binary: binary.into(),
            patience: PATIENCE,
            verbose: false,
            debug_logs: false,
            faketime: None,
            interrupted: Arc::default(),
        }
    }
}

/// Draws the scenario and the schedule of a seed, and plays them. When it fails, the outcome says where
/// everything is left.
pub fn run(seed: u64, span: Duration, settings: &Settings) -> Outcome {
    let scenario = Scenario::draw(seed, span);
    run_as(&scenario, &Schedule::draw(&scenario), settings)
}

/// Plays a schedule of its own.
pub fn run_as(scenario: &Scenario, schedule: &Schedule, settings: &Settings) -> Outcome {
    let start = Instant::now();
    let mut outcome = Outcome::of(scenario);
    let prefix = format!("fshipper-chaos-{}-", scenario.seed);
    let mut directory = match tempfile::Builder::new().prefix(&prefix).tempdir() {
        Ok(directory) => directory,
        Err(error) => {
            outcome.failures.push(format!("cannot create a directory: {error}"));
            return outcome;
        }
    };
    // The helpers of tests fail by panicking; the next seed runs all the same.
    let played =
        catch_unwind(AssertUnwindSafe(|| play(scenario, schedule, settings, directory.path(), &mut outcome)));
    match played {
        Ok(Ok(())) => {}
        Ok(Err(error)) => outcome.failures.push(format!("{error:#}")),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            outcome.failures.push(format!("the run panicked: {}", text.unwrap_or("it does not say why")));
        }
    }
    if !outcome.passed() {
        directory.disable_cleanup(true);
        outcome.directory = Some(directory.path().to_owned());
    }
    outcome.seconds = start.elapsed().as_secs_f64();
    outcome
}

fn play(
    scenario: &Scenario,
    schedule: &Schedule,
    settings: &Settings,
    directory: &Path,
    outcome: &mut Outcome,
) -> Result<()> {
    let plan = format!("{scenario}\n\n{schedule}");
    fs::write(directory.join("schedule.txt"), plan).context("cannot write the schedule")?;
    let (mut stage, notes) = Stage::set(scenario, settings, directory)?;
    let played = play_on(&mut stage, &notes, scenario, schedule, settings, directory, outcome);
    if played.is_err() || !outcome.passed() {
        stage.actors.values_mut().for_each(crate::actor::Actor::kill);
        fs::write(directory.join("broker.log"), stage.broker.log())
            .context("cannot keep the broker's log")?;
        for (number, disk) in stage.disks.iter().enumerate() {
            disk.keep(&stage.folder(Who::Consumer(number)).join("out-kept"))?;
        }
    }
    played
}

fn play_on(
    stage: &mut Stage,
    notes: &[String],
    scenario: &Scenario,
    schedule: &Schedule,
    settings: &Settings,
    directory: &Path,
    outcome: &mut Outcome,
) -> Result<()> {
    stage.write_logs(scenario)?;
    let mut conductor = Conductor::new(stage, &directory.join("events.txt"), settings)?;
    for note in notes {
        conductor.note(note)?;
    }
    let played = conductor.play(schedule, scenario.span);
    outcome.faults = std::mem::take(&mut conductor.done);
    outcome.skipped = std::mem::take(&mut conductor.skipped);
    let written = conductor.stage().end_logs()?;
    outcome.bytes = written.iter().map(|log| log.bytes).sum();
    outcome.lines = written.iter().map(|log| log.lines).sum();
    outcome.rotations = written.iter().map(|log| log.rotations).sum();
    played?;

    conductor.note(&"no more faults, nothing more is written")?;
    let mut complete = conductor.wait(settings.patience, |stage| stage.has_arrived(&written))?;
    if complete {
        conductor.note(&"everything is there: once more from the start")?;
        conductor.encore(ENCORE)?;
        complete = conductor.wait(settings.patience, |stage| stage.has_arrived(&written))?;
    }
    if !complete {
        outcome.failures.push(format!("not everything arrived in {:?}", settings.patience));
    }
    conductor.note(&"stopping")?;
    conductor.stage().actors.values_mut().for_each(crate::actor::Actor::measure);
    conductor.bring_down()?;
    conductor.note(&"stopped")?;

    for (who, actor) in &stage.actors {
        outcome.starts += actor.starts;
        let peak = match who {
            Who::Producer(_) => &mut outcome.peak_producer_kib,
            _ => &mut outcome.peak_consumer_kib,
        };
        *peak = actor.peak_memory_kib.max(*peak);
    }
    let outputs = (0..scenario.consumers).map(|number| stage.output(number)).collect::<Vec<_>>();
    let cases = stage.logs.iter().zip(&written);
    let cases = cases.map(|(log, written)| Case {
        name: &log.name,
        expected: &written.expected,
        output: &log.output,
    });
    outcome.failures.extend(judge(&cases.collect::<Vec<_>>(), &outputs, &directory.join("plain"))?);
    for output in &outputs {
        outcome.output_files += files_below(output)?.len() as u64;
    }
    let mut scan = LogScan::default();
    for who in stage.actors.keys() {
        scan.folder(&stage.folder(*who))?;
    }
    outcome.duplicate_bytes = scan.duplicate_bytes;
    outcome.warnings = scan.warnings;
    outcome.errors = scan.errors;
    outcome.failures.append(&mut scan.failures);
    Ok(())
}
