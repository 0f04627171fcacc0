//! Records and replies as bytes.

use super::{DecodeError, all, rejection_from_proto, rejection_to_proto, required};
use crate::machine::{KeyRecord, OpReply, Outcome, RangeReply, Record, Reply, TxnReply};
use crate::{Key, LeaseId, Revision};
use bytes::Bytes;
use keelstone_proto::disk;
use prost::Message as _;

/// The bytes of a reply.
pub fn encode_reply(reply: &Reply) -> Bytes {
    reply_to_proto(reply).encode_to_vec().into()
}

/// Reads a reply.
///
/// # Errors
///
/// Fails if the bytes are not a reply that this version understands.
pub fn decode_reply(bytes: Bytes) -> Result<Reply, DecodeError> {
    reply_from_proto(disk::Reply::decode(bytes)?)
}

/// The message of a reply.
pub fn reply_to_proto(reply: &Reply) -> disk::Reply {
    use disk::reply::Reply as Proto;
    let outcome = match &reply.outcome {
        Outcome::Txn(txn) => Proto::Txn(txn_reply_to_proto(txn)),
        Outcome::Lease { id, ttl_ms } => Proto::Lease(lease_reply(*id, *ttl_ms)),
        Outcome::Renewed(leases) => {
            let leases = leases.iter().map(|(id, ttl_ms)| lease_reply(*id, *ttl_ms)).collect();
            Proto::Renew(disk::RenewReply { leases })
        }
        Outcome::Done => Proto::Done(disk::DoneReply {}),
        Outcome::Applied => Proto::Applied(disk::DoneReply {}),
        Outcome::Rejected(rejection) => Proto::Rejected(rejection_to_proto(rejection)),
    };
    disk::Reply { revision: reply.revision.get(), reply: Some(outcome) }
}

/// The reply of a message.
///
/// # Errors
///
/// Fails if the message says what this version does not understand.
pub fn reply_from_proto(reply: disk::Reply) -> Result<Reply, DecodeError> {
    use disk::reply::Reply as Proto;
    let outcome = match required(reply.reply, "the reply's outcome")? {
        Proto::Txn(txn) => Outcome::Txn(txn_reply_from_proto(txn)?),
        Proto::Lease(lease) => Outcome::Lease { id: LeaseId(lease.id), ttl_ms: lease.ttl_ms },
        Proto::Renew(renew) => {
            let renewed = |lease: disk::LeaseReply| (LeaseId(lease.id), lease.ttl_ms);
            Outcome::Renewed(renew.leases.into_iter().map(renewed).collect())
        }
        Proto::Done(disk::DoneReply {}) => Outcome::Done,
        Proto::Applied(disk::DoneReply {}) => Outcome::Applied,
        Proto::Rejected(rejection) => Outcome::Rejected(rejection_from_proto(&rejection)?),
    };
    Ok(Reply { revision: Revision::new(reply.revision), outcome })
}

fn lease_reply(id: LeaseId, ttl_ms: u64) -> disk::LeaseReply {
    disk::LeaseReply { id: id.0, ttl_ms }
}

fn txn_reply_to_proto(reply: &TxnReply) -> disk::TxnReply {
    let ops = reply.ops.iter().map(op_reply_to_proto).collect();
    disk::TxnReply { succeeded: reply.succeeded, ops }
}

fn txn_reply_from_proto(reply: disk::TxnReply) -> Result<TxnReply, DecodeError> {
    let ops = all(reply.ops, op_reply_from_proto)?;
    Ok(TxnReply { succeeded: reply.succeeded, ops })
}

fn op_reply_to_proto(reply: &OpReply) -> disk::OpReply {
    use disk::op_reply::Reply as Proto;
    let reply = match reply {
        OpReply::Put { previous } => {
            Proto::Put(disk::PutReply { previous: previous.as_ref().map(key_record_to_proto) })
        }
        OpReply::Delete { deleted, previous } => Proto::Delete(disk::DeleteReply {
            deleted: *deleted,
            previous: previous.iter().map(key_record_to_proto).collect(),
        }),
        OpReply::Range(range) => Proto::Range(range_reply_to_proto(range)),
        OpReply::Txn(txn) => Proto::Txn(txn_reply_to_proto(txn)),
    };
    disk::OpReply { reply: Some(reply) }
}

fn op_reply_from_proto(reply: disk::OpReply) -> Result<OpReply, DecodeError> {
    use disk::op_reply::Reply as Proto;
    Ok(match required(reply.reply, "the reply to an operation")? {
        Proto::Put(put) => {
            OpReply::Put { previous: put.previous.map(key_record_from_proto).transpose()? }
        }
        Proto::Delete(delete) => OpReply::Delete {
            deleted: delete.deleted,
            previous: all(delete.previous, key_record_from_proto)?,
        },
        Proto::Range(range) => OpReply::Range(range_reply_from_proto(range)?),
        Proto::Txn(txn) => OpReply::Txn(txn_reply_from_proto(txn)?),
    })
}

/// The message of the answer to a range.
pub fn range_reply_to_proto(reply: &RangeReply) -> disk::RangeReply {
    let records = reply.records.iter().map(key_record_to_proto).collect();
    disk::RangeReply { records, count: reply.count, more: reply.more }
}

/// The answer to a range of a message.
///
/// # Errors
///
/// Fails if a record is missing.
pub fn range_reply_from_proto(reply: disk::RangeReply) -> Result<RangeReply, DecodeError> {
    let records = all(reply.records, key_record_from_proto)?;
    Ok(RangeReply { records, count: reply.count, more: reply.more })
}

/// The message of a key with its record.
pub fn key_record_to_proto(pair: &KeyRecord) -> disk::KeyRecord {
    disk::KeyRecord { key: pair.key.0.clone(), record: Some(record_to_proto(&pair.record)) }
}

/// The key and record of a message.
///
/// # Errors
///
/// Fails if the record is missing.
pub fn key_record_from_proto(pair: disk::KeyRecord) -> Result<KeyRecord, DecodeError> {
    let record = record_from_proto(required(pair.record, "the record of a key")?);
    Ok(KeyRecord { key: Key(pair.key), record })
}

/// The bytes of a record.
pub fn encode_record(record: &Record) -> Bytes {
    record_to_proto(record).encode_to_vec().into()
}

/// Reads a record.
///
/// # Errors
///
/// Fails if the bytes are not a record.
pub fn decode_record(bytes: Bytes) -> Result<Record, DecodeError> {
    Ok(record_from_proto(disk::Record::decode(bytes)?))
}

/// The message of a record.
pub fn record_to_proto(record: &Record) -> disk::Record {
    disk::Record {
        value: record.value.clone(),
        created: record.created.get(),
        modified: record.modified.get(),
        version: record.version,
        lease: record.lease.0,
    }
}

/// The record of a message.
pub fn record_from_proto(record: disk::Record) -> Record {
    Record {
        value: record.value,
        created: Revision::new(record.created),
        modified: Revision::new(record.modified),
        version: record.version,
        lease: LeaseId(record.lease),
    }
}
