//! What clients are promised, each in a file of its own that names its source,
//! judged from the history of a run.
//!
//! The judges are those of the runs on real processes. What they cannot decide
//! is not passed: a promise that no seed of many gave anything to judge fails
//! the lot.

mod fencing;
mod leases;
mod linearizable;
mod once;
mod revisions;
mod sections;
mod watches;

use super::{Plan, Violation};
use keelstone_jepsen::check::{Context, Finding, Verdict};
use keelstone_jepsen::history::History;

/// A promise.
pub struct Promise {
    /// Its name.
    pub name: &'static str,
    /// Whether each run must have something to judge.
    pub always: bool,
    /// Judges a history.
    pub judge: fn(&History, &Context) -> Verdict,
}

/// All promises.
pub const PROMISES: &[Promise] = &[
    revisions::PROMISE,
    linearizable::PROMISE,
    watches::PROMISE,
    leases::PROMISE,
    once::PROMISE,
    fencing::PROMISE,
    sections::PROMISE,
];

/// How long beyond its time a lease may live once all is well, in milliseconds.
/// Elections and outages do not count towards its time, so that it may have all
/// of that left, which is at most three seconds; then a look at what expires,
/// and a proposal.
const LEASE_LATE_MS: u64 = 4_000;
/// By how much the log's time may run wrong, in parts of a thousand: it is drawn
/// to the leader's wall clock by a fiftieth of what passes.
const DRIFT_PERMILLE: u64 = 25;
/// By how much it may with a clock whose rate is wrong, see the nemesis.
const RATE_PERMILLE: u64 = 150;

/// What the judges have to know.
fn context(plan: &Plan, history: &History) -> Context {
    let rates = history.faults().any(|(_, fault)| fault.fault == "clock-rate");
    let others = plan.clients.locks + plan.clients.counters + plan.clients.entities;
    Context {
        // The store begins at 1.
        base_revision: 1,
        prefixes: vec!["k".to_owned(), "l".to_owned()],
        exclusive: others == 0,
        wgl_states_max: 2_000_000,
        wgl_ms_max: 20_000,
        clock_drift_permille: if rates { RATE_PERMILLE } else { DRIFT_PERMILLE },
        lease_late_ms: LEASE_LATE_MS,
        ..Context::default()
    }
}

/// Judges a history by all promises. Returns how much each had to judge.
///
/// # Errors
///
/// The first promise that was broken, or had to be judged and could not.
pub fn judge(history: &History, plan: &Plan) -> Result<Vec<(&'static str, u64)>, Violation> {
    let context = context(plan, history);
    let mut judged = Vec::new();
    for promise in PROMISES {
        let verdict = (promise.judge)(history, &context);
        match &verdict.finding {
            Finding::Valid => judged.push((promise.name, verdict.judged.operations)),
            Finding::Unknown(_) if !promise.always => judged.push((promise.name, 0)),
            Finding::Unknown(why) => {
                let text = format!("could not be judged: {why:?}");
                return Err(Violation::new(promise.name, text));
            }
            Finding::Violation(_) => {
                let first = verdict.kept().first();
                let text = first.map_or_else(String::new, |it| {
                    format!("{} {} (events {:?})", it.rule, it.text, it.events)
                });
                return Err(Violation::new(promise.name, text));
            }
        }
    }
    Ok(judged)
}
