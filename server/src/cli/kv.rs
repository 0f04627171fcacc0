//! `keelstone kv`: raw keys.

use super::output::{Format, line};
use anyhow::Result;
use clap::{Args, Subcommand};
use keelstone_client::{Client, KeyRange, KeyValue, LeaseId, Revision};
use serde_json::{Value, json};

/// Read and write raw keys.
#[derive(Debug, Args)]
pub(super) struct Kv {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Put a value under a key.
    Put {
        /// The key.
        key: String,
        /// The value.
        value: String,
        /// Attach the key to this lease.
        #[arg(long, value_parser = super::lease::parse_id)]
        lease: Option<LeaseId>,
    },
    /// Print a key's value, or with `--prefix` all keys that begin so.
    Get {
        /// The key.
        key: String,
        /// All keys that begin with it.
        #[arg(long)]
        prefix: bool,
        /// As it was at this revision.
        #[arg(long, value_name = "REVISION")]
        revision: Option<u64>,
        /// At most so many.
        #[arg(long, default_value_t = 0)]
        limit: u64,
    },
    /// Delete a key, or with `--prefix` all keys that begin so.
    Delete {
        /// The key.
        key: String,
        /// All keys that begin with it.
        #[arg(long)]
        prefix: bool,
    },
    /// Forget history below a revision.
    Compact {
        /// The oldest revision that can be read afterwards.
        revision: u64,
    },
}

impl Kv {
    pub(super) async fn run(self, client: &Client, output: Format) -> Result<()> {
        let kv = client.kv();
        match self.action {
            Action::Put { key, value, lease } => {
                let mut put = kv.put(key, value);
                if let Some(lease) = lease {
                    put = put.lease(lease);
                }
                let revision = put.send().await?.at.revision;
                output.sentence(&format!("revision {revision}"), &json!({ "revision": revision }))
            }
            Action::Get { key, prefix, revision, limit } => {
                let range = range(key, prefix);
                let revision = Revision::new(revision.unwrap_or_default());
                let reply = kv.range(range).at(revision).limit(limit).send().await?;
                if !prefix && reply.kvs.is_empty() {
                    return Err(super::exit::Coded::error(super::Exit::NotFound, "no such key"));
                }
                if output == Format::Table && !prefix {
                    return line(&String::from_utf8_lossy(&reply.kvs[0].value));
                }
                let rows = reply.kvs.iter().map(row).collect();
                let kvs: Vec<_> = reply.kvs.iter().map(json_of).collect();
                let json = json!({
                    "revision": reply.at.revision,
                    "count": reply.count,
                    "more": reply.more,
                    "kvs": kvs,
                });
                output.rows(&["key", "value", "revision", "version"], rows, &json)
            }
            Action::Delete { key, prefix } => {
                let reply = kv.delete(range(key, prefix)).send().await?;
                let json = json!({"deleted": reply.deleted, "revision": reply.at.revision});
                output.sentence(&format!("{} deleted", reply.deleted), &json)
            }
            Action::Compact { revision } => {
                kv.compact(Revision::new(revision)).await?;
                let text = format!("history begins at revision {revision}");
                output.sentence(&text, &json!({ "compact_revision": revision }))
            }
        }
    }
}

fn range(key: String, prefix: bool) -> KeyRange {
    if prefix { KeyRange::prefix(key) } else { KeyRange::key(key) }
}

fn row(kv: &KeyValue) -> Vec<String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    vec![text(&kv.key), text(&kv.value), kv.mod_revision.to_string(), kv.version.to_string()]
}

/// Keys and values as text; bytes that are no UTF-8 are replaced.
pub(super) fn json_of(kv: &KeyValue) -> Value {
    json!({
        "key": String::from_utf8_lossy(&kv.key),
        "value": String::from_utf8_lossy(&kv.value),
        "create_revision": kv.create_revision,
        "mod_revision": kv.mod_revision,
        "version": kv.version,
        "lease": kv.lease.map(|lease| lease.to_string()),
    })
}
