//! Sessions: what gives writes an identity.

use super::context::Context;
use super::status::{self, Failure};
use keelstone_proto::v1::sessions_server::Sessions;
use keelstone_proto::v1::{
    SessionCloseRequest, SessionCloseResponse, SessionOpenRequest, SessionOpenResponse,
};
use keelstone_store::SessionId;
use keelstone_store::limits::{SESSION_TTL_MS_MAX, SESSION_TTL_MS_MIN};
use keelstone_store::machine::Command;
use rand::Rng as _;
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// How long an idle session is remembered if the client does not say.
const TTL_MS: u64 = 600_000;

pub(super) struct SessionService(pub(super) Arc<Context>);

#[tonic::async_trait]
impl Sessions for SessionService {
    async fn open(
        &self,
        request: Request<SessionOpenRequest>,
    ) -> Result<Response<SessionOpenResponse>, Status> {
        let deadline = self.0.deadline(&request);
        let asked = request.into_inner().ttl_ms;
        let ttl_ms = if asked == 0 { TTL_MS } else { asked.max(SESSION_TTL_MS_MIN) };
        if ttl_ms > SESSION_TTL_MS_MAX {
            let failure = Failure::too_large("ttl_ms", ttl_ms, SESSION_TTL_MS_MAX);
            return Err(status::of(failure.with_remedy("ask for a shorter time to live")));
        }
        let session = rand::rng().random_range(1..=u64::MAX);
        let command = Command::SessionOpen { id: SessionId(session), ttl_ms };
        let reply = self.0.propose(command, None, deadline).await?;
        let header = Some(self.0.header(reply.revision).await?);
        Ok(Response::new(SessionOpenResponse { header, session, ttl_ms }))
    }

    async fn close(
        &self,
        request: Request<SessionCloseRequest>,
    ) -> Result<Response<SessionCloseResponse>, Status> {
        let deadline = self.0.deadline(&request);
        let id = SessionId(request.into_inner().session);
        let reply = self.0.propose(Command::SessionClose { id }, None, deadline).await?;
        let header = Some(self.0.header(reply.revision).await?);
        Ok(Response::new(SessionCloseResponse { header }))
    }
}
