//! Pipeline files: what is accepted, and every error that a user can cause, as it is shown.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod errors;
mod pipelines;
mod plugins;
mod properties;
mod secrets;
