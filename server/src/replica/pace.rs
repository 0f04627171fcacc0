//! How fast a leader lets replicated time pass.
//!
//! Leases and sessions end by the stamps of leaders, so a leader's wall clock
//! must not decide alone: one that jumps an hour ahead would end them all, one
//! that was set back would let none end. Time goes on from where it was when the
//! node began to lead, by its monotonic clock; the wall clock is followed at most
//! one part in a hundred faster or slower. An election, or an outage of all,
//! makes leases longer by its length, never shorter.
//!
//! Only a leader that begins, and whose state then holds all of the terms before
//! and neither a lease nor a session, starts from its wall clock. Later it may
//! not, though the state holds none: a grant may be on its way. So nothing is
//! stamped before the state has applied the term's first entry.

use super::settings::Clock;
use crate::raft::Leadership;
use keelstone_store::machine::{Head, View as _};
use keelstone_store::state::{State, StateView};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// How often it is looked whether anything waits for time.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// How often it is looked whether the term's first entry was applied.
const READY_INTERVAL: Duration = Duration::from_millis(2);
/// Time passes by one part in this many faster or slower than the monotonic
/// clock, to come nearer to the wall clock.
const SLEW: u64 = 100;

/// The clock that a leader stamps by.
pub(super) struct Pace {
    wall: Arc<dyn Clock>,
    leadership: watch::Receiver<Leadership>,
    state: Arc<State>,
    anchor: Mutex<Option<Anchor>>,
}

impl Pace {
    pub(super) fn new(
        wall: Arc<dyn Clock>,
        leadership: watch::Receiver<Leadership>,
        state: Arc<State>,
    ) -> Self {
        Self { wall, leadership, state, anchor: Mutex::default() }
    }

    /// Completes when what is proposed may be stamped: not while this node leads
    /// and its state may lack leases, and time, that leaders before have given.
    /// The first entry of the term is then about to be applied. Ends as well when
    /// consensus is gone: what is proposed is refused then. Can be cancelled.
    pub(super) async fn ready(&self) {
        while self.must_wait() {
            tokio::time::sleep(READY_INTERVAL).await;
        }
    }

    fn must_wait(&self) -> bool {
        let consensus_lives = self.leadership.has_changed().is_ok();
        consensus_lives && self.leadership.borrow().leads() && !self.holds_all()
    }

