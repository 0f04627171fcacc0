//! Jobs that stateless workers take, each on a lease, and complete by a guarded
//! transaction. Workers die, and some sleep past their lease and complete their
//! job all the same, or try to.

use super::{Workload, World};
use crate::client::{Actor, Class, Failure, Raw, send};
use anyhow::Result;
use async_trait::async_trait;
use keelstone_jepsen::check;
use keelstone_jepsen::history::{
    Action, ActionReply, Claim, Compare, Enqueue, Finish, KeyValue, Op, Operand, Relation, Target,
    Txn, TxnReply,
};
use rand::Rng as _;
use rand::seq::IndexedRandom as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

/// The queue's name, and where its keys are.
const QUEUE: &str = "queue";
const JOBS: &str = "queue/jobs/";
const CLAIMS: &str = "queue/claims/";
const DONE: &str = "queue/done/";
/// A worker's lease.
const TTL_MS: u64 = 2_000;
/// A worker takes one of the first so many jobs.
const AHEAD: usize = 5;

pub(super) struct Queue;

#[async_trait]
impl Workload for Queue {
    fn name(&self) -> &'static str {
        "queue"
    }

    fn about(&self) -> &'static str {
        "jobs claimed on leases by workers that die, completed under a guard"
    }

    fn checkers(&self) -> &'static [&'static str] {
        &["queue", "lease"]
    }

    fn describe(&self, context: &mut check::Context) {
        context.exclusive = false;
        context.prefixes = vec!["epilogue".to_owned(), "canary".to_owned()];
    }

    fn start(&self, world: &Arc<World>) -> Vec<JoinHandle<()>> {
        (0..world.clients)
            .map(|index| {
                let (world, actor) = (Arc::clone(world), world.actor(index));
                if index % 3 == 0 {
                    tokio::spawn(producer(world, actor))
                } else {
                    tokio::spawn(worker(world, actor))
                }
            })
            .collect()
    }

    async fn read(&self, world: &Arc<World>, raw: Raw) -> Result<()> {
        world.read_prefix(raw, "queue/").await.map(|_| ())
    }
}

fn compare(key: String, target: Target, op: Relation, number: u64) -> Compare {
    Compare { key, target, op, operand: Operand::Number(number) }
}

async fn producer(world: Arc<World>, mut actor: Actor) {
    while world.rest(Duration::from_millis(actor.rng.random_range(20..150))).await {
        let job = format!("job-{:06}", world.unique());
        let key = format!("{JOBS}{job}");
        let txn = Txn {
            compares: vec![compare(key.clone(), Target::Version, Relation::Equal, 0)],
            success: vec![Action::put(key, "to do")],
            linearizable: true,
            ..Txn::default()
        };
        let asked = Enqueue { queue: QUEUE.to_owned(), job, revision: None };
        let answered = asked.clone();
        let attempt = |raw: Raw, timeout| async move { send(&raw, timeout, &txn).await };
        let done = |reply: &TxnReply| {
            let revision = Some(reply.revision);
            Op::Enqueue(Enqueue { revision, ..answered })
        };
        actor.operation(Op::Enqueue(asked), false, attempt, done).await.ok();
    }
}

/// One worker after the other.
async fn worker(world: Arc<World>, mut actor: Actor) {
    while world.rest(Duration::from_millis(50)).await {
        let name = format!("worker-{}", world.unique());
        let Ok(lease) = actor.lease_grant(TTL_MS).await else { continue };
        live(&world, &mut actor, &name, lease).await;
    }
}

/// A worker's life.
async fn live(world: &World, actor: &mut Actor, name: &str, lease: u64) {
    loop {
        let wait = Duration::from_millis(actor.rng.random_range(10..200));
        if !world.rest(wait).await || !matches!(actor.lease_renew(lease).await, Ok(true)) {
            return;
        }
        let (job, token) = match claim(actor, name, lease).await {
            Ok(claimed) => claimed,
            Err(failure) if failure.class == Class::Fail => continue,
            // It may have a job without knowing; its lease ends that.
            Err(_) => return,
        };
        let fate = actor.rng.random_range(0..20);
        if fate == 0 {
            return; // It dies with the job in its hands.
        }
        let work = if fate == 1 { TTL_MS * 2 } else { actor.rng.random_range(5..300) };
        world.rest(Duration::from_millis(work)).await;
        if finish(actor, name, job, token).await.is_err() || fate == 1 {
            return;
        }
    }
}

