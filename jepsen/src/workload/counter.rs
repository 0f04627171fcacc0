//! Counters whose additions are sent again until their outcome is known.
//!
//! A counter is the version of a key, which each put raises by one: a put that
//! is applied twice shows. Half of the clients use the library, which sends
//! again by itself; the other half send by hand, each put under one identity, to
//! one replica after the other, and now and then again after it was answered.

use super::{Workload, World};
use crate::client::{Actor, Caller, Class, Failure, Raw, once, send, within};
use anyhow::Result;
use async_trait::async_trait;
use keelstone_client::Client;
use keelstone_jepsen::check;
use keelstone_jepsen::history::{Action, ActionReply, CounterAdd, CounterRead, Op, Txn, TxnReply};
use keelstone_proto::v1;
use keelstone_proto::v1::sessions_client::SessionsClient;
use rand::Rng as _;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Where the counters are.
const PREFIX: &str = "counter/";
/// Counters.
const COUNTERS: u64 = 3;
/// One attempt of a put that is sent by hand: short, so that many are sent again.
const ATTEMPT: Duration = Duration::from_millis(400);
/// How long a put is sent again before its outcome counts as unknown.
const PERSISTENCE: Duration = Duration::from_secs(8);
/// Puts in one session.
const SEQUENCES: u64 = 100;

pub(super) struct Counter;

#[async_trait]
impl Workload for Counter {
    fn name(&self) -> &'static str {
        "counter"
    }

    fn about(&self) -> &'static str {
        "additions that are sent again until their outcome is known"
    }

    fn checkers(&self) -> &'static [&'static str] {
        &["counter"]
    }

    fn describe(&self, context: &mut check::Context) {
        context.exclusive = false;
        context.prefixes = vec!["epilogue".to_owned(), "canary".to_owned()];
    }

    fn start(&self, world: &Arc<World>) -> Vec<JoinHandle<()>> {
        (0..world.clients)
            .map(|index| {
                let (world, actor) = (Arc::clone(world), world.actor(index));
                if index % 2 == 0 {
                    tokio::spawn(by_library(world, actor))
                } else {
                    tokio::spawn(by_hand(world, actor))
                }
            })
            .collect()
    }

    async fn read(&self, world: &Arc<World>, raw: Raw) -> Result<()> {
        for counter in 0..COUNTERS {
            let mut reader = world.reader(raw.clone());
            let mut tries = 0;
            while let Err(failure) = read(&mut reader, counter).await {
                tries += 1;
                anyhow::ensure!(tries < 20, "a counter could not be read: {}", failure.text());
            }
        }
        Ok(())
    }
}

fn key(counter: u64) -> String {
    format!("{PREFIX}{counter}")
}

async fn by_library(world: Arc<World>, mut actor: Actor) {
    let Ok(client) = world.library() else { return };
    let mut caller = Caller::new(Arc::clone(&world.recorder));
    while world.pace(&mut actor).await {
        let counter = actor.rng.random_range(0..COUNTERS);
        if actor.rng.random_bool(0.3) {
            read(&mut actor, counter).await.ok();
        } else {
            add_by_library(&mut caller, &client, counter).await;
        }
    }
}

async fn add_by_library(caller: &mut Caller, client: &Client, counter: u64) {
    let add = CounterAdd { counter: key(counter), delta: 1, ..CounterAdd::default() };
    let call = client.kv().put(key(counter), "x").previous().send();
    let done = |reply: &keelstone_client::PutReply| {
        let total = reply.previous.as_ref().map_or(0, |previous| previous.version) + 1;
        let revision = Some(reply.at.revision.get());
        Some(Op::CounterAdd(CounterAdd { total: Some(total), revision, ..add.clone() }))
    };
    caller.operation(Op::CounterAdd(add.clone()), call, done).await.ok();
}

/// A session, and the next sequence in it.
struct Session {
    id: u64,
    next: u64,
}

