//! Bytes of the ledger: numbers, strings, frames.
//!
//! A frame is one record: magic, payload length, sequence number, CRC-32C of all that follows the magic except
//! itself, payload. All numbers of the frame are little endian; inside the payload they are LEB128.

use std::fmt;

/// Before each frame, so that a scan can find the next one behind a damaged one.
pub(super) const FRAME_MAGIC: [u8; 4] = *b"FSLR";
/// Magic, length, sequence, checksum.
const FRAME_HEADER: usize = 4 + 4 + 8 + 4;
/// No record is longer, so a damaged length cannot ask for more: a commit of a hundred thousand origins with
/// long names stays below it.
const MAX_PAYLOAD: usize = 256 << 20;

/// Appends one frame around `payload`.
pub(super) fn put_frame(out: &mut Vec<u8>, sequence: u64, payload: &[u8]) {
    assert!(payload.len() <= MAX_PAYLOAD, "a ledger record of {} bytes", payload.len());
    let length = (payload.len() as u32).to_le_bytes();
    let sequence = sequence.to_le_bytes();
    out.extend_from_slice(&FRAME_MAGIC);
    out.extend_from_slice(&length);
    out.extend_from_slice(&sequence);
    out.extend_from_slice(&checksum(&length, &sequence, payload).to_le_bytes());
    out.extend_from_slice(payload);
}

/// The frame at the beginning of `bytes`: its sequence number and payload. `None`: there is no whole one.
pub(super) fn take_frame(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (header, rest) = bytes.split_at_checked(FRAME_HEADER)?;
    let (magic, header) = header.split_first_chunk::<4>()?;
    let (length, header) = header.split_first_chunk::<4>()?;
    let (sequence, header) = header.split_first_chunk::<8>()?;
    let (expected, _) = header.split_first_chunk::<4>()?;
    if *magic != FRAME_MAGIC {
        return None;
    }
    let payload = rest.get(..u32::from_le_bytes(*length) as usize)?;
    let whole = checksum(length, sequence, payload) == u32::from_le_bytes(*expected);
    whole.then(|| (u64::from_le_bytes(*sequence), payload))
}

/// How many bytes the frame around a payload of this length takes.
pub(super) fn frame_length(payload: usize) -> usize {
    FRAME_HEADER + payload
}

/// How long the frame claims to be that begins with this header; `None`: none begins here, or none that was ever
/// written.
pub(super) fn claimed_length(header: &[u8]) -> Option<usize> {
    let (magic, rest) = header.split_first_chunk::<4>()?;
    let (length, _) = rest.split_first_chunk::<4>()?;
    let length = u32::from_le_bytes(*length) as usize;
    (*magic == FRAME_MAGIC && length <= MAX_PAYLOAD).then(|| frame_length(length))
}

fn checksum(length: &[u8], sequence: &[u8], payload: &[u8]) -> u32 {
    let header = crc32c::crc32c_append(crc32c::crc32c(length), sequence);
    crc32c::crc32c_append(header, payload)
}

/// Appends an unsigned number, seven bits a byte, the lowest first.
pub(super) fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Appends a signed number, zigzag.
pub(super) fn put_signed(out: &mut Vec<u8>, number: i64) {
    put_number(out, ((number << 1) ^ (number >> 63)) as u64);
}

/// Appends the length of `bytes` and `bytes`.
pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Reads what the `put` functions wrote.
pub(super) struct Reader<'a>(&'a [u8]);

/// The payload of a record whose checksum is right does not parse: somebody else wrote it.
#[derive(Debug)]
pub(super) struct Malformed;

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a record does not parse")
    }
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn byte(&mut self) -> Result<u8, Malformed> {
        let (first, rest) = self.0.split_first().ok_or(Malformed)?;
        self.0 = rest;
        Ok(*first)
    }

    pub(super) fn number(&mut self) -> Result<u64, Malformed> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if (bits << shift) >> shift != bits {
                return Err(Malformed);
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Malformed)
    }

    pub(super) fn signed(&mut self) -> Result<i64, Malformed> {
        let number = self.number()?;
        Ok((number >> 1) as i64 ^ -((number & 1) as i64))
    }

    pub(super) fn id(&mut self) -> Result<u32, Malformed> {
        u32::try_from(self.number()?).map_err(|_| Malformed)
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], Malformed> {
        let length = usize::try_from(self.number()?).map_err(|_| Malformed)?;
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn text(&mut self) -> Result<&'a str, Malformed> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_survive_the_round_trip() {
        for number in [0, 1, 127, 128, 16_383, 16_384, u64::from(u32::MAX), u64::MAX] {
            let mut out = Vec::new();
            put_number(&mut out, number);
            assert_eq!(Reader::new(&out).number().unwrap(), number);
        }
        for number in [0, -1, 1, i64::MIN, i64::MAX] {
            let mut out = Vec::new();
            put_signed(&mut out, number);
            assert_eq!(Reader::new(&out).signed().unwrap(), number);
        }
        assert!(Reader::new(&[0xff; 10]).number().is_err(), "more than 64 bits");
    }

    #[test]
    fn a_length_that_no_record_has_is_not_believed() {
        let claim = |length: usize| {
            let header = [&FRAME_MAGIC[..], &(length as u32).to_le_bytes()].concat();
            claimed_length(&header)
        };
        assert_eq!(claim(MAX_PAYLOAD), Some(frame_length(MAX_PAYLOAD)));
        assert_eq!(claim(MAX_PAYLOAD + 1), None);
        assert_eq!(claim(u32::MAX as usize), None);
    }

    #[test]
    fn a_frame_with_any_bit_flipped_is_refused() {
        let mut frame = Vec::new();
        put_frame(&mut frame, 7, b"payload");
        assert_eq!(take_frame(&frame), Some((7, &b"payload"[..])));
        for bit in 0..frame.len() * 8 {
            frame[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(take_frame(&frame), None, "bit {bit}");
            frame[bit / 8] ^= 1 << (bit % 8);
        }
        for length in 0..frame.len() {
            assert_eq!(take_frame(&frame[..length]), None, "{length} bytes");
        }
    }
}
