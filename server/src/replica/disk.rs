//! Opens the log and the state of a node and makes them fit together.
//!
//! The log is what was promised; the state is a cache of it. A log that is
//! missing or damaged ends the start. A state that is missing, unreadable or too
//! old for the log is set aside and built anew: from the log if it reaches back
//! far enough, else from a peer.

use super::identity::{DataDir, NodeIdentity};
use super::settings::{Disk, ReplicaSettings};
use super::start::StartError;
use crate::core::MemberStatus;
use crate::raft::{Calls, Peers, blocking};
use keelstone_proto::peer;
use keelstone_store::disk::LogId;
use keelstone_store::disk::log::{FailureHook, Log, LogOptions, LogWriter};
use keelstone_store::disk::storage::{FileStorage, Storage};
use keelstone_store::state::State;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// How long to wait before asking peers for a state again.
const FETCH_PAUSE: Duration = Duration::from_secs(1);
/// How long, and how often, to wait for the log to be closed.
const LEAVING_PAUSE: Duration = Duration::from_millis(50);
const LEAVING_PAUSES: usize = 100;
/// How long a peer may take to say who it is.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// Opens the log.
pub(super) async fn open_log(
    dir: &DataDir,
    identity: &NodeIdentity,
    settings: &ReplicaSettings,
    disk: &Disk,
    on_failure: FailureHook,
) -> Result<(Log, LogWriter), StartError> {
    let storage: Arc<dyn Storage> = match disk {
        Disk::Simulated { log, .. } => Arc::clone(log),
        Disk::Real => {
            let files = open_files(&dir.log()).await.map_err(StartError::LogDir)?;
            Arc::new(files.with_direct_io(settings.log_direct_io))
        }
    };
    if identity.held_log && storage.list().map_err(StartError::LogDir)?.is_empty() {
        return Err(StartError::LogLost);
    }
    let options = LogOptions { on_failure: Some(on_failure), ..settings.log.clone() };
    Ok(Log::open(storage, options)?)
}

/// Opens the log's directory, which the replica before this one may just be
/// leaving.
async fn open_files(dir: &Path) -> io::Result<FileStorage> {
    let mut pauses = std::iter::repeat_n(LEAVING_PAUSE, LEAVING_PAUSES);
    loop {
        match FileStorage::open(dir) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => match pauses.next() {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(error),
            },
            opened => return opened,
        }
    }
}

/// Opens the state. One that cannot be used is set aside, and an empty one is
/// begun.
pub(super) fn open_state(
    dir: &DataDir,
    settings: &ReplicaSettings,
    disk: &Disk,
) -> Result<State, StartError> {
    if let Disk::Simulated { state, .. } = disk {
        return Ok(State::open_in_memory(state)?);
    }
    match State::open(&dir.state(), settings.engine, settings.state.clone()) {
        Ok(state) => Ok(state),
        Err(error) if error.is_lost() => {
            set_aside(dir, &error.to_string())?;
            Ok(State::open(&dir.state(), settings.engine, settings.state.clone())?)
        }
        Err(error) => Err(error.into()),
    }
}

fn set_aside(dir: &DataDir, reason: &str) -> Result<(), StartError> {
    let kept = State::set_aside(&dir.state(), reason).map_err(StartError::SetAside)?;
    tracing::error!(reason, kept = %kept.display(), "the state was set aside and is built anew");
    Ok(())
}

/// Makes the state fit the log, so that consensus can go on from both.
pub(super) async fn reconcile(
    log: &Log,
    state: &Arc<State>,
    identity: &NodeIdentity,
    sources: &Sources<'_>,
) -> Result<(), StartError> {
    state.format(identity.cluster_id)?;
    let purged = log.recovered().purged;
    let mut applied = state.view()?.applied().id;
    if purged.is_some() && applied.map(|id| id.index) < purged.map(|id| id.index) {
        tracing::error!(?applied, ?purged, "the log does not reach back to the state");
        applied = Some(sources.fetch(state, purged).await?);
    }
    if let Some(applied) = applied {
        cut_conflict(log, applied)?;
        // Consensus takes what the state contains for durable, and may let the
        // log go up to there.
        let state = Arc::clone(state);
        blocking(move || state.checkpoint()).await?;
    }
    Ok(())
}

/// Removes entries that the state proves to be superseded: at the applied
/// index there is one entry, and the state contains it.
fn cut_conflict(log: &Log, applied: LogId) -> Result<(), StartError> {
    let recovered = log.recovered();
    let first = recovered.purged.map_or(0, |id| id.index + 1);
    let Some(last) = recovered.last else { return Ok(()) };
    if last.index < applied.index || applied.index < first {
        return Ok(());
    }
    let from = applied.index.saturating_sub(1).max(first);
    let entries = log.read(from, applied.index + 1, usize::MAX)?;
    let Some(at) = entries.iter().find(|entry| entry.id.index == applied.index) else {
        return Ok(());
    };
    if at.id.term == applied.term {
        return Ok(());
    }
    let before = entries.first().map(|entry| entry.id).filter(|id| id.index < applied.index);
    tracing::warn!(index = applied.index, "the log's end was superseded and is cut");
    Ok(log.truncate_after(before.or(recovered.purged))?)
}

/// Where a node gets a state from that has none of its own.
pub(super) struct Sources<'a> {
    pub(super) calls: &'a Calls,
    pub(super) peers: &'a Peers,
    pub(super) members: &'a [MemberStatus],
}

impl Sources<'_> {
    /// Takes a state from a peer that contains `least`. Tries until one has it.
    async fn fetch(&self, state: &Arc<State>, least: Option<LogId>) -> Result<LogId, StartError> {
        if self.members.iter().all(|member| member.id == self.peers.node_id()) {
            return Err(StartError::NoSource);
        }
        loop {
            for member in self.members.iter().filter(|it| it.id != self.peers.node_id()) {
                match self.fetch_from(state, member, least).await? {
                    Ok(applied) => return Ok(applied),
                    Err(problem) => {
                        let address = &member.peer_address;
                        tracing::warn!(%address, problem, "no state from this peer");
                    }
                }
            }
            tokio::time::sleep(FETCH_PAUSE).await;
        }
    }

    async fn fetch_from(
        &self,
        state: &Arc<State>,
        member: &MemberStatus,
        least: Option<LogId>,
    ) -> Result<Result<LogId, String>, StartError> {
        let address = member.peer_address.as_str();
        let request = peer::IdentifyRequest { from: self.peers.node_id(), ..Default::default() };
        let target = match self.calls.identify(address, request, ASK_TIMEOUT).await {
            Ok(response) => response.node_id,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let fetched = self.calls.fetch_snapshot(self.peers, (target, address), state).await;
        let (finished, applied) = match fetched {
            Ok(fetched) => fetched,
            Err(error) => return Ok(Err(error.to_string())),
        };
        let Some(id) = applied.id.filter(|id| Some(id.index) >= least.map(|id| id.index)) else {
            return Ok(Err("its state is older than this node's log".to_owned()));
        };
        state.install(finished)?;
        tracing::info!(index = id.index, address, "took over the state of a peer");
        Ok(Ok(id))
    }
}
