//! The built-in sources.
//!
//! - [`FileTail`] (`file_tail`): log files as they grow, through every rotation;
//! - [`Stdin`] (`stdin`): what is piped into the process.
//!
//! A binary that wants them says `use fshipper_sources as _;`: a crate that nobody names is not linked.

pub mod file_tail;
pub mod stdin;

use fshipper_pipeline::{Plugin, inventory};

pub use file_tail::FileTail;
pub use stdin::Stdin;

inventory::submit!(Plugin::source::<FileTail>("file_tail", "log files as they grow, through every rotation"));
inventory::submit!(Plugin::source::<Stdin>("stdin", "standard input, to its end"));
