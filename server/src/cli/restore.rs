//! `keelstone restore`: the data directories of a new cluster from a backup.

use super::backup::{BUCKET_HELP, Place};
use super::output::{Format, hex, note};
use super::progress::Bars;
use crate::backup::{
    LEASE_GRACE, REVISION_BUMP, RestoreMember, RestoreOptions, RestoreToken, Restored, restore,
};
use crate::config::InitialMember;
use anyhow::Result;
use clap::Args;
use keelstone_store::disk::EngineKind;
use serde_json::json;
use std::path::PathBuf;
use std::time::Duration;

const HELP: &str = "Three machines, each for itself; the token of the first goes to the others:
  keelstone restore --from URL --initial-cluster 1=h1:7601/h1:7701,2=h2:...,3=h3:... --node 1=/data
  keelstone restore --from URL --initial-cluster ... --node 2=/data --token TOKEN --backup NAME

All three at once on one machine:
  keelstone restore --from URL --initial-cluster ... --node 1=/data/1 --node 2=/data/2 --node 3=/data/3

The directories must be empty or not there. The new cluster has another identity and higher
revisions: clients of the old one are told, and have to read again what they hold.";

/// Restore a backup into new data directories: a new cluster with the old state.
#[derive(Debug, Args)]
#[command(after_help = HELP, after_long_help = format!("{HELP}\n\n{BUCKET_HELP}"))]
pub(super) struct Restore {
    #[command(flatten)]
    place: Place,
    /// The backup's name, or `latest`.
    #[arg(long, value_name = "NAME", default_value = "latest")]
    backup: String,
    /// All members of the new cluster, as for `serve`; the same on all machines.
    #[arg(
        long,
        required = true,
        value_delimiter = ',',
        value_name = "ID=PEER/CLIENT[?LABEL=VALUE]",
        env = "KEELSTONE_INITIAL_CLUSTER"
    )]
    initial_cluster: Vec<InitialMember>,
    /// A node to restore here and its data directory; can be given more than
    /// once.
    #[arg(long = "node", required = true, value_name = "ID=DIR", value_parser = parse_node)]
    nodes: Vec<(u64, PathBuf)>,
    /// Names the new cluster; the same on all machines. A new one is printed
    /// otherwise.
    #[arg(long)]
    token: Option<RestoreToken>,
    /// The state engine of the new directories.
    #[arg(long, default_value_t)]
    engine: EngineKind,
    /// How far revisions jump; the same on all machines.
    #[arg(long, value_name = "COUNT", default_value_t = REVISION_BUMP)]
    revision_bump: u64,
    /// How long leases outlive their time at first; the same on all machines.
    #[arg(
        long,
        value_name = "DURATION",
        default_value_t = humantime::Duration::from(LEASE_GRACE)
    )]
    lease_grace: humantime::Duration,
    /// Do not write down the new history beside the backups.
    #[arg(long)]
    no_record: bool,
}

fn parse_node(text: &str) -> Result<(u64, PathBuf), String> {
    let wrong = || "a node is ID=DIR, such as 1=/var/lib/keelstone".to_owned();
    let (id, dir) = text.split_once('=').filter(|(_, dir)| !dir.is_empty()).ok_or_else(wrong)?;
    Ok((id.parse().map_err(|_| wrong())?, PathBuf::from(dir)))
}

impl Restore {
    pub(super) async fn run(self, output: Format) -> Result<()> {
        let repo = self.place.repo().await?;
        let entry = repo.find(&self.backup).await?;
        let token = self.token.unwrap_or_else(RestoreToken::random);
        let member = |member: InitialMember| RestoreMember {
            id: member.id,
            peer_address: member.peer,
            client_address: member.client,
            labels: member.labels,
        };
        let members: Vec<_> = self.initial_cluster.into_iter().map(member).collect();
        let elsewhere = members.len().saturating_sub(self.nodes.len());
        let options = RestoreOptions {
            engine: self.engine,
            revision_bump: self.revision_bump,
            lease_grace: Duration::from(self.lease_grace),
            record: !self.no_record,
            ..RestoreOptions::new(token, members, self.nodes)
        };
        let bars = Bars::default();
        let restored = restore(&repo, &entry, &options, &bars).await?;
        drop(bars);
        let name = entry.manifest.name();
        print(output, &name, &token, &restored)?;
        if elsewhere > 0 {
            note(&format!(
                "{elsewhere} more to restore: with --backup {name} --token {token} and the same \
                 --initial-cluster"
            ));
        }
        Ok(())
    }
}

fn print(output: Format, name: &str, token: &RestoreToken, restored: &Restored) -> Result<()> {
    let directories = restored.directories.iter().map(|it| it.display().to_string());
    let directories: Vec<_> = directories.collect();
    let origin = &restored.origin;
    let fields = [
        ("backup", name.to_owned()),
        ("cluster", hex(&restored.cluster_id)),
        ("history", hex(&restored.history)),
        ("revision", format!("{} (was {})", restored.revision, origin.fork_revision)),
        ("state root", restored.state_root.clone()),
        ("directories", directories.join(", ")),
        ("token", token.to_string()),
    ];
    let json = json!({
        "backup": name,
        "cluster_id": hex(&restored.cluster_id),
        "history": hex(&restored.history),
        "revision": restored.revision,
        "state_hash": hex(&restored.state_hash),
        "state_root": restored.state_root,
        "origin": origin,
        "directories": directories,
        "token": token.to_string(),
    });
    output.fields(&fields, &json)
}
