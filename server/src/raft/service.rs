//! The receiving half of the peer transport: what peers ask of this node.
//!
//! Every call says which cluster and which node it is meant for; one that is
//! meant for another is refused, since an answer to it could count towards a
//! quorum of the wrong cluster.

use super::consensus::Consensus;
use super::convert;
use super::peers::MESSAGE_BYTES_MAX;
use super::progress::{Diverged, Progress};
use super::receive::{self, Receiver};
use super::runtime;
use async_trait::async_trait;
use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use keelstone_proto::peer::peer_server::{Peer, PeerServer};
use keelstone_proto::{disk, peer};
use keelstone_store::disk::log::Log;
use keelstone_store::machine::Reply;
use keelstone_store::machine::codec;
use keelstone_store::state::State;
use openraft::raft::StreamAppendResult;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tonic::{Request, Response, Status, Streaming};

/// What became of a command that a follower passed on.
#[derive(Clone, Debug)]
pub(crate) enum Forwarded {
    Replied(Reply),
    NotLeader(Option<u64>),
    Overloaded,
    NoSpace,
    Unknown,
}

/// What peers ask of a replica besides consensus.
#[async_trait]
pub(crate) trait PeerRequests: Send + Sync + 'static {
    /// Who this node is and what it knows.
    ///
    /// # Errors
    ///
    /// Says why it does not know that yet.
    fn identify(
        &self,
        request: &peer::IdentifyRequest,
    ) -> Result<peer::IdentifyResponse, &'static str>;

    /// Takes the id that a cluster gives to this node, which waits for one.
    ///
    /// # Errors
    ///
    /// Says why it does not.
    async fn adopt(&self, cluster_id: [u8; 16], node_id: u64) -> Result<(), String>;
}

/// What peers ask of a replica that takes part in consensus.
#[async_trait]
pub(crate) trait LeaderRequests: Send + Sync + 'static {
    /// The entry that a linearizable read has to wait for.
    async fn read_index(&self) -> Result<u64, super::ReadIndexError>;

    /// Proposes commands, if this node leads. Never passes them on.
    async fn propose_here(&self, commands: Vec<Bytes>, timeout: Duration) -> Vec<Forwarded>;

    /// Whom this node believes to lead.
    fn leader(&self) -> Option<u64>;

    /// Keeps this node from leading, or allows it again.
    fn set_drained(&self, drained: bool);

    /// Whether this node's disk has room for entries that a leader sends.
    fn has_room(&self) -> bool;

    /// Whether it is kept from leading.
    fn is_drained(&self) -> bool;

    /// This replica came to another state than the leader.
    fn diverged(&self, diverged: Diverged);
}

/// The parts of a node that takes part in consensus.
pub(crate) struct Running {
    pub(crate) cluster_id: [u8; 16],
    pub(crate) node_id: u64,
    pub(crate) consensus: Arc<Consensus>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) state: Arc<State>,
    pub(crate) log: Log,
    pub(crate) leader: Arc<dyn LeaderRequests>,
}

/// The service on the peer port.
#[derive(Clone)]
pub(crate) struct PeerService {
    requests: Arc<dyn PeerRequests>,
    running: Arc<OnceLock<Running>>,
    receiver: Arc<Receiver>,
}

impl PeerService {
    pub(crate) fn new(requests: Arc<dyn PeerRequests>) -> Self {
        Self { requests, running: Arc::default(), receiver: Arc::default() }
    }

    /// From now on this node takes part in consensus.
    pub(crate) fn run(&self, running: Running) {
        assert!(self.running.set(running).is_ok(), "a node starts once");
    }

    /// The service for a server.
    pub(crate) fn into_server(self) -> PeerServer<Self> {
        PeerServer::new(self)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    fn running(&self) -> Result<&Running, Status> {
        self.running.get().ok_or_else(|| Status::unavailable("this node is still starting"))
    }

    /// This node's parts, if the request is meant for it.
    fn addressed(&self, address: Option<&peer::Address>) -> Result<&Running, Status> {
        let running = self.running()?;
        running.check(address)?;
        Ok(running)
    }
}

impl Running {
    fn check(&self, address: Option<&peer::Address>) -> Result<(), Status> {
        let address = address.ok_or_else(|| Status::invalid_argument("the call has no address"))?;
        if address.cluster_id != self.cluster_id[..] {
            return Err(Status::failed_precondition("this node belongs to another cluster"));
        }
        if address.to != self.node_id {
            let text = format!("this is node {}, the call is for {}", self.node_id, address.to);
            return Err(Status::failed_precondition(text));
        }
        Ok(())
    }

    /// Whether there is room for the entries of a request.
    fn takes(&self, request: &peer::AppendRequest) -> bool {
        request.entries.is_empty() || self.leader.has_room()
    }

    /// The vote that this node gave last.
    pub(super) fn vote(&self) -> disk::Vote {
        let vote = self.log.recovered().vote;
        vote.map_or_else(disk::Vote::default, |vote| {
            convert::vote_to_proto(&convert::vote_from_store(vote))
        })
    }

