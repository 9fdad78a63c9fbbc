//! `fshipper run --health ADDRESS`: how the pipelines are, over HTTP.
//!
//! | path | answer |
//! | --- | --- |
//! | `/healthz` | 200 when every hop is open and what it reads gets committed, or has finished, else 503; a line for each hop |
//! | `/metrics` | the counters of each hop, as text for Prometheus |
//!
//! Counters carry the names of pipelines and hops, and never those of hosts or logs, so their number is bounded.
//!
//! Left out on purpose: TLS and logins (bind it to an address that is yours), and a probe for restarts: whatever
//! a restart could mend is tried again anyway.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use fshipper_pipeline::anyhow::{Context as _, Result};
use fshipper_pipeline::{Counts, HopStatus, Monitor};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Whoever looks has no reason for more connections at once, nor to take longer or to say more.
const MAX_CONNECTIONS: usize = 16;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
const MAX_REQUEST_BYTES: usize = 8 << 10;

/// That of Prometheus, and good enough for people.
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// How often it is looked whether hops get on.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What was read is overdue after so long without a commit: longer than a broker takes to elect a leader.
const OVERDUE: Duration = Duration::from_secs(60);

/// A pause between two attempts to take a connection, when the process has no descriptor left for one.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Listens on `address`, and answers for as long as the runtime lives.
///
/// # Errors
///
/// The address cannot be used.
pub(crate) async fn serve(address: SocketAddr, monitor: Monitor) -> Result<()> {
    let listener =
        TcpListener::bind(address).await.with_context(|| format!("cannot listen on `{address}`"))?;
    let address = listener.local_addr().context("cannot tell where it listens")?;
    tracing::info!("health: http://{address}/healthz and http://{address}/metrics");
    let health = Arc::new(Health { monitor, watches: Mutex::default() });
    let looking = health.clone();
    tokio::spawn(async move {
        loop {
            looking.look(Instant::now());
            tokio::time::sleep(LOOK_EVERY).await;
        }
    });
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    tokio::spawn(async move {
        while let Ok(place) = places.clone().acquire_owned().await {
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let health = health.clone();
            tokio::spawn(async move {
                // Whoever asked and went away, or asks for too long, needs no answer.
                let _ = tokio::time::timeout(REQUEST_TIMEOUT, answer(stream, &health)).await;
                drop(place);
            });
        }
    });
    Ok(())
}

/// Answers one request, and closes the connection.
async fn answer(stream: TcpStream, health: &Health) -> hyper::Result<()> {
    let service = service_fn(async |request: Request<_>| Ok::<_, Infallible>(respond(&request, health)));
    let mut http = http1::Builder::new();
    http.keep_alive(false).max_buf_size(MAX_REQUEST_BYTES);
    http.serve_connection(TokioIo::new(stream), service).await
}

fn respond<B>(request: &Request<B>, health: &Health) -> Response<Full<Bytes>> {
    let (status, body) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/healthz") => match health.verdict(Instant::now()) {
            (true, text) => (StatusCode::OK, text),
            (false, text) => (StatusCode::SERVICE_UNAVAILABLE, text),
        },
        (&Method::GET | &Method::HEAD, "/metrics") => (StatusCode::OK, metrics(&health.monitor.hops())),
        (&Method::GET | &Method::HEAD, _) => {
            (StatusCode::NOT_FOUND, "there are /healthz and /metrics\n".to_owned())
        }
        _ => (StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are answered\n".to_owned()),
    };
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, TEXT);
    response
}

/// How the hops are, over time.
#[derive(Debug)]
struct Health {
    monitor: Monitor,
    /// One for each hop.
    watches: Mutex<Vec<Watch>>,
}

/// Whether a hop gets on.
#[derive(Debug, Default)]
struct Watch {
    commits: u64,
    /// What it had read when it last committed, as far as that was seen, without what is committed already.
    bytes_read: u64,
    /// What it had written by then.
    bytes_written: u64,
    /// How often it was opened.
    sessions: u64,
    /// The least that was written and not committed, at any look since then: what a session leaves behind when it
    /// fails is written again by the next one, and counted again.
    least_unsettled: u64,
    /// Since when there is more than that.
    waiting_since: Option<Instant>,
}

