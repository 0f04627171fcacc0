//! Raw keys.

use super::context::Context;
use super::convert::{
    delete_from_proto, key_value, put_from_proto, range_from_proto, range_to_proto, txn_from_proto,
    txn_to_proto,
};
use super::status::{self, Failure};
use keelstone_proto::v1::kv_server::Kv;
use keelstone_proto::v1::{
    CompactRequest, CompactResponse, DeleteRequest, DeleteResponse, PutRequest, PutResponse,
    RangeRequest, RangeResponse, TxnRequest, TxnResponse, WriteId,
};
use keelstone_store::Revision;
use keelstone_store::machine::{Command, Op, OpReply, Outcome, Txn, TxnReply, read_txn};
use std::sync::Arc;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

pub(super) struct KvService(pub(super) Arc<Context>);

impl KvService {
    /// One operation, as a transaction of its own.
    async fn one(
        &self,
        op: Op,
        write_id: Option<WriteId>,
        deadline: Instant,
    ) -> Result<(Revision, OpReply), Status> {
        let txn = Txn { then: vec![op], ..Txn::default() };
        let (revision, reply) = self.txn(txn, write_id, deadline).await?;
        let mut ops = reply.ops.into_iter();
        Ok((revision, ops.next().ok_or_else(|| status::of(Failure::unexpected()))?))
    }

    async fn txn(
        &self,
        txn: Txn,
        write_id: Option<WriteId>,
        deadline: Instant,
    ) -> Result<(Revision, TxnReply), Status> {
        let reply = self.0.propose(Command::Txn(txn), write_id, deadline).await?;
        match reply.outcome {
            Outcome::Txn(txn) => Ok((reply.revision, txn)),
            _ => Err(status::of(Failure::unexpected())),
        }
    }
}

#[tonic::async_trait]
impl Kv for KvService {
    async fn range(
        &self,
        request: Request<RangeRequest>,
    ) -> Result<Response<RangeResponse>, Status> {
        let deadline = self.0.deadline(&request);
        let request = request.into_inner();
        let consistency = request.consistency;
        let range = range_from_proto(request).map_err(status::of)?;
        let (view, header) = self.0.read(consistency, deadline).await?;
        let reply = view.range(&range).map_err(status::of)?.map_err(status::of)?;
        Ok(Response::new(RangeResponse { header: Some(header), ..range_to_proto(reply) }))
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let deadline = self.0.deadline(&request);
        let mut request = request.into_inner();
        let write_id = request.write_id.take();
        let put = put_from_proto(request).map_err(status::of)?;
        let (revision, reply) = self.one(Op::Put(put), write_id, deadline).await?;
        let previous = match reply {
            OpReply::Put { previous } => previous.map(key_value),
            _ => None,
        };
        let header = Some(self.0.header(revision).await?);
        Ok(Response::new(PutResponse { header, previous }))
    }

    async fn delete(
        &self,
        request: Request<DeleteRequest>,
    ) -> Result<Response<DeleteResponse>, Status> {
        let deadline = self.0.deadline(&request);
        let mut request = request.into_inner();
        let write_id = request.write_id.take();
        let delete = delete_from_proto(request).map_err(status::of)?;
        let (revision, reply) = self.one(Op::Delete(delete), write_id, deadline).await?;
        let (deleted, previous) = match reply {
            OpReply::Delete { deleted, previous } => (deleted, previous),
            _ => (0, Vec::new()),
        };
        let previous = previous.into_iter().map(key_value).collect();
        let header = Some(self.0.header(revision).await?);
        Ok(Response::new(DeleteResponse { header, deleted, previous }))
    }

    async fn txn(&self, request: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        let deadline = self.0.deadline(&request);
        let mut request = request.into_inner();
        let write_id = request.write_id.take();
        let txn = txn_from_proto(request).map_err(status::of)?;
        if txn.is_read_only() {
            let (view, header) = self.0.read(0, deadline).await?;
            let reply = read_txn(&view, &txn).map_err(status::of)?.map_err(status::of)?;
            return Ok(Response::new(TxnResponse { header: Some(header), ..txn_to_proto(reply) }));
        }
        let (revision, reply) = self.txn(txn, write_id, deadline).await?;
        let header = Some(self.0.header(revision).await?);
        Ok(Response::new(TxnResponse { header, ..txn_to_proto(reply) }))
    }

    async fn compact(
        &self,
        request: Request<CompactRequest>,
    ) -> Result<Response<CompactResponse>, Status> {
        let deadline = self.0.deadline(&request);
        let revision = Revision::new(request.into_inner().revision);
        let reply = self.0.propose(Command::Compact { revision }, None, deadline).await?;
        let header = Some(self.0.header(reply.revision).await?);
        Ok(Response::new(CompactResponse { header }))
    }
}
