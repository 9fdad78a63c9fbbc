//! What cannot be read again, and the sink does not take.

use super::*;

impl Bench {
    async fn session_that_cannot_go_back(&mut self, steps: Vec<Step>) -> Result<Ended> {
        self.session_of(Script { can_go_back: false, ..Script::new(steps) }).await
    }
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_again_waits_for_the_sink() {
    let mut bench = Bench::new();
    let tape = bench.tape.clone();
    tape.0.lock().unwrap().hold = Some(origin("a"));
    let steps = give([data("a", 0, "a\n"), data("b", 0, "b\n")]);
    let metrics = bench.metrics.clone();
    let session = bench.session_that_cannot_go_back(steps);
    let repair = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(tape.log().is_empty());
        assert_eq!(metrics.counts().origins_held, 1);
        tape.0.lock().unwrap().hold = None;
    };
    let (ended, ()) = tokio::join!(session, repair);
    assert_eq!(ended.unwrap(), Ended::Finished);
    assert_eq!(tape.log(), ["a@0 a\n", "b@0 b\n", "commit"]);
    assert_eq!(metrics.counts().origins_held, 0);
}

#[tokio::test(start_paused = true)]
async fn what_was_written_before_something_waits_is_committed_meanwhile() {
    let mut bench = Bench::new();
    bench.settings.commit_interval = Duration::from_secs(3600);
    let (tape, stop) = (bench.tape.clone(), bench.stop.clone());
    tape.0.lock().unwrap().hold = Some(origin("b"));
    let session = bench.session_that_cannot_go_back(give([data("a", 0, "a\n"), data("b", 0, "b\n")]));
    let watch = async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert_eq!(tape.log(), ["a@0 a\n", "commit"]);
        stop.cancel();
        tape.0.lock().unwrap().hold = None;
    };
    let (ended, ()) = tokio::join!(session, watch);
    ended.unwrap();
    assert_eq!(tape.committed("b"), Some(2));
}

#[tokio::test(start_paused = true)]
async fn what_follows_a_loss_that_waits_waits_behind_it() {
    let mut bench = Bench::new();
    bench.tape.0.lock().unwrap().hold_once = Some(origin("a"));
    let steps = give([data("a", 10, "late\n"), data("b", 0, "b\n")]);
    bench.session_that_cannot_go_back(steps).await.unwrap();
    assert_eq!(bench.tape.log(), ["a@0 lost 10", "a@10 late\n", "b@0 b\n", "commit"]);
}

/// As a sender does whose server refused what it had taken: it will not take more of that log.
#[tokio::test(start_paused = true)]
async fn a_sink_that_threw_away_what_cannot_be_read_again_ends_the_session() {
    let mut bench = Bench::new();
    bench.settings.commit_interval = Duration::from_secs(3600);
    bench.tape.0.lock().unwrap().hold = Some(origin("b"));
    bench.tape.0.lock().unwrap().hold_late = Some(origin("b"));
    let session = bench.session_that_cannot_go_back(give([data("a", 0, "a\n"), data("b", 0, "b\n")]));
    let ended = tokio::time::timeout(Duration::from_secs(60), session).await.expect("it ends");
    assert_eq!(ended.unwrap_err().to_string(), "cannot store what was taken of `h:b`: refused");
    assert_eq!(bench.tape.committed("a"), Some(2));
}

#[tokio::test(start_paused = true)]
async fn a_hangup_offers_it_at_once() {
    let mut bench = Bench::new();
    let (hangup, tape) = (bench.hangup.clone(), bench.tape.clone());
    tape.0.lock().unwrap().hold = Some(origin("a"));
    // After many failures it is offered once in half a minute or more.
    for _ in 0..10 {
        bench.memory.hold.pause();
    }
    let session = bench.session_that_cannot_go_back(give([data("a", 0, "a\n")]));
    let repair = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        tape.0.lock().unwrap().hold = None;
        hangup.send_modify(|number| *number += 1);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(tape.log(), ["commit", "a@0 a\n", "commit"]);
    };
    let (ended, ()) = tokio::join!(session, repair);
    ended.unwrap();
}

#[tokio::test(start_paused = true)]
async fn somebody_who_wants_another_session_gets_it_when_nothing_waits_any_more() {
    let mut bench = Bench::new();
    let (tape, progress) = (bench.tape.clone(), bench.metrics.progress.clone());
    tape.0.lock().unwrap().hold = Some(origin("a"));
    let session = bench.session_that_cannot_go_back(vec![Step::Give(data("a", 0, "a\n")), Step::Idle]);
    let repair = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        progress.reopen();
        tokio::time::sleep(Duration::from_secs(1)).await;
        tape.0.lock().unwrap().hold = None;
    };
    let (ended, ()) = tokio::join!(session, repair);
    assert!(matches!(ended.unwrap(), Ended::Again(_)));
    assert_eq!(tape.committed("a"), Some(2));
}

#[tokio::test(start_paused = true)]
async fn after_a_long_wait_the_next_short_one_is_short() {
    let mut bench = Bench::new();
    let tape = bench.tape.clone();
    tape.0.lock().unwrap().hold = Some(origin("a"));
    let steps = [Step::Give(data("a", 0, "a\n")), Step::Rest(Duration::from_secs(600))];
    let steps = steps.into_iter().chain(give([data("a", 2, "b\n")]));
    let session = bench.session_that_cannot_go_back(steps.collect());
    let repair = async {
        tokio::time::sleep(Duration::from_secs(300)).await;
        tape.0.lock().unwrap().hold = None;
        tokio::time::sleep(Duration::from_secs(200)).await;
        assert_eq!(tape.committed("a"), Some(2));
        tape.0.lock().unwrap().hold = Some(origin("a"));
        tokio::time::sleep(Duration::from_secs(103)).await;
        tape.0.lock().unwrap().hold = None;
        Instant::now()
    };
    let (ended, repaired) = tokio::join!(session, repair);
    ended.unwrap();
    // The second time it is held for three seconds; after minutes the next offer takes half of one at least.
    assert!(repaired.elapsed() < Duration::from_secs(10), "{:?}", repaired.elapsed());
}
