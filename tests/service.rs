//! As a service: what systemd's hardening leaves to a process, and what the process tells systemd.

use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::process::Command;

use fshipper_testing::{DEADLINE, wait_until};

use crate::support::{Pipeline, Scene};
use crate::surroundings::{in_shell, works};

/// What a unit with `DynamicUser=`, `StateDirectory=` and `LogsDirectory=` finds, which implies
/// `ProtectSystem=strict`: nobody's user without a capability, no home, and everything read-only except two
/// directories, each behind a link.
const HARDENED: &str = "exec unshare --mount /bin/sh -c '
    set -e
    for directory in \"$PWD\" state/private/fshipper out/private/fshipper; do
        mount --bind \"$directory\" \"$directory\"
    done
    mount -o remount,ro,bind \"$PWD\"
    mount -o remount,ro,bind /
    cd /
    unset HOME
    exec setpriv --reuid=65534 --regid=65534 --clear-groups --no-new-privs \\
        --bounding-set=-all --inh-caps=-all \"$0\" \"$@\"
' \"$0\" \"$@\"";

fn local(scene: &Scene) -> &'static str {
    Pipeline::new().tail("*.log").rotating_file("out/{file}").write(scene, "local.toml");
    scene.write("logs/app.log", "one\n");
    "local.toml"
}

/// The messages that a service manager gets.
struct Manager(UnixDatagram);

impl Manager {
    fn listen(address: &SocketAddr) -> Self {
        let socket = UnixDatagram::bind_addr(address).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        Self(socket)
    }

    fn hears(&self) -> String {
        let mut message = [0; 256];
        let length = self.0.recv(&mut message).unwrap();
        String::from_utf8_lossy(&message[..length]).into_owned()
    }

    fn has_heard_nothing(&self) -> bool {
        self.0.set_nonblocking(true).unwrap();
        let error = self.0.recv(&mut [0; 256]).err();
        self.0.set_nonblocking(false).unwrap();
        error.is_some_and(|error| error.kind() == ErrorKind::WouldBlock)
    }
}

#[test]
fn hardened_it_needs_no_more_than_its_state_and_output_directories() {
    let scene = Scene::new();
    fs::set_permissions(scene.path(""), Permissions::from_mode(0o755)).unwrap();
    for kind in ["state", "out"] {
        let directory = scene.path(&format!("{kind}/private/fshipper"));
        fs::create_dir_all(&directory).unwrap();
        fs::set_permissions(&directory, Permissions::from_mode(0o777)).unwrap();
        symlink("private/fshipper", scene.path(&format!("{kind}/fshipper"))).unwrap();
    }
    let trial = ["-c", HARDENED, env!("CARGO_BIN_EXE_fshipper"), "--version"];
    let is_hardened = Command::new("/bin/sh").args(trial).current_dir(scene.path("")).output();
    if !is_hardened.is_ok_and(|output| output.status.success()) {
        println!("skipped: this process may not confine another one");
        return;
    }

    let within = |name: &str| scene.path(name).into_os_string().into_string().unwrap();
    let include = format!("include = '{}'", within("logs/*.log"));
    let path = within("out/fshipper/{host}/{file}.%Y%m%d");
    Pipeline::new().table("source", "file_tail", &include).rotating_file(&path).write(&scene, "local.toml");
    let mut log = scene.log("app.log", 1);
    let run = in_shell(&scene, HARDENED, &["run", &within("local.toml")]);
    let run = run.variable("STATE_DIRECTORY", within("state/fshipper"));
    for _ in 0..2 {
        log.write_lines(100);
        let running = run.start();
        wait_until(DEADLINE, "the log arrives", || arrived(&scene) == fs::read(log.expected()).unwrap());
        log.write_lines(100);
        wait_until(DEADLINE, "it is followed", || arrived(&scene) == fs::read(log.expected()).unwrap());
        let said = running.stop(DEADLINE).expect_code(0).stderr;
        assert!(!said.contains("WARN") && !said.contains("ERROR"), "{said}");
    }
    // The state is where systemd said, and nowhere else.
    assert!(scene.path("state/private/fshipper/local/lock").is_file());

    // What is no longer given is named, with the remedy. A file system may also be read-only for a while.
    let running = run.variable("STATE_DIRECTORY", within("elsewhere")).start();
    wait_until(DEADLINE, "it says so", || running.stderr().contains("WARN"));
    let said = running.stop(DEADLINE).expect_code(0).stderr;
    assert!(said.contains(&format!("`{}`", within("elsewhere/local"))), "{said}");
    assert!(said.contains("set `state_dir` or --state-dir"), "{said}");
}

