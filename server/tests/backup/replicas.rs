//! Restored directories under real replicas: they form one cluster, which has
//! the state of the backup and goes on from there.

use crate::restoring::token;
use crate::round_trip::{back_up, hex};
use crate::store::Store;
use crate::support::{bucket_of, s3, seeded};
use bytes::Bytes;
use keelstone_server::backup::{
    Repo, RestoreMember, RestoreOptions, Restored, Source, Unobserved, create, restore, verify,
};
use keelstone_server::core::{Consistency, Core as _, MemberStatus};
use keelstone_server::replica::{Components, Entry, Replica, ReplicaSettings};
use keelstone_store::machine::{Command, Envelope, Op, Outcome, Put, Txn, View as _};
use keelstone_store::{LeaseId, Space};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::Instant;

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(20)
}

/// Starts three replicas on their directories.
async fn start(
    directories: &[(u64, PathBuf)],
    members: &[MemberStatus],
    listeners: Vec<TcpListener>,
) -> Vec<Arc<Replica>> {
    let mut starting = Vec::new();
    for ((id, place), listener) in directories.iter().zip(listeners) {
        let entry =
            Entry::Form { node_id: *id, token: "of no effect".into(), members: members.to_vec() };
        let mut settings = ReplicaSettings::new(place.clone(), entry);
        settings.disk_reserve_bytes = 1 << 20;
        starting.push(Replica::start(settings, Components::real(listener)));
    }
    futures::future::try_join_all(starting).await.unwrap()
}

async fn put(replicas: &[Arc<Replica>], key: &[u8], value: &'static str) -> u64 {
    let put = Op::Put(Put::new(Space::Raw.key(key), Bytes::from_static(value.as_bytes())));
    let command = Command::Txn(Txn { then: vec![put], ..Txn::default() });
    let deadline = soon();
    loop {
        for replica in replicas {
            let envelope = Envelope { write_id: None, command: command.clone() };
            if let Ok(reply) = replica.propose(envelope, deadline).await {
                assert!(matches!(reply.outcome, Outcome::Txn(_)));
                return reply.revision.get();
            }
        }
        assert!(Instant::now() < deadline, "no leader");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn restored_replicas_form_a_cluster_and_go_on() {
    let server = s3().await;
    let repo = Repo::open_or_init(bucket_of(&server)).await.unwrap();
    let mut store = Store::new();
    store.fill(&mut seeded(), 100);
    let backup = back_up(&store, &repo).await;
    let dir = tempfile::tempdir().unwrap();
    let mut listeners = Vec::new();
    for _ in 0..3 {
        listeners.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
    }
    let addresses: Vec<_> =
        listeners.iter().map(|it| it.local_addr().unwrap().to_string()).collect();
    let members = addresses.iter().zip(1..).map(|(address, id)| RestoreMember {
        id,
        peer_address: address.clone(),
        client_address: format!("http://unused/{id}"),
        labels: BTreeMap::new(),
    });
    let members: Vec<_> = members.collect();
    let directories: Vec<_> = (1..=3).map(|id| (id, dir.path().join(format!("n{id}")))).collect();
    let options = RestoreOptions::new(token(), members.clone(), directories.clone());
    let told: Restored = restore(&repo, &backup, &options, &Unobserved).await.unwrap();
    let statuses: Vec<_> = members
        .iter()
        .map(|member| MemberStatus {
            id: member.id,
            peer_address: member.peer_address.clone(),
            client_address: member.client_address.clone(),
            labels: BTreeMap::new(),
            voter: true,
            lag: None,
        })
        .collect();
    let replicas = start(&directories, &statuses, listeners).await;
    for replica in &replicas {
        assert_eq!(replica.identity().cluster_id, told.cluster_id);
        let view = replica.read(Consistency::Linearizable, soon()).await.unwrap();
        let head = view.head();
        assert_eq!((head.revision.get(), head.history), (told.revision, told.history));
        let root = view.state_root(head.revision).unwrap().unwrap();
        assert_eq!(hex(&root), backup.manifest.state_root);
        assert_eq!(head.leases, 6, "no lease has run out");
        assert_eq!(view.leases(LeaseId::NONE, 10).unwrap().len(), 6);
    }
    assert_eq!(put(&replicas, b"new", "value").await, told.revision + 1);
    let mut hashes = Vec::new();
    for replica in &replicas {
        let view = replica.read(Consistency::Linearizable, soon()).await.unwrap();
        assert_eq!(view.head().revision.get(), told.revision + 1);
        hashes.push(view.head().hash);
    }
    assert!(hashes.iter().all(|hash| *hash == hashes[0]));
    // And it can be backed up again, beside the old one.
    let view = replicas[1].read(Consistency::Linearizable, soon()).await.unwrap();
    let source = Source::of_view(view, told.cluster_id);
    let again =
        create(source, &repo, keelstone_server::backup::CreateOptions::default(), &Unobserved);
    let again = again.await.unwrap();
    assert_eq!(again.manifest.raft.membership.len(), 3);
    verify(&repo, &again, &Unobserved).await.unwrap().into_result().unwrap();
    for replica in replicas {
        replica.shutdown().await;
    }
}
