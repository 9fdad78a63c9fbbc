//! After a reboot or a mount the same files are on a device with another number.

use super::bench::{Bench, lines};

/// As with programs that rotate `app.log` to `app.1.log`, when both were there at the first start.
#[test]
fn files_that_were_renamed_to_the_path_of_another_log_are_not_shipped_again() {
    let mut bench = Bench::new(&["*.log"]);
    let mut expected = lines("live", 0..5);
    bench.append("app.log", &expected);
    bench.append("app.1.log", lines("one", 0..5));
    bench.append("app.2.log", lines("two", 0..5));
    bench.settle();
    for rotation in 0..3 {
        bench.remove("app.2.log");
        bench.rename("app.1.log", "app.2.log");
        bench.rename("app.log", "app.1.log");
        let content = lines(&format!("rotation {rotation}"), 0..5);
        bench.append("app.log", &content);
        expected += &content;
        (0..3).for_each(|_| bench.settle());
    }
    let losses = bench.unknown_losses();
    for number in 1..4 {
        bench.restart();
        bench.renumber_devices(number);
        (0..3).for_each(|_| bench.settle());
        bench.check("app.log", &expected);
        bench.check("app.1.log", lines("one", 0..5));
        bench.check("app.2.log", lines("two", 0..5));
        assert_eq!(bench.unknown_losses(), losses);
    }
}

#[test]
fn a_log_that_was_renamed_to_an_unrelated_name_meanwhile_is_the_same_log() {
    let mut bench = Bench::with_log("*.log", 10);
    bench.restart();
    bench.append("a.log", lines("a", 10..12));
    bench.rename("a.log", "other.log");
    bench.renumber_devices(1);
    (0..2).for_each(|_| bench.settle());
    bench.append("a.log", lines("b", 0..3));
    (0..2).for_each(|_| bench.settle());
    bench.check("a.log", lines("a", 0..12) + &lines("b", 0..3));
    bench.check_one_log_without_loss();
}
