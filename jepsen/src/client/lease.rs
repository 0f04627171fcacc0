//! Leases by raw calls, each recorded.

use super::actor::Actor;
use super::classify::Failure;
use super::raw::{Raw, once, within};
use super::wire;
use keelstone_jepsen::history::{LeaseGrant, LeaseRenew, LeaseRevoke, LeaseTtl, Op};
use keelstone_proto::v1;
use std::time::Duration;

impl Actor {
    /// A new lease; its number.
    pub(crate) async fn lease_grant(&mut self, ttl_ms: u64) -> Result<u64, Failure> {
        let op = LeaseGrant { lease: 0, ttl_ms, granted_ms: None };
        let attempt = |raw: Raw, timeout| async move {
            let request = v1::LeaseGrantRequest { ttl_ms, ..v1::LeaseGrantRequest::default() };
            once(timeout, raw.leases().grant(within(timeout, request))).await
        };
        let done = |reply: &v1::LeaseGrantResponse| {
            let (lease, granted_ms) = (reply.id.cast_unsigned(), Some(reply.ttl_ms));
            Op::LeaseGrant(LeaseGrant { lease, ttl_ms, granted_ms })
        };
        let reply = self.operation(Op::LeaseGrant(op), false, attempt, done).await?;
        Ok(reply.id.cast_unsigned())
    }

    /// Gives a lease its full time again; `false` if there is none any more.
    pub(crate) async fn lease_renew(&mut self, lease: u64) -> Result<bool, Failure> {
        let op = LeaseRenew { lease, ttl_ms: None };
        let attempt = |raw: Raw, timeout| renew(raw, timeout, lease);
        let done = |ttl_ms: &u64| Op::LeaseRenew(LeaseRenew { lease, ttl_ms: Some(*ttl_ms) });
        Ok(self.operation(Op::LeaseRenew(op), false, attempt, done).await? > 0)
    }

    /// Ends a lease.
    pub(crate) async fn lease_revoke(&mut self, lease: u64) -> Result<(), Failure> {
        let op = LeaseRevoke { lease, revision: None };
        let attempt = |raw: Raw, timeout| async move {
            let request = v1::LeaseRevokeRequest { id: lease.cast_signed(), write_id: None };
            once(timeout, raw.leases().revoke(within(timeout, request))).await
        };
        let done = |reply: &v1::LeaseRevokeResponse| {
            let revision = Some(wire::revision(reply.header.as_ref()));
            Op::LeaseRevoke(LeaseRevoke { lease, revision })
        };
        self.operation(Op::LeaseRevoke(op), false, attempt, done).await.map(|_| ())
    }

    /// Asks for the time left; `None` if there is no such lease.
    pub(crate) async fn lease_ttl(&mut self, lease: u64) -> Result<Option<u64>, Failure> {
        let op = LeaseTtl { lease, ..LeaseTtl::default() };
        let attempt = |raw: Raw, timeout| async move {
            let request = v1::LeaseTimeToLiveRequest { id: lease.cast_signed(), keys: false };
            once(timeout, raw.leases().time_to_live(within(timeout, request))).await
        };
        let done = |reply: &v1::LeaseTimeToLiveResponse| {
            let (found, remaining_ms) = (Some(reply.found), Some(reply.remaining_ms));
            Op::LeaseTtl(LeaseTtl { lease, found, remaining_ms })
        };
        let reply = self.operation(Op::LeaseTtl(op), true, attempt, done).await?;
        Ok(reply.found.then_some(reply.remaining_ms))
    }
}

/// One renewal: a stream of one request and one answer.
async fn renew(raw: Raw, timeout: Duration, lease: u64) -> Result<u64, Failure> {
    let request = v1::LeaseKeepAliveRequest { id: lease.cast_signed() };
    let asking = async {
        let mut leases = raw.leases();
        let opened = leases.keep_alive(tokio_stream::iter([request])).await;
        let mut answers = opened.map_err(|status| Failure::of(&status))?.into_inner();
        match answers.message().await {
            Ok(Some(answer)) => Ok(answer.ttl_ms),
            Ok(None) => Err(Failure::timeout()),
            Err(status) => Err(Failure::of(&status)),
        }
    };
    tokio::time::timeout(timeout, asking).await.unwrap_or_else(|_| Err(Failure::timeout()))
}
