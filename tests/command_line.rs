//! Commands, exit codes and messages.

use std::fs::{self, Permissions};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use fshipper_testing::{DEADLINE, NatsServer, Running, wait_until};

use crate::support::{Pipeline, Scene, length};
use crate::surroundings::{in_shell, works};

fn local(scene: &Scene, name: &str) {
    Pipeline::new().tail("*.log").rotating_file("out/{file}").write(scene, name);
    scene.write("logs/app.log", "one\n");
}

#[test]
fn version_and_help_are_printed() {
    let scene = Scene::new();
    let version = scene.fshipper().argument("--version").finish().expect_code(0);
    assert_eq!(
        String::from_utf8_lossy(&version.stdout),
        concat!("fshipper ", env!("CARGO_PKG_VERSION"), "\n")
    );
    let help = scene.fshipper().argument("--help").finish().expect_code(0);
    let help = String::from_utf8(help.stdout).unwrap();
    for command in ["run", "check", "plugins"] {
        assert!(help.contains(command), "`{command}` is missing in:\n{help}");
    }
    let help = scene.fshipper().arguments(["run", "--help"]).finish().expect_code(0);
    let help = String::from_utf8(help.stdout).unwrap();
    for option in ["--once", "--state-dir", "--health", "--log-format", "--verbose", "--quiet"] {
        assert!(help.contains(option), "`{option}` is missing in:\n{help}");
    }
}

#[test]
fn plugins_lists_everything_built_in() {
    let scene = Scene::new();
    let finished = scene.fshipper().argument("plugins").finish().expect_code(0);
    let listed = String::from_utf8(finished.stdout).unwrap();
    for name in ["file_tail", "stdin", "nats", "memory", "rotating_file", "stdout", "null"] {
        assert!(
            listed.lines().any(|line| line.split_whitespace().any(|word| word == name)),
            "{name}:\n{listed}"
        );
    }
}

#[test]
fn wrong_usage_exits_2() {
    let scene = Scene::new();
    for arguments in [&[][..], &["run"], &["start"], &["run", "--twice", "x.toml"], &["run", "absent.toml"]] {
        let finished = scene.fshipper().arguments(arguments).finish().expect_code(2);
        assert!(
            finished.stdout.is_empty() && !finished.stderr.is_empty(),
            "{arguments:?}: {}",
            finished.stderr
        );
    }
}

#[test]
fn an_error_in_a_pipeline_file_exits_2_before_anything_starts() {
    let scene = Scene::new();
    local(&scene, "good.toml");
    Pipeline::new().tail("*.log").rotating_file("out/{fiel}").write(&scene, "bad.toml");
    let finished = scene.run(&["--once", "good.toml", "bad.toml"]).finish().expect_code(2);
    assert!(finished.stderr.contains("bad.toml"), "{}", finished.stderr);
    assert!(!scene.path("out").is_dir(), "the good pipeline ran all the same");
}

#[test]
fn check_touches_nothing() {
    let scene = Scene::new();
    local(&scene, "local.toml");
    let finished = scene.fshipper().arguments(["check", "local.toml"]).finish().expect_code(0);
    let printed = String::from_utf8(finished.stdout).unwrap();
    for word in ["local", "file_tail", "rotating_file"] {
        assert!(printed.contains(word), "`{word}` is missing in:\n{printed}");
    }
    assert!(!scene.path("out").is_dir());
    assert!(!scene.path(".local").is_dir(), "a state directory was made");
}

#[test]
fn a_command_that_cannot_print_fails() {
    let scene = Scene::new();
    local(&scene, "local.toml");
    for arguments in [&["check", "local.toml"][..], &["check", "--connect", "local.toml"], &["plugins"]] {
        let finished = scene.fshipper().arguments(arguments).stdout("/dev/full").finish().expect_code(1);
        assert_eq!(finished.stderr.matches("cannot write to stdout").count(), 1, "{}", finished.stderr);
    }
}

#[test]
fn a_second_instance_with_the_same_state_is_refused_and_names_the_first() {
    let scene = Scene::new();
    local(&scene, "local.toml");
    let first = scene.run(&["local.toml"]).start();
    wait_until(DEADLINE, "the first one ships", || length(&scene.path("out/app.log")) > 0);
    let second = scene.run(&["local.toml"]).finish().expect_code(2);
    let pid = first.pid().to_string();
    assert!(second.stderr.contains(&pid), "process {pid} is not named in:\n{}", second.stderr);
    first.stop(DEADLINE).expect_code(0);
    scene.run(&["--once", "local.toml"]).finish().expect_code(0);
}

