use std::path::PathBuf;
use std::time::Duration;

use fshipper_pipeline::{Epoch, Origin, Progress};
use tokio::sync::watch;

use super::*;

fn context() -> Context {
    let settings = Settings {
        name: "test".to_owned(),
        host: "web1".to_owned(),
        state_dir: PathBuf::from("/nowhere"),
        commit_interval: Duration::from_secs(1),
        commit_bytes: 8 << 20,
        max_batch_bytes: 1_000_000,
        drain_timeout: Duration::from_secs(30),
        once: false,
    };
    let hangups = watch::Sender::new(0).subscribe();
    let (state_dir, progress) = (PathBuf::from("/nowhere"), Progress::default());
    Context { settings: Arc::new(settings), state_dir, once: None, hangups, progress }
}

fn batch(start: u64, bytes: impl Into<fshipper_pipeline::Bytes>) -> Batch {
    Batch::data(Origin::new("web1", "/l"), Epoch(1), start, bytes)
}

async fn open(from: Checkpoint) -> (Box<dyn Sink>, Box<dyn Source>) {
    let memory = Memory::default();
    let receiver = memory.open_receiver(from, context()).await.unwrap();
    (memory.open_sender(context()).await.unwrap(), receiver)
}

#[tokio::test]
async fn the_sender_restores_what_its_receiver_was_opened_with() {
    let mut from = Checkpoint::default();
    from.advance(&batch(0, "one\n"));
    let (mut sender, _receiver) = open(from).await;
    let restored = sender.restore().await.unwrap().unwrap();
    assert_eq!(restored.position(&Origin::new("web1", "/l")).unwrap().offset, 4);
    assert!(!restored.changed());
}

#[tokio::test]
async fn batches_arrive_in_order_and_the_end_is_the_end() {
    let (mut sender, mut receiver) = open(Checkpoint::default()).await;
    for (start, text) in [(0, "one\n"), (4, "two\n")] {
        assert_eq!(sender.write(batch(start, text)).await.unwrap(), Written::Accepted);
    }
    drop(sender);
    assert_eq!(receiver.read().await.unwrap().unwrap().bytes(), b"one\n");
    assert_eq!(receiver.read().await.unwrap().unwrap().bytes(), b"two\n");
    assert!(receiver.read().await.unwrap().is_none());
}

#[tokio::test(start_paused = true)]
async fn the_sender_waits_when_the_receiver_does_not_read() {
    let (mut sender, mut receiver) = open(Checkpoint::default()).await;
    let huge = vec![b'x'; 3 * MAX_WAITING_BYTES as usize];
    sender.write(batch(0, huge.clone())).await.unwrap();
    let second = sender.write(batch(huge.len() as u64, "next\n"));
    tokio::pin!(second);
    assert!(tokio::time::timeout(Duration::from_secs(60), &mut second).await.is_err());
    assert_eq!(receiver.read().await.unwrap().unwrap().bytes().len(), huge.len());
    assert_eq!(second.await.unwrap(), Written::Accepted);
}

#[tokio::test]
async fn a_write_fails_when_the_receiver_is_gone() {
    let (mut sender, receiver) = open(Checkpoint::default()).await;
    drop(receiver);
    assert!(sender.write(batch(0, "one\n")).await.is_err());
}

#[tokio::test]
async fn a_sender_without_a_receiver_is_an_error() {
    let error = Memory::default().open_sender(context()).await.err().unwrap();
    assert!(error.to_string().contains("not open"));
}

#[test]
fn one_end_alone_is_refused() {
    for ends in [Ends::Sender, Ends::Receiver] {
        assert!(Memory::default().validate(&context().settings, ends).is_err());
    }
    assert!(Memory::default().validate(&context().settings, Ends::Both).is_ok());
}
