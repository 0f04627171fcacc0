//! A node of a pretended cluster: a real gRPC server on a real socket whose
//! answers a test scripts.
//!
//! It keeps the one rule that the client relies on: a write with an identity is
//! done once. It is not a store: it counts writes.

#![allow(dead_code, reason = "each of the tests that share it uses a part")]

use bytes::Bytes;
use keelstone_proto::v1::cluster_server::{Cluster, ClusterServer};
use keelstone_proto::v1::kv_server::{Kv, KvServer};
use keelstone_proto::v1::leases_server::{Leases, LeasesServer};
use keelstone_proto::v1::sessions_server::{Sessions, SessionsServer};
use keelstone_proto::v1::watch_server::{Watch, WatchServer};
use keelstone_proto::v1::*;
use prost::Message as _;
use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status, Streaming};

/// What a node does with the next request.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// Says that it does not lead, and who does.
    NotLeader(Option<String>),
    /// Does the write and keeps the answer to itself: the connection breaks.
    DoAndBreak,
    /// Does not do the write, and the connection breaks all the same.
    Break,
    /// Never answers.
    Hang,
    /// Answers, but late.
    Late(Duration),
    /// Refuses with this reason.
    Refuse(tonic::Code, ErrorDetail),
    /// Knows no sessions any more.
    Forget,
}

/// What the nodes of the cluster share.
#[derive(Default)]
pub(crate) struct State {
    /// How often each key was put.
    pub(crate) puts: BTreeMap<Bytes, u64>,
    /// The replies that are remembered, by session and sequence.
    pub(crate) replies: BTreeMap<(u64, u64), u64>,
    /// Sessions that are open.
    pub(crate) sessions: Vec<u64>,
    /// How many were.
    pub(crate) sessions_opened: u64,
    /// The newest revision.
    pub(crate) revision: u64,
    /// What was put, in order: revision and key.
    pub(crate) log: Vec<(u64, Bytes)>,
    /// Times to live that renewals get; 0: the lease is gone.
    pub(crate) lease_ttl_ms: u64,
    /// How many renewals came.
    pub(crate) renewals: u64,
    /// How many watch streams were opened.
    pub(crate) watches: u64,
    /// After this many events a watch stream breaks; 0: never.
    pub(crate) watch_breaks_after: usize,
    /// The history.
    pub(crate) history: Vec<u8>,
    /// What watches below this revision are told.
    pub(crate) compacted: u64,
}

impl State {
    fn put(&mut self, key: &Bytes) -> u64 {
        self.revision += 1;
        *self.puts.entry(key.clone()).or_default() += 1;
        self.log.push((self.revision, key.clone()));
        self.revision
    }

    fn header(&self) -> ResponseHeader {
        ResponseHeader {
            revision: self.revision,
            history: self.history.clone().into(),
            ..ResponseHeader::default()
        }
    }
}

#[derive(Clone)]
struct Service {
    state: Arc<Mutex<State>>,
    script: Arc<Mutex<VecDeque<Act>>>,
    requests: Arc<Mutex<u64>>,
    /// Cut off from the others: its watches tell nothing.
    frozen: Arc<AtomicBool>,
    /// The term, and the address of the one that leads in it, as far as it knows.
    leader: Arc<Mutex<(u64, String)>>,
    /// How often it was asked who leads.
    asked: Arc<AtomicU64>,
}

/// A running node. Its connections break when it is dropped.
pub(crate) struct Node {
    /// Where it listens.
    pub(crate) address: String,
    service: Service,
    /// Its own, so that its connections end with it.
    runtime: Option<Runtime>,
}

impl Node {
    pub(crate) async fn start(state: &Arc<Mutex<State>>) -> Self {
        Self::start_at("127.0.0.1:0", state).await
    }

