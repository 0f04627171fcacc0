//! Configuration: messages over the settings, and their watch over a feed.

use super::context::Context;
use super::status;
use crate::core::Consistency;
use crate::entities::wire::consistency;
use crate::settings::{ConfigEvent, event, run, wire};
use crate::watch::{Fed, Feed};
use futures::Stream;
use keelstone_proto::v1::config_server::Config;
use keelstone_proto::v1::{
    ConfigDeleteRequest, ConfigDeleteResponse, ConfigGetRequest, ConfigGetResponse,
    ConfigHistoryRequest, ConfigHistoryResponse, ConfigListRequest, ConfigListResponse,
    ConfigPutRequest, ConfigPutResponse, ConfigWatchRequest, ConfigWatchResponse,
};
use keelstone_store::Revision;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tonic::{Request, Response, Status};

pub(super) struct ConfigService(pub(super) Arc<Context>);

#[tonic::async_trait]
impl Config for ConfigService {
    async fn put(
        &self,
        request: Request<ConfigPutRequest>,
    ) -> Result<Response<ConfigPutResponse>, Status> {
        let deadline = self.0.write_deadline(&request, "config_put")?;
        let put = wire::put(request.into_inner()).map_err(status::of)?;
        let answer = self.0.settings.put(put, deadline).await.map_err(status::of)?;
        let (header, value) = self.0.answer(answer);
        let value = Some(wire::value_to_proto(value));
        Ok(Response::new(ConfigPutResponse { header: Some(header), value }))
    }

    async fn get(
        &self,
        request: Request<ConfigGetRequest>,
    ) -> Result<Response<ConfigGetResponse>, Status> {
        let deadline = self.0.deadline(&request);
        let request = request.into_inner();
        let path = wire::path(&request.path).map_err(status::of)?;
        let consistency = consistency(request.consistency).map_err(status::of)?;
        let revision = Revision::new(request.revision);
        let answer = self.0.settings.get(&path, revision, consistency, deadline).await;
        let (header, value) = self.0.answer(answer.map_err(status::of)?);
        let value = Some(wire::value_to_proto(value));
        Ok(Response::new(ConfigGetResponse { header: Some(header), value }))
    }

    async fn list(
        &self,
        request: Request<ConfigListRequest>,
    ) -> Result<Response<ConfigListResponse>, Status> {
        let deadline = self.0.deadline(&request);
        let query = wire::list_query(request.into_inner()).map_err(status::of)?;
        let answer = self.0.settings.list(&query, deadline).await.map_err(status::of)?;
        let (header, page) = self.0.answer(answer);
        Ok(Response::new(ConfigListResponse {
            header: Some(header),
            values: page.values.into_iter().map(wire::value_to_proto).collect(),
            next_page_token: page.next_page_token,
            revision: page.revision.get(),
        }))
    }

    async fn delete(
        &self,
        request: Request<ConfigDeleteRequest>,
    ) -> Result<Response<ConfigDeleteResponse>, Status> {
        let deadline = self.0.write_deadline(&request, "config_delete")?;
        let delete = wire::delete(&request.into_inner()).map_err(status::of)?;
        let answer = self.0.settings.delete(delete, deadline).await.map_err(status::of)?;
        let (header, deleted) = self.0.answer(answer);
        Ok(Response::new(ConfigDeleteResponse { header: Some(header), deleted }))
    }

    async fn history(
        &self,
        request: Request<ConfigHistoryRequest>,
    ) -> Result<Response<ConfigHistoryResponse>, Status> {
        let deadline = self.0.deadline(&request);
        let query = wire::history_query(&request.into_inner()).map_err(status::of)?;
        let answer = self.0.settings.history(&query, Consistency::default(), deadline).await;
        let (header, history) = self.0.answer(answer.map_err(status::of)?);
        Ok(Response::new(ConfigHistoryResponse {
            header: Some(header),
            versions: history.versions.into_iter().map(wire::version_to_proto).collect(),
            compact_revision: history.compacted.get(),
            more: history.more,
        }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<ConfigWatchResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<ConfigWatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let request = request.into_inner();
        let range = run(wire::subtree(&request.path).map_err(status::of)?.as_ref());
        let select = move |change: &keelstone_store::machine::Event| {
            if range.contains(change.key.as_bytes()) { event(change) } else { None }
        };
        let start = Revision::new(request.start_revision);
        let interval = Duration::from_millis(request.progress_interval_ms);
        let hub = self.0.hub.clone();
        let feed = Feed::open(hub, start, &request.history, interval, select);
        let feed = feed.await.map_err(status::of)?;
        let watch = Watch { context: self.0.clone(), feed, over: false };
        Ok(Response::new(Box::pin(futures::stream::unfold(watch, |mut watch| async move {
            let response = watch.next().await?;
            Some((response, watch))
        }))))
    }
}

struct Watch {
    context: Arc<Context>,
    feed: Feed<ConfigEvent>,
    over: bool,
}

impl Watch {
    async fn next(&mut self) -> Option<Result<ConfigWatchResponse, Status>> {
        if self.over {
            return None;
        }
        let fed = self.feed.next().await.map_err(status::of);
        self.over = fed.is_err();
        Some(fed.map(|fed| self.response(fed)))
    }

    fn response(&self, fed: Fed<ConfigEvent>) -> ConfigWatchResponse {
        let mut response = ConfigWatchResponse::default();
        let seen = match fed {
            Fed::Events(revision, events) => {
                response.events = events.into_iter().map(wire::event_to_proto).collect();
                revision
            }
            Fed::Progress(revision) => {
                response.progress = revision.get();
                revision
            }
        };
        let newest = self.feed.newest().max(seen);
        response.header = Some(self.context.header_of(newest, self.feed.history()));
        response
    }
}
