//! Group commit: what is queued becomes one log entry.
//!
//! There is no timer. An empty queue means that a lone command is packed alone
//! and at once; while an entry is in flight, commands pile up and the next entry
//! takes all of them. Another goes beside it only when what has piled up is
//! worth an entry of its own: an entry costs three nodes about a millisecond of
//! processor time whatever is in it. So a lone write costs one sync and one
//! round trip, and throughput grows with the load.

use super::pace::Pace;
use super::waiting::{Answer, Queue, Waiting};
use crate::metrics::Metrics;
use crate::raft::{Consensus, WriteError, spawn};
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use keelstone_store::Millis;
use keelstone_store::limits::{BATCH_BYTES_MAX, BATCH_COMMANDS_MAX};
use keelstone_store::machine::{Reply, codec};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// Entries that may be on their way at once.
const IN_FLIGHT_MAX: usize = 4;

/// Starts the task that packs what comes out of `queue`, until the queue is
/// closed and everything in it is answered.
pub(super) fn start(
    consensus: Arc<Consensus>,
    pace: Arc<Pace>,
    metrics: Arc<Metrics>,
    queue: Queue,
) {
    let packer = Packer { consensus, pace, metrics, queue, left: None };
    spawn(packer.run());
}

/// Takes at most a batch out of a queue: waits for the first command, and takes
/// of the others what is there.
pub(super) struct Taken {
    pub(super) waiting: Vec<Waiting>,
}

/// `left` is a command that did not fit into the batch before.
pub(super) async fn take(queue: &mut Queue, left: &mut Option<Waiting>) -> Option<Taken> {
    let first = loop {
        let next = match left.take() {
            Some(waiting) => waiting,
            None => queue.next().await?,
        };
        if let Some(next) = next.begin() {
            break next;
        }
    };
    let mut bytes = first.command.len();
    let mut waiting = vec![first];
    while waiting.len() < BATCH_COMMANDS_MAX && bytes < BATCH_BYTES_MAX {
        let Some(next) = queue.try_next() else { break };
        if bytes + next.command.len() > BATCH_BYTES_MAX {
            *left = Some(next);
            break;
        }
        if let Some(next) = next.begin() {
            bytes += next.command.len();
            waiting.push(next);
        }
    }
    Some(Taken { waiting })
}

struct Packer {
    consensus: Arc<Consensus>,
    pace: Arc<Pace>,
    metrics: Arc<Metrics>,
    queue: Queue,
    left: Option<Waiting>,
}

type InFlight = FuturesUnordered<Pin<Box<dyn Future<Output = ()> + Send>>>;

impl Packer {
    async fn run(mut self) {
        let mut in_flight = InFlight::new();
        loop {
            if in_flight.len() >= IN_FLIGHT_MAX {
                in_flight.next().await;
                continue;
            }
            if !in_flight.is_empty() && self.left.is_none() {
                tokio::select! {
                    biased;
                    Some(()) = in_flight.next() => continue,
                    () = self.queue.heavy() => {}
                }
            }
            let taken = tokio::select! {
                biased;
                Some(()) = in_flight.next() => continue,
                taken = take(&mut self.queue, &mut self.left) => taken,
            };
            let Some(taken) = taken else { break };
            self.pace.ready().await;
            self.propose(taken, &mut in_flight).await;
        }
        while in_flight.next().await.is_some() {}
    }

    async fn propose(&mut self, taken: Taken, in_flight: &mut InFlight) {
        // No stamp is kept from batch to batch: one that was lost with its term
        // would make the next term's time jump. Apply lets time not go back.
        let now = Millis(self.pace.now_ms());
        let commands: Vec<Bytes> =
            taken.waiting.iter().map(|waiting| waiting.command.clone()).collect();
        let batch = codec::encode_batch(now, &commands);
        let account = Account::open(&self.metrics, &taken);
        match self.consensus.write(&batch).await {
            Ok(written) => in_flight.push(Box::pin(async move {
                let replies = written.await.map(|written| written.replies);
                account.close(&taken);
                answer(taken, replies);
            })),
            Err(error) => answer(taken, Err(error)),
        }
    }
}

/// Counts a batch while it waits for a quorum.
struct Account {
    metrics: Arc<Metrics>,
    bytes: i64,
}

impl Account {
    fn open(metrics: &Arc<Metrics>, taken: &Taken) -> Self {
        let bytes = taken.waiting.iter().map(|waiting| waiting.command.len()).sum::<usize>();
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        metrics.proposal_batches.inc();
        metrics
            .proposal_commands
            .observe(f64::from(u32::try_from(taken.waiting.len()).unwrap_or(u32::MAX)));
        metrics.proposal_bytes_waiting.inc_by(bytes);
        Self { metrics: Arc::clone(metrics), bytes }
    }

    /// The batch is about to be answered.
    fn close(self, taken: &Taken) {
        for waiting in &taken.waiting {
            self.metrics.proposal_seconds.observe(waiting.arrived.elapsed().as_secs_f64());
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.metrics.proposal_bytes_waiting.dec_by(self.bytes);
    }
}

/// Gives each command its reply.
fn answer(taken: Taken, replies: Result<Vec<Reply>, WriteError>) {
    let error = match replies {
        Ok(replies) if replies.len() == taken.waiting.len() => {
            for (waiting, reply) in taken.waiting.into_iter().zip(replies) {
                waiting.answer(Answer::Replied(reply));
            }
            return;
        }
        Ok(_) => Answer::Unknown("apply answered another number of commands"),
        Err(WriteError::NotLeader) => Answer::NotLeader,
        Err(WriteError::Stopped) => Answer::Stopped,
        Err(WriteError::Unknown) => Answer::Unknown("the leader was lost before it was applied"),
    };
    for waiting in taken.waiting {
        waiting.answer(error.clone());
    }
}
