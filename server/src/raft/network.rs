//! The sending half of the peer transport: what consensus asks of its peers.
//!
//! Four rules were found by running it without them: the first request is
//! pulled before connecting, because the library's back-off sleeps inside that
//! pull; few requests are unanswered at a time, because a stream is otherwise
//! polled into thousands of tiny messages; a stream may be silent only while
//! nothing is outstanding; and an answer must not be taken for one to a later
//! request, see [`Window`](super::window::Window).

use super::convert;
use super::outgoing::Outgoing;
use super::peers::{PeerChannel, Peers};
use super::progress::Progress;
use super::snapshot::{self, SendLimits, SnapshotBody};
use super::types::{Node, Snapshot, Types, Vote};
use super::window::{Taken, Window};
use futures::future::Either;
use futures::{Stream, StreamExt as _};
use keelstone_proto::peer;
use keelstone_store::planted::{self, Bug};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{
    NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable,
};
use openraft::network::{RPCOption, RPCTypes};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, RaftNetworkFactory, RaftNetworkV2};
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::{Code, Status};

/// How long an append may stay unanswered before its connection is given up. A
/// follower answers after its disk has, so this allows for a slow one.
const APPEND_IDLE: Duration = Duration::from_secs(3);
/// How long opening an append stream may take.
const APPEND_OPEN: Duration = Duration::from_secs(1);

/// Makes the clients of one node.
#[derive(Clone)]
pub(crate) struct NetworkFactory {
    pub(crate) peers: Arc<Peers>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) outgoing: Arc<Outgoing>,
    pub(crate) limits: SendLimits,
}

impl RaftNetworkFactory<Types> for NetworkFactory {
    type Network = Network;

    async fn new_client(&mut self, target: u64, node: &Node) -> Network {
        self.client(target, node, Use::Appends)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &Node) -> Network {
        self.client(target, node, Use::Heartbeats)
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &Node) -> Network {
        self.client(target, node, Use::Snapshots)
    }
}

impl NetworkFactory {
    fn client(&self, target: u64, node: &Node, purpose: Use) -> Network {
        let channel = self.peers.channel(&node.peer_address);
        Network { shared: self.clone(), target, channel, purpose }
    }
}

/// What a client is for: each has a connection of its own, so that a heartbeat
/// does not wait behind a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Appends,
    Heartbeats,
    Snapshots,
}

/// A client for one peer.
pub(crate) struct Network {
    shared: NetworkFactory,
    target: u64,
    channel: PeerChannel,
    purpose: Use,
}

impl Network {
    fn address(&self) -> peer::Address {
        self.shared.peers.address(self.target)
    }

    fn timed_out(&self, action: RPCTypes, timeout: Duration) -> RPCError<Types> {
        RPCError::Timeout(Timeout {
            action,
            id: self.shared.peers.node_id(),
            target: self.target,
            timeout,
        })
    }

    /// Makes a call with a deadline.
    async fn call<T>(
        &mut self,
        action: RPCTypes,
        ttl: Duration,
        call: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Result<T, RPCError<Types>> {
        match tokio::time::timeout(ttl, call).await {
            Ok(Ok(response)) => {
                self.channel.answered();
                Ok(response.into_inner())
            }
            Ok(Err(status)) => {
                self.channel.answered();
                Err(failed(&status))
            }
            Err(_elapsed) => {
                self.channel.unanswered();
                Err(self.timed_out(action, ttl))
            }
        }
    }

    async fn heartbeat(
        &mut self,
        request: AppendEntriesRequest<Types>,
        ttl: Duration,
    ) -> Result<StreamAppendResult<Types>, RPCError<Types>> {
        let mut message = convert::append_to_proto(request, self.address());
        if let Some((index, hash)) = self.shared.progress.newest_hash() {
            message.hash_index = index;
            message.hash = hash.to_vec().into();
        }
        let mut client = self.channel.client();
        let call = async move { client.heartbeat(message).await };
        let response = self.call(RPCTypes::AppendEntries, ttl, call).await?;
        convert::append_result_from_proto(response).map_err(|error| network(&error))
    }

    /// The planted bug: what was not answered counts as accepted.
    fn believing<S>(&mut self, input: S, ttl: Duration) -> BoxStream<'_, AppendItem>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(futures::stream::unfold((self, input), move |(network, mut input)| async move {
            let request = input.next().await?;
            let last = request.entries.last().map(|entry| entry.log_id).or(request.prev_log_id);
            let answer = network.heartbeat(request, ttl).await.unwrap_or(Ok(last));
            Some((Ok(answer), (network, input)))
        }))
    }

    async fn open_stream<S>(
        &mut self,
        mut input: S,
    ) -> Result<BoxStream<'_, Result<StreamAppendResult<Types>, RPCError<Types>>>, RPCError<Types>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        let window = Taken(Arc::default());
        let Some(first) = window.pull(&mut input).await else {
            return Ok(Box::pin(futures::stream::empty()));
        };
        let requests = outgoing(first, input, Arc::clone(&window.0), self.address());
        let mut client = self.channel.client();
        let call = async move { client.append(requests).await };
        let messages = self.call(RPCTypes::AppendEntries, APPEND_OPEN, call).await?;
        Ok(Box::pin(futures::stream::unfold(
            Some(Responses { network: self, messages, window }),
            async |state| state?.next().await,
        )))
    }
}

