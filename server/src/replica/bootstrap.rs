//! How a node without data comes to its identity, and how a cluster begins.
//!
//! A cluster of initial members begins exactly once, whatever the order of
//! starts and whoever restarts in the middle:
//!
//! 1. A node with an empty directory opens its port and asks all other initial
//!    members. If one of them belongs to a cluster already, this node's disk is
//!    not new but lost, and it refuses to start: what it promised is forgotten.
//! 2. Once all of them have answered that they do not, it binds its directory
//!    (the file `NODE`) and takes part, passively.
//! 3. The member with the lowest id asks until all others are bound and hold no
//!    log, and then writes the first entry, with all of them as voters.
//!
//! So nothing is ever voted or written before every initial member is bound,
//! and a member without `NODE` in a cluster that has begun has lost its disk.
//! Since all take the cluster's id from the list and the token, nodes that were
//! given different lists never count for each other.

use super::desk::Desk;
use super::identity::{DataDir, IdentityError, NodeIdentity};
use super::settings::{Entry, INITIAL_ID_MAX};
use super::start::StartError;
use crate::core::MemberStatus;
use crate::raft::Calls;
use keelstone_proto::peer;
use std::collections::BTreeSet;
use std::time::Duration;

/// How long a peer may take to say who it is.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// How long to wait before asking again.
const ASK_PAUSE: Duration = Duration::from_millis(200);
/// How many rounds of asking pass between two reports of who is missing.
const ROUNDS_PER_REPORT: u32 = 25;

/// The id of the cluster that these members form.
pub(crate) fn cluster_id(token: &str, members: &[MemberStatus]) -> [u8; 16] {
    let mut sorted: Vec<_> = members.iter().collect();
    sorted.sort_by_key(|member| member.id);
    let mut hasher = blake3::Hasher::new_derive_key("keelstone 2026 cluster id");
    let mut add = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    add(token.as_bytes());
    for member in sorted {
        add(&member.id.to_le_bytes());
        add(member.peer_address.as_bytes());
    }
    let mut id = [0; 16];
    id.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    id
}

/// Checks a list of initial members.
pub(super) fn check(node_id: u64, members: &[MemberStatus]) -> Result<(), StartError> {
    let ids: BTreeSet<u64> = members.iter().map(|member| member.id).collect();
    let addresses: BTreeSet<&str> =
        members.iter().map(|member| member.peer_address.as_str()).collect();
    let problem = if !ids.contains(&node_id) {
        Some(
            "this node is not among them. List all nodes that form the cluster, this one with its \
             node_id, alike on each; after a restore, those of its --initial-cluster, with the \
             token that it printed as cluster.token",
        )
    } else if ids.len() != members.len() {
        Some("two of them have the same id")
    } else if addresses.len() != members.len() {
        Some("two of them have the same peer address")
    } else if ids.contains(&0) || ids.iter().any(|id| *id > INITIAL_ID_MAX) {
        Some("the ids of those that form a cluster are 1 to 99")
    } else {
        None
    };
    problem.map_or(Ok(()), |problem| Err(StartError::Members(problem)))
}

/// The identity of this node: the one of its directory, or else the one that
/// it comes to as `entry` says. Waits as long as it takes.
pub(super) async fn identity(
    dir: &DataDir,
    entry: &Entry,
    desk: &Desk,
    calls: &Calls,
) -> Result<NodeIdentity, StartError> {
    if let Some(identity) = dir.identity()? {
        if let Entry::Form { node_id, .. } = entry
            && *node_id != identity.node_id
        {
            let (configured, found) = (*node_id, identity.node_id);
            return Err(StartError::OtherNode { configured, found });
        }
        desk.bound(identity);
        return Ok(identity);
    }
    if has_files(&dir.log())? || has_files(&dir.state())? {
        return Err(StartError::Orphaned);
    }
    match entry {
        Entry::Form { node_id, token, members } => {
            check(*node_id, members)?;
            let identity = NodeIdentity {
                cluster_id: cluster_id(token, members),
                node_id: *node_id,
                held_log: false,
            };
            desk.forming(*node_id, identity.cluster_id);
            let others: Vec<_> = members.iter().filter(|member| member.id != *node_id).collect();
            all_new(&identity, &others, calls).await?;
            dir.bind(&identity)?;
            desk.bound(identity);
            tracing::info!(node = identity.node_id, "bound to a cluster that is forming");
            Ok(identity)
        }
        Entry::Join { .. } => adopted(dir, desk).await,
    }
}