#[test]
fn a_second_owner_of_an_output_is_refused_and_names_the_first() {
    let scene = Scene::new();
    local(&scene, "one.toml");
    local(&scene, "other.toml");
    let first = scene.run(&["one.toml"]).start();
    wait_until(DEADLINE, "the first one ships", || length(&scene.path("out/app.log")) > 0);
    let second = scene.run(&["--state-dir", "elsewhere", "other.toml"]).finish().expect_code(2);
    let pid = first.pid().to_string();
    assert!(second.stderr.contains(&pid), "process {pid} is not named in:\n{}", second.stderr);
    first.stop(DEADLINE).expect_code(0);
    assert_eq!(fs::read(scene.path("out/app.log")).unwrap(), b"one\n");
}

#[test]
fn a_killed_instance_leaves_no_lock_behind() {
    let scene = Scene::new();
    local(&scene, "local.toml");
    let first = scene.run(&["local.toml"]).start();
    wait_until(DEADLINE, "the first one ships", || length(&scene.path("out/app.log")) > 0);
    first.kill();
    scene.run(&["--once", "local.toml"]).finish().expect_code(0);
    assert_eq!(fs::read(scene.path("out/app.log")).unwrap(), b"one\n");
}

#[test]
fn interrupt_ends_in_order_too() {
    let scene = Scene::new();
    local(&scene, "local.toml");
    let mut run = scene.run(&["local.toml"]).start();
    wait_until(DEADLINE, "it ships", || length(&scene.path("out/app.log")) > 0);
    run.interrupt();
    run.wait(DEADLINE).expect_code(0);
}

#[test]
fn several_pipelines_run_in_one_process() {
    let scene = Scene::new();
    scene.write("logs/app.log", "one\n");
    for name in ["one", "two"] {
        let path = format!("out-{name}/{{file}}");
        Pipeline::new().tail("*.log").rotating_file(&path).write(&scene, &format!("{name}.toml"));
    }
    scene.run(&["--once", "one.toml", "two.toml"]).finish().expect_code(0);
    for name in ["one", "two"] {
        assert_eq!(fs::read(scene.path(&format!("out-{name}/app.log"))).unwrap(), b"one\n");
    }
    // The same name twice would be one state directory for both.
    let finished = scene.run(&["--once", "one.toml", "one.toml"]).finish().expect_code(2);
    assert!(finished.stderr.contains("`one`"), "{}", finished.stderr);
}

