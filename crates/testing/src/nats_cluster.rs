//! Servers that keep streams together: [`NatsCluster`].

use std::net::Ipv4Addr;

use crate::nats_server::{NatsOptions, NatsServer, free_port, monitoring_page};
use crate::wait::{DEADLINE, wait_until};

/// A JetStream cluster on 127.0.0.1, each server a process of its own, stopped for good when dropped.
#[derive(Debug)]
pub struct NatsCluster {
    servers: Vec<NatsServer>,
}

impl NatsCluster {
    /// Starts so many servers, and waits until they have chosen who leads.
    ///
    /// # Panics
    ///
    /// With a server's own log when it does not come up.
    #[track_caller]
    pub fn start(count: usize) -> Self {
        let mut routes: Vec<u16> = Vec::new();
        while routes.len() < count {
            let port = free_port();
            if !routes.contains(&port) {
                routes.push(port);
            }
        }
        let url = |port: &u16| format!("\"nats-route://{}:{port}\"", Ipv4Addr::LOCALHOST);
        let all = routes.iter().map(url).collect::<Vec<_>>().join(", ");
        let start = |port: &u16| {
            let listen = format!("listen: \"{}:{port}\"", Ipv4Addr::LOCALHOST);
            // Clients learn the others' addresses from the server that they are connected to.
            let config_extra = format!("cluster {{\n  name: test\n  {listen}\n  routes: [{all}]\n}}");
            NatsServer::start(NatsOptions { jetstream: true, config_extra, ..NatsOptions::default() })
        };
        let cluster = Self { servers: routes.iter().map(start).collect() };
        wait_until(DEADLINE, "the servers have chosen who leads", || {
            cluster.servers.iter().all(|server| leader(server, "\"meta_cluster\"").is_some())
        });
        cluster
    }

    /// The URLs of all servers, comma separated.
    pub fn urls(&self) -> String {
        self.servers.iter().map(NatsServer::url).collect::<Vec<_>>().join(",")
    }

    /// Waits until one of the running servers leads a stream, and returns its number.
    ///
    /// # Panics
    ///
    /// Nobody does for a long time.
    #[track_caller]
    pub fn leader_of(&self, stream: &str) -> usize {
        let named = format!("\"name\": \"{stream}\"");
        let mut leading = None;
        wait_until(DEADLINE, "somebody leads the stream", || {
            let running = self.servers.iter().filter(|server| server.pid().is_some());
            let name = running.filter_map(|server| leader(server, &named)).next();
            let is_it = |server: &NatsServer| server.pid().is_some() && Some(server.name()) == name;
            leading = self.servers.iter().position(is_it);
            leading.is_some()
        });
        leading.expect("it was waited for")
    }

    /// One of the servers, by its number.
    ///
    /// # Panics
    ///
    /// There are not so many.
    #[track_caller]
    pub fn server(&mut self, number: usize) -> &mut NatsServer {
        &mut self.servers[number]
    }
}

/// The name of whoever leads what `named` introduces on the page about JetStream, as far as `server` knows.
fn leader(server: &NatsServer, named: &str) -> Option<String> {
    let page = monitoring_page(server.monitoring_address(), "/jsz?accounts=1&streams=1").ok()?;
    let (_, about) = page.split_once(named)?;
    let (_, leader) = about.split_once("\"leader\": \"")?;
    leader.split('"').next().filter(|name| !name.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_stream_has_another_leader_after_the_first_was_killed() {
        let mut cluster = NatsCluster::start(3);
        let first = cluster.server(0).url();
        let client = async_nats::connect(first).await.unwrap();
        let jetstream = async_nats::jetstream::new(client);
        let config = async_nats::jetstream::stream::Config {
            name: "LOGS".into(),
            num_replicas: 3,
            ..Default::default()
        };
        let deadline = Instant::now() + Duration::from_secs(60);
        // On a busy machine three servers take their time to agree, and a request gives up after five seconds.
        while let Err(error) = jetstream.create_stream(config.clone()).await {
            assert!(Instant::now() < deadline, "{error}");
        }
        let first = cluster.leader_of("LOGS");
        cluster.server(first).kill();
        assert_ne!(cluster.leader_of("LOGS"), first);
    }
}
