//! A real `nats-server` of a test's own: [`NatsServer`].

use std::fs::{self, File};
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{io, thread};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::child::Owned;
use crate::nats_binary::nats_server_binary;
use crate::wait::{DEADLINE, wait_until};

/// Ports to try. Below the range from which the system gives ports to outgoing connections: while a server is
/// down, a reconnecting client could otherwise be given the server's own port and hold it.
const PORTS: Range<u16> = 20_000..32_000;

/// How many ports may be taken between our look and the server's before it cannot be chance any more.
const START_ATTEMPTS: usize = 20;

/// What [`NatsServer::start`] starts. The default is core NATS on a free port, without authentication.
#[derive(Clone, Debug, Default)]
pub struct NatsOptions {
    /// Whether JetStream is on, with its files in `store_dir`.
    pub jetstream: bool,
    /// More lines for the `jetstream` block of the configuration file, such as `max_file_store: 1GB`.
    pub jetstream_extra: String,
    /// More lines for the configuration file, such as `max_payload: 64KB` or an `authorization` block.
    pub config_extra: String,
    /// The port on 127.0.0.1; a free one when absent.
    pub port: Option<u16>,
    /// Where JetStream keeps its files; a temporary directory when absent.
    pub store_dir: Option<PathBuf>,
}

/// A running server on 127.0.0.1, stopped for good when dropped. Port and store survive [`NatsServer::kill`]
/// and [`NatsServer::restart`].
#[derive(Debug)]
pub struct NatsServer {
    // Declared before the directory: the process must be gone before its files are.
    process: Option<Owned>,
    options: NatsOptions,
    port: u16,
    directory: TempDir,
}

impl NatsServer {
    /// Starts a server and waits until it greets clients.
    ///
    /// # Panics
    ///
    /// With the server's own log when it does not come up.
    #[track_caller]
    pub fn start(options: NatsOptions) -> Self {
        let directory = tempfile::Builder::new().prefix("nats-").tempdir();
        let directory = directory.expect("a temporary directory can be created");
        let mut server = Self { process: None, options, port: 0, directory };
        for _ in 0..START_ATTEMPTS {
            server.port = server.options.port.unwrap_or_else(free_port);
            if server.launch(DEADLINE) {
                return server;
            }
            assert!(server.options.port.is_none(), "port {} is taken", server.port);
        }
        panic!("no free port in {PORTS:?}; the server says:\n{}", server.log());
    }

    /// A JetStream server with everything else as it comes.
    #[track_caller]
    pub fn jetstream() -> Self {
        Self::start(NatsOptions { jetstream: true, ..NatsOptions::default() })
    }

    /// A core NATS server with everything else as it comes.
    #[track_caller]
    pub fn core() -> Self {
        Self::start(NatsOptions::default())
    }

    /// `nats://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("nats://{}", self.address())
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// What it calls itself, in a cluster and in what it says of itself.
    pub fn name(&self) -> String {
        format!("test_{}", self.port)
    }

