//! What can go wrong: [`Fault`].

use std::fmt;
use std::time::Duration;

/// A process that takes part, by its number from 0. It stands for the process's own connection too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Who {
    /// Reads logs and publishes.
    Producer(usize),
    /// Receives and writes files.
    Consumer(usize),
    /// The `nats-server`.
    Broker,
}

/// Which way of a connection is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// What the process sends.
    There,
    /// What the server sends.
    Back,
    /// Both.
    Both,
}

/// One fault, with how long it lasts. Whatever it breaks is mended when it is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL, and a start after `down`.
    Kill {
        /// Whom.
        who: Who,
        /// How long it stays down.
        down: Duration,
    },
    /// SIGKILL in the middle of recovering from the last one, again and again.
    KillAgain {
        /// Whom.
        who: Who,
        /// How many lives end like this.
        lives: u32,
        /// How long each of them is.
        life: Duration,
    },
    /// SIGTERM, and a start after it ended and `down` passed.
    Stop {
        /// Whom.
        who: Who,
        /// How long it stays down.
        down: Duration,
    },
    /// SIGSTOP and SIGCONT.
    Pause {
        /// Whom.
        who: Who,
        /// How long it stands still.
        span: Duration,
    },
    /// Every connection of the process is closed; new ones are welcome.
    Cut {
        /// Whose.
        who: Who,
    },
    /// Every connection is closed, and new ones at once.
    Refuse {
        /// Whose.
        who: Who,
        /// For how long.
        span: Duration,
    },
    /// Connections stay open and can be made, and nothing passes one way or both.
    Stall {
        /// Whose.
        who: Who,
        /// What does not pass.
        way: Way,
        /// For how long.
        span: Duration,
        /// Whether they are cut in the end: what was under way is lost then, and comes late otherwise.
        cut: bool,
    },
    /// The server's end is closed, and the process never hears of it.
    HalfOpen {
        /// Whose.
        who: Who,
    },
    /// Few bytes pass, and late.
    Slow {
        /// Whose.
        who: Who,
        /// For how long.
        span: Duration,
        /// In each direction.
        bytes_per_second: u32,
        /// Of each block.
        delay: Duration,
    },
    /// SIGKILL of the broker, and it starts with an empty store.
    WipeBroker {
        /// How long it stays down.
        down: Duration,
    },
    /// SIGKILL of a producer, and it starts without its state directory, after its logs were rotated a few
    /// times.
    ForgetState {
        /// Which one.
        producer: usize,
        /// How often.
        rotations: u32,
        /// How long it stays down.
        down: Duration,
    },
    /// SIGKILL of a consumer, and it starts without its ledger, next to the output of its former life. Nobody
    /// can be exactly once like this: no seed draws it, it is there to see the oracle fail.
    ForgetLedger {
        /// Which one.
        consumer: usize,
        /// How long it stays down.
        down: Duration,
    },
    /// SIGHUP: it opens its output again.
    HangUp {
        /// Who.
        who: Who,
    },
    /// The consumer's disk has only `room_bytes` left.
    FillDisk {
        /// Whose.
        consumer: usize,
        /// For how long.
        span: Duration,
        /// What is left.
        room_bytes: u64,
    },
    /// A second instance starts beside the first. One of the two has to leave, except for a producer with a
    /// state directory of its own.
    Second {
        /// Of whom.
        who: Who,
        /// Whether it has a state directory of its own.
        own_state: bool,
        /// For how long, when nobody refuses it.
        span: Duration,
    },
    /// SIGKILL of a producer; every one of its logs is written to and rotated a few times before it starts
    /// again.
    RotateWhileDown {
        /// Which one.
        producer: usize,
        /// How often.
        rotations: u32,
        /// How long it stays down after that.
        down: Duration,
    },
    /// The wall clock of a process jumps, and back again.
    JumpClock {
        /// Whose.
        who: Who,
        /// How far; back when negative.
        seconds: i64,
        /// For how long.
        span: Duration,
    },
}

impl Fault {
    /// The kinds of faults, in the order of tables.
    pub const KINDS: [&str; 22] = [
        "SIGKILL of a producer",
        "SIGKILL of a consumer",
        "SIGKILL of the broker",
        "SIGKILL again while it recovers",
        "SIGTERM and start",
        "broker stopped and started",
        "SIGSTOP and SIGCONT",
        "SIGHUP",
        "connections cut",
        "connections refused",
        "black hole",
        "one direction stalled",
        "half-open connection",
        "slow link",
        "broker's store wiped",
        "state directory deleted",
        "ledger deleted",
        "disk full",
        "second instance",
        "second producer with a state of its own",
        "rotations while the producer is down",
        "clock jump",
    ];

