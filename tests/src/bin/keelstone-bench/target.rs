//! What is measured: one operation at a time, on Keelstone or on etcd, over the
//! same kind of connection and straight through the generated stubs.

use crate::etcd;
use anyhow::{Context as _, bail};
use bytes::Bytes;
use clap::ValueEnum;
use keelstone_proto::v1;
use keelstone_proto::v1::entities_client::EntitiesClient;
use keelstone_proto::v1::kv_client::KvClient;
use keelstone_proto::v1::sessions_client::SessionsClient;
use prost::Message as _;
use serde::Serialize;
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

/// Which server is at the endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Target {
    /// The native API.
    Keelstone,
    /// etcd's v3 API.
    Etcd,
}

/// Connects as every client of the load does, whatever the server.
pub(crate) async fn connect(endpoint: &str) -> anyhow::Result<Channel> {
    let uri =
        if endpoint.contains("://") { endpoint.to_owned() } else { format!("http://{endpoint}") };
    let endpoint = Endpoint::from_shared(uri)?
        .connect_timeout(Duration::from_secs(2))
        .tcp_nodelay(true)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(16 << 20);
    Ok(endpoint.connect().await?)
}

/// The endpoint of the node that leads.
pub(crate) async fn leader(target: Target, endpoints: &[String]) -> anyhow::Result<String> {
    for endpoint in endpoints {
        let Ok(channel) = connect(endpoint).await else { continue };
        if leads(target, channel).await.unwrap_or(false) {
            return Ok(endpoint.clone());
        }
    }
    bail!("none of {} leads", endpoints.join(", "))
}

async fn leads(target: Target, channel: Channel) -> Result<bool, Status> {
    Ok(match target {
        Target::Keelstone => {
            let mut stub = v1::cluster_client::ClusterClient::new(channel);
            let status = stub.status(v1::StatusRequest {}).await?.into_inner();
            status.leader != 0 && status.leader == status.header.map_or(0, |header| header.node_id)
        }
        Target::Etcd => {
            let mut stub = etcd::maintenance_client::MaintenanceClient::new(channel);
            let status = stub.status(etcd::StatusRequest {}).await?.into_inner();
            status.leader != 0
                && status.leader == status.header.map_or(0, |header| header.member_id)
        }
    })
}

/// One operation.
#[derive(Clone, Debug)]
pub(crate) enum Operation {
    Put {
        key: Bytes,
        value: Bytes,
    },
    Get {
        key: Bytes,
    },
    Range {
        key: Bytes,
        until: Bytes,
        limit: u64,
    },
    /// Puts if the key is at this revision.
    Swap {
        key: Bytes,
        value: Bytes,
        revision: u64,
    },
    /// Patches the entity with this id.
    Patch {
        id: String,
        patch: Bytes,
    },
}

/// A client of the load: its stubs on its connection.
#[derive(Clone)]
pub(crate) enum Stub {
    Keelstone {
        kv: KvClient<Channel>,
        entities: EntitiesClient<Channel>,
        /// With it every write carries an identity.
        identity: Option<v1::WriteId>,
    },
    Etcd(etcd::kv_client::KvClient<Channel>),
}

impl Stub {
    pub(crate) fn new(target: Target, channel: Channel) -> Self {
        match target {
            Target::Keelstone => Self::Keelstone {
                kv: KvClient::new(channel.clone()).max_decoding_message_size(64 << 20),
                entities: EntitiesClient::new(channel),
                identity: None,
            },
            Target::Etcd => Self::Etcd(etcd::kv_client::KvClient::new(channel)),
        }
    }

    /// Gives every write an identity, as the client crate does.
    pub(crate) async fn identify(&mut self, channel: Channel) -> anyhow::Result<()> {
        let Self::Keelstone { identity, .. } = self else {
            bail!("etcd's writes have no identity");
        };
        let request = v1::SessionOpenRequest { ttl_ms: 0 };
        let opened = SessionsClient::new(channel).open(request).await.context("open a session")?;
        let session = opened.into_inner().session;
        *identity = Some(v1::WriteId { session, sequence: 0, acked_below: 0 });
        Ok(())
    }

    /// Does it, and returns the revision that the answer names.
    pub(crate) async fn send(&mut self, operation: Operation) -> Result<u64, Status> {
        match self {
            Self::Keelstone { kv, entities, identity } => {
                if let Some(id) = identity {
                    id.sequence += 1;
                    id.acked_below = id.sequence;
                }
                let header = send_keelstone(kv, entities, *identity, operation).await?;
                Ok(header.map_or(0, |header| header.revision))
            }
            Self::Etcd(kv) => {
                let header = send_etcd(kv, operation).await?;
                Ok(header.map_or(0, |header| header.revision.cast_unsigned()))
            }
        }
    }
}

