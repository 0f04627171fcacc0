//! Which replicas clients can ask, and the connections to them.

use super::raw::Raw;
use anyhow::Result;
use rand::Rng;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;
use tonic::transport::ClientTlsConfig;

/// The replicas that clients know of; membership changes change it.
#[derive(Debug)]
pub(crate) struct Directory {
    tls: Option<ClientTlsConfig>,
    nodes: RwLock<Vec<(u64, String)>>,
}

impl Directory {
    /// Knows `nodes`, each with its `HOST:PORT`; at least one.
    pub(crate) fn new(tls: Option<ClientTlsConfig>, nodes: Vec<(u64, String)>) -> Self {
        Self { tls, nodes: RwLock::new(nodes) }
    }

    /// A new list takes the place of the old one.
    pub(crate) fn replace(&self, nodes: Vec<(u64, String)>) {
        *self.nodes.write().unwrap_or_else(PoisonError::into_inner) = nodes;
    }

    /// All of them.
    pub(crate) fn nodes(&self) -> Vec<(u64, String)> {
        self.nodes.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A new connection to some replica.
    pub(crate) fn any(&self, rng: &mut impl Rng) -> Raw {
        let nodes = self.nodes();
        let (id, endpoint) = &nodes[rng.random_range(0..nodes.len())];
        Raw::new(*id, endpoint, self.tls.as_ref()).expect("the addresses are well formed")
    }

    /// A new connection to one replica.
    pub(crate) fn raw(&self, id: u64, endpoint: &str) -> Result<Raw> {
        Raw::new(id, endpoint, self.tls.as_ref())
    }

    /// New connections to all of them.
    pub(crate) fn all(&self) -> Vec<Raw> {
        self.nodes().iter().filter_map(|(id, endpoint)| self.raw(*id, endpoint).ok()).collect()
    }

    /// Who leads, as most of those who answer within `timeout` say.
    pub(crate) async fn leader(&self, timeout: Duration) -> Option<u64> {
        let all = self.all();
        let asked = all.iter().map(|raw| raw.status(timeout));
        let answers = futures::future::join_all(asked).await;
        // Of two that claim to lead, the one with the higher term does.
        answers
            .into_iter()
            .flatten()
            .filter(|status| status.leader != 0)
            .max_by_key(|status| status.header.as_ref().map_or(0, |header| header.term))
            .map(|status| status.leader)
    }
}