    /// Starts where another one was.
    pub(crate) async fn start_at(address: &str, state: &Arc<Mutex<State>>) -> Self {
        let service = Service {
            state: state.clone(),
            script: Arc::default(),
            requests: Arc::default(),
            frozen: Arc::default(),
            leader: Arc::default(),
            asked: Arc::default(),
        };
        let runtime = Runtime::new().unwrap();
        let (wanted, served) = (address.to_owned(), service.clone());
        let (tell, told) = tokio::sync::oneshot::channel();
        runtime.spawn(async move {
            let listener = TcpListener::bind(&wanted).await.unwrap();
            tell.send(listener.local_addr().unwrap().to_string()).unwrap();
            tonic::transport::Server::builder()
                .add_service(KvServer::new(served.clone()))
                .add_service(SessionsServer::new(served.clone()))
                .add_service(LeasesServer::new(served.clone()))
                .add_service(ClusterServer::new(served.clone()))
                .add_service(WatchServer::new(served))
                .serve_with_incoming(TcpListenerStream::new(listener))
                .await
                .unwrap();
        });
        Self { address: told.await.unwrap(), service, runtime: Some(runtime) }
    }

    /// Ends it, and returns when nothing listens at its address any more.
    pub(crate) async fn stop(mut self) {
        let runtime = self.runtime.take().unwrap();
        let stop = move || runtime.shutdown_timeout(Duration::from_secs(1));
        tokio::task::spawn_blocking(stop).await.unwrap();
    }

    /// What to do with the next requests; after that it serves them.
    pub(crate) fn script(&self, acts: impl IntoIterator<Item = Act>) {
        self.service.script.lock().unwrap().extend(acts);
    }

    /// Cuts it off from the others.
    pub(crate) fn freeze(&self) {
        self.service.frozen.store(true, Ordering::Relaxed);
    }

    /// From now on it says that the node at `address` leads in `term`.
    pub(crate) fn believes(&self, term: u64, address: &str) {
        *self.service.leader.lock().unwrap() = (term, address.to_owned());
    }

    /// How often it was asked who leads.
    pub(crate) fn asked(&self) -> u64 {
        self.service.asked.load(Ordering::Relaxed)
    }

