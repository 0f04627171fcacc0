//! Where the messages of `keelstone.v1` meet the core's types.
//!
//! Clients name raw keys without the byte of their space: it is added on the
//! way in and taken away on the way out, so that no request can reach a key of
//! another space.

use super::status::Failure;
use bytes::Bytes;
use keelstone_proto::v1::{self, compare::Target as ProtoTarget, key_span::End as SpanEnd};
use keelstone_proto::v1::{txn_op::Op as ProtoOp, txn_op_response::Response as ProtoOpReply};
use keelstone_store::limits::{KEY_BYTES_MAX, TXN_DEPTH_MAX};
use keelstone_store::machine::{
    Compare, Delete, KeyRecord, Op, OpReply, Put, Range, RangeReply, Record, Relation, Target, Txn,
    TxnReply, WriteId,
};
use keelstone_store::{Key, KeyRange, LeaseId, RangeEnd, Revision, SessionId, Space};

/// Bytes of a key as clients name it.
const NAME_BYTES_MAX: usize = KEY_BYTES_MAX - 1;

/// A request that says something impossible.
#[derive(Debug)]
pub(super) struct Malformed {
    field: String,
    problem: &'static str,
    /// The limit and the actual size, if that is the problem.
    limit: Option<(u64, u64)>,
}

impl Malformed {
    pub(super) fn new(field: impl Into<String>, problem: &'static str) -> Self {
        Self { field: field.into(), problem, limit: None }
    }

    /// The same problem in a field of a field.
    fn within(mut self, outer: &str) -> Self {
        self.field = format!("{outer}.{}", self.field);
        self
    }
}

impl From<Malformed> for Failure {
    fn from(Malformed { field, problem, limit }: Malformed) -> Self {
        match limit {
            Some((limit, actual)) => Self::too_large(field, actual, limit).with_remedy(problem),
            None => Self::invalid(field, problem),
        }
    }
}

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.limit {
            Some((limit, actual)) => write!(f, "{} is {actual}, the limit is {limit}", self.field),
            None => write!(f, "{}: {}", self.field, self.problem),
        }
    }
}

pub(super) fn write_id_from_proto(id: v1::WriteId) -> Result<WriteId, Malformed> {
    if id.session == 0 {
        return Err(Malformed::new("write_id.session", "it is 0: open a session, or leave it out"));
    }
    let session = SessionId(id.session);
    Ok(WriteId { session, sequence: id.sequence, acked_below: id.acked_below })
}

pub(super) fn key_from_proto(key: &Bytes) -> Result<Key, Malformed> {
    if key.is_empty() {
        return Err(Malformed::new("key", "it is empty: name a key"));
    }
    check_name("key", key)?;
    Ok(Space::Raw.key(key))
}

fn check_name(field: &str, name: &Bytes) -> Result<(), Malformed> {
    if name.len() <= NAME_BYTES_MAX {
        return Ok(());
    }
    let limit = Some((NAME_BYTES_MAX as u64, name.len() as u64));
    Err(Malformed { limit, ..Malformed::new(field, "use a shorter key") })
}

/// The stored keys of a span. Never reaches beyond the raw space.
pub(super) fn span_from_proto(span: Option<v1::KeySpan>) -> Result<KeyRange, Malformed> {
    let span = span.ok_or_else(|| Malformed::new("span", "it is missing"))?;
    check_name("span.key", &span.key)?;
    let start = Space::Raw.key(&span.key);
    let prefix = |key: Key| KeyRange::prefix(key.0);
    Ok(match span.end {
        Some(SpanEnd::Until(until)) => {
            // A bound that begins after the longest key is still a bound.
            let until = until.slice(..until.len().min(KEY_BYTES_MAX));
            KeyRange { start: start.0, end: RangeEnd::Until(Space::Raw.key(&until).0) }
        }
        Some(SpanEnd::Prefix(true)) => prefix(start),
        Some(SpanEnd::Unbounded(true)) => {
            KeyRange { start: start.0, end: prefix(Space::Raw.key(b"")).end }
        }
        None | Some(SpanEnd::Prefix(false) | SpanEnd::Unbounded(false)) => {
            if span.key.is_empty() {
                return Err(Malformed::new(
                    "span.key",
                    "it is empty: name a key, or set prefix or unbounded for all keys",
                ));
            }
            KeyRange::single(&start)
        }
    })
}

pub(super) fn range_from_proto(range: v1::RangeRequest) -> Result<Range, Malformed> {
    Ok(Range {
        range: span_from_proto(range.span)?,
        revision: Revision::new(range.revision),
        limit: range.limit,
        keys_only: range.keys_only,
        count_only: range.count_only,
    })
}

pub(super) fn put_from_proto(put: v1::PutRequest) -> Result<Put, Malformed> {
    Ok(Put {
        key: key_from_proto(&put.key)?,
        value: put.value,
        lease: LeaseId(put.lease),
        previous: put.previous,
        ignore_value: put.ignore_value,
        ignore_lease: put.ignore_lease,
    })
}

pub(super) fn delete_from_proto(delete: v1::DeleteRequest) -> Result<Delete, Malformed> {
    Ok(Delete { range: span_from_proto(delete.span)?, previous: delete.previous })
}

