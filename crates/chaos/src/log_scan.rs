//! What the processes said: [`LogScan`].

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::Value;

/// What the hop that writes files calls itself when it reports.
const WRITTEN: &str = "written";

/// The logs of all processes, read for what must not be in them.
#[derive(Debug, Default)]
pub(crate) struct LogScan {
    /// What a working pipeline never says.
    pub(crate) failures: Vec<String>,
    /// The bytes that consumers left out because they had them; only those that ended in order could tell.
    pub(crate) duplicate_bytes: u64,
    pub(crate) warnings: u64,
    pub(crate) errors: u64,
}

impl LogScan {
    /// Reads what processes that ran in `folder` wrote to standard error.
    pub(crate) fn folder(&mut self, folder: &Path) -> Result<()> {
        let entries = fs::read_dir(folder).with_context(|| format!("cannot list {folder:?}"))?;
        for entry in entries {
            let path = entry.with_context(|| format!("cannot list {folder:?}"))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if !name.starts_with("stderr-") {
                continue;
            }
            let text = fs::read(&path).with_context(|| format!("cannot read {path:?}"))?;
            self.text(&path.display().to_string(), &String::from_utf8_lossy(&text));
        }
        Ok(())
    }

    fn text(&mut self, file: &str, text: &str) {
        for line in text.lines() {
            if line.contains("panicked at") {
                self.failures.push(format!("a panic in {file}: {line}"));
            }
            // What is no JSON was cut by a kill, or said before the log began.
            let Ok(Value::Object(fields)) = serde_json::from_str(line) else { continue };
            let string = |key: &str| fields.get(key).and_then(Value::as_str).unwrap_or_default();
            let number = |key: &str| fields.get(key).and_then(Value::as_u64).unwrap_or(0);
            match string("level") {
                "WARN" => self.warnings += 1,
                "ERROR" => self.errors += 1,
                _ => {}
            }
            let message = string("message");
            if message.starts_with("lost ") || number("lost_bytes") > 0 {
                self.failures.push(format!("a loss in {file}: {line}"));
            }
            if message == WRITTEN {
                self.duplicate_bytes += number("duplicate_bytes");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(text: &str) -> LogScan {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("stderr-0001"), text).unwrap();
        fs::write(folder.path().join("stdout-0001"), "thread 'main' panicked at x").unwrap();
        let mut scan = LogScan::default();
        scan.folder(folder.path()).unwrap();
        scan
    }

    #[test]
    fn counts_what_is_said_and_adds_up_duplicates() {
        let scan = scan(concat!(
            r#"{"level":"INFO","message":"started: x"}"#,
            "\n",
            r#"{"level":"WARN","message":"opening again"}"#,
            "\n",
            r#"{"level":"ERROR","message":"trying again"}"#,
            "\n",
            r#"{"level":"INFO","message":"written","duplicate_bytes":5,"lost_bytes":0}"#,
            "\n",
            r#"{"level":"INFO","message":"sent","duplicate_bytes":7,"lost_bytes":0}"#,
            "\n",
            r#"{"level":"INFO","mess"#,
        ));
        assert_eq!((scan.warnings, scan.errors, scan.duplicate_bytes), (1, 1, 5));
        assert!(scan.failures.is_empty());
    }

    #[test]
    fn finds_panics_and_losses() {
        for text in [
            "thread 'main' panicked at src/x.rs:1:1:",
            r#"{"level":"ERROR","message":"lost 5 bytes of `a` at offset 3: deleted"}"#,
            r#"{"level":"INFO","message":"sent","lost_bytes":5}"#,
        ] {
            assert_eq!(scan(text).failures.len(), 1, "{text}");
        }
    }
}
