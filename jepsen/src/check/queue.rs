//! Queues: every job is done once, and none is lost (Q1 to Q5).
//!
//! Q1: no job is accepted as finished twice. Q2: the tokens of a job's claims are
//! different and grow, nobody gets a job while another one certainly holds it,
//! the completion of a claim that was followed by another one is refused, and
//! that of a claim whose lease certainly lives is not.
//! Q3: a worker that is told that the queue is empty (a failure that begins with
//! `empty`) must not be told so while a job is there that was acknowledged and
//! that nobody ever took. Q4: attempts that were refused are counted and noted.
//! Q5: nor while a job is there whose worker died so long ago that its claim
//! must be over.

use super::quiet::Faults;
use super::{Case, Context, Verdict, lease};
use crate::history::{History, Op, Operation, Outcome};
use std::collections::BTreeMap;

/// The checker's name.
pub const NAME: &str = "queue";

const NANOS_PER_MS: u64 = 1_000_000;

#[derive(Default)]
struct Job {
    /// The event of its acknowledgement.
    enqueued: Option<u64>,
    claims: Vec<Claimed>,
    /// Completions: token, request, answer, and whether it was taken (`None` if
    /// that is unknown).
    finishes: Vec<Finished>,
}

struct Claimed {
    worker: String,
    token: u64,
    lease: u64,
    /// Event and time.
    asked: (u64, u64),
    answered: (u64, u64),
}

struct Finished {
    token: u64,
    asked: (u64, u64),
    /// When the store said that the claim is gone.
    refused: Option<u64>,
    accepted: Option<bool>,
    events: Vec<u64>,
}

/// Judges all queues of a history.
pub fn check(history: &History, context: &Context) -> Verdict {
    let mut case = Case::new(NAME);
    let operations = history.operations();
    let leases = lease::collect(&operations);
    let jobs = collect(&operations, &mut case);
    let (mut finished, mut refused) = (0, 0);
    for ((_, name), job) in &jobs {
        case.judged.operations += (job.claims.len() + job.finishes.len()) as u64;
        finished += u64::from(job.finishes.iter().any(|f| f.accepted == Some(true)));
        refused += job.finishes.iter().filter(|f| f.accepted == Some(false)).count();
        judge_finishes(name, job, &mut case);
        judge_claims(name, job, &leases, context, &mut case);
        judge_refusals(name, job, &leases, context, &mut case);
    }
    judge_empty(history, &operations, &jobs, &leases, context, &mut case);
    case.judged.keys = jobs.len() as u64;
    case.judged.events = finished;
    case.note(format!(
        "{finished} of {} jobs were finished, {refused} completions of stale claims were refused",
        jobs.len()
    ));
    case.close("finished job", finished)
}

fn collect<'a>(operations: &[Operation<'a>], case: &mut Case) -> BTreeMap<(&'a str, &'a str), Job> {
    let mut jobs: BTreeMap<(&str, &str), Job> = BTreeMap::new();
    for operation in operations {
        if let Op::Enqueue(enqueue) = &operation.invoke.op
            && operation.outcome() != Outcome::Fail
        {
            let job = jobs.entry((&enqueue.queue, &enqueue.job)).or_default();
            job.enqueued = operation.ok().map(|(event, _)| event.index);
        }
    }
    for operation in operations {
        let asked = (operation.invoke.index, operation.invoke.time);
        match (&operation.invoke.op, operation.ok()) {
            (Op::Claim(claim), Some((event, Op::Claim(done)))) => {
                let Some(name) = done.job.as_deref() else { continue };
                let Some(job) = jobs.get_mut(&(claim.queue.as_str(), name)) else {
                    let text = format!("job {name:?} was given out, and nobody made it");
                    case.violation("Q3", operation.indices(), text);
                    continue;
                };
                job.claims.push(Claimed {
                    worker: claim.worker.clone(),
                    token: done.token.unwrap_or(0),
                    lease: claim.lease,
                    asked,
                    answered: (event.index, event.time),
                });
            }
            (Op::Finish(finish), done) => {
                let key = (finish.queue.as_str(), finish.job.as_str());
                let accepted = match (done, operation.outcome()) {
                    (Some((_, Op::Finish(done))), _) => done.accepted,
                    (_, Outcome::Fail) => Some(false),
                    _ => None,
                };
                let refused = done.filter(|_| accepted == Some(false));
                let refused = refused.map(|(event, _)| event.time);
                let (token, events) = (finish.token, operation.indices());
                let finished = Finished { token, asked, refused, accepted, events };
                jobs.entry(key).or_default().finishes.push(finished);
            }
            _ => {}
        }
    }
    jobs
}

/// Q1 and Q2: a job is finished once, and not by a stale claim.
fn judge_finishes(name: &str, job: &Job, case: &mut Case) {
    let accepted: Vec<_> = job.finishes.iter().filter(|f| f.accepted == Some(true)).collect();
    if let [first, second, ..] = accepted.as_slice() {
        let events = first.events.iter().chain(&second.events).copied().collect();
        case.violation("Q1", events, format!("job {name:?} was finished twice"));
    }
    for finish in accepted {
        let newer = job
            .claims
            .iter()
            .find(|claim| claim.token > finish.token && claim.answered.0 < finish.asked.0);
        if let Some(newer) = newer {
            let mut events = finish.events.clone();
            events.push(newer.answered.0);
            let text = format!("job {name:?} was finished by a claim that was followed by another");
            case.violation("Q2", events, text);
        }
    }
}

