//! What these tests share: a table, a central file, a way to wait.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream;
use fshipper_pipeline::{
    Admission, Batch, Checkpoint, Content, Context, Epoch, Origin, Progress, Settings, Sink, Source,
    Transport, Written,
};
use fshipper_testing::{DEADLINE, NatsServer};
use fshipper_transports::Nats;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The host of every test's logs.
pub(crate) const HOST: &str = "web1.example.net";

/// The epoch of every test's logs.
pub(crate) const EPOCH: Epoch = Epoch(0x1234);

/// A table with the stream `LOGS`, created when it is missing, and what `more` changes.
pub(crate) fn table(url: &str, more: Value) -> Nats {
    let mut table = json!({
        "servers": url,
        "subject": "shipper",
        "stream": { "name": "LOGS", "create": true },
    });
    let Value::Object(more) = more else { panic!("a table") };
    table.as_object_mut().unwrap().extend(more);
    serde_json::from_value(table).unwrap()
}

/// The table with nothing changed.
pub(crate) fn plain(server: &NatsServer) -> Nats {
    table(&server.url(), json!({}))
}

pub(crate) fn context(once: bool) -> Context {
    let token = once.then(CancellationToken::new);
    if let Some(token) = &token {
        token.cancel();
    }
    Context {
        settings: settings(1_000_000),
        state_dir: PathBuf::new(),
        once: token,
        hangups: watch::channel(0).1,
        progress: Progress::default(),
    }
}

pub(crate) fn settings(max_batch_bytes: usize) -> Arc<Settings> {
    Arc::new(Settings {
        name: "test".to_owned(),
        host: HOST.to_owned(),
        state_dir: PathBuf::new(),
        commit_interval: Duration::from_secs(1),
        commit_bytes: 8 << 20,
        max_batch_bytes,
        drain_timeout: Duration::from_secs(30),
        once: false,
    })
}

pub(crate) fn log(path: &str) -> Origin {
    Origin::new(HOST, path)
}

/// A sender that has restored, and what it restored.
pub(crate) async fn sender(nats: &Nats) -> (Box<dyn Sink>, Checkpoint) {
    sender_in(nats, context(false)).await
}

pub(crate) async fn sender_in(nats: &Nats, context: Context) -> (Box<dyn Sink>, Checkpoint) {
    let mut sender = nats.open_sender(context).await.unwrap();
    let checkpoint = sender.restore().await.unwrap().expect("a stream keeps positions");
    (sender, checkpoint)
}

pub(crate) async fn write(sender: &mut dyn Sink, origin: &Origin, start: u64, bytes: impl Into<Vec<u8>>) {
    let batch = Batch::data(origin.clone(), EPOCH, start, bytes.into());
    assert_eq!(sender.write(batch).await.unwrap(), Written::Accepted);
}

pub(crate) async fn commit(sender: &mut dyn Sink) {
    let checkpoint = Checkpoint::default();
    let commit = sender.commit(&checkpoint);
    tokio::time::timeout(DEADLINE, commit).await.expect("the commit returns in time").unwrap();
}

/// Publishes `bytes` as one batch, from the start of a log.
pub(crate) async fn publish(nats: &Nats, origin: &Origin, bytes: impl Into<Vec<u8>>) {
    let (mut sender, _) = sender(nats).await;
    write(&mut *sender, origin, 0, bytes).await;
    commit(&mut *sender).await;
}

pub(crate) async fn receiver(nats: &Nats, from: Checkpoint) -> Box<dyn Source> {
    nats.open_receiver(from, context(false)).await.unwrap()
}

/// A batch, or a failure when none comes in time.
pub(crate) async fn read(receiver: &mut dyn Source) -> Option<Batch> {
    tokio::time::timeout(DEADLINE, receiver.read()).await.expect("a batch comes in time").unwrap()
}

/// Everything that the stream holds now for `nats`, put together as a sink does.
pub(crate) async fn everything(nats: &Nats) -> Central {
    let mut central = Central::default();
    let mut receiver = nats.open_receiver(Checkpoint::default(), context(true)).await.unwrap();
    while let Some(batch) = read(&mut *receiver).await {
        central.take(batch);
    }
    central
}

