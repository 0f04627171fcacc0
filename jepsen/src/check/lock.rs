//! Locks with a fenced resource (K1 to K4).
//!
//! K1: the fencing tokens of a lock are different, and grow from a holder to the
//! next. K2: the resource, which is the harness's own, takes no write with a
//! token below one that it took before, and no accepted write is lost: no two
//! were made from the same value. K4: nobody becomes the holder while another
//! one certainly is, which ends when it gives the lock back or its lease may run
//! out. That a paused holder believes in its lock for longer is to be expected;
//! it is counted and noted.

use super::{Case, Context, Verdict, lease};
use crate::history::{History, Op, Operation, Outcome};
use std::collections::BTreeMap;

/// The checker's name.
pub const NAME: &str = "lock";

/// Somebody who held a lock.
struct Hold<'a> {
    owner: &'a str,
    lease: u64,
    token: u64,
    /// Event and time of the request and of the answer.
    asked: (u64, u64),
    answered: (u64, u64),
    /// When the holder asked to give it back, in nanoseconds.
    released: u64,
    events: Vec<u64>,
}

/// Judges all locks and the resources that they protect.
pub fn check(history: &History, context: &Context) -> Verdict {
    let mut case = Case::new(NAME);
    let operations = history.operations();
    let mut locks = holds(&operations);
    let leases = lease::collect(&operations);
    let mut acquired = 0;
    let mut believed = 0;
    for (lock, holds) in &mut locks {
        acquired += holds.len() as u64;
        judge_tokens(lock, holds, &mut case);
        for hold in holds.iter() {
            believed += overlaps(holds, hold);
            judge_exclusion(lock, holds, hold, &leases, context, &mut case);
        }
    }
    case.judged.keys = locks.len() as u64;
    case.judged.operations = acquired;
    judge_resources(&operations, &mut case);
    if believed > 0 {
        case.note(format!("{believed} holders believed in a lock that another one had by then"));
    }
    case.close("lock that was acquired", acquired)
}

fn holds<'a>(operations: &[Operation<'a>]) -> BTreeMap<&'a str, Vec<Hold<'a>>> {
    let mut locks: BTreeMap<&str, Vec<Hold<'_>>> = BTreeMap::new();
    for operation in operations {
        let asked = (operation.invoke.index, operation.invoke.time);
        match (&operation.invoke.op, operation.ok()) {
            (Op::LockAcquire(acquire), Some((event, Op::LockAcquire(done)))) => {
                locks.entry(&acquire.lock).or_default().push(Hold {
                    owner: &acquire.owner,
                    lease: done.lease,
                    token: done.token.unwrap_or(0),
                    asked,
                    answered: (event.index, event.time),
                    released: u64::MAX,
                    events: operation.indices(),
                });
            }
            (Op::LockRelease(release), _) if operation.outcome() != Outcome::Fail => {
                let holds = locks.entry(&release.lock).or_default();
                let own = |hold: &&mut Hold<'_>| {
                    hold.owner == release.owner && hold.token == release.token
                };
                if let Some(hold) = holds.iter_mut().find(own) {
                    hold.released = hold.released.min(asked.1);
                }
            }
            _ => {}
        }
    }
    locks
}

