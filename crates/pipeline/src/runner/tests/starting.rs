//! The state directory at the start.

use anyhow::anyhow;

use super::*;
use crate::state_dir::StateDir;

fn full() -> Starting {
    Starting::Waiting(anyhow!("cannot use the state directory: no space left on device"))
}

#[tokio::test(start_paused = true)]
async fn a_state_directory_that_cannot_be_used_for_a_while_is_waited_for() {
    let bench = Bench::new("one\n");
    let begun = Instant::now();
    bench.run(true, None).with(full()).await.unwrap();
    assert_eq!(bench.world.text(), "one\n");
    assert!(begun.elapsed() > Duration::ZERO, "there is a pause");
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_the_waiting_for_a_state_directory() {
    let bench = Bench::new("one\n");
    bench.stop.cancel();
    bench.run(false, None).with(full()).await.unwrap();
    assert_eq!(bench.world.text(), "");
}

#[tokio::test(start_paused = true)]
async fn one_that_another_process_took_meanwhile_is_a_failure() {
    let bench = Bench::new("one\n");
    let settings = bench.settings(true);
    let _other = StateDir::lock(&settings.state_dir, &settings.name).unwrap();
    let run = bench.run(true, None);
    let error = run.with(full()).await.unwrap_err();
    assert!(error.is::<Fatal>() && run.started.load(Ordering::Relaxed), "{error:#}");
    assert!(Starting::new(&settings).is_err_and(|error| error.is::<Fatal>()), "it is no reason to wait");
}
