//! The deterministic simulation as a program.
//!
//! `keelstone-sim run --seed N` runs one seed, `--seeds A..B` many, and
//! `check-determinism` one seed twice.

mod many;

use anyhow::{Context as _, bail};
use clap::{Parser, Subcommand};
use keelstone_tests::sim::{Plan, Report, Verdict, run};
use many::Many;
use std::io::Write as _;
use std::time::Duration;

/// Seeds that were seen to fail with a bug put back in, and the bug. A change of
/// what plans are drawn makes them worthless: then they have to be found anew.
const PINNED: &[(u64, &str)] = &[
    (431, "a stamp that is kept makes time jump in the next term"),
    (20265, "a late answer to an append proves a leadership that is over"),
    (20542, "of the harness: an entry is committed terms after its own"),
];

#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run seeds and say what became of them.
    Run {
        /// One seed.
        #[arg(long, conflicts_with = "seeds", required_unless_present = "seeds")]
        seed: Option<u64>,
        /// Seeds from A to before B, written as A..B.
        #[arg(long, value_parser = range)]
        seeds: Option<std::ops::Range<u64>>,
        /// Stop after this time, such as 120s.
        #[arg(long, value_parser = seconds)]
        budget: Option<Duration>,
        /// How many seeds are run at a time.
        #[arg(long, default_value_t = 1)]
        jobs: u64,
        /// Go on after a seed that failed.
        #[arg(long)]
        keep_going: bool,
        /// Print all that happened.
        #[arg(long)]
        trace: bool,
        /// Print what the nodes log, as RUST_LOG says.
        #[arg(long)]
        logs: bool,
        /// A run without faults.
        #[arg(long)]
        quiet: bool,
        /// End with a sum for another process.
        #[arg(long, hide = true)]
        sum: bool,
    },
    /// Run the seeds that show bugs which were found once, should they return.
    Pinned,
    /// Run a seed twice and compare all that happened.
    CheckDeterminism {
        /// The seed.
        #[arg(long)]
        seed: u64,
    },
}

fn range(text: &str) -> Result<std::ops::Range<u64>, String> {
    let parsed =
        text.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    parsed.ok_or_else(|| "a range of seeds is written as 0..200".to_owned())
}

fn seconds(text: &str) -> Result<Duration, String> {
    let number = text.strip_suffix('s').unwrap_or(text);
    number.parse().map(Duration::from_secs).map_err(|error| error.to_string())
}

/// A directory in memory, if this machine has one: nodes write their identity.
fn scratch() -> anyhow::Result<tempfile::TempDir> {
    let memory = std::path::Path::new("/dev/shm");
    let dir = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    dir.context("make a directory for the nodes")
}

fn run_seed(seed: u64, quiet: bool, trace: bool) -> anyhow::Result<Report> {
    let plan = if quiet { Plan::quiet(seed) } else { Plan::of(seed) };
    let dir = scratch()?;
    Ok(run(plan, dir.path(), trace))
}

fn tell(out: &mut impl std::io::Write, report: &Report, took: Duration) -> std::io::Result<()> {
    let faults: u64 = report.happened.faults.values().sum();
    writeln!(
        out,
        "seed {} {} trace {:016x} in {:.2} s: {} events, {} faults, {} starts, term {}, {} s simulated, healed in {:?} ms",
        report.plan.seed,
        if report.verdict == Verdict::Well { "well" } else { "FAILED" },
        report.trace.hash(),
        took.as_secs_f64(),
        report.history.events().len(),
        faults,
        report.happened.starts,
        report.happened.term,
        report.simulated_ms / 1000,
        report.healed_in_ms,
    )?;
    if let Verdict::Violated(violation) = &report.verdict {
        writeln!(out, "  violated: {violation}")?;
        writeln!(out, "  again with: just sim {}", report.plan.seed)?;
    }
    Ok(())
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().command {
        Command::Run { seed, seeds, budget, jobs, keep_going, trace, logs, quiet, sum } => {
            if logs {
                let filter = tracing_subscriber::EnvFilter::from_default_env();
                tracing_subscriber::fmt().with_env_filter(filter).without_time().init();
            }
            let seeds = seeds.or(seed.map(|seed| seed..seed + 1)).unwrap_or(0..0);
            many::run(&Many { seeds, budget, jobs, keep_going, trace, quiet, sum })
        }
        Command::Pinned => PINNED.iter().try_for_each(|(seed, bug)| {
            let many = Many { seeds: *seed..seed + 1, jobs: 1, ..Many::default() };
            many::run(&many).with_context(|| format!("it is back: {bug}"))
        }),
        Command::CheckDeterminism { seed } => check(seed),
    }
}

fn check(seed: u64) -> anyhow::Result<()> {
    let first = run_seed(seed, false, true)?;
    let second = run_seed(seed, false, true)?;
    let (a, b) = (first.trace.kept(), second.trace.kept());
    let differ = a.iter().zip(b).position(|(a, b)| a != b);
    let mut out = std::io::stdout().lock();
    if let Some(at) = differ {
        for lines in [a, b] {
            for line in &lines[at.saturating_sub(5)..lines.len().min(at + 5)] {
                writeln!(out, "{line}")?;
            }
            writeln!(out, "--")?;
        }
        bail!("seed {seed} ran differently from line {at} on");
    }
    if first.trace.hash() != second.trace.hash() {
        bail!("seed {seed} ran differently: one run is longer");
    }
    writeln!(out, "seed {seed}: {:016x} twice, {} lines", first.trace.hash(), a.len())?;
    Ok(())
}
