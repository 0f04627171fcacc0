//! The same load on Keelstone and on etcd, in turn, on the same machine and
//! disk, several times.

use crate::clusters::{Processes, keelstone_binary, temporary, version_of};
use crate::load::{self, LoadOptions};
use crate::report::{Measured, median};
use crate::target::Target;
use anyhow::Context as _;
use clap::Args;
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;

/// Runs the same load on both, and prints the ratios.
#[derive(Clone, Debug, Args)]
pub(crate) struct Compare {
    #[command(flatten)]
    load: LoadOptions,
    /// Numbers of clients to compare with.
    #[arg(long, value_delimiter = ',', default_value = "64,256")]
    clients: Vec<usize>,
    /// How often each is measured; the medians count.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// The `keelstone` binary; the one beside this program otherwise.
    #[arg(long)]
    keelstone: Option<PathBuf>,
    /// The `etcd` binary.
    #[arg(long, default_value = "etcd")]
    etcd: PathBuf,
    /// Where the data directories go; both get theirs below it, and they are
    /// removed afterwards. The temporary directory otherwise.
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
struct Comparison {
    keelstone: String,
    etcd: String,
    medians: Vec<Medians>,
    runs: Vec<Measured>,
}

/// The medians for one number of clients.
#[derive(Debug, Serialize)]
struct Medians {
    clients: usize,
    keelstone_throughput: f64,
    etcd_throughput: f64,
    /// Above 1: Keelstone does more.
    throughput_ratio: f64,
    keelstone_p99_ms: f64,
    etcd_p99_ms: f64,
    /// Below 1: Keelstone answers sooner.
    p99_ratio: f64,
}

impl Compare {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let keelstone = keelstone_binary(self.keelstone.clone())?;
        let mut runs = Vec::new();
        for round in 0..self.rounds.max(1) {
            for &clients in &self.clients {
                // Who begins changes, so that nobody has the cooler machine.
                let mut targets = [Target::Keelstone, Target::Etcd];
                if round % 2 == 1 {
                    targets.reverse();
                }
                for target in targets {
                    let binary = if target == Target::Etcd { &self.etcd } else { &keelstone };
                    let measured = self.measure(target, binary, clients).await?;
                    eprintln!("round {}: {}", round + 1, measured.line());
                    runs.push(measured);
                }
            }
        }
        let medians: Vec<_> = self.clients.iter().map(|clients| medians(&runs, *clients)).collect();
        for row in &medians {
            eprintln!(
                "{:>4} clients: throughput {:.2} times etcd's ({:.0}/s to {:.0}/s), p99 {:.2} \
                 times etcd's ({:.2} ms to {:.2} ms)",
                row.clients,
                row.throughput_ratio,
                row.keelstone_throughput,
                row.etcd_throughput,
                row.p99_ratio,
                row.keelstone_p99_ms,
                row.etcd_p99_ms,
            );
        }
        let (keelstone, etcd) = (version_of(&keelstone), version_of(&self.etcd));
        let comparison = Comparison { keelstone, etcd, medians, runs };
        println!("{}", serde_json::to_string_pretty(&comparison)?);
        Ok(())
    }

    /// One load on a fresh cluster, which is gone afterwards.
    async fn measure(
        &self,
        target: Target,
        binary: &std::path::Path,
        clients: usize,
    ) -> anyhow::Result<Measured> {
        let dir = temporary("compare", self.dir.as_deref())?;
        let processes = Processes::start(target, binary, dir.path()).await?;
        let options = LoadOptions { clients, ..self.load.clone() };
        let limit = Duration::from_secs(options.warm_up + options.seconds + 120);
        let endpoints = processes.endpoints();
        let load = load::run(target, &endpoints, &options);
        tokio::time::timeout(limit, load)
            .await
            .with_context(|| format!("the load did not end within {limit:?}"))?
    }
}

fn medians(runs: &[Measured], clients: usize) -> Medians {
    let of_target = |target| {
        let of = |value: fn(&Measured) -> f64| {
            let runs = runs.iter().filter(|run| run.target == target);
            median(runs.filter(|run| run.options.clients == clients).map(value).collect())
        };
        (of(|run| run.throughput), of(|run| run.latency.p99_ms))
    };
    let (keelstone, etcd) = (of_target(Target::Keelstone), of_target(Target::Etcd));
    Medians {
        clients,
        keelstone_throughput: keelstone.0,
        etcd_throughput: etcd.0,
        throughput_ratio: keelstone.0 / etcd.0,
        keelstone_p99_ms: keelstone.1,
        etcd_p99_ms: etcd.1,
        p99_ratio: keelstone.1 / etcd.1,
    }
}
