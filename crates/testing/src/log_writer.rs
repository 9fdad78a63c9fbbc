//! Lines that can be told apart, written and rotated as programs do: [`LogWriter`].

use std::fs::{self, File};
use std::io::Write;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use fastrand::Rng;

/// Bytes of a line with its end: 178 on average, as in ordinary logs.
const LINE_LENGTHS: RangeInclusive<usize> = 96..=260;

/// At most this much goes into one `write`, so that a reader meets the log at many lengths.
const WRITE_BYTES: usize = 128 << 10;

/// `0000000042 c0ffee00 `: the line's number and the CRC-32C of its text.
const PREFIX_BYTES: usize = 20;

/// Bytes of text that lines take their random pieces from.
const TEXT_BYTES: usize = 64 << 10;

const WORDS: [&str; 24] = [
    "accepted",
    "GET",
    "/api/v1/items",
    "200",
    "connection",
    "from",
    "10.1.7.23",
    "user=alice",
    "closed",
    "kernel:",
    "retry",
    "in",
    "1.250s",
    "sshd[2211]:",
    "session",
    "opened",
    "\"Mozilla/5.0\"",
    "404",
    "POST",
    "/login",
    "latency_ms=17",
    "cache",
    "miss",
    "\u{e4}\u{f6}\u{fc}",
];

/// A program that logs: numbered, checksummed lines, the same ones from the same seed, into a file that it
/// rotates. It keeps the exact bytes that must arrive in a second file, whatever happens to the first.
#[derive(Debug)]
pub struct LogWriter {
    path: PathBuf,
    log: File,
    expected_path: PathBuf,
    expected: File,
    random: Rng,
    text: Vec<u8>,
    next_number: u64,
    bytes: u64,
    unfinished: Vec<u8>,
}

impl LogWriter {
    /// No line can be shorter, its end included: what tells lines apart needs room.
    pub const SHORTEST_LINE_BYTES: usize = PREFIX_BYTES + 1;

    /// No line is longer, its end included.
    pub const MAX_LINE_BYTES: u64 = *LINE_LENGTHS.end() as u64;

    /// Starts a log at `path`, which must not be there yet, and the copy of its bytes at `expected`.
    #[track_caller]
    pub fn create(path: impl Into<PathBuf>, expected: impl Into<PathBuf>, seed: u64) -> Self {
        let (path, expected_path) = (path.into(), expected.into());
        let mut random = Rng::with_seed(seed);
        let mut text = Vec::with_capacity(TEXT_BYTES + 16);
        while text.len() < TEXT_BYTES {
            text.extend_from_slice(random.choice(WORDS).unwrap_or_default().as_bytes());
            text.push(b' ');
        }
        let (log, expected) = (create_new(&path), create_new(&expected_path));
        Self {
            path,
            log,
            expected_path,
            expected,
            random,
            text,
            next_number: 0,
            bytes: 0,
            unfinished: Vec::new(),
        }
    }

    /// Where the log is written now.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where every byte ever written stands in order: what must arrive.
    pub fn expected(&self) -> &Path {
        &self.expected_path
    }

    /// How many lines have been started.
    pub fn lines(&self) -> u64 {
        self.next_number
    }

    /// How many bytes have been written.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Appends `count` whole lines, after the end of an unfinished one.
    #[track_caller]
    pub fn write_lines(&mut self, count: u64) {
        let mut block = std::mem::take(&mut self.unfinished);
        for _ in 0..count {
            self.push_line(&mut block);
            if block.len() >= WRITE_BYTES {
                self.write_bytes(&block);
                block.clear();
            }
        }
        self.write_bytes(&block);
    }

    /// Appends one line of exactly `bytes` bytes, its end included, after the end of an unfinished one.
    ///
    /// # Panics
    ///
    /// When that is less than [`LogWriter::SHORTEST_LINE_BYTES`].
    #[track_caller]
    pub fn write_line_of(&mut self, bytes: usize) {
        let mut block = std::mem::take(&mut self.unfinished);
        let start = self.random.usize(..TEXT_BYTES);
        let text = self.text.iter().cycle().skip(start).take(bytes - Self::SHORTEST_LINE_BYTES).copied();
        let text = text.collect::<Vec<_>>();
        self.push_text(&mut block, &text);
        self.write_bytes(&block);
    }

