//! The types that entities have.

use super::context::Context;
use super::status;
use crate::entities::wire;
use keelstone_proto::v1::types_server::Types;
use keelstone_proto::v1::{
    TypeGetRequest, TypeGetResponse, TypeListRequest, TypeListResponse, TypeRegisterRequest,
    TypeRegisterResponse,
};
use std::sync::Arc;
use tonic::{Request, Response, Status};

pub(super) struct TypeService(pub(super) Arc<Context>);

#[tonic::async_trait]
impl Types for TypeService {
    async fn register(
        &self,
        request: Request<TypeRegisterRequest>,
    ) -> Result<Response<TypeRegisterResponse>, Status> {
        let deadline = self.0.write_deadline(&request, "type_register")?;
        let request = wire::registration(request.into_inner()).map_err(status::of)?;
        let answer = self.0.entities.register_type(&request, deadline).await.map_err(status::of)?;
        let (header, registered) = self.0.answer(answer);
        Ok(Response::new(TypeRegisterResponse {
            header: Some(header),
            r#type: Some(wire::entity_type_to_proto(registered.entity_type)),
            created: registered.created,
        }))
    }

    async fn get(
        &self,
        request: Request<TypeGetRequest>,
    ) -> Result<Response<TypeGetResponse>, Status> {
        let deadline = self.0.deadline(&request);
        let TypeGetRequest { id, consistency } = request.into_inner();
        let id = wire::type_id(&id).map_err(status::of)?;
        let consistency = wire::consistency(consistency).map_err(status::of)?;
        let answer = self.0.entities.get_type(&id, consistency, deadline).await;
        let (header, found) = self.0.answer(answer.map_err(status::of)?);
        let found = Some(wire::entity_type_to_proto(found));
        Ok(Response::new(TypeGetResponse { header: Some(header), r#type: found }))
    }

    async fn list(
        &self,
        request: Request<TypeListRequest>,
    ) -> Result<Response<TypeListResponse>, Status> {
        let deadline = self.0.deadline(&request);
        let query = wire::type_query(request.into_inner()).map_err(status::of)?;
        let answer = self.0.entities.list_types(&query, deadline).await.map_err(status::of)?;
        let (header, page) = self.0.answer(answer);
        Ok(Response::new(TypeListResponse {
            header: Some(header),
            types: page.types.into_iter().map(wire::entity_type_to_proto).collect(),
            next_page_token: page.next_page_token,
        }))
    }
}
