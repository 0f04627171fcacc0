//! Commands that wait for a reply, and how many may.

use bytes::Bytes;
use keelstone_store::machine::Reply;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;

/// Bytes that a waiting command takes besides its own.
const OVERHEAD_BYTES: usize = 256;

/// What became of a command.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    Replied(Reply),
    /// Not proposed.
    NotLeader,
    /// Not proposed.
    Overloaded,
    /// Not proposed. With the bytes that this node's disk has left and those
    /// that are kept in reserve, unless it is another's that is full.
    NoSpace(Option<(u64, u64)>),
    /// Not proposed.
    Stopped,
    /// It may or may not take effect.
    Unknown(&'static str),
}

/// A command that waits for a reply. Holds its share of what may wait until it
/// is answered, even if nobody waits for the answer any more.
pub(super) struct Waiting {
    pub(super) command: Bytes,
    pub(super) deadline: Instant,
    /// When it came to be proposed.
    pub(super) arrived: Instant,
    decided: Arc<AtomicBool>,
    reply: oneshot::Sender<Answer>,
    _share: OwnedSemaphorePermit,
}

impl Waiting {
    /// Takes the command for proposing, unless it was given up meanwhile.
    pub(super) fn begin(self) -> Option<Self> {
        if self.decided.swap(true, Ordering::AcqRel) { None } else { Some(self) }
    }

    /// Its share of what may wait.
    fn share(&self) -> usize {
        share_of(&self.command)
    }

    pub(super) fn answer(self, answer: Answer) {
        // Nobody listens if the deadline has passed.
        let _ = self.reply.send(answer);
    }
}

fn share_of(command: &Bytes) -> usize {
    command.len().saturating_add(OVERHEAD_BYTES)
}

/// What lies in a queue, counted by those at both of its ends.
#[derive(Default)]
struct Load {
    bytes: AtomicUsize,
    /// Told when there is a [`LOAD_BYTES`] of it.
    heavy: Notify,
}

/// From so much on, with [`OVERHEAD_BYTES`] for each command, a queue is worth
/// an entry of its own: some 120 small commands, or a document.
const LOAD_BYTES: usize = 64 * 1024;

/// The exit of a queue of waiting commands.
pub(super) struct Queue {
    receiver: mpsc::Receiver<Waiting>,
    load: Arc<Load>,
}

impl Queue {
    /// The next command; none once the queue is closed and empty.
    pub(super) async fn next(&mut self) -> Option<Waiting> {
        let next = self.receiver.recv().await?;
        self.lighten(&next);
        Some(next)
    }

    /// The next command, if one is there.
    pub(super) fn try_next(&mut self) -> Option<Waiting> {
        let next = self.receiver.try_recv().ok()?;
        self.lighten(&next);
        Some(next)
    }

    fn lighten(&self, gone: &Waiting) {
        self.load.bytes.fetch_sub(gone.share(), Ordering::Relaxed);
    }

    /// Waits until what is queued is worth an entry of its own. Safe to cancel.
    pub(super) async fn heavy(&self) {
        while self.load.bytes.load(Ordering::Relaxed) < LOAD_BYTES {
            self.load.heavy.notified().await;
        }
    }
}

/// The entrance to a queue of waiting commands, bounded in bytes and number.
#[derive(Clone)]
pub(super) struct Admission {
    queue: mpsc::Sender<Waiting>,
    load: Arc<Load>,
    bytes: Arc<Semaphore>,
    bytes_max: usize,
}

impl Admission {
    pub(super) fn new(bytes_max: usize, commands_max: usize) -> (Self, Queue) {
        let bytes_max = bytes_max.min(Semaphore::MAX_PERMITS).min(u32::MAX as usize);
        let (queue, receiver) = mpsc::channel(commands_max);
        let load = Arc::<Load>::default();
        let bytes = Arc::new(Semaphore::new(bytes_max));
        (Self { queue, load: Arc::clone(&load), bytes, bytes_max }, Queue { receiver, load })
    }

    /// Bytes that wait.
    pub(super) fn waiting_bytes(&self) -> u64 {
        (self.bytes_max - self.bytes.available_permits()) as u64
    }

    /// Bytes that may wait.
    pub(super) fn limit_bytes(&self) -> u64 {
        self.bytes_max as u64
    }

    /// Queues a command and waits for what becomes of it, at most until
    /// `deadline`.
    pub(super) async fn submit(&self, command: Bytes, deadline: Instant) -> Answer {
        let bytes = share_of(&command);
        let Some(share) = u32::try_from(bytes).ok() else { return Answer::Overloaded };
        let Ok(share) = Arc::clone(&self.bytes).try_acquire_many_owned(share) else {
            return Answer::Overloaded;
        };
        let decided = Arc::new(AtomicBool::new(false));
        let (reply, answer) = oneshot::channel();
        let waiting = Waiting {
            command,
            deadline,
            arrived: Instant::now(),
            decided: Arc::clone(&decided),
            reply,
            _share: share,
        };
        // Counted before it can be taken out.
        let before = self.load.bytes.fetch_add(bytes, Ordering::Relaxed);
        if let Err(error) = self.queue.try_send(waiting) {
            self.load.bytes.fetch_sub(bytes, Ordering::Relaxed);
            return match error {
                mpsc::error::TrySendError::Full(_) => Answer::Overloaded,
                mpsc::error::TrySendError::Closed(_) => Answer::Stopped,
            };
        }
        if before < LOAD_BYTES && before + bytes >= LOAD_BYTES {
            self.load.heavy.notify_one();
        }
        let guard = GiveUp(decided);
        match tokio::time::timeout_at(deadline, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => guard.answer("the node stopped"),
            Err(_elapsed) => guard.answer("the deadline passed"),
        }
    }
}

/// Gives a queued command up when nobody waits for it any more.
struct GiveUp(Arc<AtomicBool>);

impl GiveUp {
    /// What is known of a command that has no answer.
    fn answer(&self, reason: &'static str) -> Answer {
        let proposed = self.0.swap(true, Ordering::AcqRel);
        if proposed { Answer::Unknown(reason) } else { Answer::NotLeader }
    }
}

impl Drop for GiveUp {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    async fn is_heavy(queue: &Queue) -> bool {
        tokio::time::timeout(Duration::from_millis(20), queue.heavy()).await.is_ok()
    }

    #[tokio::test]
    async fn a_queue_is_heavy_while_it_holds_an_entrys_worth() {
        let (admission, mut queue) = Admission::new(1 << 20, 1024);
        let deadline = Instant::now() + Duration::from_mins(1);
        let submit = |bytes: usize| {
            let admission = admission.clone();
            tokio::spawn(async move { admission.submit(vec![0; bytes].into(), deadline).await })
        };
        let small = LOAD_BYTES / OVERHEAD_BYTES - 1;
        for _ in 0..small {
            submit(0);
        }
        assert!(!is_heavy(&queue).await, "one short of it");
        submit(0);
        assert!(is_heavy(&queue).await);
        assert!(queue.next().await.is_some());
        assert!(!is_heavy(&queue).await, "what was taken counts no more");
        submit(LOAD_BYTES);
        assert!(is_heavy(&queue).await, "a document is worth an entry");
        while queue.try_next().is_some() {}
        assert_eq!(queue.load.bytes.load(Ordering::Relaxed), 0);
    }
}
