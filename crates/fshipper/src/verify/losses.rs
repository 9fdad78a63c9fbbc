//! Losses that are recorded beside an output: [`recorded`].

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use fshipper_pipeline::anyhow::{Context as _, Result};
use fshipper_pipeline::open_named_file;

use super::side::shown;

/// Where `rotating_file` notes them, below the fixed part of its path.
const LOSSES: &str = ".fshipper/losses.log";

/// So many of them are shown, the youngest.
const SHOWN: usize = 3;

/// More of a line than this is not looked at.
const MAX_LINE_BYTES: u64 = 64 << 10;

/// The notes beside one output.
#[derive(Debug)]
pub(super) struct Losses {
    pub(super) path: PathBuf,
    pub(super) count: u64,
    pub(super) last: VecDeque<String>,
}

/// What is noted beside these files, in the folders that they stand in and in those above.
pub(super) fn recorded<'p>(files: impl Iterator<Item = &'p Path>) -> Result<Vec<Losses>> {
    let mut found: Vec<Losses> = Vec::new();
    for file in files {
        let file = std::path::absolute(file).with_context(|| format!("cannot resolve `{}`", shown(file)))?;
        for folder in file.ancestors().skip(1) {
            let path = folder.join(LOSSES);
            if found.iter().any(|losses| losses.path == path) {
                break;
            }
            match open_named_file(&path) {
                Ok(notes) => {
                    let read = read(notes, path.clone());
                    found.push(read.with_context(|| format!("cannot read `{}`", shown(&path)))?);
                    break;
                }
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
                Err(error) => return Err(error).with_context(|| format!("cannot open `{}`", shown(&path))),
            }
        }
    }
    found.retain(|losses| losses.count > 0);
    Ok(found)
}

fn read(notes: File, path: PathBuf) -> io::Result<Losses> {
    let mut losses = Losses { path, count: 0, last: VecDeque::new() };
    let mut notes = BufReader::new(notes);
    loop {
        let mut line = Vec::new();
        if (&mut notes).take(MAX_LINE_BYTES).read_until(b'\n', &mut line)? == 0 {
            return Ok(losses);
        }
        losses.count += 1;
        if losses.last.len() == SHOWN {
            losses.last.pop_front();
        }
        let text = fshipper_pipeline::Escaped(line.trim_ascii_end());
        losses.last.push_back(text.to_string());
    }
}
