//! What clients do, and the history of it.
//!
//! Each client is a task on a machine of their own. It asks one node at a time,
//! waits for a while, and notes what it asked and what it was told. An answer
//! that does not come leaves the outcome unknown, and the client goes on under
//! another process number.

mod convert;
mod counters;
mod entities;
mod keys;
mod leases;
mod locks;
pub mod operator;
mod watch;

use super::door::{Doors, NoAnswer};
use super::{HostId, Plan, WorldTime};
use crate::durability::Random;
use keelstone_jepsen::history::{Op, Process, Recorder};
use keelstone_server::core::{ProposeError, ReadError};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

/// How long clients wait for an answer.
pub const PATIENCE: Duration = Duration::from_millis(2_500);

/// What all clients share.
#[derive(Clone)]
pub struct Clients {
    /// The run's plan.
    pub plan: Arc<Plan>,
    /// The way to the nodes.
    pub doors: Doors,
    /// The history.
    pub recorder: Arc<Recorder>,
    /// The world's time.
    pub time: WorldTime,
    /// The nodes that are asked.
    pub hosts: Vec<HostId>,
    /// What clients shall do now.
    pub stage: Stage,
    /// What the operator wants of the world.
    pub orders: operator::Orders,
    /// Up to where the watcher of everything has come.
    pub watched: Arc<AtomicU64>,
}

/// What clients shall do now. Clones share it.
#[derive(Clone, Default)]
pub struct Stage {
    number: Arc<AtomicU8>,
}

impl Stage {
    /// Nobody shall begin anything; watchers go on.
    pub fn end(&self) {
        self.number.store(1, Ordering::Relaxed);
    }

    /// Watchers end as well.
    pub fn end_watches(&self) {
        self.number.store(2, Ordering::Relaxed);
    }

    /// Whether watchers go on.
    pub fn watches(&self) -> bool {
        self.number.load(Ordering::Relaxed) < 2
    }

    /// Whether clients go on.
    pub fn goes_on(&self) -> bool {
        self.number.load(Ordering::Relaxed) == 0
    }
}

/// Why an operation has no reply.
#[derive(Clone, Debug)]
pub enum Failed {
    /// It did not happen and will not.
    No(String),
    /// Nobody knows.
    Unknown(String),
}

impl From<NoAnswer> for Failed {
    fn from(error: NoAnswer) -> Self {
        match error {
            NoAnswer::NotSent => Self::No("not sent".to_owned()),
            NoAnswer::Lost => Self::Unknown("no answer".to_owned()),
        }
    }
}

impl From<ProposeError> for Failed {
    fn from(error: ProposeError) -> Self {
        match error {
            ProposeError::Unknown(_) => Self::Unknown(error.to_string()),
            _ => Self::No(error.to_string()),
        }
    }
}

impl From<ReadError> for Failed {
    fn from(error: ReadError) -> Self {
        Self::No(error.to_string())
    }
}

/// One client.
pub struct Client {
    all: Clients,
    random: Random,
    process: Process,
}

impl Client {
    fn new(all: &Clients, number: u64) -> Self {
        let random = Random::of(all.plan.seed, 1000 + number);
        let process = all.recorder.new_process();
        Self { all: all.clone(), random, process }
    }

    fn node(&mut self) -> HostId {
        self.all.hosts[self.random.below_usize(self.all.hosts.len())]
    }

    async fn think(&mut self, most_ms: u64) {
        let pause = Duration::from_micros(self.random.below(most_ms * 1000 + 1));
        tokio::time::sleep(pause).await;
    }

    fn invoke(&self, op: &Op, node: HostId) {
        self.all.recorder.invoke(self.process, op.clone(), Some(node));
    }

    fn ok(&self, op: Op, node: HostId) {
        self.all.recorder.ok(self.process, op, Some(node));
    }

    fn failed(&mut self, op: Op, node: HostId, failed: Failed) {
        match failed {
            Failed::No(error) => {
                self.all.recorder.fail(self.process, op, Some(node), error);
            }
            Failed::Unknown(error) => {
                self.process = self.all.recorder.info(self.process, op, Some(node), error);
            }
        }
    }
}

/// Starts all clients of the plan; to be called on their machine.
pub fn start(all: &Clients) {
    let counts = all.plan.clients;
    let mut number = 0;
    let mut next = || {
        number += 1;
        (Client::new(all, number), number)
    };
    for reader in 0..counts.watchers {
        tokio::spawn(watch::run(next().0, reader));
    }
    for _ in 0..counts.keys {
        tokio::spawn(keys::run(next().0));
    }
    for _ in 0..counts.leases {
        let (client, number) = next();
        tokio::spawn(leases::run(client, number));
    }
    for _ in 0..counts.counters {
        let (client, number) = next();
        tokio::spawn(counters::run(client, number));
    }
    if all.plan.operator {
        tokio::spawn(operator::run(next().0));
    }
    let resource = locks::Resource::default();
    for _ in 0..counts.locks {
        let (client, number) = next();
        tokio::spawn(locks::run(client, number, resource.clone()));
    }
    for writer in 0..counts.entities {
        tokio::spawn(entities::run(next().0, writer));
    }
}

pub(super) use keys::read_all;
pub(super) use leases::ask_all;
