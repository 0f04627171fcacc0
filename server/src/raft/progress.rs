//! How far this replica has applied, for all who wait for it, and what its
//! state hashed to on the way, to notice a replica that diverged.

use crate::changes::ChangeLog;
use crate::metrics::Metrics;
use keelstone_store::Revision;
use keelstone_store::machine::Event;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// State hashes that are remembered, newest last.
const HASHES_MAX: usize = 4096;

/// What the state contains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct AppliedPosition {
    /// The last applied entry.
    pub(crate) index: Option<u64>,
    /// The store's revision there.
    pub(crate) revision: Revision,
}

/// Two replicas have applied the same entries and come to different states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the state after entry {index} differs from the leader's: this replica has diverged. \
     Its data directory must be kept for diagnosis; remove the member and add a fresh one"
)]
pub(crate) struct Diverged {
    pub(crate) index: u64,
}

/// The position, the recent hashes and the recent changes of one replica.
pub(crate) struct Progress {
    position: watch::Sender<AppliedPosition>,
    changes: Arc<ChangeLog>,
    hashes: Mutex<Hashes>,
    /// How long a simulated state engine takes for what is applied next.
    #[cfg(feature = "simulation")]
    pace: Mutex<Option<crate::replica::Delay>>,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Hashes {
    recent: VecDeque<(u64, [u8; 32])>,
    /// What the leader said of an entry that is not applied here yet.
    expected: Option<(u64, [u8; 32])>,
}

impl Progress {
    pub(crate) fn new(position: AppliedPosition, changes: Arc<ChangeLog>) -> Self {
        let metrics = Arc::new(Metrics::new());
        let (position, _) = watch::channel(position);
        let hashes = Mutex::default();
        Self {
            position,
            changes,
            hashes,
            #[cfg(feature = "simulation")]
            pace: Mutex::default(),
            metrics,
        }
    }

    /// Counts into `metrics` from now on.
    pub(crate) fn counting(self, metrics: Arc<Metrics>) -> Self {
        Self { metrics, ..self }
    }

    /// What this replica counts.
    pub(crate) fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    pub(crate) fn position(&self) -> AppliedPosition {
        *self.position.borrow()
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<AppliedPosition> {
        self.position.subscribe()
    }

    pub(crate) fn changes(&self) -> &Arc<ChangeLog> {
        &self.changes
    }

    /// Remembers the state's hash after one entry.
    ///
    /// # Errors
    ///
    /// Fails if the leader had another one.
    pub(crate) fn record(&self, index: u64, hash: [u8; 32]) -> Result<(), Diverged> {
        let mut hashes = self.hashes();
        if hashes.recent.len() == HASHES_MAX {
            hashes.recent.pop_front();
        }
        hashes.recent.push_back((index, hash));
        match hashes.expected {
            Some((at, expected)) if at == index => {
                hashes.expected = None;
                if expected == hash { Ok(()) } else { Err(Diverged { index }) }
            }
            Some((at, _)) if at < index => {
                hashes.expected = None;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Compares with what the leader's state hashed to, now or when this
    /// replica gets there.
    ///
    /// # Errors
    ///
    /// Fails if this replica came to another state.
    pub(crate) fn compare(&self, index: u64, hash: [u8; 32]) -> Result<(), Diverged> {
        let mut hashes = self.hashes();
        let found = hashes.recent.binary_search_by_key(&index, |(at, _)| *at);
        match found {
            Ok(at) if hashes.recent[at].1 != hash => Err(Diverged { index }),
            Ok(_) => Ok(()),
            Err(_) => {
                let ahead = hashes.recent.back().is_none_or(|(newest, _)| *newest < index);
                if ahead && hashes.expected.is_none() {
                    hashes.expected = Some((index, hash));
                }
                Ok(())
            }
        }
    }

    /// The newest hash of this replica, for its peers to compare.
    pub(crate) fn newest_hash(&self) -> Option<(u64, [u8; 32])> {
        self.hashes().recent.back().copied()
    }

    /// Lets apply wait as a simulated state engine would.
    #[cfg(feature = "simulation")]
    pub(crate) fn set_pace(&self, pace: &crate::replica::Delay) {
        *self.pace.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(pace));
    }

    /// Waits as long as a simulated state engine takes.
    #[cfg(feature = "simulation")]
    pub(crate) async fn pace(&self) {
        let pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let pace = pace.map(|pace| pace()).unwrap_or_default();
        if !pace.is_zero() {
            tokio::time::sleep(pace).await;
        }
    }

    /// Tells watchers what one entry changed.
    pub(crate) fn publish(&self, events: Vec<Event>, revision: Revision) {
        self.changes.append(events, revision);
    }

    /// Tells who waits that the state now contains `position`.
    pub(crate) fn advance(&self, position: AppliedPosition) {
        self.position.send_replace(position);
    }

    /// The state was replaced by a snapshot.
    pub(crate) fn replace(&self, position: AppliedPosition) {
        {
            let mut hashes = self.hashes();
            hashes.recent.clear();
            hashes.expected = None;
        }
        self.changes.reset(position.revision);
        self.position.send_replace(position);
    }

    fn hashes(&self) -> std::sync::MutexGuard<'_, Hashes> {
        self.hashes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress() -> Progress {
        let changes = Arc::new(ChangeLog::new(Revision::FIRST, 1024));
        Progress::new(AppliedPosition::default(), changes)
    }

    #[test]
    fn equal_hashes_pass_whoever_is_ahead() {
        let progress = progress();
        progress.compare(7, [7; 32]).unwrap();
        progress.record(6, [6; 32]).unwrap();
        progress.record(7, [7; 32]).unwrap();
        progress.compare(6, [6; 32]).unwrap();
    }

    #[test]
    fn a_difference_is_noticed_at_once_and_later() {
        let progress = progress();
        progress.record(6, [6; 32]).unwrap();
        assert_eq!(progress.compare(6, [0; 32]), Err(Diverged { index: 6 }));
        progress.compare(8, [0; 32]).unwrap();
        progress.record(7, [7; 32]).unwrap();
        assert_eq!(progress.record(8, [8; 32]), Err(Diverged { index: 8 }));
    }

    #[test]
    fn a_replaced_state_forgets_the_hashes_of_the_old_one() {
        let progress = progress();
        progress.record(6, [6; 32]).unwrap();
        progress.replace(AppliedPosition { index: Some(9), revision: Revision::new(3) });
        progress.compare(6, [0; 32]).unwrap();
        assert_eq!(progress.newest_hash(), None);
    }
}
