//! Cuts the power: takes a copy of a disk at a random moment, as the disk would
//! be found, and verifies what is on it against what had been acknowledged.
//!
//! The disk is an ext4 file system on a loop device whose image lies in memory.
//! Two caches are tried, because they lose different things:
//!
//! * *durable*: every write that the device completed is there. Lost is what
//!   the kernel had not written.
//! * *volatile*: only what a flush moved is there. The device's image is a file
//!   of an outer file system on an outer device, and the outer image is copied.
//!
//! The writer is stopped (SIGSTOP), what it was promised is read, the image is
//! copied, the writer goes on (SIGCONT), and the copy is mounted (so that the
//! file system replays its journal), opened and verified. A copy during which
//! the device was written is dropped and taken again.
//!
//! sled without our own fsync must lose data here. If it does not, the harness
//! proves nothing, and the program fails.
//!
//! Needs root, loop devices and `mkfs.ext4`; where they are missing it says so
//! and proves nothing.

#![expect(clippy::print_stdout, reason = "a program's output")]

mod disk;

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, Subcommand};
use disk::{Cache, Disk, Scratch};
use keelstone_tests::durability::{self, Ledger, Loss, Random, Subject, fresh_seed};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

/// How long a writer may take to begin.
const START: Duration = Duration::from_mins(1);
/// Cuts from one writer and file system, before both are made anew.
const CUTS_PER_DISK: u64 = 5;
/// Copies tried until one was not disturbed.
const COPIES_MAX: u32 = 100;

/// Cuts the power of writers, and verifies what they leave.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    part: Option<Part>,
    /// Cuts for each subject and each kind of cache.
    #[arg(long, default_value_t = 20)]
    cuts: u64,
    /// Longest time between two cuts, in milliseconds.
    #[arg(long, default_value_t = 400)]
    life_ms: u64,
    /// Repeats a run's operations and waits, though not its exact moments.
    #[arg(long)]
    seed: Option<u64>,
    /// Only these subjects.
    #[arg(long)]
    subject: Vec<Subject>,
    /// Where the images are kept: a file system in memory.
    #[arg(long, default_value = "/dev/shm")]
    dir: PathBuf,
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
    let scratch = Scratch::new(&arguments.dir)?;
    if let Err(reason) = disk::try_out(&scratch) {
        println!("SKIPPED, nothing was proven: {reason:#}");
        return Ok(());
    }
    let seed = arguments.seed.unwrap_or_else(fresh_seed);
    println!("powercut --seed {seed}");
    println!("subject              cache     cuts  lost  unreadable  acknowledged  dropped copies");
    let subjects =
        if arguments.subject.is_empty() { Subject::all() } else { arguments.subject.clone() };
    let mut failed = Vec::new();
    for subject in subjects {
        let mut bad = 0;
        for cache in [Cache::Durable, Cache::Volatile] {
            let mut run =
                Run { subject, cache, seed, arguments: &arguments, tally: Tally::default() };
            run.all(&scratch).with_context(|| format!("{subject}, {cache:?}, seed {seed}"))?;
            bad += run.tally.lost + run.tally.unreadable;
            run.tally.print(subject, cache);
        }
        let must_fail = subject == Subject::SledWithoutFsync;
        if (bad > 0) != must_fail {
            failed.push(subject.to_string());
        }
    }
    ensure!(failed.is_empty(), "not as it has to be: {}", failed.join(", "));
    Ok(())
}

/// What came of the cuts.
#[derive(Default)]
struct Tally {
    cuts: u64,
    lost: u64,
    unreadable: u64,
    acknowledged: u64,
    dropped: u32,
}

impl Tally {
    fn print(&self, subject: Subject, cache: Cache) {
        let Self { cuts, lost, unreadable, acknowledged, dropped } = self;
        println!(
            "{:<20} {:<8} {cuts:>5} {lost:>5} {unreadable:>11} {acknowledged:>13} {dropped:>15}",
            subject.to_string(),
            format!("{cache:?}").to_lowercase(),
        );
    }
}

