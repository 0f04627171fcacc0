//! Who belongs to the cluster, and who leads it.

use super::*;
use crate::core::AdminError;

impl Cluster {
    /// Starts a node that waits to be added. Returns its address and the start.
    async fn joining(
        &self,
        name: &str,
    ) -> (String, tokio::task::JoinHandle<Result<Arc<Replica>, StartError>>) {
        let member = new_member(0).await;
        let address = member.peer_address.clone();
        let entry = Entry::Join { member, ask: self.members.clone() };
        let settings = self.settings_with(&self.dir.path().join(name), entry);
        let at = address.clone();
        (address, tokio::spawn(async move { start(settings, &at).await }))
    }

    /// Adds a node at an address through the leader.
    async fn add(&self, address: &str, promote: bool) -> Result<u64, AdminError> {
        let member = MemberStatus {
            id: 0,
            peer_address: address.to_owned(),
            client_address: String::new(),
            labels: BTreeMap::new(),
            voter: false,
            lag: None,
        };
        self.node(self.leader().await).add_member(member, promote, LONG).await
    }

    async fn until_voter(&self, id: u64) {
        let until = soon();
        let leader = self.leader().await;
        while !self.node(leader).members().iter().any(|it| it.id == id && it.voter) {
            assert!(Instant::now() < until, "{:?}", self.node(leader).members());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_node_is_added_catches_up_and_is_promoted() {
    let mut cluster = Cluster::started(3).await;
    for number in 0..20 {
        cluster.write(1, &format!("k{number}"), "x").await;
    }
    let (address, starting) = cluster.joining("new").await;
    let until = soon();
    let id = loop {
        // It may not listen yet.
        match cluster.add(&address, true).await {
            Ok(id) => break id,
            Err(error) => assert!(Instant::now() < until, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert!(id > crate::replica::INITIAL_ID_MAX);
    let node = starting.await.unwrap().unwrap();
    assert_eq!(node.core_identity().node_id, id);
    cluster.nodes.insert(id, node);
    cluster.until_voter(id).await;
    assert_eq!(cluster.read(id, "k19").await.as_deref(), Some("x"));
    // It counts: with it two others may be gone... one of four is no quorum lost.
    let gone = cluster.follower().await;
    cluster.kill(gone).await;
    cluster.write(id, "after", "x").await;
    cluster.assert_equal_states().await;
    // The same node is not added twice, nor is one that has data.
    assert!(matches!(cluster.add(&address, true).await, Err(AdminError::Refused { .. })));
    let follower = cluster.follower().await;
    let own = cluster.node(follower).members().iter().find(|it| it.id == follower).cloned();
    let added = cluster.add(&own.unwrap().peer_address, true).await;
    assert!(matches!(added, Err(AdminError::Refused { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_member_is_replaced_under_a_new_id() {
    let mut cluster = Cluster::started(3).await;
    cluster.write(1, "key", "1").await;
    let lost = cluster.follower().await;
    cluster.kill(lost).await;
    std::fs::remove_dir_all(cluster.data_dir(lost)).unwrap();
    let leader = cluster.leader().await;
    cluster.node(leader).remove_member(lost, false, LONG).await.unwrap();
    let (address, starting) = cluster.joining("replacement").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let id = cluster.add(&address, true).await.unwrap();
    assert_ne!(id, lost);
    cluster.nodes.insert(id, starting.await.unwrap().unwrap());
    cluster.until_voter(id).await;
    assert_eq!(cluster.read(id, "key").await.as_deref(), Some("1"));
    let members = cluster.node(leader).members();
    assert_eq!(members.iter().filter(|it| it.voter).count(), 3);
    assert!(members.iter().all(|it| it.id != lost));
    // Ids differ from each other.
    let (other, second) = cluster.joining("second").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let next = cluster.add(&other, false).await.unwrap();
    assert!(next > id);
    cluster.nodes.insert(next, second.await.unwrap().unwrap());
    cluster.assert_equal_states().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learner_gets_a_snapshot_and_does_not_vote() {
    let mut cluster = Cluster::started_with(1, |settings| {
        settings.checkpoint_entries = 20;
        settings.keep_log_entries = 5;
        settings.keep_log_bytes = 1024 * 1024;
    })
    .await;
    let value = "x".repeat(64 * 1024);
    for number in 0..100 {
        cluster.write(1, &format!("k{number}"), &value).await;
    }
    let until = soon();
    while cluster.node(1).core_status().purged_index < 10 {
        assert!(Instant::now() < until, "{:?}", cluster.node(1).core_status());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (address, starting) = cluster.joining("new").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let id = cluster.add(&address, false).await.unwrap();
    let node = starting.await.unwrap().unwrap();
    cluster.nodes.insert(id, node);
    assert_eq!(cluster.read(id, "k99").await, Some(value));
    assert!(!cluster.node(1).members().iter().any(|it| it.id == id && it.voter));
    assert_eq!(cluster.node(id).core_status().role, "learner");
    cluster.node(1).promote_member(id, false, LONG).await.unwrap();
    cluster.until_voter(id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_handed_over_and_kept_away() {
    let mut cluster = Cluster::started(3).await;
    let first = cluster.leader().await;
    let second = cluster.follower().await;
    let leader = cluster.node(first).transfer_leader(Some(second), LONG).await.unwrap();
    assert_eq!(leader, second);
    assert_eq!(cluster.leader().await, second);
    cluster.write(first, "key", "1").await;
    assert!(matches!(
        cluster.node(first).transfer_leader(None, LONG).await,
        Err(AdminError::NotLeader(_))
    ));
    // Drained: it hands over and is not chosen again.
    cluster.node(second).drain_member(second, false, LONG).await.unwrap();
    let third = cluster.leader().await;
    assert_ne!(third, second);
    let other = (1..=3).find(|id| *id != third && *id != second).unwrap();
    cluster.node(third).drain_member(other, false, LONG).await.unwrap();
    let refused = cluster.node(third).transfer_leader(Some(other), LONG).await;
    assert!(matches!(refused, Err(AdminError::Refused { .. })), "{refused:?}");
    cluster.node(third).drain_member(other, true, LONG).await.unwrap();
    assert_eq!(cluster.leader().await, third);
    // A clean stop hands over without an election's wait.
    let stopped = cluster.leader().await;
    let begun = Instant::now();
    cluster.stop(stopped).await;
    let next = cluster.leader().await;
    cluster.write(next, "key", "2").await;
    println!("handed over in {:?}", begun.elapsed());
    assert_eq!(next, other, "the drained node took over");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dangerous_changes_are_refused() {
    let mut cluster = Cluster::started(3).await;
    let leader = cluster.leader().await;
    let down = cluster.follower().await;
    cluster.kill(down).await;
    let up = cluster.follower().await;
    // Without it one of the two that remain would be down.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let refused = cluster.node(leader).remove_member(up, false, Duration::from_secs(5)).await;
    assert!(matches!(refused, Err(AdminError::Refused { .. })), "{refused:?}");
    let unknown = cluster.node(leader).remove_member(77, false, LONG).await;
    assert!(matches!(unknown, Err(AdminError::Refused { .. })));
    let unknown = cluster.node(leader).promote_member(77, false, LONG).await;
    assert!(matches!(unknown, Err(AdminError::Refused { .. })));
    assert!(matches!(
        cluster.node(up).remove_member(down, false, LONG).await,
        Err(AdminError::NotLeader(_))
    ));
    cluster.write(leader, "key", "1").await;
}
