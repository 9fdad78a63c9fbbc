#![no_main]

use std::sync::LazyLock;

use tempfile::TempDir;

/// One for the whole run.
static FOLDER: LazyLock<TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a folder can be made"));

libfuzzer_sys::fuzz_target!(|data: &[u8]| fshipper_sources::file_tail::fuzzing::restore(FOLDER.path(), data));
