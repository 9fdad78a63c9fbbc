//! Files that rotate by time and size, each byte in them once: [`RotatingFile`].
//!
//! | where | what |
//! | --- | --- |
//! | `config` | the table: [`RotatingFile`] |
//! | `path`, `encode`, `names` | which path lines of an origin go to; nothing off the wire leaves the folder |
//! | `period` | when a file ends: civil time, daylight saving time and all |
//! | `outputs`, `files` | series of files, who writes to them, which are open |
//! | `writer`, `commit`, `syncing`, `writeback` | taking batches, making them count |
//! | `in_place` | what others do to files and folders meanwhile |
//! | `rotation`, `retention`, `compress` | what becomes of a file when it is full or old |
//! | `refusal` | logs that are not taken: the sink's own output, and more than `max_logs` |
//! | `ledger`, `lock`, `recovery` | what is known durably, by one owner, and what a start makes of it |
//! | `confined`, `disk` | the only ways to the disk |
//! | `sink`, `stop` | the async face, and the thread behind it |
//!
//! # How a byte comes to count
//!
//! 1. Before a file is created, or one that was there before us is appended to, an *intent* is in the
//!    ledger, durably; one fsync serves all files that begin within a few milliseconds. After that, writing
//!    to the file needs no further record.
//! 2. A commit writes out what waits, syncs the files that changed and the folders of new ones, and then
//!    appends one record: cursors, origins (epoch, end, place), files (path, inode, length).
//! 3. A start after a crash carries the ledger out: what an intent calls new and no record knows is removed, a
//!    longer file is cut to its recorded length, a rotation, compression or deletion is finished or undone by
//!    looking at inodes. Then the source reads again from the recorded ends, and the same bytes come.
//!
//! Invariant: nothing is written to the ledger that is not on the disk, and nothing that was not written is
//! claimed: a commit compares what the pump claims with what the sink wrote, and fails when it is more.
//!
//! Invariant: a sync that failed is never tried again. The hop is opened anew and recovers from the ledger,
//! which is itself written anew at every start.
//!
//! # What happens when
//!
//! - **The disk is full:** what was written in part is taken back, and the same is tried again until there is
//!   room; the pump waits meanwhile. It is reported once, then once a minute.
//! - **A folder cannot be written to, or a link, a folder or a pipe stands where a file should be:** its origin
//!   is held, the others go on.
//! - **Others rename an active file, or delete it:** it is noticed at the next commit, or after SIGHUP; the next
//!   line goes to a new file, or to the one that stands at the path by then. Nothing is lost by a rename.
//! - **Others cut an active file** (copy and truncate): what was committed is gone, and nobody knows why. The
//!   origin is held, and the file stays as it is until it is restored or moved away.
//! - **A file was there before us:** it is appended to; a last line without an end is ended first.
//! - **Logs share a file** (a path without placeholders): lines stay whole. A line that its log has not finished
//!   is ended before another log writes; what comes of it later stands on a line of its own. The period of a
//!   shared file never goes back either: a late line goes to the file of the latest.
//! - **Nothing is written when a period ends:** the file ends with the next line, and no empty file is made.
//! - **Bytes are lost before they get here:** the loss is noted in `.fshipper/losses.log`, as exactly once as
//!   everything else. A line that it interrupts is ended, and not joined with what follows.
//! - **A source on this host reads what this sink writes:** such a log is held, before a line of it is written.
//! - **There are more logs than `max_logs`:** those that are new are held.
//! - **The ledger is lost:** everything that the source still has comes again, behind what is there.
//!
//! Left out on purpose: a `current` link to the active file, owners of files.

mod commit;
mod compress;
mod config;
mod confined;
mod disk;
mod encode;
mod files;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod in_place;
mod ledger;
mod lock;
mod names;
mod outputs;
mod path;
mod period;
mod recovery;
mod refusal;
mod retention;
mod rotation;
mod sink;
mod stop;
mod syncing;
mod writeback;
mod writer;

pub use config::RotatingFile;

#[cfg(test)]
mod tests;
