//! Leases: not early, not late, not revived (L1 to L5, L7).
//!
//! Only the history's own clock counts. A lease that was granted or renewed with
//! success lives from the request at the latest until its time is over: the
//! server may only begin to count when it acts. So its end must not be shown
//! before *request + time to live*, less the drift that clocks may have (L1).
//! While no fault is at work it must be gone a bound after *answer + time to
//! live* (L2). All its keys go at one revision (L3, judged by revision replay).
//! Once its end was shown, no renewal succeeds (L4, L5), and no number is granted
//! twice while it lives (L7).
//!
//! What ends a lease for sure: the deletion of its keys at a revision that
//! nothing else explains, an answer that there is no such lease. A lease that
//! somebody may have revoked is not judged by L1; each renewal of unknown outcome
//! gives L2 one more time to live.

use super::quiet::Faults;
use super::replay::{self, Log, Source};
use super::{Case, Context, Verdict};
use crate::history::{Event, History, Kind, Op, Operation, Outcome};
use std::collections::BTreeMap;

/// The checker's name.
pub const NAME: &str = "lease";

const NANOS_PER_MS: u64 = 1_000_000;

/// One lease of a history.
#[derive(Debug, Default)]
pub(super) struct Lease {
    /// Grants and renewals that succeeded: request, answer, time to live (all in
    /// nanoseconds), and their events.
    renewals: Vec<(u64, u64, u64, Vec<u64>)>,
    grants: Vec<Vec<u64>>,
    /// When somebody may have revoked it, first.
    revoked: Option<u64>,
    /// Renewals with an unknown outcome: each may have come at the last moment.
    unknown: u64,
    /// Whether the grant has an unknown outcome: it may begin at any time.
    perhaps: bool,
    /// When its end was shown, and by which event.
    ended: Option<(u64, u64)>,
    /// When it was shown to be there: by a request at this time.
    alive: Vec<(u64, u64)>,
}

impl Lease {
    /// Until when it is certain to live, if it is asked at `time`: by renewals
    /// that were acknowledged by then. `None` once it may have been revoked.
    pub(super) fn certain_until(&self, time: u64, drift_permille: u64) -> Option<u64> {
        if self.revoked.is_some_and(|revoked| revoked <= time) {
            return None;
        }
        let known = self.renewals.iter().filter(|(_, answered, _, _)| *answered <= time);
        known.map(|(asked, _, ttl, _)| asked + less_drift(*ttl, drift_permille)).max()
    }
}

impl Lease {
    /// Whether it may still live, if it is asked at `time`, with what a lease may
    /// live too long.
    pub(super) fn may_live(&self, time: u64, late: u64) -> bool {
        self.perhaps || self.due(u64::MAX).is_some_and(|due| time <= due + late)
    }

    /// When its time is over at the latest, by all renewals that were asked for
    /// before `time`. One of unknown outcome can extend it once more, if it came
    /// while the lease was there.
    fn due(&self, time: u64) -> Option<u64> {
        let before = self.renewals.iter().filter(|(asked, ..)| *asked < time);
        let last = before.max_by_key(|(_, answered, ttl, _)| answered + ttl);
        last.map(|(_, answered, ttl, _)| answered + ttl * (1 + self.unknown))
    }
}

fn less_drift(ttl: u64, permille: u64) -> u64 {
    ttl - ttl / 1000 * permille.min(1000)
}

/// Judges all leases of a history.
pub fn check(history: &History, context: &Context) -> Verdict {
    let mut case = Case::new(NAME);
    let operations = history.operations();
    let log = replay::log(history, context);
    let mut leases = collect(&operations);
    show_ends(history, &log, &mut leases);
    show_lives(&operations, &mut leases);
    let faults = Faults::of(history);
    case.judged.keys = leases.len() as u64;
    let mut ends = 0;
    for (id, lease) in &leases {
        case.judged.operations += lease.renewals.len() as u64;
        ends += u64::from(lease.ended.is_some());
        judge_end(*id, lease, context, &mut case);
        judge_late(*id, lease, &faults, context, &mut case);
        if let [first, second, ..] = lease.grants.as_slice() {
            let events = first.iter().chain(second).copied().collect();
            case.violation("L7", events, format!("lease {id} was granted twice"));
        }
    }
    case.judged.events = ends;
    case.note(format!("{ends} ends of leases were seen"));
    let granted = case.judged.operations;
    case.close("lease that was granted or renewed", granted)
}

