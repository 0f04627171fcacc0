//! Clusters begin once, whatever the order of starts.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_form_a_cluster_and_keep_what_is_written() {
    let cluster = Cluster::started(3).await;
    let leader = cluster.leader().await;
    let revision = cluster.write(leader, "a", "1").await;
    assert_eq!(revision, Revision::new(2));
    for id in 1..=3 {
        assert_eq!(cluster.read(id, "a").await.as_deref(), Some("1"), "node {id}");
    }
    cluster.assert_equal_states().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_is_a_cluster() {
    let mut cluster = Cluster::started(1).await;
    cluster.write(1, "a", "1").await;
    cluster.stop(1).await;
    cluster.start(1).await;
    assert_eq!(cluster.read(1, "a").await.as_deref(), Some("1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_may_start_late_and_restart_while_the_cluster_forms() {
    for order in [[3, 2, 1], [2, 3, 1], [1, 3, 2]] {
        let mut cluster = Cluster::new(3).await;
        let [first, second, third] = order;
        // Waits for the others, and is stopped before they come.
        let early = tokio::time::timeout(Duration::from_millis(300), cluster.try_start(first));
        assert!(early.await.is_err(), "a node alone cannot form a cluster of three");
        let pair = [first, second].map(|id| Box::pin(cluster.try_start(id)));
        let early = futures::future::join_all(pair);
        let early = tokio::time::timeout(Duration::from_millis(500), early);
        assert!(early.await.is_err(), "two nodes cannot form a cluster of three");
        cluster.start_all(&[first, second, third]).await;
        cluster.write(second, "a", "1").await;
        for id in order {
            cluster.kill(id).await;
        }
        cluster.start_all(&[third, first]).await;
        assert_eq!(cluster.read(first, "a").await.as_deref(), Some("1"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_lost_its_disk_refuses_to_start() {
    let mut cluster = Cluster::started(3).await;
    let follower = cluster.follower().await;
    cluster.write(follower, "a", "1").await;
    cluster.stop(follower).await;
    std::fs::remove_dir_all(cluster.data_dir(follower)).unwrap();
    let refused = cluster.try_start(follower).await;
    assert!(
        matches!(refused, Err(StartError::LostDisk { node_id }) if node_id == follower),
        "{:?}",
        refused.err()
    );
    assert_eq!(cluster.read(cluster.leader().await, "a").await.as_deref(), Some("1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_lost_its_log_refuses_to_start() {
    let mut cluster = Cluster::started(3).await;
    let follower = cluster.follower().await;
    cluster.stop(follower).await;
    std::fs::remove_dir_all(cluster.data_dir(follower).join("log")).unwrap();
    assert!(matches!(cluster.try_start(follower).await, Err(StartError::LogLost)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_lost_its_state_builds_it_from_the_log() {
    let mut cluster = Cluster::started(3).await;
    let follower = cluster.follower().await;
    cluster.write(follower, "a", "1").await;
    cluster.stop(follower).await;
    std::fs::remove_dir_all(cluster.data_dir(follower).join("state")).unwrap();
    cluster.start(follower).await;
    assert_eq!(cluster.read(follower, "a").await.as_deref(), Some("1"));
    cluster.assert_equal_states().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_initial_members_do_not_count() {
    let cluster = Cluster::new(2).await;
    let settings = |token: &str, id: u64| {
        let members = cluster.members.clone();
        let entry = Entry::Form { node_id: id, token: token.to_owned(), members };
        cluster.settings_with(&cluster.data_dir(id), entry)
    };
    let one = start(settings("one", 1), &cluster.members[0].peer_address);
    let two = start(settings("two", 2), &cluster.members[1].peer_address);
    let both = Box::pin(futures::future::join(one, two));
    assert!(tokio::time::timeout(Duration::from_secs(2), both).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_serves_one_node_only() {
    let mut cluster = Cluster::started(1).await;
    assert!(matches!(cluster.try_start_elsewhere(1).await, Err(StartError::Identity(_))));
    cluster.stop(1).await;
    let entry = Entry::Form {
        node_id: 2,
        token: "test".to_owned(),
        members: vec![MemberStatus { id: 2, ..cluster.members[0].clone() }],
    };
    let settings = cluster.settings_with(&cluster.data_dir(1), entry);
    let refused = start(settings, &cluster.members[0].peer_address).await;
    assert!(matches!(refused, Err(StartError::OtherNode { configured: 2, found: 1 })));
}

impl Cluster {
    /// Starts a node a second time, on another port.
    async fn try_start_elsewhere(&self, id: u64) -> Result<Arc<Replica>, StartError> {
        start(self.settings(id), "127.0.0.1:0").await
    }
}
