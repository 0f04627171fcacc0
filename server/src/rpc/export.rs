//! A consistent copy of the store, for backups.

use super::cluster::members_to_proto;
use super::context::Context;
use super::status::{self, Failure};
use futures::Stream;
use keelstone_proto::v1::export_chunk::Chunk;
use keelstone_proto::v1::export_server::Export;
use keelstone_proto::v1::{ExportChunk, ExportHeader, ExportRequest, ExportTrailer};
use keelstone_store::Revision;
use keelstone_store::machine::View as _;
use keelstone_store::state::{Export as Rows, StateView};
use std::pin::Pin;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;
use tonic::{Request, Response, Status};

pub(super) struct ExportService(pub(super) Arc<Context>);

type Chunks = Pin<Box<dyn Stream<Item = Result<ExportChunk, Status>> + Send>>;

#[tonic::async_trait]
impl Export for ExportService {
    type ExportStream = Chunks;

    async fn export(&self, request: Request<ExportRequest>) -> Result<Response<Chunks>, Status> {
        let deadline = self.0.deadline(&request);
        let permit = self.0.exports.clone().try_acquire_owned();
        let permit = permit.map_err(|_| status::too_many_requests("exports", 2))?;
        let (view, header) = self.0.read(0, deadline).await?;
        let revision = match request.into_inner().revision {
            0 => view.head().revision,
            asked => Revision::new(asked),
        };
        let rows = view.export_rows(revision).map_err(status::of)?;
        let header = self.header(&view, revision, header);
        let copy = Copy { part: Part::Header(Box::new(header)), rows: Some(rows), _permit: permit };
        let chunks = futures::stream::unfold(copy, |mut copy| async move {
            let chunk = copy.next().await?;
            Some((chunk, copy))
        });
        Ok(Response::new(Box::pin(chunks)))
    }
}

impl ExportService {
    fn header(
        &self,
        view: &StateView,
        revision: Revision,
        header: keelstone_proto::v1::ResponseHeader,
    ) -> ExportHeader {
        let (head, applied) = (view.head(), view.applied());
        let id = applied.id.unwrap_or_default();
        // The hash chain is known at the newest revision only.
        let newest = revision == head.revision;
        ExportHeader {
            header: Some(header),
            revision: revision.get(),
            compact_revision: head.compacted.get(),
            state_hash: if newest { head.hash.to_vec().into() } else { bytes::Bytes::new() },
            transitions: if newest { head.transitions } else { 0 },
            time_ms: head.now.0,
            feature_level: head.feature_level,
            estimated_bytes: (self.0.facts.state_bytes)(),
            raft_term: id.term,
            raft_index: id.index,
            members: members_to_proto(self.0.core.members(), self.0.core.status().leader),
        }
    }
}

/// What comes next.
enum Part {
    Header(Box<ExportHeader>),
    Rows(Box<blake3::Hasher>),
    Over,
}

/// An export in progress. The client's pace is its pace.
struct Copy {
    part: Part,
    /// `None` only while a chunk is being read.
    rows: Option<Rows>,
    _permit: OwnedSemaphorePermit,
}

impl Copy {
    async fn next(&mut self) -> Option<Result<ExportChunk, Status>> {
        match std::mem::replace(&mut self.part, Part::Over) {
            Part::Header(header) => {
                self.part = Part::Rows(Box::default());
                Some(Ok(ExportChunk { chunk: Some(Chunk::Header(*header)) }))
            }
            Part::Rows(hasher) => Some(self.rows(hasher).await),
            Part::Over => None,
        }
    }

    async fn rows(&mut self, mut hasher: Box<blake3::Hasher>) -> Result<ExportChunk, Status> {
        let failed =
            || status::of(Failure::refused(tonic::Code::Unavailable, "stopping", "the node stops"));
        let mut rows = self.rows.take().ok_or_else(failed)?;
        // A chunk is a megabyte of reading: too long for an async task.
        let read = tokio::task::spawn_blocking(move || (rows.next_chunk(), rows)).await;
        let (chunk, rows) = read.map_err(|_| failed())?;
        let chunk = if let Some(chunk) = chunk.map_err(status::of)? {
            hasher.update(&chunk.bytes);
            self.part = Part::Rows(hasher);
            Chunk::Rows(chunk.bytes)
        } else {
            let trailer = rows.trailer();
            Chunk::Trailer(ExportTrailer {
                rows: trailer.rows,
                state_root: trailer.state_root.to_vec().into(),
                hash: hasher.finalize().as_bytes().to_vec().into(),
            })
        };
        self.rows = Some(rows);
        Ok(ExportChunk { chunk: Some(chunk) })
    }
}
