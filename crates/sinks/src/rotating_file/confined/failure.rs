//! Why something could not be done: [`Failure`].

use std::fmt;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use fshipper_pipeline::Escaped;

/// What could not be done, to which file, and why.
#[derive(Debug)]
pub(in super::super) struct Failure {
    pub(super) message: String,
    pub(super) source: io::Error,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// A path that is safe to print.
pub(super) fn escaped(path: &Path) -> String {
    Escaped(path.as_os_str().as_bytes()).to_string()
}
