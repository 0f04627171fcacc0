//! Client sessions: a write that is sent again is applied once.
//!
//! A session remembers the replies of its newest
//! [`SESSION_REPLIES_MAX`] sequences, less those that the client acknowledged.
//! A write whose sequence is remembered is answered, not applied; one below the
//! window is refused, because nobody knows any more; every other one is applied
//! and remembered, a refusal like a success, but for a transaction that failed for
//! good (see [`WriteId`]). Sequences may come out of order and
//! leave gaps. Each write that is admitted gives the session its full time again.

use super::halt::Halt;
use super::overlay::Overlay;
use super::{
    KeyRecord, OpReply, Outcome, Rejection, Remembered, Reply, Session, TxnReply, View, WriteId,
    check::text,
};
use crate::limits::{
    RANGE_RECORD_OVERHEAD, SESSION_REPLIES_MAX, SESSION_REPLY_BYTES_MAX, SESSION_TTL_MS_MIN,
    SESSIONS_MAX,
};
use crate::{Millis, SessionId};

/// Begins a session. Its time to live is within the limits, or raised to the
/// least.
pub(super) fn open<V: View>(
    overlay: &mut Overlay<'_, V>,
    id: SessionId,
    ttl_ms: u64,
) -> Result<Outcome, Halt<V::Error>> {
    if overlay.session(id)?.is_some() {
        return Err(Rejection::SessionExists(id).into());
    }
    let (actual, limit) = (overlay.head.sessions + 1, SESSIONS_MAX);
    if actual > limit {
        return Err(Rejection::TooLarge { what: text::SESSIONS, actual, limit }.into());
    }
    let ttl_ms = ttl_ms.max(SESSION_TTL_MS_MIN);
    overlay.head.sessions = actual;
    let expires = overlay.head.now.plus(ttl_ms);
    overlay.set_session(Session { id, ttl_ms, expires, forgotten_below: 1, newest: 0 });
    Ok(Outcome::Done)
}

/// Ends a session and forgets its replies.
pub(super) fn close<V: View>(
    overlay: &mut Overlay<'_, V>,
    id: SessionId,
) -> Result<Outcome, Halt<V::Error>> {
    let Some(session) = overlay.session(id)? else {
        return Err(Rejection::SessionNotFound(id).into());
    };
    end(overlay, session);
    Ok(Outcome::Done)
}

/// Ends those of the sessions that have run out and were not used since the
/// leader looked.
pub(super) fn expire<V: View>(
    overlay: &mut Overlay<'_, V>,
    sessions: &[(SessionId, Millis)],
) -> Result<Outcome, Halt<V::Error>> {
    let now = overlay.head.now;
    for &(id, seen) in sessions {
        let due = |session: &Session| session.expires == seen && session.expires <= now;
        if let Some(session) = overlay.session(id)?.filter(due) {
            end(overlay, session);
        }
    }
    Ok(Outcome::Done)
}

fn end<V: View>(overlay: &mut Overlay<'_, V>, session: Session) {
    for sequence in session.forgotten_below..=session.newest {
        overlay.forget(session.id, sequence);
    }
    overlay.head.sessions = overlay.head.sessions.saturating_sub(1);
    overlay.remove_session(session.id);
}

/// What a session says to a write.
pub(super) enum Admission {
    /// It was not applied yet.
    Fresh,
    /// It was applied, and this was the answer.
    Repeated(Reply),
}

/// Looks a write up in its session.
pub(super) fn admit<V: View>(
    overlay: &mut Overlay<'_, V>,
    id: WriteId,
) -> Result<Admission, Halt<V::Error>> {
    let Some(session) = overlay.session(id.session)? else {
        return Err(Rejection::SessionNotFound(id.session).into());
    };
    let (sequence, oldest) = (id.sequence, session.forgotten_below);
    if sequence < oldest {
        return Err(Rejection::ReplyForgotten { sequence, oldest }.into());
    }
    if sequence > session.newest {
        return Ok(Admission::Fresh);
    }
    Ok(match overlay.remembered(id.session, sequence)? {
        None => Admission::Fresh,
        Some(Remembered::Reply(reply)) => Admission::Repeated(reply),
        Some(Remembered::AppliedAt(revision)) => {
            Admission::Repeated(Reply { revision, outcome: Outcome::Applied })
        }
    })
}

/// Keeps the answer to a write that was admitted, if it is a new one, and moves
/// the session's window and expiry.
pub(super) fn settle<V: View>(
    overlay: &mut Overlay<'_, V>,
    id: WriteId,
    fresh: Option<&Reply>,
) -> Result<(), Halt<V::Error>> {
    // The command may have been the one that ended the session.
    let Some(session) = overlay.session(id.session)? else { return Ok(()) };
    let newest = if fresh.is_some() { session.newest.max(id.sequence) } else { session.newest };
    let window = newest.saturating_sub(SESSION_REPLIES_MAX - 1);
    let forgotten_below = session.forgotten_below.max(id.acked_below).max(window);
    let remembered = session.forgotten_below..=session.newest;
    for sequence in remembered.take_while(|sequence| *sequence < forgotten_below) {
        overlay.forget(id.session, sequence);
    }
    let expires = overlay.head.now.plus(session.ttl_ms);
    let moved = Session { expires, forgotten_below, newest, ..session };
    if moved != session {
        overlay.set_session(moved);
    }
    if let Some(reply) = fresh {
        overlay.remember(id.session, id.sequence, remember(reply));
    }
    Ok(())
}

fn remember(reply: &Reply) -> Remembered {
    if reply_bytes(reply) > SESSION_REPLY_BYTES_MAX {
        Remembered::AppliedAt(reply.revision)
    } else {
        Remembered::Reply(reply.clone())
    }
}

/// What a reply counts. It is not what its encoding takes, which may change
/// from version to version and so cannot decide what is remembered.
fn reply_bytes(reply: &Reply) -> usize {
    match &reply.outcome {
        Outcome::Txn(txn) => txn_bytes(txn),
        Outcome::Renewed(leases) => leases.len() * size_of::<(u64, u64)>(),
        Outcome::Lease { .. } | Outcome::Done | Outcome::Applied | Outcome::Rejected(_) => 0,
    }
}

fn txn_bytes(reply: &TxnReply) -> usize {
    const OP: usize = 8;
    let op = |op: &OpReply| match op {
        OpReply::Put { previous } => records_bytes(previous.as_slice()),
        OpReply::Delete { previous, .. } => records_bytes(previous),
        OpReply::Range(range) => records_bytes(&range.records),
        OpReply::Txn(nested) => txn_bytes(nested),
    };
    reply.ops.iter().map(|reply| OP + op(reply)).sum()
}

fn records_bytes(records: &[KeyRecord]) -> usize {
    let record = |pair: &KeyRecord| pair.key.as_bytes().len() + pair.record.value.len();
    records.iter().map(|pair| RANGE_RECORD_OVERHEAD + record(pair)).sum()
}
