//! Every error that a user can cause in a pipeline file, as it is shown.

use fshipper_pipeline::config::{ConfigError, Environment, Options, load, load_str};

use crate::plugins::options;

fn refused(text: &str) -> ConfigError {
    load_str("web.toml", text, &options()).unwrap_err()
}

/// The rest of a pipeline whose `[source]` is looked at.
const SINK: &str = "\n[sink]\ntype = \"screen\"\n";
/// The rest of a pipeline whose `[transport]` or `[sink]` is looked at.
const SOURCE: &str = "[source]\ntype = \"clock\"\n\n";

fn source(keys: &str) -> String {
    refused(&format!("[source]\n{keys}\n{SINK}")).render(false)
}

fn transport(keys: &str) -> String {
    refused(&format!("{SOURCE}[transport]\ntype = \"broker\"\n{keys}\n")).render(false)
}

fn pipeline(keys: &str) -> String {
    refused(&format!("[pipeline]\n{keys}\n\n{SOURCE}{SINK}")).render(false)
}

fn file(text: &str) -> String {
    refused(text).render(false)
}

/// Several reports on one page.
fn page(reports: impl IntoIterator<Item = String>) -> String {
    reports.into_iter().collect::<Vec<_>>().join("\n———\n\n")
}

macro_rules! pin {
    ($($name:ident: $reports:expr;)*) => {$(
        #[test]
        fn $name() {
            insta::assert_snapshot!(stringify!($name), page($reports));
        }
    )*};
}