    fn holds_all(&self) -> bool {
        let term = self.leadership.borrow().term;
        let anchored = self.lock().is_some_and(|anchor| anchor.term == term);
        // A state that cannot be read ends the node elsewhere.
        anchored || self.state.view().map_or(true, |view| has_applied_of(&view, term))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Anchor>> {
        self.anchor.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replicated time, in milliseconds since the Unix epoch.
    pub(super) fn now_ms(&self) -> u64 {
        let (wall, now) = (self.wall.now_ms(), Instant::now());
        let term = self.leadership.borrow().term;
        let mut anchor = self.lock();
        let before = anchor.filter(|anchor| anchor.term == term);
        if let Some(before) = before.filter(|it| now.duration_since(it.at) < LOOK_INTERVAL) {
            return before.time(wall, now);
        }
        // A state that cannot be read ends the node elsewhere.
        let Ok(view) = self.state.view() else { return wall };
        let head = view.head();
        let next = match before {
            Some(before) => before.moved(head.now.0, wall, now),
            None if has_applied_of(&view, term) => {
                Anchor { term, time_ms: begin_ms(&head, wall), at: now }
            }
            None => return head.now.0,
        };
        *anchor = Some(next);
        next.time(wall, now)
    }
}

fn has_applied_of(view: &StateView, term: u64) -> bool {
    view.applied().id.is_some_and(|id| id.term == term)
}

/// The time that a leader begins with whose state holds all of the terms before.
fn begin_ms(head: &Head, wall_ms: u64) -> u64 {
    let waited_for = head.leases > 0 || head.sessions > 0;
    if waited_for { head.now.0 } else { wall_ms.max(head.now.0) }
}

/// A time that was right, and when.
#[derive(Clone, Copy, Debug)]
struct Anchor {
    term: u64,
    time_ms: u64,
    at: Instant,
}

impl Anchor {
    /// The same course from `at` on, or from the state's time if that is later.
    fn moved(self, head_ms: u64, wall_ms: u64, at: Instant) -> Self {
        Self { term: self.term, time_ms: head_ms.max(self.time(wall_ms, at)), at }
    }

    /// The time at `now`.
    fn time(&self, wall_ms: u64, now: Instant) -> u64 {
        let passed = now.duration_since(self.at).as_millis();
        let passed = u64::try_from(passed).unwrap_or(u64::MAX);
        let slew = passed / SLEW;
        let right = self.time_ms.saturating_add(passed);
        wall_ms.clamp(right - slew, right.saturating_add(slew))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::Role;
    use keelstone_store::Millis;
    use keelstone_store::disk::LogId;
    use keelstone_store::state::Payload;
    use std::sync::atomic::{AtomicU64, Ordering};

    const HOUR: u64 = 3_600_000;

    fn after(at: Instant, ms: u64) -> Instant {
        at + Duration::from_millis(ms)
    }

    #[test]
    fn a_jump_of_the_wall_clock_ends_no_lease() {
        let at = Instant::now();
        let anchor = Anchor { term: 1, time_ms: 2 * HOUR, at };
        assert_eq!(anchor.time(3 * HOUR, after(at, 1_000)), 2 * HOUR + 1_010);
        assert_eq!(anchor.time(HOUR, after(at, 1_000)), 2 * HOUR + 990);
        assert_eq!(anchor.time(2 * HOUR + 1_003, after(at, 1_000)), 2 * HOUR + 1_003);
    }

    #[test]
    fn a_leader_with_a_wrong_clock_goes_on_from_the_states_time() {
        let at = Instant::now();
        let first = Anchor { term: 2, time_ms: 50_000, at };
        assert_eq!(first.time(50_000 + HOUR, at), 50_000);
        let next = first.moved(50_100, 50_000 + HOUR, after(at, 250));
        assert_eq!(next.time(50_000 + HOUR, after(at, 250)), 50_252);
    }

    /// The clock jumped while a lease was granted: the state did not tell of it
    /// when it was looked at.
    #[test]
    fn a_jump_ends_no_lease_that_is_being_granted() {
        let clock = Arc::new(AtomicU64::new(HOUR));
        let (_sender, leadership) = watch::channel(Leadership { term: 1, ..Leadership::default() });
        let wall = Arc::new(Stopped(Arc::clone(&clock)));
        let state = Arc::new(State::in_memory());
        let pace = Pace::new(wall, leadership, Arc::clone(&state));
        assert_eq!(pace.now_ms(), 0, "time stands still before the term has an entry");
        let first = LogId { term: 1, index: 1, leader: 1 };
        state.apply(&[(first, Payload::Blank)]).unwrap();
        let granted = pace.now_ms();
        assert_eq!(granted, HOUR, "a new state begins with the wall clock");
        clock.store(2 * HOUR, Ordering::SeqCst);
        assert!(pace.now_ms() < granted + 60_000);
    }

    struct Stopped(Arc<AtomicU64>);

    impl Clock for Stopped {
        fn now_ms(&self) -> u64 {
            self.0.load(Ordering::SeqCst)
        }
    }

    #[test]
    fn a_leader_begins_with_the_wall_clock_only_if_nothing_can_wait() {
        let new = Head::genesis([0; 16]);
        assert_eq!(begin_ms(&new, HOUR), HOUR);
        let free = Head { now: Millis(5), ..new };
        assert_eq!(begin_ms(&free, HOUR), HOUR);
        assert_eq!(begin_ms(&Head { leases: 1, ..free.clone() }, HOUR), 5);
        assert_eq!(begin_ms(&Head { sessions: 1, ..free }, HOUR), 5);
    }

    /// A lease that was stamped before would be granted by a time that the state
    /// did not know yet, and could end when it does.
    #[tokio::test]
    async fn a_leader_stamps_nothing_before_its_state_holds_all_of_the_terms_before() {
        let (sender, leadership) = watch::channel(Leadership::default());
        let state = Arc::new(State::in_memory());
        let wall = Arc::new(Stopped(Arc::new(AtomicU64::new(HOUR))));
        let pace = Pace::new(wall, leadership, Arc::clone(&state));
        pace.ready().await;
        sender.send_modify(|it| (it.term, it.role) = (3, Role::Leader));
        let soon = Duration::from_millis(50);
        assert!(tokio::time::timeout(soon, pace.ready()).await.is_err());
        let before = LogId { term: 2, index: 1, leader: 1 };
        state.apply(&[(before, Payload::Blank)]).unwrap();
        assert!(tokio::time::timeout(soon, pace.ready()).await.is_err());
        let (dropped, leadership) = watch::channel(sender.borrow().clone());
        drop(dropped);
        let wall = Arc::new(Stopped(Arc::new(AtomicU64::new(HOUR))));
        Pace::new(wall, leadership, Arc::clone(&state)).ready().await;
        let first = LogId { term: 3, index: 2, leader: 1 };
        state.apply(&[(first, Payload::Blank)]).unwrap();
        pace.ready().await;
    }

    #[test]
    fn time_never_goes_back_in_a_term() {
        let at = Instant::now();
        let first = Anchor { term: 1, time_ms: HOUR, at };
        assert_eq!(first.time(5, at), HOUR);
        assert!(first.moved(7, 5, after(at, 300)).time(5, after(at, 300)) >= HOUR);
    }
}
