use std::collections::HashSet;

use proptest::prelude::*;

use super::*;

/// Zones as rules, so that no database is needed: each is odd in another way.
const ZONES: [&str; 7] = [
    "UTC0",
    // Hours that are skipped and shown twice.
    "CET-1CEST,M3.5.0,M10.5.0/3",
    // The clock moves by half an hour.
    "<+1030>-10:30<+11>-11,M10.1.0,M4.1.0",
    // The clock moves at one minute past midnight: a date comes back.
    "NST3:30NDT,M3.2.0/0:01,M11.1.0/0:01",
    // Midnight is skipped, and shown twice within one date.
    "CST5CDT,M3.2.0/0,M11.1.0/1",
    // Daylight saving time spans the end of the year.
    "NZST-12NZDT,M9.5.0,M4.1.0/3",
    // No change, and an offset that is no whole hour.
    "<+0545>-5:45",
];

const STEPS: [Every; 10] = [
    Every::Year,
    Every::Month,
    Every::Days(1),
    Every::Days(2),
    Every::Days(7),
    Every::Seconds(43_200),
    Every::Seconds(3_600),
    Every::Seconds(900),
    Every::Seconds(60),
    Every::Seconds(1),
];

fn calendar(zone: &str, every: Every) -> Calendar {
    Calendar::new(TimeZone::posix(zone).unwrap(), Some(every))
}

/// The names of all periods from one moment to another, as a template would write them.
fn names(zone: &str, every: Every, pattern: &str, from: &str, to: &str) -> Vec<String> {
    let calendar = calendar(zone, every);
    let to: Timestamp = to.parse().unwrap();
    let mut period = calendar.period_at(from.parse().unwrap());
    let mut names = Vec::new();
    while period.start() < to {
        let offset = if period.is_repeated() { "%z" } else { "" };
        names.push(period.name().strftime(&format!("{pattern}{offset}")).to_string());
        period = calendar.period_at(period.end());
    }
    names
}

#[test]
fn reads_what_divides_a_day_or_is_whole_days() {
    let parse = |seconds| Every::parse(Duration::from_secs(seconds));
    assert_eq!(parse(1), Ok(Every::Seconds(1)));
    assert_eq!(parse(90 * 60), Ok(Every::Seconds(5_400)));
    assert_eq!(parse(86_400), Ok(Every::Days(1)));
    assert_eq!(parse(7 * 86_400), Ok(Every::Days(7)));
    for wrong in [0, 7 * 3_600, 86_401, 36 * 3_600, u64::MAX] {
        assert!(parse(wrong).is_err(), "{wrong}");
    }
    assert!(Every::parse(Duration::from_millis(1_500)).is_err());
}

#[test]
fn finer_means_that_two_periods_could_share_a_name() {
    assert!(Every::Seconds(3_600).is_finer_than(Field::Day));
    assert!(!Every::Seconds(5_400).is_finer_than(Field::Hour));
    assert!(Every::Days(30).is_finer_than(Field::Month));
    assert!(!Every::Days(31).is_finer_than(Field::Month));
    assert!(Every::Month.is_finer_than(Field::Year));
    for field in [Field::Year, Field::Month, Field::Day, Field::Hour, Field::Minute, Field::Second] {
        assert!(!Every::of(field).is_finer_than(field), "{field:?}");
    }
}

#[test]
fn an_hour_shown_twice_is_two_periods() {
    let names = names(ZONES[1], Every::Seconds(3_600), "%H", "2026-10-24T23:00Z", "2026-10-25T03:00Z");
    assert_eq!(names, ["01", "02", "02+0100", "03"]);
}

#[test]
fn a_skipped_hour_has_no_period() {
    let names = names(ZONES[1], Every::Seconds(3_600), "%H", "2026-03-29T00:00Z", "2026-03-29T03:00Z");
    assert_eq!(names, ["01", "03", "04"]);
}

#[test]
fn a_day_lasts_as_long_as_its_clock() {
    let calendar = calendar(ZONES[1], Every::Days(1));
    let hours = |time: &str| {
        let period = calendar.period_at(time.parse().unwrap());
        period.end().duration_since(period.start()).as_hours()
    };
    assert_eq!(hours("2026-03-29T12:00Z"), 23);
    assert_eq!(hours("2026-10-25T12:00Z"), 25);
    assert_eq!(hours("2026-11-23T12:00Z"), 24);
}

