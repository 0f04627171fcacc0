//! Which faults this machine can do, found by trying.

use crate::disk::SlowDisk;
use crate::net::{Enclosure, tool};
use crate::node::Node;
use std::path::Path;

/// What can be done here. A fault that cannot be is reported as skipped.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(crate) struct Abilities {
    /// How replicas are kept apart.
    pub(crate) enclosure: Enclosure,
    /// Links can be cut and lose packets.
    pub(crate) links: bool,
    /// Packets can be late and out of order.
    pub(crate) delays: bool,
    /// Disks are images: power cuts, full disks.
    pub(crate) images: bool,
    /// Disks can be slow.
    pub(crate) slow_disks: bool,
    /// Wall clocks can be set.
    pub(crate) clocks: bool,
}

impl Abilities {
    /// Looks at this machine, as seen from within `enclosure`.
    pub(crate) fn look(enclosure: Enclosure) -> Self {
        let root = enclosure == Enclosure::Root;
        let images = root
            && Path::new("/dev/loop-control").exists()
            && ["mkfs.xfs", "xfs_io", "mount", "umount"].into_iter().all(tool::exists);
        let links = enclosure.has_networks() && tool::exists("nft");
        Self {
            enclosure,
            links,
            delays: enclosure.has_networks() && crate::net::delays_are_possible(),
            images,
            slow_disks: images && SlowDisk::is_possible(),
            clocks: Node::clock_library().is_some(),
        }
    }

    /// Whether faults of this kind can be done.
    pub(crate) fn can(self, kind: &str) -> bool {
        match kind {
            "partition" | "loss" => self.links,
            "delay" => self.delays,
            "power-cut" | "disk-full" => self.images,
            "disk-slow" => self.slow_disks,
            "clock" => self.clocks,
            _ => true,
        }
    }

    /// What is missing for a kind of fault that cannot be done.
    fn remedy(kind: &str) -> &'static str {
        match kind {
            "partition" | "loss" => "namespaces of the network (root or user namespaces) and `nft`",
            "delay" => "namespaces of the network, `iptables` and NFQUEUE",
            "power-cut" | "disk-full" => "root, loop devices and xfsprogs",
            "disk-slow" => "root, loop devices and the block controller of control groups v1",
            "clock" => "libfaketime (package `faketime`)",
            _ => "nothing",
        }
    }

    /// The whole finding, for people.
    pub(crate) fn report(self) -> String {
        let mut text = format!("replicas are kept apart by: {}\n\n", self.enclosure.describe());
        for (kind, about) in crate::nemesis::KINDS {
            if matches!(*kind, "none" | "mix") {
                continue;
            }
            if self.can(kind) {
                text.push_str(&format!("  can      {kind:<10} {about}\n"));
            } else {
                text.push_str(&format!(
                    "  SKIPPED  {kind:<10} {about}; needs {}\n",
                    Self::remedy(kind)
                ));
            }
        }
        text.push_str("\nA fault that is skipped here is reported as skipped by every run.\n");
        text
    }
}
