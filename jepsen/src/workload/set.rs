//! A growing set: one key for each element, put once.
//!
//! The measure of durability: an overwritten register hides a lost write, a
//! missing element does not.

use super::{Workload, World};
use crate::client::{Actor, Raw};
use anyhow::Result;
use async_trait::async_trait;
use keelstone_jepsen::history::{Action, Txn};
use rand::Rng as _;
use std::sync::Arc;
use tokio::task::JoinHandle;

/// Where the elements are.
const PREFIX: &str = "set/";
/// One operation of so many reads everything.
const READS: u32 = 300;

pub(super) struct Set;

#[async_trait]
impl Workload for Set {
    fn name(&self) -> &'static str {
        "set"
    }

    fn about(&self) -> &'static str {
        "unique elements added, everything read at the end on each replica"
    }

    fn checkers(&self) -> &'static [&'static str] {
        &["set"]
    }

    fn start(&self, world: &Arc<World>) -> Vec<JoinHandle<()>> {
        (0..world.clients)
            .map(|index| tokio::spawn(client(Arc::clone(world), world.actor(index))))
            .collect()
    }

    async fn read(&self, world: &Arc<World>, raw: Raw) -> Result<()> {
        world.read_prefix(raw, PREFIX).await.map(|_| ())
    }
}

async fn client(world: Arc<World>, mut actor: Actor) {
    while world.pace(&mut actor).await {
        add(&world, &mut actor).await;
    }
}

/// Adds an element, or reads all now and then.
pub(super) async fn add(world: &World, actor: &mut Actor) {
    let action = if actor.rng.random_ratio(1, READS) {
        Action::prefix(PREFIX)
    } else {
        let element = world.unique();
        Action::put(format!("{PREFIX}{element:07}"), element.to_string())
    };
    let txn = Txn { success: vec![action], linearizable: true, ..Txn::default() };
    // What came of it is in the history.
    actor.txn(txn).await.ok();
}
