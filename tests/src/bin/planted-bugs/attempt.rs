//! Which harness should find which bug, and how to ask it.

use anyhow::{Context as _, Result, bail};
use keelstone_store::planted::{Bug, VARIABLE};
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Seeds that the simulation may take.
const SEEDS_MAX: u64 = 500;
/// How long the simulation may take for them.
const SIM_SECONDS: u64 = 240;
/// Fault runs that a bug may take, each with a seed of its own.
const RUNS_MAX: u64 = 2;
/// How long a harness may take, whatever it was told.
const PATIENCE: Duration = Duration::from_mins(7);

/// One way to look for a bug.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Attempt {
    /// Seeds of the simulation.
    Sim,
    /// Fault runs of a workload under a nemesis, so many seconds each.
    Jepsen(&'static str, &'static str, u64),
    /// Tests of a package: the package, its target, and a part of their names.
    Unit(&'static str, &'static [&'static str], &'static str),
}

impl Attempt {
    /// The harness, as on the command line.
    pub(crate) fn harness(&self) -> &'static str {
        match self {
            Self::Sim => "sim",
            Self::Jepsen(..) => "jepsen",
            Self::Unit(..) => "unit",
        }
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sim => write!(f, "simulation, {SEEDS_MAX} seeds"),
            Self::Jepsen(workload, nemesis, seconds) => {
                write!(f, "{workload} under {nemesis}, {seconds} s")
            }
            Self::Unit(package, _, filter) => write!(f, "tests of {package}: {filter}"),
        }
    }
}

/// The attempts for a bug, the likeliest first.
pub(crate) fn attempts(bug: Bug) -> Vec<Attempt> {
    use Attempt::{Jepsen, Sim, Unit};
    const LOG: Attempt = Unit("keelstone-store", &["--lib"], "disk::log::tests");
    const BACKUP: Attempt = Unit("keelstone-server", &["--test", "backup"], "");
    match bug {
        Bug::SkipLogFsync => vec![Sim, Jepsen("set", "power-cut", 25), LOG],
        Bug::SkipVoteFsync | Bug::SkipDirectorySync | Bug::IgnoreFsyncError => vec![Sim, LOG],
        Bug::AckBeforeQuorum => vec![Sim, Jepsen("set", "partition", 30)],
        Bug::ReadWithoutIndex => vec![Sim, Jepsen("register", "partition+pause", 40)],
        Bug::ReuseReadIndex | Bug::SkipOneApply | Bug::CompareAfterWrite => {
            vec![Sim, Jepsen("register", "none", 15)]
        }
        Bug::ApplyTwice | Bug::LoseLogTail => vec![Sim, Jepsen("set", "kill", 30)],
        Bug::WatchDropsAfterSnapshot => vec![Sim, Jepsen("watch", "partition+compact", 45)],
        Bug::WatchTwiceOnResume => vec![Sim, Jepsen("watch", "kill", 25)],
        Bug::SplitRevision | Bug::EarlyProgress => vec![Sim, Jepsen("watch", "none", 15)],
        Bug::LeaseLocalTime => vec![Sim, Jepsen("lease", "clock", 30)],
        Bug::LeaseRenewedByDeposed => vec![Sim, Jepsen("lease", "partition+pause", 45)],
        Bug::DedupLostInSnapshot => vec![Sim, Jepsen("counter", "mix", 45)],
        Bug::StaleDocument => vec![Sim, Jepsen("entity", "none", 20)],
        Bug::AcceptBadChecksum => vec![Sim, LOG, Jepsen("set", "corrupt", 40)],
        Bug::BackupMovingRevision | Bug::RestoreWithoutBump => {
            vec![Jepsen("backup", "none", 8), BACKUP]
        }
    }
}

/// A bug that was found.
#[derive(Debug)]
pub(crate) struct Found {
    /// The harness.
    pub(crate) by: &'static str,
    /// The workload and the seed.
    pub(crate) how: String,
    /// What it said, in short.
    pub(crate) evidence: String,
    /// How long it took, all runs of the attempt together.
    pub(crate) seconds: f64,
}

/// Where everything is.
#[derive(Debug)]
pub(crate) struct Programs {
    pub(crate) keelstone: PathBuf,
    pub(crate) jepsen: PathBuf,
    pub(crate) sim: PathBuf,
    pub(crate) out: PathBuf,
    pub(crate) seed: u64,
}

/// What a program came to.
struct Ended {
    code: Option<i32>,
    text: String,
}

impl Programs {
    /// Makes an attempt; says what was found.
    pub(crate) fn run(&self, attempt: &Attempt, bug: Option<Bug>) -> Result<Option<Found>> {
        let begun = Instant::now();
        let found = match attempt {
            Attempt::Sim => self.simulate(bug)?,
            Attempt::Jepsen(workload, nemesis, seconds) => {
                self.fault_runs(workload, nemesis, *seconds, bug)?
            }
            Attempt::Unit(package, target, filter) => self.tests(package, target, filter, bug)?,
        };
        let seconds = begun.elapsed().as_secs_f64();
        let by = match attempt {
            Attempt::Sim => "simulation",
            Attempt::Jepsen(..) => "fault run",
            Attempt::Unit(..) => "tests",
        };
        Ok(found.map(|(how, evidence)| Found { by, how, evidence: cell(&evidence), seconds }))
    }

