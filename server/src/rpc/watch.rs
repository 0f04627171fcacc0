//! Watching raw keys: messages over the hub's session.

use super::context::Context;
use super::convert::{span_from_proto, value_of};
use super::status::{self, Failure};
use crate::watch::{Create, End, Output, Session, Shape};
use futures::Stream;
use keelstone_proto::v1::watch_canceled::Reason;
use keelstone_proto::v1::watch_request::Request as ProtoRequest;
use keelstone_proto::v1::watch_response::Response as ProtoResponse;
use keelstone_proto::v1::watch_server::Watch;
use keelstone_proto::v1::{self, event::Kind};
use keelstone_store::Revision;
use keelstone_store::machine::{Event, Record};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tonic::{Request, Response, Status, Streaming};

pub(super) struct WatchService(pub(super) Arc<Context>);

type Responses = Pin<Box<dyn Stream<Item = Result<v1::WatchResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Watch for WatchService {
    type WatchStream = Responses;

    async fn watch(
        &self,
        request: Request<Streaming<v1::WatchRequest>>,
    ) -> Result<Response<Responses>, Status> {
        let session = Session::open(self.0.hub.clone()).await.map_err(status::of)?;
        let stream = WatchStream {
            context: self.0.clone(),
            session,
            requests: Some(request.into_inner()),
            over: false,
        };
        let responses = futures::stream::unfold(stream, |mut stream| async move {
            let response = stream.next().await?;
            Some((response, stream))
        });
        Ok(Response::new(Box::pin(responses)))
    }
}

/// One client's stream. It is polled only while its client takes what it is
/// sent, which is all the flow control there is.
struct WatchStream {
    context: Arc<Context>,
    session: Session,
    /// `None`: the client will ask for nothing more.
    requests: Option<Streaming<v1::WatchRequest>>,
    over: bool,
}

impl WatchStream {
    async fn next(&mut self) -> Option<Result<v1::WatchResponse, Status>> {
        loop {
            if self.over {
                return None;
            }
            if let Some(output) = self.session.take() {
                return Some(Ok(self.response(output)));
            }
            if self.session.is_ended() || (self.requests.is_none() && self.session.is_idle()) {
                return None;
            }
            let received = match &mut self.requests {
                None => {
                    self.session.advance().await;
                    continue;
                }
                Some(requests) => tokio::select! {
                    request = requests.message() => request,
                    () = self.session.advance() => continue,
                },
            };
            match received {
                Ok(Some(request)) => {
                    if let Err(status) = self.handle(request).await {
                        self.over = true;
                        return Some(Err(status));
                    }
                }
                Ok(None) => self.requests = None,
                Err(error) => {
                    self.over = true;
                    return Some(Err(status::broken_stream(&error)));
                }
            }
        }
    }

    async fn handle(&mut self, request: v1::WatchRequest) -> Result<(), Status> {
        match request.request {
            Some(ProtoRequest::Create(create)) => {
                let id = create.watch_id;
                match create_from_proto(create) {
                    Ok(create) => self.session.create(create).await.map_err(status::of),
                    Err(end) => self.session.refuse(id, end).map_err(status::of),
                }
            }
            Some(ProtoRequest::Cancel(cancel)) => {
                self.session.cancel(cancel.watch_id);
                Ok(())
            }
            Some(ProtoRequest::Progress(progress)) => {
                self.session.ask_progress(progress.watch_id);
                Ok(())
            }
            None => {
                let problem = "it is missing: set create, cancel or progress";
                Err(status::of(Failure::invalid("request", problem)))
            }
        }
    }

    fn response(&self, output: Output) -> v1::WatchResponse {
        let mut revision = self.session.newest();
        let (watch_id, response) = match output {
            Output::Created { id, start } => {
                (id, ProtoResponse::Created(v1::WatchCreated { start_revision: start.get() }))
            }
            Output::Events { id, events, shape } => {
                revision = events.last().map_or(revision, |last| revision.max(last.revision));
                let events = events.into_iter().map(|event| event_to_proto(event, shape)).collect();
                (id, ProtoResponse::Events(v1::WatchEvents { events }))
            }
            Output::Progress { id, revision: reached } => {
                revision = revision.max(reached);
                (id, ProtoResponse::Progress(reached.get()))
            }
            Output::Canceled { id, end } => (id, ProtoResponse::Canceled(canceled(&end))),
        };
        let header = Some(self.context.header_of(revision, self.session.history()));
        v1::WatchResponse { header, watch_id, response: Some(response) }
    }
}

fn create_from_proto(create: v1::WatchCreate) -> Result<Create, End> {
    let range = span_from_proto(create.span).map_err(|e| End::Invalid(e.to_string()))?;
    if !(create.history.is_empty() || create.history.len() == 16) {
        return Err(End::Invalid("history: it is 16 bytes, or empty".to_owned()));
    }
    Ok(Create {
        id: create.watch_id,
        range,
        start: Revision::new(create.start_revision),
        history: create.history.to_vec(),
        shape: Shape { previous: create.previous, keys_only: create.keys_only },
        progress_interval: Duration::from_millis(create.progress_interval_ms),
    })
}

fn event_to_proto(event: Event, shape: Shape) -> v1::Event {
    let Event { revision, key, record, previous } = event;
    let show = |record: Record| {
        let value = if shape.keys_only { bytes::Bytes::new() } else { record.value };
        value_of(&key, Record { value, ..record })
    };
    let gone = Record { modified: revision, ..Record::default() };
    let (kind, kv) = match record {
        Some(record) => (Kind::Put, show(record)),
        None => (Kind::Delete, value_of(&key, gone)),
    };
    let previous = previous.filter(|_| shape.previous).map(show);
    v1::Event { kind: kind.into(), kv: Some(kv), previous }
}

fn canceled(end: &End) -> v1::WatchCanceled {
    let (reason, compact_revision) = match end {
        End::Requested => (Reason::Requested, 0),
        End::Compacted { oldest } => (Reason::Compacted, oldest.get()),
        End::HistoryChanged => (Reason::HistoryChanged, 0),
        End::Invalid(_) | End::TooMany { .. } => (Reason::Invalid, 0),
        End::Stopping | End::Failed => (Reason::Shutdown, 0),
    };
    v1::WatchCanceled { reason: reason.into(), message: end.to_string(), compact_revision }
}
