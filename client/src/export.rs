//! A consistent copy of the whole store, as a stream, for backups.
//!
//! A stream that breaks is not resumed here: a copy begun anew may be of another
//! revision, so what was read has to be thrown away, and only the caller can do
//! that.

use crate::backoff::BackOff;
use crate::call::RESPONSE_BYTES_MAX;
use crate::client::Client;
use crate::cluster::Member;
use crate::status::{Failure, read_error};
use crate::{Error, ErrorKind, HistoryId, Outcome, Revision};
use bytes::Bytes;
use keelstone_proto::v1::{self, export_chunk::Chunk};
use std::fmt;
use std::time::{Duration, SystemTime};
use tokio::time::Instant;
use tonic::Streaming;

/// How long the stream may be silent.
const SILENCE_MAX: Duration = Duration::from_mins(1);

/// What is being copied.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ExportHeader {
    /// Names the cluster, 16 bytes.
    pub cluster_id: Bytes,
    /// The node that the copy comes from.
    pub node_id: u64,
    /// The history that the revision counts in.
    pub history: HistoryId,
    /// The revision of the copy.
    pub revision: Revision,
    /// History below this revision is gone.
    pub compact_revision: Revision,
    /// The hash over all transitions.
    pub state_hash: Bytes,
    /// How many transitions the hash covers.
    pub transitions: u64,
    /// The cluster's time.
    pub time: SystemTime,
    /// The level of features in force.
    pub feature_level: u32,
    /// About how many bytes will follow.
    pub estimated_bytes: u64,
    /// The raft term of the last entry that the copy contains.
    pub raft_term: u64,
    /// Its index.
    pub raft_index: u64,
    /// The replicas.
    pub members: Vec<Member>,
}

impl From<v1::ExportHeader> for ExportHeader {
    fn from(wire: v1::ExportHeader) -> Self {
        let header = wire.header.unwrap_or_default();
        Self {
            cluster_id: header.cluster_id,
            node_id: header.node_id,
            history: HistoryId::from_wire(&header.history),
            revision: wire.revision.into(),
            compact_revision: wire.compact_revision.into(),
            state_hash: wire.state_hash,
            transitions: wire.transitions,
            time: crate::types::time_of(wire.time_ms),
            feature_level: wire.feature_level,
            estimated_bytes: wire.estimated_bytes,
            raft_term: wire.raft_term,
            raft_index: wire.raft_index,
            members: wire.members.into_iter().map(Into::into).collect(),
        }
    }
}

/// What the copy must have been.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExportTrailer {
    /// How many rows there were.
    pub rows: u64,
    /// BLAKE3 over the sorted live records; equal on every replica and after
    /// every restore.
    pub state_root: Bytes,
    /// BLAKE3 over the bytes of all rows, in order.
    pub hash: Bytes,
}

/// A piece of the copy.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub enum ExportPart {
    /// A framed run of rows, sorted by key; at most 4 MiB.
    Rows(Bytes),
    /// The last part. A copy without it is not complete.
    Trailer(ExportTrailer),
}

impl fmt::Debug for ExportPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rows(rows) => write!(f, "Rows({} bytes)", rows.len()),
            Self::Trailer(trailer) => f.debug_tuple("Trailer").field(trailer).finish(),
        }
    }
}

/// A copy of the store; made by [`Cluster::export`](crate::Cluster::export).
#[derive(Debug)]
pub struct Export {
    header: ExportHeader,
    stream: Streaming<v1::ExportChunk>,
    done: bool,
}

impl Export {
    /// Finds a node that begins one, within the client's timeout.
    pub(crate) async fn start(client: &Client, revision: Option<Revision>) -> Result<Self, Error> {
        let deadline = Instant::now() + client.options().timeout;
        let mut back_off = BackOff::of_calls();
        loop {
            let chosen = client.endpoints().leader();
            let begun = begin(chosen.endpoint.streams(), revision);
            let failure = match tokio::time::timeout_at(deadline, begun).await {
                Ok(Ok((header, stream))) => return Ok(Self { header, stream, done: false }),
                Ok(Err(status)) => Failure::of(&status),
                Err(_elapsed) => Failure::silent(chosen.endpoint.address()),
            };
            client.endpoints().note(&chosen, &failure);
            if !failure.transient {
                return Err(failure.into_error(Outcome::NotApplied));
            }
            let pause = back_off.step();
            if Instant::now() + pause >= deadline {
                return Err(failure.into_deadline_error(Outcome::NotApplied));
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// What is being copied.
    pub fn header(&self) -> &ExportHeader {
        &self.header
    }

    /// The next part; `None` after the trailer.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unavailable`] if the stream broke off: throw away what was
    /// read, and begin anew.
    pub async fn next(&mut self) -> Result<Option<ExportPart>, Error> {
        if self.done {
            return Ok(None);
        }
        let message = tokio::time::timeout(SILENCE_MAX, self.stream.message()).await;
        let chunk = match message {
            Ok(Ok(Some(chunk))) => chunk.chunk,
            Ok(Ok(None)) => return Err(broken("it ended without its trailer")),
            Ok(Err(status)) => return Err(read_error(&status)),
            Err(_elapsed) => return Err(broken("it fell silent")),
        };
        match chunk {
            Some(Chunk::Rows(rows)) => Ok(Some(ExportPart::Rows(rows))),
            Some(Chunk::Trailer(trailer)) => {
                self.done = true;
                Ok(Some(ExportPart::Trailer(ExportTrailer {
                    rows: trailer.rows,
                    state_root: trailer.state_root,
                    hash: trailer.hash,
                })))
            }
            Some(Chunk::Header(_)) | None => Err(broken("it has an unexpected part")),
        }
    }
}

async fn begin(
    channel: tonic::transport::Channel,
    revision: Option<Revision>,
) -> Result<(ExportHeader, Streaming<v1::ExportChunk>), tonic::Status> {
    let mut stub =
        v1::export_client::ExportClient::new(channel).max_decoding_message_size(RESPONSE_BYTES_MAX);
    let revision = revision.unwrap_or_default().get();
    let mut stream = stub.export(v1::ExportRequest { revision }).await?.into_inner();
    match stream.message().await?.and_then(|chunk| chunk.chunk) {
        Some(Chunk::Header(header)) => Ok((header.into(), stream)),
        _ => Err(tonic::Status::unavailable("the copy does not begin with its header")),
    }
}

fn broken(how: &str) -> Error {
    let message = format!("the copy broke off: {how}");
    Error::new(ErrorKind::Unavailable, Outcome::NotApplied, message)
}
