//! `fshipper-chaos`: plays seeds, one after the other, and says what came of them.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{env, fs};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use fshipper_chaos::{Outcome, Scenario, Schedule, Series, Settings, run};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

/// Where systems keep libfaketime.
const FAKETIME: [&str; 4] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib64/faketime/libfaketime.so.1",
    "/usr/lib/faketime/libfaketime.so.1",
];

/// Faults from a seed against real fshipper processes and a real nats-server
///
/// Every byte that was written must arrive once and in order. Exit code 0: it did in every seed; 1: not in
/// one of them, whose directory is kept and printed.
#[derive(Debug, Parser)]
#[command(name = "fshipper-chaos", version, max_term_width = 100)]
struct Arguments {
    /// Play this seed
    #[arg(long, conflicts_with_all = ["seeds", "first"])]
    seed: Option<u64>,
    /// Play so many seeds
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// How long things go wrong in each
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// The binary; default: the one beside this program
    #[arg(long, value_name = "PATH")]
    fshipper: Option<PathBuf>,
    /// The library for clock jumps; default: where systems keep it
    #[arg(long, value_name = "PATH")]
    faketime: Option<PathBuf>,
    /// Also write what came of every seed as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Print what a seed would do, and do nothing
    #[arg(long)]
    list: bool,
    /// Stop at the first seed that fails
    #[arg(long)]
    fail_fast: bool,
    /// Print what happens while it happens
    #[arg(long, short)]
    verbose: bool,
    /// Let the processes log what they do in detail
    #[arg(long)]
    debug_logs: bool,
}

fn main() -> ExitCode {
    match play(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // Nowhere is left to say that this fails.
            let _ = writeln!(io::stderr(), "error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn play(arguments: &Arguments) -> Result<bool> {
    let mut stdout = io::stdout();
    let span = Duration::from_secs(arguments.seconds);
    let seeds = match arguments.seed {
        Some(seed) => seed..=seed,
        None => arguments.first..=arguments.first.saturating_add(arguments.seeds.saturating_sub(1)),
    };
    if arguments.list {
        for seed in seeds {
            let scenario = Scenario::draw(seed, span);
            write!(stdout, "{scenario}\n\n{}\n", Schedule::draw(&scenario))?;
        }
        return Ok(true);
    }
    let settings = settings(arguments)?;
    let _listener = listen_for_signals(settings.interrupted.clone())?;
    let mut series = Series::default();
    for seed in seeds {
        let outcome = run(seed, span, &settings);
        writeln!(stdout, "{outcome}")?;
        if !outcome.passed() {
            writeln!(stdout, "  replay with: {}", replay(&outcome, arguments, &settings))?;
        }
        series.outcomes.push(outcome);
        if settings.interrupted.load(Ordering::Relaxed) || (arguments.fail_fast && !series.passed()) {
            break;
        }
    }
    write!(stdout, "\n{}", series.markdown())?;
    if let Some(path) = &arguments.json {
        let json = serde_json::to_string_pretty(&series).context("cannot write JSON")?;
        fs::write(path, json + "\n").with_context(|| format!("cannot write `{}`", path.display()))?;
    }
    Ok(series.passed())
}

/// SIGINT and SIGTERM end the run that is on: processes and mounted disks would outlive this program
/// otherwise. Listens for as long as the answer lives.
fn listen_for_signals(interrupted: Arc<AtomicBool>) -> Result<Runtime> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.context("cannot start a runtime for signals")?;
    let entered = runtime.enter();
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
    runtime.spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        interrupted.store(true, Ordering::Relaxed);
    });
    drop(entered);
    Ok(runtime)
}

fn settings(arguments: &Arguments) -> Result<Settings> {
    let binary = match &arguments.fshipper {
        Some(binary) => binary.clone(),
        None => env::current_exe().context("cannot find this program itself")?.with_file_name("fshipper"),
    };
    let binary = fs::canonicalize(&binary).with_context(|| {
        format!("there is no `{}`: build it, or name it with --fshipper", binary.display())
    })?;
    let mut settings = Settings::new(binary);
    settings.verbose = arguments.verbose;
    settings.debug_logs = arguments.debug_logs;
    settings.faketime = match &arguments.faketime {
        Some(path) => {
            ensure!(path.is_file(), "there is no `{}`", path.display());
            Some(fs::canonicalize(path)?)
        }
        None => FAKETIME.iter().map(PathBuf::from).find(|path| path.is_file()),
    };
    Ok(settings)
}

fn replay(outcome: &Outcome, arguments: &Arguments, settings: &Settings) -> String {
    let (seed, seconds) = (outcome.seed, arguments.seconds);
    let faketime = settings.faketime.as_ref().map(|path| format!(" --faketime {}", path.display()));
    let binary = settings.binary.display();
    format!(
        "fshipper-chaos --seed {seed} --seconds {seconds} --fshipper {binary}{}",
        faketime.unwrap_or_default()
    )
}
