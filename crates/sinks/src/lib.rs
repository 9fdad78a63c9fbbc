//! The built-in sinks.
//!
//! - [`RotatingFile`] (`rotating_file`): files that rotate by time and size, each byte in them once;
//! - [`Stdout`](stdout::Stdout) (`stdout`): raw bytes for a pipe or a terminal;
//! - [`Null`](null::Null) (`null`): takes everything and keeps nothing, for measurements.
//!
//! A binary that wants them says `use fshipper_sinks as _;`: a crate that nobody names is not linked. Each is
//! a `[sink]` table of a pipeline file:
//!
//! ```
//! use fshipper_pipeline::SinkConfig;
//! use fshipper_sinks::RotatingFile;
//!
//! let sink: RotatingFile = toml::from_str(
//!     r#"
//!         path     = "/var/log/remote/{host}/{file}.%Y%m%d"
//!         keep     = { age = "7d" }
//!         compress = "gzip"
//!     "#,
//! )?;
//! assert_eq!(sink.describe(), "/var/log/remote/{host}/{file}.%Y%m%d, rotated files with gzip");
//! # Ok::<(), toml::de::Error>(())
//! ```

pub mod null;
pub mod rotating_file;
pub mod stdout;

use fshipper_pipeline::{Plugin, inventory};

pub use rotating_file::RotatingFile;

inventory::submit!(Plugin::sink::<RotatingFile>("rotating_file", "files that rotate by time and size"));
inventory::submit!(Plugin::sink::<stdout::Stdout>("stdout", "standard output, raw"));
inventory::submit!(Plugin::sink::<null::Null>("null", "takes everything, keeps nothing"));
