//! What a replica asks of another outside of consensus.

use super::ReadIndexError;
use super::peers::{MESSAGE_BYTES_MAX, Peers};
use super::receive;
use super::service::{Forwarded, forwarded_from_proto};
use super::transport::Dialer;
use bytes::Bytes;
use keelstone_proto::peer;
use keelstone_proto::peer::peer_client::PeerClient;
use keelstone_store::state::{Applied, FinishedSnapshot, State};
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tonic::transport::Channel;
use tonic::{Code, Status};

/// Channels kept to peers; more are never needed, since members are few.
const CHANNELS_MAX: usize = 64;

/// Why a peer gave no answer. What was asked of it may have happened.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// It refused, with this reason.
    #[error("{0}")]
    Refused(String),
    /// No connection could be made: it has not seen the call.
    #[error("no connection: {0}")]
    NotSent(String),
    /// It could not be reached, or not in time.
    #[error("{0}")]
    Unreachable(String),
}

/// Whether the call failed while a connection was being made.
fn not_sent(status: &Status) -> bool {
    let mut error = std::error::Error::source(status);
    while let Some(cause) = error {
        if cause.is::<tonic::ConnectError>() {
            return true;
        }
        error = cause.source();
    }
    false
}

impl From<Status> for CallError {
    fn from(status: Status) -> Self {
        let text = status.message().to_owned();
        if not_sent(&status) {
            return Self::NotSent(text);
        }
        match status.code() {
            Code::FailedPrecondition | Code::InvalidArgument | Code::Aborted | Code::DataLoss => {
                Self::Refused(text)
            }
            _ => Self::Unreachable(text),
        }
    }
}

/// Calls other replicas.
pub(crate) struct Calls {
    dialer: Dialer,
    channels: Mutex<BTreeMap<String, Channel>>,
}

impl Calls {
    pub(crate) fn new(dialer: Dialer) -> Self {
        Self { dialer, channels: Mutex::default() }
    }

    fn client(&self, address: &str) -> PeerClient<Channel> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if channels.len() >= CHANNELS_MAX && !channels.contains_key(address) {
            channels.clear();
        }
        let channel = channels
            .entry(address.to_owned())
            .or_insert_with(|| self.dialer.channel(address))
            .clone();
        PeerClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Makes a call with a deadline. After it passed the connection is given
    /// up, since a half-open one would swallow the next call too.
    async fn call<T>(
        &self,
        address: &str,
        timeout: Duration,
        call: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Result<T, CallError> {
        match tokio::time::timeout(timeout, call).await {
            Ok(answer) => Ok(answer?.into_inner()),
            Err(_elapsed) => {
                let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
                channels.remove(address);
                Err(CallError::Unreachable("no answer in time".to_owned()))
            }
        }
    }

    /// Asks who is at `address` and what it knows.
    pub(crate) async fn identify(
        &self,
        address: &str,
        request: peer::IdentifyRequest,
        timeout: Duration,
    ) -> Result<peer::IdentifyResponse, CallError> {
        let mut client = self.client(address);
        self.call(address, timeout, async move { client.identify(request).await }).await
    }

    /// Gives the node at `address`, which waits to join, its id.
    pub(crate) async fn adopt(
        &self,
        address: &str,
        cluster_id: [u8; 16],
        node_id: u64,
        timeout: Duration,
    ) -> Result<(), CallError> {
        let mut client = self.client(address);
        let request = peer::AdoptRequest { cluster_id: cluster_id.to_vec().into(), node_id };
        self.call(address, timeout, async move { client.adopt(request).await }).await.map(drop)
    }

    /// Asks the leader for the entry that a read has to wait for.
    pub(crate) async fn read_index(
        &self,
        peers: &Peers,
        target: (u64, &str),
        timeout: Duration,
    ) -> Result<u64, ReadIndexError> {
        use peer::read_index_response::Outcome;
        let (id, address) = target;
        let mut client = self.client(address);
        let request = peer::ReadIndexRequest { address: Some(peers.address(id)) };
        let call = async move { client.read_index(request).await };
        match self.call(address, timeout, call).await.map(|response| response.outcome) {
            Ok(Some(Outcome::Index(index))) => Ok(index),
            Ok(Some(Outcome::NotLeader(_))) => Err(ReadIndexError::NotLeader),
            Ok(Some(Outcome::NoQuorum(_)) | None) | Err(_) => Err(ReadIndexError::NoQuorum),
        }
    }

    /// Passes commands on to the leader. One outcome for each.
    pub(crate) async fn forward(
        &self,
        peers: &Peers,
        target: (u64, &str),
        commands: Vec<Bytes>,
        timeout: Duration,
    ) -> Vec<Forwarded> {
        let (id, address) = target;
        let expected = commands.len();
        let mut client = self.client(address);
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        let request =
            peer::ForwardRequest { address: Some(peers.address(id)), commands, timeout_ms };
        let call = async move { client.forward(request).await };
        match self.call(address, timeout, call).await {
            Ok(response) if response.replies.len() == expected => {
                response.replies.into_iter().map(forwarded_from_proto).collect()
            }
            // It says that the call was not for it, before looking at it.
            Err(CallError::Refused(_) | CallError::NotSent(_)) => {
                vec![Forwarded::NotLeader(None); expected]
            }
            Ok(_) | Err(CallError::Unreachable(_)) => vec![Forwarded::Unknown; expected],
        }
    }

    /// Keeps a node from leading, or allows it again.
    pub(crate) async fn drain(
        &self,
        peers: &Peers,
        target: (u64, &str),
        undo: bool,
        timeout: Duration,
    ) -> Result<(), CallError> {
        let (id, address) = target;
        let mut client = self.client(address);
        let request = peer::DrainRequest { address: Some(peers.address(id)), undo };
        self.call(address, timeout, async move { client.drain(request).await }).await.map(drop)
    }

    /// Takes the newest state of a peer into a side directory.
    pub(crate) async fn fetch_snapshot(
        &self,
        peers: &Peers,
        target: (u64, &str),
        state: &Arc<State>,
    ) -> Result<(FinishedSnapshot, Applied), CallError> {
        const OPEN: Duration = Duration::from_secs(5);
        let (id, address) = target;
        let mut client = self.client(address);
        let request = peer::FetchSnapshotRequest { address: Some(peers.address(id)) };
        let call = async move { client.fetch_snapshot(request).await };
        let chunks = self.call(address, OPEN, call).await?;
        Ok(receive::take(state, chunks).await?)
    }
}
