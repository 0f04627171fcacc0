//! Latches: writes of one entity on one node wait for each other.
//!
//! They keep concurrent patches of one entity from failing each other's guards.
//! They are for speed only; what makes a write safe is its guard, and writes
//! that come through other nodes are not waited for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use tokio::time::{Instant, timeout_at};

/// Entities that can be latched at once. Writes of more go on without: their
/// guards keep them safe.
const LATCHES_MAX: usize = 4096;

/// The latches of a node.
#[derive(Debug, Default)]
pub(super) struct Latches {
    by_name: Arc<Mutex<HashMap<String, Arc<AsyncMutex<()>>>>>,
}

/// Holds a latch until it is dropped.
#[derive(Debug)]
pub(super) struct Latched {
    by_name: Arc<Mutex<HashMap<String, Arc<AsyncMutex<()>>>>>,
    held: Option<(String, Waiting)>,
}

/// One who waits for a latch or holds it; with the last one the latch goes.
#[derive(Debug)]
struct Waiting {
    latch: Arc<AsyncMutex<()>>,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Latches {
    /// Waits until no other holds the latch of `name`. `None` if the deadline
    /// passes first.
    pub(super) async fn enter(&self, name: &str, deadline: Instant) -> Option<Latched> {
        let mut latched = Latched { by_name: self.by_name.clone(), held: None };
        let Some(latch) = self.latch(name) else { return Some(latched) };
        let waiting = Waiting { latch: latch.clone(), guard: None };
        // From here on `latched` cleans up, also if this future is dropped.
        let (_, waiting) = latched.held.insert((name.to_owned(), waiting));
        waiting.guard = Some(timeout_at(deadline, latch.lock_owned()).await.ok()?);
        Some(latched)
    }

    fn latch(&self, name: &str) -> Option<Arc<AsyncMutex<()>>> {
        let mut by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(latch) = by_name.get(name) {
            return Some(latch.clone());
        }
        if by_name.len() >= LATCHES_MAX {
            return None;
        }
        Some(by_name.entry(name.to_owned()).or_default().clone())
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.by_name.lock().unwrap().len()
    }
}

impl Drop for Latched {
    fn drop(&mut self) {
        let Some((name, waiting)) = self.held.take() else { return };
        let mut by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        drop(waiting.guard);
        // Copies are made under this lock only: the map's and ours are the last.
        if Arc::strong_count(&waiting.latch) <= 2 {
            by_name.remove(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(20)
    }

    #[tokio::test]
    async fn one_at_a_time_and_nothing_is_left() {
        let latches = Arc::new(Latches::default());
        let first = latches.enter("a", soon()).await.unwrap();
        assert!(latches.enter("a", soon()).await.is_none(), "the deadline passes");
        assert!(latches.enter("b", soon()).await.is_some(), "another name is free");
        assert_eq!(latches.len(), 1);
        let other = latches.clone();
        let far = Instant::now() + Duration::from_secs(10);
        let waiting = tokio::spawn(async move { other.enter("a", far).await.is_some() });
        tokio::task::yield_now().await;
        drop(first);
        assert!(waiting.await.unwrap());
        assert_eq!(latches.len(), 0);
    }

    #[tokio::test]
    async fn more_names_than_latches_go_on_without() {
        let latches = Latches::default();
        let mut held = Vec::new();
        for name in 0..LATCHES_MAX {
            held.push(latches.enter(&name.to_string(), soon()).await.unwrap());
        }
        let more = latches.enter("more", soon()).await.unwrap();
        let again = latches.enter("more", soon()).await;
        assert!(again.is_some(), "nobody waits for a latch that is not there");
        drop((more, again, held));
        assert_eq!(latches.len(), 0);
    }
}