impl Health {
    fn look(&self, now: Instant) {
        self.update(&self.monitor.hops(), now);
    }

    fn update(&self, hops: &[HopStatus], now: Instant) -> Vec<Option<Duration>> {
        // Every change of it is whole before the next one.
        let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        while watches.len() < hops.len() {
            watches.push(Watch::default());
        }
        watches.iter_mut().zip(hops).map(|(watch, hop)| watch.update(&hop.counts, now)).collect()
    }

    /// Whether all is well, and a line for each hop.
    fn verdict(&self, now: Instant) -> (bool, String) {
        let hops = self.monitor.hops();
        let waiting = self.update(&hops, now);
        judge(&hops, &waiting)
    }
}

impl Watch {
    /// For how long something that was read has waited for a commit.
    fn update(&mut self, counts: &Counts, now: Instant) -> Option<Duration> {
        let bytes_read = counts.bytes_read.saturating_sub(counts.bytes_duplicate);
        let bytes_written = counts.bytes_written;
        let unsettled = bytes_written.saturating_sub(counts.bytes_committed);
        if counts.sessions != self.sessions {
            (self.sessions, self.least_unsettled) = (counts.sessions, unsettled);
        }
        self.least_unsettled = self.least_unsettled.min(unsettled);
        if counts.commits != self.commits {
            (self.commits, self.bytes_read, self.bytes_written) = (counts.commits, bytes_read, bytes_written);
            self.waiting_since = None;
        }
        // What is read of logs that are held is dropped: of the others it counts what was written. What came between
        // the commit and the look that noticed it waits as well.
        let is_waiting = match counts.origins_held {
            0 => bytes_read > self.bytes_read || unsettled > self.least_unsettled,
            _ => bytes_written > self.bytes_written,
        };
        if is_waiting {
            self.waiting_since.get_or_insert(now);
        } else {
            self.waiting_since = None;
        }
        self.waiting_since.map(|since| now.saturating_duration_since(since))
    }
}

fn judge(hops: &[HopStatus], waiting: &[Option<Duration>]) -> (bool, String) {
    if hops.is_empty() {
        return (false, "starting\n".to_owned());
    }
    let (mut all_well, mut text) = (true, String::new());
    for (hop, waiting) in hops.iter().zip(waiting) {
        let overdue = waiting.filter(|waiting| *waiting > OVERDUE + 2 * hop.commit_interval);
        let state = match overdue {
            _ if hop.is_finished => "finished".to_owned(),
            _ if !hop.is_open => "not open: its log says why".to_owned(),
            Some(waiting) => format!("stuck: nothing was committed for {} s", waiting.as_secs()),
            None => "ok".to_owned(),
        };
        all_well &= state == "ok" || state == "finished";
        write!(text, "{} {}: {state}", hop.pipeline, hop.hop).expect("a string takes everything");
        if hop.counts.origins_held > 0 {
            write!(text, ", {} logs held", hop.counts.origins_held).expect("a string takes everything");
        }
        let counts = &hop.counts;
        let waiting = [
            (counts.bytes_unread.filter(|bytes| *bytes > 0), "bytes unread"),
            (counts.messages_unread.filter(|messages| *messages > 0), "messages unread"),
            (counts.bytes_behind, "bytes behind"),
        ];
        for (amount, what) in waiting {
            if let Some(amount) = amount {
                write!(text, ", {amount} {what}").expect("a string takes everything");
            }
        }
        text.push('\n');
    }
    (all_well, text)
}

