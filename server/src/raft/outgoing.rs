//! Snapshots on their way out: how fast they go, and the log that has to stay
//! behind them.
//!
//! A snapshot takes a while. What is written meanwhile reaches its receiver
//! through the log, which therefore must not be purged from the snapshot's end
//! on, neither while it is sent nor until the receiver has caught up: it would
//! need another snapshot, and never come to an end where much is written.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How long the log waits for a receiver after its snapshot was installed.
const CATCH_UP_MAX: Duration = Duration::from_mins(2);

/// How fast one snapshot is sent.
///
/// Making its chunks and taking them costs both ends processor time and disk
/// that writes have to wait for: the slower it goes, the less.
pub(crate) struct Pace {
    bytes_per_second: u64,
    due: Instant,
}

impl Pace {
    pub(crate) fn new(bytes_per_second: u64, now: Instant) -> Self {
        Self { bytes_per_second, due: now }
    }

    /// When `bytes` more may go. A receiver that was slow does not get the rest
    /// at once.
    pub(crate) fn next(&mut self, bytes: usize, now: Instant) -> Instant {
        let begins = self.due.max(now);
        let nanos = bytes as u128 * 1_000_000_000 / u128::from(self.bytes_per_second.max(1));
        self.due = begins + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        begins
    }
}

/// The receivers that need the log from some entry on.
#[derive(Default)]
pub(crate) struct Outgoing {
    held: Mutex<BTreeMap<u64, Held>>,
}

#[derive(Clone, Copy)]
struct Held {
    /// The last entry that the snapshot contains.
    index: u64,
    /// Since when the receiver has the snapshot.
    installed: Option<Instant>,
}

impl Outgoing {
    /// A snapshot up to `index` begins to go to `target`.
    pub(crate) fn begin(self: &Arc<Self>, target: u64, index: u64) -> Sending {
        self.lock().insert(target, Held { index, installed: None });
        Sending { outgoing: Arc::clone(self), target, installed: false }
    }

    /// The last entry up to which the log may be purged: `wished`, or less if a
    /// receiver needs what is before it. `matched` says up to where each has the
    /// log.
    pub(crate) fn purge_limit(
        &self,
        wished: u64,
        matched: &BTreeMap<u64, Option<u64>>,
        now: Instant,
    ) -> u64 {
        let mut held = self.lock();
        let has = |target: &u64| matched.get(target).copied().flatten();
        held.retain(|target, held| {
            let Some(installed) = held.installed else { return true };
            now < installed + CATCH_UP_MAX && has(target).is_none_or(|index| index < wished)
        });
        let needed = held.iter().map(|(target, held)| has(target).unwrap_or(0).max(held.index));
        needed.fold(wished, u64::min)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A snapshot that is being sent. When it is dropped, however that comes, the
/// log is free, unless the snapshot was installed.
pub(crate) struct Sending {
    outgoing: Arc<Outgoing>,
    target: u64,
    installed: bool,
}

impl Sending {
    /// The receiver has it, and needs the log behind it.
    pub(crate) fn installed(mut self, now: Instant) {
        self.installed = true;
        if let Some(held) = self.outgoing.lock().get_mut(&self.target) {
            held.installed = Some(now);
        }
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        if !self.installed {
            self.outgoing.lock().remove(&self.target);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matched(target: u64, index: u64) -> BTreeMap<u64, Option<u64>> {
        [(target, Some(index)), (99, None)].into()
    }

    #[test]
    fn the_log_stays_until_the_receiver_has_caught_up() {
        let outgoing = Arc::new(Outgoing::default());
        let (now, nobody) = (Instant::now(), BTreeMap::new());
        assert_eq!(outgoing.purge_limit(1000, &nobody, now), 1000);
        let sending = outgoing.begin(4, 300);
        assert_eq!(outgoing.purge_limit(1000, &nobody, now), 300);
        assert_eq!(outgoing.purge_limit(200, &nobody, now), 200);
        sending.installed(now);
        assert_eq!(outgoing.purge_limit(1000, &matched(4, 250), now), 300);
        assert_eq!(outgoing.purge_limit(1000, &matched(4, 700), now), 700);
        assert_eq!(outgoing.purge_limit(1000, &matched(4, 1000), now), 1000);
        // It is a receiver like any other from then on.
        assert_eq!(outgoing.purge_limit(2000, &matched(4, 1000), now), 2000);
    }

    #[test]
    fn the_log_does_not_wait_for_ever() {
        let outgoing = Arc::new(Outgoing::default());
        let (now, behind) = (Instant::now(), matched(4, 0));
        drop(outgoing.begin(4, 300));
        assert_eq!(outgoing.purge_limit(1000, &behind, now), 1000, "it was not installed");
        outgoing.begin(4, 300).installed(now);
        assert_eq!(outgoing.purge_limit(1000, &behind, now), 300);
        let later = now + CATCH_UP_MAX;
        assert_eq!(outgoing.purge_limit(1000, &behind, later), 1000, "it did not catch up");
    }

    #[test]
    fn a_snapshot_goes_as_fast_as_it_may() {
        let began = Instant::now();
        let at = |millis| began + Duration::from_millis(millis);
        let mut pace = Pace::new(1000, began);
        let goes: Vec<_> = (0..3).map(|_| pace.next(500, began)).collect();
        assert_eq!(goes, [began, at(500), at(1000)]);
        // What was not used is not caught up on.
        let goes: Vec<_> = (0..3).map(|_| pace.next(500, at(9000))).collect();
        assert_eq!(goes, [at(9000), at(9500), at(10_000)]);
    }
}
