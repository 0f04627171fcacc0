//! Who belongs to the cluster, and who leads it.
//!
//! Ids are given by the leader, from the index of a log entry that it writes for
//! the purpose, and bound to the new node's directory before the node is added:
//! no id is ever used by two disks. A node with a lost disk would otherwise come
//! back as a voter that has forgotten its votes.

use super::domains;
use super::running::Replica;
use super::settings::INITIAL_ID_MAX;
use crate::core::{AdminError, MemberStatus};
use crate::raft::{CallError, Change, ChangeError, Members, spawn};
use keelstone_proto::peer;
use keelstone_store::Millis;
use keelstone_store::machine::codec;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Entries that a member may lack and still count as caught up.
const LAG_MAX: u64 = 1000;
/// How long a new node may take to answer.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a learner that is to be promoted is looked at.
const PROMOTE_INTERVAL: Duration = Duration::from_millis(200);
/// How long a leader watches a learner that is to be promoted.
const PROMOTE_PATIENCE: Duration = Duration::from_hours(6);
/// How long a transfer waits for somebody who can take over.
const SUCCESSOR_TIMEOUT: Duration = Duration::from_millis(1_500);
/// How often it looks.
const SUCCESSOR_PAUSE: Duration = Duration::from_millis(20);
/// How long a transfer waits for its target to take over.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(5);

fn refused(reason: impl Into<String>, remedy: impl Into<String>) -> AdminError {
    AdminError::Refused { reason: reason.into(), remedy: remedy.into() }
}

async fn within<T>(
    timeout: Duration,
    what: &str,
    work: impl Future<Output = Result<T, AdminError>>,
) -> Result<T, AdminError> {
    tokio::time::timeout(timeout, work)
        .await
        .unwrap_or_else(|_elapsed| Err(AdminError::Unknown(what.to_owned())))
}

impl Replica {
    fn check_leads(&self) -> Result<Arc<Members>, AdminError> {
        if self.is_stopping() {
            return Err(AdminError::Stopping);
        }
        let leadership = self.leadership.borrow();
        if leadership.leads() {
            Ok(Arc::clone(&leadership.members))
        } else {
            drop(leadership);
            Err(AdminError::NotLeader(self.hint()))
        }
    }

    /// The members as this node knows them; the leader knows how far behind
    /// they are.
    pub(super) fn member_list(&self) -> Vec<MemberStatus> {
        let leadership = self.leadership.borrow().clone();
        let positions = self.parts.consensus.positions();
        let mut members: Vec<_> = leadership.members.all.values().cloned().collect();
        if leadership.leads() {
            let next = |index: Option<u64>| index.map_or(0, |index| index + 1);
            for member in &mut members {
                let matched = match positions.matched.get(&member.id) {
                    _ if member.id == self.node_id() => next(positions.last),
                    matched => next(matched.copied().flatten()),
                };
                member.lag = Some(next(positions.last).saturating_sub(matched));
            }
        }
        members
    }

    fn lag_of(&self, id: u64) -> Option<u64> {
        self.member_list().into_iter().find(|member| member.id == id)?.lag
    }

    /// Whether a member answers and has almost all of the log.
    fn keeps_up(&self, id: u64) -> bool {
        if id == self.node_id() {
            return true;
        }
        let positions = self.parts.consensus.positions();
        let silence_max = self.parts.settings.timing.election_timeout_max;
        let heard = positions.heard.get(&id).is_some_and(|ago| *ago < silence_max);
        heard && self.lag_of(id).is_some_and(|lag| lag <= LAG_MAX)
    }

    async fn change_members(&self, change: Change) -> Result<(), AdminError> {
        match self.parts.consensus.change(change).await {
            Ok(()) => Ok(()),
            Err(ChangeError::NotLeader) => Err(AdminError::NotLeader(self.hint())),
            Err(ChangeError::Refused(reason)) => {
                Err(refused(reason, "look at the members and try again"))
            }
            Err(ChangeError::Unknown(reason)) => Err(AdminError::Unknown(reason)),
            Err(ChangeError::Stopped) => Err(AdminError::Stopping),
        }
    }

    /// Ends a change that a lost leader left half done.
    async fn settle(&self) -> Result<Arc<Members>, AdminError> {
        let members = self.check_leads()?;
        if !members.is_joint() {
            return Ok(members);
        }
        self.change_members(Change::Settle).await?;
        self.check_leads()
    }

