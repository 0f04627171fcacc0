//! What this node tells peers of itself, from the moment its port is open.
//!
//! While a cluster forms, each node needs to know of the others whether they
//! have ever belonged to one; a wrong "no" would let a second cluster form
//! beside the first. So a node that does not know yet (its log is not open)
//! says nothing.

use super::identity::NodeIdentity;
use super::settings::FEATURE_LEVEL;
use crate::core::MemberStatus;
use crate::raft::{Leadership, PeerRequests};
use async_trait::async_trait;
use keelstone_proto::{disk, peer};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::{oneshot, watch};

/// What is known of this node at present.
enum Standing {
    /// It has no identity and looks whether it may take one.
    Unbound {
        /// Who it will be in which cluster, if a cluster forms.
        forming: Option<(u64, [u8; 16])>,
        /// Where to say that a cluster has adopted it.
        adopt: Option<oneshot::Sender<Adoption>>,
    },
    /// It has an identity; what its log holds is not known yet.
    Bound(NodeIdentity),
    /// Its log is open.
    Open {
        identity: NodeIdentity,
        /// Whether it held anything then.
        held: bool,
        /// What consensus says since.
        leadership: Option<watch::Receiver<Leadership>>,
    },
}

/// An identity that a cluster gives to this node, and where to say that it is
/// durable.
pub(super) struct Adoption {
    pub(super) cluster_id: [u8; 16],
    pub(super) node_id: u64,
    pub(super) done: oneshot::Sender<()>,
}

/// Answers peers who ask.
pub(super) struct Desk {
    member: MemberStatus,
    standing: Mutex<Standing>,
}

impl Desk {
    pub(super) fn new(member: MemberStatus) -> Self {
        let standing = Standing::Unbound { forming: None, adopt: None };
        Self { member, standing: Mutex::new(standing) }
    }

    /// This node forms a cluster with others.
    pub(super) fn forming(&self, node_id: u64, cluster_id: [u8; 16]) {
        *self.standing() = Standing::Unbound { forming: Some((node_id, cluster_id)), adopt: None };
    }

    /// This node waits to be adopted.
    pub(super) fn joining(&self) -> oneshot::Receiver<Adoption> {
        let (sender, receiver) = oneshot::channel();
        *self.standing() = Standing::Unbound { forming: None, adopt: Some(sender) };
        receiver
    }

    /// This node's directory is bound.
    pub(super) fn bound(&self, identity: NodeIdentity) {
        *self.standing() = Standing::Bound(identity);
    }

    /// This node's log is open; `held` says whether there was anything in it.
    pub(super) fn opened(&self, identity: NodeIdentity, held: bool) {
        *self.standing() = Standing::Open { identity, held, leadership: None };
    }

    /// This node takes part in consensus.
    pub(super) fn running(&self, seen: watch::Receiver<Leadership>) {
        if let Standing::Open { leadership, .. } = &mut *self.standing() {
            *leadership = Some(seen);
        }
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn myself(&self, id: u64) -> disk::Member {
        disk::Member {
            id,
            peer_address: self.member.peer_address.clone(),
            client_address: self.member.client_address.clone(),
            labels: self.member.labels.clone(),
        }
    }
}

#[async_trait]
impl PeerRequests for Desk {
    fn identify(
        &self,
        request: &peer::IdentifyRequest,
    ) -> Result<peer::IdentifyResponse, &'static str> {
        let mut response =
            peer::IdentifyResponse { feature_level: FEATURE_LEVEL, ..Default::default() };
        match &*self.standing() {
            Standing::Unbound { forming, adopt } => {
                response.joining = adopt.is_some();
                if let Some((node_id, cluster_id)) = forming {
                    response.node_id = *node_id;
                    response.cluster_id = cluster_id.to_vec().into();
                }
            }
            Standing::Bound(_) => return Err("this node is opening its log"),
            Standing::Open { identity, held, leadership } => {
                response.node_id = identity.node_id;
                response.cluster_id = identity.cluster_id.to_vec().into();
                response.ready = true;
                response.initialised = *held;
                if let Some(leadership) = leadership {
                    let leadership = leadership.borrow();
                    response.initialised |= !leadership.members.all.is_empty();
                    response.leader = leadership.leader.unwrap_or(0);
                    response.term = leadership.term;
                    response.knows_sender = leadership.members.all.contains_key(&request.from);
                }
            }
        }
        response.member = Some(self.myself(response.node_id));
        Ok(response)
    }

    async fn adopt(&self, cluster_id: [u8; 16], node_id: u64) -> Result<(), String> {
        let adopt = match &mut *self.standing() {
            Standing::Unbound { adopt, .. } => {
                adopt.take().ok_or("this node does not wait to be added")?
            }
            Standing::Bound(identity) | Standing::Open { identity, .. } => {
                if identity.cluster_id == cluster_id && identity.node_id == node_id {
                    return Ok(());
                }
                return Err(format!("this node is already node {}", identity.node_id));
            }
        };
        let (done, bound) = oneshot::channel();
        adopt
            .send(Adoption { cluster_id, node_id, done })
            .map_err(|_| "this node is stopping".to_owned())?;
        bound.await.map_err(|_| "this node could not bind its directory".to_owned())
    }
}