    /// Appends one line of exactly `bytes` bytes in which every byte may stand except a line feed, after the
    /// end of an unfinished one.
    ///
    /// # Panics
    ///
    /// When that is less than [`LogWriter::SHORTEST_LINE_BYTES`].
    #[track_caller]
    pub fn write_binary_line(&mut self, bytes: usize) {
        let mut block = std::mem::take(&mut self.unfinished);
        let text = std::iter::repeat_with(|| self.random.u8(..)).filter(|&byte| byte != b'\n');
        let text = text.take(bytes - Self::SHORTEST_LINE_BYTES).collect::<Vec<_>>();
        self.push_text(&mut block, &text);
        self.write_bytes(&block);
    }

    /// Appends the first half of a line; the next lines come after its second half.
    #[track_caller]
    pub fn write_half_line(&mut self) {
        let mut line = std::mem::take(&mut self.unfinished);
        self.push_line(&mut line);
        self.unfinished = line.split_off(line.len() / 2);
        self.write_bytes(&line);
    }

    /// Appends exactly these bytes.
    #[track_caller]
    pub fn write_bytes(&mut self, bytes: &[u8]) {
        self.log.write_all(bytes).unwrap_or_else(|error| panic!("cannot write {:?}: {error}", self.path));
        self.expected.write_all(bytes).expect("the expected bytes can be written");
        self.bytes += bytes.len() as u64;
    }

    /// Rotates as `logrotate` does by default: renames the log and goes on in a new file of its name.
    #[track_caller]
    pub fn rotate_to(&mut self, to: &Path) {
        self.rename_to(to);
        self.reopen();
    }

    /// Rotates as `logrotate` does with numbers: `.2` becomes `.3`, `.1` becomes `.2`, the log becomes `.1`.
    #[track_caller]
    pub fn rotate_numbered(&mut self) {
        let numbered = |number: usize| PathBuf::from(format!("{}.{number}", self.path.display()));
        let present = (1..).take_while(|&number| numbered(number).is_file()).count();
        for number in (1..=present).rev() {
            fs::rename(numbered(number), numbered(number + 1)).expect("a rotated log can be renamed");
        }
        let first = numbered(1);
        self.rotate_to(&first);
    }

    /// Only renames: what is written until [`LogWriter::reopen`] still goes into the renamed file.
    #[track_caller]
    pub fn rename_to(&mut self, to: &Path) {
        let renamed = fs::rename(&self.path, to);
        renamed.unwrap_or_else(|error| panic!("cannot rename {:?} to {to:?}: {error}", self.path));
    }

    /// Goes on in a new file under the log's name.
    #[track_caller]
    pub fn reopen(&mut self) {
        self.log = create_new(&self.path);
    }

    /// Rotates by copying: the copy holds everything so far, the log is empty and stays the same file.
    #[track_caller]
    pub fn copy_and_truncate_to(&mut self, to: &Path) {
        fs::copy(&self.path, to).unwrap_or_else(|error| panic!("cannot copy {:?}: {error}", self.path));
        self.log.set_len(0).unwrap_or_else(|error| panic!("cannot truncate {:?}: {error}", self.path));
    }

