//! When an output file ends and the next begins: [`Calendar`], [`Period`].
//!
//! Periods are steps of the *civil* clock, that is, of what a wall clock shows in the sink's time zone, and
//! together they cover all of time once, in order. Daylight saving time changes what a clock shows:
//!
//! - A step that the clock skips has no period; one that it enters late is shorter.
//! - A step that the clock finishes and then shows again is two periods: two hours are two files. Their
//!   names differ by the offset from UTC that [`Template`](super::path::Template) adds to the second:
//!   `app.log.2026102502`, then `app.log.2026102502+0100`.
//! - A step in the middle of which the clock goes back is one, longer, period: a day has 25 hours.
//!
//! Left out on purpose: a monotonic clock. The time of a batch is the time its message was stored, so that
//! a replay gives the same files; the caller never goes back before an origin's last period.

use std::time::{Duration, SystemTime};

use jiff::civil::{Date, DateTime};
use jiff::tz::{AmbiguousOffset, Offset, TimeZone};
use jiff::{SignedDuration, Timestamp, ToSpan, Zoned};

/// A field of a date and time, from coarse to fine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Field {
    Year,
    Month,
    Day,
    Hour,
    Minute,
    Second,
}

/// How long a period lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Every {
    /// A calendar year.
    Year,
    /// A calendar month.
    Month,
    /// So many days, counted from a Monday: 7 days are a week that begins on Monday.
    Days(i32),
    /// So many seconds, a divisor of a day, counted from midnight.
    Seconds(i32),
}

/// Divides time into periods.
#[derive(Clone, Debug)]
pub(super) struct Calendar {
    zone: TimeZone,
    /// `None`: one period that never ends.
    every: Option<Every>,
}

/// The time during which lines go to one file: `[start, end)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Period {
    start: Timestamp,
    end: Timestamp,
    /// The civil time that names the period, at the offset from UTC that holds at its start.
    name: Zoned,
    repeated: bool,
}

const SECONDS_A_DAY: i32 = 86_400;

/// The Monday from which periods of several days are counted.
const FIRST_MONDAY: Date = Date::constant(1970, 1, 5);

/// Times are taken to be at least this: names then have years of four digits, and no clock is that wrong.
const EARLIEST: Timestamp = Timestamp::constant(0, 0);

/// Times are taken to be at most this, 9990-01-01: the end of every period can still be written down.
const LATEST: Timestamp = Timestamp::constant(253_086_768_000, 0);

impl Every {
    /// Periods of `duration`.
    ///
    /// # Errors
    ///
    /// Neither a divisor of a day nor whole days: such periods would not begin at midnight.
    pub(super) fn parse(duration: Duration) -> Result<Self, String> {
        let refused = || {
            format!(
                "periods of `{duration:?}` do not begin at midnight: take what divides a day, such as \"15m\" or \"6h\", or whole days"
            )
        };
        let day = SECONDS_A_DAY as u64;
        let seconds = duration.as_secs();
        if seconds == 0 || duration.subsec_nanos() != 0 {
            return Err(refused());
        }
        if seconds < day {
            return if day.is_multiple_of(seconds) {
                Ok(Self::Seconds(seconds as i32))
            } else {
                Err(refused())
            };
        }
        // A hundred years: beyond that it is a mistake, and the arithmetic of dates has an end.
        const MAX_DAYS: u64 = 36_500;
        match (seconds / day, seconds % day) {
            (days @ ..=MAX_DAYS, 0) => Ok(Self::Days(days as i32)),
            (_, 0) => Err(format!("periods of more than {MAX_DAYS} days never end: leave the key out")),
            _ => Err(refused()),
        }
    }

    /// The period that a name with this finest field lasts.
    pub(super) fn of(finest: Field) -> Self {
        match finest {
            Field::Year => Self::Year,
            Field::Month => Self::Month,
            Field::Day => Self::Days(1),
            Field::Hour => Self::Seconds(3_600),
            Field::Minute => Self::Seconds(60),
            Field::Second => Self::Seconds(1),
        }
    }

    /// Whether two periods can have the same name when its finest field is `finest`.
    pub(super) fn is_finer_than(self, finest: Field) -> bool {
        let shortest = match self {
            Self::Year => return false,
            Self::Month => return finest == Field::Year,
            Self::Days(days) => i64::from(days) * i64::from(SECONDS_A_DAY),
            Self::Seconds(seconds) => i64::from(seconds),
        };
        let longest = match finest {
            Field::Year => 366 * i64::from(SECONDS_A_DAY),
            Field::Month => 31 * i64::from(SECONDS_A_DAY),
            Field::Day => i64::from(SECONDS_A_DAY),
            Field::Hour => 3_600,
            Field::Minute => 60,
            Field::Second => 1,
        };
        shortest < longest
    }

