//! A node of the simulation: the server's own parts on a simulated machine.
//!
//! What is real: consensus, log, state, proposer, forwarding, read gate, upkeep,
//! membership, watch hub, entity loop, and gRPC between the nodes. What is
//! simulated: the machine under them (time, network, disk) and the gRPC of
//! clients.

use super::disk::NodeDisk;
use super::door::{Doors, Services};
use super::net::{Net, address};
use super::{HostId, Plan, WallClock};
use keelstone_server::core::{Core, MemberStatus};
use keelstone_server::entities::Entities;
use keelstone_server::metrics::Metrics;
use keelstone_server::replica::{
    Clock as _, Components, Entry, Failure, Replica, ReplicaSettings, StartError,
};
use keelstone_server::watch::{self, Hub};
use keelstone_store::Millis;
use keelstone_store::disk::log::LogOptions;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use tokio_util::sync::CancellationToken;

/// Commands that may wait for a quorum.
const WAITING_COMMANDS_MAX: usize = 512;

/// What the world sees of a node.
#[derive(Clone, Default)]
pub struct Sight {
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    replica: Option<Arc<Replica>>,
    failure: Option<String>,
}

impl Sight {
    fn lock(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The replica, once it takes part.
    pub fn replica(&self) -> Option<Arc<Replica>> {
        self.lock().replica.clone()
    }

    /// Why the node cannot go on, if so. Told once.
    pub fn take_failure(&self) -> Option<String> {
        self.lock().failure.take()
    }

    /// Forgets the node: it is gone.
    pub fn clear(&self) {
        let seen = std::mem::take(&mut *self.lock());
        drop(seen);
    }

    fn show(&self, replica: &Arc<Replica>) {
        self.lock().replica = Some(Arc::clone(replica));
    }

    fn fail(&self, failure: String) {
        self.lock().failure = Some(failure);
    }
}

/// What a node is made of.
#[derive(Clone)]
pub struct NodeParts {
    /// Its host.
    pub host: HostId,
    /// The run's plan.
    pub plan: Arc<Plan>,
    /// The network.
    pub net: Net,
    /// Where clients come in.
    pub doors: Doors,
    /// Its wall clock.
    pub clock: WallClock,
    /// Its disk.
    pub disk: NodeDisk,
    /// Where its identity is: a directory of this machine.
    pub data_dir: PathBuf,
    /// Whether it waits to be added, if its disk is new.
    pub joins: bool,
    /// What the world sees of it.
    pub sight: Sight,
}

/// A member as the initial list and `add` name it.
pub fn member(host: HostId, voter: bool) -> MemberStatus {
    MemberStatus {
        id: if voter { host } else { 0 },
        peer_address: address(host),
        client_address: format!("c{host}:1"),
        labels: BTreeMap::new(),
        voter,
        lag: None,
    }
}

impl NodeParts {
    fn settings(&self) -> ReplicaSettings {
        let plan = &self.plan;
        let members: Vec<_> = (1..=plan.members).map(|host| member(host, true)).collect();
        let entry = if !self.joins {
            Entry::Form { node_id: self.host, token: plan.seed.to_string(), members }
        } else {
            Entry::Join { member: member(self.host, false), ask: members }
        };
        let mut settings = ReplicaSettings::new(self.data_dir.clone(), entry);
        settings.timing = plan.timing;
        settings.log = LogOptions {
            segment_bytes: plan.segment_bytes,
            tail_bytes_max: plan.tail_bytes_max,
            round_bytes_max: 64 * 1024,
            // It would wait on a thread's clock.
            zero_ahead: false,
            ..LogOptions::default()
        };
        settings.checkpoint_entries = plan.checkpoint_entries;
        settings.keep_log_entries = plan.keep_log_entries;
        settings.keep_log_bytes = 1024;
        settings.changes_bytes = plan.changes_bytes;
        settings.history_max = plan.history_max;
        settings.disk_reserve_bytes = 64 * 1024;
        settings.waiting_bytes_max = 4 * 1024 * 1024;
        settings.waiting_commands_max = WAITING_COMMANDS_MAX;
        settings.peer_connections_max = 64;
        settings
    }

    /// The node's life, until it cannot go on or is dropped.
    pub async fn live(self) {
        match self.start().await {
            Ok(replica) => {
                let failure = self.serve(&replica).await;
                self.sight.fail(failure.map_or_else(|| "it ended".to_owned(), |it| it.to_string()));
            }
            Err(error) => self.sight.fail(format!("it did not start: {error}")),
        }
    }

    async fn start(&self) -> Result<Arc<Replica>, StartError> {
        let components = Components {
            clock: Arc::new(self.clock.clone()),
            connector: self.net.connector(self.host),
            acceptor: self.net.listen(self.host),
            client_tls: None,
            server_tls: None,
            disk: self.disk.component(),
            metrics: Arc::new(Metrics::new()),
        };
        Replica::start(self.settings(), components).await
    }

    /// Serves until the replica fails.
    async fn serve(&self, replica: &Arc<Replica>) -> Option<Failure> {
        self.sight.show(replica);
        let core: Arc<dyn Core> = Arc::<Replica>::clone(replica);
        let limits =
            watch::Limits { streams_max: 64, watches_per_stream_max: 16, bytes_max: 4 * 1024 };
        let metrics = Arc::new(Metrics::new());
        let hub = Hub::new(Arc::clone(&core), limits, metrics, CancellationToken::new());
        let clock = self.clock.clone();
        let clock = Arc::new(move || Millis(clock.now_ms()));
        let entities = Entities::new(Arc::clone(&core), clock);
        let services = Services {
            host: self.host,
            replica: Arc::clone(replica),
            core,
            hub,
            entities: Arc::new(entities),
        };
        let mut failure = replica.failure();
        tokio::select! {
            biased;
            failed = failure.wait_for(Option::is_some) => {
                failed.ok().and_then(|failure| failure.clone())
            }
            () = self.doors.serve(Arc::new(services)) => None,
        }
    }
}
