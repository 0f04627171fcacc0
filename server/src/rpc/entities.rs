//! Entities: messages over the entity loop, and their watch over a feed.

use super::context::Context;
use super::status;
use crate::core::Consistency;
use crate::entities::{EntityError, EntityEvent, Write, wire};
use crate::watch::{Fed, Feed};
use futures::Stream;
use keelstone_proto::v1::entities_server::Entities;
use keelstone_proto::v1::{
    EntityCreateRequest, EntityDeleteRequest, EntityDeleteResponse, EntityGetRequest,
    EntityHistoryRequest, EntityHistoryResponse, EntityListRequest, EntityListResponse,
    EntityPatchRequest, EntityResolveRequest, EntityResponse, EntityUpdateRequest,
    EntityWatchRequest, EntityWatchResponse,
};
use keelstone_store::Revision;
use keelstone_store::entity::DecodeError;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

pub(super) struct EntityService(pub(super) Arc<Context>);

impl EntityService {
    async fn write(
        &self,
        write: Result<Write, EntityError>,
        deadline: Instant,
    ) -> Result<Response<EntityResponse>, Status> {
        let write = write.map_err(status::of)?;
        let answer = self.0.entities.write(&write, deadline).await.map_err(status::of)?;
        let (header, written) = self.0.answer(answer);
        Ok(Response::new(EntityResponse {
            header: Some(header),
            entity: written.entity.map(wire::entity_to_proto),
            warnings: written.warnings,
        }))
    }
}

#[tonic::async_trait]
impl Entities for EntityService {
    async fn create(
        &self,
        request: Request<EntityCreateRequest>,
    ) -> Result<Response<EntityResponse>, Status> {
        let deadline = self.0.write_deadline(&request, "entity_create")?;
        let creation = wire::create(request.into_inner()).map_err(status::of)?;
        let answer = self.0.entities.create(creation, deadline).await.map_err(status::of)?;
        let (header, written) = self.0.answer(answer);
        Ok(Response::new(EntityResponse {
            header: Some(header),
            entity: written.entity.map(wire::entity_to_proto),
            warnings: written.warnings,
        }))
    }

    async fn get(
        &self,
        request: Request<EntityGetRequest>,
    ) -> Result<Response<EntityResponse>, Status> {
        let deadline = self.0.deadline(&request);
        let EntityGetRequest { id, revision, consistency } = request.into_inner();
        let id = wire::entity_id(&id).map_err(status::of)?;
        let consistency = wire::consistency(consistency).map_err(status::of)?;
        let revision = Revision::new(revision);
        let answer = self.0.entities.get(&id, revision, consistency, deadline).await;
        let (header, entity) = self.0.answer(answer.map_err(status::of)?);
        Ok(Response::new(EntityResponse {
            header: Some(header),
            entity: Some(wire::entity_to_proto(entity)),
            warnings: Vec::new(),
        }))
    }

    async fn list(
        &self,
        request: Request<EntityListRequest>,
    ) -> Result<Response<EntityListResponse>, Status> {
        let deadline = self.0.deadline(&request);
        let query = wire::list_query(request.into_inner()).map_err(status::of)?;
        let answer = self.0.entities.list(&query, deadline).await.map_err(status::of)?;
        let (header, page) = self.0.answer(answer);
        Ok(Response::new(EntityListResponse {
            header: Some(header),
            entities: page.entities.into_iter().map(wire::entity_to_proto).collect(),
            next_page_token: page.next_page_token,
            revision: page.revision.get(),
        }))
    }

    async fn update(
        &self,
        request: Request<EntityUpdateRequest>,
    ) -> Result<Response<EntityResponse>, Status> {
        let deadline = self.0.write_deadline(&request, "entity_update")?;
        self.write(wire::update(request.into_inner()), deadline).await
    }

    async fn patch(
        &self,
        request: Request<EntityPatchRequest>,
    ) -> Result<Response<EntityResponse>, Status> {
        let deadline = self.0.write_deadline(&request, "entity_patch")?;
        self.write(wire::patch(request.into_inner()), deadline).await
    }

    async fn delete(
        &self,
        request: Request<EntityDeleteRequest>,
    ) -> Result<Response<EntityDeleteResponse>, Status> {
        let deadline = self.0.write_deadline(&request, "entity_delete")?;
        let write = wire::delete(&request.into_inner()).map_err(status::of)?;
        let answer = self.0.entities.write(&write, deadline).await.map_err(status::of)?;
        let (header, written) = self.0.answer(answer);
        Ok(Response::new(EntityDeleteResponse {
            header: Some(header),
            gone: written.gone,
            entity: written.entity.map(wire::entity_to_proto),
        }))
    }

    async fn resolve(
        &self,
        request: Request<EntityResolveRequest>,
    ) -> Result<Response<EntityResponse>, Status> {
        let deadline = self.0.write_deadline(&request, "entity_resolve")?;
        self.write(wire::resolve(&request.into_inner()), deadline).await
    }

    async fn history(
        &self,
        request: Request<EntityHistoryRequest>,
    ) -> Result<Response<EntityHistoryResponse>, Status> {
        let deadline = self.0.deadline(&request);
        let query = wire::history_query(&request.into_inner()).map_err(status::of)?;
        let answer = self.0.entities.history(&query, Consistency::default(), deadline).await;
        let (header, history) = self.0.answer(answer.map_err(status::of)?);
        Ok(Response::new(EntityHistoryResponse {
            header: Some(header),
            versions: history.versions.into_iter().map(wire::version_to_proto).collect(),
            compact_revision: history.compacted.get(),
            more: history.more,
        }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<EntityWatchResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<EntityWatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let request = request.into_inner();
        let filter = wire::filter(&request).map_err(status::of)?;
        let range = filter.range();
        let select = move |event: &keelstone_store::machine::Event| {
            let named = range.contains(event.key.as_bytes());
            if named { filter.event(event).transpose() } else { None }
        };
        let start = Revision::new(request.start_revision);
        let interval = Duration::from_millis(request.progress_interval_ms);
        let hub = self.0.hub.clone();
        let feed = Feed::open(hub, start, &request.history, interval, select);
        let feed = feed.await.map_err(status::of)?;
        let watch = Watch { context: self.0.clone(), feed, summary: request.summary, over: false };
        Ok(Response::new(Box::pin(futures::stream::unfold(watch, |mut watch| async move {
            let response = watch.next().await?;
            Some((response, watch))
        }))))
    }
}

struct Watch {
    context: Arc<Context>,
    feed: Feed<Result<EntityEvent, DecodeError>>,
    summary: bool,
    over: bool,
}

impl Watch {
    async fn next(&mut self) -> Option<Result<EntityWatchResponse, Status>> {
        if self.over {
            return None;
        }
        let response = self.response().await;
        self.over = response.is_err();
        Some(response)
    }

    async fn response(&mut self) -> Result<EntityWatchResponse, Status> {
        let mut response = EntityWatchResponse::default();
        let seen = match self.feed.next().await.map_err(status::of)? {
            Fed::Events(revision, events) => {
                for event in events {
                    let event = event.map_err(|error| EntityError::Damaged(error.to_string()));
                    let event = wire::event_to_proto(event.map_err(status::of)?, self.summary);
                    response.events.push(event);
                }
                revision
            }
            Fed::Progress(revision) => {
                response.progress = revision.get();
                revision
            }
        };
        let newest = self.feed.newest().max(seen);
        response.header = Some(self.context.header_of(newest, self.feed.history()));
        Ok(response)
    }
}
