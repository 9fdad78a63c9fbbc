//! What users see when a pipeline file is wrong: every check of every built-in plugin, as it is printed.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use crate::support::Scene;

const SOURCE: &str = "[source]\ntype = 'file_tail'\ninclude = '/var/log/*.log'\n";
const TRANSPORT: &str = "[transport]\ntype = 'nats'\nsubject = 'shipper'\n";
const SINK: &str = "[sink]\ntype = 'rotating_file'\npath = '/srv/logs/{host}/{file}'\n";

/// What stands in the environment, by name.
type Variables<'v> = &'v [(&'v str, &'v [u8])];

/// Checks all files at once, as one command; each must be refused. What is printed for all of them.
#[track_caller]
fn complaints(files: impl IntoIterator<Item = String>) -> String {
    complaints_in(&Scene::new(), &[], files)
}

/// As [`complaints`], where the files of the scene and these variables are there.
#[track_caller]
fn complaints_in(scene: &Scene, variables: Variables<'_>, files: impl IntoIterator<Item = String>) -> String {
    let mut names = Vec::new();
    for text in files {
        let name = format!("{:02}.toml", names.len() + 1);
        scene.write(&name, text);
        names.push(name);
    }
    let check = scene.fshipper().argument("check").arguments(&names);
    let check =
        variables.iter().fold(check, |check, (name, value)| check.variable(*name, OsStr::from_bytes(value)));
    let finished = check.finish().expect_code(2);
    assert!(finished.stdout.is_empty(), "a file that passes is printed: {}", finished.stdout.escape_ascii());
    for name in &names {
        assert!(finished.stderr.contains(name.as_str()), "{name} is not refused:\n{}", finished.stderr);
    }
    finished.stderr
}

/// A table of each of these keys, beside the tables that make it a pipeline.
fn each(table: &str, beside: &str, cases: &[&str]) -> Vec<String> {
    cases.iter().map(|keys| format!("{beside}\n{table}{keys}\n")).collect()
}

/// A page on which whatever is as long as `long` is short.
fn shortened(page: &str, long: &str) -> String {
    page.replace(long, "x…").replace(&"─".repeat(long.len()), "─…")
}

#[test]
fn of_the_file_itself() {
    let files = [
        "",
        "[source\n",
        "[source]\ntype = 'file_tail'\n",
        "[sorce]\ntype = 'stdin'\n[sink]\ntype = 'null'\n",
        "[source]\ninclude = '/var/log/*.log'\n[sink]\ntype = 'null'\n",
        "[source]\ntype = 'file_tial'\n[sink]\ntype = 'null'\n",
        "[source]\ntype = 'stdin'\n[sink]\ntype = 'stdin'\n",
        "[source]\ntype = 'stdin'\n",
        "[sink]\ntype = 'null'\n",
        "[source]\ntype = 'stdin'\n[sink]\ntype = 'null'\n[[sink]]\ntype = 'null'\n",
        "[source]\ntype = 'file_tail'\ninclude = '${NOT_SET}/*.log'\n[sink]\ntype = 'null'\n",
        "[source]\ntype = 'file_tail'\ninclude = '${NOT SET'\n[sink]\ntype = 'null'\n",
    ];
    insta::assert_snapshot!(complaints(files.map(str::to_owned)));
}

#[test]
fn of_the_pipeline_table() {
    let beside = format!("{SOURCE}{SINK}");
    let cases = [
        "nmae = 'x'",
        "name = ''",
        "name = 'a/b'",
        "name = '..'",
        "name = 7",
        "name = \"a\\nb\"",
        "host = ''",
        "host = \"a\\nb\"",
        "state_dir = ''",
        "state_dir = '~'",
        "state_dir = '~/state'",
        "commit_interval = '1 second'",
        "commit_interval = 5",
        "commit_interval = '0s'",
        "commit_bytes = '8 mb'",
        "commit_bytes = 0",
        "max_batch_bytes = -1",
        "max_batch_bytes = 0",
        "max_batch_bytes = '1GB'",
        "drain_timeout = '5min'",
        "drain_timeout = '2d'",
    ];
    insta::assert_snapshot!(complaints(each("[pipeline]\n", &beside, &cases)));

    let long = "x".repeat(256);
    let cases = [format!("name = '{long}'"), format!("host = '{long}'")];
    let printed = complaints(each("[pipeline]\n", &beside, &cases.each_ref().map(String::as_str)));
    insta::assert_snapshot!("of_the_pipeline_table_too_long", shortened(&printed, &long));
}

