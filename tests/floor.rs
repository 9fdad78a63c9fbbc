//! The commit floor: what the broker loses comes again from the source.

use std::fs;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::stream::State;
use fshipper_testing::{DEADLINE, LogWriter, NatsServer, Running};

use crate::support::{Pipeline, Scene, assert_identical, length};

const OUTPUT: &str = "out/web1.example.net.log";

/// A pair of pipelines, and what runs of them.
struct Pair {
    scene: Scene,
    server: NatsServer,
    log: LogWriter,
    running: [Option<Running>; 2],
}

const FILES: [&str; 2] = ["producer.toml", "consumer.toml"];
const PRODUCER: usize = 0;
const CONSUMER: usize = 1;

impl Pair {
    /// With these keys in the `stream` of the consumer.
    fn with(seed: u64, keys: &str) -> Self {
        let (scene, server) = (Scene::new(), NatsServer::jetstream());
        let stream = |keys: &str| format!("stream = {{ name = 'LOGS', create = true{keys} }}");
        Pipeline::new().tail("app.log*").nats(&server.url(), &stream("")).write(&scene, FILES[PRODUCER]);
        let consumer = Pipeline::new().nats(&server.url(), &stream(keys));
        consumer.rotating_file("out/{host}.log").write(&scene, FILES[CONSUMER]);
        let log = scene.log("app.log", seed);
        Self { scene, server, log, running: [None, None] }
    }

    fn new(seed: u64) -> Self {
        Self::with(seed, "")
    }

    fn start(&mut self, which: usize) {
        self.running[which] = Some(self.scene.run(&[FILES[which]]).start());
    }

    /// Stops one, and says what it said.
    fn stop(&mut self, which: usize) -> String {
        let running = self.running[which].take().expect("it runs");
        running.stop(DEADLINE).expect_code(0).stderr
    }

    fn start_both(&mut self) {
        self.start(PRODUCER);
        self.start(CONSUMER);
    }

    #[track_caller]
    fn assert_arrives(&self) {
        self.scene.assert_arrives(self.log.expected(), OUTPUT);
    }

    /// Writes lines in so many portions, each a message of its own.
    async fn write_messages(&mut self, count: u64) {
        for _ in 0..count {
            let before = self.state("LOGS").await.map_or(0, |state| state.last_sequence);
            self.log.write_lines(100);
            eventually("a message is stored", async || {
                self.state("LOGS").await.is_some_and(|state| state.last_sequence > before)
            })
            .await;
        }
    }

    async fn jetstream(&self) -> jetstream::Context {
        jetstream::new(async_nats::connect(self.server.url()).await.unwrap())
    }

    async fn state(&self, stream: &str) -> Option<State> {
        let stream = self.jetstream().await.get_stream(stream).await.ok()?;
        Some(stream.cached_info().state.clone())
    }

    /// The one notice that there is.
    async fn notice(&self) -> String {
        let Ok(stream) = self.jetstream().await.get_stream("LOGS_floor").await else { return String::new() };
        let message = stream.get_last_raw_message_by_subject("shipper-floor.>").await;
        message.map(|message| String::from_utf8(message.payload.to_vec()).unwrap()).unwrap_or_default()
    }

    async fn wait_for_floor(&self, end: u64) {
        let expected = format!(" end={end} ");
        eventually("the floor is told", async || self.notice().await.contains(&expected)).await;
    }

    fn wipe_the_broker(&mut self) {
        self.server.stop();
        fs::remove_dir_all(self.server.store_dir()).unwrap();
        self.server.restart();
    }

    /// How many bytes the data stream holds.
    async fn stored(&self) -> u64 {
        self.state("LOGS").await.map_or(0, |state| state.bytes)
    }

    /// Deletes these messages from the data stream.
    async fn delete(&self, sequences: impl IntoIterator<Item = u64>) {
        let stream = self.jetstream().await.get_stream("LOGS").await.unwrap();
        for sequence in sequences {
            assert!(stream.delete_message(sequence).await.unwrap(), "there is a message {sequence}");
        }
    }
}