/// Q2: claims of a job follow each other.
fn judge_claims(
    name: &str,
    job: &Job,
    leases: &BTreeMap<u64, lease::Lease>,
    context: &Context,
    case: &mut Case,
) {
    for (place, one) in job.claims.iter().enumerate() {
        for other in job.claims.iter().skip(place + 1) {
            let (first, second) = if one.token < other.token { (one, other) } else { (other, one) };
            let events =
                || vec![first.asked.0, first.answered.0, second.asked.0, second.answered.0];
            if first.token == second.token {
                let text = format!("job {name:?} was given out twice with token {}", one.token);
                case.violation("Q2", events(), text);
                continue;
            }
            if second.answered.0 < first.asked.0 {
                let text = format!("job {name:?} was given out with a lower token than before");
                case.violation("Q2", events(), text);
                continue;
            }
            let drift = context.clock_drift_permille;
            let lease = leases.get(&first.lease);
            let until = lease.and_then(|lease| lease.certain_until(second.answered.1, drift));
            let done = job
                .finishes
                .iter()
                .any(|finish| finish.token == first.token && finish.asked.0 < second.answered.0);
            if !done && until.is_some_and(|until| second.answered.1 < until) {
                let text = format!(
                    "job {name:?} was given to {:?} while {:?} had it, with a live lease",
                    second.worker, first.worker
                );
                case.violation("Q2", events(), text);
            }
        }
    }
}

/// Q2: a claim whose lease certainly lives is not gone, unless its job is done.
fn judge_refusals(
    name: &str,
    job: &Job,
    leases: &BTreeMap<u64, lease::Lease>,
    context: &Context,
    case: &mut Case,
) {
    for finish in &job.finishes {
        let Some(refused) = finish.refused else { continue };
        let claim = job.claims.iter().find(|claim| claim.token == finish.token);
        let Some(claim) = claim.filter(|claim| claim.answered.0 < finish.asked.0) else { continue };
        let lease = leases.get(&claim.lease);
        let drift = context.clock_drift_permille;
        let until = lease.and_then(|lease| lease.certain_until(refused, drift));
        let again = job
            .finishes
            .iter()
            .any(|other| other.token == finish.token && other.asked.0 < finish.asked.0);
        if !again && until.is_some_and(|until| refused < until) {
            let mut events = vec![claim.asked.0, claim.answered.0];
            events.extend(&finish.events);
            let text =
                format!("{:?} lost its claim of job {name:?}, with a live lease", claim.worker);
            case.violation("Q2", events, text);
        }
    }
}

/// Q3 and Q5: a queue that is said to be empty has no job that can be taken.
fn judge_empty(
    history: &History,
    operations: &[Operation<'_>],
    jobs: &BTreeMap<(&str, &str), Job>,
    leases: &BTreeMap<u64, lease::Lease>,
    context: &Context,
    case: &mut Case,
) {
    let faults = Faults::of(history);
    // Claims without an answer may hold a job for as long as their lease lives.
    let unknown: Vec<&lease::Lease> = operations
        .iter()
        .filter(|operation| operation.outcome() == Outcome::Info)
        .filter_map(|operation| match &operation.invoke.op {
            Op::Claim(claim) => leases.get(&claim.lease),
            _ => None,
        })
        .collect();
    let mut empties = 0;
    for operation in operations {
        let Op::Claim(claim) = &operation.invoke.op else { continue };
        let error = operation.completion.and_then(|event| event.error.as_deref());
        if operation.outcome() != Outcome::Fail || !error.is_some_and(|e| e.starts_with("empty")) {
            continue;
        }
        empties += 1;
        let asked = (operation.invoke.index, operation.invoke.time);
        let late = context.claim_late_ms * NANOS_PER_MS;
        let unknown_claims = unknown.iter().any(|lease| lease.may_live(asked.1, late));
        let of_queue = jobs.iter().filter(|((queue, _), _)| *queue == claim.queue);
        for ((_, name), job) in of_queue {
            let there = job.enqueued.is_some_and(|enqueued| enqueued < asked.0);
            let over = job.finishes.iter().any(|finish| finish.accepted != Some(false));
            if !there || over {
                continue;
            }
            let mut events = job.enqueued.into_iter().collect::<Vec<_>>();
            events.extend(operation.indices());
            let taken = job.claims.iter().filter(|c| c.asked.0 < operation.return_index());
            let Some(last) = taken.max_by_key(|claim| claim.token) else {
                if !unknown_claims {
                    let text = format!("job {name:?} is lost: nobody took it and it is not there");
                    case.violation("Q3", events, text);
                }
                continue;
            };
            let lease = leases.get(&last.lease);
            let until = lease.and_then(|lease| lease.certain_until(u64::MAX, 0));
            let (Some(until), Some(quiet)) = (until, faults.quiet_since(asked.1)) else { continue };
            if asked.1 > until.max(quiet) + late && !unknown_claims {
                let text = format!("job {name:?} of a dead worker is not given out again");
                case.violation("Q5", events, text);
            }
        }
    }
    case.note(format!("{empties} times a worker was told that a queue is empty"));
}
