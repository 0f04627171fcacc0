//! The `keelstone` command line.
//!
//! Each subcommand is a file with a clap struct and a `run` function. All but
//! `serve`, `dev`, `demo`, `cert` and `restore` are clients like any other.
//!
//! Results go to standard output, as tables for people or with `--output json`
//! for programs; progress and errors go to standard error. The exit code says
//! what to do next: see [`Exit`].

mod cert;
mod completion;
mod connect;
mod exit;
mod output;
mod serve;

pub use exit::Exit;

use clap::{Parser, Subcommand};
use connect::Connection;
use std::process::ExitCode;

/// A replicated store for Runtime Defined Entities and configuration.
#[derive(Debug, Parser)]
#[command(name = "keelstone", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = exit::HELP)]
struct Cli {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a replica.
    Serve(serve::Serve),
    /// Make a development authority and certificates for TLS.
    Cert(cert::Cert),
    /// Print completions for a shell.
    Completion(completion::Completion),
}

/// Runs the program with the process's arguments.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    // The one process-wide choice of a TLS library; a second call would be a
    // mistake of ours and is harmless.
    rustls::crypto::ring::default_provider().install_default().ok();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return exit::report(&anyhow::Error::new(error).context("start the runtime")),
    };
    let result = runtime.block_on(run(cli));
    // Nothing that still runs may hold the process up.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::report(&error),
    }
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Serve(command) => command.run().await,
        Command::Cert(command) => command.run(cli.connection.output),
        Command::Completion(command) => command.run::<Cli>(),
    }
}
