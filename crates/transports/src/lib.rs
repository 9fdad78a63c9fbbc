//! The built-in transports of fshipper.
//!
//! - [`Nats`], `type = "nats"`: over core NATS at most once, over a JetStream stream exactly once;
//! - [`Memory`], `type = "memory"`: both ends in one process.
//!
//! A transport is registered by linking this crate: `use fshipper_transports as _;`. Each type is the
//! `[transport]` table of a pipeline file, and opens its two ends:
//!
//! ```
//! use fshipper_pipeline::Transport;
//! use fshipper_transports::Nats;
//!
//! let table = r#"{ "servers": "nats://me:secret@localhost", "subject": "shipper" }"#;
//! let nats: Nats = serde_json::from_str(table)?;
//! assert_eq!(nats.describe(), "nats://localhost, subject shipper");
//! # Ok::<(), serde_json::Error>(())
//! ```
//!
//! What travels over NATS is described in `docs/wire-format.md`. Left out on purpose: queue groups, which
//! cannot keep the order of a log, and durable consumers, which remember a position in a stream that may not
//! be the same stream any more.

mod memory;
mod nats;

pub use memory::Memory;
pub use nats::Nats;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub use nats::fuzzing;