    /// Randomness for consensus code that a call runs, in the simulation.
    fn seed(&self) -> u64 {
        self.node_id
    }

    fn compare_hash(&self, request: &peer::AppendRequest) -> Result<(), Status> {
        let Ok(hash) = <[u8; 32]>::try_from(&request.hash[..]) else { return Ok(()) };
        self.progress.compare(request.hash_index, hash).map_err(|diverged| {
            self.leader.diverged(diverged);
            Status::data_loss(diverged.to_string())
        })
    }
}

fn malformed(error: convert::Malformed) -> Status {
    Status::invalid_argument(error.to_string())
}

fn stopped<E: std::fmt::Display>(error: E) -> Status {
    Status::unavailable(format!("consensus has stopped: {error}"))
}

const NO_ROOM: &str = "this node's disk is full: it takes no entries until there is room";

type Boxed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[async_trait]
impl Peer for PeerService {
    async fn vote(
        &self,
        request: Request<peer::VoteRequest>,
    ) -> Result<Response<peer::VoteResponse>, Status> {
        let request = request.into_inner();
        let running = self.addressed(request.address.as_ref())?;
        let vote = convert::vote_request_from_proto(&request).map_err(malformed)?;
        let raft = running.consensus.raft();
        let call = async {
            if request.pre_vote { raft.pre_vote(vote).await } else { raft.vote(vote).await }
        };
        let response = runtime::enter(running.seed(), call).await.map_err(stopped)?;
        Ok(Response::new(convert::vote_response_to_proto(&response)))
    }

    type AppendStream = Boxed<peer::AppendResponse>;

    async fn append(
        &self,
        request: Request<Streaming<peer::AppendRequest>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        let mut requests = request.into_inner();
        let first = requests
            .message()
            .await?
            .ok_or_else(|| Status::invalid_argument("an append stream without requests"))?;
        let running = self.addressed(first.address.as_ref())?;
        if !running.takes(&first) {
            return Err(Status::resource_exhausted(NO_ROOM));
        }
        let first = convert::append_from_proto(first).map_err(malformed)?;
        let service = self.clone();
        // A request that is not meant for us, cannot be read, or finds no room,
        // ends the stream: the sender begins another.
        let rest = futures::stream::unfold((requests, service), async |(mut requests, service)| {
            let request = requests.message().await.ok()??;
            let running = service.addressed(request.address.as_ref()).ok()?;
            if !running.takes(&request) {
                return None;
            }
            let request = convert::append_from_proto(request).ok()?;
            Some((request, (requests, service)))
        });
        let input = futures::stream::once(std::future::ready(first)).chain(rest);
        let raft = running.consensus.raft();
        let answers = runtime::enter(running.seed(), async { raft.stream_append(input) }).await;
        let responses = answers.map(|answer| match answer {
            Ok(result) => Ok(convert::append_result_to_proto(&result)),
            Err(error) => Err(stopped(error)),
        });
        Ok(Response::new(Box::pin(responses)))
    }

    async fn heartbeat(
        &self,
        request: Request<peer::AppendRequest>,
    ) -> Result<Response<peer::AppendResponse>, Status> {
        let request = request.into_inner();
        let running = self.addressed(request.address.as_ref())?;
        running.compare_hash(&request)?;
        let append = convert::append_from_proto(request).map_err(malformed)?;
        let input = futures::stream::iter([append]);
        let raft = running.consensus.raft();
        let call = async {
            let mut answers = Box::pin(raft.stream_append(input));
            answers.next().await
        };
        let answer = runtime::enter(running.seed(), call).await;
        let result: StreamAppendResult<_> = answer
            .ok_or_else(|| Status::unavailable("no answer from consensus"))?
            .map_err(stopped)?;
        Ok(Response::new(convert::append_result_to_proto(&result)))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<peer::SnapshotChunk>>,
    ) -> Result<Response<peer::SnapshotResponse>, Status> {
        let mut chunks = request.into_inner();
        let first = chunks
            .message()
            .await?
            .and_then(|chunk| chunk.header)
            .ok_or_else(|| Status::invalid_argument("a snapshot without header"))?;
        let running = self.addressed(first.address.as_ref())?;
        if !running.leader.has_room() {
            return Err(Status::resource_exhausted(NO_ROOM));
        }
        let vote = Box::pin(self.receiver.install(running, first, chunks)).await?;
        Ok(Response::new(peer::SnapshotResponse { vote: Some(vote) }))
    }

    async fn transfer_leader(
        &self,
        request: Request<peer::TransferLeaderRequest>,
    ) -> Result<Response<peer::TransferLeaderResponse>, Status> {
        let request = request.into_inner();
        let running = self.addressed(request.address.as_ref())?;
        if running.leader.is_drained() && request.to == running.node_id {
            return Err(Status::failed_precondition("this node is drained"));
        }
        let transfer = convert::transfer_from_proto(&request).map_err(malformed)?;
        let call = running.consensus.raft().handle_transfer_leader(transfer);
        match runtime::enter(running.seed(), call).await {
            Ok(Ok(())) => Ok(Response::new(peer::TransferLeaderResponse {})),
            Ok(Err(error)) => Err(Status::aborted(error.to_string())),
            Err(error) => Err(stopped(error)),
        }
    }

