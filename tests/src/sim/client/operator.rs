//! The operator: changes members and leaders while all else goes on.
//!
//! A host that was removed is given a new disk, and can be added again under a
//! new id.

use super::{Client, Failed};
use crate::sim::HostId;
use crate::sim::node::member;
use keelstone_jepsen::history::{MemberAction, MemberChange, Op};
use keelstone_server::core::{AdminError, MemberStatus};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long the operator waits for a change.
const PATIENCE: Duration = Duration::from_millis(4_000);
/// Voters below which none is removed.
const VOTERS_MIN: usize = 4;

/// Hosts that the world shall give a new disk. Clones share it.
#[derive(Clone, Default)]
pub struct Orders {
    wipe: Arc<Mutex<Vec<HostId>>>,
}

impl Orders {
    fn wipe(&self, host: HostId) {
        self.wipe.lock().unwrap_or_else(PoisonError::into_inner).push(host);
    }

    /// The orders since it was last asked.
    pub fn take(&self) -> Vec<HostId> {
        std::mem::take(&mut *self.wipe.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl From<AdminError> for Failed {
    fn from(error: AdminError) -> Self {
        match error {
            AdminError::Unknown(_) => Self::Unknown(error.to_string()),
            _ => Self::No(error.to_string()),
        }
    }
}

/// Where a member is.
fn host_of(member: &MemberStatus) -> HostId {
    let name = member.peer_address.strip_prefix('n');
    let name = name.and_then(|rest| rest.split(':').next());
    name.and_then(|name| name.parse().ok()).unwrap_or(0)
}

/// The operator's life.
pub(super) async fn run(mut client: Client) {
    while client.all.stage.goes_on() {
        client.think(1_500).await;
        let node = client.node();
        let Some(members) = members(&client, node).await else { continue };
        let by_host: BTreeMap<HostId, MemberStatus> =
            members.iter().map(|member| (host_of(member), member.clone())).collect();
        let voters = members.iter().filter(|member| member.voter).count();
        let free = client.all.hosts.iter().find(|host| !by_host.contains_key(host)).copied();
        match (client.random.below(4), free) {
            (0 | 1, Some(host)) => add(&mut client, node, host).await,
            (2, _) if voters >= VOTERS_MIN => {
                let index = client.random.below_usize(members.len());
                let gone = members[index].clone();
                if change(&mut client, node, MemberAction::Remove, gone.id).await {
                    client.all.orders.wipe(host_of(&gone));
                }
            }
            _ => {
                let index = client.random.below_usize(members.len().max(1));
                if let Some(to) = members.get(index).map(|member| member.id) {
                    change(&mut client, node, MemberAction::Lead, to).await;
                }
            }
        }
    }
}

async fn members(client: &Client, node: HostId) -> Option<Vec<MemberStatus>> {
    let asked =
        client.all.doors.ask(node, PATIENCE, |services| async move { services.core.members() });
    asked.await.ok().filter(|members| !members.is_empty())
}

async fn add(client: &mut Client, node: HostId, host: HostId) {
    let op = MemberChange { action: MemberAction::Add, member: host };
    client.invoke(&Op::MemberChange(op.clone()), node);
    let added = client.all.doors.ask(node, PATIENCE, move |services| async move {
        services.core.add_member(member(host, false), true, PATIENCE).await
    });
    let added = added.await.map_err(Failed::from).and_then(|it| it.map_err(Failed::from));
    match added {
        Ok(id) => client.ok(Op::MemberChange(MemberChange { member: id, ..op }), node),
        Err(failed) => client.failed(Op::MemberChange(op), node, failed),
    }
}

/// Changes something about a member, and says whether that is certain.
async fn change(client: &mut Client, node: HostId, action: MemberAction, id: u64) -> bool {
    let op = MemberChange { action, member: id };
    client.invoke(&Op::MemberChange(op.clone()), node);
    let changed = client.all.doors.ask(node, PATIENCE, move |services| async move {
        match action {
            MemberAction::Remove => services.core.remove_member(id, false, PATIENCE).await,
            _ => services.core.transfer_leader(Some(id), PATIENCE).await.map(drop),
        }
    });
    let changed = changed.await.map_err(Failed::from).and_then(|it| it.map_err(Failed::from));
    match changed {
        Ok(()) => {
            client.ok(Op::MemberChange(op), node);
            true
        }
        Err(failed) => {
            client.failed(Op::MemberChange(op), node, failed);
            false
        }
    }
}
