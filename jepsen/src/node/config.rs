//! The configuration file of a replica.

use super::{CLIENT_PORT, Common, HTTP_PORT, Node, PEER_PORT};
use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;
use toml::{Table, Value};

/// Thresholds that decide how often rare paths are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Sizes {
    /// As delivered.
    Default,
    /// As small as the configuration allows: segments end, checkpoints are
    /// made, the log is purged and snapshots are sent all the time.
    Small,
}

/// Who forms the cluster that a replica belongs to.
pub(super) struct Membership<'a> {
    pub(super) founders: &'a [(u64, Ipv4Addr)],
    pub(super) token: &'a str,
    pub(super) joining: bool,
}

/// A member as `--initial-cluster` names it.
pub(super) fn member(id: u64, address: Ipv4Addr) -> String {
    format!("{id}={address}:{PEER_PORT}/{address}:{CLIENT_PORT}")
}

/// Writes the file.
pub(super) fn write(node: &Node, common: &Common, membership: &Membership<'_>) -> Result<()> {
    let mut table = Table::new();
    let at = |port: u16| format!("{}:{port}", node.address);
    set(&mut table, "", "node_id", node.id.cast_signed());
    set(&mut table, "", "data_dir", node.data_dir().display().to_string());
    set(&mut table, "client", "listen", at(CLIENT_PORT));
    set(&mut table, "peer", "listen", at(PEER_PORT));
    set(&mut table, "http", "listen", at(HTTP_PORT));
    set(&mut table, "http", "plaintext", true);
    set(&mut table, "cluster", "mode", if membership.joining { "join" } else { "form" });
    set(&mut table, "cluster", "token", membership.token);
    let members: Vec<Value> =
        membership.founders.iter().map(|(id, address)| member(*id, *address).into()).collect();
    set(&mut table, "cluster", "members", members);
    if let Some(certificates) = &common.certificates {
        let file = |name: String| certificates.file(&name).display().to_string();
        let mut client = Table::new();
        client
            .insert("certificate".to_owned(), file(format!("node-{}-client.pem", node.id)).into());
        client.insert("key".to_owned(), file(format!("node-{}-client.key", node.id)).into());
        client.insert("client_roots".to_owned(), file("client-ca.pem".to_owned()).into());
        client.insert("client_certificate_required".to_owned(), true.into());
        set(&mut table, "client", "tls", client);
        let mut peer = Table::new();
        peer.insert("certificate".to_owned(), file(format!("node-{}-peer.pem", node.id)).into());
        peer.insert("key".to_owned(), file(format!("node-{}-peer.key", node.id)).into());
        peer.insert("roots".to_owned(), file("peer-ca.pem".to_owned()).into());
        set(&mut table, "peer", "tls", peer);
    } else {
        set(&mut table, "", "insecure", true);
    }
    if common.sizes == Sizes::Small {
        make_small(&mut table);
    }
    let text = toml::to_string(&table).context("write the configuration as TOML")?;
    std::fs::write(node.config_file(), text).context("write node.toml")
}

fn make_small(table: &mut Table) {
    const MIB: i64 = 1 << 20;
    set(table, "log", "segment_bytes", 4 * MIB);
    set(table, "log", "tail_bytes", MIB);
    set(table, "log", "checkpoint_bytes", MIB);
    set(table, "log", "keep_entries", 20);
    set(table, "state", "changes_bytes", MIB);
    set(table, "state", "cache_bytes", 4 * MIB);
}

/// Sets `section.name`, or `name` if there is no section.
fn set(table: &mut Table, section: &str, name: &str, value: impl Into<Value>) {
    if section.is_empty() {
        table.insert(name.to_owned(), value.into());
    } else if let Some(section) =
        table.entry(section).or_insert_with(|| Table::new().into()).as_table_mut()
    {
        section.insert(name.to_owned(), value.into());
    }
}