/// What was asked and answered of each lease.
pub(super) fn collect(operations: &[Operation<'_>]) -> BTreeMap<u64, Lease> {
    let mut leases: BTreeMap<u64, Lease> = BTreeMap::new();
    for operation in operations {
        let (asked, outcome) = (operation.invoked(), operation.outcome());
        let ok = operation.ok().map(|(event, op)| (event.time, event.index, op));
        match (&operation.invoke.op, ok) {
            (Op::LeaseGrant(_), Some((time, _, Op::LeaseGrant(done)))) => {
                let lease = leases.entry(done.lease).or_default();
                let ttl = done.granted_ms.unwrap_or(done.ttl_ms) * NANOS_PER_MS;
                lease.renewals.push((asked, time, ttl, operation.indices()));
                lease.grants.push(operation.indices());
            }
            (Op::LeaseRenew(_), Some((time, index, Op::LeaseRenew(done)))) => {
                let lease = leases.entry(done.lease).or_default();
                match done.ttl_ms.unwrap_or(0) * NANOS_PER_MS {
                    0 => end(lease, time, index),
                    ttl => lease.renewals.push((asked, time, ttl, operation.indices())),
                }
            }
            (Op::LeaseTtl(_), Some((time, index, Op::LeaseTtl(done)))) => {
                let lease = leases.entry(done.lease).or_default();
                match done.found {
                    Some(false) => end(lease, time, index),
                    Some(true) => lease.alive.push((asked, index)),
                    None => {}
                }
            }
            (Op::LeaseRevoke(revoke), _) if outcome != Outcome::Fail => {
                let lease = leases.entry(revoke.lease).or_default();
                lease.revoked = Some(lease.revoked.map_or(asked, |before| before.min(asked)));
            }
            (Op::LeaseGrant(grant), None) if outcome == Outcome::Info => {
                leases.entry(grant.lease).or_default().perhaps = true;
            }
            (Op::LeaseRenew(renew), None) if outcome == Outcome::Info => {
                leases.entry(renew.lease).or_default().unknown += 1;
            }
            _ => {}
        }
    }
    leases
}

fn end(lease: &mut Lease, time: u64, event: u64) {
    if lease.ended.is_none_or(|(before, _)| time < before) {
        lease.ended = Some((time, event));
    }
}

/// Ends that deletions of keys show.
fn show_ends(history: &History, log: &Log<'_>, leases: &mut BTreeMap<u64, Lease>) {
    let mut shown = shown(history).into_iter().peekable();
    for revision in log.base + 1..=log.newest() {
        while shown.next_if(|(newest, _)| *newest < revision).is_some() {}
        let Some(entry) = log.get(revision).filter(|entry| entry.source == Source::LeaseEnd) else {
            continue;
        };
        let Some((_, event)) = shown.peek() else { continue };
        // What lease a doubtful key had is a guess.
        for change in entry.changes.iter().filter(|change| !entry.is_doubtful(change.key)) {
            let id = change.before.map_or(0, |before| before.lease);
            if let Some(lease) = leases.get_mut(&id) {
                end(lease, event.time, event.index);
            }
        }
    }
}

/// Revisions in the order in which they were shown, each with its event.
fn shown(history: &History) -> Vec<(u64, &Event)> {
    let mut shown: Vec<(u64, &Event)> = Vec::new();
    for event in history.events().iter().filter(|event| event.kind == Kind::Ok) {
        let newest = match &event.op {
            Op::Txn(txn) => txn.reply.as_ref().map_or(0, |reply| reply.revision),
            Op::Watch(watch) => match &watch.step {
                crate::history::WatchStep::Changes(changes) => {
                    changes.iter().map(|change| change.revision).max().unwrap_or(0)
                }
                crate::history::WatchStep::Progress(revision) => *revision,
                _ => 0,
            },
            _ => 0,
        };
        if shown.last().is_none_or(|(before, _)| newest > *before) {
            shown.push((newest, event));
        }
    }
    shown
}

/// Leases that linearizable reads show on keys.
fn show_lives(operations: &[Operation<'_>], leases: &mut BTreeMap<u64, Lease>) {
    for operation in operations {
        let Some((event, Op::Txn(done))) = operation.ok() else { continue };
        let Some(reply) = &done.reply else { continue };
        if !done.linearizable || done.revision.is_some() {
            continue;
        }
        for result in &reply.results {
            let crate::history::ActionReply::Range { kvs, .. } = result else { continue };
            for kv in kvs.iter().filter(|kv| kv.lease != 0) {
                if let Some(lease) = leases.get_mut(&kv.lease) {
                    lease.alive.push((operation.invoked(), event.index));
                }
            }
        }
    }
}

/// L1, L4 and L5: what is true of a lease whose end was shown.
fn judge_end(id: u64, lease: &Lease, context: &Context, case: &mut Case) {
    let Some((ended, event)) = lease.ended else { return };
    let revoked = lease.revoked.is_some_and(|revoked| revoked <= ended);
    for (asked, _, ttl, events) in &lease.renewals {
        let events = || events.iter().copied().chain([event]).collect::<Vec<_>>();
        let until = asked + less_drift(*ttl, context.clock_drift_permille);
        if *asked > ended {
            let text = format!("lease {id} was renewed after its end was shown");
            case.violation("L4", events(), text);
        } else if ended < until && !revoked {
            let text = format!(
                "lease {id} ended at least {} ms before its time of {} ms",
                (until - ended).div_ceil(NANOS_PER_MS),
                ttl / NANOS_PER_MS
            );
            case.violation("L1", events(), text);
        }
    }
    for (asked, shown) in &lease.alive {
        if *asked > ended {
            let text = format!("lease {id} is there after its end was shown");
            case.violation("L4", vec![event, *shown], text);
        }
    }
}

/// L2: what is true of a lease that was shown long after its time.
fn judge_late(id: u64, lease: &Lease, faults: &Faults, context: &Context, case: &mut Case) {
    if lease.perhaps {
        return;
    }
    for (asked, event) in &lease.alive {
        let due = lease.due(*asked);
        let (Some(due), Some(quiet)) = (due, faults.quiet_since(*asked)) else { continue };
        let late = due.max(quiet) + context.lease_late_ms * NANOS_PER_MS;
        if *asked > late {
            let text = format!(
                "lease {id} is still there {} ms after its time, with no fault at work",
                (asked - due) / NANOS_PER_MS
            );
            case.violation("L2", vec![*event], text);
        }
    }
}