/// The requests as they go out.
fn outgoing<S>(
    first: AppendEntriesRequest<Types>,
    input: S,
    window: Arc<Window>,
    address: peer::Address,
) -> impl Stream<Item = peer::AppendRequest> + Send + 'static
where
    S: Stream<Item = AppendEntriesRequest<Types>> + Send + Unpin + 'static,
{
    let state = (Some(first), input, window, address);
    futures::stream::unfold(state, async |(first, mut input, window, address)| {
        let request = match first {
            Some(first) => first,
            None => window.pull(&mut input).await?,
        };
        let message = convert::append_to_proto(request, address.clone());
        Some((message, (None, input, window, address)))
    })
}

/// The answers to an append stream.
struct Responses<'a> {
    network: &'a mut Network,
    messages: tonic::Streaming<peer::AppendResponse>,
    window: Taken,
}

type AppendItem = Result<StreamAppendResult<Types>, RPCError<Types>>;

impl<'a> Responses<'a> {
    /// The next answer; nothing follows an error.
    async fn next(mut self) -> Option<(AppendItem, Option<Responses<'a>>)> {
        // The library has dealt with the answer before.
        self.window.delivered();
        let mut waited_outstanding = false;
        loop {
            let message = match tokio::time::timeout(APPEND_IDLE, self.messages.message()).await {
                Ok(message) => message,
                Err(_elapsed) => {
                    // A request that was already unanswered a full turn ago.
                    let outstanding = self.window.has_unanswered();
                    if outstanding && waited_outstanding {
                        self.network.channel.renew();
                        let error = self.network.timed_out(RPCTypes::AppendEntries, APPEND_IDLE);
                        return Some((Err(error), None));
                    }
                    waited_outstanding = outstanding;
                    continue;
                }
            };
            let response = match message {
                Ok(None) => return None,
                Ok(Some(response)) => response,
                Err(status) => return Some((Err(failed(&status)), None)),
            };
            waited_outstanding = false;
            match convert::append_result_from_proto(response) {
                Ok(Ok(accepted)) if !self.window.answered(accepted.as_ref()) => {}
                Ok(Ok(accepted)) => return Some((Ok(Ok(accepted)), Some(self))),
                Ok(Err(refused)) => return Some((Ok(Err(refused)), None)),
                Err(error) => return Some((Err(network(&error)), None)),
            }
        }
    }
}

