//! Leases: granted, renewed, revoked, and expired in replicated time.
//!
//! A lease lives until a command ends it. Between its expiry time and the
//! command that expires it, it can still be renewed and used: nobody has seen
//! its keys go. So clients see a longer life, never a shorter one.

use super::halt::Halt;
use super::overlay::Overlay;
use super::{Lease, Outcome, Rejection, View, check::text};
use crate::limits::{LEASE_TTL_MS_MIN, LEASES_MAX};
use crate::{LeaseId, Millis, Revision};

/// Begins a lease. Its time to live is within the limits, or raised to the least.
pub(super) fn grant<V: View>(
    overlay: &mut Overlay<'_, V>,
    id: LeaseId,
    ttl_ms: u64,
) -> Result<Outcome, Halt<V::Error>> {
    if overlay.lease(id)?.is_some() {
        return Err(Rejection::LeaseExists(id).into());
    }
    let actual = overlay.head.leases + 1;
    if actual > LEASES_MAX {
        return Err(Rejection::TooLarge { what: text::LEASES, actual, limit: LEASES_MAX }.into());
    }
    let ttl_ms = ttl_ms.max(LEASE_TTL_MS_MIN);
    overlay.head.leases = actual;
    overlay.set_lease(Lease { id, ttl_ms, expires: overlay.head.now.plus(ttl_ms) });
    Ok(Outcome::Lease { id, ttl_ms })
}

/// Gives leases their full time again, those that exist.
pub(super) fn renew<V: View>(
    overlay: &mut Overlay<'_, V>,
    ids: &[LeaseId],
) -> Result<Outcome, Halt<V::Error>> {
    let mut renewed = Vec::with_capacity(ids.len());
    for &id in ids {
        let Some(lease) = overlay.lease(id)? else {
            renewed.push((id, 0));
            continue;
        };
        let expires = overlay.head.now.plus(lease.ttl_ms);
        if expires != lease.expires {
            overlay.set_lease(Lease { expires, ..lease });
        }
        renewed.push((id, lease.ttl_ms));
    }
    Ok(Outcome::Renewed(renewed))
}

/// Ends a lease and deletes its keys.
pub(super) fn revoke<V: View>(
    overlay: &mut Overlay<'_, V>,
    id: LeaseId,
) -> Result<Outcome, Halt<V::Error>> {
    if overlay.lease(id)?.is_none() {
        return Err(Rejection::LeaseNotFound(id).into());
    }
    let revision = overlay.head.revision.next();
    if end(overlay, id, revision)? {
        overlay.head.revision = revision;
    }
    Ok(Outcome::Done)
}

/// Ends those of the leases that have run out and were not renewed since the
/// leader looked, and deletes all their keys at one revision.
pub(super) fn expire<V: View>(
    overlay: &mut Overlay<'_, V>,
    leases: &[(LeaseId, Millis)],
) -> Result<Outcome, Halt<V::Error>> {
    let (now, revision) = (overlay.head.now, overlay.head.revision.next());
    let mut changed = false;
    for &(id, seen) in leases {
        let due = |lease: Lease| lease.expires == seen && lease.expires <= now;
        if overlay.lease(id)?.is_some_and(due) {
            changed |= end(overlay, id, revision)?;
        }
    }
    if changed {
        overlay.head.revision = revision;
    }
    Ok(Outcome::Done)
}

/// Ends a lease that exists; returns whether it had keys.
fn end<V: View>(
    overlay: &mut Overlay<'_, V>,
    id: LeaseId,
    revision: Revision,
) -> Result<bool, Halt<V::Error>> {
    let keys = overlay.lease_keys(id)?;
    let events = overlay.events.len();
    for key in keys {
        if let Some(previous) = overlay.get(&key)?.cloned() {
            overlay.delete(&key, previous, revision);
        }
    }
    overlay.head.leases = overlay.head.leases.saturating_sub(1);
    overlay.remove_lease(id);
    Ok(overlay.events.len() > events)
}
