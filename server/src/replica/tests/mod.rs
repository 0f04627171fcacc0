//! Replicas in one process, over real sockets and real disks.

mod faults;
mod formation;
mod members;
mod reads_and_writes;
mod secured;

use super::{Components, Entry, Replica, ReplicaSettings, StartError};
use crate::core::{Consistency, Core as _, MemberStatus, ProposeError};
use bytes::Bytes;
use keelstone_store::machine::{Command, Envelope, Op, Outcome, Put, Reply, Txn, View as _};
use keelstone_store::{Revision, Space};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::Instant;

/// How long anything in these tests may take on a busy machine.
const LONG: Duration = Duration::from_mins(1);

/// Replicas on this machine.
struct Cluster {
    dir: tempfile::TempDir,
    members: Vec<MemberStatus>,
    nodes: BTreeMap<u64, Arc<Replica>>,
    adjust: fn(&mut ReplicaSettings),
}

/// An address that nothing else on this machine takes by chance: outside of the
/// range that the system gives to connections, and once only.
async fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 12_000 + u16::try_from(std::process::id() % 100).unwrap() * 200;
    loop {
        let port = first + NEXT.fetch_add(1, Ordering::Relaxed);
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)).await {
            return listener.local_addr().unwrap();
        }
    }
}

async fn new_member(id: u64) -> MemberStatus {
    let address = free_address().await.to_string();
    MemberStatus {
        id,
        client_address: format!("client-of-{address}"),
        peer_address: address,
        labels: BTreeMap::new(),
        voter: true,
        lag: None,
    }
}

fn put(key: &str, value: &str) -> Envelope {
    let key = Space::Raw.key(key.as_bytes());
    let value = Bytes::copy_from_slice(value.as_bytes());
    let then = vec![Op::Put(Put::new(key, value))];
    Envelope { write_id: None, command: Command::Txn(Txn { then, ..Txn::default() }) }
}

fn soon() -> Instant {
    Instant::now() + LONG
}

impl Cluster {
    /// The members of a cluster that has not been started.
    async fn new(size: u64) -> Self {
        Self::with(size, |_| {}).await
    }

    async fn with(size: u64, adjust: fn(&mut ReplicaSettings)) -> Self {
        let mut members = Vec::new();
        for id in 1..=size {
            members.push(new_member(id).await);
        }
        let dir = tempfile::tempdir().unwrap();
        Self { dir, members, nodes: BTreeMap::new(), adjust }
    }

    /// A running cluster that has a leader.
    async fn started(size: u64) -> Self {
        Self::started_with(size, |_| {}).await
    }

    async fn started_with(size: u64, adjust: fn(&mut ReplicaSettings)) -> Self {
        let mut cluster = Self::with(size, adjust).await;
        let ids: Vec<u64> = (1..=size).collect();
        cluster.start_all(&ids).await;
        cluster.leader().await;
        cluster
    }

    fn data_dir(&self, id: u64) -> PathBuf {
        self.dir.path().join(id.to_string())
    }

    fn settings(&self, id: u64) -> ReplicaSettings {
        let members = self.members.clone();
        let entry = Entry::Form { node_id: id, token: "test".to_owned(), members };
        self.settings_with(&self.data_dir(id), entry)
    }

    fn settings_with(&self, dir: &Path, entry: Entry) -> ReplicaSettings {
        let mut settings = ReplicaSettings::new(dir.to_owned(), entry);
        settings.log.segment_bytes = 4 * 1024 * 1024;
        settings.disk_reserve_bytes = 0;
        // Elections only when a test means it, on a busy machine too.
        settings.timing.heartbeat_interval = Duration::from_millis(150);
        settings.timing.election_timeout_min = Duration::from_millis(600);
        settings.timing.election_timeout_max = Duration::from_millis(1200);
        (self.adjust)(&mut settings);
        settings
    }

    fn address(&self, id: u64) -> String {
        self.members.iter().find(|it| it.id == id).unwrap().peer_address.clone()
    }

    async fn try_start(&self, id: u64) -> Result<Arc<Replica>, StartError> {
        start(self.settings(id), &self.address(id)).await
    }

