//! `fshipper-bench`: what `benches/run.py` needs beside the product.
//!
//! Each subcommand is one small tool: [`corpus`] makes logs, [`bare`] measures what the machine allows
//! (compare-and-set publish, pull, fsynced write, and nothing else), [`latency`] appends lines and waits for
//! them, [`hosts`] speaks for many hosts, [`link`] is a long line, [`opens`] counts who opens files, [`stream`]
//! makes a stream for other shippers, and [`first`] waits for a first message. What they find goes to stdout as one line of JSON.
//!
//! Left out on purpose: processes, repetition, medians and goals, which are `benches/run.py`'s.

mod bare;
mod corpus;
mod first;
mod hosts;
mod latency;
mod link;
mod opens;
mod stream;

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};

/// What the benchmarks need beside the product; `benches/run.py` calls it
#[derive(Debug, Parser)]
#[command(name = "fshipper-bench", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    tool: Tool,
}

#[derive(Debug, Subcommand)]
enum Tool {
    /// Write logs that are the same each time
    Corpus(corpus::Corpus),
    /// Publish a file in blocks, each with compare-and-set, one at a time
    BarePublish(bare::Publish),
    /// Pull those blocks and write them, with an fsync now and then
    BareReceive(bare::Receive),
    /// Append lines to files and measure when they are visible in the central ones
    Latency(latency::Latency),
    /// Publish lines of many hosts to a stream, as fshipper would
    Hosts(hosts::Hosts),
    /// Pass connections on with a delay in each direction, until stdin ends
    Link(link::Link),
    /// Count how often files of a directory are opened or read
    Opens(opens::Opens),
    /// Make a stream with a durable consumer, as other shippers need it
    Stream(stream::Stream),
    /// Start a command and measure until the first message arrives
    First(first::First),
}

fn main() -> ExitCode {
    match run(Arguments::parse().tool) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // A broken stderr leaves nobody to tell.
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(tool: Tool) -> Result<()> {
    match tool {
        Tool::Corpus(corpus) => corpus.run(),
        Tool::BarePublish(publish) => runtime()?.block_on(publish.run()),
        Tool::BareReceive(receive) => runtime()?.block_on(receive.run()),
        Tool::Latency(latency) => latency.run(),
        Tool::Hosts(hosts) => runtime()?.block_on(hosts.run()),
        Tool::Link(link) => runtime()?.block_on(link.run()),
        Tool::Opens(opens) => opens.run(),
        Tool::Stream(stream) => runtime()?.block_on(stream.run()),
        Tool::First(first) => runtime()?.block_on(first.run()),
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Runtime::new().context("cannot start the runtime")
}

/// Prints what was found, as one line of JSON.
fn print(found: &serde_json::Value) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    writeln!(stdout, "{found}")?;
    stdout.flush().context("cannot print")
}
