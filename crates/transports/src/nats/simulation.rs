//! Random runs of everything between a log and its central copy, in one process and in no time.
//!
//! The ends of the transport, the pump and the runner are the real ones. Simulated are the server
//! ([`broker`], [`consumer`]), the way to it ([`network`]), the logs ([`logs`]), the disk of the sink ([`disk`])
//! and the clock, which jumps to whatever comes next. A seed decides everything ([`plan`]): the world, what goes
//! wrong in it and when; so a run can be run again. [`world`] runs it, [`truth`] keeps the books.
//!
//! In the end each sink must have every byte of every log once and in order. Only what both the stream and the
//! source lost before the sink had it may be missing, and must then be recorded as a loss. Where a sink does not
//! tell the commit floor, or waits for answers only briefly, that is so for what the stream lost alone.
//!
//! ```text
//! FSHIPPER_SEEDS=100000 cargo test -p fshipper-transports --lib simulation -- --nocapture
//! FSHIPPER_FIRST_SEED=4711 FSHIPPER_SEEDS=1 FSHIPPER_TRACE=1 cargo test …    one seed, with what happened
//! ```
//!
//! `conformance` holds the model of the server against a real one.

mod broker;
mod conformance;
mod consumer;
mod disk;
mod fast;
mod faults;
mod logs;
mod messages;
mod network;
mod plan;
mod processes;
mod questions;
mod tests;
mod truth;
pub(crate) mod watch;
mod world;

pub(crate) use network::Client;