/// K1: later holders have greater tokens.
fn judge_tokens(lock: &str, holds: &mut [Hold<'_>], case: &mut Case) {
    holds.sort_by_key(|hold| hold.token);
    for pair in holds.windows(2) {
        let [lower, higher] = pair else { continue };
        let events = || lower.events.iter().chain(&higher.events).copied().collect::<Vec<_>>();
        if lower.token == higher.token {
            let text = format!("lock {lock:?} gave token {} twice", lower.token);
            case.violation("K1", events(), text);
        }
    }
    // Going down by token, whoever is above was answered at some time at the
    // earliest; one below must not have been asked after that.
    let mut above: Option<&Hold<'_>> = None;
    for hold in holds.iter().rev() {
        if let Some(above) = above.filter(|above| above.answered.0 < hold.asked.0) {
            let events = above.events.iter().chain(&hold.events).copied().collect();
            let text =
                format!("lock {lock:?} gave token {} after token {}", hold.token, above.token);
            case.violation("K1", events, text);
        }
        if above.is_none_or(|above| hold.answered.0 < above.answered.0) {
            above = Some(hold);
        }
    }
}

/// How many others became holders while this one believed to be.
fn overlaps(holds: &[Hold<'_>], hold: &Hold<'_>) -> u64 {
    let within = |other: &&Hold<'_>| {
        other.owner != hold.owner
            && other.asked.1 > hold.answered.1
            && hold.released != u64::MAX
            && other.answered.1 < hold.released
    };
    holds.iter().filter(within).count() as u64
}

/// K4: while this one certainly holds the lock, nobody else gets it.
fn judge_exclusion(
    lock: &str,
    holds: &[Hold<'_>],
    hold: &Hold<'_>,
    leases: &BTreeMap<u64, lease::Lease>,
    context: &Context,
    case: &mut Case,
) {
    for other in holds.iter().filter(|other| other.owner != hold.owner) {
        if other.token <= hold.token || other.answered.1 >= hold.released {
            continue;
        }
        let lease = leases.get(&hold.lease);
        let drift = context.clock_drift_permille;
        let until = lease.and_then(|lease| lease.certain_until(other.answered.1, drift));
        if until.is_some_and(|until| other.answered.1 < until) {
            let events = hold.events.iter().chain(&other.events).copied().collect();
            let text = format!(
                "{:?} became the holder of lock {lock:?} while {:?} was, with a live lease",
                other.owner, hold.owner
            );
            case.violation("K4", events, text);
        }
    }
}

/// K2: no stale token is taken, and no update is lost.
fn judge_resources(operations: &[Operation<'_>], case: &mut Case) {
    let mut replaced: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    let mut completions: Vec<_> = operations.iter().filter(|op| op.ok().is_some()).collect();
    completions.sort_by_key(|operation| operation.return_index());
    for operation in &completions {
        let (Op::ResourceWrite(write), Some((_, Op::ResourceWrite(done)))) =
            (&operation.invoke.op, operation.ok())
        else {
            continue;
        };
        case.judged.events += 1;
        if done.accepted != Some(true) {
            continue;
        }
        let (resource, index) = (write.resource.as_str(), operation.invoke.index);
        if let Some(seen) = write.seen.as_deref()
            && let Some(other) = replaced.insert((resource, seen), index)
        {
            let text = format!("two writes to {resource:?} were made from {seen:?}: one is lost");
            case.violation("K2", vec![other, index], text);
        }
    }
    judge_fence(&completions, case);
}

/// A write is not taken if one with a greater token was taken before it was asked.
fn judge_fence(completions: &[&Operation<'_>], case: &mut Case) {
    let mut accepted: BTreeMap<&str, Vec<(u64, u64, u64)>> = BTreeMap::new();
    for operation in completions {
        let (Op::ResourceWrite(write), Some((event, Op::ResourceWrite(done)))) =
            (&operation.invoke.op, operation.ok())
        else {
            continue;
        };
        if done.accepted != Some(true) {
            continue;
        }
        let asked = operation.invoke.index;
        // Running maxima by answer: the greatest token that was taken by then.
        let list = accepted.entry(&write.resource).or_default();
        let before = list.partition_point(|(answered, ..)| *answered < asked);
        if let Some((_, token, other)) = before.checked_sub(1).map(|place| list[place])
            && token > write.token
        {
            let text = format!(
                "{:?} took a write with token {} after one with {token}",
                write.resource, write.token
            );
            case.violation("K2", vec![other, asked], text);
        }
        let newest = match list.last() {
            Some((_, token, other)) if *token > write.token => (*token, *other),
            _ => (write.token, asked),
        };
        list.push((event.index, newest.0, newest.1));
    }
}
