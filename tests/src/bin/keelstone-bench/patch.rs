//! Entities for the patch workload: cluster documents that get heartbeats.

use crate::load::LoadOptions;
use anyhow::Context as _;
use bytes::Bytes;
use keelstone_proto::v1;
use serde_json::json;
use tokio::task::JoinSet;
use tonic::transport::Channel;

const VENDOR: &str = "bench";
const NSS: &str = "cluster";
const VERSION: &str = "1.0.0";

/// Registers a type and creates the entities, 16 at a time; returns their ids.
pub(crate) async fn create_entities(
    channel: Channel,
    options: &LoadOptions,
) -> anyhow::Result<Vec<String>> {
    let schema = json!({
        "type": "object",
        "properties": {"status": {"type": "object"}, "spec": {"type": "object"}},
    });
    let request = v1::TypeRegisterRequest {
        vendor: VENDOR.to_owned(),
        nss: NSS.to_owned(),
        version: VERSION.to_owned(),
        name: "A cluster of the load".to_owned(),
        schema: schema.to_string().into(),
        ..v1::TypeRegisterRequest::default()
    };
    let mut types = v1::types_client::TypesClient::new(channel.clone());
    types.register(request).await.context("register the type")?;

    let entities = usize::try_from(options.keys.min(1000)).unwrap_or(1000);
    let document: Bytes = document(options.value_size).into();
    let mut tasks = JoinSet::new();
    let mut ids = Vec::new();
    for number in 0..entities {
        let mut stub = v1::entities_client::EntitiesClient::new(channel.clone());
        let request = v1::EntityCreateRequest {
            type_id: format!("urn:vcloud:type:{VENDOR}:{NSS}:{VERSION}"),
            name: format!("cluster-{number}"),
            document: document.clone(),
            resolve: true,
            ..v1::EntityCreateRequest::default()
        };
        tasks.spawn(async move { stub.create(request).await });
        if tasks.len() >= 16 {
            ids.extend(tasks.join_next().await);
        }
    }
    while let Some(created) = tasks.join_next().await {
        ids.push(created);
    }
    let id = |created: Result<Result<tonic::Response<v1::EntityResponse>, _>, _>| {
        let response = created.context("create an entity")?.context("create an entity")?;
        let entity = response.into_inner().entity.context("an entity in the answer")?;
        anyhow::Ok(entity.id)
    };
    ids.into_iter().map(id).collect()
}

/// A document of about so many bytes, most of it one large string, as real ones
/// are.
fn document(bytes: usize) -> String {
    let manifest: String = ('a'..='z').cycle().take(bytes).collect();
    json!({
        "apiVersion": "bench/v1",
        "kind": "Cluster",
        "spec": {"manifest": manifest},
        "status": {"vcdKe": {"state": "provisioned"}, "capvcd": {"phase": "Ready"}},
    })
    .to_string()
}

/// What a worker writes while it works.
pub(crate) fn heartbeat(worker: u64, beat: u64) -> Bytes {
    json!({"status": {"vcdKe": {"workerId": worker, "heartbeat": beat}}}).to_string().into()
}
