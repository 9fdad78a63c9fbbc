//! Which names a rotated log goes by: `app.log.1`, `app.log-20261123`, `app-20261123.log`, `app.log.2.gz`.
//!
//! Numbers count only behind a dot at the very end, and anything else must look like a date:
//! `worker-1.log` is a log of its own and no earlier generation of `worker.log`.

use std::cmp::Ordering;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

const GZIP: &[u8] = b".gz";

const COMPRESSED: [&[u8]; 5] = [GZIP, b".zst", b".bz2", b".xz", b".Z"];

/// A number of at most so many digits counts rotations; a longer one is a date.
const MAX_ROTATION_DIGITS: usize = 5;

/// A date has at least so many digits: year, month and day.
const MIN_DATE_DIGITS: usize = 8;

/// Times of change that differ by less say nothing about which file is older: late writes blur them.
const BLUR: Duration = Duration::from_secs(10);

/// What a rotated file's name adds to the name of its log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Suffix {
    /// `.1`: how often it was rotated.
    Number(u64),
    /// `-20261123`, `.2026-11-23-1`: its runs of digits.
    Date(Vec<u64>),
}

/// The paths of which `path` would be a rotated file, the likeliest first.
pub(crate) fn primaries(path: &Path) -> Vec<(PathBuf, Suffix)> {
    let Some(name) = path.file_name() else { return Vec::new() };
    let name = without_compression(name.as_bytes());
    let mut found = Vec::new();
    let mut add = |primary: Vec<u8>, suffix: Suffix| {
        if !primary.is_empty() {
            found.push((path.with_file_name(OsString::from_vec(primary)), suffix));
        }
    };
    if let Some((primary, suffix)) = split_suffix(name) {
        add(primary.to_vec(), suffix);
    }
    // Compressed where it stood: the youngest, as if it had been rotated no time.
    if is_compressed(path) {
        add(name.to_vec(), Suffix::Number(0));
    }
    // A date before the extension, as with logrotate's `extension`.
    if let Some(dot) = memchr::memrchr(b'.', name)
        && let Some((stem, suffix @ Suffix::Date(_))) = split_suffix(&name[..dot])
    {
        add([stem, &name[dot..]].concat(), suffix);
    }
    found
}

/// Puts the files of one log, each with its time of change, in the order in which they were written, oldest
/// first; `None` when they are not all of one log.
pub fn in_order_of_rotation(files: Vec<(PathBuf, SystemTime)>) -> Option<Vec<PathBuf>> {
    type File = (PathBuf, Option<Suffix>, SystemTime);
    let as_part_of = |log: &Path, path: &Path| {
        let found = primaries(path).into_iter().find(|(primary, _)| primary == log);
        found.map(|(_, suffix)| Some(suffix)).or_else(|| (path == log).then_some(None))
    };
    let all_of = |log: &Path| -> Option<Vec<File>> {
        files.iter().map(|(path, time)| Some((path.clone(), as_part_of(log, path)?, *time))).collect()
    };
    let (first, _) = files.first()?;
    let mut logs = primaries(first).into_iter().map(|(log, _)| log).chain([first.clone()]);
    let files = logs.find_map(|log| all_of(&log))?;
    let (mut rotated, active): (Vec<File>, Vec<File>) = files.into_iter().partition(|file| file.1.is_some());
    sort_oldest_first(&mut rotated, |file| file.1.as_ref(), |file| file.2);
    Some(rotated.into_iter().chain(active).map(|file| file.0).collect())
}

/// Whether the name says that the content is compressed with gzip.
pub(crate) fn is_gzip(path: &Path) -> bool {
    without_gzip(path).is_some()
}

/// The path without the extension of gzip, if it has that.
pub(crate) fn without_gzip(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.as_bytes().strip_suffix(GZIP)?;
    (!name.is_empty()).then(|| path.with_file_name(OsStr::from_bytes(name)))
}