/// What a metric is called, whether it only grows, what it says, and where it stands.
type Metric = (&'static str, &'static str, &'static str, fn(&HopStatus) -> Option<u64>);

const METRICS: [Metric; 15] = [
    ("up", "gauge", "Whether both ends of the hop are open.", |hop| Some(hop.is_open.into())),
    ("sessions_total", "counter", "How often the hop was opened.", |hop| Some(hop.counts.sessions)),
    ("read_bytes_total", "counter", "Bytes that the source gave.", |hop| Some(hop.counts.bytes_read)),
    ("written_bytes_total", "counter", "Bytes that the sink took.", |hop| Some(hop.counts.bytes_written)),
    ("written_lines_total", "counter", "Line ends among them.", |hop| Some(hop.counts.lines_written)),
    ("written_batches_total", "counter", "The batches they came in.", |hop| Some(hop.counts.batches_written)),
    ("committed_bytes_total", "counter", "Bytes that were made durable.", |hop| {
        Some(hop.counts.bytes_committed)
    }),
    ("commits_total", "counter", "How often they were made so.", |hop| Some(hop.counts.commits)),
    ("duplicate_bytes_total", "counter", "Bytes that the sink had already.", |hop| {
        Some(hop.counts.bytes_duplicate)
    }),
    ("lost_bytes_total", "counter", "Bytes that are known to be lost.", |hop| Some(hop.counts.bytes_lost)),
    ("losses_total", "counter", "Losses, those of unknown amount included.", |hop| Some(hop.counts.losses)),
    ("held_logs", "gauge", "Logs that cannot go on now.", |hop| Some(hop.counts.origins_held)),
    ("behind_bytes", "gauge", "Bytes sent that no consumer has on its disk, where it tells.", |hop| {
        hop.counts.bytes_behind
    }),
    ("unread_bytes", "gauge", "Bytes of files that were not read yet.", |hop| hop.counts.bytes_unread),
    ("unread_messages", "gauge", "Messages of the stream that were not read yet.", |hop| {
        hop.counts.messages_unread
    }),
];

fn metrics(hops: &[HopStatus]) -> String {
    let mut text = String::new();
    for (name, kind, help, value) in METRICS {
        let values = hops.iter().filter_map(|hop| Some((hop, value(hop)?)));
        let lines = values.map(|(hop, value)| {
            let pipeline = label(&hop.pipeline);
            format!("fshipper_{name}{{pipeline=\"{pipeline}\",hop=\"{}\"}} {value}\n", hop.hop)
        });
        let lines: String = lines.collect();
        if !lines.is_empty() {
            write!(text, "# HELP fshipper_{name} {help}\n# TYPE fshipper_{name} {kind}\n{lines}")
                .expect("a string takes everything");
        }
    }
    text
}

/// The value of a label: a pipeline's name holds no control characters.
fn label(name: &str) -> String {
    name.replace('\\', r"\\").replace('"', "\\\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hop(is_open: bool, bytes_read: u64, commits: u64) -> HopStatus {
        let counts = Counts { bytes_read, commits, ..Counts::default() };
        let commit_interval = Duration::from_secs(1);
        HopStatus {
            pipeline: "we\"b".to_owned(),
            hop: "sent",
            is_open,
            is_finished: false,
            commit_interval,
            counts,
        }
    }

    /// What is said of one hop, looked at several times: after how many seconds, and how it is then.
    fn said(looks: &[(u64, HopStatus)]) -> (bool, String) {
        let health = Health { monitor: Monitor::default(), watches: Mutex::default() };
        let start = Instant::now();
        let mut said = (false, String::new());
        for (seconds, hop) in looks {
            let hops = [hop.clone()];
            said = judge(&hops, &health.update(&hops, start + Duration::from_secs(*seconds)));
        }
        said
    }

    #[test]
    fn a_hop_is_well_while_what_it_reads_is_committed() {
        assert!(said(&[(0, hop(true, 0, 0)), (500, hop(true, 0, 0))]).0, "there is nothing to do");
        assert!(said(&[(0, hop(true, 9, 0)), (500, hop(true, 9, 1))]).0);
        assert!(said(&[(0, hop(true, 9, 1)), (500, hop(true, 9, 1))]).0, "nothing came since");
        assert!(said(&[(0, hop(true, 9, 1)), (1, hop(true, 10, 1)), (60, hop(true, 11, 1))]).0);
        let mut again = hop(true, 18, 1);
        again.counts.bytes_duplicate = 9;
        assert!(said(&[(0, hop(true, 9, 1)), (1, again.clone()), (500, again)]).0, "it was there already");
    }

    #[test]
    fn a_hop_that_is_closed_or_commits_nothing_is_not_well() {
        assert_eq!(
            said(&[(0, hop(false, 0, 0))]),
            (false, "we\"b sent: not open: its log says why\n".to_owned())
        );
        let (well, text) = said(&[(0, hop(true, 9, 1)), (1, hop(true, 10, 1)), (64, hop(true, 11, 1))]);
        assert!(!well && text.contains("nothing was committed for 63 s"), "{text}");
        assert_eq!(judge(&[], &[]), (false, "starting\n".to_owned()));
    }

    #[test]
    fn what_is_held_and_behind_is_said_and_no_reason_to_be_unwell() {
        let mut held = hop(true, 0, 0);
        (held.counts.origins_held, held.counts.bytes_behind, held.counts.bytes_unread) =
            (2, Some(7), Some(5));
        let text = "we\"b sent: ok, 2 logs held, 5 bytes unread, 7 bytes behind\n";
        assert_eq!(said(&[(0, held)]), (true, text.to_owned()));
    }

    #[test]
    fn a_hop_that_has_finished_is_well() {
        let finished = HopStatus { is_finished: true, ..hop(false, 9, 1) };
        assert_eq!(said(&[(0, finished)]), (true, "we\"b sent: finished\n".to_owned()));
    }

    #[test]
    fn what_is_read_of_held_logs_is_not_waited_for_and_what_others_wrote_is() {
        let holds = |bytes_read, bytes_written| {
            let mut hop = hop(true, bytes_read, 1);
            (hop.counts.bytes_written, hop.counts.origins_held) = (bytes_written, 1);
            hop
        };
        assert!(said(&[(0, holds(9, 9)), (1, holds(20, 9)), (500, holds(30, 9))]).0);
        // Between two sessions nothing is held for a moment.
        let between = hop(true, 20, 1);
        assert!(said(&[(0, holds(9, 9)), (100, between.clone()), (101, holds(30, 9)), (200, between)]).0);
        assert!(!said(&[(0, holds(9, 9)), (1, holds(20, 10)), (500, holds(20, 10))]).0);
    }

    #[test]
    fn what_came_between_a_commit_and_the_look_that_saw_it_is_waited_for() {
        let counted = |sessions, commits, bytes_written, bytes_committed| {
            let mut hop = hop(true, bytes_written, commits);
            (hop.counts.sessions, hop.counts.bytes_written) = (sessions, bytes_written);
            hop.counts.bytes_committed = bytes_committed;
            hop
        };
        let (idle, burst) = (counted(1, 1, 9, 9), counted(1, 2, 20, 12));
        let (well, text) = said(&[(0, idle.clone()), (1, burst.clone()), (64, burst.clone())]);
        assert!(!well && text.contains("nothing was committed for 63 s"), "{text}");
        // Its session failed, and the next one wrote and committed the same once more.
        let again = counted(2, 3, 28, 20);
        assert!(said(&[(0, idle), (1, burst), (2, again.clone()), (500, again)]).0);
    }

    #[test]
    fn metrics_are_labelled_by_pipeline_and_hop() {
        let text = metrics(&[hop(true, 5, 1)]);
        let expected = "# HELP fshipper_read_bytes_total Bytes that the source gave.\n\
                        # TYPE fshipper_read_bytes_total counter\n\
                        fshipper_read_bytes_total{pipeline=\"we\\\"b\",hop=\"sent\"} 5\n";
        assert!(text.contains(expected), "{text}");
        assert!(!text.contains("behind_bytes"), "nobody tells:\n{text}");
    }

    #[test]
    fn only_what_is_there_is_answered() {
        let health = Health { monitor: Monitor::default(), watches: Mutex::default() };
        for (method, target, status) in [
            (Method::GET, "/healthz", 503),
            (Method::GET, "/metrics?x=1", 200),
            (Method::HEAD, "/metrics", 200),
            (Method::GET, "/", 404),
            (Method::POST, "/metrics", 405),
        ] {
            let request = Request::builder().method(method).uri(target).body(()).unwrap();
            assert_eq!(respond(&request, &health).status().as_u16(), status, "{target}");
        }
    }
}
