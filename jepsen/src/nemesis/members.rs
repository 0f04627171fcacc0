//! Changes of the membership: a new member on an empty disk for an old one.

use super::fault::{Fault, Who};
use super::strike::Nemesis;
use crate::client::{Class, Failure, Raw, once, within};
use crate::node::{CLIENT_PORT, PEER_PORT};
use anyhow::Result;
use keelstone_jepsen::history::{FaultPhase, MemberAction, MemberChange, Op};
use keelstone_proto::v1;
use std::time::Duration;
use tokio::time::Instant;

/// How long one call may take.
const CALL: Duration = Duration::from_secs(5);
/// How long a new member may take to become a voter.
const PROMOTION: Duration = Duration::from_secs(20);
/// How long a damaged replica may take to serve before it counts as lost.
const RECOVERY: Duration = Duration::from_secs(4);

impl Nemesis {
    /// Puts a new member in the place of `old`, which leaves for good. Says how
    /// far that came.
    pub(super) async fn replace(&mut self, old: u64) -> String {
        match self.try_replace(old).await {
            Ok(new) => format!("replaced by {new}"),
            Err(error) => format!("{error:#}"),
        }
    }

    async fn try_replace(&mut self, old: u64) -> Result<u64> {
        let new = self.next_id;
        self.next_id += 1;
        let (address, endpoint) = {
            let mut nodes = self.nodes.lock().await;
            tokio::task::block_in_place(|| nodes.add_joining(new))?;
            // It has to be reachable to be added.
            nodes.start(new)?;
            (nodes.address(new), nodes.node(new)?.endpoint())
        };
        let added = self
            .change(MemberAction::Add, new, |raw| async move {
                let request = v1::MemberAddRequest {
                    id: new,
                    peer_address: format!("{address}:{PEER_PORT}"),
                    client_address: format!("{address}:{CLIENT_PORT}"),
                    promote: true,
                    ..v1::MemberAddRequest::default()
                };
                let mut cluster = raw.cluster();
                once(CALL, cluster.add(within(CALL, request))).await.map(|_| ())
            })
            .await;
        if let Err(failure) = added {
            // It may have been added; then it is a learner that never comes.
            let mut nodes = self.nodes.lock().await;
            let node = nodes.node(new)?;
            node.retire();
            node.kill()?;
            anyhow::bail!("not added: {}", failure.text());
        }
        if !self.becomes_voter(new).await {
            anyhow::bail!("{new} is no voter after {PROMOTION:?}; {old} stays");
        }
        let removed = self
            .change(MemberAction::Remove, old, |raw| async move {
                let request = v1::MemberRemoveRequest { id: old, force: true };
                let mut cluster = raw.cluster();
                once(CALL, cluster.remove(within(CALL, request))).await.map(|_| ())
            })
            .await;
        if let Err(failure) = removed {
            anyhow::bail!("{new} came, {old} not removed: {}", failure.text());
        }
        let mut nodes = self.nodes.lock().await;
        let node = nodes.node(old)?;
        node.retire();
        node.kill()?;
        let mut known = self.directory.nodes();
        known.retain(|(id, _)| *id != old);
        known.push((new, endpoint));
        self.directory.replace(known);
        Ok(new)
    }

    /// One change, at whoever leads, recorded; sent again only while it is known
    /// not to have happened.
    async fn change<F>(
        &self,
        action: MemberAction,
        member: u64,
        call: impl Fn(Raw) -> F,
    ) -> Result<(), Failure>
    where
        F: Future<Output = Result<(), Failure>>,
    {
        let mut last = Failure::timeout();
        for _ in 0..20 {
            let leader = self.directory.leader(Duration::from_millis(300)).await;
            let all = self.directory.all();
            let raw = all.iter().find(|raw| Some(raw.node) == leader);
            let Some(raw) = raw else {
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            };
            let op = Op::MemberChange(MemberChange { action, member });
            let process = self.recorder.new_process();
            let node = Some(raw.node);
            self.recorder.invoke(process, op.clone(), node);
            match call(raw.clone()).await {
                Ok(()) => {
                    self.recorder.ok(process, op, node);
                    return Ok(());
                }
                Err(failure) if failure.class == Class::Fail => {
                    self.recorder.fail(process, op, node, failure.text());
                    last = failure;
                }
                Err(failure) => {
                    self.recorder.info(process, op, node, failure.text());
                    return Err(failure);
                }
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Err(last)
    }

    async fn becomes_voter(&self, id: u64) -> bool {
        let until = Instant::now() + PROMOTION;
        while Instant::now() < until {
            for raw in self.directory.all() {
                let members = raw.members(Duration::from_millis(500)).await.unwrap_or_default();
                let voter = v1::member::Role::Voter;
                if members.iter().any(|member| member.id == id && member.role() == voter) {
                    return true;
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        false
    }

    /// What becomes of replicas whose files were damaged: those that serve stay,
    /// those that refuse are replaced.
    pub(super) async fn see_damaged(&mut self) {
        for id in self.damaged.clone() {
            if self.wait_serving(id, RECOVERY).await {
                self.damaged.remove(&id);
                continue;
            }
            let ended = {
                let mut nodes = self.nodes.lock().await;
                nodes.node(id).is_ok_and(|node| !node.unasked_exits().is_empty())
            };
            if ended && !self.is_held_down(id) {
                let outcome = self.try_replace(id).await;
                if outcome.is_ok() {
                    self.damaged.remove(&id);
                }
                let outcome = match outcome {
                    Ok(new) => format!("replaced by {new}"),
                    Err(error) => format!("{error:#}"),
                };
                let fault = Fault::Replace { who: Who::One(id) };
                let why = ("why", "it refuses to serve from damaged files".to_owned());
                self.note(&fault, FaultPhase::Once, &[id], &[why, ("outcome", outcome)]);
            }
        }
    }
}