/// Whether the name says that the content is compressed in a way that is not read.
pub(crate) fn is_unreadable(path: &Path) -> bool {
    is_compressed(path) && !is_gzip(path)
}

/// Whether the name says that the content is compressed.
pub(crate) fn is_compressed(path: &Path) -> bool {
    let name = path.file_name().unwrap_or(OsStr::new("")).as_bytes();
    without_compression(name).len() < name.len()
}

/// Puts rotated files in the order in which they were written, oldest first. Numbers normally count down to
/// the youngest; where the times of change clearly say the opposite they count up.
pub(crate) fn sort_oldest_first<T>(
    files: &mut [T],
    suffix: impl Fn(&T) -> Option<&Suffix>,
    modified: impl Fn(&T) -> SystemTime,
) {
    let number = |file: &T| match suffix(file) {
        Some(Suffix::Number(number)) => Some(*number),
        _ => None,
    };
    if files.iter().all(|file| number(file).is_some()) {
        files.sort_by_key(|file| std::cmp::Reverse(number(file)));
        let contradicted = count(files, |older, younger| modified(older) > modified(younger) + BLUR);
        let confirmed = count(files, |older, younger| modified(younger) > modified(older) + BLUR);
        if contradicted > confirmed {
            files.reverse();
        }
    } else if files.iter().all(|file| matches!(suffix(file), Some(Suffix::Date(_)))) {
        files.sort_by(|left, right| match (suffix(left), suffix(right)) {
            (Some(Suffix::Date(left)), Some(Suffix::Date(right))) => left.cmp(right),
            _ => Ordering::Equal,
        });
    } else {
        files.sort_by_key(modified);
    }
}

fn count<T>(files: &[T], holds: impl Fn(&T, &T) -> bool) -> usize {
    files.windows(2).filter(|pair| holds(&pair[0], &pair[1])).count()
}

fn without_compression(name: &[u8]) -> &[u8] {
    COMPRESSED.iter().find_map(|extension| name.strip_suffix(*extension)).unwrap_or(name)
}

