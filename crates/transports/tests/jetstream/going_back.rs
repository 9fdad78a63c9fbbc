//! Streams that go back in time while a cursor waits.

use std::path::Path;

use fshipper_pipeline::{Batch, Checkpoint, Origin, Transport};
use fshipper_testing::NatsServer;

use crate::faults::copy;
use crate::support::{Central, context, everything, operator, plain, read, receiver};

#[tokio::test]
async fn a_stream_that_went_back_gives_others_lines_once_more_however_long_the_cursor_waits() {
    let mut server = NatsServer::jetstream();
    let nats = plain(&server);
    drop(receiver(&nats, Checkpoint::default()).await);
    send(&server, &["one"]).await;
    server.stop();
    let backup = tempfile::tempdir().unwrap();
    copy(&server.store_dir(), backup.path());
    server.restart();
    send(&server, &["two", "three"]).await;
    let mut central = everything(&nats).await;
    let mut expected = "one\ntwo\nthree\n".to_owned();
    assert_arrived(&central, &expected);

    for (sent, comes) in [(&["four", "five"], "one\nfour\nfive\n"), (&["six", "seven"], "one\nsix\nseven\n")]
    {
        go_back(&mut server, backup.path());
        send(&server, sent).await;
        expected += comes;
        // A log that waits keeps the cursor where it is.
        for _ in 0..3 {
            let mut receiver = nats.open_receiver(central.checkpoint.clone(), context(true)).await.unwrap();
            while let Some(batch) = read(&mut *receiver).await {
                central.take(Batch { cursor: None, ..batch });
            }
            assert_arrived(&central, &expected);
        }
    }
}

/// A power cut before the server's fsync: it has forgotten what it acknowledged.
fn go_back(server: &mut NatsServer, backup: &Path) {
    server.stop();
    std::fs::remove_dir_all(server.store_dir()).unwrap();
    copy(backup, &server.store_dir());
    server.restart();
}

async fn send(server: &NatsServer, lines: &[&'static str]) {
    let operator = operator(server).await;
    for line in lines {
        operator.publish("shipper.web2.app", (*line).into()).await.unwrap().await.unwrap();
    }
}

fn assert_arrived(central: &Central, expected: &str) {
    let file = central.file(&Origin::new("web2", "shipper.web2.app"));
    assert_eq!(String::from_utf8_lossy(file), expected);
}
