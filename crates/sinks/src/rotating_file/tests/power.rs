//! The power fails at any moment, a sync fails, the disk is full: what counts stays, and the output is as if
//! nothing had happened.
//!
//! A [`scenario`] is what a source and a pump do. It runs once in peace, on real files, and every change of the
//! disk is recorded. Then, for *every* change of that record, the states that a power cut after it may leave
//! are made ([`simulated`](crate::rotating_file::disk::simulated) says which) and put into a folder, the sink is
//! opened there, and a [`world`] looks whether everything that was promised is there and nothing else is. The
//! pump sends again what the sink does not have, and in the end the output is compared byte by byte.
//!
//! `FSHIPPER_CRASH_SEEDS=200 cargo test -p fshipper-sinks power` draws 200 random states for each change instead
//! of a few. A failing one is named with its seed, and is the same each time.

mod ext4;
mod oracle;
mod scenario;
mod world;

use scenario::Scenario;
use world::World;

/// How many random states there are for each change of the disk: `usual`, or what the variable says.
fn seeds(usual: u64) -> u64 {
    match std::env::var("FSHIPPER_CRASH_SEEDS") {
        Ok(seeds) => seeds.parse().expect("`FSHIPPER_CRASH_SEEDS` is a number"),
        Err(_) => usual,
    }
}

/// Each scenario goes through everything, in a test of its own, so that they run side by side.
macro_rules! scenarios {
    ($($name:ident: $scenario:expr,)*) => {$(
        mod $name {
            use super::*;

            #[test]
            fn a_power_cut_at_any_change_loses_nothing_that_counts() {
                World::new($scenario).cut_power_after_every_change(seeds(3));
            }

            #[test]
            fn a_second_crash_while_it_recovers_loses_nothing_either() {
                World::new($scenario).crash_again_after_every_change(seeds(1));
            }

            #[test]
            fn a_kill_and_a_power_cut_later_lose_nothing_that_counts() {
                World::new($scenario).kill_before_every_change();
            }

            #[test]
            fn an_error_of_any_change_is_never_taken_for_success() {
                World::new($scenario).let_every_change_fail();
            }
        }
    )*};
}

scenarios! {
    dated: Scenario::dated(),
    numbered: Scenario::numbered(),
    plain: Scenario::plain(),
    kept: Scenario::kept(),
    aged: Scenario::aged(),
    shared: Scenario::shared(),
    many: Scenario::many(),
    dated_beside: Scenario::dated().beside(),
    plain_beside: Scenario::plain().beside(),
    kept_beside: Scenario::kept().beside(),
    many_beside: Scenario::many().beside(),
}
