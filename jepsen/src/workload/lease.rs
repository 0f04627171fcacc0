//! Leases with keys: granted, renewed, revoked, left to end, and looked at all
//! the while.

use super::{Workload, World};
use crate::client::{Actor, Raw};
use anyhow::Result;
use async_trait::async_trait;
use keelstone_jepsen::history::{Action, ActionReply, Txn};
use rand::Rng as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Where the keys are.
const PREFIX: &str = "lease/";
/// How long the end of a lease is waited for beyond its time.
const LATE: Duration = Duration::from_secs(12);
/// How often a key is looked at.
const GLANCE: Duration = Duration::from_millis(250);

pub(super) struct Leases;

#[async_trait]
impl Workload for Leases {
    fn name(&self) -> &'static str {
        "lease"
    }

    fn about(&self) -> &'static str {
        "leases that are renewed, revoked or left to end, with their keys"
    }

    fn checkers(&self) -> &'static [&'static str] {
        &["lease"]
    }

    fn start(&self, world: &Arc<World>) -> Vec<JoinHandle<()>> {
        // Most of a lease's life is waiting.
        (0..world.clients * 3)
            .map(|index| tokio::spawn(client(Arc::clone(world), world.actor(index))))
            .collect()
    }

    async fn read(&self, world: &Arc<World>, raw: Raw) -> Result<()> {
        world.read_prefix(raw, PREFIX).await.map(|_| ())
    }
}

async fn client(world: Arc<World>, mut actor: Actor) {
    while world.rest(Duration::from_millis(actor.rng.random_range(0..500))).await {
        let ttl_ms = actor.rng.random_range(2_000..4_500);
        let Ok(lease) = actor.lease_grant(ttl_ms).await else { continue };
        let key = format!("{PREFIX}{}", world.unique());
        if !attach(&world, &mut actor, &key, lease).await {
            continue;
        }
        let renewals = actor.rng.random_range(0..5);
        if !keep(&world, &mut actor, &key, lease, ttl_ms, renewals).await {
            continue;
        }
        match actor.rng.random_range(0..10) {
            0..3 => {
                actor.lease_revoke(lease).await.ok();
            }
            3 => {} // Left to itself.
            _ => see_the_end(&world, &mut actor, &key, lease, ttl_ms).await,
        }
    }
}

/// Puts one to three keys with the lease.
async fn attach(world: &World, actor: &mut Actor, key: &str, lease: u64) -> bool {
    let puts = (0..actor.rng.random_range(1..=3)).map(|index| Action::Put {
        key: format!("{key}/{index}"),
        value: world.unique().to_string(),
        lease,
        prev: false,
    });
    let txn = Txn { success: puts.collect(), linearizable: true, ..Txn::default() };
    actor.txn(txn).await.is_ok()
}

/// Renews in time, and looks in between; `false` if it is to stop or the lease
/// is gone.
async fn keep(
    world: &World,
    actor: &mut Actor,
    key: &str,
    lease: u64,
    ttl_ms: u64,
    renewals: u32,
) -> bool {
    for _ in 0..renewals {
        let wait = Duration::from_millis(actor.rng.random_range(ttl_ms / 5..ttl_ms * 9 / 10));
        if !world.rest(wait).await {
            return false;
        }
        if actor.rng.random_bool(0.3) {
            actor.lease_ttl(lease).await.ok();
        } else {
            is_there(actor, key).await;
        }
        if matches!(actor.lease_renew(lease).await, Ok(false)) {
            return false;
        }
    }
    true
}

/// Looks until the keys are gone, and then whether the lease is gone too.
async fn see_the_end(world: &World, actor: &mut Actor, key: &str, lease: u64, ttl_ms: u64) {
    let until = Instant::now() + Duration::from_millis(ttl_ms) + LATE;
    while Instant::now() < until && world.rest(GLANCE).await {
        if is_there(actor, key).await == Some(false) {
            actor.lease_ttl(lease).await.ok();
            // It must not come back.
            actor.lease_renew(lease).await.ok();
            return;
        }
    }
}

async fn is_there(actor: &mut Actor, key: &str) -> Option<bool> {
    let read = Txn {
        success: vec![Action::prefix(&format!("{key}/"))],
        linearizable: true,
        ..Txn::default()
    };
    match actor.txn(read).await.ok()?.results.first()? {
        ActionReply::Range { kvs, .. } => Some(!kvs.is_empty()),
        _ => None,
    }
}