    /// See [`crate::core::Core::add_member`].
    pub(super) async fn add(
        &self,
        member: MemberStatus,
        promote: bool,
        timeout: Duration,
    ) -> Result<u64, AdminError> {
        let replica = self.me();
        let id = within(timeout, "adding a member", async move {
            let _one = replica.changing.lock().await;
            replica.add_learner(member).await
        })
        .await?;
        if promote {
            self.promote_when_caught_up(id);
        }
        Ok(id)
    }

    async fn add_learner(&self, mut member: MemberStatus) -> Result<u64, AdminError> {
        let members = self.settle().await?;
        let address = member.peer_address.clone();
        if members.all.values().any(|it| it.peer_address == address) {
            return Err(refused(
                format!("a member has the peer address {address} already"),
                "remove that member first, or give another address",
            ));
        }
        let found = self.ask_new(&address).await?;
        let id = match found.node_id {
            0 => self.fresh_id().await?,
            // A node that was given this id and not added for some reason.
            id if members.all.contains_key(&id) => {
                return Err(refused(
                    format!("the node at {address} is member {id}"),
                    "it is a member already",
                ));
            }
            id => id,
        };
        if member.id != 0 && member.id != id {
            return Err(refused(
                "ids are given by the cluster, so that none is ever used twice",
                "leave the id out",
            ));
        }
        let cluster_id = self.parts.identity.cluster_id;
        let adopted = self.parts.calls.adopt(&address, cluster_id, id, ASK_TIMEOUT).await;
        adopted.map_err(|error| unusable(&address, &error))?;
        member.id = id;
        if let Some(own) = found.member {
            if member.client_address.is_empty() {
                member.client_address = own.client_address;
            }
            if member.labels.is_empty() {
                member.labels = own.labels;
            }
        }
        self.change_members(Change::AddLearner(member)).await?;
        tracing::info!(member = id, address, "added as a learner");
        Ok(id)
    }

    /// Asks a node whether it can be added.
    async fn ask_new(&self, address: &str) -> Result<peer::IdentifyResponse, AdminError> {
        let request = peer::IdentifyRequest { from: self.node_id(), ..Default::default() };
        let found = self
            .parts
            .calls
            .identify(address, request, ASK_TIMEOUT)
            .await
            .map_err(|error| unusable(address, &error))?;
        let ours = found.cluster_id == self.parts.identity.cluster_id[..];
        let waits = found.joining && !found.ready;
        let given = ours && found.ready && !found.initialised;
        if waits || given {
            return Ok(found);
        }
        let reason = if found.initialised {
            format!("the node at {address} has data of a cluster")
        } else {
            format!("the node at {address} does not wait to join a cluster")
        };
        Err(refused(reason, "start it with an empty data directory and cluster.mode = \"join\""))
    }

    /// An id that no node of this cluster has ever had: the index of an entry
    /// that is written for it.
    async fn fresh_id(&self) -> Result<u64, AdminError> {
        let batch = codec::encode_batch(Millis(self.parts.pace.now_ms()), &[]);
        let written = match self.parts.consensus.write(&batch).await {
            Ok(written) => written.await,
            Err(error) => Err(error),
        };
        // An entry that is written and serves for nothing does no harm.
        let written = written.map_err(|_| AdminError::NotLeader(self.hint()))?;
        Ok(INITIAL_ID_MAX + 1 + written.index)
    }

    /// Watches a learner while this node leads, and makes it a voter. After a
    /// change of leader an operator does it.
    fn promote_when_caught_up(&self, id: u64) {
        let replica = self.me();
        let stop = self.parts.tokens.stop.clone();
        spawn(async move {
            let promote = async {
                let until = Instant::now() + PROMOTE_PATIENCE;
                while Instant::now() < until && replica.check_leads().is_ok() {
                    tokio::time::sleep(PROMOTE_INTERVAL).await;
                    if replica.lag_of(id).is_none_or(|lag| lag > LAG_MAX) {
                        continue;
                    }
                    match replica.promote(id, false, TRANSFER_TIMEOUT).await {
                        Ok(()) => return,
                        Err(AdminError::Unknown(_)) => {}
                        Err(error) => {
                            tracing::warn!(member = id, %error, "not promoted");
                            return;
                        }
                    }
                }
            };
            tokio::select! {
                () = promote => {}
                () = stop.cancelled() => {}
            }
        });
    }

