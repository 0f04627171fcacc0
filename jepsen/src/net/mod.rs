//! The network between replicas: one namespace for each, joined by a bridge in
//! the harness's own, where links are cut by direction.
//!
//! Clients sit at the bridge, so that a cut between replicas does not cut
//! clients off.

mod cuts;
mod enclosure;
mod late;
pub(crate) mod tool;

pub(crate) use cuts::LinkFaults;
pub(crate) use enclosure::{Enclosure, run_mark};
pub(crate) use late::{COMMAND as LATE_COMMAND, delays_are_possible, serve as serve_late};

use anyhow::{Context as _, Result, ensure};
use late::Late;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// The harness's own address on the bridge.
const HARNESS: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 254);

/// The network of one run.
#[derive(Debug)]
pub(crate) struct Network {
    enclosure: Enclosure,
    faults: LinkFaults,
    late: BTreeMap<u64, Late>,
}

impl Network {
    /// Makes the bridge. Inside of the enclosure only.
    ///
    /// # Errors
    ///
    /// Fails if a tool is missing or refuses.
    pub(crate) fn create(enclosure: Enclosure) -> Result<Self> {
        if enclosure.has_networks() {
            make_bridge().context("make the bridge between the replicas")?;
        }
        let faults = LinkFaults::create(enclosure.has_networks() && tool::exists("nft"))?;
        Ok(Self { enclosure, faults, late: BTreeMap::new() })
    }

    /// Where replica `id` is.
    pub(crate) fn address(&self, id: u64) -> Ipv4Addr {
        address(self.enclosure, id)
    }

    /// Makes the namespace of replica `id` with its link to the bridge.
    ///
    /// # Errors
    ///
    /// Fails if a tool refuses, or if the replica could not be reached from
    /// here by the bridge.
    pub(crate) fn add(&self, id: u64) -> Result<()> {
        if !self.enclosure.has_networks() {
            return Ok(());
        }
        let (space, link) = (space_name(id), format!("v{id}"));
        let address = self.address(id).to_string();
        tool::run("ip", &["netns", "add", &space])?;
        let veth = ["link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", &space];
        tool::run("ip", &veth)?;
        tool::run("ip", &["link", "set", &link, "master", "br0", "up"])?;
        tool::run("ip", &["-n", &space, "addr", "add", &format!("{address}/24"), "dev", "eth0"])?;
        tool::run("ip", &["-n", &space, "link", "set", "eth0", "up"])?;
        tool::run("ip", &["-n", &space, "link", "set", "lo", "up"])?;
        // A control run outside of the namespace would leave by the default
        // route and test nothing.
        let route = tool::run("ip", &["route", "get", &address])?;
        ensure!(route.contains("dev br0"), "{address} is not reached by the bridge: {route}");
        Ok(())
    }

    /// The words before a command that put it into the network of replica `id`.
    pub(crate) fn prefix(&self, id: u64) -> Vec<String> {
        if !self.enclosure.has_networks() {
            return Vec::new();
        }
        vec!["nsenter".to_owned(), format!("--net=/run/netns/{}", space_name(id))]
    }

    /// Makes packets from the other replicas to `id` late by `ms` and up to
    /// `jitter_ms` more, drawn from `seed`.
    ///
    /// # Errors
    ///
    /// Fails if that cannot be done here.
    pub(crate) fn delay(
        &mut self,
        id: u64,
        ms: u64,
        jitter_ms: u64,
        prefix: &[String],
    ) -> Result<()> {
        self.late.insert(id, Late::begin(prefix, ms, jitter_ms, id ^ ms)?);
        Ok(())
    }

    /// Ends what [`Self::delay`] began.
    pub(crate) fn end_delay(&mut self, id: u64) {
        self.late.remove(&id);
    }

    /// Ends all delays.
    pub(crate) fn end_delays(&mut self) {
        self.late.clear();
    }

    /// What is cut, and what is lossy.
    pub(crate) fn faults(&mut self) -> &mut LinkFaults {
        &mut self.faults
    }
}

/// Where replica `id` of a run in this enclosure is.
pub(crate) fn address(enclosure: Enclosure, id: u64) -> Ipv4Addr {
    let host = u8::try_from(id % 250).expect("below 250");
    if enclosure.has_networks() {
        Ipv4Addr::new(10, 77, 0, host)
    } else {
        // Loopback has sixteen million addresses; the process's number keeps
        // runs apart.
        let run = std::process::id().to_le_bytes();
        Ipv4Addr::new(127, run[0] | 1, run[1], host)
    }
}

fn space_name(id: u64) -> String {
    format!("n{id}")
}

fn make_bridge() -> Result<()> {
    // Names of namespaces are mounts; these are seen by nobody else.
    if std::fs::create_dir_all("/run/netns").is_err() {
        tool::run("mount", &["-t", "tmpfs", "none", "/run"])?;
        std::fs::create_dir_all("/run/netns").context("make /run/netns")?;
    }
    tool::run("mount", &["-t", "tmpfs", "none", "/run/netns"])?;
    tool::run("ip", &["link", "set", "lo", "up"])?;
    tool::run("ip", &["link", "add", "br0", "type", "bridge"])?;
    tool::run("ip", &["addr", "add", &format!("{HARNESS}/24"), "dev", "br0"])?;
    tool::run("ip", &["link", "set", "br0", "up"])?;
    Ok(())
}
