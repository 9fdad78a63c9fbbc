//! Chaos: the built `fshipper` binary as producers and consumers, a real `nats-server` behind a proxy for
//! each of them, programs that log and rotate, and faults from a seed. In the end every byte that was written
//! must stand in the output, once and in order.
//!
//! - [`Scenario`]: who takes part and how it is configured, drawn from a seed;
//! - [`Schedule`], [`Fault`]: what goes wrong and when, drawn from the same seed, printed as a list;
//! - [`run`]: plays a schedule and judges what arrived;
//! - [`Outcome`], [`Series`]: what came of one seed and of many, as a line, a table in Markdown, and JSON.
//!
//! A seed replays its scenario and its schedule, and every writer writes the same kinds of lines; the moments
//! in between are the machine's. So a failing seed fails again often, not always.
//!
//! Left out on purpose: power cuts, which no process can simulate for another one; the simulated disk of
//! `rotating_file` and the settings of the broker are tested elsewhere.

mod actor;
mod author;
mod conductor;
mod fault;
mod judge;
mod log_scan;
mod outcome;
mod outputs;
mod pipelines;
mod run;
mod scenario;
mod schedule;
mod small_disk;
mod stage;

pub use fault::{Fault, Way, Who};
pub use outcome::{Outcome, Series};
pub use run::{Settings, run, run_as};
pub use scenario::{Forgetful, Log, Naming, Output, Producer, Scenario};
pub use schedule::{Event, Schedule};