#[test]
fn logs_can_be_json() {
    let scene = Scene::new();
    local(&scene, "local.toml");
    let finished = scene.run(&["--once", "--log-format", "json", "-v", "local.toml"]).finish().expect_code(0);
    assert!(!finished.stderr.is_empty());
    for line in finished.stderr.lines() {
        assert!(line.starts_with('{') && line.ends_with('}'), "{line}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_reported_once_and_the_others_go_on() {
    let scene = Scene::new();
    local(&scene, "local.toml");
    // A directory of a log's name cannot be read by anyone, not even by root.
    fs::create_dir(scene.path("logs/directory.log")).unwrap();
    let finished = scene.run(&["--once", "local.toml"]).finish().expect_code(0);
    assert_eq!(fs::read(scene.path("out/app.log")).unwrap(), b"one\n");
    let reports = finished.stderr.lines().filter(|line| line.contains("directory.log")).count();
    assert!(reports <= 1, "{}", finished.stderr);
}

#[test]
fn a_directory_that_may_not_be_entered_is_named_once_and_the_others_go_on() {
    let scene = Scene::new();
    let is_root = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n");
    // Permissions do not bind root: be somebody else.
    let nobody: &[&str] = match is_root {
        true => &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"],
        false => &["env"],
    };
    let trial = [&nobody[1..], &[env!("CARGO_BIN_EXE_fshipper"), "--version"]].concat();
    if !works("the binary cannot be run as another user", nobody[0], &trial) {
        return;
    }
    let mode =
        |name: &str, mode| fs::set_permissions(scene.path(name), Permissions::from_mode(mode)).unwrap();
    Pipeline::new().tail("*/*.log").rotating_file("out/{file}").write(&scene, "local.toml");
    scene.write("logs/open/app.log", "one\n");
    scene.write("logs/closed/other.log", "two\n");
    mode("", 0o777);
    mode("logs/closed", 0);
    let script = format!("exec {} \"$0\" \"$@\"", nobody.join(" "));
    let run = in_shell(&scene, &script, &["run", "local.toml"]).start();
    let warnings = || {
        let said = run.stderr();
        said.lines().filter(|line| line.contains("WARN") && line.contains("logs/closed")).count()
    };
    wait_until(DEADLINE, "the directory is named", || warnings() > 0);
    wait_until(DEADLINE, "the other one is read", || length(&scene.path("out/app.log")) > 0);
    // Each is found by another look at the directories.
    for name in ["1.log", "2.log", "3.log"] {
        scene.write(&format!("logs/open/{name}"), "more\n");
        wait_until(DEADLINE, "a new one is read", || length(&scene.path("out").join(name)) > 0);
    }
    mode("logs/closed", 0o755);
    wait_until(DEADLINE, "it is read too", || length(&scene.path("out/other.log")) > 0);
    assert_eq!(warnings(), 1, "{}", run.stderr());
    run.stop(DEADLINE).expect_code(0);
}

/// The address that `--health` answers at.
fn health_address(run: &Running) -> String {
    wait_until(DEADLINE, "it says where it listens", || run.stderr().contains("/healthz"));
    let said = run.stderr();
    let (_, address) = said.split_once("health: http://").unwrap();
    address.split('/').next().unwrap().to_owned()
}

/// The whole answer to a request.
fn ask(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn health_says_that_all_is_well_and_counts_for_prometheus() {
    let scene = Scene::new();
    local(&scene, "local.toml");
    let run = scene.run(&["--health", "127.0.0.1:0", "local.toml"]).start();
    let address = health_address(&run);
    let metrics = || ask(&address, "GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n");
    let committed = "\nfshipper_committed_bytes_total{pipeline=\"local\",hop=\"written\"} 4\n";
    wait_until(DEADLINE, "the commit is counted", || metrics().contains(committed));
    let answer = ask(&address, "GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nlocal written: ok\n"), "{answer}");
    assert!(metrics().starts_with("HTTP/1.1 200 OK\r\n"));
    assert!(ask(&address, "HEAD /healthz HTTP/1.1\r\n\r\n").ends_with("\r\n\r\n"));
    assert!(ask(&address, "GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404 "));
    // What is no request, or none that ends, is no reason to stop answering.
    let idle: Vec<_> = (0..4).map(|_| TcpStream::connect(&address).unwrap()).collect();
    assert!(ask(&address, "nonsense\r\n\r\n").starts_with("HTTP/1.1 400 "));
    assert!(metrics().contains(committed));
    drop(idle);
    // The address is taken now.
    let other = scene.run(&["--health", &address, "--state-dir", "other", "local.toml"]).finish();
    let said = other.expect_code(2).stderr;
    assert!(said.contains(&format!("cannot listen on `{address}`")), "{said}");
    run.stop(DEADLINE).expect_code(0);
}

#[test]
fn health_counts_what_was_not_read_yet() {
    let scene = Scene::new();
    let server = NatsServer::jetstream();
    let consumer = Pipeline::new().jetstream(&server.url()).rotating_file("out/{file}");
    Pipeline::new().tail("*.log").jetstream(&server.url()).write(&scene, "producer.toml");
    consumer.write(&scene, "consumer.toml");
    let lines: String = (0..500).map(|number| format!("line {number}\n")).collect();
    scene.write("logs/app.log", &lines);
    scene.run(&["--once", "producer.toml"]).finish().expect_code(0);

    let run = scene.run(&["--health", "127.0.0.1:0", "producer.toml", "consumer.toml"]).start();
    let address = health_address(&run);
    let metrics = || ask(&address, "GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n");
    let shows = |metric: &str| metrics().contains(&format!("\nfshipper_{metric} 0\n"));
    wait_until(DEADLINE, "all is read", || {
        shows("unread_bytes{pipeline=\"producer\",hop=\"sent\"}")
            && shows("unread_messages{pipeline=\"consumer\",hop=\"written\"}")
            && fs::read_to_string(scene.path("out/app.log")).is_ok_and(|written| written == lines)
    });
    run.stop(DEADLINE).expect_code(0);
}

#[test]
fn health_says_which_hop_is_not_open() {
    let scene = Scene::new();
    // Nobody listens at a port that was just free.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("nats://127.0.0.1:{port}");
    Pipeline::new().tail("*.log").jetstream(&url).write(&scene, "producer.toml");
    local(&scene, "local.toml");
    let run = scene.run(&["--health", "127.0.0.1:0", "producer.toml", "local.toml"]).start();
    let address = health_address(&run);
    let health = || ask(&address, "GET /healthz HTTP/1.1\r\n\r\n");
    wait_until(DEADLINE, "one hop works", || health().contains("\nlocal written: ok\n"));
    let answer = health();
    assert!(answer.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{answer}");
    assert!(answer.contains("\r\n\r\nproducer sent: not open: its log says why\n"), "{answer}");
    run.stop(DEADLINE).expect_code(0);
}
