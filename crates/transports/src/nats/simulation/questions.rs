//! Questions to the stream, without the ends around them: over a line that is too slow for the payload of a message,
//! and where somebody else has published.

use std::time::Duration;

use async_nats::message::OutboundMessage;
use async_nats::{HeaderMap, Subject};
use fshipper_pipeline::{Batch, Epoch, Origin};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::super::api::Api;
use super::super::client::Client;
use super::super::config::Framing;
use super::super::connect::Connection;
use super::super::events::Events;
use super::super::foreign::Foreign;
use super::super::ingest::Pace;
use super::super::load::Load;
use super::super::outcome::Stop;
use super::super::overdue::Overdue;
use super::super::places::Places;
use super::super::pull::Until;
use super::super::requests::Requests;
use super::super::restore::Tail;
use super::super::session::{Place, Reached, Session};
use super::super::shipper::Shipper;
use super::super::stream::Stream;
use super::super::subject::Subjects;
use super::super::wire::{self, Encoding};
use super::network::Network;

/// A client, and the stream that it asks.
struct Line {
    network: Network,
    api: Api,
    stream: Stream,
    subjects: Subjects,
    /// Moves messages; it ends with this struct.
    _moving: JoinSet<()>,
}

const LONGEST: usize = 1 << 10;

const EPOCH: Epoch = Epoch(7);

impl Line {
    /// One that brings no message of more than a kilobyte.
    async fn slow() -> Self {
        let line = Self::new().await;
        line.network.weather(|weather| weather.longest = LONGEST);
        line
    }

    async fn new() -> Self {
        let network = Network::new(1, 1 << 20, None);
        let mut moving = JoinSet::new();
        moving.spawn(network.clone().run());
        let events = Events::new("nats://simulated".to_owned());
        let client = network.connect("client", &events, 256, 256).expect("the server is up");
        let connection = Connection::simulated(Client::Simulated(client), events);
        let api = Api::new(Requests::new(connection).await.unwrap());
        let config = json!({
            "name": "LOGS", "subjects": ["s.>", "other"], "allow_direct": true, "allow_batched": true,
        });
        let stream = Stream::create_as(&api, "LOGS", &config).await.unwrap();
        Self { network, api, stream, subjects: Subjects::new("s", None, true), _moving: moving }
    }

    /// Stores a message on `subject` from elsewhere.
    fn store(&self, subject: &str, headers: Option<HeaderMap>, payload: Vec<u8>) {
        let (subject, payload) = (Subject::from(subject), payload.into());
        self.network.publish(OutboundMessage { subject, reply: None, headers, payload });
    }

    fn store_batch(&self, batch: &Batch) {
        let wire::Message { headers, payload } = wire::encode(batch, Encoding::default());
        self.store(&self.subjects.publish(&batch.origin), Some(headers), payload.into());
    }

    fn shipper(&self) -> Shipper {
        let (api, stream, subjects) = (self.api.clone(), self.stream.clone(), self.subjects.clone());
        Shipper::new(api, stream, subjects, Framing::Batch, Encoding::default(), 1 << 20)
    }

