//! Waiting between attempts: exponential, bounded, with full jitter, so that
//! the clients of a lost leader do not come back all at once.

use rand::Rng as _;
use std::time::Duration;

/// How long to wait before the next attempt.
#[derive(Clone, Debug)]
pub(crate) struct BackOff {
    next: Duration,
    max: Duration,
}

impl BackOff {
    /// Of calls: begins low because most outages are elections.
    pub(crate) fn of_calls() -> Self {
        Self { next: Duration::from_millis(10), max: Duration::from_millis(250) }
    }

    /// Of conflicts: others are at the same object right now.
    pub(crate) fn of_conflicts() -> Self {
        Self { next: Duration::from_millis(2), max: Duration::from_millis(250) }
    }

    /// Of streams, which live long and may have lost every node.
    pub(crate) fn of_streams() -> Self {
        Self { next: Duration::from_millis(20), max: Duration::from_secs(2) }
    }

    /// The next delay: between half of the step and the whole of it, so that it
    /// is never nothing. The step doubles up to its bound.
    pub(crate) fn step(&mut self) -> Duration {
        let step = self.next;
        self.next = (step * 2).min(self.max);
        step.mul_f64(rand::rng().random_range(0.5..=1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_grow_to_the_bound_and_are_never_nothing() {
        let mut back_off = BackOff::of_calls();
        let steps: Vec<_> = (0..12).map(|_| back_off.step()).collect();
        assert!(steps.iter().all(|step| *step >= Duration::from_millis(5)));
        assert!(steps.iter().all(|step| *step <= Duration::from_millis(250)));
        assert!(steps[11] >= Duration::from_millis(125));
    }
}
