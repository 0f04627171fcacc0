//! The identity of writes: a session that the cluster remembers, and a sequence
//! number in it.
//!
//! A write that is sent again with the same identity is applied once and gets
//! its first reply. What is not here: sending anything; the session is opened
//! by a closure that the caller passes in.

use crate::Error;
use keelstone_proto::v1::WriteId;
use std::collections::BTreeSet;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Sequences between the oldest write without an answer and the newest: the
/// store remembers 256 replies, and forgets the oldest beyond.
const WINDOW: u64 = 200;

/// The session of a client, which is opened with the first write.
#[derive(Default)]
pub(crate) struct Session {
    state: Mutex<Option<Open>>,
    /// Held while a session is being opened, so that one is.
    opening: tokio::sync::Mutex<()>,
    room: Notify,
}

struct Open {
    id: u64,
    next: u64,
    outstanding: BTreeSet<u64>,
}

impl Open {
    fn oldest(&self) -> u64 {
        self.outstanding.first().copied().unwrap_or(self.next)
    }
}

/// The identity of one write. When dropped, the store may forget the reply.
pub(crate) struct Identity {
    session: Arc<Session>,
    id: u64,
    sequence: u64,
}

impl Identity {
    /// As it is sent. What others have finished meanwhile goes along.
    pub(crate) fn to_wire(&self) -> WriteId {
        let acked_below = match &*self.session.lock() {
            Some(open) if open.id == self.id => open.oldest(),
            _ => 0,
        };
        WriteId { session: self.id, sequence: self.sequence, acked_below }
    }
}

impl Drop for Identity {
    fn drop(&mut self) {
        if let Some(open) = self.session.lock().as_mut().filter(|open| open.id == self.id) {
            open.outstanding.remove(&self.sequence);
        }
        self.session.room.notify_waiters();
    }
}

impl Session {
    /// The next identity. Waits while the window is full; `open` asks the
    /// cluster for a session if there is none.
    pub(crate) async fn begin<F, Fut>(self: &Arc<Self>, open: F) -> Result<Identity, Error>
    where
        F: Fn() -> Fut,
        Fut: Future<Output = Result<u64, Error>>,
    {
        loop {
            // Registered before the window is looked at: no wake-up is lost.
            let room = self.room.notified();
            match self.try_begin() {
                Begin::Begun(identity) => return Ok(identity),
                Begin::Full => room.await,
                Begin::Closed => {
                    let _opening = self.opening.lock().await;
                    if self.lock().is_none() {
                        let id = open().await?;
                        *self.lock() = Some(Open { id, next: 1, outstanding: BTreeSet::new() });
                    }
                }
            }
        }
    }

    /// The cluster does not know the session any more: the next write opens
    /// another.
    pub(crate) fn lost(&self, identity: &Identity) {
        let mut state = self.lock();
        if state.as_ref().is_some_and(|open| open.id == identity.id) {
            *state = None;
        }
        drop(state);
        self.room.notify_waiters();
    }

    /// Takes the open session's id, to close it.
    pub(crate) fn take(&self) -> Option<u64> {
        self.lock().take().map(|open| open.id)
    }

    fn try_begin(self: &Arc<Self>) -> Begin {
        let mut state = self.lock();
        let Some(open) = state.as_mut() else { return Begin::Closed };
        if open.next - open.oldest() >= WINDOW {
            return Begin::Full;
        }
        let sequence = open.next;
        open.next += 1;
        open.outstanding.insert(sequence);
        Begin::Begun(Identity { session: self.clone(), id: open.id, sequence })
    }

    fn lock(&self) -> MutexGuard<'_, Option<Open>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Begin {
    Begun(Identity),
    Full,
    Closed,
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt as _;
    use std::sync::atomic::{AtomicU64, Ordering};

    async fn begin(session: &Arc<Session>) -> Identity {
        session.begin(|| async { Ok(7) }).await.unwrap()
    }

    #[tokio::test]
    async fn acknowledges_what_is_below_the_oldest_unanswered() {
        let session = Arc::new(Session::default());
        let (one, two) = (begin(&session).await, begin(&session).await);
        assert_eq!(two.to_wire(), WriteId { session: 7, sequence: 2, acked_below: 1 });
        drop(one);
        assert_eq!(two.to_wire(), WriteId { session: 7, sequence: 2, acked_below: 2 });
        let three = begin(&session).await;
        drop(two);
        assert_eq!(three.to_wire(), WriteId { session: 7, sequence: 3, acked_below: 3 });
    }

    #[tokio::test]
    async fn waits_when_the_oldest_holds_the_window() {
        let session = Arc::new(Session::default());
        let oldest = begin(&session).await;
        for _ in 1..WINDOW {
            drop(begin(&session).await);
        }
        assert!(begin(&session).now_or_never().is_none(), "the window is full");
        drop(oldest);
        assert!(begin(&session).now_or_never().is_some());
    }

    #[tokio::test]
    async fn many_writers_open_one_session_and_after_a_loss_another() {
        let session = Arc::new(Session::default());
        let opened = AtomicU64::new(0);
        let open = || async {
            tokio::task::yield_now().await;
            Ok(opened.fetch_add(1, Ordering::Relaxed) + 1)
        };
        let all = futures::future::join_all((0..20).map(|_| session.begin(open))).await;
        assert_eq!(opened.load(Ordering::Relaxed), 1);
        let identity = all.into_iter().next().unwrap().unwrap();
        session.lost(&identity);
        assert_eq!(session.begin(open).await.unwrap().to_wire().session, 2);
        assert_eq!(opened.load(Ordering::Relaxed), 2);
    }
}
