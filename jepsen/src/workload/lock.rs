//! A lock on a lease, and the resource that it protects: the harness's own, which
//! takes no write with a token below one that it has seen.
//!
//! Locks are judged by what they protect, never by what holders believe: one
//! that sleeps past its lease still believes that it holds the lock.

use super::{Workload, World};
use crate::client::{Actor, Caller, Raw};
use anyhow::Result;
use async_trait::async_trait;
use keelstone_client::{Client, Compare, KeepAlive, Lease, Op as Step, Revision, TxnReply};
use keelstone_jepsen::check;
use keelstone_jepsen::history::{
    LeaseGrant, LockAcquire, LockRelease, Op, Process, Recorder, ResourceRead, ResourceWrite,
};
use rand::Rng as _;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;

/// Where the locks are.
const PREFIX: &str = "lock/";
/// Locks, each with a resource of its name.
const LOCKS: u64 = 2;
/// Tries to become the holder before the lease is given back.
const TRIES: u32 = 40;

pub(super) struct Locks;

#[async_trait]
impl Workload for Locks {
    fn name(&self) -> &'static str {
        "lock"
    }

    fn about(&self) -> &'static str {
        "locks on leases, and a fenced resource that they protect"
    }

    fn checkers(&self) -> &'static [&'static str] {
        &["lock"]
    }

    fn describe(&self, context: &mut check::Context) {
        context.exclusive = false;
        context.prefixes = vec!["epilogue".to_owned(), "canary".to_owned()];
    }

    fn start(&self, world: &Arc<World>) -> Vec<JoinHandle<()>> {
        let resources = Arc::new(Resources::default());
        (0..world.clients)
            .map(|index| {
                tokio::spawn(client(Arc::clone(world), world.actor(index), Arc::clone(&resources)))
            })
            .collect()
    }

    async fn read(&self, world: &Arc<World>, raw: Raw) -> Result<()> {
        world.read_prefix(raw, PREFIX).await.map(|_| ())
    }
}

/// The protected resources.
#[derive(Default)]
struct Resources(Mutex<BTreeMap<String, Resource>>);

#[derive(Clone, Default)]
struct Resource {
    token: u64,
    value: String,
}

impl Resources {
    fn write(&self, name: &str, token: u64, value: &str) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let resource = all.entry(name.to_owned()).or_default();
        if token < resource.token {
            return false;
        }
        *resource = Resource { token, value: value.to_owned() };
        true
    }

    fn read(&self, name: &str) -> String {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(name).map(|resource| resource.value.clone()).unwrap_or_default()
    }
}

/// Who holds a lock, as far as it knows.
struct Held {
    lock: String,
    owner: String,
    token: u64,
    keep: KeepAlive,
}

async fn client(world: Arc<World>, mut actor: Actor, resources: Arc<Resources>) {
    let Ok(client) = world.library() else { return };
    let mut caller = Caller::new(Arc::clone(&world.recorder));
    while world.rest(Duration::from_millis(actor.rng.random_range(0..200))).await {
        let lock = format!("{PREFIX}{}", actor.rng.random_range(0..LOCKS));
        let Some(keep) = lease(&mut caller, &client, &mut actor).await else { continue };
        if let Some(held) = acquire(&world, &mut caller, &client, &mut actor, lock, keep).await {
            hold(&world, &mut caller, &client, &mut actor, &resources, held).await;
        }
    }
}

async fn lease(caller: &mut Caller, client: &Client, actor: &mut Actor) -> Option<KeepAlive> {
    let ttl_ms = actor.rng.random_range(2_000..4_000);
    let leases = client.leases();
    let op = Op::LeaseGrant(LeaseGrant { ttl_ms, ..LeaseGrant::default() });
    let done = |lease: &Lease| {
        let granted_ms = u64::try_from(lease.ttl.as_millis()).ok();
        let lease = lease.id.get().cast_unsigned();
        Some(Op::LeaseGrant(LeaseGrant { lease, ttl_ms, granted_ms }))
    };
    let call = leases.grant(Duration::from_millis(ttl_ms));
    let lease = caller.operation(op, call, done).await.ok()?;
    Some(leases.keep_alive(lease))
}

