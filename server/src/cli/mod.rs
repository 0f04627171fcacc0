//! The `keelstone` command line.
//!
//! Each subcommand is a file with a clap struct and a `run` function. All but
//! `serve`, `dev`, `demo`, `cert` and `restore` are clients like any other.
//!
//! Results go to standard output, as tables for people or with `--output json`
//! for programs; progress and errors go to standard error. The exit code says
//! what to do next: see [`Exit`].

mod backup;
mod cert;
mod completion;
mod config;
mod connect;
#[cfg(feature = "dev-s3")]
mod demo;
mod dev;
#[cfg(feature = "dev-s3")]
mod dev_s3;
mod entity;
mod exit;
mod input;
mod kv;
mod lease;
mod local;
mod member;
mod output;
mod progress;
mod restore;
mod serve;
mod types;
mod watch;

pub use exit::Exit;

use clap::{Parser, Subcommand};
use connect::Connection;
use keelstone_client::Client;
use output::Format;
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
    Serve(Box<serve::Serve>),
    #[cfg(feature = "dev-s3")]
    Demo(demo::Demo),
    Dev(dev::Dev),
    #[cfg(feature = "dev-s3")]
    #[command(name = "dev-s3")]
    DevS3(dev_s3::DevBucket),
    #[command(name = "type")]
    Type(types::Types),
    Entity(entity::Entities),
    Config(config::Config),
    Kv(kv::Kv),
    Watch(watch::Watch),
    Lease(lease::Leases),
    Member(member::Members),
    Status(member::Status),
    Backup(backup::Backups),
    Restore(restore::Restore),
    Cert(cert::Cert),
    Completion(completion::Completion),
}

/// Runs the program with the process's arguments.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    // The one process-wide choice of a TLS library; a second call would be a
    // mistake of ours and is harmless.
    rustls::crypto::ring::default_provider().install_default().ok();
    // More threads than cores cost a tenth of the throughput. What may block
    // goes elsewhere (see `raft::offload`); one more than one for what forgets to.
    let threads = std::thread::available_parallelism().map_or(2, |cores| cores.get().max(2));
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build();
    let runtime = match runtime {
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
    let output = cli.connection.output;
    let connection = cli.connection;
    match cli.command {
        Command::Serve(command) => command.run().await,
        #[cfg(feature = "dev-s3")]
        Command::Demo(command) => command.run().await,
        Command::Dev(command) => command.run().await,
        #[cfg(feature = "dev-s3")]
        Command::DevS3(command) => command.run().await,
        Command::Backup(command) => command.run(&connection).await,
        Command::Restore(command) => command.run(output).await,
        Command::Cert(command) => command.run(output),
        Command::Completion(command) => command.run::<Cli>(),
        command => ask(command, &connection.client().await?, output).await,
    }
}

/// The commands that are clients of a cluster.
async fn ask(command: Command, client: &Client, output: Format) -> anyhow::Result<()> {
    let result = match command {
        Command::Type(command) => command.run(client, output).await,
        Command::Entity(command) => command.run(client, output).await,
        Command::Config(command) => command.run(client, output).await,
        Command::Kv(command) => command.run(client, output).await,
        Command::Watch(command) => command.run(client, output).await,
        Command::Lease(command) => command.run(client, output).await,
        Command::Member(command) => command.run(client, output).await,
        Command::Status(command) => command.run(client, output).await,
        // The others were done before there was a client.
        _ => Ok(()),
    };
    // The session would be forgotten by itself; closing it is a courtesy.
    client.close().await.ok();
    result
}
