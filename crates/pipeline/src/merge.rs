//! Several sources as one.

use anyhow::Result;
use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::{BoxStream, SelectAll};
use tokio_util::sync::CancellationToken;

use crate::{Batch, Source};

/// One source that reads from all of `sources`, whichever has a batch ready, fairly.
pub(crate) fn merge(mut sources: Vec<Box<dyn Source>>) -> Box<dyn Source> {
    if sources.len() == 1 {
        return sources.remove(0);
    }
    let can_go_back = sources.iter().all(|source| source.can_go_back());
    let draining = CancellationToken::new();
    let streams = sources.into_iter().map(|source| batches(source, draining.clone()).boxed()).collect();
    Box::new(Merged { streams, can_go_back, draining })
}

/// The batches of a source as a stream that ends with the input, after the first error, or with what it gives
/// when it is asked to drain. It makes every source cancel-safe: dropping the `next` future of the stream does not
/// drop the `read` in progress.
fn batches(
    source: Box<dyn Source>,
    draining: CancellationToken,
) -> impl futures::Stream<Item = Result<Batch>> {
    let state = (source, draining, false);
    futures::stream::try_unfold(state, |(mut source, draining, mut is_draining)| async move {
        let mut next = None;
        if !is_draining {
            tokio::select! {
                biased;
                () = draining.cancelled() => {}
                read = source.read() => next = Some(read?),
            }
        }
        let next = match next {
            Some(next) => next,
            None => {
                is_draining = is_draining || source.drain();
                if is_draining { source.read().await? } else { None }
            }
        };
        Ok(next.map(|batch| (batch, (source, draining, is_draining))))
    })
}

struct Merged {
    streams: SelectAll<BoxStream<'static, Result<Batch>>>,
    can_go_back: bool,
    draining: CancellationToken,
}

#[async_trait]
impl Source for Merged {
    async fn read(&mut self) -> Result<Option<Batch>> {
        self.streams.next().await.transpose()
    }

    fn can_go_back(&self) -> bool {
        self.can_go_back
    }

    fn drain(&mut self) -> bool {
        self.draining.cancel();
        true
    }
}
