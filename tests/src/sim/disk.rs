//! The disk of one host: what survives which kind of end.

use keelstone_server::replica::{Delay, Disk};
use keelstone_store::disk::MemoryDisk;
use keelstone_store::disk::storage::{Fault, SimDisk};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Bytes of a disk.
const CAPACITY: u64 = 64 * 1024 * 1024;

/// A host's disk. Clones share it.
#[derive(Clone)]
pub struct NodeDisk {
    /// Holds the log.
    pub log: SimDisk,
    state: MemoryDisk,
    pace_us: Arc<AtomicU64>,
    apply_pace_us: Arc<AtomicU64>,
}

impl NodeDisk {
    /// An empty disk whose chance is drawn from `seed`.
    pub fn new(seed: u64) -> Self {
        let log = SimDisk::new(seed, CAPACITY);
        let (pace_us, apply_pace_us) = (Arc::new(AtomicU64::new(1_000)), Arc::default());
        Self { log, state: MemoryDisk::default(), pace_us, apply_pace_us }
    }

    /// As the replica takes it.
    pub fn component(&self) -> Disk {
        Disk::Simulated {
            log: Arc::new(self.log.clone()),
            state: self.state.clone(),
            pace: pace_of(&self.pace_us),
            apply_pace: pace_of(&self.apply_pace_us),
        }
    }

    /// How long each batch of entries takes to be applied, in microseconds.
    pub fn set_apply_pace_us(&self, pace_us: u64) {
        self.apply_pace_us.store(pace_us, Ordering::Relaxed);
    }

    /// How long each round of the log takes from now on, in microseconds.
    pub fn set_pace_us(&self, pace_us: u64) {
        self.pace_us.store(pace_us, Ordering::Relaxed);
    }

    /// Cuts the power at the `operations`th operation from now.
    pub fn cut_power_in(&self, operations: u64) {
        self.log.fault_at(self.log.operations() + operations, Fault::PowerCut);
    }

    /// Whether the power was cut that way.
    pub fn is_off(&self) -> bool {
        self.log.is_off()
    }

    /// Loses what no sync made durable.
    pub fn lose_power(&self) {
        self.log.crash();
        self.state.crash();
    }

    /// The process is gone; its system lives on and loses nothing.
    pub fn lose_process(&self) {
        self.log.restart();
    }
}

fn pace_of(pace_us: &Arc<AtomicU64>) -> Delay {
    let pace_us = Arc::clone(pace_us);
    Arc::new(move || Duration::from_micros(pace_us.load(Ordering::Relaxed)))
}