    /// Stores a batch that is too long for a slow line.
    fn shipper_with_a_long_message(&self) -> (Shipper, Batch) {
        let batch = Batch::data(Origin::new("h", "/l"), EPOCH, 0, vec![b'x'; 2 * LONGEST]);
        self.store_batch(&batch);
        (self.shipper(), batch)
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_stream_has_of_a_log_is_answered_over_a_slow_line() {
    let line = Line::slow().await;
    let (shipper, batch) = line.shipper_with_a_long_message();
    let subject = Subject::from(line.subjects.publish(&batch.origin));
    let last = shipper.ask(&subject, 0).await.unwrap().unwrap();
    assert_eq!(Tail::from(last), Tail { sequence: 1, end: Some((EPOCH, batch.end())) });
    let asked = Instant::now();
    assert!(shipper.ask(&subject, 0).await.unwrap().is_some());
    assert!(asked.elapsed() < Duration::from_secs(1), "the payload is not waited for a second time");
}

#[tokio::test(start_paused = true)]
async fn a_break_while_a_payload_is_waited_for_is_taken_for_its_fault() {
    let line = Line::slow().await;
    let (shipper, batch) = line.shipper_with_a_long_message();
    let subject = Subject::from(line.subjects.publish(&batch.origin));
    let cuts = async {
        loop {
            // Sooner than the answer is given up.
            tokio::time::sleep(Duration::from_secs(8)).await;
            line.network.cut("client");
        }
    };
    let asking = tokio::time::timeout(Duration::from_secs(60), shipper.ask(&subject, 0));
    let answer = tokio::select! {
        answer = asking => answer,
        () = cuts => unreachable!("they go on for ever"),
    };
    assert_eq!(answer.unwrap().unwrap().unwrap().sequence, 1);
}

#[tokio::test(start_paused = true)]
async fn the_newest_message_is_looked_for_after_a_break_without_its_payload() {
    let line = Line::slow().await;
    let (shipper, batch) = line.shipper_with_a_long_message();
    shipper.note_restored(&batch.origin, &Tail { sequence: 1, end: Some((EPOCH, batch.end())) });
    line.network.cut("client");
    tokio::time::timeout(Duration::from_secs(60), async {
        while shipper.connects() == 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
    // The client gives up a line over which nothing comes for fifteen seconds, and the answer is ten late at most.
    let looking = tokio::time::timeout(Duration::from_secs(5), shipper.is_whole());
    assert!(looking.await.unwrap().unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_consumer_goes_on_after_a_message_that_is_too_long_for_the_line() {
    let line = Line::slow().await;
    line.store("s.h", None, vec![b'x'; 2 * LONGEST]);
    line.store("s.h", None, b"short".to_vec());
    line.store("other", None, b"not read".to_vec());
    line.network.weather(|weather| weather.longest = usize::MAX);
    let filters = ["s.>".to_owned()];
    let foreign = Foreign::default();
    let open = async |place: Option<&Place>| {
        let stream = line.stream.refreshed(&line.api).await.unwrap();
        let reached = Reached { place, foreign: &foreign };
        Session::open(&line.api, &stream, &filters, reached, Until::Forever).await.unwrap()
    };
    let mut session = open(None).await;
    let first = session.consumer.next().await.unwrap().unwrap();
    let place = Place { base: session.base, sequence: first.sequence, time: first.time };

    line.network.weather(|weather| weather.longest = LONGEST);
    let mut session = tokio::time::timeout(Duration::from_secs(5), open(Some(&place))).await.unwrap();
    assert!(session.continues);
    assert_eq!(session.consumer.next().await.unwrap().unwrap().sequence, 2);

    let another = Place { time: place.time + 1, ..place.clone() };
    assert!(!open(Some(&another)).await.continues, "the sequence was given again");
    line.network.change(|broker| broker.delete_message("LOGS", 1));
    assert!(!open(Some(&place)).await.continues, "nothing proves it any more");
}

#[tokio::test(start_paused = true)]
async fn reading_to_the_end_ends_behind_messages_for_others_that_are_too_long_for_the_line() {
    let line = Line::slow().await;
    line.store("s.h", None, vec![b'x'; 2 * LONGEST]);
    line.store("other", None, vec![b'x'; 2 * LONGEST]);
    let mut overdue = Overdue::new(&line.api, &line.stream, &["s.>".to_owned()], 1);
    overdue.came(1);
    assert!(overdue.is_nothing().await.unwrap());
    line.store("s.h", None, vec![b'x'; 2 * LONGEST]);
    assert!(!overdue.is_nothing().await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn what_never_comes_is_an_error_before_the_session_counts_as_a_good_one() {
    let line = Line::slow().await;
    line.store("s.h", None, b"never comes".to_vec());
    let mut overdue = Overdue::new(&line.api, &line.stream, &["s.>".to_owned()], 1);
    let opened = Instant::now();
    let mut heartbeats = tokio::time::interval_at(opened + Duration::from_secs(5), Duration::from_secs(5));
    let missed = async {
        loop {
            heartbeats.tick().await;
            if let Err(error) = overdue.at_heartbeat().await {
                break error;
            }
        }
    };
    let error = tokio::time::timeout(Duration::from_secs(120), missed).await.unwrap();
    assert!(error.to_string().contains("holds the message 1"), "{error:#}");
    assert!(opened.elapsed() < Duration::from_secs(30), "{:?}", opened.elapsed());
}

/// A shipper that has published up to the offset 4, while somebody else went on from there with other bytes.
async fn with_a_rival() -> (Line, Shipper, Tail) {
    let line = Line::new().await;
    line.store_batch(&batch(0, "one\n"));
    line.store_batch(&batch(4, "xxx\n"));
    let shipper = line.shipper();
    (line, shipper, Tail { sequence: 1, end: Some((EPOCH, 4)) })
}

fn batch(start: u64, text: &'static str) -> Batch {
    Batch::data(Origin::new("h", "/l"), EPOCH, start, text)
}

fn is_a_rivals(result: Result<Tail, Stop>) -> bool {
    matches!(result, Err(Stop::Failed(error)) if error.to_string().contains("holds other bytes from 4 to 8"))
}

#[tokio::test(start_paused = true)]
async fn what_somebody_else_published_is_not_taken_for_a_publish_of_ours() {
    let (_line, shipper, tail) = with_a_rival().await;
    let ours = batch(4, "two\nthree\n");
    let places = Places::of(&ours);
    assert!(is_a_rivals(shipper.ship(Some(tail), ours, &places).await));
}

#[tokio::test(start_paused = true)]
async fn what_somebody_else_published_is_not_taken_for_a_message_of_a_fast_batch() {
    let (_line, shipper, tail) = with_a_rival().await;
    let waiting = [batch(4, "t"), batch(5, "wo\nthree\n")].into();
    let (load, fed) = (Load::new(1 << 20), mpsc::channel(1).1);
    let ingested = shipper.ingest(tail, waiting, fed, &load, Pace::default()).await;
    assert!(is_a_rivals(ingested.result));
}