/// `app.log.1` → `app.log`, 1; `app.log-2026-11-23` → `app.log`, [2026, 11, 23].
fn split_suffix(name: &[u8]) -> Option<(&[u8], Suffix)> {
    let is_tail = |byte: &u8| byte.is_ascii_digit() || b".-_:T".contains(byte);
    let tail = name.iter().rev().take_while(|byte| is_tail(byte)).count();
    let start = name.len() - tail;
    if start == 0 {
        return None;
    }
    // The suffix begins at a separator before a digit: the first one that makes sense.
    for at in start..name.len().saturating_sub(1) {
        let separated = b".-_".contains(&name[at]) && name[at + 1].is_ascii_digit();
        if !separated {
            continue;
        }
        let digits = &name[at + 1..];
        let runs: Vec<&[u8]> = digits.split(|byte| !byte.is_ascii_digit()).collect();
        if runs.iter().any(|run| run.is_empty()) {
            continue;
        }
        let total: usize = runs.iter().map(|run| run.len()).sum();
        let numbers = runs.iter().map(|run| std::str::from_utf8(run).ok()?.parse().ok()).collect();
        let numbers: Option<Vec<u64>> = numbers;
        match numbers {
            Some(numbers) if runs.len() == 1 && total <= MAX_ROTATION_DIGITS && name[at] == b'.' => {
                return Some((&name[..at], Suffix::Number(numbers[0])));
            }
            Some(numbers) if total >= MIN_DATE_DIGITS => return Some((&name[..at], Suffix::Date(numbers))),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, expected: &[&str]) {
        let found = primaries(&Path::new("/d").join(name));
        let names: Vec<String> =
            found.iter().map(|(path, suffix)| format!("{} {suffix:?}", path.display())).collect();
        assert_eq!(names, expected, "{name}");
    }

    #[test]
    fn knows_the_names_that_rotation_gives() {
        check("app.log.1", &["/d/app.log Number(1)"]);
        check("app.log.12.gz", &["/d/app.log Number(12)", "/d/app.log.12 Number(0)"]);
        check("app.log.gz", &["/d/app.log Number(0)"]);
        check(".gz", &[]);
        check("app.log-20261123", &["/d/app.log Date([20261123])"]);
        check(
            "app.log-20261123-1.zst",
            &["/d/app.log Date([20261123, 1])", "/d/app.log-20261123-1 Number(0)"],
        );
        check("app.log.2026-11-23", &["/d/app.log Date([2026, 11, 23])"]);
        check("app-20261123.log", &["/d/app.log Date([20261123])"]);
        check("app.log-1763856000", &["/d/app.log Date([1763856000])"]);
        check("syslog.1", &["/d/syslog Number(1)"]);
        check("a.1", &["/d/a Number(1)"]);
    }

    #[test]
    fn leaves_logs_of_their_own_alone() {
        for name in [
            "app.log",
            "worker-1.log",
            "worker-2",
            "worker.1.log",
            "1",
            "20261123",
            ".1",
            "a.",
            "a..1x",
            "v1.2",
        ] {
            let found = primaries(&Path::new("/d").join(name));
            let own = found.iter().all(|(path, _)| path == Path::new("/d/v1"));
            assert!(own, "{name}: {found:?}");
        }
    }

    #[test]
    fn orders_by_number_date_or_time() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let order = |files: &[(Option<Suffix>, u64)]| {
            let mut files: Vec<_> = files.iter().enumerate().collect();
            sort_oldest_first(&mut files, |file| file.1.0.as_ref(), |file| at(file.1.1));
            files.iter().map(|file| file.0).collect::<Vec<_>>()
        };
        let number = |number, time| (Some(Suffix::Number(number)), time);
        let date = |date: &[u64], time| (Some(Suffix::Date(date.to_vec())), time);
        assert_eq!(order(&[number(1, 50), number(2, 51), number(10, 5)]), [2, 1, 0]);
        assert_eq!(order(&[number(1, 100), number(2, 200), number(3, 300)]), [0, 1, 2]);
        assert_eq!(order(&[date(&[20261123, 1], 1), date(&[20261123], 2), date(&[20261122], 3)]), [2, 1, 0]);
        assert_eq!(order(&[number(1, 300), date(&[20261123], 100), (None, 200)]), [1, 2, 0]);
    }

    #[test]
    fn the_files_of_one_log_are_put_in_order() {
        let order = |names: &[&str]| {
            let files = names.iter().map(|name| (PathBuf::from(name), SystemTime::UNIX_EPOCH)).collect();
            let order = in_order_of_rotation(files)?;
            Some(order.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" "))
        };
        let ordered = |names: &[&str], expected: &str| assert_eq!(order(names).as_deref(), Some(expected));
        ordered(&["l/a.log"], "l/a.log");
        ordered(
            &["l/a.log", "l/a.log.1", "l/a.log.10.gz", "l/a.log.2"],
            "l/a.log.10.gz l/a.log.2 l/a.log.1 l/a.log",
        );
        ordered(&["a.log-20261123", "a.log", "a.log-20261122"], "a.log-20261122 a.log-20261123 a.log");
        ordered(&["a-20261123.log", "a-20261122.log"], "a-20261122.log a-20261123.log");
        assert_eq!(order(&["a.log", "b.log"]), None);
        assert_eq!(order(&["l/a.log", "m/a.log.1"]), None);
    }

    #[test]
    fn compression_shows_in_the_name() {
        assert!(is_compressed(Path::new("/a/b.gz")) && is_compressed(Path::new("b.1.zst")));
        assert!(!is_compressed(Path::new("/a/gz")) && !is_compressed(Path::new("/a/b.gz.1")));
    }
}
