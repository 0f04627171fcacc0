//! Commands that wait for a reply, and how many may.

use bytes::Bytes;
use keelstone_store::machine::Reply;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
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
    /// Not proposed.
    NoSpace,
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

    pub(super) fn answer(self, answer: Answer) {
        // Nobody listens if the deadline has passed.
        let _ = self.reply.send(answer);
    }
}

/// The entrance to a queue of waiting commands, bounded in bytes and number.
#[derive(Clone)]
pub(super) struct Admission {
    queue: mpsc::Sender<Waiting>,
    bytes: Arc<Semaphore>,
    bytes_max: usize,
}

impl Admission {
    pub(super) fn new(bytes_max: usize, commands_max: usize) -> (Self, mpsc::Receiver<Waiting>) {
        let bytes_max = bytes_max.min(Semaphore::MAX_PERMITS).min(u32::MAX as usize);
        let (queue, receiver) = mpsc::channel(commands_max);
        (Self { queue, bytes: Arc::new(Semaphore::new(bytes_max)), bytes_max }, receiver)
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
        let share = command.len().saturating_add(OVERHEAD_BYTES);
        let Some(share) = u32::try_from(share).ok() else { return Answer::Overloaded };
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
        match self.queue.try_send(waiting) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full(_)) => return Answer::Overloaded,
            Err(mpsc::error::TrySendError::Closed(_)) => return Answer::Stopped,
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
