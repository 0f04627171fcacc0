//! Head, leases and sessions as bytes.

use super::{DecodeError, reply_from_proto, reply_to_proto, required};
use crate::machine::{Head, Lease, Remembered, Session};
use crate::{LeaseId, Millis, Revision, SessionId};
use bytes::Bytes;
use keelstone_proto::disk;
use prost::Message as _;

/// The bytes of a head.
pub fn encode_head(head: &Head) -> Bytes {
    head_to_proto(head).encode_to_vec().into()
}

/// Reads a head.
///
/// # Errors
///
/// Fails if the bytes are not a head.
pub fn decode_head(bytes: Bytes) -> Result<Head, DecodeError> {
    head_from_proto(&disk::Head::decode(bytes)?)
}

/// The message of a head.
pub fn head_to_proto(head: &Head) -> disk::Head {
    disk::Head {
        revision: head.revision.get(),
        compacted: head.compacted.get(),
        now_ms: head.now.0,
        hash: Bytes::copy_from_slice(&head.hash),
        transitions: head.transitions,
        feature_level: head.feature_level,
        history: Bytes::copy_from_slice(&head.history),
        leases: head.leases,
        sessions: head.sessions,
    }
}

/// The head of a message.
///
/// # Errors
///
/// Fails if the hash or the history's name has another length than it should.
pub fn head_from_proto(head: &disk::Head) -> Result<Head, DecodeError> {
    Ok(Head {
        revision: Revision::new(head.revision),
        compacted: Revision::new(head.compacted),
        now: Millis(head.now_ms),
        hash: required(head.hash.as_ref().try_into().ok(), "the state's hash")?,
        transitions: head.transitions,
        feature_level: head.feature_level,
        history: required(head.history.as_ref().try_into().ok(), "the history's name")?,
        leases: head.leases,
        sessions: head.sessions,
    })
}

/// The bytes of a lease.
pub fn encode_lease(lease: &Lease) -> Bytes {
    lease_to_proto(lease).encode_to_vec().into()
}

/// Reads a lease.
///
/// # Errors
///
/// Fails if the bytes are not a lease.
pub fn decode_lease(bytes: Bytes) -> Result<Lease, DecodeError> {
    Ok(lease_from_proto(&disk::Lease::decode(bytes)?))
}

/// The message of a lease.
pub fn lease_to_proto(lease: &Lease) -> disk::Lease {
    disk::Lease { id: lease.id.0, ttl_ms: lease.ttl_ms, expires_ms: lease.expires.0 }
}

/// The lease of a message.
pub fn lease_from_proto(lease: &disk::Lease) -> Lease {
    let expires = Millis(lease.expires_ms);
    Lease { id: LeaseId(lease.id), ttl_ms: lease.ttl_ms, expires }
}

/// The bytes of a session, without its replies.
pub fn encode_session(session: &Session) -> Bytes {
    session_to_proto(session).encode_to_vec().into()
}

/// Reads a session.
///
/// # Errors
///
/// Fails if the bytes are not a session.
pub fn decode_session(bytes: Bytes) -> Result<Session, DecodeError> {
    Ok(session_from_proto(&disk::Session::decode(bytes)?))
}

/// The message of a session, without its replies.
pub fn session_to_proto(session: &Session) -> disk::Session {
    disk::Session {
        id: session.id.0,
        ttl_ms: session.ttl_ms,
        expires_ms: session.expires.0,
        forgotten_below: session.forgotten_below,
        newest: session.newest,
    }
}

/// The session of a message.
pub fn session_from_proto(session: &disk::Session) -> Session {
    Session {
        id: SessionId(session.id),
        ttl_ms: session.ttl_ms,
        expires: Millis(session.expires_ms),
        forgotten_below: session.forgotten_below,
        newest: session.newest,
    }
}

/// The bytes of what is remembered of a session's write.
pub fn encode_remembered(session: SessionId, sequence: u64, remembered: &Remembered) -> Bytes {
    remembered_to_proto(session, sequence, remembered).encode_to_vec().into()
}

/// Reads what is remembered of a session's write.
///
/// # Errors
///
/// Fails if the bytes are not what [`encode_remembered`] writes.
pub fn decode_remembered(bytes: Bytes) -> Result<(SessionId, u64, Remembered), DecodeError> {
    remembered_from_proto(disk::SessionReply::decode(bytes)?)
}

/// The message of what is remembered of a session's write.
pub fn remembered_to_proto(
    session: SessionId,
    sequence: u64,
    remembered: &Remembered,
) -> disk::SessionReply {
    use disk::session_reply::Remembered as Proto;
    let remembered = match remembered {
        Remembered::Reply(reply) => Proto::Reply(reply_to_proto(reply)),
        Remembered::AppliedAt(revision) => Proto::AppliedAt(revision.get()),
    };
    disk::SessionReply { session: session.0, sequence, remembered: Some(remembered) }
}

/// What a message remembers of a session's write: the session, the sequence and
/// what is remembered.
///
/// # Errors
///
/// Fails if the message says what this version does not understand.
pub fn remembered_from_proto(
    remembered: disk::SessionReply,
) -> Result<(SessionId, u64, Remembered), DecodeError> {
    use disk::session_reply::Remembered as Proto;
    let what = match required(remembered.remembered, "what is remembered of a write")? {
        Proto::Reply(reply) => Remembered::Reply(reply_from_proto(reply)?),
        Proto::AppliedAt(revision) => Remembered::AppliedAt(Revision::new(revision)),
    };
    Ok((SessionId(remembered.session), remembered.sequence, what))
}
