//! Runs with `--once` while something is held, and what is shown of them.

use super::*;
use crate::runner::hop::ONCE_PATIENCE;

#[tokio::test(start_paused = true)]
async fn a_log_that_stays_held_ends_a_run_with_once_by_name() {
    let bench = Bench::new("one\n");
    bench.world.writes_to_hold.store(usize::MAX, Ordering::Relaxed);
    let begun = Instant::now();
    let run = bench.run(true, None);
    let ended = tokio::time::timeout(10 * ONCE_PATIENCE, run.until_stopped()).await.expect("it ends");
    let error = ended.unwrap_err();
    assert!(error.is::<Fatal>() && run.started.load(Ordering::Relaxed), "exit code 1");
    let expected =
        "`h:/log` cannot go on: the folder cannot be written to; everything else that was there is shipped";
    assert_eq!(error.to_string(), expected);
    assert!(begun.elapsed() >= ONCE_PATIENCE, "it was tried again for a while");
}

#[tokio::test(start_paused = true)]
async fn a_log_that_is_held_for_a_while_is_shipped_by_a_run_with_once() {
    let bench = Bench::new("one\n");
    bench.world.writes_to_hold.store(4, Ordering::Relaxed);
    bench.once().await.unwrap();
    assert_eq!(bench.world.text(), "one\n");
}

#[tokio::test(start_paused = true)]
async fn without_once_a_held_log_is_tried_again_for_ever() {
    let bench = Bench::new("one\n");
    bench.world.writes_to_hold.store(usize::MAX, Ordering::Relaxed);
    let run = bench.run(false, None);
    let look = async {
        tokio::time::sleep(10 * ONCE_PATIENCE).await;
        bench.stop.cancel();
    };
    let (result, ()) = tokio::join!(run.until_stopped(), look);
    result.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_hop_that_waits_to_try_again_what_is_held_is_open() {
    let bench = Bench::new("one\n");
    bench.world.writes_to_hold.store(1, Ordering::Relaxed);
    let run = bench.run(true, None);
    let monitor = Monitor::default();
    run.show(&monitor);
    let hop = || monitor.hops().remove(0);
    let look = async {
        // The input has ended, and the next session is due after the pause.
        tokio::time::sleep(HOLD_FIRST_AT_LEAST).await;
        assert!(hop().is_open && !hop().is_finished, "{:?}", hop());
    };
    let (result, ()) = tokio::join!(run.until_stopped(), look);
    result.unwrap();
    assert!(!hop().is_open && hop().is_finished, "{:?}", hop());
}

/// Less than the first pause of a held origin.
const HOLD_FIRST_AT_LEAST: Duration = Duration::from_millis(400);

#[tokio::test]
async fn a_hop_that_failed_for_good_is_not_shown_as_finished() {
    let bench = Bench::new("one\n");
    bench.world.fatal_at_open.store(1, Ordering::Relaxed);
    let run = bench.run(true, None);
    let monitor = Monitor::default();
    run.show(&monitor);
    run.until_stopped().await.unwrap_err();
    assert!(!monitor.hops()[0].is_open && !monitor.hops()[0].is_finished);
}

#[tokio::test(start_paused = true)]
async fn what_was_sent_before_the_sending_was_given_up_is_written() {
    let bench = Bench::new("one\n");
    let stream = Stream::default();
    stream.batches.lock().unwrap().push(Batch::data(origin(), Epoch(1), 0, "one\n"));
    bench.world.log.lock().unwrap().extend(b"two\n");
    stream.sent.writes_to_hold.store(usize::MAX, Ordering::Relaxed);
    // The output is away for longer than what is held is tried again.
    bench.world.opens_to_fail.store(20, Ordering::Relaxed);
    let run = bench.run(true, Some((Arc::new(stream), Ends::Both)));
    let ended = tokio::time::timeout(10 * ONCE_PATIENCE, run.until_stopped()).await.expect("it ends");
    assert!(ended.unwrap_err().to_string().contains("nobody may publish"));
    assert_eq!(bench.world.text(), "one\n");
}
