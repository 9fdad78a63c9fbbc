//! Two hops that live and die together.

use tokio::sync::mpsc;

use super::unrepeatable::{Pipe, end_of, until};
use super::*;

/// A transport that stores nothing, and whose receiver ends when it is told that nothing more comes.
#[derive(Default)]
struct Handover {
    waiting: Mutex<Option<(Checkpoint, mpsc::Sender<Batch>)>>,
    /// The mischief of the sending end.
    sent: Arc<World>,
}

struct HandoverSender {
    from: Checkpoint,
    batches: mpsc::Sender<Batch>,
    sent: Arc<World>,
}

struct HandoverReceiver {
    batches: mpsc::Receiver<Batch>,
    once: Option<CancellationToken>,
}

#[async_trait]
impl Transport for Handover {
    async fn open_sender(&self, _: Context) -> Result<Box<dyn Sink>> {
        let (from, batches) = self.waiting.lock().unwrap().take().expect("the receiver is opened first");
        Ok(Box::new(HandoverSender { from, batches, sent: self.sent.clone() }))
    }

    async fn open_receiver(&self, from: Checkpoint, context: Context) -> Result<Box<dyn Source>> {
        let (sender, batches) = mpsc::channel(1);
        *self.waiting.lock().unwrap() = Some((from, sender));
        Ok(Box::new(HandoverReceiver { batches, once: context.once }))
    }

    fn linked(&self) -> bool {
        true
    }
}

#[async_trait]
impl Sink for HandoverSender {
    async fn restore(&mut self) -> Result<Option<Checkpoint>> {
        Ok(Some(std::mem::take(&mut self.from)))
    }

    async fn write(&mut self, mut batch: Batch) -> Result<Written> {
        if take_one(&self.sent.writes_to_hold) {
            return Ok(Written::Held("the other end does not want it".to_owned()));
        }
        batch.lease = None;
        anyhow::ensure!(self.batches.send(batch).await.is_ok(), "the other end is gone");
        Ok(Written::Accepted)
    }

    async fn commit(&mut self, _: &Checkpoint) -> Result<()> {
        Ok(())
    }
}

#[async_trait]
impl Source for HandoverReceiver {
    async fn read(&mut self) -> Result<Option<Batch>> {
        let batch = self.batches.recv().await;
        if let (None, Some(nothing_more_comes)) = (&batch, &self.once) {
            nothing_more_comes.cancelled().await;
        }
        Ok(batch)
    }
}

fn handover() -> Option<(Arc<dyn Transport>, Ends)> {
    Some((Arc::new(Handover::default()), Ends::Both))
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_loses_what_cannot_be_read_again_ends_the_run_with_the_count() {
    let bench = Bench::new("");
    let pipe = Pipe::of(&["one\n", "two\n"]);
    bench.world.commits_to_fail.store(1, Ordering::Relaxed);
    let error = end_of(&bench.run_pipe(&pipe, handover())).await.unwrap_err().to_string();
    assert_eq!(error, "no space left; 8 bytes that cannot be read again were not delivered");
}

/// It is counted at the hop that the source belongs to.
#[tokio::test(start_paused = true)]
async fn what_the_source_has_in_hand_is_lost_with_the_rest() {
    let bench = Bench::new("");
    let pipe = Pipe::of(&["one\n", "two\n"]);
    *pipe.rest.lock().unwrap() = Bytes::from_static(b"no line end");
    bench.world.commits_to_fail.store(1, Ordering::Relaxed);
    let error = end_of(&bench.run_pipe(&pipe, handover())).await.unwrap_err().to_string();
    assert_eq!(error, "no space left; 19 bytes that cannot be read again were not delivered");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_again_waits_while_it_is_held() {
    let bench = Bench::new("");
    let pipe = Pipe::of(&["one\n", "two\n"]);
    bench.world.writes_to_hold.store(3, Ordering::Relaxed);
    pipe.close();
    end_of(&bench.run_pipe(&pipe, handover())).await.unwrap();
    assert_eq!(bench.world.piped(), "one\ntwo\n");
}

#[tokio::test(start_paused = true)]
async fn a_stop_ships_what_was_taken_from_the_input() {
    let bench = Bench::new("");
    let pipe = Pipe::of(&["one\n"]);
    let run = bench.run_pipe(&pipe, handover());
    let stop = async {
        until(|| run.produced.counts().bytes_read == 4).await;
        bench.stop.cancel();
    };
    let (result, ()) = tokio::join!(run.until_stopped(), stop);
    result.unwrap();
    assert_eq!(bench.world.piped(), "one\n");
}

#[tokio::test(start_paused = true)]
async fn what_the_sending_end_holds_is_sent_by_another_session() {
    let bench = Bench::new("one\ntwo\n");
    let handover = Handover::default();
    handover.sent.writes_to_hold.store(1, Ordering::Relaxed);
    let run = bench.run(true, Some((Arc::new(handover), Ends::Both)));
    end_of(&run).await.unwrap();
    assert_eq!(bench.world.text(), "one\ntwo\n");
}

#[tokio::test(start_paused = true)]
async fn the_receiving_end_hears_that_nothing_more_comes() {
    let bench = Bench::new("one\n");
    end_of(&bench.run(true, handover())).await.unwrap();
    assert_eq!(bench.world.text(), "one\n");
}

#[tokio::test(start_paused = true)]
async fn what_was_handed_over_before_the_source_failed_is_written() {
    let bench = Bench::new("one\ntwo\n");
    bench.world.source_fails_after.store(1, Ordering::Relaxed);
    let run = bench.run(false, handover());
    let stop = async {
        // Every session has one batch, and fails.
        until(|| bench.world.text() == "one\ntwo\n").await;
        bench.stop.cancel();
    };
    let (result, ()) = tokio::join!(run.until_stopped(), stop);
    result.unwrap();
}
