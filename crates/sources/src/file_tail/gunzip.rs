//! Decompressing a gzip file that may still be written, in steps of a bounded size: [`Gunzip`].
//!
//! Where the file ends before its content does, decoding goes on when there is more of it. A file may hold
//! several members, one after the other; zeros and anything else behind the last one are passed over.

use std::fs::File;
use std::io;

use flate2::{Crc, Decompress, FlushDecompress, Status};

use super::identity::read_at;

/// So much of the file is read at once.
const INPUT_BYTES: usize = 32 << 10;

/// A header holds a name and a comment; one that is longer than this is no header.
const MAX_HEADER_BYTES: usize = 128 << 10;

/// Length and checksum of a member's content.
const TRAILER_BYTES: usize = 8;

/// What the magic number, the method and the flags take up, and a time that nobody needs.
const FIXED_HEADER_BYTES: usize = 10;

/// How far back the format reaches. The decoder works in a window of this size, and throws away what it has
/// decoded and not yet handed over when it meets damage. So it is always given the room up to the end of the window:
/// how much comes before the damage must not depend on how much was asked for at once.
const WINDOW_BYTES: usize = 32 << 10;

/// A gzip file, and how far it was decoded.
pub(crate) struct Gunzip {
    file: File,
    /// Compressed bytes; those before `used` are done with.
    input: Vec<u8>,
    used: usize,
    /// Where in the file the next ones stand.
    next: u64,
    part: Part,
    /// Whether a member came before.
    has_member: bool,
    inflate: Decompress,
    crc: Crc,
    /// What is decoded; the bytes before `given` were handed over.
    decoded: Vec<u8>,
    given: usize,
}

/// What is decoded next.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Header,
    Body,
    Trailer,
    /// Nothing: what follows is no member.
    Nothing,
    Damaged(String),
}

/// Why decoding stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// There is as much as was asked for.
    Full,
    /// The file ends before its content does.
    Starved,
    /// The file ends behind a member.
    Over,
    /// What follows cannot be decoded.
    Damaged(String),
}

impl Gunzip {
    pub(crate) fn new(file: File) -> Self {
        Self {
            file,
            input: Vec::new(),
            used: 0,
            next: 0,
            part: Part::Header,
            has_member: false,
            inflate: Decompress::new(false),
            crc: Crc::new(),
            decoded: Vec::new(),
            given: 0,
        }
    }

    /// The compressed file.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Appends at most `length` decoded bytes to `output`.
    ///
    /// # Errors
    ///
    /// The file cannot be read now.
    pub(crate) fn decode(&mut self, output: &mut Vec<u8>, length: usize) -> io::Result<Flow> {
        let mut filled = output.len();
        output.resize(filled + length, 0);
        let flow = self.decode_into(output, &mut filled);
        output.truncate(filled);
        flow
    }

    fn decode_into(&mut self, output: &mut [u8], filled: &mut usize) -> io::Result<Flow> {
        loop {
            let waiting = &self.decoded[self.given..];
            let length = waiting.len().min(output.len() - *filled);
            output[*filled..*filled + length].copy_from_slice(&waiting[..length]);
            (*filled, self.given) = (*filled + length, self.given + length);
            if self.given < self.decoded.len() {
                return Ok(Flow::Full);
            }
            match &self.part {
                Part::Nothing => return Ok(Flow::Over),
                Part::Damaged(reason) => return Ok(Flow::Damaged(reason.clone())),
                Part::Header => match header_length(&self.input[self.used..]) {
                    Header::Whole(length) => {
                        self.used += length;
                        self.inflate.reset(false);
                        self.crc.reset();
                        self.part = Part::Body;
                    }
                    Header::Wrong if self.has_member => self.part = Part::Nothing,
                    Header::Wrong => self.part = Part::Damaged("it does not begin as gzip does".to_owned()),
                    Header::Short if self.refill()? => {}
                    Header::Short if self.has_member && self.used == self.input.len() => {
                        return Ok(Flow::Over);
                    }
                    Header::Short => return Ok(Flow::Starved),
                },
                Part::Body => {
                    if *filled == output.len() {
                        return Ok(Flow::Full);
                    }
                    let before = (self.inflate.total_in(), self.inflate.total_out());
                    let room = WINDOW_BYTES - (before.1 % WINDOW_BYTES as u64) as usize;
                    self.decoded.resize(room, 0);
                    let input = &self.input[self.used..];
                    let status = self.inflate.decompress(input, &mut self.decoded, FlushDecompress::None);
                    let taken = (self.inflate.total_in() - before.0) as usize;
                    let made = (self.inflate.total_out() - before.1) as usize;
                    self.decoded.truncate(made);
                    self.given = 0;
                    self.crc.update(&self.decoded);
                    self.used += taken;
                    match status {
                        Ok(Status::StreamEnd) => self.part = Part::Trailer,
                        Ok(_) if taken == 0 && made == 0 && !self.refill()? => return Ok(Flow::Starved),
                        Ok(_) => {}
                        Err(error) => self.part = Part::Damaged(error.to_string()),
                    }
                }
                Part::Trailer if self.input.len() - self.used < TRAILER_BYTES => {
                    if !self.refill()? {
                        return Ok(Flow::Starved);
                    }
                }
                Part::Trailer => {
                    let at = self.used;
                    let number =
                        |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|byte| self.input[at + byte]));
                    let is_right = number(at) == self.crc.sum() && number(at + 4) == self.crc.amount();
                    self.used += TRAILER_BYTES;
                    self.has_member = true;
                    self.part = match is_right {
                        true => Part::Header,
                        false => Part::Damaged("its checksum is wrong".to_owned()),
                    };
                }
            }
        }
    }

    /// Reads more of the file; whether there was more.
    fn refill(&mut self) -> io::Result<bool> {
        let piece = read_at(&self.file, self.next, INPUT_BYTES)?;
        self.next += piece.len() as u64;
        self.input.drain(..self.used);
        self.used = 0;
        self.input.extend_from_slice(&piece);
        Ok(!piece.is_empty())
    }
}

