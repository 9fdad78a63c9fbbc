//! A log that is held, and others that go on behind it in the same stream.

use super::*;

const BETWEEN_LINES: Duration = Duration::from_millis(500);

/// A log that is held, and after it `count` lines of another one, as over a slow link.
fn stream(count: u64) -> Vec<Step> {
    let mut steps = vec![Step::Give(with_cursor(data("held", 0, "x\n"), 1))];
    for number in 0..count {
        steps.extend([
            Step::Rest(BETWEEN_LINES),
            Step::Give(with_cursor(data("b", 2 * number, "b\n"), 2 + number)),
        ]);
    }
    steps.push(Step::Idle);
    steps
}

fn bench() -> Bench {
    let bench = Bench::new();
    bench.tape.0.lock().unwrap().hold = Some(origin("held"));
    bench
}

#[tokio::test(start_paused = true)]
async fn a_held_log_that_lies_far_behind_does_not_stop_the_others() {
    let mut bench = bench();
    let lines = 2000;
    let mut sessions = 0;
    while bench.tape.committed("b") != Some(2 * lines) {
        sessions += 1;
        assert!(sessions < 20, "they are at {:?} after {sessions} sessions", bench.tape.committed("b"));
        assert!(matches!(bench.session(stream(lines)).await.unwrap(), Ended::Again(_)));
    }
    assert_eq!(bench.tape.cursor(), None, "the cursor stays below what is held");
}

#[tokio::test(start_paused = true)]
async fn a_held_log_is_tried_again_although_what_was_read_before_is_deleted_meanwhile() {
    let mut bench = bench();
    assert!(matches!(bench.session(stream(500)).await.unwrap(), Ended::Again(_)));
    let began = Instant::now();
    // Nearly everything expired.
    assert!(matches!(bench.session(stream(1)).await.unwrap(), Ended::Again(_)));
    assert!(began.elapsed() <= HOLD_MOST, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_source_without_a_cursor_reads_nothing_again_and_is_not_waited_for() {
    let mut bench = bench();
    let steps = || {
        let mut steps = stream(500);
        for step in &mut steps {
            if let Step::Give(batch) = step {
                batch.cursor = None;
            }
        }
        steps
    };
    bench.session(steps()).await.unwrap();
    let began = Instant::now();
    bench.session(steps()).await.unwrap();
    assert!(began.elapsed() <= HOLD_MOST, "{:?}", began.elapsed());
}

/// A consumer that has run for weeks when a folder becomes unwritable.
#[tokio::test(start_paused = true)]
async fn a_log_that_is_held_after_much_was_shipped_is_tried_again_soon() {
    let mut bench = bench();
    let line = |number: u64| with_cursor(data("b", 2 * number, "b\n"), number);
    let held = || Step::Give(with_cursor(data("held", 0, "x\n"), 501));
    let lines = |numbers: std::ops::Range<u64>| {
        numbers.flat_map(move |number| [Step::Rest(BETWEEN_LINES), Step::Give(line(number))])
    };
    let mut first: Vec<_> = lines(0..500).collect();
    first.extend([held(), Step::Idle]);
    assert!(matches!(bench.session(first).await.unwrap(), Ended::Again(_)));
    assert_eq!(bench.tape.cursor().as_deref(), Some(&b"499"[..]));
    let began = Instant::now();
    let second = std::iter::once(held()).chain(lines(500..2500));
    assert!(matches!(bench.session(second.collect()).await.unwrap(), Ended::Again(_)));
    assert!(began.elapsed() <= HOLD_MOST, "{:?}", began.elapsed());
}

/// What was read again for the sake of a log that is held no more says nothing of the next one.
#[tokio::test(start_paused = true)]
async fn what_the_cursor_has_passed_since_is_not_to_be_read_again() {
    let mut bench = bench();
    assert!(matches!(bench.session(stream(500)).await.unwrap(), Ended::Again(_)));
    bench.tape.0.lock().unwrap().hold = None;
    bench.tape.0.lock().unwrap().fail_at_write = Some(800);
    bench.session(stream(2000)).await.unwrap_err();
    assert_eq!(bench.memory.read_again, 0, "the cursor has passed all of it");
}
