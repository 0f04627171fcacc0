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
    /// Puts a new member in the place of `old`, which leaves for good; its id.
    ///
    /// # Errors
    ///
    /// Fails with how far it came. Both may be members then.
    pub(super) async fn replace(&mut self, old: u64) -> Result<u64> {
        // What it is called until the cluster gives it an id.
        let made = self.next_id;
        self.next_id += 1;
        let (address, endpoint) = {
            let mut nodes = self.nodes.lock().await;
            tokio::task::block_in_place(|| nodes.add_joining(made))?;
            // It has to be reachable to be added.
            nodes.start(made)?;
            (nodes.address(made), nodes.node(made)?.endpoint())
        };
        let added = self
            .change(MemberAction::Add, 0, |raw| async move {
                let request = v1::MemberAddRequest {
                    peer_address: format!("{address}:{PEER_PORT}"),
                    client_address: format!("{address}:{CLIENT_PORT}"),
                    promote: true,
                    ..v1::MemberAddRequest::default()
                };
                let mut cluster = raw.cluster();
                Ok(once(CALL, cluster.add(within(CALL, request))).await?.id)
            })
            .await;
        let new = match added {
            Ok(new) => new,
            Err(failure) => {
                // It may have been added; then it is a learner that never comes.
                let mut nodes = self.nodes.lock().await;
                let node = nodes.node(made)?;
                node.retire();
                node.kill()?;
                anyhow::bail!("not added: {}", failure.text());
            }
        };
        self.nodes.lock().await.rename(made, new);
        if !self.becomes_voter(new).await {
            anyhow::bail!("{new} is no voter after {PROMOTION:?}; {old} stays");
        }
        // It may lead from now on.
        let mut known = self.directory.nodes();
        known.push((new, endpoint));
        self.directory.replace(known);
        let removed = self
            .change(MemberAction::Remove, old, |raw| async move {
                let request = v1::MemberRemoveRequest { id: old, force: true };
                let mut cluster = raw.cluster();
                once(CALL, cluster.remove(within(CALL, request))).await.map(|_| old)
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
    ) -> Result<u64, Failure>
    where
        F: Future<Output = Result<u64, Failure>>,
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
                Ok(member) => {
                    // Whom it was done to may be known only now.
                    let op = Op::MemberChange(MemberChange { action, member });
                    self.recorder.ok(process, op, node);
                    return Ok(member);
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
                nodes
                    .node(id)
                    .is_ok_and(|node| !node.is_running() || !node.unasked_exits().is_empty())
            };
            if ended && !self.is_held_down(id) {
                let (phase, outcome) = match self.replace(id).await {
                    Ok(new) => {
                        self.damaged.remove(&id);
                        (FaultPhase::Once, format!("replaced by {new}"))
                    }
                    Err(error) => (FaultPhase::Skipped, format!("{error:#}")),
                };
                let fault = Fault::Replace { who: Who::One(id) };
                let why = ("why", "it refuses to serve from damaged files".to_owned());
                self.note(&fault, phase, &[id], &[why, ("outcome", outcome)]);
            }
        }
    }
}
