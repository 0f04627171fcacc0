//! A simulated machine: a runtime of its own, whose clock the world moves.
//!
//! All that runs on a host runs on one paused runtime. The world lets it live a
//! tick at a time; a host that is not given its tick stands still, as a process
//! that was stopped does, and one that is given it later finds that time has
//! jumped. Dropping the runtime ends everything on it at any point where it
//! waited, as a crash does.

use crate::durability::Random;
use std::future::Future;
use std::time::Duration;
use tokio::runtime::{Builder, RngSeed, Runtime};

/// The clock of a host in thousandths of the world's.
pub const RATE_TRUE: u64 = 1_000;

/// A machine.
pub struct Host {
    random: Random,
    runtime: Option<Runtime>,
    /// Whether it is given no time.
    paused: bool,
    /// Milliseconds that it missed while it was paused.
    missed_ms: u64,
    /// How fast its clock runs.
    rate: u64,
    /// Thousandths of milliseconds that its clock has yet to be moved.
    owed: u64,
}

impl Host {
    /// A machine that is off, whose chance is drawn from `seed`.
    pub fn new(seed: u64) -> Self {
        let random = Random::new(seed);
        Self { random, runtime: None, paused: false, missed_ms: 0, rate: RATE_TRUE, owed: 0 }
    }

    /// Starts it with a program.
    pub fn start(&mut self, program: impl Future<Output = ()> + Send + 'static) {
        let seed = RngSeed::from_bytes(&self.random.draw().to_le_bytes());
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .rng_seed(seed)
            .build()
            .expect("a runtime without IO needs nothing of the system");
        // The clock began at the system's time: its fraction of a millisecond
        // would differ from run to run.
        runtime.block_on(async { tokio::time::sleep(Duration::from_millis(1)).await });
        runtime.spawn(program);
        self.runtime = Some(runtime);
        self.paused = false;
        self.missed_ms = 0;
        self.owed = 0;
    }

    /// Ends everything on it, at once.
    pub fn stop(&mut self) {
        self.runtime = None;
    }

    /// Whether it is on.
    pub fn is_on(&self) -> bool {
        self.runtime.is_some()
    }

    /// Whether it stands still.
    pub fn is_paused(&self) -> bool {
        self.paused
    }

    /// Lets it stand still, or go on.
    pub fn set_paused(&mut self, paused: bool) {
        self.paused = paused;
    }

    /// Lets its clock run faster or slower, in thousandths of the world's.
    pub fn set_rate(&mut self, rate: u64) {
        self.rate = rate;
    }

    /// Lets it live `tick_ms` milliseconds of the world's time.
    pub fn tick(&mut self, tick_ms: u64) {
        if self.runtime.is_none() {
            return;
        }
        if self.paused {
            self.missed_ms += tick_ms;
            return;
        }
        let jump = std::mem::take(&mut self.missed_ms);
        self.owed += tick_ms * self.rate;
        let lived = self.owed / RATE_TRUE;
        self.owed %= RATE_TRUE;
        let Some(runtime) = &self.runtime else { return };
        runtime.block_on(async {
            if jump > 0 {
                tokio::time::advance(Duration::from_millis(jump)).await;
            }
            if lived > 0 {
                tokio::time::sleep(Duration::from_millis(lived)).await;
            }
        });
    }
}
