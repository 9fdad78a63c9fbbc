//! How many files are open when there are more logs than descriptors.

use super::bench::{Bench, ROTATE_WAIT, lines};

/// As logrotate leaves them with `nocreate`: their programs write again hours later.
#[test]
fn renamed_files_that_nothing_follows_are_closed_and_opened_again() {
    const LOGS: usize = 40;
    const MOST: usize = 5;
    let mut bench = Bench::new(&["*.log*"]);
    let name = |number: usize| format!("{number}.log");
    let rotated = |number: usize| format!("{number}.log.1");
    (0..LOGS).for_each(|number| bench.append(&name(number), lines("a", 0..3)));
    bench.open();
    bench.limit_open_files(MOST);
    bench.settle();
    assert!(bench.open_files() <= MOST);
    (0..LOGS).for_each(|number| bench.rename(&name(number), &rotated(number)));
    for round in 0..3 {
        bench.settle();
        assert!(bench.open_files() <= MOST, "{} in round {round}", bench.open_files());
        let line = lines("a", 3 + round..4 + round);
        (0..LOGS).for_each(|number| bench.append(&rotated(number), &line));
    }
    bench.settle();
    // Some are renamed once more, some deleted; and then something follows.
    (0..10).for_each(|number| bench.rename(&rotated(number), &format!("{number}.log.2")));
    (10..20).for_each(|number| bench.remove(&rotated(number)));
    bench.settle();
    (0..LOGS).for_each(|number| bench.append(&name(number), lines("b", 0..3)));
    bench.settle();
    bench.wait(ROTATE_WAIT);
    bench.settle();
    for number in 0..LOGS {
        bench.check(&name(number), lines("a", 0..6) + &lines("b", 0..3));
    }
    assert_eq!((bench.names().len(), bench.unknown_losses()), (LOGS, 0));
    assert!(bench.open_files() <= MOST);
}
