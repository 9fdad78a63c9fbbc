//! One side of a comparison: [`Side`], files that make one log, and [`Bytes`], what stands in them.

use std::cell::Cell;
use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;
use fshipper_pipeline::anyhow::{Context as _, Result, anyhow, bail};
use fshipper_pipeline::{Escaped, open_named_file};
use memchr::memchr_iter;

use super::residue::Amount;

/// How much is read at once: enough to keep a disk busy, and two of them fit in a second-level cache.
pub(super) const BLOCK_BYTES: usize = 256 << 10;

/// What a gzip file begins with. One that is only called so is read as it is.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// What UTF-16 may begin with.
const BYTE_ORDER_MARKS: [[u8; 2]; 2] = [[0xff, 0xfe], [0xfe, 0xff]];

/// How much of a line is quoted.
const EXCERPT_BYTES: usize = 120;

/// How much of a quoted line stands before the byte that matters, when that is far behind its beginning.
const EXCERPT_LEAD_BYTES: usize = 40;

/// Files in the order of their log, each as long as it was when the side was opened.
#[derive(Debug)]
pub(super) struct Side {
    files: Vec<LogFile>,
}

#[derive(Debug)]
struct LogFile {
    path: PathBuf,
    file: File,
    id: (u64, u64),
    /// On disk.
    length: u64,
    is_compressed: bool,
    /// How many zeros at its end are not looked at.
    reserved: u64,
    /// How much it holds, once that is known.
    content: Cell<Option<u64>>,
}

/// Reads a side from a position on, file after file.
pub(super) struct Bytes<'s> {
    side: &'s Side,
    /// The next file to open.
    next: usize,
    file: Option<Open<'s>>,
    /// Whether to read on in the last file when it has grown since it was opened.
    follow: bool,
}

struct Open<'s> {
    of: &'s LogFile,
    /// Where the next byte stands in what the file holds.
    at: u64,
    content: Content<'s>,
}

enum Content<'s> {
    Plain(Positioned<'s>),
    Gzip(Box<MultiGzDecoder<BufReader<Positioned<'s>>>>),
}

/// Reads a file without moving the position that its other readers would share.
struct Positioned<'s> {
    file: &'s File,
    at: u64,
    end: u64,
}

/// A place in one of the files, and what stands there.
#[derive(Clone, Debug)]
pub(super) struct Spot {
    pub(super) path: PathBuf,
    /// Counted from 1.
    pub(super) line: u64,
    /// Counted from 0, in what the file holds.
    pub(super) byte: u64,
    /// Nothing at the end.
    excerpt: Vec<u8>,
    is_cut: [bool; 2],
}

impl Side {
    /// Opens files that are in the order of their log.
    ///
    /// # Errors
    ///
    /// One is not there, may not be read, is no regular file, or is compressed in a way not read here.
    pub(super) fn open(paths: Vec<PathBuf>) -> Result<Self> {
        let files = paths.into_iter().map(LogFile::open).collect::<Result<Vec<_>>>()?;
        for (index, later) in files.iter().enumerate() {
            if let Some(earlier) = files[..index].iter().find(|earlier| earlier.id == later.id) {
                let (earlier, later) = (shown(&earlier.path), shown(&later.path));
                bail!("`{earlier}` and `{later}` are the same file");
            }
        }
        Ok(Self { files })
    }

    /// As [`Side::open`], for files that a program writes: zeros at the end of one are room that was reserved for
    /// what is to come, and are not shipped.
    pub(super) fn open_written(paths: Vec<PathBuf>) -> Result<Self> {
        let mut side = Self::open(paths)?;
        for file in side.files.iter_mut().filter(|file| !file.is_compressed) {
            file.leave_out_zeros().with_context(|| format!("cannot read `{}`", shown(&file.path)))?;
        }
        Ok(side)
    }

    /// Files with zeros at their end that are not looked at, and how many those are.
    pub(super) fn reserved(&self) -> impl Iterator<Item = (&Path, u64)> {
        self.files.iter().filter(|file| file.reserved > 0).map(|file| (&*file.path, file.reserved))
    }

