//! Which requests of an append stream are unanswered.

use super::types::{LogId, Types};
use futures::{Stream, StreamExt as _};
use openraft::raft::AppendEntriesRequest;
use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

/// Requests that one append stream may have unanswered.
const UNANSWERED_MAX: usize = 4;

/// The unanswered requests of one append stream.
///
/// It bounds them, and it keeps answers and requests apart. The library (as of
/// 0.10.0-alpha.37) takes an answer that says "all up to entry 35 is here" for
/// one to every request that ends at entry 35 or before, and a quorum of answers
/// for the proof that this node led when the newest of those requests was made.
/// A request without entries, which tells of a commit, ends where the one before
/// it ended. So the late answer of a peer that has long followed another leader
/// could prove a leadership that is over, and a read that waited for the proof
/// saw an old state. Therefore:
///
/// * an answer that would also answer for a later request is passed over: the
///   later request's own answer says as much;
/// * from an answer's delivery until the library asks for the next one, when it
///   has taken it in, no request is pulled.
#[derive(Default)]
pub(super) struct Window {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The last entry of each unanswered request, in order.
    unanswered: VecDeque<Option<LogId>>,
    /// The library is dealing with an answer.
    delivering: bool,
    /// Nobody waits for answers any more.
    closed: bool,
    /// Waits for room or for a request.
    puller: Option<Waker>,
}

impl Window {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The library's next request, once there is room for it; none after the
    /// window was closed. The library notes its time in the moment in which this
    /// takes it.
    pub(super) async fn pull<S>(&self, input: &mut S) -> Option<AppendEntriesRequest<Types>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + Unpin,
    {
        std::future::poll_fn(|context| {
            let mut state = self.lock();
            if state.closed {
                return Poll::Ready(None);
            }
            // For room, and for the end, which may come while the input is silent.
            state.puller = Some(context.waker().clone());
            if state.delivering || state.unanswered.len() >= UNANSWERED_MAX {
                return Poll::Pending;
            }
            let request = std::task::ready!(input.poll_next_unpin(context));
            if let Some(request) = &request {
                let last = request.entries.last().map(|entry| entry.log_id);
                state.unanswered.push_back(last.or(request.prev_log_id));
            }
            Poll::Ready(request)
        })
        .await
    }

    /// Ends the requests, whatever they wait for: nobody takes the answers.
    fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.wake();
    }

    /// Whether an answer is awaited.
    pub(super) fn has_unanswered(&self) -> bool {
        !self.lock().unanswered.is_empty()
    }

    /// The oldest unanswered request is answered: all up to `matching` is there.
    /// Whether that may be delivered; then nothing is pulled until it is.
    pub(super) fn answered(&self, matching: Option<&LogId>) -> bool {
        let mut state = self.lock();
        state.unanswered.pop_front();
        let answers_for_later = state.unanswered.iter().any(|last| last.as_ref() <= matching);
        state.delivering = !answers_for_later;
        if answers_for_later {
            state.wake();
        }
        !answers_for_later
    }

    /// The library has dealt with what was delivered.
    pub(super) fn delivered(&self) {
        let mut state = self.lock();
        state.delivering = false;
        state.wake();
    }
}

/// Held by who takes the answers. Its end is the end of the requests: the
/// connection keeps a request's body after its answers were given up, and a body
/// that waited for room would keep the library's reader of the log with it.
pub(super) struct Taken(pub(super) Arc<Window>);

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Deref for Taken {
    type Target = Window;

    fn deref(&self) -> &Window {
        &self.0
    }
}

impl State {
    fn wake(&mut self) {
        if let Some(puller) = self.puller.take() {
            puller.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::convert;
    use super::*;
    use futures::FutureExt as _;
    use futures::stream;
    use keelstone_store::disk::log::Vote;

    fn id(index: u64) -> Option<LogId> {
        let id = keelstone_store::disk::LogId { term: 2, index, leader: 1 };
        Some(convert::log_id_from_store(id))
    }

    /// A request without entries that ends at an index.
    fn request(index: u64) -> AppendEntriesRequest<Types> {
        AppendEntriesRequest {
            vote: convert::vote_from_store(Vote { term: 2, node: 1, committed: true }),
            prev_log_id: id(index),
            entries: Vec::new(),
            leader_commit: id(index),
        }
    }

    fn requests(ends: &[u64]) -> impl Stream<Item = AppendEntriesRequest<Types>> + Unpin {
        let requests: Vec<_> = ends.iter().map(|index| request(*index)).collect();
        stream::iter(requests)
    }

    #[tokio::test]
    async fn an_answer_is_passed_over_while_it_would_answer_for_a_later_request() {
        let window = Window::default();
        let mut input = requests(&[35, 35, 36]);
        for _ in 0..3 {
            window.pull(&mut input).await.unwrap();
        }
        assert!(!window.answered(id(35).as_ref()), "the second request ends there too");
        assert!(window.answered(id(35).as_ref()), "the third ends later");
        window.delivered();
        assert!(window.answered(id(36).as_ref()));
        assert!(!window.has_unanswered());
    }

    #[tokio::test]
    async fn nothing_is_pulled_while_an_answer_is_delivered() {
        let window = Window::default();
        let mut input = requests(&[35, 35]);
        window.pull(&mut input).await.unwrap();
        assert!(window.answered(id(35).as_ref()));
        assert!(window.pull(&mut input).now_or_never().is_none());
        let mut pulling = Box::pin(window.pull(&mut input));
        assert!(futures::poll!(&mut pulling).is_pending());
        window.delivered();
        assert!(pulling.await.is_some());
    }

    #[tokio::test]
    async fn requests_end_with_their_answers() {
        let full = Arc::new(Window::default());
        let mut input = stream::iter([1, 2, 3, 4, 5].map(request)).chain(stream::pending());
        while full.pull(&mut input).now_or_never().is_some() {}
        let mut pulling = Box::pin(full.pull(&mut input));
        assert!(futures::poll!(&mut pulling).is_pending());
        drop(Taken(Arc::clone(&full)));
        assert!(pulling.await.is_none());

        let delivering = Arc::new(Window::default());
        let mut input = requests(&[35, 36]);
        delivering.pull(&mut input).await.unwrap();
        assert!(delivering.answered(id(35).as_ref()));
        drop(Taken(Arc::clone(&delivering)));
        assert!(delivering.pull(&mut input).await.is_none(), "there is a request, for nobody");
    }

    #[tokio::test]
    async fn requests_end_with_their_answers_while_there_are_none() {
        let window = Arc::new(Window::default());
        let pulled = tokio::spawn({
            let window = Arc::clone(&window);
            async move { window.pull(&mut stream::pending()).await.is_none() }
        });
        tokio::task::yield_now().await;
        drop(Taken(window));
        assert!(pulled.await.unwrap());
    }

    #[tokio::test]
    async fn few_requests_are_unanswered() {
        let window = Window::default();
        let mut input = requests(&[1, 2, 3, 4, 5, 6, 7]);
        let mut pulled = 0;
        while window.pull(&mut input).now_or_never().is_some() {
            pulled += 1;
        }
        assert_eq!(pulled, UNANSWERED_MAX);
        assert!(window.answered(id(1).as_ref()));
        window.delivered();
        assert!(window.pull(&mut input).now_or_never().is_some());
    }
}