    /// The number of a line that this writer made, without or with its end; `None` when a byte of it is wrong
    /// or missing.
    pub fn line_number(line: &[u8]) -> Option<u64> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let (prefix, text) = line.split_at_checked(PREFIX_BYTES)?;
        let (number, crc) = std::str::from_utf8(prefix).ok()?.trim_end().split_once(' ')?;
        let number = number.parse().ok()?;
        let intact = u32::from_str_radix(crc, 16).ok()? == checksum(number, text);
        intact.then_some(number)
    }

    fn push_line(&mut self, block: &mut Vec<u8>) {
        let text_bytes = self.random.usize(LINE_LENGTHS) - PREFIX_BYTES - 1;
        let start = self.random.usize(..TEXT_BYTES - text_bytes);
        let text = self.text[start..start + text_bytes].to_vec();
        self.push_text(block, &text);
    }

    fn push_text(&mut self, block: &mut Vec<u8>, text: &[u8]) {
        let crc = checksum(self.next_number, text);
        write!(block, "{:010} {crc:08x} ", self.next_number).expect("memory takes every write");
        block.extend_from_slice(text);
        block.push(b'\n');
        self.next_number += 1;
    }
}

fn checksum(number: u64, text: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&number.to_be_bytes()), text)
}

/// Appending, as every log should be written: after a truncation the next byte is the first again.
fn create_new(path: &Path) -> File {
    let file = File::options().append(true).create_new(true).open(path);
    file.unwrap_or_else(|error| panic!("cannot create {path:?}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_writes_the_same_bytes_through_every_rotation() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let mut plain = LogWriter::create(path("plain"), path("plain.expected"), 7);
        plain.write_lines(5_000);

        let mut rotated = LogWriter::create(path("log"), path("log.expected"), 7);
        rotated.write_lines(1_000);
        rotated.rotate_numbered();
        rotated.write_half_line();
        rotated.rename_to(&path("renamed"));
        rotated.write_lines(999);
        rotated.reopen();
        fs::rename(path("log.1"), path("log.2")).unwrap();
        fs::rename(path("renamed"), path("log.1")).unwrap();
        rotated.write_lines(1_000);
        rotated.copy_and_truncate_to(&path("copy"));
        rotated.write_lines(2_000);
        rotated.rotate_numbered();
        let parts = ["log.3", "log.2", "copy", "log.1", "log"].map(|name| fs::read(path(name)).unwrap());

        let bytes = fs::read(plain.path()).unwrap();
        assert!(parts.concat() == bytes);
        assert!(fs::read(rotated.expected()).unwrap() == bytes);
        assert_eq!(rotated.lines(), 5_000);
        let mean = bytes.len() / 5_000;
        assert!((175..=181).contains(&mean), "{mean} bytes a line");
    }

    #[test]
    fn a_line_says_its_number_unless_it_is_damaged() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let mut writer = LogWriter::create(path("log"), path("expected"), 1);
        writer.write_lines(2);
        let bytes = fs::read(writer.path()).unwrap();
        let mut lines = bytes.split_inclusive(|&byte| byte == b'\n');
        let (first, second) = (lines.next().unwrap(), lines.next().unwrap());
        assert_eq!(LogWriter::line_number(first), Some(0));
        assert_eq!(LogWriter::line_number(second), Some(1));
        assert_eq!(LogWriter::line_number(&second[..second.len() - 2]), None);
        assert_eq!(LogWriter::line_number(&second[1..]), None);
        assert_eq!(LogWriter::line_number(b""), None);
    }

    #[test]
    fn lines_of_any_length_and_of_any_bytes_can_be_told_apart_too() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let mut writer = LogWriter::create(path("log"), path("expected"), 3);
        let lengths = [LogWriter::SHORTEST_LINE_BYTES, 100, 200_000];
        for bytes in lengths {
            writer.write_line_of(bytes);
            writer.write_half_line();
            writer.write_binary_line(bytes);
        }
        let bytes = fs::read(writer.path()).unwrap();
        assert_eq!(writer.bytes(), bytes.len() as u64);
        let lines = bytes.split_inclusive(|&byte| byte == b'\n').collect::<Vec<_>>();
        let numbers = lines.iter().map(|line| LogWriter::line_number(line)).collect::<Vec<_>>();
        assert_eq!(numbers, (0..9).map(Some).collect::<Vec<_>>());
        for (triple, bytes) in lines.chunks(3).zip(lengths) {
            assert_eq!((triple[0].len(), triple[2].len()), (bytes, bytes));
        }
        assert!(fs::read(writer.expected()).unwrap() == bytes);
    }
}
