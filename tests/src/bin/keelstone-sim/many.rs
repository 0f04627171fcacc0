//! Many seeds: run side by side, counted, and judged together.

use crate::{run_seed, tell};
use anyhow::{Context as _, bail};
use keelstone_tests::sim::{Report, Verdict};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::ops::Range;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// So many seeds have to give every rule and every promise something to judge.
const ENOUGH: u64 = 100;

/// How to run them.
#[derive(Default)]
pub(crate) struct Many {
    /// Which.
    pub seeds: Range<u64>,
    /// When to stop.
    pub budget: Option<Duration>,
    /// How many at a time.
    pub jobs: u64,
    /// Whether to go on after one that failed.
    pub keep_going: bool,
    /// Whether to print all that happened.
    pub trace: bool,
    /// Without faults.
    pub quiet: bool,
    /// Whether to end with the sum for another process instead of a judgement.
    pub sum: bool,
}

/// What one of them came to, or all of them.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Sum {
    done: u64,
    failed: Vec<u64>,
    inputs: BTreeMap<String, u64>,
    faults: BTreeMap<String, u64>,
    simulated_ms: u64,
}

impl Sum {
    fn of(report: &Report) -> Self {
        let counts = |(name, count): (&&str, &u64)| ((*name).to_owned(), *count);
        let failed = (report.verdict != Verdict::Well).then_some(report.plan.seed);
        Self {
            done: 1,
            failed: failed.into_iter().collect(),
            inputs: report.inputs.iter().map(|(name, count)| counts((name, count))).collect(),
            faults: report.happened.faults.iter().map(counts).collect(),
            simulated_ms: report.simulated_ms,
        }
    }

    fn add(&mut self, other: Self) {
        self.done += other.done;
        self.failed.extend(other.failed);
        self.simulated_ms += other.simulated_ms;
        for (name, count) in other.inputs {
            *self.inputs.entry(name).or_default() += count;
        }
        for (name, count) in other.faults {
            *self.faults.entry(name).or_default() += count;
        }
    }
}

/// Runs them and says what became of them.
pub(crate) fn run(many: &Many) -> anyhow::Result<()> {
    let begun = Instant::now();
    let (next, stop) = (AtomicU64::new(many.seeds.start), AtomicBool::new(false));
    let (sender, reports) = mpsc::sync_channel(64);
    let mut sum = Sum::default();
    std::thread::scope(|scope| {
        for _ in 0..many.jobs.max(1) {
            let sender = sender.clone();
            scope.spawn(|| work(many, begun, &next, &stop, sender));
        }
        drop(sender);
        for one in reports {
            sum.add(one?);
            if !sum.failed.is_empty() && !many.keep_going {
                stop.store(true, Ordering::Relaxed);
            }
        }
        anyhow::Ok(())
    })?;
    summary(&sum, begun.elapsed(), many)
}

fn work(
    many: &Many,
    begun: Instant,
    next: &AtomicU64,
    stop: &AtomicBool,
    sender: mpsc::SyncSender<anyhow::Result<Sum>>,
) {
    let over = || many.budget.is_some_and(|budget| begun.elapsed() >= budget);
    while !stop.load(Ordering::Relaxed) && !over() {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= many.seeds.end {
            return;
        }
        let one = if many.jobs > 1 { elsewhere(many, seed) } else { here(many, seed) };
        if sender.send(one).is_err() {
            return;
        }
    }
}

fn here(many: &Many, seed: u64) -> anyhow::Result<Sum> {
    let started = Instant::now();
    let report = run_seed(seed, many.quiet, many.trace)?;
    print(many, &report, started.elapsed())?;
    Ok(Sum::of(&report))
}

/// In a process of its own: runs at the same time in one would draw the numbers
/// of their tasks from the same counter, and not repeat.
fn elsewhere(many: &Many, seed: u64) -> anyhow::Result<Sum> {
    let mut command = Command::new(std::env::current_exe().context("find this program")?);
    command.args(["run", "--sum", "--seed", &seed.to_string()]);
    command.args(many.quiet.then_some("--quiet")).args(many.trace.then_some("--trace"));
    let output = command.stderr(Stdio::inherit()).output().context("start a process")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let text = text.trim_end();
    let (told, sum) = text.rsplit_once('\n').unwrap_or(("", text));
    // Without a sum it died, which is a failure of the seed.
    let parsed = serde_json::from_str(sum);
    let died = || Sum { done: 1, failed: vec![seed], ..Sum::default() };
    let told = if parsed.is_ok() { told.to_owned() } else { format!("{text}\nseed {seed} died") };
    writeln!(std::io::stdout().lock(), "{told}")?;
    Ok(parsed.unwrap_or_else(|_| died()))
}

fn print(many: &Many, report: &Report, took: Duration) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    for line in report.trace.kept() {
        writeln!(out, "{line}")?;
    }
    tell(&mut out, report, took)?;
    if many.trace {
        writeln!(out, "{:?}\n{:?}", report.happened, report.inputs)?;
    }
    Ok(())
}

fn summary(sum: &Sum, took: Duration, many: &Many) -> anyhow::Result<()> {
    let minutes = took.as_secs_f64() / 60.0;
    let done = u32::try_from(sum.done).unwrap_or(u32::MAX);
    let per_minute = f64::from(done) / minutes;
    let mut out = std::io::stdout().lock();
    if many.sum {
        writeln!(out, "{}", serde_json::to_string(sum)?)?;
        return Ok(());
    }
    writeln!(out, "faults: {:?}", sum.faults)?;
    writeln!(out, "judged: {:?}", sum.inputs)?;
    writeln!(
        out,
        "{done} seeds in {minutes:.2} minutes, {per_minute:.0} seeds a minute, {} simulated minutes",
        sum.simulated_ms / 60_000
    )?;
    if done == 0 {
        bail!("no seed was run");
    }
    if !sum.failed.is_empty() {
        bail!("{} of {done} seeds failed: {:?}", sum.failed.len(), sum.failed);
    }
    let idle: Vec<_> = sum.inputs.iter().filter(|(_, count)| **count == 0).collect();
    if sum.done >= ENOUGH && !many.quiet && !idle.is_empty() {
        bail!("nothing was judged in {done} seeds by {idle:?}");
    }
    Ok(())
}
