//! What clients do while things go wrong.
//!
//! A [`Workload`] is a set of clients that work until they are told to stop, and
//! a reading of everything at the end, on each replica. Which checkers judge it
//! is part of it.

mod append;
mod backup;
mod bank;
mod config;
mod counter;
mod entity;
mod lease;
mod lock;
mod queue;
mod register;
mod set;
mod watch;
mod watcher;
mod world;

pub(crate) use watcher::{Following, Watcher, follow};
pub(crate) use world::{Parts, World};

use crate::client::Raw;
use crate::node::Nodes;
use anyhow::{Result, bail};
use async_trait::async_trait;
use keelstone_jepsen::check;
use std::sync::Arc;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

/// Checkers of every run, whatever its workload.
pub(crate) const ALWAYS: &[&str] =
    &["replay", "watch", "convergence", "membership", "liveness", "logs"];

/// A kind of load.
#[async_trait]
pub(crate) trait Workload: Send + Sync {
    /// Its name on the command line.
    fn name(&self) -> &'static str;

    /// What it does, in a line.
    fn about(&self) -> &'static str;

    /// The checkers that judge it besides [`ALWAYS`].
    fn checkers(&self) -> &'static [&'static str];

    /// What the checkers have to know.
    fn describe(&self, _context: &mut check::Context) {}

    /// What has to be there before the load, done while nothing is broken.
    async fn prepare(&self, _world: &Arc<World>) -> Result<()> {
        Ok(())
    }

    /// Clients, each of which ends soon after `world.stop`.
    fn start(&self, world: &Arc<World>) -> Vec<JoinHandle<()>>;

    /// What is left to be done when everything works again.
    async fn finish(&self, _world: &Arc<World>, _nodes: &Arc<Mutex<Nodes>>) -> Result<()> {
        Ok(())
    }

    /// Reads at one replica, in the end, what the workload wrote.
    async fn read(&self, world: &Arc<World>, raw: Raw) -> Result<()>;
}

/// All of them.
pub(crate) fn all() -> Vec<Box<dyn Workload>> {
    vec![
        Box::new(register::Register),
        Box::new(set::Set),
        Box::new(append::Append),
        Box::new(bank::Bank),
        Box::new(watch::Watching),
        Box::new(counter::Counter),
        Box::new(entity::Entities),
        Box::new(config::Config),
        Box::new(lease::Leases),
        Box::new(lock::Locks),
        Box::new(queue::Queue),
        Box::new(Arc::new(backup::Backups::default())),
    ]
}

/// The workload of this name.
///
/// # Errors
///
/// Fails if there is none.
pub(crate) fn by_name(name: &str) -> Result<Box<dyn Workload>> {
    match all().into_iter().find(|workload| workload.name() == name) {
        Some(workload) => Ok(workload),
        None => bail!("`{name}` is no workload; `keelstone-jepsen list` lists them"),
    }
}