    /// The step of the civil clock in which `civil` lies.
    fn floor(self, civil: DateTime) -> DateTime {
        let date = civil.date();
        match self {
            Self::Year => Date::constant(date.year(), 1, 1).at(0, 0, 0, 0),
            Self::Month => date.first_of_month().at(0, 0, 0, 0),
            Self::Days(days) => {
                let since = (date - FIRST_MONDAY).get_days();
                let into = since.rem_euclid(days);
                date.saturating_sub(into.days()).at(0, 0, 0, 0)
            }
            Self::Seconds(every) => {
                let time = civil.time();
                let (hour, minute, second) = (i32::from(time.hour()), time.minute(), time.second());
                let seconds = hour * 3_600 + i32::from(minute) * 60 + i32::from(second);
                let midnight = date.at(0, 0, 0, 0);
                midnight.saturating_add(i64::from(seconds - seconds % every).seconds())
            }
        }
    }

    /// The step after the one that begins at `floor`.
    fn next(self, floor: DateTime) -> DateTime {
        match self {
            Self::Year => floor.saturating_add(1.year()),
            Self::Month => floor.saturating_add(1.month()),
            Self::Days(days) => floor.saturating_add(days.days()),
            Self::Seconds(seconds) => floor.saturating_add(seconds.seconds()),
        }
    }
}

impl Calendar {
    /// Periods that begin at midnight in `zone`; `None` is one period that never ends.
    pub(super) fn new(zone: TimeZone, every: Option<Every>) -> Self {
        Self { zone, every }
    }

    /// The period in which `time` lies.
    pub(super) fn period_of(&self, time: SystemTime) -> Period {
        self.period_at(timestamp(time))
    }

    /// The period in which `time` lies; of its [start](Period::start) it is the period itself.
    pub(super) fn period_at(&self, time: Timestamp) -> Period {
        let seconds = time.clamp(EARLIEST, LATEST).as_second();
        let time = Timestamp::from_second(seconds).expect("it was clamped to what can be written");
        let offset = self.zone.to_offset(time);
        let Some(every) = self.every else {
            let name = at_offset(offset.to_datetime(time), offset);
            return Period { start: Timestamp::MIN, end: Timestamp::MAX, name, repeated: false };
        };
        let floor = every.floor(offset.to_datetime(time));
        let start = self.start(every, floor, time);
        let end = self.end(every, floor, time);
        let offset = self.zone.to_offset(start);
        let shown_twice = self.zone.to_ambiguous_timestamp(offset.to_datetime(start)).offset();
        let repeated = matches!(shown_twice, AmbiguousOffset::Fold { after, .. } if after == offset);
        Period { start, end, name: at_offset(floor, offset), repeated }
    }

    /// The first moment at or before `time` since which the clock has shown the step `floor` throughout.
    fn start(&self, every: Every, floor: DateTime, mut time: Timestamp) -> Timestamp {
        loop {
            let start = moment(floor, self.zone.to_offset(time));
            let change = self.zone.preceding(time + SECOND).next().map(|change| change.timestamp());
            let Some(change) = change.filter(|change| *change >= start) else { return start };
            let before = change - SECOND;
            let offset = self.zone.to_offset(before);
            let was_finished = offset.to_datetime(change) >= every.next(floor);
            if was_finished || every.floor(offset.to_datetime(before)) != floor {
                return change;
            }
            time = before;
        }
    }

    /// The first moment after `time` at which the clock no longer shows the step `floor`.
    fn end(&self, every: Every, floor: DateTime, mut time: Timestamp) -> Timestamp {
        let next = every.next(floor);
        loop {
            let end = moment(next, self.zone.to_offset(time));
            let change = self.zone.following(time).next().map(|change| change.timestamp());
            let Some(change) = change.filter(|change| *change < end) else { return end };
            if every.floor(self.zone.to_offset(change).to_datetime(change)) != floor {
                return change;
            }
            time = change;
        }
    }
}

impl Period {
    /// Its first moment: what to store of a period, see [`Calendar::period_at`].
    pub(super) fn start(&self) -> Timestamp {
        self.start
    }

    /// The first moment after it.
    pub(super) fn end(&self) -> Timestamp {
        self.end
    }

    /// The civil time that names it: the beginning of its step of the clock, even where the clock skipped
    /// that very moment, at the offset that holds at its start.
    pub(super) fn name(&self) -> &Zoned {
        &self.name
    }

    /// Whether the clock shows this step for the second time: only the offset of its name tells it apart.
    pub(super) fn is_repeated(&self) -> bool {
        self.repeated
    }
}

/// Changes of the offset are at whole seconds.
const SECOND: SignedDuration = SignedDuration::from_secs(1);

/// `time` within what names can hold.
fn timestamp(time: SystemTime) -> Timestamp {
    let beyond = if time < SystemTime::UNIX_EPOCH { EARLIEST } else { LATEST };
    Timestamp::try_from(time).unwrap_or(beyond).clamp(EARLIEST, LATEST)
}

/// When the clock shows `civil` at `offset`.
fn moment(civil: DateTime, offset: Offset) -> Timestamp {
    offset.to_timestamp(civil).unwrap_or(Timestamp::MAX)
}

fn at_offset(civil: DateTime, offset: Offset) -> Zoned {
    moment(civil, offset).to_zoned(TimeZone::fixed(offset))
}

#[cfg(test)]
mod tests;
