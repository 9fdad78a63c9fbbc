//! Who looks into files: [`Opens`].

use std::mem::MaybeUninit;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Args;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;

#[derive(Args, Debug)]
pub(crate) struct Opens {
    /// The directory
    path: PathBuf,
    /// How long to watch it
    #[arg(long)]
    seconds: u64,
}

const PAUSE: Duration = Duration::from_millis(10);

impl Opens {
    /// Prints how often files in the directory were opened and how often they were read; listing the directory
    /// itself is neither.
    pub(crate) fn run(self) -> Result<()> {
        let watch = inotify::init(CreateFlags::NONBLOCK)?;
        inotify::add_watch(&watch, &self.path, WatchFlags::OPEN | WatchFlags::ACCESS)
            .with_context(|| format!("cannot watch `{}`", self.path.display()))?;
        let (mut opened, mut read) = (0_u64, 0_u64);
        let mut buffer = [MaybeUninit::uninit(); 64 << 10];
        let mut events = inotify::Reader::new(watch, &mut buffer);
        let end = Instant::now() + Duration::from_secs(self.seconds);
        while Instant::now() < end {
            match events.next() {
                Ok(event) if event.events().contains(ReadFlags::ISDIR) => {}
                Ok(event) => {
                    opened += u64::from(event.events().contains(ReadFlags::OPEN));
                    read += u64::from(event.events().contains(ReadFlags::ACCESS));
                }
                Err(Errno::AGAIN) => std::thread::sleep(PAUSE),
                Err(error) => return Err(error).context("cannot read events"),
            }
        }
        crate::print(&serde_json::json!({ "opened": opened, "read": read }))
    }
}