/// The cuts of one subject with one kind of cache.
struct Run<'a> {
    subject: Subject,
    cache: Cache,
    seed: u64,
    arguments: &'a Arguments,
    tally: Tally,
}

impl Run<'_> {
    fn all(&mut self, scratch: &Scratch) -> Result<()> {
        let mut random = Random::of(self.seed, self.cache as u64);
        let mut generation = 0;
        while self.tally.cuts < self.arguments.cuts {
            generation += 1;
            let disk = Disk::new(scratch, self.cache)?;
            let left = self.arguments.cuts - self.tally.cuts;
            self.cut_one_disk(scratch, &disk, left.min(CUTS_PER_DISK), generation, &mut random)?;
            disk.close()?;
        }
        Ok(())
    }

    fn cut_one_disk(
        &mut self,
        scratch: &Scratch,
        disk: &Disk<'_>,
        cuts: u64,
        generation: u64,
        random: &mut Random,
    ) -> Result<()> {
        let seed = self.seed ^ generation << 32;
        let path = scratch.path("ledger");
        let ledger = Ledger::create(&path, 0)?;
        let mut writer = Writer::start(self.subject, disk.mount_point(), &path, seed)?;
        writer.wait_until_started(&ledger)?;
        let mut acknowledged = 0;
        for _ in 0..cuts {
            thread::sleep(Duration::from_millis(random.below(self.arguments.life_ms)));
            acknowledged = self.cut(&mut writer, disk, &ledger, seed)?;
            self.tally.cuts += 1;
        }
        self.tally.acknowledged += acknowledged;
        Ok(())
    }

    /// One cut; returns what had been acknowledged.
    fn cut(
        &mut self,
        writer: &mut Writer,
        disk: &Disk<'_>,
        ledger: &Ledger,
        seed: u64,
    ) -> Result<u64> {
        for _ in 0..COPIES_MAX {
            writer.signal("STOP")?;
            // What was promised before the copy must be in it.
            let acknowledged = ledger.read()?;
            let copied = disk.copy();
            writer.signal("CONT")?;
            let Some(copy) = copied? else {
                self.tally.dropped += 1;
                continue;
            };
            let dir = copy.mount_point().join("subject");
            match durability::verify(self.subject, &dir, seed, acknowledged) {
                Ok(_) => {}
                Err(loss) => self.report(&loss),
            }
            copy.close()?;
            return Ok(acknowledged);
        }
        bail!("the disk never rested for the time of a copy");
    }

    fn report(&mut self, loss: &Loss) {
        match loss {
            Loss::Wrong(_) => self.tally.lost += 1,
            Loss::Unreadable(_) => self.tally.unreadable += 1,
        }
        if self.subject != Subject::SledWithoutFsync {
            println!("{}, {:?} cache: {loss}", self.subject, self.cache);
        }
    }
}

/// A writer's process; killed when it is dropped.
struct Writer {
    child: Child,
}

impl Writer {
    fn start(subject: Subject, mount: &Path, ledger: &Path, seed: u64) -> Result<Self> {
        let child = Command::new(std::env::current_exe()?)
            .arg("write")
            .arg(subject.to_string())
            .args([&mount.join("subject"), ledger])
            .args([seed.to_string(), "0".to_owned()])
            .spawn()
            .context("start a writer")?;
        Ok(Self { child })
    }

    fn wait_until_started(&mut self, ledger: &Ledger) -> Result<()> {
        let begun = Instant::now();
        while !ledger.started()? {
            ensure!(begun.elapsed() < START, "the writer did not begin");
            if let Some(status) = self.child.try_wait()? {
                bail!("the writer ended by itself: {status}");
            }
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    fn signal(&mut self, name: &str) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            bail!("the writer ended by itself: {status}");
        }
        disk::run("kill", &[&format!("-{name}"), &self.child.id().to_string()]).map(drop)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