    /// How many puts, ranges and transfers reached it.
    pub(crate) fn requests(&self) -> u64 {
        *self.service.requests.lock().unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A status as the server makes it.
pub(crate) fn refusal(code: tonic::Code, detail: &ErrorDetail) -> Status {
    let mut status = Status::new(code, format!("refused: {}", detail.reason));
    let bytes = MetadataValue::from_bytes(&detail.encode_to_vec());
    status.metadata_mut().insert_bin("keelstone-error-bin", bytes);
    status
}

pub(crate) fn detail(reason: &str) -> ErrorDetail {
    let outcome = Outcome::NotApplied.into();
    ErrorDetail { reason: reason.to_owned(), outcome, ..ErrorDetail::default() }
}

impl Service {
    async fn act(&self, put: Option<(&Bytes, Option<WriteId>)>) -> Result<(), Status> {
        *self.requests.lock().unwrap() += 1;
        let act = self.script.lock().unwrap().pop_front();
        let broken = || Status::unknown("h2 protocol error: connection reset");
        match act {
            None => Ok(()),
            Some(Act::NotLeader(hint)) => {
                let leader_address = hint.unwrap_or_default();
                let detail = ErrorDetail { leader_address, ..detail("not_leader") };
                Err(refusal(tonic::Code::Unavailable, &detail))
            }
            Some(Act::DoAndBreak) => {
                if let Some((key, id)) = put {
                    self.put_once(key, id)?;
                }
                Err(broken())
            }
            Some(Act::Break) => Err(broken()),
            Some(Act::Hang) => {
                tokio::time::sleep(Duration::from_mins(1)).await;
                Err(broken())
            }
            Some(Act::Late(pause)) => {
                tokio::time::sleep(pause).await;
                Ok(())
            }
            Some(Act::Refuse(code, detail)) => Err(refusal(code, &detail)),
            Some(Act::Forget) => {
                let mut state = self.state.lock().unwrap();
                state.sessions.clear();
                state.replies.clear();
                Ok(())
            }
        }
    }

    fn put_once(&self, key: &Bytes, id: Option<WriteId>) -> Result<u64, Status> {
        let mut state = self.state.lock().unwrap();
        let Some(id) = id else { return Ok(state.put(key)) };
        if !state.sessions.contains(&id.session) {
            return Err(refusal(tonic::Code::FailedPrecondition, &detail("session_not_found")));
        }
        if let Some(revision) = state.replies.get(&(id.session, id.sequence)) {
            return Ok(*revision);
        }
        let revision = state.put(key);
        state.replies.insert((id.session, id.sequence), revision);
        state
            .replies
            .retain(|(session, sequence), _| *session != id.session || *sequence >= id.acked_below);
        Ok(revision)
    }
}

type Stream<T> = Pin<Box<dyn tokio_stream::Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Kv for Service {
    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let put = request.into_inner();
        self.act(Some((&put.key, put.write_id))).await?;
        let revision = self.put_once(&put.key, put.write_id)?;
        let header = ResponseHeader { revision, ..ResponseHeader::default() };
        Ok(Response::new(PutResponse { header: Some(header), previous: None }))
    }

    async fn range(&self, _: Request<RangeRequest>) -> Result<Response<RangeResponse>, Status> {
        self.act(None).await?;
        let header = Some(self.state.lock().unwrap().header());
        Ok(Response::new(RangeResponse { header, ..RangeResponse::default() }))
    }

    async fn delete(&self, _: Request<DeleteRequest>) -> Result<Response<DeleteResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn txn(&self, _: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn compact(
        &self,
        _: Request<CompactRequest>,
    ) -> Result<Response<CompactResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }
}

#[tonic::async_trait]
impl Sessions for Service {
    async fn open(
        &self,
        _: Request<SessionOpenRequest>,
    ) -> Result<Response<SessionOpenResponse>, Status> {
        let mut state = self.state.lock().unwrap();
        state.sessions_opened += 1;
        let session = state.sessions_opened;
        state.sessions.push(session);
        Ok(Response::new(SessionOpenResponse { session, ..SessionOpenResponse::default() }))
    }

    async fn close(
        &self,
        request: Request<SessionCloseRequest>,
    ) -> Result<Response<SessionCloseResponse>, Status> {
        let session = request.into_inner().session;
        self.state.lock().unwrap().sessions.retain(|open| *open != session);
        Ok(Response::new(SessionCloseResponse::default()))
    }
}

#[tonic::async_trait]
impl Leases for Service {
    async fn grant(
        &self,
        request: Request<LeaseGrantRequest>,
    ) -> Result<Response<LeaseGrantResponse>, Status> {
        let ttl_ms = request.into_inner().ttl_ms;
        Ok(Response::new(LeaseGrantResponse { id: 77, ttl_ms, header: None }))
    }

    type KeepAliveStream = Stream<LeaseKeepAliveResponse>;

    async fn keep_alive(
        &self,
        request: Request<Streaming<LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::KeepAliveStream>, Status> {
        self.act(None).await?;
        let state = self.state.clone();
        let replies = futures::stream::try_unfold(request.into_inner(), move |mut requests| {
            let state = state.clone();
            async move {
                let Some(request) = requests.message().await? else { return Ok(None) };
                let mut state = state.lock().unwrap();
                state.renewals += 1;
                let (id, ttl_ms) = (request.id, state.lease_ttl_ms);
                let reply = LeaseKeepAliveResponse { id, ttl_ms, header: None };
                Ok(Some((reply, requests)))
            }
        });
        Ok(Response::new(Box::pin(replies)))
    }

    async fn revoke(
        &self,
        _: Request<LeaseRevokeRequest>,
    ) -> Result<Response<LeaseRevokeResponse>, Status> {
        self.state.lock().unwrap().lease_ttl_ms = 0;
        Ok(Response::new(LeaseRevokeResponse::default()))
    }

    async fn time_to_live(
        &self,
        _: Request<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn list(
        &self,
        _: Request<LeaseListRequest>,
    ) -> Result<Response<LeaseListResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }
}

#[tonic::async_trait]
impl Cluster for Service {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn members(
        &self,
        request: Request<MembersRequest>,
    ) -> Result<Response<MembersResponse>, Status> {
        // Any other would wait for the leader.
        assert_eq!(request.into_inner().consistency(), Consistency::Serializable);
        self.asked.fetch_add(1, Ordering::Relaxed);
        let (term, client_address) = self.leader.lock().unwrap().clone();
        let header = Some(ResponseHeader { term, ..ResponseHeader::default() });
        let leader = !client_address.is_empty();
        let members = vec![Member { client_address, leader, ..Member::default() }];
        Ok(Response::new(MembersResponse { header, members, applied: None }))
    }