async fn by_hand(world: Arc<World>, mut actor: Actor) {
    let mut session: Option<Session> = None;
    while world.pace(&mut actor).await {
        let counter = actor.rng.random_range(0..COUNTERS);
        if actor.rng.random_bool(0.3) {
            read(&mut actor, counter).await.ok();
            continue;
        }
        let open = match session.take().filter(|open| open.next <= SEQUENCES) {
            Some(open) => Some(open),
            None => open(actor.raw()).await,
        };
        let Some(mut open) = open else {
            actor.hop();
            continue;
        };
        let write_id = (open.id, open.next);
        open.next += 1;
        if add(&world, &mut actor, counter, write_id).await {
            session = Some(open);
        }
    }
}

async fn open(raw: &Raw) -> Option<Session> {
    let mut sessions = SessionsClient::new(raw.channel());
    let request = within(ATTEMPT, v1::SessionOpenRequest { ttl_ms: 600_000 });
    let opened = once(ATTEMPT, sessions.open(request)).await.ok()?;
    Some(Session { id: opened.session, next: 1 })
}

/// Adds one under an identity, again and again until it is known what came of
/// it. `false` if the session should not be used any more.
async fn add(world: &Arc<World>, actor: &mut Actor, counter: u64, write_id: (u64, u64)) -> bool {
    let write_id = Some(write_id);
    let op = CounterAdd { counter: key(counter), delta: 1, write_id, ..CounterAdd::default() };
    let put = Action::Put { key: key(counter), value: "x".to_owned(), lease: 0, prev: true };
    let txn = Txn { success: vec![put], linearizable: true, write_id, ..Txn::default() };
    let asked = op.clone();
    let twice = actor.rng.random_bool(0.2);
    let directory = Arc::clone(&world.directory);
    let seed = actor.rng.random();
    let attempt = |first: Raw, _| async move {
        let reply = persist(&directory, first, &txn, seed).await?;
        if twice {
            // The answer to the same write has to be the same; the checker sees
            // if it was applied again.
            let other = directory.any(&mut seeded(seed));
            send(&other, ATTEMPT, &txn).await.ok();
        }
        Ok(reply)
    };
    let done = |reply: &TxnReply| {
        let total = total_after(reply);
        let revision = Some(reply.revision);
        Op::CounterAdd(CounterAdd { total, revision, ..asked })
    };
    actor.operation(Op::CounterAdd(op), false, attempt, done).await.is_ok()
}

fn seeded(seed: u64) -> rand::rngs::StdRng {
    rand::SeedableRng::seed_from_u64(seed)
}

/// Sends until an answer says what happened. An attempt that failed for sure
/// says nothing about those before it.
async fn persist(
    directory: &crate::client::Directory,
    first: Raw,
    txn: &Txn,
    seed: u64,
) -> Result<TxnReply, Failure> {
    let mut rng = seeded(seed);
    let until = Instant::now() + PERSISTENCE;
    let (mut raw, mut doubt) = (first, None);
    loop {
        match send(&raw, ATTEMPT, txn).await {
            Ok(reply) => return Ok(reply),
            Err(failure) => {
                let sure = failure.class == Class::Fail;
                if !sure {
                    doubt = Some(failure.clone());
                }
                let lost =
                    matches!(failure.reason.as_str(), "session_not_found" | "reply_forgotten");
                if Instant::now() > until || lost {
                    return Err(doubt.unwrap_or(failure));
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(rng.random_range(10..100))).await;
        raw = directory.any(&mut rng);
    }
}

fn total_after(reply: &TxnReply) -> Option<u64> {
    match reply.results.first()? {
        ActionReply::Put { prev } => Some(prev.as_ref().map_or(0, |prev| prev.version) + 1),
        _ => None,
    }
}

async fn read(actor: &mut Actor, counter: u64) -> Result<(), Failure> {
    let op = CounterRead { counter: key(counter), ..CounterRead::default() };
    let asked = op.clone();
    let txn =
        Txn { success: vec![Action::get(key(counter))], linearizable: true, ..Txn::default() };
    let attempt = |raw: Raw, timeout| async move { send(&raw, timeout, &txn).await };
    let done = |reply: &TxnReply| {
        let total = match reply.results.first() {
            Some(ActionReply::Range { kvs, .. }) => kvs.first().map_or(0, |kv| kv.version),
            _ => 0,
        };
        let revision = Some(reply.revision);
        Op::CounterRead(CounterRead { total: Some(total), revision, ..asked })
    };
    actor.operation(Op::CounterRead(op), true, attempt, done).await.map(|_| ())
}
