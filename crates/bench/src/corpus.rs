//! Logs that are the same each time: [`Corpus`].

use std::fs::{self, File};
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Args;
use fastrand::Rng;

/// Lines of a web service's log: 178 bytes on average, each with a number of its own, and with times, addresses
/// and identifiers that compress as those of real logs do.
#[derive(Args, Debug)]
pub(crate) struct Corpus {
    /// A file, or with --files a directory
    path: PathBuf,
    /// How many lines, in all files together
    #[arg(long)]
    lines: u64,
    /// Spread the lines evenly over so many files in a directory
    #[arg(long)]
    files: Option<u64>,
    /// Lines of exactly this length instead, line end included
    #[arg(long)]
    line_bytes: Option<usize>,
    /// The number of the first line
    #[arg(long, default_value_t = 0)]
    first: u64,
}

/// A run of lines that is written again and again, with other numbers each time.
pub(crate) struct Lines {
    text: Vec<u8>,
    /// Where the numbers stand.
    numbers: Vec<Range<usize>>,
    /// Where the lines end.
    ends: Vec<usize>,
}

/// Enough that neither a compressor nor a page cache finds the repetition within a message.
const DISTINCT_LINES: usize = 50_000;

const NUMBER_DIGITS: usize = 12;

const SEED: u64 = 178;

impl Corpus {
    pub(crate) fn run(self) -> Result<()> {
        let (mut text, mut number) = (Lines::new(), self.first);
        let Some(files) = self.files else {
            return self.write(&mut text, &self.path, self.lines, &mut number);
        };
        fs::create_dir_all(&self.path).with_context(|| format!("cannot create `{}`", self.path.display()))?;
        for file in 0..files {
            let lines = self.lines / files + u64::from(file < self.lines % files);
            self.write(&mut text, &self.path.join(format!("app-{file:05}.log")), lines, &mut number)?;
        }
        Ok(())
    }

    fn write(&self, text: &mut Lines, path: &Path, lines: u64, number: &mut u64) -> Result<()> {
        let written =
            File::create(path).map_err(anyhow::Error::from).and_then(|mut file| match self.line_bytes {
                Some(bytes) => long_lines(&mut file, lines, bytes, *number),
                None => text.write(&mut file, lines, *number),
            });
        *number += lines;
        written.with_context(|| format!("cannot write `{}`", path.display()))
    }
}

impl Lines {
    pub(crate) fn new() -> Self {
        let mut random = Rng::with_seed(SEED);
        let (mut text, mut numbers, mut ends) = (Vec::new(), Vec::new(), Vec::new());
        for line in 0..DISTINCT_LINES {
            let (micros, millis) = (line * 20 % 1_000_000, line / 50 % 1000);
            let host = random.u8(1..20);
            write_infallibly(
                &mut text,
                format_args!("2026-11-23T10:00:{:02}.{micros:06}Z web{host} api: seq=", millis / 17),
            );
            numbers.push(text.len()..text.len() + NUMBER_DIGITS);
            text.resize(text.len() + NUMBER_DIGITS, b'0');
            let status = if random.u8(..10) < 9 { 200 } else { [304, 404, 500][random.usize(..3)] };
            let route = ROUTES[random.usize(..ROUTES.len())];
            // What is popular is asked for often, and is as large each time.
            let order = skewed(&mut random, 40_000);
            let bytes = 200 + order * 7919 % 30_000;
            let (client, took) = (skewed(&mut random, 4000), 100 + skewed(&mut random, 90_000));
            let (request, agent) = (random.u32(..), AGENTS[random.usize(..AGENTS.len())]);
            write_infallibly(
                &mut text,
                format_args!(
                    " level=info {route}/{order} status={status} bytes={bytes} client=10.4.{}.{} \
                     duration_us={took} request={request:08x} agent=\"{agent}\"",
                    client / 250,
                    client % 250
                ),
            );
            text.push(b'\n');
            ends.push(text.len());
        }
        Self { text, numbers, ends }
    }

    /// Writes `lines` lines; the first has the number `first`.
    pub(crate) fn write(&mut self, file: &mut impl Write, lines: u64, first: u64) -> Result<()> {
        let mut written = 0;
        while written < lines {
            let count = (lines - written).min(DISTINCT_LINES as u64) as usize;
            for (range, number) in self.numbers[..count].iter().zip(first + written..) {
                write_digits(&mut self.text[range.clone()], number);
            }
            file.write_all(&self.text[..self.ends[count - 1]])?;
            written += count as u64;
        }
        Ok(())
    }
}

const ROUTES: [&str; 8] = [
    "GET /v1/orders",
    "POST /v1/customers",
    "PUT /v1/carts",
    "GET /v2/search",
    "DELETE /v2/sessions",
    "GET /static/img",
    "POST /v1/payments",
    "GET /internal/health",
];

/// Their lengths make the average.
const AGENTS: [&str; 7] = ["Chrome", "Firefox", "Safari", "android", "iOS17", "okhttp", "curl"];

/// A line is its number, and then the text of other lines without their ends.
fn long_lines(file: &mut File, lines: u64, bytes: usize, first: u64) -> Result<()> {
    let mut filler = Lines::new().text;
    filler.iter_mut().filter(|byte| **byte == b'\n').for_each(|byte| *byte = b' ');
    for number in first..first + lines {
        let mut line = format!("{number:0NUMBER_DIGITS$}").into_bytes();
        while line.len() < bytes {
            let room = bytes - line.len();
            line.extend_from_slice(&filler[..room.min(filler.len())]);
        }
        line.truncate(bytes.max(1));
        if let Some(last) = line.last_mut() {
            *last = b'\n';
        }
        file.write_all(&line)?;
    }
    Ok(())
}

/// Below `most`, small numbers far more often than large ones.
fn skewed(random: &mut Rng, most: u32) -> u32 {
    (random.f64().powi(3) * f64::from(most)) as u32
}

fn write_digits(place: &mut [u8], mut number: u64) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

fn write_infallibly(text: &mut Vec<u8>, arguments: std::fmt::Arguments<'_>) {
    // Nothing fails when it is written to memory.
    let _ = text.write_fmt(arguments);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_178_bytes_long_on_average_and_no_two_are_equal() {
        let mut text = Vec::new();
        let lines = 3 * DISTINCT_LINES as u64 + 7;
        Lines::new().write(&mut text, lines, 5).unwrap();
        assert_eq!(memchr::memchr_iter(b'\n', &text).count() as u64, lines);
        let average = text.len() as f64 / lines as f64;
        assert!((177.5..178.5).contains(&average), "{average}");
        let distinct: std::collections::HashSet<_> = text.split(|byte| *byte == b'\n').collect();
        assert_eq!(distinct.len() as u64, lines + 1);
    }

    #[test]
    fn long_lines_are_as_long_as_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("long");
        let corpus =
            Corpus { path: path.clone(), lines: 3, files: None, line_bytes: Some(20_000_000), first: 0 };
        corpus.run().unwrap();
        let text = fs::read(path).unwrap();
        let lengths: Vec<_> = text.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::len).collect();
        assert_eq!(lengths, [20_000_000; 3]);
    }
}