    /// See [`crate::core::Core::promote_member`].
    pub(super) async fn promote(
        &self,
        id: u64,
        force: bool,
        timeout: Duration,
    ) -> Result<(), AdminError> {
        let replica = self.me();
        within(timeout, "promoting a member", async move {
            let _one = replica.changing.lock().await;
            let members = replica.settle().await?;
            if !members.all.contains_key(&id) {
                return Err(no_member(id));
            }
            if members.is_voter(id) {
                return Ok(());
            }
            if let Some(lag) = replica.lag_of(id).filter(|lag| *lag > LAG_MAX) {
                return Err(refused(
                    format!("member {id} lacks {lag} entries; as a voter it would stop writes"),
                    "wait until it has caught up",
                ));
            }
            let mut voters = members.voter_ids();
            let before = voters.clone();
            voters.insert(id);
            check_domains(&members, &before, &voters, force)?;
            replica.change_members(Change::Promote(id)).await?;
            tracing::info!(member = id, "promoted to a voter");
            Ok(())
        })
        .await
    }

    /// See [`crate::core::Core::remove_member`].
    pub(super) async fn remove(
        &self,
        id: u64,
        force: bool,
        timeout: Duration,
    ) -> Result<(), AdminError> {
        let replica = self.me();
        within(timeout, "removing a member", async move {
            let _one = replica.changing.lock().await;
            let members = replica.settle().await?;
            if !members.all.contains_key(&id) {
                return Err(no_member(id));
            }
            if members.is_voter(id) {
                replica.check_removal(&members, id, force)?;
            }
            if id == replica.node_id() {
                replica.hand_over(None).await?;
                // The new leader removes this node.
                return Err(AdminError::NotLeader(replica.hint()));
            }
            replica.change_members(Change::Remove(id)).await?;
            tracing::info!(member = id, "removed");
            Ok(())
        })
        .await
    }

    /// Whether the cluster can do without a voter.
    fn check_removal(&self, members: &Members, id: u64, force: bool) -> Result<(), AdminError> {
        let before = members.voter_ids();
        let mut voters = before.clone();
        voters.remove(&id);
        if voters.is_empty() {
            return Err(refused(
                "it is the only voter",
                "add and promote another member first, or delete the cluster's data",
            ));
        }
        if force {
            return Ok(());
        }
        let healthy = voters.iter().filter(|id| self.keeps_up(**id)).count();
        if healthy <= voters.len() / 2 {
            return Err(refused(
                format!("only {healthy} of the {} voters that remain keep up", voters.len()),
                "repair them first, or force the removal",
            ));
        }
        check_domains(members, &before, &voters, false)
    }

    /// See [`crate::core::Core::transfer_leader`].
    pub(super) async fn transfer(
        &self,
        to: Option<u64>,
        timeout: Duration,
    ) -> Result<u64, AdminError> {
        self.check_leads()?;
        let replica = self.me();
        within(timeout, "a transfer of leadership", async move { replica.hand_over(to).await })
            .await
    }

    /// Hands leadership to `to`, or to the voter that is furthest ahead, and
    /// waits until somebody else leads.
    pub(super) async fn hand_over(&self, to: Option<u64>) -> Result<u64, AdminError> {
        let target = self.await_successor(to).await?;
        if target == self.node_id() {
            return Ok(target);
        }
        if self.parts.consensus.transfer(target).await.is_err() {
            return Err(AdminError::Stopping);
        }
        let mut leadership = self.leadership.clone();
        let own = self.node_id();
        let taken = leadership.wait_for(|it| it.leader.is_some_and(|leader| leader != own));
        match tokio::time::timeout(TRANSFER_TIMEOUT, taken).await {
            Ok(Ok(now)) => {
                let leader = now.leader.unwrap_or(target);
                tracing::info!(leader, "leadership was handed over");
                Ok(leader)
            }
            Ok(Err(_)) => Err(AdminError::Stopping),
            Err(_elapsed) => Err(AdminError::Unknown(format!("member {target} did not take over"))),
        }
    }

    /// Who can lead next, or why nobody can, after a moment: a new leader has
    /// yet to hear of the others.
    async fn await_successor(&self, to: Option<u64>) -> Result<u64, AdminError> {
        let until = Instant::now() + SUCCESSOR_TIMEOUT;
        loop {
            let members = self.check_leads()?;
            match self.successor(&members, to) {
                Err(AdminError::Refused { .. }) if Instant::now() < until => {}
                decided => return decided,
            }
            tokio::time::sleep(SUCCESSOR_PAUSE).await;
        }
    }

