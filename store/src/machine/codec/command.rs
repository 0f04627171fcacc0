//! Commands and batches of them as bytes.

use super::{DecodeError, all, required};
use crate::machine::{
    Batch, Command, Compare, Delete, Envelope, Op, Put, Range, Relation, Target, Txn, WriteId,
};
use crate::{Key, KeyRange, LeaseId, Millis, RangeEnd, Revision, SessionId};
use bytes::{BufMut as _, Bytes, BytesMut};
use keelstone_proto::disk;
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint};

/// The bytes of a batch of envelopes that [`encode_envelope`] has encoded: they
/// are copied once, not encoded again.
pub fn encode_batch(now: Millis, commands: &[Bytes]) -> Bytes {
    const TAGS_MAX: usize = 1 + 10 + 1;
    let bytes = commands.iter().map(|command| command.len() + TAGS_MAX).sum::<usize>() + TAGS_MAX;
    let mut batch = BytesMut::with_capacity(bytes);
    if now != Millis::default() {
        encode_key(1, WireType::Varint, &mut batch);
        encode_varint(now.0, &mut batch);
    }
    for command in commands {
        encode_key(2, WireType::LengthDelimited, &mut batch);
        encode_varint(command.len() as u64, &mut batch);
        batch.put_slice(command);
    }
    batch.freeze()
}

/// Reads a batch.
///
/// # Errors
///
/// Fails if the bytes are not a batch that this version understands.
pub fn decode_batch(bytes: Bytes) -> Result<Batch, DecodeError> {
    let batch = disk::Batch::decode(bytes)?;
    let commands = all(batch.commands, envelope_from_proto)?;
    Ok(Batch { now: Millis(batch.now_ms), commands })
}

/// The bytes of a command and of its place in a session.
pub fn encode_envelope(envelope: &Envelope) -> Bytes {
    envelope_to_proto(envelope).encode_to_vec().into()
}

/// Reads a command and its place in a session.
///
/// # Errors
///
/// Fails if the bytes are not a command that this version understands.
pub fn decode_envelope(bytes: Bytes) -> Result<Envelope, DecodeError> {
    envelope_from_proto(disk::Envelope::decode(bytes)?)
}

/// The message of an envelope.
pub fn envelope_to_proto(envelope: &Envelope) -> disk::Envelope {
    let write_id = envelope.write_id.map(|id| disk::WriteId {
        session: id.session.0,
        sequence: id.sequence,
        acked_below: id.acked_below,
    });
    disk::Envelope { write_id, command: Some(command_to_proto(&envelope.command)) }
}

/// The envelope of a message.
///
/// # Errors
///
/// Fails if the message says what this version does not understand.
pub fn envelope_from_proto(envelope: disk::Envelope) -> Result<Envelope, DecodeError> {
    let write_id = envelope.write_id.map(|id| WriteId {
        session: SessionId(id.session),
        sequence: id.sequence,
        acked_below: id.acked_below,
    });
    let command = command_from_proto(required(envelope.command, "the command")?)?;
    Ok(Envelope { write_id, command })
}

fn command_to_proto(command: &Command) -> disk::envelope::Command {
    use disk::envelope::Command as Proto;
    match command {
        Command::Txn(txn) => Proto::Txn(txn_to_proto(txn)),
        Command::LeaseGrant { id, ttl_ms } => {
            Proto::LeaseGrant(disk::LeaseGrant { id: id.0, ttl_ms: *ttl_ms })
        }
        Command::LeaseRenew { ids } => {
            Proto::LeaseRenew(disk::LeaseRenew { ids: ids.iter().map(|id| id.0).collect() })
        }
        Command::LeaseRevoke { id } => Proto::LeaseRevoke(disk::LeaseRevoke { id: id.0 }),
        Command::LeaseExpire { leases } => {
            let expiring = |(id, expires): &(LeaseId, Millis)| disk::ExpiringLease {
                id: id.0,
                expires_ms: expires.0,
            };
            Proto::LeaseExpire(disk::LeaseExpire { leases: leases.iter().map(expiring).collect() })
        }
        Command::Compact { revision } => Proto::Compact(disk::Compact { revision: revision.get() }),
        Command::SessionOpen { id, ttl_ms } => {
            Proto::SessionOpen(disk::SessionOpen { id: id.0, ttl_ms: *ttl_ms })
        }
        Command::SessionClose { id } => Proto::SessionClose(disk::SessionClose { id: id.0 }),
        Command::SessionExpire { sessions } => {
            let expiring = |(id, expires): &(SessionId, Millis)| disk::ExpiringSession {
                id: id.0,
                expires_ms: expires.0,
            };
            let sessions = sessions.iter().map(expiring).collect();
            Proto::SessionExpire(disk::SessionExpire { sessions })
        }
        Command::FeatureLevel { level } => {
            Proto::FeatureLevel(disk::FeatureLevel { level: *level })
        }
    }
}

