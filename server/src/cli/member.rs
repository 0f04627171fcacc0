//! `keelstone member` and `keelstone status`: the replicas themselves.

use super::output::{Format, bytes, hex, note, time};
use anyhow::Result;
use clap::{Args, Subcommand};
use keelstone_client::{Client, Error, Member, NewMember, NodeStatus};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// List, add, promote, remove and drain replicas; move leadership.
#[derive(Debug, Args)]
pub(super) struct Members {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the replicas.
    List,
    /// Add a replica as a learner, which becomes a voter when it has caught up.
    Add {
        /// HOST:PORT where it serves peers.
        peer_address: String,
        /// HOST:PORT where it serves clients.
        client_address: String,
        /// Its id, never used before; the leader chooses one otherwise.
        #[arg(long)]
        id: Option<u64>,
        /// A failure domain, such as `rack=a`; can be given more than once.
        #[arg(long = "label", value_name = "NAME=VALUE", value_parser = parse_label)]
        labels: Vec<(String, String)>,
        /// Leave it a learner.
        #[arg(long)]
        learner: bool,
    },
    /// Make a learner that has caught up a voter.
    Promote {
        /// The replica.
        id: u64,
        /// Even if a majority of voters then share a failure domain.
        #[arg(long)]
        force: bool,
    },
    /// Remove a replica.
    Remove {
        /// The replica.
        id: u64,
        /// Even if a majority of voters then share a failure domain.
        #[arg(long)]
        force: bool,
    },
    /// Hand leadership to another voter.
    Transfer {
        /// The voter; the one that is furthest ahead otherwise.
        to: Option<u64>,
    },
    /// Move leadership away from a replica and keep it away until it restarts.
    Drain {
        /// The replica.
        id: u64,
        /// Let it lead again.
        #[arg(long)]
        undo: bool,
    },
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("a label is NAME=VALUE, such as rack=a".to_owned()),
    }
}

impl Members {
    pub(super) async fn run(self, client: &Client, output: Format) -> Result<()> {
        let cluster = client.cluster();
        match self.action {
            Action::List => print_members(output, &cluster.members().await?),
            Action::Add { peer_address, client_address, id, labels, learner } => {
                let labels: BTreeMap<_, _> = labels.into_iter().collect();
                let promote = !learner;
                let id = cluster
                    .add(NewMember { id, peer_address, client_address, labels, promote })
                    .await?;
                let then = if promote { "; it becomes a voter when it has caught up" } else { "" };
                let text = format!("replica {id} added as a learner{then}");
                output.sentence(&text, &json!({ "id": id }))
            }
            Action::Promote { id, force } => {
                cluster.promote(id, force).await?;
                output.sentence(&format!("replica {id} is a voter"), &json!({ "id": id }))
            }
            Action::Remove { id, force } => {
                cluster.remove(id, force).await?;
                let text = format!("replica {id} is removed; stop it and delete its data");
                output.sentence(&text, &json!({ "id": id }))
            }
            Action::Transfer { to } => {
                let leader = cluster.transfer(to).await?;
                output.sentence(&format!("replica {leader} leads"), &json!({ "leader": leader }))
            }
            Action::Drain { id, undo } => {
                cluster.drain(id, undo).await?;
                let text = if undo {
                    format!("replica {id} may lead again")
                } else {
                    format!("replica {id} does not lead until it restarts")
                };
                output.sentence(&text, &json!({ "id": id, "drained": !undo }))
            }
        }
    }
}

fn print_members(output: Format, members: &[Member]) -> Result<()> {
    let rows = members.iter().map(|member| {
        let labels: Vec<_> =
            member.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        vec![
            member.id.to_string(),
            role(member).to_owned(),
            member.client_address.clone(),
            member.peer_address.clone(),
            member.lag.map_or_else(|| "-".to_owned(), |lag| lag.to_string()),
            labels.join(" "),
        ]
    });
    let json: Vec<_> = members
        .iter()
        .map(|member| {
            json!({
                "id": member.id,
                "role": role(member),
                "client_address": member.client_address,
                "peer_address": member.peer_address,
                "lag": member.lag,
                "labels": member.labels,
            })
        })
        .collect();
    let headings = ["id", "role", "clients", "peers", "lag", "labels"];
    output.rows(&headings, rows.collect(), &json.into())
}

fn role(member: &Member) -> &'static str {
    match (member.leader, member.voter) {
        (true, _) => "leader",
        (false, true) => "voter",
        (false, false) => "learner",
    }
}

/// Show what every replica is and knows.
#[derive(Debug, Args)]
pub(super) struct Status {}

impl Status {
    pub(super) async fn run(self, client: &Client, output: Format) -> Result<()> {
        let each = client.cluster().status_of_each().await;
        let rows = each.iter().map(|(address, status)| row(address, status)).collect();
        let json: Vec<_> = each.iter().map(|(address, status)| json_of(address, status)).collect();
        let headings =
            ["endpoint", "id", "role", "term", "applied", "revision", "hash", "state", "log"];
        output.rows(&headings, rows, &json.into())?;
        for (address, status) in &each {
            match status {
                Ok(status) => {
                    for problem in &status.problems {
                        note(&format!("{address}: {problem}"));
                    }
                }
                Err(error) => note(&format!("{address}: {error}")),
            }
        }
        match each.into_iter().find_map(|(_, status)| status.err()) {
            Some(error) => Err(error.into()),
            None => Ok(()),
        }
    }
}

fn row(address: &str, status: &Result<NodeStatus, Error>) -> Vec<String> {
    let mut row = vec![address.to_owned()];
    match status {
        Ok(status) => row.extend([
            status.node_id.to_string(),
            status.role.clone(),
            status.term.to_string(),
            status.applied_index.to_string(),
            status.at.revision.to_string(),
            hex(&status.state_hash).chars().take(12).collect(),
            bytes(status.state_bytes),
            bytes(status.log_bytes),
        ]),
        Err(_) => row.extend(["-".to_owned(), "unreachable".to_owned()]),
    }
    row.resize(9, "-".to_owned());
    row
}

fn json_of(address: &str, status: &Result<NodeStatus, Error>) -> Value {
    let status = match status {
        Ok(status) => status,
        Err(error) => return json!({"endpoint": address, "error": error.to_string()}),
    };
    let ms = status.time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_millis();
    json!({
        "endpoint": address,
        "cluster_id": hex(&status.cluster_id),
        "node_id": status.node_id,
        "version": status.version,
        "role": status.role,
        "term": status.term,
        "leader": status.leader,
        "revision": status.at.revision,
        "history": status.at.history.to_string(),
        "compact_revision": status.compact_revision,
        "last_log_index": status.last_log_index,
        "committed_index": status.committed_index,
        "applied_index": status.applied_index,
        "snapshot_index": status.snapshot_index,
        "purged_index": status.purged_index,
        "state_hash": hex(&status.state_hash),
        "transitions": status.transitions,
        "state_bytes": status.state_bytes,
        "log_bytes": status.log_bytes,
        "engine": status.engine,
        "feature_level": status.feature_level,
        "time": time(u64::try_from(ms).unwrap_or_default()),
        "problems": status.problems,
    })
}