/// Becomes the holder, or gives the lease back.
async fn acquire(
    world: &World,
    caller: &mut Caller,
    client: &Client,
    actor: &mut Actor,
    lock: String,
    keep: KeepAlive,
) -> Option<Held> {
    for _ in 0..TRIES {
        let owner = format!("owner-{}", world.unique());
        let asked = LockAcquire {
            lock: lock.clone(),
            owner: owner.clone(),
            lease: keep.id().get().cast_unsigned(),
            token: None,
        };
        let call = client
            .kv()
            .txn()
            .when(Compare::absent(lock.as_str()))
            .then(Step::put_with_lease(lock.clone(), owner.clone(), keep.id()))
            .commit();
        let done = |reply: &TxnReply| {
            let token = Some(reply.at.revision.get());
            reply.succeeded.then(|| Op::LockAcquire(LockAcquire { token, ..asked.clone() }))
        };
        match caller.operation(Op::LockAcquire(asked.clone()), call, done).await {
            Ok(reply) if reply.succeeded => {
                return Some(Held { lock, owner, token: reply.at.revision.get(), keep });
            }
            Ok(_) => {}
            // It may hold the lock without knowing; the lease ends that.
            Err(_) => break,
        }
        if !world.rest(Duration::from_millis(actor.rng.random_range(50..250))).await {
            break;
        }
    }
    keep.revoke().await.ok();
    None
}

/// Writes to the resource, and gives the lock back -- or sleeps past its lease
/// and writes all the same.
async fn hold(
    world: &World,
    caller: &mut Caller,
    client: &Client,
    actor: &mut Actor,
    resources: &Resources,
    held: Held,
) {
    let Held { lock, owner, token, keep } = held;
    let writer = Writer {
        recorder: &world.recorder,
        resources,
        process: world.recorder.new_process(),
        resource: lock.clone(),
        token,
    };
    let mut seen = writer.read();
    for _ in 0..actor.rng.random_range(1..4) {
        let value = format!("value-{}", world.unique());
        if !writer.write(&value, &seen) {
            break;
        }
        seen = value;
        world.rest(Duration::from_millis(actor.rng.random_range(1..150))).await;
    }
    if actor.rng.random_bool(0.2) {
        let long = keep.ttl().mul_f64(1.6);
        drop(keep);
        world.rest(long).await;
        let value = format!("value-{}", world.unique());
        writer.write(&value, &seen);
        return;
    }
    let asked = LockRelease { lock: lock.clone(), owner, token };
    let call = client
        .kv()
        .txn()
        .when(Compare::created_at(lock.as_str(), Revision::new(token)))
        .then(Step::delete(lock.as_str()))
        .commit();
    let done = |reply: &TxnReply| reply.succeeded.then(|| Op::LockRelease(asked.clone()));
    caller.operation(Op::LockRelease(asked.clone()), call, done).await.ok();
    keep.revoke().await.ok();
}

/// A holder at the resource; it may be one no more.
struct Writer<'a> {
    recorder: &'a Recorder,
    resources: &'a Resources,
    process: Process,
    resource: String,
    token: u64,
}

impl Writer<'_> {
    fn read(&self) -> String {
        let op = ResourceRead { resource: self.resource.clone(), value: None };
        self.recorder.invoke(self.process, Op::ResourceRead(op.clone()), None);
        let value = self.resources.read(&self.resource);
        let answered = ResourceRead { value: Some(value.clone()), ..op };
        self.recorder.ok(self.process, Op::ResourceRead(answered), None);
        value
    }

    /// Whether the resource took it.
    fn write(&self, value: &str, seen: &str) -> bool {
        let op = ResourceWrite {
            resource: self.resource.clone(),
            token: self.token,
            value: value.to_owned(),
            seen: Some(seen.to_owned()),
            accepted: None,
        };
        self.recorder.invoke(self.process, Op::ResourceWrite(op.clone()), None);
        let accepted = self.resources.write(&self.resource, self.token, value);
        let answered = ResourceWrite { accepted: Some(accepted), ..op };
        self.recorder.ok(self.process, Op::ResourceWrite(answered), None);
        accepted
    }
}
