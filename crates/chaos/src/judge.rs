//! Whether what arrived is what was written: [`judge`].

use std::collections::HashSet;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use fshipper_testing::compare;

use crate::outputs::{OutputFiles, files_below};

/// One log: what must have arrived, and where.
#[derive(Debug)]
pub(crate) struct Case<'a> {
    pub(crate) name: &'a str,
    pub(crate) expected: &'a Path,
    pub(crate) output: &'a OutputFiles,
}

/// Compares every log with its output files, and looks for files below `outputs` that belong to none, and for
/// notes of losses. What is compressed is decompressed into `plain`. The answer is empty when all is well.
pub(crate) fn judge(cases: &[Case<'_>], outputs: &[PathBuf], plain: &Path) -> Result<Vec<String>> {
    let mut failures = Vec::new();
    let mut known = HashSet::new();
    for (index, Case { name, expected, output }) in cases.iter().enumerate() {
        let folder = plain.join(index.to_string());
        fs::create_dir_all(&folder)?;
        let verdict = compare(expected, output.plain(&folder)?);
        if !verdict.is_identical() {
            failures.push(format!("{name}: {verdict}"));
        }
        for file in output.list()? {
            // Of a file in two forms the other one is known with it.
            known.insert(PathBuf::from(format!("{}.gz", file.path.display())));
            known.insert(file.path);
        }
    }
    for output in outputs {
        let strays = files_below(output)?.into_iter().filter(|path| !known.contains(path));
        failures.extend(strays.map(|path| format!("nobody's output file: {}", path.display())));
        let losses = match fs::read(output.join(".fshipper/losses.log")) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            losses => losses.with_context(|| format!("cannot read the losses in {}", output.display()))?,
        };
        let losses = String::from_utf8_lossy(&losses);
        failures.extend(losses.lines().map(|line| format!("a loss in {}: {line}", output.display())));
    }
    Ok(failures)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write as _;

    use flate2::write::GzEncoder;
    use fshipper_testing::LogWriter;
    use tempfile::TempDir;

    use super::*;

    /// What a working pipeline leaves: a log, and its output in a compressed, a rotated and an active file.
    struct Scene(TempDir);

    impl Scene {
        fn new() -> Self {
            let scene = Self(tempfile::tempdir().unwrap());
            fs::create_dir_all(scene.path("out/web1")).unwrap();
            let mut log = LogWriter::create(scene.path("log"), scene.path("expected"), 1);
            log.write_lines(300);
            let lines = scene.lines("expected");
            let (oldest, rest) = lines.split_at(100);
            let (older, newest) = rest.split_at(100);
            scene.write_compressed(oldest);
            fs::write(scene.path(Self::OLDER), older.concat()).unwrap();
            fs::write(scene.path(Self::NEWEST), newest.concat()).unwrap();
            scene
        }

        const OLDEST: &str = "out/web1/app.log.20261123T070000.gz";
        const OLDER: &str = "out/web1/app.log.20261123T070001";
        const NEWEST: &str = "out/web1/app.log";

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn lines(&self, name: &str) -> Vec<Vec<u8>> {
            let bytes = fs::read(self.path(name)).unwrap();
            bytes.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect()
        }

        fn write_compressed(&self, lines: &[Vec<u8>]) {
            let file = File::create(self.path(Self::OLDEST)).unwrap();
            let mut encoder = GzEncoder::new(file, flate2::Compression::fast());
            encoder.write_all(&lines.concat()).unwrap();
            encoder.finish().unwrap();
        }

        fn judge(&self) -> String {
            let output = OutputFiles::new(&self.path("out/web1/app.log"));
            let expected = self.path("expected");
            let case = Case { name: "web1/app.log", expected: &expected, output: &output };
            judge(&[case], &[self.path("out")], &self.path("plain")).unwrap().join("\n")
        }
    }

    /// Breaks the lines of one output file.
    #[track_caller]
    fn check(file: &str, break_it: impl FnOnce(&mut Vec<Vec<u8>>), verdict: &str) {
        let scene = Scene::new();
        let mut lines = scene.lines(file);
        break_it(&mut lines);
        fs::write(scene.path(file), lines.concat()).unwrap();
        let found = scene.judge();
        assert!(found.starts_with(&format!("web1/app.log: {verdict};")), "{found}");
    }

    #[test]
    fn what_a_working_pipeline_leaves_is_accepted() {
        assert_eq!(Scene::new().judge(), "");
    }

    #[test]
    fn a_line_that_is_missing_is_lost() {
        check(Scene::OLDER, |lines| drop(lines.remove(17)), "1 lost, 0 duplicated, 0 reordered, 0 torn");
        check(Scene::NEWEST, |lines| drop(lines.pop()), "1 lost, 0 duplicated, 0 reordered, 0 torn");
    }

    #[test]
    fn a_line_that_stands_there_twice_is_duplicated() {
        let twice = |lines: &mut Vec<Vec<u8>>| lines.insert(40, lines[17].clone());
        check(Scene::OLDER, twice, "0 lost, 1 duplicated, 0 reordered, 0 torn");
        let twice = |lines: &mut Vec<Vec<u8>>| lines.push(lines[99].clone());
        check(Scene::NEWEST, twice, "0 lost, 1 duplicated, 0 reordered, 0 torn");
    }

    #[test]
    fn lines_that_changed_places_are_reordered() {
        check(Scene::NEWEST, |lines| lines.swap(3, 4), "0 lost, 0 duplicated, 1 reordered, 0 torn");
    }

    #[test]
    fn a_line_without_its_middle_or_its_end_is_torn() {
        let cut = |lines: &mut Vec<Vec<u8>>| drop(lines[50].drain(30..40));
        check(Scene::OLDER, cut, "1 lost, 0 duplicated, 0 reordered, 1 torn");
        let cut = |lines: &mut Vec<Vec<u8>>| lines[99].truncate(90);
        check(Scene::NEWEST, cut, "1 lost, 0 duplicated, 0 reordered, 1 torn");
    }

    #[test]
    fn a_line_that_is_missing_in_a_compressed_file_is_lost() {
        let scene = Scene::new();
        scene.write_compressed(&scene.lines("expected")[..99]);
        assert!(scene.judge().starts_with("web1/app.log: 1 lost, 0 duplicated"), "{}", scene.judge());
    }

    #[test]
    fn files_in_the_wrong_order_are_reordered() {
        let scene = Scene::new();
        let (older, newest) =
            (fs::read(scene.path(Scene::OLDER)).unwrap(), fs::read(scene.path(Scene::NEWEST)).unwrap());
        fs::write(scene.path(Scene::OLDER), newest).unwrap();
        fs::write(scene.path(Scene::NEWEST), older).unwrap();
        assert!(
            scene.judge().starts_with("web1/app.log: 0 lost, 0 duplicated, 100 reordered"),
            "{}",
            scene.judge()
        );
    }

    #[test]
    fn a_file_of_nobody_and_a_note_of_a_loss_are_found() {
        let scene = Scene::new();
        fs::write(scene.path("out/web1/other.log"), "").unwrap();
        fs::create_dir_all(scene.path("out/.fshipper")).unwrap();
        fs::write(scene.path("out/.fshipper/losses.log"), "7 bytes are gone\n").unwrap();
        let found = scene.judge();
        let found = found.lines().collect::<Vec<_>>();
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("nobody's output file: ") && found[0].ends_with("web1/other.log"));
        assert!(found[1].ends_with("7 bytes are gone"));
    }
}
