//! When no fault was at work.

use crate::history::{Fault, FaultPhase, History};

/// The times in which faults were at work, in nanoseconds.
pub(super) struct Faults {
    /// From, to; the last one may be open.
    spans: Vec<(u64, u64)>,
}

impl Faults {
    pub(super) fn of(history: &History) -> Self {
        let mut open: Vec<(u64, &Fault)> = Vec::new();
        let mut spans = Vec::new();
        for (event, fault) in history.faults() {
            match fault.phase {
                FaultPhase::Start => open.push((event.time, fault)),
                FaultPhase::Once => spans.push((event.time, event.time)),
                FaultPhase::Heal => {
                    spans.extend(open.drain(..).map(|(from, _)| (from, event.time)));
                    spans.push((event.time, event.time));
                }
                FaultPhase::Stop => {
                    let same = |(_, other): &(u64, &Fault)| {
                        other.fault == fault.fault
                            && (fault.targets.is_empty() || other.targets == fault.targets)
                    };
                    // One that nobody began ends nothing, but is a disturbance.
                    let from = open.iter().position(same).map(|place| open.remove(place).0);
                    spans.push((from.unwrap_or(event.time), event.time));
                }
                FaultPhase::Skipped => {}
            }
        }
        spans.extend(open.into_iter().map(|(from, _)| (from, u64::MAX)));
        spans.sort_unstable();
        Self { spans }
    }

    /// Since when, seen from `time`, there has been no fault; `None` if there is
    /// one at work. Without any fault: since ever.
    pub(super) fn quiet_since(&self, time: u64) -> Option<u64> {
        let begun = self.spans.iter().take_while(|(from, _)| *from <= time);
        let last = begun.map(|(_, to)| *to).max().unwrap_or(0);
        (last <= time).then_some(last)
    }

    /// When the last fault ended; `None` if one never did.
    pub(super) fn over(&self) -> Option<u64> {
        let last = self.spans.iter().map(|(_, to)| *to).max().unwrap_or(0);
        (last != u64::MAX).then_some(last)
    }
}
