//! What is accepted, and what it becomes.

use std::path::Path;
use std::time::Duration;

use fshipper_pipeline::Ends;
use fshipper_pipeline::config::{Environment, Options, Pipeline, load, load_str};

use crate::plugins::options;

fn accepted(text: &str) -> Pipeline {
    load_str("web.toml", text, &options()).unwrap()
}

#[test]
fn the_tables_decide_what_a_pipeline_is() {
    const SOURCE: &str = "[source]\ntype = 'clock'\n";
    const TRANSPORT: &str = "[transport]\ntype = 'broker'\nsubject = 's'\n";
    const SINK: &str = "[sink]\ntype = 'screen'\n";
    let shape = |tables: &[&str]| {
        let parts = accepted(&tables.concat()).parts;
        (parts.sources.len(), parts.transport.map(|(_, ends)| ends), parts.sink.is_some())
    };
    assert_eq!(shape(&[SOURCE, TRANSPORT]), (1, Some(Ends::Sender), false));
    assert_eq!(shape(&[TRANSPORT, SINK]), (0, Some(Ends::Receiver), true));
    assert_eq!(shape(&[SOURCE, SINK]), (1, None, true));
    assert_eq!(shape(&[SINK, TRANSPORT, SOURCE]), (1, Some(Ends::Both), true));
}

#[test]
fn sources_of_one_type_open_as_one() {
    let pipeline = accepted(
        "[[source]]\ntype = 'tail'\ninclude = '/b'\n\
         [[source]]\ntype = 'clock'\n\
         [[source]]\ntype = 'tail'\ninclude = ['/a', '/c']\n\
         [sink]\ntype = 'screen'\n",
    );
    assert_eq!(pipeline.parts.sources.len(), 2);
    assert_eq!(pipeline.flow, "tail (/b, /a, /c) + clock → screen");
}

#[test]
fn says_what_would_run() {
    let pipeline = accepted(
        "[source]\ntype = 'tail'\ninclude = '/var/log/*.log'\n\
         [transport]\ntype = 'broker'\nservers = 'a:4222'\nsubject = '${SUBJECT}'\n\
         [sink]\ntype = 'files'\npath = '/srv/{host}'\n",
    );
    insta::assert_snapshot!(pipeline.describe(), @r"
    pipeline web, from web.toml
      host       web1
      state dir  /var/lib/fshipper/web
      tail (/var/log/*.log) → broker (a:4222, subject shipper) → files (/srv/{host})
    ");
}

#[test]
fn all_settings_are_read() {
    let settings = accepted(
        "[pipeline]\nname = 'n'\nhost = 'h'\nstate_dir = '/s'\ncommit_interval = '250ms'\ncommit_bytes = '64KiB'\n\
         max_batch_bytes = 4096\ndrain_timeout = '0s'\n\
         [source]\ntype = 'clock'\n[sink]\ntype = 'screen'\n",
    )
    .settings;
    assert_eq!((settings.name.as_str(), settings.host.as_str()), ("n", "h"));
    assert_eq!(settings.state_dir, Path::new("/s"));
    assert_eq!(settings.commit_interval, Duration::from_millis(250));
    assert_eq!((settings.commit_bytes, settings.max_batch_bytes), (65_536, 4_096));
    assert_eq!(settings.drain_timeout, Duration::ZERO);
}

#[test]
fn strings_are_filled_in_and_comments_are_not_looked_at() {
    let pipeline = accepted(
        "# ${NOT_SET} and ${\n\
         source = { type = '${KIND:-clock}' } # ${NOT_SET}\n\
         [sink]\ntype = 'files'\npath = \"/srv/$$/${SUBJECT}/$1\"\n",
    );
    assert_eq!(pipeline.flow, "clock → files (/srv/$/shipper/$1)");
}

#[test]
fn a_file_is_loaded_with_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("edge.toml");
    std::fs::write(&file, "\u{feff}[source]\r\ntype = 'clock'\r\n[sink]\r\ntype = 'screen'\r\n").unwrap();
    let pipeline = load(&file, &options()).unwrap();
    assert_eq!(pipeline.settings.name, "edge");
    assert_eq!(pipeline.file, file);
}

#[test]
fn the_command_line_goes_before_the_file() {
    let environment = Environment::from([("HOSTNAME", "h")]);
    let options = Options { state_dir: Some("/c".into()), once: true, environment };
    let text =
        "[pipeline]\nstate_dir = '/s'\n[source]\ntype = 'clock'\n[sink]\ntype = 'files'\npath = '/x'\n";
    let settings = load_str("a.toml", text, &options).unwrap().settings;
    assert_eq!(settings.state_dir, Path::new("/c"));
    assert!(settings.once);
}
