//! Applying a batch: each command in turn over what those before have changed.

use super::halt::Halt;
use super::hash::Chain;
use super::overlay::Overlay;
use super::session::{self, Admission};
use super::{
    Batch, Command, Envelope, Head, Outcome, Rejection, Reply, Transition, View, WriteId, check,
    lease, txn,
};
use crate::Revision;

/// Computes what the commands of `batch` do to the store that `view` shows.
///
/// The batch is only a way to carry commands: applying them one by one, each at
/// the batch's time, comes to the same state, replies, events and hash.
///
/// # Errors
///
/// Fails only if `view` does; the caller must then stop the node, because
/// replicas that skip a command diverge.
pub fn apply<V: View>(view: &V, batch: &Batch) -> Result<Transition, V::Error> {
    let mut overlay = Overlay::new(view);
    overlay.head.now = overlay.head.now.max(batch.now);
    let mut chain = Chain::default();
    let mut replies = Vec::with_capacity(batch.commands.len());
    for envelope in &batch.commands {
        let (before, writes) = (facts(&overlay.head), overlay.writes.len());
        replies.push(answer(&mut overlay, envelope)?);
        let written = &overlay.writes[writes..];
        if !written.is_empty() || facts(&overlay.head) != before {
            chain.link(&mut overlay.head, written);
        }
    }
    let Overlay { head, writes, events, .. } = overlay;
    Ok(Transition { head, writes, events, replies })
}

/// What a command can change besides rows.
fn facts(head: &Head) -> (Revision, Revision, u32) {
    (head.revision, head.compacted, head.feature_level)
}

/// Applies a command, unless its session knows the answer.
fn answer<V: View>(overlay: &mut Overlay<'_, V>, envelope: &Envelope) -> Result<Reply, V::Error> {
    let Some(id) = envelope.write_id else { return execute(overlay, &envelope.command) };
    match Halt::part(admit(overlay, id))? {
        Ok(Admission::Fresh) => {
            let reply = execute(overlay, &envelope.command)?;
            let for_good = failed_for_good(overlay, &envelope.command, &reply)?;
            settle(overlay, id, (!for_good).then_some(&reply))?;
            Ok(reply)
        }
        Ok(Admission::Repeated(reply)) => {
            settle(overlay, id, None)?;
            Ok(reply)
        }
        Err(rejection) => Ok(refusal(overlay, rejection)),
    }
}

/// Whether the reply need not be remembered; see [`WriteId`].
fn failed_for_good<V: View>(
    overlay: &mut Overlay<'_, V>,
    command: &Command,
    reply: &Reply,
) -> Result<bool, V::Error> {
    match (command, &reply.outcome) {
        (Command::Txn(txn), Outcome::Txn(answer)) if !answer.succeeded => {
            Ok(Halt::part(txn::fails_for_good(overlay, txn))?.unwrap_or(false))
        }
        _ => Ok(false),
    }
}

fn admit<V: View>(overlay: &mut Overlay<'_, V>, id: WriteId) -> Result<Admission, Halt<V::Error>> {
    check::write_id(id).map_err(Rejection::from)?;
    session::admit(overlay, id)
}

fn settle<V: View>(
    overlay: &mut Overlay<'_, V>,
    id: WriteId,
    fresh: Option<&Reply>,
) -> Result<(), V::Error> {
    let settled = Halt::part(session::settle(overlay, id, fresh))?;
    debug_assert!(settled.is_ok(), "a session refused to keep what it admitted");
    Ok(())
}

/// Applies a command without regard to sessions.
fn execute<V: View>(overlay: &mut Overlay<'_, V>, command: &Command) -> Result<Reply, V::Error> {
    let writes = overlay.writes.len();
    Ok(match Halt::part(perform(overlay, command))? {
        Ok(outcome) => Reply { revision: overlay.head.revision, outcome },
        Err(rejection) => {
            debug_assert_eq!(overlay.writes.len(), writes, "a rejected command has no effect");
            refusal(overlay, rejection)
        }
    })
}

fn refusal<V: View>(overlay: &Overlay<'_, V>, rejection: Rejection) -> Reply {
    Reply { revision: overlay.head.revision, outcome: Outcome::Rejected(rejection) }
}

fn perform<V: View>(
    overlay: &mut Overlay<'_, V>,
    command: &Command,
) -> Result<Outcome, Halt<V::Error>> {
    check::command(command).map_err(Rejection::from)?;
    match command {
        Command::Txn(txn) => txn::run(overlay, txn).map(Outcome::Txn),
        Command::LeaseGrant { id, ttl_ms } => lease::grant(overlay, *id, *ttl_ms),
        Command::LeaseRenew { ids } => lease::renew(overlay, ids),
        Command::LeaseRevoke { id } => lease::revoke(overlay, *id),
        Command::LeaseExpire { leases } => lease::expire(overlay, leases),
        Command::Compact { revision } => Ok(compact(&mut overlay.head, *revision)?),
        Command::SessionOpen { id, ttl_ms } => session::open(overlay, *id, *ttl_ms),
        Command::SessionClose { id } => session::close(overlay, *id),
        Command::SessionExpire { sessions } => session::expire(overlay, sessions),
        Command::FeatureLevel { level } => {
            let head = &mut overlay.head;
            head.feature_level = head.feature_level.max(*level);
            Ok(Outcome::Done)
        }
    }
}

/// Moves the beginning of history. What is below is removed later, from disk,
/// without another command: it cannot be read from now on.
fn compact(head: &mut Head, revision: Revision) -> Result<Outcome, Rejection> {
    if revision <= head.compacted {
        return Err(Rejection::Compacted { asked: revision, compacted: head.compacted });
    }
    if revision > head.revision {
        return Err(Rejection::FutureRevision { asked: revision, current: head.revision });
    }
    head.compacted = revision;
    Ok(Outcome::Done)
}
