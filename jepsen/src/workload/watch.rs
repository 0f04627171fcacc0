//! Watchers of all kinds on a keyspace that changes: fast and slow ones, ones
//! that stay and ones that go from replica to replica, ones that begin in the
//! past.

use super::{Watcher, Workload, World, follow};
use crate::client::{Actor, Raw};
use anyhow::Result;
use async_trait::async_trait;
use keelstone_jepsen::history::{Action, Compare, Operand, Relation, Target, Txn};
use rand::Rng as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

/// Where the keys are.
const PREFIX: &str = "watch/";
/// Groups of keys, each with watchers of its own.
const GROUPS: u64 = 3;
/// Keys in a group.
const KEYS: u64 = 5;
/// Watchers that go from replica to replica.
const ROAMING: u64 = 6;

pub(super) struct Watching;

#[async_trait]
impl Workload for Watching {
    fn name(&self) -> &'static str {
        "watch"
    }

    fn about(&self) -> &'static str {
        "watchers on all replicas, resumed across reconnects"
    }

    fn checkers(&self) -> &'static [&'static str] {
        // The checker of watches is one of those that judge every run.
        &[]
    }

    fn start(&self, world: &Arc<World>) -> Vec<JoinHandle<()>> {
        let writers = (0..world.clients)
            .map(|index| tokio::spawn(writer(Arc::clone(world), world.actor(index))));
        let roaming =
            (0..ROAMING).map(|index| follow(world, roaming(index), world.stop.clone()).task);
        let late = tokio::spawn(late(Arc::clone(world)));
        writers.chain(roaming).chain([late]).collect()
    }

    async fn read(&self, world: &Arc<World>, raw: Raw) -> Result<()> {
        world.read_prefix(raw, PREFIX).await.map(|_| ())
    }
}

fn roaming(index: u64) -> Watcher {
    let prefix = format!("{PREFIX}{}/", index % GROUPS);
    let slowness = if index.is_multiple_of(2) { Duration::ZERO } else { Duration::from_millis(30) };
    let patience = Some(Duration::from_millis(500 + 700 * index));
    Watcher { slowness, patience, ..Watcher::new(&prefix, 0) }
}

/// Watchers that begin somewhere in the past, again and again.
async fn late(world: Arc<World>) {
    let mut raws = world.directory.all().into_iter().cycle();
    while world.rest(Duration::from_secs(2)).await {
        let Some(raw) = raws.next() else { return };
        let Ok(status) = raw.status(Duration::from_millis(500)).await else { continue };
        let now = status.header.map_or(0, |header| header.revision);
        let start = now.saturating_sub(now % 200).max(status.compact_revision).max(2);
        let watcher = Watcher { home: Some(raw.node), ..Watcher::new(PREFIX, start) };
        let stop = world.stop.child_token();
        let following = follow(&world, watcher, stop.clone());
        world.rest(Duration::from_secs(1)).await;
        stop.cancel();
        following.task.await.ok();
    }
}

async fn writer(world: Arc<World>, mut actor: Actor) {
    while world.pace(&mut actor).await {
        let key = |actor: &mut Actor| {
            let group = actor.rng.random_range(0..GROUPS);
            format!("{PREFIX}{group}/{}", actor.rng.random_range(0..KEYS))
        };
        let (first, second) = (key(&mut actor), key(&mut actor));
        let value = format!("v{}", world.unique());
        let success = match actor.rng.random_range(0..10) {
            0..6 => vec![Action::put(first, value)],
            6..8 if first != second => {
                // Two changes at one revision: they have to come together.
                vec![Action::put(first, value.as_str()), Action::put(second, value.as_str())]
            }
            6..9 => vec![Action::delete(first)],
            _ => {
                let group = actor.rng.random_range(0..GROUPS);
                let prefix = format!("{PREFIX}{group}/");
                let end = Some(keelstone_jepsen::history::prefix_end(&prefix));
                vec![Action::Delete { key: prefix, end, prev: true }]
            }
        };
        let compares = if actor.rng.random_bool(0.1) { vec![never()] } else { Vec::new() };
        let txn = Txn { compares, success, linearizable: true, ..Txn::default() };
        actor.txn(txn).await.ok();
    }
}

/// A compare that does not hold: such a transaction must not be seen.
fn never() -> Compare {
    let (key, operand) = (format!("{PREFIX}never"), Operand::Number(1));
    Compare { key, target: Target::Version, op: Relation::Equal, operand }
}
