//! The replicated state as the consensus library wants it: what is committed
//! is applied here, in order, and answered once it can be read.

use super::convert;
use super::progress::{AppliedPosition, Progress};
use super::snapshot::SnapshotBody;
use super::types::{Entry, LogId, Response, Snapshot, SnapshotMeta, StoredMembership, Types};
use futures::{FutureExt as _, Stream, StreamExt as _};
use keelstone_store::machine::View as _;
use keelstone_store::planted::{self, Bug};
use keelstone_store::state::{Applied, Payload, State};
use openraft::OptionalSend;
use openraft::storage::{ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Entries applied as one batch of the state engine.
const APPLY_ENTRIES_MAX: usize = 256;
/// Bytes of entries applied as one batch, unless a single entry is larger.
const APPLY_BYTES_MAX: usize = 4 * 1024 * 1024;
/// From so many bytes on, other tasks are moved off this thread meanwhile.
const APPLY_BYTES_LONG: usize = 256 * 1024;

/// The state of this node, fed by the log.
#[derive(Clone)]
pub(crate) struct StateMachine {
    state: Arc<State>,
    progress: Arc<Progress>,
    /// Consensus is being started: what it asks for now it takes for durable.
    starting: Arc<AtomicBool>,
    /// For [`Bug::ApplyTwice`]: nothing was applied since a restart.
    restarted: Arc<AtomicBool>,
}

impl StateMachine {
    pub(crate) fn new(state: Arc<State>, progress: Arc<Progress>) -> Self {
        let starting = Arc::new(AtomicBool::new(true));
        let restarted = Arc::new(AtomicBool::new(progress.position().index > Some(1)));
        Self { state, progress, starting, restarted }
    }

    /// Is called once consensus has started.
    pub(crate) fn started(&self) {
        self.starting.store(false, Ordering::Release);
    }

    fn apply_entries(&self, mut ready: Ready) -> io::Result<()> {
        self.spoil(&mut ready)?;
        let begun = std::time::Instant::now();
        let metrics = Arc::clone(self.progress.metrics());
        let applied = if ready.bytes >= APPLY_BYTES_LONG || self.state.is_behind() {
            super::offload::in_place(|| self.state.apply(&ready.entries))
        } else {
            self.state.apply(&ready.entries)
        };
        let applied = applied.map_err(io::Error::other)?;
        if applied.len() != ready.entries.len() {
            return Err(io::Error::other("the state answered another number of entries"));
        }
        let mut position = self.progress.position();
        let outcomes = ready.entries.iter().zip(applied).zip(ready.responders);
        for (((id, _), entry), responder) in outcomes {
            position = AppliedPosition { index: Some(id.index), revision: entry.head.revision };
            self.progress.record(id.index, entry.head.hash).map_err(io::Error::other)?;
            self.progress.publish(entry.events, entry.head.revision);
            metrics.apply_entries.inc();
            metrics.apply_commands.inc_by(entry.replies.len() as u64);
            if let Some(responder) = responder {
                responder.send(Response { replies: entry.replies });
            }
        }
        self.progress.advance(position);
        metrics.apply_seconds.observe(begun.elapsed().as_secs_f64());
        Ok(())
    }

    /// Planted bugs of apply.
    fn spoil(&self, ready: &mut Ready) -> io::Result<()> {
        if planted::is(Bug::SkipOneApply) {
            for ((id, payload), responder) in ready.entries.iter_mut().zip(&ready.responders) {
                if responder.is_none() && id.index % 64 == 0 {
                    *payload = Payload::Blank;
                }
            }
        }
        if planted::is(Bug::ApplyTwice)
            && ready.entries.iter().any(|(_, payload)| matches!(payload, Payload::Batch(_)))
            && self.restarted.swap(false, Ordering::Relaxed)
        {
            self.state.apply(&ready.entries).map_err(io::Error::other)?;
        }
        Ok(())
    }

    fn applied(&self) -> io::Result<Applied> {
        Ok(self.state.view().map_err(io::Error::other)?.applied())
    }

    /// A snapshot of the state as it is.
    fn current(&self) -> io::Result<Snapshot<SnapshotBody>> {
        let reader = self.state.snapshot().map_err(io::Error::other)?;
        let (applied, _) = reader.header();
        let meta = convert::applied_to_meta(&applied).map_err(io::Error::other)?;
        Ok(Snapshot { meta, snapshot: SnapshotBody::Outgoing(Box::new(reader)) })
    }
}

/// Entries that are applied together.
#[derive(Default)]
struct Ready {
    entries: Vec<(keelstone_store::disk::LogId, Payload)>,
    responders: Vec<Option<ApplyResponder<Types>>>,
    bytes: usize,
}

impl Ready {
    fn push(&mut self, item: io::Result<EntryResponder<Types>>) -> io::Result<()> {
        let (entry, responder): (Entry, _) = item?;
        let (id, payload) = convert::entry_to_state(&entry).map_err(io::Error::other)?;
        if let Payload::Batch(batch) = &payload {
            self.bytes += batch.len();
        }
        self.entries.push((id, payload));
        self.responders.push(responder);
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.entries.len() >= APPLY_ENTRIES_MAX || self.bytes >= APPLY_BYTES_MAX
    }
}

impl RaftStateMachine<Types> for StateMachine {
    type SnapshotData = SnapshotBody;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let meta = convert::applied_to_meta(&self.applied()?).map_err(io::Error::other)?;
        Ok((meta.last_log_id, meta.last_membership))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(first) = entries.next().await {
            let mut ready = Ready::default();
            ready.push(first)?;
            while !ready.is_full() {
                let Some(Some(item)) = entries.next().now_or_never() else { break };
                ready.push(item)?;
            }
            #[cfg(feature = "simulation")]
            self.progress.pace().await;
            self.apply_entries(ready)?;
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotBody,
    ) -> Result<(), io::Error> {
        let finished = snapshot.into_finished(&self.state)?;
        self.state.install(finished).map_err(io::Error::other)?;
        let revision = self.state.view().map_err(io::Error::other)?.head().revision;
        let index = meta.last_log_id.map(|id| id.index);
        self.progress.replace(AppliedPosition { index, revision });
        tracing::info!(index, revision = revision.get(), "state replaced by a snapshot");
        Ok(())
    }

    /// At the start the library takes what this contains for durable, and may
    /// let the log go up to there. It has just applied again what the log had
    /// beyond the last checkpoint, so that has to be made durable first. Later
    /// it only wants something to send, and apply should not wait for the disk.
    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<SnapshotBody>>, io::Error> {
        let current = self.current()?;
        if self.starting.load(Ordering::Acquire) {
            let state = Arc::clone(&self.state);
            super::offload::blocking(move || state.checkpoint()).await.map_err(io::Error::other)?;
        }
        Ok(Some(current).filter(|snapshot| snapshot.meta.last_log_id.is_some()))
    }
}

impl RaftSnapshotBuilder<Types> for StateMachine {
    type SnapshotData = SnapshotBody;

    /// Makes the state durable: from then on the log below it may go. The
    /// data of a snapshot is read from the state when a peer needs it.
    async fn build_snapshot(&mut self) -> Result<Snapshot<SnapshotBody>, io::Error> {
        let current = self.current()?;
        let state = Arc::clone(&self.state);
        // After the view was taken, so that all of it is durable.
        super::offload::blocking(move || state.checkpoint()).await.map_err(io::Error::other)?;
        Ok(current)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::changes::ChangeLog;
    use keelstone_store::Revision;
    use keelstone_store::disk::{LogId as StoreLogId, MemoryDisk};

    #[tokio::test]
    async fn what_counts_as_a_snapshot_at_the_start_survives_a_power_cut() {
        let disk = MemoryDisk::default();
        let offered = {
            let state = Arc::new(State::open_in_memory(&disk).unwrap());
            let id = StoreLogId { term: 1, index: 0, leader: 0 };
            state.apply(&[(id, Payload::Blank)]).unwrap();
            let changes = Arc::new(ChangeLog::new(Revision::FIRST, 1024));
            let progress = Arc::new(Progress::new(AppliedPosition::default(), changes));
            let mut machine = StateMachine::new(state, progress);
            machine.get_current_snapshot().await.unwrap().unwrap().meta.last_log_id
        };
        disk.crash();
        let state = State::open_in_memory(&disk).unwrap();
        let left = state.view().unwrap().applied().id;
        assert_eq!(left.map(convert::log_id_from_store), offered);
    }
}
