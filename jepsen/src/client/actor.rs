//! A process in Jepsen's sense: one operation at a time, each recorded before it
//! is sent and when its answer has come.
//!
//! After an unknown outcome the actor goes on under a new process number, and
//! after a failure to reach its replica at another one.

use super::classify::{Class, Failure};
use super::directory::Directory;
use super::raw::{Raw, once, within};
use super::wire;
use keelstone_jepsen::history::{Action, Op, Process, Recorder, Txn, TxnReply};
use keelstone_proto::v1;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use std::sync::Arc;
use std::time::Duration;

/// One operation's deadline, unless a workload says another.
const TIMEOUT: Duration = Duration::from_millis(1500);
/// How often an actor moves to another replica without need.
const WANDER: f64 = 0.01;
/// How long an actor waits after a failure, so that a cluster without a leader
/// does not fill the history with refusals.
const PAUSE: Duration = Duration::from_millis(50);

/// One process after the other, on one replica after the other.
pub(crate) struct Actor {
    recorder: Arc<Recorder>,
    directory: Arc<Directory>,
    process: Process,
    raw: Raw,
    timeout: Duration,
    pinned: bool,
    /// The actor's own choices, from the run's seed.
    pub(crate) rng: StdRng,
}

impl Actor {
    /// Begins on some replica.
    pub(crate) fn new(recorder: Arc<Recorder>, directory: Arc<Directory>, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let raw = directory.any(&mut rng);
        let process = recorder.new_process();
        Self { recorder, directory, process, raw, timeout: TIMEOUT, pinned: false, rng }
    }

    /// Stays at `raw`, whatever happens.
    pub(crate) fn pinned(
        recorder: Arc<Recorder>,
        directory: Arc<Directory>,
        raw: Raw,
        timeout: Duration,
    ) -> Self {
        let process = recorder.new_process();
        let rng = StdRng::seed_from_u64(raw.node);
        Self { recorder, directory, process, raw, timeout, pinned: true, rng }
    }

    /// The replica that the next operation goes to.
    pub(crate) fn raw(&self) -> &Raw {
        &self.raw
    }

    /// A transaction, by the call that fits it: a lone put, delete or range has
    /// calls of its own.
    pub(crate) async fn txn(&mut self, txn: Txn) -> Result<TxnReply, Failure> {
        self.wander();
        let node = Some(self.raw.node);
        self.recorder.invoke(self.process, Op::Txn(txn.clone()), node);
        let answer = send(&self.raw, self.timeout, &txn).await;
        let answer = match answer {
            Err(failure) if txn.is_read() => Err(failure.of_a_read()),
            answer => answer,
        };
        match &answer {
            Ok(reply) => {
                let reply = Some(reply.clone());
                self.recorder.ok(self.process, Op::Txn(Txn { reply, ..txn }), node);
            }
            Err(failure) => self.failed(Op::Txn(txn), failure).await,
        }
        answer
    }

    /// Any other operation: `attempt` makes one call on the replica, `done` puts
    /// what was answered into the operation.
    pub(crate) async fn operation<T, F>(
        &mut self,
        op: Op,
        is_read: bool,
        attempt: impl FnOnce(Raw, Duration) -> F,
        done: impl FnOnce(&T) -> Op,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        self.wander();
        let node = Some(self.raw.node);
        self.recorder.invoke(self.process, op.clone(), node);
        match attempt(self.raw.clone(), self.timeout).await {
            Ok(answer) => {
                self.recorder.ok(self.process, done(&answer), node);
                Ok(answer)
            }
            Err(failure) => {
                let failure = if is_read { failure.of_a_read() } else { failure };
                self.failed(op, &failure).await;
                Err(failure)
            }
        }
    }

    async fn failed(&mut self, op: Op, failure: &Failure) {
        let node = Some(self.raw.node);
        match failure.class {
            Class::Fail => {
                self.recorder.fail(self.process, op, node, failure.text());
            }
            Class::Info => {
                self.process = self.recorder.info(self.process, op, node, failure.text());
            }
        }
        if failure.unreachable || is_elsewhere(&failure.reason) {
            self.hop();
        }
        tokio::time::sleep(PAUSE).await;
    }

    fn wander(&mut self) {
        if !self.pinned && self.rng.random_bool(WANDER) {
            self.hop();
        }
    }

    /// Goes to another replica.
    pub(crate) fn hop(&mut self) {
        if !self.pinned {
            self.raw = self.directory.any(&mut self.rng);
        }
    }
}

/// Whether another replica may do better.
fn is_elsewhere(reason: &str) -> bool {
    matches!(reason, "not_leader" | "no_quorum" | "stopping" | "state_failed")
}

/// One attempt of a transaction.
pub(crate) async fn send(raw: &Raw, timeout: Duration, txn: &Txn) -> Result<TxnReply, Failure> {
    let mut kv = raw.kv();
    match (txn.compares.as_slice(), txn.success.as_slice(), txn.failure.as_slice()) {
        ([], [Action::Put { key, value, lease, prev }], []) => {
            let mut request = wire::put(key, value, *lease, *prev);
            request.write_id = wire::write_id(txn);
            let response = once(timeout, kv.put(within(timeout, request))).await?;
            let header = response.header.clone();
            Ok(wire::single(header.as_ref(), wire::put_reply(response)))
        }
        ([], [Action::Delete { key, end, prev }], []) => {
            let mut request = wire::delete(key, end.as_deref(), *prev);
            request.write_id = wire::write_id(txn);
            let response = once(timeout, kv.delete(within(timeout, request))).await?;
            let header = response.header.clone();
            Ok(wire::single(header.as_ref(), wire::delete_reply(response)))
        }
        ([], [Action::Range { key, end, limit }], []) => {
            let mut request = wire::range(key, end.as_deref(), *limit);
            request.revision = txn.revision.unwrap_or_default();
            if !txn.linearizable {
                request.consistency = v1::Consistency::Serializable.into();
            }
            let response = once(timeout, kv.range(within(timeout, request))).await?;
            let header = response.header.clone();
            Ok(wire::single(header.as_ref(), wire::range_reply(response)))
        }
        _ => {
            let response = once(timeout, kv.txn(within(timeout, wire::request(txn)))).await?;
            Ok(wire::reply(response))
        }
    }
}
