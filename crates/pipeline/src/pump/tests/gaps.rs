//! Bytes that are missing, and can be asked for.

use futures::FutureExt as _;

use super::*;
use crate::{Gap, News, Position};

const WAIT: Duration = Duration::from_secs(600);

/// A log whose bytes 4 to 10 are missing, among others.
fn with_a_gap() -> [Batch; 4] {
    [
        with_cursor(data("a", 0, "one\n"), 1),
        with_cursor(data("a", 10, "late\n"), 2),
        with_cursor(data("b", 0, "b\n"), 3),
        with_cursor(data("a", 15, "later\n"), 4),
    ]
}

impl Bench {
    /// A bench that asks, and that has read everything again already.
    async fn that_waits() -> Self {
        let mut bench = Self::new();
        bench.metrics.progress.set_asking(Some(WAIT));
        let ended = bench.session(give(with_a_gap())).await.unwrap();
        assert!(matches!(ended, Ended::Again(_)), "everything is read again first");
        assert_eq!(bench.tape.log(), ["a@0 one\n", "b@0 b\n", "commit"]);
        bench
    }
}

fn gap(news: &[(Origin, News)]) -> &Gap {
    match news {
        [(origin, News::Missing(gap))] if origin.file() == b"a" => gap,
        other => panic!("{other:?} instead of a gap in `a`"),
    }
}

#[tokio::test]
async fn news_are_what_was_committed_and_nothing_above() {
    let mut bench = Bench::new();
    let mut follower = bench.metrics.progress.follow_news();
    bench.tape.0.lock().unwrap().hold = Some(origin("b"));
    let batches = [with_cursor(data("a", 0, "one\n"), 1), with_cursor(data("b", 0, "b\n"), 2)];
    bench.session(give(batches)).await.unwrap();
    let position = Position { epoch: Epoch(1), offset: 4, place: Bytes::new() };
    assert_eq!(follower.changed(10).await, [(origin("a"), News::Committed(position))]);
    assert_eq!(follower.cursor("test").as_deref(), Some(&b"1"[..]));
}

#[tokio::test]
async fn a_commit_that_fails_is_no_news() {
    let mut bench = Bench::new();
    let mut follower = bench.metrics.progress.follow_news();
    bench.tape.0.lock().unwrap().fail_at_commit = true;
    bench.session(give([data("a", 0, "one\n")])).await.unwrap_err();
    assert!(follower.changed(1).now_or_never().is_none());
}

/// A part of them came, and is not durable yet.
#[tokio::test(start_paused = true)]
async fn what_is_asked_for_again_begins_where_everything_below_is_durable() {
    let mut bench = Bench::that_waits().await;
    bench.settings.commit_interval = Duration::from_secs(3600);
    let stop = bench.stop.clone();
    let mut follower = bench.metrics.progress.follow_news();
    let mut steps = give(with_a_gap());
    steps.extend([Step::Give(data("a", 4, "x\n")), Step::Idle]);
    let session = bench.session(steps);
    let watch = async {
        assert_eq!(gap(&follower.changed(1).await).from, 4);
        tokio::time::sleep(Duration::from_secs(45)).await;
        let again = follower.changed(1).await;
        assert_eq!((gap(&again).from, gap(&again).to), (4, 10));
        stop.cancel();
    };
    let (ended, ()) = tokio::join!(session, watch);
    ended.unwrap();
}

#[tokio::test(start_paused = true)]
async fn missing_bytes_are_asked_for_and_the_others_go_on() {
    let mut bench = Bench::that_waits().await;
    let (stop, tape) = (bench.stop.clone(), bench.tape.clone());
    let mut follower = bench.metrics.progress.follow_news();
    let mut steps = give(with_a_gap());
    steps.extend([Step::Give(with_cursor(data("b", 2, "c\n"), 5)), Step::Idle]);
    let session = bench.session(steps);
    let watch = async {
        // Both may be there already: then they come in no order.
        let mut news = follower.changed(1).await;
        news.extend(follower.changed(1).await);
        news.sort_by_key(|(_, news)| matches!(news, News::Missing(_)));
        let (committed, missing) = news.split_at(1);
        assert!(matches!(committed, [(b, News::Committed(_))] if b.file() == b"b"), "{committed:?}");
        let expected = Gap {
            epoch: Epoch(1),
            from: 4,
            to: 10,
            place: Bytes::new(),
            read: with_cursor(data("a", 0, "x"), 5).cursor,
        };
        assert_eq!(gap(missing), &expected);
        let asked_again = follower.changed(1).await;
        assert_eq!(gap(&asked_again).read, with_cursor(data("a", 0, "x"), 5).cursor);
        stop.cancel();
    };
    let (ended, ()) = tokio::join!(session, watch);
    assert_eq!(ended.unwrap(), Ended::Finished);
    assert_eq!(tape.log()[3..], ["b@2 c\n", "commit"]);
    assert_eq!(tape.cursor().as_deref(), Some(&b"1"[..]), "the cursor stays below what waits");
    assert_eq!(bench.metrics.counts().origins_held, 1);
}

