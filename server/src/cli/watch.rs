//! `keelstone watch`: changes as they happen.

use super::output::Format;
use super::types::urn;
use anyhow::Result;
use clap::{Args, Subcommand};
use keelstone_client::{Client, EntityEvent, EntityFilter, Event, KeyRange, Revision};
use serde_json::json;

/// Print changes as they happen, until Ctrl-C.
#[derive(Debug, Args)]
pub(super) struct Watch {
    #[command(subcommand)]
    what: What,
    /// Begin with the first change after this revision instead of now.
    #[arg(long, global = true, value_name = "REVISION")]
    after: Option<u64>,
    /// End after so many changes.
    #[arg(long, global = true, value_name = "COUNT")]
    count: Option<u64>,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Changes of entities.
    Entities {
        /// `VENDOR:NSS`, with a version or the beginning of one.
        #[arg(long = "type", default_value = "", value_name = "TYPE")]
        type_prefix: String,
        /// Only of this organisation.
        #[arg(long, default_value = "")]
        org: String,
    },
    /// Changes of one entity.
    Entity {
        /// Its URN.
        id: String,
    },
    /// Changes of configuration values at and below a path.
    Config {
        /// The path; empty: all.
        #[arg(default_value = "")]
        path: String,
    },
    /// Changes of raw keys that begin with a prefix.
    Keys {
        /// The prefix; empty: all.
        #[arg(default_value = "")]
        prefix: String,
    },
}

impl Watch {
    pub(super) async fn run(self, client: &Client, output: Format) -> Result<()> {
        tokio::select! {
            result = self.follow(client, output) => result,
            _ = tokio::signal::ctrl_c() => Ok(()),
        }
    }

    async fn follow(self, client: &Client, output: Format) -> Result<()> {
        let mut left = self.count.unwrap_or(u64::MAX);
        let after = self.after.map(Revision::new);
        match self.what {
            What::Entities { type_prefix, org } => {
                let type_prefix =
                    if type_prefix.is_empty() { type_prefix } else { urn(&type_prefix) };
                let filter = EntityFilter { type_prefix, org, ..EntityFilter::default() };
                entities(client.documents().watch(filter), after, output, &mut left).await
            }
            What::Entity { id } => {
                entities(client.documents().watch_one(&id), after, output, &mut left).await
            }
            What::Config { path } => config(client, &path, after, output, &mut left).await,
            What::Keys { prefix } => keys(client, prefix, after, output, &mut left).await,
        }
    }
}

async fn entities(
    mut builder: keelstone_client::EntityWatchBuilder,
    after: Option<Revision>,
    output: Format,
    left: &mut u64,
) -> Result<()> {
    if let Some(after) = after {
        builder = builder.after(after);
    }
    let mut watch = builder.start().await?;
    while let Some(changes) = watch.next().await? {
        for event in &changes.events {
            let what = match event {
                EntityEvent::Created(_) => "created",
                EntityEvent::Updated(_) => "updated",
                EntityEvent::Deleted(_) => "deleted",
                _ => "changed",
            };
            let entity = event.entity();
            let mut json = super::entity::json_of(entity);
            json["event"] = what.into();
            json["revision"] = json!(changes.revision);
            let text = format!("{} {what} {} {}", changes.revision, entity.id, entity.state);
            output.sentence(&text, &json)?;
            if is_over(left) {
                return Ok(());
            }
        }
    }
    Ok(())
}

async fn config(
    client: &Client,
    path: &str,
    after: Option<Revision>,
    output: Format,
    left: &mut u64,
) -> Result<()> {
    let mut watch = client.config().watch(path, after.map(Into::into)).await?;
    while let Some(changes) = watch.next().await? {
        for event in &changes.events {
            super::config::print_event(output, changes.revision, event)?;
            if is_over(left) {
                return Ok(());
            }
        }
    }
    Ok(())
}

async fn keys(
    client: &Client,
    prefix: String,
    after: Option<Revision>,
    output: Format,
    left: &mut u64,
) -> Result<()> {
    let range = if prefix.is_empty() { KeyRange::all() } else { KeyRange::prefix(prefix) };
    let mut builder = client.kv().watch(range);
    if let Some(after) = after {
        builder = builder.after(after);
    }
    let mut watch = builder.start().await?;
    while let Some(changes) = watch.next().await? {
        for event in &changes.events {
            let what = if matches!(event, Event::Put { .. }) { "put" } else { "delete" };
            let mut json = super::kv::json_of(event.kv());
            json["event"] = what.into();
            let key = String::from_utf8_lossy(&event.kv().key).into_owned();
            let value = String::from_utf8_lossy(&event.kv().value).into_owned();
            let text = format!("{} {what} {key} {value}", changes.revision);
            output.sentence(text.trim_end(), &json)?;
            if is_over(left) {
                return Ok(());
            }
        }
    }
    Ok(())
}

fn is_over(left: &mut u64) -> bool {
    *left = left.saturating_sub(1);
    *left == 0
}
