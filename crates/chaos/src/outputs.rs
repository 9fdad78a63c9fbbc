//! The output files of one log, in order: [`OutputFiles`].

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use flate2::read::MultiGzDecoder;

/// Where the lines of one log arrive.
#[derive(Debug)]
pub(crate) struct OutputFiles {
    folder: PathBuf,
    /// What every file's name begins with.
    name: String,
    /// How long a compressed file is when it is not: they never change.
    lengths: HashMap<PathBuf, u64>,
}

/// One of them.
#[derive(Debug)]
pub(crate) struct OutputFile {
    pub(crate) path: PathBuf,
    pub(crate) compressed: bool,
    /// Compressed and still there as it was: one of the two is about to go.
    twice: bool,
}

/// What stands in an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) bytes: u64,
    /// No file is there in two forms.
    pub(crate) settled: bool,
}

/// Where a file stands among the others: by its period or the time of its rotation, then by its number; the
/// active one of a path without a date is the last.
type Order = (String, u64);

impl OutputFiles {
    /// `base`, followed by a date or a number or nothing.
    pub(crate) fn new(base: &Path) -> Self {
        let name = base.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Self { folder: base.parent().unwrap_or(base).to_owned(), name, lengths: HashMap::new() }
    }

    /// The files, oldest first; none while the folder does not exist.
    pub(crate) fn list(&self) -> Result<Vec<OutputFile>> {
        let mut found: Vec<(Order, OutputFile)> = Vec::new();
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).with_context(|| format!("cannot list {:?}", self.folder)),
        };
        for entry in entries {
            let entry = entry.with_context(|| format!("cannot list {:?}", self.folder))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(rest) = name.strip_prefix(&self.name) else { continue };
            let (rest, compressed) = rest.strip_suffix(".gz").map_or((rest, false), |rest| (rest, true));
            if let Some(order) = order(rest) {
                found.push((order, OutputFile { path: entry.path(), compressed, twice: false }));
            }
        }
        found.sort_by(|(one, left), (other, right)| (one, left.compressed).cmp(&(other, right.compressed)));
        found.dedup_by(|(later, _), (order, file)| {
            let same = later == order;
            file.twice |= same;
            same
        });
        Ok(found.into_iter().map(|(_, file)| file).collect())
    }

    /// How much has arrived; `None` when files were renamed meanwhile.
    pub(crate) fn extent(&mut self) -> Result<Option<Extent>> {
        let mut extent = Extent { bytes: 0, settled: true };
        for file in self.list()? {
            extent.settled &= !file.twice;
            let length = match (file.compressed, self.lengths.get(&file.path)) {
                (true, Some(length)) => Ok(*length),
                (true, None) => decompress(&file.path, &mut io::sink()),
                (false, _) => fs::metadata(&file.path).map(|metadata| metadata.len()),
            };
            match length {
                Ok(length) => extent.bytes += length,
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error).with_context(|| format!("cannot read {:?}", file.path)),
            }
            if let (true, Ok(length)) = (file.compressed, length) {
                self.lengths.insert(file.path, length);
            }
        }
        Ok(Some(extent))
    }

    /// The files as plain ones, in order; what is compressed is decompressed into `folder`.
    pub(crate) fn plain(&self, folder: &Path) -> Result<Vec<PathBuf>> {
        let mut paths = Vec::new();
        for (index, file) in self.list()?.into_iter().enumerate() {
            if !file.compressed {
                paths.push(file.path);
                continue;
            }
            let plain = folder.join(format!("{}-{index}", self.name));
            let mut to = File::create(&plain).with_context(|| format!("cannot create {plain:?}"))?;
            decompress(&file.path, &mut to).with_context(|| format!("cannot decompress {:?}", file.path))?;
            paths.push(plain);
        }
        Ok(paths)
    }
}

fn decompress(path: &Path, to: &mut impl io::Write) -> io::Result<u64> {
    io::copy(&mut MultiGzDecoder::new(File::open(path)?), to)
}

/// What follows the name: nothing, `.20261123T070000` of a rotation, `.202611230700` of a period, the latter
/// perhaps with a number.
fn order(rest: &str) -> Option<Order> {
    const LAST: &str = "~";
    if rest.is_empty() {
        return Some((LAST.to_owned(), 0));
    }
    let mut parts = rest.strip_prefix('.')?.split('.');
    let date = parts.next()?;
    let number = parts.next().map_or(Some(0), |number| number.parse().ok())?;
    let sound = date.len() >= 8 && date.bytes().all(|byte| byte.is_ascii_digit() || byte == b'T');
    (sound && parts.next().is_none()).then(|| (date.to_owned(), number))
}

/// Every regular file below a folder, the sink's own ones left out.
pub(crate) fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {folder:?}"))? {
            let entry = entry.with_context(|| format!("cannot list {folder:?}"))?;
            if entry.file_name() == ".fshipper" {
                continue;
            }
            match entry.file_type().with_context(|| format!("cannot look at {:?}", entry.path()))?.is_dir() {
                true => folders.push(entry.path()),
                false => found.push(entry.path()),
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[track_caller]
    fn check(names: &[&str], expected: &[&str]) {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let found = OutputFiles::new(&folder.path().join("app.log")).list().unwrap();
        let found = found.iter().map(|file| file.path.file_name().unwrap().to_str().unwrap());
        assert_eq!(found.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn rotated_files_come_before_the_active_one() {
        let names =
            ["app.log", "app.log.20261123T070001", "app.log.20261123T065959.gz", "app.log.x", "web.log"];
        check(&names, &["app.log.20261123T065959.gz", "app.log.20261123T070001", "app.log"]);
    }

    #[test]
    fn files_of_a_period_follow_each_other_by_their_numbers() {
        let names =
            ["202611230700.2", "202611230700.10.gz", "202611230700", "202611230701", "202611230659.1"];
        let names = names.map(|name| format!("app.log.{name}"));
        let order = [4, 2, 0, 1, 3].map(|index| names[index].as_str());
        check(&names.each_ref().map(String::as_str), &order);
    }

    #[test]
    fn a_file_in_two_forms_counts_once_and_is_not_settled() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let compress = |name: &str| {
            let mut encoder =
                flate2::write::GzEncoder::new(File::create(path(name)).unwrap(), Default::default());
            encoder.write_all(b"old\n").unwrap();
            encoder.finish().unwrap();
        };
        compress("app.log.20261123T070000.gz");
        fs::write(path("app.log.20261123T070000"), "old\n").unwrap();
        fs::write(path("app.log"), "new\n").unwrap();
        let mut files = OutputFiles::new(&path("app.log"));
        assert_eq!(files.extent().unwrap(), Some(Extent { bytes: 8, settled: false }));
        fs::remove_file(path("app.log.20261123T070000")).unwrap();
        for _ in 0..2 {
            assert_eq!(files.extent().unwrap(), Some(Extent { bytes: 8, settled: true }));
        }
        fs::create_dir(path("plain")).unwrap();
        let texts = files
            .plain(&path("plain"))
            .unwrap()
            .iter()
            .map(|path| fs::read(path).unwrap())
            .collect::<Vec<_>>();
        assert_eq!(texts.concat(), b"old\nnew\n");
    }
}