fn command_from_proto(command: disk::envelope::Command) -> Result<Command, DecodeError> {
    use disk::envelope::Command as Proto;
    Ok(match command {
        Proto::Txn(txn) => Command::Txn(txn_from_proto(txn)?),
        Proto::LeaseGrant(grant) => {
            Command::LeaseGrant { id: LeaseId(grant.id), ttl_ms: grant.ttl_ms }
        }
        Proto::LeaseRenew(renew) => {
            Command::LeaseRenew { ids: renew.ids.into_iter().map(LeaseId).collect() }
        }
        Proto::LeaseRevoke(revoke) => Command::LeaseRevoke { id: LeaseId(revoke.id) },
        Proto::LeaseExpire(expire) => {
            let seen = |lease: disk::ExpiringLease| (LeaseId(lease.id), Millis(lease.expires_ms));
            Command::LeaseExpire { leases: expire.leases.into_iter().map(seen).collect() }
        }
        Proto::Compact(compact) => Command::Compact { revision: Revision::new(compact.revision) },
        Proto::SessionOpen(open) => {
            Command::SessionOpen { id: SessionId(open.id), ttl_ms: open.ttl_ms }
        }
        Proto::SessionClose(close) => Command::SessionClose { id: SessionId(close.id) },
        Proto::SessionExpire(expire) => {
            let seen = |session: disk::ExpiringSession| {
                (SessionId(session.id), Millis(session.expires_ms))
            };
            Command::SessionExpire { sessions: expire.sessions.into_iter().map(seen).collect() }
        }
        Proto::FeatureLevel(raise) => Command::FeatureLevel { level: raise.level },
    })
}

/// The message of a transaction.
pub fn txn_to_proto(txn: &Txn) -> disk::Txn {
    disk::Txn {
        compares: txn.compares.iter().map(compare_to_proto).collect(),
        then: txn.then.iter().map(op_to_proto).collect(),
        otherwise: txn.otherwise.iter().map(op_to_proto).collect(),
    }
}

/// The transaction of a message.
///
/// # Errors
///
/// Fails if the message says what this version does not understand.
pub fn txn_from_proto(txn: disk::Txn) -> Result<Txn, DecodeError> {
    Ok(Txn {
        compares: all(txn.compares, compare_from_proto)?,
        then: all(txn.then, op_from_proto)?,
        otherwise: all(txn.otherwise, op_from_proto)?,
    })
}

fn compare_to_proto(compare: &Compare) -> disk::Compare {
    use disk::compare::Target as Proto;
    let relation = match compare.relation {
        Relation::Equal => disk::Relation::Equal,
        Relation::Greater => disk::Relation::Greater,
        Relation::Less => disk::Relation::Less,
        Relation::NotEqual => disk::Relation::NotEqual,
    };
    let target = match &compare.target {
        Target::Created(revision) => Proto::CreateRevision(revision.get()),
        Target::Modified(revision) => Proto::ModRevision(revision.get()),
        Target::Version(version) => Proto::Version(*version),
        Target::Value(value) => Proto::Value(value.clone()),
        Target::Lease(lease) => Proto::Lease(lease.0),
    };
    let range = Some(key_range_to_proto(&compare.range));
    disk::Compare { range, relation: relation.into(), target: Some(target) }
}