    async fn read_index(
        &self,
        request: Request<peer::ReadIndexRequest>,
    ) -> Result<Response<peer::ReadIndexResponse>, Status> {
        use peer::read_index_response::Outcome;
        let running = self.addressed(request.get_ref().address.as_ref())?;
        let outcome = match running.leader.read_index().await {
            Ok(index) => Outcome::Index(index),
            Err(super::ReadIndexError::NotLeader) => Outcome::NotLeader(running.not_leader()),
            Err(super::ReadIndexError::NoQuorum) => Outcome::NoQuorum(true),
            Err(super::ReadIndexError::Stopped) => return Err(Status::unavailable("stopping")),
        };
        Ok(Response::new(peer::ReadIndexResponse { outcome: Some(outcome) }))
    }

    async fn forward(
        &self,
        request: Request<peer::ForwardRequest>,
    ) -> Result<Response<peer::ForwardResponse>, Status> {
        let request = request.into_inner();
        let running = self.addressed(request.address.as_ref())?;
        let timeout = Duration::from_millis(request.timeout_ms);
        let outcomes = running.leader.propose_here(request.commands, timeout).await;
        let replies = outcomes.into_iter().map(forwarded_to_proto).collect();
        Ok(Response::new(peer::ForwardResponse { replies }))
    }

    async fn identify(
        &self,
        request: Request<peer::IdentifyRequest>,
    ) -> Result<Response<peer::IdentifyResponse>, Status> {
        let response = self.requests.identify(request.get_ref()).map_err(Status::unavailable)?;
        Ok(Response::new(response))
    }

    type FetchSnapshotStream = Boxed<peer::SnapshotChunk>;

    async fn fetch_snapshot(
        &self,
        request: Request<peer::FetchSnapshotRequest>,
    ) -> Result<Response<Self::FetchSnapshotStream>, Status> {
        let running = self.addressed(request.get_ref().address.as_ref())?;
        let chunks = runtime::enter(running.seed(), async {
            receive::serve(&running.state, running.consensus.send_limits())
        })
        .await?;
        Ok(Response::new(Box::pin(chunks)))
    }

    async fn adopt(
        &self,
        request: Request<peer::AdoptRequest>,
    ) -> Result<Response<peer::AdoptResponse>, Status> {
        let request = request.into_inner();
        let cluster_id = <[u8; 16]>::try_from(&request.cluster_id[..])
            .map_err(|_| Status::invalid_argument("a cluster id has 16 bytes"))?;
        self.requests
            .adopt(cluster_id, request.node_id)
            .await
            .map_err(Status::failed_precondition)?;
        Ok(Response::new(peer::AdoptResponse {}))
    }

    async fn drain(
        &self,
        request: Request<peer::DrainRequest>,
    ) -> Result<Response<peer::DrainResponse>, Status> {
        let request = request.into_inner();
        let running = self.addressed(request.address.as_ref())?;
        running.leader.set_drained(!request.undo);
        Ok(Response::new(peer::DrainResponse {}))
    }
}

impl Running {
    fn not_leader(&self) -> peer::NotLeader {
        peer::NotLeader { leader: self.leader.leader().unwrap_or(0) }
    }
}

fn forwarded_to_proto(outcome: Forwarded) -> peer::ForwardReply {
    use peer::forward_reply::Outcome;
    let outcome = match outcome {
        Forwarded::Replied(reply) => Outcome::Reply(codec::encode_reply(&reply)),
        Forwarded::NotLeader(leader) => {
            Outcome::NotLeader(peer::NotLeader { leader: leader.unwrap_or(0) })
        }
        Forwarded::Overloaded => Outcome::Overloaded(true),
        Forwarded::NoSpace => Outcome::NoSpace(true),
        Forwarded::Unknown => Outcome::Unknown(true),
    };
    peer::ForwardReply { outcome: Some(outcome) }
}

/// What a leader answered of one command. What cannot be read may have taken
/// effect.
pub(crate) fn forwarded_from_proto(reply: peer::ForwardReply) -> Forwarded {
    use peer::forward_reply::Outcome;
    match reply.outcome {
        Some(Outcome::Reply(reply)) => {
            codec::decode_reply(reply).map_or(Forwarded::Unknown, Forwarded::Replied)
        }
        Some(Outcome::NotLeader(leader)) => {
            Forwarded::NotLeader(Some(leader.leader).filter(|id| *id != 0))
        }
        Some(Outcome::Overloaded(_)) => Forwarded::Overloaded,
        Some(Outcome::NoSpace(_)) => Forwarded::NoSpace,
        Some(Outcome::Unknown(_)) | None => Forwarded::Unknown,
    }
}