    /// A file that is on both sides.
    pub(super) fn common_file<'s>(&'s self, other: &Self) -> Option<&'s Path> {
        let is_there = |file: &&LogFile| other.files.iter().any(|theirs| theirs.id == file.id);
        self.files.iter().find(is_there).map(|file| &*file.path)
    }

    pub(super) fn paths(&self) -> impl ExactSizeIterator<Item = &Path> {
        self.files.iter().map(|file| &*file.path)
    }

    /// What stands in the files from the byte `offset` of all of them on.
    pub(super) fn bytes_from(&self, offset: u64) -> Result<Bytes<'_>> {
        let mut bytes = Bytes { side: self, next: 0, file: None, follow: false };
        let mut rest = offset;
        while rest > 0 {
            let Some(file) = self.files.get(bytes.next) else {
                bail!("the files became shorter while they were compared: compare again");
            };
            match file.content.get() {
                Some(content) if content <= rest => {
                    rest -= content;
                    bytes.next += 1;
                }
                _ => {
                    bytes.open_next(file)?;
                    rest -= bytes.skip(rest)?;
                }
            }
        }
        Ok(bytes)
    }

    /// As [`Side::bytes_from`], and on in the last file if it grows meanwhile.
    pub(super) fn growing_bytes_from(&self, offset: u64) -> Result<Bytes<'_>> {
        Ok(Bytes { follow: true, ..self.bytes_from(offset)? })
    }

    /// The last file counts as far as it has come to `length` bytes in all, or as far as it goes.
    pub(super) fn extend_to(&mut self, length: u64) -> Result<()> {
        let before: u64 = self.files.iter().rev().skip(1).filter_map(|file| file.content.get()).sum();
        let Some(last) = self.files.last_mut().filter(|last| !last.is_compressed) else { return Ok(()) };
        let now = last.file.metadata().with_context(|| format!("cannot read `{}`", shown(&last.path)))?.len();
        last.length = last.length.max(now.min(length.saturating_sub(before)));
        last.content.set(Some(last.length));
        Ok(())
    }

    /// Where the line that begins at the byte `offset` stands. `column`: the byte in it that matters.
    pub(super) fn spot(&self, offset: u64, column: u64) -> Result<Spot> {
        let (mut start, mut index) = (0, 0);
        for (at, file) in self.files.iter().enumerate() {
            let content = match file.content.get() {
                Some(content) => content,
                None => {
                    let mut bytes = Bytes { side: self, next: at + 1, file: None, follow: false };
                    bytes.file = Some(Open::new(file, false)?);
                    bytes.skip(u64::MAX)?
                }
            };
            index = at;
            if offset < start + content || at + 1 == self.files.len() {
                break;
            }
            start += content;
        }
        let file = &self.files[index];
        let mut bytes =
            Bytes { side: self, next: index + 1, file: Some(Open::new(file, false)?), follow: false };
        let line = 1 + bytes.count_lines(offset - start)?;

        let lead = if column > (EXCERPT_BYTES / 2) as u64 { column - EXCERPT_LEAD_BYTES as u64 } else { 0 };
        bytes.skip(lead)?;
        let mut excerpt = vec![0; EXCERPT_BYTES];
        let filled = bytes.fill(&mut excerpt)?;
        excerpt.truncate(filled);
        let end = memchr::memchr(b'\n', &excerpt).map(|end| end + 1);
        let is_cut = [lead > 0, end.is_none() && filled == EXCERPT_BYTES];
        excerpt.truncate(end.unwrap_or(filled));
        Ok(Spot { path: file.path.clone(), line, byte: offset - start + column, excerpt, is_cut })
    }
}