#[test]
fn half_an_hour_shown_twice_is_a_period_of_its_own() {
    let names = names(ZONES[2], Every::Seconds(3_600), "%H:%M", "2026-04-04T14:00Z", "2026-04-04T17:00Z");
    assert_eq!(names, ["01:00", "01:00+1030", "02:00", "03:00"]);
}

#[test]
fn a_date_that_comes_back_gets_a_name_of_its_own() {
    let names = names(ZONES[3], Every::Days(1), "%m%d", "2026-10-31T12:00Z", "2026-11-02T12:00Z");
    assert_eq!(names, ["1031", "1101", "1031-0330", "1101-0330", "1102"]);
}

#[test]
fn midnight_shown_twice_is_one_day() {
    let fall = names(ZONES[4], Every::Days(1), "%m%d", "2026-10-31T12:00Z", "2026-11-02T12:00Z");
    assert_eq!(fall, ["1031", "1101", "1102"]);
    let spring = names(ZONES[4], Every::Days(1), "%m%d%H%M", "2026-03-07T12:00Z", "2026-03-09T12:00Z");
    assert_eq!(spring, ["03070000", "03080000", "03090000"]);
}

#[test]
fn weeks_begin_on_monday() {
    let names = names("UTC0", Every::Days(7), "%F %a", "2026-11-22T00:00Z", "2026-11-24T00:00Z");
    assert_eq!(names, ["2026-11-16 Mon", "2026-11-23 Mon"]);
}

#[test]
fn times_beyond_all_clocks_have_periods() {
    let calendar = calendar(ZONES[1], Every::Year);
    let year = |time| calendar.period_of(time).name().year();
    assert_eq!(year(SystemTime::UNIX_EPOCH - Duration::from_secs(1 << 40)), 1970);
    assert_eq!(year(SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 50)), 9990);
    assert_eq!(LATEST.to_string(), "9990-01-01T00:00:00Z");
}

#[test]
fn without_a_length_there_is_one_period() {
    let calendar = Calendar::new(TimeZone::UTC, None);
    let period = calendar.period_of(SystemTime::now());
    assert!(period.start() < Timestamp::UNIX_EPOCH && Timestamp::now() < period.end());
    assert_eq!(calendar.period_at(period.start()).start(), period.start());
}

#[test]
fn names_of_a_year_never_come_back() {
    for zone in ZONES {
        for (every, pattern) in [
            (Every::Days(1), "%Y%m%d"),
            (Every::Seconds(3_600), "%Y%m%d%H"),
            (Every::Seconds(900), "%Y%m%dT%H%M"),
        ] {
            let names = names(zone, every, pattern, "2026-01-01T00:00Z", "2027-01-02T00:00Z");
            let distinct: HashSet<&String> = names.iter().collect();
            assert_eq!(distinct.len(), names.len(), "{zone} {every:?}");
        }
    }
}

/// Moments of all years, and more of those around a change of the clock.
fn moments(zone: &'static str) -> impl Strategy<Value = Timestamp> {
    let zone = TimeZone::posix(zone).unwrap();
    let changes = zone.following("2026-01-01T00:00Z".parse().unwrap()).take(4);
    let changes: Vec<i64> = changes.map(|change| change.timestamp().as_second()).collect();
    let anywhere = (0..LATEST.as_second()).boxed();
    let near = match changes.is_empty() {
        true => anywhere.clone(),
        false => (prop::sample::select(changes), -90_000..90_000_i64).prop_map(|(at, by)| at + by).boxed(),
    };
    prop_oneof![anywhere, near].prop_map(|second| Timestamp::from_second(second).unwrap())
}

proptest! {
    #[test]
    fn periods_cover_all_of_time_once(
        (zone, time) in prop::sample::select(&ZONES[..]).prop_flat_map(|zone| (Just(zone), moments(zone))),
        every in prop::sample::select(&STEPS[..]),
    ) {
        let calendar = calendar(zone, every);
        let period = calendar.period_at(time);
        prop_assert!(period.start() <= time && time < period.end(), "{period:?}");
        prop_assert_eq!(&calendar.period_at(period.start()), &period);
        prop_assert_eq!(&calendar.period_at(period.end() - SECOND), &period);
        let next = calendar.period_at(period.end());
        prop_assert_eq!(next.start(), period.end());
        let label = |period: &Period| (period.name().datetime(), period.is_repeated().then(|| period.name().offset()));
        prop_assert_ne!(label(&next), label(&period));
    }
}
