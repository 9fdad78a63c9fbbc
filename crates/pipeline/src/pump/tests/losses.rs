//! Losses are told once.

use super::*;

fn loss(missing: u64) -> Batch {
    Batch::loss(origin("a"), Epoch(1), 0, missing, "the file was deleted")
}

impl Bench {
    /// How many losses were told, and how many bytes.
    fn losses(&self) -> (u64, u64) {
        let counts = self.metrics.counts();
        (counts.losses, counts.bytes_lost)
    }
}

#[tokio::test(start_paused = true)]
async fn a_loss_that_the_sink_does_not_take_is_told_when_it_does() {
    let mut bench = Bench::new();
    bench.tape.0.lock().unwrap().hold = Some(origin("a"));
    for _ in 0..3 {
        bench.session(give([loss(0)])).await.unwrap();
    }
    assert_eq!(bench.losses(), (0, 0));
    bench.tape.0.lock().unwrap().hold = None;
    bench.session(give([loss(0)])).await.unwrap();
    assert_eq!(bench.losses(), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_loss_that_comes_again_because_it_was_not_committed_is_told_once() {
    let mut bench = Bench::new();
    bench.tape.0.lock().unwrap().fail_at_commit = true;
    for _ in 0..3 {
        bench.session(give([loss(6)])).await.unwrap_err();
    }
    bench.tape.0.lock().unwrap().fail_at_commit = false;
    // A commit that refuses it is one that did not cover it.
    bench.tape.0.lock().unwrap().hold_late = Some(origin("a"));
    bench.session(give([loss(6)])).await.unwrap();
    bench.tape.0.lock().unwrap().committed = Checkpoint::default();
    // Meanwhile more is gone.
    bench.session(give([loss(8)])).await.unwrap();
    assert_eq!(bench.tape.committed("a"), Some(8));
    assert_eq!(bench.losses(), (1, 8));
}

#[tokio::test]
async fn two_losses_of_unknown_amount_at_one_place_are_two() {
    let mut bench = Bench::new();
    bench.session(give([loss(0), loss(0)])).await.unwrap();
    assert_eq!(bench.losses(), (2, 0));
    bench.session(give([loss(0)])).await.unwrap();
    assert_eq!(bench.losses(), (3, 0));
}