impl LogFile {
    fn open(path: PathBuf) -> Result<Self> {
        let name = shown(&path);
        // Opening a pipe would wait for whoever writes to it.
        let metadata = std::fs::metadata(&path).with_context(|| format!("cannot open `{name}`"))?;
        if !metadata.is_file() {
            let what =
                if metadata.is_dir() { "a directory: name files, or a pattern" } else { "no regular file" };
            bail!("`{name}` is {what}");
        }
        for (extension, tool) in [(".zst", "zstd"), (".xz", "xz"), (".bz2", "bzip2"), (".Z", "uncompress")] {
            if path_bytes(&path).ends_with(extension.as_bytes()) {
                bail!("`{name}` is compressed in a way that is not read here: `{tool} -d` a copy of it");
            }
        }
        let file = open_named_file(&path).map_err(|error| match error.raw_os_error() {
            Some(libc::EMFILE) => anyhow!("{error}: all files of both sides stay open, so raise `ulimit -n`"),
            _ => error.into(),
        });
        let file = file.with_context(|| format!("cannot open `{name}`"))?;
        let metadata = file.metadata().with_context(|| format!("cannot read `{name}`"))?;
        let mut magic = [0; 2];
        let is_compressed = path_bytes(&path).ends_with(b".gz")
            && file.read_at(&mut magic, 0).with_context(|| format!("cannot read `{name}`"))? == magic.len()
            && magic == GZIP_MAGIC;
        let (id, length) = (identity(&metadata), metadata.len());
        let content = Cell::new((!is_compressed).then_some(length));
        Ok(Self { path, file, id, length, is_compressed, reserved: 0, content })
    }

    fn leave_out_zeros(&mut self) -> io::Result<()> {
        let (size, mut end, mut block) = (self.length, self.length, vec![0; BLOCK_BYTES]);
        while end > 0 {
            let start = end.saturating_sub(BLOCK_BYTES as u64);
            let piece = &mut block[..(end - start) as usize];
            self.file.read_exact_at(piece, start)?;
            if let Some(last) = piece.iter().rposition(|byte| *byte != 0) {
                end = start + last as u64 + 1;
                break;
            }
            end = start;
        }
        if end < size {
            // The last character of UTF-16 may have a zero of its own.
            let width = if self.is_wide()? { 2 } else { 1 };
            self.length = end.next_multiple_of(width).min(size);
            self.reserved = size - self.length;
            self.content.set(Some(self.length));
        }
        Ok(())
    }

    /// Whether it looks like UTF-16.
    fn is_wide(&self) -> io::Result<bool> {
        let mut head = [1; 2];
        self.file.read_at(&mut head, 0)?;
        Ok(BYTE_ORDER_MARKS.contains(&head) || head.contains(&0))
    }
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

impl Bytes<'_> {
    /// Fills `block`, or as much of it as there is left to read.
    pub(super) fn fill(&mut self, block: &mut [u8]) -> Result<usize> {
        let mut filled = 0;
        while filled < block.len() {
            let Some(open) = &mut self.file else {
                let Some(file) = self.side.files.get(self.next) else { break };
                self.open_next(file)?;
                continue;
            };
            match open.read(&mut block[filled..])? {
                // The last one stays open: it may grow.
                0 if self.next == self.side.files.len() => break,
                0 => self.file = None,
                read => filled += read,
            }
        }
        Ok(filled)
    }

    /// Whether all was read that the files held when they were opened.
    pub(super) fn is_at_end(&mut self) -> Result<bool> {
        if let Some(Open { of, at, content: Content::Plain(_) }) = &self.file
            && self.next == self.side.files.len()
        {
            return Ok(*at >= of.length);
        }
        let was = std::mem::replace(&mut self.follow, false);
        let read = self.fill(&mut [0])?;
        self.follow = was;
        Ok(read == 0)
    }

    /// Reads the next `bytes`; how many line ends are in them.
    fn count_lines(&mut self, bytes: u64) -> Result<u64> {
        let (mut lines, mut left, mut block) = (0, bytes, vec![0; BLOCK_BYTES]);
        while left > 0 {
            let wanted = left.min(BLOCK_BYTES as u64) as usize;
            let read = self.fill(&mut block[..wanted])?;
            lines += memchr_iter(b'\n', &block[..read]).count() as u64;
            left -= read as u64;
            if read < wanted {
                break;
            }
        }
        Ok(lines)
    }

