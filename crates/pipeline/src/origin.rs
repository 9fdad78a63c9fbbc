//! Who bytes belong to: [`Origin`] and [`Epoch`].

use std::cmp::Ordering;
use std::fmt;

use triomphe::ThinArc;

/// Where lines were born: one logical log, a host and a path.
///
/// The bytes of an origin, across all rotations, are one endless byte string. Both parts are raw bytes:
/// they may come off the wire and are never trusted. Cloning is cheap.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Origin(
    /// The length of the host, and host and path one after the other: there may be a hundred thousand of these.
    ThinArc<usize, u8>,
);

impl Origin {
    /// The log that `host` keeps at `path`.
    pub fn new(host: impl AsRef<[u8]>, path: impl AsRef<[u8]>) -> Self {
        let (host, path) = (host.as_ref(), path.as_ref());
        Self(ThinArc::from_header_and_slice(host.len(), &[host, path].concat()))
    }

    /// The host's name, raw.
    pub fn host(&self) -> &[u8] {
        &self.0.slice[..self.host_length()]
    }

    /// The path under which the host first saw the log, raw.
    pub fn path(&self) -> &[u8] {
        &self.0.slice[self.host_length()..]
    }

    /// The last component of the path; the whole path when it holds no slash.
    pub fn file(&self) -> &[u8] {
        match memchr::memrchr(b'/', self.path()) {
            Some(slash) => &self.path()[slash + 1..],
            None => self.path(),
        }
    }

    fn host_length(&self) -> usize {
        self.0.header.header
    }
}

/// By host, then by path.
impl Ord for Origin {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.host(), self.path()).cmp(&(other.host(), other.path()))
    }
}

impl PartialOrd for Origin {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// `host:path`, with control bytes and invalid UTF-8 escaped, so that it is safe in a log or a terminal.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", Escaped(self.host()), Escaped(self.path()))
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Bytes from outside, made safe to print: UTF-8 stays as it is, all else becomes `\xNN` or `\n`.
pub struct Escaped<'a>(pub &'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for character in chunk.valid().chars() {
                if character.is_control() || character == '\u{feff}' || is_bidirectional(character) {
                    write!(f, "{}", character.escape_default())?;
                } else {
                    write!(f, "{character}")?;
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

/// Marks that reorder what a terminal shows.
fn is_bidirectional(character: char) -> bool {
    matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// One unbroken history of an origin's offsets. Offsets compare only within an epoch, and the first byte
/// of every epoch has the offset 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

impl Epoch {
    /// A fresh history, different from every other with the odds of 64 random bits.
    pub fn random() -> Self {
        Self(fastrand::u64(1..))
    }
}

/// Sixteen hexadecimal digits.
impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_escapes_what_a_terminal_would_obey() {
        let origin = Origin::new(b"we\x1b[31mb", b"/var/\xff\nlog");
        assert_eq!(origin.to_string(), r"we\u{1b}[31mb:/var/\xff\nlog");
    }

    #[test]
    fn host_and_path_are_told_apart_and_ordered_by_the_host_first() {
        let (short, long) = (Origin::new("a", "b/log"), Origin::new("ab", "/log"));
        assert_ne!(short, long);
        assert_eq!((short.host(), short.path()), (&b"a"[..], &b"b/log"[..]));
        assert!(short < long && Origin::new("a", "/x") < Origin::new("a", "/y"));
    }

    #[test]
    fn file_is_the_last_component() {
        assert_eq!(Origin::new("h", "/var/log/app.log").file(), b"app.log");
        assert_eq!(Origin::new("h", "stdin").file(), b"stdin");
        assert_eq!(Origin::new("h", "/a/").file(), b"");
    }
}
