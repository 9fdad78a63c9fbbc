//! The sink as a whole: what is in the files after everything that can happen.

mod bench;
mod commits;
mod compression;
mod crash;
mod cuts;
mod folders;
mod names;
mod notes;
mod others;
mod power;
mod refusal;
mod retention;
mod room;
mod sink;