#[test]
fn of_the_nats_transport() {
    let cases = [
        "servres = 'localhost'",
        "servers = 4222",
        "servers = []",
        "servers = ''",
        "servers = ['nats://localhost:4222', 'http://localhost']",
        "servers = 'nats://localhost:port'",
        "servers = 'nats://alice:secret-password@localhost:port'",
        "partitions = 0",
        "partitions = 5000",
        "partitions = 'many'",
        "read_partitions = [0]",
        "partitions = 2\nread_partitions = []",
        "partitions = 2\nread_partitions = [0, 2]",
        "partitions = 2\nread_partitions = [1, 1]",
        "framing = 'lines'",
        "compression = 'gzip'",
        "compression = 'zstd'\nframing = 'line'",
        "user = 'alice'",
        "password = 'secret-password'",
        "user = 'alice'\npassword = 'secret-password'\ntoken = 'secret-token'",
        "nkey = 'SUAsecret'\ncreds = '/etc/fshipper/nats.creds'",
        "tls = { cert = '/etc/fshipper/cert.pem' }",
        "tls = { key = '/etc/fshipper/key.pem' }",
        "tls = { sa = '/etc/fshipper/ca.pem' }",
        "servers = ['nats://localhost', 'wss://localhost']",
        "servers = ['alice:secret-password@one', 'bob:secret-password@two']",
        "servers = 'alice:secret-password@one'\ntoken = 'secret-token'",
        "stream = 'LOGS'",
        "stream = {}",
        "stream = { name = '' }",
        "stream = { name = 'my.logs' }",
        "stream = { name = 'LOGS', cretae = true }",
        "stream = { name = 'LOGS', storage = 'tape' }",
        "stream = { name = 'LOGS', replicas = 9 }",
        "stream = { name = 'LOGS', max_age = '0s' }",
        "stream = { name = 'LOGS', max_age = '1 week' }",
        "stream = { name = 'LOGS', max_bytes = 0 }",
        "stream = { name = 'LOGS', max_bytes = '10gb' }",
    ];
    let printed = complaints(each(TRANSPORT, SINK, &cases));
    assert!(!printed.contains("secret"), "a secret is shown:\n{printed}");
    insta::assert_snapshot!(printed);
}

#[test]
fn of_the_subject() {
    let cases = [
        "",
        "subject = ''",
        "subject = 'logs.'",
        "subject = 'logs..web'",
        "subject = 'logs.*'",
        "subject = 'logs.>'",
        "subject = 'my logs'",
        "subject = '$JS.API'",
        "subject = '_INBOX.x'",
    ];
    insta::assert_snapshot!(complaints(each("[transport]\ntype = 'nats'\n", SOURCE, &cases)));

    let long = "x".repeat(1_025);
    let printed = complaints([format!("{SOURCE}\n[transport]\ntype = 'nats'\nsubject = '{long}'\n")]);
    insta::assert_snapshot!("of_the_subject_too_long", shortened(&printed, &long));
}