/// Polls something outside, with a deadline.
async fn eventually(what: &str, condition: impl AsyncFn() -> bool) {
    let start = std::time::Instant::now();
    while !condition().await {
        assert!(start.elapsed() < DEADLINE, "{what}: not within {DEADLINE:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_floor_is_what_is_on_the_central_disk() {
    let mut pair = Pair::new(1);
    pair.start_both();
    pair.log.write_lines(1000);
    pair.assert_arrives();
    let end = length(pair.log.expected());
    pair.wait_for_floor(end).await;
    assert!(pair.notice().await.contains("consumer=web1.example.net/consumer "), "{}", pair.notice().await);
    // What the last commit covers is told before the end.
    pair.log.write_lines(1000);
    pair.assert_arrives();
    pair.stop(CONSUMER);
    pair.wait_for_floor(length(pair.log.expected())).await;
    let said = pair.stop(PRODUCER);
    assert!(said.contains("behind_bytes=0"), "{said}");

    // The lag is what the consumer does not have.
    pair.start(PRODUCER);
    pair.log.write_lines(10);
    let behind = length(pair.log.expected()) - length(&pair.scene.path(OUTPUT));
    let before = pair.state("LOGS").await.unwrap().last_sequence;
    eventually("it is in the stream", async || pair.state("LOGS").await.unwrap().last_sequence > before)
        .await;
    let said = pair.stop(PRODUCER);
    assert!(said.contains(&format!("behind_bytes={behind}")), "{behind}: {said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_forgot_everything_gets_what_nobody_has() {
    let mut pair = Pair::new(2);
    pair.start_both();
    pair.log.write_lines(20_000);
    pair.assert_arrives();
    let committed = length(pair.log.expected());
    pair.wait_for_floor(committed).await;
    pair.wipe_the_broker();
    pair.log.write_lines(100);
    pair.assert_arrives();
    assert!(pair.stored().await < committed / 2, "only what is new was sent: {}", pair.stored().await);
    pair.wait_for_floor(length(pair.log.expected())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_wiped_while_the_consumer_is_down_gets_what_the_consumer_lacks() {
    let mut pair = Pair::new(3);
    pair.start_both();
    pair.log.write_lines(20_000);
    pair.assert_arrives();
    let committed = length(pair.log.expected());
    pair.wait_for_floor(committed).await;
    pair.stop(CONSUMER);
    pair.write_messages(3).await;
    pair.wipe_the_broker();
    pair.log.write_lines(100);
    eventually("it is in the new stream", async || pair.stored().await > 0).await;
    pair.start(CONSUMER);
    pair.assert_arrives();
    assert!(pair.stored().await < committed / 2, "only what it lacks was sent: {}", pair.stored().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_that_lost_its_state_goes_on_at_the_floor_of_a_wiped_broker() {
    let mut pair = Pair::new(4);
    pair.start_both();
    pair.log.write_lines(10_000);
    pair.log.rotate_numbered();
    pair.log.write_lines(10_000);
    pair.assert_arrives();
    let committed = length(pair.log.expected());
    pair.wait_for_floor(committed).await;
    pair.stop(PRODUCER);
    pair.log.write_lines(50);
    pair.wipe_the_broker();
    fs::remove_dir_all(pair.scene.path(".local/state/fshipper/producer")).unwrap();
    // The consumer makes both streams again, and tells again.
    pair.wait_for_floor(committed).await;
    pair.start(PRODUCER);
    pair.log.write_lines(50);
    pair.assert_arrives();
    assert!(pair.stored().await < committed / 2, "only what is new was sent: {}", pair.stored().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_deleted_before_they_were_read_are_sent_again() {
    let mut pair = Pair::new(5);
    pair.start_both();
    pair.write_messages(2).await;
    pair.assert_arrives();
    pair.stop(CONSUMER);
    pair.write_messages(6).await;
    pair.delete([4, 5, 7]).await;
    pair.start(CONSUMER);
    pair.assert_arrives();
    // It goes on, and nothing is asked for any more.
    pair.write_messages(2).await;
    pair.assert_arrives();
    pair.wait_for_floor(length(pair.log.expected())).await;
    let said = pair.stop(CONSUMER);
    assert!(said.contains("lost_bytes=0") && said.contains("asking for them again"), "{said}");
    let said = pair.stop(PRODUCER);
    assert!(said.contains("sending everything from there on again"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_and_a_producer_killed_while_bytes_are_sent_again_lose_nothing() {
    let mut pair = Pair::new(6);
    pair.start(PRODUCER);
    pair.write_messages(8).await;
    pair.delete([2, 3, 6]).await;
    for _ in 0..3 {
        pair.start(CONSUMER);
        eventually("bytes are asked for", async || pair.notice().await.contains(" from=")).await;
        for which in [CONSUMER, PRODUCER] {
            pair.running[which].take().unwrap().kill();
        }
        pair.start(PRODUCER);
    }
    pair.start(CONSUMER);
    pair.write_messages(1).await;
    pair.assert_arrives();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_source_lost_too_is_recorded_in_band() {
    let mut pair = Pair::new(7);
    pair.start_both();
    pair.write_messages(1).await;
    pair.assert_arrives();
    let before = length(pair.log.expected());
    pair.stop(CONSUMER);
    pair.write_messages(2).await;
    let lost = length(pair.log.expected()) - before;
    pair.write_messages(1).await;
    pair.stop(PRODUCER);
    pair.log.rotate_numbered();
    fs::remove_file(pair.scene.path("logs/app.log.1")).unwrap();
    pair.log.write_lines(10);
    pair.delete([2, 3]).await;
    pair.start_both();
    // What the stream still holds is not lost with the rest.
    let output = pair.scene.path(OUTPUT);
    let expected = fs::read(pair.log.expected()).unwrap();
    eventually("the rest arrives", async || length(&output) + lost >= expected.len() as u64).await;
    pair.log.write_lines(10);
    let expected = fs::read(pair.log.expected()).unwrap();
    eventually("and what follows", async || length(&output) + lost >= expected.len() as u64).await;
    let said = pair.stop(CONSUMER);
    let written = fs::read(&output).unwrap();
    assert!(written[..before as usize] == expected[..before as usize]);
    assert!(written[before as usize..] == expected[(before + lost) as usize..], "{said}");
    assert!(said.contains(&format!("lost_bytes={lost} ")), "{lost}: {said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_producer_the_loss_is_recorded_when_the_wait_is_over() {
    let mut pair = Pair::with(8, ", gap_wait = '3s'");
    pair.start(PRODUCER);
    pair.write_messages(4).await;
    pair.stop(PRODUCER);
    pair.delete([2, 3]).await;
    let expected = fs::read(pair.log.expected()).unwrap();
    pair.start(CONSUMER);
    eventually("bytes are asked for", async || pair.notice().await.contains(" from=")).await;
    let output = pair.scene.path(OUTPUT);
    let quarter = length(&output);
    eventually("the rest is written", async || length(&output) > quarter).await;
    let said = pair.stop(CONSUMER);
    let written = fs::read(&output).unwrap();
    let lost = expected.len() - written.len();
    assert!(said.contains(&format!("lost_bytes={lost}")) && lost > 0, "{lost}: {said}");
    assert!(said.contains("they did not come within 3s"), "{said}");
    assert!(expected.ends_with(&written[quarter as usize..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn purging_leaves_the_last_message_and_everybody_goes_on() {
    let mut pair = Pair::with(9, ", purge = true");
    pair.start_both();
    pair.write_messages(20).await;
    pair.assert_arrives();
    eventually("only the last message is left", async || {
        let state = pair.state("LOGS").await.unwrap();
        (state.messages, state.first_sequence) == (1, state.last_sequence)
    })
    .await;
    for which in [PRODUCER, CONSUMER] {
        pair.stop(which);
        pair.start(which);
        pair.write_messages(2).await;
        pair.assert_arrives();
    }
    let said = pair.stop(CONSUMER);
    assert!(said.contains("duplicate_bytes=0") && !said.contains("from its first message"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_stream_everything_works_and_one_warning_says_so() {
    let mut pair = Pair::with(10, "");
    let stream = jetstream::stream::Config {
        name: "LOGS".to_owned(),
        subjects: vec!["shipper".to_owned(), "shipper.>".to_owned()],
        discard: jetstream::stream::DiscardPolicy::New,
        allow_direct: true,
        ..Default::default()
    };
    pair.jetstream().await.create_stream(stream).await.unwrap();
    for file in FILES {
        let text = fs::read_to_string(pair.scene.path(file)).unwrap();
        pair.scene.write(file, text.replace(", create = true", ""));
    }
    pair.start_both();
    pair.write_messages(3).await;
    pair.assert_arrives();
    for which in [PRODUCER, CONSUMER] {
        let said = pair.stop(which);
        let warnings: Vec<_> = said.lines().filter(|line| line.contains("WARN")).collect();
        assert_eq!(warnings.len(), 1, "{said}");
        assert!(warnings[0].contains("there is no stream `LOGS_floor`: create it"), "{said}");
        assert!(!said.contains("ERROR"), "{said}");
    }
    assert_identical(pair.log.expected(), &pair.scene.path(OUTPUT));
}

#[test]
fn once_fails_when_bytes_are_missing_and_ends_well_when_they_came() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let mut pair = Pair::new(11);
        pair.start(PRODUCER);
        pair.write_messages(4).await;
        pair.stop(PRODUCER);
        pair.delete([2]).await;
        let run = |file| pair.scene.run(&["--once", file]).finish();
        let failed = run(FILES[CONSUMER]).expect_code(1);
        assert!(failed.stderr.contains("are missing from the transport"), "{}", failed.stderr);
        assert!(pair.notice().await.contains(" from="), "{}", pair.notice().await);
        run(FILES[PRODUCER]).expect_code(0);
        run(FILES[CONSUMER]).expect_code(0);
        assert_identical(pair.log.expected(), &pair.scene.path(OUTPUT));
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn two_consumers_that_both_tell_are_named_to_the_producer_and_lose_nothing() {
    let mut pair = Pair::new(12);
    let stream = "stream = { name = 'LOGS', create = true }";
    let other = Pipeline::new().nats(&pair.server.url(), stream);
    other.rotating_file("other/{host}.log").write(&pair.scene, "other.toml");
    pair.start_both();
    let running = pair.scene.run(&["other.toml"]).start();
    let deadline = std::time::Instant::now() + DEADLINE;
    let says = |pair: &Pair| pair.running[PRODUCER].as_ref().expect("it runs").stderr();
    while !says(&pair).contains("both tell how far they have") {
        assert!(std::time::Instant::now() < deadline, "{}", says(&pair));
        pair.write_messages(1).await;
    }
    let said = says(&pair);
    let warning = said.lines().find(|line| line.contains("both tell how far")).unwrap();
    for part in ["/consumer`", "/other`", "`floor = false`"] {
        assert!(warning.contains(part), "{warning}");
    }
    pair.assert_arrives();
    pair.scene.assert_arrives(pair.log.expected(), "other/web1.example.net.log");
    running.stop(DEADLINE).expect_code(0);
}
