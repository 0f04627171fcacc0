//! Snapshots that arrive: written to a side directory while the old state goes
//! on serving, then handed to consensus, which swaps them in.

use super::convert;
use super::offload;
use super::runtime;
use super::service::Running;
use super::snapshot::{self, SendLimits, SnapshotBody};
use super::types::Snapshot;
use futures::{Stream, StreamExt as _};
use keelstone_proto::{disk, peer};
use keelstone_store::machine::codec;
use keelstone_store::state::{Applied, FinishedSnapshot, SnapshotTrailer, SnapshotWriter, State};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tonic::{Status, Streaming};

/// How long a sender may be silent before its snapshot is given up.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Takes snapshots, one at a time.
pub(crate) struct Receiver {
    slot: Semaphore,
}

impl Default for Receiver {
    fn default() -> Self {
        Self { slot: Semaphore::new(1) }
    }
}

impl Receiver {
    /// Takes a snapshot from the leader and installs it. Returns this node's
    /// vote, which tells the leader whether it still leads.
    pub(crate) async fn install(
        &self,
        running: &Running,
        header: peer::SnapshotHeader,
        chunks: Streaming<peer::SnapshotChunk>,
    ) -> Result<disk::Vote, Status> {
        let _slot = self
            .slot
            .try_acquire()
            .map_err(|_| Status::resource_exhausted("another snapshot is being installed"))?;
        let vote = convert::vote_from_proto(header.vote).map_err(invalid)?;
        let applied = applied_of(&header)?;
        let offered = applied.id.map(|id| id.index);
        if running.progress.position().index >= offered {
            // What it contains is committed, and this node has it already.
            return Ok(running.vote());
        }
        let meta = convert::applied_to_meta(&applied).map_err(invalid)?;
        tracing::info!(index = offered, "receiving a snapshot");
        let finished = write(&running.state, &header, applied, chunks).await?;
        running.progress.metrics().snapshots_received.inc();
        let snapshot = Snapshot { meta, snapshot: SnapshotBody::Incoming(Box::new(finished)) };
        let call = running.consensus.raft().install_full_snapshot(vote, snapshot);
        let response = Box::pin(runtime::enter(running.node_id, call))
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(convert::vote_to_proto(&response.vote))
    }
}

/// Takes a snapshot that this node asked for while it has no state of its own.
///
/// # Errors
///
/// Fails if it does not arrive whole.
pub(crate) async fn take(
    state: &Arc<State>,
    mut chunks: Streaming<peer::SnapshotChunk>,
) -> Result<(FinishedSnapshot, Applied), Status> {
    let header = chunks
        .message()
        .await?
        .and_then(|chunk| chunk.header)
        .ok_or_else(|| Status::data_loss("a snapshot without header"))?;
    let applied = applied_of(&header)?;
    let finished = write(state, &header, applied.clone(), chunks).await?;
    Ok((finished, applied))
}

/// The state of this node as chunks.
pub(crate) fn serve(
    state: &State,
    limits: SendLimits,
) -> Result<impl Stream<Item = Result<peer::SnapshotChunk, Status>> + Send + use<>, Status> {
    let reader = state.snapshot().map_err(|error| Status::unavailable(error.to_string()))?;
    let header = peer::SnapshotHeader { address: None, vote: None, applied: None, head: None };
    let (sender, receiver) = mpsc::channel(snapshot::CHUNKS_AHEAD);
    runtime::spawn(async move {
        let body = SnapshotBody::Outgoing(Box::new(reader));
        if let Err(error) = snapshot::send(body, header, sender, limits).await {
            tracing::error!(%error, "a snapshot for a peer was not sent");
        }
    });
    Ok(tokio_stream::wrappers::ReceiverStream::new(receiver).map(Ok))
}

fn invalid<E: std::fmt::Display>(error: E) -> Status {
    Status::invalid_argument(format!("a snapshot's header: {error}"))
}

fn applied_of(header: &peer::SnapshotHeader) -> Result<Applied, Status> {
    let applied = header.applied.as_ref().ok_or_else(|| invalid("no position"))?;
    Ok(convert::applied_from_proto(applied))
}

async fn write(
    state: &Arc<State>,
    header: &peer::SnapshotHeader,
    applied: Applied,
    mut chunks: Streaming<peer::SnapshotChunk>,
) -> Result<FinishedSnapshot, Status> {
    let head = header.head.as_ref().ok_or_else(|| invalid("no head"))?;
    let head = codec::head_from_proto(head).map_err(invalid)?;
    let store = Arc::clone(state);
    let mut writer = offload::blocking(move || store.begin_install(applied, head))
        .await
        .map_err(|error| Status::internal(error.to_string()))?;
    loop {
        let chunk = tokio::time::timeout(SILENCE_MAX, chunks.message())
            .await
            .map_err(|_| Status::deadline_exceeded("the sender of a snapshot went silent"))??
            .ok_or_else(|| Status::data_loss("a snapshot ended without trailer"))?;
        let (returned, finished) = offload::blocking(move || step(writer, chunk))
            .await
            .map_err(|error| refused(&error))?;
        match (returned, finished) {
            (_, Some(finished)) => return Ok(finished),
            (Some(next), None) => writer = next,
            (None, None) => return Err(Status::internal("a snapshot without writer")),
        }
    }
}

type Step = (Option<SnapshotWriter>, Option<FinishedSnapshot>);

fn step(mut writer: SnapshotWriter, chunk: peer::SnapshotChunk) -> io::Result<Step> {
    if !chunk.rows.is_empty() {
        writer.write(chunk.rows).map_err(io::Error::other)?;
    }
    let Some(trailer) = chunk.trailer else { return Ok((Some(writer), None)) };
    let hash = <[u8; 32]>::try_from(&trailer.hash[..])
        .map_err(|_| io::Error::other("a snapshot's hash has 32 bytes"))?;
    let trailer = SnapshotTrailer { rows: trailer.rows, hash };
    Ok((None, Some(writer.finish(&trailer).map_err(io::Error::other)?)))
}

fn refused(error: &io::Error) -> Status {
    tracing::warn!(%error, "a snapshot was not usable");
    Status::data_loss(error.to_string())
}