/// The files that a table names, each missing or not what it should be.
#[test]
fn of_the_files_of_the_nats_transport() {
    let scene = Scene::new();
    scene.write("empty", "");
    scene.write(
        "jwt-only.creds",
        "-----BEGIN NATS USER JWT-----\nsecret-jwt\n------END NATS USER JWT------\n",
    );
    let damaged = "-----BEGIN NATS USER JWT-----\nsecret-jwt\n------END NATS USER JWT------\n\
                   -----BEGIN USER NKEY SEED-----\nSUsecret-seed\n------END USER NKEY SEED------\n";
    scene.write("damaged.creds", damaged);
    scene.write("nats/context/damaged.json", r#"{ "token": secret-token }"#);
    scene.write("nats/context/proxied.json", r#"{ "socks_proxy": "socks5://localhost" }"#);
    scene.write("nats/context/nowhere.json", r#"{ "url": "http://localhost" }"#);
    scene.write("nats/context/no-creds.json", r#"{ "creds": "absent.creds" }"#);
    let cases = [
        "creds = 'absent.creds'",
        "creds = 'empty'",
        "creds = 'jwt-only.creds'",
        "creds = 'damaged.creds'",
        "nkey = 'secret-and-absent'",
        "nkey = 'empty'",
        "tls = { ca = 'absent.pem' }",
        "tls = { cert = 'absent.pem', key = 'empty' }",
        "context = ''",
        "context = '../prod'",
        "context = 'absent'",
        "context = 'damaged'",
        "context = 'proxied'",
        "context = 'nowhere'",
        "context = 'no-creds'",
    ];
    let printed = complaints_in(&scene, &[("XDG_CONFIG_HOME", b".")], each(TRANSPORT, SINK, &cases));
    assert!(!printed.contains("secret"), "a secret is shown:\n{printed}");
    insta::assert_snapshot!(printed);
}

/// What the environment fills in is checked as if it stood in the table, and the message names the variable.
#[test]
fn of_the_environment_of_the_nats_transport() {
    let cases: [[(&str, &[u8]); 1]; 9] = [
        [("NATS_URL", b"http://localhost")],
        [("NATS_URL", b",")],
        [("NATS_URL", b"nats://one,ws://two")],
        [("NATS_URL", b"alice:secret-password@one,bob:secret-password@two")],
        [("NATS_URL", b"alice:secret-password@localhost:port")],
        [("NATS_CREDS", b"absent.creds")],
        [("NATS_CA", b"absent.pem")],
        [("NATS_CERTIFICATE", b"absent.pem")],
        [("NATS_KEY", b"absent.pem")],
    ];
    let file = || [format!("{SINK}{TRANSPORT}")];
    let printed = cases.map(|variables| complaints_in(&Scene::new(), &variables, file())).join("———\n");
    assert!(!printed.contains("secret"), "a secret is shown:\n{printed}");
    insta::assert_snapshot!(printed);
}

/// What a pipeline needs of the environment, where it has none, or none that is text.
#[test]
fn of_the_environment() {
    let cases: [(Variables<'_>, &str); 5] = [
        (
            &[("SITE", b"\xff")],
            "[source]\ntype = 'stdin'\n[sink]\ntype = 'rotating_file'\npath = '${SITE}'\n",
        ),
        (&[("HOSTNAME", b"\xff")], "[source]\ntype = 'stdin'\n[sink]\ntype = 'null'\n"),
        (&[("HOSTNAME", b"a\nb")], "[source]\ntype = 'stdin'\n[sink]\ntype = 'null'\n"),
        (&[("HOME", b"")], "[source]\ntype = 'stdin'\n[sink]\ntype = 'null'\n"),
        (
            &[("HOME", b"")],
            "[pipeline]\nstate_dir = 'state'\n[source]\ntype = 'stdin'\n[transport]\ntype = 'nats'\nsubject = 's'\ncontext = 'prod'\n",
        ),
    ];
    let printed = cases.map(|(variables, file)| complaints_in(&Scene::new(), variables, [file.to_owned()]));
    insta::assert_snapshot!(printed.join("———\n"));
}

#[test]
fn of_two_files_that_cannot_go_together() {
    let scene = Scene::new();
    let file = |name: &str, sink: &str| {
        format!("[pipeline]\nname = '{name}'\n[source]\ntype = 'stdin'\n[sink]\ntype = '{sink}'\n")
    };
    scene.write("one.toml", file("one", "null"));
    scene.write("same.toml", file("one", "null"));
    insta::assert_snapshot!(scene.run(&["one.toml", "same.toml"]).finish().expect_code(2).stderr);
}

#[test]
fn of_an_end_that_never_comes() {
    let scene = Scene::new();
    scene.write("consumer.toml", format!("{TRANSPORT}{SINK}"));
    insta::assert_snapshot!(scene.run(&["--once", "consumer.toml"]).finish().expect_code(2).stderr);
}

#[test]
fn of_the_rotating_file_sink() {
    let cases = [
        "",
        "path = ''",
        "path = '/srv/logs/'",
        "path = '/'",
        "path = \"/srv/a\\u0000b\"",
        "path = '/srv/{hots}/{file}'",
        "path = '/srv/{origin}'",
        "path = '/srv/{host'",
        "path = '/srv/host}'",
        "path = '/srv/{host}/../{file}'",
        "path = '/srv/{host}.%Q'",
        "path = '/srv/{host}.%c'",
        "path = '/srv/{host}.%H'",
        "path = '/srv/{host}.%'",
        "path = '/srv/{host}.%b'",
        "path = '/srv/.f{host}'",
        "path = '/srv/{host}{file}{path}{host}{file}{path}{host}{file}{path}'",
        "path = '/srv/{host}/.fshipper'",
        "path = '/srv/{host}.gz'",
        "path = '/srv/log'\ndate_suffix = 'x'",
        "path = '/srv/log'\ndate_suffix = '/%Y'",
        "path = '/srv/log.%Y%m%d'\nrotate = { every = '1h' }",
        "path = '/srv/log'\nrotate = { every = '0s' }",
        "path = '/srv/log'\nrotate = { every = '7h' }",
        "path = '/srv/log'\nrotate = { every = '400000d' }",
        "path = '/srv/log'\nrotate = { max_bytes = 0 }",
        "path = '/srv/log'\nrotate = { size = '1GiB' }",
        "path = '/srv/log'\nkeep = { age = '0s' }",
        "path = '/srv/log'\nkeep = { files = 0 }",
        "path = '/srv/log'\nkeep = { files = -1 }",
        "path = '/srv/log'\nkeep = { bytes = 0 }",
        "path = '/srv/log'\nkeep = { bytes = 'much' }",
        "path = '/srv/log'\nkeep = { days = 7 }",
        "path = '/srv/log'\ncompress = 'zip'",
        "path = '/srv/log'\ntimezone = 'Mars/Olympus'",
        "path = '/srv/log'\nmode = '0999'",
        "path = '/srv/log'\nmode = '0440'",
        "path = '/srv/log'\nmode = 640",
        "path = '/srv/log'\npaht = '/srv/log'",
    ];
    insta::assert_snapshot!(complaints(each("[sink]\ntype = 'rotating_file'\n", SOURCE, &cases)));
}

#[test]
fn of_the_file_tail_source() {
    let cases = [
        "",
        "include = []",
        "include = ''",
        "include = 5",
        "include = '/var/log/'",
        "include = \"/var/\\u0000.log\"",
        "include = ['/var/log/*.log', '/var/[log']",
        "include = '/var/log/*.log'\nexclude = '{a,b'",
        "include = '/var/log/*.log'\nstart_at = 'middle'",
        "include = '/var/log/*.log'\nmax_line_bytes = 0",
        "include = '/var/log/*.log'\nmax_line_bytes = '2MB'",
        "include = '/var/log/*.log'\nrotate_wait = '5'",
        "include = '/var/log/*.log'\nignore_older = '1 week'",
        "include = '/var/log/*.log'\ninlcude = '/var/log/*'",
    ];
    insta::assert_snapshot!(complaints(each("[source]\ntype = 'file_tail'\n", SINK, &cases)));
}

#[test]
fn of_the_plugins_without_keys() {
    let files = [
        format!("{SOURCE}[sink]\ntype = 'stdout'\nbuffer = 1\n"),
        format!("{SOURCE}[sink]\ntype = 'null'\npath = '/dev/null'\n"),
        format!("{SOURCE}[transport]\ntype = 'memory'\nsize = 1\n{SINK}"),
        format!("{SOURCE}[transport]\ntype = 'memory'\n"),
        format!("[transport]\ntype = 'memory'\n{SINK}"),
    ];
    insta::assert_snapshot!(complaints(files));
}
