//! What the tests of every crate share. Real parts only: a real `nats-server`, real files, real signals.
//!
//! - [`NatsServer`]: a server of the test's own, to kill, pause and restart;
//! - [`NatsCluster`]: several that keep streams together;
//! - [`Authority`], [`Operator`]: those who certify servers and clients, and who sign accounts and users;
//! - [`LogWriter`]: numbered, checksummed lines from a seed, rotated in every way, with the exact bytes that
//!   must arrive;
//! - [`Fshipper`], [`Running`]: the built binary as a child process;
//! - [`compare`], [`Verdict`]: the oracle, which says lost, duplicated, reordered, torn;
//! - [`Proxy`]: a TCP proxy that cuts, stalls and goes on;
//! - [`Subscriber`]: a plain NATS client, as other people write one;
//! - [`wait_until`]: polls something outside, with a deadline.
//!
//! Helpers panic with a message that says what went wrong and, where known, what to do: a test has no other
//! use for an error. Left out on purpose: mocks, and sleeps that stand for "it is surely done by now".

mod authority;
mod child;
mod log_writer;
mod nats_binary;
mod nats_cluster;
mod nats_server;
mod operator;
mod oracle;
mod process;
mod proxy;
mod subscriber;
mod wait;

pub use authority::Authority;
pub use log_writer::LogWriter;
pub use nats_cluster::NatsCluster;
pub use nats_server::{NatsOptions, NatsServer};
pub use operator::Operator;
pub use oracle::{Difference, Verdict, compare};
pub use process::{Finished, Fshipper, Running};
pub use proxy::{Direction, Proxy};
pub use subscriber::Subscriber;
pub use wait::{DEADLINE, wait_until};
