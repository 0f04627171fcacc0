//! Clients of raw keys: puts, deletions, reads, compare-and-set, and
//! transactions over several keys.

use super::convert;
use super::{Client, Clients, Failed, PATIENCE};
use crate::sim::HostId;
use keelstone_jepsen::history::{
    Action, Compare, Op, Operand, Relation, Target, Txn, TxnReply, prefix_end,
};
use keelstone_server::core::Consistency;
use keelstone_store::Revision;
use keelstone_store::machine::{Command, Envelope, Outcome, View as _, read_txn};
use tokio::time::Instant;

/// Keys that clients share.
const KEYS: u64 = 6;

/// A client of raw keys.
pub(super) async fn run(mut client: Client) {
    let mut number = 0;
    // What it read last: compares with that have a chance to hold.
    let mut known: Option<(String, u64)> = None;
    while client.all.stage.goes_on() {
        number += 1;
        let txn = draw(&mut client, number, known.as_ref());
        let node = client.node();
        if let Some(reply) = do_txn(&mut client, txn, node).await {
            let kvs = reply.results.iter().filter_map(|result| match result {
                keelstone_jepsen::history::ActionReply::Range { kvs, .. } => kvs.first(),
                _ => None,
            });
            known = kvs.last().map(|kv| (kv.key.clone(), kv.modified)).or(known);
        }
        client.think(60).await;
    }
}

fn key_name(number: u64) -> String {
    format!("k{number}")
}

fn draw(client: &mut Client, number: u64, known: Option<&(String, u64)>) -> Txn {
    let key = key_name(client.random.below(KEYS));
    let value = format!("{}.{number}", client.process);
    let linearizable = true;
    let txn = Txn { linearizable, ..Txn::default() };
    match client.random.below(12) {
        0..=3 => Txn { success: vec![Action::Put { key, value, lease: 0, prev: true }], ..txn },
        4 => Txn { success: vec![Action::Delete { key, end: None, prev: true }], ..txn },
        5 | 6 => Txn { success: vec![Action::get(key)], ..txn },
        7 => Txn { success: vec![Action::get(key)], linearizable: false, ..txn },
        8 => Txn { success: vec![Action::prefix("k")], ..txn },
        9 | 10 => {
            let (key, modified) = known.cloned().unwrap_or((key, 0));
            let compare = Compare {
                key: key.clone(),
                target: Target::Mod,
                op: Relation::Equal,
                operand: Operand::Number(modified),
            };
            Txn {
                compares: vec![compare],
                success: vec![Action::put(key.clone(), value)],
                failure: vec![Action::get(key)],
                ..txn
            }
        }
        _ => {
            let other = key_name((client.random.below(KEYS - 1) + 1) % KEYS);
            let mut success = vec![Action::put(key.clone(), value.clone())];
            if other == key {
                success.push(Action::get(other));
            } else {
                success.push(Action::put(other, value));
            }
            success.push(Action::prefix("k"));
            Txn { success, ..txn }
        }
    }
}

/// Does a transaction and notes what came of it.
pub(super) async fn do_txn(client: &mut Client, txn: Txn, node: HostId) -> Option<TxnReply> {
    client.invoke(&Op::Txn(txn.clone()), node);
    match ask_txn(&client.all, &txn, node).await {
        Ok(reply) => {
            client.ok(Op::Txn(Txn { reply: Some(reply.clone()), ..txn }), node);
            Some(reply)
        }
        Err(failed) => {
            client.failed(Op::Txn(txn), node, failed);
            None
        }
    }
}

/// Asks a node to do a transaction, as its gRPC service would.
pub(super) async fn ask_txn(all: &Clients, txn: &Txn, node: HostId) -> Result<TxnReply, Failed> {
    let command = convert::txn(txn);
    let reads = txn.is_read();
    let consistency =
        if txn.linearizable { Consistency::Linearizable } else { Consistency::Serializable };
    let write_id = txn.write_id.map(|(session, sequence)| keelstone_store::machine::WriteId {
        session: keelstone_store::SessionId(session),
        sequence,
        acked_below: 0,
    });
    let asked = all.doors.ask(node, PATIENCE, move |services| async move {
        let deadline = Instant::now() + PATIENCE;
        if reads {
            let view = services.core.read(consistency, deadline).await.map_err(Failed::from)?;
            let reply = read_txn(&view, &command)
                .map_err(|error| Failed::No(error.to_string()))?
                .map_err(|rejection| Failed::No(rejection.to_string()))?;
            return Ok((view.head().revision, reply));
        }
        let envelope = Envelope { write_id, command: Command::Txn(command) };
        let reply = services.core.propose(envelope, deadline).await?;
        match reply.outcome {
            Outcome::Txn(txn) => Ok((reply.revision, txn)),
            Outcome::Rejected(rejection) => Err(Failed::No(rejection.to_string())),
            _ => Err(Failed::Unknown("an answer of another kind".to_owned())),
        }
    });
    let (revision, reply): (Revision, _) = asked.await??;
    Ok(convert::reply(revision, reply))
}

/// Reads all keys that only transactions change, at one node.
pub(in crate::sim) async fn read_all(all: &Clients, node: HostId) -> Result<TxnReply, Failed> {
    let everything = Action::Range { key: "k".to_owned(), end: Some(prefix_end("l")), limit: 0 };
    let txn = Txn { success: vec![everything], linearizable: true, ..Txn::default() };
    let process = all.recorder.new_process();
    all.recorder.invoke(process, Op::Txn(txn.clone()), Some(node));
    let read = ask_txn(all, &txn, node).await;
    match &read {
        Ok(reply) => {
            let op = Op::Txn(Txn { reply: Some(reply.clone()), ..txn });
            all.recorder.ok(process, op, Some(node));
        }
        Err(error) => {
            all.recorder.record(
                process,
                keelstone_jepsen::history::Kind::Info,
                Op::Txn(txn),
                Some(node),
                Some(format!("{error:?}")),
            );
        }
    }
    read
}