/// The files of a sink, and its ledger.
#[derive(Default)]
pub(crate) struct Central {
    pub(crate) checkpoint: Checkpoint,
    files: HashMap<Origin, Vec<u8>>,
    /// How many batches came, known or not.
    pub(crate) batches: usize,
    /// Records of a loss, and gaps.
    pub(crate) losses: Vec<String>,
}

impl Central {
    pub(crate) fn take(&mut self, mut batch: Batch) {
        self.batches += 1;
        let cursor = batch.cursor.take();
        match self.checkpoint.admit(&batch) {
            Admission::Pass => self.append(batch),
            Admission::Cut(count) => {
                batch.cut_front(count);
                self.append(batch);
            }
            Admission::Duplicate => {}
            Admission::Gap { expected } => {
                self.losses.push(format!("gap {expected}..{}", batch.start));
                self.append(batch);
            }
            stale @ Admission::Stale { .. } => panic!("{stale:?} {batch:?}"),
        }
        if let Some(cursor) = cursor {
            self.checkpoint.set_cursor(&cursor);
        }
    }

    fn append(&mut self, batch: Batch) {
        self.checkpoint.advance(&batch);
        match batch.content {
            Content::Data(bytes) => self.files.entry(batch.origin).or_default().extend_from_slice(&bytes),
            Content::Loss { missing, reason } => self.losses.push(format!("{missing} {reason}")),
        }
    }

    pub(crate) fn file(&self, origin: &Origin) -> &[u8] {
        self.files.get(origin).map_or(&[], Vec::as_slice)
    }

    /// Reads until `origin` has so many bytes.
    pub(crate) async fn read_to(&mut self, receiver: &mut dyn Source, origin: &Origin, length: usize) {
        while self.file(origin).len() < length {
            self.take(read(receiver).await.expect("the stream goes on"));
        }
    }
}

/// Numbered lines, at least `length` bytes of them.
pub(crate) fn lines(length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length + 100);
    for number in 0.. {
        if bytes.len() >= length {
            break;
        }
        bytes.extend_from_slice(
            format!("line {number:09} of a log that is shipped somewhere else\n").as_bytes(),
        );
    }
    bytes
}

/// Cuts after lines into pieces of about `length` bytes, with where each starts.
pub(crate) fn pieces(bytes: &[u8], length: usize) -> Vec<(u64, &[u8])> {
    let (mut pieces, mut start) = (Vec::new(), 0);
    while start < bytes.len() {
        let least = (start + length).min(bytes.len()) - 1;
        let end =
            least + memchr::memchr(b'\n', &bytes[least..]).map_or(bytes.len() - least, |newline| newline + 1);
        pieces.push((start as u64, &bytes[start..end]));
        start = end;
    }
    pieces
}

/// JetStream, as an operator uses it.
pub(crate) async fn operator(server: &NatsServer) -> jetstream::Context {
    jetstream::new(async_nats::connect(server.url()).await.unwrap())
}

/// The stream `LOGS` as an operator might have made it, changed by `change`.
pub(crate) async fn make_stream(server: &NatsServer, change: impl FnOnce(&mut jetstream::stream::Config)) {
    let mut config = jetstream::stream::Config {
        name: "LOGS".to_owned(),
        subjects: vec!["shipper".to_owned(), "shipper.>".to_owned()],
        discard: jetstream::stream::DiscardPolicy::New,
        allow_direct: true,
        ..Default::default()
    };
    change(&mut config);
    operator(server).await.create_stream(config).await.unwrap();
}

/// How many messages the stream `LOGS` holds.
pub(crate) async fn messages(server: &NatsServer) -> u64 {
    let stream = operator(server).await.get_stream("LOGS").await.unwrap();
    stream.cached_info().state.messages
}

/// The whole error of an end that cannot be opened.
pub(crate) fn text<T>(result: anyhow::Result<T>) -> String {
    match result {
        Ok(_) => panic!("it is an error"),
        Err(error) => format!("{error:#}"),
    }
}
