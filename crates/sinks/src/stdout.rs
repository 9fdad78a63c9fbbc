//! The sink that writes to standard output: [`Stdout`].
//!
//! Bytes go out as they came, unbuffered. A reader that is slower than the pipeline holds it up, which is
//! the backpressure; a reader that is gone ends it. Lines of several origins are mixed but stay whole: a
//! line that one of them has not finished is ended before another one writes.
//!
//! It keeps no positions, so delivery is at least once: after a crash, lines since the last commit come
//! again.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use fshipper_pipeline::anyhow::{Context as _, Result};
use fshipper_pipeline::{
    Batch, Bytes, Checkpoint, Content, Context, Fatal, Origin, Sink, SinkConfig, Written, async_trait,
};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::task::spawn_blocking;

/// Writes to standard output. It has no settings.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Stdout {}

/// The running sink: a stream that is shared with whoever started us.
struct Output {
    file: Arc<File>,
    /// Whose line is not finished yet.
    unfinished: Option<Origin>,
}

#[async_trait]
impl SinkConfig for Stdout {
    fn describe(&self) -> String {
        "standard output".to_owned()
    }

    async fn open(&self, _: Context) -> Result<Box<dyn Sink>> {
        // Not `io::stdout()` itself: it keeps the last line back until it ends.
        let stdout = io::stdout().as_fd().try_clone_to_owned().context("cannot open standard output")?;
        Ok(Box::new(Output::new(stdout)))
    }
}

impl Output {
    fn new(stream: OwnedFd) -> Self {
        Self { file: Arc::new(File::from(stream)), unfinished: None }
    }

    /// Writes all of it, on a thread that may be held up.
    async fn write_out(&mut self, bytes: Bytes) -> Result<()> {
        let file = self.file.clone();
        let written = spawn_blocking(move || write_all(&file, &bytes)).await?;
        match written {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                Err(Fatal::new("nobody reads standard output any more: the reader of the pipe has gone"))
            }
            written => written.context("cannot write to standard output"),
        }
    }
}

#[async_trait]
impl Sink for Output {
    async fn restore(&mut self) -> Result<Option<Checkpoint>> {
        Ok(None)
    }

    async fn write(&mut self, batch: Batch) -> Result<Written> {
        let Content::Data(bytes) = batch.content else {
            // The record of a loss is no line of the log: the pipeline counts it and reports it.
            return Ok(Written::Accepted);
        };
        if self.unfinished.as_ref().is_some_and(|origin| *origin != batch.origin) {
            self.write_out(Bytes::from_static(b"\n")).await?;
        }
        let finished = bytes.ends_with(b"\n");
        self.write_out(bytes).await?;
        self.unfinished = (!finished).then_some(batch.origin);
        Ok(Written::Accepted)
    }

    /// What was written to a pipe or a terminal is out of our hands; what was written to a file is synced.
    async fn commit(&mut self, _: &Checkpoint) -> Result<()> {
        let file = self.file.clone();
        let synced = spawn_blocking(move || rustix::fs::fdatasync(&*file)).await?;
        match synced {
            // How the kernel says that this is nothing that can be synced.
            Err(Errno::INVAL | Errno::ROFS | Errno::NOTSUP) => Ok(()),
            synced => synced.context("cannot sync standard output"),
        }
    }
}

/// `write_all` that also waits for a stream that somebody else has made non-blocking.
fn write_all(file: &File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(file, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::AGAIN) => {
                let mut writable = [PollFd::new(&file, PollFlags::OUT)];
                match poll(&mut writable, None) {
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{PipeReader, PipeWriter, Read, Seek};
    use std::thread;

    use fshipper_pipeline::Epoch;
    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

    use super::*;

    fn piped() -> (PipeReader, PipeWriter) {
        io::pipe().unwrap()
    }

    fn batch(path: &str, text: &'static str) -> Batch {
        Batch::data(Origin::new("h", path), Epoch(1), 0, text)
    }

    fn read_all(mut reader: PipeReader) -> Vec<u8> {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        bytes
    }

    #[tokio::test]
    async fn bytes_go_out_as_they_came_and_at_once() {
        let (mut reader, writer) = piped();
        let mut output = Output::new(writer.into());
        output.write(batch("/a", "no end \0\r yet")).await.unwrap();
        let mut bytes = [0; 13];
        reader.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"no end \0\r yet");
        assert!(output.restore().await.unwrap().is_none());
    }

    #[tokio::test]
    async fn lines_of_several_logs_stay_whole() {
        let (reader, writer) = piped();
        let mut output = Output::new(writer.into());
        for (path, text) in
            [("/a", "a1\na2"), ("/a", "-more"), ("/b", "b1\n"), ("/a", "a3\n"), ("/b", "b2\n")]
        {
            assert_eq!(output.write(batch(path, text)).await.unwrap(), Written::Accepted);
        }
        drop(output);
        assert_eq!(read_all(reader), b"a1\na2-more\nb1\na3\nb2\n");
    }

    #[tokio::test]
    async fn a_reader_that_has_gone_ends_the_pipeline() {
        let (reader, writer) = piped();
        drop(reader);
        let error = Output::new(writer.into()).write(batch("/a", "a\n")).await.unwrap_err();
        assert!(error.is::<Fatal>() && error.to_string().contains("standard output"), "{error:#}");
    }

    #[tokio::test]
    async fn a_slow_reader_holds_it_up_even_when_the_stream_is_non_blocking() {
        let (reader, writer) = piped();
        let flags = fcntl_getfl(&writer).unwrap();
        fcntl_setfl(&writer, flags | OFlags::NONBLOCK).unwrap();
        let mut output = Output::new(writer.into());
        // More than a pipe holds.
        let lines = "0123456789abcde\n".repeat(1 << 16);
        let expected = lines.clone();
        let reading = thread::spawn(move || read_all(reader));
        output.write(Batch::data(Origin::new("h", "/a"), Epoch(1), 0, lines)).await.unwrap();
        drop(output);
        assert!(reading.join().unwrap() == expected.as_bytes());
    }

    #[tokio::test]
    async fn commits_to_pipes_and_files() {
        let (_reader, writer) = piped();
        Output::new(writer.into()).commit(&Checkpoint::default()).await.unwrap();

        let mut file = tempfile::tempfile().unwrap();
        let mut output = Output::new(file.try_clone().unwrap().into());
        output.write(batch("/a", "a\n")).await.unwrap();
        output.commit(&Checkpoint::default()).await.unwrap();
        file.rewind().unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "a\n");
    }

    #[tokio::test]
    async fn the_record_of_a_loss_is_no_line() {
        let (reader, writer) = piped();
        let mut output = Output::new(writer.into());
        let loss = Batch::loss(Origin::new("h", "/a"), Epoch(1), 0, 10, "deleted");
        assert_eq!(output.write(loss).await.unwrap(), Written::Accepted);
        drop(output);
        assert_eq!(read_all(reader), b"");
    }
}