fn compare_from_proto(compare: disk::Compare) -> Result<Compare, DecodeError> {
    use disk::compare::Target as Proto;
    let relation = match disk::Relation::try_from(compare.relation) {
        Ok(disk::Relation::Equal) => Relation::Equal,
        Ok(disk::Relation::Greater) => Relation::Greater,
        Ok(disk::Relation::Less) => Relation::Less,
        Ok(disk::Relation::NotEqual) => Relation::NotEqual,
        Err(prost::UnknownEnumValue(number)) => {
            let number = u64::from(number.cast_unsigned());
            return Err(DecodeError::Unknown { what: "relation", number });
        }
    };
    let target = match required(compare.target, "the target of a compare")? {
        Proto::CreateRevision(revision) => Target::Created(Revision::new(revision)),
        Proto::ModRevision(revision) => Target::Modified(Revision::new(revision)),
        Proto::Version(version) => Target::Version(version),
        Proto::Value(value) => Target::Value(value),
        Proto::Lease(lease) => Target::Lease(LeaseId(lease)),
    };
    Ok(Compare { range: key_range_from_proto(compare.range)?, relation, target })
}

fn op_to_proto(op: &Op) -> disk::Op {
    use disk::op::Op as Proto;
    let op = match op {
        Op::Put(put) => Proto::Put(disk::Put {
            key: put.key.0.clone(),
            value: put.value.clone(),
            lease: put.lease.0,
            previous: put.previous,
            ignore_value: put.ignore_value,
            ignore_lease: put.ignore_lease,
        }),
        Op::Delete(delete) => Proto::Delete(disk::DeleteRange {
            range: Some(key_range_to_proto(&delete.range)),
            previous: delete.previous,
        }),
        Op::Range(range) => Proto::Range(range_to_proto(range)),
        Op::Txn(txn) => Proto::Txn(txn_to_proto(txn)),
    };
    disk::Op { op: Some(op) }
}

fn op_from_proto(op: disk::Op) -> Result<Op, DecodeError> {
    use disk::op::Op as Proto;
    Ok(match required(op.op, "an operation")? {
        Proto::Put(put) => Op::Put(Put {
            key: Key(put.key),
            value: put.value,
            lease: LeaseId(put.lease),
            previous: put.previous,
            ignore_value: put.ignore_value,
            ignore_lease: put.ignore_lease,
        }),
        Proto::Delete(delete) => Op::Delete(Delete {
            range: key_range_from_proto(delete.range)?,
            previous: delete.previous,
        }),
        Proto::Range(range) => Op::Range(range_from_proto(range)?),
        Proto::Txn(txn) => Op::Txn(txn_from_proto(txn)?),
    })
}

/// The message of a range read.
pub fn range_to_proto(range: &Range) -> disk::Range {
    disk::Range {
        range: Some(key_range_to_proto(&range.range)),
        revision: range.revision.get(),
        limit: range.limit,
        keys_only: range.keys_only,
        count_only: range.count_only,
    }
}

/// The range read of a message.
///
/// # Errors
///
/// Fails if the message says what this version does not understand.
pub fn range_from_proto(range: disk::Range) -> Result<Range, DecodeError> {
    Ok(Range {
        range: key_range_from_proto(range.range)?,
        revision: Revision::new(range.revision),
        limit: range.limit,
        keys_only: range.keys_only,
        count_only: range.count_only,
    })
}

fn key_range_to_proto(range: &KeyRange) -> disk::KeyRange {
    use disk::key_range::End;
    let end = match &range.end {
        RangeEnd::Single => End::Single(true),
        RangeEnd::Until(until) => End::Until(until.clone()),
        RangeEnd::Unbounded => End::Unbounded(true),
    };
    disk::KeyRange { start: range.start.clone(), end: Some(end) }
}

fn key_range_from_proto(range: Option<disk::KeyRange>) -> Result<KeyRange, DecodeError> {
    use disk::key_range::End;
    let range = required(range, "the keys of an operation")?;
    let end = match required(range.end, "the end of a range")? {
        End::Single(_) => RangeEnd::Single,
        End::Until(until) => RangeEnd::Until(until),
        End::Unbounded(_) => RangeEnd::Unbounded,
    };
    Ok(KeyRange { start: range.start, end })
}
