//! This node among its peers: what its requests say of whom they are from and
//! for, and the channels that they go through.

use super::transport::Dialer;
use keelstone_proto::peer;
use keelstone_proto::peer::peer_client::PeerClient;
use std::time::Duration;
use tokio::time::Instant;
use tonic::transport::Channel;

/// Bytes of a message that is taken from a peer: an append carries at most
/// about 2 MiB of entries unless one entry is larger, a chunk of a snapshot 1
/// MiB.
pub(crate) const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// This node among its peers.
pub(crate) struct Peers {
    cluster_id: [u8; 16],
    node_id: u64,
    dialer: Dialer,
}

impl Peers {
    pub(crate) fn new(cluster_id: [u8; 16], node_id: u64, dialer: Dialer) -> Self {
        Self { cluster_id, node_id, dialer }
    }

    pub(crate) fn node_id(&self) -> u64 {
        self.node_id
    }

    /// What each request to `target` says of whom it is from and for.
    pub(crate) fn address(&self, target: u64) -> peer::Address {
        peer::Address {
            cluster_id: self.cluster_id.to_vec().into(),
            from: self.node_id,
            to: target,
        }
    }

    /// A channel of its own to a peer.
    pub(crate) fn channel(&self, address: &str) -> PeerChannel {
        PeerChannel::new(self.dialer.clone(), address)
    }
}

/// How long a connection may fail to answer before another one is made. Not at
/// the first failure: making one takes longer than a heartbeat may.
const SILENCE_MAX: Duration = Duration::from_secs(1);

/// One connection to a peer, made again when it has gone bad.
pub(crate) struct PeerChannel {
    dialer: Dialer,
    address: String,
    channel: Channel,
    silent_since: Option<Instant>,
}

impl PeerChannel {
    pub(crate) fn new(dialer: Dialer, address: &str) -> Self {
        let channel = dialer.channel(address);
        Self { dialer, address: address.to_owned(), channel, silent_since: None }
    }

    /// The peer has answered.
    pub(crate) fn answered(&mut self) {
        self.silent_since = None;
    }

    /// The peer has not answered in time. A half-open connection would swallow
    /// the next call too, so that another one is made after a while.
    pub(crate) fn unanswered(&mut self) {
        let since = *self.silent_since.get_or_insert_with(Instant::now);
        if since.elapsed() >= SILENCE_MAX {
            self.renew();
        }
    }

    pub(crate) fn client(&self) -> PeerClient<Channel> {
        PeerClient::new(self.channel.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Drops the connection; the next call opens another.
    pub(crate) fn renew(&mut self) {
        self.silent_since = None;
        self.channel = self.dialer.channel(&self.address);
    }
}
