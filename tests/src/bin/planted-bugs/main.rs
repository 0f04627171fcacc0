//! Proves that the harnesses find bugs: each planted bug is switched on, and the
//! harness that should find it is run until it does.
//!
//! The programs under test are built with the feature `planted-bugs`; see
//! `just planted-bugs`. For each bug this prints which harness found it, with
//! which workload and seed, and how fast, as a row of the table in
//! `docs/guarantees.md`. A harness that complains without a bug proves nothing,
//! so `--control` runs each attempt without one first, and it has to pass. The
//! exit code is 1 if a bug was not found.

mod attempt;

use attempt::{Found, Programs, attempts};
use clap::Parser;
use keelstone_store::planted::Bug;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(Debug, Parser)]
struct Arguments {
    /// The `keelstone` program with the feature.
    #[arg(long, default_value = "target/debug/keelstone")]
    keelstone: PathBuf,
    /// The fault runs' program.
    #[arg(long, default_value = "target/debug/keelstone-jepsen")]
    jepsen: PathBuf,
    /// The simulation's program with the feature.
    #[arg(long, default_value = "target/sim/sim/keelstone-sim")]
    sim: PathBuf,
    /// Where runs leave their directories.
    #[arg(long, default_value = "target/planted-bugs")]
    out: PathBuf,
    /// The first seed of fault runs.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only these bugs, separated by commas.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Only attempts of these harnesses, separated by commas: sim, jepsen, unit.
    #[arg(long, value_delimiter = ',')]
    by: Vec<String>,
    /// Runs each attempt without its bug first; a complaint then is an error.
    #[arg(long)]
    control: bool,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let programs = Programs {
        keelstone: arguments.keelstone,
        jepsen: arguments.jepsen,
        sim: arguments.sim,
        out: arguments.out,
        seed: arguments.seed,
    };
    std::fs::create_dir_all(&programs.out)?;
    let mut out = std::io::stdout();
    writeln!(out, "| bug | what it does | found by | workload and seed | time |")?;
    writeln!(out, "| --- | --- | --- | --- | --- |")?;
    let wanted = |bug: &Bug| {
        arguments.only.is_empty() || arguments.only.iter().any(|name| name == bug.name())
    };
    let (mut missed, mut asked_elsewhere) = (Vec::new(), Vec::new());
    for bug in Bug::ALL.iter().copied().filter(wanted) {
        let list = attempts(bug);
        let list = list.into_iter().filter(|attempt| {
            arguments.by.is_empty() || arguments.by.iter().any(|by| by == attempt.harness())
        });
        let list: Vec<_> = list.collect();
        if list.is_empty() {
            asked_elsewhere.push(bug.name());
            continue;
        }
        let mut found: Option<Found> = None;
        let mut tried = Vec::new();
        for attempt in list {
            if arguments.control
                && let Some(complaint) = programs.run(&attempt, None)?
            {
                anyhow::bail!("{attempt} complains without a bug: {}", complaint.evidence);
            }
            tried.push(attempt.to_string());
            found = programs.run(&attempt, Some(bug))?;
            if found.is_some() {
                break;
            }
        }
        let (name, about) = (bug.name(), bug.about());
        if let Some(found) = found {
            writeln!(
                out,
                "| `{name}` | {about} | {}: {} | {} | {:.0} s |",
                found.by, found.evidence, found.how, found.seconds
            )?;
        } else {
            missed.push(name);
            writeln!(out, "| `{name}` | {about} | **NOT FOUND** | {} | |", tried.join("; "))?;
        }
        out.flush()?;
    }
    writeln!(out)?;
    if !asked_elsewhere.is_empty() {
        writeln!(out, "not asked of these harnesses: {}", asked_elsewhere.join(", "))?;
    }
    if missed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    writeln!(out, "not found: {}", missed.join(", "))?;
    Ok(ExitCode::FAILURE)
}
