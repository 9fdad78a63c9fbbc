//! How long a start takes: [`First`].

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use futures::StreamExt as _;

#[derive(Args, Debug)]
pub(crate) struct First {
    #[arg(long)]
    server: String,
    /// What to listen to
    #[arg(long)]
    subject: String,
    /// What to start; it is killed in the end
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

const DEADLINE: Duration = Duration::from_secs(30);

impl First {
    /// Prints the seconds from before the process exists until a subscriber has its first message.
    pub(crate) async fn run(self) -> Result<()> {
        let client = async_nats::connect(&self.server).await?;
        let mut messages = client.subscribe(self.subject).await?;
        // The server has the subscription when it has answered this.
        client.flush().await?;
        let (program, arguments) = self.command.split_first().context("no command")?;
        let begin = Instant::now();
        let mut process = Command::new(program).args(arguments).stderr(Stdio::null()).spawn()?;
        let first = tokio::time::timeout(DEADLINE, messages.next()).await;
        let seconds = begin.elapsed().as_secs_f64();
        process.kill()?;
        process.wait()?;
        ensure!(matches!(first, Ok(Some(_))), "no message came within {DEADLINE:?}");
        crate::print(&serde_json::json!({ "seconds": seconds }))
    }
}