/// What a worker got: the job, and the revision that made the claim.
type Claimed = (String, u64);

async fn claim(actor: &mut Actor, worker: &str, lease: u64) -> Result<Claimed, Failure> {
    let asked =
        Claim { queue: QUEUE.to_owned(), worker: worker.to_owned(), lease, ..Claim::default() };
    let answered = asked.clone();
    let (choice, worker) = (actor.rng.random(), worker.to_owned());
    let attempt = |raw: Raw, timeout| take(raw, timeout, worker, lease, choice);
    let done = |(job, token): &Claimed| {
        Op::Claim(Claim { job: Some(job.clone()), token: Some(*token), ..answered })
    };
    actor.operation(Op::Claim(asked), false, attempt, done).await
}

async fn take(
    raw: Raw,
    timeout: Duration,
    worker: String,
    lease: u64,
    choice: u64,
) -> Result<Claimed, Failure> {
    // Both at one revision: what has no claim then, nobody had then.
    let look = Txn {
        success: vec![Action::prefix(JOBS), Action::prefix(CLAIMS)],
        linearizable: true,
        ..Txn::default()
    };
    let seen = send(&raw, timeout, &look).await.map_err(Failure::of_a_read)?;
    let free = free(&seen);
    let mut rng: rand::rngs::StdRng = rand::SeedableRng::seed_from_u64(choice);
    let ahead = &free[..free.len().min(AHEAD)];
    let Some(job) = ahead.choose(&mut rng).cloned() else {
        return Err(refused("empty", "no job is free"));
    };
    let (job_key, claim_key) = (format!("{JOBS}{job}"), format!("{CLAIMS}{job}"));
    let txn = Txn {
        compares: vec![
            compare(job_key, Target::Version, Relation::Greater, 0),
            compare(claim_key.clone(), Target::Version, Relation::Equal, 0),
        ],
        success: vec![Action::Put { key: claim_key, value: worker, lease, prev: false }],
        linearizable: true,
        ..Txn::default()
    };
    let reply = send(&raw, timeout, &txn).await?;
    if reply.succeeded { Ok((job, reply.revision)) } else { Err(refused("taken", "by another")) }
}

fn refused(reason: &str, message: &str) -> Failure {
    let (class, reason, message) = (Class::Fail, reason.to_owned(), message.to_owned());
    Failure { class, reason, message, unreachable: false }
}

/// Jobs without a claim.
fn free(seen: &TxnReply) -> Vec<String> {
    let names = |index: usize, prefix: &str| -> Vec<String> {
        let kvs: &[KeyValue] = match seen.results.get(index) {
            Some(ActionReply::Range { kvs, .. }) => kvs,
            _ => &[],
        };
        kvs.iter().filter_map(|kv| kv.key.strip_prefix(prefix)).map(str::to_owned).collect()
    };
    let claimed = names(1, CLAIMS);
    names(0, JOBS).into_iter().filter(|job| !claimed.contains(job)).collect()
}

async fn finish(
    actor: &mut Actor,
    worker: &str,
    job: String,
    token: u64,
) -> Result<TxnReply, Failure> {
    let (job_key, claim_key) = (format!("{JOBS}{job}"), format!("{CLAIMS}{job}"));
    let txn = Txn {
        compares: vec![compare(claim_key.clone(), Target::Create, Relation::Equal, token)],
        success: vec![
            Action::delete(job_key),
            Action::delete(claim_key),
            Action::put(format!("{DONE}{job}"), worker),
        ],
        linearizable: true,
        ..Txn::default()
    };
    let (queue, worker) = (QUEUE.to_owned(), worker.to_owned());
    let asked = Finish { queue, job, worker, token, accepted: None, revision: None };
    let answered = asked.clone();
    let attempt = |raw: Raw, timeout| async move { send(&raw, timeout, &txn).await };
    let done = |reply: &TxnReply| {
        let (accepted, revision) = (Some(reply.succeeded), Some(reply.revision));
        Op::Finish(Finish { accepted, revision, ..answered })
    };
    actor.operation(Op::Finish(asked), false, attempt, done).await
}
