//! Writers of one document: each patches its own section, and one that both
//! fight for.

use super::{Client, Failed, PATIENCE};
use crate::sim::HostId;
use crate::sim::door::NoAnswer;
use keelstone_jepsen::history::{EntityPatch, EntityRead, Op};
use keelstone_proto::v1;
use keelstone_server::core::Consistency;
use keelstone_server::entities::{EntityError, wire};
use keelstone_store::Revision;
use std::collections::BTreeMap;
use tokio::time::Instant;

const VENDOR: &str = "sim";
const NSS: &str = "cluster";
const VERSION: &str = "1.0.0";
const UUID: &str = "00000000-0000-4000-8000-000000000001";

fn id() -> String {
    format!("urn:vcloud:entity:{VENDOR}:{NSS}:{UUID}")
}

/// A writer. The first one makes the document.
pub(super) async fn run(mut client: Client, number: u64) {
    if number == 0 {
        while client.all.stage.goes_on() && !prepare(&mut client).await {
            client.think(200).await;
        }
    }
    let mut count = 0;
    while client.all.stage.goes_on() {
        count += 1;
        let shared = client.random.below(3) == 0;
        let section = if shared { "shared".to_owned() } else { format!("s{number}") };
        patch(&mut client, section, format!("{number}.{count}")).await;
        client.think(150).await;
        if client.random.below(3) == 0 {
            read(&mut client).await;
        }
    }
}

fn failed(error: &EntityError) -> Failed {
    if error.may_take_effect() {
        Failed::Unknown(error.to_string())
    } else {
        Failed::No(error.to_string())
    }
}

fn flatten<T>(asked: Result<Result<T, Failed>, NoAnswer>) -> Result<T, Failed> {
    asked.map_err(Failed::from).and_then(|answer| answer)
}

/// Registers the type and creates the document; both may be done already.
async fn prepare(client: &mut Client) -> bool {
    let node = client.node();
    let asked = client.all.doors.ask(node, PATIENCE, move |services| async move {
        let deadline = Instant::now() + PATIENCE;
        let registration = wire::registration(v1::TypeRegisterRequest {
            vendor: VENDOR.to_owned(),
            nss: NSS.to_owned(),
            version: VERSION.to_owned(),
            name: "simulated".to_owned(),
            description: String::new(),
            schema: br#"{"type":"object"}"#.to_vec().into(),
        })?;
        let registered = services.entities.register_type(&registration, deadline).await?;
        let creation = wire::create(v1::EntityCreateRequest {
            type_id: registered.value.entity_type.id.to_string(),
            name: "one".to_owned(),
            uuid: UUID.to_owned(),
            document: b"{}".to_vec().into(),
            ..Default::default()
        })?;
        match services.entities.create(creation, deadline).await {
            Ok(_) => Ok(true),
            // A second one is a conflict: it is there.
            Err(EntityError::Rejected(_)) => Ok(true),
            Err(error) => Err(error),
        }
    });
    asked.await.is_ok_and(|answer| answer.unwrap_or(false))
}

async fn patch(client: &mut Client, section: String, content: String) {
    let node = client.node();
    let op = EntityPatch { entity: id(), section, content, revision: None };
    client.invoke(&Op::EntityPatch(op.clone()), node);
    match flatten(send(client, node, &op).await) {
        Ok(revision) => {
            client.ok(Op::EntityPatch(EntityPatch { revision: Some(revision), ..op }), node);
        }
        Err(failed) => client.failed(Op::EntityPatch(op), node, failed),
    }
}

async fn send(
    client: &Client,
    node: HostId,
    op: &EntityPatch,
) -> Result<Result<u64, Failed>, NoAnswer> {
    let merge_patch = format!("{{\"{}\":\"{}\"}}", op.section, op.content);
    let asked = client.all.doors.ask(node, PATIENCE, move |services| async move {
        use v1::precondition::Condition;
        let precondition = v1::Precondition { condition: Some(Condition::Unconditional(true)) };
        let write = wire::patch(v1::EntityPatchRequest {
            id: id(),
            precondition: Some(precondition),
            merge_patch: merge_patch.into_bytes().into(),
            ..Default::default()
        })?;
        services.entities.write(&write, Instant::now() + PATIENCE).await
    });
    Ok(asked.await?.map(|answer| answer.revision.get()).map_err(|error| failed(&error)))
}

async fn read(client: &mut Client) {
    let node = client.node();
    let op = EntityRead { entity: id(), sections: None, revision: None };
    client.invoke(&Op::EntityRead(op.clone()), node);
    let asked = client.all.doors.ask(node, PATIENCE, move |services| async move {
        let deadline = Instant::now() + PATIENCE;
        let id = wire::entity_id(&id())?;
        services.entities.get(&id, Revision::ZERO, Consistency::Linearizable, deadline).await
    });
    let asked = asked.await.map(|answer| answer.map_err(|error| failed(&error)));
    match flatten(asked) {
        Ok(answer) => {
            let sections: BTreeMap<String, String> =
                serde_json::from_slice(&answer.value.document).unwrap_or_default();
            let revision = Some(answer.value.revision.get());
            client
                .ok(Op::EntityRead(EntityRead { sections: Some(sections), revision, ..op }), node);
        }
        Err(failed) => client.failed(Op::EntityRead(op), node, failed),
    }
}
