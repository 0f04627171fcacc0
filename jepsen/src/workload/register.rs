//! Registers: reads, writes and compare-and-set on single keys.
//!
//! A key is used for a few hundred operations and then left for a fresh one, for
//! a checker that does not trust revisions has to search, and long histories of
//! one key make that search long.

use super::{Workload, World};
use crate::client::{Actor, Raw};
use anyhow::Result;
use async_trait::async_trait;
use keelstone_jepsen::history::{
    Action, ActionReply, Compare, Operand, Relation, Target, Txn, TxnReply,
};
use rand::Rng as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::task::JoinHandle;

/// Where the keys are.
const PREFIX: &str = "register/";
/// Keys in use at once.
const KEYS: u64 = 3;
/// Operations on a key before a fresh one takes its place.
const OPERATIONS: u64 = 300;

pub(super) struct Register;

#[async_trait]
impl Workload for Register {
    fn name(&self) -> &'static str {
        "register"
    }

    fn about(&self) -> &'static str {
        "reads, writes, deletes and compare-and-set of single keys"
    }

    fn checkers(&self) -> &'static [&'static str] {
        &["wgl"]
    }

    fn start(&self, world: &Arc<World>) -> Vec<JoinHandle<()>> {
        let turn = Arc::new(AtomicU64::new(0));
        (0..world.clients)
            .map(|index| tokio::spawn(client(Arc::clone(world), world.actor(index), turn.clone())))
            .collect()
    }

    async fn read(&self, world: &Arc<World>, raw: Raw) -> Result<()> {
        world.read_prefix(raw, PREFIX).await.map(|_| ())
    }
}

async fn client(world: Arc<World>, mut actor: Actor, turn: Arc<AtomicU64>) {
    let mut known: Option<(String, String)> = None;
    let canary = world.canary("value");
    while world.pace(&mut actor).await {
        let turn = turn.fetch_add(1, Ordering::Relaxed);
        let generation = turn / (KEYS * OPERATIONS);
        let key = format!("{PREFIX}{generation:05}/{}", actor.rng.random_range(0..KEYS));
        let value = format!("{canary}-{}", world.unique());
        let txn = match actor.rng.random_range(0..100) {
            0..40 => read(&key, true),
            40..50 => read(&key, false),
            50..70 => write(&key, &value),
            70..95 => match known.take().filter(|(known, _)| *known == key) {
                Some((_, before)) => set(&key, &before, &value),
                None => set(&key, "never written", &value),
            },
            95..98 => delete(&key),
            _ => create(&key, &value),
        };
        if let Ok(reply) = actor.txn(txn).await {
            known = value_of(&reply).map(|value| (key, value)).or(known);
        }
    }
}

fn read(key: &str, linearizable: bool) -> Txn {
    Txn { success: vec![Action::get(key)], linearizable, ..Txn::default() }
}

fn write(key: &str, value: &str) -> Txn {
    Txn { success: vec![Action::put(key, value)], linearizable: true, ..Txn::default() }
}

fn delete(key: &str) -> Txn {
    Txn { success: vec![Action::delete(key)], linearizable: true, ..Txn::default() }
}

/// Writes if the key has `before`, else reads.
fn set(key: &str, before: &str, value: &str) -> Txn {
    let operand = Operand::Text(before.to_owned());
    guarded(key, Target::Value, operand, value)
}

/// Writes if there is no such key, else reads.
fn create(key: &str, value: &str) -> Txn {
    guarded(key, Target::Version, Operand::Number(0), value)
}

fn guarded(key: &str, target: Target, operand: Operand, value: &str) -> Txn {
    let compare = Compare { key: key.to_owned(), target, op: Relation::Equal, operand };
    Txn {
        compares: vec![compare],
        success: vec![Action::put(key, value)],
        failure: vec![Action::get(key)],
        linearizable: true,
        ..Txn::default()
    }
}

fn value_of(reply: &TxnReply) -> Option<String> {
    match reply.results.first()? {
        ActionReply::Range { kvs, .. } => kvs.first().map(|kv| kv.value.clone()),
        _ => None,
    }
}