pin! {
    toml_syntax: [
        file("[source]\ntype = \"clock\n"),
        file("[source]\ntype = clock\n"),
        file("[source\ntype = \"clock\"\n"),
        file("[source]\ntype \"clock\"\n"),
        file("[source]\ntype =\n"),
        file("[source]\ntype = \"tail\"\ninclude = [\"/a\",\n"),
        file("[source]\ntype = \"tail\"\ninclude = \"C:\\logs\"\n"),
        file("[source]\ntype = 5s\n"),
        file("[source]\ntype = \"clock\"\n\n[sink]\ntype = \"screen\"\ntype = \"files\"\n"),
        file("[sink]\ntype = \"screen\"\n[sink]\ntype = \"files\"\n"),
        file("[source]\ntype = \"clock\"\n[source]\ntype = \"tail\"\n"),
    ];

    which_tables: [
        file(""),
        file("# nothing but a comment\n"),
        file("[pipeline]\nname = \"n\"\n"),
        file("[source]\ntype = \"clock\"\n"),
        file("[transport]\ntype = \"broker\"\nsubject = \"s\"\n"),
        file("[pipeline]\n[sink]\ntype = \"screen\"\n"),
    ];

    unknown_tables: [
        file("[sorce]\ntype = \"clock\"\n\n[sink]\ntype = \"screen\"\n"),
        file(&format!("{SOURCE}[metrics]\nport = 9\n{SINK}")),
        file(&format!("subject = \"s\"\n\n{SOURCE}{SINK}")),
        file(&format!("[[sinks]]\ntype = \"screen\"\n{SOURCE}")),
    ];

    tables_of_the_wrong_shape: [
        file(&format!("source = \"tail\"\n{SINK}")),
        file(&format!("source = []\n{SINK}")),
        file(&format!("source = [\"tail\"]\n{SINK}")),
        file(&format!("{SOURCE}[[sink]]\ntype = \"screen\"\n\n[[sink]]\ntype = \"files\"\npath = \"/x\"\n")),
        file(&format!("{SOURCE}[[pipeline]]\nname = \"n\"\n{SINK}")),
        file(&format!("pipeline = \"n\"\n{SOURCE}{SINK}")),
    ];

    types: [
        source(""),
        source("type = 3"),
        source("type = \"tial\""),
        source("type = \"syslog\""),
        source("type = \"broker\""),
        source("type = \"${KIND:-}\""),
        file(&format!("{SOURCE}[sink]\npath = \"/x\"\n")),
    ];

    unknown_keys: [
        transport("sbject = \"s\""),
        transport("subject = \"s\"\ncolour = \"red\""),
        transport("subject = \"s\"\nMax-Line = 3"),
        transport("subject = \"s\"\ntls = { ca = \"ca.pem\", crt = \"c.pem\" }"),
        file(&format!("[source]\ntype = \"clock\"\nspeed = 3\n{SINK}")),
        pipeline("nme = \"n\""),
        transport("subject = \"s\"\ncommit_interval = \"5s\""),
    ];

    missing_keys: [
        source("type = \"tail\""),
        transport(""),
        transport("subject = \"s\"\ntls = { cert = \"c.pem\" }"),
        transport("subject = \"s\"\n\n[transport.tls]\ncert = \"c.pem\""),
        file(&format!("[[source]]\ntype = \"clock\"\n\n[[source]]\ntype = \"tail\"\n{SINK}")),
        file(&format!("{SOURCE}[sink]\ntype = \"files\"\n")),
    ];

    wrong_types: [
        source("type = \"tail\"\ninclude = 3"),
        source("type = \"tail\"\ninclude = [\"/a\", 3]"),
        source("type = \"tail\"\ninclude = \"/a\"\nrotate_wait = 5"),
        source("type = \"tail\"\ninclude = \"/a\"\nmax_line_bytes = true"),
        source("type = \"tail\"\ninclude = \"/a\"\nstart_at = 1"),
        transport("subject = [\"s\"]"),
        transport("subject = \"s\"\npartitions = \"8\""),
        transport("subject = \"s\"\ntls = true"),
        transport("subject = \"s\"\ntls = [\"ca.pem\"]"),
        transport("subject = 2026-11-23"),
        pipeline("name = 1.5"),
    ];

    values_that_are_not_accepted: [
        source("type = \"tail\"\ninclude = \"/a\"\nstart_at = \"begining\""),
        source("type = \"tail\"\ninclude = \"/a\"\nstart_at = \"middle\""),
        source("type = \"tail\"\ninclude = \"/a\"\nrotate_wait = \"5 s\""),
        source("type = \"tail\"\ninclude = \"/a\"\nmax_line_bytes = \"10 mb\""),
        source("type = \"tail\"\ninclude = \"/a\"\nmax_line_bytes = -1"),
        transport("subject = \"s\"\npartitions = 300"),
        transport("subject = \"s\"\npartitions = 99999999999999999999999999999999999999999"),
    ];

    variables: [
        transport("subject = \"${SHIPPER_SUBJECT}\""),
        transport("subject = \"${SHIPPER_SUBJECT}.${SITE}\"\nservers = [\"a\", \"${ELSEWHERE}\"]"),
        transport("subject = \"a.${SUBJECT\""),
        transport("subject = \"a.${}\""),
        transport("subject = \"${SUBJECT-x}\""),
        transport("subject = \"${A:-${SUBJECT}}\""),
        transport("subject = \"\"\"\\\n   ${NOT_SET}\"\"\"\nsbject = 1"),
        source("type = \"${KIND}\"\nspeed = 3"),
    ];

    filled_in_values: [
        source("type = \"tail\"\ninclude = \"/a\"\nrotate_wait = \"${WAIT}\""),
        source("type = \"tail\"\ninclude = [\"/a\", \"${SUBJECT}/*.log\"]"),
        transport("subject = \"s\"\npartitions = \"${SUBJECT}\""),
        source("type = \"${SUBJECT}\""),
    ];

    refused_by_the_plugin: [
        source("type = \"tail\"\ninclude = \"a.log\""),
        source("type = \"tail\"\ninclude = [\n  \"/a.log\",\n  \"b.log\",\n]"),
        source("type = \"tail\"\ninclude = \"/a\"\nstart_at = \"end\""),
        source("type = \"tail\"\ninclude = \"/a\"\nmax_line_bytes = \"2MB\""),
        transport("subject = \"s\"\ntls = { ca = \"ca.der\", cert = \"c.pem\" }"),
        transport("subject = \"s\"\n\n[transport.tls]\nca = \"ca.der\"\ncert = \"c.pem\""),
        file("[transport]\ntype = \"broker\"\nsubject = \"s\"\nframing = \"line\"\n\n[sink]\ntype = \"screen\"\n"),
        file(&format!("{SOURCE}[sink]\ntype = \"files\"\npath = \"/x\"\nkeep = {{}}\n")),
    ];

    settings: [
        pipeline("name = \"\""),
        pipeline("name = \"web/edge\""),
        pipeline("name = \"..\""),
        pipeline("host = \"\""),
        pipeline("state_dir = \"~/state\""),
        pipeline("state_dir = \"\""),
        pipeline("commit_interval = \"0s\""),
        pipeline("commit_interval = \"1 hour\""),
        pipeline("commit_bytes = 0"),
        pipeline("max_batch_bytes = \"100MB\"\ndrain_timeout = \"30d\""),
    ];

    several_problems_at_once: [
        file(
            "[pipeline]\nhots = \"web1\"\ncommit_bytes = \"8 MiB\"\n\n\
             [[source]]\ntype = \"tail\"\ninclude = 3\nrotate_wait = \"5\"\n\n\
             [[source]]\ntype = \"tial\"\n\n\
             [transport]\ntype = \"broker\"\nsbject = \"${NOT_SET}\"\nframing = \"lines\"\n",
        ),
    ];

    positions_are_exact: [
        // Characters, not bytes; tabs; a long line; the end of a file without a newline.
        transport("subject = \"s\"\ntls = { ca = \"größe.der\", crt = \"c\" }"),
        source("type = \"tail\"\n\tinclude = 3"),
        source(&format!("type = \"tail\"\ninclude = [\"/{}\", 3]", "x".repeat(120))),
        file("[source]\r\ntype = \"tial\"\r\n"),
        file("[source]\ntype = \"clock\"\n[sink]\ntype ="),
        file("\u{feff}[sorce]\n"),
    ];
}

