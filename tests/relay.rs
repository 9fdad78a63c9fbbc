//! A man in the middle who understands as much of the protocol as a test needs: [`Relay`].

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Passes lines on between clients and a server, and shows each to the test.
pub(crate) struct Relay {
    address: SocketAddr,
    task: JoinHandle<()>,
}

/// What a test does with the lines. Each ends in a newline, and a payload without one is part of the next.
pub(crate) trait Watcher: Send + Sync + 'static {
    /// A line of a client, before it goes to the server. Its length must stay the same.
    fn asked(&self, _line: &mut [u8]) {}

    /// A line of the server, which the client has got.
    fn answered(&self, _line: &[u8]) {}

    /// While it is true nothing more is passed on to clients.
    fn held(&self) -> watch::Receiver<bool> {
        // Nobody will ever set it.
        watch::channel(false).1
    }

    /// Somebody has connected.
    fn connected(&self) {}
}

impl Relay {
    pub(crate) async fn start(server: SocketAddr, watcher: Arc<impl Watcher>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                watcher.connected();
                tokio::spawn(pass_both_ways(client, server, watcher.clone()));
            }
        });
        Self { address, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://{}", self.address)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Ends with the first of the two directions, and closes both.
async fn pass_both_ways(mut client: TcpStream, server: SocketAddr, watcher: Arc<impl Watcher>) {
    let Ok(mut server) = TcpStream::connect(server).await else { return };
    // Whoever waits for a line should not wait for the next one too.
    client.set_nodelay(true).unwrap();
    server.set_nodelay(true).unwrap();
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let watcher = &*watcher;
    tokio::select! {
        () = ask(from_client, to_server, watcher) => {}
        () = answer(from_server, to_client, watcher) => {}
    }
}

async fn ask(from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, watcher: &impl Watcher) {
    let (mut from, mut line) = (BufReader::new(from), Vec::new());
    while from.read_until(b'\n', &mut line).await.is_ok_and(|count| count > 0) {
        watcher.asked(&mut line);
        if to.write_all(&line).await.is_err() {
            return;
        }
        line.clear();
    }
}

async fn answer(from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, watcher: &impl Watcher) {
    let (mut from, mut line, mut held) = (BufReader::new(from), Vec::new(), watcher.held());
    while from.read_until(b'\n', &mut line).await.is_ok_and(|count| count > 0) {
        if held.wait_for(|held| !held).await.is_err() || to.write_all(&line).await.is_err() {
            return;
        }
        watcher.answered(&line);
        line.clear();
    }
}
