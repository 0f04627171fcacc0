//! `keelstone cert`: certificates for development and trials.

use super::output::{Format, note};
use crate::tls::issue::{Node, development};
use anyhow::Result;
use clap::Args;
use serde_json::json;
use std::path::PathBuf;
use std::time::Duration;

/// Make two development authorities, one for clients and one for peers, and
/// certificates that they sign.
#[derive(Debug, Args)]
pub(super) struct Cert {
    /// Where the files go; made if it is not there.
    #[arg(long, value_name = "DIR", default_value = "keelstone-certs")]
    dir: PathBuf,
    /// A replica's id and the names and addresses it is reached at, such as
    /// `1=10.0.0.1,store-1.example`; can be given more than once.
    #[arg(long = "node", value_name = "ID=HOST[,HOST...]", value_parser = parse_node)]
    nodes: Vec<Node>,
    /// A client's name; can be given more than once.
    #[arg(long = "client", value_name = "NAME", default_value = "admin")]
    clients: Vec<String>,
    /// How long the certificates are valid.
    #[arg(long, default_value = "90days", value_parser = humantime::parse_duration)]
    valid: Duration,
}

fn parse_node(text: &str) -> Result<Node, String> {
    let wrong = || "a node is ID=HOST[,HOST...], such as 1=127.0.0.1,localhost".to_owned();
    let (id, hosts) = text.split_once('=').ok_or_else(wrong)?;
    let id = id.parse().ok().filter(|id| *id > 0).ok_or_else(wrong)?;
    let hosts: Vec<_> =
        hosts.split(',').filter(|host| !host.is_empty()).map(str::to_owned).collect();
    if hosts.is_empty() { Err(wrong()) } else { Ok(Node { id, hosts }) }
}

impl Cert {
    pub(super) fn run(mut self, output: Format) -> Result<()> {
        if self.nodes.is_empty() {
            let hosts = || vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
            self.nodes = (1..=3).map(|id| Node { id, hosts: hosts() }).collect();
        }
        let written = development(&self.dir, &self.nodes, &self.clients, self.valid)?;
        note("for development and trials: whoever has the .key files can be anybody");
        let names: Vec<_> = written.iter().map(|path| path.display().to_string()).collect();
        output.rows(
            &["written"],
            names.iter().map(|name| vec![name.clone()]).collect(),
            &json!(names),
        )
    }
}
