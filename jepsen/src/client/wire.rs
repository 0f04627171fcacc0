//! Histories' transactions to requests, and answers back.
//!
//! Keys and values are text in histories; the harness writes no others. What it
//! reads that is no text becomes a marked replacement, which no checker takes
//! for something that was written.

use keelstone_jepsen::history::{
    Action, ActionReply, Compare, KeyValue, Operand, Relation, Target, Txn, TxnReply,
};
use keelstone_proto::v1;
use keelstone_proto::v1::compare::Target as WireTarget;
use keelstone_proto::v1::key_span::End;
use keelstone_proto::v1::txn_op::Op as WireOp;
use keelstone_proto::v1::txn_op_response::Response as WireResponse;

/// The span of histories' `key` and `end`.
pub(crate) fn span(key: &str, end: Option<&str>) -> v1::KeySpan {
    let end = end.map(|end| match end {
        "" => End::Unbounded(true),
        end => End::Until(bytes(end)),
    });
    v1::KeySpan { key: bytes(key), end }
}

/// All keys with `prefix`.
pub(crate) fn prefix_span(prefix: &str) -> v1::KeySpan {
    v1::KeySpan { key: bytes(prefix), end: Some(End::Prefix(true)) }
}

fn bytes<T: From<Vec<u8>>>(text: &str) -> T {
    text.as_bytes().to_vec().into()
}

/// The whole transaction.
pub(crate) fn request(txn: &Txn) -> v1::TxnRequest {
    v1::TxnRequest {
        compares: txn.compares.iter().map(compare).collect(),
        then: txn.success.iter().map(operation).collect(),
        otherwise: txn.failure.iter().map(operation).collect(),
        write_id: write_id(txn),
    }
}

/// The identity that the write was given.
pub(crate) fn write_id(txn: &Txn) -> Option<v1::WriteId> {
    // What lower sequences answered stays remembered: they may be sent again.
    txn.write_id.map(|(session, sequence)| v1::WriteId { session, sequence, acked_below: 0 })
}

fn compare(compare: &Compare) -> v1::Compare {
    let number = match &compare.operand {
        Operand::Number(number) => *number,
        Operand::Text(_) => 0,
    };
    let target = match compare.target {
        Target::Value => WireTarget::Value(match &compare.operand {
            Operand::Text(text) => bytes(text),
            Operand::Number(number) => bytes(&number.to_string()),
        }),
        Target::Version => WireTarget::Version(number),
        Target::Create => WireTarget::CreateRevision(number),
        Target::Mod => WireTarget::ModRevision(number),
        Target::Lease => WireTarget::Lease(number.cast_signed()),
    };
    let relation = match compare.op {
        Relation::Equal => v1::Relation::Equal,
        Relation::NotEqual => v1::Relation::NotEqual,
        Relation::Less => v1::Relation::Less,
        Relation::Greater => v1::Relation::Greater,
    };
    let span = Some(span(&compare.key, None));
    v1::Compare { span, relation: relation.into(), target: Some(target) }
}

/// One put.
pub(crate) fn put(key: &str, value: &str, lease: u64, prev: bool) -> v1::PutRequest {
    v1::PutRequest {
        key: bytes(key),
        value: bytes(value),
        lease: lease.cast_signed(),
        previous: prev,
        ..v1::PutRequest::default()
    }
}

/// One delete.
pub(crate) fn delete(key: &str, end: Option<&str>, prev: bool) -> v1::DeleteRequest {
    v1::DeleteRequest { span: Some(span(key, end)), previous: prev, write_id: None }
}

/// One range.
pub(crate) fn range(key: &str, end: Option<&str>, limit: u64) -> v1::RangeRequest {
    v1::RangeRequest { span: Some(span(key, end)), limit, ..v1::RangeRequest::default() }
}

fn operation(action: &Action) -> v1::TxnOp {
    let op = match action {
        Action::Put { key, value, lease, prev } => WireOp::Put(put(key, value, *lease, *prev)),
        Action::Delete { key, end, prev } => WireOp::Delete(delete(key, end.as_deref(), *prev)),
        Action::Range { key, end, limit } => WireOp::Range(range(key, end.as_deref(), *limit)),
    };
    v1::TxnOp { op: Some(op) }
}

/// The revision that a header names.
pub(crate) fn revision(header: Option<&v1::ResponseHeader>) -> u64 {
    header.map_or(0, |header| header.revision)
}

/// The answer to a whole transaction.
pub(crate) fn reply(response: v1::TxnResponse) -> TxnReply {
    TxnReply {
        revision: revision(response.header.as_ref()),
        succeeded: response.succeeded,
        results: response
            .responses
            .into_iter()
            .filter_map(|one| one.response)
            .map(result)
            .collect(),
    }
}

/// The answer to a single step.
pub(crate) fn single(header: Option<&v1::ResponseHeader>, result: ActionReply) -> TxnReply {
    TxnReply { revision: revision(header), succeeded: true, results: vec![result] }
}

fn result(response: WireResponse) -> ActionReply {
    match response {
        WireResponse::Put(put) => put_reply(put),
        WireResponse::Delete(delete) => delete_reply(delete),
        WireResponse::Range(range) => range_reply(range),
        // The harness sends no nested ones; a nested answer matches nothing.
        WireResponse::Txn(_) => ActionReply::Put { prev: None },
    }
}

/// The answer to a put.
pub(crate) fn put_reply(reply: v1::PutResponse) -> ActionReply {
    ActionReply::Put { prev: reply.previous.map(key_value) }
}

/// The answer to a delete.
pub(crate) fn delete_reply(reply: v1::DeleteResponse) -> ActionReply {
    let prev = reply.previous.into_iter().map(key_value).collect();
    ActionReply::Delete { deleted: reply.deleted, prev }
}

/// The answer to a range.
pub(crate) fn range_reply(reply: v1::RangeResponse) -> ActionReply {
    let kvs = reply.kvs.into_iter().map(key_value).collect();
    ActionReply::Range { kvs, count: reply.count, more: reply.more }
}

/// A key with its value.
pub(crate) fn key_value(kv: v1::KeyValue) -> KeyValue {
    KeyValue {
        key: text(&kv.key),
        value: text(&kv.value),
        create: kv.create_revision,
        modified: kv.mod_revision,
        version: kv.version,
        lease: kv.lease.cast_unsigned(),
    }
}

/// Bytes as text.
pub(crate) fn text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => format!("not text: {}", String::from_utf8_lossy(bytes)),
    }
}
