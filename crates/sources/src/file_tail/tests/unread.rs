//! What is known to wait is told.

use super::bench::{Bench, lines};

#[test]
fn what_was_not_read_yet_is_told_in_files_before_and_after_their_rotation() {
    let mut bench = Bench::with_log("a.log*", 10);
    assert_eq!(bench.tail.as_ref().unwrap().unread(), 0);
    let (more, newest) = (lines("b", 0..20), lines("c", 0..3));
    bench.append("a.log", &more);
    bench.hint("a.log");
    bench.keep_up();
    assert_eq!(bench.tail.as_ref().unwrap().unread(), more.len() as u64);
    bench.rotate();
    bench.append("a.log", &newest);
    bench.keep_up();
    bench.keep_up();
    assert_eq!(bench.tail.as_ref().unwrap().unread(), (more.len() + newest.len()) as u64);
    bench.settle();
    assert_eq!(bench.tail.as_ref().unwrap().unread(), 0);
}
