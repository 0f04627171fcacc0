//! Holders of leases: they grant, attach a key, renew for a while, and then
//! look how it ends.

use super::keys::do_txn;
use super::{Client, Clients, Failed, PATIENCE};
use crate::sim::HostId;
use keelstone_jepsen::history::{
    Action, Kind, LeaseGrant, LeaseRenew, LeaseRevoke, LeaseTtl, Op, Txn,
};
use keelstone_server::core::Consistency;
use keelstone_store::LeaseId;
use keelstone_store::machine::{Command, Envelope, Outcome, View as _};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;

/// A holder of one lease after the other.
pub(super) async fn run(mut client: Client, number: u64) {
    let mut count = 0;
    while client.all.stage.goes_on() {
        count += 1;
        // Ids are chosen here: the service would draw them at random.
        let lease = number * 1_000_000 + count;
        let node = client.node();
        let ttl_ms = 2_000 + client.random.below(1_000);
        if !grant(&mut client, lease, ttl_ms, node).await {
            client.think(200).await;
            continue;
        }
        let key = format!("l{number}.{count}");
        let put = Action::Put { key: key.clone(), value: key.clone(), lease, prev: false };
        let txn = Txn { success: vec![put], linearizable: true, ..Txn::default() };
        do_txn(&mut client, txn, node).await;
        live(&mut client, lease, ttl_ms, &key).await;
    }
}

/// Asks one node about every lease that was granted, for the judgement of those
/// whose time is over.
pub(in crate::sim) async fn ask_all(all: &Clients, node: HostId) {
    let mut client = Client::new(all, 999);
    let events = all.recorder.snapshot();
    let granted = events.iter().filter(|event| event.kind == Kind::Ok);
    let granted = granted.filter_map(|event| match &event.op {
        Op::LeaseGrant(grant) => Some(grant.lease),
        _ => None,
    });
    for lease in granted.collect::<BTreeSet<u64>>() {
        ttl(&mut client, lease, node).await;
    }
}

/// What happens to a lease that was granted.
async fn live(client: &mut Client, lease: u64, ttl_ms: u64, key: &str) {
    for _ in 0..client.random.below(4) {
        client.think(ttl_ms).await;
        let node = client.node();
        if !renew(client, lease, node).await {
            return;
        }
    }
    if client.random.below(4) == 0 {
        let node = client.node();
        revoke(client, lease, node).await;
        return;
    }
    // Nobody renews it any more: until it is gone, or there is no time left.
    while client.all.stage.goes_on() {
        client.think(500).await;
        let node = client.node();
        let linearizable = true;
        let txn = Txn { success: vec![Action::get(key)], linearizable, ..Txn::default() };
        do_txn(client, txn, node).await;
        let node = client.node();
        if ttl(client, lease, node).await == Some(false) {
            return;
        }
    }
}

async fn propose(client: &Client, command: Command, node: HostId) -> Result<Outcome, Failed> {
    let asked = client.all.doors.ask(node, PATIENCE, move |services| async move {
        let deadline = Instant::now() + PATIENCE;
        let envelope = Envelope { write_id: None, command };
        let reply = services.core.propose(envelope, deadline).await?;
        match reply.outcome {
            Outcome::Rejected(rejection) => Err(Failed::No(rejection.to_string())),
            outcome => Ok((reply.revision, outcome)),
        }
    });
    asked.await?.map(|(_, outcome)| outcome)
}

/// Grants a lease. Whether it is certain to be there.
pub(super) async fn grant(client: &mut Client, lease: u64, ttl_ms: u64, node: HostId) -> bool {
    let op = LeaseGrant { lease, ttl_ms, granted_ms: None };
    client.invoke(&Op::LeaseGrant(op.clone()), node);
    let command = Command::LeaseGrant { id: LeaseId(lease.cast_signed()), ttl_ms };
    match propose(client, command, node).await {
        Ok(Outcome::Lease { ttl_ms, .. }) => {
            client.ok(Op::LeaseGrant(LeaseGrant { granted_ms: Some(ttl_ms), ..op }), node);
            true
        }
        Ok(_) => {
            let failed = Failed::Unknown("an answer of another kind".to_owned());
            client.failed(Op::LeaseGrant(op), node, failed);
            false
        }
        Err(failed) => {
            client.failed(Op::LeaseGrant(op), node, failed);
            false
        }
    }
}

/// Renews a lease. Whether it may still be there.
pub(super) async fn renew(client: &mut Client, lease: u64, node: HostId) -> bool {
    let op = LeaseRenew { lease, ttl_ms: None };
    client.invoke(&Op::LeaseRenew(op.clone()), node);
    let command = Command::LeaseRenew { ids: vec![LeaseId(lease.cast_signed())] };
    match propose(client, command, node).await {
        Ok(Outcome::Renewed(renewed)) => {
            let ttl_ms = renewed.first().map_or(0, |(_, ttl_ms)| *ttl_ms);
            client.ok(Op::LeaseRenew(LeaseRenew { ttl_ms: Some(ttl_ms), ..op }), node);
            ttl_ms > 0
        }
        Ok(_) => true,
        Err(failed) => {
            client.failed(Op::LeaseRenew(op), node, failed);
            true
        }
    }
}

async fn revoke(client: &mut Client, lease: u64, node: HostId) {
    let op = LeaseRevoke { lease, revision: None };
    client.invoke(&Op::LeaseRevoke(op.clone()), node);
    let command = Command::LeaseRevoke { id: LeaseId(lease.cast_signed()) };
    match propose(client, command, node).await {
        Ok(_) => client.ok(Op::LeaseRevoke(op), node),
        Err(failed) => client.failed(Op::LeaseRevoke(op), node, failed),
    }
}

/// Asks for the time left. Whether there is such a lease, if that is known.
async fn ttl(client: &mut Client, lease: u64, node: HostId) -> Option<bool> {
    let op = LeaseTtl { lease, found: None, remaining_ms: None };
    client.invoke(&Op::LeaseTtl(op.clone()), node);
    let asked = client.all.doors.ask(node, PATIENCE, move |services| async move {
        let deadline = Instant::now() + Duration::from_millis(1_500);
        let view = services.core.read(Consistency::Linearizable, deadline).await?;
        let found = view.lease(LeaseId(lease.cast_signed()));
        let found = found.map_err(|error| Failed::No(error.to_string()))?;
        let now = view.head().now;
        Ok::<_, Failed>(found.map(|lease| lease.expires.0.saturating_sub(now.0)))
    });
    match asked.await.map_err(Failed::from).and_then(|answer| answer) {
        Ok(remaining_ms) => {
            let found = Some(remaining_ms.is_some());
            client.ok(Op::LeaseTtl(LeaseTtl { found, remaining_ms, ..op }), node);
            found
        }
        Err(failed) => {
            client.failed(Op::LeaseTtl(op), node, failed);
            None
        }
    }
}
