//! Replicas as processes: the real program, started with `serve` on a disk and
//! in a network of its own.
//!
//! What a replica is made of ([`Node`]) and all of one run ([`Nodes`]); nothing
//! here decides when something happens to them.

mod certificates;
mod config;
mod process;

pub(crate) use certificates::Certificates;
pub(crate) use config::Sizes;
pub(crate) use process::Node;

use crate::disk::Disk;
use crate::net::{Enclosure, Network};
use anyhow::{Context as _, Result};
use config::Membership;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

/// Where replicas serve clients.
pub(crate) const CLIENT_PORT: u16 = 7701;
/// Where replicas serve each other.
pub(crate) const PEER_PORT: u16 = 7702;
/// Where replicas serve metrics and health.
pub(crate) const HTTP_PORT: u16 = 7703;

/// What all replicas of a run have in common.
#[derive(Clone, Debug)]
pub(crate) struct Common {
    /// The `keelstone` program.
    pub(crate) binary: PathBuf,
    /// The run's directory; logs and configurations go below it.
    pub(crate) dir: PathBuf,
    /// Where images of disks go; `None`: plain directories.
    pub(crate) images: Option<PathBuf>,
    /// Certificates for clients and peers; `None`: plaintext.
    pub(crate) certificates: Option<Certificates>,
    /// Thresholds that decide how often rare paths are taken.
    pub(crate) sizes: Sizes,
    /// Whether the wall clock of each replica can be set.
    pub(crate) clocks: bool,
}

/// All replicas of one run, those that left it included.
#[derive(Debug)]
pub(crate) struct Nodes {
    common: Common,
    network: Network,
    nodes: BTreeMap<u64, Node>,
    founders: Vec<u64>,
    token: String,
}

impl Nodes {
    /// `count` replicas that will form a cluster. Starts none.
    ///
    /// # Errors
    ///
    /// Fails if a network, a disk or a configuration cannot be made.
    pub(crate) fn create(common: Common, enclosure: Enclosure, count: u64) -> Result<Self> {
        let network = Network::create(enclosure)?;
        let founders: Vec<u64> = (1..=count).collect();
        let token = "jepsen".to_owned();
        let mut nodes = Self { common, network, nodes: BTreeMap::new(), founders, token };
        for id in nodes.founders.clone() {
            nodes.make(id, false).with_context(|| format!("make replica {id}"))?;
        }
        Ok(nodes)
    }

    /// A replica that was made as `made` has been given the id `given`.
    pub(crate) fn rename(&mut self, made: u64, given: u64) {
        if let Some(mut node) = self.nodes.remove(&made) {
            node.id = given;
            self.nodes.insert(given, node);
        }
    }

    /// Makes a replica that joins the cluster when it has been added to it.
    ///
    /// # Errors
    ///
    /// Fails if its network, disk or configuration cannot be made.
    pub(crate) fn add_joining(&mut self, id: u64) -> Result<()> {
        self.make(id, true)
    }

    fn make(&mut self, id: u64, joining: bool) -> Result<()> {
        self.network.add(id)?;
        let dir = self.common.dir.join("nodes").join(format!("n{id}"));
        std::fs::create_dir_all(&dir).context("make a replica's directory")?;
        let mount = match &self.common.images {
            Some(images) => images.join(format!("n{id}")),
            None => dir.join("disk"),
        };
        let disk = Disk::create(mount, self.common.images.as_deref(), &format!("n{id}"))?;
        let node = Node::new(id, self.network.address(id), self.network.prefix(id), dir, disk);
        let founders: Vec<_> =
            self.founders.iter().map(|id| (*id, self.network.address(*id))).collect();
        let membership = Membership { founders: &founders, token: &self.token, joining };
        config::write(&node, &self.common, &membership)?;
        self.nodes.insert(id, node);
        Ok(())
    }

    /// Forgets all replicas, which must not run, and makes as many with the
    /// same addresses on new disks, for a cluster with another token. Returns
    /// their data directories.
    ///
    /// # Errors
    ///
    /// Fails as [`Self::create`] does.
    pub(crate) fn found_again(&mut self, token: &str, first: u64) -> Result<Vec<(u64, PathBuf)>> {
        token.clone_into(&mut self.token);
        let count = self.founders.len() as u64;
        self.founders = (first..first + count).collect();
        for id in self.founders.clone() {
            self.make(id, false)?;
        }
        Ok(self.founders.iter().map(|id| (*id, self.nodes[id].data_dir())).collect())
    }

    /// Starts a replica that does not run.
    ///
    /// # Errors
    ///
    /// Fails if it runs or its process cannot be started.
    pub(crate) fn start(&mut self, id: u64) -> Result<()> {
        let common = self.common.clone();
        self.node(id)?.start(&common)
    }

    /// One replica.
    ///
    /// # Errors
    ///
    /// Fails if there is none with this id.
    pub(crate) fn node(&mut self, id: u64) -> Result<&mut Node> {
        self.nodes.get_mut(&id).with_context(|| format!("there is no replica {id}"))
    }

    /// All replicas, by id.
    pub(crate) fn all(&mut self) -> impl Iterator<Item = &mut Node> {
        self.nodes.values_mut()
    }

    /// The ids of all replicas that were not given up.
    pub(crate) fn ids(&self) -> Vec<u64> {
        self.nodes.values().filter(|node| !node.is_retired()).map(|node| node.id).collect()
    }

    /// The address of a replica.
    pub(crate) fn address(&self, id: u64) -> Ipv4Addr {
        self.nodes.get(&id).map_or_else(|| self.network.address(id), |node| node.address)
    }

    /// The network between them.
    pub(crate) fn network(&mut self) -> &mut Network {
        &mut self.network
    }

    /// What they have in common.
    pub(crate) fn common(&self) -> &Common {
        &self.common
    }

    /// The words of `--initial-cluster` for the founders.
    pub(crate) fn initial_cluster(&self) -> Vec<String> {
        self.founders.iter().map(|id| config::member(*id, self.network.address(*id))).collect()
    }

    /// Asks all to stop, and kills who does not within `timeout`.
    ///
    /// # Errors
    ///
    /// Fails if a signal cannot be sent.
    pub(crate) fn stop_all(&mut self, timeout: Duration) -> Result<()> {
        for node in self.nodes.values_mut() {
            node.ask_to_stop()?;
        }
        for node in self.nodes.values_mut() {
            node.wait_stopped(timeout)?;
        }
        Ok(())
    }
}