    /// Reads the rest: how much it is, an unfinished line counted too, and whether there is one.
    pub(super) fn count_rest(&mut self) -> Result<(Amount, bool)> {
        let (mut rest, mut is_unfinished, mut block) = (Amount::default(), false, vec![0; BLOCK_BYTES]);
        loop {
            let read = self.fill(&mut block)?;
            rest.bytes += read as u64;
            rest.lines += memchr_iter(b'\n', &block[..read]).count() as u64;
            is_unfinished = block[..read].last().map_or(is_unfinished, |last| *last != b'\n');
            if read < BLOCK_BYTES {
                rest.lines += u64::from(is_unfinished);
                return Ok((rest, is_unfinished));
            }
        }
    }

    /// Passes over at most `bytes` of the open file, and closes it at its end; how many those were.
    fn skip(&mut self, bytes: u64) -> Result<u64> {
        let Some(open) = &mut self.file else { return Ok(0) };
        let start = open.at;
        if let Content::Plain(plain) = &mut open.content {
            let step = bytes.min(plain.end.saturating_sub(plain.at));
            plain.at += step;
            open.at += step;
        } else {
            let mut block = vec![0; BLOCK_BYTES];
            while open.at - start < bytes {
                let wanted = (bytes - (open.at - start)).min(BLOCK_BYTES as u64) as usize;
                if open.read(&mut block[..wanted])? == 0 {
                    break;
                }
            }
        }
        Ok(open.at - start)
    }
}

impl<'s> Bytes<'s> {
    fn open_next(&mut self, file: &'s LogFile) -> Result<()> {
        self.next += 1;
        let follow = self.follow && self.next == self.side.files.len();
        self.file = Some(Open::new(file, follow)?);
        Ok(())
    }
}

impl<'s> Open<'s> {
    fn new(of: &'s LogFile, follow: bool) -> Result<Self> {
        let end = if follow && !of.is_compressed { u64::MAX } else { of.length };
        let positioned = Positioned { file: &of.file, at: 0, end };
        let content = if of.is_compressed {
            Content::Gzip(Box::new(MultiGzDecoder::new(BufReader::with_capacity(BLOCK_BYTES, positioned))))
        } else {
            Content::Plain(positioned)
        };
        Ok(Self { of, at: 0, content })
    }

    fn read(&mut self, block: &mut [u8]) -> Result<usize> {
        let read = loop {
            let read = match &mut self.content {
                Content::Plain(plain) => plain.read(block),
                Content::Gzip(gzip) => gzip.read(block),
            };
            match read {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => break read.with_context(|| format!("cannot read `{}`", shown(&self.of.path)))?,
            }
        };
        self.at += read as u64;
        if read == 0 && self.of.is_compressed {
            self.of.content.set(Some(self.at));
        } else if read == 0 && self.at < self.of.length {
            bail!("`{}` became shorter while it was read: compare again", shown(&self.of.path));
        }
        Ok(read)
    }
}

impl Read for Positioned<'_> {
    fn read(&mut self, block: &mut [u8]) -> io::Result<usize> {
        let wanted = (self.end - self.at).min(block.len() as u64) as usize;
        let read = self.file.read_at(&mut block[..wanted], self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// ``logs/app.log, line 5, byte 24: `five\n` ``.
impl fmt::Display for Spot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, line, byte, excerpt, is_cut } = self;
        write!(f, "{}, line {line}, byte {byte}: ", shown(path))?;
        if excerpt.is_empty() {
            return f.write_str("the end");
        }
        let [before, behind] = is_cut.map(|is_cut| if is_cut { "…" } else { "" });
        write!(f, "{before}`{}`{behind}", Escaped(excerpt))
    }
}

/// Safe to print, whatever it is called.
pub(super) fn shown(path: &Path) -> String {
    Escaped(path_bytes(path)).to_string()
}

pub(super) fn path_bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}
