//! Fuzz targets: state files, places off the wire and what is read by them, compressed files. Each panics when a promise does not hold.

mod restore;

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use flate2::{Compression, write::GzEncoder};
use fshipper_pipeline::testing::fuzz::Input;
use fshipper_pipeline::{Fatal, Journal};

pub use restore::restore;

use super::gunzip::{Flow, Gunzip};
use super::place::Place;
use super::state::StateLog;

/// More than the longest input can hold, so that a decoder that never ends is noticed.
const MAX_OUTPUT_BYTES: usize = 64 << 20;

/// A state log that holds anything: it opens, unless a newer version wrote it, and what it is taken to say is
/// what it says when it is written again.
///
/// # Panics
///
/// This is not so.
pub fn state_log(folder: &Path, data: &[u8]) {
    let mut input = Input::new(data);
    let path = folder.join("file_tail.journal");
    let is_raw = input.flag();
    let content = input.rest();
    fs::write(&path, if is_raw { content } else { b"" }).expect("a file can be written");
    if !is_raw {
        let (mut journal, _) = Journal::open(&path, 1).expect("an empty file is an empty journal");
        journal.compact(&[content.to_vec()]).expect("a journal can be written");
    }
    let (log, remembered) = match StateLog::open(folder) {
        Ok(opened) => opened,
        Err(error) => {
            assert!(is_raw && error.is::<Fatal>(), "{error:#}");
            return;
        }
    };
    assert!(is_raw || !remembered.is_damaged);
    drop(log);
    fs::write(&path, b"").expect("a file can be written");
    let (mut log, _) = StateLog::open(folder).expect("an empty state log opens");
    for (path, known) in &remembered.logs {
        for generation in &known.generations {
            log.stage_generation(path, known.epoch, generation);
        }
        for loss in &known.losses {
            log.stage_loss(path, known.epoch, loss);
        }
    }
    if remembered.complete {
        log.stage_complete();
    }
    log.flush(|_| {}).expect("a state log can be written");
    drop(log);
    let (_, again) = StateLog::open(folder).expect("a state log that was just written opens");
    assert_eq!((&again.logs, again.complete), (&remembered.logs, remembered.complete));
}

/// A place as anybody may claim it: what is understood of it is the same after another journey.
///
/// # Panics
///
/// This is not so.
pub fn place(data: &[u8]) {
    let Some(place) = Place::decode(data) else { return };
    assert!(place.base <= place.end);
    let text = place.encode();
    assert!(text.len() < 200 && text.iter().all(|byte| byte.is_ascii_graphic() || *byte == b' '));
    assert_eq!(Place::decode(&text), Some(place));
}

/// A file that is, or is not, gzip, whole or damaged, and grows while it is read: what is decoded does not
/// depend on how much is asked for at once, nor on where the file ended meanwhile, and is what was compressed.
///
/// # Panics
///
/// This is not so.
pub fn gunzip(folder: &Path, data: &[u8]) {
    let mut input = Input::new(data);
    let steps = [1 + input.below(5000), 1 + input.below(50)];
    let (kind, at, mask) = (input.byte() % 3, input.number() as usize, input.byte().max(1));
    let cut = input.number() as usize;
    let repeat = 1 + input.below(64);
    let (mut packed, mut content) = (Vec::new(), Vec::new());
    if kind == 0 {
        packed.extend_from_slice(input.rest());
    } else {
        let first = input.bytes().repeat(repeat);
        for member in [&first[..], input.bytes(), input.rest()] {
            let mut encoder = GzEncoder::new(&mut packed, Compression::fast());
            encoder.write_all(member).expect("memory takes everything");
            encoder.finish().expect("memory takes everything");
            content.extend_from_slice(member);
        }
        if kind == 2 {
            let at = at % packed.len();
            packed[at] ^= mask;
        }
    }
    let cut = cut % (packed.len() + 1);
    let path = folder.join("file.gz");
    let whole = {
        fs::write(&path, &packed).expect("a file can be written");
        let mut gunzip = Gunzip::new(File::open(&path).expect("the file is there"));
        decode_all(&mut gunzip, steps[0])
    };
    let grown = {
        fs::write(&path, &packed[..cut]).expect("a file can be written");
        let mut gunzip = Gunzip::new(File::open(&path).expect("the file is there"));
        let (mut output, _) = decode_all(&mut gunzip, steps[1]);
        fs::write(&path, &packed).expect("a file can be written");
        let (more, flow) = decode_all(&mut gunzip, steps[1]);
        output.extend(more);
        (output, flow)
    };
    assert_eq!(whole.1, grown.1);
    assert!(whole.0 == grown.0, "{} bytes, or {}: {:?}", whole.0.len(), grown.0.len(), whole.1);
    match kind {
        1 => assert!(whole == (content, Flow::Over)),
        // A checksum holds what is whole; what comes before damage is known only by its length.
        2 => assert!(whole.1 != Flow::Over || content.starts_with(&whole.0)),
        _ => {}
    }
}

fn decode_all(gunzip: &mut Gunzip, step: usize) -> (Vec<u8>, Flow) {
    let mut output = Vec::new();
    loop {
        let before = output.len();
        let flow = gunzip.decode(&mut output, step).expect("the file can be read");
        assert!(output.len() <= before + step && output.len() < MAX_OUTPUT_BYTES);
        if flow != Flow::Full {
            return (output, flow);
        }
        assert_eq!(output.len(), before + step, "full means full");
    }
}

#[cfg(test)]
mod tests {
    use fshipper_pipeline::testing::fuzz::replay;

    #[test]
    fn the_corpora_hold() {
        let folder = tempfile::tempdir().unwrap();
        replay("state_log", |data| super::state_log(folder.path(), data));
        replay("place", super::place);
        replay("gunzip", |data| super::gunzip(folder.path(), data));
        replay("tail_restore", |data| super::restore(folder.path(), data));
    }
}
