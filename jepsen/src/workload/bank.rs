//! Bank accounts: transfers between keys, and reads of all of them.

use super::{Workload, World};
use crate::client::{Actor, Raw};
use anyhow::{Result, bail};
use async_trait::async_trait;
use keelstone_jepsen::check;
use keelstone_jepsen::history::{
    Action, ActionReply, Compare, KeyValue, Operand, Relation, Target, Txn,
};
use rand::Rng as _;
use rand::seq::IndexedRandom as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

/// Where the accounts are.
const PREFIX: &str = "bank/";
/// Accounts.
const ACCOUNTS: u64 = 10;
/// What each has in the beginning.
const BALANCE: u64 = 100;

pub(super) struct Bank;

#[async_trait]
impl Workload for Bank {
    fn name(&self) -> &'static str {
        "bank"
    }

    fn about(&self) -> &'static str {
        "transfers between accounts, whose sum never changes"
    }

    fn checkers(&self) -> &'static [&'static str] {
        &["bank"]
    }

    fn describe(&self, context: &mut check::Context) {
        context.bank_total = (ACCOUNTS * BALANCE).cast_signed();
    }

    async fn prepare(&self, world: &Arc<World>) -> Result<()> {
        let open = |account| Action::put(format!("{PREFIX}{account}"), BALANCE.to_string());
        let success: Vec<Action> = (0..ACCOUNTS).map(open).collect();
        let txn = Txn { success, linearizable: true, ..Txn::default() };
        let mut actor = world.actor(u64::MAX);
        for _ in 0..20 {
            // To open them twice does no harm before the first transfer.
            if actor.txn(txn.clone()).await.is_ok() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        bail!("the accounts could not be opened")
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
        let linearizable = actor.rng.random_bool(0.9);
        let read = Txn { success: vec![Action::prefix(PREFIX)], linearizable, ..Txn::default() };
        let Ok(reply) = actor.txn(read).await else { continue };
        let Some(ActionReply::Range { kvs, .. }) = reply.results.first() else { continue };
        if actor.rng.random_bool(0.7)
            && let Some(transfer) = transfer(&mut actor, kvs)
        {
            actor.txn(transfer).await.ok();
        }
    }
}

/// From one account to another, if both still are as they were read.
fn transfer(actor: &mut Actor, accounts: &[KeyValue]) -> Option<Txn> {
    let from = accounts.choose(&mut actor.rng)?;
    let to = accounts.choose(&mut actor.rng)?;
    let (has, gets): (u64, u64) = (from.value.parse().ok()?, to.value.parse().ok()?);
    if from.key == to.key || has == 0 {
        return None;
    }
    let amount = actor.rng.random_range(1..=has.min(20));
    let unchanged = |kv: &KeyValue| Compare {
        key: kv.key.clone(),
        target: Target::Value,
        op: Relation::Equal,
        operand: Operand::Text(kv.value.clone()),
    };
    Some(Txn {
        compares: vec![unchanged(from), unchanged(to)],
        success: vec![
            Action::put(from.key.as_str(), (has - amount).to_string()),
            Action::put(to.key.as_str(), (gets + amount).to_string()),
        ],
        failure: vec![Action::prefix(PREFIX)],
        linearizable: true,
        ..Txn::default()
    })
}
