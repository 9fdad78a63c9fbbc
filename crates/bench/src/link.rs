//! A long line: [`Link`].

use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::{Bytes, BytesMut};
use clap::Args;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Delays what passes and does not slow it: many blocks are under way at once, as on a real line.
/// (The proxy of the tests sleeps for each block, which limits the speed too.)
#[derive(Args, Debug)]
pub(crate) struct Link {
    /// Where connections lead
    server: SocketAddr,
    /// How long each direction takes
    #[arg(long)]
    one_way_ms: u64,
}

const BLOCK_BYTES: usize = 64 << 10;

/// At most 64 MiB are under way in each direction, more than the bandwidth-delay product of any row.
const BLOCKS_UNDER_WAY: usize = 1024;

impl Link {
    /// Prints its port, and passes connections on until stdin ends.
    pub(crate) async fn run(self) -> Result<()> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        crate::print(&serde_json::json!({ "port": listener.local_addr()?.port() }))?;
        let stdin_ends = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
        tokio::select! {
            ended = self.accept(listener) => ended,
            _ = stdin_ends => Ok(()),
        }
    }

    async fn accept(self, listener: TcpListener) -> Result<()> {
        let delay = Duration::from_millis(self.one_way_ms);
        loop {
            let (client, _) = listener.accept().await?;
            let server = TcpStream::connect(self.server).await.context("the server is gone")?;
            client.set_nodelay(true)?;
            server.set_nodelay(true)?;
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            carry(from_client, to_server, delay);
            carry(from_server, to_client, delay);
        }
    }
}

/// Carries one direction until either end closes it.
fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: Duration) {
    let (enter, mut leave) = mpsc::channel::<(Instant, Bytes)>(BLOCKS_UNDER_WAY);
    tokio::spawn(async move {
        let mut block = BytesMut::new();
        loop {
            block.reserve(BLOCK_BYTES);
            // An error is the end of the connection too, and the other end sees it as such.
            if !from.read_buf(&mut block).await.is_ok_and(|count| count > 0) {
                return;
            }
            if enter.send((Instant::now() + delay, block.split().freeze())).await.is_err() {
                return;
            }
        }
    });
    tokio::spawn(async move {
        while let Some((due, block)) = leave.recv().await {
            tokio::time::sleep_until(due).await;
            if to.write_all(&block).await.is_err() {
                return;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_arrive_in_order_and_no_sooner_than_the_delay() {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let link = Link { server: server.local_addr().unwrap(), one_way_ms: 40 };
        tokio::spawn(link.accept(listener));
        let sent: Vec<u8> = (0..1_000_000_u32).map(|number| (number % 251) as u8).collect();
        let begin = Instant::now();
        let mut client = TcpStream::connect(address).await.unwrap();
        let (mut accepted, _) = server.accept().await.unwrap();
        let expected = sent.clone();
        tokio::spawn(async move { client.write_all(&sent).await });
        let mut came = Vec::new();
        accepted.read_to_end(&mut came).await.unwrap();
        assert!(begin.elapsed() >= Duration::from_millis(40));
        assert_eq!(came, expected);
    }
}
