//! `keelstone lease`.

use super::output::Format;
use anyhow::Result;
use clap::{Args, Subcommand};
use keelstone_client::{Client, LeaseId};
use serde_json::json;
use std::time::Duration;

/// Grant, keep, show and revoke leases.
#[derive(Debug, Args)]
pub(super) struct Leases {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Grant a lease and print its id.
    Grant {
        /// Its time to live, at least two seconds.
        #[arg(value_parser = humantime::parse_duration)]
        ttl: Duration,
    },
    /// Keep a lease alive until it ends or Ctrl-C.
    KeepAlive {
        /// The lease.
        #[arg(value_parser = parse_id)]
        id: LeaseId,
    },
    /// Show how long a lease still has, and the keys attached to it.
    Show {
        /// The lease.
        #[arg(value_parser = parse_id)]
        id: LeaseId,
    },
    /// List all leases.
    List,
    /// End a lease; its keys are deleted.
    Revoke {
        /// The lease.
        #[arg(value_parser = parse_id)]
        id: LeaseId,
    },
}

impl Leases {
    pub(super) async fn run(self, client: &Client, output: Format) -> Result<()> {
        let leases = client.leases();
        match self.action {
            Action::Grant { ttl } => {
                let lease = leases.grant(ttl).await?;
                let ttl_ms = u64::try_from(lease.ttl.as_millis()).unwrap_or(u64::MAX);
                let json = json!({"id": lease.id.to_string(), "ttl_ms": ttl_ms});
                output.sentence(&lease.id.to_string(), &json)
            }
            Action::KeepAlive { id } => keep_alive(client, output, id).await,
            Action::Show { id } => {
                let Some(lease) = leases.time_to_live(id, true).await? else {
                    return Err(not_found(id));
                };
                let keys: Vec<_> = lease
                    .keys
                    .iter()
                    .map(|key| String::from_utf8_lossy(key).into_owned())
                    .collect();
                let fields = [
                    ("granted", humantime::format_duration(lease.granted).to_string()),
                    ("remaining", humantime::format_duration(lease.remaining).to_string()),
                    ("keys", keys.join(" ")),
                ];
                let json = json!({
                    "id": id.to_string(),
                    "granted_ms": u64::try_from(lease.granted.as_millis()).unwrap_or(u64::MAX),
                    "remaining_ms": u64::try_from(lease.remaining.as_millis()).unwrap_or(u64::MAX),
                    "keys": keys,
                });
                output.fields(&fields, &json)
            }
            Action::List => {
                let ids: Vec<_> =
                    leases.list().await?.into_iter().map(|id| id.to_string()).collect();
                let rows = ids.iter().map(|id| vec![id.clone()]).collect();
                output.rows(&["lease"], rows, &json!(ids))
            }
            Action::Revoke { id } => {
                leases.revoke(id).await?;
                output.sentence(&format!("{id} revoked"), &json!({"id": id.to_string()}))
            }
        }
    }
}

async fn keep_alive(client: &Client, output: Format, id: LeaseId) -> Result<()> {
    let leases = client.leases();
    let Some(kept) = leases.adopt(id).await? else { return Err(not_found(id)) };
    let mut reports = tokio::time::interval(kept.ttl() / 3);
    loop {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => return Ok(()),
            () = kept.lost() => return Err(not_found(id)),
            _ = reports.tick() => {
                let held = humantime::format_duration(round(kept.held_for()));
                output.sentence(&format!("{id} held for {held}"), &json!({"id": id.to_string()}))?;
            }
        }
    }
}

/// To whole milliseconds, as people read it.
fn round(time: Duration) -> Duration {
    Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

fn not_found(id: LeaseId) -> anyhow::Error {
    super::exit::Coded::error(super::Exit::NotFound, format!("lease {id} does not exist"))
}

/// A lease's id is shown and given in hexadecimal.
pub(super) fn parse_id(text: &str) -> Result<LeaseId, String> {
    match i64::from_str_radix(text, 16) {
        Ok(number) if number > 0 => Ok(LeaseId::new(number)),
        _ => Err("a lease is a positive hexadecimal number, as `lease grant` prints it".to_owned()),
    }
}