impl RaftNetworkV2<Types> for Network {
    type SnapshotData = SnapshotBody;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        self.heartbeat(request, option.soft_ttl()).await.map(AppendEntriesResponse::from)
    }

    fn stream_append<'s, S>(
        &'s mut self,
        mut input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, AppendItem>, RPCError<Types>>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + OptionalSend + Unpin + 'static,
    {
        if planted::is(Bug::AckBeforeQuorum) && self.purpose == Use::Appends {
            return Box::pin(async move { Ok(self.believing(input, option.soft_ttl())) });
        }
        if self.purpose != Use::Heartbeats {
            return Box::pin(self.open_stream(input));
        }
        Box::pin(async move {
            let Some(request) = input.next().await else {
                return Ok(Box::pin(futures::stream::empty()) as BoxStream<'s, AppendItem>);
            };
            let result = self.heartbeat(request, option.soft_ttl()).await?;
            Ok(Box::pin(futures::stream::iter([Ok(result)])) as BoxStream<'s, AppendItem>)
        })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask_vote(&request, false, option.soft_ttl()).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.ask_vote(&request, true, option.soft_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<SnapshotBody>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let header = peer::SnapshotHeader {
            address: Some(self.address()),
            vote: Some(convert::vote_to_proto(&vote)),
            applied: None,
            head: None,
        };
        let index = snapshot.meta.last_log_id.map_or(0, |last| last.index);
        let sending = self.shared.outgoing.begin(self.target, index);
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            answer = self.exchange(header, snapshot.snapshot, option.hard_ttl()) => {
                let vote = convert::vote_from_proto(answer?.vote)
                    .map_err(|error| network(&error))?;
                sending.installed(Instant::now());
                self.shared.progress.metrics().snapshots_sent.inc();
                Ok(SnapshotResponse::new(vote))
            }
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        let message = convert::transfer_to_proto(&request, self.address());
        let mut client = self.channel.client();
        let call = async move { client.transfer_leader(message).await };
        self.call(RPCTypes::TransferLeader, option.soft_ttl(), call).await?;
        Ok(Ok(()))
    }
}

impl Network {
    /// Sends a snapshot, however long that takes, while its receiver goes on
    /// taking it; `silence_max` is also how long it may take to install it.
    async fn exchange(
        &mut self,
        header: peer::SnapshotHeader,
        body: SnapshotBody,
        silence_max: Duration,
    ) -> Result<peer::SnapshotResponse, RPCError<Types>> {
        let (sender, receiver) = mpsc::channel(snapshot::CHUNKS_AHEAD);
        let limits = SendLimits { silence_max, ..self.shared.limits };
        let feed = snapshot::send(body, header, sender, limits);
        let mut client = self.channel.client();
        let requests = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let call = async move { client.install_snapshot(requests).await };
        let (feed, mut call) = (std::pin::pin!(feed), std::pin::pin!(call));
        let answer = match futures::future::select(feed, &mut call).await {
            // It answered before the end: it has what is offered, or refuses it.
            Either::Right((answer, _)) => Some(answer),
            Either::Left((Ok(()), _)) => tokio::time::timeout(silence_max, call).await.ok(),
            Either::Left((Err(error), _)) if error.kind() == io::ErrorKind::TimedOut => None,
            Either::Left((Err(error), _)) => return Err(network(&error)),
        };
        let Some(answer) = answer else {
            self.channel.renew();
            return Err(self.timed_out(RPCTypes::InstallSnapshot, silence_max));
        };
        Ok(answer.map_err(|status| failed(&status))?.into_inner())
    }

    async fn ask_vote(
        &mut self,
        request: &VoteRequest<Types>,
        pre_vote: bool,
        ttl: Duration,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        let message = convert::vote_request_to_proto(request, self.address(), pre_vote);
        let mut client = self.channel.client();
        let call = async move { client.vote(message).await };
        let response = self.call(RPCTypes::Vote, ttl, call).await?;
        convert::vote_response_from_proto(&response).map_err(|error| network(&error))
    }
}

fn network<E: std::error::Error + 'static>(error: &E) -> RPCError<Types> {
    RPCError::Network(NetworkError::new(error))
}

/// A peer that cannot be reached, or does not take us for whom we are, is left
/// alone for the back-off; anything else may be tried again sooner.
fn failed(status: &Status) -> RPCError<Types> {
    match status.code() {
        Code::Unavailable
        | Code::FailedPrecondition
        | Code::ResourceExhausted
        | Code::Unauthenticated
        | Code::PermissionDenied
        | Code::Unknown => RPCError::Unreachable(Unreachable::new(status)),
        _ => RPCError::Network(NetworkError::new(status)),
    }
}
