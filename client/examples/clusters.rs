//! Typed entities: registers a type, creates an entity, lets two writers change
//! it at the same time, and shows its history.
//!
//! `cargo run -p keelstone-client --example clusters -- 127.0.0.1:7701`
#![expect(clippy::print_stdout, reason = "an example talks to people")]

use keelstone_client::{Client, EntityType, NewEntity, NewType, Precondition};
use serde::{Deserialize, Serialize};

/// What this program knows of the document. Other fields survive its changes.
#[derive(Debug, Serialize, Deserialize)]
struct Cluster {
    name: String,
    workers: u32,
    #[serde(default)]
    events: Vec<String>,
}

impl EntityType for Cluster {
    const TYPE_ID: &'static str = "urn:vcloud:type:example:demoCluster:1.0.0";
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let endpoints: Vec<_> = std::env::args().skip(1).collect();
    anyhow::ensure!(!endpoints.is_empty(), "give at least one endpoint, such as 127.0.0.1:7701");
    let client = Client::builder().endpoints(endpoints).connect().await?;

    let schema = serde_json::json!({
        "type": "object",
        "required": ["name"],
        "properties": {"name": {"type": "string"}, "workers": {"type": "integer", "minimum": 0}},
    });
    let new_type = NewType {
        vendor: "example".into(),
        nss: "demoCluster".into(),
        version: "1.0.0".into(),
        name: "A cluster of the example".into(),
        schema: serde_json::to_vec(&schema)?.into(),
        ..NewType::default()
    };
    let (registered, created) = client.types().register(new_type).await?;
    println!("{} {}", registered.id, if created { "is registered" } else { "was registered" });

    let clusters = client.entities::<Cluster>();
    let document = Cluster { name: "prod-1".into(), workers: 3, events: Vec::new() };
    let entity = clusters.create(NewEntity::named("prod-1").resolve(), &document).await?;
    println!("{} is {} at revision {}", entity.id, entity.state, entity.revision);

    // Neither has to know of the other, and no change is lost.
    let scale = clusters.modify(&entity.id, |cluster| cluster.workers += 2);
    let note = clusters.modify(&entity.id, |cluster| cluster.events.push("scaled".into()));
    let (scaled, noted) = tokio::join!(scale, note);
    scaled?;
    noted?;
    let now = clusters.get(&entity.id).await?;
    println!("{} workers, events {:?}", now.document.workers, now.document.events);

    let history = clusters.history(&entity.id, 10, None).await?;
    for version in history.versions {
        println!("  revision {}", version.revision);
    }
    clusters.delete(&entity.id, Precondition::IfRevision(now.revision)).await?;
    println!("deleted");
    Ok(client.close().await?)
}
