//! What goes wrong, and when: [`Schedule`].

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use fastrand::Rng;

use crate::fault::{Fault, Way, Who};
use crate::scenario::{Forgetful, Scenario, pick};

/// The pause between two faults, in milliseconds; now and then there is none.
const GAP: std::ops::Range<u64> = 50..1_800;

/// How long most faults last, in milliseconds, how long some do, and how long a few in runs that have the
/// time: longer than connections live without an answer.
const SHORT: std::ops::Range<u64> = 5..1_200;
const LONG: std::ops::Range<u64> = 1_000..7_000;
const ENDLESS: std::ops::Range<u64> = 10_000..25_000;

/// How long a run must be to have that time.
const ENDLESS_SPAN: Duration = Duration::from_secs(45);

/// When the first fault may come: early enough to hit the very start.
const FIRST: std::ops::Range<u64> = 0..1_500;

/// How much longer a fault keeps what it hit than it lasts: starts and orderly stops take a while.
const REST: Duration = Duration::from_millis(150);

/// The faults of a run, by the time at which they begin.
#[derive(Clone, Debug, Default)]
pub struct Schedule {
    /// In order.
    pub events: Vec<Event>,
}

/// A fault with its time.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// Since the run began.
    pub at: Duration,
    /// What happens.
    pub fault: Fault,
}

/// What only one fault at a time can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Part {
    Process(Who),
    Connection(Who),
    Disk(usize),
    Clock(Who),
}

impl Schedule {
    /// The schedule of a scenario's seed: the same one every time.
    pub fn draw(scenario: &Scenario) -> Self {
        let mut random = Rng::with_seed(scenario.seed ^ 0x0073_6368_6564_756c);
        let mut events = Vec::new();
        let mut busy: HashMap<Part, Duration> = HashMap::new();
        let mut at = milliseconds(&mut random, FIRST);
        while at < scenario.span {
            let fault = draw(scenario, &mut random);
            let end = at + fault.span();
            let parts = parts(&fault);
            let free = parts.iter().all(|part| busy.get(part).is_none_or(|until| *until <= at));
            if free && end < scenario.span {
                busy.extend(parts.into_iter().map(|part| (part, end + REST)));
                events.push(Event { at, fault });
            }
            // Several at the same moment are what nobody thinks of.
            if random.u8(..5) > 0 {
                at += milliseconds(&mut random, GAP);
            }
        }
        Self { events }
    }
}

fn draw(scenario: &Scenario, random: &mut Rng) -> Fault {
    let producer = random.usize(..scenario.producers.len());
    let consumer = random.usize(..scenario.consumers);
    let end = if random.bool() { Who::Producer(producer) } else { Who::Consumer(consumer) };
    let anybody = if random.u8(..4) == 0 { Who::Broker } else { end };
    let span = span(scenario, random);
    let down = span.mul_f64(0.5);
    match random.u8(..40) {
        0..=6 => Fault::Kill { who: anybody, down },
        7..=8 => {
            let life = milliseconds(random, 5..400);
            Fault::KillAgain { who: anybody, lives: random.u32(1..=4), life }
        }
        9..=11 => Fault::Stop { who: anybody, down },
        12..=14 => Fault::Pause { who: anybody, span },
        15..=17 => Fault::Cut { who: end },
        18..=19 => Fault::Refuse { who: end, span },
        20..=24 => {
            let way = pick(random, &[Way::There, Way::Back, Way::Both]);
            Fault::Stall { who: end, way, span, cut: random.bool() }
        }
        25 => Fault::HalfOpen { who: end },
        26..=27 => {
            let bytes_per_second = pick(random, &[5_000, 50_000, 500_000]);
            Fault::Slow { who: end, span, bytes_per_second, delay: milliseconds(random, 0..300) }
        }
        28..=29 if scenario.forgetful == Forgetful::Broker => Fault::WipeBroker { down },
        28..=29 if scenario.forgetful == Forgetful::Producers => {
            let rotations = if random.bool() { 0 } else { random.u32(1..=3) };
            Fault::ForgetState { producer, rotations, down }
        }
        30 if scenario.forgetful != Forgetful::Broker => {
            Fault::Second { who: Who::Producer(producer), own_state: true, span: milliseconds(random, LONG) }
        }
        31 => Fault::Second { who: end, own_state: false, span: milliseconds(random, LONG) },
        32 => {
            Fault::Second { who: Who::Consumer(consumer), own_state: true, span: milliseconds(random, LONG) }
        }
        33 => Fault::HangUp { who: end },
        34..=35 => Fault::RotateWhileDown { producer, rotations: random.u32(1..=4), down },
        36..=37 if scenario.small_disk => {
            Fault::FillDisk { consumer, span: milliseconds(random, LONG), room_bytes: random.u64(0..200_000) }
        }
        38..=39 if scenario.clocks => {
            let seconds = pick(random, &[-86_400, -7_200, -30, 30, 3_600, 86_400, 31_536_000]);
            Fault::JumpClock { who: end, seconds, span }
        }
        _ => Fault::Kill { who: end, down },
    }
}