    /// Who can lead next. One that lacks entries would leave the cluster
    /// without a leader until an election.
    fn successor(&self, members: &Members, to: Option<u64>) -> Result<u64, AdminError> {
        let drained = self.drained_members.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let candidates = self.member_list();
        if let Some(to) = to {
            let member = candidates.iter().find(|it| it.id == to).ok_or_else(|| no_member(to))?;
            if !members.is_voter(to) {
                return Err(refused(format!("member {to} is a learner"), "promote it first"));
            }
            if drained.contains(&to) {
                return Err(refused(format!("member {to} is drained"), "undo the drain first"));
            }
            if !self.keeps_up(to) {
                let lag = member.lag.unwrap_or(0);
                return Err(refused(
                    format!("member {to} does not answer or lacks entries ({lag})"),
                    "wait until it has caught up, or choose another",
                ));
            }
            return Ok(to);
        }
        let able = candidates.iter().filter(|it| {
            members.is_voter(it.id) && it.id != self.node_id() && !drained.contains(&it.id)
        });
        let able = able.filter(|it| self.keeps_up(it.id));
        able.min_by_key(|it| it.lag).map(|it| it.id).ok_or_else(|| {
            refused(
                "no other voter answers and has caught up",
                "repair the others first; a transfer would leave the cluster without a leader",
            )
        })
    }

    /// See [`crate::core::Core::drain_member`].
    pub(super) async fn drain(
        &self,
        id: u64,
        undo: bool,
        timeout: Duration,
    ) -> Result<(), AdminError> {
        let member = self.leadership.borrow().members.all.get(&id).cloned();
        let member = member.ok_or_else(|| no_member(id))?;
        let replica = self.me();
        within(timeout, "a drain", async move {
            if id == replica.node_id() {
                return replica.drain_self(undo).await;
            }
            replica.note_drained(id, undo);
            let target = (id, member.peer_address.as_str());
            let (calls, peers) = (&replica.parts.calls, &replica.parts.peers);
            let drained = calls.drain(peers, target, undo, ASK_TIMEOUT).await;
            drained.map_err(|error| unusable(&member.peer_address, &error))
        })
        .await
    }

    fn note_drained(&self, id: u64, undo: bool) {
        let mut drained = self.drained_members.lock().unwrap_or_else(PoisonError::into_inner);
        if undo {
            drained.remove(&id)
        } else {
            drained.insert(id)
        };
    }

    async fn drain_self(&self, undo: bool) -> Result<(), AdminError> {
        self.set_elects(undo);
        let leads = self.leadership.borrow().leads();
        if !undo
            && leads
            && let Err(error) = self.hand_over(None).await
        {
            self.set_elects(true);
            return Err(error);
        }
        Ok(())
    }

    fn set_elects(&self, elects: bool) {
        self.drained.store(!elects, Ordering::Release);
        self.parts.consensus.set_elects(elects);
        tracing::info!(elects, "leadership of this node");
    }

    /// Keeps this node from leading because a peer was told so, or allows it
    /// again.
    pub(super) fn drain_here(&self, drained: bool) {
        self.set_elects(!drained);
        if drained && self.leadership.borrow().leads() {
            let replica = self.me();
            spawn(async move {
                if let Err(error) = replica.hand_over(None).await {
                    tracing::warn!(%error, "a drained node goes on leading");
                }
            });
        }
    }
}

fn no_member(id: u64) -> AdminError {
    refused(format!("there is no member {id}"), "list the members")
}

fn unusable(address: &str, error: &CallError) -> AdminError {
    refused(
        format!("the node at {address}: {error}"),
        "check the address, and that the node runs and waits there",
    )
}

fn check_domains(
    members: &Members,
    before: &std::collections::BTreeSet<u64>,
    after: &std::collections::BTreeSet<u64>,
    force: bool,
) -> Result<(), AdminError> {
    if force {
        return Ok(());
    }
    match domains::concentrated(&members.all, before, after) {
        None => Ok(()),
        Some((label, value)) => Err(refused(
            format!("a majority of the voters would share {label} = {value}"),
            "choose a member in another failure domain, or force the change",
        )),
    }
}
