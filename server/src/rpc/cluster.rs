//! The replicas themselves.

use super::context::Context;
use super::convert::Malformed;
use super::status;
use crate::core::MemberStatus;
use keelstone_proto::v1::cluster_server::Cluster;
use keelstone_proto::v1::{
    AppliedMembership, DrainRequest, DrainResponse, Member, MemberAddRequest, MemberAddResponse,
    MemberPromoteRequest, MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse,
    MembersRequest, MembersResponse, ResponseHeader, StatusRequest, StatusResponse,
    TransferRequest, TransferResponse, member::Role,
};
use keelstone_store::machine::View as _;
use keelstone_store::state::Applied;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tonic::{Request, Response, Status};
use tracing::Span;

pub(super) struct ClusterService(pub(super) Arc<Context>);

impl ClusterService {
    /// How long is left, for calls that take a duration.
    fn time_left<T>(&self, request: &Request<T>) -> Duration {
        self.0.deadline(request).saturating_duration_since(Instant::now())
    }

    async fn header(&self) -> Result<ResponseHeader, Status> {
        let soon = Instant::now() + self.0.limits.request_timeout;
        let (_, header) =
            self.0.read(keelstone_proto::v1::Consistency::Serializable.into(), soon).await?;
        Ok(header)
    }
}

/// The membership that a state contains.
fn applied_membership(applied: &Applied) -> AppliedMembership {
    let membership = &applied.membership;
    let voters: BTreeSet<u64> =
        membership.configs.iter().flat_map(|set| set.ids.iter().copied()).collect();
    let members = membership.members.iter().map(|member| member.id);
    AppliedMembership {
        log_index: membership.log_id.as_ref().map_or(0, |id| id.index),
        learners: members.filter(|id| !voters.contains(id)).collect(),
        voters: voters.into_iter().collect(),
    }
}

/// The replicas as a node knows them, in the form of the API.
pub(super) fn members_to_proto(members: Vec<MemberStatus>, leader: Option<u64>) -> Vec<Member> {
    let member = |member: MemberStatus| Member {
        id: member.id,
        peer_address: member.peer_address,
        client_address: member.client_address,
        labels: member.labels,
        role: if member.voter { Role::Voter } else { Role::Learner }.into(),
        leader: leader == Some(member.id),
        lag: member.lag,
    };
    members.into_iter().map(member).collect()
}

fn named(id: u64) -> Result<u64, Status> {
    if id == 0 { Err(status::of(Malformed::new("id", "it is 0: name a member"))) } else { Ok(id) }
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn status(
        &self,
        _request: Request<StatusRequest>,
    ) -> Result<Response<StatusResponse>, Status> {
        let soon = Instant::now() + self.0.limits.request_timeout;
        let serializable = keelstone_proto::v1::Consistency::Serializable.into();
        let (view, header) = self.0.read(serializable, soon).await?;
        let (core, head, facts) = (self.0.core.status(), view.head(), &self.0.facts);
        let problems = core.problems.into_iter().chain(facts.problems());
        // Its term and its leader are of one moment.
        let header = ResponseHeader { term: core.term, ..header };
        Ok(Response::new(StatusResponse {
            header: Some(header),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            leader: core.leader.unwrap_or(0),
            role: core.role.to_owned(),
            last_log_index: core.last_log_index,
            committed_index: core.committed_index,
            applied_index: core.applied_index,
            snapshot_index: core.snapshot_index,
            purged_index: core.purged_index,
            compact_revision: head.compacted.get(),
            state_hash: bytes::Bytes::copy_from_slice(&head.hash),
            transitions: head.transitions,
            state_bytes: (facts.state_bytes)(),
            log_bytes: core.log_bytes,
            engine: facts.engine.to_owned(),
            problems: problems.collect(),
            feature_level: head.feature_level,
            time_ms: head.now.0,
        }))
    }

    async fn members(
        &self,
        request: Request<MembersRequest>,
    ) -> Result<Response<MembersResponse>, Status> {
        let deadline = self.0.deadline(&request);
        // The read makes sure that this node has applied the last change.
        let (view, header) = self.0.read(request.into_inner().consistency, deadline).await?;
        let members = members_to_proto(self.0.core.members(), self.0.core.status().leader);
        let applied = Some(applied_membership(&view.applied()));
        Ok(Response::new(MembersResponse { header: Some(header), members, applied }))
    }

    async fn add(
        &self,
        request: Request<MemberAddRequest>,
    ) -> Result<Response<MemberAddResponse>, Status> {
        Span::current().record("command", "member_add");
        let timeout = self.time_left(&request);
        let request = request.into_inner();
        for (field, address) in
            [("peer_address", &request.peer_address), ("client_address", &request.client_address)]
        {
            if crate::config::check_address(address).is_err() {
                return Err(status::of(Malformed::new(field, "it is not HOST:PORT")));
            }
        }
        let member = MemberStatus {
            id: request.id,
            peer_address: request.peer_address,
            client_address: request.client_address,
            labels: request.labels,
            voter: false,
            lag: None,
        };
        let added = self.0.core.add_member(member, request.promote, timeout).await;
        let id = added.map_err(status::of)?;
        Ok(Response::new(MemberAddResponse { header: Some(self.header().await?), id }))
    }

    async fn promote(
        &self,
        request: Request<MemberPromoteRequest>,
    ) -> Result<Response<MemberPromoteResponse>, Status> {
        Span::current().record("command", "member_promote");
        let timeout = self.time_left(&request);
        let MemberPromoteRequest { id, force } = request.into_inner();
        let promoted = self.0.core.promote_member(named(id)?, force, timeout).await;
        promoted.map_err(status::of)?;
        Ok(Response::new(MemberPromoteResponse { header: Some(self.header().await?) }))
    }

    async fn remove(
        &self,
        request: Request<MemberRemoveRequest>,
    ) -> Result<Response<MemberRemoveResponse>, Status> {
        Span::current().record("command", "member_remove");
        let timeout = self.time_left(&request);
        let MemberRemoveRequest { id, force } = request.into_inner();
        let removed = self.0.core.remove_member(named(id)?, force, timeout).await;
        removed.map_err(status::of)?;
        Ok(Response::new(MemberRemoveResponse { header: Some(self.header().await?) }))
    }

    async fn transfer(
        &self,
        request: Request<TransferRequest>,
    ) -> Result<Response<TransferResponse>, Status> {
        Span::current().record("command", "transfer");
        let timeout = self.time_left(&request);
        let to = Some(request.into_inner().to).filter(|to| *to != 0);
        let transferred = self.0.core.transfer_leader(to, timeout).await;
        let leader = transferred.map_err(status::of)?;
        Ok(Response::new(TransferResponse { header: Some(self.header().await?), leader }))
    }

    async fn drain(
        &self,
        request: Request<DrainRequest>,
    ) -> Result<Response<DrainResponse>, Status> {
        Span::current().record("command", "drain");
        let timeout = self.time_left(&request);
        let DrainRequest { id, undo } = request.into_inner();
        let drained = self.0.core.drain_member(named(id)?, undo, timeout).await;
        drained.map_err(status::of)?;
        Ok(Response::new(DrainResponse { header: Some(self.header().await?) }))
    }
}
