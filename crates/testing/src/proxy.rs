//! A network that fails on demand: [`Proxy`].

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What one read takes: large enough to be no bottleneck, small enough to cut within a message.
const CHUNK_BYTES: usize = 32 << 10;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the server: what is published.
    ToServer,
    /// From the server to the client: acknowledgements and deliveries.
    ToClient,
}

/// A TCP proxy in front of one server, on a port of 127.0.0.1 that stays the same through every failure.
/// Needs a tokio runtime; stops when dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    state: Arc<watch::Sender<State>>,
    task: JoinHandle<()>,
}

/// What the connections obey.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    to_server_stalled: bool,
    to_client_stalled: bool,
    refusing: bool,
    slow: Option<Slow>,
    /// A connection lives as long as this number stays what it was when it was accepted.
    cuts: u64,
    /// A connection reaches the server as long as this number stays what it was when it was accepted.
    abandoned: u64,
}

/// How long a block of at most [`CHUNK_BYTES`] is under way.
#[derive(Clone, Copy, Debug)]
struct Slow {
    bytes_per_second: u32,
    delay: Duration,
}

impl Proxy {
    /// Listens, and passes every connection on to `server`.
    ///
    /// # Panics
    ///
    /// When no port can be bound.
    pub async fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port can be bound");
        let address = listener.local_addr().expect("a listener has an address");
        let state = Arc::new(watch::Sender::new(State::default()));
        let task = tokio::spawn(accept(listener, server, state.clone()));
        Self { address, state, task }
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `nats://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// Cuts every connection, wherever it is; new ones are welcome.
    pub fn cut(&self) {
        self.state.send_modify(|state| state.cuts += 1);
    }

    /// Cuts every connection and closes new ones at once, until [`Proxy::resume`].
    pub fn refuse(&self) {
        self.state.send_modify(|state| {
            state.cuts += 1;
            state.refusing = true;
        });
    }

    /// Stops passing bytes on in one direction and keeps connections open, as a broken path does, until
    /// [`Proxy::resume`]. What is under way is kept and comes late.
    pub fn stall(&self, direction: Direction) {
        self.state.send_modify(|state| match direction {
            Direction::ToServer => state.to_server_stalled = true,
            Direction::ToClient => state.to_client_stalled = true,
        });
    }

    /// Passes on at most so many bytes a second in each direction of each connection, every block of them
    /// after `delay`, until [`Proxy::resume`].
    pub fn slow(&self, bytes_per_second: u32, delay: Duration) {
        let bytes_per_second = bytes_per_second.max(1);
        self.state.send_modify(|state| state.slow = Some(Slow { bytes_per_second, delay }));
    }

    /// Leaves every connection half open, for ever: the server sees its end, the client sees nothing, and
    /// what it sends is taken and thrown away. New connections are welcome.
    pub fn abandon(&self) {
        self.state.send_modify(|state| state.abandoned += 1);
    }

    /// Ends every failure, except that what was abandoned stays so.
    pub fn resume(&self) {
        self.state.send_modify(|state| {
            let State { cuts, abandoned, .. } = *state;
            *state = State { cuts, abandoned, ..State::default() };
        });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        self.cut();
    }
}

impl State {
    fn stalled(&self, direction: Direction) -> bool {
        match direction {
            Direction::ToServer => self.to_server_stalled,
            Direction::ToClient => self.to_client_stalled,
        }
    }
}

async fn accept(listener: TcpListener, server: SocketAddr, state: Arc<watch::Sender<State>>) {
    while let Ok((mut client, _)) = listener.accept().await {
        let mut changes = state.subscribe();
        let State { refusing, cuts, abandoned, .. } = *changes.borrow_and_update();
        if refusing {
            continue;
        }
        tokio::spawn(async move {
            let mut cut = changes.clone();
            let mut abandon = changes.clone();
            let was_cut = cut.wait_for(|state| state.cuts != cuts);
            let life = async {
                tokio::select! {
                    // An error means that one end closed the connection, or the server is down: the client
                    // sees its own connection close either way.
                    _ = pass_both_ways(&mut client, server, changes) => return,
                    _ = abandon.wait_for(|state| state.abandoned != abandoned) => {}
                }
                // The connection to the server is closed here; this one stays until the client gives up.
                let mut chunk = vec![0; CHUNK_BYTES];
                while client.read(&mut chunk).await.is_ok_and(|count| count > 0) {}
            };
            tokio::select! {
                () = life => {}
                _ = was_cut => {}
            }
        });
    }
}

async fn pass_both_ways(
    client: &mut TcpStream,
    server: SocketAddr,
    changes: watch::Receiver<State>,
) -> io::Result<()> {
    let mut server = TcpStream::connect(server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    tokio::select! {
        ended = pass(&mut from_client, &mut to_server, Direction::ToServer, changes.clone()) => ended,
        ended = pass(&mut from_server, &mut to_client, Direction::ToClient, changes) => ended,
    }
}

async fn pass(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
    direction: Direction,
    mut changes: watch::Receiver<State>,
) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let count = from.read(&mut chunk).await?;
        if count == 0 {
            return Ok(());
        }
        let slow = match changes.wait_for(|state| !state.stalled(direction)).await {
            Ok(state) => state.slow,
            Err(_) => return Ok(()),
        };
        if let Some(Slow { bytes_per_second, delay }) = slow {
            let transfer = Duration::from_secs(count as u64) / bytes_per_second;
            // A link that is mended is fast at once; the block goes on either way.
            let mended = changes.wait_for(|state| state.slow.is_none());
            let _ = tokio::time::timeout(delay + transfer, mended).await;
        }
        to.write_all(&chunk[..count]).await?;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    /// A server that says everything back.
    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut connection, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = connection.split();
                    tokio::io::copy(&mut from, &mut to).await
                });
            }
        });
        address
    }

    async fn says_back(connection: &mut TcpStream, text: &[u8]) -> io::Result<()> {
        connection.write_all(text).await?;
        let mut answer = vec![0; text.len()];
        connection.read_exact(&mut answer).await?;
        assert_eq!(answer, text);
        Ok(())
    }

    #[tokio::test]
    async fn cuts_connections_and_welcomes_new_ones() {
        let proxy = Proxy::start(echo().await).await;
        let mut connection = TcpStream::connect(proxy.address()).await.unwrap();
        says_back(&mut connection, b"before").await.unwrap();
        proxy.cut();
        let end = connection.read(&mut [0; 1]).await;
        assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
        let mut connection = TcpStream::connect(proxy.address()).await.unwrap();
        says_back(&mut connection, b"after").await.unwrap();
    }

    #[tokio::test]
    async fn refuses_until_it_resumes() {
        let proxy = Proxy::start(echo().await).await;
        proxy.refuse();
        let mut connection = TcpStream::connect(proxy.address()).await.unwrap();
        assert!(says_back(&mut connection, b"lost").await.is_err());
        proxy.resume();
        let mut connection = TcpStream::connect(proxy.address()).await.unwrap();
        says_back(&mut connection, b"after").await.unwrap();
    }

    #[tokio::test]
    async fn what_is_stalled_comes_late() {
        let proxy = Proxy::start(echo().await).await;
        let mut connection = TcpStream::connect(proxy.address()).await.unwrap();
        says_back(&mut connection, b"before").await.unwrap();
        proxy.stall(Direction::ToClient);
        connection.write_all(b"late").await.unwrap();
        let mut answer = [0; 4];
        let early = timeout(Duration::from_millis(50), connection.read_exact(&mut answer)).await;
        assert!(early.is_err(), "a stalled answer arrived");
        proxy.resume();
        connection.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"late");
    }

    #[tokio::test]
    async fn a_slow_link_takes_its_time_until_it_resumes() {
        let proxy = Proxy::start(echo().await).await;
        let mut connection = TcpStream::connect(proxy.address()).await.unwrap();
        says_back(&mut connection, b"before").await.unwrap();
        proxy.slow(1, Duration::from_secs(3600));
        connection.write_all(b"late").await.unwrap();
        let mut answer = [0; 4];
        let early = timeout(Duration::from_millis(50), connection.read_exact(&mut answer)).await;
        assert!(early.is_err(), "a slow link was fast");
        proxy.resume();
        connection.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"late");
    }

    #[tokio::test]
    async fn an_abandoned_connection_stays_silent_and_new_ones_work() {
        let proxy = Proxy::start(echo().await).await;
        let mut connection = TcpStream::connect(proxy.address()).await.unwrap();
        says_back(&mut connection, b"before").await.unwrap();
        proxy.abandon();
        connection.write_all(b"lost").await.unwrap();
        let silence = timeout(Duration::from_millis(50), connection.read(&mut [0; 1])).await;
        assert!(silence.is_err(), "the client was told: {silence:?}");
        let mut connection = TcpStream::connect(proxy.address()).await.unwrap();
        says_back(&mut connection, b"after").await.unwrap();
    }
}
