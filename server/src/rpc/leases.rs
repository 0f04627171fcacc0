//! Leases: keys that are attached to one go when it ends.

use super::context::Context;
use super::convert::Malformed;
use super::status::{self, Failure};
use futures::{Stream, StreamExt as _};
use keelstone_proto::v1::leases_server::Leases;
use keelstone_proto::v1::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse,
    LeaseListRequest, LeaseListResponse, LeaseRevokeRequest, LeaseRevokeResponse,
    LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
};
use keelstone_store::LeaseId;
use keelstone_store::machine::{Command, Outcome, View as _};
use rand::Rng as _;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming};

/// Renewals that came together and are proposed together.
const RENEWALS_MAX: usize = 256;
/// Ids in one answer: the store's limit of leases, 8 bytes each.
const LIST_MAX: usize = 1_000_000;

pub(super) struct LeaseService(pub(super) Arc<Context>);

#[tonic::async_trait]
impl Leases for LeaseService {
    async fn grant(
        &self,
        request: Request<LeaseGrantRequest>,
    ) -> Result<Response<LeaseGrantResponse>, Status> {
        let deadline = self.0.deadline(&request);
        let LeaseGrantRequest { id, ttl_ms, write_id } = request.into_inner();
        if id < 0 {
            let problem = "it is negative: choose a positive one, or 0 to let the server choose";
            return Err(status::of(Malformed::new("id", problem)));
        }
        if ttl_ms == 0 {
            return Err(status::of(Malformed::new("ttl_ms", "it is 0: say how long")));
        }
        // Should a random id be in use, the grant is refused: no lease is shared.
        let id = if id == 0 { rand::rng().random_range(1..=i64::MAX) } else { id };
        let command = Command::LeaseGrant { id: LeaseId(id), ttl_ms };
        let reply = self.0.propose(command, write_id, deadline).await?;
        let Outcome::Lease { id, ttl_ms } = reply.outcome else {
            return Err(status::of(Failure::unexpected()));
        };
        let header = Some(self.0.header(reply.revision).await?);
        Ok(Response::new(LeaseGrantResponse { header, id: id.0, ttl_ms }))
    }

    type KeepAliveStream =
        Pin<Box<dyn Stream<Item = Result<LeaseKeepAliveResponse, Status>> + Send>>;

    async fn keep_alive(
        &self,
        request: Request<Streaming<LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::KeepAliveStream>, Status> {
        let renewals = Renewals {
            context: self.0.clone(),
            requests: request.into_inner().ready_chunks(RENEWALS_MAX),
            ready: VecDeque::new(),
            ended: false,
        };
        let answers = futures::stream::unfold(renewals, |mut renewals| async move {
            let answer = renewals.next().await?;
            Some((answer, renewals))
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn revoke(
        &self,
        request: Request<LeaseRevokeRequest>,
    ) -> Result<Response<LeaseRevokeResponse>, Status> {
        let deadline = self.0.deadline(&request);
        let LeaseRevokeRequest { id, write_id } = request.into_inner();
        let command = Command::LeaseRevoke { id: LeaseId(id) };
        let reply = self.0.propose(command, write_id, deadline).await?;
        let header = Some(self.0.header(reply.revision).await?);
        Ok(Response::new(LeaseRevokeResponse { header }))
    }

    async fn time_to_live(
        &self,
        request: Request<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        let deadline = self.0.deadline(&request);
        let LeaseTimeToLiveRequest { id, keys } = request.into_inner();
        let (view, header) = self.0.read(0, deadline).await?;
        let lease = view.lease(LeaseId(id)).map_err(status::of)?;
        let mut response = LeaseTimeToLiveResponse {
            header: Some(header),
            id,
            ..LeaseTimeToLiveResponse::default()
        };
        if let Some(lease) = lease {
            response.found = true;
            response.ttl_ms = lease.ttl_ms;
            response.remaining_ms = lease.expires.0.saturating_sub(view.head().now.0);
            if keys {
                let attached = view.lease_keys(lease.id).map_err(status::of)?;
                response.keys = attached.iter().map(keelstone_store::Key::name).collect();
            }
        }
        Ok(Response::new(response))
    }

    async fn list(
        &self,
        request: Request<LeaseListRequest>,
    ) -> Result<Response<LeaseListResponse>, Status> {
        let deadline = self.0.deadline(&request);
        let (view, header) = self.0.read(0, deadline).await?;
        let leases = view.leases(LeaseId::NONE, LIST_MAX).map_err(status::of)?;
        let ids = leases.into_iter().map(|lease| lease.id.0).collect();
        Ok(Response::new(LeaseListResponse { header: Some(header), ids }))
    }
}

/// Renews for each message, in order; those that came together share a command.
struct Renewals {
    context: Arc<Context>,
    requests: futures::stream::ReadyChunks<Streaming<LeaseKeepAliveRequest>>,
    ready: VecDeque<Result<LeaseKeepAliveResponse, Status>>,
    ended: bool,
}

impl Renewals {
    async fn next(&mut self) -> Option<Result<LeaseKeepAliveResponse, Status>> {
        loop {
            if let Some(answer) = self.ready.pop_front() {
                return Some(answer);
            }
            if self.ended {
                return None;
            }
            let requests = tokio::select! {
                requests = self.requests.next() => requests?,
                () = self.context.stopped() => {
                    self.ended = true;
                    return Some(Err(status::of(crate::core::ProposeError::Stopping)));
                }
            };
            self.renew(requests).await;
        }
    }

    async fn renew(&mut self, requests: Vec<Result<LeaseKeepAliveRequest, Status>>) {
        let mut ids = Vec::with_capacity(requests.len());
        let mut broken = None;
        for request in requests {
            match request {
                Ok(request) => ids.push(LeaseId(request.id)),
                Err(error) => {
                    broken = Some(Err(status::broken_stream(&error)));
                    break;
                }
            }
        }
        if !ids.is_empty() {
            match self.answers(ids).await {
                Ok(answers) => self.ready.extend(answers.into_iter().map(Ok)),
                Err(status) => broken = Some(Err(status)),
            }
        }
        self.ended = broken.is_some();
        self.ready.extend(broken);
    }

    async fn answers(&self, ids: Vec<LeaseId>) -> Result<Vec<LeaseKeepAliveResponse>, Status> {
        let deadline = Instant::now() + self.context.limits.request_timeout;
        let reply = self.context.propose(Command::LeaseRenew { ids }, None, deadline).await?;
        let Outcome::Renewed(renewed) = reply.outcome else {
            return Err(status::of(Failure::unexpected()));
        };
        let header = self.context.header(reply.revision).await?;
        let answer = |(id, ttl_ms): (LeaseId, u64)| LeaseKeepAliveResponse {
            header: Some(header.clone()),
            id: id.0,
            ttl_ms,
        };
        Ok(renewed.into_iter().map(answer).collect())
    }
}
