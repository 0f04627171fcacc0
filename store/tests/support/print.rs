//! What commands did, as the scripts in `testscripts/apply` show it.

use keelstone_store::machine::{
    Event, Head, KeyRecord, OpReply, Outcome, RangeReply, Record, Remembered, Reply, Transition,
    TxnReply, Write,
};
use keelstone_store::{Key, LeaseId};
use std::fmt::Write as _;

/// A transition's replies, events, other writes, and what changed in the head.
pub fn transition(before: &Head, transition: &Transition) -> String {
    let mut text = String::new();
    for reply in &transition.replies {
        text += &self::reply(reply);
    }
    for event in &transition.events {
        text += &self::event(event);
    }
    for writes in transition.writes.chunk_by(|a, b| forgets(a) && forgets(b)) {
        let lines = match writes {
            [Write::Forget(id, first), .., Write::Forget(_, last)] => {
                format!("write forget {}.{first} to {last}\n", id.0)
            }
            writes => writes.iter().map(write).collect(),
        };
        text.push_str(&lines);
    }
    let after = &transition.head;
    if after.compacted != before.compacted {
        writeln!(text, "compacted {}", after.compacted).expect("strings do not fail");
    }
    if after.feature_level != before.feature_level {
        writeln!(text, "feature level {}", after.feature_level).expect("strings do not fail");
    }
    text
}

/// The head, with the beginning of its hash.
pub fn head(head: &Head) -> String {
    let hash = u64::from_be_bytes(*head.hash.first_chunk().expect("a hash has 32 bytes"));
    format!(
        "{} compacted {} now {} leases {} sessions {} transitions {} hash {hash:016x}\n",
        head.revision, head.compacted, head.now.0, head.leases, head.sessions, head.transitions
    )
}

fn reply(reply: &Reply) -> String {
    let outcome = match &reply.outcome {
        Outcome::Txn(txn) => return format!("{} {}", reply.revision, self::txn(txn, 0)),
        Outcome::Lease { id, ttl_ms } => format!("lease {} ttl {ttl_ms}", id.0),
        Outcome::Renewed(leases) => {
            let leases: Vec<_> =
                leases.iter().map(|(id, ttl_ms)| format!("{} ttl {ttl_ms}", id.0)).collect();
            format!("renewed {}", leases.join(", "))
        }
        Outcome::Done => "done".to_owned(),
        Outcome::Applied => "applied by an earlier attempt".to_owned(),
        Outcome::Rejected(rejection) => format!("refused: {rejection}"),
    };
    format!("{} {outcome}\n", reply.revision)
}

/// The answer to a transaction: which branch was taken, and what its operations
/// say. A single operation of the first branch stands alone.
pub fn txn(reply: &TxnReply, depth: usize) -> String {
    let alone = |op: &&OpReply| depth == 0 && reply.succeeded && !matches!(op, OpReply::Txn(_));
    if let [op] = &reply.ops[..]
        && alone(&op)
    {
        return self::op(op, 0);
    }
    let mut text = if reply.succeeded { "then\n" } else { "else\n" }.to_owned();
    for op in &reply.ops {
        text += &"  ".repeat(depth + 1);
        text += &self::op(op, depth + 1);
    }
    text
}

fn op(op: &OpReply, depth: usize) -> String {
    match op {
        OpReply::Put { previous: None } => "put\n".to_owned(),
        OpReply::Put { previous: Some(pair) } => format!("put, was {}\n", self::pair(pair)),
        OpReply::Delete { deleted, previous } => {
            format!("deleted {deleted}\n{}", pairs(previous, depth + 1))
        }
        OpReply::Range(reply) => range(reply, depth),
        OpReply::Txn(nested) => txn(nested, depth),
    }
}

/// The answer to a range.
pub fn range(reply: &RangeReply, depth: usize) -> String {
    let more = if reply.more { ", more" } else { "" };
    let (found, count) = (reply.records.len(), reply.count);
    format!("range {found} of {count}{more}\n{}", pairs(&reply.records, depth + 1))
}

fn pairs(records: &[KeyRecord], depth: usize) -> String {
    let line = |record| format!("{}{}\n", "  ".repeat(depth), pair(record));
    records.iter().map(line).collect()
}

fn pair(pair: &KeyRecord) -> String {
    format!("{}={}", key(&pair.key), record(Some(&pair.record)))
}

fn event(event: &Event) -> String {
    let (before, after) = (record(event.previous.as_ref()), record(event.record.as_ref()));
    format!("event {} {}: {before} -> {after}\n", event.revision, key(&event.key))
}

fn record(record: Option<&Record>) -> String {
    let Some(record) = record else { return "none".to_owned() };
    let Record { created, modified, version, lease, .. } = record;
    let mut text = format!("{} ({created}..{modified} v{version}", bytes(&record.value));
    if *lease != LeaseId::NONE {
        write!(text, " lease {}", lease.0).expect("strings do not fail");
    }
    text + ")"
}

fn forgets(write: &Write) -> bool {
    matches!(write, Write::Forget(..))
}

/// Writes besides those of keys, which the events show.
fn write(write: &Write) -> String {
    let text = match write {
        Write::Put { .. } | Write::Delete { .. } => return String::new(),
        Write::Lease(lease) => {
            format!("lease {} ttl {} expires {}", lease.id.0, lease.ttl_ms, lease.expires.0)
        }
        Write::LeaseGone(id) => format!("lease {} gone", id.0),
        Write::Attach(id, attached) => format!("attach {} to {}", key(attached), id.0),
        Write::Detach(id, detached) => format!("detach {} from {}", key(detached), id.0),
        Write::Session(session) => format!(
            "session {} ttl {} expires {} forgotten below {} newest {}",
            session.id.0,
            session.ttl_ms,
            session.expires.0,
            session.forgotten_below,
            session.newest
        ),
        Write::SessionGone(id) => format!("session {} gone", id.0),
        Write::Remember(id, sequence, Remembered::Reply(_)) => {
            format!("remember {}.{sequence}", id.0)
        }
        Write::Remember(id, sequence, Remembered::AppliedAt(revision)) => {
            format!("remember {}.{sequence} applied at {revision}", id.0)
        }
        Write::Forget(id, sequence) => format!("forget {}.{sequence}", id.0),
    };
    format!("write {text}\n")
}

fn key(key: &Key) -> String {
    bytes(key.as_bytes())
}

fn bytes(bytes: &[u8]) -> String {
    const SHOWN_MAX: usize = 40;
    if bytes.len() > SHOWN_MAX {
        return format!("[{} bytes]", bytes.len());
    }
    bytes.escape_ascii().to_string()
}