    /// The process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Owned::pid)
    }

    /// Where JetStream keeps its files.
    pub fn store_dir(&self) -> PathBuf {
        self.options.store_dir.clone().unwrap_or_else(|| self.directory.path().join("store"))
    }

    /// Everything the server has logged, over all its lives.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// How many clients are subscribed to exactly this subject at this moment: core NATS drops what is
    /// published to nobody.
    ///
    /// # Panics
    ///
    /// When the server is down.
    #[track_caller]
    pub fn subscribers(&self, subject: &str) -> usize {
        let connections = monitoring_page(self.monitoring_address(), "/connz?subs=1");
        let connections =
            connections.unwrap_or_else(|error| panic!("cannot read the server's state: {error}"));
        // Its JSON escapes the one wildcard that HTML would not like.
        connections.matches(&format!("\"{}\"", subject.replace('>', "\\u003e"))).count()
    }

    /// SIGKILL, and waits until it is gone. Nothing when it is down already.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// SIGTERM, and waits until it has stopped in order. Nothing when it is down already.
    #[track_caller]
    pub fn stop(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        process.signal(Signal::TERM);
        assert!(process.wait(DEADLINE).is_some(), "nats-server ignores SIGTERM; it says:\n{}", self.log());
    }

    /// Starts it again on the same port and store, after a SIGKILL when it still runs.
    #[track_caller]
    pub fn restart(&mut self) {
        self.kill();
        let start = Instant::now();
        while !self.launch(DEADLINE) {
            assert!(start.elapsed() < DEADLINE, "port {} stays taken", self.port);
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Replaces the additional configuration; it counts from the next restart on.
    pub fn set_config_extra(&mut self, config_extra: impl Into<String>) {
        self.options.config_extra = config_extra.into();
    }

    /// `127.0.0.1:PORT` of the WebSockets, when `config_extra` has a `websocket` block.
    ///
    /// # Panics
    ///
    /// When the server is down.
    #[track_caller]
    pub fn websocket_address(&self) -> SocketAddr {
        self.listening_address(&["\"ws://", "\"wss://"])
    }

    /// SIGUSR2, lame duck mode: it tells its clients, sends them away and ends.
    pub fn retire(&mut self) {
        self.signal(Signal::USR2);
    }

    /// SIGSTOP: connections stay open and nobody answers.
    pub fn pause(&mut self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn resume(&mut self) {
        self.signal(Signal::CONT);
    }

    #[track_caller]
    fn signal(&mut self, signal: Signal) {
        self.process.as_mut().expect("the server runs").signal(signal);
    }

    /// Where it answers questions about itself, over HTTP.
    #[track_caller]
    pub(crate) fn monitoring_address(&self) -> SocketAddr {
        self.listening_address(&["\"http://"])
    }

    /// Where it listens for a protocol, by the start of a URL. It writes its ports into a file named by its
    /// pid, a moment after it greets clients.
    #[track_caller]
    fn listening_address(&self, schemes: &[&str]) -> SocketAddr {
        let pid = self.pid().expect("the server runs");
        let file = self.directory.path().join(format!("nats-server_{pid}.ports"));
        let mut address = None;
        wait_until(DEADLINE, "nats-server has written its ports", || {
            let ports = fs::read_to_string(&file).unwrap_or_default();
            let mut urls = schemes.iter().filter_map(|scheme| ports.split_once(scheme));
            let listening = urls.next().and_then(|(_, rest)| rest.split('"').next());
            address = listening.and_then(|address| address.parse().ok());
            address.is_some()
        });
        address.expect("it was waited for")
    }

    fn log_path(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    /// Starts the process and waits for its greeting; `false` when somebody else has the port.
    #[track_caller]
    fn launch(&mut self, deadline: Duration) -> bool {
        let logged_before = self.log().len();
        let config = self.directory.path().join("nats.conf");
        fs::write(&config, self.configuration()).expect("the configuration can be written");
        let log = File::options().create(true).append(true).open(self.log_path());
        let log = log.expect("the log can be opened");
        let mut command = Command::new(nats_server_binary());
        command.arg("--config").arg(&config).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a file handle can be cloned")).stderr(log);
        let mut process = Owned::spawn(&mut command).expect("nats-server can be run");

        let start = Instant::now();
        while !greets(self.address()) {
            if let Some(status) = process.exit_status() {
                let said = self.log().split_off(logged_before);
                assert!(said.contains("address already in use"), "nats-server ended, {status}:\n{said}");
                return false;
            }
            assert!(start.elapsed() < deadline, "nats-server does not come up:\n{}", self.log());
            thread::sleep(Duration::from_millis(5));
        }
        self.process = Some(process);
        true
    }

    fn configuration(&self) -> String {
        let mut text = format!("server_name: {}\nlisten: \"127.0.0.1:{}\"\n", self.name(), self.port);
        text += &format!("http: \"127.0.0.1:-1\"\nports_file_dir: {}\n", quoted(self.directory.path()));
        if self.options.jetstream {
            let store_dir = quoted(&self.store_dir());
            let extra = &self.options.jetstream_extra;
            text += &format!("jetstream {{\n  store_dir: {store_dir}\n  {extra}\n}}\n");
        }
        text + &self.options.config_extra + "\n"
    }
}

fn quoted(path: &Path) -> String {
    format!("{:?}", path.to_str().expect("temporary paths are UTF-8"))
}

/// A port that nobody listens on at this moment.
pub(crate) fn free_port() -> u16 {
    loop {
        let port = fastrand::u16(PORTS);
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(_) => return port,
            Err(error) if error.kind() == ErrorKind::AddrInUse => {}
            Err(error) => panic!("cannot bind 127.0.0.1:{port}: {error}"),
        }
    }
}

/// Whether a server at `address` sends the line that a client waits for first.
fn greets(address: SocketAddr) -> bool {
    let greeting = || -> io::Result<String> {
        let connection = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        connection.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut line = String::new();
        BufReader::new(connection).read_line(&mut line)?;
        Ok(line)
    };
    greeting().is_ok_and(|line| line.starts_with("INFO "))
}

pub(crate) fn monitoring_page(address: SocketAddr, page: &str) -> io::Result<String> {
    let mut connection = TcpStream::connect(address)?;
    connection.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(connection, "GET {page} HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    connection.read_to_string(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_port_and_store_over_a_kill() {
        let mut server = NatsServer::jetstream();
        let (port, pid) = (server.port(), server.pid());
        assert!(server.store_dir().join("jetstream").is_dir());
        server.restart();
        assert_eq!(server.port(), port);
        assert_ne!(server.pid(), pid);
        assert!(greets(server.address()));
        server.stop();
        assert!(!greets(server.address()));
    }

    #[test]
    fn a_paused_server_answers_again_after_resume() {
        let mut server = NatsServer::core();
        server.pause();
        server.resume();
        assert!(greets(server.address()));
    }

    #[test]
    fn two_servers_never_share_a_port() {
        let (one, two) = (NatsServer::core(), NatsServer::core());
        assert_ne!(one.port(), two.port());
    }

    #[test]
    #[should_panic(expected = "nats-server ended")]
    fn a_wrong_configuration_is_shown() {
        NatsServer::start(NatsOptions { config_extra: "max_payload: {".into(), ..NatsOptions::default() });
    }
}
