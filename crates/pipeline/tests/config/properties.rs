//! Whatever the text, the answer is a pipeline or an error that can be shown.

use fshipper_pipeline::config::load_str;
use proptest::prelude::*;

use crate::plugins::options;

/// What starts a command to a terminal.
const ESCAPE: char = '\u{1b}';

/// Text that is close to a pipeline file.
fn nearly_toml() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "[source]",
        "[[source]]",
        "[transport]",
        "[sink]",
        "[pipeline]",
        "[transport.tls]",
        "type",
        "include",
        "password",
        "servers",
        "subject",
        "ca",
        "name",
        ".",
        " = ",
        "=",
        "\n",
        "\r\n",
        "\t",
        ",",
        "[",
        "]",
        "{",
        "}",
        "\"",
        "'",
        "\"\"\"",
        "'''",
        "\"tail\"",
        "\"broker\"",
        "'screen'",
        "\"x\\u00e9\"",
        "${SUBJECT}",
        "${NOT_SET}",
        "${",
        "$$",
        "nats://u:p@h",
        "@",
        "# ",
        "3",
        "1.5",
        "true",
        "2026-11-23",
        "ä",
        "\u{1f600}",
        "\u{1b}[31m",
        "\u{feff}",
        "\u{0}",
    ]);
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

fn answer_can_be_shown(text: &str) -> Result<(), TestCaseError> {
    match load_str("any.toml", text, &options()) {
        Ok(pipeline) => prop_assert!(!pipeline.describe().is_empty()),
        Err(error) => {
            prop_assert!(!error.problems().is_empty());
            prop_assert!(!error.render(false).contains(ESCAPE));
            prop_assert!(!error.render(false).contains("Failed to read"));
            prop_assert!(!error.to_string().is_empty());
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_answered(text in any::<String>()) {
        answer_can_be_shown(&text)?;
    }

    #[test]
    fn text_close_to_a_pipeline_is_answered(text in nearly_toml()) {
        answer_can_be_shown(&text)?;
    }

    #[test]
    fn a_secret_value_is_never_shown(
        before in nearly_toml(),
        secret in "[a-z]{8,12}Z[0-9]{4}",
        quote in prop::sample::select(vec!["\"", "'", "\"\"\"", "'''", ""]),
        after in nearly_toml(),
    ) {
        let text = format!("{before}\npassword = {quote}{secret}{quote}{after}\n");
        if let Err(error) = load_str("any.toml", &text, &options()) {
            let said = format!("{}{error}{error:?}", error.render(false));
            prop_assert!(!said.contains(&secret), "{}", said);
        }
    }
}

#[test]
fn deep_nesting_is_answered() {
    for (open, close) in [("[", "]"), ("{ x = ", "}")] {
        let text = format!("[source]\ntype = {}1{}\n", open.repeat(10_000), close.repeat(10_000));
        assert!(load_str("deep.toml", &text, &options()).is_err());
    }
    assert!(load_str("deep.toml", &format!("{}x = 1\n", "x.".repeat(10_000)), &options()).is_err());
}
