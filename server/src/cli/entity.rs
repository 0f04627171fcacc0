//! `keelstone entity`.

use super::input::{Condition, document};
use super::output::{Format, line, note};
use super::types::urn;
use anyhow::Result;
use clap::{Args, Subcommand};
use keelstone_client::{
    Client, Deletion, Entity, EntityFilter, EnvelopeChange, NewEntity, Precondition, Revision,
};
use serde_json::{Value, json, value::RawValue};

/// Create, read, change and delete entities.
#[derive(Debug, Args)]
pub(super) struct Entities {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Create an entity.
    Create(Create),
    /// Print an entity's document, or with `--output json` the whole entity.
    Get {
        /// The entity's URN.
        id: String,
        /// As it was at this revision.
        #[arg(long, value_name = "REVISION")]
        revision: Option<u64>,
    },
    /// List entities.
    List {
        /// `VENDOR:NSS`, with a version or the beginning of one.
        #[arg(long = "type", default_value = "", value_name = "TYPE")]
        type_prefix: String,
        /// Only of this organisation.
        #[arg(long, default_value = "")]
        org: String,
        /// Only with this name.
        #[arg(long, default_value = "")]
        name: String,
        /// With the documents; only seen with `--output json`.
        #[arg(long)]
        documents: bool,
    },
    /// Replace an entity's document.
    Update {
        /// The entity's URN.
        id: String,
        /// The document; `-` reads standard input.
        #[arg(value_name = "FILE")]
        document: String,
        #[command(flatten)]
        condition: Condition,
        #[command(flatten)]
        envelope: Envelope,
        /// Another version of the entity's type.
        #[arg(long = "type", value_name = "TYPE")]
        type_id: Option<String>,
    },
    /// Change parts of a document by a merge patch (RFC 7396).
    Patch {
        /// The entity's URN.
        id: String,
        /// The patch; `-` reads standard input.
        #[arg(value_name = "FILE", required_unless_present = "merge")]
        patch: Option<String>,
        /// The patch itself instead of a file.
        #[arg(long, value_name = "JSON", conflicts_with = "patch")]
        merge: Option<String>,
        #[command(flatten)]
        condition: Condition,
        #[command(flatten)]
        envelope: Envelope,
    },
    /// Delete an entity. It waits for its finalizers, if it has any.
    Delete {
        /// The entity's URN.
        id: String,
        #[command(flatten)]
        condition: Condition,
    },
    /// Validate an entity's document against its type.
    Resolve {
        /// The entity's URN.
        id: String,
    },
    /// List the kept versions of an entity, newest first.
    History {
        /// The entity's URN.
        id: String,
        /// At most so many.
        #[arg(long, default_value_t = 20)]
        limit: u32,
    },
}

#[derive(Debug, Args)]
struct Create {
    /// `VENDOR:NSS:VERSION` or the type's URN.
    #[arg(value_name = "TYPE")]
    type_id: String,
    /// Its name, which need not be unique.
    name: String,
    /// The document; `-` reads standard input.
    #[arg(value_name = "FILE")]
    document: String,
    /// The organisation that it belongs to.
    #[arg(long, default_value = "")]
    org: String,
    /// Who owns it.
    #[arg(long, default_value = "")]
    owner: String,
    /// Free for the owner's use.
    #[arg(long, default_value = "")]
    external_id: String,
    /// The UUID part of its id; the server chooses one otherwise.
    #[arg(long, default_value = "")]
    uuid: String,
    /// Validate it at once.
    #[arg(long)]
    resolve: bool,
    /// Deletion waits until this is taken away; can be given more than once.
    #[arg(long = "finalizer", value_name = "NAME")]
    finalizers: Vec<String>,
}

#[derive(Debug, Args)]
struct Envelope {
    /// Another name.
    #[arg(long)]
    name: Option<String>,
    /// Another external id.
    #[arg(long)]
    external_id: Option<String>,
    /// Another owner.
    #[arg(long)]
    owner: Option<String>,
    /// These finalizers instead of those that are there, separated by commas;
    /// empty takes all away.
    #[arg(long, value_name = "NAMES")]
    finalizers: Option<String>,
}

impl Envelope {
    fn change(self) -> EnvelopeChange {
        let mut change = EnvelopeChange::new();
        if let Some(name) = self.name {
            change = change.name(name);
        }
        if let Some(id) = self.external_id {
            change = change.external_id(id);
        }
        if let Some(owner) = self.owner {
            change = change.owner(owner);
        }
        if let Some(names) = self.finalizers {
            change = change.finalizers(names.split(',').filter(|name| !name.is_empty()));
        }
        change
    }
}

