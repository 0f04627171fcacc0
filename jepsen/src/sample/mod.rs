//! Sample histories: what a correct store would have said to concurrent clients,
//! and the same with one planted mistake.
//!
//! A checker that never complains proves nothing, nor does one that complains of
//! a correct store. So each is run on thousands of histories that are right, with
//! lost answers and failures, and on as many that are wrong in one known way
//! ([`Plant`]). Everything comes from one seed.
//!
//! The store behind it is a second, naive implementation: it shares no code with
//! the checkers.

mod client;
mod plant;
mod run;
mod spoil;
mod store;
mod watcher;

pub use client::Workload;
pub use plant::Plant;

use crate::check::Context;
use crate::history::History;

/// What to make a history of.
#[derive(Clone, Debug)]
pub struct Sample {
    /// What clients do.
    pub workload: Workload,
    /// All choices come from it.
    pub seed: u64,
    /// Clients at a time.
    pub clients: usize,
    /// Operations in all, final reads not counted.
    pub operations: usize,
    /// Keys, accounts, counters, locks or documents.
    pub keys: usize,
    /// Watches of everything, each with reconnects.
    pub watchers: usize,
    /// Operations with an unknown outcome, in a thousand.
    pub info_permille: u32,
    /// Operations that fail for certain, in a thousand.
    pub fail_permille: u32,
    /// The mistake, if there is to be one.
    pub plant: Option<Plant>,
}

/// A history with what its checkers have to know.
#[derive(Debug)]
pub struct Sampled {
    /// What was recorded.
    pub history: History,
    /// The bounds that it keeps.
    pub context: Context,
    /// Whether the mistake was made: not every run has an occasion.
    pub planted: bool,
}

impl Sample {
    /// A small history of this workload.
    pub fn new(workload: Workload, seed: u64) -> Self {
        Self {
            workload,
            seed,
            clients: 5,
            operations: 120,
            keys: 4,
            watchers: 2,
            info_permille: 40,
            fail_permille: 30,
            plant: None,
        }
    }

    /// The history. The same sample gives the same one.
    pub fn run(&self) -> Sampled {
        run::run(self)
    }
}