    async fn add(
        &self,
        _: Request<MemberAddRequest>,
    ) -> Result<Response<MemberAddResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn promote(
        &self,
        _: Request<MemberPromoteRequest>,
    ) -> Result<Response<MemberPromoteResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn remove(
        &self,
        _: Request<MemberRemoveRequest>,
    ) -> Result<Response<MemberRemoveResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn transfer(
        &self,
        _: Request<TransferRequest>,
    ) -> Result<Response<TransferResponse>, Status> {
        self.act(None).await?;
        Ok(Response::new(TransferResponse::default()))
    }

    async fn drain(&self, _: Request<DrainRequest>) -> Result<Response<DrainResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }
}

#[tonic::async_trait]
impl Watch for Service {
    type WatchStream = Stream<WatchResponse>;

    async fn watch(
        &self,
        request: Request<Streaming<WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let mut requests = request.into_inner();
        let Some(watch_request::Request::Create(create)) =
            requests.message().await?.and_then(|request| request.request)
        else {
            return Err(Status::invalid_argument("create first"));
        };
        self.state.lock().unwrap().watches += 1;
        let service = self.clone();
        let first = create.start_revision;
        // The requests live as long as the stream.
        let cursor = (requests, first, 0_usize);
        let responses = futures::stream::try_unfold(cursor, move |(requests, next, sent)| {
            let service = service.clone();
            async move {
                loop {
                    let step = service.watch_step(next, sent)?;
                    if let Some((response, next)) = step {
                        return Ok(Some((response, (requests, next, sent + 1))));
                    }
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }
        });
        Ok(Response::new(Box::pin(responses)))
    }
}

impl Service {
    /// The next response, and where to go on. A node is allowed to send again
    /// what a careless resumption asks for, so it always begins one earlier.
    fn watch_step(&self, next: u64, sent: usize) -> Result<Option<(WatchResponse, u64)>, Status> {
        if self.frozen.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let state = self.state.lock().unwrap();
        if state.watch_breaks_after > 0 && sent >= state.watch_breaks_after {
            return Err(Status::unknown("h2 protocol error: connection reset"));
        }
        let header = Some(state.header());
        if next < state.compacted {
            let canceled = WatchCanceled {
                reason: watch_canceled::Reason::Compacted.into(),
                compact_revision: state.compacted,
                message: "gone".to_owned(),
            };
            let response = Some(watch_response::Response::Canceled(canceled));
            return Ok(Some((WatchResponse { header, watch_id: 1, response }, u64::MAX)));
        }
        let from = if sent == 0 { next.saturating_sub(1) } else { next };
        let Some((revision, key)) = state.log.iter().find(|(revision, _)| *revision >= from) else {
            return Ok(None);
        };
        let kv = KeyValue { key: key.clone(), mod_revision: *revision, ..KeyValue::default() };
        let event = Event { kv: Some(kv), ..Event::default() };
        let response = Some(watch_response::Response::Events(WatchEvents { events: vec![event] }));
        Ok(Some((WatchResponse { header, watch_id: 1, response }, revision + 1)))
    }
}