/// What stands in the output directory's only file.
fn arrived(scene: &Scene) -> Vec<u8> {
    let output = "out/private/fshipper";
    match scene.files_below(output).as_slice() {
        [file] => fs::read(scene.path(output).join(file)).unwrap(),
        _ => Vec::new(),
    }
}

#[test]
fn the_service_manager_hears_that_it_has_started_and_that_it_stops() {
    let scene = Scene::new();
    let file = local(&scene);
    let socket = scene.path("notify");
    let name = format!("fshipper-test-{}", std::process::id());
    for (variable, address) in [
        (socket.clone().into_os_string(), SocketAddr::from_pathname(&socket).unwrap()),
        (format!("@{name}").into(), SocketAddr::from_abstract_name(&name).unwrap()),
    ] {
        let manager = Manager::listen(&address);
        let mut run = scene.run(&[file]).variable("NOTIFY_SOCKET", variable).start();
        assert_eq!(manager.hears(), "READY=1");
        assert!(scene.path("out/.fshipper").is_dir(), "it said so before the output was open");
        run.hang_up();
        run.terminate();
        run.wait(DEADLINE).expect_code(0);
        assert_eq!(manager.hears(), "STOPPING=1");
        assert!(manager.has_heard_nothing());
    }
}

#[test]
fn a_start_that_is_refused_is_no_start_for_the_service_manager() {
    let scene = Scene::new();
    let file = local(&scene);
    let first = scene.run(&[file]).start();
    wait_until(DEADLINE, "the first one ships", || scene.path("out/app.log").is_file());
    let manager = Manager::listen(&SocketAddr::from_pathname(scene.path("notify")).unwrap());
    // Refused by the output's lock: nothing can be opened with it.
    let second = scene.run(&["--state-dir", "other", file]).variable("NOTIFY_SOCKET", scene.path("notify"));
    second.finish().expect_code(2);
    assert!(manager.has_heard_nothing());
    first.stop(DEADLINE).expect_code(0);
}

#[test]
fn a_broker_that_is_away_keeps_no_service_from_starting() {
    let scene = Scene::new();
    // Nobody listens on port 1.
    Pipeline::new().tail("*.log").jetstream("nats://127.0.0.1:1").write(&scene, "producer.toml");
    let manager = Manager::listen(&SocketAddr::from_pathname(scene.path("notify")).unwrap());
    let run = scene.run(&["producer.toml"]).variable("NOTIFY_SOCKET", scene.path("notify")).start();
    assert_eq!(manager.hears(), "READY=1");
    assert!(run.stderr().contains("127.0.0.1:1"), "{}", run.stderr());
    run.stop(DEADLINE).expect_code(0);
    assert_eq!(manager.hears(), "STOPPING=1");
}

#[test]
fn a_service_manager_that_is_gone_or_does_not_read_stops_nothing() {
    let scene = Scene::new();
    let file = local(&scene);
    let run = scene.run(&[file]).variable("NOTIFY_SOCKET", scene.path("absent")).start();
    wait_until(DEADLINE, "it is said", || run.stderr().contains("cannot tell the service manager `READY=1`"));
    run.stop(DEADLINE).expect_code(0);

    let manager = Manager::listen(&SocketAddr::from_pathname(scene.path("notify")).unwrap());
    fill(&scene.path("notify"));
    let run = scene.run(&[file]).variable("NOTIFY_SOCKET", scene.path("notify")).start();
    wait_until(DEADLINE, "it has not been heard", || run.stderr().contains("`READY=1`: nobody reads"));
    scene.assert_arrives(&scene.write("expected", "one\n"), "out/app.log");
    let said = run.stop(DEADLINE).expect_code(0).stderr;
    assert!(said.contains("cannot tell the service manager `STOPPING=1`: nobody reads"), "{said}");
    drop(manager);
}

/// Sends until the other side takes nothing more.
fn fill(socket: &Path) {
    let sender = UnixDatagram::unbound().unwrap();
    sender.connect(socket).unwrap();
    sender.set_nonblocking(true).unwrap();
    while sender.send(b"STATUS=").is_ok() {}
}

#[test]
fn the_unit_is_one_that_systemd_understands() {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/fshipper@.service");
    if !works("there is no systemd-analyze", "systemd-analyze", &["--version"]) {
        return;
    }
    let text = fs::read_to_string(&unit).unwrap();
    // Nothing is installed here, and `verify` looks for the program.
    let scene = Scene::new();
    let installed = text.replace("/usr/bin/fshipper", env!("CARGO_BIN_EXE_fshipper"));
    assert_ne!(installed, text);
    let unit = scene.write("fshipper@web.service", installed);
    let said = Command::new("systemd-analyze").arg("verify").arg(unit).output().unwrap();
    let printed = String::from_utf8_lossy(&said.stderr);
    assert!(said.status.success() && !printed.contains("fshipper@"), "{printed}");
}