    async fn start(&mut self, id: u64) {
        let node = self.try_start(id).await.unwrap();
        self.nodes.insert(id, node);
    }

    async fn start_all(&mut self, ids: &[u64]) {
        let starts = ids.iter().map(|id| self.try_start(*id));
        let started = futures::future::join_all(starts).await;
        for (id, node) in ids.iter().zip(started) {
            self.nodes.insert(*id, node.unwrap());
        }
    }

    /// Ends a node well.
    async fn stop(&mut self, id: u64) {
        self.nodes.remove(&id).unwrap().shutdown().await;
    }

    /// Ends a node as a crash of the process would, but for what the operating
    /// system would still write.
    async fn kill(&mut self, id: u64) {
        self.nodes.remove(&id).unwrap().halt().await;
    }

    fn node(&self, id: u64) -> &Arc<Replica> {
        &self.nodes[&id]
    }

    /// Waits until all running nodes agree on a leader that runs, and returns
    /// it.
    async fn leader(&self) -> u64 {
        let until = soon();
        loop {
            let leaders: Vec<_> =
                self.nodes.values().map(|node| node.core_status().leader).collect();
            if let Some(Some(first)) = leaders.first()
                && leaders.iter().all(|leader| leader == &Some(*first))
                && self.nodes.get(first).is_some_and(|node| node.core_status().role == "leader")
            {
                return *first;
            }
            assert!(Instant::now() < until, "no leader: {leaders:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn follower(&self) -> u64 {
        let leader = self.leader().await;
        *self.nodes.keys().find(|id| **id != leader).unwrap()
    }

    /// Writes through a node, and again after refusals.
    async fn write(&self, id: u64, key: &str, value: &str) -> Revision {
        let until = soon();
        loop {
            match self.node(id).propose(put(key, value), until).await {
                Ok(Reply { revision, outcome: Outcome::Txn(_) }) => return revision,
                Ok(other) => panic!("an odd reply: {other:?}"),
                Err(ProposeError::NotLeader(_) | ProposeError::Unknown(_))
                    if Instant::now() < until => {}
                Err(error) => panic!("write failed: {error}"),
            }
        }
    }

    async fn read(&self, id: u64, key: &str) -> Option<String> {
        let view = self.node(id).read(Consistency::Linearizable, soon()).await.unwrap();
        let key = Space::Raw.key(key.as_bytes());
        let record = view.get(&key).unwrap()?;
        Some(String::from_utf8(record.value.to_vec()).unwrap())
    }

    /// Waits until a node contains a revision.
    async fn catch_up(&self, id: u64, revision: Revision) {
        self.node(id).wait_applied(revision, soon()).await.unwrap();
    }

    /// The state's hash of each running node, all at one revision.
    async fn assert_equal_states(&self) {
        let leader = self.leader().await;
        let revision = self.write(leader, "equal", "states").await;
        for id in self.nodes.keys() {
            self.catch_up(*id, revision).await;
        }
        // A node may have applied a compaction that another has yet to hear of:
        // states are compared where as many transitions led to them.
        let until = soon();
        let hashes = loop {
            let head = |node: &Arc<Replica>| node.state().view().unwrap().head();
            let heads: Vec<_> = self.nodes.values().map(head).collect();
            if heads.windows(2).all(|pair| pair[0].transitions == pair[1].transitions) {
                break heads.into_iter().map(|head| head.hash).collect::<Vec<_>>();
            }
            assert!(Instant::now() < until, "the nodes do not come to the same position");
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        assert!(hashes.windows(2).all(|pair| pair[0] == pair[1]), "{hashes:?}");
    }
}

/// Binds an address that a node before may just be leaving.
async fn bind(address: &str) -> TcpListener {
    let until = soon();
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(error) => assert!(Instant::now() < until, "{address}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn start(settings: ReplicaSettings, address: &str) -> Result<Arc<Replica>, StartError> {
    let listener = bind(address).await;
    tokio::time::timeout(LONG, Replica::start(settings, Components::real(listener)))
        .await
        .expect("the start takes too long")
}
