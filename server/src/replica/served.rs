//! The replica as the services above it see it.

use super::running::Replica;
use crate::changes::ChangeLog;
use crate::core::{
    AdminError, Consistency, Core, CoreStatus, Identity, LeaderHint, MemberStatus, ProposeError,
    ReadError,
};
use crate::metrics::Reason;
use async_trait::async_trait;
use keelstone_store::Revision;
use keelstone_store::machine::{Command, Envelope, Outcome, Reply, View as _};
use keelstone_store::planted::{self, Bug};
use keelstone_store::state::StateView;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

#[async_trait]
impl Core for Replica {
    fn identity(&self) -> Identity {
        self.core_identity()
    }

    fn status(&self) -> CoreStatus {
        self.core_status()
    }

    fn term(&self) -> u64 {
        self.leadership.borrow().term
    }

    fn leader_hint(&self) -> LeaderHint {
        self.hint()
    }

    async fn propose(&self, command: Envelope, deadline: Instant) -> Result<Reply, ProposeError> {
        let proposed = if planted::is(Bug::LeaseRenewedByDeposed) {
            self.propose_or_renew_here(&command, deadline).await
        } else {
            self.propose_envelope(&command, deadline).await
        };
        if let Err(error) = &proposed {
            self.count_refused(error);
        }
        proposed
    }

    async fn read(
        &self,
        consistency: Consistency,
        deadline: Instant,
    ) -> Result<StateView, ReadError> {
        if consistency == Consistency::Linearizable {
            self.parts.progress.metrics().reads.inc();
        }
        self.read_view(consistency, deadline).await
    }

    async fn wait_applied(&self, revision: Revision, deadline: Instant) -> Result<(), ReadError> {
        self.applied_revision(revision, deadline).await
    }

    fn members(&self) -> Vec<MemberStatus> {
        self.member_list()
    }

    async fn add_member(
        &self,
        member: MemberStatus,
        promote: bool,
        timeout: Duration,
    ) -> Result<u64, AdminError> {
        self.add(member, promote, timeout).await
    }

    async fn promote_member(
        &self,
        id: u64,
        force: bool,
        timeout: Duration,
    ) -> Result<(), AdminError> {
        self.promote(id, force, timeout).await
    }

    async fn remove_member(
        &self,
        id: u64,
        force: bool,
        timeout: Duration,
    ) -> Result<(), AdminError> {
        self.remove(id, force, timeout).await
    }

    async fn transfer_leader(&self, to: Option<u64>, timeout: Duration) -> Result<u64, AdminError> {
        self.transfer(to, timeout).await
    }

    async fn drain_member(&self, id: u64, undo: bool, timeout: Duration) -> Result<(), AdminError> {
        self.drain(id, undo, timeout).await
    }

    fn changes(&self) -> Arc<ChangeLog> {
        Arc::clone(self.parts.progress.changes())
    }
}

impl Replica {
    fn count_refused(&self, error: &ProposeError) {
        let reason = match error {
            ProposeError::NotLeader(_) => "not_leader",
            ProposeError::Overloaded { .. } => "overloaded",
            ProposeError::TooLarge { .. } => "too_large",
            ProposeError::NoSpace { .. } | ProposeError::NoSpaceAtLeader => "no_space",
            ProposeError::Stopping => "stopping",
            // Proposed: nobody refused it.
            ProposeError::Unknown(_) => return,
        };
        self.parts.progress.metrics().proposals_refused.get_or_create(&Reason { reason }).inc();
    }
}

impl Replica {
    /// The planted bug: this node's state has the lease, so it must be alive.
    async fn propose_or_renew_here(
        &self,
        command: &Envelope,
        deadline: Instant,
    ) -> Result<Reply, ProposeError> {
        let Command::LeaseRenew { ids } = &command.command else {
            return self.propose_envelope(command, deadline).await;
        };
        let patience = deadline.saturating_duration_since(Instant::now()) / 4;
        let proposed = tokio::time::timeout(patience, self.propose_envelope(command, deadline));
        let Ok(view) = self.parts.state.view() else { return Err(ProposeError::Stopping) };
        if let Ok(Ok(reply)) = proposed.await {
            return Ok(reply);
        }
        let ttl = |id| view.lease(id).ok().flatten().map_or(0, |lease| lease.ttl_ms);
        let renewed = ids.iter().map(|id| (*id, ttl(*id))).collect();
        let revision = view.head().revision;
        Ok(Reply { revision, outcome: Outcome::Renewed(renewed) })
    }
}
