//! Counters through retried session writes: exactly once (C1, T5).
//!
//! A read lies between the sum of what was acknowledged before it was asked and
//! the sum of all that was asked before it was answered, failures left out; and
//! a read after another one is not below it. With additions of one, as the
//! workload makes them, these bounds are exact as soon as no outcome is unknown.

use super::{Case, Context, Verdict};
use crate::history::{History, Op, Operation, Outcome};
use std::collections::BTreeMap;

/// The checker's name.
pub const NAME: &str = "counter";

/// Judges all counters of a history.
pub fn check(history: &History, _context: &Context) -> Verdict {
    let mut case = Case::new(NAME);
    let mut counters: BTreeMap<String, Counter> = BTreeMap::new();
    for operation in history.operations() {
        let name = match &operation.invoke.op {
            Op::CounterAdd(add) => &add.counter,
            Op::CounterRead(read) => &read.counter,
            _ => continue,
        };
        case.judged.operations += 1;
        if !counters.contains_key(name) {
            counters.insert(name.clone(), Counter::default());
        }
        if let Some(counter) = counters.get_mut(name) {
            counter.add(&operation);
        }
    }
    case.judged.keys = counters.len() as u64;
    let mut reads = 0;
    for (name, counter) in &mut counters {
        reads += counter.totals.len() as u64;
        counter.judge(name, &mut case);
    }
    case.judged.events = reads;
    case.close("counter that was read", reads)
}

#[derive(Default)]
struct Counter {
    /// Event of the acknowledgement and what was added.
    acked: Vec<(u64, u64)>,
    /// Event of the request and what may have been added.
    asked: Vec<(u64, u64)>,
    totals: Vec<Total>,
}

/// A total that was shown: by a read, or by the reply to an addition.
struct Total {
    asked: u64,
    returned: u64,
    total: u64,
    /// What the operation itself has added.
    own: u64,
    events: Vec<u64>,
}

impl Counter {
    fn add(&mut self, operation: &Operation<'_>) {
        let (asked, returned) = (operation.invoke.index, operation.return_index());
        let mut show = |total: Option<u64>, own| {
            if let Some(total) = total {
                let events = operation.indices();
                self.totals.push(Total { asked, returned, total, own, events });
            }
        };
        match operation.ok().map(|(_, op)| op) {
            Some(Op::CounterRead(read)) => show(read.total, 0),
            Some(Op::CounterAdd(add)) => show(add.total, add.delta),
            _ => {}
        }
        if let Op::CounterAdd(add) = &operation.invoke.op {
            match operation.outcome() {
                Outcome::Fail => return,
                Outcome::Ok => self.acked.push((returned, add.delta)),
                Outcome::Info => {}
            }
            self.asked.push((asked, add.delta));
        }
    }

    fn judge(&mut self, name: &str, case: &mut Case) {
        self.acked.sort_unstable();
        self.asked.sort_unstable();
        let (acked, asked) = (sums(&self.acked), sums(&self.asked));
        for shown in &self.totals {
            let least = below(&acked, shown.asked) + shown.own;
            let most = below(&asked, shown.returned);
            if shown.total < least || shown.total > most {
                let text = format!(
                    "counter {name:?} is {}, it had to be from {least} to {most}",
                    shown.total
                );
                let rule = if shown.total < least { "C1-lost" } else { "C1-twice" };
                case.violation(rule, shown.events.clone(), text);
            }
        }
        self.judge_order(name, case);
    }

    fn judge_order(&self, name: &str, case: &mut Case) {
        let mut returned: Vec<&Total> = self.totals.iter().collect();
        returned.sort_by_key(|shown| shown.returned);
        let mut returned = returned.into_iter().peekable();
        let mut asked: Vec<&Total> = self.totals.iter().collect();
        asked.sort_by_key(|shown| shown.asked);
        let mut newest: Option<&Total> = None;
        for shown in asked {
            while let Some(before) = returned.next_if(|before| before.returned < shown.asked) {
                if newest.is_none_or(|newest| before.total > newest.total) {
                    newest = Some(before);
                }
            }
            if let Some(before) = newest.filter(|before| before.total > shown.total) {
                let mut events = before.events.clone();
                events.extend(&shown.events);
                let text =
                    format!("counter {name:?} was {} and then {}", before.total, shown.total);
                case.violation("C1-back", events, text);
            }
        }
    }
}

/// Running sums by event.
fn sums(list: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut sum = 0;
    let running = list.iter().map(|(event, delta)| {
        sum += delta;
        (*event, sum)
    });
    running.collect()
}

fn below(sums: &[(u64, u64)], event: u64) -> u64 {
    let place = sums.partition_point(|(at, _)| *at < event);
    place.checked_sub(1).map_or(0, |place| sums[place].1)
}
