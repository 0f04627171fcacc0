//! `keelstone config`: configuration values of the controllers.

use super::input::{CreateCondition, document};
use super::output::{Format, line};
use anyhow::Result;
use clap::{Args, Subcommand};
use keelstone_client::{Client, ConfigEvent, ConfigValue, Precondition, Revision};
use serde_json::{Value, json, value::RawValue};

/// Read and write configuration values.
#[derive(Debug, Args)]
pub(super) struct Config {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Set the value at a path.
    Put {
        /// Such as `cse/server-1/syslog/port`.
        path: String,
        /// JSON; `@FILE` reads a file and `-` standard input.
        value: String,
        #[command(flatten)]
        condition: CreateCondition,
    },
    /// Print the value at a path.
    Get {
        /// The path.
        path: String,
        /// As it was at this revision.
        #[arg(long, value_name = "REVISION")]
        revision: Option<u64>,
    },
    /// List the values at and below a path.
    List {
        /// The path; empty: all.
        #[arg(default_value = "")]
        path: String,
    },
    /// Delete the value at a path.
    Delete {
        /// The path.
        path: String,
        /// With everything below it, at one revision.
        #[arg(long, conflicts_with = "if_revision")]
        recursive: bool,
        /// Only if it is at this revision.
        #[arg(long, value_name = "REVISION", required_unless_present = "unconditional")]
        if_revision: Option<u64>,
        /// Whatever is there.
        #[arg(long, conflicts_with = "if_revision")]
        unconditional: bool,
    },
    /// List the kept versions of a value, newest first.
    History {
        /// The path.
        path: String,
        /// At most so many.
        #[arg(long, default_value_t = 20)]
        limit: u32,
    },
}

impl Config {
    pub(super) async fn run(self, client: &Client, output: Format) -> Result<()> {
        let config = client.config();
        match self.action {
            Action::Put { path, value, condition } => {
                let value = match value.strip_prefix('@') {
                    Some(file) => document(file)?,
                    None if value == "-" => document("-")?,
                    None => value.into_bytes(),
                };
                let value = config.put_json(&path, value, condition.into()).await?;
                output.sentence(&format!("revision {}", value.revision), &json_of(&value))
            }
            Action::Get { path, revision } => {
                let value = match revision {
                    Some(revision) => config.get_at(&path, Revision::new(revision)).await?,
                    None => config.get(&path).await?,
                };
                match output {
                    Format::Json => output.sentence("", &json_of(&value)),
                    Format::Table => line(&text_of(&value)),
                }
            }
            Action::List { path } => {
                let values = config.list(&path).await?.values;
                let rows = values.iter().map(|value| {
                    vec![value.path.clone(), text_of(value), value.revision.to_string()]
                });
                let json: Vec<_> = values.iter().map(json_of).collect();
                output.rows(&["path", "value", "revision"], rows.collect(), &json.into())
            }
            Action::Delete { path, recursive, if_revision, .. } => {
                let deleted = match if_revision {
                    _ if recursive => config.delete_tree(&path).await?,
                    Some(revision) => {
                        let only = Precondition::IfRevision(Revision::new(revision));
                        config.delete(&path, only).await?
                    }
                    None => config.delete(&path, Precondition::Unconditional).await?,
                };
                output.sentence(&format!("{deleted} deleted"), &json!({ "deleted": deleted }))
            }
            Action::History { path, limit } => history(client, output, &path, limit).await,
        }
    }
}

async fn history(client: &Client, output: Format, path: &str, limit: u32) -> Result<()> {
    let history = client.config().history(path, limit, None).await?;
    let rows = history.versions.iter().map(|version| {
        let value = version.value.as_ref().map_or_else(|| "(deleted)".to_owned(), text_of);
        vec![version.revision.to_string(), value]
    });
    let versions: Vec<_> = history
        .versions
        .iter()
        .map(|version| {
            json!({
                "revision": version.revision,
                "deleted": version.value.is_none(),
                "value": version.value.as_ref().map(json_of),
            })
        })
        .collect();
    let json = json!({
        "versions": versions,
        "more": history.more,
        "compact_revision": history.compact_revision,
    });
    output.rows(&["revision", "value"], rows.collect(), &json)
}

/// Prints a change of a value, as `keelstone watch config` does.
pub(super) fn print_event(output: Format, revision: Revision, event: &ConfigEvent) -> Result<()> {
    let (text, mut json) = match event {
        ConfigEvent::Put(value) => {
            (format!("{revision} put {} {}", value.path, text_of(value)), json_of(value))
        }
        ConfigEvent::Deleted { path } => {
            (format!("{revision} delete {path}"), json!({ "path": path }))
        }
        _ => return Ok(()),
    };
    json["event"] = if matches!(event, ConfigEvent::Put(_)) { "put" } else { "delete" }.into();
    json["revision"] = json!(revision);
    output.sentence(&text, &json)
}

fn text_of(value: &ConfigValue) -> String {
    String::from_utf8_lossy(&value.value).into_owned()
}

fn json_of(value: &ConfigValue) -> Value {
    let raw: Option<Box<RawValue>> = serde_json::from_slice(&value.value).ok();
    json!({
        "path": value.path,
        "value": raw,
        "create_revision": value.create_revision,
        "revision": value.revision,
        "version": value.version,
    })
}