    fn simulate(&self, bug: Option<Bug>) -> Result<Option<(String, String)>> {
        let mut command = Command::new(&self.sim);
        command.args(["run", "--seeds", &format!("0..{SEEDS_MAX}")]);
        let jobs = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        command.args(["--budget", &format!("{SIM_SECONDS}s"), "--jobs", &jobs.to_string()]);
        let ended = self.carry_out(command, bug)?;
        let line = |word: &str| ended.text.lines().find(|line| line.contains(word));
        let Some(failed) = line("FAILED") else {
            if ended.code == Some(0) {
                return Ok(None);
            }
            bail!("the simulation ended with {:?}: {}", ended.code, tail(&ended.text));
        };
        let seed = failed.split_whitespace().nth(1).unwrap_or("?");
        let evidence = line("violated:").unwrap_or("failed").trim().to_owned();
        Ok(Some((format!("seed {seed}"), evidence.replacen("violated: ", "", 1))))
    }

    fn fault_runs(
        &self,
        workload: &str,
        nemesis: &str,
        seconds: u64,
        bug: Option<Bug>,
    ) -> Result<Option<(String, String)>> {
        for seed in self.seed..self.seed + RUNS_MAX {
            let mut command = Command::new(&self.jepsen);
            command.args(["run", "--workload", workload, "--nemesis", nemesis]);
            command.args(["--time", &format!("{seconds}s"), "--seed", &seed.to_string()]);
            command.arg("--binary").arg(&self.keelstone).arg("--out").arg(&self.out);
            let ended = self.carry_out(command, bug)?;
            match ended.code {
                Some(0) => {}
                // A violation.
                Some(1) => {
                    let shown = ended.text.lines().skip_while(|line| !line.contains(": violation"));
                    let shown: Vec<&str> = shown.take(2).map(str::trim).collect();
                    let how = format!("{workload} under {nemesis}, seed {seed}");
                    return Ok(Some((how, shown.join(" "))));
                }
                // It could not be told; with a bug, that is not enough.
                Some(2) => {}
                code => bail!("the fault run ended with {code:?}: {}", tail(&ended.text)),
            }
        }
        Ok(None)
    }

    fn tests(
        &self,
        package: &str,
        target: &[&str],
        filter: &str,
        bug: Option<Bug>,
    ) -> Result<Option<(String, String)>> {
        let mut command = Command::new("cargo");
        command.args(["test", "--package", package, "--features", "planted-bugs"]);
        command.args(target).arg(filter);
        let ended = self.carry_out(command, bug)?;
        let failed: Vec<&str> = ended
            .text
            .lines()
            .filter(|line| line.starts_with("test ") && line.ends_with("FAILED"))
            .filter_map(|line| line.split_whitespace().nth(1))
            .collect();
        match (ended.code, failed.as_slice()) {
            (Some(0), _) => Ok(None),
            (_, []) => bail!("the tests of {package} did not run: {}", tail(&ended.text)),
            (_, failed) => {
                let more = failed.len() - 1;
                let more = if more > 0 { format!(" and {more} more") } else { String::new() };
                Ok(Some((package.to_owned(), format!("`{}`{more}", failed[0]))))
            }
        }
    }

    /// Runs a program to its end, but not for ever.
    fn carry_out(&self, mut command: Command, bug: Option<Bug>) -> Result<Ended> {
        match bug {
            Some(bug) => command.env(VARIABLE, bug.name()),
            None => command.env_remove(VARIABLE),
        };
        let shown = format!("{command:?}");
        let log = self.out.join("output.txt");
        let file = std::fs::File::create(&log).context("keep the output")?;
        command.stdin(Stdio::null()).stderr(file.try_clone()?).stdout(file);
        let mut child = command.spawn().with_context(|| format!("start {shown}"))?;
        let begun = Instant::now();
        let code = loop {
            if let Some(status) = child.try_wait()? {
                break status.code();
            }
            if begun.elapsed() > PATIENCE {
                child.kill()?;
                child.wait()?;
                bail!("{shown} did not end within {} s", PATIENCE.as_secs());
            }
            std::thread::sleep(Duration::from_millis(100));
        };
        Ok(Ended { code, text: read(&log)? })
    }
}

fn read(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).context("read the output")?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}

/// A text that fits into a cell of a table.
fn cell(text: &str) -> String {
    const MAX: usize = 160;
    // Where a library lies on this machine says nothing to others.
    let words = text.split_whitespace().map(|word| match word.split_once("/registry/src/") {
        Some((_, inside)) => inside.split_once('/').map_or(inside, |(_, path)| path),
        None => word,
    });
    let plain = words.collect::<Vec<_>>().join(" ").replace('|', "/");
    match plain.char_indices().nth(MAX) {
        Some((end, _)) => format!("{}...", &plain[..end]),
        None => plain,
    }
}
