//! Nodes that die, lag, diverge, and disks that fill up.

use super::*;
use std::sync::atomic::AtomicBool;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_loss_of_any_node_is_survived() {
    let mut cluster = Cluster::started(3).await;
    for round in 0..3 {
        let leader = cluster.leader().await;
        let value = round.to_string();
        cluster.write(leader, "key", &value).await;
        cluster.kill(leader).await;
        let next = cluster.leader().await;
        assert_ne!(next, leader);
        assert_eq!(cluster.read(next, "key").await, Some(value.clone()));
        cluster.write(next, "meanwhile", &value).await;
        cluster.start(leader).await;
        assert_eq!(cluster.read(leader, "meanwhile").await, Some(value));
    }
    cluster.assert_equal_states().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_go_on_soon_after_the_leader_is_killed() {
    let mut cluster = Cluster::started(3).await;
    let mut gaps = Vec::new();
    for _ in 0..5 {
        let leader = cluster.leader().await;
        let other = cluster.follower().await;
        cluster.write(other, "key", "before").await;
        let killed = Instant::now();
        cluster.kill(leader).await;
        cluster.write(other, "key", "after").await;
        gaps.push(killed.elapsed());
        cluster.start(leader).await;
        cluster.write(leader, "key", "again").await;
    }
    println!("gaps: {gaps:?}");
    // Generous, for busy machines; the figure is measured elsewhere.
    assert!(gaps.iter().all(|gap| *gap < Duration::from_secs(20)), "{gaps:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_nothing_is_acknowledged() {
    let mut cluster = Cluster::started(3).await;
    let leader = cluster.leader().await;
    cluster.write(leader, "key", "1").await;
    for id in 1..=3 {
        if id != leader {
            cluster.kill(id).await;
        }
    }
    let node = cluster.node(leader);
    let deadline = Instant::now() + Duration::from_secs(2);
    let refused = node.propose(put("key", "2"), deadline).await;
    assert!(
        matches!(refused, Err(ProposeError::Unknown(_) | ProposeError::NotLeader(_))),
        "{refused:?}"
    );
    let deadline = Instant::now() + Duration::from_secs(1);
    assert!(node.read(Consistency::Linearizable, deadline).await.is_err());
    let view = node.read(Consistency::Serializable, soon()).await.unwrap();
    assert!(view.get(&Space::Raw.key(b"key")).unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_may_die_at_once() {
    let mut cluster = Cluster::started(3).await;
    for round in 0..3 {
        let leader = cluster.leader().await;
        let value = round.to_string();
        cluster.write(leader, "key", &value).await;
        for id in 1..=3 {
            cluster.kill(id).await;
        }
        cluster.start_all(&[1, 2, 3]).await;
        assert_eq!(cluster.read(2, "key").await, Some(value));
    }
    cluster.assert_equal_states().await;
}

/// Keeps little log, so that a node that was away needs a snapshot.
fn little_log(settings: &mut ReplicaSettings) {
    settings.checkpoint_entries = 50;
    settings.keep_log_entries = 10;
    settings.keep_log_bytes = 1024 * 1024;
}

async fn write_much(cluster: &Cluster, node: u64, megabytes: usize) -> Revision {
    let value = "x".repeat(64 * 1024);
    let mut last = Revision::ZERO;
    for number in 0..megabytes * 16 {
        last = cluster.write(node, &format!("much{}", number % 100), &value).await;
    }
    last
}

/// Waits until a node's log no longer has its first entries.
async fn until_purged(cluster: &Cluster, id: u64, beyond: u64) {
    let until = soon();
    while cluster.node(id).core_status().purged_index <= beyond {
        assert!(Instant::now() < until, "{:?}", cluster.node(id).core_status());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_waits_for_a_snapshot_that_takes_longer_than_it_is_kept() {
    const MIB: u64 = 1024 * 1024;
    let mut cluster = Cluster::started_with(3, |settings| {
        little_log(settings);
        settings.keep_log_bytes = 4 * MIB;
        settings.timing.snapshot_bytes_per_second = MIB;
    })
    .await;
    let away = cluster.follower().await;
    let left_at = cluster.node(away).core_status().last_log_index;
    cluster.kill(away).await;
    let leader = cluster.leader().await;
    // About six seconds of snapshot.
    write_much(&cluster, leader, 12).await;
    until_purged(&cluster, leader, left_at + 10).await;
    let away_started = cluster.try_start(away).await.unwrap();
    let done = AtomicBool::new(false);
    // Several at a time, so that a slow disk lets enough of them through; and not
    // as many as they can, so that a fast one does not let the log grow too large.
    let writes = futures::future::join_all((0..4).map(async |_writer| {
        let value = "x".repeat(16 * 1024);
        while !done.load(Ordering::SeqCst) {
            cluster.write(leader, "during", &value).await;
            tokio::time::sleep(Duration::from_millis(16)).await;
        }
    }));
    let received = away_started.parts.progress.metrics().snapshots_received.clone();
    let catch_up = async {
        let before = cluster.node(leader).core_status().last_log_index;
        let until = Instant::now() + LONG;
        while received.get() == 0 {
            assert!(Instant::now() < until, "no snapshot came");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let written = cluster.node(leader).core_status().last_log_index - before;
        let revision = cluster.write(leader, "target", "x").await;
        away_started.wait_applied(revision, soon()).await.unwrap();
        done.store(true, Ordering::SeqCst);
        written
    };
    let (_, written) = tokio::join!(writes, catch_up);
    assert_eq!(received.get(), 1, "the log had gone on without it");
    assert!(written * 16 * 1024 > 4 * MIB, "only {written} writes: the log was kept anyway");
    cluster.nodes.insert(away, away_started);
    // And it goes when it is not needed any more.
    until_purged(&cluster, leader, cluster.node(leader).core_status().last_log_index - 400).await;
    cluster.assert_equal_states().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_away_for_long_gets_a_snapshot_while_writes_go_on() {
    let mut cluster = Cluster::started_with(3, little_log).await;
    let away = cluster.follower().await;
    let left_at = cluster.node(away).core_status().last_log_index;
    cluster.kill(away).await;
    let leader = cluster.leader().await;
    write_much(&cluster, leader, 8).await;
    until_purged(&cluster, leader, left_at + 10).await;
    let away_started = cluster.try_start(away).await.unwrap();
    let done = AtomicBool::new(false);
    let writes = async {
        let mut count = 0;
        while !done.load(Ordering::SeqCst) {
            cluster.write(leader, "during", &count.to_string()).await;
            count += 1;
        }
        count
    };
    let catch_up = async {
        let revision = cluster.write(leader, "target", "x").await;
        away_started.wait_applied(revision, soon()).await.unwrap();
        done.store(true, Ordering::SeqCst);
    };
    let (count, ()) = tokio::join!(writes, catch_up);
    println!("{count} writes while the snapshot was installed");
    cluster.nodes.insert(away, away_started);
    // It did not come by the log: that no longer has what was missing here.
    until_purged(&cluster, away, left_at).await;
    cluster.assert_equal_states().await;
    // Restarts from what was installed.
    cluster.kill(away).await;
    cluster.start(away).await;
    cluster.assert_equal_states().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_lost_its_state_takes_one_from_a_peer() {
    let mut cluster = Cluster::started_with(3, little_log).await;
    let follower = cluster.follower().await;
    write_much(&cluster, follower, 8).await;
    until_purged(&cluster, follower, 10).await;
    cluster.stop(follower).await;
    std::fs::remove_dir_all(cluster.data_dir(follower).join("state")).unwrap();
    cluster.start(follower).await;
    cluster.assert_equal_states().await;
    cluster.kill(follower).await;
    cluster.start(follower).await;
    cluster.assert_equal_states().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_diverged_stops_itself() {
    let mut cluster = Cluster::started(3).await;
    let follower = cluster.follower().await;
    let leader = cluster.leader().await;
    let revision = cluster.write(leader, "key", "1").await;
    cluster.catch_up(follower, revision).await;
    // Another state than the log leads to, as a fault of memory would make it.
    cluster.node(follower).spoil();
    cluster.write(leader, "key", "2").await;
    let mut failure = cluster.node(follower).failure();
    let told = tokio::time::timeout(LONG, failure.wait_for(Option::is_some)).await;
    let told = told.expect("the replica goes on").unwrap().clone().unwrap();
    assert!(told.contains("diverged"), "{told}");
    cluster.nodes.remove(&follower);
    cluster.write(leader, "key", "3").await;
}

impl Replica {
    /// Applies something to the state that is not in the log.
    fn spoil(&self) {
        let view = self.state().view().unwrap();
        let now = view.head().now;
        let batch = keelstone_store::machine::codec::encode_batch(
            now,
            &[keelstone_store::machine::codec::encode_envelope(&put("spoiled", "x"))],
        );
        let id = view.applied().id.unwrap();
        let payload = keelstone_store::state::Payload::Batch(batch);
        self.state().apply(&[(id, payload)]).unwrap();
    }
}

/// A file system of a few megabytes, if this process may make one.
struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    fn mount(path: &Path, megabytes: u32) -> Option<Self> {
        std::fs::create_dir_all(path).unwrap();
        let size = format!("size={megabytes}m");
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(path)
            .status();
        mounted.is_ok_and(|status| status.success()).then(|| Self { path: path.to_owned() })
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = std::process::Command::new("umount").arg("-l").arg(&self.path).status();
        if !unmounted.is_ok_and(|status| status.success()) {
            println!("{} stays mounted", self.path.display());
        }
    }
}

/// A cluster whose replicas have a disk of 96 MiB each, 16 of them in reserve.
/// None if this process cannot make them.
async fn with_small_disks() -> Option<(Cluster, Vec<SmallDisk>)> {
    let mut cluster = Cluster::with(3, |settings| {
        settings.disk_reserve_bytes = 16 * 1024 * 1024;
        settings.log.segment_bytes = 1024 * 1024;
    })
    .await;
    let disks: Option<Vec<_>> =
        (1..=3).map(|id| SmallDisk::mount(&cluster.data_dir(id), 96)).collect();
    let Some(disks) = disks else {
        println!("skipped: this process cannot mount a tmpfs");
        return None;
    };
    cluster.start_all(&[1, 2, 3]).await;
    Some((cluster, disks))
}

/// Writes a file until only `left` bytes are free on a replica's disk.
fn fill(cluster: &Cluster, id: u64, left: u64) -> PathBuf {
    let filler = cluster.data_dir(id).join("filler");
    let free = rustix::fs::statvfs(cluster.data_dir(id)).unwrap();
    let fill = free.f_bavail * free.f_frsize - left;
    std::fs::write(&filler, vec![1; usize::try_from(fill).unwrap()]).unwrap();
    filler
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_writes_and_serves_again_when_there_is_room() {
    let Some((mut cluster, _disks)) = with_small_disks().await else { return };
    let leader = cluster.leader().await;
    cluster.write(leader, "key", "1").await;
    let filler = fill(&cluster, leader, 8 * 1024 * 1024);
    let until = soon();
    let refused = loop {
        match cluster.node(leader).propose(put("key", "2"), soon()).await {
            Ok(_) => assert!(Instant::now() < until, "a full disk takes writes"),
            Err(error) => break error,
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert!(matches!(refused, ProposeError::NoSpace { .. }), "{refused:?}");
    let forwarded = cluster.node(cluster.follower().await).propose(put("key", "2"), soon()).await;
    assert!(matches!(forwarded, Err(ProposeError::NoSpaceAtLeader)), "{forwarded:?}");
    assert!(cluster.read(leader, "key").await.is_some());
    std::fs::remove_file(&filler).unwrap();
    let until = soon();
    while cluster.node(leader).propose(put("key", "3"), soon()).await.is_err() {
        assert!(Instant::now() < until, "it does not serve again");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(cluster.read(leader, "key").await.as_deref(), Some("3"));
    cluster.assert_equal_states().await;
    for id in 1..=3 {
        cluster.stop(id).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_with_a_full_disk_stands_still_and_catches_up() {
    let Some((mut cluster, _disks)) = with_small_disks().await else { return };
    let leader = cluster.leader().await;
    let full = cluster.follower().await;
    cluster.write(leader, "key", "before").await;
    // Less than half of the reserve.
    let filler = fill(&cluster, full, 4 * 1024 * 1024);
    let until = soon();
    while cluster.node(full).space.takes_entries() {
        assert!(Instant::now() < until, "a full disk is not seen");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let stood = cluster.node(full).core_status().last_log_index;
    let value = "x".repeat(64 * 1024);
    // More than its disk could take.
    for number in 0..128 {
        cluster.write(leader, &format!("k{}", number % 8), &value).await;
    }
    assert!(cluster.node(full).core_status().last_log_index <= stood + 1);
    assert_eq!(cluster.leader().await, leader, "it goes on hearing of its leader");
    std::fs::remove_file(&filler).unwrap();
    let revision = cluster.write(leader, "key", "after").await;
    cluster.node(full).wait_applied(revision, soon()).await.unwrap();
    cluster.assert_equal_states().await;
    for id in 1..=3 {
        cluster.stop(id).await;
    }
}
