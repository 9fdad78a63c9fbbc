//! The `nats` transport with a stream, against a real `nats-server`.

#![allow(clippy::unwrap_used, reason = "the whole crate is a test: a panic is its way to fail")]

mod faults;
mod floor;
mod going_back;
mod ingest;
mod large;
mod permissions;
mod receiving;
mod sending;
mod settings;
mod support;