    /// Which of [`Fault::KINDS`] it is.
    pub fn kind(&self) -> &'static str {
        let index = match self {
            Self::Kill { who: Who::Producer(_), .. } => 0,
            Self::Kill { who: Who::Consumer(_), .. } => 1,
            Self::Kill { who: Who::Broker, .. } => 2,
            Self::KillAgain { .. } => 3,
            Self::Stop { who: Who::Broker, .. } => 5,
            Self::Stop { .. } => 4,
            Self::Pause { .. } => 6,
            Self::HangUp { .. } => 7,
            Self::Cut { .. } => 8,
            Self::Refuse { .. } => 9,
            Self::Stall { way: Way::Both, .. } => 10,
            Self::Stall { .. } => 11,
            Self::HalfOpen { .. } => 12,
            Self::Slow { .. } => 13,
            Self::WipeBroker { .. } => 14,
            Self::ForgetState { .. } => 15,
            Self::ForgetLedger { .. } => 16,
            Self::FillDisk { .. } => 17,
            Self::Second { who: Who::Producer(_), own_state: true, .. } => 19,
            Self::Second { .. } => 18,
            Self::RotateWhileDown { .. } => 20,
            Self::JumpClock { .. } => 21,
        };
        Self::KINDS[index]
    }

    /// How long it lasts by itself: a start, or a stop in order, comes on top.
    pub fn span(&self) -> Duration {
        match *self {
            Self::Cut { .. } | Self::HalfOpen { .. } | Self::HangUp { .. } => Duration::ZERO,
            Self::KillAgain { lives, life, .. } => life * lives,
            Self::Kill { down: span, .. }
            | Self::Stop { down: span, .. }
            | Self::WipeBroker { down: span }
            | Self::ForgetState { down: span, .. }
            | Self::ForgetLedger { down: span, .. }
            | Self::RotateWhileDown { down: span, .. }
            | Self::Pause { span, .. }
            | Self::Refuse { span, .. }
            | Self::Stall { span, .. }
            | Self::Slow { span, .. }
            | Self::FillDisk { span, .. }
            | Self::Second { span, .. }
            | Self::JumpClock { span, .. } => span,
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Producer(number) => write!(f, "producer {number}"),
            Self::Consumer(number) => write!(f, "consumer {number}"),
            Self::Broker => write!(f, "the broker"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |span: Duration| format!("{:.3} s", span.as_secs_f64());
        match *self {
            Self::Kill { who, down } => write!(f, "kill {who}, down for {}", seconds(down)),
            Self::KillAgain { who, lives, life } => {
                write!(f, "kill {who}, and {lives} times more after {}", seconds(life))
            }
            Self::Stop { who, down } => write!(f, "stop {who}, down for {}", seconds(down)),
            Self::Pause { who, span } => write!(f, "pause {who} for {}", seconds(span)),
            Self::HangUp { who } => write!(f, "hang up {who}"),
            Self::Cut { who } => write!(f, "cut the connections of {who}"),
            Self::Refuse { who, span } => write!(f, "refuse connections of {who} for {}", seconds(span)),
            Self::Stall { who, way, span, cut } => {
                let way = match way {
                    Way::There => "nothing passes to the server",
                    Way::Back => "nothing passes back",
                    Way::Both => "nothing passes",
                };
                let end = if cut { ", then cut" } else { "" };
                write!(f, "stall {who}: {way} for {}{end}", seconds(span))
            }
            Self::HalfOpen { who } => write!(f, "leave the connections of {who} half open"),
            Self::Slow { who, span, bytes_per_second, delay } => {
                write!(f, "slow down {who} to {bytes_per_second} bytes/s and {delay:?} for {}", seconds(span))
            }
            Self::WipeBroker { down } => write!(f, "wipe the broker's store, down for {}", seconds(down)),
            Self::ForgetState { producer, rotations, down } => write!(
                f,
                "kill producer {producer}, delete its state, rotate its logs {rotations} times, down for {}",
                seconds(down)
            ),
            Self::ForgetLedger { consumer, down } => {
                write!(f, "kill consumer {consumer} and delete its ledger, down for {}", seconds(down))
            }
            Self::FillDisk { consumer, span, room_bytes } => {
                write!(
                    f,
                    "fill the disk of consumer {consumer} up to {room_bytes} bytes for {}",
                    seconds(span)
                )
            }
            Self::Second { who, own_state, span } => {
                let state = if own_state { "a state of its own" } else { "the same state" };
                write!(f, "start a second {who} with {state} for {}", seconds(span))
            }
            Self::RotateWhileDown { producer, rotations, down } => write!(
                f,
                "kill producer {producer}, rotate its logs {rotations} times, down for {}",
                seconds(down)
            ),
            Self::JumpClock { who, seconds: jump, span } => {
                write!(f, "set the clock of {who} {jump:+} s for {}", seconds(span))
            }
        }
    }
}
