//! Which files a side consists of, in which order: [`source`], [`central`].

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::time::SystemTime;

use fshipper_pipeline::anyhow::{Context as _, Result, bail};
use fshipper_sources::file_tail::in_order_of_rotation;
use globset::GlobBuilder;

use super::natural;
use super::side::{path_bytes, shown};

/// Directories that `**` goes down at most: a deeper tree of logs is a mistake.
const MAX_DEPTH: usize = 64;

/// What is kept beside an output and is no part of it.
const OWN_PREFIX: &[u8] = b".fshipper";

/// The files of a log where it is written, oldest first.
pub(super) fn source(arguments: &[PathBuf], as_given: bool) -> Result<Vec<PathBuf>> {
    let files = without_compressed_twins(expand(arguments)?);
    if as_given {
        return Ok(files);
    }
    let modified = |path: &PathBuf| -> Result<SystemTime> {
        let metadata = fs::metadata(path).with_context(|| format!("cannot open `{}`", shown(path)))?;
        metadata.modified().with_context(|| format!("cannot open `{}`", shown(path)))
    };
    let timed = files.iter().map(|path| Ok((path.clone(), modified(path)?))).collect::<Result<Vec<_>>>()?;
    match in_order_of_rotation(timed) {
        Some(ordered) => Ok(ordered),
        None => bail!(
            "{} are not the rotated files of one log: verify one log at a time, or pass `--as-given` if their \
             order is right",
            listed(&files)
        ),
    }
}

/// The files that `rotating_file` wrote for it, oldest first.
pub(super) fn central(arguments: &[PathBuf], as_given: bool) -> Result<Vec<PathBuf>> {
    let mut files = without_compressed_twins(expand(arguments)?);
    if as_given {
        return Ok(files);
    }
    files.sort_by(|one, other| natural::compare(path_bytes(one), path_bytes(other)));
    let apart = |path: &PathBuf| natural::collision_suffix(path_bytes(path)).map(<[u8]>::to_vec);
    if let Some(pair) = files.windows(2).find(|pair| apart(&pair[0]) != apart(&pair[1])) {
        bail!(
            "`{}` and `{}` hold two logs of the same name: verify one at a time, or pass `--as-given`",
            shown(&pair[0]),
            shown(&pair[1])
        );
    }
    Ok(files)
}

/// The names of files as a sentence takes them.
fn listed(files: &[PathBuf]) -> String {
    let names: Vec<String> = files.iter().take(3).map(|path| format!("`{}`", shown(path))).collect();
    if files.len() > names.len() { format!("{}, …", names.join(", ")) } else { names.join(" and ") }
}

/// A file that is being compressed is there twice for a moment: the plain one is certainly complete.
fn without_compressed_twins(files: Vec<PathBuf>) -> Vec<PathBuf> {
    let plain = |path: &PathBuf| {
        path_bytes(path).strip_suffix(b".gz").map(|plain| PathBuf::from(OsStr::from_bytes(plain)))
    };
    let is_twin = |path: &PathBuf| plain(path).is_some_and(|plain| files.contains(&plain));
    files.iter().filter(|path| !is_twin(path)).cloned().collect()
}

/// Files, and what patterns stand for, without doubles.
fn expand(arguments: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for argument in arguments {
        let is_pattern = path_bytes(argument).iter().any(|byte| b"*?[{".contains(byte));
        // A file may be called like a pattern.
        if !is_pattern || fs::symlink_metadata(argument).is_ok() {
            files.push(argument.clone());
            continue;
        }
        let before = files.len();
        match_pattern(argument, &mut files)?;
        if files.len() == before {
            bail!("`{}` matches no file", shown(argument));
        }
    }
    let mut unique = Vec::with_capacity(files.len());
    for file in files {
        if !unique.contains(&file) {
            unique.push(file);
        }
    }
    Ok(unique)
}

/// Adds the files that `pattern` stands for, in the order of their names.
fn match_pattern(pattern: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let mut found = vec![PathBuf::new()];
    let components: Vec<Component<'_>> = pattern.components().collect();
    for (index, component) in components.iter().enumerate() {
        let is_last = index + 1 == components.len();
        let name = path_bytes(Path::new(component.as_os_str()));
        if name == b"**" {
            found = found.iter().flat_map(|base| directories_below(base, MAX_DEPTH)).collect();
        } else if name.iter().any(|byte| b"*?[{".contains(byte)) {
            let text =
                str::from_utf8(name).ok().with_context(|| format!("`{}` is no UTF-8", shown(pattern)))?;
            let glob = GlobBuilder::new(text).backslash_escape(true).build();
            let glob = glob.with_context(|| format!("`{}` is no pattern", shown(pattern)))?.compile_matcher();
            let matches = |path: &PathBuf| {
                let name = path.file_name().unwrap_or_default();
                // As in a shell, a hidden file is only matched by a pattern that begins with a dot too.
                let is_hidden = name.as_bytes().starts_with(b".") && !text.starts_with('.');
                !is_hidden && !name.as_bytes().starts_with(OWN_PREFIX) && glob.is_match(Path::new(name))
            };
            found = found.iter().flat_map(|base| entries(base)).filter(matches).collect();
        } else {
            for base in &mut found {
                base.push(component);
            }
        }
        found.retain(|path| fs::metadata(or_here(path)).is_ok_and(|entry| entry.is_dir() != is_last));
    }
    found.sort();
    files.append(&mut found);
    Ok(())
}

/// What stands in a directory; one that cannot be read has nothing to match.
fn entries(base: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(or_here(base)).into_iter().flatten().flatten();
    entries.map(|entry| base.join(entry.file_name())).collect()
}

fn directories_below(base: &Path, depth: usize) -> Vec<PathBuf> {
    let mut found = vec![base.to_path_buf()];
    // Links are not followed: that is how loops come about.
    let is_directory = |path: &PathBuf| fs::symlink_metadata(path).is_ok_and(|entry| entry.is_dir());
    for below in entries(base).iter().filter(|path| depth > 0 && is_directory(path)) {
        found.extend(directories_below(below, depth - 1));
    }
    found
}

fn or_here(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}
