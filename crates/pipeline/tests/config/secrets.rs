//! Secrets never appear, whatever is wrong with the file or near it.

use fshipper_pipeline::config::load_str;

use crate::plugins::options;

/// Every secret in these tests contains it.
const SECRET: &str = "hunter2";

/// All that an error can say.
fn said(text: &str) -> String {
    let error = load_str("web.toml", text, &options()).unwrap_err();
    format!("{}\n{error}\n{error:?}", error.render(false))
}

fn transport(keys: &str) -> String {
    format!("[source]\ntype = \"clock\"\n\n[transport]\ntype = \"broker\"\nsubject = \"s\"\n{keys}\n")
}

#[test]
fn no_error_shows_a_secret() {
    for keys in [
        // Valid, next to a mistake on the same line.
        "tls = { password = \"hunter2\", ca = 3 }",
        "x = 1 # password = hunter2",
        "x = \"nats://admin:hunter2@broker\"",
        "servers = [3, \"nats://admin:hunter2@broker\"]",
        "servers = [3, \"admin:hunter2@broker\"]",
        "servers = [3, \"nats://hunter2@broker\"]",
        "servers = [3, \"nats://a,nats://admin:hunter2@broker\"]",
        "x = \"curl -H token:hunter2\"",
        // Of the wrong type.
        "password = { hunter = \"hunter2\" }",
        "password = [\"hunter2\"]",
        "login = [\"hunter2\"]",
        "login = { x = \"hunter2\" }",
        // Under a name that nobody knows.
        "passwrod = \"hunter2\"",
        "api_token = \"hunter2\"",
        "logn = \"hunter2\"",
        "auth = \"user:hunter2\"",
        "[transport.secrets]\nx = \"hunter2\"",
        // Where it does not belong.
        "framing = \"nats://admin:hunter2@broker\"",
        // From the environment.
        "framing = \"${BROKER_PASSWORD}\"",
        "framing = \"x-${BROKER_PASSWORD}-y\"",
        "framing = \"${BROKER_URL}\"",
        "framing = \"${NOT_SET_PASSWORD:-hunter2}\"",
        "tls = { ca = \"${BROKER_URL}\", cert = \"x\" }",
        "password = \"${BROKER_PASSWORD}\"\npartitions = \"${BROKER_PASSWORD}\"",
    ] {
        let said = said(&transport(keys));
        assert!(!said.contains(SECRET), "{said}");
    }
}

#[test]
fn a_number_is_a_secret_too() {
    let said = said(&transport("password = 24681357"));
    assert!(!said.contains("24681357"), "{said}");
    assert!(said.contains("password = ********"), "{said}");
}

#[test]
fn what_a_careless_plugin_says_is_cleaned() {
    let said = said(&transport("password = \"hu2\""));
    assert!(said.contains("invalid `password`: `***` is too short"), "{said}");
    assert!(!said.contains("hu2"), "{said}");
}

#[test]
fn a_file_that_is_no_toml_hides_its_secrets() {
    for keys in [
        "password = \"hunter2",
        "password = hunter2",
        "password \"hunter2\"",
        "password: hunter2",
        "password =\nhunter2",
        "password = \"\"\"\nhunter2",
        "password = [\n  \"x\"\n  hunter2\n]",
        "\"password\" = hunter2",
        "login = hunter2",
        "tls = { password = \"hunter2\", ca = \"x\"",
        "servers = \"nats://admin:hunter2@broker",
        "servers = admin:hunter2@broker",
        "servers = \"nats://a\", \"nats://hunter2@broker\"",
        "token = 'x'hunter2",
        "password = \"hunter2\" \"x\"",
        "password = \"hunter2\"\npassword = \"hunter2\"",
        "x = # token hunter2",
    ] {
        let said = said(&transport(keys));
        assert!(!said.contains(SECRET), "{said}");
    }
}

#[test]
fn what_would_run_shows_no_secret() {
    let text = transport("servers = [\"nats://admin:hunter2@broker:4222\", \"${BROKER_PASSWORD}@a\"]");
    let pipeline = load_str("web.toml", &text, &options()).unwrap();
    insta::assert_snapshot!(pipeline.flow, @"clock → broker (nats://***@broker:4222,***@a, subject s)");
    assert!(!pipeline.describe().contains(SECRET) && !format!("{pipeline:?}").contains(SECRET));
}

#[test]
fn secrets_as_they_are_shown() {
    let rendered = |keys: &str| load_str("web.toml", &transport(keys), &options()).unwrap_err().render(false);
    let pages = [
        rendered("password = 123456"),
        rendered("login = [\"hunter2\"]"),
        rendered("passwrod = \"hunter2\""),
        rendered("password = \"hunter2"),
        rendered("servers = [3, \"nats://admin:hunter2@broker:4222\"]"),
        rendered("framing = \"${BROKER_PASSWORD}\""),
        rendered("tls = { ca = \"${BROKER_URL}\", cert = \"x\" }"),
    ];
    insta::assert_snapshot!("secrets_as_they_are_shown", pages.join("\n———\n\n"));
}

#[test]
fn a_column_counts_the_characters_of_a_secret_before_it() {
    for secret in ["hunter2", "hünter2", "h€nter2", "h😀nter2", "żółw😀€"] {
        let key = format!("tls = {{ password = \"{secret}\", ca = 3 }}");
        let text = transport(&key);
        let error = load_str("web.toml", &text, &options()).unwrap_err();
        let column = 1 + key.chars().position(|character| character == '3').unwrap();
        let problem = error.problems().last().unwrap();
        assert_eq!(problem.line_and_column(), Some((7, column)), "{error}");
        let rendered = error.render(false);
        let lines: Vec<&str> = rendered.lines().collect();
        let shown = lines.iter().rposition(|line| line.contains("ca = 3")).expect("the line is shown");
        let place = |line: &str, marks: &[char]| line.chars().position(|shown| marks.contains(&shown));
        // The caret stands below the value.
        assert_eq!(place(lines[shown], &['3']), place(lines[shown + 1], &['▲', '┬', '─']), "{rendered}");
    }
}
