//! Contenders for a lock, and the resource that it protects.
//!
//! The resource is the harness's own: it takes a write only with a token that is
//! not below the greatest it has seen.

use super::convert;
use super::leases::{grant, renew};
use super::{Client, Failed, PATIENCE};
use crate::sim::HostId;
use bytes::Bytes;
use keelstone_jepsen::history::{LockAcquire, LockRelease, Op, ResourceWrite};
use keelstone_store::machine::{
    Command, Compare, Delete, Envelope, Op as StoreOp, Outcome, Put, Relation, Target, Txn,
};
use keelstone_store::{KeyRange, LeaseId, Revision};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::time::Instant;

/// The one lock.
const LOCK: &str = "x/lock";

/// What the lock protects: the greatest token, and the value.
#[derive(Clone, Default)]
pub(super) struct Resource {
    inner: Arc<Mutex<(u64, Option<String>)>>,
}

impl Resource {
    /// What it has. Whoever asks with a token keeps lower ones out from then on.
    fn read(&self, token: u64) -> Option<String> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.0 = inner.0.max(token);
        inner.1.clone()
    }

    fn write(&self, token: u64, value: &str) -> bool {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if token < inner.0 {
            return false;
        }
        *inner = (token, Some(value.to_owned()));
        true
    }
}

/// A contender.
pub(super) async fn run(mut client: Client, number: u64, resource: Resource) {
    let mut count = 0;
    while client.all.stage.goes_on() {
        count += 1;
        let (lease, node) = (number * 1_000_000 + count, client.node());
        if !grant(&mut client, lease, 2_000, node).await {
            client.think(300).await;
            continue;
        }
        let owner = format!("{number}.{count}");
        for _ in 0..20 {
            if !client.all.stage.goes_on() {
                return;
            }
            if let Some(token) = acquire(&mut client, &owner, lease).await {
                hold(&mut client, &owner, token, lease, &resource).await;
                break;
            }
            client.think(300).await;
            let node = client.node();
            if !renew(&mut client, lease, node).await {
                break;
            }
        }
    }
}

async fn hold(client: &mut Client, owner: &str, token: u64, lease: u64, resource: &Resource) {
    for write in 0..3 {
        let node = client.node();
        let op = ResourceWrite {
            resource: LOCK.to_owned(),
            token,
            value: format!("{owner}.{write}"),
            seen: resource.read(token),
            accepted: None,
        };
        // Between the read and the write it may lose the lock.
        client.invoke(&Op::ResourceWrite(op.clone()), node);
        client.think(1_000).await;
        let accepted = Some(resource.write(token, &op.value));
        client.ok(Op::ResourceWrite(ResourceWrite { accepted, ..op }), node);
        if accepted == Some(false) || !renew(client, lease, node).await {
            return;
        }
    }
    release(client, owner, token).await;
}

async fn propose(client: &Client, txn: Txn, node: HostId) -> Result<(bool, u64), Failed> {
    let asked = client.all.doors.ask(node, PATIENCE, move |services| async move {
        let envelope = Envelope { write_id: None, command: Command::Txn(txn) };
        let reply = services.core.propose(envelope, Instant::now() + PATIENCE).await?;
        match reply.outcome {
            Outcome::Txn(txn) => Ok((txn.succeeded, reply.revision.get())),
            Outcome::Rejected(rejection) => Err(Failed::No(rejection.to_string())),
            _ => Err(Failed::Unknown("an answer of another kind".to_owned())),
        }
    });
    asked.await?
}

fn created(relation: Relation, revision: u64) -> Compare {
    let range = KeyRange::single(&convert::key(LOCK));
    Compare { range, relation, target: Target::Created(Revision::new(revision)) }
}

async fn acquire(client: &mut Client, owner: &str, lease: u64) -> Option<u64> {
    let op = LockAcquire { lock: LOCK.to_owned(), owner: owner.to_owned(), lease, token: None };
    let node = client.node();
    client.invoke(&Op::LockAcquire(op.clone()), node);
    let put = Put {
        lease: LeaseId(lease.cast_signed()),
        ..Put::new(convert::key(LOCK), Bytes::copy_from_slice(owner.as_bytes()))
    };
    let txn = Txn {
        compares: vec![created(Relation::Equal, 0)],
        then: vec![StoreOp::Put(put)],
        otherwise: Vec::new(),
    };
    match propose(client, txn, node).await {
        Ok((true, revision)) => {
            client.ok(Op::LockAcquire(LockAcquire { token: Some(revision), ..op }), node);
            Some(revision)
        }
        Ok((false, _)) => {
            client.failed(Op::LockAcquire(op), node, Failed::No("held".to_owned()));
            None
        }
        Err(failed) => {
            client.failed(Op::LockAcquire(op), node, failed);
            None
        }
    }
}

async fn release(client: &mut Client, owner: &str, token: u64) {
    let op = LockRelease { lock: LOCK.to_owned(), owner: owner.to_owned(), token };
    let node = client.node();
    client.invoke(&Op::LockRelease(op.clone()), node);
    let delete = Delete { range: KeyRange::single(&convert::key(LOCK)), previous: false };
    let txn = Txn {
        compares: vec![created(Relation::Equal, token)],
        then: vec![StoreOp::Delete(delete)],
        otherwise: Vec::new(),
    };
    match propose(client, txn, node).await {
        Ok((true, _)) => client.ok(Op::LockRelease(op), node),
        Ok((false, _)) => {
            client.failed(Op::LockRelease(op), node, Failed::No("not held".to_owned()));
        }
        Err(failed) => client.failed(Op::LockRelease(op), node, failed),
    }
}
