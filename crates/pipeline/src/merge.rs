//! Several sources as one.

use anyhow::Result;
use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::{BoxStream, SelectAll};

use crate::{Batch, Source};

/// One source that reads from all of `sources`, whichever has a batch ready, fairly.
pub(crate) fn merge(mut sources: Vec<Box<dyn Source>>) -> Box<dyn Source> {
    if sources.len() == 1 {
        return sources.remove(0);
    }
    let can_go_back = sources.iter().all(|source| source.can_go_back());
    let streams = sources.into_iter().map(|source| batches(source).boxed()).collect();
    Box::new(Merged { streams, can_go_back })
}

/// The batches of a source as a stream that ends with the input or after the first error. It makes every
/// source cancel-safe: dropping the `next` future of the stream does not drop the `read` in progress.
pub(crate) fn batches(source: Box<dyn Source>) -> impl futures::Stream<Item = Result<Batch>> {
    futures::stream::try_unfold(source, |mut source| async move {
        Ok(source.read().await?.map(|batch| (batch, source)))
    })
}

struct Merged {
    streams: SelectAll<BoxStream<'static, Result<Batch>>>,
    can_go_back: bool,
}

#[async_trait]
impl Source for Merged {
    async fn read(&mut self) -> Result<Option<Batch>> {
        self.streams.next().await.transpose()
    }

    fn can_go_back(&self) -> bool {
        self.can_go_back
    }
}
