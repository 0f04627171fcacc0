//! `keelstone-bench`: how fast, and how soon again after a failure.
//!
//! `run` puts a load on endpoints, of Keelstone or of etcd; `compare` starts
//! three processes of each in turn and puts the same load on both; `failover`
//! kills leaders under a client that writes; `join` adds empty replicas under a
//! steady load. Results are JSON on standard
//! output, progress goes to standard error. The load shares the machine with
//! the servers unless it is run elsewhere: compare ratios, not figures.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program for the command line")]
#![expect(clippy::cast_precision_loss, reason = "counts become rates")]

mod clusters;
mod compare;
mod etcd;
mod failover;
mod join;
mod load;
mod patch;
mod report;
mod target;
mod watchers;

use clap::{Args, Parser, Subcommand};

/// Measures Keelstone, and etcd beside it.
#[derive(Debug, Parser)]
#[command(name = "keelstone-bench", version)]
struct Bench {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Put a load on running nodes.
    Run(Run),
    /// Put the same load on Keelstone and on etcd, in turn.
    Compare(compare::Compare),
    /// Kill the leader again and again under a client that writes.
    Failover(failover::Failover),
    /// Add empty replicas to a cluster that is written to at a steady rate.
    Join(join::Join),
}

#[derive(Debug, Args)]
struct Run {
    /// Clients, each with one operation under way at a time.
    #[arg(long, default_value_t = 64)]
    clients: usize,
    #[command(flatten)]
    load: load::LoadOptions,
    /// What the endpoints are.
    #[arg(long, value_enum, default_value = "keelstone")]
    target: target::Target,
    /// The nodes, as `host:port`.
    #[arg(long, value_delimiter = ',', default_value = "127.0.0.1:7701")]
    endpoints: Vec<String>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    match Bench::parse().command {
        Command::Run(run) => {
            let options = load::LoadOptions { clients: run.clients, ..run.load };
            let measured = load::run(run.target, &run.endpoints, &options).await?;
            eprintln!("{}", measured.line());
            println!("{}", serde_json::to_string_pretty(&measured)?);
            Ok(())
        }
        Command::Compare(compare) => compare.run().await,
        Command::Failover(failover) => failover.run().await,
        Command::Join(join) => join.run().await,
    }
}