async fn send_keelstone(
    kv: &mut KvClient<Channel>,
    entities: &mut EntitiesClient<Channel>,
    write_id: Option<v1::WriteId>,
    operation: Operation,
) -> Result<Option<v1::ResponseHeader>, Status> {
    let span = |key, end| Some(v1::KeySpan { key, end });
    match operation {
        Operation::Put { key, value } => {
            let put = v1::PutRequest { key, value, write_id, ..v1::PutRequest::default() };
            Ok(kv.put(put).await?.into_inner().header)
        }
        Operation::Get { key } => {
            let range = v1::RangeRequest { span: span(key, None), ..v1::RangeRequest::default() };
            let response = kv.range(range).await?.into_inner();
            expect_found(response.kvs.len())?;
            Ok(response.header)
        }
        Operation::Range { key, until, limit } => {
            let span = span(key, Some(v1::key_span::End::Until(until)));
            let range = v1::RangeRequest { span, limit, ..v1::RangeRequest::default() };
            let response = kv.range(range).await?.into_inner();
            expect_found(response.kvs.len())?;
            Ok(response.header)
        }
        Operation::Swap { key, value, revision } => {
            let compare = v1::Compare {
                span: span(key.clone(), None),
                relation: v1::Relation::Equal.into(),
                target: Some(v1::compare::Target::ModRevision(revision)),
            };
            let put = v1::PutRequest { key, value, ..v1::PutRequest::default() };
            let op = v1::TxnOp { op: Some(v1::txn_op::Op::Put(put)) };
            let (compares, then) = (vec![compare], vec![op]);
            let txn = v1::TxnRequest { compares, then, otherwise: Vec::new(), write_id };
            let response = kv.txn(txn).await?.into_inner();
            expect_succeeded(response.succeeded)?;
            Ok(response.header)
        }
        Operation::Patch { id, patch } => {
            let condition = v1::precondition::Condition::Unconditional(true);
            let request = v1::EntityPatchRequest {
                id,
                merge_patch: patch,
                precondition: Some(v1::Precondition { condition: Some(condition) }),
                write_id,
                ..v1::EntityPatchRequest::default()
            };
            Ok(entities.patch(request).await?.into_inner().header)
        }
    }
}

async fn send_etcd(
    kv: &mut etcd::kv_client::KvClient<Channel>,
    operation: Operation,
) -> Result<Option<etcd::ResponseHeader>, Status> {
    match operation {
        Operation::Put { key, value } => {
            let put = etcd::PutRequest { key, value, lease: 0 };
            Ok(kv.put(put).await?.into_inner().header)
        }
        Operation::Get { key } => {
            let range = etcd::RangeRequest { key, ..etcd::RangeRequest::default() };
            let response = kv.range(range).await?.into_inner();
            expect_found(response.kvs.len())?;
            Ok(response.header)
        }
        Operation::Range { key, until, limit } => {
            let limit = limit.cast_signed();
            let range = etcd::RangeRequest {
                key,
                range_end: until,
                limit,
                ..etcd::RangeRequest::default()
            };
            let response = kv.range(range).await?.into_inner();
            expect_found(response.kvs.len())?;
            Ok(response.header)
        }
        Operation::Swap { key, value, revision } => {
            let compare = etcd::Compare {
                result: etcd::compare::CompareResult::Equal.into(),
                target: etcd::compare::CompareTarget::Mod.into(),
                key: key.clone(),
                target_union: Some(etcd::compare::TargetUnion::ModRevision(revision.cast_signed())),
            };
            let put = etcd::PutRequest { key, value, lease: 0 };
            let op = etcd::RequestOp { request: Some(etcd::request_op::Request::RequestPut(put)) };
            let txn =
                etcd::TxnRequest { compare: vec![compare], success: vec![op], failure: Vec::new() };
            let response = kv.txn(txn).await?.into_inner();
            expect_succeeded(response.succeeded)?;
            Ok(response.header)
        }
        Operation::Patch { .. } => Err(Status::unimplemented("etcd has no entities")),
    }
}

/// A read that finds nothing measures nothing.
fn expect_found(found: usize) -> Result<(), Status> {
    if found == 0 { Err(Status::not_found("the key was not there")) } else { Ok(()) }
}

fn expect_succeeded(succeeded: bool) -> Result<(), Status> {
    if succeeded { Ok(()) } else { Err(Status::aborted("the compare did not hold")) }
}

/// Whether a failed write may have taken effect: nobody said that it has not.
pub(crate) fn is_unknown(status: &Status) -> bool {
    let detail = status.metadata().get_bin("keelstone-error-bin");
    let detail = detail.and_then(|value| value.to_bytes().ok());
    let detail = detail.and_then(|bytes| v1::ErrorDetail::decode(bytes).ok());
    match detail {
        Some(detail) => detail.outcome() == v1::Outcome::Unknown,
        None => !matches!(
            status.code(),
            Code::InvalidArgument | Code::NotFound | Code::Aborted | Code::Unimplemented
        ),
    }
}
