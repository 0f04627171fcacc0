//! `keelstone serve`: run a replica.

use super::exit::{Coded, Exit};
use crate::config::{Flags, LogFormat, LoggingConfig, load};
use crate::node;
use anyhow::{Context as _, Result};
use clap::Args;
use tokio::io::AsyncReadExt as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Run a replica until SIGTERM or Ctrl-C.
#[derive(Debug, Args)]
pub(super) struct Serve {
    #[command(flatten)]
    flags: Flags,
    /// Stop when standard input ends, as it does when the parent process is
    /// gone. For replicas that another program starts.
    #[arg(long)]
    stop_with_parent: bool,
    /// Read the configuration, say what is wrong with it, and end.
    #[arg(long)]
    check: bool,
}

impl Serve {
    pub(super) async fn run(self) -> Result<()> {
        let loaded = load(&self.flags, std::env::vars())
            .map_err(|error| Coded::error(Exit::Usage, error.to_string()))?;
        let problems = loaded.config.problems();
        if !problems.is_empty() {
            let text = format!("the configuration cannot be used: {}", problems.join("\n  "));
            return Err(Coded::error(Exit::Usage, text));
        }
        if self.check {
            return super::output::line("the configuration can be used");
        }
        begin_logging(&loaded.config.logging)?;
        for name in &loaded.unknown_variables {
            tracing::warn!(variable = name, "this environment variable is no setting");
        }
        let stop = CancellationToken::new();
        tokio::spawn(watch_signals(stop.clone())?);
        if self.stop_with_parent {
            tokio::spawn(watch_parent(stop.clone()));
        }
        node::run(loaded.config, stop).await.context("this replica ended")
    }
}

fn begin_logging(logging: &LoggingConfig) -> Result<()> {
    let filter = EnvFilter::try_new(&logging.filter).context("read logging.filter")?;
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match logging.format {
        LogFormat::Text => subscriber.with_ansi(false).init(),
        LogFormat::Json => subscriber.json().init(),
    }
    Ok(())
}

/// Cancels `stop` at the first SIGTERM or SIGINT; a second one ends the process.
fn watch_signals(stop: CancellationToken) -> Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    Ok(async move {
        for asked in 1.. {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if asked > 1 {
                tracing::warn!("stopped at once; the next start reads the log");
                std::process::exit(1);
            }
            tracing::info!("stopping");
            stop.cancel();
        }
    })
}

/// Cancels `stop` when standard input ends.
async fn watch_parent(stop: CancellationToken) {
    let mut stdin = tokio::io::stdin();
    let mut bytes = [0; 64];
    while matches!(stdin.read(&mut bytes).await, Ok(1..)) {}
    tracing::info!("the parent process is gone");
    stop.cancel();
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        serve: Serve,
    }

    #[tokio::test]
    async fn a_configuration_that_cannot_be_used_is_refused() {
        let line = Line::parse_from(["serve", "--check", "--set", "client.listen=10.0.0.1:7701"]);
        let refused = line.serve.run().await.unwrap_err().to_string();
        assert!(refused.contains("client.tls is not set up"), "{refused}");
        assert!(Line::parse_from(["serve", "--check"]).serve.run().await.is_ok());
    }
}
