//! A few short seeds of `fshipper-chaos` against the built binary, and pipelines that are broken on purpose:
//! what says that all is well must not say so of them.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use fshipper_chaos::{
    Event, Fault, Forgetful, Log, Naming, Outcome, Output, Producer, Scenario, Schedule, Settings, Who,
};

/// How long things go wrong.
const SPAN: Duration = Duration::from_secs(9);

fn settings() -> Settings {
    Settings::new(env!("CARGO_BIN_EXE_fshipper"))
}

/// Plays the seed, which must draw a scenario that `is_meant`.
#[track_caller]
fn check_seed(seed: u64, is_meant: impl FnOnce(&Scenario) -> bool) {
    let scenario = Scenario::draw(seed, SPAN);
    assert!(is_meant(&scenario), "choose another seed: this one draws\n{scenario}");
    let outcome = fshipper_chaos::run(seed, SPAN, &settings());
    println!("{outcome}");
    assert!(outcome.passed(), "replay with: fshipper-chaos --seed {seed} --seconds {}", SPAN.as_secs());
    assert!(outcome.bytes > 0 && outcome.faults.len() > 2, "{outcome:?}");
}

#[test]
fn batches_through_faults_arrive_byte_for_byte() {
    check_seed(337, |scenario| !scenario.line_framing && scenario.forgetful == Forgetful::Producers);
}

#[test]
fn single_lines_through_faults_arrive_byte_for_byte() {
    check_seed(219, |scenario| scenario.line_framing && scenario.forgetful == Forgetful::Broker);
}

#[test]
fn logs_that_are_truncated_through_faults_arrive_byte_for_byte() {
    check_seed(1025, |scenario| scenario.copy_and_truncate);
}

/// One producer, one consumer, one log that nobody rotates before something went wrong.
fn plain_scenario() -> Scenario {
    let log = Log { name: "app.log", bytes_per_second: 50_000, naming: Naming::Numbered };
    Scenario {
        seed: 1,
        span: Duration::from_secs(3),
        producers: vec![Producer { host: "web1".to_owned(), logs: vec![log], rotated_match: true }],
        consumers: 1,
        partitions: None,
        line_framing: false,
        zstd: false,
        output: Output { dated: false, whole_path: false, max_bytes: None, gzip: false },
        max_batch_bytes: 1_000_000,
        max_line_bytes: 1_000_000,
        commit_interval: Duration::from_millis(50),
        copy_and_truncate: false,
        forgetful: Forgetful::Nobody,
        small_disk: false,
        clocks: false,
        bytes: 500_000,
    }
}

fn play(settings: &Settings, fault: Option<Fault>) -> Outcome {
    let event = |fault| Event { at: Duration::from_millis(1_500), fault };
    let schedule = Schedule { events: fault.into_iter().map(event).collect() };
    let outcome = fshipper_chaos::run_as(&plain_scenario(), &schedule, settings);
    if let Some(directory) = &outcome.directory {
        // It failed, as it should or not: what it says is enough.
        fs::remove_dir_all(directory).unwrap();
    }
    outcome
}

#[test]
fn a_consumer_that_forgot_its_ledger_is_found_out() {
    let killed = Fault::Kill { who: Who::Consumer(0), down: Duration::from_millis(100) };
    let outcome = play(&settings(), Some(killed));
    assert!(outcome.passed(), "{outcome}");

    let forgot = Fault::ForgetLedger { consumer: 0, down: Duration::from_millis(100) };
    let outcome = play(&settings(), Some(forgot));
    // A pipeline that writes too much looks complete too early, so the last lines may be missing as well.
    let found = outcome.failures.join("\n");
    let duplicated = found.strip_prefix("web1/app.log: ").and_then(|rest| rest.split(", ").nth(1));
    let duplicated = duplicated.and_then(|count| count.strip_suffix(" duplicated")?.parse().ok());
    assert!(duplicated > Some(0), "{outcome}");
}

#[test]
fn processes_that_end_by_themselves_are_found_out() {
    let outcome = play(&Settings::new("/bin/true"), None);
    let found = outcome.failures.join("\n");
    assert!(found.contains(" ended by itself, exit status: 0"), "{outcome}");
}

#[test]
fn a_pipeline_that_delivers_nothing_is_found_out() {
    let folder = tempfile::tempdir().unwrap();
    let idle = folder.path().join("idle");
    fs::write(&idle, "#!/bin/sh\nexec sleep 60\n").unwrap();
    fs::set_permissions(&idle, Permissions::from_mode(0o700)).unwrap();
    let mut settings = Settings::new(idle);
    settings.patience = Duration::from_millis(200);
    let outcome = play(&settings, None);
    let found = outcome.failures.join("\n");
    assert!(
        found.starts_with("not everything arrived") && found.contains(" lost, 0 duplicated"),
        "{outcome}"
    );
}