/// What bytes say that should begin with a header.
enum Header {
    Whole(usize),
    Short,
    Wrong,
}

/// How long the header at the beginning of `input` is (RFC 1952, 2.3).
fn header_length(input: &[u8]) -> Header {
    let begin = [0x1f, 0x8b, 8];
    let known = input.len().min(begin.len());
    if input[..known] != begin[..known] {
        return Header::Wrong;
    }
    let Some(flags) = input.get(3).filter(|_| input.len() >= FIXED_HEADER_BYTES) else {
        return Header::Short;
    };
    let [has_crc, has_extra, has_name, has_comment] = [2, 4, 8, 16].map(|flag| flags & flag != 0);
    if flags & 0xe0 != 0 {
        return Header::Wrong;
    }
    let short = if input.len() > MAX_HEADER_BYTES { Header::Wrong } else { Header::Short };
    let mut length = FIXED_HEADER_BYTES;
    if has_extra {
        let Some(&[low, high]) = input.get(length..length + 2) else { return short };
        length += 2 + usize::from(u16::from_le_bytes([low, high]));
    }
    for _ in 0..usize::from(has_name) + usize::from(has_comment) {
        let text = input.get(length..).unwrap_or_default();
        let Some(end) = memchr::memchr(0, text) else { return short };
        length += end + 1;
    }
    length += if has_crc { 2 } else { 0 };
    if input.len() < length { short } else { Header::Whole(length) }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, GzBuilder};

    use super::*;

    fn member(content: &[u8]) -> Vec<u8> {
        let builder = GzBuilder::new().filename("a name").comment("a comment").extra([7; 300]);
        let mut encoder = builder.write(Vec::new(), Compression::default());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    fn content() -> Vec<u8> {
        (0..40_000_u32).flat_map(|number| format!("line {}\n", number * number).into_bytes()).collect()
    }

    fn open(packed: &[u8]) -> (Gunzip, tempfile::NamedTempFile) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(packed).unwrap();
        (Gunzip::new(file.reopen().unwrap()), file)
    }

    fn decode_all(gunzip: &mut Gunzip, step: usize) -> (Vec<u8>, Flow) {
        let mut output = Vec::new();
        loop {
            let before = output.len();
            let flow = gunzip.decode(&mut output, step).unwrap();
            assert!(output.len() <= before + step);
            if flow != Flow::Full {
                return (output, flow);
            }
        }
    }

    #[test]
    fn decodes_all_members_in_steps_of_any_size() {
        let (first, second) = (content(), b"and another one\n".to_vec());
        let both = [member(&first), member(b""), member(&second)].concat();
        let expected = [first, second].concat();
        for tail in [&b""[..], &[0; 600], b"garbage"] {
            for step in [7, 1000, 100_000_000] {
                let (mut gunzip, _file) = open(&[&both[..], tail].concat());
                let (output, flow) = decode_all(&mut gunzip, step);
                assert!(output == expected && flow == Flow::Over, "{step} {flow:?}");
            }
        }
    }

    #[test]
    fn goes_on_when_a_file_grows_wherever_it_ended() {
        let content = b"some content of some length, some of it again\n".repeat(3);
        let packed = [member(&content), member(&content)].concat();
        for end in 0..packed.len() {
            let (mut gunzip, mut file) = open(&packed[..end]);
            let (mut output, flow) = decode_all(&mut gunzip, 100);
            let expected = if end == packed.len() / 2 { Flow::Over } else { Flow::Starved };
            assert_eq!(flow, expected, "{end}");
            file.write_all(&packed[end..]).unwrap();
            let (more, flow) = decode_all(&mut gunzip, 100);
            output.extend(more);
            assert!(output == content.repeat(2) && flow == Flow::Over, "{end}: {flow:?}");
        }
    }

    #[test]
    fn damage_is_noticed_and_what_came_before_it_is_kept() {
        let content = content();
        let packed = member(&content);
        let mut wrong_sum = packed.clone();
        let at = wrong_sum.len() - 6;
        wrong_sum[at] ^= 1;
        let (output, flow) = decode_all(&mut open(&wrong_sum).0, 5000);
        assert!(output == content && flow == Flow::Damaged("its checksum is wrong".to_owned()));
        let mut hit = packed.clone();
        let middle = packed.len() / 2;
        hit[middle..middle + 50].fill(0xff);
        let (output, flow) = decode_all(&mut open(&hit).0, 5000);
        assert!(matches!(flow, Flow::Damaged(_)), "{flow:?}");
        assert!(output.len() > 1000 && content.starts_with(&output[..1000]));
        for junk in [&b"no gzip"[..], b"\x1f\x8b\x07\0\0\0\0\0\0\0", b"\x1f\x8b\x08\xff\0\0\0\0\0\0"] {
            assert!(matches!(decode_all(&mut open(junk).0, 10), (none, Flow::Damaged(_)) if none.is_empty()));
        }
    }
    #[test]
    fn how_much_comes_before_damage_does_not_depend_on_the_steps() {
        let packed =
            b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xcb\x48000000000000=60000000\xcd\xc9\xc9\xe7\xca\x18\x25\x89";
        let whole = decode_all(&mut open(packed).0, 1000);
        assert!(whole.0.len() > 7 && matches!(whole.1, Flow::Damaged(_)), "{whole:?}");
        for step in 1..10 {
            assert_eq!(decode_all(&mut open(packed).0, step), whole, "{step}");
        }
    }
}
