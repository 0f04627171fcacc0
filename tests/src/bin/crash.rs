//! Kills a process with SIGKILL under load again and again, and reopens its
//! files: nothing acknowledged may be lost, nothing may be corrupt.
//!
//! Each subject is written by a child process, this program again, that is
//! killed after a random time. What it finds afterwards, the next child goes on
//! from. A killed process loses what it had in its own memory, not what the
//! kernel had taken; for that, see `powercut`.

#![expect(clippy::print_stdout, reason = "a program's output")]

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use keelstone_tests::durability::{self, Ledger, Random, Subject, fresh_seed};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

/// How long a child may take to begin.
const START: Duration = Duration::from_mins(1);

/// Kills writers, and verifies what they leave.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    part: Option<Part>,
    /// Kills in all; each subject gets its share.
    #[arg(long, default_value_t = 200)]
    rounds: u64,
    /// Longest life of a writer, in milliseconds.
    #[arg(long, default_value_t = 400)]
    life_ms: u64,
    /// Repeats a run's operations and lives, though not its exact moments.
    #[arg(long)]
    seed: Option<u64>,
    /// Only these subjects.
    #[arg(long)]
    subject: Vec<Subject>,
    /// Where to write; a temporary directory by default.
    #[arg(long)]
    dir: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// Writes until it is killed.
    #[command(hide = true)]
    Write { subject: Subject, dir: PathBuf, ledger: PathBuf, seed: u64, from: u64 },
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if let Some(Part::Write { subject, dir, ledger, seed, from }) = arguments.part {
        return durability::write(subject, &dir, seed, from, Ledger::open(&ledger)?);
    }
    let seed = arguments.seed.unwrap_or_else(fresh_seed);
    println!("crash --seed {seed}");
    let mut subjects = arguments.subject.clone();
    if subjects.is_empty() {
        // A sync less makes no difference to a process that is killed.
        subjects = Subject::all();
        subjects.retain(|subject| *subject != Subject::SledWithoutFsync);
    }
    let rounds = arguments.rounds.div_ceil(subjects.len() as u64);
    for subject in subjects {
        let dir = match &arguments.dir {
            Some(dir) => tempfile::tempdir_in(dir)?,
            None => tempfile::tempdir()?,
        };
        let run = Run { subject, dir: dir.path(), seed, life_ms: arguments.life_ms };
        if let Err(error) = run.all(rounds) {
            println!("the files are kept in {}", dir.keep().display());
            return Err(error.context(format!("{subject}, seed {seed}")));
        }
    }
    Ok(())
}

/// The lives of one subject.
struct Run<'a> {
    subject: Subject,
    dir: &'a Path,
    seed: u64,
    life_ms: u64,
}

impl Run<'_> {
    fn all(&self, rounds: u64) -> Result<()> {
        let started = Instant::now();
        let mut random = Random::of(self.seed, 0);
        let mut found = 0;
        let mut acknowledged_in_all = 0;
        for round in 0..rounds {
            let life = Duration::from_millis(random.below(self.life_ms));
            let acknowledged = self.live(found, life).with_context(|| format!("life {round}"))?;
            acknowledged_in_all += acknowledged.saturating_sub(found);
            found = durability::verify(self.subject, &self.subject_dir(), self.seed, acknowledged)
                .map_err(|loss| anyhow::Error::msg(loss.to_string()))
                .with_context(|| format!("after kill {round}"))?;
        }
        println!(
            "{:<20} {rounds} kills, {acknowledged_in_all} operations acknowledged, 0 lost, {:.0} s",
            self.subject.to_string(),
            started.elapsed().as_secs_f64(),
        );
        Ok(())
    }

    fn subject_dir(&self) -> PathBuf {
        self.dir.join("subject")
    }

    /// One life of a writer; returns what it was promised.
    fn live(&self, from: u64, life: Duration) -> Result<u64> {
        let path = self.dir.join("ledger");
        let ledger = Ledger::create(&path, from)?;
        let mut child = Command::new(std::env::current_exe()?)
            .arg("write")
            .arg(self.subject.to_string())
            .args([self.subject_dir(), path])
            .args([self.seed.to_string(), from.to_string()])
            .spawn()?;
        let lived = self.wait(&mut child, &ledger, life);
        child.kill()?;
        child.wait()?;
        lived?;
        Ok(ledger.read()?)
    }

    fn wait(&self, child: &mut Child, ledger: &Ledger, life: Duration) -> Result<()> {
        let begun = Instant::now();
        while !ledger.started()? {
            if begun.elapsed() > START {
                bail!("the writer of {} did not begin", self.subject);
            }
            if let Some(status) = child.try_wait()? {
                bail!("the writer ended by itself: {status}");
            }
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(life);
        match child.try_wait()? {
            Some(status) => bail!("the writer ended by itself: {status}"),
            None => Ok(()),
        }
    }
}
