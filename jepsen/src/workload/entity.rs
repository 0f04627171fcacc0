//! Documents that several writers patch: each has sections of its own and one
//! that all fight for, through the client library's merge patches.

use super::{Workload, World};
use crate::client::{Actor, Caller, Raw};
use anyhow::{Context as _, Result, bail, ensure};
use async_trait::async_trait;
use keelstone_client::{Client, Entity, EnvelopeChange, NewEntity, NewType, Precondition};
use keelstone_jepsen::check;
use keelstone_jepsen::history::{EntityPatch, EntityRead, Op};
use rand::Rng as _;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

/// Documents.
const ENTITIES: u64 = 4;
/// The type of all of them: anything goes.
const TYPE: &str = "urn:vcloud:type:jepsen:document:1.0.0";

pub(super) struct Entities;

#[async_trait]
impl Workload for Entities {
    fn name(&self) -> &'static str {
        "entity"
    }

    fn about(&self) -> &'static str {
        "merge patches of sections of documents by several writers"
    }

    fn checkers(&self) -> &'static [&'static str] {
        &["entity"]
    }

    fn describe(&self, context: &mut check::Context) {
        context.exclusive = false;
        context.prefixes = vec!["epilogue".to_owned(), "canary".to_owned()];
    }

    async fn prepare(&self, world: &Arc<World>) -> Result<()> {
        let client = world.library()?;
        let new = NewType {
            vendor: "jepsen".to_owned(),
            nss: "document".to_owned(),
            version: "1.0.0".to_owned(),
            name: "document".to_owned(),
            schema: "{\"type\":\"object\"}".into(),
            ..NewType::default()
        };
        client.types().register(new).await.context("register the type")?;
        for index in 0..ENTITIES {
            let new = NewEntity::named(format!("document-{index}")).uuid(uuid(index)).resolve();
            client.documents().create(TYPE, new, "{}").await.context("create a document")?;
        }
        Ok(())
    }

    fn start(&self, world: &Arc<World>) -> Vec<JoinHandle<()>> {
        (0..world.clients)
            .map(|index| tokio::spawn(writer(Arc::clone(world), world.actor(index), index)))
            .collect()
    }

    async fn read(&self, world: &Arc<World>, _raw: Raw) -> Result<()> {
        let client = world.library()?;
        let mut caller = Caller::new(Arc::clone(&world.recorder));
        for index in 0..ENTITIES {
            read_until_done(&mut caller, &client, index).await?;
        }
        Ok(())
    }
}

fn uuid(index: u64) -> String {
    format!("00000000-0000-4000-8000-{index:012}")
}

fn id(index: u64) -> String {
    format!("urn:vcloud:entity:jepsen:document:{}", uuid(index))
}

async fn writer(world: Arc<World>, mut actor: Actor, own: u64) {
    let Ok(client) = world.library() else { return };
    let mut caller = Caller::new(Arc::clone(&world.recorder));
    while world.pace(&mut actor).await {
        let entity = actor.rng.random_range(0..ENTITIES);
        let section = match actor.rng.random_range(0..10) {
            0..3 => {
                read(&mut caller, &client, entity).await.ok();
                continue;
            }
            3..8 => format!("section-{own}"),
            _ => "shared".to_owned(),
        };
        let content = format!("c{}", world.unique());
        patch(&mut caller, &client, entity, &section, content).await;
    }
}

async fn patch(caller: &mut Caller, client: &Client, entity: u64, section: &str, content: String) {
    let body = serde_json::json!({ section: { "content": content } }).to_string();
    let patch = EntityPatch {
        entity: id(entity),
        section: section.to_owned(),
        content,
        ..EntityPatch::default()
    };
    let (documents, id) = (client.documents(), id(entity));
    let precondition = Precondition::Unconditional;
    let call = documents.patch(&id, precondition, body, EnvelopeChange::default());
    let done = |entity: &Entity| {
        let revision = Some(entity.revision.get());
        Some(Op::EntityPatch(EntityPatch { revision, ..patch.clone() }))
    };
    caller.operation(Op::EntityPatch(patch.clone()), call, done).await.ok();
}

async fn read(
    caller: &mut Caller,
    client: &Client,
    entity: u64,
) -> Result<Entity, keelstone_client::Error> {
    let read = EntityRead { entity: id(entity), ..EntityRead::default() };
    let (documents, id) = (client.documents(), id(entity));
    let done = |entity: &Entity| {
        let sections = Some(sections(entity));
        let revision = Some(entity.revision.get());
        Some(Op::EntityRead(EntityRead { sections, revision, ..read.clone() }))
    };
    caller.operation(Op::EntityRead(read.clone()), documents.get(&id), done).await
}

async fn read_until_done(caller: &mut Caller, client: &Client, entity: u64) -> Result<()> {
    for _ in 0..20 {
        if read(caller, client, entity).await.is_ok() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    bail!("document {entity} could not be read")
}

/// What each section has; a document that cannot be understood has sections that
/// nobody wrote.
fn sections(entity: &Entity) -> BTreeMap<String, String> {
    parse(&entity.document)
        .unwrap_or_else(|error| BTreeMap::from([("unreadable".to_owned(), format!("{error:#}"))]))
}

fn parse(document: &[u8]) -> Result<BTreeMap<String, String>> {
    let value: serde_json::Value = serde_json::from_slice(document).context("parse a document")?;
    let object = value.as_object().context("a document is an object")?;
    let mut sections = BTreeMap::new();
    for (name, section) in object {
        let content = section.get("content").and_then(serde_json::Value::as_str);
        ensure!(content.is_some(), "section {name} has no content");
        sections.insert(name.clone(), content.unwrap_or_default().to_owned());
    }
    Ok(sections)
}
