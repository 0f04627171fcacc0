//! What can be said on the command line.

use crate::node::Sizes;
use crate::run::Loss;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::time::Duration;

/// Fault runs of Keelstone on real processes.
#[derive(Debug, Parser)]
#[command(name = "keelstone-jepsen", version, max_term_width = 100)]
#[command(after_help = "\
Exit codes: 0 all that was judged is as promised; 1 a promise was broken; 2 it cannot be told; \
3 the command could not do its work.")]
pub(super) struct Program {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Tell which faults this machine can do, and which are skipped.
    Doctor,
    /// List workloads, nemeses and checkers.
    List,
    /// One run: a workload under a nemesis, and the judgement.
    Run(Run),
    /// Many runs, and a table of what came of them.
    Matrix(Matrix),
    /// Judge a run again.
    Check(Directory),
    /// Do a run again: the same plan, schedule and seed.
    Repro(Repro),
    /// Measure how long writes are not acknowledged when the leader is lost.
    Failover(Failover),
    /// What a run starts in a replica's network.
    #[command(hide = true, name = crate::net::LATE_COMMAND)]
    LatePackets {
        /// How late packets are, at least.
        ms: u64,
        /// How much later they may be.
        jitter_ms: u64,
        /// What that is drawn from.
        seed: u64,
    },
}

/// What runs have in common.
#[derive(Clone, Debug, Args)]
pub(super) struct Setting {
    /// The `keelstone` program; the one beside this program otherwise.
    #[arg(long, value_name = "FILE")]
    pub(super) binary: Option<PathBuf>,
    /// Where runs leave their directories.
    #[arg(long, value_name = "DIR", default_value = "target/jepsen")]
    pub(super) out: PathBuf,
    /// Where the images of disks go, in memory.
    #[arg(long, value_name = "DIR", default_value = "/dev/shm")]
    pub(super) images: PathBuf,
    /// Replicas.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=9))]
    pub(super) nodes: u64,
    /// Clients.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=500))]
    pub(super) clients: u64,
    /// Operations a second of all clients together.
    #[arg(long, default_value_t = 200.0)]
    pub(super) rate: f64,
    /// The replicas' thresholds; drawn from the seed if not given.
    #[arg(long)]
    pub(super) sizes: Option<Sizes>,
    /// TLS with certificates on both sides, or plaintext; drawn from the seed if
    /// not given.
    #[arg(long)]
    pub(super) tls: Option<bool>,
}

#[derive(Clone, Debug, Args)]
pub(super) struct Run {
    #[command(flatten)]
    pub(super) setting: Setting,
    /// What clients do.
    #[arg(long, short)]
    pub(super) workload: String,
    /// What goes wrong: one kind, several joined by `+`, `none` or `mix`.
    #[arg(long, short, default_value = "none")]
    pub(super) nemesis: String,
    /// How long the load lasts.
    #[arg(long, short, default_value = "60s", value_parser = humantime::parse_duration)]
    pub(super) time: Duration,
    /// The seed of everything that is drawn; a new one otherwise.
    #[arg(long, short)]
    pub(super) seed: Option<u64>,
}

#[derive(Clone, Debug, Args)]
pub(super) struct Matrix {
    #[command(flatten)]
    pub(super) setting: Setting,
    /// A few short runs that together see every workload: at most eight minutes.
    #[arg(long, conflicts_with = "hours")]
    pub(super) smoke: bool,
    /// All workloads under all nemeses, again and again, for so many hours.
    #[arg(long)]
    pub(super) hours: Option<f64>,
    /// How long the load of each run lasts.
    #[arg(long, value_parser = humantime::parse_duration)]
    pub(super) time: Option<Duration>,
    /// The seed of the first run; a new one otherwise.
    #[arg(long)]
    pub(super) seed: Option<u64>,
    /// Only these workloads, separated by commas.
    #[arg(long, value_delimiter = ',')]
    pub(super) workloads: Vec<String>,
    /// Only these nemeses, separated by commas.
    #[arg(long, value_delimiter = ',')]
    pub(super) nemeses: Vec<String>,
}

#[derive(Clone, Debug, Args)]
pub(super) struct Directory {
    /// The run's directory.
    pub(super) dir: PathBuf,
}

#[derive(Clone, Debug, Args)]
pub(super) struct Repro {
    /// The run's directory.
    pub(super) dir: PathBuf,
    /// Another `keelstone` program.
    #[arg(long, value_name = "FILE")]
    pub(super) binary: Option<PathBuf>,
    /// Where the new run leaves its directory.
    #[arg(long, value_name = "DIR", default_value = "target/jepsen")]
    pub(super) out: PathBuf,
    /// Where the images of disks go, in memory.
    #[arg(long, value_name = "DIR", default_value = "/dev/shm")]
    pub(super) images: PathBuf,
}

#[derive(Clone, Debug, Args)]
pub(super) struct Failover {
    /// How often the leader is lost in each way.
    #[arg(long, default_value_t = 30)]
    pub(super) rounds: u32,
    /// The ways, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "kill,pause,partition")]
    pub(super) ways: Vec<Loss>,
    /// The `keelstone` program; the one beside this program otherwise.
    #[arg(long, value_name = "FILE")]
    pub(super) binary: Option<PathBuf>,
    /// Where it leaves its directory.
    #[arg(long, value_name = "DIR", default_value = "target/jepsen")]
    pub(super) out: PathBuf,
    /// Where the images of disks go, in memory.
    #[arg(long, value_name = "DIR", default_value = "/dev/shm")]
    pub(super) images: PathBuf,
}