fn has_files(dir: &std::path::Path) -> Result<bool, StartError> {
    match std::fs::read_dir(dir) {
        Ok(mut entries) => Ok(entries.next().is_some()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(IdentityError::Io { path: dir.to_owned(), error }.into()),
    }
}

async fn adopted(dir: &DataDir, desk: &Desk) -> Result<NodeIdentity, StartError> {
    tracing::info!("waiting to be added to a cluster: `keelstone member add`");
    let adoption = desk.joining().await.map_err(|_| StartError::Stopped)?;
    let identity = NodeIdentity {
        cluster_id: adoption.cluster_id,
        node_id: adoption.node_id,
        held_log: false,
    };
    dir.bind(&identity)?;
    desk.bound(identity);
    // Who asked may have gone; it asks again and is told the same.
    let _ = adoption.done.send(());
    tracing::info!(node = identity.node_id, "added to a cluster");
    Ok(identity)
}

/// What a peer's answer means to a node that forms a cluster.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    /// It is new too.
    New,
    /// It is bound to the same cluster and holds no log.
    Ready,
    /// It is not there, or not who it should be; for the report.
    Not(&'static str),
    /// The cluster has begun.
    Begun,
}

fn seen(identity: &NodeIdentity, expected: u64, response: &peer::IdentifyResponse) -> Seen {
    let same = response.cluster_id == identity.cluster_id[..];
    if response.initialised {
        let ours = same || response.knows_sender;
        return if ours { Seen::Begun } else { Seen::Not("belongs to another cluster") };
    }
    if response.joining {
        return Seen::Not("waits to join a cluster instead of forming one");
    }
    if !same {
        return Seen::Not("was started with other initial members or another token");
    }
    if response.node_id != expected {
        return Seen::Not("is another node at that address");
    }
    if response.ready { Seen::Ready } else { Seen::New }
}

async fn ask(identity: &NodeIdentity, member: &MemberStatus, calls: &Calls) -> Seen {
    let request = peer::IdentifyRequest {
        cluster_id: identity.cluster_id.to_vec().into(),
        from: identity.node_id,
        initial: None,
    };
    match calls.identify(&member.peer_address, request, ASK_TIMEOUT).await {
        Ok(response) => seen(identity, member.id, &response),
        Err(_) => Seen::Not("does not answer"),
    }
}

async fn ask_all(
    identity: &NodeIdentity,
    others: &[&MemberStatus],
    calls: &Calls,
) -> Vec<(u64, Seen)> {
    let asked = others.iter().map(async |member| (member.id, ask(identity, member, calls).await));
    futures::future::join_all(asked).await
}

fn report(round: u32, answers: &[(u64, Seen)], waiting_for: &str) {
    if !round.is_multiple_of(ROUNDS_PER_REPORT) {
        return;
    }
    for (id, seen) in answers {
        if let Seen::Not(problem) = seen {
            tracing::info!(member = id, problem, "{waiting_for}");
        }
    }
}

/// Returns when all others have said that they belong to no cluster that has
/// begun.
async fn all_new(
    identity: &NodeIdentity,
    others: &[&MemberStatus],
    calls: &Calls,
) -> Result<(), StartError> {
    let mut new = BTreeSet::new();
    for round in 0_u32.. {
        let answers = ask_all(identity, others, calls).await;
        for (id, seen) in &answers {
            match seen {
                Seen::Begun => return Err(StartError::LostDisk { node_id: identity.node_id }),
                // Asked once is enough: the cluster cannot begin without us.
                Seen::New | Seen::Ready => drop(new.insert(*id)),
                Seen::Not(_) => {}
            }
        }
        if new.len() == others.len() {
            return Ok(());
        }
        report(round, &answers, "waiting for all initial members");
        tokio::time::sleep(ASK_PAUSE).await;
    }
    Ok(())
}

/// Returns when all others are bound and hold no log, so that the cluster can
/// begin. `false`: it has begun already.
pub(super) async fn all_ready(
    identity: &NodeIdentity,
    members: &[MemberStatus],
    calls: &Calls,
) -> bool {
    let others: Vec<_> = members.iter().filter(|it| it.id != identity.node_id).collect();
    for round in 0_u32.. {
        let answers = ask_all(identity, &others, calls).await;
        if answers.iter().any(|(_, seen)| *seen == Seen::Begun) {
            return false;
        }
        if answers.iter().all(|(_, seen)| *seen == Seen::Ready) {
            return true;
        }
        report(round, &answers, "waiting to begin the cluster");
        tokio::time::sleep(ASK_PAUSE).await;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, address: &str) -> MemberStatus {
        MemberStatus {
            id,
            peer_address: address.to_owned(),
            client_address: String::new(),
            labels: std::collections::BTreeMap::new(),
            voter: true,
            lag: None,
        }
    }

    #[test]
    fn the_cluster_id_depends_on_members_and_token_and_not_on_their_order() {
        let (a, b) = (member(1, "a:1"), member(2, "b:1"));
        let id = cluster_id("t", &[a.clone(), b.clone()]);
        assert_eq!(id, cluster_id("t", &[b.clone(), a.clone()]));
        assert_ne!(id, cluster_id("u", &[a.clone(), b.clone()]));
        assert_ne!(id, cluster_id("t", std::slice::from_ref(&a)));
        assert_ne!(id, cluster_id("t", &[a, member(2, "c:1")]));
    }

    #[test]
    fn what_a_peer_says_is_told_apart() {
        let identity = NodeIdentity { cluster_id: [1; 16], node_id: 1, held_log: false };
        let new = peer::IdentifyResponse {
            cluster_id: vec![1; 16].into(),
            node_id: 2,
            ..Default::default()
        };
        assert_eq!(seen(&identity, 2, &new), Seen::New);
        let ready = peer::IdentifyResponse { ready: true, ..new.clone() };
        assert_eq!(seen(&identity, 2, &ready), Seen::Ready);
        assert!(matches!(seen(&identity, 3, &ready), Seen::Not(_)));
        let begun = peer::IdentifyResponse { initialised: true, ..ready.clone() };
        assert_eq!(seen(&identity, 2, &begun), Seen::Begun);
        let foreign = peer::IdentifyResponse { cluster_id: vec![2; 16].into(), ..begun };
        assert!(matches!(seen(&identity, 2, &foreign), Seen::Not(_)));
        let restored = peer::IdentifyResponse { knows_sender: true, ..foreign };
        assert_eq!(seen(&identity, 2, &restored), Seen::Begun);
    }
}