impl Entities {
    pub(super) async fn run(self, client: &Client, output: Format) -> Result<()> {
        let documents = client.documents();
        match self.action {
            Action::Create(create) => {
                let body = document(&create.document)?;
                let type_id = urn(&create.type_id);
                let entity = documents.create(&type_id, create.envelope(), body).await?;
                print_change(output, &entity, &entity.id)
            }
            Action::Get { id, revision } => {
                let entity = match revision {
                    Some(revision) => documents.get_at(&id, Revision::new(revision)).await?,
                    None => documents.get(&id).await?,
                };
                match output {
                    Format::Json => output.sentence("", &json_of(&entity)),
                    Format::Table => line(&String::from_utf8_lossy(&entity.document)),
                }
            }
            Action::List { type_prefix, org, name, documents: whole } => {
                let type_prefix =
                    if type_prefix.is_empty() { type_prefix } else { urn(&type_prefix) };
                let summary = !(whole && output == Format::Json);
                let filter =
                    EntityFilter { type_prefix, org, name, summary, ..EntityFilter::default() };
                print_list(output, &documents.list(filter).all().await?.entities)
            }
            Action::Update { id, document: file, condition, envelope, type_id } => {
                let mut change = envelope.change();
                if let Some(type_id) = type_id {
                    change = change.type_id(urn(&type_id));
                }
                let body = document(&file)?;
                let entity = documents.update(&id, condition.into(), body, change).await?;
                print_change(output, &entity, "updated")
            }
            Action::Patch { id, patch, merge, condition, envelope } => {
                let body = match (patch, merge) {
                    (_, Some(merge)) => merge.into_bytes(),
                    (patch, None) => document(&patch.unwrap_or_else(|| "-".to_owned()))?,
                };
                let change = envelope.change();
                let entity = documents.patch(&id, condition.into(), body, change).await?;
                print_change(output, &entity, "patched")
            }
            Action::Delete { id, condition } => {
                match documents.delete(&id, condition.into()).await? {
                    Deletion::Pending(entity) => {
                        let waits = entity.finalizers.join(", ");
                        let text = format!("{id} is IN_DELETION until {waits} are taken away");
                        output.sentence(&text, &json!({"gone": false, "entity": json_of(&entity)}))
                    }
                    _ => output.sentence(&format!("{id} is gone"), &json!({"gone": true})),
                }
            }
            Action::Resolve { id } => {
                let entity = documents.resolve(&id, Precondition::Unconditional).await?;
                let said = match entity.message.as_str() {
                    "" => entity.state.to_string(),
                    message => format!("{}: {message}", entity.state),
                };
                print_change(output, &entity, &said)
            }
            Action::History { id, limit } => history(client, output, &id, limit).await,
        }
    }
}

impl Create {
    fn envelope(&self) -> NewEntity {
        let mut new = NewEntity::named(&self.name)
            .org(&self.org)
            .owner(&self.owner)
            .external_id(&self.external_id)
            .uuid(&self.uuid);
        if self.resolve {
            new = new.resolve();
        }
        for finalizer in &self.finalizers {
            new = new.finalizer(finalizer);
        }
        new
    }
}

async fn history(client: &Client, output: Format, id: &str, limit: u32) -> Result<()> {
    let history = client.documents().history(id, limit, None).await?;
    let rows = history.versions.iter().map(|version| match &version.entity {
        Some(entity) => vec![
            version.revision.to_string(),
            entity.state.to_string(),
            entity.document.len().to_string(),
            when(entity),
        ],
        None => {
            vec![version.revision.to_string(), "deleted".to_owned(), String::new(), String::new()]
        }
    });
    let json: Vec<_> = history
        .versions
        .iter()
        .map(|version| {
            json!({
                "revision": version.revision,
                "deleted": version.entity.is_none(),
                "entity": version.entity.as_ref().map(json_of),
            })
        })
        .collect();
    let json = json!({
        "versions": json,
        "more": history.more,
        "compact_revision": history.compact_revision,
    });
    output.rows(&["revision", "state", "bytes", "modified"], rows.collect(), &json)
}

fn print_list(output: Format, entities: &[Entity]) -> Result<()> {
    let rows = entities.iter().map(|entity| {
        let version = entity.type_id.rsplit(':').next().unwrap_or_default().to_owned();
        vec![
            entity.id.clone(),
            entity.name.clone(),
            version,
            entity.org.clone(),
            entity.state.to_string(),
            entity.revision.to_string(),
            when(entity),
        ]
    });
    let json: Vec<_> = entities.iter().map(json_of).collect();
    let headings = ["id", "name", "version", "org", "state", "revision", "modified"];
    output.rows(&headings, rows.collect(), &json.into())
}

/// Prints what a write made of an entity, and what the server wants known.
fn print_change(output: Format, entity: &Entity, said: &str) -> Result<()> {
    for warning in &entity.warnings {
        note(&format!("warning: {warning}"));
    }
    output.sentence(said, &json_of(entity))
}

fn when(entity: &Entity) -> String {
    humantime::format_rfc3339_seconds(entity.modified).to_string()
}

/// The whole entity; the document as the bytes that are stored.
pub(super) fn json_of(entity: &Entity) -> Value {
    let document: Option<Box<RawValue>> = serde_json::from_slice(&entity.document).ok();
    json!({
        "id": entity.id,
        "type": entity.type_id,
        "name": entity.name,
        "external_id": entity.external_id,
        "org": entity.org,
        "owner": entity.owner,
        "state": entity.state.as_str(),
        "message": entity.message,
        "finalizers": entity.finalizers,
        "create_revision": entity.create_revision,
        "revision": entity.revision,
        "modified": when(entity),
        "document": document,
    })
}
