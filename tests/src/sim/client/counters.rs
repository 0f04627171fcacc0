//! Additions through a session, sent again until their outcome is known.

use super::convert;
use super::{Client, Failed, PATIENCE};
use crate::sim::HostId;
use bytes::Bytes;
use keelstone_jepsen::history::{CounterAdd, CounterRead, Op};
use keelstone_server::core::Consistency;
use keelstone_store::machine::{
    Command, Compare, Envelope, Op as StoreOp, Outcome, Put, Rejection, Relation, Target, Txn,
    View as _, WriteId,
};
use keelstone_store::{KeyRange, Revision, SessionId};
use tokio::time::Instant;

/// The one counter.
const COUNTER: &str = "c/total";
/// How often an addition is sent before it is left unknown.
const TRIES: u64 = 20;
/// How long an idle session is remembered.
const SESSION_TTL_MS: u64 = 30_000;

/// What one sending of an addition came to.
enum Sent {
    Added {
        total: u64,
        revision: u64,
    },
    /// The counter has changed: it was not added and will not be.
    Changed,
    /// The session is gone: it may have been added.
    Gone(String),
    /// Not known: send it again.
    Again,
}

/// A client that adds.
pub(super) async fn run(mut client: Client, number: u64) {
    let mut sessions = 0;
    while client.all.stage.goes_on() {
        sessions += 1;
        let session = SessionId(number * 1_000 + sessions);
        if !open(&mut client, session).await {
            client.think(200).await;
            continue;
        }
        let mut sequence = 0;
        while client.all.stage.goes_on() {
            sequence += 1;
            if !add(&mut client, session, sequence).await {
                break;
            }
            client.think(150).await;
        }
    }
}

async fn open(client: &mut Client, session: SessionId) -> bool {
    let node = client.node();
    let asked = client.all.doors.ask(node, PATIENCE, move |services| async move {
        let command = Command::SessionOpen { id: session, ttl_ms: SESSION_TTL_MS };
        let envelope = Envelope { write_id: None, command };
        services.core.propose(envelope, Instant::now() + PATIENCE).await
    });
    asked.await.is_ok_and(|answer| answer.is_ok_and(|reply| reply.outcome == Outcome::Done))
}

/// Adds one. Whether the session goes on.
async fn add(client: &mut Client, session: SessionId, sequence: u64) -> bool {
    let node = client.node();
    let Some((total, modified)) = read(client, node).await else { return true };
    let op = CounterAdd {
        counter: COUNTER.to_owned(),
        delta: 1,
        write_id: Some((session.0, sequence)),
        total: None,
        revision: None,
    };
    let write_id = WriteId { session, sequence, acked_below: sequence };
    let mut node = client.node();
    client.invoke(&Op::CounterAdd(op.clone()), node);
    for _ in 0..TRIES {
        match send(client, node, write_id, total, modified).await {
            Sent::Added { total, revision } => {
                let (total, revision) = (Some(total), Some(revision));
                client.ok(Op::CounterAdd(CounterAdd { total, revision, ..op }), node);
                return true;
            }
            Sent::Changed => {
                let failed = Failed::No("the counter has changed".to_owned());
                client.failed(Op::CounterAdd(op), node, failed);
                return true;
            }
            Sent::Gone(reason) => {
                client.failed(Op::CounterAdd(op), node, Failed::Unknown(reason));
                return false;
            }
            Sent::Again => {
                client.think(100).await;
                node = client.node();
            }
        }
    }
    client.failed(Op::CounterAdd(op), node, Failed::Unknown("given up".to_owned()));
    false
}

/// The total, and the revision that made it.
async fn read(client: &mut Client, node: HostId) -> Option<(u64, Revision)> {
    let op = CounterRead { counter: COUNTER.to_owned(), total: None, revision: None };
    client.invoke(&Op::CounterRead(op.clone()), node);
    let asked = client.all.doors.ask(node, PATIENCE, move |services| async move {
        let deadline = Instant::now() + PATIENCE;
        let view = services.core.read(Consistency::Linearizable, deadline).await?;
        let record = view.get(&convert::key(COUNTER));
        let record = record.map_err(|error| Failed::No(error.to_string()))?;
        Ok::<_, Failed>((record, view.head().revision))
    });
    match asked.await.map_err(Failed::from).and_then(|answer| answer) {
        Ok((record, revision)) => {
            let total = record.as_ref().map_or(0, |record| number(&record.value));
            let modified = record.map_or(Revision::ZERO, |record| record.modified);
            let (shown, revision) = (Some(total), Some(revision.get()));
            client.ok(Op::CounterRead(CounterRead { total: shown, revision, ..op }), node);
            Some((total, modified))
        }
        Err(failed) => {
            client.failed(Op::CounterRead(op), node, failed);
            None
        }
    }
}

fn number(value: &Bytes) -> u64 {
    std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}

async fn send(
    client: &Client,
    node: HostId,
    write_id: WriteId,
    total: u64,
    modified: Revision,
) -> Sent {
    let key = convert::key(COUNTER);
    let txn = Txn {
        compares: vec![Compare {
            range: KeyRange::single(&key),
            relation: Relation::Equal,
            target: Target::Modified(modified),
        }],
        then: vec![StoreOp::Put(Put::new(key, Bytes::from((total + 1).to_string())))],
        otherwise: Vec::new(),
    };
    let envelope = Envelope { write_id: Some(write_id), command: Command::Txn(txn) };
    let asked = client.all.doors.ask(node, PATIENCE, move |services| async move {
        services.core.propose(envelope, Instant::now() + PATIENCE).await
    });
    let Ok(Ok(reply)) = asked.await else { return Sent::Again };
    let revision = reply.revision.get();
    match reply.outcome {
        Outcome::Txn(txn) if txn.succeeded => Sent::Added { total: total + 1, revision },
        Outcome::Txn(_) => Sent::Changed,
        Outcome::Applied => Sent::Added { total: total + 1, revision },
        Outcome::Rejected(Rejection::SessionNotFound(_)) => {
            Sent::Gone("the session has expired".to_owned())
        }
        Outcome::Rejected(rejection) => Sent::Gone(rejection.to_string()),
        _ => Sent::Gone("an answer of another kind".to_owned()),
    }
}
