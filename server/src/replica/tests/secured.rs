//! Replicas that speak TLS to each other, both sides with certificates.

use super::*;
use crate::config::Config;
use crate::tls::{Tls, issue};

impl Cluster {
    fn certificates(&self) -> PathBuf {
        let dir = self.dir.path().join("certificates");
        let node = |member: &MemberStatus| issue::Node {
            id: member.id,
            hosts: vec!["127.0.0.1".to_owned()],
        };
        let nodes: Vec<_> = self.members.iter().map(node).collect();
        issue::development(&dir, &nodes, &[], Duration::from_hours(1)).unwrap();
        dir
    }

    async fn start_secured(&self, id: u64, certificates: &Path) -> Arc<Replica> {
        let mut config = Config::default();
        let file = |name: String| Some(certificates.join(name));
        config.peer.tls.certificate = file(format!("node-{id}-peer.pem"));
        config.peer.tls.key = file(format!("node-{id}-peer.key"));
        config.peer.tls.roots = file("peer-ca.pem".to_owned());
        let tls = Tls::open(&config).unwrap();
        let listener = bind(&self.address(id)).await;
        let mut components = Components::real(listener);
        components.server_tls = tls.peer_configs();
        components.client_tls = Some(Arc::new(move || tls.peer_client_config().unwrap()));
        Replica::start(self.settings(id), components).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_speak_tls_and_leave_others_out() {
    let mut cluster = Cluster::new(3).await;
    let certificates = cluster.certificates();
    let plain = cluster.try_start(3);
    let secured = [1, 2].map(|id| Box::pin(cluster.start_secured(id, &certificates)));
    let all = Box::pin(futures::future::join(plain, futures::future::join_all(secured)));
    let formed = tokio::time::timeout(Duration::from_secs(3), all).await;
    assert!(formed.is_err(), "a node without TLS was let in");
    let secured = [1, 2, 3].map(|id| Box::pin(cluster.start_secured(id, &certificates)));
    let started = tokio::time::timeout(LONG, futures::future::join_all(secured)).await.unwrap();
    cluster.nodes = (1..).zip(started).collect();
    let leader = cluster.leader().await;
    cluster.write(leader, "key", "1").await;
    for id in 1..=3 {
        assert_eq!(cluster.read(id, "key").await.as_deref(), Some("1"));
    }
    cluster.kill(leader).await;
    let next = cluster.leader().await;
    cluster.write(next, "key", "2").await;
}