pub(super) fn txn_from_proto(txn: v1::TxnRequest) -> Result<Txn, Malformed> {
    nested_from_proto(txn, 0)
}

fn nested_from_proto(txn: v1::TxnRequest, depth: usize) -> Result<Txn, Malformed> {
    if depth > TXN_DEPTH_MAX {
        let limit = Some((TXN_DEPTH_MAX as u64, depth as u64));
        return Err(Malformed { limit, ..Malformed::new("txn", "nest transactions less deeply") });
    }
    let ops = |name: &str, ops: Vec<v1::TxnOp>| {
        let ops = ops.into_iter().enumerate();
        ops.map(|(at, op)| op_from_proto(op, depth).map_err(|e| e.within(&format!("{name}[{at}]"))))
            .collect::<Result<Vec<_>, _>>()
    };
    let compares = txn.compares.into_iter().enumerate();
    Ok(Txn {
        compares: compares
            .map(|(at, c)| compare_from_proto(c).map_err(|e| e.within(&format!("compares[{at}]"))))
            .collect::<Result<_, _>>()?,
        then: ops("then", txn.then)?,
        otherwise: ops("otherwise", txn.otherwise)?,
    })
}

fn op_from_proto(op: v1::TxnOp, depth: usize) -> Result<Op, Malformed> {
    let one_identity = |write_id: &Option<v1::WriteId>| match write_id {
        None => Ok(()),
        Some(_) => Err(Malformed::new("write_id", "only the outermost transaction has one")),
    };
    match op.op {
        None => Err(Malformed::new("op", "it is missing")),
        Some(ProtoOp::Put(put)) => {
            one_identity(&put.write_id)?;
            put_from_proto(put).map(Op::Put).map_err(|e| e.within("put"))
        }
        Some(ProtoOp::Delete(delete)) => {
            one_identity(&delete.write_id)?;
            delete_from_proto(delete).map(Op::Delete).map_err(|e| e.within("delete"))
        }
        Some(ProtoOp::Range(range)) => {
            range_from_proto(range).map(Op::Range).map_err(|e| e.within("range"))
        }
        Some(ProtoOp::Txn(txn)) => {
            one_identity(&txn.write_id)?;
            nested_from_proto(txn, depth + 1).map(Op::Txn).map_err(|e| e.within("txn"))
        }
    }
}

fn compare_from_proto(compare: v1::Compare) -> Result<Compare, Malformed> {
    let relation = match v1::Relation::try_from(compare.relation) {
        Ok(v1::Relation::Equal) => Relation::Equal,
        Ok(v1::Relation::Greater) => Relation::Greater,
        Ok(v1::Relation::Less) => Relation::Less,
        Ok(v1::Relation::NotEqual) => Relation::NotEqual,
        Err(_) => return Err(Malformed::new("relation", "it is not one of the enum")),
    };
    let target = match compare.target {
        Some(ProtoTarget::CreateRevision(revision)) => Target::Created(Revision::new(revision)),
        Some(ProtoTarget::ModRevision(revision)) => Target::Modified(Revision::new(revision)),
        Some(ProtoTarget::Version(version)) => Target::Version(version),
        Some(ProtoTarget::Value(value)) => Target::Value(value),
        Some(ProtoTarget::Lease(lease)) => Target::Lease(LeaseId(lease)),
        None => return Err(Malformed::new("target", "it is missing")),
    };
    Ok(Compare { range: span_from_proto(compare.span)?, relation, target })
}

pub(super) fn key_value(record: KeyRecord) -> v1::KeyValue {
    let KeyRecord { key, record } = record;
    value_of(&key, record)
}

/// A key with its record, as clients name it.
pub(super) fn value_of(key: &Key, record: Record) -> v1::KeyValue {
    v1::KeyValue {
        key: key.name(),
        value: record.value,
        create_revision: record.created.get(),
        mod_revision: record.modified.get(),
        version: record.version,
        lease: record.lease.0,
    }
}

pub(super) fn range_to_proto(reply: RangeReply) -> v1::RangeResponse {
    v1::RangeResponse {
        header: None,
        kvs: reply.records.into_iter().map(key_value).collect(),
        count: reply.count,
        more: reply.more,
    }
}

pub(super) fn txn_to_proto(reply: TxnReply) -> v1::TxnResponse {
    let responses = reply.ops.into_iter().map(op_to_proto);
    let responses = responses.map(|response| v1::TxnOpResponse { response: Some(response) });
    v1::TxnResponse { header: None, succeeded: reply.succeeded, responses: responses.collect() }
}

fn op_to_proto(reply: OpReply) -> ProtoOpReply {
    match reply {
        OpReply::Put { previous } => {
            ProtoOpReply::Put(v1::PutResponse { header: None, previous: previous.map(key_value) })
        }
        OpReply::Delete { deleted, previous } => ProtoOpReply::Delete(v1::DeleteResponse {
            header: None,
            deleted,
            previous: previous.into_iter().map(key_value).collect(),
        }),
        OpReply::Range(reply) => ProtoOpReply::Range(range_to_proto(reply)),
        OpReply::Txn(reply) => ProtoOpReply::Txn(txn_to_proto(reply)),
    }
}