#[test]
fn what_surrounds_the_file() {
    let text = format!("{SOURCE}{SINK}");
    let with = |file: &str, variables: Environment| {
        let options = Options { state_dir: None, once: true, environment: variables };
        load_str(file, &text, &options).unwrap_err().render(false)
    };
    let long = "h".repeat(300);
    insta::assert_snapshot!(
        "what_surrounds_the_file",
        page([
            with("web.toml", Environment::from([("HOSTNAME", "web1")])),
            with(".toml", Environment::from([("HOSTNAME", "web1"), ("HOME", "/root")])),
            with("web.toml", Environment::from([("HOSTNAME", long.as_str()), ("HOME", "/root")])),
            with("web.toml", Environment::from([("HOSTNAME", "web1"), ("HOME", "/root")])),
        ])
    );
}

#[test]
fn files_that_cannot_be_read() {
    let directory = tempfile::tempdir().unwrap();
    let shown = |name: &str, bytes: Option<&[u8]>| {
        let file = directory.path().join(name);
        if let Some(bytes) = bytes {
            std::fs::write(&file, bytes).unwrap();
        }
        let rendered = load(&file, &options()).unwrap_err().render(false);
        // The width of the directory's name must not decide where lines break.
        let words = rendered.split_whitespace().collect::<Vec<_>>().join(" ");
        match rendered.contains('╭') {
            true => rendered.replace(&format!("{}/", directory.path().display()), ""),
            false => words.replace(&format!("{}/", directory.path().display()), "") + "\n",
        }
    };
    std::fs::create_dir(directory.path().join("pipelines")).unwrap();
    insta::assert_snapshot!(
        "files_that_cannot_be_read",
        page([
            shown("missing.toml", None),
            shown("pipelines", None),
            shown("huge.log", Some(&vec![b'#'; (1 << 20) + 1])),
            shown("latin1.toml", Some(b"[source]\ntype = \"gr\xfc\xdfe\" # password = x\n")),
        ])
    );
}

#[test]
fn the_text_form_has_a_line_for_each_problem() {
    let error = refused("[source]\ntype = \"tial\"\n\n[sink]\ntype = \"files\"\npth = \"/x\"\n");
    insta::assert_snapshot!(error.to_string(), @r"
    web.toml:2:8: unknown source `tial`
    web.toml:6:1: unknown key `pth` in the `files` sink
    ");
    let problems = error.problems();
    assert_eq!(problems[1].line_and_column(), Some((6, 1)));
    assert_eq!(problems[1].remedy(), Some("did you mean `path`?"));
}

#[test]
fn colour_is_left_out_unless_wanted() {
    let error = refused("[sorce]\n");
    assert!(!error.render(false).contains('\u{1b}'));
    assert!(error.render(true).contains('\u{1b}'));
}

#[test]
fn a_report_has_an_end() {
    let keys: String = (0..1_000).map(|number| format!("unknown{number} = 1\n")).collect();
    assert_eq!(refused(&format!("{SOURCE}[sink]\ntype = \"screen\"\n{keys}")).problems().len(), 50);
}
