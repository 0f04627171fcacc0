//! The read gate: one proof of leadership for all reads that wait.
//!
//! A read is linearizable if it sees every write that was acknowledged before
//! the read began. The leader proves to a quorum that it still leads, after the
//! read began, and the read then waits until the state contains what was
//! committed by then. Reads that wait share the proof; one that comes while a
//! proof is under way takes the next one, since that began after the read did.
//! No clock is trusted.

use crate::raft::spawn;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Rounds that may be under way at once: with two, a late read waits for less
/// than one round before its own begins.
const ROUNDS_MAX: usize = 2;
/// Reads that may wait for a round to begin.
const WAITING_MAX: usize = 64 * 1024;

/// A round of asking, shared by all who joined before it began.
pub(super) trait Round: Send + Sync + 'static {
    /// What all of them get.
    type Output: Clone + Send + 'static;

    /// Begins a round.
    fn begin(self: Arc<Self>) -> BoxFuture<'static, Self::Output>;
}

/// Joins callers into rounds.
pub(super) struct Rounds<R: Round> {
    queue: mpsc::Sender<oneshot::Sender<R::Output>>,
}

impl<R: Round> Rounds<R> {
    pub(super) fn start(round: Arc<R>) -> Self {
        let (queue, waiting) = mpsc::channel(WAITING_MAX);
        spawn(run(round, waiting));
        Self { queue }
    }

    /// The output of a round that begins after this call. `None` if too many
    /// wait or nothing begins any more.
    pub(super) async fn join(&self) -> Option<R::Output> {
        let (sender, receiver) = oneshot::channel();
        self.queue.try_send(sender).ok()?;
        receiver.await.ok()
    }
}

async fn run<R: Round>(round: Arc<R>, mut waiting: mpsc::Receiver<oneshot::Sender<R::Output>>) {
    let mut rounds = FuturesUnordered::new();
    loop {
        if rounds.len() >= ROUNDS_MAX {
            rounds.next().await;
            continue;
        }
        let first = tokio::select! {
            biased;
            Some(()) = rounds.next() => continue,
            first = waiting.recv() => first,
        };
        let Some(first) = first else { break };
        let mut joined = vec![first];
        while let Ok(next) = waiting.try_recv() {
            joined.push(next);
        }
        let output = Arc::clone(&round).begin();
        rounds.push(async move {
            let output = output.await;
            for waiting in joined {
                // Who has given up does not listen.
                let _ = waiting.send(output.clone());
            }
        });
    }
    while rounds.next().await.is_some() {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    /// Each round tells its number, after a while.
    #[derive(Default)]
    struct Counted {
        begun: AtomicU64,
    }

    impl Round for Counted {
        type Output = u64;

        fn begin(self: Arc<Self>) -> BoxFuture<'static, u64> {
            let number = self.begun.fetch_add(1, Ordering::SeqCst);
            Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(20)).await;
                number
            })
        }
    }

    #[tokio::test]
    async fn many_reads_share_few_rounds() {
        let counted = Arc::new(Counted::default());
        let rounds = Rounds::start(Arc::clone(&counted));
        let reads = (0..1000).map(|_| rounds.join());
        let outputs = futures::future::join_all(reads).await;
        assert!(outputs.iter().all(Option::is_some));
        assert!(counted.begun.load(Ordering::SeqCst) <= 3);
    }

    #[tokio::test]
    async fn a_read_never_joins_a_round_that_began_before_it() {
        let counted = Arc::new(Counted::default());
        let rounds = Rounds::start(Arc::clone(&counted));
        for _ in 0..5 {
            let begun = counted.begun.load(Ordering::SeqCst);
            let other = rounds.join();
            let late = async {
                tokio::time::sleep(Duration::from_millis(5)).await;
                let begun = counted.begun.load(Ordering::SeqCst);
                (begun, rounds.join().await.unwrap())
            };
            let (first, (begun_late, late)) = tokio::join!(other, late);
            assert!(first.unwrap() >= begun);
            assert!(late >= begun_late);
        }
    }
}
