//! Liveness: it serves, and soon again after faults (V1, V5).
//!
//! V1: a write succeeds within a bound after the last fault ended, if one was
//! asked for then. With [`Context::gap_ms`] the time between two successful
//! writes is bounded as well, while writes are asked for; runs whose faults take
//! the majority away leave that at 0. V5: every operation is answered in time, be
//! it with an unknown outcome.

use super::quiet::Faults;
use super::{Case, Context, Verdict};
use crate::history::{Action, History, Op, Operation};

/// The checker's name.
pub const NAME: &str = "liveness";

const NANOS_PER_MS: u64 = 1_000_000;

/// A time without a successful write, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// When the last write before it succeeded.
    pub from: u64,
    /// When the next one did, or the last one was asked for in vain.
    pub to: u64,
    /// The event at its end.
    pub event: u64,
}

impl Gap {
    /// How long it was, in nanoseconds.
    pub fn length(&self) -> u64 {
        self.to - self.from
    }
}

/// Judges whether the store served.
pub fn check(history: &History, context: &Context) -> Verdict {
    let mut case = Case::new(NAME);
    let operations = history.operations();
    let gaps = write_gaps(history);
    let writes = operations.iter().filter(|operation| is_write(operation));
    let done: Vec<_> = writes.clone().filter(|operation| operation.ok().is_some()).collect();
    case.judged.operations = operations.len() as u64;
    case.judged.events = done.len() as u64;
    if let Some(longest) = gaps.iter().max_by_key(|gap| gap.length()) {
        let length = longest.length() / NANOS_PER_MS;
        case.note(format!("the longest time without a successful write: {length} ms"));
        if context.gap_ms > 0 && length > context.gap_ms {
            let text = format!("no write succeeded for {length} ms");
            case.violation("V1", vec![longest.event], text);
        }
    }
    judge_end(history, &operations, context, &mut case);
    judge_answers(history, &operations, context, &mut case);
    let done = done.len() as u64;
    case.close("successful write", done)
}

/// The times between successful writes, in the order in which they ended, from
/// the first request for a write to the last.
pub fn write_gaps(history: &History) -> Vec<Gap> {
    let operations = history.operations();
    let writes: Vec<_> = operations.iter().filter(|operation| is_write(operation)).collect();
    let Some(first) = writes.first() else { return Vec::new() };
    let mut done: Vec<(u64, u64)> = writes
        .iter()
        .filter_map(|operation| operation.ok().map(|(event, _)| (event.time, event.index)))
        .collect();
    done.sort_unstable();
    if let Some(last) = writes.last() {
        done.push((last.invoked(), last.invoke.index));
    }
    let mut from = first.invoked();
    let mut gaps = Vec::with_capacity(done.len());
    for (to, event) in done {
        if to > from {
            gaps.push(Gap { from, to, event });
            from = to;
        }
    }
    gaps
}

/// Whether an operation changes the store.
fn is_write(operation: &Operation<'_>) -> bool {
    match &operation.invoke.op {
        Op::Txn(txn) => {
            let mut actions = txn.success.iter().chain(&txn.failure);
            actions.any(|action| !matches!(action, Action::Range { .. }))
        }
        Op::LeaseGrant(_)
        | Op::LeaseRenew(_)
        | Op::CounterAdd(_)
        | Op::Enqueue(_)
        | Op::Finish(_)
        | Op::EntityPatch(_)
        | Op::ConfigSet(_) => true,
        _ => false,
    }
}

/// V1: after the last fault it serves again.
fn judge_end(history: &History, operations: &[Operation<'_>], context: &Context, case: &mut Case) {
    let Some(over) = Faults::of(history).over() else {
        case.unknown("a fault was never ended, so it is not known whether it serves again");
        return;
    };
    let bound = over + context.serve_ms * NANOS_PER_MS;
    let after = |operation: &&Operation<'_>| is_write(operation) && operation.invoked() >= over;
    let Some(asked) = operations.iter().find(after) else {
        case.unknown("no write was asked for after the last fault ended");
        return;
    };
    let served = operations.iter().filter(|operation| is_write(operation));
    let served = served.filter_map(|operation| operation.ok().map(|(event, _)| event.time));
    let served = served.filter(|time| *time >= over).min();
    match served {
        Some(time) if time <= bound => {
            let after = (time - over) / NANOS_PER_MS;
            case.note(format!("after the last fault a write succeeded within {after} ms"));
        }
        None if history.end() < bound => {
            case.unknown("the history ends too soon after the last fault");
        }
        Some(_) | None => {
            let text =
                format!("no write succeeded within {} ms of the last fault", context.serve_ms);
            case.violation("V1", vec![asked.invoke.index], text);
        }
    }
}

/// V5: every operation gets an answer.
fn judge_answers(
    history: &History,
    operations: &[Operation<'_>],
    context: &Context,
    case: &mut Case,
) {
    let bound = context.answer_ms * NANOS_PER_MS;
    for operation in operations {
        let answered = operation.completion.map_or_else(|| history.end(), |event| event.time);
        let took = answered - operation.invoked();
        let slow = matches!(operation.invoke.op, Op::Backup(_) | Op::Restore(_));
        if took > bound && !slow {
            let text = format!(
                "a {} was not answered within {} ms",
                operation.invoke.op.name(),
                context.answer_ms
            );
            case.violation("V5", operation.indices(), text);
        }
    }
}
