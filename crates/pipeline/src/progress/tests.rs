use futures::FutureExt as _;

use super::*;
use crate::Batch;

fn origin(file: &str) -> Origin {
    Origin::new("h", file)
}

fn changed(ends: &[(&str, u64)]) -> Checkpoint {
    let mut checkpoint = Checkpoint::default();
    for (file, end) in ends {
        checkpoint.set_position(&origin(file), at(*end));
    }
    checkpoint.set_cursor(&Cursor { transport: "test".into(), position: ends.len().to_string().into() });
    checkpoint
}

fn at(offset: u64) -> Position {
    Position { epoch: Epoch(1), offset, place: Bytes::new() }
}

fn committed(file: &str, end: u64) -> (Origin, News) {
    (origin(file), News::Committed(at(end)))
}

#[tokio::test]
async fn a_slow_follower_hears_the_latest_word_for_each_origin() {
    let progress = Progress::default();
    progress.commit(&changed(&[("before anybody followed", 1)]).take_changes());
    let mut follower = progress.follow_news();
    for end in 1..=1000 {
        progress.commit(&changed(&[("a", end), ("b", end)]).take_changes());
    }
    let mut heard = follower.changed(10).await;
    heard.sort_by(|one, other| one.0.cmp(&other.0));
    assert_eq!(heard, [committed("a", 1000), committed("b", 1000)]);
    assert_eq!(follower.cursor("test").as_deref(), Some(&b"2"[..]));
    assert!(follower.changed(10).now_or_never().is_none(), "there is nothing new");
}

#[tokio::test]
async fn many_origins_come_in_portions() {
    let progress = Progress::default();
    let mut follower = progress.follow_news();
    let names: Vec<_> = (0..1000).map(|number| number.to_string()).collect();
    let ends: Vec<_> = names.iter().map(|name| (name.as_str(), 1)).collect();
    progress.commit(&changed(&ends).take_changes());
    for _ in 0..10 {
        assert_eq!(follower.changed(100).await.len(), 100);
    }
    assert!(follower.changed(100).now_or_never().is_none());
}

#[tokio::test]
async fn what_is_given_back_is_told_again_unless_there_is_something_newer() {
    let progress = Progress::default();
    let mut follower = progress.follow_news();
    progress.commit(&changed(&[("a", 1)]).take_changes());
    progress.commit(&changed(&[("b", 1)]).take_changes());
    assert_eq!(follower.changed(2).await.len(), 2);
    progress.commit(&changed(&[("b", 2)]).take_changes());
    follower.give_back();
    assert_eq!(follower.changed(1).await, [committed("b", 2)]);
    assert_eq!(follower.changed(1).await, [committed("a", 1)]);
}

#[tokio::test]
async fn news_outlive_a_session_and_its_follower() {
    let progress = Progress::default();
    for _ in 0..3 {
        let mut follower = progress.follow_news();
        progress.commit(&changed(&[("a", 1)]).take_changes());
        assert_eq!(follower.changed(1).await, [committed("a", 1)]);
    }
    assert_eq!(progress.follow_news().changed(1).await, [committed("a", 1)], "nobody dealt with it");
}

#[tokio::test(start_paused = true)]
async fn settling_waits_for_what_is_in_hand_and_not_for_ever() {
    let progress = Progress::default();
    progress.settle(Duration::MAX).await;
    let mut follower = progress.follow_news();
    progress.settle(Duration::MAX).await;
    progress.commit(&changed(&[("a", 1)]).take_changes());
    assert!(progress.settle(Duration::MAX).now_or_never().is_none(), "it is not told yet");
    follower.changed(1).await;
    assert!(progress.settle(Duration::MAX).now_or_never().is_none(), "it is in hand");
    progress.settle(Duration::from_secs(1)).await;
    let settling = progress.settle(Duration::MAX);
    let following = async {
        assert!(follower.changed(1).now_or_never().is_none());
    };
    tokio::join!(settling, following);
}

#[test]
fn the_lag_is_what_lies_between_here_and_the_far_end() {
    let progress = Progress::default();
    progress.start(&changed(&[("a", 10)]));
    assert_eq!(progress.lag(), None, "nobody can tell");
    progress.follow_far_end();
    progress.start(&changed(&[("a", 10), ("b", 5)]));
    assert_eq!(progress.lag(), Some(15));
    progress.set_floor(&origin("a"), at(4));
    progress.set_floor(&origin("b"), Position { epoch: Epoch(2), ..at(5) });
    assert_eq!(progress.lag(), Some(6 + 5), "another epoch's floor says nothing");
    let mut checkpoint = changed(&[("a", 10)]);
    checkpoint.clear_changes();
    checkpoint.advance(&Batch::data(origin("a"), Epoch(1), 10, "x\n"));
    progress.commit(&checkpoint.take_changes());
    assert_eq!(progress.lag(), Some(8 + 5));
}

#[tokio::test]
async fn a_wish_for_another_session_is_kept_until_it_is_heard_or_forgotten() {
    let progress = Progress::default();
    progress.reopen();
    progress.reopening().await;
    progress.reopen();
    progress.forget_reopening();
    assert!(progress.reopening().now_or_never().is_none());
}

#[test]
fn a_memory_is_one_value_for_each_type() {
    let progress = Progress::default();
    *progress.memory::<Mutex<u64>>().lock().unwrap() = 7;
    assert_eq!(*progress.clone().memory::<Mutex<u64>>().lock().unwrap(), 7);
    assert!(progress.memory::<Mutex<String>>().lock().unwrap().is_empty());
}