#[tokio::test(start_paused = true)]
async fn nobody_is_asked_for_bytes_above_what_is_not_durable() {
    let mut bench = Bench::new();
    bench.metrics.progress.set_asking(Some(WAIT));
    bench.session(give([data("a", 10, "late\n")])).await.unwrap();
    let (stop, tape) = (bench.stop.clone(), bench.tape.clone());
    let mut follower = bench.metrics.progress.follow_news();
    let mut steps = give([data("b", 0, "b\n"), data("a", 10, "late\n")]);
    steps.push(Step::Idle);
    let session = bench.session(steps);
    let watch = async {
        let first = follower.changed(1).await;
        assert!(matches!(first[0].1, News::Committed(_)), "{first:?}");
        assert_eq!(tape.log(), ["b@0 b\n", "commit"]);
        assert_eq!(gap(&follower.changed(1).await).from, 0);
        stop.cancel();
    };
    let (ended, ()) = tokio::join!(session, watch);
    ended.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_written_in_the_same_session() {
    let mut bench = Bench::that_waits().await;
    let stop = bench.stop.clone();
    // The producer goes back further than it has to, and sends everything from there on.
    let answer = [
        with_cursor(data("a", 2, "e\nmissing\nlate"), 5),
        with_cursor(data("b", 2, "c\n"), 6),
        with_cursor(data("a", 16, "ater\n!\n"), 7),
    ];
    let mut steps = give(with_a_gap());
    steps.extend(give(answer));
    steps.push(Step::Idle);
    let tape = bench.tape.clone();
    let watch = async {
        while tape.cursor().as_deref() != Some(&b"7"[..]) {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        stop.cancel();
    };
    let (ended, ()) = tokio::join!(bench.session(steps), watch);
    assert_eq!(ended.unwrap(), Ended::Finished);
    assert_eq!(bench.tape.log()[3..], ["a@4 missing\nlate", "b@2 c\n", "a@16 ater\n!\n", "commit"]);
    assert_eq!((bench.metrics.counts().losses, bench.metrics.counts().origins_held), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn the_cursor_stays_until_all_that_was_dropped_came_again() {
    let mut bench = Bench::that_waits().await;
    let stop = bench.stop.clone();
    let mut steps = give(with_a_gap());
    steps.extend(give([with_cursor(data("a", 4, "missing\n"), 5)]));
    steps.push(Step::Idle);
    let watch = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        stop.cancel();
    };
    let (ended, ()) = tokio::join!(bench.session(steps), watch);
    ended.unwrap();
    assert_eq!(bench.tape.committed("a"), Some(12));
    assert_eq!(bench.tape.cursor().as_deref(), Some(&b"1"[..]));
}

#[tokio::test(start_paused = true)]
async fn what_was_dropped_is_read_again_when_only_the_missing_bytes_come() {
    let mut bench = Bench::that_waits().await;
    let mut steps = give(with_a_gap());
    steps.extend(give([with_cursor(data("a", 4, "missin"), 5)]));
    steps.push(Step::Idle);
    assert!(matches!(bench.session(steps).await.unwrap(), Ended::Again(_)));
    assert_eq!(bench.tape.committed("a"), Some(10));
    bench.session(give(with_a_gap())).await.unwrap();
    assert_eq!(bench.tape.committed("a"), Some(21));
    assert_eq!((bench.metrics.counts().losses, bench.tape.cursor().as_deref()), (0, Some(&b"4"[..])));
}

#[tokio::test(start_paused = true)]
async fn a_loss_that_the_producer_records_costs_nothing_that_is_there() {
    let mut bench = Bench::that_waits().await;
    // The producer has nothing of what it published, and says so of all of it.
    let loss = with_cursor(Batch::loss(origin("a"), Epoch(1), 4, 17, "deleted"), 5);
    let steps = || give(with_a_gap().into_iter().chain([loss.clone()]));
    assert!(matches!(bench.session(steps()).await.unwrap(), Ended::Again(_)));
    assert_eq!(bench.tape.committed("a"), Some(10));
    assert_eq!(bench.session(steps()).await.unwrap(), Ended::Finished);
    let log = bench.tape.log().into_iter().filter(|line| line != "commit").collect::<Vec<_>>();
    assert_eq!(log[2..], ["a@4 lost 6", "a@10 late\n", "a@15 later\n"]);
    assert_eq!((bench.metrics.counts().bytes_lost, bench.tape.cursor().as_deref()), (6, Some(&b"5"[..])));
}

/// It came, and so did more; the rest that was dropped is still to be passed.
#[tokio::test(start_paused = true)]
async fn the_loss_of_what_came_all_the_same_is_none() {
    let mut bench = Bench::that_waits().await;
    let mut steps = give(with_a_gap());
    steps.extend(give([data("a", 4, "middle"), Batch::loss(origin("a"), Epoch(1), 10, 5, "it is gone")]));
    assert!(matches!(bench.session(steps).await.unwrap(), Ended::Again(_)), "what follows is read again");
    assert_eq!((bench.metrics.counts().losses, bench.metrics.counts().bytes_lost), (0, 0));
    assert_eq!(bench.tape.committed("a"), Some(10));
}

#[tokio::test(start_paused = true)]
async fn waiting_ends_with_a_loss_that_is_counted() {
    let mut bench = Bench::that_waits().await;
    let started = Instant::now();
    let idle = || give(with_a_gap()).into_iter().chain([Step::Idle]).collect();
    assert!(matches!(bench.session(idle()).await.unwrap(), Ended::Again(_)));
    assert!(started.elapsed() >= WAIT, "{:?}", started.elapsed());
    assert_eq!(bench.session(give(with_a_gap())).await.unwrap(), Ended::Finished);
    assert_eq!(bench.tape.log()[4..], ["a@4 lost 6", "a@10 late\n", "a@15 later\n", "commit"]);
    assert_eq!(bench.metrics.counts().bytes_lost, 6);
}

#[tokio::test(start_paused = true)]
async fn waiting_goes_on_where_it_was_in_the_next_session() {
    let mut bench = Bench::that_waits().await;
    let started = Instant::now();
    let idle = || give(with_a_gap()).into_iter().chain([Step::Idle]).collect::<Vec<_>>();
    let progress = bench.metrics.progress.clone();
    let reopen = async {
        tokio::time::sleep(WAIT / 2).await;
        progress.reopen();
    };
    let (ended, ()) = tokio::join!(bench.session(idle()), reopen);
    assert!(matches!(ended.unwrap(), Ended::Again(_)));
    assert!(matches!(bench.session(idle()).await.unwrap(), Ended::Again(_)));
    assert!(started.elapsed() < WAIT + WAIT / 4, "it is one time of waiting: {:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn waiting_ends_when_nobody_can_be_asked_any_more() {
    let mut bench = Bench::that_waits().await;
    let progress = bench.metrics.progress.clone();
    let turn_off = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        progress.set_asking(None);
    };
    let steps = give(with_a_gap()).into_iter().chain([Step::Idle]).collect();
    let (ended, ()) = tokio::join!(bench.session(steps), turn_off);
    assert!(matches!(ended.unwrap(), Ended::Again(_)));
    bench.session(give(with_a_gap())).await.unwrap();
    assert_eq!(bench.metrics.counts().bytes_lost, 6);
}

#[tokio::test(start_paused = true)]
async fn a_producer_that_began_anew_ends_the_waiting() {
    let mut bench = Bench::that_waits().await;
    let anew = || Batch::data(origin("a"), Epoch(2), 0, "new\n");
    let steps = || give(with_a_gap().into_iter().chain([anew()]));
    assert!(matches!(bench.session(steps()).await.unwrap(), Ended::Again(_)));
    assert_eq!(bench.session(steps()).await.unwrap(), Ended::Finished);
    let expected = ["a@4 lost 6", "a@10 late\n", "a@15 later\n", "a@0 new\n", "commit"];
    assert_eq!(bench.tape.log()[4..], expected);
}

#[tokio::test(start_paused = true)]
async fn an_input_that_ends_while_bytes_are_missing_is_a_failure() {
    let mut bench = Bench::that_waits().await;
    let error = bench.session(give(with_a_gap())).await.unwrap_err();
    assert!(error.is::<Fatal>());
    assert!(error.to_string().contains("bytes before offset 10 of `h:a` are missing"), "{error}");
    assert_eq!(bench.tape.cursor().as_deref(), Some(&b"1"[..]), "the next run finds them again");
}

#[tokio::test(start_paused = true)]
async fn a_session_ends_for_another_when_somebody_asks_for_it() {
    let mut bench = Bench::new();
    bench.metrics.progress.reopen();
    let steps = vec![Step::Give(data("a", 0, "one\n")), Step::Idle];
    assert!(matches!(bench.session(steps).await.unwrap(), Ended::Again(_)));
    assert_eq!(bench.session(vec![]).await.unwrap(), Ended::Finished, "it is asked for once");
}

/// As a retention makes it, or `max_age`, while a consumer catches up.
#[tokio::test(start_paused = true)]
async fn a_gap_that_grows_is_the_same_gap() {
    let mut bench = Bench::new();
    let sessions = [data("a", 10, "late\n"), data("a", 12, "te\n"), data("a", 14, "\n")];
    let mut seen = Vec::new();
    for first in sessions {
        seen.push(bench.session(give([first])).await.unwrap());
        if seen.last() == Some(&Ended::Finished) {
            break;
        }
    }
    assert!(matches!(seen[..], [Ended::Again(_), Ended::Finished]), "{seen:?}");
    assert_eq!(bench.tape.log()[..2], ["a@0 lost 12", "a@12 te\n"]);
}
