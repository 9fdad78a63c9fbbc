//! The source `file_tail`: log files as they grow, through every rotation, without a byte lost or doubled.
//!
//! A log is everything that was and will be written at one path: across renames, copies and truncations
//! its bytes are one endless string, and each batch says which of them it holds. The receiving side keeps the
//! position; this side keeps only which physical files a log consists of.
//!
//! From the outside in:
//!
//! - [`FileTail`]: the configuration;
//! - `source`: the asynchronous side; `watch`: hints from the kernel, for speed alone;
//! - `tail`: the engine, synchronous, told the time; `turn`: reading one batch; `open_files`: of how many; `survivors`: which outlive a session;
//! - `opening`, `restoring`, `resuming`: where each log stands at a start; `forgetting`: what is gone for good;
//! - `routing`, `paths`, `owners`: which log a path, and a file, belongs to; `settling`, `waiting`: what a log is read from, and what
//!   comes next; `copies`: what only looks as if it came next; `losses`: what can never be read;
//! - `candidates`, `likeness`: which file on disk is which part of a log; `log`, `reading`, `rotation`: how far one was read,
//!   and what is around that;
//! - `discovery`: which files there are; `patterns`, `siblings`: what their names mean;
//! - `lines`: where a batch may be cut; `text`: where the zeros begin that end a file; `gunzip`, `contents`, `unpacking`: what compressed files hold;
//! - `identity`: how a file is known again; `state`, `place`: what is remembered of it, here and there.
//!
//! What it does where users often ask:
//!
//! - A renamed or deleted file is read until it has not grown for `rotate_wait`; only then the next one
//!   begins. While the next one is empty, the renamed one is read on for as long as it exists.
//! - A last line without an end is held back until it gets one, or its file is finished: then the next
//!   file's first line joins it, as `cat` would join them. With `--once` it is shipped at the end of the file;
//!   whatever is appended to it later continues there.
//! - Copied and truncated, or rewritten in place: the first byte of the new content follows the last byte
//!   read of the old one. What was not read is taken from the copy, if there is one beside it, and else
//!   recorded as a loss.
//! - What was deleted is held open as long as it is needed, also while the hop reopens: until all of it is
//!   committed, up to 64 files.
//! - A file replaced by one that begins with the same bytes, as far as they were read, is continued.
//! - `app.log.1`, `app.log-20261123` and the like belong to `app.log`, when that exists; a numbered one also when
//!   it does not, if a pattern selects `app.log` and its name has an extension (`worker.1` may be a log of its own).
//!   Selected by a pattern, they are its earlier files, oldest first; not selected, they only serve to finish what was
//!   begun, and to bridge several rotations that nobody saw. One that is older than what was read is left
//!   alone; one that is younger, and whose place nothing shows, is recorded as a loss.
//! - A name may be anything, and any bytes are bytes. FIFOs, sockets and devices are never opened.
//! - Zeros up to the end of a file are nobody's lines: space that was reserved, or what a crash left. They are
//!   not shipped, and text that takes their place is, also where the size stays what it is. Zeros with text
//!   behind them are bytes.
//! - Bytes appended to a rotated file after the next one began come too late: they are recorded as a loss.
//!   `rotate_wait` must cover its writer.
//!
//! - A file compressed with gzip is what it was compressed from: `app.log.2.gz`, selected by a pattern, is an
//!   earlier file of `app.log`, and what was read before it was compressed is not read again. One that there is
//!   only compressed is the log that its name without `.gz` says; `exclude = ["*.gz"]` leaves them alone. One
//!   that is damaged gives what can be decoded, and the rest is a loss; one that still grows is waited for.
//! - With `multiline` the lines of an event travel in one batch: the last event is held back until the next one
//!   begins, it has not grown for `timeout`, or its file is finished. Sinks that divide their output by time
//!   divide it between batches; a transport with `framing = "line"` still sends each line alone, and
//!   `rotate.max_bytes` still counts lines.
//! - An `encoding` of two-byte characters says where lines end; the bytes arrive as they are.
//!
//! Left out on purpose: the content of files that anything but gzip compressed (one that may hold something
//! unread is reported, and what was certainly not read before it was compressed is a loss), and re-encoding.
//! Such a file whose name is no sibling's is shipped as it is.

mod candidates;
mod config;
mod contents;
mod copies;
mod discovery;
mod forgetting;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod gunzip;
mod identity;
mod likeness;
mod lines;
mod listing;
mod log;
mod losses;
mod open_files;
mod opening;
mod owners;
mod paths;
mod patterns;
mod place;
mod reading;
mod restoring;
mod resuming;
mod rotation;
mod routing;
mod settling;
mod siblings;
mod source;
mod state;
mod survivors;
mod tail;
#[cfg(test)]
mod tests;
mod text;
mod turn;
mod unpacking;
mod unread;
mod waiting;
mod watch;

pub use config::{FileTail, Multiline, StartAt};
pub use lines::Encoding;
pub use siblings::in_order_of_rotation;