fn parts(fault: &Fault) -> Vec<Part> {
    match *fault {
        Fault::Kill { who, .. }
        | Fault::KillAgain { who, .. }
        | Fault::Stop { who, .. }
        | Fault::Pause { who, .. }
        | Fault::HangUp { who }
        | Fault::Second { who, .. } => vec![Part::Process(who)],
        Fault::WipeBroker { .. } => vec![Part::Process(Who::Broker)],
        Fault::ForgetState { producer, .. } | Fault::RotateWhileDown { producer, .. } => {
            vec![Part::Process(Who::Producer(producer))]
        }
        Fault::ForgetLedger { consumer, .. } => vec![Part::Process(Who::Consumer(consumer))],
        Fault::Cut { who }
        | Fault::Refuse { who, .. }
        | Fault::Stall { who, .. }
        | Fault::HalfOpen { who }
        | Fault::Slow { who, .. } => vec![Part::Connection(who)],
        Fault::FillDisk { consumer, .. } => vec![Part::Disk(consumer)],
        Fault::JumpClock { who, .. } => vec![Part::Clock(who)],
    }
}

fn span(scenario: &Scenario, random: &mut Rng) -> Duration {
    let range = match random.u8(..40) {
        0 if scenario.span >= ENDLESS_SPAN => ENDLESS,
        0..=6 => LONG,
        _ => SHORT,
    };
    milliseconds(random, range)
}

fn milliseconds(random: &mut Rng, range: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(random.u64(range))
}

/// One line for each event: `t=12.345 kill producer 1, down for 0.400 s`.
impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.events
            .iter()
            .try_for_each(|Event { at, fault }| writeln!(f, "t={:.3} {fault}", at.as_secs_f64()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn schedules() -> impl Iterator<Item = (Scenario, Schedule)> {
        (0..300).map(|seed| {
            let scenario = Scenario::draw(seed, Duration::from_secs(60));
            let schedule = Schedule::draw(&scenario);
            (scenario, schedule)
        })
    }

    #[test]
    fn a_seed_gives_the_same_schedule_again_and_another_one_another() {
        let texts = schedules().map(|(_, schedule)| schedule.to_string()).collect::<Vec<_>>();
        assert!(texts.iter().eq(&schedules().map(|(_, schedule)| schedule.to_string()).collect::<Vec<_>>()));
        assert_eq!(texts.iter().collect::<HashSet<_>>().len(), texts.len());
    }

    #[test]
    fn every_kind_is_drawn_except_the_one_that_must_fail() {
        let drawn = schedules().flat_map(|(_, schedule)| schedule.events);
        let drawn = drawn.map(|event| event.fault.kind()).collect::<HashSet<_>>();
        let absent = Fault::KINDS.iter().filter(|kind| !drawn.contains(*kind)).collect::<Vec<_>>();
        assert_eq!(absent, [&"ledger deleted"]);
    }

    #[test]
    fn faults_end_in_time_and_only_one_forgets() {
        for (scenario, schedule) in schedules() {
            assert!(schedule.events.is_sorted_by_key(|event| event.at));
            for Event { at, fault } in schedule.events {
                assert!(at + fault.span() < scenario.span);
                match fault {
                    Fault::WipeBroker { .. } => assert_eq!(scenario.forgetful, Forgetful::Broker),
                    Fault::ForgetState { .. } => assert_eq!(scenario.forgetful, Forgetful::Producers),
                    Fault::Second { who: Who::Producer(_), own_state: true, .. } => {
                        assert_ne!(scenario.forgetful, Forgetful::Broker);
                    }
                    _ => {}
                }
            }
        }
    }
}
