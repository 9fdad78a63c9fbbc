//! What users see when a pipeline file is wrong: every check of every built-in plugin, as it is printed.

use crate::support::Scene;

const SOURCE: &str = "[source]\ntype = 'file_tail'\ninclude = '/var/log/*.log'\n";
const TRANSPORT: &str = "[transport]\ntype = 'nats'\nsubject = 'shipper'\n";
const SINK: &str = "[sink]\ntype = 'rotating_file'\npath = '/srv/logs/{host}/{file}'\n";

/// Checks all files at once, as one command; each must be refused. What is printed for all of them.
#[track_caller]
fn complaints(files: impl IntoIterator<Item = String>) -> String {
    let scene = Scene::new();
    let mut names = Vec::new();
    for text in files {
        let name = format!("{:02}.toml", names.len() + 1);
        scene.write(&name, text);
        names.push(name);
    }
    let finished = scene.fshipper().argument("check").arguments(&names).finish().expect_code(2);
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
        "host = ''",
        "commit_interval = '1 second'",
        "commit_interval = 5",
        "commit_interval = '0s'",
        "commit_bytes = '8 mb'",
        "commit_bytes = 0",
        "max_batch_bytes = -1",
        "max_batch_bytes = 0",
        "max_batch_bytes = '1GB'",
        "drain_timeout = '5min'",
    ];
    insta::assert_snapshot!(complaints(each("[pipeline]\n", &beside, &cases)));
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

    let endless = format!("{SOURCE}\n[transport]\ntype = 'nats'\nsubject = '{}'\n", "s".repeat(1_025));
    let printed = complaints([endless]);
    assert!(printed.contains("1025 bytes long, and 1024 are allowed"), "{printed}");
}

#[test]
fn of_the_rotating_file_sink() {
    let cases = [
        "",
        "path = ''",
        "path = '/srv/logs/'",
        "path = '/srv/{hots}/{file}'",
        "path = '/srv/{origin}'",
        "path = '/srv/{host'",
        "path = '/srv/host}'",
        "path = '/srv/{host}/../{file}'",
        "path = '/srv/{host}.%Q'",
        "path = '/srv/{host}.%c'",
        "path = '/srv/{host}.%H'",
        "path = '/srv/{host}.%'",
        "path = '/srv/{host}/.fshipper'",
        "path = '/srv/{host}.gz'",
        "path = '/srv/log.%Y%m%d'\ndate_suffix = '-%Y'",
        "path = '/srv/log'\ndate_suffix = 'x'",
        "path = '/srv/log'\ndate_suffix = '/%Y'",
        "path = '/srv/log.%Y%m%d'\nrotate = { every = '1h' }",
        "path = '/srv/log'\nrotate = { every = '0s' }",
        "path = '/srv/log'\nrotate = { every = '7h' }",
        "path = '/srv/log'\nrotate = { max_bytes = 0 }",
        "path = '/srv/log'\nrotate = { size = '1GiB' }",
        "path = '/srv/log'\nkeep = { age = '0s' }",
        "path = '/srv/log'\nkeep = { files = 0 }",
        "path = '/srv/log'\nkeep = { files = -1 }",
        "path = '/srv/log'\nkeep = { bytes = 'much' }",
        "path = '/srv/log'\nkeep = { days = 7 }",
        "path = '/srv/log'\ncompress = 'zip'",
        "path = '/srv/log'\ntimezone = 'Mars/Olympus'",
        "path = '/srv/log'\nmode = '0999'",
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
        format!("[source]\ntype = 'stdin'\nfile = 'x'\n{SINK}"),
        format!("{SOURCE}[sink]\ntype = 'stdout'\nbuffer = 1\n"),
        format!("{SOURCE}[sink]\ntype = 'null'\npath = '/dev/null'\n"),
        format!("{SOURCE}[transport]\ntype = 'memory'\nsize = 1\n{SINK}"),
        format!("{SOURCE}[transport]\ntype = 'memory'\n"),
        format!("[transport]\ntype = 'memory'\n{SINK}"),
    ];
    insta::assert_snapshot!(complaints(files));
}
