//! What a heartbeat patch of a real-sized entity costs the planner, by part.

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use keelstone_store::entity::document::merge;
use keelstone_store::entity::json::Json;
use keelstone_store::entity::request::{Create, EnvelopeChange, Patch};
use keelstone_store::entity::schema::Schema;
use keelstone_store::entity::{Entity, EntityId, EntityState, Precondition, Request, TypeId, plan};
use keelstone_store::{Millis, Revision};
use serde_json::{Value, json};
use std::hint::black_box;

const SCHEMA: &str = include_str!("../../server/samples/capvcdCluster-1.3.0.schema.json");
const PATCH: &str = r#"{"status":{"vcdKe":{"workerId":"w","heartbeatTimestamp":"2026-03-01"}}}"#;

/// About 45 KB in the layout of a real one, with the null that real ones have.
fn document() -> String {
    let events = |count: u32| {
        (0..count)
            .map(|at| {
                json!({
                    "name": "MachineBootstrapped",
                    "occurredAt": format!("2026-03-01T00:00:{:02}.123456789Z", at % 60),
                    "vcdResourceId": format!("urn:vcloud:vm:00000000-0000-0000-0000-{at:012}"),
                    "additionalDetails": {"Detailed Event": "the step has finished"},
                })
            })
            .collect::<Value>()
    };
    json!({
        "kind": "CAPVCDCluster",
        "apiVersion": "capvcd.vmware.com/v1.2",
        "metadata": {"name": "demo", "orgName": "tenant"},
        "spec": {"capiYaml": "  # control plane, network\n".repeat(400), "vcdKe": {"isVCDKECluster": true}},
        "status": {
            "vcdKe": {"state": "provisioned", "eventSet": events(20)},
            "capvcd": {
                "phase": "Provisioned",
                "upgrade": {"ready": true, "previous": null},
                "private": {"kubeConfig": "A".repeat(5600)},
                "eventSet": events(60),
                "vcdResourceSet": events(40),
            },
            "cpi": {"name": "cpi", "eventSet": events(10)},
        },
    })
    .to_string()
}

fn entity(document: &str, schema: &Schema) -> Entity {
    let type_id: TypeId = "urn:vcloud:type:vmware:capvcdCluster:1.3.0".parse().expect("a type id");
    let uuid = "5e0a7b9c-0f3d-4f0e-9a53-0d1c2b3a4f5e";
    let create = Request::Create(Create {
        id: EntityId::new(type_id.name.clone(), uuid).expect("an entity id"),
        type_id,
        name: "demo".to_owned(),
        external_id: String::new(),
        org: "tenant".to_owned(),
        owner: String::new(),
        document: Bytes::copy_from_slice(document.as_bytes()),
        resolve: true,
        finalizers: Vec::new(),
    });
    let planned = plan(&create, None, Some(schema), Millis(1)).expect("it can be created");
    assert_eq!(planned.entity.state, EntityState::Resolved, "{}", planned.entity.message);
    planned.entity.stored_at(Revision::new(2))
}

fn patches(criterion: &mut Criterion) {
    let schema = Schema::compile(SCHEMA.as_bytes()).expect("the sample schema is usable");
    let text = document();
    let json = Json::parse(&text).expect("JSON");
    let patch = Json::parse(PATCH).expect("JSON");
    let entity = entity(&text, &schema);
    let request = Request::Patch(Patch {
        id: entity.id.clone(),
        precondition: Precondition::Unconditional,
        merge_patch: Bytes::from_static(PATCH.as_bytes()),
        envelope: EnvelopeChange::default(),
    });
    let mut group = criterion.benchmark_group("entity");
    group.throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function("parse", |bench| {
        bench.iter(|| Json::parse(black_box(&text)).map(|json| json.text.len()));
    });
    group.bench_function("merge", |bench| bench.iter(|| merge(black_box(&json), &patch)));
    group.bench_function("validate", |bench| bench.iter(|| schema.validate(black_box(&json))));
    group.bench_function("plan_patch", |bench| {
        bench.iter(|| plan(black_box(&request), Some(&entity), Some(&schema), Millis(2)).is_ok());
    });
    group.finish();
}

criterion_group!(benches, patches);
criterion_main!(benches);
