//! What is wrong with a configuration, all of it at once.

use super::address::check_address;
use super::{ClusterMode, Config, Engine, MIB};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

const GIB: u64 = 1024 * MIB;

impl Config {
    /// Everything that keeps a node from starting with these settings, one
    /// sentence each, with the setting's name. Empty: they are usable.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        self.check_node(&mut problems);
        self.check_cluster(&mut problems);
        self.check_addresses(&mut problems);
        self.check_tls(&mut problems);
        self.check_plaintext(&mut problems);
        self.check_raft(&mut problems);
        self.check_storage(&mut problems);
        self.check_limits(&mut problems);
        problems
    }

    fn check_node(&self, problems: &mut Vec<String>) {
        if self.node_id == 0 {
            problems.push("node_id is 0: choose a positive number".to_owned());
        }
        if self.data_dir.as_os_str().is_empty() {
            problems.push("data_dir is empty: name a directory".to_owned());
        }
        let labels = self.labels.iter().map(|label| ("labels".to_owned(), label)).chain(
            self.cluster.members.iter().flat_map(|member| {
                let name = format!("cluster.members, member {}", member.id);
                member.labels.iter().map(move |label| (name.clone(), label))
            }),
        );
        for (place, (name, value)) in labels {
            let plain = |text: &str| {
                !text.is_empty()
                    && text.len() <= 63
                    && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
            };
            if !plain(name) || !plain(value) {
                problems.push(format!(
                    "{place}: `{name}={value}` is not a label: names and values are 1 to 63 \
                     letters, digits, `.`, `_` and `-`"
                ));
            }
        }
    }

    fn check_cluster(&self, problems: &mut Vec<String>) {
        let cluster = &self.cluster;
        if cluster.token.is_empty() || cluster.token.len() > 128 {
            problems.push("cluster.token must have 1 to 128 bytes".to_owned());
        }
        let mut ids = BTreeSet::new();
        let mut addresses = BTreeSet::new();
        for member in &cluster.members {
            if member.id == 0 {
                problems.push(format!("cluster.members: `{member}` has id 0"));
            }
            if !ids.insert(member.id) {
                problems.push(format!("cluster.members: id {} is there twice", member.id));
            }
            for address in [&member.peer, &member.client] {
                if !addresses.insert(address) {
                    problems.push(format!("cluster.members: {address} is there twice"));
                }
            }
        }
        match cluster.mode {
            ClusterMode::Form if cluster.members.is_empty() => {}
            ClusterMode::Form => self.check_own_member(problems),
            ClusterMode::Join if cluster.members.iter().any(|m| m.id != self.node_id) => {}
            ClusterMode::Join => problems.push(
                "cluster.members names no other node: to join, name at least one that is there"
                    .to_owned(),
            ),
        }
    }

    fn check_own_member(&self, problems: &mut Vec<String>) {
        let own = self.cluster.members.iter().find(|member| member.id == self.node_id);
        let Some(own) = own else {
            problems.push(format!(
                "cluster.members does not name this node ({}): it forms the cluster, so it must \
                 be in the list; to come into an existing one set cluster.mode to `join`",
                self.node_id
            ));
            return;
        };
        if own.peer != self.peer_advertise() {
            problems.push(format!(
                "cluster.members says that this node's peers reach it at {}, peer.advertise says {}",
                own.peer,
                self.peer_advertise()
            ));
        }
        if own.client != self.client_advertise() {
            problems.push(format!(
                "cluster.members says that clients reach this node at {}, client.advertise says {}",
                own.client,
                self.client_advertise()
            ));
        }
    }

    fn check_addresses(&self, problems: &mut Vec<String>) {
        let ports = [
            ("client", self.client.listen, self.client_advertise()),
            ("peer", self.peer.listen, self.peer_advertise()),
        ];
        for (name, listen, advertise) in ports {
            if let Err(problem) = check_address(&advertise) {
                problems.push(format!("{name}.advertise is `{advertise}`: {problem}"));
            } else if advertise.parse().is_ok_and(|a: SocketAddr| a.ip().is_unspecified()) {
                problems.push(format!(
                    "{name}.advertise is not set and {name}.listen is {listen}, which nobody can \
                     dial: set {name}.advertise"
                ));
            }
        }
        let listens = [
            ("client.listen", self.client.listen),
            ("peer.listen", self.peer.listen),
            ("http.listen", self.http.listen),
        ];
        for (index, (name, address)) in listens.iter().enumerate() {
            for (other, taken) in &listens[..index] {
                if address == taken && address.port() != 0 {
                    problems.push(format!("{name} and {other} are the same: {address}"));
                }
            }
        }
    }

    fn check_tls(&self, problems: &mut Vec<String>) {
        let client = &self.client.tls;
        let peer = &self.peer.tls;
        pair(
            problems,
            ("client.tls.certificate", client.certificate.as_ref()),
            ("client.tls.key", client.key.as_ref()),
        );
        pair(
            problems,
            ("peer.tls.certificate", peer.certificate.as_ref()),
            ("peer.tls.key", peer.key.as_ref()),
        );
        pair(
            problems,
            ("peer.tls.certificate", peer.certificate.as_ref()),
            ("peer.tls.roots", peer.roots.as_ref()),
        );
        if client.client_certificate_required && client.client_roots.is_none() {
            problems.push(
                "client.tls.client_certificate_required is set and client.tls.client_roots is \
                 not: name the roots that client certificates lead to"
                    .to_owned(),
            );
        }
        if client.client_roots.is_some() && client.certificate.is_none() {
            problems.push(
                "client.tls.client_roots is set and client.tls.certificate is not: without TLS \
                 no client shows a certificate"
                    .to_owned(),
            );
        }
        if client.client_roots.is_some() && client.client_roots == peer.roots {
            problems.push(
                "client.tls.client_roots and peer.tls.roots are the same file: clients and \
                 replicas need roots of their own"
                    .to_owned(),
            );
        }
        if self.http.tls && client.certificate.is_none() {
            problems.push(
                "http.tls is set and client.tls.certificate is not: there is no certificate to \
                 serve with"
                    .to_owned(),
            );
        }
    }

    fn check_plaintext(&self, problems: &mut Vec<String>) {
        let ports = [
            ("client", self.client.listen, self.client.tls.certificate.is_some()),
            ("peer", self.peer.listen, self.peer.tls.certificate.is_some()),
        ];
        for (name, listen, tls) in ports {
            if !tls && !self.insecure && !listen.ip().is_loopback() {
                problems.push(format!(
                    "{name}.listen is {listen}, which other machines can reach, and {name}.tls is \
                     not set up: name a certificate (`keelstone cert` makes them), or allow \
                     plaintext with `insecure`"
                ));
            }
        }
        let http = &self.http;
        if !(http.tls || http.plaintext || self.insecure || http.listen.ip().is_loopback()) {
            problems.push(format!(
                "http.listen is {}, which other machines can reach: set http.tls, or allow \
                 plaintext with http.plaintext",
                http.listen
            ));
        }
    }

    fn check_raft(&self, problems: &mut Vec<String>) {
        let raft = &self.raft;
        let ms = Duration::from_millis;
        within(problems, "raft.heartbeat_interval", raft.heartbeat_interval, ms(10), ms(10_000));
        let least = raft.heartbeat_interval.saturating_mul(2);
        if raft.election_timeout_min <= least {
            problems.push(format!(
                "raft.election_timeout_min is {:?}: it must be more than twice \
                 raft.heartbeat_interval, {least:?}, or a single lost heartbeat elects",
                raft.election_timeout_min
            ));
        }
        if raft.election_timeout_max <= raft.election_timeout_min {
            problems.push(
                "raft.election_timeout_max must be more than raft.election_timeout_min, or \
                 elections collide"
                    .to_owned(),
            );
        }
        within(
            problems,
            "raft.election_timeout_max",
            raft.election_timeout_max,
            ms(50),
            ms(60_000),
        );
        within(
            problems,
            "raft.snapshot_install_timeout",
            raft.snapshot_install_timeout,
            ms(1_000),
            ms(86_400_000),
        );
        let rate = raft.snapshot_bytes_per_second;
        between(problems, "raft.snapshot_bytes_per_second", rate, MIB, 100 * GIB);
    }

    fn check_storage(&self, problems: &mut Vec<String>) {
        let (log, state) = (&self.log, &self.state);
        between(problems, "log.segment_bytes", log.segment_bytes, 4 * MIB, 4 * GIB);
        between(problems, "log.tail_bytes", log.tail_bytes, MIB, 16 * GIB);
        between(problems, "log.checkpoint_bytes", log.checkpoint_bytes, MIB, 1024 * GIB);
        between(problems, "log.keep_entries", log.keep_entries, 1, 100_000_000);
        between(problems, "state.cache_bytes", state.cache_bytes, MIB, 1024 * GIB);
        between(problems, "state.changes_bytes", state.changes_bytes, MIB, 64 * GIB);
        between(problems, "state.disk_reserve_bytes", state.disk_reserve_bytes, 0, 1024 * GIB);
        if !state.history_max.is_zero() {
            let year = Duration::from_hours(366 * 24);
            within(problems, "state.history_max", state.history_max, Duration::from_secs(1), year);
        }
        if state.engine == Engine::Sled && !cfg!(feature = "sled") {
            problems.push(
                "state.engine is sled, which this program was built without: build it with \
                 `--features sled`, or use fjall"
                    .to_owned(),
            );
        }
    }

    fn check_limits(&self, problems: &mut Vec<String>) {
        let l = &self.limits;
        let counts = [
            ("limits.connections_max", l.connections_max, 1_000_000),
            ("limits.peer_connections_max", l.peer_connections_max, 10_000),
            ("limits.http_connections_max", l.http_connections_max, 10_000),
            ("limits.streams_per_connection_max", l.streams_per_connection_max as usize, 100_000),
            ("limits.requests_max", l.requests_max, 1_000_000),
            ("limits.watch_streams_max", l.watch_streams_max, 1_000_000),
            ("limits.watches_per_stream_max", l.watches_per_stream_max, 1_000_000),
        ];
        for (name, value, most) in counts {
            between(problems, name, value as u64, 1, most);
        }
        let least = (keelstone_store::limits::COMMAND_BYTES_MAX + 4096) as u64;
        let gib = 1024 * 1024 * 1024;
        between(problems, "limits.request_bytes_max", l.request_bytes_max as u64, 4096, gib / 4);
        let all = l.requests_bytes_max as u64;
        between(problems, "limits.requests_bytes_max", all, least, 64 * gib);
        between(problems, "limits.proposals_bytes_max", l.proposals_bytes_max, least, 64 * gib);
        between(problems, "limits.watch_bytes_max", l.watch_bytes_max as u64, 4096, gib);
        let (short, day) = (Duration::from_millis(100), Duration::from_hours(24));
        let times = [
            ("limits.request_timeout", l.request_timeout),
            ("limits.request_timeout_max", l.request_timeout_max),
            ("limits.handshake_timeout", l.handshake_timeout),
            ("limits.keepalive_interval", l.keepalive_interval),
            ("limits.keepalive_timeout", l.keepalive_timeout),
            ("limits.drain_timeout", l.drain_timeout),
        ];
        for (name, value) in times {
            within(problems, name, value, short, day);
        }
        if l.request_timeout > l.request_timeout_max {
            problems.push("limits.request_timeout is above limits.request_timeout_max".to_owned());
        }
        if l.request_bytes_max > l.requests_bytes_max {
            problems.push("limits.request_bytes_max is above limits.requests_bytes_max".to_owned());
        }
    }
}

/// Two files that only make sense together.
fn pair(
    problems: &mut Vec<String>,
    (name, file): (&str, Option<&PathBuf>),
    (other, with): (&str, Option<&PathBuf>),
) {
    let (set, missing) = match (file, with) {
        (Some(_), None) => (name, other),
        (None, Some(_)) => (other, name),
        _ => return,
    };
    problems.push(format!("{set} is set and {missing} is not"));
}

fn within(
    problems: &mut Vec<String>,
    name: &str,
    value: Duration,
    least: Duration,
    most: Duration,
) {
    if value < least || value > most {
        let [value, least, most] = [value, least, most].map(humantime::format_duration);
        problems.push(format!("{name} is {value}: it must be from {least} to {most}"));
    }
}

fn between(problems: &mut Vec<String>, name: &str, value: u64, least: u64, most: u64) {
    if value < least || value > most {
        problems.push(format!("{name} is {value}: it must be from {least} to {most}"));
    }
}
