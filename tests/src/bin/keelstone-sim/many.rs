//! Many seeds: run side by side, counted, and judged together.

use crate::{run_seed, tell};
use anyhow::bail;
use keelstone_tests::sim::{Report, Verdict};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// So many seeds have to give every rule and every promise something to judge.
const ENOUGH: u64 = 100;

/// How to run them.
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
}

/// What all of them came to.
#[derive(Default)]
struct Sum {
    done: u64,
    failed: Vec<u64>,
    inputs: BTreeMap<&'static str, u64>,
    faults: BTreeMap<&'static str, u64>,
    simulated_ms: u64,
}

impl Sum {
    fn add(&mut self, report: &Report) {
        self.done += 1;
        self.simulated_ms += report.simulated_ms;
        if report.verdict != Verdict::Well {
            self.failed.push(report.plan.seed);
        }
        for (name, count) in &report.inputs {
            *self.inputs.entry(name).or_default() += count;
        }
        for (name, count) in &report.happened.faults {
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
        for (report, took) in reports {
            let report = report?;
            print(many, &report, took)?;
            sum.add(&report);
            if report.verdict != Verdict::Well && !many.keep_going {
                stop.store(true, Ordering::Relaxed);
            }
        }
        anyhow::Ok(())
    })?;
    summary(&sum, begun.elapsed(), many)
}

type Done = (anyhow::Result<Report>, Duration);

fn work(
    many: &Many,
    begun: Instant,
    next: &AtomicU64,
    stop: &AtomicBool,
    sender: mpsc::SyncSender<Done>,
) {
    let over = || many.budget.is_some_and(|budget| begun.elapsed() >= budget);
    while !stop.load(Ordering::Relaxed) && !over() {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= many.seeds.end {
            return;
        }
        let started = Instant::now();
        let report = run_seed(seed, many.quiet, many.trace);
        if sender.send((report, started.elapsed())).is_err() {
            return;
        }
    }
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
