//! End to end: the built binary, real files, real signals and a real `nats-server`, as users run them.
//!
//! Every test compares bytes with an oracle and waits with deadlines; none measures time. Random schedules come
//! from a seed that is printed, and `SEED=n` replays one.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "that is how a test fails, and says why")]

mod broker_troubles;
mod chaos;
mod clock;
mod cluster;
mod command_line;
mod config_errors;
mod connections;
mod core_nats;
mod crashes;
mod floor;
mod jetstream;
mod keys;
mod limits;
mod local;
mod memory;
mod names;
mod outputs;
mod pipeline_files;
mod reference;
mod relay;
mod rotation;
mod service;
mod stale_handles;
mod standard_streams;
mod state_directory;
mod stopping;
mod subjects;
mod support;
mod surroundings;
mod verify;
