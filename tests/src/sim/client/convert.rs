//! Transactions of histories as the store takes them, and its answers back.

use bytes::Bytes;
use keelstone_jepsen::history::{self, Action, ActionReply, KeyValue, Operand};

use keelstone_store::machine::{
    Compare, Delete, KeyRecord, Op, OpReply, Put, Range, Relation, Target, Txn, TxnReply,
};
use keelstone_store::{Key, KeyRange, LeaseId, RangeEnd, Revision, Space};

/// The key of a name.
pub(super) fn key(name: &str) -> Key {
    Space::Raw.key(name.as_bytes())
}

/// The name of a key.
pub(super) fn name(key: &Key) -> String {
    String::from_utf8_lossy(&key.name()).into_owned()
}

fn text(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The range from a name to before another one.
pub(super) fn range(from: &str, end: Option<&str>) -> KeyRange {
    let single = KeyRange::single(&key(from));
    match end {
        None => single,
        Some("") => KeyRange { end: Space::Raw.all().end, ..single },
        Some(end) => KeyRange { end: RangeEnd::Until(key(end).0), ..single },
    }
}

/// A lease's number in histories.
pub(super) fn lease_number(lease: LeaseId) -> u64 {
    lease.0.unsigned_abs()
}

/// A lease of a history.
pub(super) fn lease(number: u64) -> LeaseId {
    LeaseId(number.cast_signed())
}

/// A transaction for the store.
pub(super) fn txn(txn: &history::Txn) -> Txn {
    Txn {
        compares: txn.compares.iter().map(compare).collect(),
        then: txn.success.iter().map(op).collect(),
        otherwise: txn.failure.iter().map(op).collect(),
    }
}

fn compare(compare: &history::Compare) -> Compare {
    let number = match &compare.operand {
        Operand::Number(number) => *number,
        Operand::Text(_) => 0,
    };
    let target = match (compare.target, &compare.operand) {
        (history::Target::Value, Operand::Text(value)) => {
            Target::Value(Bytes::copy_from_slice(value.as_bytes()))
        }
        (history::Target::Value, Operand::Number(number)) => {
            Target::Value(Bytes::from(number.to_string()))
        }
        (history::Target::Version, _) => Target::Version(number),
        (history::Target::Create, _) => Target::Created(Revision::new(number)),
        (history::Target::Mod, _) => Target::Modified(Revision::new(number)),
        (history::Target::Lease, _) => Target::Lease(lease(number)),
    };
    let relation = match compare.op {
        history::Relation::Equal => Relation::Equal,
        history::Relation::NotEqual => Relation::NotEqual,
        history::Relation::Less => Relation::Less,
        history::Relation::Greater => Relation::Greater,
    };
    Compare { range: KeyRange::single(&key(&compare.key)), relation, target }
}

fn op(action: &Action) -> Op {
    match action {
        Action::Put { key: name, value, lease: number, prev } => Op::Put(Put {
            lease: lease(*number),
            previous: *prev,
            ..Put::new(key(name), Bytes::copy_from_slice(value.as_bytes()))
        }),
        Action::Delete { key, end, prev } => {
            Op::Delete(Delete { range: range(key, end.as_deref()), previous: *prev })
        }
        Action::Range { key, end, limit } => {
            Op::Range(Range { limit: *limit, ..Range::all(range(key, end.as_deref())) })
        }
    }
}

/// A record in a history.
pub(super) fn key_value(record: KeyRecord) -> KeyValue {
    KeyValue {
        key: name(&record.key),
        value: text(&record.record.value),
        create: record.record.created.get(),
        modified: record.record.modified.get(),
        version: record.record.version,
        lease: lease_number(record.record.lease),
    }
}

/// The store's answer, at a revision.
pub(super) fn reply(revision: Revision, reply: TxnReply) -> history::TxnReply {
    let results = reply.ops.into_iter().filter_map(op_reply).collect();
    history::TxnReply { revision: revision.get(), succeeded: reply.succeeded, results }
}

fn op_reply(reply: OpReply) -> Option<ActionReply> {
    match reply {
        OpReply::Put { previous } => Some(ActionReply::Put { prev: previous.map(key_value) }),
        OpReply::Delete { deleted, previous } => {
            let prev = previous.into_iter().map(key_value).collect();
            Some(ActionReply::Delete { deleted, prev })
        }
        OpReply::Range(range) => {
            let kvs = range.records.into_iter().map(key_value).collect();
            Some(ActionReply::Range { kvs, count: range.count, more: range.more })
        }
        // Histories have no nested transactions.
        OpReply::Txn(_) => None,
    }
}
