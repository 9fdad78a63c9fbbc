//! The fuzz targets of pipeline files, and of what `fshipper verify` compares.

use std::path::Path;

use fshipper_pipeline::config::{self, Environment, Options};

/// What a variable holds that nobody may see.
const SECRET: &str = "hunter2hunter2";

/// A pipeline file that holds anything: it is understood, or refused with words, at a place that is in it, and
/// nothing that is printed holds a secret.
///
/// # Panics
///
/// This is not so.
pub fn pipeline_file(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let environment = Environment::from([
        ("HOSTNAME", "web1"),
        ("HOME", "/nonexistent"),
        ("LOGS", "/var/log"),
        ("DB_PASSWORD", SECRET),
        ("NATS_TOKEN", SECRET),
    ]);
    let options = Options { state_dir: Some("/nonexistent".into()), once: false, environment };
    let shown = match config::load_str("fuzz.toml", &text, &options) {
        Ok(pipeline) => vec![pipeline.describe(), format!("{pipeline:?}")],
        Err(error) => {
            assert!(!error.problems().is_empty(), "refused without a reason");
            for problem in error.problems() {
                assert!(!problem.to_string().is_empty());
                let Some((line, column)) = problem.line_and_column() else {
                    let message = problem.to_string();
                    assert!(message.contains("`fuzz.toml`"), "{message}: where?");
                    continue;
                };
                let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
                let pointed_at = text.split('\n').nth(line - 1).expect("the line is in the file");
                assert!((1..=pointed_at.chars().count() + 1).contains(&column), "{line}:{column}");
            }
            vec![error.to_string(), error.render(false), error.render(true), format!("{error:?}")]
        }
    };
    // A file that holds the secret itself says it in a place that nobody knows to be one.
    if !text.contains("hunter2") {
        assert!(shown.iter().all(|shown| !shown.contains("hunter2")), "a secret is shown: {shown:?}");
    }
}

/// Two sides of a comparison that hold anything, in files in `folder`: the verdict is the right one.
///
/// # Panics
///
/// This is not so.
pub fn verify(folder: &Path, data: &[u8]) {
    crate::verify::fuzzing::verify(folder, data);
}

#[cfg(test)]
mod tests {
    use fshipper_pipeline::testing::fuzz::replay;

    #[test]
    fn the_corpus_of_pipeline_files_holds() {
        replay("pipeline_file", super::pipeline_file);
    }

    #[test]
    fn the_corpus_of_comparisons_holds() {
        let folder = tempfile::tempdir().unwrap();
        replay("verify", |data| super::verify(folder.path(), data));
    }
}
