//! Transactions that read lists and append to them, in Elle's model.
//!
//! A list is a value with commas. A transaction reads the lists that it appends
//! to first, then puts longer ones under the condition that nobody else did; its
//! own reads are part of the guarded transaction. A list is left for a fresh one
//! when it is long.

use super::{Workload, World};
use crate::client::{Actor, Raw};
use anyhow::Result;
use async_trait::async_trait;
use keelstone_jepsen::history::{
    Action, ActionReply, Compare, Operand, Relation, Target, Txn, TxnReply,
};
use rand::Rng as _;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::task::JoinHandle;

/// Where the lists are.
const PREFIX: &str = "append/";
/// Lists in use at once.
const LISTS: u64 = 5;
/// Appends to all lists before fresh ones take their place.
const APPENDS: u64 = 200;
/// Tries of one transaction whose condition did not hold.
const TRIES: u32 = 3;

pub(super) struct Append;

#[async_trait]
impl Workload for Append {
    fn name(&self) -> &'static str {
        "append"
    }

    fn about(&self) -> &'static str {
        "transactions that read lists and append to them"
    }

    fn checkers(&self) -> &'static [&'static str] {
        &["append"]
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

/// A list as it was read.
#[derive(Clone, Debug, Default)]
struct List {
    value: String,
    modified: u64,
}

/// One step of a transaction.
#[derive(Clone, Debug)]
enum Step {
    Read(String),
    Append(String, u64),
}

async fn client(world: Arc<World>, mut actor: Actor) {
    while world.pace(&mut actor).await {
        let steps = draw(&world, &mut actor);
        transact(&mut actor, &steps).await;
    }
}

/// One to four steps; each list is appended to at most once.
fn draw(world: &World, actor: &mut Actor) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut appended: Vec<String> = Vec::new();
    for _ in 0..actor.rng.random_range(1..=4) {
        let element = world.unique();
        let generation = element / (LISTS * APPENDS);
        let list = actor.rng.random_range(0..LISTS);
        let key = format!("{PREFIX}{generation:05}/{list}");
        if actor.rng.random_bool(0.5) && !appended.contains(&key) {
            appended.push(key.clone());
            steps.push(Step::Append(key, element));
        } else {
            steps.push(Step::Read(key));
        }
    }
    steps
}

async fn transact(actor: &mut Actor, steps: &[Step]) {
    let keys: Vec<&String> = steps
        .iter()
        .filter_map(|step| match step {
            Step::Append(key, _) => Some(key),
            Step::Read(_) => None,
        })
        .collect();
    if keys.is_empty() {
        actor.txn(guarded(steps, &BTreeMap::new())).await.ok();
        return;
    }
    let read = Txn {
        success: keys.iter().map(|key| Action::get(key.as_str())).collect(),
        linearizable: true,
        ..Txn::default()
    };
    let Ok(reply) = actor.txn(read).await else { return };
    let mut lists = lists_of(&keys, &reply);
    for _ in 0..TRIES {
        match actor.txn(guarded(steps, &lists)).await {
            Ok(reply) if !reply.succeeded => lists = lists_of(&keys, &reply),
            _ => return,
        }
    }
}

/// The steps on condition that `lists` are as they were read; otherwise they are
/// read again.
fn guarded(steps: &[Step], lists: &BTreeMap<String, List>) -> Txn {
    let compares = lists.iter().map(|(key, list)| Compare {
        key: key.clone(),
        target: Target::Mod,
        op: Relation::Equal,
        operand: Operand::Number(list.modified),
    });
    let success = steps.iter().map(|step| match step {
        Step::Read(key) => Action::get(key.as_str()),
        Step::Append(key, element) => {
            let before = lists.get(key).map_or("", |list| list.value.as_str());
            let comma = if before.is_empty() { "" } else { "," };
            Action::put(key.as_str(), format!("{before}{comma}{element}"))
        }
    });
    let appended = steps.iter().filter_map(|step| match step {
        Step::Append(key, _) => Some(Action::get(key.as_str())),
        Step::Read(_) => None,
    });
    Txn {
        compares: compares.collect(),
        success: success.collect(),
        failure: appended.collect(),
        linearizable: true,
        ..Txn::default()
    }
}

fn lists_of(keys: &[&String], reply: &TxnReply) -> BTreeMap<String, List> {
    let mut lists = BTreeMap::new();
    for (key, result) in keys.iter().zip(&reply.results) {
        let list = match result {
            ActionReply::Range { kvs, .. } => {
                kvs.first().map(|kv| List { value: kv.value.clone(), modified: kv.modified })
            }
            _ => None,
        };
        lists.insert((*key).clone(), list.unwrap_or_default());
    }
    lists
}
