//! What is acknowledged is there, on every node, at once.

use super::*;
use keelstone_store::machine::Rejection;
use std::sync::atomic::AtomicU64;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn followers_forward_writes_and_read_their_own_and_others_writes() {
    let cluster = Cluster::started(3).await;
    for round in 0..30 {
        let (writer, reader) = (round % 3 + 1, (round + 1) % 3 + 1);
        let value = round.to_string();
        cluster.write(writer, "key", &value).await;
        assert_eq!(cluster.read(reader, "key").await, Some(value), "round {round}");
    }
    cluster.assert_equal_states().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_never_go_back_while_many_write() {
    let cluster = Arc::new(Cluster::started(3).await);
    let acknowledged = Arc::new(AtomicU64::new(0));
    let until = Instant::now() + Duration::from_secs(3);
    let mut tasks = Vec::new();
    for writer in 0..6 {
        let (cluster, acknowledged) = (Arc::clone(&cluster), Arc::clone(&acknowledged));
        tasks.push(tokio::spawn(async move {
            let mut count = 0_u64;
            while Instant::now() < until {
                let key = format!("w{writer}");
                let revision = cluster.write(writer % 3 + 1, &key, "x").await;
                acknowledged.fetch_max(revision.get(), Ordering::SeqCst);
                count += 1;
            }
            count
        }));
    }
    for reader in 0..6 {
        let (cluster, acknowledged) = (Arc::clone(&cluster), Arc::clone(&acknowledged));
        tasks.push(tokio::spawn(async move {
            let mut count = 0;
            while Instant::now() < until {
                let least = acknowledged.load(Ordering::SeqCst);
                let node = cluster.node(reader % 3 + 1);
                let view = node.read(Consistency::Linearizable, soon()).await.unwrap();
                assert!(view.head().revision.get() >= least, "a stale read");
                count += 1;
            }
            count
        }));
    }
    let counts: Vec<u64> =
        futures::future::join_all(tasks).await.into_iter().map(Result::unwrap).collect();
    assert!(counts.iter().all(|count| *count > 10), "{counts:?}");
    cluster.assert_equal_states().await;
}

/// A moment that is held keeps the engine from giving back all that was
/// superseded since.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_moment_of_the_state_is_held_when_nobody_reads() {
    let cluster = Cluster::started(3).await;
    let feature_level = async || {
        let view = cluster.node(1).read(Consistency::Linearizable, soon()).await.unwrap();
        view.head().feature_level
    };
    // The tasks that look after the state have done what they begin with.
    while feature_level().await == 0 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    for round in 0..20 {
        cluster.write(1, "key", &round.to_string()).await;
    }
    for id in 1..=3 {
        let held = || cluster.node(id).state().moments_held();
        let until = soon();
        while held() > 1 {
            assert!(Instant::now() < until, "node {id} holds {} moments", held());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_writers_share_syncs() {
    let cluster = Arc::new(Cluster::started(3).await);
    let leader = cluster.leader().await;
    let before = cluster.node(leader).log().stats();
    let writers = (0..64).map(|writer| {
        let cluster = Arc::clone(&cluster);
        tokio::spawn(async move {
            for number in 0..50 {
                cluster.write(leader, &format!("w{writer}"), &number.to_string()).await;
            }
        })
    });
    for writer in futures::future::join_all(writers).await {
        writer.unwrap();
    }
    let after = cluster.node(leader).log().stats();
    let syncs = after.syncs - before.syncs;
    println!("3200 writes took {syncs} syncs");
    assert!(syncs * 10 <= 3200, "{syncs} syncs for 3200 writes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_is_refused_before_the_log() {
    let cluster = Cluster::started(1).await;
    let node = cluster.node(1);
    let last = node.core_status().last_log_index;
    let value = "x".repeat(keelstone_store::limits::VALUE_BYTES_MAX + 1);
    let refused = node.propose(put("a", &value), soon()).await;
    assert!(matches!(refused, Err(ProposeError::TooLarge { .. })), "{refused:?}");
    let refused = node.propose(put("", "x"), soon()).await.unwrap();
    println!("{refused:?}");
    if let Outcome::Rejected(rejection) = refused.outcome {
        assert!(matches!(rejection, Rejection::Invalid(_)));
        assert_eq!(node.core_status().last_log_index, last);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_much_waiting_is_refused() {
    let cluster = Cluster::started_with(3, |settings| settings.waiting_bytes_max = 10_000).await;
    let leader = cluster.leader().await;
    let node = cluster.node(leader);
    let value = "x".repeat(4000);
    let writes = (0..20).map(|_| node.propose(put("a", &value), soon()));
    let answers = futures::future::join_all(writes).await;
    let refused = answers.iter().filter(|it| matches!(it, Err(ProposeError::Overloaded { .. })));
    let (refused, taken) = (refused.count(), answers.iter().filter(|it| it.is_ok()).count());
    assert!(refused > 0 && taken >= 2 && refused + taken == 20, "{answers:?}");
    cluster.write(leader, "a", "1").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_end_and_an_idle_cluster_writes_nothing() {
    let cluster = Cluster::started(3).await;
    let leader = cluster.leader().await;
    let node = cluster.node(leader);
    let id = keelstone_store::LeaseId(7);
    let grant = Command::LeaseGrant { id, ttl_ms: 2_000 };
    let grant = Envelope { write_id: None, command: grant };
    node.propose(grant, soon()).await.unwrap();
    let mut attached = Put::new(Space::Raw.key(b"leased"), Bytes::from_static(b"x"));
    attached.lease = id;
    let txn = Txn { then: vec![Op::Put(attached)], ..Txn::default() };
    node.propose(Envelope { write_id: None, command: Command::Txn(txn) }, soon()).await.unwrap();
    assert!(cluster.read(leader, "leased").await.is_some());
    let granted = Instant::now();
    while cluster.read(leader, "leased").await.is_some() {
        assert!(granted.elapsed() < LONG, "the lease does not end");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(granted.elapsed() > Duration::from_millis(1_500), "the lease ended early");
    tokio::time::sleep(Duration::from_millis(500)).await;
    let last = node.core_status().last_log_index;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(node.core_status().last_log_index, last, "an idle cluster writes");
}
